//! What containers wrote, read back.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use stower_e2e::{TestNode, process};

use crate::support::shell;

#[test]
fn both_streams_tail_and_timestamps() -> Result<()> {
    let node = TestNode::start()?;
    let script =
        "for n in 1 2 3 4 5; do echo out $n; done; echo err >&2; printf 'no newline'; exec sleep 1000000";
    node.write("a.yaml", &shell("a", script, "")?)?;
    node.wait("all lines", || Ok((node.ok(["logs", "a"])?.lines().count() >= 6).then_some(())))?;
    let all = node.ok(["logs", "a"])?;
    for line in ["out 1", "out 5", "err"] {
        ensure!(all.lines().any(|text| text == line), "{line:?} is missing in:\n{all}");
    }
    ensure!(node.ok(["logs", "a", "--tail", "2"])?.lines().count() <= 2);
    ensure!(node.ok(["logs", "a", "--tail=0"])?.is_empty());
    let stamped = node.ok(["logs", "a", "--timestamps"])?;
    ensure!(stamped.lines().all(|line| line.starts_with("20") && line.contains('T')), "{stamped}");
    Ok(())
}

#[test]
fn since_leaves_out_what_is_older() -> Result<()> {
    let node = TestNode::start()?;
    let gate = node.folder().join("gate");
    std::fs::create_dir(&gate)?;
    let body = format!(
        "  volumes: [{{name: g, hostPath: {{path: {}}}}}]\n  volumeMounts: [{{name: g, mountPath: /gate}}]\n",
        gate.display()
    );
    let script = "echo early; while [ ! -e /gate/go ]; do sleep 0.05; done; echo late; exec sleep 1000000";
    node.write("a.yaml", &shell("a", script, &body)?)?;
    node.wait("the early line", || Ok(node.ok(["logs", "a"])?.contains("early").then_some(())))?;
    std::fs::write(gate.join("go"), "")?;
    node.wait("the late line", || Ok(node.ok(["logs", "a"])?.contains("late").then_some(())))?;
    let stamped = node.ok(["logs", "a", "--timestamps", "--tail=1"])?;
    let time = stamped.split_whitespace().next().context("no time")?;
    let since = node.ok(["logs", "a", "--since-time", time])?;
    ensure!(since.contains("late") && !since.contains("early"), "since {time}: {since}");
    ensure!(node.ok(["logs", "a", "--since", "1h"])?.contains("early"));
    Ok(())
}

#[test]
fn previous_shows_the_run_before() -> Result<()> {
    let node = TestNode::start()?;
    node.write("a.yaml", &shell("a", "echo run of $$ $(cat /proc/uptime); exec sleep 1000000", "")?)?;
    let pid = node.wait_running("a")?;
    let first = node
        .wait("the first run's line", || Ok(Some(node.ok(["logs", "a"])?).filter(|text| !text.is_empty())))?;
    process::kill9(pid)?;
    node.wait_restarted("a", pid)?;
    let second = node.wait("the second run's line", || {
        Ok(Some(node.ok(["logs", "a"])?).filter(|text| !text.is_empty() && *text != first))
    })?;
    ensure!(second.lines().count() == 1, "the present run's log has another's lines: {second}");
    ensure!(node.ok(["logs", "a", "--previous"])? == first);
    // Logs are the shim's: they outlive the agent.
    node.restart_agent()?;
    ensure!(node.ok(["logs", "a"])? == second && node.ok(["logs", "a", "-p"])? == first);
    Ok(())
}

#[test]
fn follow_goes_on_over_a_restart() -> Result<()> {
    let node = TestNode::start()?;
    node.write("a.yaml", &shell("a", "echo run $(cat /proc/uptime); exec sleep 1000000", "")?)?;
    let pid = node.wait_running("a")?;
    let mut follower =
        node.command(["logs", "-f", "a"]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let lines = BufReader::new(follower.stdout.take().context("no output")?).lines();
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| send.send(line)));
    let next = || receive.recv_timeout(stower_e2e::wait::deadline()).context("no line came");
    let first = next()?;
    process::kill9(pid)?;
    node.wait_restarted("a", pid)?;
    let second = next()?;
    ensure!(first.starts_with("run") && second.starts_with("run") && first != second, "{first} {second}");
    node.remove("a.yaml")?;
    node.wait("the follower to end with its container", || Ok(follower.try_wait()?))?;
    Ok(())
}

#[test]
fn big_output_is_rotated_and_bounded() -> Result<()> {
    let node = TestNode::start()?;
    let script = "yes 0123456789012345678901234567890123456789012345678901234567890123456789 | head -c 80000000; echo the end; exec sleep 1000000";
    node.write("a.yaml", &shell("a", script, "")?)?;
    node.wait("the last line", || {
        Ok(node.ok(["logs", "a", "--tail", "1"])?.contains("the end").then_some(()))
    })?;
    let mut total = 0;
    let mut files = 0;
    for folder in std::fs::read_dir(node.data.join("logs"))? {
        for file in std::fs::read_dir(folder?.path())? {
            total += file?.metadata()?.len();
            files += 1;
        }
    }
    ensure!((2..=5).contains(&files), "{files} log files");
    ensure!(total <= 51 << 20, "{total} bytes of logs, and 5 files of 10 MiB are the limit");
    Ok(())
}

#[test]
fn a_log_of_nothing_there_is_said_so() -> Result<()> {
    let node = TestNode::start()?;
    let said = node.refused(["logs", "ghost"])?;
    ensure!(said.contains("ghost") && said.contains("not found"), "{said}");
    Ok(())
}
