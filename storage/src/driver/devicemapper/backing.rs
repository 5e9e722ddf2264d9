//! What the pool's data and metadata are kept on.

use std::fs::OpenOptions;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::config::{Config, Place};
use super::direct;
use super::options::{MOST_METADATA, Options};
use super::pool::refused;
use super::record;
use crate::dm::{Control, Number, SECTOR, node};
use crate::driver::DriverError;
use crate::driver::options::OptionError;
use crate::failpoint::failpoint;
use crate::loopdev::{self, Device};

const DATA: &str = "data";
const METADATA: &str = "metadata";
const DATA_SIZE: u64 = 100 << 30;
const METADATA_SIZE: u64 = 2 << 30;
/// In steps of this, in bytes, is it enlarged.
const STEP: u64 = 1 << 20;
/// How many bytes of metadata have room before they are used: more than are in a minute.
const AHEAD: u64 = 16 << 20;

/// The devices, and how much there is of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) metadata: Number,
    pub(super) data: Number,
    pub(super) data_sectors: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Backing {
    /// The node of the metadata's device.
    pub(super) metadata: PathBuf,
    size: Mutex<Size>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Files {
        root: PathBuf,
        data: Device,
        metadata: Device,
    },
    /// The name of the pool that we were given.
    Given(String),
    Direct(direct::Direct),
}

impl Backing {
    pub(super) fn open(
        root: &Path,
        config: &Config,
        options: &Options,
        control: &Control,
    ) -> Result<Self, DriverError> {
        match &config.place {
            Place::Loop => Self::files(root, config, options, control),
            Place::ThinPool(device) => Self::given(root, device, config, control),
            Place::Direct(device) => {
                let fresh = record::unused(root)?;
                let (it, size) = direct::Direct::open(device, config, options, control, fresh)?;
                let metadata =
                    node(size.metadata, &root.join("nodes")).map_err(DriverError::io("find", device))?;
                Ok(Self { metadata, size: Mutex::new(size), kind: Kind::Direct(it) })
            }
        }
    }

    /// Two sparse files, each with a loop device that goes when the pool does.
    fn files(
        root: &Path,
        config: &Config,
        options: &Options,
        control: &Control,
    ) -> Result<Self, DriverError> {
        let (data, metadata) = (root.join(DATA), root.join(METADATA));
        let unused = record::unused(root)?;
        if unused && control.info(&format!("{}pool", config.prefix()))?.is_none() {
            // A power cut may have left anything of a pool that was never used.
            for path in [&data, &metadata] {
                crate::driver::store::remove_tree(path)?;
            }
        }
        let data = attach(&data, "dm.loopdatasize", options.loop_data_size, DATA_SIZE, unused)?;
        let metadata =
            attach(&metadata, "dm.loopmetadatasize", options.loop_metadata_size, METADATA_SIZE, unused)?;
        failpoint!("pool.files");
        let number =
            |device: &Device| Number::of_node(&device.path).map_err(DriverError::io("look at", &device.path));
        let size = Size {
            metadata: number(&metadata)?,
            data: number(&data)?,
            data_sectors: length(&root.join(DATA))? / SECTOR,
        };
        let kind = Kind::Files { root: root.to_owned(), data, metadata };
        let metadata = match &kind {
            Kind::Files { metadata, .. } => metadata.path.clone(),
            _ => PathBuf::new(),
        };
        Ok(Self { metadata, size: Mutex::new(size), kind })
    }

    fn given(root: &Path, device: &Path, config: &Config, control: &Control) -> Result<Self, DriverError> {
        let name = given_name(device)?;
        let table = control.table(&name)?;
        let line = match table.as_slice() {
            [only] if only.kind == "thin-pool" => &only.line,
            [other, ..] => {
                let why = format!("it is no thin pool but of the kind {}", other.kind);
                return Err(refused(device, why));
            }
            [] => return Err(refused(device, "it has no table")),
        };
        let parts: Vec<&str> = line.split(' ').collect();
        let (metadata, data, block) = match parts.as_slice() {
            [metadata, data, block, ..] => (parse(metadata), parse(data), block.parse::<u64>().ok()),
            _ => (None, None, None),
        };
        let (Some(metadata), Some(data), Some(block)) = (metadata, data, block) else {
            return Err(refused(device, format!("its table cannot be understood: {line}")));
        };
        if block * SECTOR != config.block_size {
            let asked = config.block_size.to_string();
            let why = format!("the pool {} has blocks of {}", device.display(), block * SECTOR);
            return Err(OptionError::value("dm.blocksize", &asked, why).into());
        }
        let size = Size { metadata, data, data_sectors: table[0].length };
        let metadata = node(size.metadata, &root.join("nodes"))
            .map_err(DriverError::io("find the metadata of", device))?;
        Ok(Self { metadata, size: Mutex::new(size), kind: Kind::Given(name) })
    }

