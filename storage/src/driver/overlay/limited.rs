//! Snapshots with a limit: what a container writes, and overlayfs's books on it, are on an ext4 of that size, in a sparse
//! file in the snapshot's directory.
//!
//! The loop device lasts as long as we hold the filesystem (from [`prepare`](Limited::make) or `activate` to `deactivate`)
//! or somebody has it mounted; the kernel removes it then, also after a crash.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustix::fs::{Mode, OFlags};

use super::poisoned;
use crate::driver::store::Staging;
use crate::driver::{DriverError, LimitChange, SnapshotKey, SnapshotLimit};
use crate::ext4::{self, Ext4Error, Mounted};
use crate::failpoint::failpoint;
use crate::layer::read_dir_beneath;

/// The file.
pub(super) const IMAGE: &str = "image";
/// Where a snapshot of nothing has its lower directory, which overlayfs needs.
pub(super) const EMPTY: &str = "empty";

/// The filesystems of snapshots that are in use.
#[derive(Debug, Default)]
pub(super) struct Limited {
    /// Held while a device is looked for: no image ever has two.
    attaching: Mutex<()>,
    active: Mutex<HashMap<SnapshotKey, Arc<Mounted>>>,
}

/// The limit of the snapshot in `dir`.
pub(super) fn limit(dir: &Path) -> Result<SnapshotLimit, DriverError> {
    const NONE: SnapshotLimit = SnapshotLimit { block: ext4::BLOCK, ..SnapshotLimit::NONE };
    let image = dir.join(IMAGE);
    match image.symlink_metadata() {
        Ok(meta) => Ok(SnapshotLimit { bytes: Some(meta.len()), change: LimitChange::Grow, ..NONE }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok(SnapshotLimit { change: LimitChange::Fresh, ..NONE })
        }
        Err(error) => Err(DriverError::io("look at", image)(error)),
    }
}

/// A directory of the filesystem's root, which nobody but us and overlayfs changes.
pub(super) fn directory(mounted: &Mounted, name: &str) -> Result<OwnedFd, DriverError> {
    read_dir_beneath(&mounted.root, name.as_bytes()).map_err(DriverError::io("open in an image", name))
}

/// Whether a limit can be, and not what there is already.
fn check(bytes: u64) -> Result<(), DriverError> {
    if bytes < ext4::LEAST {
        return Err(DriverError::LimitTooSmall { want: bytes, least: ext4::LEAST });
    }
    Ok(())
}

impl Limited {
    /// Makes the filesystem in `staging`, with nothing in it. The caller syncs it.
    pub(super) fn make(&self, staging: &Staging, bytes: u64) -> Result<Mounted, DriverError> {
        check(bytes)?;
        let path = staging.path().join(IMAGE);
        ext4::fits(&path, bytes)?;
        drop(ext4::create(&path, bytes)?);
        failpoint!("prepare.image_made");
        ext4::format(&path, bytes)?;
        failpoint!("prepare.image_formatted");
        self.mount(&path)
    }

    fn mount(&self, image: &Path) -> Result<Mounted, DriverError> {
        let device = {
            let _only = poisoned(self.attaching.lock());
            ext4::attach(image)?
        };
        Ok(ext4::open(image, device)?)
    }

    /// The filesystem of a snapshot, for as long as the value is held.
    pub(super) fn open(&self, key: &SnapshotKey, dir: &Path) -> Result<Arc<Mounted>, DriverError> {
        let there = poisoned(self.active.lock()).get(key).cloned();
        match there {
            Some(mounted) => Ok(mounted),
            None => self.mount(&dir.join(IMAGE)).map(Arc::new),
        }
    }

    /// Keeps the filesystem until [`release`](Self::release).
    pub(super) fn hold(&self, key: &SnapshotKey, mounted: Arc<Mounted>) {
        poisoned(self.active.lock()).insert(key.clone(), mounted);
    }

    /// Lets go of it. What is mounted from it keeps it.
    pub(super) fn release(&self, key: &SnapshotKey) {
        let held = poisoned(self.active.lock()).remove(key);
        // Unmounts, and not under the lock.
        drop(held);
    }

    /// Gives the snapshot in `dir` another limit, as far as that can be.
    pub(super) fn resize(&self, dir: &Path, want: Option<u64>) -> Result<(), DriverError> {
        let have = limit(dir)?;
        let length = want.map(ext4::length);
        match (have.bytes, length) {
            (None, None) => return Ok(()),
            (Some(_), Some(bytes)) if have.can_become(length) => check(bytes)?,
            (bytes, _) => return Err(DriverError::LimitKept { have: bytes, want }),
        }
        let path = dir.join(IMAGE);
        // A crash may have left a file that is long enough and a filesystem that is not.
        if have.bytes == length && ext4::is_filled_out(&path)? {
            return Ok(());
        }
        let length = length.unwrap_or_default();
        ext4::fits(&path, length)?;
        let length = ext4::lengthen(&path, length)?;
        failpoint!("resize.stretched");
        let _only = poisoned(self.attaching.lock());
        let filled = ext4::fill_out(&path, length);
        failpoint!("resize.filled");
        if let (Err(Ext4Error::InUse(_)), Some(had)) = (&filled, have.bytes) {
            // The file's length is what people are told.
            ext4::take_back(&path, had)?;
        }
        Ok(filled?)
    }
}

/// Makes a writable directory and that of overlayfs's own in `at`; what the root directory looks like is what the upper
/// layer says, so it looks like `top`.
pub(super) fn begin(at: &OwnedFd, what: &Path, top: Option<&Path>) -> Result<(), DriverError> {
    let make = |name: &str, mode| {
        rustix::fs::mkdirat(at, name, Mode::from_raw_mode(mode))
            .map_err(DriverError::io("make", what.join(name)))
    };
    make("diff", 0o755)?;
    make("work", 0o700)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let diff = rustix::fs::openat(at.as_fd(), "diff", flags, Mode::empty())
        .map_err(DriverError::io("open", what.join("diff")))?;
    let set = match top {
        Some(top) => crate::layer::copy_dir_meta(&crate::driver::store::open_dir(top)?, &diff),
        None => rustix::fs::fchmod(&diff, Mode::from_raw_mode(0o755)).map_err(Into::into),
    };
    set.map_err(DriverError::io("set up", what.join("diff")))
}
