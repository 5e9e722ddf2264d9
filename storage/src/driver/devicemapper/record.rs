//! Which thin device belongs to what: the target of the link `thin` in a layer's or snapshot's directory, or of `base` in
//! the driver's. As with the other records, one call makes it whole.

use std::path::Path;

use rustix::fs::CWD;

use crate::driver::DriverError;
use crate::driver::store::{record, remove_tree, write_record};

/// Of a layer or a snapshot.
pub(super) const THIN: &str = "thin";
/// Of the device that all begin with.
pub(super) const BASE: &str = "base";

/// A thin device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Thin {
    /// Its number in the pool.
    pub(super) id: u32,
    /// How large it is.
    pub(super) sectors: u64,
}

/// `v1/<number>/<sectors>`.
pub(super) fn write(at: &Path, thin: Thin) -> Result<(), DriverError> {
    write_record(at, &format!("v1/{}/{}", thin.id, thin.sectors))
}

/// Puts another in its place, at once.
pub(super) fn replace(at: &Path, thin: Thin) -> Result<(), DriverError> {
    let new = at.with_extension("new");
    // Of a process that died.
    remove_tree(&new)?;
    write(&new, thin)?;
    rustix::fs::renameat(CWD, &new, CWD, at).map_err(DriverError::io("record", at))
}

/// `None` when there is none, or it cannot be read.
pub(super) fn read(at: &Path) -> Option<Thin> {
    let (id, sectors) = record(at)?;
    let thin = Thin { id: id.parse().ok()?, sectors: sectors.parse().ok()? };
    let sane = thin.id < 1 << 24 && (1..1 << 54).contains(&thin.sectors);
    sane.then_some(thin)
}

/// The same, where it must be there.
pub(super) fn of(dir: &Path) -> Result<Thin, DriverError> {
    let at = dir.join(THIN);
    read(&at).ok_or_else(|| {
        let lost = std::io::Error::other("it names no thin device");
        DriverError::io("read the record", at)(lost)
    })
}

/// Whether nothing was ever made in the driver's directory `root`. A record that is lost or cannot be read is not nothing:
/// what is in the pool beside it stays.
pub(super) fn unused(root: &Path) -> Result<bool, DriverError> {
    if root.join(BASE).symlink_metadata().is_ok() {
        return Ok(false);
    }
    for part in ["layers", "snapshots"] {
        let path = root.join(part);
        let mut entries = std::fs::read_dir(&path).map_err(DriverError::io("read", &path))?;
        if entries.next().is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}
