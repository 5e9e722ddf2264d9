//! The shim's arguments: `stower-shim 1 key=value…`. Pure; the library writes them, the shim reads them.
//!
//! The first argument is the version of arguments and descriptors. Keys are only added; unknown ones are ignored.

use super::time::number;

/// The version of the arguments and descriptors.
pub const CONTRACT: u64 = 1;

/// The arguments as the shim reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parsed<'a> {
    /// Pid of the container's first process.
    pub init_pid: u32,
    /// Number of the run.
    pub run: u64,
    /// The kernel's boot id.
    pub boot_id: &'a [u8],
    /// When the process was started, RFC 3339.
    pub started_at: &'a [u8],
    /// Size at which the next log file begins, in bytes.
    pub log_max_bytes: u64,
    /// Log files that are kept.
    pub log_max_files: u64,
    /// Never drop a line.
    pub log_block: bool,
    /// Whether the container's cgroup2 directory is open.
    pub cgroup_kill: bool,
    /// What the descriptor of standard input is: 0 none, 1 a pipe, 2 a terminal.
    pub stdin: u64,
}

/// Reads the arguments behind `argv[0]`; `None` when the version is another, a key is missing or a value is none.
pub fn parse<'a>(mut args: impl Iterator<Item = &'a [u8]>) -> Option<Parsed<'a>> {
    if number(args.next()?)? != CONTRACT {
        return None;
    }
    let (mut init_pid, mut run, mut max_bytes, mut max_files) = (None, None, None, None);
    let (mut boot_id, mut started_at): (Option<&[u8]>, Option<&[u8]>) = (None, None);
    let (mut log_block, mut cgroup_kill, mut stdin) = (0, 0, 0);
    for arg in args {
        let at = arg.iter().position(|&c| c == b'=')?;
        let value = &arg[at + 1..];
        match &arg[..at] {
            b"init-pid" => init_pid = Some(u32::try_from(number(value)?).ok()?),
            b"run" => run = Some(number(value)?),
            b"boot-id" => boot_id = Some(value),
            b"started-at" => started_at = Some(value),
            b"log-max-bytes" => max_bytes = Some(number(value)?),
            b"log-max-files" => max_files = Some(number(value)?),
            b"log-block" => log_block = number(value)?,
            b"cgroup-kill" => cgroup_kill = number(value)?,
            b"stdin" => stdin = number(value)?,
            _ => {}
        }
    }
    Some(Parsed {
        init_pid: init_pid?,
        run: run?,
        boot_id: boot_id?,
        started_at: started_at?,
        log_max_bytes: max_bytes?.max(1),
        log_max_files: max_files?.max(1),
        log_block: log_block != 0,
        cgroup_kill: cgroup_kill != 0,
        stdin,
    })
}
