//! Layers and snapshots as directories, for drivers that keep them so.
//!
//! ```text
//! <root>/layers/<chain, 64 hex>/    diff/ or what the driver keeps, layer -> v1/<parent or ->/<diff id>
//! <root>/snapshots/<key>/           the same, work/,                snapshot -> v1/<writable or view>/<parent or ->
//! <root>/staging/<n>/               being made; moved to one of the above by rename
//! <root>/trash/<n>/                 being removed; moved here by rename
//! ```
//!
//! A record is the target of a symbolic link: one call makes it whole, and no crash leaves half of it. A layer without a
//! record is one that was not yet on disk for sure, and start-up removes it.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::{DriverError, Found, LayerRecord, SnapshotKey, SnapshotKind, SnapshotRecord, Usage};
use crate::digest::{ChainId, DiffId, Digest};
use crate::failpoint::{self, failpoint};
use crate::layer::{names, remove_all};

/// How long [`Store::settle`] waits at most.
pub(crate) const SETTLE: Duration = Duration::from_secs(60);

const LAYER: &str = "layer";
const SNAPSHOT: &str = "snapshot";
/// In a snapshot whose copy becomes a layer: the record of that layer.
const COMMITTED: &str = "committed";

/// Removes a directory with all that the driver keeps in it.
type Remove = fn(&Path) -> Result<(), DriverError>;

/// The directories of one driver.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
    next: AtomicU64,
    remove: Remove,
    leaving: Arc<Leaving>,
}

/// How many trees are being removed by threads.
#[derive(Debug, Default)]
struct Leaving {
    count: Mutex<usize>,
    less: Condvar,
}

/// One of them; no longer when dropped, whatever became of it.
struct Leaves(Arc<Leaving>);

impl Leaves {
    fn new(all: &Arc<Leaving>) -> Self {
        *all.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Self(Arc::clone(all))
    }
}

impl Drop for Leaves {
    fn drop(&mut self) {
        *self.0.count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.less.notify_all();
    }
}

impl Store {
    /// Makes what is not there.
    pub(crate) fn open(root: PathBuf) -> Result<Self, DriverError> {
        Self::open_with(root, remove_tree)
    }

    /// The same, for a driver that keeps more than files in its directories.
    pub(crate) fn open_with(root: PathBuf, remove: Remove) -> Result<Self, DriverError> {
        for dir in ["", "layers", "snapshots", "staging", "trash"] {
            make_private(&root.join(dir))?;
        }
        Ok(Self { root, next: AtomicU64::new(0), remove, leaving: Arc::default() })
    }

    /// Whether a driver has ever kept anything at `root`.
    pub(crate) fn in_use(root: &Path) -> bool {
        ["layers", "snapshots"]
            .iter()
            .any(|dir| std::fs::read_dir(root.join(dir)).is_ok_and(|mut entries| entries.next().is_some()))
    }

    /// The filesystem's name, as in `/proc/filesystems`.
    pub(crate) fn filesystem(&self) -> Result<String, DriverError> {
        filesystem(&self.root)
    }

    pub(crate) fn layer(&self, chain: &ChainId) -> PathBuf {
        self.root.join("layers").join(chain.0.hex())
    }

    pub(crate) fn snapshot(&self, key: &SnapshotKey) -> PathBuf {
        self.root.join("snapshots").join(key.as_str())
    }

