//! How much of the disk is kept free, and which images go for that.

use std::time::Duration;

use serde::Deserialize;
use stower_controllers::{DiskPolicy, Floor};

use super::{ConfigError, bytes};

/// What the agent does about a disk that fills.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskConfig {
    /// Whether images are removed by themselves.
    pub collect: bool,
    /// When, and when new work is refused.
    pub policy: DiskPolicy,
    /// How long an image stays after it was used.
    pub min_age: Duration,
    /// Names of images that stay.
    pub pinned: Vec<String>,
}

/// `images.gc`, strictly. Names and defaults are those of the kubelet's configuration (`imageGCHighThresholdPercent`,
/// `imageGCLowThresholdPercent`, `imageMinimumGCAge`).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct ImagesGc {
    enabled: bool,
    high_threshold_percent: u8,
    low_threshold_percent: u8,
    min_age: String,
    pinned: Vec<String>,
}

impl Default for ImagesGc {
    fn default() -> Self {
        Self {
            enabled: true,
            high_threshold_percent: 85,
            low_threshold_percent: 80,
            min_age: "2m".to_owned(),
            pinned: Vec::new(),
        }
    }
}

/// `storage`, strictly. What the kubelet has as `evictionHard` of `imagefs.available` and `imagefs.inodesFree`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Storage {
    min_free: Option<MinFree>,
    min_free_inodes: Option<MinFreeInodes>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MinFree {
    bytes: Option<String>,
    percent: Option<u8>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MinFreeInodes {
    inodes: Option<u64>,
    percent: Option<u8>,
}

/// What is kept free unless configured: the lower one counts.
const MIN_FREE: Floor = Floor { absolute: Some(1 << 30), percent: Some(5) };
const MIN_FREE_INODES: Floor = Floor { absolute: Some(10_000), percent: Some(5) };

impl DiskConfig {
    pub(super) fn new(gc: ImagesGc, storage: Storage) -> Result<Self, ConfigError> {
        let value = |field, message: String| ConfigError::Value { field, message };
        let ImagesGc { enabled, high_threshold_percent, low_threshold_percent, min_age, pinned } = gc;
        if high_threshold_percent > 100 {
            return Err(value("images.gc.highThresholdPercent", "must be at most 100".into()));
        }
        if low_threshold_percent >= high_threshold_percent {
            let message = format!("must be below highThresholdPercent, which is {high_threshold_percent}");
            return Err(value("images.gc.lowThresholdPercent", message));
        }
        let min_age: stower_crds::Duration =
            min_age.parse().map_err(|error| value("images.gc.minAge", format!("{min_age:?}: {error}")))?;
        let percent = |field, percent: Option<u8>| match percent {
            Some(over @ 100..) => Err(value(field, format!("{over} must be below 100"))),
            other => Ok(other),
        };
        let min_free = match storage.min_free {
            None => MIN_FREE,
            Some(MinFree { bytes: amount, percent: share }) => Floor {
                absolute: amount
                    .map(|text| {
                        let message = format!("{text:?} is not a size such as 1Gi");
                        bytes(&text).ok_or_else(|| value("storage.minFree.bytes", message))
                    })
                    .transpose()?,
                percent: percent("storage.minFree.percent", share)?,
            },
        };
        let min_free_inodes = match storage.min_free_inodes {
            None => MIN_FREE_INODES,
            Some(MinFreeInodes { inodes, percent: share }) => {
                Floor { absolute: inodes, percent: percent("storage.minFreeInodes.percent", share)? }
            }
        };
        Ok(Self {
            collect: enabled,
            policy: DiskPolicy {
                high_percent: high_threshold_percent,
                low_percent: low_threshold_percent,
                min_free,
                min_free_inodes,
            },
            min_age: min_age.into(),
            pinned,
        })
    }
}
