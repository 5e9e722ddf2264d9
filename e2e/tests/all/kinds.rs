//! Kinds beside Container on the command line: declared, shown, described, waited for, removed; and who sees a secret.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stower_e2e::{TestNode, http, process};

use crate::support::{data_container, ready, shell};

const VOLUME: &str =
    "apiVersion: stower.dev/v1alpha1\nkind: Volume\nmetadata: {name: data}\nspec: {driver: local}\n";
const CONFIG: &str =
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {colour: blue, size: large}\n";
const SECRET: &str = "apiVersion: v1\nkind: Secret\nmetadata: {name: key}\nstringData: {password: hunter2}\n";
/// `hunter2`, as a Secret holds it.
const ENCODED: &str = "aHVudGVyMg==";

fn apply(node: &TestNode, text: &str) -> Result<String> {
    let file = node.folder().join("applied.yaml");
    fs::write(&file, text)?;
    node.ok(["apply", "-f", file.to_str().context("an odd path")?])
}

fn json(node: &TestNode, args: &[&str]) -> Result<Value> {
    Ok(serde_json::from_str(&node.ok(args)?)?)
}

#[test]
fn every_kind_is_declared_shown_and_removed_by_command() -> Result<()> {
    let node = TestNode::builder().no_registry().start()?;
    let all = [VOLUME, &data_container("set", "/foo", ""), CONFIG, SECRET].join("---\n");
    let said = apply(&node, &all)?;
    let names =
        ["volume.stower.dev/data", "datacontainer.stower.dev/set", "configmap/settings", "secret/key"];
    for name in names {
        ensure!(said.contains(&format!("{name} created")), "{said}");
    }
    ensure!(apply(&node, &all)?.lines().all(|line| line.ends_with(" unchanged")), "declared again");
    let met = node.ok(["wait", "--for=condition=Ready", "volume/data", "datacontainer/set"])?;
    ensure!(met.contains("volume.stower.dev/data condition met"), "{met}");

    for (kind, columns, cells) in [
        ("volumes", "NAME READY DRIVER CAPACITY RECLAIM AGE", "data True local <none> Retain"),
        ("svol", "NAME READY DRIVER CAPACITY RECLAIM AGE", "data True local <none> Retain"),
        ("sdc", "NAME READY PATHS RECLAIM AGE", "set True /foo Retain"),
        ("cm", "NAME DATA AGE", "settings 2"),
        ("secrets", "NAME TYPE DATA AGE", "key Opaque 1"),
    ] {
        let table = node.ok(["get", kind])?;
        let lines: Vec<String> =
            table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        ensure!(lines.len() == 2 && lines[0] == columns && lines[1].starts_with(cells), "{kind}:\n{table}");
    }
    let several = node.ok(["get", "all"])?;
    ensure!(several.contains("datacontainer/set") && several.contains("volume/data"), "{several}");
    let several = node.ok(["get", "volume,cm,secrets", "-o", "name"])?;
    ensure!(several.lines().eq(["volume.stower.dev/data", "configmap/settings", "secret/key"]), "{several}");
    let wide = node.ok(["get", "volumes", "-o", "wide"])?;
    ensure!(wide.contains("local API") && wide.contains("PATH"), "{wide}");
    let secret = json(&node, &["get", "secret/key", "-o", "json"])?;
    ensure!(secret["data"]["password"] == ENCODED && secret["apiVersion"] == "v1", "{secret}");

    let described = node.ok(["describe", "volume", "data"])?;
    for words in ["Driver:", "local", "Reclaim Policy:  Retain", "Used By:", "Conditions:", "Events:"] {
        ensure!(described.contains(words), "no {words:?} in\n{described}");
    }
    ensure!(node.ok(["describe", "sdc/set"])?.contains("/foo:\n    From:"), "describe");
    ensure!(node.ok(["describe", "cm", "settings"])?.contains("colour:\n----\nblue\n"), "describe");
    let described = node.ok(["describe", "secret", "key"])?;
    ensure!(described.contains("password:  7 bytes") && !described.contains("hunter2"), "{described}");

    for (target, name) in ["volume/data", "sdc/set", "cm/settings", "secret/key"].into_iter().zip(names) {
        let said = node.ok(["delete", target])?;
        ensure!(said.contains(&format!("{name} deleted")), "{said}");
        let gone = node.refused(["get", target])?;
        ensure!(gone.contains("not found"), "{gone}");
    }
    let gone = node.refused(["get", "secret", "key"])?;
    ensure!(gone.trim() == "Error from server (NotFound): secrets \"key\" not found", "{gone}");
    let gone = node.refused(["get", "volume", "data"])?;
    ensure!(gone.trim() == "Error from server (NotFound): volumes.stower.dev \"data\" not found", "{gone}");
    Ok(())
}

