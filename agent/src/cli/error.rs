//! Why a command failed, and what the shell is told.

use super::agent::chain;
use crate::client::{ClientError, ClusterError};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// The agent does not answer, or refuses.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The cluster that was named cannot be talked to.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Anything else that a person must know.
    #[error("{0}")]
    Message(String),
    /// Already told, line by line.
    #[error("exit {0}")]
    Told(u8),
    /// Whoever read our output has seen enough.
    #[error("nobody reads the output")]
    Pipe,
    /// Standard output does not take what we write.
    #[error("cannot write the output: {0}")]
    Output(std::io::Error),
}

impl CliError {
    /// What to print, if anything is left to say. A refusal of the agent names itself, as in kubectl.
    pub(super) fn text(&self) -> Option<String> {
        match self {
            Self::Told(_) | Self::Pipe => None,
            Self::Client(ClientError::Status(_)) => Some(self.to_string()),
            Self::Cluster(error) => Some(format!("error: {}", chain(error))),
            Self::Client(_) | Self::Message(_) | Self::Output(_) => Some(format!("error: {self}")),
        }
    }

    /// The exit code: 1, unless the verb has codes of its own.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Told(code) => *code,
            Self::Pipe => 0,
            Self::Client(_) | Self::Cluster(_) | Self::Message(_) | Self::Output(_) => 1,
        }
    }
}

/// Collects the failures of a verb that goes on with the next object.
#[derive(Debug, Default)]
pub(super) struct Failures(bool);

impl Failures {
    /// Tells of one failure. One that every other object would meet too ends the verb.
    pub(super) fn add(&mut self, error: CliError) -> Result<(), CliError> {
        match error {
            CliError::Client(ClientError::Status(_)) | CliError::Message(_) | CliError::Told(_) => {
                if let Some(text) = error.text() {
                    use std::io::Write;
                    // Nobody is left to tell when standard error is closed.
                    let _ = writeln!(std::io::stderr(), "{text}");
                }
                self.0 = true;
                Ok(())
            }
            fatal @ (CliError::Client(_) | CliError::Cluster(_) | CliError::Pipe | CliError::Output(_)) => {
                Err(fatal)
            }
        }
    }

    /// The verb's result.
    pub(super) fn end(self) -> Result<(), CliError> {
        if self.0 { Err(CliError::Told(1)) } else { Ok(()) }
    }
}