    fn unique(&self, below: &str) -> PathBuf {
        self.root.join(below).join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// A new directory that goes away again unless it is moved to its place.
    pub(crate) fn stage(&self) -> Result<Staging, DriverError> {
        let path = loop {
            let path = self.unique("staging");
            match rustix::fs::mkdirat(CWD, &path, Mode::RWXU) {
                Ok(()) => break path,
                // Of a process that died; start-up has not come to it yet.
                Err(Errno::EXIST) => {}
                Err(error) => return Err(DriverError::io("make", path)(error)),
            }
        };
        failpoint!("stage.made");
        Ok(Staging { path: Some(path), remove: self.remove })
    }

    /// Start-up: removes what was being made or removed, and layers that were not recorded, then lists the rest.
    pub(crate) fn load(&self) -> Result<Found, DriverError> {
        let mut found = Found::default();
        for name in list(&self.root.join("layers"))? {
            let path = self.root.join("layers").join(OsStr::from_bytes(&name));
            match layer_record(&name, &path) {
                Some(record) => found.layers.push(record),
                None => self.trash(&path)?,
            }
        }
        // A layer is sealed after its parent, so this finds something only after damage from elsewhere.
        loop {
            let chains: std::collections::HashSet<_> = found.layers.iter().map(|layer| layer.chain).collect();
            let (whole, orphans): (Vec<_>, Vec<_>) = std::mem::take(&mut found.layers)
                .into_iter()
                .partition(|layer| layer.parent.is_none_or(|parent| chains.contains(&parent)));
            found.layers = whole;
            if orphans.is_empty() {
                break;
            }
            for layer in orphans {
                tracing::warn!(chain = %layer.chain, "removed a layer whose parent is not there");
                self.trash(&self.layer(&layer.chain))?;
            }
        }
        for name in list(&self.root.join("snapshots"))? {
            let path = self.root.join("snapshots").join(OsStr::from_bytes(&name));
            match snapshot_record(&name, &path) {
                Some(_)
                    if committed(&path)
                        .is_some_and(|chain| found.layers.iter().any(|it| it.chain == chain)) =>
                {
                    self.trash(&path)?;
                }
                Some(record) => {
                    // The layer that it was to become is not there, and may yet be made of something else.
                    remove_tree(&path.join(COMMITTED))?;
                    found.snapshots.push(record);
                }
                None => {
                    tracing::warn!(path = %path.display(), "removed a snapshot without a record");
                    self.trash(&path)?;
                }
            }
        }
        for dir in ["staging", "trash"] {
            for name in list(&self.root.join(dir))? {
                let path = self.root.join(dir).join(OsStr::from_bytes(&name));
                (self.remove)(&path)?;
            }
        }
        Ok(found)
    }

    /// Moves a finished layer to its place, where it can be a parent but is not yet recorded.
    pub(crate) fn place(&self, mut staging: Staging, chain: &ChainId) -> Result<(), DriverError> {
        let to = self.layer(chain);
        failpoint!("finish.done");
        rename_new(staging.path(), &to)?;
        staging.path = None;
        failpoint!("finish.renamed");
        Ok(())
    }

    /// Makes placed layers durable: everything to disk once, then the records, then these.
    pub(crate) fn seal(&self, layers: &[LayerRecord]) -> Result<(), DriverError> {
        let root = open_dir(&self.root)?;
        let sync = || match failpoint::skipped("skip.sync.seal") {
            true => Ok(()),
            false => rustix::fs::syncfs(&root).map_err(DriverError::io("sync", &self.root)),
        };
        sync()?;
        failpoint!("seal.synced");
        for layer in layers {
            write_layer_record(&self.layer(&layer.chain), layer)?;
            failpoint!("seal.recorded");
        }
        // The records are in as many directories as there are layers; one call writes them all.
        sync()
    }

    /// Moves a staged snapshot, with its record, to its place. Not synced: a start never waits for the disk, and the
    /// journal keeps the order of these calls.
    pub(crate) fn place_snapshot(
        &self,
        mut staging: Staging,
        record: &SnapshotRecord,
    ) -> Result<(), DriverError> {
        let kind = match record.kind {
            SnapshotKind::Writable => "writable",
            SnapshotKind::View => "view",
        };
        write_record(
            &staging.path().join(SNAPSHOT),
            &format!("v1/{kind}/{}", parent_text(record.parent.as_ref())),
        )?;
        failpoint!("prepare.made");
        rename_new(staging.path(), &self.snapshot(&record.key))?;
        staging.path = None;
        failpoint!("prepare.renamed");
        Ok(())
    }

    /// Makes a snapshot into a layer. Its directory becomes the layer's by one rename: a crash leaves the one or the other.
    pub(crate) fn commit(&self, snapshot: &SnapshotRecord, layer: &LayerRecord) -> Result<(), DriverError> {
        let root = open_dir(&self.root)?;
        let sync = || rustix::fs::syncfs(&root).map_err(DriverError::io("sync", &self.root));
        let (from, to) = (self.snapshot(&snapshot.key), self.layer(&layer.chain));
        sync()?;
        // One that a crash left here may be of another layer.
        remove_tree(&from.join(LAYER))?;
        write_layer_record(&from, layer)?;
        failpoint!("commit.recorded");
        rename_new(&from, &to)?;
        failpoint!("commit.renamed");
        // Of no use to a layer, and of no harm.
        remove_tree(&to.join(SNAPSHOT))?;
        remove_tree(&to.join("work"))?;
        sync()
    }

    /// Makes a staged copy of what a snapshot has into a layer, and removes the snapshot. From the moment at which the layer
    /// is in its place, start-up removes a snapshot that became it; before that, the snapshot stays.
    pub(crate) fn commit_copy(
        &self,
        mut staging: Staging,
        snapshot: &SnapshotRecord,
        layer: &LayerRecord,
    ) -> Result<(), DriverError> {
        let root = open_dir(&self.root)?;
        let sync = || rustix::fs::syncfs(&root).map_err(DriverError::io("sync", &self.root));
        let (from, to) = (self.snapshot(&snapshot.key), self.layer(&layer.chain));
        sync()?;
        write_layer_record(staging.path(), layer)?;
        remove_tree(&from.join(COMMITTED))?;
        write_record(&from.join(COMMITTED), &layer_text(layer))?;
        failpoint!("commit.noted");
        if let Err(error) = rename_new(staging.path(), &to) {
            remove_tree(&from.join(COMMITTED))?;
            return Err(error);
        }
        staging.path = None;
        failpoint!("commit.placed");
        sync()?;
        self.remove(&from, Removed::Snapshot)
    }

    /// Moves a thing out of its place and removes it on a thread of its own.
    pub(crate) fn remove(&self, path: &Path, point: Removed) -> Result<(), DriverError> {
        let to = loop {
            let to = self.unique("trash");
            match rustix::fs::renameat_with(CWD, path, CWD, &to, RenameFlags::NOREPLACE) {
                Ok(()) => break to,
                Err(Errno::NOENT) => return Ok(()),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(DriverError::io("remove", path)(error)),
            }
        };
        match point {
            Removed::Snapshot => {
                failpoint!("remove.renamed");
            }
            Removed::Layer => {
                failpoint!("remove_layer.renamed");
            }
        }
        let remove = self.remove;
        let leaves = Leaves::new(&self.leaving);
        let spawned = std::thread::Builder::new().name("storage-trash".into()).spawn(move || {
            let _leaves = leaves;
            if let Err(error) = remove(&to) {
                tracing::warn!(%error, path = %to.display(), "could not remove all of it; the next start will");
            }
        });
        // Start-up removes what this did not.
        drop(spawned);
        Ok(())
    }

    /// For start-up of a driver: drops what it cannot use.
    pub(crate) fn discard(&self, path: &Path) -> Result<(), DriverError> {
        remove_tree(path)
    }

    /// Returns when the trash is empty, or after a minute.
    pub(crate) fn settle(&self) {
        let count = self.leaving.count.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.leaving.less.wait_timeout_while(count, SETTLE, |count| *count > 0);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// For start-up, which empties the trash at its end.
    fn trash(&self, path: &Path) -> Result<(), DriverError> {
        loop {
            let to = self.unique("trash");
            match rustix::fs::renameat_with(CWD, path, CWD, &to, RenameFlags::NOREPLACE) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(DriverError::io("remove", path)(error)),
            }
        }
    }
}

/// What is being removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removed {
    Snapshot,
    Layer,
}

