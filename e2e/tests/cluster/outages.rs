//! The API server away, wrong or beset: state converges, and nobody who runs is disturbed.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::json;
use stower_e2e::node::{pid_of, restarts_of};
use stower_e2e::{Cluster, cluster::counted, process, wait::wait_long_for};

use crate::support::{Agent, LONG, cluster, container, undisturbed, wait_gone, wait_object, wait_running};

/// What the agent of a node asked since a moment.
fn asked(cluster: &Cluster, mark: stower_e2e::cluster::Mark) -> Result<Vec<stower_e2e::cluster::Request>> {
    let all = cluster.requests_since(mark)?;
    Ok(all.into_iter().filter(|it| it.user.starts_with("system:serviceaccount:stower-system:")).collect())
}

fn tell(what: &str, requests: &[stower_e2e::cluster::Request]) {
    println!("{what}: {} requests of agents: {:?}", requests.len(), counted(requests));
}

#[test]
fn containers_go_on_and_restart_with_no_api_server() -> Result<()> {
    let cluster = cluster()?;
    let agent = Agent::start(&cluster, "node-a")?;
    cluster.apply(&container("steady", "node-a", &["stay"], &json!({})), &[])?;
    cluster.apply(&container("again", "node-a", &["stay"], &json!({})), &[])?;
    let (steady, again) = (wait_running(&cluster, "steady")?, wait_running(&cluster, "again")?);
    let mark = cluster.mark()?;
    cluster.stop_api()?;
    // By rule, without anybody to ask.
    process::kill9(again)?;
    let again = agent.node.wait_restarted("again", again)?;
    // Another agent, which has to know them from its ledger.
    agent.node.restart_agent()?;
    undisturbed(&agent, "steady", steady)?;
    undisturbed(&agent, "again", again)?;
    process::kill9(again)?;
    agent.node.wait_restarted("again", again)?;
    cluster.start_api()?;
    let told = wait_object(&cluster, "sctr", "again", "told of twice restarted", |it| restarts_of(it) == 2)?;
    ensure!(pid_of(&told) == pid_of(&agent.node.container("again")?.context("gone")?), "{told:#}");
    undisturbed(&agent, "steady", steady)?;
    tell("API server stopped, agent restarted", &asked(&cluster, mark)?);
    Ok(())
}

#[test]
fn a_watch_that_is_cut_is_taken_up_again() -> Result<()> {
    let cluster = cluster()?;
    let agent = Agent::start(&cluster, "node-a")?;
    cluster.apply(&container("steady", "node-a", &["stay"], &json!({})), &[])?;
    let steady = wait_running(&cluster, "steady")?;
    let mark = cluster.mark()?;
    for round in 0..3 {
        cluster.kill_api();
        cluster.start_api()?;
        let name = format!("new-{round}");
        cluster.apply(&container(&name, "node-a", &["stay"], &json!({})), &[])?;
        wait_running(&cluster, &name)?;
    }
    undisturbed(&agent, "steady", steady)?;
    tell("API server killed three times in the middle of watches", &asked(&cluster, mark)?);
    Ok(())
}

#[test]
fn what_was_deleted_while_the_agent_was_down_is_torn_down() -> Result<()> {
    let cluster = cluster()?;
    let agent = Agent::start(&cluster, "node-a")?;
    for name in ["stays", "goes", "forced"] {
        cluster.apply(&container(name, "node-a", &["stay"], &json!({})), &[])?;
    }
    let [stays, goes, forced] = ["stays", "goes", "forced"].map(|name| wait_running(&cluster, name));
    let (stays, goes, forced) = (stays?, goes?, forced?);
    for name in ["goes", "forced"] {
        wait_object(&cluster, "sctr", name, "held by the agent", |it| {
            it["metadata"]["finalizers"]
                .as_array()
                .is_some_and(|all| all.contains(&json!("stower.dev/agent")))
        })?;
    }
    let mark = cluster.mark()?;
    agent.node.kill_agent()?;
    cluster.ok(["delete", "sctr", "goes", "forced", "--wait=false"])?;
    // Somebody takes the finalizer away, so that no watch tells of the end.
    cluster.ok(["patch", "sctr", "forced", "--type=merge", "-p", "{\"metadata\":{\"finalizers\":null}}"])?;
    wait_gone(&cluster, "sctr", "forced")?;
    for number in 0..20 {
        cluster.ok(["annotate", "sctr", "stays", "--overwrite", &format!("example.com/n={number}")])?;
    }
    // Nothing of what the agent knew is still there to be told from.
    cluster.compact()?;
    cluster.stop_api()?;
    cluster.start_api()?;
    ensure!(process::alive(goes) && process::alive(forced), "somebody else ended them");
    agent.node.start_agent()?;
    wait_gone(&cluster, "sctr", "goes")?;
    agent.node.wait_gone("goes")?;
    agent.node.wait_gone("forced")?;
    ensure!(!process::alive(goes) && !process::alive(forced), "a process is still there");
    undisturbed(&agent, "stays", stays)?;
    tell("agent down, objects deleted, storage compacted", &asked(&cluster, mark)?);
    Ok(())
}

