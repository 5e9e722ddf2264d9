//! The errors of a start: refused before anything was done, or failed on the way.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a request cannot be turned into a [`crate::job::Job`]. Nothing was created.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CompileError {
    /// The field is known to the specification, but this version does not do it.
    #[error("{field}: not supported by this version; {hint}")]
    Unsupported {
        /// The field's path in `config.json`, such as `linux.intelRdt`.
        field: String,
        /// What to do instead.
        hint: String,
    },
    /// The field's value cannot be right on any machine.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field's path in `config.json`.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl CompileError {
    pub(crate) fn unsupported(field: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Unsupported { field: field.into(), hint: hint.into() }
    }

    pub(crate) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), problem: problem.into() }
    }
}

/// The kind of a failure inside the starter or the container's first process, for a caller that acts on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum FailureKind {
    /// No such command in the image (a shell would say 127).
    CommandNotFound,
    /// The command may not be executed by this user (a shell would say 126).
    PermissionDenied,
    /// The file is no program for this machine, or its interpreter is missing.
    NotExecutable,
    /// The user or group is not in the image's own files, or cannot be parsed.
    NoSuchUser,
    /// The working directory cannot be entered.
    BadCwd,
    /// The agent itself lacks a capability that the request needs.
    MissingCapability,
    /// The image or a volume holds something at a path that would have led out of the container, or to a
    /// wrong kind of file.
    UnsafePath,
    /// Anything else.
    Other,
}

/// One failure with its place, as it travels from the container's first process to the caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What was being done: `root`, `mount /data`, `user`, `exec`, …
    pub stage: String,
    /// What is wrong, where, and what to do.
    pub message: String,
    /// The kernel's error number, or 0.
    pub errno: i32,
    /// What a caller may act on.
    pub kind: FailureKind,
}

impl Failure {
    /// A failure whose text says all.
    pub fn new(stage: impl Into<String>, kind: FailureKind, message: impl Into<String>) -> Self {
        Self { stage: stage.into(), message: message.into(), errno: 0, kind }
    }

    /// A failure of one system call; `what` names the call's subject.
    pub fn errno(
        stage: impl Into<String>,
        what: impl std::fmt::Display,
        error: impl Into<io::Error>,
    ) -> Self {
        let error = error.into();
        let errno = error.raw_os_error().unwrap_or(0);
        Self { stage: stage.into(), message: format!("{what}: {error}"), errno, kind: FailureKind::Other }
    }

    /// The same failure under another kind.
    #[must_use]
    pub fn kind(mut self, kind: FailureKind) -> Self {
        self.kind = kind;
        self
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.stage, self.message)
    }
}

impl std::error::Error for Failure {}

/// Why [`crate::start::Runtime::start`] did not start a container. Whatever it had made is gone again,
/// except the cgroup, which is the caller's.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The request cannot be done by this version, or makes no sense.
    #[error(transparent)]
    Refused(#[from] CompileError),
    /// The starter program could not be run.
    #[error("cannot run the starter {}", path.display())]
    Spawn {
        /// The program.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The starter ended or spoke nonsense before it answered.
    #[error("the starter ended before it answered; its messages are in the agent's log")]
    StarterLost(#[source] io::Error),
    /// The container was not up in time; its cgroup was killed.
    #[error("not started within {0:?}; look at the storage and the volumes behind its mounts")]
    Timeout(Duration),
    /// The container could not be started.
    #[error(transparent)]
    Failed(#[from] Failure),
}
