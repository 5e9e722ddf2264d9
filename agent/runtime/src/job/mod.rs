//! What the starter has to do, complete and checked: the pure result of [`compile`].
//!
//! A `Job` has no decision left in it. It crosses one socket, from the agent to the starter of the same build,
//! so its form may change with every version.

mod compile;
mod outside;
mod request;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::exec::TerminalSize;

pub use compile::compile;
#[cfg(feature = "cli")]
pub(crate) use compile::{Scope, compile_in, compile_process, terminal_size};
pub use request::{LogLimits, Outside, Programs, RootFs, StartRequest, SubPath, VolumeMount};

/// Everything the starter needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The container's id, for messages.
    pub uid: String,
    /// Number of this run.
    pub run: u64,
    /// The run directory (shim record, socket).
    pub run_dir: PathBuf,
    /// The log directory.
    pub log_dir: PathBuf,
    /// The shim to become.
    pub shim: PathBuf,
    /// The shim's content digest, for the record.
    pub shim_digest: String,
    /// The machine's boot id.
    pub boot_id: String,
    /// Log limits, handed to the shim.
    pub logs: LogLimits,
    /// The groups to join.
    pub cgroup: CgroupJoin,
    /// Namespaces.
    pub namespaces: Vec<Namespace>,
    /// Propagation of the finished root; `None` keeps private.
    pub root_propagation: Option<u64>,
    /// The root filesystem.
    pub root: RootFs,
    /// The root's mount becomes read-only at the end.
    pub root_readonly: bool,
    /// Mounts in order.
    pub mounts: Vec<MountJob>,
    /// Device nodes made in `/dev`, with the usual links.
    pub devices: Vec<DeviceNode>,
    /// `/dev` is a filesystem of the container's own, so nodes and links are made in it.
    pub populate_dev: bool,
    /// Paths hidden by an empty directory or `/dev/null`.
    pub masked_paths: Vec<String>,
    /// Paths made read-only.
    pub readonly_paths: Vec<String>,
    /// Host name in the UTS namespace.
    pub hostname: Option<String>,
    /// NIS domain name.
    pub domainname: Option<String>,
    /// `(path under /proc/sys, value)`.
    pub sysctls: Vec<(String, String)>,
    /// Bring `lo` up in the new network namespace.
    pub loopback: bool,
    /// The process.
    pub process: Process,
    /// It has a terminal, of this size.
    #[serde(default)]
    pub terminal: Option<TerminalSize>,
    /// Without a terminal: its standard input is a pipe, whose other end the shim holds.
    #[serde(default)]
    pub stdin: bool,
    /// Where the filter begins after the JSON part of the message: its length in bytes, 0 for none.
    pub seccomp_len: usize,
    /// Use `mount(2)` for overlays although the kernel has `lowerdir+`.
    pub legacy_overlay: bool,
    /// Another runtime makes the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<Box<OutsideJob>>,
}

/// What another runtime is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutsideJob {
    /// Its configured name.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Options of its `create`.
    pub create_args: Vec<String>,
    /// The directory for all of it.
    pub dir: PathBuf,
    /// `config.json`, but for the user, who is looked up in the root filesystem.
    pub config: serde_json::Value,
    /// How long one command of it may take.
    pub limit: std::time::Duration,
}

/// Groups that init joins, each by the way that waits for nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CgroupJoin {
    /// Version 1 groups of the container.
    pub v1: Vec<V1Group>,
    /// The cgroup2 directory of the container.
    pub v2: Option<PathBuf>,
    /// Version 1 group directories for the shim.
    pub shim_v1: Vec<PathBuf>,
    /// The cgroup2 directory for the shim.
    pub shim_v2: Option<PathBuf>,
}

/// A group in one version 1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct V1Group {
    /// The last component of the hierarchy's mount point, such as `memory` or `cpu,cpuacct`.
    pub name: String,
    /// The group's directory.
    pub dir: PathBuf,
}

/// `linux/sched.h`; no flag of a clone, where its bits are those of the exit signal.
pub(crate) const CLONE_NEWTIME: i32 = 0x80;

/// A kind of namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceKind {
    /// Process ids.
    Pid,
    /// Mounts.
    Mount,
    /// System V IPC and POSIX queues.
    Ipc,
    /// Host and domain name.
    Uts,
    /// cgroup root.
    Cgroup,
    /// Network.
    Network,
    /// User and group ids.
    User,
    /// Monotonic and boot time.
    Time,
}

impl NamespaceKind {
    /// The `CLONE_NEW*` flag.
    pub fn clone_flag(self) -> i32 {
        match self {
            Self::Pid => libc::CLONE_NEWPID,
            Self::Mount => libc::CLONE_NEWNS,
            Self::Ipc => libc::CLONE_NEWIPC,
            Self::Uts => libc::CLONE_NEWUTS,
            Self::Cgroup => libc::CLONE_NEWCGROUP,
            Self::Network => libc::CLONE_NEWNET,
            Self::User => libc::CLONE_NEWUSER,
            Self::Time => CLONE_NEWTIME,
        }
    }
}

