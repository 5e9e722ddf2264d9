//! The directories of volumes: made aside, moved to their place and out of it by one rename.

use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, Mode, RenameFlags};
use rustix::io::Errno;

use super::record::{self, sync_dir};
use super::{VolumeError, VolumeKey, held, tmpfs};
use crate::failpoint::failpoint;
use crate::layer::remove_all;

/// No component of a key begins with a dot.
const NEW: &str = ".new";
const TRASH: &str = ".trash";

/// See the module.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    next: AtomicU64,
    /// For the renames alone: directories above a volume come and go.
    moving: Mutex<()>,
}

/// A directory that is removed when dropped.
#[derive(Debug)]
pub(super) struct Staging(Option<PathBuf>);

impl Staging {
    pub(super) fn path(&self) -> &Path {
        self.0.as_deref().unwrap_or(Path::new(""))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Some(path) = self.0.take()
            && let Err(error) = remove_tree(&path)
        {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "could not remove a half-made volume; the next start will");
        }
    }
}

impl Tree {
    /// Makes what is not there, and removes what was being made or removed.
    pub(super) fn open(root: PathBuf) -> Result<Self, VolumeError> {
        make_private(&root)?;
        for name in [NEW, TRASH] {
            remove_tree(&root.join(name))?;
            make_private(&root.join(name))?;
        }
        Ok(Self { root, next: AtomicU64::new(0), moving: Mutex::default() })
    }

    pub(super) fn dir(&self, key: &VolumeKey) -> PathBuf {
        self.root.join(key.path())
    }

    /// A new directory aside.
    pub(super) fn stage(&self) -> Result<Staging, VolumeError> {
        let path = self.unique(NEW);
        std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(VolumeError::io("make", &path))?;
        Ok(Staging(Some(path)))
    }

    fn unique(&self, below: &str) -> PathBuf {
        self.root.join(below).join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Whether a volume of that name can be, as long as there is none.
    pub(super) fn check(&self, key: &VolumeKey) -> Result<(), VolumeError> {
        for other in key.above() {
            if is_volume(&self.dir(&other)) {
                return Err(VolumeError::Nested { key: key.clone(), other });
            }
        }
        match self.keys(Some(key))?.into_iter().find(|other| other != key) {
            Some(other) => Err(VolumeError::Nested { key: key.clone(), other }),
            None => Ok(()),
        }
    }

    /// Moves a finished volume to its place; durable when it returns.
    pub(super) fn place(&self, mut staging: Staging, key: &VolumeKey) -> Result<(), VolumeError> {
        let to = self.dir(key);
        {
            let _moving = held(&self.moving);
            self.check(key)?;
            if let Some(above) = to.parent() {
                std::fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(above)
                    .map_err(VolumeError::io("make", above))?;
            }
            // An empty directory may be there, of keys below that are gone.
            match rustix::fs::rename(staging.path(), &to) {
                Ok(()) => staging.0 = None,
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {
                    return Err(VolumeError::NoRecord { key: key.clone(), path: to });
                }
                Err(error) => return Err(VolumeError::io("move a volume to", to)(error)),
            }
        }
        failpoint!("volume.placed");
        self.sync_above(key)
    }

    /// Syncs every directory on the way to the volume.
    fn sync_above(&self, key: &VolumeKey) -> Result<(), VolumeError> {
        let mut above: Vec<_> = key.above().map(|key| self.dir(&key)).collect();
        above.reverse();
        above.push(self.root.clone());
        for dir in above {
            match sync_dir(&dir) {
                // Empty, and removed meanwhile.
                Err(VolumeError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Moves a volume out of its place, durably, then removes it.
    /// `moved` is told where it is meanwhile.
    pub(super) fn remove(&self, key: &VolumeKey, moved: impl FnOnce(&Path)) -> Result<(), VolumeError> {
        let from = self.dir(key);
        let to = {
            let _moving = held(&self.moving);
            // A directory above volumes is none.
            if !is_volume(&from) {
                return Ok(());
            }
            let to = self.unique(TRASH);
            match rustix::fs::renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE) {
                Ok(()) => {}
                Err(Errno::NOENT) => return Ok(()),
                Err(error) => return Err(VolumeError::io("remove", from)(error)),
            }
            prune(&self.root, key);
            to
        };
        moved(&to);
        failpoint!("volume.trashed");
        self.sync_above(key)?;
        remove_tree(&to)
    }

    /// All volumes, or those at and below `prefix`, by key.
    pub(super) fn keys(&self, prefix: Option<&VolumeKey>) -> Result<Vec<VolumeKey>, VolumeError> {
        let mut found = Vec::new();
        let dir = prefix.map_or_else(|| self.root.clone(), |prefix| self.dir(prefix));
        match prefix {
            Some(prefix) if is_volume(&dir) => found.push(prefix.clone()),
            _ => walk(&dir, prefix, &mut |dir, key| {
                if is_volume(dir) {
                    found.push(key);
                    return Ok(false);
                }
                Ok(true)
            })?,
        }
        found.sort();
        Ok(found)
    }
}

fn is_volume(dir: &Path) -> bool {
    dir.join(record::NAME).symlink_metadata().is_ok()
}

/// The keys at which a tmpfs is mounted below `mounts`.
pub(super) fn mounted(mounts: &Path) -> Result<Vec<VolumeKey>, VolumeError> {
    let mut found = Vec::new();
    walk(mounts, None, &mut |dir, key| {
        let here = tmpfs::is_mounted(dir)?;
        if here {
            found.push(key);
        }
        Ok(!here)
    })?;
    Ok(found)
}

type Visit<'a> = &'a mut dyn FnMut(&Path, VolumeKey) -> Result<bool, VolumeError>;

/// Goes to every directory below `dir` that can be a key's, deeper where `visit` says so.
fn walk(dir: &Path, prefix: Option<&VolumeKey>, visit: Visit<'_>) -> Result<(), VolumeError> {
    if prefix.is_some_and(VolumeKey::is_deepest) {
        return Ok(());
    }
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        // Removed meanwhile.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
        Err(error) => return Err(VolumeError::io("list", dir)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(VolumeError::io("list", dir))?;
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let name = entry.file_name();
        let Some(key) = name.to_str().and_then(|name| VolumeKey::below(prefix, name)) else { continue };
        if visit(&entry.path(), key.clone())? {
            walk(&entry.path(), Some(&key), visit)?;
        }
    }
    Ok(())
}

/// Removes the directories above `key` that are empty now.
pub(super) fn prune(root: &Path, key: &VolumeKey) {
    let above: Vec<_> = key.above().collect();
    for key in above.iter().rev() {
        if rustix::fs::rmdir(root.join(key.path())).is_err() {
            break;
        }
    }
}

/// Makes the directory at `path`, and those above it, for the superuser alone.
pub(super) fn make_private(path: &Path) -> Result<(), VolumeError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(VolumeError::io("make", path))?;
    rustix::fs::chmod(path, Mode::RWXU).map_err(VolumeError::io("set the mode of", path))
}

fn remove_tree(path: &Path) -> Result<(), VolumeError> {
    remove_all(CWD, path.as_os_str().as_bytes()).map_err(VolumeError::io("remove", path))
}
