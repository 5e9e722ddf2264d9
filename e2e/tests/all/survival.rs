//! The agent may die at any instant; so may a shim.

use std::fs;

use anyhow::{Context, Result, ensure};
use stower_e2e::node::{pid_of, restarts_of};
use stower_e2e::{TestNode, process};

use crate::support::{idle, shell};

#[test]
fn containers_outlive_the_agent_and_are_adopted() -> Result<()> {
    let node = TestNode::start()?;
    for n in 0..5 {
        node.write(&format!("c{n}.yaml"), &idle(&format!("c{n}"), "")?)?;
    }
    let mut before = Vec::new();
    for n in 0..5 {
        before.push(node.wait_running(&format!("c{n}"))?);
    }
    for round in 0..3 {
        node.kill_agent()?;
        for pid in &before {
            ensure!(process::alive(*pid), "process {pid} ended with the agent in round {round}");
        }
        node.start_agent()?;
        for (n, pid) in before.iter().enumerate() {
            let item = node.wait_container(&format!("c{n}"), "found again", |item| {
                item["status"]["phase"] == "Running"
            })?;
            ensure!(
                item["status"]["state"]["running"]["pid"] == *pid,
                "c{n} became another process: {}",
                item["status"]
            );
            ensure!(restarts_of(&item) == 0, "c{n}: {}", item["status"]);
        }
    }
    ensure!(node.terminate_agent()? == 0, "the agent ends cleanly on SIGTERM");
    ensure!(before.iter().all(|pid| process::alive(*pid)), "SIGTERM of the agent ended containers");
    Ok(())
}

#[test]
fn exits_while_no_agent_runs_are_known_afterwards() -> Result<()> {
    let node = TestNode::start()?;
    let gate = node.folder().join("gate");
    fs::create_dir(&gate)?;
    let volume = format!(
        "  volumes: [{{name: gate, hostPath: {{path: {}}}}}]\n  volumeMounts: [{{name: gate, mountPath: /gate}}]\n  restartPolicy: Never\n",
        gate.display()
    );
    let script = "while [ ! -e /gate/open ]; do sleep 0.05; done; exit $CODE";
    for code in [0, 3, 42] {
        let body = format!("{volume}  env: [{{name: CODE, value: '{code}'}}]\n");
        node.write(&format!("ends-{code}.yaml"), &shell(&format!("ends-{code}"), script, &body)?)?;
    }
    let body = volume.clone();
    node.write("killed.yaml", &shell("killed", "exec sleep 1000000", &body)?)?;
    let mut pids = vec![node.wait_running("killed")?];
    for code in [0, 3, 42] {
        pids.push(node.wait_running(&format!("ends-{code}"))?);
    }
    node.kill_agent()?;
    fs::write(gate.join("open"), "")?;
    process::kill9(pids[0])?;
    node.wait("all four to end", || Ok(pids.iter().all(|pid| !process::alive(*pid)).then_some(())))?;
    node.start_agent()?;
    for (name, code, phase) in [
        ("ends-0", 0, "Succeeded"),
        ("ends-3", 3, "Failed"),
        ("ends-42", 42, "Failed"),
        ("killed", 137, "Failed"),
    ] {
        let item = node.wait_container(name, phase, |item| item["status"]["phase"] == phase)?;
        let end = &item["status"]["state"]["terminated"];
        ensure!(end["exitCode"] == code, "{name}: {end}");
        ensure!(end["startedAt"].is_string() && end["finishedAt"].is_string(), "{name}: {end}");
    }
    Ok(())
}

#[test]
fn restart_rules_go_on_after_the_agent_was_away() -> Result<()> {
    let node = TestNode::start()?;
    node.write("always.yaml", &idle("always", "")?)?;
    let before = node.wait_running("always")?;
    node.kill_agent()?;
    process::kill9(before)?;
    node.start_agent()?;
    node.wait_restarted("always", before)?;
    let item = node.container("always")?.context("not there")?;
    ensure!(restarts_of(&item) == 1, "{}", item["status"]);
    node.restart_agent()?;
    let item = node.wait_container("always", "running", |item| item["status"]["phase"] == "Running")?;
    ensure!(restarts_of(&item) == 1, "the restart count was forgotten: {}", item["status"]);
    Ok(())
}

/// A shim is the parent of its container's first process.
fn shim_of(pid: u32) -> Result<u32> {
    let shim = process::parent(pid)?;
    ensure!(shim > 1, "process {pid} has no shim");
    Ok(shim)
}

#[test]
fn a_killed_shim_ends_its_container_which_then_restarts() -> Result<()> {
    let node = TestNode::start()?;
    // A second process that ignores everything must not survive either.
    node.write("two.yaml", &shell("two", "trap '' TERM; sleep 1000001 & exec sleep 1000002", "")?)?;
    let before = node.wait_running("two")?;
    node.wait("both processes", || Ok((node.footprint().processes.len() >= 3).then_some(())))?;
    let old = node.footprint().processes;
    process::kill9(shim_of(before)?)?;
    let after = node.wait_restarted("two", before)?;
    let alive: Vec<&u32> = old.iter().filter(|pid| process::alive(**pid)).collect();
    ensure!(alive.is_empty(), "processes of the former run still run beside {after}: {alive:?}");
    let item = node.container("two")?.context("not there")?;
    let last = &item["status"]["lastState"]["terminated"];
    ensure!(last["reason"] == "ShimLost", "{last}");
    ensure!(restarts_of(&item) == 1, "{}", item["status"]);
    let events = node.ok(["events"])?;
    ensure!(events.contains("ShimLost"), "no event tells it:\n{events}");
    Ok(())
}