#[test]
fn every_kind_is_declared_by_a_file() -> Result<()> {
    let node = TestNode::builder().no_registry().start()?;
    let all = [VOLUME, &data_container("set", "/foo", ""), CONFIG, SECRET].join("---\n");
    node.write("all.yaml", &all)?;
    ready(&node, "volumes", "data")?;
    ready(&node, "datacontainers", "set")?;
    let names = node.ok(["get", "vol,sdc,cm,secret", "-o", "name"])?;
    ensure!(names.lines().count() == 4, "{names}");
    let refused = node.refused(["delete", "configmap", "settings"])?;
    ensure!(refused.contains("all.yaml"), "the file is not named: {refused}");
    let file = node.folder().join("other.yaml");
    fs::write(&file, CONFIG.replace("blue", "red"))?;
    let refused = node.refused(["apply", "-f", file.to_str().context("an odd path")?])?;
    ensure!(refused.contains("all.yaml"), "the file is not named: {refused}");
    node.remove("all.yaml")?;
    node.write("cm.yaml", CONFIG)?;
    node.ok(["wait", "--for=delete", "volume/data", "sdc/set", "secret/key"])?;
    let names = node.ok(["get", "vol,sdc,cm,secret", "-o", "name"])?;
    ensure!(names.lines().eq(["configmap/settings"]), "{names}");
    Ok(())
}

#[test]
fn what_no_kind_has_is_refused_by_name() -> Result<()> {
    let node = TestNode::builder().no_registry().start()?;
    apply(&node, &[VOLUME, SECRET].join("---\n"))?;
    for (args, words) in [
        (vec!["get", "pods/a"], "the agent doesn't have a resource type \"pods\": there are containers"),
        (vec!["get", "volumes,pods"], "the agent doesn't have a resource type \"pods\""),
        (vec!["logs", "volume/data"], "volumes.stower.dev \"data\" has no log: only containers have"),
        (vec!["stop", "volume/data"], "volumes.stower.dev \"data\" has no hold: only containers have"),
        (vec!["stop", "secret/key"], "the server could not find the requested resource"),
        (vec!["wait", "--for=ready", "volume/data"], "must be condition=NAME"),
        (
            vec!["wait", "--for=condition=Nothing", "volume/data", "--timeout=100ms"],
            "timed out waiting for volume.stower.dev/data",
        ),
        (vec!["get", "volumes,secrets", "-w"], "a single resource type when watching"),
    ] {
        let said = node.refused(&args)?;
        ensure!(said.contains(words), "{args:?}: {said}");
    }
    // A change that would mean other data says where they are.
    let file = node.folder().join("driver.yaml");
    fs::write(&file, VOLUME.replace("local", "tmpfs"))?;
    let said = node.refused(["apply", "-f", file.to_str().context("an odd path")?])?;
    ensure!(said.contains("driver") && said.contains("cannot"), "{said}");
    Ok(())
}

