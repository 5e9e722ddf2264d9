//! The thin pool: made or found, watched, enlarged, and told what to do.

use std::collections::{BTreeMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use rustix::io::Errno;

use super::backing::{Backing, Size};
use super::config::{Config, Place};
use super::options::Options;
use super::{check, pressure};
use crate::dm::status::{self, Mode, Working};
use crate::dm::{Control, DmError, Number, SECTOR, Suspend, Target, metadata, node};
use crate::driver::{DriverError, Fill, PoolStatus, Pressure};

/// Bytes of a block of the pool's metadata.
const METADATA_BLOCK: u64 = 4096;

impl From<DmError> for DriverError {
    fn from(error: DmError) -> Self {
        let (action, device, errno) = error.parts();
        Self::Io { action, path: Path::new("/dev/mapper").join(device), source: errno.into() }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) root: PathBuf,
    pub(super) control: Control,
    pub(super) config: Config,
    pub(super) options: Options,
    /// In `/dev/mapper`.
    pub(super) name: String,
    pub(super) number: Number,
    backing: Backing,
    /// Whoever uses the pool reads it; it is written while the pool is held still. The kernel makes no thin device then.
    going: RwLock<()>,
    ids: Mutex<Ids>,
}

/// Numbers of thin devices. One that was given away comes again only after all others, so that a record that a power cut brings
/// back never names another's device.
#[derive(Debug, Default)]
struct Ids {
    taken: HashSet<u32>,
    next: u32,
}

impl Ids {
    fn take(&mut self) -> Option<u32> {
        let most = u32::try_from(metadata::MOST_DEVICES).unwrap_or(u32::MAX);
        for _ in 0..most {
            let id = self.next;
            self.next = if id + 1 < most { id + 1 } else { 0 };
            if self.taken.insert(id) {
                return Some(id);
            }
        }
        None
    }
}

impl Pool {
    /// Makes what is not there, and finds what is, in whatever state a crash or a power cut left it.
    pub(super) fn open(
        root: &Path,
        config: Config,
        options: Options,
        control: Control,
    ) -> Result<Self, DriverError> {
        let backing = Backing::open(root, &config, &options, &control)?;
        let name = backing.pool_name(&config);
        let found = control.info(&name)?;
        let info = match (&config.place, found) {
            (Place::ThinPool(device), None) => return Err(refused(device, "it is not there any more")),
            (Place::ThinPool(_), Some(info)) => info,
            (_, Some(info)) if info.active && !info.suspended => info,
            // It was being made or enlarged when the process died: the last table that was loaded is right.
            (_, found) => {
                if found.is_none() {
                    check::before_use(root, &backing, &config)?;
                    control.create(&name)?;
                }
                let made = Self::load(&control, &name, &config, &options, backing.size());
                match made.and_then(|()| Ok(control.resume(&name)?)) {
                    Ok(info) => info,
                    Err(error) => {
                        if found.is_none() {
                            let _ = control.remove(&name, false);
                        }
                        return Err(error);
                    }
                }
            }
        };
        let pool = Self {
            root: root.to_owned(),
            control,
            config,
            options,
            name,
            number: info.number,
            backing,
            going: RwLock::default(),
            ids: Mutex::default(),
        };
        pool.claim()?;
        if let Ok(working) = pool.working() {
            pool.backing.reserve(working.metadata.used * METADATA_BLOCK)?;
        }
        let size = pool.backing.size();
        let shown: u64 = pool.control.table(&pool.name)?.iter().map(|target| target.length).sum();
        if !matches!(pool.config.place, Place::ThinPool(_))
            && shown < size.data_sectors / pool.block() * pool.block()
        {
            // Its files were made larger while nobody looked, or somebody died in the middle of it.
            pool.reload(Size { data_sectors: shown, ..size })?;
        }
        Ok(pool)
    }

    fn load(
        control: &Control,
        name: &str,
        config: &Config,
        options: &Options,
        size: Size,
    ) -> Result<(), DriverError> {
        let block = config.block_size / SECTOR;
        let length = size.data_sectors / block * block;
        let low_water = length / block * u64::from(100 - options.extend_threshold.min(99)) / 100;
        // No block is zeroed before it is used: filesystems show none that they have not written.
        let mut features = vec!["skip_block_zeroing"];
        if no_space_timeout() == Some(0) {
            // The kernel would keep writers waiting for ever.
            features.push("error_if_no_space");
        }
        let line = format!(
            "{} {} {block} {low_water} {} {}",
            size.metadata,
            size.data,
            features.len(),
            features.join(" ")
        );
        let table = [Target { start: 0, length, kind: "thin-pool".to_owned(), line }];
        Ok(control.load(name, &table, false)?)
    }

    /// Sectors of a block.
    fn block(&self) -> u64 {
        self.config.block_size / SECTOR
    }

    /// Only a pool that is ours is used; one that is empty becomes ours.
    fn claim(&self) -> Result<(), DriverError> {
        let Ok(working) = self.working() else { return Ok(()) };
        let mark = self.config.mark();
        let path = Path::new("/dev/mapper").join(&self.name);
        if working.transaction == mark {
            return Ok(());
        }
        if working.transaction != 0 || working.data.used != 0 {
            return Err(refused(
                &path,
                format!(
                    "it is not this driver's, and not empty: {} of its {} blocks are in use, and its transaction is {}; give \
                     dm.thinpooldev a pool that nobody uses",
                    working.data.used, working.data.total, working.transaction
                ),
            ));
        }
        let devices = self.devices()?;
        if !devices.is_empty() {
            return Err(refused(&path, format!("it is not empty: it has {} thin devices", devices.len())));
        }
        self.message(&format!("set_transaction_id 0 {mark}"))
    }

    /// To be held while a table that names the pool is loaded.
    pub(super) fn going(&self) -> RwLockReadGuard<'_, ()> {
        self.going.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn ids(&self) -> MutexGuard<'_, Ids> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Start-up: these are in the pool.
    pub(super) fn know(&self, ids: impl IntoIterator<Item = u32>) {
        let mut known = self.ids();
        known.taken.extend(ids);
        known.next = known.taken.iter().max().map_or(0, |id| id + 1);
    }

    /// How many thin devices there are.
    pub(super) fn known(&self) -> usize {
        self.ids().taken.len()
    }

    pub(super) fn message(&self, text: &str) -> Result<(), DriverError> {
        let _going = self.going();
        self.control.message(&self.name, text).map_err(|error| self.explain(error))
    }

    /// The kernel's number says little; the pool's state says more.
    pub(super) fn explain(&self, error: DmError) -> DriverError {
        match self.refuses() {
            Err(pressure) => pressure,
            Ok(()) => error.into(),
        }
    }

    /// Makes an empty thin device, and gives its number.
    pub(super) fn create(&self) -> Result<u32, DriverError> {
        self.make(|id| format!("create_thin {id}"))
    }

    /// Makes a thin device that begins as `origin` is now. One that is written to meanwhile is held still by the caller.
    pub(super) fn create_snapshot(&self, origin: u32) -> Result<u32, DriverError> {
        self.make(|id| format!("create_snap {id} {origin}"))
    }

    fn make(&self, text: impl Fn(u32) -> String) -> Result<u32, DriverError> {
        loop {
            let id = self.ids().take().ok_or_else(|| {
                refused(
                    &Path::new("/dev/mapper").join(&self.name),
                    "it has as many thin devices as a pool can have",
                )
            })?;
            let _going = self.going();
            match self.control.message(&self.name, &text(id)) {
                Ok(()) => return Ok(id),
                // In the pool without our knowledge; start-up removes it.
                Err(error) if error.errno == Errno::EXIST => {}
                Err(error) => {
                    self.ids().taken.remove(&id);
                    return Err(self.explain(error));
                }
            }
        }
    }

    /// Deletes a thin device; `EBUSY` while it is active. One that is not there is deleted already.
    pub(super) fn delete(&self, id: u32) -> Result<(), DmError> {
        let _going = self.going();
        match self.control.message(&self.name, &format!("delete {id}")) {
            Ok(()) => {}
            Err(error) if error.errno == Errno::NODATA => {}
            Err(error) => return Err(error),
        }
        self.ids().taken.remove(&id);
        Ok(())
    }

    /// All thin devices of the pool, read from a state of its metadata that is held for as long.
    pub(super) fn devices(&self) -> Result<BTreeMap<u32, metadata::Details>, DriverError> {
        let path = &self.backing.metadata;
        if self.working()?.held_root.is_some() {
            // Of a process that died.
            self.message("release_metadata_snap")?;
        }
        self.message("reserve_metadata_snap")?;
        let read = || -> Result<_, DriverError> {
            let root = self.working()?.held_root;
            let root = root.ok_or_else(|| DriverError::io("hold", path)(Errno::AGAIN))?;
            let mut blocks = Direct::open(path).map_err(DriverError::io("open", path))?;
            metadata::devices(&mut blocks, root)
                .map_err(|error| DriverError::io("read", path)(io::Error::other(error)))
        };
        let found = read();
        self.message("release_metadata_snap")?;
        found
    }

    fn state(&self) -> Result<status::Pool, DriverError> {
        let targets = match self.control.status(&self.name) {
            // Somebody removed it.
            Err(error) if error.errno == Errno::NXIO => return Ok(status::Pool::Fail),
            other => other?,
        };
        let line = match targets.into_iter().next() {
            Some(target) if target.kind == "thin-pool" => target.line,
            // Somebody put something else in its place, as `dmsetup remove --force` does.
            _ => return Ok(status::Pool::Fail),
        };
        let path = Path::new("/dev/mapper").join(&self.name);
        line.parse()
            .map_err(|error| DriverError::io("understand the status of", path)(io::Error::other(error)))
    }

    fn working(&self) -> Result<Working, DriverError> {
        match self.state()? {
            status::Pool::Works(working) => Ok(working),
            _ => Err(pressure::failed(&self.name).into()),
        }
    }

    /// Whether the pool's metadata can be changed.
    pub(super) fn writable(&self) -> bool {
        self.working().is_ok_and(|it| it.mode != Mode::ReadOnly && !it.needs_check)
    }

    /// Whether no block of it was ever used, and all of it reads as zeros.
    pub(super) fn untouched(&self) -> bool {
        self.working().is_ok_and(|it| it.data.used == 0) && self.backing.is_hole()
    }

    /// Whether it is in a sparse file, which becomes smaller by what is discarded.
    pub(super) fn is_sparse(&self) -> bool {
        self.backing.is_sparse()
    }

    /// Sectors that no thin device has more of.
    pub(super) fn largest(&self) -> u64 {
        self.config.base_size.max(1 << 40) / SECTOR
    }

    pub(super) fn status(&self) -> Result<PoolStatus, DriverError> {
        let failed = || PoolStatus {
            name: self.name.clone(),
            data: Fill::default(),
            metadata: Fill::default(),
            pressure: Some(pressure::failed(&self.name)),
        };
        let status::Pool::Works(working) = self.state()? else { return Ok(failed()) };
        let block = self.config.block_size;
        let mut data = Fill { used: working.data.used * block, total: working.data.total * block };
        // A sparse file promises more than there may be room for.
        if let Some(room) = self.backing.room() {
            data.total = data.total.min(room.max(data.used));
        }
        let metadata = Fill {
            used: working.metadata.used * METADATA_BLOCK,
            total: working.metadata.total * METADATA_BLOCK,
        };
        let mut pressure = pressure::of(&self.name, &working, data, metadata, self.options.min_free);
        if self.is_held()? {
            pressure = Some(pressure::suspended(&self.name));
        } else if let Some(why) = self.backing.lost() {
            pressure = Some(Pressure::Failed { pool: self.name.clone(), why });
        }
        Ok(PoolStatus { name: self.name.clone(), data, metadata, pressure })
    }

    /// Whether somebody holds the pool still. While it is made larger it is held still too, by us.
    fn is_held(&self) -> Result<bool, DriverError> {
        let Ok(_going) = self.going.try_read() else { return Ok(false) };
        Ok(self.control.info(&self.name)?.is_some_and(|info| info.suspended))
    }

    /// An error while somebody holds the pool still: whoever then reads or writes a thin device waits, and cannot be ended.
    pub(super) fn answers(&self) -> Result<(), DriverError> {
        if self.is_held()? { Err(pressure::suspended(&self.name).into()) } else { Ok(()) }
    }

    /// An error when no new work is to be begun.
    pub(super) fn refuses(&self) -> Result<(), DriverError> {
        match self.status()?.pressure {
            Some(pressure) => Err(pressure.into()),
            None => Ok(()),
        }
    }

    /// Makes the pool larger where it is nearly full and there is more. Whether it did.
    pub(super) fn extend(&self) -> Result<bool, DriverError> {
        if self.is_held()? {
            // Resuming it would be the end of what somebody else does.
            return Ok(false);
        }
        let working = self.working()?;
        self.backing.reserve(working.metadata.used * METADATA_BLOCK)?;
        let full = |blocks: status::Blocks| {
            u128::from(blocks.used) * 100
                >= u128::from(blocks.total) * u128::from(self.options.extend_threshold)
        };
        let before = self.backing.size();
        if !self.backing.extend(full(working.data), full(working.metadata), self.options.extend_percent)? {
            return Ok(false);
        }
        self.reload(before)?;
        let after = self.status()?;
        tracing::info!(
            pool = self.name,
            data = after.data.total,
            metadata = after.metadata.total,
            "made the pool larger"
        );
        Ok(true)
    }

    /// Puts a table for the devices as they are now in force. With one that the kernel does not take, the former one stays.
    fn reload(&self, before: Size) -> Result<(), DriverError> {
        let _still = self.going.write().unwrap_or_else(PoisonError::into_inner);
        Self::load(&self.control, &self.name, &self.config, &self.options, self.backing.size())?;
        self.control.suspend(&self.name, Suspend::NoFlush)?;
        if let Err(error) = self.control.resume(&self.name) {
            Self::load(&self.control, &self.name, &self.config, &self.options, before)?;
            self.control.resume(&self.name)?;
            return Err(error.into());
        }
        Ok(())
    }

    /// Where writes that find no room are to fail, and not to be tried for ever: by itself XFS does that with its own metadata
    /// (kernel documentation, admin-guide/xfs.rst, "Error handling").
    pub(super) fn give_up_retries(&self) -> Result<(), DriverError> {
        if self.config.fs != super::filesystem::Fs::Xfs || self.working()?.mode == Mode::ReadWrite {
            return Ok(());
        }
        for name in self.control.list(&self.config.prefix())? {
            let Some(info) = self.control.info(&name)?.filter(|_| self.parse_device(&name).is_some()) else {
                continue;
            };
            for error in ["EIO", "ENOSPC"] {
                let minor = info.number.minor;
                let path = format!("/sys/fs/xfs/dm-{minor}/error/metadata/{error}/max_retries");
                // It is there only while it is mounted.
                if Path::new(&path).exists()
                    && let Err(error) = std::fs::write(&path, "0")
                {
                    tracing::warn!(%error, path, "cannot make XFS give up; who uses it may wait until there is room");
                }
            }
        }
        Ok(())
    }

    /// Takes the pool down, unless something uses it. What was given to us is left as it is.
    pub(super) fn close(&self) {
        if !matches!(self.config.place, Place::ThinPool(_)) && self.control.remove(&self.name, false).is_ok()
        {
            self.backing.close(&self.control);
        }
    }

    /// For nodes that nobody else makes.
    pub(super) fn node(&self, number: Number) -> Result<PathBuf, DriverError> {
        node(number, &self.root.join("nodes"))
            .map_err(DriverError::io("find the node of device", number.to_string()))
    }
}

pub(super) fn refused(device: &Path, why: impl Into<String>) -> DriverError {
    DriverError::Device { device: device.to_owned(), why: why.into() }
}

/// Seconds that writers wait for room in a full pool; 0 is for ever.
fn no_space_timeout() -> Option<u64> {
    let text = std::fs::read_to_string("/sys/module/dm_thin_pool/parameters/no_space_timeout").ok()?;
    text.trim().parse().ok()
}

/// Reads past the page cache, which does not know what device-mapper writes.
pub(super) struct Direct {
    file: File,
    buffer: Vec<u8>,
}

impl Direct {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path)?;
        // Room to begin where the device wants it.
        Ok(Self { file, buffer: vec![0; 2 * metadata::BLOCK] })
    }
}

impl metadata::Blocks for Direct {
    fn read(&mut self, number: u64, to: &mut [u8]) -> io::Result<()> {
        let start = self.buffer.as_ptr().align_offset(metadata::BLOCK);
        let aligned =
            self.buffer.get_mut(start..start + metadata::BLOCK).ok_or(io::ErrorKind::InvalidInput)?;
        let offset = number.checked_mul(METADATA_BLOCK).ok_or(io::ErrorKind::InvalidInput)?;
        self.file.read_exact_at(aligned, offset)?;
        to.copy_from_slice(aligned);
        Ok(())
    }
}
