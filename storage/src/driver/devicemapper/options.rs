//! The options, under the names that Docker's driver gave them, as far as they still mean something.

use std::path::PathBuf;

use super::filesystem::Fs;
use crate::driver::options::{OptionError, bytes};

#[cfg(test)]
mod tests;

/// All that there are.
pub(crate) const KNOWN_OPTIONS: &[&str] = &[
    "dm.basesize",
    "dm.loopdatasize",
    "dm.loopmetadatasize",
    "dm.fs",
    "dm.mkfsarg",
    "dm.mountopt",
    "dm.blkdiscard",
    "dm.thinpooldev",
    "dm.blocksize",
    "dm.min_free_space",
    "dm.use_deferred_removal",
    "dm.use_deferred_deletion",
    "dm.directlvm_device",
    "dm.directlvm_device_force",
    "dm.thinp_percent",
    "dm.thinp_metapercent",
    "dm.thinp_autoextend_percent",
    "dm.thinp_autoextend_threshold",
];

/// What a base device must hold at least: xfs is not made smaller than 300 MiB, and ext4 has a journal from 8 MiB on.
const LEAST_BASE: u64 = 32 << 20;
const LEAST_XFS: u64 = 300 << 20;
/// Smaller pools have no room for what they are for.
const LEAST_DATA: u64 = 64 << 20;
const LEAST_METADATA: u64 = 4 << 20;
/// What the kernel uses of a metadata device (dm-space-map-metadata.h, `DM_SM_METADATA_MAX_SECTORS`).
pub(super) const MOST_METADATA: u64 = 255 * (1 << 14) * 4096;

/// What was asked for. `None` is what is recorded, or else the default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) base_size: Option<u64>,
    pub(super) loop_data_size: Option<u64>,
    pub(super) loop_metadata_size: Option<u64>,
    pub(super) fs: Option<Fs>,
    pub(super) mkfs_args: Vec<String>,
    pub(super) mount_options: Vec<String>,
    /// Whether blocks of what is removed go back below the pool; by default where that is a file.
    pub(super) discard: Option<bool>,
    pub(super) thin_pool: Option<PathBuf>,
    pub(super) block_size: Option<u64>,
    /// Percent of the pool that is kept free.
    pub(super) min_free: u8,
    pub(super) deferred: bool,
    pub(super) direct: Option<PathBuf>,
    pub(super) direct_force: bool,
    pub(super) data_percent: u8,
    pub(super) metadata_percent: u8,
    pub(super) extend_percent: u8,
    pub(super) extend_threshold: u8,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            base_size: None,
            loop_data_size: None,
            loop_metadata_size: None,
            fs: None,
            mkfs_args: Vec::new(),
            mount_options: Vec::new(),
            discard: None,
            thin_pool: None,
            block_size: None,
            min_free: 10,
            deferred: true,
            direct: None,
            direct_force: false,
            data_percent: 95,
            metadata_percent: 1,
            extend_percent: 20,
            extend_threshold: 80,
        }
    }
}

