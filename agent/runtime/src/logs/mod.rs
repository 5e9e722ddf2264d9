//! Reading a container's log.
//!
//! A run writes the files `<run>-<seq>.log` in the CRI log format; numbers only grow and no file is renamed. A reader
//! keeps its descriptor to the end of a file, then opens the next that exists, and reports what rotation has taken
//! from under it. Reading does not wait: at the end [`LogReader::next`] gives `None`, and may be called again when the
//! directory has changed.

mod last;
mod parse;
mod reader;
mod tail;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{AtFlags, Dir, Mode, OFlags};

pub use crate::shim::cri::Stream;
pub use parse::Timestamp;
pub use reader::LogReader;

use crate::shim::time::number;

/// The longest line that is joined from its pieces, in bytes; a longer one comes in pieces of about this length.
pub const MAX_LINE: usize = 1 << 20;

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The directory of the log files.
    #[error("opening log directory {path}")]
    Open {
        /// The directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The names in it.
    #[error("listing the log directory")]
    List(#[source] std::io::Error),
    /// One of its files.
    #[error("reading log file {file}")]
    Read {
        /// Name in the log directory.
        file: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A file that is of no more use.
    #[error("removing log file {file}")]
    Remove {
        /// Name in the log directory.
        file: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}

/// What to read.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadOptions {
    /// Only lines from this time on.
    pub since: Option<SystemTime>,
    /// Only so many of the lines that are there now.
    pub tail: Option<usize>,
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When the line, or its first piece, was read from the container.
    pub time: Timestamp,
    /// Where it was written.
    pub stream: Stream,
    /// The text without its line end. Any bytes.
    pub text: Vec<u8>,
    /// Whether a line end follows; otherwise this is a piece, or the line was never ended.
    pub complete: bool,
}

/// What a reader finds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogEvent {
    /// A line.
    Line(LogLine),
    /// Files were removed before they could be read.
    Gap {
        /// How many.
        files: u64,
    },
    /// Bytes that are no record.
    Damaged {
        /// How many.
        bytes: u64,
    },
}

/// A container's log directory.
#[derive(Debug)]
pub struct LogDir {
    fd: OwnedFd,
}

impl LogDir {
    /// Opens the directory; `None` when it is not there, so nothing was ever logged.
    ///
    /// # Errors
    /// The system's answer.
    pub fn open(path: &Path) -> Result<Option<Self>, LogError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(Self { fd })),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(e) => Err(LogError::Open { path: path.to_owned(), source: e.into() }),
        }
    }

    /// The runs that have files, in order. The last is the current one, the one before it the previous.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub fn runs(&self) -> Result<Vec<u64>, LogError> {
        Ok(self.files()?.into_keys().collect())
    }

    /// Reads a run, from its oldest file on or from where `options` say.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn reader(&self, run: u64, options: &ReadOptions) -> Result<LogReader, LogError> {
        LogReader::new(self.try_clone()?, run, options)
    }

    /// The text of a run's last lines, of both streams: at most `lines` of them, and of those the last `bytes` bytes. Reads at
    /// most 64 KiB, whatever was logged.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn last_words(&self, run: u64, lines: usize, bytes: usize) -> Result<Vec<u8>, LogError> {
        last::last(self, run, lines, bytes)
    }

    /// Removes the files of all but the last `keep` runs.
    ///
    /// # Errors
    /// The first failure; the rest is tried all the same.
    pub fn prune(&self, keep: usize) -> Result<(), LogError> {
        let mut result = Ok(());
        for (run, seqs) in self.files()?.into_iter().rev().skip(keep) {
            for seq in seqs {
                let file = name(run, seq);
                match rustix::fs::unlinkat(&self.fd, &file, AtFlags::empty()) {
                    Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                    Err(e) if result.is_ok() => {
                        result = Err(LogError::Remove { file, source: e.into() });
                    }
                    Err(_) => {}
                }
            }
        }
        result
    }

    fn try_clone(&self) -> Result<Self, LogError> {
        Ok(Self { fd: self.fd.try_clone().map_err(LogError::List)? })
    }

    /// The numbers of the files, by run, in order.
    fn files(&self) -> Result<BTreeMap<u64, Vec<u64>>, LogError> {
        let failed = |e: rustix::io::Errno| LogError::List(e.into());
        let mut files: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for entry in Dir::read_from(&self.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if let Some((run, seq)) = numbers(entry.file_name().to_bytes()) {
                files.entry(run).or_default().push(seq);
            }
        }
        for seqs in files.values_mut() {
            seqs.sort_unstable();
        }
        Ok(files)
    }

    fn files_of(&self, run: u64) -> Result<Vec<u64>, LogError> {
        Ok(self.files()?.remove(&run).unwrap_or_default())
    }

    /// A log file; `None` when it is gone or no regular file, as something planted there would be.
    fn file(&self, run: u64, seq: u64) -> Result<Option<File>, LogError> {
        let name = name(run, seq);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match rustix::fs::openat(&self.fd, &name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::LOOP | rustix::io::Errno::NXIO) => {
                return Ok(None);
            }
            Err(e) => return Err(LogError::Read { file: name, source: e.into() }),
        };
        let meta = file.metadata().map_err(|source| LogError::Read { file: name, source })?;
        Ok(meta.is_file().then_some(file))
    }
}

fn name(run: u64, seq: u64) -> String {
    format!("{run}-{seq}.log")
}

/// Run and number of a log file by its name, if it is just as the shim writes it.
fn numbers(file_name: &[u8]) -> Option<(u64, u64)> {
    let stem = file_name.strip_suffix(b".log")?;
    let dash = stem.iter().position(|&c| c == b'-')?;
    let (run, seq) = (number(&stem[..dash])?, number(&stem[dash + 1..])?);
    (name(run, seq).as_bytes() == file_name).then_some((run, seq))
}
