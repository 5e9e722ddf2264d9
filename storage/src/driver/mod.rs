//! What a storage driver does. Everything that is the same for all of them (who has which parent, what is in use, what
//! happens twice) is decided above, in [`crate::Snapshots`]; a driver only acts, on one machine, and finds again what it
//! did.

use std::io;
use std::path::PathBuf;

use crate::diff::Trees;
use crate::digest::{ChainId, DiffId};
use crate::layer::{LayerError, Stream, UnpackLimits};
use crate::mount::Mounts;

pub(crate) mod btrfs;
pub(crate) mod copy;
pub(crate) mod devicemapper;
mod limit;
pub(crate) mod native;
pub(crate) mod options;
pub(crate) mod overlay;
pub(crate) mod staged;
pub(crate) mod store;

#[cfg(test)]
mod tests;

pub use limit::{LimitChange, SnapshotLimit};

/// Whether a layer needs its parent to be unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unpack {
    /// No: layers unpack in parallel, and are finished in order.
    Independent,
    /// Yes: a layer is written over a copy of its parent.
    OnParent,
}

/// A committed layer, as its driver keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerRecord {
    /// The stack that this layer is the top of.
    pub chain: ChainId,
    /// The stack below it.
    pub parent: Option<ChainId>,
    /// The layer itself.
    pub diff_id: DiffId,
}

/// What a snapshot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotKind {
    /// It can be written to.
    Writable,
    /// It shows its parent, unchanged.
    View,
}

/// A snapshot's name: 1 to 128 letters, digits, `.`, `_` or `-`, the first one a letter or digit. It is a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotKey(String);

/// The text is no snapshot key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a snapshot key: {0:?} (1 to 128 letters, digits, '.', '_' or '-', the first a letter or digit)")]
pub struct ParseKeyError(String);

impl SnapshotKey {
    /// Checks and takes `text`.
    pub fn new(text: impl Into<String>) -> Result<Self, ParseKeyError> {
        let text = text.into();
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let rest = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if first && rest && text.len() <= 128 { Ok(Self(text)) } else { Err(ParseKeyError(text)) }
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for SnapshotKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for SnapshotKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

/// A snapshot, as its driver keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// Its name.
    pub key: SnapshotKey,
    /// What it is for.
    pub kind: SnapshotKind,
    /// The stack that it shows.
    pub parent: Option<ChainId>,
}

/// What takes space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes on disk.
    pub bytes: u64,
    /// Files, directories and other entries; several links of one file count once.
    pub inodes: u64,
}

/// What a driver found on disk, after it has put right what was half done.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Layers, in no order; each one's parent is there too.
    pub layers: Vec<LayerRecord>,
    /// Snapshots, in no order.
    pub snapshots: Vec<SnapshotRecord>,
}

/// How the driver's own storage is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DriverStatus {
    /// The filesystem that the driver keeps its directories on, as in `/proc/filesystems`.
    pub backing_filesystem: String,
    /// Whether [`Driver::prepare`] takes a limit.
    pub limits: bool,
    /// The pool that layers and snapshots come from, where there is one beside the filesystem.
    pub pool: Option<PoolStatus>,
    /// More that people want to see, as (name, value), such as options in force.
    pub details: Vec<(String, String)>,
}

/// A pool of blocks, such as a thin pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolStatus {
    /// Its name.
    pub name: String,
    /// Bytes for data.
    pub data: Fill,
    /// Bytes for the pool's own tables.
    pub metadata: Fill,
    /// Why new work is refused, where it is.
    pub pressure: Option<Pressure>,
}

/// How full something is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fill {
    /// Taken.
    pub used: u64,
    /// All there is.
    pub total: u64,
}

