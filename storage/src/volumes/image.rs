//! A volume with a capacity: an ext4 in a sparse file, on any filesystem.

use std::path::Path;

use super::error::check_capacity;
use super::{VolumeError, VolumeKey};
use crate::ext4::{self, Ext4Error, Mounted};
use crate::failpoint::failpoint;
use crate::loopdev::Device;

/// The file in the volume's directory.
pub(super) const NAME: &str = "image";

pub(super) use ext4::mount;

/// The same error, of the volume where that says more.
pub(super) fn of(key: &VolumeKey) -> impl Fn(Ext4Error) -> VolumeError {
    let key = key.clone();
    move |error| {
        let key = key.clone();
        match error {
            Ext4Error::TooLarge { want, most, at } => VolumeError::TooLarge { key, want, most, at },
            Ext4Error::InUse(_) => VolumeError::CannotGrowInUse(key),
            Ext4Error::Mount { source, .. } => VolumeError::Mount { key, source },
            other => VolumeError::Ext4(other),
        }
    }
}

/// Whether a filesystem of that many bytes can be, in a file in `dir`.
pub(super) fn check(key: &VolumeKey, capacity: u64, dir: &Path) -> Result<(), VolumeError> {
    check_capacity(key, capacity, ext4::LEAST, dir)
}

/// Makes the image in `dir`, which is not the volume's own yet.
pub(super) fn make(key: &VolumeKey, dir: &Path, capacity: u64) -> Result<(), VolumeError> {
    let path = dir.join(NAME);
    let file = ext4::create(&path, capacity).map_err(of(key))?;
    failpoint!("volume.image_made");
    ext4::format(&path, capacity).map_err(of(key))?;
    file.sync_all().map_err(VolumeError::io("sync", &path))?;
    failpoint!("volume.image_formatted");
    Ok(())
}

/// A device for the image, which the caller holds the lock of.
pub(super) fn attach(key: &VolumeKey, path: &Path) -> Result<Device, VolumeError> {
    ext4::attach(path).map_err(of(key))
}

/// Mounts it, for us alone, or once more.
pub(super) fn open(key: &VolumeKey, path: &Path, device: Device) -> Result<Mounted, VolumeError> {
    ext4::open(path, device).map_err(of(key))
}

/// Makes the filesystem larger, in place. Done again after a crash, it goes on from where it was.
pub(super) fn grow(key: &VolumeKey, dir: &Path, capacity: u64) -> Result<(), VolumeError> {
    check(key, capacity, dir)?;
    let path = dir.join(NAME);
    let length = ext4::lengthen(&path, capacity).map_err(of(key))?;
    failpoint!("volume.grow_stretched");
    ext4::fill_out(&path, length).map_err(of(key))?;
    failpoint!("volume.grow_resized");
    Ok(())
}
