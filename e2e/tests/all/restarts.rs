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
    let events = node.ok(["events"])?;
    let told: Vec<&str> = events.lines().filter(|line| line.contains("BackOff")).collect();
    ensure!(told.len() == 1 && told[0].contains("(x"), "not one event that is counted: {events}");
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

/// A rule for one kind of end, under a policy that says the opposite.
fn ruled(policy: &str, rule: &str) -> String {
    format!(
        "  restartPolicy: {policy}\n  restart: {{backoff: {{initial: 10ms, max: 20ms}}, rules: [{rule}]}}\n"
    )
}

#[test]
fn rules_decide_on_exit_codes_and_signals() -> Result<()> {
    let node = TestNode::start()?;
    let three = "{action: Stop, exitCodes: {operator: In, values: [3, 4]}}";
    node.write("stops.yaml", &shell("stops", "exit 3", &ruled("Always", three))?)?;
    let other = "{action: Restart, exitCodes: {operator: NotIn, values: [0, 3]}}";
    node.write("goes.yaml", &shell("goes", "exit 5", &ruled("Never", other))?)?;
    let killed = "{action: Stop, signals: [SIGSEGV, SIGKILL]}";
    node.write("killed.yaml", &idle("killed", &ruled("Always", killed))?)?;

    let stops = node.wait_container("stops", "Failed", |item| item["status"]["phase"] == "Failed")?;
    ensure!(restarts_of(&stops) == 0, "{}", stops["status"]);
    let described = node.ok(["describe", "container", "stops"])?;
    ensure!(described.contains("restart.rules[0] leaves it ended after exit code 3"), "{described}");
    node.wait_container("goes", "restarted by its rule", |item| restarts_of(item) >= 3)?;
    let pid = node.wait_running("killed")?;
    process::kill9(pid)?;
    let killed = node.wait_container("killed", "Failed", |item| item["status"]["phase"] == "Failed")?;
    ensure!(killed["status"]["state"]["terminated"]["signal"] == 9, "{}", killed["status"]);
    ensure!(restarts_of(&killed) == 0, "{}", killed["status"]);
    Ok(())
}

/// The kernel may kill the first process or another one; a code of 137 alone is neither.
#[test]
fn rules_decide_on_kills_for_lack_of_memory() -> Result<()> {
    let node = TestNode::start()?;
    let limit = "  resources: {limits: {memory: 32Mi}}\n";
    let stop = ruled("Always", "{action: Stop, oomKilled: true}");
    // The buffer is written to before anything is copied.
    let eat = "dd if=/dev/zero of=/dev/null bs=200M count=1";
    let first = shell("first", &format!("exec {eat}"), &format!("{limit}{stop}"))?;
    let child = shell("child", &format!("{eat}; exit 3"), &format!("{limit}{stop}"))?;
    let none =
        shell("none", "kill -9 $$ & wait; exit 137", &ruled("Always", "{action: Stop, oomKilled: false}"))?;
    for (name, text) in [("first", first), ("child", child), ("none", none)] {
        node.write(&format!("{name}.yaml"), &text)?;
    }
    for (name, reason, code) in
        [("first", "OOMKilled", 137), ("child", "OOMKilled", 3), ("none", "Error", 137)]
    {
        let item = node.wait_container(name, "Failed", |item| item["status"]["phase"] == "Failed")?;
        let end = &item["status"]["state"]["terminated"];
        ensure!(end["reason"] == reason && end["exitCode"] == code, "{name}: {end}");
        ensure!(restarts_of(&item) == 0, "{name}: {}", item["status"]);
    }
    // What was found out is the next agent's too.
    node.restart_agent()?;
    let item = node.wait_container("child", "Failed", |item| item["status"]["phase"] == "Failed")?;
    ensure!(item["status"]["state"]["terminated"]["reason"] == "OOMKilled", "{}", item["status"]);
    Ok(())
}

/// A boot id of the test's own, for an agent in a mount namespace of its own.
pub(crate) fn rebootable(folder: &std::path::Path) -> Result<(TestNode, std::path::PathBuf)> {
    let boot = folder.join("boot_id");
    std::fs::write(&boot, "11111111-1111-4111-8111-111111111111\n")?;
    let enter = format!("mount --bind {} /proc/sys/kernel/random/boot_id && exec \"$@\"", boot.display());
    let node = TestNode::builder().through(&["unshare", "--mount", "sh", "-c", &enter, "sh"]).start()?;
    Ok((node, boot))
}

/// The deadline of a backoff and all counts are the same for the next agent, and after a reboot.
#[test]
fn backoff_and_counts_outlive_the_agent_and_the_boot() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (node, boot) = rebootable(folder.path())?;
    let body = "  restart: {backoff: {initial: 40ms, factor: 100, max: 3h, jitter: 0}}\n";
    node.write("a.yaml", &shell("a", "exit 7", body)?)?;
    // The delays are 40 ms, 4 s and 400 s.
    let waits = |item: &serde_json::Value| {
        restarts_of(item) == 2 && item["status"]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    };
    let before = node.wait_container("a", "in its long backoff", waits)?;
    for what in ["the agent's death", "a reboot"] {
        node.kill_agent()?;
        if what == "a reboot" {
            std::fs::write(&boot, "22222222-2222-4222-8222-222222222222\n")?;
        }
        node.start_agent()?;
        let after = node.wait_container("a", "in its long backoff still", waits)?;
        for field in ["nextRestartTime", "restartCount", "lastState"] {
            let (old, new) = (&before["status"][field], &after["status"][field]);
            ensure!(old == new && !old.is_null(), "{field} after {what}: {new}, and it was {old}");
        }
        let message = &after["status"]["state"]["waiting"]["message"];
        ensure!(*message == before["status"]["state"]["waiting"]["message"], "after {what}: {message}");
    }
    // A person cuts it short.
    node.ok(["start", "a"])?;
    node.wait_container("a", "in its first backoff again", |item| restarts_of(item) >= 3)?;
    Ok(())
}
