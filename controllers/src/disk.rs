//! Whether there is room on disk: when new work is refused, and how much is to become free.

use std::{collections::BTreeSet, fmt};

/// How much of something is left, in bytes or in inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Room {
    /// What can still be taken.
    pub available: u64,
    /// What is taken and what can be, together. What a filesystem keeps for root alone is not in it, as in `df`.
    pub total: u64,
}

/// A pool that layers and snapshots come from, beside the filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolRoom {
    /// Its name.
    pub name: String,
    /// Bytes for data.
    pub data: Room,
    /// Bytes for its own tables.
    pub metadata: Room,
}

/// What was measured. The default is that nothing is known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Disk {
    /// The directory that was measured, for people.
    pub path: String,
    /// Bytes of its filesystem.
    pub bytes: Room,
    /// Inodes of its filesystem, where it has a fixed number.
    pub inodes: Option<Room>,
    /// The storage driver's pool, where it has one.
    pub pool: Option<PoolRoom>,
    /// Why the storage driver takes no new work, where it does not.
    pub refusal: Option<String>,
}

/// What is kept free: of two values the lower one, so that a large disk does not lie idle and a small one can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Floor {
    /// So many bytes or inodes.
    pub absolute: Option<u64>,
    /// So much of the whole.
    pub percent: Option<u8>,
}

/// When there is too little room, and when there is enough again. Percentages are of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskPolicy {
    /// Images are removed above this.
    pub high_percent: u8,
    /// They are removed down to this.
    pub low_percent: u8,
    /// Bytes below which new work is refused.
    pub min_free: Floor,
    /// Inodes below which new work is refused.
    pub min_free_inodes: Floor,
}

/// Which floor is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PressureKind {
    /// Bytes of the filesystem.
    Bytes,
    /// Inodes of the filesystem.
    Inodes,
    /// What the storage driver says of its own storage.
    Driver,
}

impl PressureKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Bytes, Self::Inodes, Self::Driver];

    /// As a metric's label has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Inodes => "inodes",
            Self::Driver => "driver",
        }
    }
}

/// Why no new work is begun: no pull, and no start that makes anything new.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskPressure {
    /// The floors that are reached; none when there is room.
    pub kinds: BTreeSet<PressureKind>,
    /// What, where, and what to do.
    pub message: String,
}

impl DiskPressure {
    /// Whether new work is refused.
    pub fn is_on(&self) -> bool {
        !self.kinds.is_empty()
    }
}

/// What is to become free; nothing of it when it is all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Goal {
    /// Bytes of the filesystem.
    pub bytes: u64,
    /// Inodes of the filesystem.
    pub inodes: u64,
    /// Something of the pool; how much an image frees there is seen only afterwards.
    pub pool: bool,
}

impl Goal {
    /// Everything that can be spared.
    pub const EVERYTHING: Self = Self { bytes: u64::MAX, inodes: u64::MAX, pool: true };

    /// Whether there is nothing to be done.
    pub fn is_reached(self) -> bool {
        self == Self::default()
    }
}

impl Room {
    /// How much of it is taken, in percent, rounded up.
    pub fn used_percent(self) -> u8 {
        if self.total == 0 {
            return 0;
        }
        let used = u128::from(self.total.saturating_sub(self.available));
        u8::try_from((used * 100).div_ceil(u128::from(self.total))).unwrap_or(100)
    }

    /// How much is missing for so much to be free.
    fn lacks(self, free: u64) -> u64 {
        free.min(self.total).saturating_sub(self.available)
    }

    /// What is to become free: down to the low mark where the high one is passed, and up to the floor in any case.
    fn goal(self, policy: &DiskPolicy, floor: Floor) -> u64 {
        let above = self.used_percent() > policy.high_percent;
        let low = share(self.total, 100_u8.saturating_sub(policy.low_percent));
        self.lacks(floor.of(self.total)).max(if above { self.lacks(low) } else { 0 })
    }
}

/// `percent` of `total`, rounded up.
fn share(total: u64, percent: u8) -> u64 {
    let share = (u128::from(total) * u128::from(percent)).div_ceil(100);
    u64::try_from(share).unwrap_or(u64::MAX)
}

impl Floor {
    /// The floor of a whole of this size; 0 when none is set.
    pub fn of(self, total: u64) -> u64 {
        let percent = self.percent.map(|percent| share(total, percent));
        self.absolute.into_iter().chain(percent).min().unwrap_or(0)
    }
}

impl Disk {
    /// What is to become free.
    pub fn goal(&self, policy: &DiskPolicy) -> Goal {
        if self.bytes.total == 0 {
            return Goal::default();
        }
        let fills = |room: Room| room.used_percent() > policy.high_percent;
        let pool = self.pool.as_ref().is_some_and(|pool| fills(pool.data) || fills(pool.metadata));
        Goal {
            bytes: self.bytes.goal(policy, policy.min_free),
            inodes: self.inodes.map_or(0, |inodes| inodes.goal(policy, policy.min_free_inodes)),
            pool: pool || self.refusal.is_some() && self.pool.is_some(),
        }
    }

    /// Whether new work is refused, and why.
    pub fn pressure(&self, policy: &DiskPolicy) -> DiskPressure {
        let mut pressure = DiskPressure::default();
        let mut why = Vec::new();
        let floor = policy.min_free.of(self.bytes.total);
        if self.bytes.available < floor {
            pressure.kinds.insert(PressureKind::Bytes);
            why.push(format!(
                "the filesystem of {} has {} of {} available, and {} are kept free",
                self.path,
                Bytes(self.bytes.available),
                Bytes(self.bytes.total),
                Bytes(floor)
            ));
        }
        if let Some(inodes) = self.inodes {
            let floor = policy.min_free_inodes.of(inodes.total);
            if inodes.available < floor {
                pressure.kinds.insert(PressureKind::Inodes);
                why.push(format!(
                    "the filesystem of {} has {} of {} inodes available, and {floor} are kept free",
                    self.path, inodes.available, inodes.total
                ));
            }
        }
        let advice = "remove images (`stower system prune --all`), containers or volumes, or make it larger";
        if !why.is_empty() {
            pressure.message = format!("{}: {advice}", why.join("; "));
        }
        if let Some(refusal) = &self.refusal {
            pressure.kinds.insert(PressureKind::Driver);
            let gap = if pressure.message.is_empty() { "" } else { "; " };
            // The driver says itself what to do.
            pressure.message = format!("{}{gap}{refusal}", pressure.message);
        }
        pressure
    }
}

/// Bytes for people.
#[derive(Debug, Clone, Copy)]
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
        let mut unit = 0;
        while unit + 1 < UNITS.len() && self.0 >> (10 * unit) >= 10 * 1024 {
            unit += 1;
        }
        write!(f, "{} {}", self.0 >> (10 * unit), UNITS[unit])
    }
}

#[cfg(test)]
mod tests;
