//! The driver on device-mapper: a thin pool, in which a layer or a snapshot is a thin device that begins as a snapshot of its
//! parent's.
//!
//! ```text
//! <root>/pool.json                 what the pool was made as                                     (config)
//! <root>/data, metadata            its sparse files, on loop devices                             (backing, direct)
//! <root>/base        -> v1/<number>/<sectors>   the empty filesystem that all begin with         (record)
//! <root>/layers/<chain>/thin       likewise, beside what every driver keeps
//! <root>/snapshots/<key>/thin      likewise; a view has none, it shows its parent's
//! ```
//!
//! What no record names is nothing: start-up compares the pool's own list with the records, and removes the rest. So there
//! are no intents, and no number is ever lost. [`pool`] has the pool, [`thin`] what is done with one device, [`reaper`] what goes
//! on in the background.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, Mode};

use super::staged::Staged;
use super::store::{Removed, SETTLE, Staging, Store};
use super::{
    Driver, DriverError, DriverStatus, Found, LayerRecord, LimitChange, Reread, SnapshotKey, SnapshotKind,
    SnapshotLimit, SnapshotRecord, Unpack, Usage,
};
use crate::diff::Trees;
use crate::digest::ChainId;
use crate::dm::{Control, SECTOR, ioctl};
use crate::driver::overlay::reopen;
use crate::failpoint::failpoint;
use crate::layer::{Stream, UnpackLimits, apply_onto};
use crate::mount::{Mount, Mounts, detached};

mod backing;
mod check;
mod config;
mod direct;
mod filesystem;
mod options;
mod pool;
mod pressure;
mod reaper;
mod record;
mod start;
mod thin;

use config::{Config, Place};
pub(crate) use options::KNOWN_OPTIONS;
use options::Options;
use pool::Pool;
use reaper::Reaper;
use record::{BASE, THIN, Thin};
use thin::Locks;

const NAME: &str = "devicemapper";

/// See the module.
#[derive(Debug)]
pub(crate) struct DeviceMapper {
    store: Store,
    reaper: Reaper,
    pool: Arc<Pool>,
    base: Mutex<Option<Thin>>,
    staged: Staged<(Staging, Thin)>,
    /// What was given out by `activate`. A view's device has a name of its own.
    active: Mutex<HashMap<SnapshotKey, (String, Mount)>>,
    /// How much each layer has, shared blocks too, in sectors.
    mapped: Mutex<HashMap<u32, u64>>,
    locks: Locks,
}

/// A thin device that is removed again unless it is kept.
struct Fresh<'a> {
    of: &'a DeviceMapper,
    thin: Thin,
    kept: bool,
}

impl Fresh<'_> {
    fn keep(mut self) -> Thin {
        self.kept = true;
        self.thin
    }
}

