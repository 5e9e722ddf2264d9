//! Finding a container again that an earlier agent started.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use crate::proc::{self, ProcError};
use crate::record::{ExitRecord, RecordError, ShimRecord};
use crate::shim::frame::State;

/// What is known of a container by its run directory.
#[derive(Debug)]
pub enum Adoption {
    /// The shim lives, and so does what it holds.
    Running(ShimHandle),
    /// The shim has ended and said how the run ended.
    Exited(ExitRecord),
    /// The shim has ended without a word. Its cgroup has to be killed and proven empty before anything starts.
    Lost(ShimRecord),
    /// There is no record: nothing was started in this directory.
    None,
    /// The record is of another boot; nothing of it runs.
    OtherBoot(ShimRecord),
    /// It cannot be told. Never to be taken for absence.
    Unknown(AdoptError),
}

/// Why it cannot be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdoptError {
    /// The run directory cannot be opened.
    #[error("opening run directory {path}")]
    Open {
        /// The directory.
        path: std::path::PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A record cannot be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The shim's process cannot be looked at.
    #[error(transparent)]
    Process(#[from] ProcError),
}
