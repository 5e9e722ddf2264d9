//! Names, identities and times: the newtypes that everything else is keyed by.

mod names;
mod time;

pub use names::{Kind, Name, NameError, Namespace, ObjectKey, ParseKindError, Uid};
pub use time::Time;

use serde::{Deserialize, Serialize};

/// Counts the changes of an object's defaulted spec, from 1. As `metadata.generation` in Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub i64);

impl Generation {
    /// The generation of a new object.
    pub const FIRST: Generation = Generation(1);

    /// The generation after this one.
    #[must_use]
    pub fn next(self) -> Generation {
        Generation(self.0.saturating_add(1))
    }
}

impl Default for Generation {
    fn default() -> Self {
        Generation::FIRST
    }
}

impl std::fmt::Display for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests;