#[test]
fn a_shim_killed_while_no_agent_runs_is_found_out() -> Result<()> {
    let node = TestNode::start()?;
    node.write("one.yaml", &idle("one", "")?)?;
    let before = node.wait_running("one")?;
    let shim = shim_of(before)?;
    node.kill_agent()?;
    process::kill9(shim)?;
    node.start_agent()?;
    node.wait_restarted("one", before)?;
    ensure!(!process::alive(before), "the former process still runs");
    let item = node.container("one")?.context("not there")?;
    ensure!(item["status"]["lastState"]["terminated"]["reason"] == "ShimLost", "{}", item["status"]);
    Ok(())
}

#[test]
fn agents_killed_during_starts_never_leave_two_processes() -> Result<()> {
    let node = TestNode::start()?;
    let out = node.folder().join("out");
    fs::create_dir(&out)?;
    let volume = format!(
        "  volumes: [{{name: out, hostPath: {{path: {}}}}}]\n  volumeMounts: [{{name: out, mountPath: /out}}]\n",
        out.display()
    );
    let names: Vec<String> = (0..10).map(|n| format!("c{n}")).collect();
    // The first pull is not what this is about.
    node.write("warm.yaml", &idle("warm", "")?)?;
    node.wait_running("warm")?;
    for round in 0..6 {
        for name in &names {
            let body = format!("{volume}  env: [{{name: ROUND, value: '{round}'}}]\n");
            node.write(&format!("{name}.yaml"), &idle(name, &body)?)?;
        }
        node.restart_agent()?;
    }
    for name in &names {
        // The process itself tells what it was started with; status is of the object, which may be ahead of it.
        node.wait_container(name, "running as it was declared last", |item| {
            let environment = pid_of(item).and_then(|pid| fs::read(format!("/proc/{pid}/environ")).ok());
            environment.is_some_and(|text| text.split(|byte| *byte == 0).any(|pair| pair == b"ROUND=5"))
        })?;
    }
    let mut running = Vec::new();
    for name in &names {
        running.push(node.wait_running(name)?);
    }
    running.push(node.wait_running("warm")?);
    let shims: Vec<u32> = running.iter().map(|pid| shim_of(*pid)).collect::<Result<_>>()?;
    node.wait("nothing but one process and one shim each", || {
        let strangers: Vec<u32> = node
            .footprint()
            .processes
            .into_iter()
            .filter(|pid| process::alive(*pid) && !running.contains(pid) && !shims.contains(pid))
            .collect();
        ensure!(strangers.is_empty(), "strangers: {strangers:?}");
        Ok(Some(()))
    })
}

#[test]
fn a_second_agent_on_the_same_data_is_refused() -> Result<()> {
    let node = TestNode::start()?;
    let output = process::output(&mut node.agent_command())?;
    ensure!(!output.status.success(), "two agents on one data root");
    let text = String::from_utf8_lossy(&output.stderr);
    let pid = node.agent_pid()?.to_string();
    ensure!(text.contains("another agent") && text.contains(&pid), "the message names no culprit: {text}");
    node.ok(["get", "containers"])?;
    Ok(())
}

#[test]
fn two_agents_live_side_by_side() -> Result<()> {
    let (one, two) = (TestNode::start()?, TestNode::start()?);
    for node in [&one, &two] {
        node.write("same.yaml", &idle("same", "")?)?;
    }
    let (first, second) = (one.wait_running("same")?, two.wait_running("same")?);
    ensure!(first != second);
    one.remove("same.yaml")?;
    one.wait_gone("same")?;
    one.restart_agent()?;
    ensure!(two.wait_running("same")? == second, "the other agent's container was disturbed");
    ensure!(process::alive(second));
    Ok(())
}

#[test]
fn many_rounds_leave_nothing_behind() -> Result<()> {
    let node = TestNode::start()?;
    let round = |node: &TestNode| -> Result<()> {
        for n in 0..3 {
            node.write(&format!("c{n}.yaml"), &idle(&format!("c{n}"), "")?)?;
        }
        for n in 0..3 {
            node.wait_running(&format!("c{n}"))?;
        }
        for n in 0..3 {
            node.remove(&format!("c{n}.yaml"))?;
        }
        for n in 0..3 {
            node.wait_gone(&format!("c{n}"))?;
        }
        Ok(())
    };
    node.write("stays.yaml", &idle("stays", "")?)?;
    node.wait_running("stays")?;
    round(&node)?;
    let (before, held) = (node.footprint(), node.agent_descriptors_and_threads()?);
    for _ in 0..5 {
        round(&node)?;
    }
    node.wait("the same footprint as before", || {
        let more = node.footprint().beyond(&before);
        ensure!(more.is_empty(), "left behind: {more:#?}");
        let now = node.agent_descriptors_and_threads()?;
        // Worker threads for blocking calls come and go.
        ensure!(
            now.0 <= held.0 + 2 && now.1 <= held.1 + 8,
            "descriptors and threads grew from {held:?} to {now:?}"
        );
        Ok(Some(()))
    })
}