/// A directory that is removed when dropped.
#[derive(Debug)]
pub(crate) struct Staging {
    path: Option<PathBuf>,
    remove: Remove,
}

impl Staging {
    pub(crate) fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    /// A new directory in it.
    pub(crate) fn mkdir(&self, name: &str, mode: u32) -> Result<PathBuf, DriverError> {
        let path = self.path().join(name);
        mkdir(&path, mode)?;
        Ok(path)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Some(path) = self.path.take()
            && let Err(error) = (self.remove)(&path)
        {
            tracing::warn!(%error, path = %path.display(), "could not remove a half-made directory; the next start will");
        }
    }
}

/// Opens a directory for reading.
pub(crate) fn open_dir(path: &Path) -> Result<OwnedFd, DriverError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(DriverError::io("open", path))
}

pub(crate) fn mkdir(path: &Path, mode: u32) -> Result<(), DriverError> {
    rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(mode)).map_err(DriverError::io("make", path))
}

pub(crate) fn make_private(path: &Path) -> Result<(), DriverError> {
    match rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(DriverError::io("make", path)(error)),
    }
}

fn rename_new(from: &Path, to: &Path) -> Result<(), DriverError> {
    rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)
        .map_err(DriverError::io("move to", to))
}

pub(crate) fn remove_tree(path: &Path) -> Result<(), DriverError> {
    remove_all(CWD, path.as_os_str().as_bytes()).map_err(DriverError::io("remove", path))
}

