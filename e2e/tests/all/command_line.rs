//! The command line, which reads like kubectl.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stower_e2e::node::binary;
use stower_e2e::{TestNode, process};

use crate::support::idle;

#[test]
fn get_prints_every_form() -> Result<()> {
    let node = TestNode::start()?;
    for name in ["a", "b"] {
        node.write(&format!("{name}.yaml"), &idle(name, "")?)?;
    }
    for name in ["a", "b"] {
        node.wait_running(name)?;
    }
    let table = node.ok(["get", "containers"])?;
    let head = table.lines().next().context("nothing printed")?;
    for column in ["NAME", "READY", "STATUS", "RESTARTS", "AGE"] {
        ensure!(head.contains(column), "no column {column}: {table}");
    }
    ensure!(table.lines().count() == 3 && table.contains("Running"), "{table}");
    let wide = node.ok(["get", "containers", "-o", "wide"])?;
    ensure!(wide.contains("IMAGE") && wide.contains("payload"), "{wide}");
    let names = node.ok(["get", "containers", "-o", "name"])?;
    ensure!(names.lines().eq(["container.stower.dev/a", "container.stower.dev/b"]), "{names}");
    let list: Value = serde_json::from_str(&node.ok(["get", "containers", "-o", "json"])?)?;
    ensure!(
        list["kind"] == "List" && list["items"].as_array().is_some_and(|items| items.len() == 2),
        "{list}"
    );
    let one: Value = serde_json::from_str(&node.ok(["get", "container", "a", "-o", "json"])?)?;
    ensure!(one["kind"] == "Container" && one["apiVersion"] == "stower.dev/v1alpha1", "{one}");
    for (path, expected) in
        [("/status/phase", "Running"), ("/metadata/namespace", "default"), ("/metadata/name", "a")]
    {
        ensure!(one.pointer(path) == Some(&Value::from(expected)), "{path}: {one}");
    }
    let ready =
        one["status"]["conditions"].as_array().into_iter().flatten().find(|item| item["type"] == "Ready");
    ensure!(ready.is_some_and(|ready| ready["status"] == "True"), "{one}");
    let yaml = node.ok(["get", "container/a", "-o", "yaml"])?;
    ensure!(yaml.contains("phase: Running") && yaml.contains("kind: Container"), "{yaml}");
    Ok(())
}

#[test]
fn what_get_prints_as_yaml_can_be_declared_again() -> Result<()> {
    let node = TestNode::start()?;
    node.write("a.yaml", &idle("a", "  env: [{name: A, value: 'yes: \"no\"'}]\n")?)?;
    let pid = node.wait_running("a")?;
    let yaml = node.ok(["get", "container", "a", "-o", "yaml"])?;
    let file = node.folder().join("again.yaml");
    fs::write(&file, yaml)?;
    node.ok(["validate", "-f", file.to_str().context("odd path")?])?;
    ensure!(node.wait_running("a")? == pid);
    Ok(())
}

#[test]
fn the_socket_is_named_before_or_after_the_verb() -> Result<()> {
    let node = TestNode::start()?;
    let socket = node.socket.to_str().context("odd path")?;
    for args in [["--socket", socket, "get", "containers"], ["get", "containers", "--socket", socket]] {
        process::run_command(Command::new(binary()?).args(args).env_remove("STOWER_SOCKET"))?;
    }
    Ok(())
}

#[test]
fn watch_prints_what_changes() -> Result<()> {
    let node = TestNode::start()?;
    let mut watcher =
        node.command(["get", "containers", "-w"]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let lines = BufReader::new(watcher.stdout.take().context("no output")?).lines();
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| send.send(line)));
    node.write("a.yaml", &idle("a", "")?)?;
    node.wait("a line that says Running", || {
        Ok(receive.try_iter().any(|line| line.contains('a') && line.contains("Running")).then_some(()))
    })?;
    watcher.kill()?;
    watcher.wait()?;
    Ok(())
}

#[test]
fn describe_tells_spec_state_and_events() -> Result<()> {
    let node = TestNode::start()?;
    node.write("a.yaml", &idle("a", "")?)?;
    node.wait_running("a")?;
    let text = node.ok(["describe", "container", "a"])?;
    for word in ["Name:", "a", "payload", "Running", "Events", "Started"] {
        ensure!(text.contains(word), "no {word} in:\n{text}");
    }
    Ok(())
}

#[test]
fn apply_creates_edits_and_delete_removes() -> Result<()> {
    let node = TestNode::start()?;
    let file = node.folder().join("mine.yaml");
    let path = file.to_str().context("odd path")?;
    fs::write(&file, idle("mine", "")?)?;
    let said = node.ok(["apply", "-f", path])?;
    ensure!(said.contains("mine") && said.contains("created"), "{said}");
    let pid = node.wait_running("mine")?;
    let said = node.ok(["apply", "-f", path])?;
    ensure!(said.contains("unchanged") && node.wait_running("mine")? == pid, "{said}");
    fs::write(&file, idle("mine", "  env: [{name: A, value: b}]\n")?)?;
    let said = node.ok(["apply", "-f", path])?;
    ensure!(said.contains("configured"), "{said}");
    let second = node.wait_restarted("mine", pid)?;
    // It is kept durably.
    node.restart_agent()?;
    ensure!(node.wait_running("mine")? == second);
    node.ok(["delete", "container", "mine"])?;
    node.wait_gone("mine")?;
    node.restart_agent()?;
    ensure!(node.container("mine")?.is_none(), "a deleted object came back");
    Ok(())
}

