//! Containers with a terminal or standard input of their own, and who is attached to them.

use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use stower_e2e::{Pty, TestNode};

use crate::support::shell;

#[test]
fn a_terminal_outlives_its_clients_and_the_agent() -> Result<()> {
    let node = TestNode::start()?;
    let body = "  tty: true\n  stdin: true\n";
    node.write("a.yaml", &shell("a", "exec sh -i", body)?)?;
    let pid = node.wait_running("a")?;
    let attach = || Pty::start(&mut node.command(["attach", "-it", "a"]), 33, 99);
    let mut first = attach()?;
    first.wait_for("try pressing enter")?;
    first.type_in("X=kept; tty; echo size $(stty size) $TERM\n")?;
    first.wait_for("/dev/pts/0")?;
    first.wait_for("size 33 99 xterm")?;
    first.resize(20, 44)?;
    node.wait("the new size", || {
        first.type_in("echo now $(stty size)\n")?;
        Ok(first.text().contains("now 20 44").then_some(()))
    })?;
    let second = attach()?;
    second.wait_for("try pressing enter")?;
    second.type_in("echo both $((40 + 2))\n")?;
    first.wait_for("both 42")?;
    second.wait_for("both 42")?;
    first.type_in("\x10\x11")?;
    ensure!(first.wait()? == 0);
    ensure!(!first.is_raw()?);

    node.kill_agent()?;
    let mut second = second;
    ensure!(second.wait()? == 1, "{}", second.text());
    ensure!(!second.is_raw()?, "the terminal stays raw when the agent dies");
    node.start_agent()?;
    ensure!(node.wait_running("a")? == pid);
    let mut third = attach()?;
    third.wait_for("try pressing enter")?;
    third.type_in("echo $X after all\n")?;
    third.wait_for("kept after all")?;
    node.wait("the log to have what the terminal showed", || {
        Ok(node.ok(["logs", "a"])?.contains("kept after all").then_some(()))
    })?;
    third.type_in("exit 9\n")?;
    ensure!(third.wait()? == 9, "{}", third.text());
    Ok(())
}

#[test]
fn standard_input_ends_with_the_first_client_where_it_is_asked_for() -> Result<()> {
    let node = TestNode::start()?;
    node.write(
        "once.yaml",
        &shell(
            "once",
            "cat; echo end; exit 4",
            "  stdin: true\n  stdinOnce: true\n  restartPolicy: Never\n",
        )?,
    )?;
    node.write("open.yaml", &shell("open", "cat", "  stdin: true\n")?)?;
    node.write("none.yaml", &shell("none", "echo out; exec sleep 1000000", "")?)?;
    for name in ["once", "open", "none"] {
        node.wait_running(name)?;
    }
    let attach = |name: &str, text: &str| -> Result<std::process::Child> {
        let mut child = node
            .command(["attach", "-i", name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("no stdin")?.write_all(text.as_bytes())?;
        Ok(child)
    };
    let output = attach("once", "a line\n")?.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.code() == Some(4) && text == "a line\nend\n", "{output:?}");

    let mut child = attach("open", "first\n")?;
    node.wait("the first line", || Ok(node.ok(["logs", "open"])?.contains("first").then_some(())))?;
    child.kill()?;
    child.wait()?;
    let mut child = attach("open", "second\n")?;
    node.wait("the second line", || Ok(node.ok(["logs", "open"])?.contains("second").then_some(())))?;
    child.kill()?;
    child.wait()?;

    let text = node.refused(["attach", "-i", "none"])?;
    ensure!(text.contains("has no standard input: set spec.stdin"), "{text}");
    Ok(())
}

#[test]
fn a_slow_client_is_cut_off_and_the_container_goes_on() -> Result<()> {
    let node = TestNode::start()?;
    let script = "read go; yes flood | head -c 60000000; echo done; exec sleep 1000000";
    node.write("a.yaml", &shell("a", script, "  stdin: true\n")?)?;
    node.wait_running("a")?;
    let mut slow = node
        .command(["attach", "-i", "a"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut keys = slow.stdin.take().context("no stdin")?;
    keys.write_all(b"go\n")?;
    // It reads nothing: its output is a pipe that nobody empties.
    node.wait("the end of the flood", || {
        Ok(node.ok(["logs", "a", "--tail=1"])?.contains("done").then_some(()))
    })?;
    let output = slow.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1) && text.contains("cut off"), "{:?} {text}", output.status);
    node.wait_running("a")?;
    Ok(())
}
