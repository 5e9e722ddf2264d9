//! How much a container may write to its root filesystem.

/// The limit of a snapshot, and what can become of it while there is the snapshot. Sizes are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotLimit {
    /// The most that can be written on top of the parent; `None` for as much as there is.
    pub bytes: Option<u64>,
    /// What it would be if none had been asked for.
    pub without: Option<u64>,
    /// Limits are rounded to a multiple of this; at least 1.
    pub block: u64,
    /// What [`resize`](crate::Snapshots::resize) can do.
    pub change: LimitChange,
}

/// How a snapshot's limit can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitChange {
    /// In any way.
    Any,
    /// It can become larger.
    Grow,
    /// Not at all; a new snapshot has any.
    Fresh,
    /// No snapshot of the driver has one.
    Never,
}

impl SnapshotLimit {
    /// Without a limit, of a driver that has none.
    pub const NONE: Self = Self { bytes: None, without: None, block: 1, change: LimitChange::Never };

    /// Whether this is what was asked for.
    pub fn is(&self, want: Option<u64>) -> bool {
        match (self.bytes, want) {
            (have, None) => have == self.without,
            (Some(have), Some(want)) => have.abs_diff(want) < self.block,
            (None, Some(_)) => false,
        }
    }

    /// Whether the snapshot can be given that limit.
    pub fn can_become(&self, want: Option<u64>) -> bool {
        self.is(want)
            || match self.change {
                LimitChange::Any => true,
                LimitChange::Grow => matches!((self.bytes, want), (Some(have), Some(want)) if want > have),
                LimitChange::Fresh | LimitChange::Never => false,
            }
    }
}

#[cfg(test)]
mod tests;
