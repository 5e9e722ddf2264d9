//! Loop devices (loop(4)): one for an image, whoever asks, gone when nobody has it open or mounted any more
//! (`LO_FLAGS_AUTOCLEAR`), so a crash leaves none. And the one request to ext4 that has no wrapper.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode};
use rustix::io::Errno;

// linux/loop.h.
const LOOP_SET_CAPACITY: libc::Ioctl = 0x4c07;
const LOOP_GET_STATUS64: libc::Ioctl = 0x4c05;
const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;
/// linux/ext4.h, `_IOW('f', 16, __u64)`.
const EXT4_IOC_RESIZE_FS: libc::Ioctl = 0x4008_6610;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    names: [u8; 128],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<Info>() == 232 && size_of::<Config>() == 304);

const NO_INFO: Info = Info {
    device: 0,
    inode: 0,
    rdevice: 0,
    offset: 0,
    size_limit: 0,
    number: 0,
    encrypt_type: 0,
    encrypt_key_size: 0,
    flags: 0,
    names: [0; 128],
    encrypt_key: [0; 32],
    init: [0; 2],
};

/// A device that stays as long as this is open, or something is mounted from it.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
}

/// The device of `image`, or a new one. The caller sees to it that nobody else asks for the same image meanwhile.
pub(crate) fn attach(image: &Path) -> io::Result<Device> {
    let backing = OpenOptions::new().read(true).write(true).open(image)?;
    match find(&backing)? {
        Some(device) => Ok(device),
        None => configure(&backing, false),
    }
}

/// A new device for `image`, whoever else has one.
#[cfg(feature = "testing")]
pub(crate) fn attach_new(image: &Path, readonly: bool) -> io::Result<Device> {
    let backing = OpenOptions::new().read(true).write(!readonly).open(image)?;
    configure(&backing, readonly)
}

/// The device that has `backing`, if there is one.
fn find(backing: &File) -> io::Result<Option<Device>> {
    let meta = backing.metadata()?;
    for entry in std::fs::read_dir("/sys/block")? {
        let entry = entry?;
        let name = entry.file_name();
        let is_loop = name.to_str().is_some_and(|name| name.starts_with("loop"));
        // Only devices that have a file, so that not every one is opened.
        if !is_loop || !entry.path().join("loop").exists() {
            continue;
        }
        let path = Path::new("/dev").join(&name);
        let Ok(file) = OpenOptions::new().read(true).write(true).open(&path) else { continue };
        // Open as it is now, it is cleared by nobody; what it says now holds.
        let Some(info) = status(&file)? else { continue };
        if info.inode != meta.ino() || numbers(info.device) != numbers(meta.dev()) {
            continue;
        }
        if info.offset != 0 || info.size_limit != 0 || info.flags & READ_ONLY != 0 {
            return Err(io::Error::other(format!(
                "{} shows the image in part or read-only; detach it first",
                path.display()
            )));
        }
        return Ok(Some(Device { file, path }));
    }
    Ok(None)
}

/// The same for the kernel's and for the library's encoding.
fn numbers(device: u64) -> (u32, u32) {
    (rustix::fs::major(device), rustix::fs::minor(device))
}

/// `None` when nothing is attached.
fn status(device: &File) -> io::Result<Option<Info>> {
    let mut info = NO_INFO;
    // SAFETY: the argument points to a structure of the layout and size that the request writes.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64, &raw mut info) };
    if done == 0 {
        return Ok(Some(info));
    }
    match Errno::from_io_error(&io::Error::last_os_error()) {
        Some(Errno::NXIO) => Ok(None),
        error => Err(error.unwrap_or(Errno::IO).into()),
    }
}

fn configure(backing: &File, readonly: bool) -> io::Result<Device> {
    let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
    let mut flags = AUTOCLEAR | DIRECT_IO | if readonly { READ_ONLY } else { 0 };
    loop {
        // SAFETY: this request takes no argument and returns a number.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
        let number = u32::try_from(number).map_err(|_| io::Error::last_os_error())?;
        let (file, path) = open(number)?;
        let fd = u32::try_from(backing.as_raw_fd()).map_err(io::Error::other)?;
        let config = Config { fd, block_size: 0, info: Info { flags, ..NO_INFO }, reserved: [0; 8] };
        // SAFETY: the argument points to a structure of the layout and size that the request reads.
        let done = unsafe { libc::ioctl(file.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
        if done == 0 {
            return Ok(Device { file, path });
        }
        let error = io::Error::last_os_error();
        match Errno::from_io_error(&error) {
            // Another was faster.
            Some(Errno::BUSY) => {}
            // Not every filesystem does it, and not every kernel says so by leaving it away.
            Some(Errno::INVAL) if flags & DIRECT_IO != 0 => flags &= !DIRECT_IO,
            _ => return Err(error),
        }
    }
}

/// Opens device `number`; where nobody makes nodes (in a container), it is made.
fn open(number: u32) -> io::Result<(File, PathBuf)> {
    let path = PathBuf::from(format!("/dev/loop{number}"));
    let open = || OpenOptions::new().read(true).write(true).open(&path);
    let file = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = std::fs::read_to_string(format!("/sys/block/loop{number}/dev"))?;
            let device = text
                .trim()
                .split_once(':')
                .and_then(|(major, minor)| {
                    Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
                })
                .ok_or_else(|| io::Error::other("the kernel does not tell the number of a loop device"))?;
            match rustix::fs::mknodat(CWD, &path, FileType::BlockDevice, Mode::RUSR | Mode::WUSR, device) {
                Ok(()) | Err(Errno::EXIST) => open()?,
                Err(error) => return Err(error.into()),
            }
        }
        other => other?,
    };
    Ok((file, path))
}

/// Makes the device as large as its file is now.
pub(crate) fn take_size(device: &Device) -> io::Result<()> {
    // SAFETY: this request takes no argument.
    let done = unsafe { libc::ioctl(device.file.as_raw_fd(), LOOP_SET_CAPACITY, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the mounted ext4 that `root` is a directory of `blocks` large, in its own blocks.
pub(crate) fn resize(root: impl AsFd, blocks: u64) -> Result<(), Errno> {
    // SAFETY: the descriptor lives as long as the borrow, and the argument points to the number that the request reads.
    let done = unsafe { libc::ioctl(root.as_fd().as_raw_fd(), EXT4_IOC_RESIZE_FS, &raw const blocks) };
    if done == 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
    }
}
