//! The driver on overlayfs: a directory a layer, stacked by the kernel when a container runs.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::copy::{copy_tree, copy_upper};
use super::staged::Staged;
use super::store::{Removed, Staging, Store, open_dir, usage, usage_of};
use super::{
    Driver, DriverError, DriverStatus, Found, LayerRecord, Reread, SnapshotKind, SnapshotLimit,
    SnapshotRecord, Unpack, Usage,
};
use crate::diff::Trees;
use crate::digest::ChainId;
use crate::ext4::{self, Mounted};
use crate::failpoint::failpoint;
use crate::layer::{Apart, Finished, Stream, UnpackLimits, apply_apart, apply_onto, copy_dir_meta, finish};
use crate::mount::{Mount, Mounts, detached};

mod limited;
mod probe;

use limited::{EMPTY, IMAGE, Limited, begin};

/// What is never wanted: each makes an overlay depend on more than its directories, so that a layer would not be the
/// same in another stack (kernel documentation, filesystems/overlayfs.rst).
const OPTIONS: [&str; 3] = ["index=off", "redirect_dir=off", "metacopy=off"];

/// See the module.
#[derive(Debug)]
pub(crate) struct Overlay {
    store: Store,
    options: Vec<String>,
    staged: Staged<(Staging, Apart)>,
    limited: Limited,
}

impl Overlay {
    /// Opens the driver at `root`, after a real mount has shown that it works there.
    pub(crate) fn open(root: PathBuf) -> Result<Self, DriverError> {
        let store = Store::open(root)?;
        let options = probe::options(&store)?;
        Ok(Self { store, options, staged: Staged::default(), limited: Limited::default() })
    }

    fn diff(&self, chain: &ChainId) -> PathBuf {
        self.store.layer(chain).join("diff")
    }

    /// The merged tree of a stack, for reading.
    fn merged(&self, lowers: &[ChainId]) -> Result<Option<OwnedFd>, DriverError> {
        match lowers {
            [] => Ok(None),
            [only] => open_dir(&self.diff(only)).map(Some),
            all => Ok(Some(detached::open(&self.overlay(all, None))?)),
        }
    }

    fn overlay(&self, lowers: &[ChainId], at: Option<&Path>) -> Mount {
        Mount::Overlay {
            lower: lowers.iter().map(|chain| self.diff(chain)).collect(),
            upper: at.map(|at| at.join("diff")),
            work: at.map(|at| at.join("work")),
            options: self.options.clone(),
            on: None,
        }
    }

    /// Layers and the directory `diff` of a limited snapshot's filesystem: written to, or the topmost of those that are only
    /// read.
    fn on(&self, mounted: &Mounted, lowers: &[ChainId], at: &Path, writable: bool) -> Mount {
        let mut lower: Vec<PathBuf> = lowers.iter().map(|chain| self.diff(chain)).collect();
        if lower.is_empty() {
            lower.push(at.join(EMPTY));
        }
        if !writable {
            lower.insert(0, "diff".into());
        }
        // Files keep their numbers when they are copied up, though that is to another filesystem.
        let options = self.options.iter().cloned().chain(["xino=auto".to_owned()]).collect();
        Mount::Overlay {
            lower,
            upper: writable.then(|| "diff".into()),
            work: writable.then(|| "work".into()),
            options,
            on: Some(Box::new(ext4::mount(&mounted.device))),
        }
    }

    /// Reads the layer again, onto a mount of its parent: the kernel then leaves in the upper directory what differs.
    fn onto_parent(
        &self,
        lowers: &[ChainId],
        stream: Stream,
        limits: &UnpackLimits,
    ) -> Result<Staging, DriverError> {
        let staging = self.store.stage()?;
        let diff = staging.mkdir("diff", 0o755)?;
        if let Some(top) = lowers.first() {
            like(&self.diff(top), &diff)?;
            staging.mkdir("work", 0o700)?;
            let mount = detached::open(&self.overlay(lowers, Some(staging.path())))?;
            apply_onto(reopen(&mount)?, false, stream, limits)?;
            drop(mount);
            super::store::remove_tree(&staging.path().join("work"))?;
        } else {
            apply_onto(open_dir(&diff)?, true, stream, limits)?;
        }
        Ok(staging)
    }
}

/// A mount's root, opened so that it can be read and changed.
pub(crate) fn reopen(mount: &OwnedFd) -> Result<OwnedFd, DriverError> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(mount, ".", flags, Mode::empty()).map_err(DriverError::io("open", "the mounted tree"))
}

