//! A volume with a capacity: an ext4 in a sparse file, on any filesystem.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::io::Errno;

use super::device::{self, Device};
use super::error::{check_capacity, room};
use super::{VolumeError, VolumeKey};
use crate::driver::overlay::reopen;
use crate::failpoint::failpoint;
use crate::mount::{Mount, detached};

/// The file in the volume's directory.
pub(super) const NAME: &str = "image";
/// mkfs.ext4 makes no journal in less, and takes half of this for it.
const LEAST: u64 = 8 << 20;
/// Above this, mke2fs makes journals that are larger than a container's volume has use for (mke2fs(8), `-J`), and they
/// take real room.
const LARGE: u64 = 16 << 30;
const BLOCK: u64 = 4096;
/// How long a device may stay mounted after we let go of it.
const FREE_TRIES: u32 = 50;
const FREE_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);
const E2FSPROGS: &str = "e2fsprogs";

/// What is mounted from an image: the root, by a descriptor that can be read from and synced, and what keeps it.
#[derive(Debug)]
pub(super) struct Mounted {
    pub(super) root: OwnedFd,
    pub(super) device: Device,
}

/// Whether a filesystem of that many bytes can be, in a file in `dir`.
pub(super) fn check(key: &VolumeKey, capacity: u64, dir: &Path) -> Result<(), VolumeError> {
    check_capacity(key, capacity, LEAST, dir)
}

/// Gives the file a length that holds `capacity`.
fn stretch(key: &VolumeKey, file: &std::fs::File, path: &Path, capacity: u64) -> Result<u64, VolumeError> {
    let length = capacity.next_multiple_of(BLOCK);
    match rustix::fs::ftruncate(file, length) {
        Ok(()) => Ok(length),
        // Longer than a file can be there.
        Err(Errno::FBIG | Errno::INVAL) => {
            let (most, _) = room(path)?;
            Err(VolumeError::TooLarge { key: key.clone(), want: capacity, most, at: path.to_owned() })
        }
        Err(error) => Err(VolumeError::io("enlarge", path)(error)),
    }
}

/// Makes the image in `dir`, which is not the volume's own yet. Formatted in full: nothing is left for the kernel to do
/// later, when it would count as the container's.
pub(super) fn make(key: &VolumeKey, dir: &Path, capacity: u64) -> Result<(), VolumeError> {
    let path = dir.join(NAME);
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(VolumeError::io("make", &path))?;
    stretch(key, &file, &path, capacity)?;
    failpoint!("volume.image_made");
    let mut command = program("mkfs.ext4");
    command.args(["-q", "-F", "-m", "0", "-b", "4096", "-e", "remount-ro"]);
    command.args(["-E", "lazy_itable_init=0,lazy_journal_init=0"]);
    if capacity > LARGE {
        command.args(["-J", "size=128"]);
    }
    run("mkfs.ext4", command, &path, &[0])?;
    file.sync_all().map_err(VolumeError::io("sync", &path))?;
    failpoint!("volume.image_formatted");
    Ok(())
}

/// A device for the image, which the caller holds the lock of.
pub(super) fn attach(path: &Path) -> Result<Device, VolumeError> {
    device::attach(path).map_err(VolumeError::io("attach a loop device to", path))
}

/// How the filesystem on `device` is mounted. Room that is freed in it goes back to the filesystem below.
pub(super) fn mount(device: &Device) -> Mount {
    Mount::Block {
        device: device.path.clone(),
        fstype: "ext4".to_owned(),
        options: vec!["discard".to_owned()],
    }
}

/// Mounts it, for us alone, or once more.
pub(super) fn open(key: &VolumeKey, path: &Path, device: Device) -> Result<Mounted, VolumeError> {
    let tree =
        detached::open(&mount(&device)).map_err(|source| VolumeError::Mount { key: key.clone(), source })?;
    let root = reopen(&tree).map_err(|error| VolumeError::io("open", path)(std::io::Error::other(error)))?;
    Ok(Mounted { root, device })
}

