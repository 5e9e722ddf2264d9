//! The shim as the library sees it: its bytes, its arguments, the frames of its socket.

#[path = "../../shim/args.rs"]
pub mod args;
#[path = "../../shim/cri.rs"]
pub mod cri;
#[path = "../../shim/exit.rs"]
pub mod exit;
#[path = "../../shim/frame.rs"]
pub mod frame;
#[path = "../../shim/time.rs"]
pub mod time;

use std::ffi::OsString;

#[cfg(test)]
mod tests;

/// The shim program, an executable for this architecture. It is written to a file named by its digest and run there.
pub static SHIM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/stower-shim"));

/// The version of arguments, descriptors and frames; the record's `contract`.
pub const CONTRACT: u32 = 1;

/// The descriptors that a shim finds open when it is executed. 0 to 2 are `/dev/null`.
pub mod fd {
    /// The container's run directory.
    pub const RUN_DIR: i32 = 3;
    /// The directory of the container's log files.
    pub const LOG_DIR: i32 = 4;
    /// The listening socket (`SOCK_STREAM`) `s` in the run directory.
    pub const SOCKET: i32 = 5;
    /// The pidfd of the container's first process.
    pub const INIT_PIDFD: i32 = 6;
    /// Read end of the container's stdout.
    pub const STDOUT: i32 = 7;
    /// Read end of the container's stderr.
    pub const STDERR: i32 = 8;
    /// The container's directory in cgroup2, open as `O_DIRECTORY`; only when
    /// [`cgroup_kill`](super::ShimArgs::cgroup_kill) is set.
    pub const CGROUP: i32 = 9;
    /// The write end of the container's stdin, or the master of its terminal, which is [`STDOUT`] too; only when
    /// [`stdin`](super::ShimArgs::stdin) says so.
    pub const STDIN: i32 = 10;
}

/// What a shim is told by its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShimArgs {
    /// Pid of the container's first process, a child of the process that becomes the shim.
    pub init_pid: u32,
    /// Number of the run; it only grows. Names the log files and goes into the exit record.
    pub run: u64,
    /// The kernel's boot id, for the exit record.
    pub boot_id: String,
    /// When the process was started, RFC 3339 with nanoseconds, for the exit record.
    pub started_at: String,
    /// A log file is followed by the next one at this size, in bytes.
    pub log_max_bytes: u64,
    /// Log files of a run that are kept.
    pub log_max_files: u32,
    /// With a log that cannot be written: wait for ever (`true`), or drop lines after one second and count them.
    pub log_block: bool,
    /// Whether [`fd::CGROUP`] is open.
    pub cgroup_kill: bool,
    /// What [`fd::STDIN`] is.
    pub stdin: Stdin,
}

/// What a shim holds of a container's standard input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stdin {
    /// Nothing: it is at its end from the start.
    #[default]
    None = 0,
    /// The write end of a pipe.
    Pipe = 1,
    /// The master of a terminal.
    Terminal = 2,
}

impl ShimArgs {
    /// The argument vector, `argv[0]` included. Give it an empty environment.
    #[must_use]
    pub fn to_argv(&self) -> Vec<OsString> {
        let Self {
            init_pid,
            run,
            boot_id,
            started_at,
            log_max_bytes,
            log_max_files,
            log_block,
            cgroup_kill,
            stdin,
        } = self;
        [
            "stower-shim".to_owned(),
            CONTRACT.to_string(),
            format!("init-pid={init_pid}"),
            format!("run={run}"),
            format!("boot-id={boot_id}"),
            format!("started-at={started_at}"),
            format!("log-max-bytes={log_max_bytes}"),
            format!("log-max-files={log_max_files}"),
            format!("log-block={}", u8::from(*log_block)),
            format!("cgroup-kill={}", u8::from(*cgroup_kill)),
            format!("stdin={}", *stdin as u8),
        ]
        .into_iter()
        .map(OsString::from)
        .collect()
    }
}