fn is_limited(snapshot: &Path) -> bool {
    snapshot.join(IMAGE).symlink_metadata().is_ok()
}

/// Makes the directory `to` look like `from`.
fn like(from: &Path, to: &Path) -> Result<(), DriverError> {
    copy_dir_meta(&open_dir(from)?, &open_dir(to)?).map_err(DriverError::io("set up", to))
}

fn poisoned<T>(lock: std::sync::LockResult<T>) -> T {
    lock.unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Driver for Overlay {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn unpack(&self) -> Unpack {
        Unpack::Independent
    }

    fn load(&self) -> Result<Found, DriverError> {
        self.store.load()
    }

    fn stage(
        &self,
        layer: &LayerRecord,
        _lowers: &[ChainId],
        stream: Stream,
        limits: &UnpackLimits,
    ) -> Result<(), DriverError> {
        let staging = self.store.stage()?;
        let diff = staging.mkdir("diff", 0o755)?;
        let apart = apply_apart(open_dir(&diff)?, stream, limits)?;
        failpoint!("stage.written");
        self.staged.put(layer, (staging, apart));
        Ok(())
    }

    fn finish(
        &self,
        layer: &LayerRecord,
        lowers: &[ChainId],
        reread: Reread<'_>,
        limits: &UnpackLimits,
    ) -> Result<(), DriverError> {
        let (mut staging, apart) = self.staged.take(layer, &self.store)?;
        let finished = match &apart {
            Apart::NeedsParent => Finished::NeedsParent,
            Apart::Done(unfinished) => {
                let parent = self.merged(lowers)?;
                let root = open_dir(&staging.path().join("diff"))?;
                finish(&root, unfinished, parent.as_ref().map(AsFd::as_fd))?
            }
        };
        if finished == Finished::NeedsParent {
            tracing::debug!(chain = %layer.chain, "the layer goes through a lower one; it is unpacked onto its parent");
            drop(staging);
            staging = self.onto_parent(lowers, reread()?, limits)?;
        }
        self.store.place(staging, &layer.chain)
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
        let staging = self.store.stage()?;
        let top = lowers.first().map(|top| self.diff(top));
        let writable = snapshot.kind == SnapshotKind::Writable || lowers.is_empty();
        let mounted = match limit {
            None if !writable => None,
            None => {
                begin(&open_dir(staging.path())?, staging.path(), top.as_deref())?;
                None
            }
            Some(bytes) => {
                let mounted = self.limited.make(&staging, bytes)?;
                begin(&mounted.root, &staging.path().join(IMAGE), top.as_deref())?;
                if lowers.is_empty() {
                    staging.mkdir(EMPTY, 0o755)?;
                }
                // Unlike a directory, half of it would be of no use after a power cut.
                rustix::fs::syncfs(&mounted.root).map_err(DriverError::io("sync", staging.path()))?;
                Some(mounted)
            }
        };
        self.store.place_snapshot(staging, snapshot)?;
        if let Some(mounted) = mounted {
            self.limited.hold(&snapshot.key, mounted.into());
        }
        Ok(())
    }

    fn resize(&self, snapshot: &SnapshotRecord, limit: Option<u64>) -> Result<(), DriverError> {
        self.limited.resize(&self.store.snapshot(&snapshot.key), limit)
    }

    fn limit(&self, snapshot: &SnapshotRecord) -> Result<SnapshotLimit, DriverError> {
        limited::limit(&self.store.snapshot(&snapshot.key))
    }

    fn status(&self) -> Result<DriverStatus, DriverError> {
        Ok(DriverStatus {
            backing_filesystem: self.store.filesystem()?,
            limits: ext4::works(),
            ..DriverStatus::default()
        })
    }

    fn activate(&self, snapshot: &SnapshotRecord, lowers: &[ChainId]) -> Result<Mounts, DriverError> {
        let at = self.store.snapshot(&snapshot.key);
        if is_limited(&at) {
            let mounted = self.limited.open(&snapshot.key, &at)?;
            let mount = self.on(&mounted, lowers, &at, true);
            self.limited.hold(&snapshot.key, mounted);
            return Ok(Mounts(vec![mount]));
        }
        let mount = match (snapshot.kind, lowers) {
            (kind, []) => Mount::Bind { source: at.join("diff"), readonly: kind == SnapshotKind::View },
            (SnapshotKind::Writable, all) => self.overlay(all, Some(&at)),
            (SnapshotKind::View, [only]) => Mount::Bind { source: self.diff(only), readonly: true },
            (SnapshotKind::View, all) => self.overlay(all, None),
        };
        Ok(Mounts(vec![mount]))
    }

    /// A directory that an overlay writes to must never be that of a second one (kernel documentation,
    /// filesystems/overlayfs.rst, "Sharing and copying layers"), so here it is the topmost of those that are only read.
    fn trees(&self, snapshot: &SnapshotRecord, lowers: &[ChainId]) -> Result<Trees, DriverError> {
        let at = self.store.snapshot(&snapshot.key);
        let diff = at.join("diff");
        let stack = |top: Option<&PathBuf>| {
            let mut lower: Vec<PathBuf> = lowers.iter().map(|chain| self.diff(chain)).collect();
            lower.splice(0..0, top.cloned());
            detached::open_to_read(&match <[PathBuf; 1]>::try_from(lower) {
                Ok([source]) => Mount::Bind { source, readonly: true },
                Err(lower) => {
                    Mount::Overlay { lower, upper: None, work: None, options: self.options.clone(), on: None }
                }
            })
        };
        let parent = if lowers.is_empty() { None } else { Some(stack(None)?) };
        if is_limited(&at) {
            let mounted = self.limited.open(&snapshot.key, &at)?;
            let top = detached::open_to_read(&self.on(&mounted, lowers, &at, false))?;
            // On another filesystem than the layers, equal numbers mean nothing.
            let upper = Some(limited::directory(&mounted, "diff")?);
            return Ok(Trees { parent, top, same_files: false, snapshots: false, upper });
        }
        let writable = snapshot.kind == SnapshotKind::Writable || lowers.is_empty();
        let top = stack(writable.then_some(&diff))?;
        let upper = if writable { Some(open_dir(&diff)?) } else { None };
        Ok(Trees { parent, top, same_files: true, snapshots: false, upper })
    }

    fn deactivate(&self, snapshot: &SnapshotRecord) -> Result<(), DriverError> {
        self.limited.release(&snapshot.key);
        Ok(())
    }

    /// A layer is a directory, and never a filesystem that somebody would have to mount: what a limited snapshot has is
    /// copied.
    fn commit(
        &self,
        snapshot: &SnapshotRecord,
        layer: &LayerRecord,
        lowers: &[ChainId],
    ) -> Result<(), DriverError> {
        let at = self.store.snapshot(&snapshot.key);
        if !is_limited(&at) {
            return self.store.commit(snapshot, layer);
        }
        let staging = self.store.stage()?;
        let diff = staging.mkdir("diff", 0o755)?;
        {
            let mounted = self.limited.open(&snapshot.key, &at)?;
            let (from, to) = (limited::directory(&mounted, "diff")?, open_dir(&diff)?);
            // The marks hide what is below; there, they would be content.
            let copied = if lowers.is_empty() { copy_tree(&from, &to) } else { copy_upper(&from, &to) };
            copied.map_err(DriverError::io("copy what was written to", &at))?;
        }
        failpoint!("commit.copied");
        self.store.commit_copy(staging, snapshot, layer)
    }

    fn remove(&self, snapshot: &SnapshotRecord) -> Result<(), DriverError> {
        self.store.remove(&self.store.snapshot(&snapshot.key), Removed::Snapshot)
    }

    fn remove_layer(&self, layer: &LayerRecord) -> Result<(), DriverError> {
        self.store.remove(&self.store.layer(&layer.chain), Removed::Layer)
    }

    fn usage(&self, snapshot: &SnapshotRecord) -> Result<Usage, DriverError> {
        match (snapshot.kind, snapshot.parent) {
            (SnapshotKind::View, Some(_)) => Ok(Usage::default()),
            _ => {
                let at = self.store.snapshot(&snapshot.key);
                if is_limited(&at) {
                    let mounted = self.limited.open(&snapshot.key, &at)?;
                    return usage_of(limited::directory(&mounted, "diff")?, &at);
                }
                usage(&at.join("diff"))
            }
        }
    }

    fn layer_usage(&self, layer: &LayerRecord) -> Result<Option<Usage>, DriverError> {
        usage(&self.diff(&layer.chain)).map(Some)
    }

    fn settle(&self) {
        self.store.settle();
    }
}
