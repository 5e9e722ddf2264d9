//! Why a command did not do what it was asked.

use std::io;

use thiserror::Error;

use crate::cgroup::CgroupError;
use crate::error::{CompileError, Failure, FailureKind};
use crate::proc::ProcError;

/// The errors of every command.
#[derive(Debug, Error)]
pub(super) enum OciError {
    /// The configuration cannot be done.
    #[error(transparent)]
    Refused(#[from] CompileError),
    /// A step of a start failed.
    #[error("{}", described(.0))]
    Failed(Failure),
    /// Something about the groups.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A process could not be looked at.
    #[error(transparent)]
    Process(#[from] ProcError),
    /// A file, directory or descriptor.
    #[error("{what}")]
    Io {
        /// Which.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file that is no JSON, or not of the form it should have.
    #[error("{what} cannot be read")]
    Json {
        /// Which.
        what: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The caller asks for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// There is no such container.
    #[error("container does not exist: `{0}` has no state in the root directory")]
    NoContainer(String),
}

impl OciError {
    pub(super) fn io(what: impl std::fmt::Display, source: impl Into<io::Error>) -> Self {
        Self::Io { what: what.to_string(), source: source.into() }
    }

    /// What a shell would say of a command that cannot be executed; else 1.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(f) if f.stage == "exec" => match f.kind {
                FailureKind::CommandNotFound => 127,
                FailureKind::PermissionDenied | FailureKind::NotExecutable => 126,
                _ => 1,
            },
            _ => 1,
        }
    }
}

impl From<Failure> for OciError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Callers of OCI runtimes tell failures of an exec apart by these words.
fn described(failure: &Failure) -> String {
    match failure.kind {
        FailureKind::CommandNotFound => format!("{failure}: executable file not found in $PATH"),
        _ => failure.to_string(),
    }
}

pub(super) type Result<T> = std::result::Result<T, OciError>;
