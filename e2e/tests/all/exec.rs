//! Commands in running containers.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use stower_e2e::node::pid_of;
use stower_e2e::{Pty, TestNode, process};

use crate::support::{idle, shell};

const STAY: &str = "trap exit TERM; while :; do sleep 1000000 & wait; done";

fn busy(node: &TestNode, body: &str) -> Result<u32> {
    node.write("web.yaml", &shell("web", STAY, body)?)?;
    node.wait_running("web")
}

/// Processes of the machine whose command line holds a text.
fn with_text(text: &str) -> Vec<u32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.trim() == "sleep" && String::from_utf8_lossy(&line).contains(text)
        })
        .collect()
}

#[test]
fn a_command_has_the_whole_confinement_of_its_container() -> Result<()> {
    let node = TestNode::start()?;
    let body =
        "  resources: {limits: {memory: 64Mi}}\n  securityContext: {capabilities: {drop: [NET_RAW]}}\n";
    let pid = busy(&node, body)?;
    let seen = node.ok(["exec", "web", "--", "cat", "/proc/self/status"])?;
    let field = |name: &str| {
        let line = seen.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
        line.map(|value| value.trim().to_owned()).with_context(|| format!("no {name} in:\n{seen}"))
    };
    for name in ["Seccomp", "CapEff", "CapBnd", "CapPrm", "CapInh", "CapAmb", "NoNewPrivs", "Uid", "Gid"] {
        let own = process::status_field(pid, name)?;
        ensure!(field(name)? == own.trim(), "{name}: {} is not {own}", field(name)?);
    }
    ensure!(field("Seccomp")? == "2", "no system call filter");
    let own = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
    for file in ["oom_score_adj", "limits"] {
        ensure!(node.ok(["exec", "web", "cat", &format!("/proc/self/{file}")])? == own(file)?, "{file}");
    }
    let groups = node.ok(["exec", "web", "cat", "/proc/self/cgroup"])?;
    let outside = groups.lines().filter(|line| !line.ends_with(":/") && !line.contains("::/exec-"));
    ensure!(outside.count() == 0, "{groups}");
    // The fourth is the directory that is listed.
    ensure!(node.ok(["exec", "web", "ls", "/proc/self/fd"])?.split_whitespace().eq(["0", "1", "2", "3"]));
    ensure!(
        node.ok(["exec", "web", "sh", "-c", "readlink /proc/self/ns/pid"])?.trim()
            == fs::read_link(format!("/proc/{pid}/ns/pid"))?.to_string_lossy()
    );
    Ok(())
}

#[test]
fn the_exit_code_is_the_commands() -> Result<()> {
    let node = TestNode::start()?;
    busy(&node, "")?;
    let code = |args: &[&str]| -> Result<(i32, String)> {
        let output = node.cli([&["exec", "web", "--"], args].concat())?;
        Ok((output.code, output.stderr))
    };
    ensure!(code(&["true"])?.0 == 0);
    ensure!(code(&["sh", "-c", "exit 7"])?.0 == 7);
    ensure!(code(&["sh", "-c", "kill -9 $$"])?.0 == 137);
    let (number, text) = code(&["nowhere"])?;
    ensure!(number == 127 && text.contains("command not found"), "{number}: {text}");
    let (number, text) = code(&["/etc"])?;
    ensure!(number == 126 && text.contains("permission denied"), "{number}: {text}");
    ensure!(node.refused(["exec", "nobody", "true"])?.contains("not found"));
    node.write("done.yaml", &shell("done", "exit 3", "  restartPolicy: Never\n")?)?;
    node.wait_container("done", "at its end", |item| item["status"]["state"]["terminated"].is_object())?;
    let text = node.refused(["exec", "done", "true"])?;
    ensure!(text.contains("is not running"), "{text}");
    Ok(())
}

