//! What an agent takes from an API server: objects, values of ConfigMaps and Secrets, and what a namespace allows. Who it is and
//! whom it trusts may be renewed at any time.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stower_e2e::{Cluster, TestNode, http, node::pid_of, process, wait::wait_long_for};

use crate::support::{Agent, LONG, cluster, container, undisturbed, variable, wait_object};

fn connection(node: &TestNode) -> Result<Value> {
    let text = http::unix(&node.socket, "GET", "/v1/node")?.text();
    Ok(serde_json::from_str::<Value>(&text)?["status"]["kube"].clone())
}

#[test]
fn a_renewed_token_and_a_renewed_authority_are_taken_up() -> Result<()> {
    let cluster = cluster()?;
    let agent = Agent::start(&cluster, "node-a")?;
    cluster.apply(&container("steady", "node-a", &["stay"], &json!({})), &[])?;
    let steady = agent.node.wait_running("steady")?;
    // The old token is worth nothing any more, and the new one is written where it was.
    cluster.ok(["delete", "node", "node-a"])?;
    cluster.stop_api()?;
    cluster.start_api()?;
    wait_long_for("the agent to be refused", LONG, || {
        let told = connection(&agent.node)?;
        Ok(told["message"].as_str().is_some_and(|message| message.contains("(401)")).then_some(()))
    })?;
    cluster.agent_kubeconfig("node-a")?;
    cluster.apply(&container("after-token", "node-a", &["stay"], &json!({})), &[])?;
    agent.node.wait_running("after-token")?;
    cluster.renew_certificates()?;
    cluster.apply(&container("after-authority", "node-a", &["stay"], &json!({})), &[])?;
    agent.node.wait_running("after-authority")?;
    let told = connection(&agent.node)?;
    ensure!(told["connected"] == true, "{told:#}");
    undisturbed(&agent, "steady", steady)
}

/// A container with a value of a Secret and one of a ConfigMap.
fn reader() -> String {
    let from = json!({ "env": [
        { "name": "WORD", "valueFrom": { "secretKeyRef": { "name": "words", "key": "word" } } },
        { "name": "MAP", "valueFrom": { "configMapKeyRef": { "name": "settings", "key": "a" } } },
    ] });
    container("reader", "node-a", &["stay"], &from)
}

fn make_values(cluster: &Cluster) -> Result<()> {
    cluster.ok(["create", "configmap", "settings", "--from-literal=a=one"])?;
    cluster.ok(["create", "secret", "generic", "words", "--from-literal=word=open sesame"])?;
    Ok(())
}

/// Files below a folder that have the value of the Secret in them, in whatever form it may be kept.
fn files_with_the_value(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut search = Command::new("grep");
    search.args(["-rl", "-e", "open sesame", "-e", "b3BlbiBzZXNhbWU="]).arg(folder);
    let found = process::output(&mut search)?;
    ensure!(
        found.status.code().is_some_and(|code| code < 2),
        "grep: {}",
        String::from_utf8_lossy(&found.stderr)
    );
    Ok(String::from_utf8_lossy(&found.stdout).lines().map(PathBuf::from).collect())
}

#[test]
fn values_are_waited_for_and_a_running_container_keeps_what_it_was_started_with() -> Result<()> {
    let cluster = cluster()?;
    let agent = Agent::start(&cluster, "node-a")?;
    cluster.apply(&reader(), &[])?;
    let told = agent.node.wait_waiting("reader", &["DependencyMissing"])?;
    ensure!(told.contains("Secret default/words") && told.contains("ConfigMap default/settings"), "{told}");
    make_values(&cluster)?;
    let first = agent.node.wait_running("reader")?;
    ensure!(variable(first, "WORD")?.as_deref() == Some("open sesame"), "{:?}", variable(first, "WORD")?);
    // It is in memory alone.
    let found = files_with_the_value(&agent.node.data)?;
    ensure!(found.is_empty(), "the value is on disk: {found:?}");

    // What changes is for the next start.
    cluster.ok(["patch", "configmap", "settings", "--type=merge", "-p", "{\"data\":{\"a\":\"two\"}}"])?;
    let mut now = first;
    for _ in 0..10 {
        undisturbed(&agent, "reader", now)?;
        process::kill9(now)?;
        now = agent.node.wait_restarted("reader", now)?;
        if variable(now, "MAP")?.as_deref() == Some("two") {
            break;
        }
    }
    ensure!(variable(now, "MAP")?.as_deref() == Some("two"), "{:?}", variable(now, "MAP")?);

    // Nobody knows the Secret any more, and nobody can be asked.
    cluster.stop_api()?;
    agent.node.restart_agent()?;
    undisturbed(&agent, "reader", now)?;
    process::kill9(now)?;
    let told = agent.node.wait_waiting("reader", &["SecretUnavailable"])?;
    ensure!(told.contains("Secret default/words") && !told.contains("ConfigMap"), "{told}");
    cluster.start_api()?;
    agent.node.wait_restarted("reader", now)?;
    Ok(())
}