    pub(super) fn pool_name(&self, config: &Config) -> String {
        match &self.kind {
            Kind::Given(name) => name.clone(),
            _ => format!("{}pool", config.prefix()),
        }
    }

    pub(super) fn size(&self) -> Size {
        *self.size.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that data may take in all, where that is known better than from the pool.
    pub(super) fn room(&self) -> Option<u64> {
        let Kind::Files { root, .. } = &self.kind else { return None };
        let meta = std::fs::metadata(root.join(DATA)).ok()?;
        Some(meta.blocks() * 512 + free(root).ok()?)
    }

    /// What became of a file of the pool, where it is not what it was any more, and what to do.
    pub(super) fn lost(&self) -> Option<String> {
        let Kind::Files { root, data, metadata } = &self.kind else { return None };
        for (name, device, least) in
            [(DATA, data, self.size().data_sectors * SECTOR), (METADATA, metadata, 1)]
        {
            let (path, device) = (root.join(name), device.path.display());
            match std::fs::metadata(&path) {
                Ok(meta) if meta.len() >= least => {}
                Ok(_) => {
                    return Some(format!(
                        "somebody made {} smaller, and what was beyond is lost: put back what was there, or remove the \
                         images and containers that fail",
                        path.display()
                    ));
                }
                Err(error) => {
                    return Some(format!(
                        "its file {} is not there any more ({error}): copy {device}, which has it until its last user ends, \
                         to there",
                        path.display()
                    ));
                }
            }
        }
        None
    }

    /// Takes room for the pool's tables, of which `used` bytes are in use, ahead of them. Where the filesystem below is full, data
    /// are refused; without room for its tables the pool itself would fail.
    pub(super) fn reserve(&self, used: u64) -> Result<(), DriverError> {
        let Kind::Files { root, .. } = &self.kind else { return Ok(()) };
        let path = root.join(METADATA);
        let wanted = used.saturating_add(AHEAD).next_multiple_of(AHEAD).min(length(&path)?);
        let file = OpenOptions::new().write(true).open(&path).map_err(DriverError::io("open", &path))?;
        match rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, wanted) {
            // Not every filesystem can.
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(DriverError::io("take room for", path)(error)),
        }
    }

    /// Whether the data read as zeros throughout.
    pub(super) fn is_hole(&self) -> bool {
        match &self.kind {
            Kind::Files { root, .. } => {
                std::fs::metadata(root.join(DATA)).is_ok_and(|meta| meta.blocks() == 0)
            }
            _ => false,
        }
    }

    /// Whether what is discarded should be, unless somebody says something else.
    pub(super) fn is_sparse(&self) -> bool {
        matches!(self.kind, Kind::Files { .. })
    }

    /// Makes the devices larger, as far as there is more. Whether it did.
    pub(super) fn extend(&self, data: bool, metadata: bool, percent: u8) -> Result<bool, DriverError> {
        match &self.kind {
            Kind::Given(_) => Ok(false),
            Kind::Direct(direct) => match if data { direct.extend(percent)? } else { None } {
                Some(sectors) => {
                    self.size.lock().unwrap_or_else(PoisonError::into_inner).data_sectors = sectors;
                    Ok(true)
                }
                None => Ok(false),
            },
            Kind::Files { root, data: data_device, metadata: metadata_device } => {
                let room = free(root)?;
                let mut done = false;
                if data && let Some(length) = stretch(&root.join(DATA), data_device, percent, u64::MAX, room)?
                {
                    self.size.lock().unwrap_or_else(PoisonError::into_inner).data_sectors = length / SECTOR;
                    done = true;
                }
                if metadata {
                    done |= stretch(&root.join(METADATA), metadata_device, percent, MOST_METADATA, room)?
                        .is_some();
                }
                if done {
                    failpoint!("pool.stretched");
                }
                Ok(done)
            }
        }
    }