/// A watch that cannot go on from where it was: the agent meets the refusal (410) itself, and lists all.
#[test]
fn a_running_agent_gets_over_a_compaction() -> Result<()> {
    let cluster = cluster()?;
    let agent = Agent::start(&cluster, "node-a")?;
    for name in ["steady", "gone"] {
        cluster.apply(&container(name, "node-a", &["stay"], &json!({})), &[])?;
    }
    let (steady, gone) = (wait_running(&cluster, "steady")?, wait_running(&cluster, "gone")?);
    let lists = agent.node.metric("stower_kube_lists_total")?;
    // It hears of nothing, and its watch ends meanwhile.
    let pid = agent.node.agent_pid()?;
    process::signal(pid, Signal::STOP)?;
    cluster.stop_api()?;
    cluster.start_api()?;
    for number in 0..20 {
        cluster.ok(["annotate", "sctr", "steady", "--overwrite", &format!("example.com/n={number}")])?;
    }
    cluster.ok(["delete", "sctr", "gone", "--wait=false"])?;
    cluster.ok(["patch", "sctr", "gone", "--type=merge", "-p", "{\"metadata\":{\"finalizers\":null}}"])?;
    wait_gone(&cluster, "sctr", "gone")?;
    cluster.compact()?;
    cluster.stop_api()?;
    cluster.start_api()?;
    ensure!(process::alive(gone), "somebody else ended it");
    let mark = cluster.mark()?;
    process::signal(pid, Signal::CONT)?;
    cluster.apply(&container("new", "node-a", &["stay"], &json!({})), &[])?;
    wait_running(&cluster, "new")?;
    agent.node.wait_gone("gone")?;
    ensure!(!process::alive(gone), "its process is still there");
    undisturbed(&agent, "steady", steady)?;
    ensure!(agent.node.agent_pid()? == pid, "it is another agent");
    let requests = asked(&cluster, mark)?;
    tell("storage compacted under a running agent", &requests);
    // First it asks to go on from where it was, again where the server is still about to come up; that is forgotten, so all is
    // listed.
    let mut of_containers: Vec<&str> =
        requests.iter().filter(|it| it.uri.contains("/containers?")).map(|it| it.verb.as_str()).collect();
    of_containers.dedup();
    ensure!(of_containers[..] == ["watch", "list", "watch"], "{of_containers:?}");
    let log = std::fs::read_to_string(&agent.node.log)?;
    ensure!(log.contains("has forgotten what was seen last"), "{}", agent.node.log_tail());
    let now = agent.node.metric("stower_kube_lists_total")?;
    ensure!(now > lists, "{lists} lists before, and {now} now");
    Ok(())
}