#[test]
fn user_directory_and_variables_are_as_asked_for() -> Result<()> {
    let node = TestNode::start()?;
    busy(&node, "  env: [{name: A, value: one}]\n")?;
    let ask =
        |args: &[&str], script: &str| node.ok([&["exec"], args, &["web", "--", "sh", "-c", script]].concat());
    ensure!(ask(&[], "id -u; pwd; echo $A")? == "0\n/\none\n");
    ensure!(
        ask(&["-u", "12:34", "-w", "/tmp", "-e", "A=two"], "id -u; id -g; pwd; echo $A")?
            == "12\n34\n/tmp\ntwo\n"
    );
    for user in ["4294967296", "-1x", "0x0", "nobody-here", "0:nogroup-here"] {
        let output = node.cli(["exec", &format!("--user={user}"), "web", "true"])?;
        ensure!(output.code == 126 && output.stderr.contains("user"), "{user}: {output:?}");
    }
    let output = node.cli(["exec", "-w", "/nowhere", "web", "true"])?;
    ensure!(output.code == 126 && output.stderr.contains("/nowhere is not in the container"), "{output:?}");
    Ok(())
}

#[test]
fn standard_input_and_both_outputs_pass_through() -> Result<()> {
    let node = TestNode::start()?;
    busy(&node, "")?;
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| u8::try_from(n * 7 % 251).unwrap_or(0)).collect();
    let mut child =
        node.command(["exec", "-i", "web", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut to = child.stdin.take().context("no stdin")?;
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || to.write_all(&sent));
    let output = child.wait_with_output()?;
    ensure!(writer.join().is_ok_and(|done| done.is_ok()), "not all was taken");
    ensure!(output.status.success() && output.stdout == bytes, "{} bytes came back", output.stdout.len());
    let output = node.cli(["exec", "web", "sh", "-c", "echo out; echo err >&2; wc -c"])?;
    ensure!(output.stdout == "out\n0\n" && output.stderr == "err\n", "{output:?}");
    // A child that holds the streams does not hold the command.
    ensure!(node.ok(["exec", "web", "sh", "-c", "sleep 1000001 & echo done"])? == "done\n");
    ensure!(!with_text("1000001").is_empty(), "what a command leaves behind stays in the container");
    Ok(())
}

#[test]
fn a_terminal_is_raw_has_its_size_and_is_given_back() -> Result<()> {
    let node = TestNode::start()?;
    busy(&node, "")?;
    let before = Pty::start(&mut std::process::Command::new("true"), 1, 1)?.modes()?;
    let mut pty = Pty::start(&mut node.command(["exec", "-it", "web", "sh"]), 30, 111)?;
    pty.type_in("echo size $(stty size) $TERM; tty\n")?;
    pty.wait_for("size 30 111 xterm")?;
    pty.wait_for("/dev/pts/0")?;
    ensure!(pty.is_raw()?, "keys are not passed as they come");
    pty.resize(44, 55)?;
    node.wait("the new size", || {
        pty.type_in("echo now $(stty size)\n")?;
        Ok(pty.text().contains("now 44 55").then_some(()))
    })?;
    // The terminal's own keys are the container's.
    pty.type_in("sleep 1000002\n")?;
    node.wait("the sleep", || Ok((!with_text("1000002").is_empty()).then_some(())))?;
    pty.type_in("\x03")?;
    node.wait("the end of the sleep", || Ok(with_text("1000002").is_empty().then_some(())))?;
    pty.type_in("exit 5\n")?;
    ensure!(pty.wait()? == 5, "{}", pty.text());
    ensure!(pty.modes()?.local_modes == before.local_modes, "the terminal stays raw");

    let mut pty = Pty::start(&mut node.command(["exec", "-it", "web", "sleep", "1000003"]), 30, 111)?;
    node.wait("raw mode", || Ok(pty.is_raw()?.then_some(())))?;
    process::signal(pty.child.id(), Signal::TERM)?;
    ensure!(pty.wait()? == 143);
    ensure!(!pty.is_raw()?, "the terminal stays raw after a signal");
    node.wait("the end of the command", || Ok(with_text("1000003").is_empty().then_some(())))?;

    let text = node.refused(["exec", "-it", "web", "sh"])?;
    ensure!(text.contains("the input device is not a TTY"), "{text}");
    Ok(())
}

