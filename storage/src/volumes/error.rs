//! Why something was not done with a volume.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::{VolumeDriver, VolumeKey};
use crate::ext4::Ext4Error;
use crate::mount::detached::MountError;

/// Why something was not done with a volume. Sizes are in bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VolumeError {
    /// There is none.
    #[error("volume {0} is not there; provision it first")]
    NotFound(VolumeKey),
    /// It has no data yet, so there is nothing to mount.
    #[error("volume {0} has no data yet; fill it first")]
    Unfilled(VolumeKey),
    /// One volume would be in the directory of another.
    #[error("volume {key} cannot be: {other} is a volume, and one is not within another")]
    Nested {
        /// The one that was asked for.
        key: VolumeKey,
        /// The one that is there.
        other: VolumeKey,
    },
    /// The data that are there belong to another driver.
    #[error(
        "volume {key} is of driver {have}, not {want}; its data are kept at {}: move them away, or declare {have}",
        data.display()
    )]
    WrongDriver {
        /// The volume.
        key: VolumeKey,
        /// What its data are.
        have: VolumeDriver,
        /// What was asked for.
        want: VolumeDriver,
        /// Where they are.
        data: PathBuf,
    },
    /// A plain directory was to have a capacity, or a filesystem image none.
    #[error(
        "volume {key} is {have}, not {want}; its data are kept at {}: move them away, or declare it as it was", data.display()
    )]
    WrongKind {
        /// The volume.
        key: VolumeKey,
        /// What it is.
        have: &'static str,
        /// What was asked for.
        want: &'static str,
        /// Where its data are.
        data: PathBuf,
    },
    /// Volumes only grow.
    #[error("volume {key} has a capacity of {have} bytes and cannot shrink to {want}")]
    Shrink {
        /// The volume.
        key: VolumeKey,
        /// What it has.
        have: u64,
        /// What was asked for.
        want: u64,
    },
    /// No filesystem is that small.
    #[error("volume {key} cannot have a capacity of {want} bytes: the least is {least}")]
    TooSmall {
        /// The volume.
        key: VolumeKey,
        /// What was asked for.
        want: u64,
        /// The least that there can be.
        least: u64,
    },
    /// The filesystem below cannot hold that much, even when it is empty.
    #[error(
        "volume {key} cannot have a capacity of {want} bytes: the filesystem of {} holds {most} at most", at.display()
    )]
    TooLarge {
        /// The volume.
        key: VolumeKey,
        /// What was asked for.
        want: u64,
        /// The most that there can be.
        most: u64,
        /// A path on the filesystem.
        at: PathBuf,
    },
    /// There is no project quota where the volume would be, or it does not hold.
    #[error("volume {key} cannot be kept within its capacity by a project quota: {} {why}", at.display())]
    NoQuota {
        /// The volume.
        key: VolumeKey,
        /// The directory it would be in.
        at: PathBuf,
        /// What is missing, and what to do.
        why: &'static str,
    },
    /// Its data are no longer in its project, as after they were restored from a copy.
    #[error(
        "the data of volume {key} are not in its XFS project {project}, so nothing keeps them within the capacity; put them \
         back: xfs_quota -x -c 'project -s -p {} {project}'", dir.display()
    )]
    NotInProject {
        /// The volume.
        key: VolumeKey,
        /// Its directory.
        dir: PathBuf,
        /// The project's number.
        project: u32,
    },
    /// It is mounted, and the filesystem in it cannot be made larger while it is.
    #[error(
        "volume {0} is in use, and growing it meanwhile needs CAP_SYS_RESOURCE; grant it, or grow when nothing uses it"
    )]
    CannotGrowInUse(VolumeKey),
    /// The image's content does not fit. Nothing of it is left behind.
    #[error(
        "{} is full: {needed} bytes are needed to fill volume {key}, {available} are there; free some or raise the capacity",
        at.display()
    )]
    Full {
        /// The volume.
        key: VolumeKey,
        /// What is full.
        at: PathBuf,
        /// What the content takes.
        needed: u64,
        /// What there is.
        available: u64,
    },
    /// The image has something else at the path.
    #[error("{path} in image {image} is not a directory, so no volume can be filled from it")]
    NotDirectory {
        /// The image's digest.
        image: String,
        /// The path in it.
        path: String,
    },
    /// The path leads nowhere in the image (a loop of links, say).
    #[error("cannot find {path} in image {image}")]
    ImagePath {
        /// The image's digest.
        image: String,
        /// The path in it.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The record cannot be read.
    #[error("{} is damaged; restore it, or move the volume's directory away", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Where in it.
        #[source]
        source: serde_json::Error,
    },
    /// The record was written by a newer release.
    #[error("{} has version {version}, and this release knows {known}; use the newer release", path.display())]
    NewerRecord {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u64,
        /// The highest that is known here.
        known: u64,
    },
    /// A directory without a record is in the volume's place.
    #[error("{} is in the place of volume {key} without a volume.json; move it away", path.display())]
    NoRecord {
        /// The volume.
        key: VolumeKey,
        /// The directory.
        path: PathBuf,
    },
    /// The filesystem that keeps a volume within its capacity cannot be made or used.
    #[error(transparent)]
    Ext4(Ext4Error),
    /// The filesystem in a volume cannot be mounted.
    #[error("cannot mount the filesystem of volume {key}")]
    Mount {
        /// The volume.
        key: VolumeKey,
        /// Why.
        #[source]
        source: MountError,
    },
    /// The machine said no.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was to be done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl VolumeError {
    pub(super) fn io<E: Into<io::Error>>(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source: source.into() }
    }

    /// Whether the machine said that something is full.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } | Self::Ext4(Ext4Error::Io { source, .. }) if full(source))
    }
}

/// ENOSPC or EDQUOT.
fn full(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOSPC | Errno::DQUOT))
}

/// Room on the filesystem of `at`: in all, and left for the superuser's processes without reserve.
pub(super) fn room(at: &Path) -> Result<(u64, u64), VolumeError> {
    let stat = rustix::fs::statvfs(at).map_err(VolumeError::io("measure", at))?;
    Ok((stat.f_blocks.saturating_mul(stat.f_frsize), stat.f_bavail.saturating_mul(stat.f_frsize)))
}

/// Whether a capacity can be, in the directory `dir`: at least `least` bytes, and no more than the filesystem there has in all.
pub(super) fn check_capacity(
    key: &VolumeKey,
    capacity: u64,
    least: u64,
    dir: &Path,
) -> Result<(), VolumeError> {
    if capacity < least {
        return Err(VolumeError::TooSmall { key: key.clone(), want: capacity, least });
    }
    let (most, _) = room(dir)?;
    if capacity > most {
        return Err(VolumeError::TooLarge { key: key.clone(), want: capacity, most, at: dir.to_owned() });
    }
    Ok(())
}
