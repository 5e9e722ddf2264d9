//! Agents that take their objects from an API server, as a person with kubectl sees them.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stower_e2e::node::{condition, pid_of, uid_of};
use stower_e2e::{cargo, process};

use crate::support::{Agent, cluster, container, names_on, wait_gone, wait_object, wait_running};

/// What of the examples goes to which node; what belongs together is together.
const ON_A: [(&str, &str); 3] = [("sctr", "hello"), ("sctr", "web"), ("sctr", "flaky")];
const ON_B: [(&str, &str); 3] = [("sdc", "data-foo"), ("sdc", "data-bar"), ("sctr", "consumer")];

#[test]
fn each_node_runs_its_own_examples_and_nothing_else() -> Result<()> {
    let cluster = cluster()?;
    let (a, b) = (Agent::start(&cluster, "node-a")?, Agent::start(&cluster, "node-b")?);
    let folder = cargo::checkout().join("manifests/examples");
    cluster.ok(["apply", "-f", folder.to_str().context("an odd path")?])?;
    // Two managers: who declares what runs, and who says where.
    for (node, objects) in [("node-a", ON_A), ("node-b", ON_B)] {
        for (kind, name) in objects {
            let kind_name = if kind == "sdc" { "DataContainer" } else { "Container" };
            let mut place = json!({ "apiVersion": "stower.dev/v1alpha1", "kind": kind_name,
                "metadata": { "name": name }, "spec": { "nodeName": node } });
            // The rest of a spec is the first manager's, but what must be there has to be said.
            let there =
                cluster.object(kind, "default", name)?.with_context(|| format!("no {kind} {name}"))?;
            for required in ["image", "volumes"] {
                let is_required = (required == "image") == (kind == "sctr");
                if is_required && !there["spec"][required].is_null() {
                    place["spec"][required] = there["spec"][required].clone();
                }
            }
            cluster.apply(&place.to_string(), &["--server-side", "--field-manager", "placement"])?;
        }
    }
    let hello = wait_running(&cluster, "hello")?;
    let consumer = wait_running(&cluster, "consumer")?;
    a.node.wait("node-a to have its own", || {
        Ok((names_on(&a.node)? == ["flaky", "hello", "web"]).then_some(()))
    })?;
    b.node.wait("node-b to have its own", || Ok((names_on(&b.node)? == ["consumer"]).then_some(())))?;
    for (agent, name, pid) in [(&a, "hello", hello), (&b, "consumer", consumer)] {
        ensure!(process::alive(pid), "{name} does not run as {pid}");
        ensure!(agent.node.wait_running(name)? == pid, "{name} is another process on its node");
    }
    // kubectl leaves the managers out.
    let path = "/apis/stower.dev/v1alpha1/namespaces/default/containers/hello";
    let object: Value = serde_json::from_slice(&cluster.request("GET", path, &[], &[])?.body)?;
    let managers: Vec<String> = object["metadata"]["managedFields"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|it| {
            format!("{} {}", it["manager"].as_str().unwrap_or("?"), it["subresource"].as_str().unwrap_or("-"))
        })
        .collect();
    ensure!(managers.iter().any(|it| it == "stower-agent status"), "{managers:?}");
    ensure!(managers.iter().any(|it| it == "placement -"), "{managers:?}");
    // What nobody placed belongs to nobody.
    for (kind, name) in [("sctr", "probed"), ("sctr", "backup"), ("sdc", "journal"), ("svol", "backups")] {
        let object = cluster.object(kind, "default", name)?.with_context(|| format!("no {kind} {name}"))?;
        let untouched = object["status"].is_null() && object["metadata"]["finalizers"].is_null();
        ensure!(untouched, "an agent took what is for no node: {object:#}");
    }
    Ok(())
}

