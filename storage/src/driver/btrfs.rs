//! The driver on btrfs: a subvolume a layer and a snapshot, each but the lowest a snapshot of its parent, so that nothing is
//! copied. Committed ones are read-only by a property of their own.
//!
//! Making a snapshot waits for a commit of the filesystem: the kernel has no other way (`btrfs_mksnapshot`, fs/btrfs/ioctl.c).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::options::{self, OptionError};
use super::staged::Staged;
use super::store::{Removed, Staging, Store, make_private, open_dir, remove_tree};
use super::{
    Driver, DriverError, DriverStatus, Found, LayerRecord, LimitChange, Reread, SnapshotKind, SnapshotLimit,
    SnapshotRecord, Unpack, Usage,
};
use crate::diff::Trees;
use crate::digest::ChainId;
use crate::failpoint::failpoint;
use crate::layer::{Stream, UnpackLimits, apply_onto, names};
use crate::mount::{Mount, Mounts, detached};

mod ioctl;
mod tree;

use tree::Quotas;

const NAME: &str = "btrfs";
/// The smallest limit that a snapshot may have.
const MIN_SPACE: &str = "btrfs.min_space";
/// Its options, as Docker has them.
pub(crate) const KNOWN_OPTIONS: &[&str] = &[MIN_SPACE];

/// The directory of files named by subvolumes that were removed and may still have an account of the quotas.
const ACCOUNTS: &str = "accounts";

/// The subvolume in the directory of a layer or snapshot.
const TREE: &str = "fs";

/// See the module.
#[derive(Debug)]
pub(crate) struct Btrfs {
    store: Store,
    root: PathBuf,
    min_space: u64,
    staged: Staged,
}

/// Whether the driver works in the directory `at`, which need not be there.
pub(crate) fn probe(at: &Path) -> Result<(), DriverError> {
    // linux/magic.h.
    const BTRFS: u64 = 0x9123_683e;
    let there = at.ancestors().find(|path| path.exists()).unwrap_or(at);
    let stat = rustix::fs::statfs(there).map_err(DriverError::io("look at", there))?;
    if u64::try_from(stat.f_type).is_ok_and(|kind| kind == BTRFS) {
        return Ok(());
    }
    let found = super::store::filesystem(there)?;
    Err(DriverError::Filesystem { path: there.to_owned(), found, wanted: NAME })
}

impl Btrfs {
    /// Opens the driver at `root`, after a question that root alone may ask.
    pub(crate) fn open(root: PathBuf, options: &[(String, String)]) -> Result<Self, DriverError> {
        probe(&root)?;
        let min_space = min_space(options)?;
        let store = Store::open_with(root.clone(), remove)?;
        make_private(&root.join(ACCOUNTS))?;
        let driver = Self { store, root, min_space, staged: Staged::default() };
        driver.quotas()?;
        Ok(driver)
    }

    fn tree(&self, chain: &ChainId) -> PathBuf {
        self.store.layer(chain).join(TREE)
    }

    fn own(&self, snapshot: &SnapshotRecord) -> PathBuf {
        self.store.snapshot(&snapshot.key).join(TREE)
    }

    /// A snapshot of `parent`, or an empty subvolume, in a place of its own.
    fn subvolume(&self, parent: Option<&ChainId>) -> Result<Staging, DriverError> {
        let staging = self.store.stage()?;
        let dir = open_dir(staging.path())?;
        let to = staging.path().join(TREE);
        match parent {
            Some(parent) => {
                let from = open_dir(&self.tree(parent))?;
                ioctl::snapshot(&from, &dir, c"fs").map_err(DriverError::io("make the snapshot", to))?;
            }
            None => {
                ioctl::create(&dir, c"fs").map_err(DriverError::io("make the subvolume", &to))?;
                rustix::fs::fchmod(open_dir(&to)?, rustix::fs::Mode::from_raw_mode(0o755))
                    .map_err(DriverError::io("set up", to))?;
            }
        }
        failpoint!("btrfs.subvolume_made");
        Ok(staging)
    }

