//! Where a cut is looked at: a disk that is as the power cut has left it, and that is thrown away after the look.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use serde::{Deserialize, Serialize};

use crate::{dm, process};

/// The device of the snapshot.
const SNAPSHOT: &str = "cut";
/// What a filesystem that is still busy may take to be let go: deleting threads, loop devices.
const PATIENCE: Duration = Duration::from_secs(20);
/// What a run may take of this machine's memory, in bytes: the copy of the recorded disk, and once more for the look.
const MEMORY: &std::ffi::CStr = c"size=4294967296,mode=0700";

/// Where the replay is done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Ground {
    /// In the machine of the work. The copy is a disk of the recorded one's size, all zeros; the look is at a snapshot of it, and
    /// what it writes goes to `scratch`.
    Machine {
        /// The copy.
        copy: PathBuf,
        /// A disk.
        scratch: PathBuf,
    },
    /// On any machine with loop devices: the copy is a file in memory, and the look is at a copy of that. What is
    /// mounted goes with the process, which is to have mounts of its own (unshare(1)).
    Memory {
        /// An empty folder.
        folder: PathBuf,
        /// Bytes of the recorded disk.
        size: u64,
    },
}

impl Ground {
    /// Makes it ready; gives the copy to replay on.
    pub(super) fn open(&self) -> Result<File> {
        match self {
            Self::Machine { copy, .. } => {
                File::options().read(true).write(true).open(copy).context("open the copy")
            }
            Self::Memory { folder, size } => {
                rustix::mount::mount("powercut", folder, "tmpfs", MountFlags::empty(), MEMORY)
                    .context("mount a filesystem in memory")?;
                let mut options = File::options();
                let copy = options.read(true).write(true).create_new(true).mode(0o600);
                let copy = copy.open(folder.join("copy")).context("make the copy")?;
                copy.set_len(*size)?;
                Ok(copy)
            }
        }
    }

    /// Mounts what the copy is now, has it looked at, and lets it go. Gives what is wrong.
    pub(super) fn look(
        &self,
        copy: &File,
        filesystem: &str,
        mount: &Path,
        look: impl FnOnce() -> Result<Option<String>>,
    ) -> Result<Option<String>> {
        let device = match self {
            Self::Machine { copy: path, scratch } => {
                // The snapshot reads the disk past the cache of this file.
                copy.sync_data()?;
                let sectors = seek(copy, SeekFrom::End(0))? / 512;
                let table = format!("{} {} N 8", path.display(), scratch.display());
                dm::create(SNAPSHOT, sectors, "snapshot", &table)?
            }
            Self::Memory { folder, .. } => {
                let file = folder.join("look");
                copy_to(copy, &file).context("copy the disk")?;
                process::run("losetup", ["--find".as_ref(), "--show".as_ref(), file.as_os_str()])?
                    .trim()
                    .into()
            }
        };
        let mounted =
            rustix::mount::mount(&device, mount, filesystem, MountFlags::NOATIME, None::<&std::ffi::CStr>);
        if let Self::Memory { .. } = self {
            // From now on it lasts as long as the mount, and goes with that even when this process is killed.
            process::run("losetup", ["--detach".as_ref(), device.as_os_str()])?;
        }
        let found = match mounted {
            Err(error) => Some(format!("the filesystem cannot be mounted: {error}")),
            Ok(()) => {
                let found = look()?;
                until(|| {
                    if let Self::Machine { .. } = self {
                        // What a driver has made on it.
                        dm::remove_others(&[SNAPSHOT])?;
                    }
                    rustix::mount::unmount(mount, UnmountFlags::empty()).map_err(Into::into)
                })
                .context("unmount what the looks were at")?;
                found
            }
        };
        match self {
            Self::Machine { .. } => until(|| dm::remove(SNAPSHOT)).context("drop the snapshot")?,
            Self::Memory { folder, .. } => fs::remove_file(folder.join("look"))?,
        }
        Ok(found)
    }
}

/// Makes a file that has what another has; holes stay holes.
fn copy_to(from: &File, path: &Path) -> Result<()> {
    let mut options = File::options();
    let to = options.read(true).write(true).create_new(true).mode(0o600).open(path)?;
    to.set_len(from.metadata()?.len())?;
    let mut at = 0;
    loop {
        let start = match seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Only a hole is left.
            Err(Errno::NXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let end = seek(from, SeekFrom::Hole(start))?;
        let (mut reads, mut writes) = (start, start);
        while reads < end {
            let length = usize::try_from(end - reads)?;
            let copied = rustix::fs::copy_file_range(from, Some(&mut reads), &to, Some(&mut writes), length)?;
            anyhow::ensure!(copied > 0, "the file ends within its data");
        }
        at = end;
    }
}

/// Again and again while it fails: the last holder of a filesystem may be a thread that is about to end.
fn until(mut attempt: impl FnMut() -> Result<()>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
            Ok(()) => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