/// Makes the filesystem larger, in place. Done again after a crash, it goes on from where it was.
pub(super) fn grow(key: &VolumeKey, dir: &Path, capacity: u64) -> Result<(), VolumeError> {
    check(key, capacity, dir)?;
    let path = dir.join(NAME);
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(VolumeError::io("open", &path))?;
    let there = file.metadata().map_err(VolumeError::io("look at", &path))?.len();
    let length = if there < capacity { stretch(key, &file, &path, capacity)? } else { there };
    file.sync_all().map_err(VolumeError::io("sync", &path))?;
    failpoint!("volume.grow_stretched");
    let device = attach(&path)?;
    device::take_size(&device).map_err(VolumeError::io("enlarge the loop device of", &path))?;
    let mounted = open(key, &path, device)?;
    let size = rustix::fs::fstatvfs(&mounted.root).map_err(VolumeError::io("measure", &path))?;
    match device::resize(&mounted.root, length / size.f_frsize.max(1)) {
        Ok(()) => {
            rustix::fs::syncfs(&mounted.root).map_err(VolumeError::io("sync", &path))?;
        }
        // A mounted ext4 is grown only with CAP_SYS_RESOURCE (fs/ext4/resize.c, ext4_resize_begin).
        Err(Errno::PERM) => {
            let Mounted { root, device } = mounted;
            drop(root);
            grow_unmounted(key, &device)?;
        }
        Err(error) => return Err(VolumeError::io("enlarge the filesystem in", path)(error)),
    }
    failpoint!("volume.grow_resized");
    Ok(())
}

/// Both programs open the device for themselves alone, so neither touches one that is mounted anywhere.
fn grow_unmounted(key: &VolumeKey, device: &Device) -> Result<(), VolumeError> {
    let mut left = FREE_TRIES;
    loop {
        let mut options = std::fs::OpenOptions::new();
        match options.read(true).custom_flags(libc::O_EXCL).open(&device.path) {
            Ok(_free) => break,
            Err(error) if error.kind() != ErrorKind::ResourceBusy => {
                return Err(VolumeError::io("open", &device.path)(error));
            }
            Err(_) if left == 0 => return Err(VolumeError::CannotGrowInUse(key.clone())),
            // Our own mount lasts a moment longer where another thread starts a process: until that executes its program, it
            // has a copy of each descriptor.
            Err(_) => std::thread::sleep(FREE_PAUSE),
        }
        left -= 1;
    }
    let mut check = program("e2fsck");
    check.args(["-f", "-p"]);
    // 1: errors were corrected.
    run("e2fsck", check, &device.path, &[0, 1])?;
    run("resize2fs", program("resize2fs"), &device.path, &[0])?;
    device.file.sync_all().map_err(VolumeError::io("sync", &device.path))
}

/// A program of e2fsprogs. They are among the superuser's, which not everybody has in `PATH`.
fn program(name: &str) -> Command {
    let place = ["/usr/sbin", "/sbin"].iter().map(|dir| Path::new(dir).join(name)).find(|path| path.exists());
    let mut command = Command::new(place.unwrap_or_else(|| name.into()));
    command.stdin(Stdio::null()).env("LC_ALL", "C");
    command
}

fn run(name: &'static str, mut command: Command, path: &Path, good: &[i32]) -> Result<(), VolumeError> {
    let out = match command.arg(path).output() {
        Ok(out) => out,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(VolumeError::NoProgram { program: name, package: E2FSPROGS });
        }
        Err(error) => return Err(VolumeError::io("run a program on", path)(error)),
    };
    if out.status.code().is_some_and(|code| good.contains(&code)) {
        return Ok(());
    }
    let said = [out.stderr, out.stdout].concat();
    let lines: Vec<_> = said.split(|b| *b == b'\n').filter(|line| !line.trim_ascii().is_empty()).collect();
    let end = &lines[lines.len().saturating_sub(3)..];
    let output = String::from_utf8_lossy(&end.join(&b"; "[..])).into_owned();
    Err(VolumeError::Program { program: name, path: path.to_owned(), output })
}