/// A process of another user, whom the socket's group lets in.
#[test]
fn only_root_sees_the_values_of_a_secret() -> Result<()> {
    const OTHER: u32 = 47_110;
    let node = TestNode::builder().no_registry().start()?;
    apply(&node, &[SECRET, CONFIG].join("---\n"))?;
    for path in [node.folder(), &node.run] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o711))?;
    }
    chown(&node.socket, None, Some(OTHER))?;
    let program = node.folder().join("stower");
    // By another process: a child of another test that had our descriptor for writing would keep it from being executed.
    process::run("cp", [&stower_e2e::node::binary()?, &program])?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let other = |args: &[&str]| {
        let mut command = Command::new(&program);
        command.args(args).env_clear().env("STOWER_SOCKET", &node.socket).current_dir("/");
        command.uid(OTHER).gid(OTHER);
        command
    };
    for args in [
        &["get", "secret", "key", "-o", "yaml"][..],
        &["get", "secrets", "-A", "-o", "json"],
        &["describe", "secret", "key"],
        &["get", "secrets", "-o", "yaml"],
    ] {
        let text = process::run_command(&mut other(args))?;
        ensure!(text.contains("password"), "the keys are not secret: {args:?}\n{text}");
        ensure!(!text.contains(ENCODED) && !text.contains("hunter2"), "{args:?} shows it:\n{text}");
        let root = node.ok(args)?;
        ensure!(root.contains(ENCODED) || args[0] == "describe", "root does not see it:\n{root}");
    }
    let text = process::run_command(&mut other(&["get", "secret", "key", "-o", "yaml"]))?;
    ensure!(
        text.contains("stower.dev/redacted: 'true'") || text.contains("stower.dev/redacted: \"true\""),
        "{text}"
    );
    let config = process::run_command(&mut other(&["get", "cm", "settings", "-o", "yaml"]))?;
    ensure!(config.contains("blue") && !config.contains("redacted"), "{config}");

    // What is applied is not read back either, and what was left out is not written back.
    let mut child =
        other(&["apply", "-f", "-", "-o", "yaml"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("no pipe")?.write_all(SECRET.replace("name: key", "name: own").as_bytes())?;
    let answer = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&answer.stdout);
    ensure!(answer.status.success() && text.contains("password") && !text.contains(ENCODED), "{text}");
    let mut child = other(&["apply", "-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let printed = process::run_command(&mut other(&["get", "secret", "key", "-o", "json"]))?;
    child.stdin.take().context("no pipe")?.write_all(printed.as_bytes())?;
    let answer = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&answer.stderr);
    ensure!(!answer.status.success() && text.contains("stower.dev/redacted"), "{text}");
    ensure!(node.ok(["get", "secret", "key", "-o", "yaml"])?.contains(ENCODED), "it was wiped out");

    let mut watch = other(&["get", "secrets", "-w", "-o", "json"]).stdout(Stdio::piped()).spawn()?;
    apply(&node, &SECRET.replace("hunter2", "hunter3"))?;
    let mut seen = String::new();
    let mut out = std::io::BufReader::new(watch.stdout.take().context("no pipe")?);
    while seen.matches("\"kind\": \"Secret\"").count() < 2 {
        ensure!(std::io::BufRead::read_line(&mut out, &mut seen)? > 0, "the watch ended:\n{seen}");
    }
    watch.kill()?;
    watch.wait()?;
    ensure!(!seen.contains("aHVudGVyM"), "{seen}");

    // Nor does anything else tell it.
    for path in ["/v1/dump", "/v1/plan", "/v1/issues", "/metrics", "/api/v1/events"] {
        let text = http::unix(&node.socket, "GET", path)?.text();
        ensure!(!text.contains("aHVudGVyM") && !text.contains("hunter"), "{path}:\n{text}");
    }
    let log = fs::read_to_string(&node.log)?;
    ensure!(!log.contains("aHVudGVyM") && !log.contains("hunter"), "{log}");
    Ok(())
}

#[test]
fn data_that_is_left_behind_is_seen_and_pruned() -> Result<()> {
    let node = TestNode::start()?;
    apply(
        &node,
        &[VOLUME, &VOLUME.replace("name: data", "name: other"), &data_container("set", "/foo", "")]
            .join("---\n"),
    )?;
    let body = "  volumes: [{name: v, volume: {name: data}}]\n  volumeMounts: [{name: v, mountPath: /v}]\n  volumesFrom: [{name: set}]\n";
    let script = "head -c 100000 /dev/zero > /v/file; echo kept > /foo/file; sleep 1000";
    apply(&node, &shell("web", script, body)?)?;
    node.wait_running("web")?;

    let described = node.ok(["describe", "container", "web"])?;
    for words in ["/v from v of Volume default/data (rw)", "/foo from ", "DataContainer default/set"] {
        ensure!(described.contains(words), "no {words:?} in\n{described}");
    }
    node.wait("the users to be told", || {
        let table = node.ok(["volume", "ls"])?;
        let line = table.lines().find(|line| line.starts_with("volume/data ")).unwrap_or_default().to_owned();
        Ok((line.contains("InUse") && line.contains("Container default/web")).then_some(()))
    })?;
    node.wait("the file to be counted", || {
        let seen = json(&node, &["volume", "inspect", "data"])?;
        let data = &seen["data"][0];
        Ok((seen["kind"] == "Volume"
            && data["usage"]["bytes"].as_u64() >= Some(100_000)
            && data["usage"]["inodes"].as_u64() >= Some(2)
            && data["hasData"] == true
            && data["path"].as_str().is_some_and(|path| path.starts_with(node.data.to_str().unwrap_or("?"))))
        .then_some(()))
    })?;
    let used = "stower_volume_stats_used_bytes";
    ensure!(node.metric(used)? > 0.0 && node.metric("stower_volume_stats_inodes_used")? > 0.0, "no gauges");
    let text = http::unix(&node.socket, "GET", "/metrics")?.text();
    ensure!(
        text.contains(&format!("{used}{{kind=\"Volume\",namespace=\"default\",volume=\"data\"}}")),
        "{text}"
    );

    let refused = node.refused(["volume", "rm", "data"])?;
    ensure!(refused.contains("Volume default/data is declared"), "{refused}");
    ensure!(
        node.cli(["volume", "prune", "-f"])?.stderr.contains("No retained data found"),
        "nothing to prune"
    );
    node.ok(["delete", "web"])?;
    node.ok(["delete", "volume", "data", "other"])?;
    node.ok(["delete", "sdc", "set"])?;
    let left = node.ok(["volume", "ls", "--retained", "--no-headers"])?;
    let names: Vec<_> = left.lines().filter_map(|line| line.split_whitespace().next()).collect();
    ensure!(names == ["datacontainer/set", "volume/data", "volume/other"], "{left}");

    // Declared again, it is there again, and safe.
    apply(&node, &VOLUME.replace("name: data", "name: other"))?;
    ready(&node, "volumes", "other")?;
    let output = node.cli(["volume", "prune"])?;
    ensure!(output.code == 1 && output.stderr.contains("nothing was removed"), "asked nobody: {output:?}");
    let pruned = node.ok(["volume", "prune", "-f"])?;
    ensure!(
        pruned.contains("data of volume/data removed")
            && pruned.contains("data of datacontainer/set removed"),
        "{pruned}"
    );
    ensure!(pruned.contains("Total reclaimed space: ") && !pruned.contains("volume/other"), "{pruned}");
    let gone = node.refused(["volume", "rm", "data"])?;
    ensure!(gone.contains("there is no data of a Volume default/data on this machine"), "{gone}");
    let left = node.ok(["volume", "ls", "--no-headers"])?;
    ensure!(left.lines().count() == 1 && left.starts_with("volume/other "), "{left}");
    node.ok(["delete", "volume", "other"])?;
    ensure!(node.ok(["volume", "rm", "other"])?.contains("data of volume/other removed"), "rm");
    Ok(())
}

#[test]
fn a_capacity_is_told_and_measured() -> Result<()> {
    let node = TestNode::builder().no_registry().start()?;
    apply(&node, &VOLUME.replace("driver: local", "driver: local, capacity: 16Mi"))?;
    ready(&node, "volumes", "data")?;
    let data = json(&node, &["volume", "inspect", "data"])?["data"][0].take();
    ensure!(data["capacity"] == 16 << 20 && data["capacityEnforced"] == true, "{data}");
    let available = data["usage"]["available"].as_u64().context("not measured")?;
    ensure!(available > 0 && available < 16 << 20, "{data}");
    let listed = node.ok(["volume", "ls"])?;
    ensure!(listed.contains(" 16Mi "), "{listed}");
    let capacity = node.metric("stower_volume_stats_capacity_bytes")?;
    ensure!(capacity > 0.0, "no gauge of the capacity: {capacity}");
    ensure!(node.ok(["describe", "volume", "data"])?.contains("16Mi (enforced)"), "describe");
    ensure!(node.ok(["get", "volume", "data"])?.contains(" 16Mi "), "get");
    let file = node.folder().join("small.yaml");
    fs::write(&file, VOLUME.replace("driver: local", "driver: local, capacity: 8Mi"))?;
    let said = node.refused(["apply", "-f", file.to_str().context("an odd path")?])?;
    ensure!(said.contains("capacity can grow and not shrink"), "{said}");
    Ok(())
}

#[test]
fn values_in_the_environment_are_described_as_kubectl_does() -> Result<()> {
    let node = TestNode::start()?;
    apply(&node, &[CONFIG, SECRET].join("---\n"))?;
    let body = "  env:\n  - {name: P, valueFrom: {secretKeyRef: {name: key, key: password}}}\n  - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}\n  envFrom: [{configMapRef: {name: settings}}]\n";
    apply(&node, &shell("web", "echo $P $NAME $colour; sleep 1000", body)?)?;
    node.wait("its output", || Ok((node.ok(["logs", "web"])?.trim() == "hunter2 web blue").then_some(())))?;
    let described = node.ok(["describe", "container", "web"])?;
    for words in [
        "<set to the key 'password' in secret 'key'>  Optional: false",
        "web (v1:metadata.name)",
        "settings  ConfigMap  Optional: false",
    ] {
        ensure!(described.contains(words), "no {words:?} in\n{described}");
    }
    ensure!(!described.contains("hunter2"), "{described}");
    Ok(())
}
