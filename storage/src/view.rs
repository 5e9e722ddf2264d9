//! The tree of an image, to be read from.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::digest::ChainId;
use crate::driver::{ParseKeyError, SnapshotKey, SnapshotKind};
use crate::mount::detached::{self, MountError};
use crate::snapshots::{PrepareError, SnapshotError, Snapshots};

/// Such views begin with this. Those that a dead process left are of use to nobody.
const PREFIX: &str = "view-";
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A read-only mount of an image's tree, which is attached nowhere and goes away when dropped.
#[derive(Debug)]
pub struct ImageTree {
    /// `None` only while it is dropped.
    mount: Option<OwnedFd>,
    key: SnapshotKey,
    snapshots: Arc<Snapshots>,
}

/// Why an image's tree cannot be seen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenTreeError {
    /// The name is none.
    #[error("cannot name a view of the image")]
    Name(#[from] ParseKeyError),
    /// There is no view of it; the image may not be unpacked.
    #[error("cannot make a view of the image")]
    Prepare(#[from] PrepareError),
    /// The view cannot be used.
    #[error("cannot use a view of the image")]
    Snapshot(#[from] SnapshotError),
    /// It cannot be mounted.
    #[error("cannot mount a view of the image")]
    Mount(#[from] MountError),
    /// The driver makes it of several mounts.
    #[error("the driver {0} needs more than one mount for a view")]
    Mounts(&'static str),
}

impl ImageTree {
    pub(crate) fn open(
        snapshots: &Arc<Snapshots>,
        chain: &ChainId,
        name: &str,
    ) -> Result<Self, OpenTreeError> {
        // Two with one name do not meet.
        let key = SnapshotKey::new(format!("{PREFIX}{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed)))?;
        snapshots.view(&key, Some(chain))?;
        let mut tree = Self { mount: None, key, snapshots: Arc::clone(snapshots) };
        let mounts = snapshots.activate(&tree.key)?;
        let [mount] = &mounts[..] else { return Err(OpenTreeError::Mounts(snapshots.driver())) };
        tree.mount = Some(detached::open(mount)?);
        Ok(tree)
    }

    /// Removes what a dead process left.
    pub(crate) fn tidy(snapshots: &Snapshots) {
        for snapshot in snapshots.list() {
            if snapshot.kind == SnapshotKind::View && snapshot.key.as_str().starts_with(PREFIX) {
                remove(snapshots, &snapshot.key);
            }
        }
    }
}

impl AsFd for ImageTree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mount.as_ref().expect("it is mounted until it is dropped").as_fd()
    }
}

impl Drop for ImageTree {
    fn drop(&mut self) {
        self.mount = None;
        remove(&self.snapshots, &self.key);
    }
}

fn remove(snapshots: &Snapshots, key: &SnapshotKey) {
    if let Err(error) = snapshots.remove(key) {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(view = %key, error, "a view of an image is left behind; the next start removes it");
    }
}