#[test]
fn keys_leave_a_command_running() -> Result<()> {
    let node = TestNode::start()?;
    busy(&node, "")?;
    let mut pty = Pty::start(&mut node.command(["exec", "-it", "web", "sleep", "1000004"]), 30, 111)?;
    node.wait("the sleep", || Ok((!with_text("1000004").is_empty()).then_some(())))?;
    node.wait("raw mode", || Ok(pty.is_raw()?.then_some(())))?;
    pty.type_in("\x10\x11")?;
    ensure!(pty.wait()? == 0);
    ensure!(!pty.is_raw()?);
    node.restart_agent()?;
    let left = with_text("1000004");
    ensure!(left.len() == 1, "the command ended with its client");
    process::kill9(left[0])?;
    Ok(())
}

#[test]
fn a_command_ends_with_its_client_and_with_the_agent() -> Result<()> {
    let node = TestNode::start()?;
    let pid = busy(&node, "")?;
    let left = |text: &'static str| {
        node.wait("nothing to be left", move || Ok(with_text(text).is_empty().then_some(())))
    };
    let start = |script: &str| -> Result<std::process::Child> {
        let child = node
            .command(["exec", "-i", "web", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(child)
    };
    // With a child in a session of its own, and deaf to the hang-up.
    let script = |number: &str| format!("trap '' HUP; setsid sleep {number} & sleep {number}");
    let mut client = start(&script("1000005"))?;
    node.wait("both", || Ok((with_text("1000005").len() == 2).then_some(())))?;
    client.kill()?;
    client.wait()?;
    left("1000005")?;

    let mut client = start(&script("1000006"))?;
    node.wait("both", || Ok((with_text("1000006").len() == 2).then_some(())))?;
    node.kill_agent()?;
    let status = client.wait()?;
    ensure!(status.code() == Some(1), "the client ends with {status}");
    left("1000006")?;
    node.start_agent()?;
    ensure!(node.wait_running("web")? == pid, "the container ended too");
    let groups = |pid: u32| -> Result<Vec<String>> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let group = text.lines().find_map(|line| line.strip_prefix("0::")).context("no cgroup2")?;
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let mount =
            mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
        let dir = std::path::Path::new(mount.context("no cgroup2")?).join(group.trim_start_matches('/'));
        Ok(fs::read_dir(dir)?
            .flatten()
            .filter(|e| e.path().is_dir())
            .map(|e| e.path().display().to_string())
            .collect())
    };
    node.wait("no group to be left", || Ok(groups(pid)?.is_empty().then_some(())))
}

/// Where the agent may die while a command runs.
pub(crate) const OF_COMMANDS: [&str; 8] = [
    "exec.asked",
    "exec.spawned",
    "exec.told",
    "exec.answered",
    "exec.serving",
    "exec.read",
    "exec.ended",
    "exec.detached",
];