/// Why a driver takes no new work; reading and removing go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Pressure {
    /// Less room for data than the floor.
    #[error("the pool {pool} has {} of {} bytes of data in use, and {floor} % are kept free: remove images or containers, or make it larger", fill.used, fill.total)]
    DataLow {
        /// Which pool.
        pool: String,
        /// How full it is.
        fill: Fill,
        /// The share that is kept free, in percent.
        floor: u8,
    },
    /// Less room for the pool's tables than the floor.
    #[error("the pool {pool} has {} of {} bytes of metadata in use, and {floor} % are kept free: remove images or containers, or make it larger", fill.used, fill.total)]
    MetadataLow {
        /// Which pool.
        pool: String,
        /// How full it is.
        fill: Fill,
        /// The share that is kept free, in percent.
        floor: u8,
    },
    /// The kernel lets nothing be written, and this is why and what to do.
    #[error("the pool {pool} is read-only: {why}")]
    ReadOnly {
        /// Which pool.
        pool: String,
        /// Why, and what to do.
        why: String,
    },
    /// The pool does not answer, or has failed.
    #[error("the pool {pool} has failed: {why}")]
    Failed {
        /// Which pool.
        pool: String,
        /// Why, and what to do.
        why: String,
    },
}

impl Pressure {
    /// The words of all kinds, for metrics and conditions.
    pub const REASONS: [&str; 4] = ["DataLow", "MetadataLow", "ReadOnly", "Failed"];

    /// The kind, in a word of [`REASONS`](Self::REASONS).
    pub fn reason(&self) -> &'static str {
        match self {
            Self::DataLow { .. } => "DataLow",
            Self::MetadataLow { .. } => "MetadataLow",
            Self::ReadOnly { .. } => "ReadOnly",
            Self::Failed { .. } => "Failed",
        }
    }
}

