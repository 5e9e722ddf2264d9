//! An ext4 of a fixed size in a sparse file, on any filesystem: what keeps a volume or a snapshot within its bounds.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::Errno;

use crate::driver::overlay::reopen;
use crate::loopdev::{self, Device};
use crate::mount::Mount;
use crate::mount::detached::{self, MountError};

/// mkfs.ext4 makes no journal in less, and takes half of this for it.
pub(crate) const LEAST: u64 = 8 << 20;
/// Above this, mke2fs makes journals that are larger than a container has use for (mke2fs(8), `-J`), and they take
/// real room.
const LARGE: u64 = 16 << 30;
/// Files are as many of these as hold what was asked for.
pub(crate) const BLOCK: u64 = 4096;
/// How long a device may stay mounted after we let go of it.
const FREE_TRIES: u32 = 50;
const FREE_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);
const E2FSPROGS: &str = "e2fsprogs";

/// Why there is no filesystem, or not as large as it should be. Sizes are in bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Ext4Error {
    /// The file cannot be that long.
    #[error("{want} bytes are too many: the filesystem of {} holds {most} at most", at.display())]
    TooLarge {
        /// What was asked for.
        want: u64,
        /// The most that there can be.
        most: u64,
        /// The file.
        at: PathBuf,
    },
    /// It is mounted, and cannot be made larger while it is.
    #[error("{} is in use, and growing it meanwhile needs CAP_SYS_RESOURCE; grant it, or grow when nothing uses it", .0.display())]
    InUse(PathBuf),
    /// A program is not installed.
    #[error("{program} is not installed; install the package {package}")]
    NoProgram {
        /// The program.
        program: &'static str,
        /// The package that has it.
        package: &'static str,
    },
    /// A program did not do what it should.
    #[error("{program} failed on {}: {output}", path.display())]
    Program {
        /// The program.
        program: &'static str,
        /// What it worked on.
        path: PathBuf,
        /// The end of what it said.
        output: String,
    },
    /// It cannot be mounted.
    #[error("cannot mount the filesystem in {}", path.display())]
    Mount {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: MountError,
    },
    /// The machine said no.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was to be done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Ext4Error {
    fn io<E: Into<io::Error>>(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source: source.into() }
    }
}

/// What is mounted from an image: the root, by a descriptor that can be read from and synced, and what keeps it.
#[derive(Debug)]
pub(crate) struct Mounted {
    pub(crate) root: OwnedFd,
    pub(crate) device: Device,
}

/// Gives the file a length that holds `bytes`; says which.
fn stretch(file: &File, path: &Path, bytes: u64) -> Result<u64, Ext4Error> {
    let length = length(bytes);
    match rustix::fs::ftruncate(file, length) {
        Ok(()) => Ok(length),
        // Longer than a file can be there.
        Err(Errno::FBIG | Errno::INVAL) => {
            Err(Ext4Error::TooLarge { want: bytes, most: room(path)?, at: path.to_owned() })
        }
        Err(error) => Err(Ext4Error::io("enlarge", path)(error)),
    }
}

/// The length of the file of so many bytes.
pub(crate) fn length(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX)
}

/// Whether a filesystem of so many bytes can be in the file at `path`, when all else there is removed.
pub(crate) fn fits(path: &Path, bytes: u64) -> Result<(), Ext4Error> {
    let most = room(path)?;
    if bytes > most { Err(Ext4Error::TooLarge { want: bytes, most, at: path.to_owned() }) } else { Ok(()) }
}

/// All bytes of the filesystem that the file is on.
fn room(path: &Path) -> Result<u64, Ext4Error> {
    let dir = path.parent().unwrap_or(path);
    let stat = rustix::fs::statvfs(dir).map_err(Ext4Error::io("measure", dir))?;
    Ok(stat.f_blocks.saturating_mul(stat.f_frsize))
}

/// Whether the programs and devices are there that all this needs.
pub(crate) fn works() -> bool {
    Path::new("/dev/loop-control").exists()
        && ["/usr/sbin", "/sbin"].iter().any(|dir| Path::new(dir).join("mkfs.ext4").exists())
}

/// Whether the filesystem is as large as its file, from its superblock (kernel documentation,
/// filesystems/ext4/super.rst). It may say that it is not while it was just made so.
pub(crate) fn is_filled_out(path: &Path) -> Result<bool, Ext4Error> {
    use std::os::unix::fs::FileExt;
    let file = File::open(path).map_err(Ext4Error::io("open", path))?;
    let length = file.metadata().map_err(Ext4Error::io("look at", path))?.len();
    let number = |at: u64| -> Result<u64, Ext4Error> {
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, 1024 + at).map_err(Ext4Error::io("read", path))?;
        Ok(u64::from(u32::from_le_bytes(bytes)))
    };
    // s_blocks_count_lo and s_blocks_count_hi.
    let blocks = number(0x4)? | number(0x150)? << 32;
    Ok(blocks.saturating_mul(BLOCK) == length)
}

/// Makes the file, with nothing in it yet.
pub(crate) fn create(path: &Path, bytes: u64) -> Result<File, Ext4Error> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(Ext4Error::io("make", path))?;
    stretch(&file, path, bytes)?;
    Ok(file)
}