fn list(path: &Path) -> Result<Vec<Vec<u8>>, DriverError> {
    let dir = open_dir(path)?;
    let names = names(&dir).map_err(DriverError::io("list", path))?;
    Ok(names.into_iter().map(std::ffi::CString::into_bytes).collect())
}

fn parent_text(parent: Option<&ChainId>) -> String {
    parent.map_or_else(|| "-".to_owned(), |parent| parent.0.hex())
}

/// `None` when the text is neither.
fn parent_from(text: &str) -> Option<Option<ChainId>> {
    match text {
        "-" => Some(None),
        hex => Digest::from_hex(hex).ok().map(|digest| Some(ChainId(digest))),
    }
}

pub(crate) fn write_record(at: &Path, text: &str) -> Result<(), DriverError> {
    match rustix::fs::symlinkat(text, CWD, at) {
        Ok(()) => Ok(()),
        // Sealed before, by another image with the same layers.
        Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(DriverError::io("record", at)(error)),
    }
}

fn write_layer_record(dir: &Path, layer: &LayerRecord) -> Result<(), DriverError> {
    write_record(&dir.join(LAYER), &layer_text(layer))
}

fn layer_text(layer: &LayerRecord) -> String {
    format!("v1/{}/{}", parent_text(layer.parent.as_ref()), layer.diff_id.0.hex())
}

/// The two parts of the record, after its version.
pub(crate) fn record(at: &Path) -> Option<(String, String)> {
    let target = std::fs::read_link(at).ok()?;
    let mut parts = target.to_str()?.split('/');
    let (version, first, second) = (parts.next()?, parts.next()?, parts.next()?);
    (version == "v1").then(|| (first.to_owned(), second.to_owned()))
}

fn layer_record(name: &[u8], dir: &Path) -> Option<LayerRecord> {
    let chain = ChainId(Digest::from_hex(std::str::from_utf8(name).ok()?).ok()?);
    let (parent, diff) = record(&dir.join(LAYER))?;
    Some(LayerRecord { chain, parent: parent_from(&parent)?, diff_id: DiffId(Digest::from_hex(&diff).ok()?) })
}

/// The stack that a copy of the snapshot in `dir` was to be the top of.
fn committed(dir: &Path) -> Option<ChainId> {
    let (parent, diff) = record(&dir.join(COMMITTED))?;
    Some(ChainId::on(parent_from(&parent)?, DiffId(Digest::from_hex(&diff).ok()?)))
}

fn snapshot_record(name: &[u8], dir: &Path) -> Option<SnapshotRecord> {
    let key = SnapshotKey::new(std::str::from_utf8(name).ok()?).ok()?;
    let (kind, parent) = record(&dir.join(SNAPSHOT))?;
    let kind = match kind.as_str() {
        "writable" => SnapshotKind::Writable,
        "view" => SnapshotKind::View,
        _ => return None,
    };
    Some(SnapshotRecord { key, kind, parent: parent_from(&parent)? })
}

