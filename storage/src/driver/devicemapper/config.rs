//! `pool.json`: what the pool was made as. None of it changes without somebody's word.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::filesystem::Fs;
use super::options::Options;
use crate::driver::DriverError;
use crate::driver::options::OptionError;

const NAME: &str = "pool.json";
/// The same once more: without it nobody can say whose the pool is.
const COPY: &str = "pool.json.copy";
const VERSION: u64 = 1;
/// Far more than one ever has.
const MAX_BYTES: u64 = 64 << 10;

const BASE_SIZE: u64 = 10 << 30;
const BLOCK_SIZE: u64 = 64 << 10;

/// Where the pool is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind", content = "device")]
pub(super) enum Place {
    /// In two files beside this one.
    Loop,
    /// It is somebody's, and we were given it.
    ThinPool(PathBuf),
    /// On a device that we were given.
    Direct(PathBuf),
}

/// See the module. Fields that are not known are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Config {
    version: u64,
    /// 16 hexadecimal digits. They are in the names of our devices, and as a number they are the pool's transaction, by which
    /// we know it again.
    pub(super) instance: String,
    pub(super) place: Place,
    /// Bytes of the base device.
    pub(super) base_size: u64,
    pub(super) fs: Fs,
    /// Bytes of a block of the pool.
    pub(super) block_size: u64,
    #[serde(flatten)]
    unknown: serde_json::Map<String, serde_json::Value>,
}

impl Config {
    /// What is recorded in `root`, or else a new one, which is not written yet.
    pub(super) fn of(root: &Path, options: &Options) -> Result<(Self, bool), DriverError> {
        match Self::read(root)? {
            Some(config) => {
                config.check(options)?;
                Ok((config, false))
            }
            None => Self::new(options).map(|config| (config, true)),
        }
    }

    fn new(options: &Options) -> Result<Self, DriverError> {
        let random = "/proc/sys/kernel/random/uuid";
        let uuid = std::fs::read_to_string(random).map_err(DriverError::io("read", random))?;
        // The digits that are random throughout come last.
        let digits: String = uuid.chars().filter(char::is_ascii_hexdigit).collect();
        let instance = digits.get(16..32).unwrap_or("").to_owned();
        let place = match (&options.thin_pool, &options.direct) {
            (Some(device), _) => Place::ThinPool(device.clone()),
            (None, Some(device)) => Place::Direct(device.clone()),
            (None, None) => Place::Loop,
        };
        Ok(Self {
            version: VERSION,
            instance,
            place,
            base_size: options.base_size.unwrap_or(BASE_SIZE),
            fs: options.fs.unwrap_or(Fs::Ext4),
            block_size: options.block_size.unwrap_or(BLOCK_SIZE),
            unknown: serde_json::Map::new(),
        })
    }

    /// Either of the two will do; the other one is written anew.
    fn read(root: &Path) -> Result<Option<Self>, DriverError> {
        let first = Self::read_one(root, NAME);
        if let Ok(Some(config)) = first {
            if !matches!(Self::read_one(root, COPY), Ok(Some(copy)) if copy == config) {
                config.write_one(root, COPY)?;
            }
            return Ok(Some(config));
        }
        let config = match Self::read_one(root, COPY) {
            Ok(Some(config)) => config,
            Ok(None) if matches!(first, Ok(None)) => return Ok(None),
            // A file that is damaged says more than one that is not there.
            second => {
                let Some(source) = first.err().or(second.err()) else { return Ok(None) };
                let (path, dir) = (root.join(NAME), root.to_owned());
                return Err(DriverError::Unreadable { path, copy: COPY, dir, source: Box::new(source) });
            }
        };
        let why = first.err().and_then(|error| Some(std::error::Error::source(&error)?.to_string()));
        tracing::warn!(path = %root.join(NAME).display(), why, "took its copy, since it cannot be read");
        config.write_one(root, NAME)?;
        Ok(Some(config))
    }

    fn read_one(root: &Path, name: &str) -> Result<Option<Self>, DriverError> {
        let path = root.join(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(DriverError::io("open", path)(error)),
        };
        let mut text = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut text).map_err(DriverError::io("read", &path))?;
        let bad =
            |why: String| DriverError::io("read", &path)(std::io::Error::new(ErrorKind::InvalidData, why));
        let config: Self = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
        if config.version != VERSION {
            return Err(bad(format!(
                "it is of version {}, and this program reads {VERSION}",
                config.version
            )));
        }
        let digits =
            config.instance.len() == 16 && config.instance.bytes().all(|digit| digit.is_ascii_hexdigit());
        if !digits || config.mark() == 0 || config.base_size == 0 || config.block_size < 64 << 10 {
            return Err(bad("its values make no sense".to_owned()));
        }
        Ok(Some(config))
    }

    /// What is asked for must be what is there.
    fn check(&self, options: &Options) -> Result<(), OptionError> {
        let differs = |option: &str, asked: String, there: &dyn std::fmt::Display| {
            let why = format!(
                "the pool was made with {there}, which stays as long as there is data; leave the option out, or begin with an \
                 empty directory"
            );
            Err(OptionError::value(option, &asked, why))
        };
        if let Some(asked) = options.base_size.filter(|asked| *asked != self.base_size) {
            return differs("dm.basesize", asked.to_string(), &self.base_size);
        }
        if let Some(asked) = options.block_size.filter(|asked| *asked != self.block_size) {
            return differs("dm.blocksize", asked.to_string(), &self.block_size);
        }
        if let Some(asked) = options.fs.filter(|asked| *asked != self.fs) {
            return differs("dm.fs", asked.name().to_owned(), &self.fs.name());
        }
        let (there, thin_pool, direct) = match &self.place {
            Place::Loop => ("files".to_owned(), None, None),
            Place::ThinPool(device) => (format!("dm.thinpooldev={}", device.display()), Some(device), None),
            Place::Direct(device) => {
                (format!("dm.directlvm_device={}", device.display()), None, Some(device))
            }
        };
        let named = [
            ("dm.thinpooldev", &options.thin_pool, thin_pool),
            ("dm.directlvm_device", &options.direct, direct),
        ];
        for (option, asked, is) in named {
            if let Some(asked) = asked
                && is != Some(asked)
            {
                return differs(option, asked.display().to_string(), &there);
            }
        }
        Ok(())
    }

    /// Makes it durable.
    pub(super) fn write(&self, root: &Path) -> Result<(), DriverError> {
        self.write_one(root, COPY)?;
        self.write_one(root, NAME)
    }

    /// Takes it back: there is no pool.
    pub(super) fn remove(root: &Path) {
        for name in [NAME, COPY] {
            let _ = std::fs::remove_file(root.join(name));
        }
    }

    fn write_one(&self, root: &Path, name: &str) -> Result<(), DriverError> {
        let (path, new) = (root.join(name), root.join("pool.json.new"));
        let text = serde_json::to_vec_pretty(self)
            .map_err(std::io::Error::other)
            .map_err(DriverError::io("write", &path))?;
        let mut options = std::fs::OpenOptions::new();
        let mut write = || -> std::io::Result<()> {
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&new, &path)?;
            File::open(root)?.sync_all()
        };
        write().map_err(DriverError::io("write", &path))
    }

    /// The transaction that says that a pool is ours.
    pub(super) fn mark(&self) -> u64 {
        u64::from_str_radix(&self.instance, 16).unwrap_or(0)
    }

    /// What the names of all our devices begin with.
    pub(super) fn prefix(&self) -> String {
        format!("stower-{}-", self.instance)
    }
}

#[cfg(test)]
mod tests;
