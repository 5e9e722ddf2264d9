//! How much of the disk is kept free, and which images go for that.

use std::time::Duration;

use serde::Deserialize;
use stower_controllers::{DiskPolicy, Floor};

use super::{bytes, layers::Merged};

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
    /// Names and defaults of `images.gc` are those of the kubelet's configuration (`imageGCHighThresholdPercent`,
    /// `imageGCLowThresholdPercent`, `imageMinimumGCAge`); `storage` has what that has as `evictionHard` of
    /// `imagefs.available` and `imagefs.inodesFree`.
    pub(super) fn derive(merged: &mut Merged) -> Self {
        let high_percent = merged.number("images.gc.highThresholdPercent", 85u8);
        if high_percent > 100 {
            merged.wrong("images.gc.highThresholdPercent", "must be at most 100");
        }
        let low_percent = merged.number("images.gc.lowThresholdPercent", 80u8);
        if low_percent >= high_percent {
            let message =
                format!("{low_percent} must be below highThresholdPercent, which is {high_percent}");
            merged.wrong("images.gc.lowThresholdPercent", message);
        }
        let min_age = merged.text("images.gc.minAge").unwrap_or("2m").to_owned();
        let min_age = min_age.parse().unwrap_or_else(|error| {
            merged.wrong("images.gc.minAge", format!("{min_age:?}: {error}"));
            stower_crds::Duration::default()
        });
        Self {
            collect: merged.bool("images.gc.enabled", true),
            policy: DiskPolicy {
                high_percent,
                low_percent,
                min_free: min_free(merged),
                min_free_inodes: min_free_inodes(merged),
            },
            min_age: min_age.into(),
            pinned: merged.list("images.gc.pinned"),
        }
    }
}

fn min_free(merged: &mut Merged) -> Floor {
    let Some(MinFree { bytes: amount, percent }) = merged.map("storage.minFree") else { return MIN_FREE };
    let absolute = amount.and_then(|text| {
        let amount = bytes(&text);
        if amount.is_none() {
            merged.wrong("storage.minFree.bytes", format!("{text:?} is not a size such as 1Gi"));
        }
        amount
    });
    Floor { absolute, percent: share(merged, "storage.minFree.percent", percent) }
}

fn min_free_inodes(merged: &mut Merged) -> Floor {
    let Some(MinFreeInodes { inodes, percent }) = merged.map("storage.minFreeInodes") else {
        return MIN_FREE_INODES;
    };
    Floor { absolute: inodes, percent: share(merged, "storage.minFreeInodes.percent", percent) }
}

fn share(merged: &mut Merged, path: &str, percent: Option<u8>) -> Option<u8> {
    if let Some(over @ 100..) = percent {
        merged.wrong(path, format!("{over} must be below 100"));
    }
    percent
}
