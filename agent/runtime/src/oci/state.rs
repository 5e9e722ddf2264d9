//! The directory of a container: what is known of it between two commands.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::error::{OciError, Result};
use crate::cgroup::Cgroups;
use crate::proc::{self, ProcessId};

/// The configuration as it was at `create`.
const CONFIG: &str = "config.json";
const STATE: &str = "state.json";
/// Locked by the first process until its exec.
pub(super) const CREATED: &str = "created";
/// No configuration is longer, in bytes.
const MAX_LEN: u64 = 16 << 20;
/// The version of the specification that is done.
pub(super) const OCI_VERSION: &str = "1.2.1";

/// What is written down of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct State {
    /// Of this record.
    pub(super) version: u32,
    pub(super) id: String,
    pub(super) oci_version: String,
    /// Absolute.
    pub(super) bundle: PathBuf,
    /// Absolute.
    pub(super) rootfs: PathBuf,
    pub(super) boot_id: String,
    /// RFC 3339.
    pub(super) created: String,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
    /// Under each hierarchy's mount point.
    pub(super) cgroup: PathBuf,
    /// The first process, once there is one: pid and start time.
    pub(super) init: Option<(u32, u64)>,
    /// `create` has come to its end.
    pub(super) ready: bool,
    /// User id of whoever created it.
    pub(super) owner: u32,
    /// The root is mounted in the runtime's own namespace, and has to be taken off there.
    #[serde(default)]
    pub(super) mounted: bool,
}

/// `runtime.md`, "State"; `paused` is an additional value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// All containers of one root directory.
pub(super) struct Store {
    root: PathBuf,
}

impl Store {
    /// Makes the directory where it is missing, for its owner alone.
    pub(super) fn open(root: &Path) -> Result<Self> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .map_err(|e| OciError::io(root.display(), e))?;
        let meta = std::fs::metadata(root).map_err(|e| OciError::io(root.display(), e))?;
        if meta.uid() != rustix::process::geteuid().as_raw() {
            return Err(OciError::Usage(format!("{} belongs to another user", root.display())));
        }
        if meta.mode() & 0o077 != 0 {
            std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o700))
                .map_err(|e| OciError::io(root.display(), e))?;
        }
        let root = root.canonicalize().map_err(|e| OciError::io(root.display(), e))?;
        Ok(Self { root })
    }

    /// A new container's directory, locked.
    pub(super) fn create(&self, id: &str) -> Result<Container> {
        check_id(id)?;
        let path = self.root.join(id);
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(OciError::Usage(format!("container with id exists already: `{id}`")));
            }
            Err(e) => return Err(OciError::io(path.display(), e)),
        }
        let dir = open_dir(&path)?;
        rustix::fs::flock(&dir, FlockOperation::LockExclusive)
            .map_err(|e| OciError::io(path.display(), e))?;
        Ok(Container { path, dir })
    }

    /// An existing container.
    pub(super) fn find(&self, id: &str) -> Result<Container> {
        check_id(id)?;
        let path = self.root.join(id);
        match open_dir(&path) {
            Ok(dir) => Ok(Container { path, dir }),
            Err(OciError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Err(OciError::NoContainer(id.to_owned()))
            }
            Err(e) => Err(e),
        }
    }

    /// The ids that have a directory.
    pub(super) fn ids(&self) -> Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.root).map_err(|e| OciError::io(self.root.display(), e))?;
        let mut ids: Vec<String> = entries
            .flatten()
            .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
            .filter_map(|e| e.file_name().into_string().ok())
            .filter(|id| check_id(id).is_ok())
            .collect();
        ids.sort();
        Ok(ids)
    }
}

/// One plain component, as other runtimes take it.
fn check_id(id: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'+' | b'-' | b'.');
    if id.is_empty() || id.len() > 255 || matches!(id, "." | "..") || !id.bytes().all(plain) {
        return Err(OciError::Usage(format!(
            "`{id}` cannot be a container's id; use letters, digits, `_`, `+`, `-` and `.`"
        )));
    }
    Ok(())
}

fn open_dir(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|e| OciError::io(path.display(), e))
}

/// The directory of one container.
pub(super) struct Container {
    pub(super) path: PathBuf,
    pub(super) dir: OwnedFd,
}

impl Container {
    /// Waits until no other command changes this container, and keeps others from it as long as this value lives.
    pub(super) fn lock(&self) -> Result<()> {
        rustix::fs::flock(&self.dir, FlockOperation::LockExclusive)
            .map_err(|e| OciError::io(self.path.display(), e))?;
        if !self.path.exists() {
            return Err(OciError::NoContainer(self.id()));
        }
        Ok(())
    }

