//! The driver that needs nothing of the kernel: every layer and every snapshot is a whole tree. What it does, one layer
//! after the other over a copy, is what all others are compared with.

use std::path::PathBuf;

use super::copy::copy_tree;
use super::staged::Staged;
use super::store::{Removed, Staging, Store, open_dir, usage};
use super::{
    Driver, DriverError, DriverStatus, Found, LayerRecord, Reread, SnapshotKind, SnapshotRecord, Unpack,
    Usage,
};
use crate::diff::Trees;
use crate::digest::ChainId;
use crate::failpoint::failpoint;
use crate::layer::{Stream, UnpackLimits, apply_onto};
use crate::mount::{Mount, Mounts, detached};

/// See the module.
#[derive(Debug)]
pub(crate) struct Native {
    store: Store,
    staged: Staged,
}

impl Native {
    pub(crate) fn open(root: PathBuf) -> Result<Self, DriverError> {
        Ok(Self { store: Store::open(root)?, staged: Staged::default() })
    }

    fn tree(&self, chain: &ChainId) -> PathBuf {
        self.store.layer(chain).join("fs")
    }

    /// A copy of `parent`, or an empty directory, in a place of its own.
    fn copy(&self, parent: Option<&ChainId>) -> Result<Staging, DriverError> {
        let staging = self.store.stage()?;
        let tree = staging.mkdir("fs", 0o755)?;
        let to = open_dir(&tree)?;
        match parent {
            Some(parent) => {
                let from = self.tree(parent);
                copy_tree(&open_dir(&from)?, &to).map_err(DriverError::io("copy", from))?;
            }
            None => rustix::fs::fchmod(&to, rustix::fs::Mode::from_raw_mode(0o755))
                .map_err(DriverError::io("set up", tree))?,
        }
        Ok(staging)
    }
}

impl Driver for Native {
    fn name(&self) -> &'static str {
        "native"
    }

    fn unpack(&self) -> Unpack {
        Unpack::OnParent
    }

    fn load(&self) -> Result<Found, DriverError> {
        self.store.load()
    }

    fn stage(
        &self,
        layer: &LayerRecord,
        lowers: &[ChainId],
        stream: Stream,
        limits: &UnpackLimits,
    ) -> Result<(), DriverError> {
        let staging = self.copy(lowers.first())?;
        apply_onto(open_dir(&staging.path().join("fs"))?, lowers.is_empty(), stream, limits)?;
        failpoint!("stage.written");
        self.staged.put(layer, staging);
        Ok(())
    }

    fn finish(
        &self,
        layer: &LayerRecord,
        _lowers: &[ChainId],
        _reread: Reread<'_>,
        _limits: &UnpackLimits,
    ) -> Result<(), DriverError> {
        self.store.place(self.staged.take(layer, &self.store)?, &layer.chain)
    }

    fn abandon(&self, layer: &LayerRecord) {
        drop(self.staged.abandoned(layer));
    }

    fn seal(&self, layers: &[LayerRecord]) -> Result<(), DriverError> {
        self.store.seal(layers)
    }

    fn prepare(
        &self,
        snapshot: &SnapshotRecord,
        lowers: &[ChainId],
        limit: Option<u64>,
    ) -> Result<(), DriverError> {
        self.resize(snapshot, limit)?;
        // A view shows the layer itself.
        let staging = match (snapshot.kind, lowers.first()) {
            (SnapshotKind::View, Some(_)) => self.store.stage()?,
            (_, parent) => self.copy(parent)?,
        };
        self.store.place_snapshot(staging, snapshot)
    }

    fn resize(&self, _snapshot: &SnapshotRecord, limit: Option<u64>) -> Result<(), DriverError> {
        match limit {
            None => Ok(()),
            Some(_) => Err(DriverError::NoLimit {
                driver: self.name(),
                why: "it keeps plain directories; use overlay, devicemapper or btrfs".to_owned(),
            }),
        }
    }

    fn status(&self) -> Result<DriverStatus, DriverError> {
        Ok(DriverStatus { backing_filesystem: self.store.filesystem()?, ..DriverStatus::default() })
    }

    fn activate(&self, snapshot: &SnapshotRecord, lowers: &[ChainId]) -> Result<Mounts, DriverError> {
        let readonly = snapshot.kind == SnapshotKind::View;
        let source = match lowers.first() {
            Some(parent) if readonly => self.tree(parent),
            _ => self.store.snapshot(&snapshot.key).join("fs"),
        };
        Ok(Mounts(vec![Mount::Bind { source, readonly }]))
    }

    fn trees(&self, snapshot: &SnapshotRecord, lowers: &[ChainId]) -> Result<Trees, DriverError> {
        let open = |source: PathBuf| detached::open_to_read(&Mount::Bind { source, readonly: true });
        let parent = lowers.first().map(|parent| open(self.tree(parent))).transpose()?;
        let top = self.activate(snapshot, lowers)?;
        Ok(Trees {
            parent,
            top: detached::open_to_read(&top[0])?,
            same_files: true,
            snapshots: false,
            upper: None,
        })
    }

    fn deactivate(&self, _snapshot: &SnapshotRecord) -> Result<(), DriverError> {
        Ok(())
    }

    fn commit(
        &self,
        snapshot: &SnapshotRecord,
        layer: &LayerRecord,
        _lowers: &[ChainId],
    ) -> Result<(), DriverError> {
        self.store.commit(snapshot, layer)
    }

    fn remove(&self, snapshot: &SnapshotRecord) -> Result<(), DriverError> {
        self.store.remove(&self.store.snapshot(&snapshot.key), Removed::Snapshot)
    }

    fn remove_layer(&self, layer: &LayerRecord) -> Result<(), DriverError> {
        self.store.remove(&self.store.layer(&layer.chain), Removed::Layer)
    }

    fn usage(&self, snapshot: &SnapshotRecord) -> Result<Usage, DriverError> {
        match (snapshot.kind, snapshot.parent) {
            (SnapshotKind::View, Some(_)) => Ok(Usage::default()),
            _ => usage(&self.store.snapshot(&snapshot.key).join("fs")),
        }
    }

    fn layer_usage(&self, layer: &LayerRecord) -> Result<Option<Usage>, DriverError> {
        usage(&self.tree(&layer.chain)).map(Some)
    }

    fn settle(&self) {
        self.store.settle();
    }
}