#[test]
fn kubectl_has_them_as_it_has_its_own_kinds() -> Result<()> {
    let cluster = cluster()?;
    let agent = Agent::start(&cluster, "node-a")?;
    cluster.apply(&container("web", "node-a", &["hello", "1"], &json!({})), &[])?;
    cluster.ok(["wait", "--for=condition=Ready", "--timeout=120s", "sctr/web"])?;
    let pid = wait_running(&cluster, "web")?;
    let table = cluster.ok(["get", "containers.stower.dev", "-o", "wide"])?;
    let row = table.lines().nth(1).context("no row")?;
    for word in ["web", "True", "Running", "node-a"] {
        ensure!(row.contains(word), "{table}");
    }
    let said = cluster.ok(["describe", "containers.stower.dev", "web"])?;
    for word in ["Conditions:", "Observed Generation", "stower.dev/agent", "Events:", "Started"] {
        ensure!(said.contains(word), "describe does not say {word:?}:\n{said}");
    }
    // `kubectl edit`, by an editor that is a script.
    let mut edit = cluster.kubectl_command(["edit", "sctr", "web"]);
    let editor = agent.node.folder().join("editor.sh");
    std::fs::write(&editor, "#!/bin/sh\nsed -i 's/^  - \"1\"$/  - \"2\"/' \"$1\"\n")?;
    std::fs::set_permissions(&editor, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    edit.env("KUBE_EDITOR", &editor);
    process::run_command(&mut edit)?;
    let object = wait_object(&cluster, "sctr", "web", "edited and running", |object| {
        object["spec"]["args"][1] == "2"
            && object["status"]["observedGeneration"] == object["metadata"]["generation"]
            && pid_of(object).is_some_and(|now| now != pid)
    })?;
    ensure!(condition(&object, "Ready").is_some(), "{object:#}");
    let pid = pid_of(&object).context("no process id")?;
    cluster.ok(["delete", "sctr", "web", "--timeout=60s"])?;
    wait_gone(&cluster, "sctr", "web")?;
    ensure!(!process::alive(pid), "its process is still there");
    agent.node.wait_gone("web")
}

#[test]
fn a_missing_data_container_that_comes_later_starts_its_user() -> Result<()> {
    let cluster = cluster()?;
    let agent = Agent::start(&cluster, "node-a")?;
    let data = |name: &str, path: &str| {
        json!({ "apiVersion": "stower.dev/v1alpha1", "kind": "DataContainer", "metadata": { "name": name },
            "spec": { "nodeName": "node-a", "volumes": [{ "mountPath": path }] } })
        .to_string()
    };
    cluster.apply(&data("data-foo", "/foo"), &[])?;
    let from = json!({ "volumesFrom": [{ "name": "data-foo" }, { "name": "data-bar" }] });
    cluster.apply(&container("consumer", "node-a", &["count", "/foo/runs", "/bar/runs"], &from), &[])?;
    // data-foo is named too while it is being made.
    let waiting = wait_object(&cluster, "sctr", "consumer", "waiting for data-bar alone", |object| {
        let waiting = &object["status"]["state"]["waiting"];
        waiting["reason"] == "DependencyMissing"
            && waiting["message"] == "DataContainer default/data-bar is not there"
    })?;
    ensure!(pid_of(&waiting).is_none(), "{waiting:#}");
    cluster.apply(&data("data-bar", "/bar"), &[])?;
    wait_running(&cluster, "consumer")?;
    // Its first run, and both paths are there.
    agent.node.wait("both files to be counted", || {
        let said = agent.node.ok(["logs", "consumer"])?;
        Ok((said.contains("/foo/runs") && said.contains("/bar/runs")).then_some(()))
    })
}

#[test]
fn an_object_that_comes_again_is_another_one() -> Result<()> {
    let cluster = cluster()?;
    let agent = Agent::start(&cluster, "node-a")?;
    let declared = container("web", "node-a", &["stay"], &json!({}));
    cluster.apply(&declared, &[])?;
    let (first, uid) =
        (wait_running(&cluster, "web")?, uid_of(&agent.node.container("web")?.context("gone")?)?);
    cluster.ok(["delete", "sctr", "web", "--timeout=60s"])?;
    cluster.apply(&declared, &[])?;
    let second = wait_running(&cluster, "web")?;
    let now = uid_of(&agent.node.container("web")?.context("gone")?)?;
    ensure!(first != second && uid != now && !process::alive(first), "{first} {uid}, then {second} {now}");
    Ok(())
}
