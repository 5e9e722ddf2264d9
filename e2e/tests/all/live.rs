//! What befalls an agent and its shims while containers run: death in the middle of a stop, numbers of processes that are given
//! out again, another boot, clocks that are set, memory that runs out.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stower_e2e::node::{condition, pid_of, restarts_of, uid_of};
use stower_e2e::{TestNode, http, process, teardown};

use crate::restarts::rebootable;
use crate::support::{idle, shell};

/// Ends by SIGTERM with a code that nothing else gives.
const POLITE: &str = "trap 'echo asked; exit 5' TERM; echo set; while :; do sleep 0.05; done";

fn polite(grace: u32, hook: &str) -> Result<String> {
    let text = shell("polite", POLITE, &format!("  lifecycle: {{preStop: {hook}}}\n"))?;
    Ok(text.replace("Seconds: 1", &format!("Seconds: {grace}")))
}

fn logs_say(node: &TestNode, name: &str, word: &str) -> Result<()> {
    node.wait(&format!("{name} to say {word:?}"), || {
        Ok(node.ok(["logs", name])?.contains(word).then_some(()))
    })
}

fn end_of(item: &Value) -> &Value {
    let state = &item["status"]["state"]["terminated"];
    if state.is_object() { state } else { &item["status"]["lastState"]["terminated"] }
}

fn is_held(item: &Value) -> bool {
    condition(item, "Held").is_some_and(|held| held.0 == "True") && pid_of(item).is_none()
}

/// Its hook never ends, and there is no agent: the shim asks the program to end, in time.
#[test]
fn an_agent_dead_during_a_hook_leaves_no_stop_half_done() -> Result<()> {
    let node = TestNode::start()?;
    node.write("polite.yaml", &polite(2, "{sleep: {seconds: 80000}}")?)?;
    let pid = node.wait_running("polite")?;
    logs_say(&node, "polite", "set")?;
    node.ok(["stop", "polite", "--wait=false"])?;
    let stopping = |item: &Value| condition(item, "Ready").is_some_and(|ready| ready.1 == "Stopping");
    node.wait_container("polite", "stopping", stopping)?;
    node.kill_agent()?;
    node.wait("the shim to finish the stop", || Ok((!process::alive(pid)).then_some(())))?;
    node.start_agent()?;
    let item = node.wait_container("polite", "held", is_held)?;
    ensure!(end_of(&item)["exitCode"] == 5, "it was not asked before it was killed: {}", item["status"]);
    ensure!(restarts_of(&item) == 0, "{}", item["status"]);
    Ok(())
}

/// A hook is waited for, then the program is asked; one that never ends is told of and takes no more than its time.
#[test]
fn a_hook_comes_before_the_signal_and_has_its_time() -> Result<()> {
    let node = TestNode::start()?;
    node.write("polite.yaml", &polite(60, "{sleep: {seconds: 1}}")?)?;
    node.wait_running("polite")?;
    logs_say(&node, "polite", "set")?;
    node.ok(["stop", "polite"])?;
    let item = node.wait_container("polite", "held", is_held)?;
    ensure!(end_of(&item)["exitCode"] == 5, "{}", item["status"]);
    ensure!(!node.ok(["events"])?.contains("FailedPreStopHook"));

    node.write("polite.yaml", &polite(1, "{sleep: {seconds: 80000}}")?)?;
    node.ok(["start", "polite"])?;
    node.wait_running("polite")?;
    logs_say(&node, "polite", "set")?;
    node.ok(["stop", "polite"])?;
    let item = node.wait_container("polite", "held", is_held)?;
    ensure!(end_of(&item)["exitCode"] == 5, "it was not asked: {}", item["status"]);
    let events = node.ok(["events"])?;
    ensure!(events.contains("FailedPreStopHook") && events.contains("did not end within 1 s"), "{events}");
    Ok(())
}

