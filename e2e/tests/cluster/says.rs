//! What an agent tells a cluster, and what people ask of one: status, Events, the finalizer, the Lease, the command line.

use std::os::unix::fs::symlink;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stower_e2e::node::condition;
use stower_e2e::wait::wait_long_for;
use stower_e2e::{Cluster, Output, process};

use crate::support::{Agent, LONG, cluster, container, names_on, wait_gone, wait_object, wait_running};

/// The agent's program as a plugin of kubectl, run with the administrator's kubeconfig.
struct Plugin<'a> {
    cluster: &'a Cluster,
    folder: tempfile::TempDir,
}

impl<'a> Plugin<'a> {
    fn new(cluster: &'a Cluster) -> Result<Self> {
        let folder = tempfile::tempdir_in(cluster.folder())?;
        symlink(stower_e2e::node::binary()?, folder.path().join("kubectl-stower"))?;
        Ok(Self { cluster, folder })
    }

    /// `kubectl stower …`
    fn run(&self, args: &[&str]) -> Result<Output> {
        let mut command = self.cluster.kubectl_command(["stower"].iter().chain(args));
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.folder.path().display())).env_remove("STOWER_SOCKET");
        Ok(process::output(&mut command)?.into())
    }

    fn ok(&self, args: &[&str]) -> Result<String> {
        let output = self.run(args)?;
        ensure!(output.code == 0, "kubectl stower {args:?}: {output:?}");
        Ok(output.stdout)
    }

    fn refused(&self, args: &[&str]) -> Result<String> {
        let output = self.run(args)?;
        ensure!(output.code > 0, "kubectl stower {args:?} was to fail: {output:?}");
        Ok(output.stderr)
    }
}