impl Drop for Fresh<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.of.reaper.add(self.thin);
        }
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DeviceMapper {
    /// Whether it works here at all; it changes nothing.
    pub(crate) fn probe(_root: &Path) -> Result<(), DriverError> {
        let path = "/dev/mapper/control";
        let control = Control::open().map_err(DriverError::io("open", path))?;
        for target in ["thin-pool", "thin"] {
            if !control.has_target(target)? {
                let why = "the kernel has no thin pools; it needs CONFIG_DM_THIN_PROVISIONING (module dm-thin-pool)";
                return Err(pool::refused(Path::new(path), why));
            }
        }
        filesystem::Fs::Ext4.check()
    }

    /// Opens the driver at `root`. The pool is made or found; what is in it is put right by `load`.
    pub(crate) fn open(root: &Path, options: &[(String, String)]) -> Result<Self, DriverError> {
        let options = Options::parse(options)?;
        let store = Store::open(root.to_owned())?;
        let control = Control::open().map_err(DriverError::io("open", "/dev/mapper/control"))?;
        let (mut config, new) = Config::of(root, &options)?;
        config.fs.check()?;
        if let (true, Place::ThinPool(device), None) = (new, &config.place, options.block_size)
            && let Some(size) = backing::given_block_size(device, &control)?
        {
            config.block_size = size;
        }
        if new {
            config.write(root)?;
            failpoint!("pool.recorded");
        }
        let pool = Pool::open(root, config, options, control);
        if new && pool.is_err() {
            // Another device may be tried next.
            Config::remove(root);
        }
        let pool = Arc::new(pool?);
        failpoint!("pool.made");
        let reaper = Reaper::start(&pool)?;
        Ok(Self {
            store,
            reaper,
            pool,
            base: Mutex::default(),
            staged: Staged::default(),
            active: Mutex::default(),
            mapped: Mutex::default(),
            locks: Locks::default(),
        })
    }

    /// What a stack shows: its topmost layer's device, or the base.
    fn parent(&self, parent: Option<&ChainId>) -> Result<Thin, DriverError> {
        match parent {
            Some(chain) => record::of(&self.store.layer(chain)),
            None => lock(&self.base).ok_or_else(|| {
                let lost = std::io::Error::other("it was not loaded");
                DriverError::io("find the base device in", &self.pool.root)(lost)
            }),
        }
    }

    /// A thin device that begins as the stack does.
    fn child(&self, parent: Option<&ChainId>) -> Result<Fresh<'_>, DriverError> {
        let origin = self.parent(parent)?;
        let _alone = self.locks.of(origin.id);
        let id = self.pool.snapshot(origin)?;
        Ok(Fresh { of: self, thin: Thin { id, sectors: origin.sectors }, kept: false })
    }

    /// What a snapshot is written to or read from.
    fn device(&self, snapshot: &SnapshotRecord, lowers: &[ChainId]) -> Result<Thin, DriverError> {
        match snapshot.kind {
            SnapshotKind::Writable => record::of(&self.store.snapshot(&snapshot.key)),
            SnapshotKind::View => self.parent(lowers.first()),
        }
    }

    fn note_mapped(&self, thin: Thin) -> Result<(), DriverError> {
        let mapped = self.pool.mapped(thin)?;
        lock(&self.mapped).insert(thin.id, mapped);
        Ok(())
    }

    /// Makes the filesystem as large as its device has become.
    fn grow(&self, thin: Thin) -> Result<(), DriverError> {
        let name = self.pool.device(thin.id);
        let active = self.pool.control.info(&name)?.is_some();
        let node = self.pool.activate(thin)?;
        let grown = filesystem::open(&self.pool.mount(node.clone(), false)).and_then(|root| {
            self.pool.config.fs.grow(&root, thin, &node)?;
            rustix::fs::syncfs(&root).map_err(DriverError::io("sync", &node))
        });
        if !active {
            self.pool.let_go(&name)?;
        }
        grown
    }

    /// The sectors that a limit means.
    fn sectors(&self, limit: u64, there: u64) -> Result<u64, DriverError> {
        let sectors =
            (limit / self.pool.config.block_size).saturating_mul(self.pool.config.block_size / SECTOR);
        let no = |why: String| DriverError::NoLimit { driver: NAME, why };
        if sectors < there {
            return Err(no(format!(
                "{limit} bytes are less than the {} of its device; a device never becomes smaller, and new ones begin with \
                 dm.basesize={}, which an empty data root takes smaller",
                there * SECTOR,
                self.pool.config.base_size
            )));
        }
        if sectors >= 1 << 50 {
            return Err(no(format!("{limit} bytes are more than a device can have")));
        }
        Ok(sectors)
    }
}

impl Drop for DeviceMapper {
    fn drop(&mut self) {
        self.reaper.stop();
        // Devices that nobody has mounted go; the pool too, when they were the last.
        let prefix = self.pool.config.prefix();
        for name in self.pool.control.list(&prefix).unwrap_or_default() {
            if self.pool.parse_device(&name).is_some() {
                let _ = self.pool.control.remove(&name, false);
            }
        }
        self.pool.close();
    }
}