/// A program runs in the container: after the start, before the stop, and what it says is told when it fails.
#[test]
fn hooks_run_programs_in_the_container() -> Result<()> {
    let node = TestNode::start()?;
    let out = node.folder().join("out");
    fs::create_dir(&out)?;
    fs::set_permissions(&out, fs::Permissions::from_mode(0o777))?;
    let said = || -> Result<Vec<String>> {
        Ok(fs::read_to_string(out.join("said"))?.lines().map(str::to_owned).collect())
    };
    let body = format!(
        "  lifecycle:\n    postStart: {{exec: {{command: [sh, -c, 'echo started >> /out/said; id -u >> /out/said']}}}}\n    \
         preStop: {{exec: {{command: [sh, -c, 'echo stopping >> /out/said']}}}}\n  securityContext: {{runAsUser: 77}}\n  \
         volumes: [{{name: out, hostPath: {{path: {}}}}}]\n  volumeMounts: [{{name: out, mountPath: /out}}]\n",
        out.display()
    );
    let script = "trap 'echo asked >> /out/said; exit 5' TERM; echo set; while :; do sleep 0.05; done";
    node.write("hooked.yaml", &shell("hooked", script, &body)?.replace("Seconds: 1", "Seconds: 60"))?;
    let item = node.wait_container("hooked", "ready", |item| {
        condition(item, "Ready").is_some_and(|ready| ready.0 == "True")
    })?;
    let pid = pid_of(&item).context("it does not run")?;
    ensure!(said()? == ["started", "77"], "{:?}", said()?);
    logs_say(&node, "hooked", "set")?;
    // Another agent does not run it again.
    node.restart_agent()?;
    ensure!(node.wait_running("hooked")? == pid);
    ensure!(node.ok(["plan"])?.contains("nothing to do"), "{}", node.ok(["plan"])?);
    node.ok(["stop", "hooked"])?;
    let item = node.wait_container("hooked", "held", is_held)?;
    ensure!(end_of(&item)["exitCode"] == 5, "{}", item["status"]);
    ensure!(said()? == ["started", "77", "stopping", "asked"], "{:?}", said()?);
    Ok(())
}

#[test]
fn a_post_start_hook_that_fails_ends_the_run_as_failed() -> Result<()> {
    let node = TestNode::start()?;
    let hook = "  lifecycle: {postStart: {exec: {command: [sh, -c, 'echo no such table; exit 3']}}}\n";
    // It ends politely, with 0, which a policy of OnFailure would leave.
    let script = "trap 'exit 0' TERM; while :; do sleep 0.05; done";
    let body = format!(
        "{hook}  restartPolicy: OnFailure\n  restart: {{maxRetries: 1, backoff: {{initial: 10ms}}}}\n"
    );
    node.write("bad.yaml", &shell("bad", script, &body)?)?;
    let item = node.wait_container("bad", "Failed", |item| item["status"]["phase"] == "Failed")?;
    ensure!(restarts_of(&item) == 1, "{}", item["status"]);
    let ready = item["status"]["conditions"].to_string();
    ensure!(ready.contains("its postStart hook failed"), "{ready}");
    let events = node.ok(["events"])?;
    ensure!(events.contains("FailedPostStartHook") && events.contains("no such table"), "{events}");
    Ok(())
}

/// The agent dies in the middle of either hook: the next one runs it again, and the times are those of the first.
#[test]
fn a_hook_whose_agent_died_runs_again() -> Result<()> {
    let node = TestNode::start()?;
    let once = |file: &str| {
        format!("echo run >> /tmp/{file}; [ $(wc -l < /tmp/{file}) -ge 2 ] || exec sleep 1000000")
    };
    let hooks = format!(
        "  lifecycle:\n    postStart: {{exec: {{command: [sh, -c, '{}']}}}}\n    preStop: {{exec: {{command: [sh, -c, '{}']}}}}\n",
        once("start"),
        once("stop")
    );
    let text = shell("hooked", POLITE, &hooks)?;
    node.write("hooked.yaml", &text.replace("Seconds: 1", "Seconds: 300"))?;
    let pid = node.wait_running("hooked")?;
    let runs = |file: &str, count: usize| {
        node.wait(&format!("run {count} of {file}"), || {
            let text = fs::read_to_string(format!("/proc/{pid}/root/tmp/{file}"))?;
            Ok((text.lines().count() == count).then_some(()))
        })
    };
    runs("start", 1)?;
    node.restart_agent()?;
    runs("start", 2)?;
    node.wait_container("hooked", "ready", |item| {
        condition(item, "Ready").is_some_and(|ready| ready.0 == "True")
    })?;
    logs_say(&node, "hooked", "set")?;
    node.ok(["stop", "hooked", "--wait=false"])?;
    runs("stop", 1)?;
    node.kill_agent()?;
    ensure!(process::alive(pid), "it did not wait for its hook");
    node.start_agent()?;
    let item = node.wait_container("hooked", "held", is_held)?;
    ensure!(end_of(&item)["exitCode"] == 5, "{}", item["status"]);
    Ok(())
}