/// A namespace, new or joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Its kind.
    pub kind: NamespaceKind,
    /// The file of an existing one; `None` makes a new one.
    pub path: Option<PathBuf>,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum MountSource {
    /// A new instance of a kernel filesystem.
    Fs {
        /// Its type: `proc`, `sysfs`, `tmpfs`, `devpts`, `mqueue`, …
        fstype: String,
        /// What the table shows as the source.
        source: String,
        /// Its own options, `key=value` or `flag`.
        data: Vec<String>,
    },
    /// A tree of the host.
    Bind {
        /// The host's path.
        path: PathBuf,
        /// With the mounts below it.
        recursive: bool,
    },
    /// The container's own groups.
    Cgroup,
    /// A volume.
    Tree {
        /// The tree.
        tree: RootFs,
        /// The directory in it that is the volume.
        inside: Option<String>,
        /// The part of the volume that is mounted.
        sub_path: Option<SubPath>,
    },
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MountJob {
    /// Where, inside the root; absolute.
    pub destination: String,
    /// What.
    pub source: MountSource,
    /// How.
    pub attrs: MountAttrs,
    /// Ids as a user namespace of these mappings has them. (Command line only.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idmap: Option<Box<IdMap>>,
    /// What the root has at this place is copied into the new filesystem. (Command line only.)
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub copy_up: bool,
}

/// Ids of a mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// `(in the mount, on the filesystem, how many)`; empty for those of the container's user namespace.
    pub uids: Vec<(u32, u32, u32)>,
    /// The same for groups.
    pub gids: Vec<(u32, u32, u32)>,
    /// The mounts below it too.
    pub recursive: bool,
}

impl MountJob {
    /// Whether mounts that appear on the host later are seen: its tree is taken before the namespace is cut off.
    pub(crate) fn follows_host(&self) -> bool {
        matches!(self.attrs.propagation, libc::MS_SLAVE | libc::MS_SHARED)
            && matches!(
                self.source,
                MountSource::Bind { .. } | MountSource::Tree { tree: RootFs::Bind { .. }, .. }
            )
    }

    /// Whether mounts made in the container below it are seen on the host.
    pub(crate) fn is_shared(&self) -> bool {
        self.attrs.propagation == libc::MS_SHARED
            && matches!(self.source, MountSource::Bind { .. } | MountSource::Tree { .. })
    }
}

/// Attributes of a mount, as `mount_setattr(2)` takes them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountAttrs {
    /// Bits to set.
    pub set: u64,
    /// Bits to clear.
    pub clear: u64,
    /// Bits to set on every mount of the tree.
    pub rec_set: u64,
    /// Bits to clear on every mount of the tree.
    pub rec_clear: u64,
    /// Propagation (`MS_PRIVATE`, `MS_SLAVE`, …), 0 for private.
    pub propagation: u64,
    /// Propagation of the whole tree.
    pub rec_propagation: bool,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Absolute path, under `/dev`.
    pub path: String,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO`.
    pub kind: u32,
    /// Major and minor number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The process in the container. It is kept in [`crate::exec::ExecRecord`] too, so fields are only added, each with a
/// default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Command and arguments; never empty.
    pub args: Vec<String>,
    /// Environment.
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// User and groups.
    pub user: UserJob,
    /// File creation mask.
    pub umask: u32,
    /// Capability sets.
    pub caps: crate::caps::CapSets,
    /// Limits.
    pub rlimits: Vec<RlimitJob>,
    /// `no_new_privs`.
    pub no_new_privileges: bool,
    /// OOM score adjustment and whether it was asked for.
    pub oom_score_adj: Option<OomScore>,
    /// `personality(2)`.
    pub personality: Option<u32>,
}

/// OOM score adjustment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OomScore {
    /// −1000 … 1000.
    pub value: i32,
    /// A value that cannot be set is an error, not skipped.
    pub required: bool,
}

/// Who the process is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserJob {
    /// `user[:group]` by name or number, resolved in the image's own files; wins over the numbers.
    pub lookup: Option<String>,
    /// User id when nothing is looked up.
    pub uid: u32,
    /// Group id when nothing is looked up.
    pub gid: u32,
    /// Further groups.
    pub additional_gids: Vec<u32>,
}

/// One resource limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RlimitJob {
    /// `RLIMIT_NOFILE`, …
    pub name: String,
    /// The kernel's number of it.
    pub resource: u32,
    /// Soft limit, `u64::MAX` for none.
    pub soft: u64,
    /// Hard limit, `u64::MAX` for none.
    pub hard: u64,
    /// A limit that cannot be set is an error, not skipped.
    pub required: bool,
}