/// Why a driver did not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// The layer is bad, or could not be written.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The machine refused something.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The driver's directory is on a filesystem that it does not work on.
    #[error("{} is on {found}; the driver works on {wanted} only", path.display())]
    Filesystem {
        /// The directory.
        path: PathBuf,
        /// Its filesystem.
        found: String,
        /// The one that the driver needs.
        wanted: &'static str,
    },
    /// What a driver knows of itself cannot be read, nor can its copy.
    #[error(
        "{} and its copy {copy} cannot be read; put one of them back from a backup, or move {} away to begin anew: images are \
         pulled again then, but what containers wrote there is gone",
        path.display(), dir.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The name of its copy, beside it.
        copy: &'static str,
        /// All that the driver keeps.
        dir: PathBuf,
        /// What is wrong with one of them.
        #[source]
        source: Box<DriverError>,
    },
    /// A mount failed.
    #[error(transparent)]
    Mount(#[from] crate::mount::detached::MountError),
    /// A device that a driver was given, or found, and cannot use.
    #[error("cannot use {}: {why}", device.display())]
    Device {
        /// Which one.
        device: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// There is no room for new work.
    #[error(transparent)]
    Pressure(#[from] Pressure),
    /// An option of the driver was not taken.
    #[error(transparent)]
    Option(#[from] options::OptionError),
    /// The driver cannot keep a snapshot within a limit.
    #[error("the storage driver {driver} cannot limit what a container writes: {why}")]
    NoLimit {
        /// The driver.
        driver: &'static str,
        /// What it lacks, and what to do.
        why: String,
    },
    /// No snapshot can have so small a limit.
    #[error("what a container writes cannot be limited to {want} bytes: the least is {least}")]
    LimitTooSmall {
        /// What was asked for, in bytes.
        want: u64,
        /// The least that there can be.
        least: u64,
    },
    /// A snapshot keeps the limit that it was made with. [`SnapshotLimit`] tells it before.
    #[error("{} cannot become {} while there is the snapshot", limit_text(*.have), limit_text(*.want))]
    LimitKept {
        /// What it has, in bytes.
        have: Option<u64>,
        /// What was asked for.
        want: Option<u64>,
    },
    /// The filesystem that keeps a snapshot within its limit cannot be made, or used.
    #[error("cannot keep a snapshot within its limit")]
    Ext4(#[from] crate::Ext4Error),
}

fn limit_text(limit: Option<u64>) -> String {
    limit.map_or_else(|| "no limit".to_owned(), |bytes| format!("a limit of {bytes} bytes"))
}

impl DriverError {
    /// For `map_err`.
    pub(crate) fn io<E: Into<io::Error>>(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { action, path: path.into(), source: source.into() }
    }
}

/// Gives the layer's tar stream again.
pub type Reread<'a> = &'a mut dyn FnMut() -> Result<Stream, LayerError>;

/// A storage driver. Calls for different layers and snapshots come at the same time from several threads; for one layer
/// or snapshot, one comes after the other. `lowers` is always the whole stack, the topmost first.
///
/// A layer goes `stage` → `finish` → `seal`, which together are *apply*. After `finish` it can be a parent; only after
/// `seal` may a restart find it. What a process that died left half done is removed by `load`.
pub trait Driver: Send + Sync + std::fmt::Debug {
    /// As `--storage-driver` names it.
    fn name(&self) -> &'static str;

    /// How it unpacks.
    fn unpack(&self) -> Unpack;

    /// Puts right what was half done, then tells what is there. Called once, first.
    fn load(&self) -> Result<Found, DriverError>;

    /// Unpacks a layer into a place of its own. For [`Unpack::Independent`] the parent may not be there yet. A stage that
    /// fails leaves nothing.
    fn stage(
        &self,
        layer: &LayerRecord,
        lowers: &[ChainId],
        stream: Stream,
        limits: &UnpackLimits,
    ) -> Result<(), DriverError>;

    /// Completes a staged layer; all of `lowers` are finished. A finish that fails leaves nothing.
    fn finish(
        &self,
        layer: &LayerRecord,
        lowers: &[ChainId],
        reread: Reread<'_>,
        limits: &UnpackLimits,
    ) -> Result<(), DriverError>;

    /// Drops a staged layer that will not be finished.
    fn abandon(&self, layer: &LayerRecord);

    /// Makes finished layers durable. They come lowest first.
    fn seal(&self, layers: &[LayerRecord]) -> Result<(), DriverError>;

    /// Makes a snapshot. A writable one with a `limit` takes at most so many bytes on top of its parent; a driver that
    /// cannot see to it refuses by [`DriverError::NoLimit`].
    fn prepare(
        &self,
        snapshot: &SnapshotRecord,
        lowers: &[ChainId],
        limit: Option<u64>,
    ) -> Result<(), DriverError>;

    /// Gives a writable snapshot another limit, in bytes, in use or not, or says [`DriverError::LimitKept`]. Doing it twice
    /// changes nothing.
    fn resize(&self, snapshot: &SnapshotRecord, limit: Option<u64>) -> Result<(), DriverError>;

    /// The limit of a writable snapshot, and what can become of it.
    fn limit(&self, _snapshot: &SnapshotRecord) -> Result<SnapshotLimit, DriverError> {
        Ok(SnapshotLimit::NONE)
    }

    /// How the driver's own storage is. Cheap enough to ask every few seconds.
    fn status(&self) -> Result<DriverStatus, DriverError>;

    /// What to mount. Doing it twice gives the same.
    fn activate(&self, snapshot: &SnapshotRecord, lowers: &[ChainId]) -> Result<Mounts, DriverError>;

    /// The merged trees of the snapshot and of what it is based on, for reading. The snapshot may be in use meanwhile,
    /// and is not changed by it.
    fn trees(&self, snapshot: &SnapshotRecord, lowers: &[ChainId]) -> Result<Trees, DriverError>;

    /// Frees what `activate` took; nothing is mounted from it any more. Doing it twice changes nothing.
    fn deactivate(&self, snapshot: &SnapshotRecord) -> Result<(), DriverError>;

    /// Makes a writable snapshot, which is in use by nobody, into a layer, and seals it.
    fn commit(
        &self,
        snapshot: &SnapshotRecord,
        layer: &LayerRecord,
        lowers: &[ChainId],
    ) -> Result<(), DriverError>;

    /// Removes a snapshot. What takes long may be done after it returns.
    fn remove(&self, snapshot: &SnapshotRecord) -> Result<(), DriverError>;

    /// Removes a layer that nothing is based on.
    fn remove_layer(&self, layer: &LayerRecord) -> Result<(), DriverError>;

    /// What the snapshot's own changes take.
    fn usage(&self, snapshot: &SnapshotRecord) -> Result<Usage, DriverError>;

    /// What a layer takes beside its parent; `None` where the driver cannot tell. It never changes.
    fn layer_usage(&self, _layer: &LayerRecord) -> Result<Option<Usage>, DriverError> {
        Ok(None)
    }

    /// Returns once what was removed before takes no room any more, or when that takes too long.
    fn settle(&self) {}
}
