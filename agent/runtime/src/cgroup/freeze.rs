//! Stopping every process of a group for a while, without a signal that it could see.
//!
//! Version 2 has it in every group (`cgroup.freeze`, cgroup-v2.rst), without any controller, so also in the cgroup2 of a
//! hybrid; version 1 has a controller (freezer-subsystem.rst).

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{CgroupError, write};

/// How long processes may take to stop. One that waits for a disk or a network filesystem stops after that only.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How often version 1, which tells of nothing, is asked.
const INTERVAL: Duration = Duration::from_millis(1);
/// Asked so often in vain, version 1 is thawed for a moment: a process that forks can keep it half frozen for ever.
const AGAIN: u32 = 64;

/// Freezes a group and waits until it is frozen.
pub(super) fn freeze(dir: &Path, v2: bool, patience: Duration) -> Result<(), CgroupError> {
    let until = Instant::now() + patience;
    let done = if v2 { freeze_v2(dir, until) } else { freeze_v1(dir, until) };
    if done.is_err() {
        // Half frozen is worse than not.
        let _ = thaw(dir, v2);
    }
    done
}

/// Lets a group go on. A group that is not there does.
pub(super) fn thaw(dir: &Path, v2: bool) -> Result<(), CgroupError> {
    let (file, value) = if v2 { ("cgroup.freeze", "0") } else { ("freezer.state", "THAWED") };
    match write(&dir.join(file), value) {
        Err(CgroupError::Io { source, .. })
            if matches!(source.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Whether every process stands still.
pub(super) fn frozen(dir: &Path, v2: bool) -> Option<bool> {
    let file = if v2 { "cgroup.events" } else { "freezer.state" };
    match std::fs::read_to_string(dir.join(file)) {
        Ok(text) if v2 => frozen_event(&text),
        Ok(text) => Some(text.trim() == "FROZEN"),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Some(false),
        Err(_) => None,
    }
}

fn frozen_event(text: &str) -> Option<bool> {
    match text.lines().find_map(|l| l.strip_prefix("frozen "))? {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

/// `cgroup.events` polls as exceptional when it has changed since it was read.
fn freeze_v2(dir: &Path, until: Instant) -> Result<(), CgroupError> {
    let path = dir.join("cgroup.events");
    let fail = |e: Errno| CgroupError::io(&path, e);
    let events = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(fail)?;
    write(&dir.join("cgroup.freeze"), "1")?;
    loop {
        let mut text = [0u8; 256];
        let len = rustix::io::pread(&events, &mut text, 0).map_err(fail)?;
        if frozen_event(&String::from_utf8_lossy(&text[..len])) == Some(true) {
            return Ok(());
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(CgroupError::NotFrozen { path: dir.to_owned() });
        }
        let left = Timespec::try_from(left)
            .map_err(|_| CgroupError::io(&path, io::Error::from(io::ErrorKind::InvalidInput)))?;
        match rustix::event::poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&left)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(fail(e)),
        }
    }
}

fn freeze_v1(dir: &Path, until: Instant) -> Result<(), CgroupError> {
    let state = dir.join("freezer.state");
    let mut tries = 0u32;
    loop {
        // Written again each time: it takes in what was forked since.
        write(&state, "FROZEN")?;
        let text = std::fs::read_to_string(&state).map_err(|e| CgroupError::io(&state, e))?;
        if text.trim() == "FROZEN" {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(CgroupError::NotFrozen { path: dir.to_owned() });
        }
        tries += 1;
        if tries.is_multiple_of(AGAIN) {
            write(&state, "THAWED")?;
        }
        std::thread::sleep(INTERVAL);
    }
}
