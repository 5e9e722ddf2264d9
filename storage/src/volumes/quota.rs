//! A volume whose capacity is a quota of an XFS project: a plain directory, in a project of its own.
//!
//! The volume's directory belongs to the project, which marks its number as taken for everybody who looks. Only `data.new/`
//! (later `data/`) hands it on, so `volume.json` can be written when the volume is full.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;

use super::error::check_capacity;
use super::xfs::{self, Project, Quota};
use super::{VolumeError, VolumeKey, tmpfs};
use crate::failpoint::failpoint;

/// linux/magic.h, `XFS_SUPER_MAGIC`.
const XFS_MAGIC: i64 = 0x5846_5342;
/// There where the kernel was built with `CONFIG_XFS_QUOTA` (fs/xfs/xfs_stats.c).
const KERNEL_HAS_IT: &str = "/proc/fs/xfs/xqmstat";
/// Numbers from here on are ours. Below are those that people and other programs begin with: 1, 2^20.
const FIRST: u32 = 0x7374_0000;
const NUMBERS: u32 = 1 << 20;
/// A block of any XFS there is by default; less would hold no file.
const LEAST: u64 = 4096;

const NOT_XFS: &str = "is not on xfs; put the data root on one, or keep the capacity by an image";
const NOT_BUILT: &str = "is on xfs, but this kernel was built without its quota (CONFIG_XFS_QUOTA); keep the capacity by an image";
const NOT_ON: &str = "is on xfs without enforced project quota; mount it with the option prjquota";
const WITHIN: &str = "hands a project of its own on to what is made in it; take that from it (xfs_io -c 'chattr -P'), or use another directory";
const NONE_FREE: &str = "is on xfs where no project number is free for it";

/// Whether a project's quota can be had in the directory `dir`, and holds.
pub(super) fn check(key: &VolumeKey, dir: &Path) -> Result<OwnedFd, VolumeError> {
    let cannot = |why| VolumeError::NoQuota { key: key.clone(), at: dir.to_owned(), why };
    let stat = rustix::fs::statfs(dir).map_err(VolumeError::io("look at", dir))?;
    if stat.f_type != XFS_MAGIC {
        return Err(cannot(NOT_XFS));
    }
    let root = tmpfs::open(dir)?;
    if xfs::enforced(&root).map_err(VolumeError::io("ask for the quota of", dir))? {
        return Ok(root);
    }
    Err(cannot(if Path::new(KERNEL_HAS_IT).exists() { NOT_ON } else { NOT_BUILT }))
}

/// Puts the empty directory `dir`, which is not the volume's own yet, in a project of its own with that limit. The caller
/// sees to it that nobody else of this store does so meanwhile; `taken` are the numbers that its records have.
pub(super) fn make(
    key: &VolumeKey,
    dir: &Path,
    capacity: u64,
    taken: &HashSet<u32>,
) -> Result<u32, VolumeError> {
    let root = check(key, dir)?;
    check_capacity(key, capacity, LEAST, dir)?;
    let io = |error: Errno| VolumeError::io("make a project for", dir)(error);
    let cannot = |why| VolumeError::NoQuota { key: key.clone(), at: dir.to_owned(), why };
    // Nothing could be moved from one such tree to the other (EXDEV).
    if xfs::project(&root).map_err(io)?.id != 0 {
        return Err(cannot(WITHIN));
    }
    for id in (FIRST..FIRST + NUMBERS).filter(|id| !taken.contains(id)) {
        // A limit without anything that it limits was left by a crash, and is ours to set again.
        let there = xfs::quota(&root, id).map_err(io)?;
        if there.inodes != 0 || there.bytes != 0 {
            continue;
        }
        xfs::set_project(&root, Project { id, inherited: false }).map_err(io)?;
        failpoint!("volume.project_chosen");
        // Another agent on the same filesystem may have looked when we did. Then neither of us keeps it.
        if xfs::quota(&root, id).map_err(io)?.inodes == 1 {
            xfs::set_limit(&root, id, capacity).map_err(io)?;
            failpoint!("volume.project_limited");
            return Ok(id);
        }
        xfs::set_project(&root, Project { id: 0, inherited: false }).map_err(io)?;
    }
    Err(cannot(NONE_FREE))
}

/// Makes sure that the limit of a volume that is there is `capacity`, and that it counts.
pub(super) fn limit(key: &VolumeKey, dir: &Path, id: u32, capacity: u64) -> Result<(), VolumeError> {
    let root = check(key, dir)?;
    let io = |error: Errno| VolumeError::io("limit the project of", dir)(error);
    let data = dir.join(super::DATA);
    let mut belongs = xfs::project(&root).map_err(io)?.id == id;
    if belongs && data.symlink_metadata().is_ok() {
        belongs = xfs::project(&tmpfs::open(&data)?).map_err(io)? == Project { id, inherited: true };
    }
    if !belongs {
        return Err(VolumeError::NotInProject { key: key.clone(), dir: dir.to_owned(), project: id });
    }
    let had = xfs::quota(&root, id).map_err(io)?;
    if had.limit != capacity.next_multiple_of(xfs::BASIC_BLOCK) {
        if had.limit < capacity {
            check_capacity(key, capacity, LEAST, dir)?;
        }
        xfs::set_limit(&root, id, capacity).map_err(io)?;
        failpoint!("volume.project_grown");
    }
    Ok(())
}

/// Puts the directory of new data in the volume's project, and all that will be made in it.
pub(super) fn hand_on(dir: &impl AsFd, id: u32) -> Result<(), Errno> {
    xfs::set_project(dir, Project { id, inherited: true })
}

/// What the volume takes, without its own directory.
pub(super) fn usage(dir: &Path, id: u32) -> Result<Quota, VolumeError> {
    let root = tmpfs::open(dir)?;
    let found = xfs::quota(&root, id).map_err(VolumeError::io("measure", dir))?;
    Ok(Quota { inodes: found.inodes.saturating_sub(1), ..found })
}

/// Takes the limit away from a volume that is being removed, whose directory is `dir` now and still marks the number as ours.
pub(super) fn release(dir: &Path, id: u32) {
    let released = tmpfs::open(dir).map_err(|error| error.to_string()).and_then(|root| {
        let found = xfs::project(&root).map_err(|error| error.to_string())?;
        if found.id == id { xfs::set_limit(&root, id, 0).map_err(|error| error.to_string()) } else { Ok(()) }
    });
    if let Err(error) = released {
        // It limits nothing any more, and who takes the number next sets its own.
        tracing::warn!(project = id, error, "the limit of a removed volume's project stays");
    }
}
