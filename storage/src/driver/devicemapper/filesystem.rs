//! The filesystems that thin devices have: made once, on the base device, mounted and grown on its snapshots.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::record::Thin;
use crate::dm::{SECTOR, ioctl};
use crate::driver::DriverError;
use crate::driver::overlay::reopen;
use crate::mount::{Mount, detached};

/// Which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Fs {
    Ext4,
    Xfs,
}

impl Fs {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Ext4 => "mkfs.ext4",
            Self::Xfs => "mkfs.xfs",
        }
    }

    fn package(self) -> &'static str {
        match self {
            Self::Ext4 => "e2fsprogs",
            Self::Xfs => "xfsprogs",
        }
    }

    /// Whether there is a program that makes it.
    pub(super) fn check(self) -> Result<(), DriverError> {
        match program(self.program()) {
            Some(_) => Ok(()),
            None => Err(DriverError::io("find", self.program())(std::io::Error::other(format!(
                "it is not installed; it comes with {}",
                self.package()
            )))),
        }
    }

    /// Makes it. `zeroed`: the device reads as zeros everywhere, and nothing has to be written to make it so.
    pub(super) fn make(self, device: &Path, zeroed: bool, more: &[String]) -> Result<(), DriverError> {
        self.check()?;
        let made = self.try_make(device, zeroed, more);
        match (self, zeroed, made) {
            // Before e2fsprogs 1.47 there is no such option.
            (Self::Ext4, true, Err(_)) => self.try_make(device, false, more),
            (_, _, made) => made,
        }
    }

    fn try_make(self, device: &Path, zeroed: bool, more: &[String]) -> Result<(), DriverError> {
        let mut command = Command::new(program(self.program()).unwrap_or_else(|| self.program().into()));
        command.stdin(Stdio::null()).env("LC_ALL", "C");
        match self {
            Self::Ext4 => {
                // All of it now: what is left for later, each snapshot would have to do.
                let zero = if zeroed {
                    "assume_storage_prezeroed=1"
                } else {
                    "lazy_itable_init=0,lazy_journal_init=0"
                };
                command.args([
                    "-q",
                    "-F",
                    "-I",
                    "256",
                    "-m",
                    "0",
                    "-e",
                    "remount-ro",
                    "-E",
                    &format!("nodiscard,{zero}"),
                ]);
            }
            Self::Xfs => {
                command.args(["-q", "-f", "-K"]);
            }
        }
        command.args(more).arg(device);
        let out = command.output().map_err(DriverError::io("run", self.program()))?;
        if out.status.success() {
            return Ok(());
        }
        let said = [out.stderr, out.stdout].concat();
        let said = String::from_utf8_lossy(&said).trim().replace('\n', "; ");
        Err(DriverError::io("make a filesystem on", device)(std::io::Error::other(format!(
            "{} says: {said}",
            self.program()
        ))))
    }

    /// Mends a filesystem that is not mounted, if it saw errors. What its program would ask a person is answered with yes:
    /// without that, nothing starts before somebody has acted. XFS sees to itself.
    pub(super) fn mend(self, device: &Path) -> Result<(), DriverError> {
        const PROGRAM: &str = "e2fsck";
        if self == Self::Xfs || !saw_errors(device).map_err(DriverError::io("read", device))? {
            return Ok(());
        }
        let Some(program) = program(PROGRAM) else {
            tracing::warn!(device = %device.display(), "a filesystem saw errors, and e2fsck is not installed (e2fsprogs)");
            return Ok(());
        };
        let mut command = Command::new(program);
        command.arg("-y").arg(device).stdin(Stdio::null()).env("LC_ALL", "C");
        let out = command.output().map_err(DriverError::io("run", PROGRAM))?;
        let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).trim().replace('\n', "; ");
        // 1 and 2: what was wrong is not any more (e2fsck(8)).
        if out.status.code().is_some_and(|code| code & !3 == 0) {
            tracing::warn!(device = %device.display(), said, "checked a filesystem that saw errors");
            return Ok(());
        }
        let why = format!(
            "its filesystem saw errors, and `e2fsck -y` does not mend it ({said}): begin anew, without what was written there"
        );
        Err(super::pool::refused(device, why))
    }

    /// How it is mounted.
    pub(super) fn mount(self, device: PathBuf, readonly: bool, discard: bool, more: &[String]) -> Mount {
        let mut options = Vec::new();
        if readonly {
            options.push("ro".to_owned());
        }
        // All snapshots have the same identity.
        if self == Self::Xfs {
            options.push("nouuid".to_owned());
        }
        if discard && !readonly {
            options.push("discard".to_owned());
        }
        options.extend_from_slice(more);
        Mount::Block { device, fstype: self.name().to_owned(), options }
    }

    /// Makes the mounted filesystem as large as its device.
    pub(super) fn grow(self, root: &OwnedFd, thin: Thin, device: &Path) -> Result<(), DriverError> {
        let bytes = thin.sectors * SECTOR;
        let grown = match self {
            Self::Ext4 => {
                let size = rustix::fs::fstatvfs(root).map_err(DriverError::io("measure", device))?;
                crate::loopdev::resize(root, bytes / size.f_frsize.max(1024))
            }
            Self::Xfs => ioctl::grow_xfs(root, bytes),
        };
        grown.map_err(DriverError::io("enlarge the filesystem on", device))
    }
}

/// Whether an ext4 says that it saw errors (kernel documentation, filesystems/ext4, "Super Block": `s_state`).
fn saw_errors(device: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::FileExt;
    const ERRORS: u16 = 2;
    let mut state = [0; 2];
    std::fs::File::open(device)?.read_exact_at(&mut state, 1024 + 58)?;
    Ok(u16::from_le_bytes(state) & ERRORS != 0)
}

/// The superuser's programs are not in everybody's `PATH`.
pub(super) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    own.into_iter().chain(std::env::split_paths(&path)).map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// The root of what `mount` mounts, for us alone, or once more.
pub(super) fn open(mount: &Mount) -> Result<OwnedFd, DriverError> {
    reopen(&detached::open(mount)?)
}
