//! The requests of btrfs that have no wrapper (linux/btrfs.h, linux/btrfs_tree.h), each on a descriptor. What it has a
//! program for is here too: no program is run.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd};

use libc::{_IOR, _IOW, _IOWR};
use rustix::io::Errno;

const MAGIC: u32 = 0x94;
const NAME_MAX: usize = 4039;
const SUBVOL_RDONLY: u64 = 1 << 1;
const SUBVOL_SPEC_BY_ID: u64 = 1 << 4;
pub(super) const LIMIT_MAX_EXCL: u64 = 1 << 1;
/// Takes a limit away (`BTRFS_QGROUP_LIMIT_*`, fs/btrfs/qgroup.c, `CLEAR_VALUE`).
const NO_LIMIT: u64 = u64::MAX;
/// The inode of every subvolume's root.
pub(super) const FIRST_INODE: u64 = 256;

const SUBVOL_CREATE_V2: libc::Ioctl = _IOW::<VolumeArgs>(MAGIC, 24);
const SNAP_CREATE_V2: libc::Ioctl = _IOW::<VolumeArgs>(MAGIC, 23);
const SNAP_DESTROY_V2: libc::Ioctl = _IOW::<VolumeArgs>(MAGIC, 63);
const SUBVOL_GETFLAGS: libc::Ioctl = _IOR::<u64>(MAGIC, 25);
const SUBVOL_SETFLAGS: libc::Ioctl = _IOW::<u64>(MAGIC, 26);
const INO_LOOKUP: libc::Ioctl = _IOWR::<LookupArgs>(MAGIC, 18);
const TREE_SEARCH_V2: libc::Ioctl = _IOWR::<SearchArgs>(MAGIC, 17);
const QGROUP_CREATE: libc::Ioctl = _IOW::<QgroupArgs>(MAGIC, 42);
const QGROUP_LIMIT: libc::Ioctl = _IOR::<LimitArgs>(MAGIC, 43);

/// `struct btrfs_ioctl_vol_args_v2`.
#[repr(C)]
struct VolumeArgs {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    /// Or the id of a subvolume.
    name: [u8; NAME_MAX + 1],
}

/// `struct btrfs_ioctl_ino_lookup_args`.
#[repr(C)]
struct LookupArgs {
    tree: u64,
    object: u64,
    name: [u8; 4080],
}

/// `struct btrfs_ioctl_qgroup_create_args`.
#[repr(C)]
struct QgroupArgs {
    create: u64,
    qgroup: u64,
}

/// `struct btrfs_ioctl_qgroup_limit_args`.
#[repr(C)]
struct LimitArgs {
    qgroup: u64,
    flags: u64,
    referenced: u64,
    exclusive: u64,
    reserved: [u64; 2],
}

/// `struct btrfs_ioctl_search_args_v2` without its buffer, which follows it.
#[repr(C)]
#[derive(Clone, Copy)]
struct SearchArgs {
    key: Key,
    size: u64,
}

/// `struct btrfs_ioctl_search_key`: all items from (object, kind, offset) `min` to `max` whose block was written since
/// `min_transid`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Key {
    pub(super) tree: u64,
    pub(super) min_object: u64,
    pub(super) max_object: u64,
    pub(super) min_offset: u64,
    pub(super) max_offset: u64,
    pub(super) min_transid: u64,
    pub(super) max_transid: u64,
    pub(super) min_kind: u32,
    pub(super) max_kind: u32,
    /// How many at most, then how many there are.
    pub(super) items: u32,
    pub(super) unused: u32,
    pub(super) more: [u64; 4],
}

const _: () = assert!(size_of::<VolumeArgs>() == 4096 && size_of::<LookupArgs>() == 4096);
const _: () = assert!(size_of::<QgroupArgs>() == 16 && size_of::<LimitArgs>() == 48);
const _: () = assert!(size_of::<Key>() == 104 && size_of::<SearchArgs>() == 112);

