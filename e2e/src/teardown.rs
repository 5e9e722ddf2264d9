//! Ends whatever an agent left running, without its help: by its cgroups, its files and its mounts.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::{process, wait_long_for};

/// The mount points of all cgroup hierarchies.
pub fn hierarchies() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table
        .lines()
        .filter(|line| line.contains(" - cgroup ") || line.contains(" - cgroup2 "))
        .filter_map(|line| Some(PathBuf::from(line.split(' ').nth(4)?)))
        .collect()
}

/// The folders of an agent's cgroups, one in each hierarchy where it has one.
pub fn cgroups_of(instance: &str) -> Vec<PathBuf> {
    let name = format!("stower-{instance}");
    hierarchies().into_iter().map(|mount| mount.join(&name)).filter(|path| path.is_dir()).collect()
}

/// All cgroup folders below and including `top`, the deepest first.
pub fn descend(top: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(top).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.append(&mut descend(&entry.path()));
        }
    }
    found.push(top.to_owned());
    found
}

/// The processes in a cgroup folder itself.
pub fn processes_in(cgroup: &Path) -> Vec<u32> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != 0).collect()
}

/// The mount points at or below `folder` in this mount namespace.
pub fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| Some(PathBuf::from(line.split(' ').nth(4)?.replace("\\040", " "))))
        .filter(|path| path.starts_with(folder))
        .collect()
}

/// The id that an agent keeps in its data root.
pub fn instance(data_root: &Path) -> Result<String> {
    let path = data_root.join("instance");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(text.trim().to_owned())
}

/// Where the folders of nodes are: on a disk, with room for long names in the paths of sockets.
pub const PLACE: &str = "/var/tmp";

/// How the names of the folders begin that a process makes for its nodes.
pub fn prefix(pid: u32) -> String {
    format!("stower-e2e-{pid}-")
}

/// Ends and removes the nodes of test processes that were killed before they could do so.
pub fn sweep() -> Result<()> {
    for entry in fs::read_dir(PLACE)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner =
            name.strip_prefix("stower-e2e-").and_then(|rest| rest.split_once('-')?.0.parse::<u32>().ok());
        let Some(owner) = owner.filter(|pid| !process::alive(*pid)) else { continue };
        let folder = entry.path();
        // The agent's own lock names its process.
        if let Some(agent) =
            fs::read_to_string(folder.join("data/lock")).ok().and_then(|text| text.trim().parse().ok())
            && fs::read(format!("/proc/{agent}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&*folder.to_string_lossy()))
        {
            process::kill9(agent)?;
        }
        eprintln!("cleaning up {name}, which process {owner} left behind");
        end(&folder.join("data"), &folder)?;
        end_kubelet_node(&folder)?;
        fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    Ok(())
}

/// Ends what a [`crate::cluster::node::KubeNode`] with this folder left: its namespaces end with its first process, but cgroups have no owner.
pub fn end_kubelet_node(folder: &Path) -> Result<()> {
    if let Some(name) = folder.file_name() {
        for top in hierarchies().iter().map(|mount| mount.join(name)).filter(|top| top.is_dir()) {
            end_groups(&top)?;
        }
    }
    end(&folder.join("lib/stower"), folder)
}

/// Ends all in a cgroup and below it, and removes it.
fn end_groups(top: &Path) -> Result<()> {
    wait_long_for(format!("the cgroup {} to go", top.display()), Duration::from_secs(20), || {
        for cgroup in descend(top) {
            for pid in processes_in(&cgroup) {
                let _ = process::kill9(pid);
            }
            let _ = fs::remove_dir(cgroup);
        }
        Ok((!top.exists()).then_some(()))
    })
}

/// Ends all containers and shims of the agent with this data root, removes its cgroups and its mounts below `folder`.
/// The agent itself must have ended.
pub fn end(data_root: &Path, folder: &Path) -> Result<()> {
    if let Ok(instance) = instance(data_root) {
        wait_long_for(format!("the processes of stower-{instance} to end"), Duration::from_secs(20), || {
            let mut left = false;
            for top in cgroups_of(&instance) {
                // Only processes without a thread that is being created can slip through a kill one by one.
                let _ = fs::write(top.join("cgroup.kill"), "1");
                for pid in descend(&top).iter().flat_map(|cgroup| processes_in(cgroup)) {
                    left = true;
                    let _ = process::kill9(pid);
                }
            }
            Ok((!left).then_some(()))
        })?;
        for cgroup in cgroups_of(&instance).iter().flat_map(|top| descend(top)) {
            fs::remove_dir(&cgroup).with_context(|| format!("remove the cgroup {}", cgroup.display()))?;
        }
    }
    for pid in process::running_from(folder) {
        let _ = process::kill9(pid);
    }
    for mount in mounts_below(folder).iter().rev() {
        rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH)
            .with_context(|| format!("unmount {}", mount.display()))?;
    }
    Ok(())
}
