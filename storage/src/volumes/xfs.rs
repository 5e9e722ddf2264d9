//! The requests to XFS that have no wrapper: the project of a directory (ioctl_xfs_fsgetxattr(2)) and a project's quota
//! (quotactl(2), `Q_X*`), by `quotactl_fd(2)`, which every kernel that this program runs on has (5.14 and later).

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

// linux/fs.h.
const FS_IOC_FSGETXATTR: libc::Ioctl = 0x801c_581f;
const FS_IOC_FSSETXATTR: libc::Ioctl = 0x401c_5820u32 as libc::Ioctl;
const XFLAG_PROJINHERIT: u32 = 0x200;
// linux/quota.h and linux/dqblk_xfs.h.
const PROJECTS: u32 = 2;
const Q_XGETQUOTA: u32 = (0x58 << 8) + 3;
const Q_XSETQLIM: u32 = (0x58 << 8) + 4;
const Q_XGETQSTATV: u32 = (0x58 << 8) + 8;
const DQUOT_VERSION: i8 = 1;
const FS_PROJ_QUOTA: i8 = 2;
/// Hard and soft limits of blocks and of inodes.
const LIMITS: u16 = 0b1111;
const STATV_VERSION: i8 = 1;
const PROJECT_ACCOUNTED: u16 = 1 << 4;
const PROJECT_ENFORCED: u16 = 1 << 5;
/// What limits and usage are counted in, whatever the filesystem's own blocks are.
pub(super) const BASIC_BLOCK: u64 = 512;

/// `struct fsxattr`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    reserved: [u8; 8],
}

/// `struct fs_disk_quota`.
#[repr(C)]
#[derive(Default)]
struct DiskQuota {
    version: i8,
    flags: i8,
    fields: u16,
    id: u32,
    blocks_hard: u64,
    blocks_soft: u64,
    inodes_hard: u64,
    inodes_soft: u64,
    blocks: u64,
    inodes: u64,
    timers: [i32; 2],
    warnings: [u16; 2],
    timers_high: [i8; 4],
    realtime: [u64; 3],
    realtime_timer: i32,
    realtime_warnings: [u16; 2],
    reserved: [u8; 8],
}

/// `struct fs_quota_statv`.
#[repr(C)]
#[derive(Default)]
struct State {
    version: i8,
    pad: u8,
    flags: u16,
    rest: [u32; 1],
    files: [[u64; 3]; 3],
    limits: [i32; 3],
    warnings: [u16; 4],
    pad2: u32,
    reserved: [u64; 7],
}

const _: () =
    assert!(size_of::<Attributes>() == 28 && size_of::<DiskQuota>() == 112 && size_of::<State>() == 160);

/// What a file or directory belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Project {
    /// 0 is none.
    pub(super) id: u32,
    /// What is made in the directory belongs to it too.
    pub(super) inherited: bool,
}

/// A project's quota, in bytes; 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Quota {
    pub(super) limit: u64,
    pub(super) bytes: u64,
    pub(super) inodes: u64,
}

fn done(result: i64) -> Result<(), Errno> {
    if result == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

fn attributes(file: &impl AsFd) -> Result<Attributes, Errno> {
    let mut attributes = Attributes::default();
    // SAFETY: the descriptor lives as long as the borrow, and the argument points to a structure of the layout and size that the
    // request writes.
    let result = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), FS_IOC_FSGETXATTR, &raw mut attributes) };
    done(result.into())?;
    Ok(attributes)
}

/// The project of an open file or directory.
pub(super) fn project(file: &impl AsFd) -> Result<Project, Errno> {
    let found = attributes(file)?;
    Ok(Project { id: found.project, inherited: found.flags & XFLAG_PROJINHERIT != 0 })
}

/// Changes the project of an open file or directory, not of what is in it.
pub(super) fn set_project(file: &impl AsFd, project: Project) -> Result<(), Errno> {
    let mut wanted = attributes(file)?;
    wanted.project = project.id;
    wanted.flags &= !XFLAG_PROJINHERIT;
    if project.inherited {
        wanted.flags |= XFLAG_PROJINHERIT;
    }
    // SAFETY: the descriptor lives as long as the borrow, and the argument points to a structure of the layout and size that the
    // request reads.
    let result = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), FS_IOC_FSSETXATTR, &raw const wanted) };
    done(result.into())
}

/// A request about the filesystem of `file`. `T` has to be what the request takes.
fn quotactl<T>(file: &impl AsFd, request: u32, id: u32, argument: &mut T) -> Result<(), Errno> {
    let command = request << 8 | PROJECTS;
    // SAFETY: the descriptor lives as long as the borrow; the callers, all in this file, give the structure of the layout and
    // size that their request reads or writes, and it is borrowed for us alone.
    let result = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            file.as_fd().as_raw_fd(),
            command,
            id,
            std::ptr::from_mut(argument),
        )
    };
    done(result)
}

/// Whether the filesystem counts what projects take, and keeps them from taking more than their limits.
pub(super) fn enforced(file: &impl AsFd) -> Result<bool, Errno> {
    let mut state = State { version: STATV_VERSION, ..State::default() };
    match quotactl(file, Q_XGETQSTATV, 0, &mut state) {
        Ok(()) => {
            let both = PROJECT_ACCOUNTED | PROJECT_ENFORCED;
            Ok(state.flags & both == both)
        }
        // No quota of any type is on, or the kernel has none at all.
        Err(Errno::NOSYS) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A project's quota on the filesystem of `file`.
pub(super) fn quota(file: &impl AsFd, project: u32) -> Result<Quota, Errno> {
    let mut found = DiskQuota::default();
    match quotactl(file, Q_XGETQUOTA, project, &mut found) {
        Ok(()) => Ok(Quota {
            limit: found.blocks_hard.saturating_mul(BASIC_BLOCK),
            bytes: found.blocks.saturating_mul(BASIC_BLOCK),
            inodes: found.inodes,
        }),
        // Nothing was ever counted for it, and no limit set.
        Err(Errno::NOENT) => Ok(Quota::default()),
        Err(error) => Err(error),
    }
}

/// Sets how many bytes a project may take, 0 for as many as there are, and takes every other limit away.
pub(super) fn set_limit(file: &impl AsFd, project: u32, bytes: u64) -> Result<(), Errno> {
    let mut wanted = DiskQuota {
        version: DQUOT_VERSION,
        flags: FS_PROJ_QUOTA,
        fields: LIMITS,
        id: project,
        blocks_hard: bytes.div_ceil(BASIC_BLOCK),
        ..DiskQuota::default()
    };
    quotactl(file, Q_XSETQLIM, project, &mut wanted)
}
