//! What a snapshot changed, and its tree as bytes.
//!
//! ```text
//! snapshot ─► Trees (two, read-only) ─┬─► compare ─► [Item] ─┬─► Storage::changes
//!                                     │                      └─► write_layer ─► tar ─► commit
//!                                     └─► write_tree ─────────────────────────► tar ─► export
//! ```
//!
//! Both trees are what a container would see, so one walk serves all drivers, and the same trees give the same bytes
//! whichever driver keeps them. Time of modification is content; order in a directory, inode numbers and change times
//! are not.

use std::ffi::CString;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::driver::SnapshotKey;
use crate::layer::{Attributes, UnpackLimits, kind, shown};
use crate::snapshots::{SnapshotError, Snapshots};

mod compare;
mod write;

pub(crate) use compare::{Action, Item, compare, same_root_but_time};
pub(crate) use write::{write_layer, write_path, write_tree};

#[cfg(test)]
mod tests;

/// The merged trees of a snapshot and of what it is based on, attached nowhere, read-only and without devices.
#[derive(Debug)]
pub struct Trees {
    /// Of the stack below; none for a snapshot of nothing.
    pub parent: Option<OwnedFd>,
    /// Of the snapshot.
    pub top: OwnedFd,
    /// Equal inode numbers in both mean the same file.
    pub same_files: bool,
    /// Both are snapshots of one filesystem: a file with the same inode number and time of change (which nobody can set) in
    /// both has not been changed.
    pub snapshots: bool,
    /// A directory that has every directory of `top` in which something may differ, where the driver keeps one.
    pub upper: Option<OwnedFd>,
}

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChangeKind {
    /// It was not there.
    Added,
    /// It is another one, or has another content, owner, mode, time or attribute; or something below it has changed.
    Modified,
    /// It is not there any more. What was below it is not told separately.
    Deleted,
}

/// One changed path of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Change {
    /// Absolute, in the snapshot. Its bytes need not be text.
    pub path: PathBuf,
    /// What happened.
    pub kind: ChangeKind,
}

/// Why a snapshot's changes or its tree could not be read, or not be written down.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiffError {
    /// There is no such snapshot, or it cannot be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The disk failed, or the tree changed in a way that cannot be passed over.
    #[error("cannot read {path:?} of the snapshot")]
    Read {
        /// Which entry.
        path: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Something that an image cannot have.
    #[error("{path:?} cannot be in an image: {what}")]
    Refused {
        /// Which entry.
        path: String,
        /// Why.
        what: &'static str,
    },
    /// More than an image may have.
    #[error("the snapshot exceeds the limit of {limit} {what} of an image")]
    Limit {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// Whoever takes the bytes does not take them.
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
}

impl DiffError {
    fn read(path: &[u8], source: impl Into<io::Error>) -> Self {
        Self::Read { path: shown(path), source: source.into() }
    }

    fn refused(path: &[u8], what: &'static str) -> Self {
        Self::Refused { path: shown(path), what }
    }
}

impl Snapshots {
    /// What the snapshot changed, by the bytes of the paths. Directories on the way to a change are changes too; the root
    /// itself is never told. The snapshot may be in use; what changes meanwhile is seen or not.
    ///
    /// `stubs` are places to mount on that were made for the container, such as `/etc/hosts`: where one was added and is
    /// empty, it is no change.
    pub fn changes(&self, key: &SnapshotKey, stubs: &[PathBuf]) -> Result<Vec<Change>, DiffError> {
        let reading = self.read(key)?;
        let items = compare(&reading.trees, stubs, &UnpackLimits::default())?;
        let told = items.into_iter().filter(|item| !item.path.is_empty());
        Ok(told.map(|item| Change { path: absolute(&item.path), kind: item.kind }).collect())
    }

    /// What [`changes`](Self::changes) tells, by looking at everything.
    #[cfg(feature = "testing")]
    pub fn changes_in_full(&self, key: &SnapshotKey, stubs: &[PathBuf]) -> Result<Vec<Change>, DiffError> {
        let mut reading = self.read(key)?;
        reading.trees.upper = None;
        let items = compare(&reading.trees, stubs, &UnpackLimits::default())?;
        let told = items.into_iter().filter(|item| !item.path.is_empty());
        Ok(told.map(|item| Change { path: absolute(&item.path), kind: item.kind }).collect())
    }

    /// Writes all that the snapshot shows as a tar archive. Blocks for as long as `out` does, and keeps only names of
    /// linked files in memory.
    pub fn export(&self, key: &SnapshotKey, out: &mut dyn Write) -> Result<(), DiffError> {
        let reading = self.read(key)?;
        write_tree(&reading.trees.top, &UnpackLimits::default(), out)
    }

    /// Writes what the snapshot changed as a layer, and says whether there is anything in it.
    pub fn write_layer(
        &self,
        key: &SnapshotKey,
        stubs: &[PathBuf],
        limits: &UnpackLimits,
        out: &mut dyn Write,
    ) -> Result<bool, DiffError> {
        let reading = self.read(key)?;
        let items = compare(&reading.trees, stubs, limits)?;
        write_layer(&reading.trees, &items, limits, out)?;
        Ok(!items.is_empty())
    }
}

fn absolute(path: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    Path::new("/").join(std::ffi::OsStr::from_bytes(path))
}

/// What is never in a layer: overlayfs's books, and labels that hold only for the machine that set them.
fn is_local_attribute(name: &[u8]) -> bool {
    crate::layer::is_overlay_attribute(name)
        || matches!(name, b"security.selinux" | b"security.ima" | b"security.evm")
}

/// All extended attributes that count, sorted.
fn attributes(of: &Attributes<'_>) -> Result<Vec<(CString, Vec<u8>)>, Errno> {
    let mut out = Vec::new();
    for name in of.list()? {
        if !is_local_attribute(name.to_bytes())
            && let Some(value) = of.get(&name)?
        {
            out.push((name, value));
        }
    }
    Ok(out)
}

/// What no archive can hold: sockets, and the device that overlayfs takes for a whiteout.
fn is_left_out(stat: &Stat) -> bool {
    kind(stat) == FileType::Socket || crate::layer::is_whiteout(stat)
}

/// A regular file for reading. The trees have no devices, so whatever comes in its place meanwhile does nothing.
fn open_file(dir: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    use std::os::unix::ffi::OsStrExt;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(dir, std::ffi::OsStr::from_bytes(name), flags, Mode::empty())
}

/// The directory of a path, and its name in there.
fn split_last(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

/// That something went away is no error: whoever runs in it may remove it at any time.
fn gone<T>(result: Result<T, Errno>, path: &[u8]) -> Result<Option<T>, DiffError> {
    match result {
        Ok(it) => Ok(Some(it)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE) => Ok(None),
        Err(error) => Err(DiffError::read(path, error)),
    }
}
