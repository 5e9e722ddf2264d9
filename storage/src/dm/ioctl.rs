//! The one request of device-mapper (linux/dm-ioctl.h), and those to block devices that have no wrapper. All that is
//! unsafe here is a call whose argument is a buffer of ours.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

/// `sizeof(struct dm_ioctl)`.
pub(super) const HEAD: usize = 312;
/// `_IOWR(0xfd, 0, struct dm_ioctl)`.
const BASE: u32 = 0xc138_fd00;
// linux/fs.h.
const BLKDISCARD: libc::Ioctl = 0x1277;
/// `_IOWR('X', 121, struct fstrim_range)`.
const FITRIM: libc::Ioctl = 0xc018_5879_u32 as libc::Ioctl;
// xfs_fs.h: `_IOR('X', 100, struct xfs_fsop_geom_v1)` and `_IOW('X', 110, struct xfs_growfs_data)`.
const XFS_IOC_FSGEOMETRY_V1: libc::Ioctl = 0x8070_5864_u32 as libc::Ioctl;
const XFS_IOC_FSGROWFSDATA: libc::Ioctl = 0x4010_586e;

fn result(done: libc::c_int) -> Result<(), Errno> {
    if done >= 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
    }
}

/// Sends command `number` with `buffer`, of which the kernel reads and writes as much as its head says (`data_size`).
pub(super) fn call(control: &File, number: u8, buffer: &mut [u8]) -> Result<(), Errno> {
    let said = buffer.get(12..16).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
    if buffer.len() < HEAD || said.and_then(|said| usize::try_from(said).ok()) != Some(buffer.len()) {
        return Err(Errno::INVAL);
    }
    #[allow(
        clippy::cast_lossless,
        clippy::cast_possible_wrap,
        reason = "what it is depends on the C library"
    )]
    let request = (BASE | u32::from(number)) as libc::Ioctl;
    // SAFETY: the kernel touches `data_size` bytes at the address, which was just compared with the buffer's length.
    result(unsafe { libc::ioctl(control.as_raw_fd(), request, buffer.as_mut_ptr()) })
}

/// Discards `length` bytes of a block device from its beginning on. What was there is lost.
pub(crate) fn discard(device: &File, length: u64) -> Result<(), Errno> {
    let range = [0_u64, length];
    // SAFETY: the argument points to the two numbers that the request reads.
    result(unsafe { libc::ioctl(device.as_raw_fd(), BLKDISCARD, range.as_ptr()) })
}

/// Discards what the mounted filesystem of `root` does not use.
pub(crate) fn trim(root: impl AsFd) -> Result<(), Errno> {
    let mut range = [0_u64, u64::MAX, 0];
    // SAFETY: the argument points to the three numbers that the request reads and writes.
    result(unsafe { libc::ioctl(root.as_fd().as_raw_fd(), FITRIM, range.as_mut_ptr()) })
}

/// Makes the mounted XFS of `root` at least `bytes` large. One that is so large already is left as it is.
pub(crate) fn grow_xfs(root: impl AsFd, bytes: u64) -> Result<(), Errno> {
    let fd = root.as_fd().as_raw_fd();
    let mut geometry = [0_u64; 14];
    // SAFETY: the argument points to as many bytes (112) as the request writes.
    result(unsafe { libc::ioctl(fd, XFS_IOC_FSGEOMETRY_V1, geometry.as_mut_ptr()) })?;
    // Pairs of 32 bits: block size and realtime extent come first, inode size and the share of inodes fourth; the number
    // of data blocks is the fifth 64 bits.
    let half = |number: u64, at: usize| {
        let bytes = number.to_ne_bytes();
        u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    };
    let (block, share) = (half(geometry[0], 0), half(geometry[3], 4));
    let blocks = bytes / u64::from(block.max(512));
    if blocks <= geometry[4] {
        return Ok(());
    }
    let wanted = [blocks, u64::from_ne_bytes(pair(share))];
    // SAFETY: the argument points to as many bytes (16) as the request reads.
    result(unsafe { libc::ioctl(fd, XFS_IOC_FSGROWFSDATA, wanted.as_ptr()) })
}

/// A 32-bit field and the padding after it.
fn pair(first: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes
}