    /// In a clone, which is not to hold the lock. The directory's descriptor is used no more there.
    pub(super) fn close_in_clone(&self) {
        // SAFETY: the clone has its own table of descriptors and ends without dropping this value, so nothing closes the
        // number again.
        drop(unsafe { crate::start::sys::adopt_fd(std::os::fd::AsRawFd::as_raw_fd(&self.dir)) });
    }

    pub(super) fn id(&self) -> String {
        self.path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned())
    }

    pub(super) fn write_state(&self, state: &State) -> Result<()> {
        self.write_json(STATE, state)
    }

    pub(super) fn write_config(&self, spec: &Spec) -> Result<()> {
        self.write_json(CONFIG, spec)
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let (new, path) = (self.path.join(format!("{name}.new")), self.path.join(name));
        let json = |source| OciError::Json { what: path.display().to_string(), source };
        let bytes = serde_json::to_vec(value).map_err(json)?;
        write_private(&new, &bytes).map_err(|e| OciError::io(new.display(), e))?;
        std::fs::rename(&new, &path).map_err(|e| OciError::io(path.display(), e))
    }

    pub(super) fn state(&self) -> Result<State> {
        let path = self.path.join(STATE);
        let state: State = read_json(&path)?;
        if state.version != 1 {
            return Err(OciError::Usage(format!(
                "{} is of version {}, which a newer stower-runtime wrote; use that",
                path.display(),
                state.version
            )));
        }
        Ok(state)
    }

    pub(super) fn config(&self) -> Result<Spec> {
        read_json(&self.path.join(CONFIG))
    }

    /// The first process, if it runs.
    pub(super) fn init(&self, state: &State) -> Result<Option<(u32, OwnedFd)>> {
        if state.boot_id != proc::boot_id()? {
            return Ok(None);
        }
        let Some((pid, start)) = state.init else { return Ok(None) };
        match proc::open(ProcessId { pid, start })? {
            Some(fd) if !proc::has_ended(&fd).map_err(|e| OciError::io("the first process", e))? => {
                Ok(Some((pid, fd)))
            }
            _ => Ok(None),
        }
    }

    pub(super) fn status(&self, state: &State) -> Result<Status> {
        if self.init(state)?.is_none() {
            return Ok(Status::Stopped);
        }
        if !state.ready {
            return Ok(Status::Creating);
        }
        if self.is_created()? {
            return Ok(Status::Created);
        }
        match groups(state)?.frozen("c") {
            Some(true) => Ok(Status::Paused),
            _ => Ok(Status::Running),
        }
    }

    /// Whether the first process waits to be started: the kernel lets its lock go with the exec.
    fn is_created(&self) -> Result<bool> {
        let path = self.path.join(CREATED);
        let file = File::open(&path).map_err(|e| OciError::io(path.display(), e))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            Err(e) => Err(OciError::io(path.display(), e)),
        }
    }

    /// Removes the directory. What is in it is ours alone.
    pub(super) fn remove(&self) -> Result<()> {
        match std::fs::remove_dir_all(&self.path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(OciError::io(self.path.display(), e)),
            _ => Ok(()),
        }
    }
}

/// The groups of a container.
pub(super) fn groups(state: &State) -> Result<Cgroups> {
    Ok(Cgroups::at(&state.cgroup)?)
}

/// Reads a file of ours or of a bundle; regular, and of bounded length.
pub(super) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let io = |e: std::io::Error| OciError::io(path.display(), e);
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(|e| io(e.into()))?);
    let mut bytes = Vec::new();
    file.take(MAX_LEN + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MAX_LEN {
        return Err(OciError::Usage(format!("{} is longer than {MAX_LEN} bytes", path.display())));
    }
    serde_json::from_slice(&bytes)
        .map_err(|source| OciError::Json { what: path.display().to_string(), source })
}

fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)
}

/// The state as the specification has it (`runtime.md`, "State"), with what other runtimes add.
pub(super) fn state_json(state: &State, status: &str, pid: u32) -> serde_json::Value {
    serde_json::json!({
        "ociVersion": state.oci_version,
        "id": state.id,
        "pid": pid,
        "status": status,
        "bundle": state.bundle,
        "rootfs": state.rootfs,
        "created": state.created,
        "owner": owner(state.owner),
        "annotations": state.annotations,
    })
}

fn owner(uid: u32) -> String {
    if uid == 0 { String::new() } else { uid.to_string() }
}

/// A lock that the first process takes with it to its exec.
pub(super) fn created_lock(container: &Container) -> Result<OwnedFd> {
    let path = container.path.join(CREATED);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(container.dir.as_fd(), CREATED, flags, Mode::from_raw_mode(0o600))
        .map_err(|e| OciError::io(path.display(), e))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|e| OciError::io(path.display(), e))?;
    Ok(file)
}