    fn set_limit(&self, at: &Path, limit: Option<u64>) -> Result<(), DriverError> {
        let refused = |why: String| Err(DriverError::NoLimit { driver: NAME, why });
        if let Some(bytes) = limit.filter(|bytes| *bytes < self.min_space) {
            return refused(format!("{bytes} bytes are less than {MIN_SPACE}={}", self.min_space));
        }
        let root = open_dir(at)?;
        let id = ioctl::id(&root).map_err(DriverError::io("look at", at))?;
        match (ioctl::limit(&root, id, limit), limit) {
            (Ok(()), _) | (Err(Errno::NOTCONN), None) => Ok(()),
            (Err(Errno::NOTCONN), Some(_)) => refused(format!(
                "quotas are off; turn them on with `btrfs quota enable {}`",
                self.root.display()
            )),
            (Err(error), _) => Err(DriverError::io("limit", at)(error)),
        }
    }

    fn quotas(&self) -> Result<Quotas, DriverError> {
        tree::quotas(&open_dir(&self.root)?).map_err(DriverError::io("ask the quotas of", &self.root))
    }
}

fn min_space(options: &[(String, String)]) -> Result<u64, OptionError> {
    let given = options.iter().find(|(option, _)| option == MIN_SPACE);
    given.map_or(Ok(0), |(option, value)| options::bytes(option, value))
}

/// Makes a committed subvolume one that nobody can change, or a writable one that is changeable again.
fn set_read_only(at: &Path, readonly: bool) -> Result<(), DriverError> {
    let root = open_dir(at)?;
    match ioctl::is_read_only(&root) {
        Ok(now) if now == readonly => Ok(()),
        Ok(_) => ioctl::set_read_only(&root, readonly),
        Err(error) => Err(error),
    }
    .map_err(DriverError::io("protect", at))
}

/// Removes a directory with the subvolume in it, and all subvolumes that somebody made in that one. Another thread may be at
/// it too.
fn remove(path: &Path) -> Result<(), DriverError> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let failed = |error: Errno| -> DriverError { DriverError::io("remove", path)(error) };
    let open = |dir: BorrowedFd<'_>, name: &Path| match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(failed(error)),
    };
    let Some(dir) = open(rustix::fs::CWD, path)? else { return remove_tree(path) };
    let Some(root) = open(dir.as_fd(), Path::new(TREE))? else { return remove_tree(path) };
    if rustix::fs::fstat(&root).map_err(failed)?.st_ino != ioctl::FIRST_INODE {
        return remove_tree(path);
    }
    let all = ioctl::id(&root).and_then(|id| tree::with_inner(&dir, id)).map_err(failed)?;
    drop(root);
    let accounts = path.ancestors().nth(2).map(|root| root.join(ACCOUNTS));
    if let Some(accounts) = &accounts
        && tree::quotas(&dir).map_err(failed)? != Quotas::Off
    {
        for id in &all {
            let at = accounts.join(id.to_string());
            std::fs::write(&at, "").map_err(DriverError::io("make", at))?;
        }
    }
    let removed = |result: Result<(), Errno>| match result {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(failed(error)),
    };
    // The innermost first: one that has another in it is not removed.
    for id in all[1..].iter().rev() {
        removed(ioctl::destroy_by_id(&dir, *id))?;
    }
    removed(ioctl::destroy(&dir, c"fs"))?;
    failpoint!("btrfs.destroyed");
    if let Some(accounts) = &accounts {
        settle(accounts)?;
    }
    remove_tree(path)
}

