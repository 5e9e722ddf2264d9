//! What runs in a container, and what it uses: from `/proc` and its groups, nothing of it by the container's word.

use std::{fs, io::Read, os::unix::fs::MetadataExt, path::Path};

use serde::{Deserialize, Serialize};
use stower_crds::ObjectKey;

use super::running;
use crate::{
    effects::chain,
    node::{ApiError, Node},
};

/// The longest command line that is shown, in bytes.
const MAX_COMMAND: u64 = 4096;
/// The longest other file of `/proc` that is read, in bytes.
const MAX_FILE: u64 = 64 << 10;

/// A process of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessView {
    /// User id on the machine.
    pub uid: u32,
    /// Pid on the machine.
    pub pid: u32,
    /// The parent's, on the machine.
    pub ppid: u32,
    /// Pid in the container.
    pub container_pid: u32,
    /// The kernel's letter for what it does (`proc_pid_stat(5)`).
    pub state: String,
    /// Resident memory in bytes.
    pub rss_bytes: u64,
    /// Processor time in milliseconds.
    pub cpu_ms: u64,
    /// Command and arguments; the name in brackets where it has none.
    pub command: String,
}

/// What a container uses; a missing number is one that nobody counts. Names as in Kubernetes' Summary API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatsView {
    /// When this was, RFC 3339.
    pub time: String,
    /// Processor time since the run began, in nanoseconds.
    pub usage_core_nano_seconds: Option<u64>,
    /// Memory without inactive file pages, in bytes.
    pub working_set_bytes: Option<u64>,
    /// Memory with them, in bytes.
    pub usage_bytes: Option<u64>,
    /// Its limit, in bytes.
    pub limit_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Their limit.
    pub pids_limit: Option<u64>,
    /// Bytes read from block devices since the run began.
    pub read_bytes: Option<u64>,
    /// Bytes written to block devices since the run began.
    pub write_bytes: Option<u64>,
    /// Bytes received, without loopback; none in the host's network.
    pub rx_bytes: Option<u64>,
    /// Bytes sent, likewise.
    pub tx_bytes: Option<u64>,
}

impl Node {
    /// The processes of a running container, by pid.
    ///
    /// # Errors
    /// When it does not run, or its group cannot be read.
    pub fn processes(&self, key: &ObjectKey) -> Result<Vec<ProcessView>, ApiError> {
        let (_, uid) = running(self, key)?;
        let pids = || self.cgroups.processes(&uid).map_err(|error| ApiError::internal(chain(&error)));
        let seen: Vec<ProcessView> = pids()?.into_iter().filter_map(process).collect();
        // Only those that are still there: a number that was looked at may have been another's meanwhile.
        let still = pids()?;
        Ok(seen.into_iter().filter(|p| i32::try_from(p.pid).is_ok_and(|pid| still.contains(&pid))).collect())
    }

    /// What a running container uses now.
    ///
    /// # Errors
    /// When it does not run.
    pub fn stats(&self, key: &ObjectKey) -> Result<StatsView, ApiError> {
        let (container, uid) = running(self, key)?;
        let stats = self.cgroups.stats(&uid);
        let network = network(container.record().init_pid);
        // The number was looked at; it was the container's if that is there now.
        let (container, _) =
            running(self, key).map(|(now, uid)| (now.record() == container.record(), uid))?;
        let (rx_bytes, tx_bytes) = network.filter(|_| container).unzip();
        Ok(StatsView {
            time: jiff::Timestamp::now().to_string(),
            usage_core_nano_seconds: stats.cpu_nanos,
            working_set_bytes: stats.memory_working_set_bytes,
            usage_bytes: stats.memory_bytes,
            limit_bytes: stats.memory_limit_bytes,
            pids: stats.pids,
            pids_limit: stats.pids_limit,
            read_bytes: stats.io_read_bytes,
            write_bytes: stats.io_write_bytes,
            rx_bytes,
            tx_bytes,
        })
    }
}

fn read(path: impl AsRef<Path>, max: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(max).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// `None` for one that has ended.
fn process(pid: i32) -> Option<ProcessView> {
    let dir = format!("/proc/{pid}");
    let text = |file: &str| {
        read(format!("{dir}/{file}"), MAX_FILE).map(|b| String::from_utf8_lossy(&b).into_owned())
    };
    let (stat, status) = (text("stat")?, text("status")?);
    // The name may hold anything; the last bracket ends it.
    let (name, rest) = stat.rsplit_once(')')?;
    let name = name.split_once('(')?.1;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let field = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let mut command = read(format!("{dir}/cmdline"), MAX_COMMAND)?;
    while command.last() == Some(&0) {
        command.pop();
    }
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    let ticks = number(11)? + number(12)?;
    Some(ProcessView {
        uid: field("Uid")?.split_ascii_whitespace().nth(1)?.parse().ok()?,
        pid: u32::try_from(pid).ok()?,
        ppid: fields.get(1)?.parse().ok()?,
        container_pid: field("NSpid")?.split_ascii_whitespace().last()?.parse().ok()?,
        state: (*fields.first()?).to_owned(),
        rss_bytes: number(21)?.saturating_mul(rustix::param::page_size() as u64),
        cpu_ms: ticks.saturating_mul(1000) / rustix::param::clock_ticks_per_second().max(1),
        command: if command.is_empty() { format!("[{name}]") } else { command },
    })
}

/// Bytes received and sent in the network namespace of a process, if that is not ours. The kernel tells of it from outside.
fn network(pid: u32) -> Option<(u64, u64)> {
    let namespace =
        |of: &str| fs::metadata(format!("/proc/{of}/ns/net")).map(|meta| (meta.dev(), meta.ino())).ok();
    if namespace(&pid.to_string())? == namespace("self")? {
        return None;
    }
    let text = read(format!("/proc/{pid}/net/dev"), MAX_FILE)?;
    Some(traffic(&String::from_utf8_lossy(&text)))
}

/// `/proc/net/dev`: two lines of headings, then `NAME: RECEIVED (8 numbers) SENT (8 numbers)`.
fn traffic(text: &str) -> (u64, u64) {
    let interfaces = text.lines().skip(2).filter_map(|line| line.rsplit_once(':'));
    interfaces.filter(|(name, _)| name.trim() != "lo").fold((0, 0), |(rx, tx), (_, counters)| {
        let numbers: Vec<u64> = counters.split_ascii_whitespace().map(|n| n.parse().unwrap_or(0)).collect();
        let at = |n: usize| numbers.get(n).copied().unwrap_or(0);
        (rx.saturating_add(at(0)), tx.saturating_add(at(8)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_is_summed_without_loopback() {
        let text = "Inter-|   Receive                |  Transmit\n face |bytes packets\n    \
                    lo: 100 1 0 0 0 0 0 0 100 1 0 0 0 0 0 0\n  eth0: 7 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n  eth1: 1 1 0 0 0 0 0 0 2 1 0 0 0 0 0 0\n";
        assert_eq!(traffic(text), (8, 11));
    }

    #[test]
    fn this_process_is_told() {
        let own = process(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert_eq!(own.pid, std::process::id());
        assert!(own.rss_bytes > 0 && !own.command.is_empty() && own.state.len() == 1, "{own:?}");
    }
}
