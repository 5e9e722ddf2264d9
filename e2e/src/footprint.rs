//! What an agent and its containers hold on the machine, counted from outside.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::{process, teardown};

/// All traces of one agent, to be compared before and after.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Mount points below the node's folder in the host's mount namespace.
    pub mounts: BTreeSet<String>,
    /// Cgroups, as `HIERARCHY/c/UID`.
    pub cgroups: BTreeSet<String>,
    /// Processes in those cgroups, and those run from the data root (shims and starters).
    pub processes: BTreeSet<u32>,
    /// Folders and files that hold the state of one object, from both roots.
    pub paths: BTreeSet<String>,
}

impl Footprint {
    /// Looks at the machine now.
    pub fn of(data_root: &Path, run_root: &Path, node: &Path) -> Self {
        let mut all = Self::default();
        all.mounts.extend(teardown::mounts_below(node).iter().map(|path| path.display().to_string()));
        if let Ok(instance) = teardown::instance(data_root) {
            for top in teardown::cgroups_of(&instance) {
                for cgroup in teardown::descend(&top) {
                    all.processes.extend(teardown::processes_in(&cgroup));
                    all.cgroups.insert(cgroup.display().to_string());
                }
            }
        }
        all.processes.extend(process::running_from(&data_root.join("bin")));
        for folder in ["containers", "logs", "records", "volumes"].map(|name| data_root.join(name)) {
            all.paths.extend(names(&folder));
        }
        all.paths.extend(names(&run_root.join("c")));
        for driver in fs::read_dir(data_root.join("snapshots")).into_iter().flatten().flatten() {
            all.paths.extend(names(&driver.path()));
        }
        all
    }

    /// What is in this one and not in `other`, as lines to read.
    pub fn beyond(&self, other: &Self) -> Vec<String> {
        let texts = [
            (&self.mounts - &other.mounts, "mount"),
            (&self.cgroups - &other.cgroups, "cgroup"),
            (&self.paths - &other.paths, "path"),
        ];
        let mut lines: Vec<String> = texts
            .iter()
            .flat_map(|(set, kind)| set.iter().map(move |text| format!("{kind} {text}")))
            .collect();
        lines.extend((&self.processes - &other.processes).iter().map(|pid| format!("process {pid}")));
        lines
    }
}

/// Open descriptors and threads of a process.
pub fn descriptors_and_threads(pid: u32) -> (usize, usize) {
    let count = |name: &str| fs::read_dir(format!("/proc/{pid}/{name}")).map_or(0, Iterator::count);
    (count("fd"), count("task"))
}

fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().display().to_string())
        .collect()
}
