//! `volume.json`: what must be found again of a volume.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{VolumeDriver, VolumeError, VolumeOptions};
use crate::failpoint::failpoint;

pub(super) const NAME: &str = "volume.json";
const TEMPORARY: &str = "volume.json.new";
const VERSION: u64 = 1;
/// Far more than one ever has.
const MAX_BYTES: u64 = 64 << 10;

/// See the module. Fields that are not known are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    version: u64,
    pub(super) driver: VolumeDriver,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) capacity: Option<u64>,
    /// The number of the XFS project whose quota is the capacity; without it, a capacity is an image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) project: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) uid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) gid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mode: Option<u32>,
    /// For a filesystem image, where a look would need a mount. Written after the data are there, so it may be late,
    /// but is never wrong.
    #[serde(default)]
    pub(super) has_data: bool,
    /// Written before the data get their name, and means nothing until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) filled_from: Option<String>,
    #[serde(flatten)]
    unknown: serde_json::Map<String, serde_json::Value>,
}

impl Record {
    pub(super) fn new(options: &VolumeOptions) -> Self {
        Self {
            version: VERSION,
            driver: options.driver,
            capacity: options.capacity,
            project: None,
            uid: options.uid,
            gid: options.gid,
            mode: options.mode,
            has_data: false,
            filled_from: None,
            unknown: serde_json::Map::new(),
        }
    }

    /// Whether the data are in a filesystem image.
    pub(super) fn is_image(&self) -> bool {
        self.driver == VolumeDriver::Local && self.capacity.is_some() && self.project.is_none()
    }

    /// `None` when there is none.
    pub(super) fn read(dir: &Path) -> Result<Option<Self>, VolumeError> {
        let path = dir.join(NAME);
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(VolumeError::io("open", path)(error)),
        };
        let mut text = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut text).map_err(VolumeError::io("read", &path))?;
        let damaged = |source| VolumeError::Record { path: path.clone(), source };
        // The version first: a newer record need not have any other field that is known here.
        #[derive(Deserialize)]
        struct Version {
            version: u64,
        }
        let Version { version } = serde_json::from_slice(&text).map_err(damaged)?;
        if version > VERSION {
            return Err(VolumeError::NewerRecord { path, version, known: VERSION });
        }
        serde_json::from_slice(&text).map_err(damaged).map(Some)
    }

    /// Durable when it returns, but for the directory's own name.
    pub(super) fn write(&self, dir: &Path) -> Result<(), VolumeError> {
        let (temporary, path) = (dir.join(TEMPORARY), dir.join(NAME));
        let mut text = serde_json::to_vec(self).map_err(|error| VolumeError::io("write", &path)(error))?;
        text.push(b'\n');
        std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| {
                file.write_all(&text)?;
                file.sync_all()
            })
            .map_err(VolumeError::io("write", &temporary))?;
        failpoint!("volume.record_written");
        std::fs::rename(&temporary, &path).map_err(VolumeError::io("write", &path))?;
        failpoint!("volume.record_renamed");
        sync_dir(dir)
    }

    /// Removes what a write that was cut short left.
    pub(super) fn tidy(dir: &Path) -> Result<(), VolumeError> {
        let path = dir.join(TEMPORARY);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(VolumeError::io("remove", path)(error)),
            _ => Ok(()),
        }
    }
}

pub(super) fn sync_dir(dir: &Path) -> Result<(), VolumeError> {
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(VolumeError::io("sync", dir))
}
