//! Where everything of one agent lies on disk.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags};

/// The directories of one agent: what lasts (data root) and what a reboot voids (run root).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// Durable state, mode 0700.
    pub data: PathBuf,
    /// Boot-scoped state, mode 0700.
    pub run: PathBuf,
    /// The local API's socket, mode 0660.
    pub socket: PathBuf,
    /// The directory of manifests.
    pub manifests: PathBuf,
}

/// Why the agent cannot have its directories.
#[derive(Debug, thiserror::Error)]
pub enum PathsError {
    /// A directory cannot be made or written.
    #[error(
        "cannot write {path}; the agent needs it as its {role}: run it as root, or name another with --{flag}"
    )]
    Unwritable {
        /// The directory.
        path: PathBuf,
        /// What it is for.
        role: &'static str,
        /// The flag that names another.
        flag: &'static str,
        #[source]
        /// What the kernel said.
        source: io::Error,
    },
    /// Another agent holds the data root.
    #[error(
        "another agent (pid {pid}) already uses {path}; stop it, or give this one other directories with --data-root and --run-root"
    )]
    InUse {
        /// The data root.
        path: PathBuf,
        /// The other's pid as it wrote it, or `?`.
        pid: String,
    },
    /// The instance id on disk is not one that an agent wrote.
    #[error(
        "{path} does not hold an instance id (8 hexadecimal digits); restore it from a backup, or move the data root away"
    )]
    BadInstance {
        /// The file.
        path: PathBuf,
    },
}

/// Held for the life of the agent; the kernel releases it with the process.
#[derive(Debug)]
pub struct DataLock(#[expect(dead_code, reason = "held, not read")] File);

/// How often it is looked whether what an agent has left has ended, and for how long.
const LEFT_AGAIN: Duration = Duration::from_millis(10);
const LEFT_LOOKS: usize = 500;

/// Takes the lock, or tells the pid of the agent that has it.
///
/// A child of an agent that was killed may hold it, and the socket, for the moment between its fork and its exec: this is waited
/// for.
fn taken(lock: &mut File, mut pause: impl FnMut()) -> io::Result<Result<(), String>> {
    for look in 0.. {
        match lock.try_lock() {
            Ok(()) => return Ok(Ok(())),
            Err(std::fs::TryLockError::Error(source)) => return Err(source),
            Err(std::fs::TryLockError::WouldBlock) => {}
        }
        let mut pid = String::new();
        lock.rewind()?;
        lock.take(20).read_to_string(&mut pid)?;
        let pid = pid.trim();
        if look == LEFT_LOOKS || lives(pid) {
            return Ok(Err(if pid.is_empty() { "?".to_owned() } else { pid.to_owned() }));
        }
        pause();
    }
    unreachable!("the last look returns")
}

/// Whether a process runs; so does one that nobody can name.
fn lives(pid: &str) -> bool {
    let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) else { return true };
    let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return false };
    !stower_runtime::proc::has_ended(&pidfd).unwrap_or(false)
}

impl Paths {
    /// Where the state of one container that a reboot voids lies.
    #[must_use]
    pub fn container_run(&self, uid: &str) -> PathBuf {
        self.run.join("c").join(uid)
    }

    /// Where the data of one object that goes with it lies (`emptyDir` volumes).
    #[must_use]
    pub fn container_data(&self, uid: &str) -> PathBuf {
        self.data.join("containers").join(uid)
    }

    /// Where the logs of one container lie.
    #[must_use]
    pub fn logs(&self, uid: &str) -> PathBuf {
        self.data.join("logs").join(uid)
    }

    /// Makes all directories and takes the data root for this process alone.
    ///
    /// # Errors
    /// When one cannot be made, or another agent has them.
    pub fn claim(&self) -> Result<DataLock, PathsError> {
        let unwritable = |path: &Path, role, flag| {
            let path = path.to_owned();
            move |source| PathsError::Unwritable { path, role, flag, source }
        };
        private_dir(&self.data).map_err(unwritable(&self.data, "data root", "data-root"))?;
        private_dir(&self.run).map_err(unwritable(&self.run, "run root", "run-root"))?;
        let path = self.data.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(unwritable(&path, "data root", "data-root"))?;
        let pause = || std::thread::sleep(LEFT_AGAIN);
        match taken(&mut lock, pause).map_err(unwritable(&path, "data root", "data-root"))? {
            Ok(()) => {}
            Err(pid) => return Err(PathsError::InUse { path: self.data.clone(), pid }),
        }
        lock.set_len(0)
            .and_then(|()| lock.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0))
            .map_err(unwritable(&path, "data root", "data-root"))?;
        for name in ["containers", "logs", "ledger", "records", "bin"] {
            let dir = self.data.join(name);
            private_dir(&dir).map_err(unwritable(&dir, "data root", "data-root"))?;
        }
        let dir = self.run.join("c");
        private_dir(&dir).map_err(unwritable(&dir, "run root", "run-root"))?;
        Ok(DataLock(lock))
    }

    /// This installation's id: random, made once, part of the names of cgroups and devices so that two agents never meet.
    ///
    /// # Errors
    /// When it cannot be read or made, or is not one.
    pub fn instance(&self) -> Result<String, PathsError> {
        let path = self.data.join("instance");
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let id = text.trim();
                if id.len() == 8 && id.bytes().all(|b| b.is_ascii_hexdigit()) {
                    Ok(id.to_owned())
                } else {
                    Err(PathsError::BadInstance { path })
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let id = random_hex::<4>();
                write_durably(&path, id.as_bytes()).map_err(|source| PathsError::Unwritable {
                    path,
                    role: "data root",
                    flag: "data-root",
                    source,
                })?;
                Ok(id)
            }
            Err(source) => Err(PathsError::Unwritable { path, role: "data root", flag: "data-root", source }),
        }
    }
}

/// `N` random bytes in hexadecimal.
#[must_use]
pub(crate) fn random_hex<const N: usize>() -> String {
    let mut bytes = [0u8; N];
    let mut filled = 0;
    while filled < N {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => filled += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => unreachable!("getrandom without flags only fails for a signal, not {error}"),
        }
    }
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A fresh random identity (RFC 9562, version 4).
#[must_use]
pub(crate) fn random_uuid() -> String {
    let hex = random_hex::<16>();
    let variant = ["8", "9", "a", "b"][usize::from(hex.as_bytes()[16] % 4)];
    format!("{}-{}-4{}-{variant}{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}

/// Makes `path` and its parents; the last is for root alone.
pub(crate) fn private_dir(path: &Path) -> io::Result<()> {
    match DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) => return Err(error),
    }
    let mode = std::fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Replaces a file's content so that a crash leaves the old or the new, and a power cut after the return the new.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let tmp = path.with_extension("tmp");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&tmp)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    std::fs::rename(&tmp, path)?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests;
