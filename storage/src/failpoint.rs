//! Places at which a test can end the process, as a crash would.

/// Ends the process at once when the environment says `STOWER_FAILPOINT=name`. Nothing in a release build without the
/// feature `failpoints`.
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(any(feature = "failpoints", debug_assertions))]
        $crate::failpoint::reach($name);
    };
}
pub(crate) use failpoint;

/// All names of layers and snapshots, so that a test can go through each.
#[cfg(any(feature = "failpoints", debug_assertions))]
pub const ALL: &[&str] = &[
    "stage.made",
    "stage.written",
    "finish.done",
    "finish.renamed",
    "seal.synced",
    "seal.recorded",
    "prepare.made",
    "prepare.renamed",
    "commit.recorded",
    "commit.renamed",
    "remove.renamed",
    "remove_layer.renamed",
];

/// More of them, of the driver btrfs alone.
#[cfg(any(feature = "failpoints", debug_assertions))]
pub const BTRFS: &[&str] = &["btrfs.subvolume_made", "btrfs.limited", "btrfs.protected", "btrfs.destroyed"];

/// More of the driver devicemapper.
#[cfg(any(feature = "failpoints", debug_assertions))]
pub const DEVICEMAPPER: &[&str] = &[
    "pool.recorded",
    "pool.files",
    "pool.made",
    "base.created",
    "base.formatted",
    "base.settled",
    "base.recorded",
    "stage.snapped",
    "stage.mounted",
    "prepare.snapped",
    "prepare.grown",
    "resize.recorded",
    "resize.stretched",
    "resize.grown",
    "commit.settled",
    "remove.discarded",
    "remove.deleted",
    "start.compared",
];

/// Where it makes its pool larger.
#[cfg(any(feature = "failpoints", debug_assertions))]
pub const POOL: &[&str] = &["pool.stretched"];

/// Those of limited snapshots on overlay.
#[cfg(any(feature = "failpoints", debug_assertions))]
pub const LIMITED: &[&str] = &[
    "prepare.image_made",
    "prepare.image_formatted",
    "resize.stretched",
    "resize.filled",
    "commit.copied",
    "commit.noted",
    "commit.placed",
];

/// Those of volumes.
#[cfg(any(feature = "failpoints", debug_assertions))]
pub const VOLUMES: &[&str] = &[
    "volume.staged",
    "volume.project_chosen",
    "volume.project_limited",
    "volume.project_grown",
    "volume.image_made",
    "volume.image_formatted",
    "volume.record_written",
    "volume.record_renamed",
    "volume.placed",
    "volume.tmpfs_mounted",
    "volume.fill_begun",
    "volume.fill_copied",
    "volume.fill_synced",
    "volume.fill_renamed",
    "volume.filled",
    "volume.grow_stretched",
    "volume.grow_resized",
    "volume.unmounted",
    "volume.trashed",
];

/// Syncs that can be left out by the same variable, so that a test sees that cutting the power finds it.
#[cfg(any(feature = "failpoints", debug_assertions))]
pub const SYNCS: &[&str] = &["skip.sync.seal", "skip.sync.blob", "skip.sync.fill"];

/// Whether a sync is to be left out. Never in a release build without the feature `failpoints`.
pub(crate) fn skipped(name: &str) -> bool {
    #[cfg(any(feature = "failpoints", debug_assertions))]
    {
        debug_assert!(SYNCS.contains(&name), "a sync that is not listed: {name}");
        std::env::var_os("STOWER_FAILPOINT").is_some_and(|wanted| wanted == name)
    }
    #[cfg(not(any(feature = "failpoints", debug_assertions)))]
    {
        let _ = name;
        false
    }
}

#[cfg(any(feature = "failpoints", debug_assertions))]
pub(crate) fn reach(name: &str) {
    let known = [ALL, BTRFS, DEVICEMAPPER, LIMITED, POOL, VOLUMES].concat();
    debug_assert!(known.contains(&name), "a failpoint that is not listed: {name}");
    if std::env::var_os("STOWER_FAILPOINT").is_some_and(|wanted| wanted == name) {
        // No destructor and no buffer gets a chance.
        std::process::abort();
    }
}
