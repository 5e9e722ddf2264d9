//! The kinds as a server and kubectl have them.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stower_e2e::{Cluster, cargo, process, wait_for};

const KINDS: [&str; 3] = ["Container", "Volume", "DataContainer"];
const PLURALS: [&str; 3] = ["containers", "volumes", "datacontainers"];

/// A Container that is for a node.
fn container(name: &str, namespace: &str, spec: Value) -> Value {
    let mut object = json!({
        "apiVersion": "stower.dev/v1alpha1", "kind": "Container",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "image": "docker.io/library/busybox:1.36" },
    });
    for (key, value) in spec.as_object().cloned().unwrap_or_default() {
        object["spec"][key] = value;
    }
    object
}

#[test]
fn a_server_takes_the_kinds_and_serves_what_they_promise() -> Result<()> {
    let cluster = Cluster::shared()?;
    for (short, plural) in [("sctr", "containers"), ("svol", "volumes"), ("sdc", "datacontainers")] {
        let crd = cluster.object("crd", "", &format!("{plural}.stower.dev"))?.context("no definition")?;
        let conditions = crd["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let bad = conditions.iter().find(|it| it["type"] == "NonStructuralSchema" || it["status"] != "True");
        ensure!(bad.is_none(), "{plural}: {bad:?}");
        cluster.ok(["get", short, "-A", "--field-selector", "spec.nodeName=nobody"])?;
    }
    let served: Value = serde_json::from_str(&cluster.ok(["get", "--raw", "/apis/stower.dev/v1alpha1"])?)?;
    for plural in PLURALS {
        let of =
            |name: &str| served["resources"].as_array().into_iter().flatten().find(|it| it["name"] == name);
        let resource = of(plural).with_context(|| format!("{plural} is not served"))?;
        ensure!(resource["categories"] == json!(["stower"]), "{resource}");
        ensure!(of(&format!("{plural}/status")).is_some(), "{plural} has no status of its own");
    }
    Ok(())
}

/// The bounds are what keeps the rules' cost below the server's limits: without them it refuses the definition.
#[test]
fn without_bounds_the_rules_would_cost_too_much() -> Result<()> {
    let cluster = Cluster::start()?;
    let file = cargo::checkout().join("manifests/crds/containers.stower.dev.yaml");
    let text = std::fs::read_to_string(&file)?;
    let unbounded: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("maxItems:"))
        .map(|line| format!("{line}\n"))
        .collect();
    ensure!(unbounded.len() < text.len(), "there are no bounds in it");
    let broken = cluster.folder().join("unbounded.yaml");
    std::fs::write(&broken, unbounded)?;
    let said = cluster.refused(["create", "-f", broken.to_str().context("an odd path")?])?;
    ensure!(said.contains("estimated rule cost"), "{said}");
    cluster.ok(["create", "-f", file.to_str().context("an odd path")?]).map(drop)
}

/// A field without a description, as the server has it.
fn undescribed(node: &Value, path: &str, found: &mut Vec<String>) {
    if !path.is_empty() && !path.ends_with("[]") && !node["description"].is_string() {
        found.push(path.to_owned());
    }
    for (name, child) in node["properties"].as_object().into_iter().flatten() {
        // Those are the server's own.
        if !(path.is_empty() && ["apiVersion", "kind", "metadata"].contains(&name.as_str())) {
            undescribed(child, &format!("{path}.{name}"), found);
        }
    }
    if node["items"].is_object() {
        undescribed(&node["items"], &format!("{path}[]"), found);
    }
}

#[test]
fn explain_tells_of_every_field() -> Result<()> {
    let cluster = Cluster::shared()?;
    let schemas = wait_for("the schemas to be published", || {
        let schemas = cluster.ok(["get", "--raw", "/openapi/v3/apis/stower.dev/v1alpha1"])?;
        let schemas: Value = serde_json::from_str(&schemas)?;
        let all = schemas["components"]["schemas"].as_object().context("no schemas")?;
        let is_there = |kind: &&str| all.contains_key(&format!("dev.stower.v1alpha1.{kind}"));
        Ok(KINDS.iter().all(|kind| is_there(kind)).then_some(schemas))
    })?;
    for kind in KINDS {
        let schema = &schemas["components"]["schemas"][format!("dev.stower.v1alpha1.{kind}")];
        ensure!(schema["properties"]["spec"].is_object(), "{kind} is not there");
        let mut found = Vec::new();
        undescribed(schema, "", &mut found);
        ensure!(found.is_empty(), "{kind} says nothing of {found:?}");
    }
    let told = [
        ("containers.stower.dev", "KIND:       Container", "one process tree"),
        ("containers.stower.dev.spec.volumesFrom", "FIELD: volumesFrom", "A path in `volumeMounts` wins"),
        ("containers.stower.dev.spec.restart.rules.exitCodes.values", "FIELD: values", "<[]integer>"),
        ("datacontainers.stower.dev.spec.volumes", "FIELD: volumes", "mountPath <string> -required-"),
        ("volumes.stower.dev.status.conditions", "FIELD: conditions", "one of each type"),
    ];
    for (field, line, words) in told {
        // Paths are published after the schemas.
        let said = wait_for(format!("explain {field}"), || Ok(Some(cluster.ok(["explain", field])?)))?;
        // Lines are broken where they are long.
        let flat = said.split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(said.contains(line) || flat.contains(line), "explain {field} says\n{said}");
        ensure!(flat.contains(words), "explain {field} says\n{said}");
    }
    Ok(())
}