#[test]
fn a_thousand_conflicting_writes_disturb_nothing() -> Result<()> {
    let cluster = cluster()?;
    let agent = Agent::start(&cluster, "node-a")?;
    cluster.apply(&container("web", "node-a", &["stay"], &json!({})), &[])?;
    let web = wait_running(&cluster, "web")?;
    let mark = cluster.mark()?;
    let path = "/apis/stower.dev/v1alpha1/namespaces/default/containers/web";
    let (next, conflicts) = (AtomicUsize::new(0), AtomicUsize::new(0));
    // Each writes what it read, while the others and the agent write too: most lose.
    let write = || -> Result<()> {
        while next.fetch_add(1, Ordering::Relaxed) < 1000 {
            let read = cluster.request("GET", path, &[], &[])?;
            let mut object: serde_json::Value = serde_json::from_slice(&read.body)?;
            let count = restarts_wanted(&object) + 1;
            object["metadata"]["annotations"]["example.com/writes"] = json!(count.to_string());
            object["spec"]["restart"]["backoff"]["jitter"] = json!(count % 100);
            let headers = [("Content-Type", "application/json")];
            let done = cluster.request("PUT", path, &headers, object.to_string().as_bytes())?;
            match done.status {
                200 => {}
                409 => drop(conflicts.fetch_add(1, Ordering::Relaxed)),
                other => anyhow::bail!("a write was answered by {other}: {}", done.text()),
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| -> Result<()> {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(write)).collect();
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        Ok(())
    })?;
    let object = wait_object(&cluster, "sctr", "web", "observed as it was written last", |it| {
        it["status"]["observedGeneration"] == it["metadata"]["generation"]
    })?;
    undisturbed(&agent, "web", web)?;
    let conflicts = conflicts.into_inner();
    let written = restarts_wanted(&object);
    ensure!(written + conflicts == 1000, "{written} were written and {conflicts} lost");
    let requests = asked(&cluster, mark)?;
    println!("1000 conflicting writes: {written} won, {conflicts} lost");
    tell("1000 conflicting writes", &requests);
    ensure!(requests.len() <= written, "the agent asked more than once for each change: {}", requests.len());
    Ok(())
}

/// How many writes an object has been through.
fn restarts_wanted(object: &serde_json::Value) -> usize {
    let text = object["metadata"]["annotations"]["example.com/writes"].as_str().unwrap_or("0");
    text.parse().unwrap_or(0)
}

/// At rest an agent renews its Lease four times a minute; with all else it may ask six times.
#[test]
fn an_idle_agent_asks_little() -> Result<()> {
    let cluster = cluster()?;
    let agents = [Agent::start(&cluster, "node-a")?, Agent::start(&cluster, "node-b")?];
    for (name, node) in [("one", "node-a"), ("two", "node-b")] {
        cluster.apply(&container(name, node, &["stay"], &json!({})), &[])?;
        wait_running(&cluster, name)?;
    }
    for (agent, node) in agents.iter().zip(["node-a", "node-b"]) {
        let renewals = |requests: &[stower_e2e::cluster::Request]| {
            requests
                .iter()
                .filter(|it| it.uri.contains(&format!("/leases/{node}")) && it.verb != "get")
                .count()
        };
        // What came with the start is over when the Lease was renewed once more.
        let start = cluster.mark()?;
        wait_long_for(format!("{node} to renew its Lease"), LONG, || {
            Ok((renewals(&asked(&cluster, start)?) > 0).then_some(()))
        })?;
        let mark = cluster.mark()?;
        wait_long_for(format!("{node} to renew its Lease four times"), LONG, || {
            Ok((renewals(&asked(&cluster, mark)?) >= 4).then_some(()))
        })?;
        let of_both = asked(&cluster, mark)?;
        let address = agent.node.folder().display();
        tell(
            &format!("two idle agents, while {node} ({address}) renewed its Lease four times (a minute)"),
            &of_both,
        );
        ensure!(of_both.len() <= 12, "more than six a minute and agent: {:#?}", counted(&of_both));
    }
    Ok(())
}

/// From the answer of the API server to the first instruction: printed, and that each start came.
#[test]
fn the_time_from_apply_to_the_first_instruction_is_told() -> Result<()> {
    let cluster = cluster()?;
    let agent = Agent::start(&cluster, "node-a")?;
    let folder = agent.node.folder().join("stamps");
    std::fs::create_dir(&folder)?;
    let now = || -> Result<u128> {
        Ok(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos())
    };
    let (mut servers, mut starts) = (Vec::new(), Vec::new());
    for round in 0..12 {
        let name = format!("stamp-{round}");
        let spec = json!({
            "volumes": [{ "name": "out", "hostPath": { "path": folder } }],
            "volumeMounts": [{ "name": "out", "mountPath": "/out" }],
        });
        let object = container(&name, "node-a", &["stamp", &format!("/out/{round}"), "stay"], &spec);
        let headers = [("Content-Type", "application/json")];
        let path = "/apis/stower.dev/v1alpha1/namespaces/default/containers";
        let asked = now()?;
        let done = cluster.request("POST", path, &headers, object.as_bytes())?;
        let answered = now()?;
        ensure!(done.status == 201, "{}", done.text());
        let file = folder.join(round.to_string());
        let text = agent.node.wait("the stamp", || {
            Ok(std::fs::read_to_string(&file).ok().filter(|text| text.ends_with('\n')))
        })?;
        let started: u128 = text.trim().parse()?;
        servers.push(answered.saturating_sub(asked) / 1000);
        starts.push(started.saturating_sub(answered) / 1000);
        wait_running(&cluster, &name)?;
    }
    let median = |values: &mut Vec<u128>| {
        values.sort_unstable();
        (values[values.len() / 2], *values.last().unwrap_or(&0))
    };
    let ((server, _), (start, worst)) = (median(&mut servers), median(&mut starts));
    println!(
        "apply → first instruction: the API server's own {server} µs, then {start} µs (median of 12, at most {worst}); a build for tests"
    );
    Ok(())
}
