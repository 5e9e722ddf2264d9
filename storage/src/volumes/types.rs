//! What is asked of volumes, and what is told of them.

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{VolumeError, VolumeKey};
use crate::mount::Mount;

/// What keeps the data of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeDriver {
    /// The disk: a directory, or with a capacity a filesystem in a file.
    Local,
    /// Memory, until the next reboot.
    Tmpfs,
}

impl VolumeDriver {
    /// As it is written in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Tmpfs => "tmpfs",
        }
    }
}

impl fmt::Display for VolumeDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What keeps a volume of driver [`Local`](VolumeDriver::Local) within its capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CapacityKind {
    /// It is a filesystem of its own, in a file. On any filesystem.
    #[default]
    Image,
    /// It is a directory in an XFS project of its own, which has a quota. On XFS mounted with `prjquota`.
    ProjectQuota,
}

/// What a volume is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeOptions {
    /// What keeps the data.
    pub driver: VolumeDriver,
    /// How much it holds, in bytes; the filesystem's own books are within it. Without it, `Local` has no limit and `Tmpfs` has
    /// the kernel's, half of the memory.
    pub capacity: Option<u64>,
    /// What keeps `Local` within its capacity; means nothing without one.
    pub quota: CapacityKind,
    /// The owner of the data's topmost directory; the image's, or 0, when not given.
    pub uid: Option<u32>,
    /// Its group, likewise.
    pub gid: Option<u32>,
    /// Its permission bits; the image's, or 0755, when not given.
    pub mode: Option<u32>,
}

impl VolumeOptions {
    /// Of a driver, and nothing else asked for.
    pub fn new(driver: VolumeDriver) -> Self {
        Self { driver, capacity: None, quota: CapacityKind::Image, uid: None, gid: None, mode: None }
    }
}

/// A volume that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeRecord {
    /// Its name.
    pub key: VolumeKey,
    /// What keeps the data.
    pub driver: VolumeDriver,
    /// How much it was asked to hold, in bytes.
    pub capacity: Option<u64>,
    /// The number of the XFS project whose quota is its capacity.
    pub project: Option<u32>,
    /// Whether it has been filled, be it with nothing. For one with a capacity it may be told late after a crash, never
    /// wrongly; [`fill`](crate::Volumes::fill) and [`ensure_data`](crate::Volumes::ensure_data) look.
    pub has_data: bool,
    /// The digest of the image that its data came from.
    pub filled_from: Option<String>,
    /// Its directory.
    pub path: PathBuf,
    /// Where its data are: a directory, a filesystem image, or the mount point of a tmpfs.
    pub data: PathBuf,
    /// Whether more than the capacity is refused.
    pub capacity_enforced: bool,
}

/// A record, or why there is none, for each volume.
#[derive(Debug, Default)]
pub struct VolumeList {
    /// Volumes, by key.
    pub volumes: Vec<VolumeRecord>,
    /// Volumes that cannot be used as they are, by key, and why.
    pub broken: Vec<(VolumeKey, VolumeError)>,
}

/// How a volume gets into a container.
#[derive(Debug)]
pub struct ActiveVolume {
    /// What to mount.
    pub mount: Mount,
    /// The directory in the mount that has the data; the mount's root where there is none.
    pub inside: Option<String>,
    /// Keeps the block device until something has it mounted. Hold it so long, no longer.
    pub hold: Option<OwnedFd>,
}

/// What a volume takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VolumeUsage {
    /// Bytes in use.
    pub bytes: u64,
    /// Files, directories and other entries in use.
    pub inodes: u64,
    /// Bytes that it may take; `None` where there is no limit of its own.
    pub capacity: Option<u64>,
    /// Bytes that can be written still.
    pub available: Option<u64>,
}

/// What a volume is filled from: a directory of an image.
#[derive(Debug, Clone, Copy)]
pub struct FillSource<'a> {
    /// The image's tree, as [`Storage::open_tree`](crate::Storage::open_tree) has it.
    pub tree: BorrowedFd<'a>,
    /// The directory in it. Links on the way are followed within the tree.
    pub path: &'a str,
    /// The image's digest, to be remembered.
    pub image: &'a str,
}
