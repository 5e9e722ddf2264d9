//! A driver only for tests: every snapshot that is made without a limit has one, so that the whole suite runs on such.

use crate::diff::Trees;
use crate::digest::ChainId;
use crate::driver::{
    Driver, DriverError, DriverStatus, Found, LayerRecord, Reread, SnapshotKind, SnapshotLimit,
    SnapshotRecord, Unpack, Usage,
};
use crate::layer::{Stream, UnpackLimits};
use crate::mount::Mounts;

/// More than any check writes.
const LIMIT: u64 = 96 << 20;

/// See the module.
#[derive(Debug)]
pub(super) struct Limited<D>(pub(super) D);

impl<D: Driver> Driver for Limited<D> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn unpack(&self) -> Unpack {
        self.0.unpack()
    }

    fn load(&self) -> Result<Found, DriverError> {
        self.0.load()
    }

    fn stage(
        &self,
        layer: &LayerRecord,
        lowers: &[ChainId],
        stream: Stream,
        limits: &UnpackLimits,
    ) -> Result<(), DriverError> {
        self.0.stage(layer, lowers, stream, limits)
    }

    fn finish(
        &self,
        layer: &LayerRecord,
        lowers: &[ChainId],
        reread: Reread<'_>,
        limits: &UnpackLimits,
    ) -> Result<(), DriverError> {
        self.0.finish(layer, lowers, reread, limits)
    }

    fn abandon(&self, layer: &LayerRecord) {
        self.0.abandon(layer);
    }

    fn seal(&self, layers: &[LayerRecord]) -> Result<(), DriverError> {
        self.0.seal(layers)
    }

    fn prepare(
        &self,
        snapshot: &SnapshotRecord,
        lowers: &[ChainId],
        limit: Option<u64>,
    ) -> Result<(), DriverError> {
        let limit = limit.or((snapshot.kind == SnapshotKind::Writable).then_some(LIMIT));
        self.0.prepare(snapshot, lowers, limit)
    }

    fn resize(&self, snapshot: &SnapshotRecord, limit: Option<u64>) -> Result<(), DriverError> {
        self.0.resize(snapshot, limit)
    }

    fn limit(&self, snapshot: &SnapshotRecord) -> Result<SnapshotLimit, DriverError> {
        self.0.limit(snapshot)
    }

    fn status(&self) -> Result<DriverStatus, DriverError> {
        self.0.status()
    }

    fn activate(&self, snapshot: &SnapshotRecord, lowers: &[ChainId]) -> Result<Mounts, DriverError> {
        self.0.activate(snapshot, lowers)
    }

    fn trees(&self, snapshot: &SnapshotRecord, lowers: &[ChainId]) -> Result<Trees, DriverError> {
        self.0.trees(snapshot, lowers)
    }

    fn deactivate(&self, snapshot: &SnapshotRecord) -> Result<(), DriverError> {
        self.0.deactivate(snapshot)
    }

    fn commit(
        &self,
        snapshot: &SnapshotRecord,
        layer: &LayerRecord,
        lowers: &[ChainId],
    ) -> Result<(), DriverError> {
        self.0.commit(snapshot, layer, lowers)
    }

    fn remove(&self, snapshot: &SnapshotRecord) -> Result<(), DriverError> {
        self.0.remove(snapshot)
    }

    fn remove_layer(&self, layer: &LayerRecord) -> Result<(), DriverError> {
        self.0.remove_layer(layer)
    }

    fn usage(&self, snapshot: &SnapshotRecord) -> Result<Usage, DriverError> {
        self.0.usage(snapshot)
    }
}
