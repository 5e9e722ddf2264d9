//! What a caller asks for.

use std::path::PathBuf;
use std::time::Duration;

use oci_spec::runtime::{PosixRlimit, Spec};
use serde::{Deserialize, Serialize};

use super::CgroupJoin;
use crate::seccomp::Filter;

/// Everything that starts one run of one container: an OCI specification, and what that does not know.
#[derive(Debug, Clone)]
pub struct StartRequest {
    /// The container's id, unique on this machine; names nothing but messages here.
    pub uid: String,
    /// A name for people, for messages.
    pub name: String,
    /// Number of this run, from 1, rising.
    pub run: u64,
    /// An existing directory (0700) for the shim's record and socket.
    pub run_dir: PathBuf,
    /// An existing directory for the log files.
    pub log_dir: PathBuf,
    /// The specification. `root.path` is not read (see [`StartRequest::root`]); `linux.resources` and
    /// `linux.cgroupsPath` are applied by whoever made [`StartRequest::cgroup`].
    pub spec: Spec,
    /// The root filesystem.
    pub root: RootFs,
    /// Mounts made from trees that OCI has no words for; attached after those of `spec`.
    pub volumes: Vec<VolumeMount>,
    /// `user[:group]`, by name or number, as an image configuration has it; looked up in the image's own
    /// `/etc/passwd` and `/etc/group`, and wins over `spec.process.user.{uid,gid}`. `additionalGids` are added.
    pub user: Option<String>,
    /// The groups to join, from [`crate::cgroup::Cgroups::create`].
    pub cgroup: CgroupJoin,
    /// Keep standard input open, for who attaches; otherwise it is at its end from the start. A terminal
    /// (`spec.process.terminal`) is open in any case.
    pub stdin: bool,
    /// The compiled filter, loaded last.
    pub seccomp: Option<Filter>,
    /// Limits that are set where this machine allows it; those of `spec` are set or the start fails.
    pub default_rlimits: Vec<PosixRlimit>,
    /// OOM score adjustment that is set where this machine allows it; that of `spec` must be.
    pub default_oom_score_adj: Option<i32>,
    /// The programs.
    pub programs: Programs,
    /// Log limits.
    pub logs: LogLimits,
    /// How long a start may take before the container is killed and the start fails.
    pub deadline: Duration,
    /// Make overlays by `mount(2)` even where the kernel has the newer way.
    pub legacy_overlay: bool,
    /// Another OCI runtime makes the container; the built-in one by default.
    pub outside: Option<Outside>,
}

/// Another OCI runtime, and what it is told beside the specification.
#[derive(Debug, Clone, PartialEq)]
pub struct Outside {
    /// The name that it is configured by.
    pub name: String,
    /// The program, or a script that becomes it. It stays as it is as long as a container was started with it.
    pub program: PathBuf,
    /// Options of its `create`.
    pub create_args: Vec<String>,
    /// A directory of this container and runtime, made by the start: the bundle, the runtime's state, and the mounts, which the
    /// host sees. [`crate::outside::clear`] removes it.
    pub dir: PathBuf,
    /// The container's group, as a path below the mount point of each hierarchy.
    pub cgroups_path: String,
    /// Rules of access to devices, as `linux.resources.devices`; those of the runtime by default.
    pub device_rules: Vec<serde_json::Value>,
    /// The capabilities that the usual seccomp profile is made for; none is loaded by default.
    pub seccomp: Option<u64>,
}

/// The programs of this release, written out by their digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// `stower-starter`.
    pub starter: PathBuf,
    /// `stower-shim`.
    pub shim: PathBuf,
    /// The shim's content digest (`sha256:…`).
    pub shim_digest: String,
}

/// Limits of the log files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimits {
    /// Bytes after which the next file begins.
    pub max_bytes: u64,
    /// Files of one run that are kept.
    pub max_files: u32,
    /// With a log that cannot be written: wait for ever, or drop lines after a second and count them.
    pub block: bool,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { max_bytes: 10 << 20, max_files: 5, block: false }
    }
}

/// A root filesystem, or another tree made from data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootFs {
    /// Layers on overlayfs.
    Overlay {
        /// Lower directories, the topmost first; at least one, at most 128.
        lower: Vec<PathBuf>,
        /// The writable directory; `None` makes a read-only tree.
        upper: Option<PathBuf>,
        /// The work directory, on the filesystem of `upper`.
        work: Option<PathBuf>,
        /// Further options of overlayfs, `key=value` or `flag`.
        options: Vec<String>,
    },
    /// Layers on overlayfs, of which the writable one is on a filesystem of its own, so that what is written stays within
    /// that.
    OverlayOn {
        /// The filesystem, a [`RootFs::Block`]. It is mounted for this alone, and nobody sees it.
        block: Box<RootFs>,
        /// Lower directories, the topmost first; at least one, at most 128.
        lower: Vec<PathBuf>,
        /// The writable directory, within the filesystem: relative, and reached through no link.
        upper: PathBuf,
        /// The work directory, likewise.
        work: PathBuf,
        /// Further options of overlayfs, `key=value` or `flag`.
        options: Vec<String>,
    },
    /// A directory of the host.
    Bind {
        /// The directory.
        path: PathBuf,
        /// Mounted read-only.
        readonly: bool,
    },
    /// A filesystem on a block device.
    Block {
        /// The device node.
        device: PathBuf,
        /// The filesystem's type.
        fstype: String,
        /// Its options, `key=value` or `flag`; `ro` makes it read-only. All that mount one device at one time must agree
        /// on `ro` (the kernel says `EBUSY`); for one reader among writers give `ro` in [`VolumeMount::options`].
        options: Vec<String>,
    },
}

/// A mount of a tree, or of a part of it, inside the container.
///
/// All are attached after the mounts of `spec`, in the order given: callers put the outer of two nested places first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeMount {
    /// Where, absolute, inside the root. What is missing there is made: a directory for a directory, else a file.
    pub destination: String,
    /// What. [`RootFs::Bind`] may name a file. Every mount of layers with an `upper` has its own `work`.
    pub tree: RootFs,
    /// A directory of the tree that is the volume, such as `data` of a formatted image: relative, trusted, and opened
    /// without following any link.
    pub inside: Option<String>,
    /// A part of the volume.
    pub sub_path: Option<SubPath>,
    /// OCI mount options: `ro`, `rro`, `rw`, `nosuid`, `nodev`, `noexec`, …, and one of `rprivate` (the default),
    /// `rslave` (mounts made on the host later are seen) and `rshared` (and those made in the container are seen on the
    /// host). The last two need [`RootFs::Bind`].
    pub options: Vec<String>,
}

/// A path inside a volume that comes from whoever wrote the manifest, in a volume whose content a container writes.
///
/// It is resolved once, by descriptor; links that stay in the volume are followed, others fail the start. What was
/// opened is what is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubPath {
    /// Relative, without `..`; a directory or a file. `.` is the volume itself.
    pub path: String,
    /// Make a directory where nothing is, and those on the way, with owner, group and mode of the volume's top
    /// directory. Otherwise the start fails.
    pub create: bool,
}
