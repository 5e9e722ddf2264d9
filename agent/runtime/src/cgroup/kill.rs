//! Ending and removing groups.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::{CgroupError, write};
use crate::job::CgroupJoin;

/// Rounds of looking for processes that fork while they are killed.
const ROUNDS: usize = 64;
/// Groups nest no deeper than this in what a container can make.
pub(super) const MAX_DEPTH: usize = 64;

/// Kills what is in the groups of one start.
pub(crate) fn kill_join(join: &CgroupJoin) {
    let done = match (&join.v2, join.v1.iter().find(|g| g.name.contains("freezer")).or(join.v1.first())) {
        (Some(dir), _) => kill_v2(dir),
        (None, Some(group)) => kill_v1(&group.dir, group.name.contains("freezer")),
        (None, None) => Ok(()),
    };
    if let Err(e) = done {
        tracing::warn!(error = &e as &dyn std::error::Error, "killing the group of a failed start");
    }
}

pub(super) fn populated_v2(dir: &Path) -> Option<bool> {
    match std::fs::read_to_string(dir.join("cgroup.events")) {
        Ok(text) => match text.lines().find_map(|l| l.strip_prefix("populated "))? {
            "0" => Some(false),
            "1" => Some(true),
            _ => None,
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Some(false),
        Err(_) => None,
    }
}

pub(super) fn populated_v1(dir: &Path) -> Option<bool> {
    match pids(dir, 0) {
        Ok(pids) => Some(!pids.is_empty()),
        Err(CgroupError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Some(false),
        Err(_) => None,
    }
}

/// By `cgroup.kill` (5.14 and later), which no fork escapes.
pub(super) fn kill_v2(dir: &Path) -> Result<(), CgroupError> {
    match write(&dir.join("cgroup.kill"), "1") {
        Err(CgroupError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            if dir.exists() {
                kill_v1(dir, false)
            } else {
                Ok(())
            }
        }
        other => other,
    }
}

/// One by one, frozen meanwhile where there is a freezer, until none is left.
pub(super) fn kill_v1(dir: &Path, freezer: bool) -> Result<(), CgroupError> {
    if !dir.exists() {
        return Ok(());
    }
    let state = dir.join("freezer.state");
    if freezer {
        write(&state, "FROZEN")?;
    }
    let killed = kill_loop(dir);
    if freezer {
        write(&state, "THAWED")?;
    }
    killed
}

fn kill_loop(dir: &Path) -> Result<(), CgroupError> {
    let mut signalled = BTreeSet::new();
    for _ in 0..ROUNDS {
        let now = pids(dir, 0)?;
        let new: Vec<i32> = now.difference(&signalled).copied().collect();
        if new.is_empty() {
            return Ok(());
        }
        for pid in new {
            signal_member(dir, pid, Signal::KILL)?;
            signalled.insert(pid);
        }
    }
    Err(CgroupError::Busy { path: dir.to_owned() })
}

/// The pidfd first, then proof that the pid is still in the group: so it can be no other's.
pub(super) fn signal_member(dir: &Path, pid: i32, signal: Signal) -> Result<(), CgroupError> {
    let Some(number) = Pid::from_raw(pid) else { return Ok(()) };
    let fd = match rustix::process::pidfd_open(number, PidfdFlags::empty()) {
        Ok(fd) => fd,
        Err(Errno::SRCH) => return Ok(()),
        Err(e) => return Err(CgroupError::io(dir, e)),
    };
    if !pids(dir, 0)?.contains(&pid) {
        return Ok(());
    }
    match rustix::process::pidfd_send_signal(&fd, signal) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(e) => Err(CgroupError::io(dir, e)),
    }
}

/// Every process of the group and those below it.
pub(super) fn pids(dir: &Path, depth: usize) -> Result<BTreeSet<i32>, CgroupError> {
    let file = dir.join("cgroup.procs");
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        // The group went while we looked.
        Err(e) if depth > 0 && matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => String::new(),
        Err(e) => return Err(CgroupError::io(&file, e)),
    };
    let mut all: BTreeSet<i32> = text.lines().filter_map(|l| l.parse().ok()).collect();
    for child in children(dir)? {
        if depth < MAX_DEPTH {
            all.extend(pids(&child, depth + 1)?);
        }
    }
    Ok(all)
}

pub(super) fn children(dir: &Path) -> Result<Vec<std::path::PathBuf>, CgroupError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(CgroupError::io(dir, e)),
    };
    Ok(entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect())
}

/// Removes a group, and what a container has made below it.
pub(super) fn remove_tree(dir: &Path, depth: usize) -> Result<(), CgroupError> {
    match remove_dir(dir) {
        Err(CgroupError::Busy { .. }) if depth < MAX_DEPTH => {}
        other => return other,
    }
    for child in children(dir)? {
        remove_tree(&child, depth + 1)?;
    }
    remove_dir(dir)
}

pub(super) fn remove_dir(dir: &Path) -> Result<(), CgroupError> {
    match rustix::fs::rmdir(dir) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::BUSY | Errno::NOTEMPTY) => Err(CgroupError::Busy { path: dir.to_owned() }),
        Err(e) => Err(CgroupError::io(dir, e)),
    }
}
