//! What one more process must know of a container as it was started.

use std::os::fd::AsFd;

use serde::{Deserialize, Serialize};

use crate::job::{CgroupJoin, Job, Process};
use crate::record::{self, RecordError};

/// The record in the run directory, written by the starter before the first process gets its go.
pub const EXEC_FILE: &str = "exec.json";
/// No record is longer, in bytes: arguments and environment of one exec are at most 2 MiB, and JSON may escape each byte.
const MAX_LEN: u64 = 16 << 20;

/// A container as it was started. Boot-scoped: write and rename, void under another boot id. Fields are only added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecRecord {
    /// Version of the record.
    pub version: u32,
    /// The kernel's boot id when it was written.
    pub boot_id: String,
    /// Number of the run.
    pub run: u64,
    /// The container's own process; one more differs from it in what is asked for, and in nothing else.
    pub process: Process,
    /// Its groups.
    pub cgroup: CgroupJoin,
    /// Its filter, an instruction of eight bytes a number; empty for none.
    pub filter: Vec<u64>,
    /// Fields of a newer release.
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl ExecRecord {
    pub(crate) fn of(job: &Job, filter: &[u8]) -> Self {
        let number = |bytes: &[u8]| {
            bytes.iter().enumerate().fold(0, |sum, (at, byte)| sum | u64::from(*byte) << (8 * at))
        };
        Self {
            version: record::VERSION,
            boot_id: job.boot_id.clone(),
            run: job.run,
            process: job.process.clone(),
            cgroup: job.cgroup.clone(),
            filter: filter.chunks(8).map(number).collect(),
            extra: serde_json::Map::new(),
        }
    }

    /// The filter as the kernel takes it.
    pub(crate) fn filter_bytes(&self) -> Vec<u8> {
        self.filter.iter().flat_map(|instruction| instruction.to_le_bytes()).collect()
    }

    /// Reads the record in `run_dir`; `None` when there is none.
    ///
    /// # Errors
    /// Whatever leaves open how the container was started.
    pub fn read(run_dir: impl AsFd) -> Result<Option<Self>, RecordError> {
        record::read(run_dir, EXEC_FILE, MAX_LEN)
    }

    /// Writes the record into `run_dir`, by write and rename.
    pub(crate) fn write(&self, run_dir: impl AsFd) -> Result<(), RecordError> {
        record::write(run_dir, EXEC_FILE, self)
    }
}
