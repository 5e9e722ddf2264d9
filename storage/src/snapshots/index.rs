//! What there is, and what is based on what. Nothing here touches the machine.

use std::collections::{BTreeMap, HashMap};

use super::{PrepareError, RemoveLayerError, SnapshotError};
use crate::digest::ChainId;
use crate::driver::{Found, LayerRecord, SnapshotKey, SnapshotRecord};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LayerState {
    /// Someone unpacks or removes it.
    Claimed,
    /// It can be a parent; a restart may not find it.
    Finished,
    /// A restart finds it.
    Sealed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SnapshotState {
    Ready,
    /// Someone makes, commits or removes it.
    Busy,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Index {
    layers: BTreeMap<ChainId, (LayerRecord, LayerState)>,
    snapshots: BTreeMap<SnapshotKey, (SnapshotRecord, SnapshotState)>,
    /// Stacks that an unpacking image counts on.
    pins: HashMap<ChainId, usize>,
    /// Snapshots that someone reads; they stay as long.
    readers: HashMap<SnapshotKey, usize>,
}

impl Index {
    pub(super) fn new(found: Found) -> Self {
        let layers =
            found.layers.into_iter().map(|layer| (layer.chain, (layer, LayerState::Sealed))).collect();
        let snapshots = found
            .snapshots
            .into_iter()
            .map(|snapshot| (snapshot.key.clone(), (snapshot, SnapshotState::Ready)))
            .collect();
        Self { layers, snapshots, pins: HashMap::new(), readers: HashMap::new() }
    }

    /// The whole stack, the topmost layer first.
    pub(super) fn stack(&self, top: Option<&ChainId>) -> Vec<ChainId> {
        let mut out = Vec::new();
        let mut next = top.copied();
        while let Some(chain) = next {
            out.push(chain);
            next = self.layers.get(&chain).and_then(|(layer, _)| layer.parent);
        }
        out
    }

    pub(super) fn is_finished(&self, chain: &ChainId) -> bool {
        self.layers.get(chain).is_some_and(|(_, state)| *state != LayerState::Claimed)
    }

    pub(super) fn is_sealed(&self, chain: &ChainId) -> bool {
        self.layers.get(chain).is_some_and(|(_, state)| *state == LayerState::Sealed)
    }

    /// Takes a layer that nobody has; `false` when it is there or someone works on it.
    pub(super) fn claim(&mut self, layer: &LayerRecord) -> bool {
        if self.layers.contains_key(&layer.chain) {
            return false;
        }
        self.layers.insert(layer.chain, (layer.clone(), LayerState::Claimed));
        true
    }

    pub(super) fn unclaim(&mut self, chain: &ChainId) {
        if self.layers.get(chain).is_some_and(|(_, state)| *state == LayerState::Claimed) {
            self.layers.remove(chain);
        }
    }

    pub(super) fn finished(&mut self, layer: &LayerRecord) {
        self.layers.insert(layer.chain, (layer.clone(), LayerState::Finished));
    }

    pub(super) fn sealed(&mut self, chain: &ChainId) {
        if let Some((_, state)) = self.layers.get_mut(chain) {
            *state = LayerState::Sealed;
        }
    }

    pub(super) fn pin(&mut self, chain: &ChainId) {
        *self.pins.entry(*chain).or_default() += 1;
    }

    pub(super) fn unpin(&mut self, chain: &ChainId) {
        if let Some(count) = self.pins.get_mut(chain) {
            *count -= 1;
            if *count == 0 {
                self.pins.remove(chain);
            }
        }
    }

    pub(super) fn layers(&self) -> Vec<LayerRecord> {
        self.layers
            .values()
            .filter(|(_, state)| *state == LayerState::Sealed)
            .map(|(layer, _)| layer.clone())
            .collect()
    }

    pub(super) fn layer(&self, chain: &ChainId) -> Option<LayerRecord> {
        let sealed = self.layers.get(chain).filter(|(_, state)| *state == LayerState::Sealed);
        sealed.map(|(layer, _)| layer.clone())
    }

    pub(super) fn snapshots(&self) -> Vec<SnapshotRecord> {
        self.snapshots
            .values()
            .filter(|(_, state)| *state == SnapshotState::Ready)
            .map(|(snapshot, _)| snapshot.clone())
            .collect()
    }

    pub(super) fn snapshot(&self, key: &SnapshotKey) -> Result<&SnapshotRecord, SnapshotError> {
        match self.snapshots.get(key) {
            None => Err(SnapshotError::NotFound(key.clone())),
            Some((_, SnapshotState::Busy)) => Err(SnapshotError::Busy(key.clone())),
            Some((record, SnapshotState::Ready)) => Ok(record),
        }
    }

    /// Notes that a snapshot is being made; `false` when the same one is there.
    pub(super) fn begin_snapshot(&mut self, wanted: &SnapshotRecord) -> Result<bool, PrepareError> {
        match self.snapshots.get(&wanted.key) {
            Some((_, SnapshotState::Busy)) => return Err(PrepareError::Busy(wanted.key.clone())),
            Some((there, _)) if there == wanted => return Ok(false),
            Some(_) => return Err(PrepareError::Conflict(wanted.key.clone())),
            None => {}
        }
        if let Some(parent) = &wanted.parent
            && !self.is_sealed(parent)
        {
            return Err(PrepareError::NoParent(*parent));
        }
        self.snapshots.insert(wanted.key.clone(), (wanted.clone(), SnapshotState::Busy));
        Ok(true)
    }

    pub(super) fn begin_reading(&mut self, key: &SnapshotKey) -> Result<SnapshotRecord, SnapshotError> {
        let record = self.snapshot(key)?.clone();
        *self.readers.entry(key.clone()).or_default() += 1;
        Ok(record)
    }

    pub(super) fn end_reading(&mut self, key: &SnapshotKey) {
        if let Some(count) = self.readers.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                self.readers.remove(key);
            }
        }
    }

    pub(super) fn begin_removal(&mut self, key: &SnapshotKey) -> Result<SnapshotRecord, SnapshotError> {
        if self.readers.contains_key(key) {
            return Err(SnapshotError::Busy(key.clone()));
        }
        let record = self.snapshot(key)?.clone();
        self.snapshots.insert(key.clone(), (record.clone(), SnapshotState::Busy));
        Ok(record)
    }

    /// What was begun has ended; the snapshot stays, or is gone.
    pub(super) fn end_snapshot(&mut self, key: &SnapshotKey, stays: bool) {
        match self.snapshots.get_mut(key) {
            Some((_, state)) if stays => *state = SnapshotState::Ready,
            _ => {
                self.snapshots.remove(key);
            }
        }
    }

    /// Notes that a layer is being removed; `None` when it is not there.
    pub(super) fn begin_layer_removal(
        &mut self,
        chain: &ChainId,
    ) -> Result<Option<LayerRecord>, RemoveLayerError> {
        let in_use = |by: String| RemoveLayerError::InUse { chain: *chain, by };
        let Some((layer, state)) = self.layers.get(chain) else { return Ok(None) };
        if *state == LayerState::Claimed || self.pins.contains_key(chain) {
            return Err(in_use("an image that is being unpacked".to_owned()));
        }
        if let Some((child, _)) = self.layers.values().find(|(other, _)| other.parent.as_ref() == Some(chain))
        {
            return Err(in_use(format!("layer {}", child.chain)));
        }
        if let Some((user, _)) =
            self.snapshots.values().find(|(other, _)| other.parent.as_ref() == Some(chain))
        {
            return Err(in_use(format!("snapshot {}", user.key)));
        }
        let layer = layer.clone();
        self.layers.insert(*chain, (layer.clone(), LayerState::Claimed));
        Ok(Some(layer))
    }

    pub(super) fn end_layer_removal(&mut self, layer: &LayerRecord, stays: bool) {
        if stays {
            self.layers.insert(layer.chain, (layer.clone(), LayerState::Sealed));
        } else {
            self.layers.remove(&layer.chain);
        }
    }
}