fn done(result: libc::c_int) -> Result<(), Errno> {
    if result >= 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

fn volume(name: &CStr) -> Result<Box<VolumeArgs>, Errno> {
    let mut args =
        Box::new(VolumeArgs { fd: 0, transid: 0, flags: 0, unused: [0; 4], name: [0; NAME_MAX + 1] });
    let bytes = name.to_bytes();
    args.name
        .get_mut(..bytes.len())
        .filter(|_| bytes.len() <= NAME_MAX)
        .ok_or(Errno::NAMETOOLONG)?
        .copy_from_slice(bytes);
    Ok(args)
}

fn with_volume(on: &impl AsFd, request: libc::Ioctl, args: &VolumeArgs) -> Result<(), Errno> {
    // SAFETY: the descriptor lives as long as the borrow, and the argument points to a structure of the layout and size that
    // these requests read.
    done(unsafe { libc::ioctl(on.as_fd().as_raw_fd(), request, &raw const *args) })
}

/// Makes an empty subvolume in a directory.
pub(super) fn create(dir: &impl AsFd, name: &CStr) -> Result<(), Errno> {
    with_volume(dir, SUBVOL_CREATE_V2, &*volume(name)?)
}

/// Makes a snapshot of the subvolume `of` in a directory. The kernel commits its transaction for it.
pub(super) fn snapshot(of: &impl AsFd, dir: &impl AsFd, name: &CStr) -> Result<(), Errno> {
    let mut args = volume(name)?;
    args.fd = of.as_fd().as_raw_fd().into();
    with_volume(dir, SNAP_CREATE_V2, &args)
}

/// Removes a subvolume that has none in it. Its space is freed later, by the kernel.
pub(super) fn destroy(dir: &impl AsFd, name: &CStr) -> Result<(), Errno> {
    with_volume(dir, SNAP_DESTROY_V2, &*volume(name)?)
}

/// The same by its id, wherever it is in the filesystem of `any`.
pub(super) fn destroy_by_id(any: &impl AsFd, id: u64) -> Result<(), Errno> {
    let mut args = volume(c"")?;
    args.flags = SUBVOL_SPEC_BY_ID;
    args.name[..8].copy_from_slice(&id.to_ne_bytes());
    with_volume(any, SNAP_DESTROY_V2, &args)
}

/// The id of the subvolume that a file or directory is in.
pub(super) fn id(file: &impl AsFd) -> Result<u64, Errno> {
    let mut args = Box::new(LookupArgs { tree: 0, object: FIRST_INODE, name: [0; 4080] });
    // SAFETY: the descriptor lives as long as the borrow, and the argument points to a structure of the layout and size that the
    // request reads and writes.
    done(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), INO_LOOKUP, &raw mut *args) })?;
    Ok(args.tree)
}

/// Whether a subvolume can be changed, as a property of its own.
pub(super) fn is_read_only(root: &impl AsFd) -> Result<bool, Errno> {
    let mut flags = 0u64;
    // SAFETY: the descriptor lives as long as the borrow, and the argument points to a number of the size that the request writes.
    done(unsafe { libc::ioctl(root.as_fd().as_raw_fd(), SUBVOL_GETFLAGS, &raw mut flags) })?;
    Ok(flags & SUBVOL_RDONLY != 0)
}

/// Sets that property.
pub(super) fn set_read_only(root: &impl AsFd, readonly: bool) -> Result<(), Errno> {
    let flags = if readonly { SUBVOL_RDONLY } else { 0 };
    // SAFETY: the descriptor lives as long as the borrow, and the argument points to a number of the size that the request reads.
    done(unsafe { libc::ioctl(root.as_fd().as_raw_fd(), SUBVOL_SETFLAGS, &raw const flags) })
}

/// Limits what a subvolume has for itself alone, in bytes. `NOTCONN` where quotas are off.
pub(super) fn limit(any: &impl AsFd, qgroup: u64, bytes: Option<u64>) -> Result<(), Errno> {
    let exclusive = bytes.unwrap_or(NO_LIMIT);
    let args = LimitArgs { qgroup, flags: LIMIT_MAX_EXCL, referenced: 0, exclusive, reserved: [0; 2] };
    // SAFETY: the descriptor lives as long as the borrow, and the argument points to a structure of the layout and size that the
    // request reads.
    done(unsafe { libc::ioctl(any.as_fd().as_raw_fd(), QGROUP_LIMIT, &raw const args) })
}

/// Removes the accounts of a subvolume that is gone.
pub(super) fn remove_qgroup(any: &impl AsFd, qgroup: u64) -> Result<(), Errno> {
    let args = QgroupArgs { create: 0, qgroup };
    // SAFETY: the descriptor lives as long as the borrow, and the argument points to a structure of the layout and size that the
    // request reads.
    done(unsafe { libc::ioctl(any.as_fd().as_raw_fd(), QGROUP_CREATE, &raw const args) })
}

/// Room for what one search finds.
pub(super) struct Found {
    words: Vec<u64>,
}

const HEAD: usize = size_of::<SearchArgs>() / 8;
/// An item fits a block of the filesystem, which has 64 KiB at most.
const ROOM: usize = (64 << 10) / 8;

impl Found {
    pub(super) fn new() -> Self {
        Self { words: vec![0; HEAD + ROOM] }
    }

    /// Searches for what `key` says, and sets its `items` to how many there are in what is returned, one after the other with
    /// a header of 32 bytes each.
    pub(super) fn search(&mut self, any: &impl AsFd, key: &mut Key) -> Result<&[u8], Errno> {
        let args = SearchArgs { key: *key, size: (ROOM * 8) as u64 };
        let at = self.words.as_mut_ptr();
        // SAFETY: the buffer is aligned for the structure and larger than it; the descriptor lives as long as the borrow; the
        // request reads the structure, writes it, and at most as many bytes after it as its size says, which are there.
        let result = unsafe {
            at.cast::<SearchArgs>().write(args);
            libc::ioctl(any.as_fd().as_raw_fd(), TREE_SEARCH_V2, at)
        };
        done(result)?;
        // SAFETY: the structure was written above and by the kernel, and any bytes are a valid one.
        key.items = unsafe { at.cast::<SearchArgs>().read() }.key.items;
        // SAFETY: all of the buffer was initialised when it was made, and it is borrowed as long as the slice lives.
        Ok(unsafe { std::slice::from_raw_parts(at.add(HEAD).cast::<u8>(), ROOM * 8) })
    }
}
