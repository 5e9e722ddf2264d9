//! What a container uses.

use std::path::{Path, PathBuf};

/// Numbers of one moment; `None` where nothing counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Memory in bytes, page cache included.
    pub memory_bytes: Option<u64>,
    /// Memory in bytes without inactive file pages: what Kubernetes calls the working set.
    pub memory_working_set_bytes: Option<u64>,
    /// Processor time since the group was made, in nanoseconds.
    pub cpu_nanos: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// The limit of memory in bytes.
    pub memory_limit_bytes: Option<u64>,
    /// The limit of processes and threads.
    pub pids_limit: Option<u64>,
    /// Bytes read from block devices since the group was made.
    pub io_read_bytes: Option<u64>,
    /// Bytes written to block devices, likewise.
    pub io_write_bytes: Option<u64>,
}

/// Version 1 says so for no limit: the largest number of pages, in bytes.
const V1_NO_LIMIT: u64 = 1 << 62;

type Group = Option<(PathBuf, bool)>;

pub(super) fn read(memory: Group, cpu: Group, pids: Group, io: Group) -> Stats {
    let mut stats = Stats::default();
    if let Some((dir, v2)) = memory {
        let (usage, inactive) = if v2 {
            ("memory.current", "inactive_file")
        } else {
            ("memory.usage_in_bytes", "total_inactive_file")
        };
        stats.memory_bytes = number(&dir.join(usage));
        let inactive = field(&dir.join("memory.stat"), inactive).unwrap_or(0);
        let limit = if v2 { "memory.max" } else { "memory.limit_in_bytes" };
        stats.memory_limit_bytes = number(&dir.join(limit)).filter(|limit| *limit < V1_NO_LIMIT);
        stats.memory_working_set_bytes = stats.memory_bytes.map(|m| m.saturating_sub(inactive));
    }
    if let Some((dir, v2)) = cpu {
        stats.cpu_nanos = if v2 {
            field(&dir.join("cpu.stat"), "usage_usec").map(|us| us.saturating_mul(1000))
        } else {
            number(&dir.join("cpuacct.usage"))
        };
    }
    if let Some((dir, _)) = pids {
        stats.pids = number(&dir.join("pids.current"));
        stats.pids_limit = number(&dir.join("pids.max"));
    }
    if let Some((dir, v2)) = io {
        let file = if v2 { "io.stat" } else { "blkio.throttle.io_service_bytes_recursive" };
        if let Ok(text) = std::fs::read_to_string(dir.join(file)) {
            (stats.io_read_bytes, stats.io_write_bytes) = if v2 { io_v2(&text) } else { io_v1(&text) };
        }
    }
    stats
}

/// Version 2 counts those of the groups below too; version 1 counts each group by itself.
/// Lines `MAJOR:MINOR rbytes=N wbytes=N …`.
pub(super) fn io_v2(text: &str) -> (Option<u64>, Option<u64>) {
    let sum = |key: &str| {
        let values =
            text.split_ascii_whitespace().filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok());
        Some(values.fold(0, u64::saturating_add))
    };
    (sum("rbytes="), sum("wbytes="))
}

/// Lines `MAJOR:MINOR Read N`, and others.
pub(super) fn io_v1(text: &str) -> (Option<u64>, Option<u64>) {
    let sum = |key: &str| {
        let values = text.lines().filter_map(|line| {
            let mut words = line.split_ascii_whitespace().skip(1);
            (words.next()? == key).then(|| words.next()?.parse::<u64>().ok())?
        });
        Some(values.fold(0, u64::saturating_add))
    };
    (sum("Read"), sum("Write"))
}

pub(super) fn oom_kills(dir: &Path, v2: bool) -> u64 {
    if v2 { field(&dir.join("memory.events"), "oom_kill").unwrap_or(0) } else { oom_kills_v1(dir, 0) }
}

fn oom_kills_v1(dir: &Path, depth: usize) -> u64 {
    let own = field(&dir.join("memory.oom_control"), "oom_kill").unwrap_or(0);
    let below = super::kill::children(dir).unwrap_or_default();
    let below = below.iter().filter(|_| depth < super::kill::MAX_DEPTH);
    below.map(|child| oom_kills_v1(child, depth + 1)).fold(own, u64::saturating_add)
}

fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn field(path: &Path, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}
