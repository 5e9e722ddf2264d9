//! The records of a container's run directory: who its shim is, and how the run ended.
//!
//! Both are boot-scoped: written by write and rename, without fsync, and void under another boot id. Fields are only
//! added; unknown ones are kept.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags};
use serde::{Deserialize, Serialize};

/// The record of a running shim, in the run directory.
pub const SHIM_FILE: &str = "shim.json";
/// The record of an ended run, in the run directory.
pub const EXIT_FILE: &str = "exit.json";
/// The version that this release writes.
pub const VERSION: u32 = 1;
/// No record of a shim is longer; a longer file is refused, in bytes.
const MAX_LEN: u64 = 64 * 1024;

/// Who the shim and the first process of a container are. Written by the starter before the first process runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShimRecord {
    /// Version of the record.
    pub version: u32,
    /// The kernel's boot id when it was written.
    pub boot_id: String,
    /// Pid of the shim.
    pub shim_pid: u32,
    /// Start time of the shim in clock ticks since boot (`proc_pid_stat(5)`, field 22).
    pub shim_start: u64,
    /// Pid of the container's first process.
    pub init_pid: u32,
    /// Start time of the first process, as for the shim.
    pub init_start: u64,
    /// Number of the run.
    pub run: u64,
    /// When the process was started, RFC 3339 with nanoseconds.
    pub started_at: String,
    /// Digest of the shim program, `sha256:<hex>`.
    pub shim: String,
    /// Version of the shim's arguments, descriptors and frames.
    pub contract: u32,
    /// Fields of a newer release.
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

/// How a run ended. Written by the shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExitRecord {
    /// Version of the record.
    pub version: u32,
    /// The kernel's boot id when the run began.
    pub boot_id: String,
    /// Number of the run.
    pub run: u64,
    /// Exit code, 128 + signal for a death by signal.
    pub exit_code: i32,
    /// The signal that ended the process, 0 for none.
    pub signal: i32,
    /// When the process was started, RFC 3339 with nanoseconds.
    pub started_at: String,
    /// When the shim reaped the process, RFC 3339 with nanoseconds.
    pub finished_at: String,
    /// Log lines that were dropped, because the log could not be written.
    #[serde(default)]
    pub dropped_lines: u64,
    /// Milliseconds that it ran on `CLOCK_BOOTTIME`; a shim of an earlier release does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ran_ms: Option<u64>,
    /// Fields of a newer release.
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

/// Why a record could not be read or written. None of them says that there is no record.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The file is there and cannot be read.
    #[error("reading {file}")]
    Read {
        /// Name in the run directory.
        file: &'static str,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The file is no record.
    #[error("{file} is not a record")]
    Parse {
        /// Name in the run directory.
        file: &'static str,
        /// Where it goes wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The file is not a regular file, or is far too long: 64 KiB, and 16 MiB for `exec.json`.
    #[error("{file} is not a regular file, or is longer than any record")]
    NotARecord {
        /// Name in the run directory.
        file: &'static str,
    },
    /// A newer release has written it.
    #[error(
        "{file} has version {version}, this release reads up to {VERSION}; use the release that wrote it"
    )]
    Newer {
        /// Name in the run directory.
        file: &'static str,
        /// The version found.
        version: u64,
    },
    /// The record could not be written.
    #[error("writing {file}")]
    Write {
        /// Name in the run directory.
        file: &'static str,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}

/// The field of a [`ShimRecord`] that names the runtime, where it is not the built-in one.
pub const OUTSIDE: &str = "runtime";

impl ShimRecord {
    /// The name of the other runtime that the container was started with; `None` for the built-in one.
    #[must_use]
    pub fn outside(&self) -> Option<&str> {
        self.extra.get(OUTSIDE).and_then(serde_json::Value::as_str)
    }

    /// Reads the record in `run_dir`; `None` when there is none.
    ///
    /// # Errors
    /// Whatever leaves open who the shim is.
    pub fn read(run_dir: impl AsFd) -> Result<Option<Self>, RecordError> {
        read(run_dir, SHIM_FILE, MAX_LEN)
    }

    /// Writes the record into `run_dir`, by write and rename.
    ///
    /// # Errors
    /// The system's answer; the former record is then still there.
    pub fn write(&self, run_dir: impl AsFd) -> Result<(), RecordError> {
        write(run_dir, SHIM_FILE, self)
    }
}

impl ExitRecord {
    /// Reads the record in `run_dir`; `None` when there is none.
    ///
    /// # Errors
    /// Whatever leaves open how the run ended.
    pub fn read(run_dir: impl AsFd) -> Result<Option<Self>, RecordError> {
        read(run_dir, EXIT_FILE, MAX_LEN)
    }
}

pub(crate) fn read<T: serde::de::DeserializeOwned>(
    run_dir: impl AsFd,
    file: &'static str,
    max: u64,
) -> Result<Option<T>, RecordError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let fd: OwnedFd = match rustix::fs::openat(run_dir, file, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(rustix::io::Errno::LOOP) => return Err(RecordError::NotARecord { file }),
        Err(e) => return Err(RecordError::Read { file, source: e.into() }),
    };
    let opened = std::fs::File::from(fd);
    let meta = opened.metadata().map_err(|source| RecordError::Read { file, source })?;
    if !meta.is_file() || meta.len() > max {
        return Err(RecordError::NotARecord { file });
    }
    let mut bytes = Vec::new();
    opened.take(max).read_to_end(&mut bytes).map_err(|source| RecordError::Read { file, source })?;
    parse(&bytes, file).map(Some)
}

/// The version is judged before the fields: a newer record may have changed them.
fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8], file: &'static str) -> Result<T, RecordError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u64,
    }
    let Versioned { version } =
        serde_json::from_slice(bytes).map_err(|source| RecordError::Parse { file, source })?;
    if version > u64::from(VERSION) {
        return Err(RecordError::Newer { file, version });
    }
    serde_json::from_slice(bytes).map_err(|source| RecordError::Parse { file, source })
}

pub(crate) fn write<T: Serialize>(
    run_dir: impl AsFd,
    file: &'static str,
    record: &T,
) -> Result<(), RecordError> {
    let dir = run_dir.as_fd();
    let failed = |source: std::io::Error| RecordError::Write { file, source };
    let bytes = serde_json::to_vec(record).map_err(|e| failed(e.into()))?;
    let new = format!("{file}.new");
    match rustix::fs::unlinkat(dir, &new, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(e) => return Err(failed(e.into())),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, &new, flags, Mode::RUSR | Mode::WUSR).map_err(|e| failed(e.into()))?;
    std::fs::File::from(fd).write_all(&bytes).map_err(failed)?;
    rustix::fs::renameat(dir, &new, dir, file).map_err(|e| failed(e.into()))
}