/// Formats it in full: nothing is left for the kernel to do later, when it would count as the container's.
pub(crate) fn format(path: &Path, bytes: u64) -> Result<(), Ext4Error> {
    let mut command = program("mkfs.ext4");
    command.args(["-q", "-F", "-m", "0", "-b", "4096", "-e", "remount-ro"]);
    command.args(["-E", "lazy_itable_init=0,lazy_journal_init=0"]);
    if bytes > LARGE {
        command.args(["-J", "size=128"]);
    }
    run("mkfs.ext4", command, path, &[0])
}

/// A device for the image, which the caller holds the lock of.
pub(crate) fn attach(path: &Path) -> Result<Device, Ext4Error> {
    loopdev::attach(path).map_err(Ext4Error::io("attach a loop device to", path))
}

/// How the filesystem on `device` is mounted. Room that is freed in it goes back to the filesystem below.
pub(crate) fn mount(device: &Device) -> Mount {
    Mount::Block {
        device: device.path.clone(),
        fstype: "ext4".to_owned(),
        options: vec!["discard".to_owned()],
    }
}

/// Mounts it, for us alone, or once more.
pub(crate) fn open(path: &Path, device: Device) -> Result<Mounted, Ext4Error> {
    let tree = detached::open(&mount(&device))
        .map_err(|source| Ext4Error::Mount { path: path.to_owned(), source })?;
    let root = reopen(&tree).map_err(|error| Ext4Error::io("open", path)(io::Error::other(error)))?;
    Ok(Mounted { root, device })
}

/// Makes the file longer, unless it is; says how long it is then. Done again after a crash, this and
/// [`fill_out`] go on from where they were.
pub(crate) fn lengthen(path: &Path, bytes: u64) -> Result<u64, Ext4Error> {
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(Ext4Error::io("open", path))?;
    let there = file.metadata().map_err(Ext4Error::io("look at", path))?.len();
    let length = if there < bytes { stretch(&file, path, bytes)? } else { there };
    file.sync_all().map_err(Ext4Error::io("sync", path))?;
    Ok(length)
}

/// Makes the filesystem as large as its file, in place, mounted or not. The caller holds the lock of the device.
pub(crate) fn fill_out(path: &Path, length: u64) -> Result<(), Ext4Error> {
    let device = attach(path)?;
    loopdev::take_size(&device).map_err(Ext4Error::io("enlarge the loop device of", path))?;
    let mounted = open(path, device)?;
    let size = rustix::fs::fstatvfs(&mounted.root).map_err(Ext4Error::io("measure", path))?;
    match loopdev::resize(&mounted.root, length / size.f_frsize.max(1)) {
        Ok(()) => rustix::fs::syncfs(&mounted.root).map_err(Ext4Error::io("sync", path)),
        // A mounted ext4 is grown only with CAP_SYS_RESOURCE (fs/ext4/resize.c, ext4_resize_begin).
        Err(Errno::PERM) => {
            let Mounted { root, device } = mounted;
            drop(root);
            fill_out_unmounted(path, &device)
        }
        Err(error) => Err(Ext4Error::io("enlarge the filesystem in", path)(error)),
    }
}

/// Makes a file that [`lengthen`] has made longer, and whose filesystem could not follow because it is in use, as long as the
/// filesystem is.
pub(crate) fn take_back(path: &Path, length: u64) -> Result<(), Ext4Error> {
    let file = OpenOptions::new().write(true).open(path).map_err(Ext4Error::io("open", path))?;
    file.set_len(length).map_err(Ext4Error::io("shorten", path))?;
    let device = attach(path)?;
    loopdev::take_size(&device).map_err(Ext4Error::io("shorten the loop device of", path))
}

/// Both programs open the device for themselves alone, so neither touches one that is mounted anywhere.
fn fill_out_unmounted(path: &Path, device: &Device) -> Result<(), Ext4Error> {
    let mut left = FREE_TRIES;
    loop {
        let mut options = OpenOptions::new();
        match options.read(true).custom_flags(libc::O_EXCL).open(&device.path) {
            Ok(_free) => break,
            Err(error) if error.kind() != ErrorKind::ResourceBusy => {
                return Err(Ext4Error::io("open", &device.path)(error));
            }
            Err(_) if left == 0 => return Err(Ext4Error::InUse(path.to_owned())),
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
    device.file.sync_all().map_err(Ext4Error::io("sync", &device.path))
}

/// A program of e2fsprogs. They are among the superuser's, which not everybody has in `PATH`.
fn program(name: &str) -> Command {
    let place = ["/usr/sbin", "/sbin"].iter().map(|dir| Path::new(dir).join(name)).find(|path| path.exists());
    let mut command = Command::new(place.unwrap_or_else(|| name.into()));
    command.stdin(Stdio::null()).env("LC_ALL", "C");
    command
}

fn run(name: &'static str, mut command: Command, path: &Path, good: &[i32]) -> Result<(), Ext4Error> {
    let out = match command.arg(path).output() {
        Ok(out) => out,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(Ext4Error::NoProgram { program: name, package: E2FSPROGS });
        }
        Err(error) => return Err(Ext4Error::io("run a program on", path)(error)),
    };
    if out.status.code().is_some_and(|code| good.contains(&code)) {
        return Ok(());
    }
    let said = [out.stderr, out.stdout].concat();
    let lines: Vec<_> = said.split(|b| *b == b'\n').filter(|line| !line.trim_ascii().is_empty()).collect();
    let end = &lines[lines.len().saturating_sub(3)..];
    let output = String::from_utf8_lossy(&end.join(&b"; "[..])).into_owned();
    Err(Ext4Error::Program { program: name, path: path.to_owned(), output })
}
