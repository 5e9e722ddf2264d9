//! Restart rules, with real exits.

use anyhow::{Context, Result, ensure};
use stower_e2e::node::restarts_of;
use stower_e2e::{TestNode, process};

use crate::support::{idle, shell};

#[test]
fn never_is_left_as_it_ended() -> Result<()> {
    let node = TestNode::start()?;
    node.write("good.yaml", &shell("good", "exit 0", "  restartPolicy: Never\n")?)?;
    node.write("bad.yaml", &shell("bad", "exit 9", "  restartPolicy: Never\n")?)?;
    let good = node.wait_container("good", "Succeeded", |item| item["status"]["phase"] == "Succeeded")?;
    let bad = node.wait_container("bad", "Failed", |item| item["status"]["phase"] == "Failed")?;
    ensure!(good["status"]["state"]["terminated"]["reason"] == "Completed", "{}", good["status"]);
    ensure!(bad["status"]["state"]["terminated"]["exitCode"] == 9, "{}", bad["status"]);
    // What ended stays ended, also for the next agent.
    node.restart_agent()?;
    let bad = node.wait_container("bad", "Failed", |item| item["status"]["phase"] == "Failed")?;
    ensure!(restarts_of(&bad) == 0, "{}", bad["status"]);
    Ok(())
}

#[test]
fn on_failure_counts_its_retries() -> Result<()> {
    let node = TestNode::start()?;
    let body =
        "  restartPolicy: OnFailure\n  restart: {maxRetries: 3, backoff: {initial: 10ms, max: 20ms}}\n";
    node.write("bad.yaml", &shell("bad", "exit 4", body)?)?;
    node.write("good.yaml", &shell("good", "exit 0", body)?)?;
    let bad = node.wait_container("bad", "Failed for good", |item| item["status"]["phase"] == "Failed")?;
    ensure!(restarts_of(&bad) == 3, "{}", bad["status"]);
    let good = node.wait_container("good", "Succeeded", |item| item["status"]["phase"] == "Succeeded")?;
    ensure!(restarts_of(&good) == 0, "{}", good["status"]);
    Ok(())
}

#[test]
fn always_comes_back_after_success_with_backoff_shown() -> Result<()> {
    let node = TestNode::start()?;
    node.write(
        "a.yaml",
        &shell("a", "exit 0", "  restart: {backoff: {initial: 20ms, factor: 2, max: 1h}}\n")?,
    )?;
    let item = node.wait_container("a", "in backoff", |item| {
        restarts_of(item) >= 3 && item["status"]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    })?;
    ensure!(item["status"]["nextRestartTime"].is_string(), "{}", item["status"]);
    ensure!(item["status"]["lastState"]["terminated"]["exitCode"] == 0, "{}", item["status"]);
    Ok(())
}

#[test]
fn two_at_once_never_run() -> Result<()> {
    let node = TestNode::start()?;
    node.write("a.yaml", &idle("a", "  restart: {backoff: {initial: 0s}}\n")?)?;
    let mut pid = node.wait_running("a")?;
    for _ in 0..20 {
        process::kill9(pid)?;
        let next = node.wait_restarted("a", pid)?;
        ensure!(!process::alive(pid), "{pid} still runs beside {next}");
        pid = next;
    }
    let item = node.container("a")?.context("not there")?;
    ensure!(restarts_of(&item) == 20, "{}", item["status"]);
    Ok(())
}

#[test]
fn a_missing_volume_keeps_a_container_from_starting() -> Result<()> {
    let node = TestNode::start()?;
    node.write("a.yaml", &idle("a", "  command: []\n  volumes: [{name: v, hostPath: {path: /no/such/folder, type: Directory}}]\n  volumeMounts: [{name: v, mountPath: /v}]\n")?)?;
    let item = node.wait_container("a", "waiting with the path named", |item| {
        item["status"]["state"]["waiting"]["message"]
            .as_str()
            .is_some_and(|text| text.contains("/no/such/folder"))
    })?;
    ensure!(item["status"]["state"]["running"].is_null());
    ensure!(node.footprint().processes.is_empty(), "something runs without its volume");
    Ok(())
}