/// Removes accounts of subvolumes that are gone. The kernel refuses it until it has freed what was in them; later ones than
/// Linux 6.1 then do it by themselves.
fn settle(accounts: &Path) -> Result<(), DriverError> {
    let dir = open_dir(accounts)?;
    let failed = |error: Errno| -> DriverError { DriverError::io("settle", accounts)(error) };
    for name in names(&dir).map_err(failed)? {
        let Some(id) = name.to_str().ok().and_then(|name| name.parse().ok()) else { continue };
        match ioctl::remove_qgroup(&dir, id) {
            // Of no account, or without quotas.
            Ok(()) | Err(Errno::NOENT | Errno::NOTCONN) => {}
            Err(error) => {
                tracing::debug!(%error, id, "the account of a removed subvolume stays for now");
                continue;
            }
        }
        match rustix::fs::unlinkat(&dir, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

impl Driver for Btrfs {
    fn name(&self) -> &'static str {
        NAME
    }

    fn unpack(&self) -> Unpack {
        Unpack::OnParent
    }

    fn load(&self) -> Result<Found, DriverError> {
        let found = self.store.load()?;
        settle(&self.root.join(ACCOUNTS))?;
        // A process may have died on the way from the one to the other. What is damaged costs no more than itself.
        let layers = found.layers.iter().map(|layer| (self.tree(&layer.chain), true));
        let writable = found.snapshots.iter().filter(|snapshot| snapshot.kind == SnapshotKind::Writable);
        for (tree, readonly) in layers.chain(writable.map(|snapshot| (self.own(snapshot), false))) {
            if let Err(error) = set_read_only(&tree, readonly) {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, path = %tree.display(), readonly, "a subvolume is not as it should be");
            }
        }
        Ok(found)
    }

    fn stage(
        &self,
        layer: &LayerRecord,
        lowers: &[ChainId],
        stream: Stream,
        limits: &UnpackLimits,
    ) -> Result<(), DriverError> {
        let staging = self.subvolume(lowers.first())?;
        let tree = staging.path().join(TREE);
        apply_onto(open_dir(&tree)?, lowers.is_empty(), stream, limits)?;
        failpoint!("stage.written");
        set_read_only(&tree, true)?;
        self.staged.put(layer, staging);
        Ok(())
    }

    fn finish(
        &self,
        layer: &LayerRecord,
        _lowers: &[ChainId],
        _reread: Reread<'_>,
        _limits: &UnpackLimits,
    ) -> Result<(), DriverError> {
        self.store.place(self.staged.take(layer, &self.store)?, &layer.chain)
    }

    fn abandon(&self, layer: &LayerRecord) {
        drop(self.staged.abandoned(layer));
    }

    fn seal(&self, layers: &[LayerRecord]) -> Result<(), DriverError> {
        self.store.seal(layers)
    }

    fn prepare(
        &self,
        snapshot: &SnapshotRecord,
        lowers: &[ChainId],
        limit: Option<u64>,
    ) -> Result<(), DriverError> {
        // A view shows the layer itself.
        let staging = match (snapshot.kind, lowers.first()) {
            (SnapshotKind::View, Some(_)) => self.store.stage()?,
            (_, parent) => self.subvolume(parent)?,
        };
        if limit.is_some() {
            self.set_limit(&staging.path().join(TREE), limit)?;
            failpoint!("btrfs.limited");
        }
        self.store.place_snapshot(staging, snapshot)
    }

    fn resize(&self, snapshot: &SnapshotRecord, limit: Option<u64>) -> Result<(), DriverError> {
        match (snapshot.kind, limit) {
            (SnapshotKind::Writable, _) => self.set_limit(&self.own(snapshot), limit),
            (SnapshotKind::View, None) => Ok(()),
            (SnapshotKind::View, Some(_)) => {
                let why = "nothing can be written to a view".to_owned();
                Err(DriverError::NoLimit { driver: NAME, why })
            }
        }
    }

    fn limit(&self, snapshot: &SnapshotRecord) -> Result<SnapshotLimit, DriverError> {
        if snapshot.kind == SnapshotKind::View || self.quotas()? == Quotas::Off {
            return Ok(SnapshotLimit::NONE);
        }
        let at = self.own(snapshot);
        let root = open_dir(&at)?;
        let bytes = ioctl::id(&root).and_then(|id| tree::max_exclusive(&root, id));
        let bytes = bytes.map_err(DriverError::io("tell the limit of", at))?;
        Ok(SnapshotLimit { bytes, change: LimitChange::Any, ..SnapshotLimit::NONE })
    }

    fn status(&self) -> Result<DriverStatus, DriverError> {
        let quotas = self.quotas()?;
        let said = match quotas {
            Quotas::Off => format!("off; `btrfs quota enable {}` turns them on", self.root.display()),
            Quotas::On => "on".to_owned(),
            Quotas::Simple => "on, simple".to_owned(),
            Quotas::Inconsistent => {
                format!("on, and wrong until `btrfs quota rescan {}` is done", self.root.display())
            }
        };
        Ok(DriverStatus {
            backing_filesystem: self.store.filesystem()?,
            limits: quotas != Quotas::Off,
            pool: None,
            details: vec![("quotas".to_owned(), said), (MIN_SPACE.to_owned(), self.min_space.to_string())],
        })
    }

    fn activate(&self, snapshot: &SnapshotRecord, lowers: &[ChainId]) -> Result<Mounts, DriverError> {
        let readonly = snapshot.kind == SnapshotKind::View;
        let source = match lowers.first() {
            Some(parent) if readonly => self.tree(parent),
            _ => self.own(snapshot),
        };
        Ok(Mounts(vec![Mount::Bind { source, readonly }]))
    }

    fn trees(&self, snapshot: &SnapshotRecord, lowers: &[ChainId]) -> Result<Trees, DriverError> {
        let open = |source: PathBuf| detached::open_to_read(&Mount::Bind { source, readonly: true });
        let parent = lowers.first().map(|parent| open(self.tree(parent))).transpose()?;
        let top = self.activate(snapshot, lowers)?;
        // A file keeps its inode number in a snapshot, whatever is written to it.
        Ok(Trees {
            parent,
            top: detached::open_to_read(&top[0])?,
            same_files: false,
            snapshots: false,
            upper: None,
        })
    }

    fn deactivate(&self, _snapshot: &SnapshotRecord) -> Result<(), DriverError> {
        Ok(())
    }

    fn commit(
        &self,
        snapshot: &SnapshotRecord,
        layer: &LayerRecord,
        _lowers: &[ChainId],
    ) -> Result<(), DriverError> {
        let own = self.own(snapshot);
        set_read_only(&own, true)?;
        failpoint!("btrfs.protected");
        if let Err(error) = self.store.commit(snapshot, layer) {
            // It stays what it was.
            return set_read_only(&own, false).and(Err(error));
        }
        if let Err(error) = self.set_limit(&self.tree(&layer.chain), None) {
            tracing::debug!(%error, chain = %layer.chain, "a layer keeps a limit, which nothing can reach");
        }
        Ok(())
    }

    fn remove(&self, snapshot: &SnapshotRecord) -> Result<(), DriverError> {
        self.store.remove(&self.store.snapshot(&snapshot.key), Removed::Snapshot)
    }

    fn remove_layer(&self, layer: &LayerRecord) -> Result<(), DriverError> {
        self.store.remove(&self.store.layer(&layer.chain), Removed::Layer)
    }

    /// As of the last commit of the filesystem, which the kernel makes every 30 s by default.
    fn usage(&self, snapshot: &SnapshotRecord) -> Result<Usage, DriverError> {
        if snapshot.kind == SnapshotKind::View && snapshot.parent.is_some() {
            return Ok(Usage::default());
        }
        let at = self.own(snapshot);
        let root: OwnedFd = open_dir(&at)?;
        let measured = ioctl::id(&root).and_then(|id| {
            let mut usage = Usage::default();
            let accounts = matches!(tree::quotas(&root)?, Quotas::On | Quotas::Simple);
            for id in tree::with_inner(&root, id)? {
                let written = tree::written(&root, id)?;
                // What a limit is compared with, where there can be one.
                let exclusive = if accounts { tree::exclusive(&root, id)? } else { None };
                usage.bytes += exclusive.unwrap_or(written.bytes);
                usage.inodes += written.inodes;
            }
            Ok(usage)
        });
        measured.map_err(DriverError::io("measure", at))
    }

    fn layer_usage(&self, layer: &LayerRecord) -> Result<Option<Usage>, DriverError> {
        let at = self.tree(&layer.chain);
        let root: OwnedFd = open_dir(&at)?;
        let measured = ioctl::id(&root).and_then(|id| tree::written(&root, id));
        measured.map(Some).map_err(DriverError::io("measure", at))
    }

    /// The kernel gives the room back a while after that (`btrfs subvolume sync` would wait for it).
    fn settle(&self) {
        self.store.settle();
    }
}