/// The name of the filesystem that `path` is on: that of the last mount of its device in `/proc/self/mountinfo`
/// (proc_pid_mountinfo(5)), else the number of its kind (statfs(2)).
pub(crate) fn filesystem(path: &Path) -> Result<String, DriverError> {
    let stat = rustix::fs::stat(path).map_err(DriverError::io("look at", path))?;
    let device = format!("{}:{}", rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let named = table.lines().rev().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        (left.split(' ').nth(2) == Some(device.as_str())).then(|| right.split(' ').next())?
    });
    match named {
        Some(name) => Ok(name.to_owned()),
        None => {
            let stat = rustix::fs::statfs(path).map_err(DriverError::io("look at", path))?;
            Ok(match stat.f_type {
                // linux/magic.h; btrfs shows files by device numbers of their subvolumes, and another namespace may have it.
                0x9123_683e => "btrfs".to_owned(),
                0x794c_7630 => "overlay".to_owned(),
                0x5846_5342 => "xfs".to_owned(),
                other => format!("{other:#x}"),
            })
        }
    }
}

/// What a tree takes on disk.
pub(crate) fn usage(root: &Path) -> Result<Usage, DriverError> {
    usage_of(open_dir(root)?, root)
}

/// The same of a tree that is open; `root` is for messages. Two descriptors are open at a time, however many directories
/// there are and however deep; of what is moved elsewhere meanwhile the rest is not counted.
pub(crate) fn usage_of(dir: OwnedFd, root: &Path) -> Result<Usage, DriverError> {
    const INTO: OFlags =
        OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
    let mut usage = Usage::default();
    let mut seen = std::collections::HashSet::new();
    let mut at = dir;
    let mut above: Vec<((u64, u64), Vec<std::ffi::CString>)> = Vec::new();
    let mut here = count(&at, &mut usage, &mut seen, root)?;
    loop {
        if let Some(name) = here.1.pop() {
            match rustix::fs::openat(&at, &name, INTO, Mode::empty()) {
                Ok(inner) => {
                    let below = count(&inner, &mut usage, &mut seen, root)?;
                    above.push(std::mem::replace(&mut here, below));
                    at = inner;
                }
                // Whoever runs in it removes things meanwhile.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(DriverError::io("look at", root)(error)),
            }
            continue;
        }
        let Some(up) = above.pop() else { return Ok(usage) };
        at = match rustix::fs::openat(&at, "..", INTO, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(usage),
            Err(error) => return Err(DriverError::io("look at", root)(error)),
        };
        let stat = rustix::fs::fstat(&at).map_err(DriverError::io("look at", root))?;
        if (stat.st_dev, stat.st_ino) != up.0 {
            return Ok(usage);
        }
        here = up;
    }
}

/// Adds a directory and what is in it; gives its identity and the directories in it.
fn count(
    dir: &OwnedFd,
    usage: &mut Usage,
    seen: &mut std::collections::HashSet<(u64, u64)>,
    root: &Path,
) -> Result<((u64, u64), Vec<std::ffi::CString>), DriverError> {
    let own = rustix::fs::fstat(dir).map_err(DriverError::io("look at", root))?;
    add(usage, &own);
    let mut dirs = Vec::new();
    for name in names(dir).map_err(DriverError::io("list", root))? {
        let stat = match crate::layer::stat(dir, name.to_bytes()) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(DriverError::io("look at", root)(error)),
        };
        if crate::layer::kind(&stat) == rustix::fs::FileType::Directory {
            dirs.push(name);
        } else if stat.st_nlink == 1 || seen.insert((stat.st_dev, stat.st_ino)) {
            add(usage, &stat);
        }
    }
    Ok(((own.st_dev, own.st_ino), dirs))
}

fn add(usage: &mut Usage, stat: &rustix::fs::Stat) {
    usage.inodes += 1;
    // stat(2): in units of 512 bytes.
    usage.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
}
