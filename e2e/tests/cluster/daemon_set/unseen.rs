//! What Kubernetes does not see of containers, and what the README offers for it: room that kubelet sets aside, and a count.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stower_e2e::cluster::node::RESERVED;
use stower_e2e::{teardown, wait_long_for};

use super::{Ground, PATIENCE, manifest};

/// What kubelet sets aside, the scheduler does not give to pods, and all containers together may use.
pub(super) fn room(ground: &Ground) -> Result<()> {
    let node = ground.cluster.object("node", "default", &ground.node.name)?.context("no node")?;
    let amount = |of: &str, resource: &str| -> Result<u64> {
        let text =
            node["status"][of][resource].as_str().with_context(|| format!("no {of}.{resource}: {node}"))?;
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let factor = match unit {
            "" if resource == "cpu" => 1000,
            "" | "m" => 1,
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            _ => anyhow::bail!("an amount in {unit}: {text}"),
        };
        Ok(number.parse::<u64>()? * factor)
    };
    for (resource, reserved) in [("cpu", RESERVED.milli_cpu), ("memory", RESERVED.memory)] {
        let (capacity, allocatable) = (amount("capacity", resource)?, amount("allocatable", resource)?);
        ensure!(capacity - allocatable == reserved, "{resource}: {allocatable} of {capacity} for pods");
    }
    let instance = teardown::instance(&ground.node.path("/var/lib/stower"))?;
    let limits: Vec<String> = teardown::cgroups_of(&instance)
        .iter()
        .flat_map(|top| ["memory.max", "memory.limit_in_bytes"].map(|file| top.join("c").join(file)))
        .filter_map(|path| fs::read_to_string(path).ok())
        .collect();
    let [limit] = &limits[..] else { anyhow::bail!("the group of all containers has the limits {limits:?}") };
    ensure!(limit.trim() == RESERVED.memory.to_string(), "all containers may use {limit}");
    Ok(())
}

/// The namespace `work` has one container; with a quota of one, no further one is taken.
pub(super) fn no_more_than_a_quota_has(ground: &Ground, reference: &str) -> Result<()> {
    let cluster = &ground.cluster;
    cluster.ok(["create", "quota", "containers", "-n", "work", "--hard=count/containers.stower.dev=1"])?;
    wait_long_for("the quota to be counted", PATIENCE, || {
        let quota = cluster.object("quota", "work", "containers")?.unwrap_or(Value::Null);
        Ok((quota["status"]["used"]["count/containers.stower.dev"] == "1").then_some(()))
    })?;
    let file = cluster.folder().join("more.yaml");
    fs::write(&file, manifest(reference).replace("name: stays", "name: more"))?;
    let said = cluster.refused(["apply".as_ref(), "-f".as_ref(), file.as_os_str()])?;
    ensure!(said.contains("exceeded quota: containers"), "{said}");
    Ok(())
}
