//! The configuration: who wins, what a reload changes, and that a bad file changes nothing.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use stower_e2e::node::{restarts_of, uid_of};
use stower_e2e::{Catalog, Output, TestNode, catalog, process};

use crate::support::{idle, shell};

/// What keeps this machine's disk out of it, with more.
fn with(more: &str) -> String {
    format!("images: {{gc: {{enabled: false}}}}\nstorage: {{minFree: {{}}, minFreeInodes: {{}}}}\n{more}")
}

/// The messages of the node's events of a kind.
fn told(node: &TestNode, reason: &str) -> Result<Vec<String>> {
    let list: Value = serde_json::from_str(&node.ok(["events", "-A", "-o", "json"])?)?;
    let events = list["items"].as_array().context("a list without items")?;
    let mine = events.iter().filter(|it| it["reason"] == reason && it["involvedObject"]["kind"] == "Node");
    Ok(mine.filter_map(|it| it["message"].as_str()).map(str::to_owned).collect())
}

fn wait_told(node: &TestNode, reason: &str, parts: &[&str]) -> Result<()> {
    node.wait(&format!("an event {reason} with {parts:?}"), || {
        let all = told(node, reason)?;
        Ok(all.iter().any(|it| parts.iter().all(|part| it.contains(part))).then_some(()))
    })
}

fn wait_setting(node: &TestNode, field: &str, value: &Value) -> Result<()> {
    node.wait(&format!("{field} to be {value}"), || Ok((node.setting(field)? == *value).then_some(())))
}

fn successful(node: &TestNode) -> Result<bool> {
    #[expect(clippy::float_cmp, reason = "it is 0 or 1")]
    Ok(node.metric("stower_config_last_reload_successful")? == 1.0)
}

/// Runs a command that is no client of an agent's.
fn run(command: &mut Command) -> Result<Output> {
    Ok(process::output(command)?.into())
}

/// Lets a container write 100 KiB, and gives the sizes of what is kept of it.
fn kept_of_a_run(node: &TestNode, name: &str) -> Result<Vec<u64>> {
    let script = "i=0; while [ $i -lt 1000 ]; do echo 0123456789012345678901234567890123456789012345678901234567890123456789; \
                  i=$((i+1)); done";
    node.write(&format!("{name}.yaml"), &shell(name, script, "  restartPolicy: Never\n")?)?;
    let item =
        node.wait_container(name, "at its end", |item| item["status"]["state"]["terminated"].is_object())?;
    let logs = fs::read_dir(node.data.join("logs").join(uid_of(&item)?))?;
    let sizes: Result<Vec<u64>> = logs.map(|entry| Ok(entry?.metadata()?.len())).collect();
    Ok(sizes?.into_iter().filter(|size| *size > 0).collect())
}

#[test]
fn limits_of_logs_are_taken_over_for_the_next_run() -> Result<()> {
    let node = TestNode::start()?;
    let before = kept_of_a_run(&node, "before")?;
    ensure!(before.len() == 1 && before[0] > 100_000, "kept by default: {before:?}");
    node.write_config(&with("logging: {maxSize: 16Ki, maxFiles: 2}\n"))?;
    wait_told(&node, "ConfigReloaded", &["logging.maxSize: 10Mi → 16Ki", "logging.maxFiles: 5 → 2"])?;
    let after = kept_of_a_run(&node, "after")?;
    ensure!(
        after.len() == 2 && after.iter().all(|size| *size <= 16 << 10),
        "kept after the reload: {after:?}"
    );
    ensure!(successful(&node)?, "the metric does not tell of the success");
    Ok(())
}

#[test]
fn registries_and_thresholds_are_taken_over_while_the_agent_runs() -> Result<()> {
    let catalog = Catalog::get()?;
    let image = catalog.reference(catalog::payload)?;
    let node = TestNode::builder().no_registry().start()?;
    node.refused(["pull", &image])?;
    node.write_config(&with(&format!("insecureRegistries: ['{}']\n", catalog.registry.address)))?;
    wait_setting(&node, "insecureRegistries", &json!([catalog.registry.address]))?;
    node.ok(["pull", &image])?;

    let pressed = || Ok::<_, anyhow::Error>(node.metric("stower_disk_pressure")? > 0.0);
    ensure!(!pressed()?, "the disk is said to be full");
    node.write_config("storage: {minFree: {bytes: 1000Ti}, minFreeInodes: {}}\n")?;
    node.wait("the disk to be too full for what is asked", || Ok(pressed()?.then_some(())))?;
    wait_told(&node, "NodeHasDiskPressure", &[])?;
    // It was taken away, and is again what it was by default.
    node.refused(["pull", &image])?;
    node.write_config(&with(""))?;
    node.wait("the disk to have room again", || Ok((!pressed()?).then_some(())))
}

