//! One release follows another, up and down, while containers run, come and go.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stower_e2e::node::{pid_of, restarts_of, uid_of};
use stower_e2e::{TestNode, process, release};

use crate::support::idle;

fn version(node: &TestNode) -> Result<String> {
    let answer: Value =
        serde_json::from_str(&stower_e2e::http::unix(&node.socket, "GET", "/version")?.text())?;
    Ok(answer["gitVersion"].as_str().context("no version")?.to_owned())
}

/// The digest of the shim that a container was started with.
fn shim_of(node: &TestNode, name: &str) -> Result<String> {
    let uid = uid_of(&node.container(name)?.context("not there")?)?;
    let record: Value =
        serde_json::from_str(&fs::read_to_string(node.run.join("c").join(uid).join("shim.json"))?)?;
    let digest = record["shim"].as_str().context("no shim")?;
    Ok(digest.trim_start_matches("sha256:").to_owned())
}

fn folders(path: &Path) -> Result<BTreeSet<String>> {
    fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

#[test]
fn an_upgrade_and_a_downgrade_under_load_disturb_nothing() -> Result<()> {
    let node = TestNode::builder().build()?;
    let old = node.program();
    let new = release::other(&old, node.folder(), "0.1.0", "0.1.9")?;
    node.start_agent()?;
    ensure!(version(&node)? == "v0.1.0", "{}", version(&node)?);
    node.write("old.yaml", &idle("old", "")?)?;
    let pid = node.wait_running("old")?;
    let first = shim_of(&node, "old")?;
    let mut stays = vec![("old", pid)];
    let load = |round: usize| -> Result<()> {
        for n in 0..6 {
            let file = format!("c{n}.yaml");
            if (n + round).is_multiple_of(3) && node.manifests.join(&file).exists() {
                node.remove(&file)?;
            } else {
                let body = format!("  env: [{{name: ROUND, value: '{round}'}}]\n");
                node.write(&file, &idle(&format!("c{n}"), &body)?)?;
            }
        }
        Ok(())
    };
    for round in 0..6 {
        load(round)?;
        // In the middle of it: by a service manager's word and by a crash in turn.
        if round % 2 == 0 {
            node.use_program(&new);
            ensure!(node.terminate_agent()? == 0);
        } else {
            node.use_program(&old);
            node.kill_agent()?;
        }
        node.start_agent()?;
        ensure!(version(&node)? == if round % 2 == 0 { "v0.1.9" } else { "v0.1.0" });
        if round == 0 {
            node.write("new.yaml", &idle("new", "")?)?;
            stays.push(("new", node.wait_running("new")?));
            ensure!(shim_of(&node, "new")? != first, "both releases have one shim, so this shows nothing");
        }
        for (name, pid) in &stays {
            let item = node.wait_container(name, "running", |item| pid_of(item).is_some())?;
            ensure!(pid_of(&item) == Some(*pid) && restarts_of(&item) == 0, "{name}: {}", item["status"]);
        }
    }
    for n in 0..6 {
        if node.manifests.join(format!("c{n}.yaml")).exists() {
            node.wait_running(&format!("c{n}"))?;
        } else {
            node.wait_gone(&format!("c{n}"))?;
        }
    }
    // Each keeps what the other's containers need, and stops them; what nothing needs goes with the next start.
    let bin = node.data.join("bin");
    let second = shim_of(&node, "new")?;
    ensure!(folders(&bin)?.contains(&first) && folders(&bin)?.contains(&second), "{:?}", folders(&bin)?);
    for (name, pid) in &stays {
        node.ok(["restart", name])?;
        node.wait_restarted(name, *pid)?;
        ensure!(!process::alive(*pid), "{name} was not ended");
        ensure!(shim_of(&node, name)? == first, "{name} has not the shim of the release that started it");
    }
    for n in 0..6 {
        let _ = node.remove(&format!("c{n}.yaml"));
        node.wait_gone(&format!("c{n}"))?;
    }
    node.restart_agent()?;
    ensure!(!folders(&bin)?.contains(&second), "a shim that nothing needs is kept: {:?}", folders(&bin)?);
    Ok(())
}
