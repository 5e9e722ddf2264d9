//! Resources change under a running process, all of them, or it is told why not.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stower_e2e::{TestNode, teardown};

use crate::support::{idle, shell};

/// What the kernel has for a process: memory, processor time in a period, processes; `None` for no limit.
fn limits(pid: u32) -> Result<[Option<u64>; 3]> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let read = |controller: &str, v1: &str, v2: &str| -> Result<Option<u64>> {
        let path = |wanted: &str| {
            groups.lines().find_map(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                let is_it = parts.next()?.split(',').any(|name| name == wanted);
                is_it.then(|| parts.next())?.map(|path| path[1..].to_owned())
            })
        };
        let hierarchies = teardown::hierarchies();
        let of_v1 = path(controller).and_then(|path| {
            hierarchies.iter().map(|mount| mount.join(&path).join(v1)).find(|file| file.exists())
        });
        let file = match of_v1 {
            Some(file) => file,
            None => {
                let path = path("").context("no group of version 2")?;
                let files = hierarchies.iter().map(|mount| mount.join(&path).join(v2));
                files
                    .into_iter()
                    .find(|file| file.exists())
                    .with_context(|| format!("no {v1} and no {v2}"))?
            }
        };
        let text = fs::read_to_string(file)?;
        let word = text.split_whitespace().next().unwrap_or_default();
        // Version 1 tells "no limit" as -1, or as the largest number of whole pages.
        Ok(word.parse().ok().filter(|number| *number < 1 << 60))
    };
    Ok([
        read("memory", "memory.limit_in_bytes", "memory.max")?,
        read("cpu", "cpu.cfs_quota_us", "cpu.max")?,
        read("pids", "pids.max", "pids.max")?,
    ])
}

fn pending(item: &Value) -> Option<&str> {
    let conditions = item["status"]["conditions"].as_array()?;
    conditions.iter().find(|it| it["type"] == "ResizePending")?["message"].as_str()
}

#[test]
fn every_limit_is_set_changed_and_lifted_under_a_running_process() -> Result<()> {
    let node = TestNode::start()?;
    let declare =
        |limits: &str| node.write("a.yaml", &idle("a", &format!("  resources: {{limits: {limits}}}\n"))?);
    let mib = |number: u64| Some(number << 20);
    declare("{memory: 64Mi, cpu: 500m, pids: 30}")?;
    let pid = node.wait_running("a")?;
    ensure!(limits(pid)? == [mib(64), Some(50_000), Some(30)], "{:?}", limits(pid)?);
    for (declared, expected) in [
        ("{memory: 128Mi, cpu: 2, pids: 40}", [mib(128), Some(200_000), Some(40)]),
        ("{memory: 48Mi, cpu: 100m, pids: 20}", [mib(48), Some(10_000), Some(20)]),
        ("{cpu: 100m}", [None, Some(10_000), None]),
        ("{}", [None, None, None]),
        ("{memory: 32Mi}", [mib(32), None, None]),
    ] {
        declare(declared)?;
        node.wait(&format!("the limits {declared}"), || {
            ensure!(limits(pid)? == expected, "{:?}", limits(pid)?);
            Ok(Some(()))
        })?;
        let told = node.wait_container("a", "told of", |item| {
            item["status"]["observedGeneration"] == item["metadata"]["generation"]
        })?;
        ensure!(pending(&told).is_none(), "{}", told["status"]);
        // The next agent has nothing to do.
        node.restart_agent()?;
        ensure!(node.ok(["plan"])?.contains("nothing to do"), "{}", node.ok(["plan"])?);
    }
    ensure!(node.wait_running("a")? == pid, "a changed limit replaced the process");
    Ok(())
}

/// Less than what is in use kills nobody: the condition tells, and it is done once it can be.
#[test]
fn memory_in_use_is_not_taken_away() -> Result<()> {
    let node = TestNode::start()?;
    // A file in memory is in use until it is removed.
    let script = "head -c 40m /dev/zero > /dev/shm/held; echo held; while [ ! -e /free ]; do sleep 0.05; done; rm /dev/shm/held; exec sleep 1000000";
    let declare = |mib: u32| {
        let body = format!("  resources: {{limits: {{memory: {mib}Mi}}}}\n");
        node.write("a.yaml", &shell("a", script, &body)?)
    };
    declare(100)?;
    let pid = node.wait_running("a")?;
    node.wait("40 MiB to be in use", || Ok(node.ok(["logs", "a"])?.contains("held").then_some(())))?;
    declare(20)?;
    let item = node.wait_container("a", "pending", |item| pending(item).is_some())?;
    let message = pending(&item).unwrap_or_default();
    ensure!(message.contains("resources.limits.memory") && message.contains("20Mi"), "{message}");
    ensure!(node.wait_running("a")? == pid && limits(pid)?[0] == Some(100 << 20), "{:?}", limits(pid)?);
    ensure!(item["status"]["resources"]["limits"]["memory"] == "100Mi", "{}", item["status"]["resources"]);
    fs::write(format!("/proc/{pid}/root/free"), "")?;
    node.wait("the smaller limit", || Ok((limits(pid)?[0] == Some(20 << 20)).then_some(())))?;
    let item = node.wait_container("a", "as declared", |item| pending(item).is_none())?;
    ensure!(item["status"]["resources"]["limits"]["memory"] == "20Mi", "{}", item["status"]["resources"]);
    ensure!(node.wait_running("a")? == pid, "it was replaced");
    Ok(())
}
