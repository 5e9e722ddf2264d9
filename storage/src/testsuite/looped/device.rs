//! Loop devices that are gone when nobody has them open (loop(4), `LO_FLAGS_AUTOCLEAR`).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;

/// `struct loop_config` of linux/loop.h; what has no name here stays zero.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    before_flags: [u32; 13],
    flags: u32,
    after_flags: [u8; 176],
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<Config>() == 304);

/// A device for `image`, which lasts as long as the file and what is mounted from it.
pub(super) fn attach(image: &Path, readonly: bool) -> io::Result<(File, PathBuf)> {
    let backing = OpenOptions::new().read(true).write(!readonly).open(image)?;
    let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
    loop {
        // SAFETY: this request takes no argument and returns a number.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = OpenOptions::new().read(true).write(!readonly).open(&path)?;
        let config = Config {
            fd: u32::try_from(backing.as_raw_fd()).map_err(io::Error::other)?,
            block_size: 0,
            before_flags: [0; 13],
            flags: AUTOCLEAR | if readonly { READ_ONLY } else { 0 },
            after_flags: [0; 176],
            reserved: [0; 8],
        };
        // SAFETY: the argument points to a structure of the layout and size that the request reads.
        let done = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
        if done == 0 {
            return Ok((device, path));
        }
        let error = io::Error::last_os_error();
        // Another was faster.
        if error.raw_os_error() != Some(libc::EBUSY) {
            return Err(error);
        }
    }
}