#[test]
fn an_agent_that_dies_at_any_step_of_a_command_leaves_nothing_of_it() -> Result<()> {
    let node = TestNode::start()?;
    let pid = busy(&node, "")?;
    let before = node.footprint();
    for (number, failpoint) in OF_COMMANDS.iter().enumerate() {
        let at = || format!("at {failpoint}");
        let text = format!("10001{number}");
        node.kill_agent()?;
        node.spawn_doomed(failpoint)?;
        node.wait("the doomed agent to have it", || {
            Ok(node.container("web")?.is_some_and(|item| pid_of(&item) == Some(pid)).then_some(()))
        })?;
        let script = match *failpoint {
            "exec.ended" => "exit 0".to_owned(),
            _ => format!("echo here; setsid sleep {text} & sleep {text}"),
        };
        let mut client = node.command(["exec", "-it", "web", "sh", "-c", &script]);
        let mut pty = Pty::start(&mut client, 30, 111)?;
        if *failpoint == "exec.detached" {
            pty.wait_for("here")?;
            pty.type_in("\x10\x11")?;
        }
        let code = pty.wait()?;
        ensure!(code == 1 || *failpoint == "exec.detached", "{}: the client ends with {code}", at());
        node.wait("the agent to die of it", || Ok(node.has_died()?.then_some(()))).with_context(at)?;
        node.start_agent()?;
        ensure!(node.wait_running("web")? == pid, "{}: the container is another process", at());
        if *failpoint == "exec.detached" {
            // It was told to go on by itself, and goes with its container.
            ensure!(!with_text(&text).is_empty(), "{}: the command has ended", at());
            for pid in with_text(&text) {
                process::kill9(pid)?;
            }
        }
        node.wait("nothing of it to be left", || {
            Ok((with_text(&text).is_empty() && node.footprint() == before).then_some(()))
        })
        .with_context(|| format!("{}: {before:?}\n{:?}", at(), node.footprint()))?;
        ensure!(node.ok(["exec", "web", "echo", "again"])? == "again\n", "{}", at());
    }
    Ok(())
}

#[test]
fn a_hundred_at_once_leave_nothing() -> Result<()> {
    let node = TestNode::start()?;
    node.write("a.yaml", &idle("a", "")?)?;
    node.wait_running("a")?;
    node.ok(["exec", "a", "/payload", "exit", "0"])?;
    let before = node.agent_descriptors_and_threads()?.0;
    let children: Vec<_> = (0..100)
        .map(|n| {
            node.command(["exec", "a", "/payload", "exit", &n.to_string()]).stderr(Stdio::null()).spawn()
        })
        .collect::<Result<_, _>>()?;
    for (n, mut child) in (0..).zip(children) {
        ensure!(child.wait()?.code() == Some(n), "number {n}");
    }
    node.wait("the agent's descriptors to be closed", || {
        Ok((node.agent_descriptors_and_threads()?.0 <= before).then_some(()))
    })
}

#[test]
fn top_and_stats_tell_what_runs_and_what_it_uses() -> Result<()> {
    let node = TestNode::start()?;
    let body = "  resources: {limits: {memory: 64Mi}}\n";
    node.write("web.yaml", &shell("web", "sleep 1000007 & while :; do :; done", body)?)?;
    node.write("b.yaml", &idle("b", "  hostNetwork: true\n")?)?;
    let pid = node.wait_running("web")?;
    node.wait_running("b")?;
    let line_of = |text: &str, part: &str| text.lines().find(|line| line.contains(part)).map(str::to_owned);
    let top = node.wait("both processes", || {
        Ok(Some(node.ok(["top", "web"])?).filter(|text| text.contains("1000007")))
    })?;
    let shell_line = line_of(&top, "while :").context("no shell")?;
    let words: Vec<_> = shell_line.split_whitespace().collect();
    ensure!(words[0] == "0" && words[1] == pid.to_string() && words[3] == "1", "{top}");
    ensure!(top.lines().count() == 3, "{top}");
    let stats = node.ok(["stats", "--no-stream"])?;
    let of_web: Vec<_> =
        line_of(&stats, "web").context("no web")?.split_whitespace().map(str::to_owned).collect();
    let cpu: f64 = of_web[1].trim_end_matches('%').parse()?;
    ensure!(cpu > 1.0, "a busy loop uses the processor: {stats}");
    ensure!(of_web[4] == "64.00MiB", "{stats}");
    ensure!(of_web[6..9] == ["0B", "/", "0B"], "it has loopback only: {stats}");
    ensure!(of_web.last().map(String::as_str) == Some("2"), "{stats}");
    let of_b = line_of(&stats, "b ").context("no b")?;
    ensure!(of_b.contains("-- / --"), "the host's network is not its own: {stats}");
    ensure!(node.refused(["stats", "--no-stream", "nobody"])?.contains("not found"));
    Ok(())
}
