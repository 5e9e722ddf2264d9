//! Other OCI runtimes by configuration: what they are told, and that a container keeps the one it was started with.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stower_e2e::node::{restarts_of, uid_of};
use stower_e2e::{Catalog, TestNode, catalog, http, process, requires, teardown};

use crate::support::{container, idle, mounts_of_volumes, shell, volume};

const USUAL: &str = "images: {gc: {enabled: false}}\nstorage: {minFree: {}, minFreeInodes: {}}\n";

/// Whether groups of both versions are mounted. Debian's crun 1.8.1 then makes no container at all, and says so.
fn is_hybrid() -> Result<bool> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table.contains(" - cgroup ") && table.contains(" - cgroup2 "))
}

/// A crun that works on this machine: where it would refuse, one that does not see version 2.
fn crun(node: &TestNode) -> Result<String> {
    requires::program("crun", "crun")?;
    if !is_hybrid()? {
        return Ok("crun".to_owned());
    }
    let unified = teardown::hierarchies().into_iter().find(|it| it.join("cgroup.subtree_control").exists());
    let unified = unified.context("no version 2 is mounted")?;
    let script =
        format!("exec unshare -m sh -c 'umount {} && exec crun \"$@\"' crun \"$@\"", unified.display());
    program(node, "crun-v1", &script)
}

fn program(node: &TestNode, name: &str, script: &str) -> Result<String> {
    let path = node.folder().join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path.display().to_string())
}

/// The runtimes that this machine has, Debian's and the project's own command line: name and program.
fn programs(node: &TestNode) -> Result<Vec<(&'static str, String)>> {
    requires::program("runc", "runc")?;
    let own =
        catalog::own_program("stower-runtime").context("it is not built: cargo build -p stower-runtime")?;
    Ok(vec![("runc", "runc".into()), ("crun", crun(node)?), ("own", own.display().to_string())])
}

fn config(runtimes: &[(&str, &str)]) -> String {
    let entries: String =
        runtimes.iter().map(|(name, program)| format!("  {name}: {{path: {program}}}\n")).collect();
    format!("{USUAL}runtimes:\n{entries}")
}

/// A node, not started yet, that has all of them.
fn node() -> Result<TestNode> {
    let node = TestNode::builder().config(USUAL).build()?;
    let programs = programs(&node)?;
    let named: Vec<(&str, &str)> = programs.iter().map(|(name, program)| (*name, program.as_str())).collect();
    node.write_config(&config(&named))?;
    Ok(node)
}

/// A program that notes how it is called, and then is a runtime.
fn spy(node: &TestNode, name: &str, runtime: &str) -> Result<(String, PathBuf)> {
    let notes = node.folder().join(format!("{name}.notes"));
    let script = format!("echo \"$@\" >>{}\nexec {runtime} \"$@\"", notes.display());
    Ok((program(node, name, &script)?, notes))
}

fn status_of(pid: u32, field: &str) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    Ok(line.with_context(|| format!("no {field}"))?.trim().to_owned())
}

/// Its groups, each as `HIERARCHY:PATH`.
fn groups_of(pid: u32) -> Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    Ok(text.lines().filter_map(|line| line.split_once(':')).map(|(_, rest)| rest.to_owned()).collect())
}

