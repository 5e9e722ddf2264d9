//! Time as an argument.

use std::{fmt, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Nanoseconds since the machine booted, suspension included (`CLOCK_BOOTTIME`). It means nothing without the
/// [`BootId`] it was read under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mono(u64);

impl Mono {
    /// The moment `nanos` nanoseconds after the boot.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the boot.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// This moment and `by` more; the end of the clock at most.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// This moment less `by`; the beginning of the clock at least.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long it is until `later`; zero when that has passed.
    pub fn until(self, later: Mono) -> Duration {
        Duration::from_nanos(later.0.saturating_sub(self.0))
    }
}

/// Names one boot of the machine (`/proc/sys/kernel/random/boot_id`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(Box<str>);

impl BootId {
    /// The boot named `id`, without surrounding white space.
    pub fn new(id: &str) -> Self {
        Self(id.trim().into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The moment a decision is made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Now {
    /// For every interval.
    pub mono: Mono,
    /// For people, and to carry a deadline over a reboot.
    pub wall: Timestamp,
    /// The boot that `mono` counts from.
    pub boot_id: BootId,
}
