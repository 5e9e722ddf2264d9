//! Layers and snapshots of one machine, whichever driver keeps them.
//!
//! The [`Index`](index::Index) knows what there is and what is based on what; it is in memory, rebuilt at start-up from what the driver
//! finds, and locked only to look and to note, never over a copy, a mount or a sync.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::diff::Trees;
use crate::digest::{ChainId, DiffId};
use crate::driver::{
    Driver, DriverError, DriverStatus, LayerRecord, SnapshotKey, SnapshotKind, SnapshotLimit, SnapshotRecord,
    Usage,
};
use crate::mount::Mounts;

mod index;
mod select;
#[cfg(test)]
mod tests;
mod unpack;

use index::Index;
pub use select::{Chosen, DRIVERS, OpenError, PassedOver, Selection};
pub use unpack::UnpackError;
#[cfg(feature = "fuzzing")]
pub(crate) use unpack::own_umask;

/// The store of layers and snapshots. Shared by all threads; every call blocks on the disk.
#[derive(Debug)]
pub struct Snapshots {
    driver: Box<dyn Driver>,
    selection: Selection,
    index: Mutex<Index>,
    changed: Condvar,
    slots: unpack::Slots,
    /// What layers take, of those that were asked for.
    measured: Mutex<HashMap<ChainId, Usage>>,
}

/// Why a snapshot is not there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// The parent is not unpacked.
    #[error("layer {0} is not there; unpack the image first")]
    NoParent(ChainId),
    /// The key is taken by another snapshot.
    #[error("snapshot {0} exists already with another parent or kind; remove it first")]
    Conflict(SnapshotKey),
    /// Another call works on the same key.
    #[error("snapshot {0} is being made or removed")]
    Busy(SnapshotKey),
    /// The driver failed.
    #[error("cannot make snapshot {0}")]
    Driver(SnapshotKey, #[source] DriverError),
}

/// Why something was not done with a snapshot that should be there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// There is none.
    #[error("snapshot {0} is not there")]
    NotFound(SnapshotKey),
    /// Another call works on it.
    #[error("snapshot {0} is being made, read or removed")]
    Busy(SnapshotKey),
    /// The driver failed.
    #[error("cannot {1} snapshot {0}")]
    Driver(SnapshotKey, &'static str, #[source] DriverError),
}

/// Why a snapshot did not become a layer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// There is none, or it is in use.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A view has nothing to commit.
    #[error("snapshot {0} is a view; only a writable one can be committed")]
    View(SnapshotKey),
    /// The layer is there already.
    #[error("layer {0} exists already")]
    Exists(ChainId),
}

/// Why a layer is still there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveLayerError {
    /// Something is based on it, or is being.
    #[error("layer {chain} is in use by {by}")]
    InUse {
        /// The layer.
        chain: ChainId,
        /// What uses it.
        by: String,
    },
    /// The driver failed.
    #[error("cannot remove layer {0}")]
    Driver(ChainId, #[source] DriverError),
}

/// A snapshot that is being read.
#[derive(Debug)]
pub(crate) struct Reading<'a> {
    // Before what holds the snapshot, so that it goes first.
    pub(crate) trees: Trees,
    /// What it is based on.
    pub(crate) parent: Option<ChainId>,
    _held: Held<'a>,
}

#[derive(Debug)]
struct Held<'a> {
    of: &'a Snapshots,
    key: SnapshotKey,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.of.index().end_reading(&self.key);
        self.of.changed.notify_all();
    }
}

impl Snapshots {
    /// Opens the store at `root` with the driver `driver`; without one, with what is in use there already, else with
    /// the first that works. `opts` are `--storage-opt`. What an earlier process left half done is put right.
    pub fn open(root: &Path, driver: Option<&str>, opts: &[(String, String)]) -> Result<Self, OpenError> {
        let (driver, selection) = select::select(root, driver, opts)?;
        Self::opened(driver, selection)
    }

    /// Opens the store with a driver of the caller's.
    pub fn with_driver(driver: Box<dyn Driver>) -> Result<Self, OpenError> {
        let (name, none) = (driver.name(), Vec::new());
        let chosen = Chosen::Named;
        Self::opened(driver, Selection { driver: name, chosen, passed_over: none, unused: Vec::new() })
    }

    fn opened(driver: Box<dyn Driver>, selection: Selection) -> Result<Self, OpenError> {
        let found = driver.load().map_err(|source| OpenError::Load { driver: driver.name(), source })?;
        let index = Mutex::new(Index::new(found));
        Ok(Self {
            driver,
            selection,
            index,
            changed: Condvar::new(),
            slots: unpack::Slots::default(),
            measured: Mutex::default(),
        })
    }