#[test]
fn a_container_of_each_runtime_is_like_one_of_the_built_in() -> Result<()> {
    let node = node()?;
    node.start_agent()?;
    node.write("volume.yaml", &volume("data", "{driver: local}"))?;
    let script = "echo to-stdout; echo to-stderr >&2; id; echo hello >/data/$NAME; hostname; cat /etc/hosts | head -1; \
                  exec sleep 1000";
    let spec = |name: &str, runtime: &str| {
        let body = format!(
            "{}  env: [{{name: NAME, value: {name}}}]\n  resources: {{limits: {{pids: 50}}}}\n  securityContext: {{runAsUser: \
             0}}\n{runtime}",
            mounts_of_volumes(&["data"])
        );
        shell(name, script, &body)
    };
    node.write("built-in.yaml", &spec("built-in", "")?)?;
    let model = node.wait_running("built-in")?;
    let logs = |name: &str| {
        node.wait(&format!("{name} to have written"), || {
            let text = node.ok(["logs", name])?;
            Ok(text.contains("localhost").then_some(text))
        })
    };
    let said = logs("built-in")?.replace("built-in", "NAME");
    for (name, _) in programs(&node)? {
        node.write(&format!("{name}.yaml"), &spec(name, &format!("  runtime: {name}\n"))?)?;
        let pid = node.wait_running(name)?;
        let heard = logs(name)?.replace(name, "NAME");
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        ensure!(
            sorted(&heard) == sorted(&said),
            "{name} wrote {heard:?}, and the built-in runtime's {said:?}"
        );
        for field in [
            "Uid",
            "Gid",
            "Groups",
            "CapBnd",
            "CapEff",
            "CapPrm",
            "CapInh",
            "CapAmb",
            "NoNewPrivs",
            "Seccomp",
        ] {
            let (have, want) = (status_of(pid, field)?, status_of(model, field)?);
            ensure!(have == want, "{name}: {field} is {have:?}, and the built-in runtime's {want:?}");
        }
        let item = node.container(name)?.context("it is gone")?;
        let uid = uid_of(&item)?;
        let own = uid_of(&node.container("built-in")?.context("it is gone")?)?;
        let groups: Vec<String> = groups_of(model)?.iter().map(|group| group.replace(&own, &uid)).collect();
        ensure!(groups_of(pid)? == groups, "{name} is in {:?}, and not in {groups:?}", groups_of(pid)?);
        let mounts = teardown::mounts_below(&node.run);
        ensure!(mounts.iter().any(|it| it.ends_with("outside/m/rootfs")), "{name}: the host sees {mounts:?}");

        // The shim is its parent, so the agent's death is none of its business.
        node.restart_agent()?;
        ensure!(node.wait_running(name)? == pid, "{name} runs as another process after the agent's death");
        process::kill9(pid)?;
        let next = node.wait_restarted(name, pid)?;
        let item = node.container(name)?.context("it is gone")?;
        ensure!(item["status"]["lastState"]["terminated"]["exitCode"] == 137, "{name}: {}", item["status"]);
        ensure!(restarts_of(&item) == 1, "{name}: {}", item["status"]);
        let refused = node.refused(["exec", name, "--", "id"])?;
        ensure!(refused.contains(&format!("the runtime `{name}`")), "{refused}");
        node.ok(["stop", name])?;
        ensure!(!Path::new("/proc").join(next.to_string()).exists(), "{name} still runs");
        node.remove(&format!("{name}.yaml"))?;
        node.wait_gone(name)?;
        let mounts = teardown::mounts_below(&node.run);
        ensure!(mounts.is_empty(), "{name} left {mounts:?}");
        let left: Vec<_> = node.footprint().paths.into_iter().filter(|path| path.contains(&uid)).collect();
        ensure!(left.is_empty(), "{name} left {left:?}");
    }
    // What they wrote to the volume is there, and nothing of it went with a directory of theirs.
    let data = node.data.join("volumes/v/default/data/data");
    for name in ["built-in", "runc", "crun", "own"] {
        ensure!(data.join(name).is_file(), "what {name} wrote is gone");
    }
    Ok(())
}

#[test]
fn an_unknown_runtime_is_waited_for() -> Result<()> {
    let node = TestNode::start()?;
    node.write("a.yaml", &idle("a", "  runtime: ghost\n")?)?;
    let message = node.wait_waiting("a", &["RuntimeNotFound"])?;
    ensure!(message.contains("\"ghost\"") && message.contains("there are stower"), "{message}");
    // A program that is not there is refused as a whole.
    node.write_config(&format!("{USUAL}runtimes: {{ghost: {{path: /nonexistent/ghost}}}}\n"))?;
    let said = node.refused(["config", "reload"])?;
    ensure!(said.contains("runtimes.ghost.path: /nonexistent/ghost is no program"), "{said}");
    node.write_config(&format!("{USUAL}runtimes: {{ghost: {{path: runc}}}}\n"))?;
    node.wait_running("a")?;
    ensure!(restarts_of(&node.container("a")?.context("gone")?) == 0, "what is missing is no run");
    let shown: Value = serde_json::from_str(&http::unix(&node.socket, "GET", "/v1/node")?.text())?;
    ensure!(shown["status"]["runtimes"][0]["name"] == "stower", "{}", shown["status"]["runtimes"]);
    node.wait("the runtime to be told of", || {
        let described = node.ok(["describe", "node"])?;
        Ok((described.contains("built in") && described.contains("/usr/sbin/runc")).then_some(()))
    })
}

