//! A group below a container's own, for one process and what it starts: so that these can be told from the rest.
//!
//! It is made in cgroup2 only, where a group needs no controller to have `cgroup.kill`, and no controller is passed down to
//! it: the container's limits and counters are those of the group above, and of the groups of version 1.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::kill;
use crate::job::CgroupJoin;

/// Names that are tried, should groups of former keepers be left.
const NAMES: u32 = 64;
/// How long killed processes may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// The group of one process.
#[derive(Debug)]
pub(crate) struct Inner {
    dir: PathBuf,
}

impl Inner {
    /// Makes a new one; `None` where that cannot be: without cgroup2, or in a group that the container has given threads
    /// or limits to below.
    pub(crate) fn make(join: &CgroupJoin, keeper: u32) -> Option<Self> {
        let own = join.v2.as_ref()?;
        for n in 0..NAMES {
            let dir = own.join(if n == 0 { format!("exec-{keeper}") } else { format!("exec-{keeper}-{n}") });
            match rustix::fs::mkdir(&dir, rustix::fs::Mode::from_raw_mode(0o755)) {
                Ok(()) => return Some(Self { dir }),
                Err(Errno::EXIST) => {}
                Err(_) => return None,
            }
        }
        None
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Kills all that is in it.
    pub(crate) fn kill(&self) {
        // What stays is the container's, and ends with it.
        let _ = kill::kill_v2(&self.dir);
    }

    /// Waits until nothing is in it, for five seconds at most.
    pub(crate) fn wait_empty(&self) {
        use rustix::event::{PollFd, PollFlags, Timespec};
        let until = Instant::now() + PATIENCE;
        let Ok(events) = std::fs::File::open(self.dir.join("cgroup.events")) else { return };
        loop {
            // It polls as exceptional when it has changed since it was read.
            let mut text = [0u8; 256];
            let Ok(len) = rustix::io::pread(&events, &mut text, 0) else { return };
            let left = until.saturating_duration_since(Instant::now());
            let populated = String::from_utf8_lossy(&text[..len]).contains("populated 1");
            let Ok(left) = Timespec::try_from(left) else { return };
            if !populated || Instant::now() >= until {
                return;
            }
            let _ = rustix::event::poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&left));
        }
    }

    /// Kills what is in it and removes it, once it is empty.
    pub(crate) fn kill_and_remove(self) {
        self.kill();
        self.wait_empty();
        let _ = kill::remove_tree(&self.dir, 0);
    }

    /// Removes it; processes that are left in it go on in the container's own group.
    pub(crate) fn leave_rest(self, join: &CgroupJoin) {
        let Some(own) = &join.v2 else { return };
        for _ in 0..NAMES {
            if kill::remove_dir(&self.dir).is_ok() {
                return;
            }
            let Ok(pids) = kill::pids(&self.dir, 0) else { return };
            for pid in pids {
                let _ = super::write(&own.join("cgroup.procs"), &pid.to_string());
            }
        }
    }
}

/// Kills the processes of a session, where there is no group of its own: those that have left it are missed.
pub(crate) fn kill_session(join: &CgroupJoin, session: u32) {
    let Some(dir) = join.v2.as_ref().or(join.v1.first().map(|g| &g.dir)) else { return };
    for pid in kill::pids(dir, 0).unwrap_or_default() {
        if u32::try_from(pid).is_ok_and(|pid| crate::proc::session(pid) == Some(session)) {
            let _ = kill::signal_member(dir, pid, rustix::process::Signal::KILL);
        }
    }
}

/// How many processes of the groups the kernel has killed for want of memory.
pub(crate) fn oom_kills_of(join: &CgroupJoin) -> u64 {
    let v1 = join.v1.iter().find(|g| g.name.split(',').any(|c| c == "memory"));
    match (v1, &join.v2) {
        (Some(group), _) => super::stats::oom_kills(&group.dir, false),
        (None, Some(dir)) => super::stats::oom_kills(dir, true),
        (None, None) => 0,
    }
}