    pub(super) fn close(&self, control: &Control) {
        if let Kind::Direct(direct) = &self.kind {
            direct.close(control);
        }
    }
}

/// The block size of the pool that is given, in bytes.
pub(super) fn given_block_size(device: &Path, control: &Control) -> Result<Option<u64>, DriverError> {
    let table = control.table(&given_name(device)?)?;
    let line = table.first().filter(|target| target.kind == "thin-pool").map(|target| target.line.as_str());
    Ok(line.and_then(|line| line.split(' ').nth(2)?.parse::<u64>().ok()).map(|sectors| sectors * SECTOR))
}

/// The name in device-mapper of a device's node.
fn given_name(device: &Path) -> Result<String, DriverError> {
    let number = Number::of_node(device).map_err(DriverError::io("look at", device))?;
    match std::fs::read_to_string(format!("/sys/dev/block/{number}/dm/name")) {
        Ok(name) => Ok(name.trim().to_owned()),
        Err(_) => {
            let why = "it is no thin pool, nor anything of device-mapper's; dm.directlvm_device makes a pool of a whole device";
            Err(refused(device, why))
        }
    }
}

fn parse(number: &str) -> Option<Number> {
    let (major, minor) = number.split_once(':')?;
    Some(Number { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

/// A loop device for the file, which is made where it may be missing, and made larger where that is asked for.
fn attach(
    path: &Path,
    option: &str,
    asked: Option<u64>,
    default: u64,
    unused: bool,
) -> Result<Device, DriverError> {
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .create(unused)
        .truncate(false)
        .open(path)
        .map_err(DriverError::io("open", path))?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .map_err(DriverError::io("set up", path))?;
    let there = file.metadata().map_err(DriverError::io("look at", path))?.len();
    let wanted = match (there, asked) {
        (0, asked) => asked.unwrap_or(default),
        (there, None) => there,
        (there, Some(asked)) if asked >= there => asked,
        (there, Some(asked)) => {
            let why = format!("{} has {there} bytes already, and a pool is not made smaller", path.display());
            return Err(OptionError::value(option, &asked.to_string(), why).into());
        }
    };
    if wanted != there {
        file.set_len(wanted / STEP * STEP).map_err(DriverError::io("enlarge", path))?;
        file.sync_all().map_err(DriverError::io("sync", path))?;
    }
    let device = loopdev::attach(path).map_err(DriverError::io("attach a loop device to", path))?;
    // One that a process left may be from before the file grew.
    loopdev::take_size(&device).map_err(DriverError::io("enlarge the loop device of", path))?;
    Ok(device)
}

fn length(path: &Path) -> Result<u64, DriverError> {
    Ok(std::fs::metadata(path).map_err(DriverError::io("look at", path))?.len())
}

/// Bytes that the filesystem of `root` has left for us.
fn free(root: &Path) -> Result<u64, DriverError> {
    let stat = rustix::fs::statvfs(root).map_err(DriverError::io("measure", root))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The new length, where there is one.
fn stretch(
    path: &Path,
    device: &Device,
    percent: u8,
    most: u64,
    room: u64,
) -> Result<Option<u64>, DriverError> {
    let there = length(path)?;
    let more = (there / 100 * u64::from(percent)).next_multiple_of(STEP).min(room / STEP * STEP);
    let wanted = there.saturating_add(more).min(most / STEP * STEP);
    if wanted <= there {
        return Ok(None);
    }
    let file = OpenOptions::new().write(true).open(path).map_err(DriverError::io("open", path))?;
    file.set_len(wanted).map_err(DriverError::io("enlarge", path))?;
    file.sync_all().map_err(DriverError::io("sync", path))?;
    loopdev::take_size(device).map_err(DriverError::io("enlarge the loop device of", path))?;
    Ok(Some(wanted))
}
