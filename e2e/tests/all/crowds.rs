//! Many at once: volumes in one container, and containers on one data container.

use std::fs;

use anyhow::{Context, Result, ensure};
use stower_e2e::TestNode;
use stower_e2e::node::pid_of;

use crate::support::{
    data, data_container, idle, inside, mount_table, mounted_on_host, mounts_told, ready, shell,
};

#[test]
fn a_container_has_64_volumes() -> Result<()> {
    let node = TestNode::start()?;
    let paths: Vec<String> = (0..64).map(|n| format!("/v/{n}")).collect();
    let volumes: Vec<String> = paths.iter().map(|path| format!("{{mountPath: {path}}}")).collect();
    node.write("d.yaml", &data("dat", &format!("{{volumes: [{}]}}", volumes.join(", "))))?;
    node.write("a.yaml", &idle("a", "  volumesFrom: [{name: dat}]\n")?)?;
    let pid = node.wait_running("a")?;
    for path in &paths {
        fs::write(inside(pid, path).join("file"), path)?;
    }
    let targets: Vec<String> = mount_table(pid)?.into_iter().map(|(path, ..)| path).collect();
    ensure!(paths.iter().all(|path| targets.iter().filter(|it| *it == path).count() == 1), "{targets:?}");
    ensure!(mounts_told(&node.container("a")?.context("gone")?).len() == 64);
    node.ok(["restart", "a"])?;
    let pid = node.wait_restarted("a", pid)?;
    for path in &paths {
        ensure!(&fs::read_to_string(inside(pid, path).join("file"))? == path, "{path} is another volume");
    }
    mounted_on_host(&node, &[])
}

#[test]
fn a_hundred_containers_start_on_one_data_container() -> Result<()> {
    const CONSUMERS: usize = 100;
    let node = TestNode::start()?;
    let manifest = |n: usize| {
        shell(
            &format!("c{n}"),
            &format!("echo {n} > /dat/{n}; exec sleep 1000000"),
            "  volumesFrom: [{name: dat}]\n",
        )
    };
    let all = (0..CONSUMERS).map(manifest).collect::<Result<Vec<String>>>()?;
    // They come first, and all wait.
    node.write("all.yaml", &all.join("---\n"))?;
    node.wait("all to wait", || {
        let all = node.containers()?;
        let waiting =
            all.iter().filter(|item| item["status"]["state"]["waiting"]["reason"] == "DependencyMissing");
        Ok((waiting.count() == CONSUMERS).then_some(()))
    })?;
    node.write("d.yaml", &data_container("dat", "/dat", ""))?;
    let pids: Vec<u32> = node.wait("all to run", || {
        let pids: Vec<u32> = node.containers()?.iter().filter_map(pid_of).collect();
        Ok((pids.len() == CONSUMERS).then_some(pids))
    })?;
    let place =
        ready(&node, "datacontainers", "dat")?["volumes"][0]["path"].as_str().context("no path")?.to_owned();
    node.wait("a file of each", || Ok((fs::read_dir(&place)?.count() == CONSUMERS).then_some(())))?;
    for pid in &pids {
        ensure!(fs::read_dir(inside(*pid, "/dat"))?.count() == CONSUMERS, "{pid} has another volume");
    }
    node.wait("all users to be told", || {
        let status = ready(&node, "datacontainers", "dat")?;
        Ok((status["users"].as_array().map(Vec::len) == Some(CONSUMERS)).then_some(()))
    })?;
    mounted_on_host(&node, &[])?;
    node.remove("all.yaml")?;
    node.wait("all to be gone", || Ok(node.containers()?.is_empty().then_some(())))?;
    ensure!(node.footprint().processes.is_empty());
    Ok(())
}