impl Options {
    /// Reads options whose names are known and there once.
    pub(super) fn parse(given: &[(String, String)]) -> Result<Self, OptionError> {
        let mut it = Self::default();
        let (mut removal, mut deletion) = (None, None);
        for (name, value) in given {
            let size = |least: u64, most: u64| {
                let size = bytes(name, value)?;
                match (least..=most).contains(&size) {
                    true => Ok(Some(size)),
                    false => {
                        Err(OptionError::value(name, value, format!("it is from {least} to {most} bytes")))
                    }
                }
            };
            match name.as_str() {
                "dm.basesize" => it.base_size = size(LEAST_BASE, 1 << 50)?,
                "dm.loopdatasize" => it.loop_data_size = size(LEAST_DATA, 1 << 50)?,
                "dm.loopmetadatasize" => it.loop_metadata_size = size(LEAST_METADATA, MOST_METADATA)?,
                "dm.fs" => {
                    it.fs = Some(match value.as_str() {
                        "ext4" => Fs::Ext4,
                        "xfs" => Fs::Xfs,
                        _ => return Err(OptionError::value(name, value, "it is ext4 or xfs")),
                    });
                }
                "dm.mkfsarg" => it.mkfs_args = value.split_ascii_whitespace().map(str::to_owned).collect(),
                "dm.mountopt" => {
                    it.mount_options =
                        value.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect();
                }
                "dm.blkdiscard" => it.discard = Some(yes(name, value)?),
                "dm.thinpooldev" => it.thin_pool = Some(device(name, value)?),
                "dm.blocksize" => it.block_size = Some(block_size(name, value)?),
                "dm.min_free_space" => it.min_free = percent(name, value.trim_end_matches('%'), 0, 99)?,
                "dm.use_deferred_removal" => removal = Some(yes(name, value)?),
                "dm.use_deferred_deletion" => deletion = Some(yes(name, value)?),
                "dm.directlvm_device" => it.direct = Some(device(name, value)?),
                "dm.directlvm_device_force" => it.direct_force = yes(name, value)?,
                "dm.thinp_percent" => it.data_percent = percent(name, value, 1, 99)?,
                "dm.thinp_metapercent" => it.metadata_percent = percent(name, value, 1, 50)?,
                "dm.thinp_autoextend_percent" => it.extend_percent = percent(name, value, 1, 100)?,
                "dm.thinp_autoextend_threshold" => it.extend_threshold = percent(name, value, 10, 100)?,
                _ => {
                    return Err(OptionError::Unknown {
                        option: name.clone(),
                        driver: "devicemapper",
                        known: KNOWN_OPTIONS,
                    });
                }
            }
        }
        it.deferred = deletion.or(removal).unwrap_or(true);
        it.check(removal, deletion)?;
        Ok(it)
    }

    fn check(&self, removal: Option<bool>, deletion: Option<bool>) -> Result<(), OptionError> {
        if removal == Some(false) && deletion == Some(true) {
            let why = "it needs dm.use_deferred_removal=true";
            return Err(OptionError::value("dm.use_deferred_deletion", "true", why));
        }
        if let (Some(pool), Some(_)) = (&self.thin_pool, &self.direct) {
            let why = "there is dm.directlvm_device too; give one of them";
            return Err(OptionError::value("dm.thinpooldev", &pool.to_string_lossy(), why));
        }
        if self.data_percent + self.metadata_percent > 100 {
            let why = format!("with dm.thinp_metapercent={} it is more than 100", self.metadata_percent);
            return Err(OptionError::value("dm.thinp_percent", &self.data_percent.to_string(), why));
        }
        if let (Some(Fs::Xfs), Some(size)) = (self.fs, self.base_size)
            && size < LEAST_XFS
        {
            let why = "xfs is not made smaller than 300M; give dm.fs=ext4 or more";
            return Err(OptionError::value("dm.basesize", &size.to_string(), why));
        }
        Ok(())
    }
}

fn yes(name: &str, value: &str) -> Result<bool, OptionError> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(OptionError::value(name, value, "it is true or false")),
    }
}

fn percent(name: &str, value: &str, least: u8, most: u8) -> Result<u8, OptionError> {
    match value.parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => {
            Err(OptionError::value(name, value, format!("it is a share in percent, from {least} to {most}")))
        }
    }
}

fn device(name: &str, value: &str) -> Result<PathBuf, OptionError> {
    let path = PathBuf::from(value);
    // Docker's own way: a name alone is one of device-mapper's.
    if path.is_absolute() {
        Ok(path)
    } else if value.is_empty() || value.contains('/') {
        Err(OptionError::value(name, value, "it is the absolute path of a device"))
    } else {
        Ok(PathBuf::from("/dev/mapper").join(path))
    }
}

/// What the kernel takes (dm-thin.c, `DATA_DEV_BLOCK_SIZE_*`).
fn block_size(name: &str, value: &str) -> Result<u64, OptionError> {
    let size = bytes(name, value)?;
    if (64 << 10..=1 << 30).contains(&size) && size % (64 << 10) == 0 {
        Ok(size)
    } else {
        Err(OptionError::value(name, value, "it is a multiple of 64K, up to 1G"))
    }
}