#[test]
fn columns_tell_what_a_person_asks_first() -> Result<()> {
    let cluster = Cluster::shared()?;
    cluster.namespace("columns", "privileged")?;
    cluster.apply(&container("web", "columns", json!({ "nodeName": "a" })).to_string(), &[])?;
    let status = json!({ "status": { "phase": "Running", "restartCount": 3, "conditions": [
        { "type": "Ready", "status": "True", "reason": "Running", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" },
    ] } });
    let words = ["patch", "sctr", "web", "-n", "columns", "--subresource=status", "--type=merge", "-p"];
    cluster.ok(words.iter().copied().map(str::to_owned).chain([status.to_string()]))?;
    let table = cluster.ok(["get", "sctr", "-n", "columns", "-o", "wide"])?;
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    ensure!(rows[0] == ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "NODE", "IMAGE"], "{table}");
    ensure!(rows[1][..4] == ["web", "True", "Running", "3"] && rows[1][5] == "a", "{table}");
    let all = cluster.ok(["get", "stower", "-n", "columns"])?;
    ensure!(all.contains("container.stower.dev/web"), "get stower says {all}");
    cluster.ok(["wait", "--for=condition=Ready", "--timeout=30s", "-n", "columns", "sctr/web"])?;
    Ok(())
}

#[test]
fn a_node_is_set_once() -> Result<()> {
    let cluster = Cluster::shared()?;
    cluster.namespace("node-once", "privileged")?;
    for (kind, body) in [
        ("Container", "image: busybox"),
        ("Volume", "driver: local"),
        ("DataContainer", "volumes: [{mountPath: /a}]"),
    ] {
        let of = |node: &str| {
            format!(
                "apiVersion: stower.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: a, namespace: node-once}}\nspec: {{{body}{node}}}\n"
            )
        };
        cluster.apply(&of(""), &[])?;
        cluster.apply(&of(", nodeName: a"), &[])?;
        for other in [", nodeName: b", ""] {
            let said = format!("{:#}", cluster.apply(&of(other), &[]).err().context("the node was changed")?);
            ensure!(said.contains("nodeName is set once and never changed"), "{kind}: {said}");
        }
    }
    Ok(())
}

/// Two managers who each declare an entry of a list have both of them, whatever list it is.
#[test]
fn lists_are_merged_by_their_keys() -> Result<()> {
    let cluster = Cluster::shared()?;
    cluster.namespace("merged", "privileged")?;
    let entry = |name: &str, port: u16| {
        json!({
            "env": [{ "name": name, "value": name }],
            "ports": [{ "containerPort": port }],
            "volumes": [{ "name": name, "emptyDir": {} }],
            "volumeMounts": [{ "name": name, "mountPath": format!("/{name}") }],
            "volumesFrom": [{ "name": name }],
            "rlimits": [{ "name": if port == 80 { "nofile" } else { "core" }, "soft": 1, "hard": 1 }],
            "imagePullSecrets": [{ "name": name }],
        })
    };
    for (manager, name, port) in [("one", "a", 80), ("two", "b", 81)] {
        let object = container("web", "merged", entry(name, port)).to_string();
        cluster.apply(&object, &["--server-side", "--field-manager", manager])?;
    }
    let object = cluster.object("sctr", "merged", "web")?.context("it is gone")?;
    for (list, entries) in entry("", 80).as_object().context("a map")? {
        ensure!(
            entries.is_array() && object["spec"][list].as_array().is_some_and(|it| it.len() == 2),
            "{list}: {object:#}"
        );
    }
    // One who no longer declares an entry takes his own away, and nobody else's.
    cluster.apply(
        &container("web", "merged", json!({})).to_string(),
        &["--server-side", "--field-manager", "two"],
    )?;
    let object = cluster.object("sctr", "merged", "web")?.context("it is gone")?;
    ensure!(object["spec"]["env"] == json!([{ "name": "a", "value": "a" }]), "{object:#}");
    // A value that another manager set is a conflict, and his name is told.
    let other = container("web", "merged", json!({ "env": [{ "name": "a", "value": "x" }] })).to_string();
    let said = cluster.apply(&other, &["--server-side", "--field-manager", "two"]);
    let said = format!("{:#}", said.err().context("a conflict was passed over")?);
    ensure!(said.contains("conflict with \"one\""), "{said}");
    Ok(())
}

#[test]
fn a_watch_shows_what_comes_and_goes() -> Result<()> {
    let cluster = Cluster::shared()?;
    cluster.namespace("watched", "privileged")?;
    let file = cluster.folder().join("watch.txt");
    let mut watch = cluster.kubectl_command(["get", "sctr", "-n", "watched", "-w", "--output-watch-events"]);
    let mut child = watch.stdin(Stdio::null()).stdout(std::fs::File::create(&file)?).spawn()?;
    let seen = |words: &[&str]| {
        wait_for(format!("the watch to show {words:?}"), || {
            let text = std::fs::read_to_string(&file)?;
            let shown = text.lines().any(|line| words.iter().all(|word| line.contains(word)));
            Ok(shown.then_some(()))
        })
    };
    let shown = (|| -> Result<()> {
        cluster.apply(&container("web", "watched", json!({})).to_string(), &[])?;
        seen(&["ADDED", "web"])?;
        cluster.ok(["delete", "sctr", "web", "-n", "watched"])?;
        seen(&["DELETED", "web"])
    })();
    process::kill9(child.id())?;
    child.wait()?;
    shown
}