/// Somebody else has the numbers that the records name: he is neither signalled nor taken for the container.
#[test]
fn a_process_with_a_number_that_was_given_out_again_is_left_alone() -> Result<()> {
    let node = TestNode::start()?;
    node.write("one.yaml", &idle("one", "")?)?;
    let pid = node.wait_running("one")?;
    let uid = uid_of(&node.container("one")?.context("not there")?)?;
    let shim = process::parent(pid)?;
    node.kill_agent()?;
    process::kill9(shim)?;
    process::kill9(pid)?;
    node.wait("both to end", || Ok((!process::alive(pid) && !process::alive(shim)).then_some(())))?;
    let mut innocent = std::process::Command::new("sleep").arg("1000003").spawn()?;
    let path = node.run.join("c").join(&uid).join("shim.json");
    let mut record: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
    for field in ["shimPid", "initPid"] {
        record[field] = innocent.id().into();
    }
    fs::write(&path, record.to_string())?;
    let done = (|| {
        node.start_agent()?;
        let again = node.wait_restarted("one", pid)?;
        ensure!(again != innocent.id(), "it was taken for the container");
        node.remove("one.yaml")?;
        node.wait_gone("one")?;
        ensure!(process::alive(innocent.id()), "it was killed for the container");
        Ok(())
    })();
    innocent.kill()?;
    innocent.wait()?;
    done
}

/// After another boot nothing of the last one counts as running, even where something is left in its groups.
#[test]
fn another_boot_restarts_what_ran_once() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (node, boot) = rebootable(folder.path())?;
    node.write("always.yaml", &idle("always", "")?)?;
    node.write("never.yaml", &idle("never", "  restartPolicy: Never\n")?)?;
    let (always, never) = (node.wait_running("always")?, node.wait_running("never")?);
    node.kill_agent()?;
    fs::write(&boot, "22222222-2222-4222-8222-222222222222\n")?;
    node.start_agent()?;
    let again = node.wait_restarted("always", always)?;
    ensure!(!process::alive(always) && process::alive(again), "two processes");
    let item = node.container("always")?.context("gone")?;
    ensure!(end_of(&item)["reason"] == "Rebooted" && restarts_of(&item) == 1, "{}", item["status"]);
    let item = node.wait_container("never", "Failed", |item| item["status"]["phase"] == "Failed")?;
    ensure!(end_of(&item)["reason"] == "Rebooted" && restarts_of(&item) == 0, "{}", item["status"]);
    ensure!(!process::alive(never), "what is over runs");
    // Once: the same boot again changes nothing.
    node.restart_agent()?;
    ensure!(node.wait_running("always")? == again, "it was restarted again");
    Ok(())
}

/// Intervals are of a clock that nobody sets: a day more starts nothing early, a day less holds nothing up.
#[test]
fn a_clock_that_is_set_moves_no_deadline() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let offset = folder.path().join("offset");
    fs::write(&offset, "0")?;
    let node = TestNode::builder().env("STOWER_WALL_OFFSET", &offset.to_string_lossy()).start()?;
    let waits = "  restart: {backoff: {initial: 1h, max: 1h, jitter: 0}}\n";
    node.write("waits.yaml", &shell("waits", "exit 7", waits)?)?;
    node.write("comes.yaml", &idle("comes", "  restart: {backoff: {initial: 50ms, max: 50ms}}\n")?)?;
    node.wait_waiting("waits", &["CrashLoopBackOff"])?;
    let mut pid = node.wait_running("comes")?;
    let mut stops = 0;
    for seconds in [86_400, -86_400, 0] {
        fs::write(&offset, seconds.to_string())?;
        for with_another_agent in [false, true] {
            if with_another_agent {
                node.restart_agent()?;
            }
            // Something happens, and is decided by the clock as it is now.
            process::kill9(pid)?;
            pid = node.wait_restarted("comes", pid)?;
            node.ok(["stop", "comes"])?;
            stops += 1;
            node.ok(["start", "comes"])?;
            pid = node.wait_restarted("comes", pid)?;
            let item = node.container("waits")?.context("gone")?;
            ensure!(
                restarts_of(&item) == 0 && item["status"]["state"]["waiting"]["reason"] == "CrashLoopBackOff",
                "with the clock off by {seconds} s: {}",
                item["status"]
            );
        }
    }
    let item = node.container("comes")?.context("gone")?;
    ensure!(restarts_of(&item) == stops, "{} restarts, and {stops} kills", restarts_of(&item));
    Ok(())
}