#[test]
fn a_secret_that_is_kept_on_disk_is_there_without_an_api_server() -> Result<()> {
    let cluster = cluster()?;
    let agent = Agent::configured(&cluster, "node-a", &[("STOWER_KUBE_SECRET_CACHE", "disk")])?;
    make_values(&cluster)?;
    cluster.apply(&reader(), &[])?;
    let before = agent.node.wait_running("reader")?;
    let kept = agent.node.data.join("ledger/kube-secrets.journal");
    let found = agent.node.wait("the value to be on disk", || {
        Ok(Some(files_with_the_value(&agent.node.data)?).filter(|found| !found.is_empty()))
    })?;
    ensure!(found == [kept.clone()], "{found:?}");
    let mode = std::fs::metadata(&kept)?.permissions().mode() & 0o7777;
    ensure!(mode == 0o600, "{} has mode {mode:o}", kept.display());
    cluster.stop_api()?;
    agent.node.restart_agent()?;
    undisturbed(&agent, "reader", before)?;
    process::kill9(before)?;
    let now = agent.node.wait_restarted("reader", before)?;
    for (name, value) in [("WORD", "open sesame"), ("MAP", "one")] {
        ensure!(variable(now, name)?.as_deref() == Some(value), "{name} is {:?}", variable(now, name)?);
    }
    // What is not used any more is not kept.
    cluster.start_api()?;
    cluster.ok(["delete", "sctr", "reader", "--timeout=60s"])?;
    agent.node.wait("the value to be gone from the disk", || {
        Ok(files_with_the_value(&agent.node.data)?.is_empty().then_some(()))
    })
}

#[test]
fn what_a_namespace_does_not_allow_is_not_run_until_it_does() -> Result<()> {
    let cluster = cluster()?;
    let agent = Agent::start(&cluster, "node-a")?;
    cluster.namespace("tight", "baseline")?;
    let mut object: Value =
        serde_json::from_str(&container("bold", "node-a", &["stay"], &json!({ "hostPID": true })))?;
    object["metadata"]["namespace"] = json!("tight");
    cluster.apply(&object.to_string(), &[])?;
    let accepted = |item: &Value| -> Option<Value> {
        let conditions = item["status"]["conditions"].as_array()?;
        conditions.iter().find(|condition| condition["type"] == "Accepted").cloned()
    };
    let find = || -> Result<Option<Value>> {
        Ok(agent.node.containers()?.into_iter().find(|item| item["metadata"]["name"] == "bold"))
    };
    let refused = agent.node.wait("bold to be refused", || {
        Ok(find()?.and_then(|item| accepted(&item)).filter(|condition| condition["status"] == "False"))
    })?;
    ensure!(refused["reason"] == "PodSecurity", "{refused:#}");
    ensure!(
        refused["message"] == "violates PodSecurity \"baseline\": spec.hostPID must not be true",
        "{refused:#}"
    );
    cluster.namespace("tight", "privileged")?;
    let pid = wait_long_for("bold to run", LONG, || Ok(find()?.and_then(|item| pid_of(&item))))?;
    ensure!(process::alive(pid), "it does not run as {pid}");
    // What runs goes on when its namespace allows less.
    cluster.namespace("tight", "restricted")?;
    agent.node.restart_agent()?;
    let now = find()?.context("bold is not there")?;
    ensure!(pid_of(&now) == Some(pid) && process::alive(pid), "{now:#}");
    Ok(())
}

/// What a namespace allowed once gives nothing of the host to those who come after it was tightened.
#[test]
fn a_tightened_namespace_gives_nothing_of_the_host_by_what_is_older() -> Result<()> {
    let cluster = cluster()?;
    let agent = Agent::start(&cluster, "node-a")?;
    let host = agent.node.folder().join("host");
    std::fs::create_dir(&host)?;
    let volume = json!({ "apiVersion": "stower.dev/v1alpha1", "kind": "Volume", "metadata": { "name": "root" },
        "spec": { "nodeName": "node-a", "driver": "hostPath", "hostPath": { "path": host } } });
    cluster.apply(&volume.to_string(), &[])?;
    let mounted = json!({ "volumes": [{ "name": "h", "hostPath": { "path": host } }],
        "volumeMounts": [{ "name": "h", "mountPath": "/host" }] });
    cluster.apply(&container("early", "node-a", &["stay"], &mounted), &[])?;
    let early = agent.node.wait_running("early")?;
    cluster.ok(["wait", "--for=jsonpath={.status.phase}=Ready", "--timeout=60s", "svol/root"])?;

    cluster.namespace("default", "baseline")?;
    // What a namespace said counts for five seconds; another agent has not heard of it.
    agent.node.restart_agent()?;
    let by_name = json!({ "volumes": [{ "name": "h", "volume": { "name": "root" } }],
        "volumeMounts": [{ "name": "h", "mountPath": "/mine" }] });
    let by_other = json!({ "volumesFrom": [{ "name": "early", "kind": "Container" }] });
    for (name, spec) in [("by-name", by_name), ("by-other", by_other)] {
        cluster.apply(&container(name, "node-a", &["stay"], &spec), &[])?;
    }
    for (name, why) in [
        ("by-name", format!("spec.volumes[h] must not be {} of the host", host.display())),
        (
            "by-other",
            format!("spec.volumesFrom[early] must not bring {} of the host to /host", host.display()),
        ),
    ] {
        let told = agent.node.wait_waiting(name, &["PodSecurity"])?;
        ensure!(told == format!("violates PodSecurity \"baseline\": {why}"), "{told}");
        wait_object(&cluster, "sctr", name, "told of", |object| {
            object["status"]["state"]["waiting"]["reason"] == "PodSecurity"
        })?;
    }
    undisturbed(&agent, "early", early)?;
    // The next agent goes by what was accepted.
    agent.node.restart_agent()?;
    agent.node.wait_waiting("by-other", &["PodSecurity"])?;
    cluster.namespace("default", "privileged")?;
    for name in ["by-name", "by-other"] {
        agent.node.wait_running(name)?;
    }
    undisturbed(&agent, "early", early)
}
