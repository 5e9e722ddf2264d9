//! A volume in memory. Its mount is in the host's namespace, since it has to outlive every container; a reboot ends it.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
    fsconfig_create, fsconfig_reconfigure, fsconfig_set_string, fsmount, fsopen, fspick, mount_change,
    move_mount, unmount,
};

use super::VolumeError;

/// linux/magic.h.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// Whether a tmpfs is mounted just there.
pub(super) fn is_mounted(at: &Path) -> Result<bool, VolumeError> {
    let here = match rustix::fs::lstat(at) {
        Ok(here) => here,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(false),
        Err(error) => return Err(VolumeError::io("look at", at)(error)),
    };
    let above = rustix::fs::stat(at.join("..")).map_err(VolumeError::io("look at", at))?;
    if here.st_dev == above.st_dev {
        return Ok(false);
    }
    let stat = rustix::fs::statfs(at).map_err(VolumeError::io("look at", at))?;
    Ok(stat.f_type == TMPFS_MAGIC)
}

/// Mounts one, unless it is there. Without `capacity` the kernel's own: half of the memory.
pub(super) fn mount(at: &Path, capacity: Option<u64>) -> Result<(), VolumeError> {
    if is_mounted(at)? {
        return Ok(());
    }
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(at).map_err(VolumeError::io("make", at))?;
    make(at, capacity).map_err(VolumeError::io("mount a tmpfs on", at))
}

fn make(at: &Path, capacity: Option<u64>) -> Result<(), Errno> {
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&fs, "source", "stower")?;
    fsconfig_set_string(&fs, "mode", "0700")?;
    if let Some(capacity) = capacity {
        fsconfig_set_string(&fs, "size", capacity.to_string())?;
    }
    fsconfig_create(&fs)?;
    let mount = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    move_mount(&mount, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    mount_change(at, MountPropagationFlags::PRIVATE)
}

/// Changes how much a mounted one holds.
pub(super) fn grow(at: &Path, capacity: u64) -> Result<(), VolumeError> {
    let grow = || {
        let fs = fspick(CWD, at, rustix::mount::FsPickFlags::FSPICK_CLOEXEC)?;
        fsconfig_set_string(&fs, "size", capacity.to_string())?;
        fsconfig_reconfigure(&fs)
    };
    grow().map_err(VolumeError::io("enlarge the tmpfs on", at))
}

/// Takes it away, with all that is in it; whoever has it mounted elsewhere keeps it. None there is fine.
pub(super) fn remove(at: &Path) -> Result<(), VolumeError> {
    while is_mounted(at)? {
        unmount(at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).map_err(VolumeError::io("unmount", at))?;
    }
    match rustix::fs::rmdir(at) {
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::NOTDIR) => Ok(()),
        Err(error) => Err(VolumeError::io("remove", at)(error)),
    }
}

/// Its root.
pub(super) fn open(at: &Path) -> Result<OwnedFd, VolumeError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, at, flags, Mode::empty()).map_err(VolumeError::io("open", at))
}

/// What a tmpfs holds that was given no size (kernel documentation, filesystems/tmpfs.rst): half of the memory.
pub(super) fn default_capacity() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit)) / 2
}