/// A memory cgroup of the test's own, which goes with its value.
struct MemoryGroup {
    folder: PathBuf,
    is_v2: bool,
}

impl MemoryGroup {
    fn make() -> Result<Self> {
        let hierarchies = teardown::hierarchies();
        let v1 = hierarchies.iter().find(|mount| mount.join("memory.limit_in_bytes").exists());
        let v2 = hierarchies.iter().find(|mount| mount.join("cgroup.controllers").exists());
        let (top, is_v2) = match (v1, v2) {
            (Some(top), _) => (top, false),
            (None, Some(top)) => (top, true),
            (None, None) => anyhow::bail!("no memory controller is mounted"),
        };
        let folder = top.join(format!("stower-e2e-{}-oom", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(Self { folder, is_v2 })
    }

    fn number(&self, v1: &str, v2: &str) -> Result<u64> {
        let file = self.folder.join(if self.is_v2 { v2 } else { v1 });
        Ok(fs::read_to_string(file)?.trim().parse()?)
    }

    fn limit(&self, bytes: Option<u64>) -> Result<()> {
        let file = self.folder.join(if self.is_v2 { "memory.max" } else { "memory.limit_in_bytes" });
        let none = if self.is_v2 { "max" } else { "-1" };
        fs::write(file, bytes.map_or(none.to_owned(), |bytes| bytes.to_string()))?;
        Ok(())
    }

    fn processes(&self) -> Vec<u32> {
        teardown::processes_in(&self.folder)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}

/// The kernel kills the agent, and nobody else: shims and containers are in other groups.
#[test]
fn an_agent_that_is_killed_for_lack_of_memory_takes_nobody_with_it() -> Result<()> {
    let group = MemoryGroup::make()?;
    let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", group.folder.display());
    let node = TestNode::builder().through(&["sh", "-c", &enter, "sh"]).start()?;
    let mut pids = Vec::new();
    for name in ["a", "b", "c"] {
        node.write(&format!("{name}.yaml"), &idle(name, "")?)?;
        pids.push(node.wait_running(name)?);
    }
    ensure!(
        group.processes() == [node.agent_pid()?],
        "others are in the agent's group: {:?}",
        group.processes()
    );
    let now = group.number("memory.usage_in_bytes", "memory.current")?;
    group.limit(Some(now + (1 << 20)))?;
    // Files that grow make it grow; every one of them is read whole and kept.
    let big = "x".repeat(200 << 10);
    let mut n = 0;
    node.wait("the kernel to kill the agent", || {
        n += 1;
        let text =
            format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: big{n}}}\ndata: {{big: {big}}}\n");
        node.write(&format!("big{n}.yaml"), &text)?;
        // Whether or not anybody answers.
        let _ = http::unix(&node.socket, "GET", "/api/v1/configmaps");
        Ok(node.has_died()?.then_some(()))
    })?;
    ensure!(oom_kills(&group)? >= 1, "it died of something else:\n{}", node.log_tail());
    ensure!(pids.iter().all(|pid| process::alive(*pid)), "containers died with the agent");
    group.limit(None)?;
    for k in 1..=n {
        node.remove(&format!("big{k}.yaml"))?;
    }
    node.start_agent()?;
    for (name, pid) in ["a", "b", "c"].iter().zip(&pids) {
        ensure!(node.wait_running(name)? == *pid, "{name} was restarted");
    }
    // Nothing may be left in the group before it can go.
    node.kill_agent()?;
    Ok(())
}

fn oom_kills(group: &MemoryGroup) -> Result<u64> {
    let file = group.folder.join(if group.is_v2 { "memory.events" } else { "memory.oom_control" });
    field(&file, "oom_kill ")
}

fn field(file: &Path, key: &str) -> Result<u64> {
    let text = fs::read_to_string(file)?;
    let line =
        text.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("no {key}in {text}"))?;
    Ok(line.trim().parse()?)
}