#[test]
fn a_container_is_operated_by_the_runtime_that_it_was_started_with() -> Result<()> {
    requires::program("runc", "runc")?;
    let node = TestNode::builder().config(USUAL).build()?;
    let (first, notes) = spy(&node, "first", "runc")?;
    let (second, others) = spy(&node, "second", &crun(&node)?)?;
    node.write_config(&config(&[("r", &first)]))?;
    node.start_agent()?;
    node.write("a.yaml", &idle("a", "  runtime: r\n")?)?;
    let pid = node.wait_running("a")?;
    node.write_config(&config(&[("r", &second)]))?;
    node.ok(["config", "reload"])?;
    node.write("b.yaml", &idle("b", "  runtime: r\n")?)?;
    node.wait_running("b")?;
    ensure!(node.wait_running("a")? == pid, "a reload touched a container that runs");
    let scripts = || Ok::<_, anyhow::Error>(fs::read_dir(node.data.join("runtimes"))?.count());
    ensure!(scripts()? == 2, "{} scripts", scripts()?);
    // A new agent keeps both, since both are used.
    node.restart_agent()?;
    ensure!(scripts()? == 2, "{} scripts after a restart", scripts()?);
    node.remove("a.yaml")?;
    node.wait_gone("a")?;
    let (notes, others) = (fs::read_to_string(notes)?, fs::read_to_string(others)?);
    for verb in ["create", "start", "delete --force"] {
        ensure!(
            notes.lines().any(|line| line.contains(verb)),
            "the first runtime was not asked to {verb}: {notes}"
        );
    }
    ensure!(
        !others.contains("delete"),
        "the second runtime was asked to delete the container of the first: {others}"
    );
    node.restart_agent()?;
    ensure!(scripts()? == 1, "{} scripts, and one is used", scripts()?);
    node.wait_running("b").map(drop)
}

#[test]
fn a_runtime_that_fails_says_why() -> Result<()> {
    requires::program("runc", "runc")?;
    let node = TestNode::builder().config(USUAL).build()?;
    let broken = program(
        &node,
        "broken",
        "while [ $# -gt 0 ]; do [ \"$1\" = --log ] && log=$2; shift; done\n\
         echo '{\"level\":\"error\",\"msg\":\"no moon tonight\"}' >>$log\nexit 3",
    )?;
    node.write_config(&config(&[("broken", &broken), ("runc", "runc"), ("crun", "crun")]))?;
    node.start_agent()?;
    node.write("a.yaml", &idle("a", "  runtime: broken\n")?)?;
    let why = |name: &str, parts: &[&str]| {
        node.wait(&format!("{name} to tell {parts:?}"), || {
            let Some(item) = node.container(name)? else { return Ok(None) };
            let text = item["status"].to_string();
            Ok(parts.iter().all(|part| text.contains(part)).then_some(()))
        })
    };
    why("a", &["no moon tonight", "create", "runtime broken"])?;
    let image = Catalog::get()?.reference(catalog::payload)?;
    node.write("b.yaml", &container("b", &image, "  runtime: runc\n  command: [/no/such/program]\n"))?;
    why("b", &["/no/such/program", "runtime runc"])?;
    node.write("c.yaml", &idle("c", "  runtime: runc\n  lifecycle: {preStop: {exec: {command: [id]}}}\n")?)?;
    let message = node.wait_waiting("c", &["CreateContainerConfigError"])?;
    ensure!(message.contains("spec.lifecycle.preStop.exec"), "{message}");
    node.write("d.yaml", &idle("d", "  runtime: crun\n")?)?;
    if is_hybrid()? {
        why("d", &["cgroups in hybrid mode not supported", "runtime crun"])?;
    } else {
        node.wait_running("d")?;
    }
    for name in ["a", "b", "c", "d"] {
        node.remove(&format!("{name}.yaml"))?;
        node.wait_gone(name)?;
    }
    let mounts = teardown::mounts_below(&node.run);
    ensure!(mounts.is_empty(), "failed starts left {mounts:?}");
    Ok(())
}

#[test]
fn an_agent_that_dies_leaves_nothing_of_another_runtime_half_done() -> Result<()> {
    let node = node()?;
    node.write("a.yaml", &idle("a", "  runtime: runc\n")?)?;
    for failpoint in ["start.volumes", "start.cgroup", "start.started"] {
        node.spawn_doomed(failpoint)?;
        node.wait(&format!("the agent to die at {failpoint}"), || Ok(node.has_died()?.then_some(())))?;
    }
    node.start_agent()?;
    let pid = node.wait_running("a")?;
    // Agent and shim at once: nobody is left to see the end.
    node.kill_agent()?;
    let shim: u32 = status_of(pid, "PPid")?.parse()?;
    process::kill9(shim)?;
    node.start_agent()?;
    node.wait_restarted("a", pid)?;
    let roots = teardown::mounts_below(&node.run).into_iter().filter(|it| it.ends_with("m/rootfs")).count();
    ensure!(roots == 1, "{roots} root filesystems of one container are mounted");
    node.remove("a.yaml")?;
    node.wait_gone("a")?;
    ensure!(teardown::mounts_below(&node.run).is_empty(), "{:?}", teardown::mounts_below(&node.run));
    Ok(())
}