#[test]
fn an_object_from_a_file_is_read_only_and_the_file_is_named() -> Result<()> {
    let node = TestNode::start()?;
    node.write("owned.yaml", &idle("owned", "")?)?;
    let pid = node.wait_running("owned")?;
    let file = node.folder().join("other.yaml");
    fs::write(&file, idle("owned", "  env: [{name: A, value: b}]\n")?)?;
    for args in
        [vec!["apply", "-f", file.to_str().context("odd path")?], vec!["delete", "container", "owned"]]
    {
        let said = node.refused(&args)?;
        ensure!(said.contains("owned.yaml"), "{args:?} names no file: {said}");
    }
    ensure!(node.wait_running("owned")? == pid);
    Ok(())
}

#[test]
fn validate_accepts_what_is_right_without_an_agent() -> Result<()> {
    let node = TestNode::builder().build()?;
    let file = node.folder().join("right.yaml");
    fs::write(&file, idle("right", "")?)?;
    let said = node.ok(["validate", "-f", file.to_str().context("odd path")?])?;
    ensure!(said.contains("right"), "{said}");
    Ok(())
}

#[test]
fn namespaces_keep_names_apart() -> Result<()> {
    let node = TestNode::start()?;
    let text = idle("same", "")?;
    node.write("one.yaml", &text)?;
    node.write("two.yaml", &text.replace("{name: same}", "{name: same, namespace: other}"))?;
    node.wait("both to run", || {
        let running = node.containers()?.iter().filter(|item| item["status"]["phase"] == "Running").count();
        Ok((running == 2).then_some(()))
    })?;
    ensure!(node.ok(["get", "containers", "-n", "other", "-o", "name"])?.lines().count() == 1);
    ensure!(node.ok(["get", "containers", "-A"])?.contains("NAMESPACE"));
    node.ok(["stop", "-n", "other", "same"])?;
    ensure!(node.wait_running("same").is_ok(), "the stop met the other namespace's container");
    Ok(())
}

#[test]
fn events_tell_what_happened() -> Result<()> {
    let node = TestNode::start()?;
    node.write("a.yaml", &idle("a", "")?)?;
    let pid = node.wait_running("a")?;
    process::kill9(pid)?;
    node.wait_restarted("a", pid)?;
    node.wait("the events", || {
        let events = node.ok(["events"])?;
        Ok(["Pulled", "Started"].iter().all(|word| events.contains(word)).then_some(()))
    })?;
    let mine = node.ok(["events", "--for", "container/a"])?;
    ensure!(mine.contains("Started"), "{mine}");
    Ok(())
}

#[test]
fn crds_version_and_completion_need_no_agent() -> Result<()> {
    let node = TestNode::builder().no_registry().build()?;
    let crds = node.ok(["crds"])?;
    ensure!(
        crds.contains("kind: CustomResourceDefinition") && crds.contains("containers.stower.dev"),
        "{crds}"
    );
    let version = node.ok(["version", "--client"])?;
    ensure!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    for shell in ["bash", "zsh", "fish"] {
        ensure!(node.ok(["completion", shell])?.contains("stower"));
    }
    let help = node.ok(["--help"])?;
    for verb in [
        "agent", "get", "describe", "logs", "apply", "delete", "stop", "start", "restart", "plan", "validate",
    ] {
        ensure!(help.contains(verb), "--help does not tell of {verb}: {help}");
    }
    Ok(())
}

#[test]
fn the_published_crds_are_those_of_the_binary() -> Result<()> {
    let node = TestNode::builder().no_registry().build()?;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/crds");
    let mut published = String::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read {folder}"))? {
        published.push_str(&fs::read_to_string(entry?.path())?);
    }
    let printed = node.ok(["crds"])?;
    for line in printed.lines().filter(|line| !line.starts_with("---")) {
        ensure!(published.contains(line), "manifests/crds is not what `stower crds` prints: {line:?}");
    }
    Ok(())
}

#[test]
fn an_object_that_is_not_there_is_not_found() -> Result<()> {
    let node = TestNode::start()?;
    for args in [
        &["get", "container", "ghost"][..],
        &["describe", "container", "ghost"],
        &["stop", "ghost"],
        &["delete", "container", "ghost"],
    ] {
        let said = node.refused(args)?;
        ensure!(said.contains("ghost") && said.contains("not found"), "{args:?}: {said}");
    }
    Ok(())
}
