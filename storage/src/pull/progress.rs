//! What a pull tells while it goes on, and what it has counted in the end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::content::lock;
use crate::digest::Digest;

/// Bytes between two reports on one blob.
const STEP: u64 = 256 << 10;

/// What happens to a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub enum BlobState {
    /// It is there, or its layer is unpacked already.
    Exists,
    /// It waits for its turn.
    Waiting,
    /// It comes.
    Downloading,
    /// It is there, and verified.
    Downloaded,
    /// Its layer is being unpacked; `done` counts its bytes again.
    Unpacking,
    /// All of it has been read by the unpacker.
    Unpacked,
}

/// One step of a pull.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all_fields = "camelCase")]
#[non_exhaustive]
pub enum ProgressEvent {
    /// The registry has said what the name means; these are the layers, lowest first, with their bytes.
    Resolved {
        /// What the name means.
        digest: Digest,
        /// Blob and size of each layer.
        layers: Vec<(Digest, u64)>,
    },
    /// A blob has got on.
    Blob {
        /// Which.
        digest: Digest,
        /// What happens to it.
        state: BlobState,
        /// Bytes done.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
}

/// Who wants to know how a pull gets on. Called often and from several threads; it must not block.
pub trait Progress: Send + Sync {
    /// One step.
    fn report(&self, event: &ProgressEvent);
}

impl<F: Fn(&ProgressEvent) + Send + Sync> Progress for F {
    fn report(&self, event: &ProgressEvent) {
        self(event);
    }
}

/// Counted since the start of the process; only growing.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Pulls that were begun; those that joined one under way are not counted.
    pub pulls: AtomicU64,
    /// Pulls that failed.
    pub pull_failures: AtomicU64,
    /// Blobs that were transferred.
    pub blobs_downloaded: AtomicU64,
    /// Blobs that were there already.
    pub blobs_reused: AtomicU64,
    /// Bytes from registries, those that were thrown away included.
    pub bytes_downloaded: AtomicU64,
    /// Bytes of broken transfers that did not have to come again.
    pub bytes_resumed: AtomicU64,
    /// Transfers that broke off and were continued.
    pub transfer_retries: AtomicU64,
    /// Blobs that were found damaged in the content store.
    pub blobs_damaged: AtomicU64,
    /// Bytes of blobs that were removed because nothing referred to them.
    pub bytes_swept: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// All who listen to one pull. Who comes late is told the last of each.
#[derive(Default)]
pub(crate) struct Hub {
    inner: Mutex<HubInner>,
}

#[derive(Default)]
struct HubInner {
    listeners: Vec<Arc<dyn Progress>>,
    last: Vec<ProgressEvent>,
}

impl Hub {
    pub(crate) fn join(&self, listener: Arc<dyn Progress>) {
        let mut inner = lock(&self.inner);
        for event in &inner.last {
            listener.report(event);
        }
        inner.listeners.push(listener);
    }

    pub(crate) fn report(&self, event: ProgressEvent) {
        let mut inner = lock(&self.inner);
        for listener in &inner.listeners {
            listener.report(&event);
        }
        let same = |other: &&mut ProgressEvent| match (&event, &**other) {
            (ProgressEvent::Blob { digest: a, .. }, ProgressEvent::Blob { digest: b, .. }) => a == b,
            (ProgressEvent::Resolved { .. }, ProgressEvent::Resolved { .. }) => true,
            _ => false,
        };
        match inner.last.iter_mut().find(same) {
            Some(last) => *last = event,
            None => inner.last.push(event),
        }
    }
}

/// Follows one blob.
pub(crate) struct Meter {
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    digest: Digest,
    total: u64,
    done: AtomicU64,
    reported: AtomicU64,
}

impl Meter {
    pub(crate) fn new(hub: &Arc<Hub>, metrics: &Arc<Metrics>, digest: Digest, total: u64) -> Self {
        let (hub, metrics) = (Arc::clone(hub), Arc::clone(metrics));
        Self { hub, metrics, digest, total, done: AtomicU64::new(0), reported: AtomicU64::new(0) }
    }

    pub(crate) fn state(&self, state: BlobState, done: u64) {
        let (digest, total) = (self.digest, self.total);
        self.hub.report(ProgressEvent::Blob { digest, state, done: done.min(total), total });
    }

    pub(crate) fn resumed(&self, bytes: u64) {
        count(&self.metrics.bytes_resumed, bytes);
        self.done.store(bytes, Ordering::Relaxed);
        self.state(BlobState::Downloading, bytes);
    }

    pub(crate) fn restarted(&self) {
        self.done.store(0, Ordering::Relaxed);
        self.reported.store(0, Ordering::Relaxed);
    }

    pub(crate) fn retried(&self) {
        count(&self.metrics.transfer_retries, 1);
    }

    pub(crate) fn received(&self, bytes: u64) {
        count(&self.metrics.bytes_downloaded, bytes);
        self.advance(BlobState::Downloading, bytes);
    }

    /// Counts bytes in `state`, and reports now and then.
    pub(crate) fn advance(&self, state: BlobState, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if done >= self.total || done.saturating_sub(self.reported.load(Ordering::Relaxed)) >= STEP {
            self.reported.store(done, Ordering::Relaxed);
            self.state(state, done.min(self.total));
        }
    }

    pub(crate) fn begin(&self, state: BlobState) {
        self.restarted();
        self.state(state, 0);
    }
}
