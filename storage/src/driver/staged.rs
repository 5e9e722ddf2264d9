//! Layers between `stage` and `finish`: unpacked, and not in their place yet.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::store::{Staging, Store};
use super::{DriverError, LayerRecord};
use crate::digest::ChainId;

/// What a driver has staged, with what it needs to finish it. What is dropped from it is removed from the disk.
#[derive(Debug)]
pub(crate) struct Staged<T = Staging>(Mutex<HashMap<ChainId, T>>);

impl<T> Default for Staged<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Staged<T> {
    fn lock(&self) -> MutexGuard<'_, HashMap<ChainId, T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn put(&self, layer: &LayerRecord, staged: T) {
        let replaced = self.lock().insert(layer.chain, staged);
        // Not under the lock: it removes a tree.
        drop(replaced);
    }

    /// For `finish`, which owes an error where nothing was staged.
    pub(crate) fn take(&self, layer: &LayerRecord, store: &Store) -> Result<T, DriverError> {
        self.abandoned(layer).ok_or_else(|| {
            let lost = std::io::Error::other("it was not staged");
            DriverError::io("finish", store.layer(&layer.chain))(lost)
        })
    }

    /// For `abandon`.
    pub(crate) fn abandoned(&self, layer: &LayerRecord) -> Option<T> {
        self.lock().remove(&layer.chain)
    }
}