#[test]
fn a_bad_file_changes_nothing_and_is_told() -> Result<()> {
    let node = TestNode::builder().config(&with("startConcurrency: 3\n")).start()?;
    let before = node.ok(["config", "show", "--no-headers"])?;
    let bad = [
        (
            "startConcurrency: 0\nlogging:\n  maxfiles: 3\n",
            vec!["config.yaml:3:3", "maxFiles is meant?", ":1:1", "startConcurrency"],
        ),
        ("startConcurrency: [\n", vec!["config.yaml:"]),
        ("", vec!["is empty"]),
    ];
    for (text, parts) in &bad {
        node.write_config(text)?;
        wait_told(&node, "ConfigReloadFailed", parts)?;
        ensure!(!successful(&node)?, "the metric does not tell of the failure");
        ensure!(node.ok(["config", "show", "--no-headers"])? == before, "{text:?} changed something");
        let said = node.refused(["config", "reload"])?;
        ensure!(parts.iter().all(|part| said.contains(part)), "{said}");
    }
    fs::remove_file(&node.config)?;
    wait_told(&node, "ConfigReloadFailed", &["config.yaml"])?;
    ensure!(node.setting("startConcurrency")? == 3, "a file that is gone changed something");
    // What it had is good again, though nothing in it changed.
    node.write_config(&with("startConcurrency: 3\n"))?;
    node.wait("the failure to be over", || Ok(successful(&node)?.then_some(())))?;
    ensure!(told(&node, "ConfigReloaded")?.is_empty(), "nothing changed, and it is told");
    // A signal reads it too.
    fs::write(&node.config, with("startConcurrency: 5\n"))?;
    process::signal(node.agent_pid()?, Signal::HUP)?;
    wait_told(&node, "ConfigReloaded", &["startConcurrency: 3 → 5"])
}

#[test]
fn what_needs_a_restart_says_so_and_waits_for_one() -> Result<()> {
    let node = TestNode::builder().config(&with("nodeName: one\nlogLevel: warn\n")).start()?;
    let next = with("nodeName: two\nlogLevel: info\n");
    fs::write(node.folder().join("next.yaml"), &next)?;
    let said = node.ok([Path::new("config"), Path::new("check"), &node.folder().join("next.yaml")])?;
    for line in ["next.yaml: valid", "live: logLevel: warn → info", "needs a restart: nodeName: one → two"]
    {
        ensure!(said.contains(line), "{said}");
    }
    ensure!(node.setting("logLevel")? == "warn", "a check changed something");
    node.write_config(&next)?;
    wait_told(&node, "ConfigNeedsRestart", &["nodeName: one → two"])?;
    ensure!(node.setting("nodeName")? == "one" && node.setting("logLevel")? == "info");
    let shown = node.cli(["config", "show"])?;
    ensure!(shown.stderr.contains("needs a restart: nodeName: one → two"), "{shown:?}");
    let log = fs::read_to_string(&node.log)?;
    ensure!(!log.contains("the agent runs") && log.contains("the configuration was reloaded"), "{log}");
    node.restart_agent()?;
    ensure!(node.setting("nodeName")? == "two");
    let shown = node.cli(["config", "show"])?;
    ensure!(!shown.stderr.contains("restart"), "{shown:?}");
    Ok(())
}

