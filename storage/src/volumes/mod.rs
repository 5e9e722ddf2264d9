//! Volumes: data that outlive containers, each in a directory of its own.
//!
//! ```text
//! <root>/<key>/volume.json          what the volume is
//!              data/                its data, of a plain directory; data.new/ while it is being filled
//!              image                an ext4 with data/ in it, where there is a capacity
//! <root>/.new/<n>/, .trash/<n>/     being made, being removed; moved by one rename
//! <mounts>/<key>/                   a tmpfs with data/ in it, of driver tmpfs
//! ```
//!
//! A volume without `data/` is unfilled, one with it is never filled again: the name is given by a rename, after all that
//! is in it is on disk. Work on one volume is done by one thread at a time; volumes do not wait for each other, and who only
//! looks ([`find`](Volumes::find), [`list`](Volumes::list), [`usage`](Volumes::usage)) waits for nobody who fills.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::driver::store::usage_of;
use crate::failpoint::failpoint;
use crate::mount::Mount;

mod error;
mod home;
mod image;
mod key;
mod quota;
mod record;
#[cfg(test)]
mod tests;
mod tmpfs;
mod tree;
mod types;
mod xfs;

pub use error::VolumeError;
use home::{DATA, Home};
pub use key::{ParseVolumeKeyError, VolumeKey};
use record::Record;
use tree::Tree;
pub use types::{
    ActiveVolume, CapacityKind, FillSource, VolumeDriver, VolumeList, VolumeOptions, VolumeRecord,
    VolumeUsage,
};

/// The volumes of one data root. Shared by all threads; every call blocks on the disk. The caller sees to it that no other process
/// has the same root.
#[derive(Debug)]
pub struct Volumes {
    tree: Tree,
    mounts: PathBuf,
    locks: Mutex<HashMap<VolumeKey, Weak<Lock>>>,
    /// For who chooses a project, until its directory says so.
    projects: Mutex<()>,
}

/// Taken in this order.
#[derive(Debug, Default)]
struct Lock {
    /// For whoever changes the volume, as long as it takes.
    work: Mutex<()>,
    /// For whoever needs the image's loop device, while it looks for it: there is never a second one.
    device: Mutex<()>,
}

fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Volumes {
    /// Opens the store at `root`, with the tmpfs of `Tmpfs` volumes mounted below `mounts`. What an earlier process left half
    /// done is removed.
    pub fn open(root: PathBuf, mounts: PathBuf) -> Result<Self, VolumeError> {
        tree::make_private(&mounts)?;
        let store =
            Self { tree: Tree::open(root)?, mounts, locks: Mutex::default(), projects: Mutex::default() };
        for key in store.tree.keys(None)? {
            // One volume that cannot be put right costs that volume.
            if let Err(error) = store.recover(&key) {
                tracing::warn!(volume = %key, error = &error as &dyn std::error::Error, "cannot put a volume right");
            }
        }
        for key in tree::mounted(&store.mounts)? {
            let ours = Record::read(&store.tree.dir(&key));
            if matches!(ours, Ok(None))
                || ours.is_ok_and(|it| it.is_some_and(|it| it.driver != VolumeDriver::Tmpfs))
            {
                tracing::warn!(volume = %key, "removed the tmpfs of a volume that is not there");
                tmpfs::remove(&store.mounts.join(key.path()))?;
            }
        }
        Ok(store)
    }

    /// Removes what a fill or a write of the record left, and learns what it had done.
    fn recover(&self, key: &VolumeKey) -> Result<(), VolumeError> {
        let dir = self.tree.dir(key);
        Record::tidy(&dir)?;
        let Some(mut record) = Record::read(&dir)? else { return Ok(()) };
        let look = match record.driver {
            VolumeDriver::Tmpfs => tmpfs::is_mounted(&self.mount_point(key))?,
            // The flag is written last, so with it there is nothing to put right.
            VolumeDriver::Local => !(record.is_image() && record.has_data),
        };
        if look {
            let home = self.home(key, &record, &Lock::default())?;
            home.clear()?;
            self.note(key, &mut record, &home)?;
        }
        Ok(())
    }

    fn mount_point(&self, key: &VolumeKey) -> PathBuf {
        self.mounts.join(key.path())
    }

    fn lock(&self, key: &VolumeKey) -> Arc<Lock> {
        let mut locks = held(&self.locks);
        if let Some(lock) = locks.get(key).and_then(Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        locks.insert(key.clone(), Arc::downgrade(&lock));
        lock
    }

    fn record(&self, key: &VolumeKey) -> Result<Record, VolumeError> {
        Record::read(&self.tree.dir(key))?.ok_or_else(|| VolumeError::NotFound(key.clone()))
    }

    /// What others see of it. Takes no lock: the record changes by rename.
    fn view(&self, key: &VolumeKey, record: Record) -> Result<VolumeRecord, VolumeError> {
        let path = self.tree.dir(key);
        let data = self.data(key, &record);
        let is_dir = |path: &Path| path.symlink_metadata().is_ok_and(|meta| meta.is_dir());
        let has_data = match record.driver {
            VolumeDriver::Tmpfs => tmpfs::is_mounted(&data)? && is_dir(&data.join(DATA)),
            VolumeDriver::Local if record.is_image() => record.has_data,
            VolumeDriver::Local => is_dir(&data),
        };
        // Asked each time: a mount may come back without its quota.
        let holds = record.project.is_none() || quota::check(key, &path).is_ok();
        Ok(VolumeRecord {
            key: key.clone(),
            driver: record.driver,
            capacity: record.capacity,
            project: record.project,
            has_data,
            filled_from: record.filled_from.filter(|_| has_data),
            path,
            data,
            capacity_enforced: record.capacity.is_some() && holds,
        })
    }

    /// Where the data of a volume are.
    fn data(&self, key: &VolumeKey, record: &Record) -> PathBuf {
        match record.driver {
            VolumeDriver::Tmpfs => self.mount_point(key),
            VolumeDriver::Local if record.is_image() => self.tree.dir(key).join(image::NAME),
            VolumeDriver::Local => self.tree.dir(key).join(DATA),
        }
    }

    /// The directory in which `data/` is or will be. Mounts what has to be mounted for it.
    fn home(&self, key: &VolumeKey, record: &Record, lock: &Lock) -> Result<Home, VolumeError> {
        match record.driver {
            VolumeDriver::Tmpfs => {
                let at = self.mount_point(key);
                tmpfs::mount(&at, record.capacity)?;
                Home::directory(at, None)
            }
            VolumeDriver::Local if record.is_image() => {
                let path = self.tree.dir(key).join(image::NAME);
                let device = {
                    let _only = held(&lock.device);
                    image::attach(key, &path)?
                };
                Ok(Home::image(image::open(key, &path, device)?, path))
            }
            VolumeDriver::Local => Home::directory(self.tree.dir(key), record.project),
        }
    }

    /// Tells the record what is in the image. Elsewhere a look tells it.
    fn note(&self, key: &VolumeKey, record: &mut Record, home: &Home) -> Result<(), VolumeError> {
        if record.is_image() && !record.has_data && home.has_data()? {
            record.has_data = true;
            record.write(&self.tree.dir(key))?;
        }
        Ok(())
    }

    /// All volumes, by key. One that cannot be read is told with the reason, and costs no other.
    pub fn list(&self) -> Result<VolumeList, VolumeError> {
        let mut list = VolumeList::default();
        for key in self.tree.keys(None)? {
            match self.find(&key) {
                Ok(Some(record)) => list.volumes.push(record),
                // Removed meanwhile.
                Ok(None) => {}
                Err(error) => list.broken.push((key, error)),
            }
        }
        Ok(list)
    }

    /// The volume of that name, if there is one.
    pub fn find(&self, key: &VolumeKey) -> Result<Option<VolumeRecord>, VolumeError> {
        Record::read(&self.tree.dir(key))?.map(|record| self.view(key, record)).transpose()
    }

    /// Makes the volume, without data; one of that name that is there is taken as it is, with its data. It grows in place when
    /// more is asked for, in use or not, and owner and mode of data that are there change where `options` has others. Everything
    /// else that would need other data is refused, and nothing is ever overwritten. Doing it again changes nothing.
    pub fn provision(&self, key: &VolumeKey, options: &VolumeOptions) -> Result<VolumeRecord, VolumeError> {
        let lock = self.lock(key);
        let _work = held(&lock.work);
        let dir = self.tree.dir(key);
        let record = match Record::read(&dir)? {
            None => self.make(key, options)?,
            Some(record) => self.adopt(key, &record, options, &lock)?,
        };
        if record.driver == VolumeDriver::Tmpfs {
            tmpfs::mount(&self.mount_point(key), record.capacity)?;
            failpoint!("volume.tmpfs_mounted");
        }
        self.view(key, record)
    }

    fn make(&self, key: &VolumeKey, options: &VolumeOptions) -> Result<Record, VolumeError> {
        self.tree.check(key)?;
        let mut record = Record::new(options);
        let staging = self.tree.stage()?;
        failpoint!("volume.staged");
        match (options.driver, options.capacity) {
            (VolumeDriver::Local, Some(capacity)) if options.quota == CapacityKind::ProjectQuota => {
                let _choosing = held(&self.projects);
                let taken = self.projects_taken()?;
                record.project = Some(quota::make(key, staging.path(), capacity, &taken)?);
            }
            (VolumeDriver::Local, Some(capacity)) => {
                image::check(key, capacity, staging.path())?;
                image::make(key, staging.path(), capacity)?;
            }
            (VolumeDriver::Tmpfs, Some(0)) => {
                return Err(VolumeError::TooSmall { key: key.clone(), want: 0, least: 4096 });
            }
            _ => {}
        }
        record.write(staging.path())?;
        self.tree.place(staging, key)?;
        Ok(record)
    }

    /// Those of all records, whatever their directories say: they may have been restored without.
    fn projects_taken(&self) -> Result<HashSet<u32>, VolumeError> {
        let records = self.tree.keys(None)?.into_iter().map(|key| Record::read(&self.tree.dir(&key)));
        // One that cannot be read costs that volume; its directory says what it has.
        Ok(records.filter_map(|record| record.ok().flatten()?.project).collect())
    }

    fn adopt(
        &self,
        key: &VolumeKey,
        had: &Record,
        options: &VolumeOptions,
        lock: &Lock,
    ) -> Result<Record, VolumeError> {
        if had.driver != options.driver {
            return Err(VolumeError::WrongDriver {
                key: key.clone(),
                have: had.driver,
                want: options.driver,
                data: self.data(key, had),
            });
        }
        let mut record = had.clone();
        record.capacity = options.capacity;
        (record.uid, record.gid, record.mode) = (options.uid, options.gid, options.mode);
        self.grow(key, had, options, lock)?;
        let asks = options.uid.is_some() || options.gid.is_some() || options.mode.is_some();
        if asks && self.view(key, had.clone())?.has_data {
            let home = self.home(key, &record, lock)?;
            home.own(&record)?;
            self.note(key, &mut record, &home)?;
        }
        if record != *had {
            record.write(&self.tree.dir(key))?;
        }
        Ok(record)
    }

    fn grow(
        &self,
        key: &VolumeKey,
        had: &Record,
        options: &VolumeOptions,
        lock: &Lock,
    ) -> Result<(), VolumeError> {
        const PLAIN: &str = "a plain directory without a capacity";
        const IMAGE: &str = "a filesystem image with a capacity";
        const QUOTA: &str = "a directory with a project quota";
        let wanted = options.capacity;
        let kind = |capacity: Option<u64>, quota| match capacity {
            None => PLAIN,
            Some(_) if quota => QUOTA,
            Some(_) => IMAGE,
        };
        let kinds =
            |have, want| VolumeError::WrongKind { key: key.clone(), have, want, data: self.data(key, had) };
        if had.driver == VolumeDriver::Local {
            let have = kind(had.capacity, had.project.is_some());
            let want = kind(wanted, options.quota == CapacityKind::ProjectQuota);
            if have != want {
                return Err(kinds(have, want));
            }
        }
        let (have, want) = match (had.driver, had.capacity, wanted) {
            // A limit is made sure of each time, since it is not in the volume.
            (_, have, want) if have == want && had.project.is_none() => return Ok(()),
            (VolumeDriver::Local, None, _) | (VolumeDriver::Local, _, None) => return Ok(()),
            (VolumeDriver::Local, Some(have), Some(want)) => (have, want),
            (VolumeDriver::Tmpfs, have, want) => {
                let usual = tmpfs::default_capacity();
                (have.unwrap_or(usual), want.unwrap_or(usual))
            }
        };
        if want < have {
            return Err(VolumeError::Shrink { key: key.clone(), have, want });
        }
        match had.driver {
            VolumeDriver::Local if let Some(project) = had.project => {
                quota::limit(key, &self.tree.dir(key), project, want)
            }
            VolumeDriver::Local => {
                let _only = held(&lock.device);
                image::grow(key, &self.tree.dir(key), want)
            }
            VolumeDriver::Tmpfs if tmpfs::is_mounted(&self.mount_point(key))? => {
                tmpfs::grow(&self.mount_point(key), want)
            }
            VolumeDriver::Tmpfs => Ok(()),
        }
    }

    /// Gives the volume an empty `data/`, of the owner and mode that were asked for, unless it has data. At once, or not at all.
    pub fn ensure_data(&self, key: &VolumeKey) -> Result<VolumeRecord, VolumeError> {
        self.put(key, None)
    }

    /// Copies a directory of an image into the volume, unless it has data: content, owners, modes, times, attributes, links and
    /// nodes. Its `data/` is there at once, with all of it, or not at all. A directory that the image does not have is an empty one.
    pub fn fill(&self, key: &VolumeKey, source: &FillSource<'_>) -> Result<VolumeRecord, VolumeError> {
        self.put(key, Some(source))
    }

    fn put(&self, key: &VolumeKey, source: Option<&FillSource<'_>>) -> Result<VolumeRecord, VolumeError> {
        let lock = self.lock(key);
        let _work = held(&lock.work);
        let mut record = self.record(key)?;
        if record.is_image() && record.has_data {
            return self.view(key, record);
        }
        let home = self.home(key, &record, &lock)?;
        if !home.has_data()? {
            home.clear()?;
            home.begin()?;
            let written = match source {
                None => home.own_new(&record),
                Some(source) => home.copy(key, source, &record, &self.tree.dir(key)),
            };
            let written = written.and_then(|()| {
                let from = source.map(|source| source.image.to_owned());
                if record.filled_from != from {
                    record.filled_from = from;
                    record.write(&self.tree.dir(key))?;
                }
                home.finish()
            });
            if let Err(error) = written {
                if let Err(left) = home.clear() {
                    let left = &left as &dyn std::error::Error;
                    tracing::warn!(volume = %key, error = left, "half-filled data are left behind; the next fill removes them");
                }
                return Err(error);
            }
        }
        self.note(key, &mut record, &home)?;
        failpoint!("volume.filled");
        self.view(key, record)
    }

    /// What to mount for the volume, which has to have data. Doing it again gives the same, and never a second device.
    pub fn activate(&self, key: &VolumeKey) -> Result<ActiveVolume, VolumeError> {
        let record = self.record(key)?;
        let data = self.data(key, &record);
        if !record.is_image() {
            if !self.view(key, record.clone())?.has_data {
                return Err(VolumeError::Unfilled(key.clone()));
            }
            let source = if record.driver == VolumeDriver::Tmpfs { data.join(DATA) } else { data };
            let mount = Mount::Bind { source, readonly: false };
            return Ok(ActiveVolume { mount, inside: None, hold: None });
        }
        if !record.has_data {
            return Err(VolumeError::Unfilled(key.clone()));
        }
        let lock = self.lock(key);
        let _only = held(&lock.device);
        let device = image::attach(key, &data)?;
        let mount = image::mount(&device);
        Ok(ActiveVolume { mount, inside: Some(DATA.to_owned()), hold: Some(device.file.into()) })
    }

    /// What the volume takes. One with a capacity is mounted for the moment if it is not.
    pub fn usage(&self, key: &VolumeKey) -> Result<VolumeUsage, VolumeError> {
        let record = self.record(key)?;
        let at = self.data(key, &record);
        if let Some(project) = record.project {
            let dir = self.tree.dir(key);
            let (found, (_, room)) = (quota::usage(&dir, project)?, error::room(&dir)?);
            let left = record.capacity.map_or(room, |capacity| capacity.saturating_sub(found.bytes));
            return Ok(VolumeUsage {
                bytes: found.bytes,
                inodes: found.inodes,
                capacity: record.capacity,
                available: Some(left.min(room)),
            });
        }
        if record.driver == VolumeDriver::Local && !record.is_image() {
            let (_, available) = error::room(&self.tree.dir(key))?;
            let mut usage = VolumeUsage { available: Some(available), ..VolumeUsage::default() };
            if self.view(key, record)?.has_data {
                let found = tmpfs::open(&at).and_then(|data| {
                    usage_of(data, &at)
                        .map_err(|error| VolumeError::io("measure", &at)(std::io::Error::other(error)))
                })?;
                (usage.bytes, usage.inodes) = (found.bytes, found.inodes);
            }
            return Ok(usage);
        }
        if record.driver == VolumeDriver::Tmpfs && !tmpfs::is_mounted(&at)? {
            return Ok(VolumeUsage { capacity: record.capacity, ..VolumeUsage::default() });
        }
        let home = self.home(key, &record, &self.lock(key))?;
        let stat = rustix::fs::fstatvfs(home.root()).map_err(VolumeError::io("measure", &at))?;
        Ok(VolumeUsage {
            bytes: stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(stat.f_frsize),
            inodes: stat.f_files.saturating_sub(stat.f_ffree),
            capacity: record.capacity.or(Some(stat.f_blocks.saturating_mul(stat.f_frsize))),
            available: Some(stat.f_bavail.saturating_mul(stat.f_frsize)),
        })
    }

    /// Removes the volume with its data, whoever uses it: callers know who does. One that is not there is removed already.
    /// What has it mounted keeps it until it ends.
    pub fn remove(&self, key: &VolumeKey) -> Result<(), VolumeError> {
        let lock = self.lock(key);
        let _work = held(&lock.work);
        // First, so that no crash leaves a mount that has no volume.
        tmpfs::remove(&self.mount_point(key))?;
        failpoint!("volume.unmounted");
        tree::prune(&self.mounts, key);
        let project = Record::read(&self.tree.dir(key)).ok().flatten().and_then(|record| record.project);
        self.tree.remove(key, |moved| {
            if let Some(project) = project {
                quota::release(moved, project);
            }
        })
    }

    /// Removes `prefix` and every volume whose key begins with it; what they are is told. All are tried, and then the first error is
    /// given.
    pub fn remove_all(&self, prefix: &VolumeKey) -> Result<Vec<VolumeKey>, VolumeError> {
        let mut failed = None;
        let mut removed = Vec::new();
        for key in self.tree.keys(Some(prefix))? {
            match self.remove(&key) {
                Ok(()) => removed.push(key),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(removed), Err)
    }
}

/// Reads a record, whatever is in it.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz_record(dir: &Path) -> Result<bool, VolumeError> {
    Record::read(dir).map(|record| record.is_some())
}
