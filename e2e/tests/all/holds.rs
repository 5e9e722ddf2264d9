//! `stop` is a durable hold; only `start` ends it.

use anyhow::{Context, Result, ensure};
use stower_e2e::node::{condition, restarts_of};
use stower_e2e::{TestNode, process};

use crate::support::{idle, shell};

#[test]
fn stop_holds_over_crash_and_restart_of_the_agent() -> Result<()> {
    let node = TestNode::start()?;
    for (name, policy) in [("always", "Always"), ("unless", "UnlessStopped"), ("failure", "OnFailure")] {
        node.write(&format!("{name}.yaml"), &idle(name, &format!("  restartPolicy: {policy}\n"))?)?;
    }
    for name in ["always", "unless", "failure"] {
        let pid = node.wait_running(name)?;
        node.ok(["stop", name])?;
        ensure!(!process::alive(pid), "stop returned before {name} had ended");
    }
    for _ in 0..2 {
        node.restart_agent()?;
        for name in ["always", "unless", "failure"] {
            let item = node.wait_container(name, "held", |item| {
                condition(item, "Held").is_some_and(|held| held.0 == "True")
            })?;
            ensure!(item["status"]["state"]["running"].is_null(), "{name}: {}", item["status"]);
        }
        ensure!(node.footprint().processes.is_empty(), "a held container runs");
    }
    for name in ["always", "unless", "failure"] {
        node.ok(["start", name])?;
        node.wait_running(name)?;
        let item = node.container(name)?.context("not there")?;
        ensure!(condition(&item, "Held").is_none_or(|held| held.0 == "False"), "{}", item["status"]);
    }
    Ok(())
}

#[test]
fn an_edit_does_not_end_a_hold() -> Result<()> {
    let node = TestNode::start()?;
    node.write("a.yaml", &idle("a", "")?)?;
    node.wait_running("a")?;
    node.ok(["stop", "a"])?;
    node.write("a.yaml", &idle("a", "  env: [{name: NEW, value: '1'}]\n")?)?;
    node.wait_container("a", "at its new generation, still held", |item| {
        item["metadata"]["generation"] == 2 && condition(item, "Held").is_some_and(|held| held.0 == "True")
    })?;
    ensure!(node.footprint().processes.is_empty(), "the edit started it");
    node.ok(["start", "a"])?;
    let pid = node.wait_running("a")?;
    let environment = std::fs::read(format!("/proc/{pid}/environ"))?;
    ensure!(environment.windows(5).any(|part| part == b"NEW=1"), "it started with the former spec");
    Ok(())
}

#[test]
fn restart_is_once_and_keeps_the_writable_layer() -> Result<()> {
    let node = TestNode::start()?;
    let script = "echo x >> /count; wc -l < /count; exec sleep 1000000";
    node.write("a.yaml", &shell("a", script, "")?)?;
    let first = node.wait_running("a")?;
    node.ok(["restart", "a"])?;
    let second = node.wait_restarted("a", first)?;
    node.wait("the second run's count", || Ok((node.ok(["logs", "a"])?.trim() == "2").then_some(())))?;
    // A replacement begins a new layer.
    node.write("a.yaml", &shell("a", script, "  env: [{name: NEW, value: '1'}]\n")?)?;
    node.wait_restarted("a", second)?;
    node.wait("a fresh count", || Ok((node.ok(["logs", "a"])?.trim() == "1").then_some(())))
}

#[test]
fn stop_asks_first_and_kills_at_the_deadline() -> Result<()> {
    let node = TestNode::start()?;
    let polite = "trap 'echo going; exit 5' TERM; while :; do sleep 0.05; done";
    node.write("polite.yaml", &shell("polite", polite, "")?)?;
    node.write("deaf.yaml", &shell("deaf", "trap '' TERM; echo set; while :; do sleep 0.05; done", "")?)?;
    node.write(
        "quit.yaml",
        &shell(
            "quit",
            "trap 'exit 6' QUIT; echo set; while :; do sleep 0.05; done",
            "  stopSignal: SIGQUIT\n",
        )?,
    )?;
    node.wait_running("polite")?;
    for name in ["deaf", "quit"] {
        node.wait_running(name)?;
        node.wait("the trap to be set", || Ok(node.ok(["logs", name])?.contains("set").then_some(())))?;
    }
    for (name, code) in [("polite", 5), ("deaf", 137), ("quit", 6)] {
        node.ok(["stop", name])?;
        let item = node.container(name)?.context("not there")?;
        let end = [&item["status"]["state"]["terminated"], &item["status"]["lastState"]["terminated"]];
        ensure!(
            end.iter().any(|end| end["exitCode"] == code),
            "{name} was to end with {code}: {}",
            item["status"]
        );
    }
    ensure!(node.ok(["logs", "polite"])?.contains("going"));
    Ok(())
}

#[test]
fn a_stop_in_progress_ends_without_the_agent() -> Result<()> {
    let node = TestNode::start()?;
    let deaf = "trap 'echo asked' TERM; echo set; while :; do sleep 0.05; done";
    node.write("deaf.yaml", &shell("deaf", deaf, "")?.replace("Seconds: 1", "Seconds: 3"))?;
    let pid = node.wait_running("deaf")?;
    let says = |word: &str| node.wait(word, || Ok(node.ok(["logs", "deaf"])?.contains(word).then_some(())));
    says("set")?;
    node.ok(["stop", "deaf", "--wait=false"])?;
    says("asked")?;
    node.kill_agent()?;
    node.wait("the shim to finish the stop", || Ok((!process::alive(pid)).then_some(())))?;
    node.start_agent()?;
    node.wait_container("deaf", "held", |item| condition(item, "Held").is_some_and(|held| held.0 == "True"))?;
    ensure!(node.footprint().processes.is_empty());
    Ok(())
}

#[test]
fn a_manual_restart_is_not_counted_against_the_policy() -> Result<()> {
    let node = TestNode::start()?;
    node.write("a.yaml", &idle("a", "  restartPolicy: OnFailure\n  restart: {maxRetries: 1}\n")?)?;
    let mut pid = node.wait_running("a")?;
    for _ in 0..3 {
        node.ok(["restart", "a"])?;
        pid = node.wait_restarted("a", pid)?;
    }
    process::kill9(pid)?;
    let item = node.wait_container("a", "restarted by rule", |item| {
        item["status"]["phase"] == "Running" && item["status"]["state"]["running"]["pid"] != pid
    })?;
    ensure!(restarts_of(&item) >= 1, "{}", item["status"]);
    Ok(())
}