#[test]
fn the_links_of_a_mounted_config_map_are_followed() -> Result<()> {
    let node = TestNode::start()?;
    let map = node.folder().join("map");
    for (name, files) in [("..1", 3), ("..2", 4)] {
        fs::create_dir_all(map.join(name))?;
        fs::write(map.join(name).join("c.yaml"), with(&format!("logging: {{maxFiles: {files}}}\n")))?;
    }
    symlink("..1", map.join("..data"))?;
    symlink("..data/c.yaml", map.join("c.yaml"))?;
    symlink("map/c.yaml", node.config.with_extension("new"))?;
    fs::rename(node.config.with_extension("new"), &node.config)?;
    wait_setting(&node, "logging.maxFiles", &json!(3))?;
    // As the kubelet does it.
    symlink("..2", map.join("..data_tmp"))?;
    fs::rename(map.join("..data_tmp"), map.join("..data"))?;
    wait_setting(&node, "logging.maxFiles", &json!(4))?;
    wait_told(&node, "ConfigReloaded", &["logging.maxFiles: 3 → 4"])
}

#[test]
fn a_reload_under_load_loses_nothing() -> Result<()> {
    const CONTAINERS: usize = 24;
    let node = TestNode::builder().config(&with("startConcurrency: 1\n")).start()?;
    let names: Vec<String> = (0..CONTAINERS).map(|n| format!("c{n}")).collect();
    let all: Result<Vec<String>> = names.iter().map(|name| idle(name, "")).collect();
    node.write("all.yaml", &all?.join("---\n"))?;
    for round in 0..12_usize {
        let concurrency = [2, 8, 1, 16][round % 4];
        let text = format!("startConcurrency: {concurrency}\nlogging: {{maxFiles: {}}}\n", 3 + round);
        node.write_config(&with(&text))?;
        node.ok(["config", "reload"])?;
        ensure!(node.setting("startConcurrency")? == concurrency, "round {round}");
    }
    node.wait("all to run", || {
        let all = node.containers()?;
        let running = all.iter().filter(|it| it["status"]["state"]["running"].is_object()).count();
        Ok((running == CONTAINERS).then_some(()))
    })?;
    let restarts: u64 = node.containers()?.iter().map(restarts_of).sum();
    ensure!(restarts == 0, "{restarts} restarts");
    Ok(())
}

#[test]
fn a_check_names_line_and_column_and_a_foreign_variable_is_refused() -> Result<()> {
    let node = TestNode::builder().env("STOWER_DATAROOT", "/x").build()?;
    let refused = run(&mut node.agent_command())?;
    ensure!(refused.code == 1, "{refused:?}");
    ensure!(
        refused.stderr.contains("STOWER_DATAROOT") && refused.stderr.contains("STOWER_DATA_ROOT is meant?"),
        "{refused:?}"
    );

    let file = node.folder().join("c.yaml");
    fs::write(&file, "logging:\n  maxSize: 10MB\n  maxfile: 3\n")?;
    let check = |args: &[&str]| {
        let mut command = node.command(["config"]);
        process::without_settings(&mut command);
        run(command.args(args).arg(&file).env("STOWER_SOCKET", node.folder().join("nobody")))
    };
    let said = check(&["check"])?;
    ensure!(said.code == 1 && said.stdout.is_empty(), "{said:?}");
    for place in ["c.yaml:2:3: logging.maxSize", "c.yaml:3:3: logging.maxfile"] {
        ensure!(said.stderr.contains(place), "{said:?}");
    }
    fs::write(&file, "logging: {maxSize: 1Mi}\n")?;
    let said = check(&["check"])?;
    ensure!(
        said.code == 0 && said.stdout.contains("valid") && said.stdout.contains("not compared"),
        "{said:?}"
    );
    let said = check(&["show", "--offline", "-o", "json", "--config"])?;
    ensure!(said.code == 0, "{said:?}");
    let shown: Value = serde_json::from_str(&said.stdout)?;
    let of = |field: &str| {
        shown["fields"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|it| it["field"] == field)
            .cloned()
            .unwrap_or_default()
    };
    ensure!(of("logging.maxSize")["value"] == "1Mi", "{shown}");
    ensure!(of("logging.maxSize")["from"].as_str().is_some_and(|it| it.ends_with("c.yaml:1")), "{shown}");
    ensure!(of("socket")["from"] == "environment STOWER_SOCKET", "{shown}");
    ensure!(
        of("dataRoot")
            == json!({"field": "dataRoot", "value": "/var/lib/stower", "from": "default", "reload": "restart"}),
        "{shown}"
    );
    Ok(())
}