impl Driver for DeviceMapper {
    fn name(&self) -> &'static str {
        NAME
    }

    fn unpack(&self) -> Unpack {
        Unpack::OnParent
    }

    fn load(&self) -> Result<Found, DriverError> {
        start::load(self)
    }

    fn stage(
        &self,
        layer: &LayerRecord,
        lowers: &[ChainId],
        stream: Stream,
        limits: &UnpackLimits,
    ) -> Result<(), DriverError> {
        self.pool.refuses()?;
        let staging = self.store.stage()?;
        let fresh = self.child(lowers.first())?;
        failpoint!("stage.snapped");
        let root = self.pool.mounted(fresh.thin)?;
        failpoint!("stage.mounted");
        apply_onto(reopen(&root)?, lowers.is_empty(), stream, limits)?;
        failpoint!("stage.written");
        let settled = self.finished(root, fresh)?;
        record::write(&staging.path().join(THIN), settled.thin)?;
        self.note_mapped(settled.thin)?;
        let thin = settled.keep();
        self.staged.put(layer, (staging, thin));
        Ok(())
    }

    fn finish(
        &self,
        layer: &LayerRecord,
        _lowers: &[ChainId],
        _reread: Reread<'_>,
        _limits: &UnpackLimits,
    ) -> Result<(), DriverError> {
        let (staging, thin) = self.staged.take(layer, &self.store)?;
        let fresh = Fresh { of: self, thin, kept: false };
        self.store.place(staging, &layer.chain)?;
        fresh.keep();
        Ok(())
    }

    fn abandon(&self, layer: &LayerRecord) {
        if let Some((staging, thin)) = self.staged.abandoned(layer) {
            drop(staging);
            self.reaper.add(thin);
        }
    }

    fn seal(&self, layers: &[LayerRecord]) -> Result<(), DriverError> {
        // What is in them was brought to the disk when they were put away.
        self.store.seal(layers)
    }

    fn prepare(
        &self,
        snapshot: &SnapshotRecord,
        lowers: &[ChainId],
        limit: Option<u64>,
    ) -> Result<(), DriverError> {
        if snapshot.kind == SnapshotKind::View {
            let staging = self.store.stage()?;
            return self.store.place_snapshot(staging, snapshot);
        }
        let origin = self.parent(lowers.first())?;
        let sectors = limit.map(|limit| self.sectors(limit, origin.sectors)).transpose()?;
        self.pool.refuses()?;
        let staging = self.store.stage()?;
        let mut fresh = self.child(lowers.first())?;
        failpoint!("prepare.snapped");
        if let Some(sectors) = sectors.filter(|sectors| *sectors > origin.sectors) {
            fresh.thin.sectors = sectors;
            self.grow(fresh.thin)?;
            failpoint!("prepare.grown");
        }
        record::write(&staging.path().join(THIN), fresh.thin)?;
        self.store.place_snapshot(staging, snapshot)?;
        fresh.keep();
        Ok(())
    }

    fn resize(&self, snapshot: &SnapshotRecord, limit: Option<u64>) -> Result<(), DriverError> {
        let told = self.limit(snapshot)?;
        let Some(limit) = limit else {
            return if told.is(None) {
                Ok(())
            } else {
                Err(DriverError::LimitKept { have: told.bytes, want: None })
            };
        };
        if snapshot.kind == SnapshotKind::View {
            return Ok(());
        }
        let dir = self.store.snapshot(&snapshot.key);
        let before = record::of(&dir)?;
        let _alone = self.locks.of(before.id);
        let sectors = self.sectors(limit, 0)?;
        if sectors < before.sectors {
            return Err(DriverError::LimitKept { have: Some(before.sectors * SECTOR), want: Some(limit) });
        }
        let thin = Thin { sectors, ..before };
        if thin != before {
            // Recorded first: a device that is smaller than its filesystem would not be mounted.
            record::replace(&dir.join(THIN), thin)?;
            failpoint!("resize.recorded");
        }
        self.pool.stretch(thin)?;
        failpoint!("resize.stretched");
        self.grow(thin)?;
        failpoint!("resize.grown");
        Ok(())
    }

    fn limit(&self, snapshot: &SnapshotRecord) -> Result<SnapshotLimit, DriverError> {
        if snapshot.kind == SnapshotKind::View {
            return Ok(SnapshotLimit::NONE);
        }
        let thin = record::of(&self.store.snapshot(&snapshot.key))?;
        let origin = self.parent(snapshot.parent.as_ref())?;
        Ok(SnapshotLimit {
            bytes: Some(thin.sectors * SECTOR),
            without: Some(origin.sectors * SECTOR),
            block: self.pool.config.block_size,
            change: LimitChange::Grow,
        })
    }

    fn status(&self) -> Result<DriverStatus, DriverError> {
        let config = &self.pool.config;
        let place = match &config.place {
            Place::Loop => "loop files".to_owned(),
            Place::ThinPool(device) | Place::Direct(device) => device.display().to_string(),
        };
        let yes = |yes: bool| if yes { "true" } else { "false" }.to_owned();
        let details = [
            ("pool on", place),
            ("filesystem", config.fs.name().to_owned()),
            ("base size", config.base_size.to_string()),
            ("block size", config.block_size.to_string()),
            ("min free space", format!("{}%", self.pool.options.min_free)),
            ("discard", yes(self.pool.discards())),
            ("deferred removal", yes(self.pool.options.deferred)),
            ("thin devices", self.pool.known().to_string()),
            ("pending removals", self.reaper.pending().to_string()),
        ];
        Ok(DriverStatus {
            backing_filesystem: self.store.filesystem()?,
            limits: true,
            pool: Some(self.pool.status()?),
            details: details.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        })
    }

    fn activate(&self, snapshot: &SnapshotRecord, lowers: &[ChainId]) -> Result<Mounts, DriverError> {
        let thin = self.device(snapshot, lowers)?;
        let readonly = snapshot.kind == SnapshotKind::View;
        let _alone = self.locks.of(thin.id);
        let there = lock(&self.active).get(&snapshot.key).cloned();
        if let (true, Some((_, mount))) = (readonly, &there) {
            return Ok(Mounts(vec![mount.clone()]));
        }
        let (name, node) = match readonly {
            true => self.pool.activate_reader(thin)?,
            false => (self.pool.device(thin.id), self.pool.activate_to_write(thin)?),
        };
        let mount = self.pool.mount(node, readonly);
        lock(&self.active).insert(snapshot.key.clone(), (name, mount.clone()));
        Ok(Mounts(vec![mount]))
    }

    fn trees(&self, snapshot: &SnapshotRecord, lowers: &[ChainId]) -> Result<Trees, DriverError> {
        let parent = match lowers.first() {
            Some(chain) => Some(self.pool.open_reader(self.parent(Some(chain))?)?),
            None => None,
        };
        let thin = self.device(snapshot, lowers)?;
        let top = match snapshot.kind {
            SnapshotKind::View => self.pool.open_reader(thin)?,
            SnapshotKind::Writable => {
                // The same device with the same options, since it may be mounted meanwhile.
                let _alone = self.locks.of(thin.id);
                let node = self.pool.activate(thin)?;
                let top = detached::open_to_read(&self.pool.mount(node, false));
                if !lock(&self.active).contains_key(&snapshot.key) {
                    self.pool.let_go(&self.pool.device(thin.id))?;
                }
                top?
            }
        };
        Ok(Trees { parent, top, same_files: false, snapshots: true, upper: None })
    }

    fn deactivate(&self, snapshot: &SnapshotRecord) -> Result<(), DriverError> {
        let there = lock(&self.active).get(&snapshot.key).cloned();
        let name = match (there, snapshot.kind) {
            (Some((name, _)), _) => name,
            // Activated before a restart.
            (None, SnapshotKind::Writable) => {
                match record::read(&self.store.snapshot(&snapshot.key).join(THIN)) {
                    Some(thin) => self.pool.device(thin.id),
                    None => return Ok(()),
                }
            }
            (None, SnapshotKind::View) => return Ok(()),
        };
        let _alone = self.pool.parse_device(&name).map(|(id, _)| self.locks.of(id));
        lock(&self.active).remove(&snapshot.key);
        self.pool.let_go(&name)
    }

    fn commit(
        &self,
        snapshot: &SnapshotRecord,
        layer: &LayerRecord,
        _lowers: &[ChainId],
    ) -> Result<(), DriverError> {
        let dir = self.store.snapshot(&snapshot.key);
        let thin = record::of(&dir)?;
        self.deactivate(snapshot)?;
        let _alone = self.locks.of(thin.id);
        // Mounted once more, whatever was left undone by who had it is done.
        let root = self.pool.mounted(thin)?;
        if self.pool.discards()
            && let Err(error) = ioctl::trim(&root)
        {
            tracing::debug!(%error, device = self.pool.device(thin.id), "could not discard what is free in it");
        }
        let settled = self.finished(root, Fresh { of: self, thin, kept: true })?;
        if settled.thin != thin {
            record::replace(&dir.join(THIN), settled.thin)?;
            self.reaper.add(thin);
        }
        let settled = settled.keep();
        failpoint!("commit.settled");
        self.note_mapped(settled)?;
        self.store.commit(snapshot, layer)
    }

    fn remove(&self, snapshot: &SnapshotRecord) -> Result<(), DriverError> {
        let dir = self.store.snapshot(&snapshot.key);
        let thin = record::read(&dir.join(THIN));
        self.may_go(thin, &dir)?;
        self.store.remove(&dir, Removed::Snapshot)?;
        if let Some(thin) = thin {
            self.reaper.add(thin);
        }
        Ok(())
    }

    fn remove_layer(&self, layer: &LayerRecord) -> Result<(), DriverError> {
        let dir = self.store.layer(&layer.chain);
        let thin = record::read(&dir.join(THIN));
        self.may_go(thin, &dir)?;
        self.store.remove(&dir, Removed::Layer)?;
        if let Some(thin) = thin {
            lock(&self.mapped).remove(&thin.id);
            self.reaper.add(thin);
        }
        Ok(())
    }

    fn usage(&self, snapshot: &SnapshotRecord) -> Result<Usage, DriverError> {
        let SnapshotKind::Writable = snapshot.kind else { return Ok(Usage::default()) };
        let thin = record::of(&self.store.snapshot(&snapshot.key))?;
        let parent = self.parent(snapshot.parent.as_ref())?;
        let known = lock(&self.mapped).get(&parent.id).copied();
        let below = match known {
            Some(mapped) => mapped,
            None => self.pool.mapped(parent)?,
        };
        let bytes = self.pool.mapped(thin)?.saturating_sub(below) * SECTOR;
        let lowers: Vec<ChainId> = snapshot.parent.into_iter().collect();
        let trees = self.trees(snapshot, &lowers)?;
        let parent = match trees.parent {
            Some(parent) => parent,
            None => self.pool.open_reader(parent)?,
        };
        let inodes = |root: &OwnedFd| {
            let stat = rustix::fs::fstatvfs(root).map_err(DriverError::io("measure", NAME))?;
            Ok::<_, DriverError>(stat.f_files.saturating_sub(stat.f_ffree))
        };
        Ok(Usage { bytes, inodes: inodes(&trees.top)?.saturating_sub(inodes(&parent)?) })
    }

    /// Its blocks; its files are in a filesystem of its own.
    fn layer_usage(&self, layer: &LayerRecord) -> Result<Option<Usage>, DriverError> {
        let mapped = |thin: Thin| {
            let known = lock(&self.mapped).get(&thin.id).copied();
            known.map_or_else(|| self.pool.mapped(thin), Ok)
        };
        let thin = record::of(&self.store.layer(&layer.chain))?;
        let below = mapped(self.parent(layer.parent.as_ref())?)?;
        let bytes = mapped(thin)?.saturating_sub(below) * SECTOR;
        Ok(Some(Usage { bytes, inodes: 0 }))
    }

    fn settle(&self) {
        self.store.settle();
        self.reaper.settle(SETTLE);
    }
}

