//! Who a process is: (boot id, pid, start time), and signals through a pidfd only.

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags, Signal};

#[cfg(test)]
mod tests;

/// The identity of a process within one boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessId {
    /// Pid in the caller's pid namespace.
    pub pid: u32,
    /// Start time in clock ticks since boot (`proc_pid_stat(5)`, field 22).
    pub start: u64,
}

/// Why a process could not be looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcError {
    /// A file of `/proc` cannot be read.
    #[error("reading {path}")]
    Read {
        /// The file.
        path: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A file of `/proc` has no such field.
    #[error("{path} has an unknown form")]
    Form {
        /// The file.
        path: String,
    },
    /// The pidfd could not be opened.
    #[error("opening process {pid}")]
    Open {
        /// The pid.
        pid: u32,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The signal could not be sent.
    #[error("sending signal {signal}")]
    Signal {
        /// Signal number.
        signal: i32,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}

/// The kernel's boot id (`random(4)`), without the line end.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn boot_id() -> Result<String, ProcError> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(read(path)?.trim_end().to_owned())
}

/// Start time of a process in clock ticks since boot; `None` when there is no such process.
///
/// # Errors
/// When `/proc` cannot be read or has another form.
pub fn start_time(pid: u32) -> Result<Option<u64>, ProcError> {
    let path = format!("/proc/{pid}/stat");
    match read(&path) {
        Ok(stat) => parse_start(&stat).map(Some).ok_or(ProcError::Form { path }),
        Err(ProcError::Read { source, .. }) if gone(&source) => Ok(None),
        Err(e) => Err(e),
    }
}

/// A pidfd of exactly this process; `None` when it has ended, even if its pid is in use again.
///
/// The pidfd is opened first and the start time compared after, so the descriptor cannot be another process's.
///
/// # Errors
/// When the kernel does not tell.
pub fn open(id: ProcessId) -> Result<Option<OwnedFd>, ProcError> {
    let failed = |source: std::io::Error| ProcError::Open { pid: id.pid, source };
    let Some(pid) = i32::try_from(id.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
    let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        Err(e) => return Err(failed(e.into())),
    };
    Ok((start_time(id.pid)? == Some(id.start)).then_some(pidfd))
}

/// Whether the process has ended; it may still have to be reaped.
///
/// # Errors
/// The system's answer to `poll`.
pub fn has_ended(pidfd: impl AsFd) -> Result<bool, std::io::Error> {
    wait(pidfd, Some(std::time::Duration::ZERO))
}

/// Waits until the process has ended, at most `timeout`; says whether it has.
///
/// # Errors
/// The system's answer to `poll`.
pub fn wait(pidfd: impl AsFd, timeout: Option<std::time::Duration>) -> Result<bool, std::io::Error> {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let until = timeout.map(|t| std::time::Instant::now() + t);
    loop {
        let left = until.map(|u| u.saturating_duration_since(std::time::Instant::now()));
        let left = left.map(|d| Timespec {
            tv_sec: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(d.subsec_nanos()),
        });
        let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
        match rustix::event::poll(&mut fds, left.as_ref()) {
            Ok(n) => return Ok(n > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Sends a signal; `false` when the process has ended.
///
/// # Errors
/// The system's answer.
pub fn signal(pidfd: BorrowedFd<'_>, signal: Signal) -> Result<bool, ProcError> {
    match rustix::process::pidfd_send_signal(pidfd, signal) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::SRCH) => Ok(false),
        Err(e) => Err(ProcError::Signal { signal: signal.as_raw(), source: e.into() }),
    }
}

/// Exit code of a process, 128 + signal for a death by signal, from its pidfd after it is reaped (`PIDFD_GET_INFO` with
/// `PIDFD_INFO_EXIT`, Linux 6.15 and later); `None` where the kernel does not know it (any more).
#[must_use]
pub fn exit_code(pidfd: BorrowedFd<'_>) -> Option<i32> {
    /// `struct pidfd_info`, its first published size (`linux/pidfd.h`).
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        mask: u64,
        cgroup: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    const EXIT: u64 = 1 << 3;
    // _IOWR(0xFF, 11, struct pidfd_info)
    const GET_INFO: libc::Ioctl = (3 << 30) | (64 << 16) | (0xff << 8) | 11;
    const { assert!(size_of::<Info>() == 64) };
    let mut info = Info { mask: EXIT, ..Info::default() };
    // SAFETY: the kernel writes at most as much as the size in the request's number says.
    let done = unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO, &raw mut info) };
    if done != 0 || info.mask & EXIT == 0 {
        return None;
    }
    let signal = info.exit_code & 0x7f;
    Some(if signal == 0 { (info.exit_code >> 8) & 0xff } else { 128 + signal })
}

/// Field 22. The name in field 2 may hold spaces and brackets, so fields are counted behind its last bracket.
fn parse_start(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The session of a process; `None` when it has ended, or `/proc` does not tell.
pub(crate) fn session(pid: u32) -> Option<u32> {
    let stat = read(&format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(3)?.parse().ok()
}

fn gone(e: &std::io::Error) -> bool {
    matches!(rustix::io::Errno::from_io_error(e), Some(rustix::io::Errno::NOENT | rustix::io::Errno::SRCH))
}

fn read(path: &str) -> Result<String, ProcError> {
    let failed = |source| ProcError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    std::fs::File::open(path).map_err(failed)?.take(4096).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}
