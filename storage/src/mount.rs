//! Mounts as data: what a root filesystem is made of. Whoever starts a container turns them into mounts in the
//! container's own mount namespace; [`detached`] makes a mount that is attached nowhere.

use std::path::PathBuf;

pub mod detached;

/// The mounts of a root filesystem, in the order in which they go on the same target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounts(pub Vec<Mount>);

impl std::ops::Deref for Mounts {
    type Target = [Mount];

    fn deref(&self) -> &[Mount] {
        &self.0
    }
}

/// One mount. Paths are absolute, but for those [`on`](Mount::Overlay::on) a filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// An overlay (kernel documentation, filesystems/overlayfs.rst).
    Overlay {
        /// Layers, the topmost first. At least one; at least two when there is no `upper`.
        lower: Vec<PathBuf>,
        /// The writable directory; without it the mount is read-only.
        upper: Option<PathBuf>,
        /// The empty directory that overlayfs needs on the filesystem of `upper`.
        work: Option<PathBuf>,
        /// More options, as `name` or `name=value`.
        options: Vec<String>,
        /// The [`Block`](Self::Block) filesystem that all paths which are not absolute begin at. It is mounted for this alone
        /// and never seen.
        on: Option<Box<Mount>>,
    },
    /// A directory that is there already.
    Bind {
        /// The directory.
        source: PathBuf,
        /// Whether nothing may be written through it.
        readonly: bool,
    },
    /// A filesystem on a block device.
    Block {
        /// The device's node.
        device: PathBuf,
        /// The filesystem's name, as in `/proc/filesystems`.
        fstype: String,
        /// Options, as `name` or `name=value`; `ro` makes it read-only.
        options: Vec<String>,
    },
}