    /// The driver's name, as `--storage-driver` takes it.
    pub fn driver(&self) -> &'static str {
        self.driver.name()
    }

    /// What made it the one, and why the others are not.
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a writable snapshot on the stack `parent`, or an empty one. Doing it again changes nothing.
    pub fn prepare(&self, key: &SnapshotKey, parent: Option<&ChainId>) -> Result<(), PrepareError> {
        self.make(key, SnapshotKind::Writable, parent, None)
    }

    /// The same, of a snapshot that takes at most `limit` bytes on top of its parent. One that is there gets that limit.
    pub fn prepare_limited(
        &self,
        key: &SnapshotKey,
        parent: Option<&ChainId>,
        limit: u64,
    ) -> Result<(), PrepareError> {
        self.make(key, SnapshotKind::Writable, parent, Some(limit))
    }

    /// Gives a writable snapshot another limit, in bytes, or none. Doing it again changes nothing.
    pub fn resize(&self, key: &SnapshotKey, limit: Option<u64>) -> Result<(), SnapshotError> {
        let (record, _) = self.get(key)?;
        self.driver
            .resize(&record, limit)
            .map_err(|source| SnapshotError::Driver(key.clone(), "resize", source))
    }

    /// The limit of a writable snapshot, and what can become of it.
    pub fn limit(&self, key: &SnapshotKey) -> Result<SnapshotLimit, SnapshotError> {
        let (record, _) = self.get(key)?;
        self.driver
            .limit(&record)
            .map_err(|source| SnapshotError::Driver(key.clone(), "tell the limit of", source))
    }

    /// How the driver's own storage is.
    pub fn status(&self) -> Result<DriverStatus, DriverError> {
        self.driver.status()
    }

    /// Makes a snapshot that shows the stack `parent` and cannot be written to. Doing it again changes nothing.
    pub fn view(&self, key: &SnapshotKey, parent: Option<&ChainId>) -> Result<(), PrepareError> {
        self.make(key, SnapshotKind::View, parent, None)
    }

    fn make(
        &self,
        key: &SnapshotKey,
        kind: SnapshotKind,
        parent: Option<&ChainId>,
        limit: Option<u64>,
    ) -> Result<(), PrepareError> {
        let record = SnapshotRecord { key: key.clone(), kind, parent: parent.copied() };
        let lowers = {
            let mut index = self.index();
            if !index.begin_snapshot(&record)? {
                drop(index);
                return match limit {
                    None => Ok(()),
                    limit => self
                        .driver
                        .resize(&record, limit)
                        .map_err(|source| PrepareError::Driver(key.clone(), source)),
                };
            }
            index.stack(parent)
        };
        let made = self.driver.prepare(&record, &lowers, limit);
        self.index().end_snapshot(key, made.is_ok());
        self.changed.notify_all();
        made.map_err(|source| PrepareError::Driver(key.clone(), source))
    }

    /// Looks a snapshot up, without holding anything.
    fn get(&self, key: &SnapshotKey) -> Result<(SnapshotRecord, Vec<ChainId>), SnapshotError> {
        let index = self.index();
        let record = index.snapshot(key)?.clone();
        let lowers = index.stack(record.parent.as_ref());
        Ok((record, lowers))
    }

    /// What to mount for the snapshot. Doing it again gives the same.
    pub fn activate(&self, key: &SnapshotKey) -> Result<Mounts, SnapshotError> {
        let (record, lowers) = self.get(key)?;
        self.driver
            .activate(&record, &lowers)
            .map_err(|source| SnapshotError::Driver(key.clone(), "activate", source))
    }

    /// The snapshot's trees, for reading; it cannot be removed or committed as long.
    pub(crate) fn read(&self, key: &SnapshotKey) -> Result<Reading<'_>, SnapshotError> {
        let (record, lowers) = {
            let mut index = self.index();
            let record = index.begin_reading(key)?;
            let lowers = index.stack(record.parent.as_ref());
            (record, lowers)
        };
        let held = Held { of: self, key: key.clone() };
        let trees = self
            .driver
            .trees(&record, &lowers)
            .map_err(|source| SnapshotError::Driver(key.clone(), "read", source))?;
        Ok(Reading { trees, parent: record.parent, _held: held })
    }

    /// Frees what [`activate`](Self::activate) took, once nothing is mounted from it. Doing it again, or for a snapshot
    /// that is not there, changes nothing.
    pub fn deactivate(&self, key: &SnapshotKey) -> Result<(), SnapshotError> {
        match self.get(key) {
            Err(SnapshotError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
            Ok((record, _)) => self
                .driver
                .deactivate(&record)
                .map_err(|source| SnapshotError::Driver(key.clone(), "deactivate", source)),
        }
    }

    /// Removes the snapshot with all that was written to it. One that is not there is removed already.
    pub fn remove(&self, key: &SnapshotKey) -> Result<(), SnapshotError> {
        let record = match self.index().begin_removal(key) {
            Err(SnapshotError::NotFound(_)) => return Ok(()),
            other => other?,
        };
        let removed = self
            .driver
            .deactivate(&record)
            .and_then(|()| self.driver.remove(&record))
            .map_err(|source| SnapshotError::Driver(key.clone(), "remove", source));
        // A removal that failed leaves the snapshot as it was.
        self.index().end_snapshot(key, removed.is_err());
        self.changed.notify_all();
        removed
    }

    /// Makes a writable snapshot into the layer `diff_id` on its parent; the snapshot is gone then. Nothing may be mounted
    /// from it.
    pub fn commit(&self, key: &SnapshotKey, diff_id: &DiffId) -> Result<ChainId, CommitError> {
        let (record, layer, lowers) = {
            let mut index = self.index();
            let record = index.snapshot(key)?.clone();
            if record.kind == SnapshotKind::View {
                return Err(CommitError::View(key.clone()));
            }
            let layer = LayerRecord {
                chain: ChainId::on(record.parent, *diff_id),
                parent: record.parent,
                diff_id: *diff_id,
            };
            if !index.claim(&layer) {
                return Err(CommitError::Exists(layer.chain));
            }
            if let Err(error) = index.begin_removal(key) {
                index.unclaim(&layer.chain);
                return Err(error.into());
            }
            let lowers = index.stack(record.parent.as_ref());
            (record, layer, lowers)
        };
        let done =
            self.driver.deactivate(&record).and_then(|()| self.driver.commit(&record, &layer, &lowers));
        {
            let mut index = self.index();
            index.end_snapshot(key, done.is_err());
            match done {
                Ok(()) => {
                    index.finished(&layer);
                    index.sealed(&layer.chain);
                }
                Err(_) => index.unclaim(&layer.chain),
            }
        }
        self.changed.notify_all();
        done.map_err(|source| SnapshotError::Driver(key.clone(), "commit", source))?;
        Ok(layer.chain)
    }

    /// What was written to the snapshot takes this.
    pub fn usage(&self, key: &SnapshotKey) -> Result<Usage, SnapshotError> {
        let (record, _) = self.get(key)?;
        self.driver.usage(&record).map_err(|source| SnapshotError::Driver(key.clone(), "measure", source))
    }

    /// All snapshots, by key.
    pub fn list(&self) -> Vec<SnapshotRecord> {
        self.index().snapshots()
    }

    /// All layers that a restart would find, by chain id.
    pub fn layers(&self) -> Vec<LayerRecord> {
        self.index().layers()
    }

    /// Whether the stack is unpacked and durable.
    pub fn has(&self, chain: &ChainId) -> bool {
        self.index().is_sealed(chain)
    }

    /// What a layer takes beside its parent; `None` when it is not there, or its driver cannot tell. It never changes, so
    /// it is measured once.
    pub fn layer_usage(&self, chain: &ChainId) -> Result<Option<Usage>, DriverError> {
        let known = || self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(usage) = known().get(chain) {
            return Ok(Some(*usage));
        }
        let Some(layer) = self.index().layer(chain) else { return Ok(None) };
        let usage = self.driver.layer_usage(&layer)?;
        if let Some(usage) = usage {
            known().insert(*chain, usage);
        }
        Ok(usage)
    }

    /// Returns once what was removed takes no room any more, or when that takes too long.
    pub fn settle(&self) {
        self.driver.settle();
    }

    /// Removes the topmost layer of a stack that nothing is based on. One that is not there is removed already.
    pub fn remove_layer(&self, chain: &ChainId) -> Result<(), RemoveLayerError> {
        self.remove_layer_unless(chain, || false)
    }

    /// The same, unless somebody counts on it, who is asked while nobody can begin to: whoever says so first and then
    /// looks finds the layer there, or gone.
    pub(crate) fn remove_layer_unless(
        &self,
        chain: &ChainId,
        wanted: impl FnOnce() -> bool,
    ) -> Result<(), RemoveLayerError> {
        let layer = {
            let mut index = self.index();
            if wanted() {
                let by = "a pull or a start that is under way".to_owned();
                return Err(RemoveLayerError::InUse { chain: *chain, by });
            }
            index.begin_layer_removal(chain)?
        };
        let Some(layer) = layer else { return Ok(()) };
        self.measured.lock().unwrap_or_else(PoisonError::into_inner).remove(chain);
        let removed = self.driver.remove_layer(&layer);
        self.index().end_layer_removal(&layer, removed.is_err());
        self.changed.notify_all();
        removed.map_err(|source| RemoveLayerError::Driver(*chain, source))
    }
}