fn finalizers(object: &Value) -> Vec<&str> {
    object["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn transition(object: &Value, type_: &str) -> Option<String> {
    let conditions = object["status"]["conditions"].as_array()?;
    let condition = conditions.iter().find(|it| it["type"] == type_)?;
    Some(condition["lastTransitionTime"].as_str()?.to_owned())
}

#[test]
fn the_command_line_speaks_with_a_cluster_as_with_an_agent() -> Result<()> {
    let cluster = cluster()?;
    let agent = Agent::start(&cluster, "node-a")?;
    let plugin = Plugin::new(&cluster)?;
    let file = cluster.folder().join("web.json");
    let file = file.to_str().context("an odd path")?;
    std::fs::write(file, container("web", "node-a", &["stay"], &json!({})))?;
    ensure!(plugin.ok(&["validate", "-f", file])?.contains("container.stower.dev/web is valid"), "not valid");
    ensure!(cluster.object("sctr", "default", "web")?.is_none(), "a check made it");
    ensure!(plugin.ok(&["apply", "-f", file, "--wait"])? == "container.stower.dev/web created\n");
    ensure!(plugin.ok(&["apply", "-f", file])? == "container.stower.dev/web unchanged\n");
    std::fs::write(file, container("web", "node-a", &["stay"], &json!({"restartPolicy": "OnFailure"})))?;
    ensure!(plugin.ok(&["apply", "-f", file])? == "container.stower.dev/web configured\n");
    // The same words as on the node.
    let there = plugin.ok(&["get", "containers", "--no-headers"])?;
    let here = agent.node.ok(["get", "containers", "--no-headers"])?;
    let words = |text: &str| text.split_whitespace().take(3).map(str::to_owned).collect::<Vec<_>>();
    ensure!(words(&there) == words(&here) && words(&there) == ["web", "Running", "True"], "{there}{here}");
    let described = plugin.ok(&["describe", "web"])?;
    for part in ["Node:", "node-a", "Status:", "Running", "Started", "Conditions:"] {
        ensure!(described.contains(part), "no {part}: {described}");
    }
    ensure!(!plugin.ok(&["get", "web", "-o", "yaml"])?.contains("managedFields"));
    // What was read can be applied.
    let read = plugin.ok(&["get", "web", "-o", "yaml"])?;
    std::fs::write(file, read)?;
    ensure!(plugin.ok(&["apply", "-f", file, "--force-conflicts"])?.contains("unchanged"));
    let events = plugin.ok(&["events", "--for", "web"])?;
    ensure!(events.contains("Started"), "{events}");
    // The flags of the other way in.
    let config = cluster.kubeconfig.to_str().context("an odd path")?;
    ensure!(agent.node.command(["version"]).env_remove("STOWER_SOCKET").output()?.status.code().is_some());
    let mut by_flag = std::process::Command::new(stower_e2e::node::binary()?);
    by_flag.args(["get", "web", "-o", "name", "--kubeconfig", config]).env_remove("STOWER_SOCKET");
    ensure!(process::run_command(&mut by_flag)? == "container.stower.dev/web\n");
    let mut unknown = std::process::Command::new(stower_e2e::node::binary()?);
    unknown.args(["get", "--kubeconfig", config, "--context", "nowhere"]).env_remove("STOWER_SOCKET");
    let said = String::from_utf8(unknown.output()?.stderr)?;
    ensure!(said.contains("has no context \"nowhere\": there are "), "{said}");
    // A typing error and somebody else's field.
    std::fs::write(file, container("bad", "node-a", &["stay"], &json!({"imaeg": "x"})))?;
    let said = plugin.refused(&["apply", "-f", file])?;
    ensure!(said.contains(".spec.imaeg: field not declared in schema"), "{said}");
    let taken = container("web", "node-a", &["stay"], &json!({"restartPolicy": "Never"}));
    cluster.apply(&taken, &["--server-side", "--field-manager", "other", "--force-conflicts"])?;
    std::fs::write(file, container("web", "node-a", &["stay"], &json!({"restartPolicy": "Always"})))?;
    let said = plugin.refused(&["apply", "-f", file])?;
    ensure!(said.contains("conflict with \"other\"") && said.contains("--force-conflicts"), "{said}");
    // What only the node can do is told where to do.
    let said = plugin.refused(&["logs", "web"])?;
    ensure!(
        said.contains("container.stower.dev/web is on node node-a; run it there as `stower logs`"),
        "{said}"
    );
    ensure!(said.contains("/run/stower/stower.sock"), "{said}");
    for verb in [&["images"][..], &["plan"], &["stop", "web"], &["pull", "x"]] {
        ensure!(plugin.refused(verb)?.contains("to the agent of a node, not to a cluster"), "{verb:?}");
    }
    ensure!(plugin.ok(&["delete", "web"])? == "container.stower.dev/web deleted\n");
    ensure!(cluster.object("sctr", "default", "web")?.is_none(), "delete did not wait");
    plugin.ok(&["wait", "web", "--for=delete"])?;
    ensure!(plugin.refused(&["get", "web"])?.contains("(NotFound)"));
    Ok(())
}

#[test]
fn a_new_agent_changes_no_status_that_is_right() -> Result<()> {
    let cluster = cluster()?;
    let agent = Agent::start(&cluster, "node-a")?;
    cluster.apply(&container("web", "node-a", &["stay"], &json!({})), &[])?;
    wait_running(&cluster, "web")?;
    let before = wait_object(&cluster, "sctr", "web", "ready with a finalizer", |it| {
        finalizers(it) == ["stower.dev/agent"]
            && condition(it, "Ready").is_some_and(|(status, _)| status == "True")
    })?;
    for condition in before["status"]["conditions"].as_array().into_iter().flatten() {
        ensure!(condition["observedGeneration"] == before["metadata"]["generation"], "{condition}");
    }
    agent.node.restart_agent()?;
    // Another object's status is written after anything that would be to write of this one.
    cluster.apply(&container("later", "node-a", &["stay"], &json!({})), &[])?;
    wait_running(&cluster, "later")?;
    let after = cluster.object("sctr", "default", "web")?.context("web is gone")?;
    ensure!(transition(&after, "Ready") == transition(&before, "Ready"), "{after:#}");
    ensure!(
        after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"],
        "it was written again: {:#}\n{:#}",
        before["status"],
        after["status"]
    );
    // What somebody else writes there does not stay.
    let wrong = json!({"status": {"phase": "Failed"}}).to_string();
    cluster.ok(["patch", "sctr", "web", "--subresource=status", "--type=merge", "-p", &wrong])?;
    wait_object(&cluster, "sctr", "web", "as it is", |it| it["status"]["phase"] == "Running")?;
    Ok(())
}

#[test]
fn the_finalizer_goes_with_the_container_and_leaves_those_of_others() -> Result<()> {
    let cluster = cluster()?;
    let agent = Agent::start(&cluster, "node-a")?;
    cluster.apply(&container("web", "node-a", &["stay"], &json!({})), &[])?;
    let pid = wait_running(&cluster, "web")?;
    wait_object(&cluster, "sctr", "web", "held by the agent", |it| {
        finalizers(it).contains(&"stower.dev/agent")
    })?;
    let added =
        json!([{"op": "add", "path": "/metadata/finalizers/-", "value": "example.org/backup"}]).to_string();
    cluster.ok(["patch", "sctr", "web", "--type=json", "-p", &added])?;
    agent.node.kill_agent()?;
    cluster.ok(["delete", "sctr", "web", "--wait=false"])?;
    let waits = wait_object(&cluster, "sctr", "web", "deleted", |it| {
        it["metadata"]["deletionTimestamp"].is_string()
    })?;
    ensure!(finalizers(&waits) == ["stower.dev/agent", "example.org/backup"], "{waits:#}");
    ensure!(process::alive(pid), "it ended without an agent");
    agent.node.start_agent()?;
    let left =
        wait_object(&cluster, "sctr", "web", "torn down", |it| finalizers(it) == ["example.org/backup"])?;
    ensure!(!process::alive(pid), "the finalizer went before the process: {left:#}");
    let none = json!({"metadata": {"finalizers": null}}).to_string();
    cluster.ok(["patch", "sctr", "web", "--type=merge", "-p", &none])?;
    wait_gone(&cluster, "sctr", "web")
}

#[test]
fn events_are_counted_and_limited() -> Result<()> {
    let cluster = cluster()?;
    let agent = Agent::start(&cluster, "node-a")?;
    let fast = json!({"restart": {"backoff": {"initial": "10ms", "factor": 1, "max": "10ms"}}});
    cluster.apply(&container("crash", "node-a", &["exit", "3"], &fast), &[])?;
    agent.node.wait("thirty restarts", || {
        let item = agent.node.container("crash")?;
        Ok(item.filter(|it| stower_e2e::node::restarts_of(it) > 30))
    })?;
    let limited = agent.node.metric("stower_kube_events_total{result=\"limited\"}")?;
    ensure!(limited > 0.0, "nothing was held back");
    let started =
        |events: &[Value]| events.iter().filter(|it| it["reason"] == "Started").cloned().collect::<Vec<_>>();
    // The count follows the first of them.
    let events = agent.node.wait("Started to be counted", || {
        let words = ["get", "events", "-o", "json", "--field-selector", "involvedObject.name=crash"];
        let listed: Value = serde_json::from_str(&cluster.ok(words)?)?;
        let events = listed["items"].as_array().cloned().unwrap_or_default();
        let counted = started(&events).iter().any(|it| it["count"].as_i64() > Some(1));
        Ok(counted.then_some(events))
    })?;
    let uid = &cluster.object("sctr", "default", "crash")?.context("crash is gone")?["metadata"]["uid"];
    ensure!(events.iter().all(|it| it["involvedObject"]["uid"] == *uid), "{events:#?}");
    ensure!(events.iter().all(|it| it["source"]["component"] == "stower-agent"), "{events:#?}");
    ensure!(started(&events).len() == 1, "{events:#?}");
    let told: i64 = agent.node.metric("stower_kube_events_total{result=\"sent\"}")? as i64;
    ensure!(told < 60, "{told} requests for events of one container");
    Ok(())
}

#[test]
fn of_two_agents_by_one_name_the_second_waits_until_the_first_is_gone() -> Result<()> {
    let cluster = cluster()?;
    let first = Agent::start(&cluster, "node-a")?;
    cluster.apply(&container("web", "node-a", &["stay"], &json!({})), &[])?;
    let pid = wait_running(&cluster, "web")?;
    let second = Agent::start_second(&cluster, "node-a")?;
    second.node.wait("the second to say why it waits", || {
        let events = second.node.ok(["events"])?;
        Ok(events.contains("LeaseHeldByOther").then_some(()))
    })?;
    ensure!(
        second.node.metric("stower_kube_lease_held")? == 0.0
            && first.node.metric("stower_kube_lease_held")? == 1.0
    );
    ensure!(names_on(&second.node)?.is_empty(), "it took {:?}", names_on(&second.node)?);
    first.node.kill_agent()?;
    wait_long_for(
        "the second to take over",
        LONG,
        || Ok((names_on(&second.node)? == ["web"]).then_some(())),
    )?;
    ensure!(process::alive(pid), "the first one's container ended");
    let lease: Value = serde_json::from_str(&cluster.ok([
        "get",
        "lease",
        "-n",
        "stower-system",
        "node-a",
        "-o",
        "json",
    ])?)?;
    ensure!(
        lease["spec"]["leaseTransitions"] == 1 && lease["spec"]["leaseDurationSeconds"] == 45,
        "{lease:#}"
    );
    Ok(())
}

#[test]
fn a_node_that_is_gone_for_good_is_forgotten() -> Result<()> {
    let cluster = cluster()?;
    let agent = Agent::start(&cluster, "node-a")?;
    let plugin = Plugin::new(&cluster)?;
    cluster.apply(&container("web", "node-a", &["stay"], &json!({})), &[])?;
    cluster.apply(&container("kept", "node-a", &["stay"], &json!({})), &[])?;
    let pid = wait_running(&cluster, "web")?;
    let kept = wait_running(&cluster, "kept")?;
    wait_object(&cluster, "sctr", "web", "held by the agent", |it| {
        finalizers(it).contains(&"stower.dev/agent")
    })?;
    agent.node.kill_agent()?;
    cluster.ok(["delete", "sctr", "web", "--wait=false"])?;
    let said = plugin.refused(&["node", "forget", "node-a", "--yes"])?;
    ensure!(
        said.contains("node node-a is not gone: its agent ") && said.contains("stower-system/node-a"),
        "{said}"
    );
    ensure!(cluster.object("sctr", "default", "web")?.is_some(), "it was forgotten all the same");
    // Nobody is there to be asked.
    let said = plugin.refused(&["node", "forget", "node-a", "--force"])?;
    ensure!(
        said.contains("nothing was changed") && cluster.object("sctr", "default", "web")?.is_some(),
        "{said}"
    );
    let done = plugin.run(&["node", "forget", "node-a", "--force", "--yes"])?;
    ensure!(done.code == 0 && done.stdout.contains("container.stower.dev/web forgotten"), "{done:?}");
    ensure!(done.stderr.contains("Not deleted, and so kept: container.stower.dev/kept"), "{done:?}");
    wait_gone(&cluster, "sctr", "web")?;
    ensure!(cluster.object("lease", "stower-system", "node-a")?.is_none(), "the Lease is left");
    let events = cluster.ok(["get", "events", "-o", "json", "--field-selector", "reason=NodeForgotten"])?;
    let events: Value = serde_json::from_str(&events)?;
    let message = events["items"][0]["message"].as_str().unwrap_or_default();
    ensure!(message.contains("node node-a is gone for good; this gives up its writable layer"), "{events:#}");
    // It comes back after all.
    ensure!(process::alive(pid) && process::alive(kept), "they ended without an agent");
    agent.node.start_agent()?;
    agent.node.wait_gone("web")?;
    ensure!(!process::alive(pid) && process::alive(kept), "web is to go, and kept to stay");
    Ok(())
}