impl DeviceMapper {
    /// All that was written through `root` is on disk, and the device put away. It may be another one then.
    fn finished<'a>(&'a self, root: OwnedFd, written: Fresh<'a>) -> Result<Fresh<'a>, DriverError> {
        rustix::fs::syncfs(&root).map_err(DriverError::io("sync", self.pool.device(written.thin.id)))?;
        drop(root);
        let thin = self.pool.settle(written.thin)?;
        if thin == written.thin { Ok(written) } else { Ok(Fresh { of: self, thin, kept: false }) }
    }

    /// Without deferred removal, what somebody has mounted stays.
    fn may_go(&self, thin: Option<Thin>, dir: &Path) -> Result<(), DriverError> {
        match thin {
            Some(thin) if !self.pool.options.deferred => {
                if self.pool.put_away(&self.pool.device(thin.id), 0)? {
                    return Ok(());
                }
                let why = "something has it mounted, and dm.use_deferred_deletion is off".to_owned();
                Err(DriverError::Device { device: PathBuf::from(dir), why })
            }
            _ => Ok(()),
        }
    }

    /// The device that all begin with: an empty filesystem.
    fn make_base(&self) -> Result<Thin, DriverError> {
        let pool = &self.pool;
        let block = pool.config.block_size;
        let zeroed = pool.untouched();
        let id = pool.create()?;
        failpoint!("base.created");
        let thin = Thin { id, sectors: pool.config.base_size / block * (block / SECTOR) };
        let fresh = Fresh { of: self, thin, kept: false };
        let node = pool.activate(thin)?;
        pool.config.fs.make(&node, zeroed, &pool.options.mkfs_args)?;
        failpoint!("base.formatted");
        let root = pool.mounted(thin)?;
        match rustix::fs::unlinkat(&root, "lost+found", AtFlags::REMOVEDIR) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(DriverError::io("empty", node)(error)),
        }
        rustix::fs::fchmod(&root, Mode::from_raw_mode(0o755)).map_err(DriverError::io("set up", &node))?;
        let settled = self.finished(root, fresh)?;
        let store = super::store::open_dir(&pool.root)?;
        // The pool's files too, with their names and lengths.
        rustix::fs::syncfs(&store).map_err(DriverError::io("sync", &pool.root))?;
        failpoint!("base.settled");
        record::replace(&pool.root.join(BASE), settled.thin)?;
        rustix::fs::syncfs(&store).map_err(DriverError::io("sync", &pool.root))?;
        failpoint!("base.recorded");
        Ok(settled.keep())
    }

    fn set_base(&self, thin: Thin) {
        *lock(&self.base) = Some(thin);
    }

    fn name_all(&self, found: &Found) -> HashSet<u32> {
        let layers = found.layers.iter().map(|layer| self.store.layer(&layer.chain));
        let snapshots = found.snapshots.iter().map(|snapshot| self.store.snapshot(&snapshot.key));
        layers.chain(snapshots).filter_map(|dir| record::read(&dir.join(THIN))).map(|thin| thin.id).collect()
    }
}
