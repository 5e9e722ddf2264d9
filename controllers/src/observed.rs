//! What is: facts about the machine, each with an "unknown" of its own. A fact that the agent could not establish
//! is never told as an absence.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use stower_crds::{Generation, Uid};

use crate::{
    action::ActionKind, disk::DiskPressure, hooks::PostStart, limit::LayerLimit, probe::ProbeFacts,
    resolve::Files, store::ObservedStores, time::Mono,
};

/// The number of a run of a container: 1 for its first start, never used twice. It names log files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Run(pub u64);

impl Run {
    /// The run after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The digest of an image's manifest, `sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageDigest(Box<str>);

impl ImageDigest {
    /// The digest written as `text`. The store checks digests; here they are only compared.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for ImageDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Everything that was seen, by identity.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observed {
    /// One entry for each declared object, and one for each identity that anything on the machine carries. An
    /// object without an entry is wholly unknown.
    pub containers: BTreeMap<Uid, ObservedContainer>,
    /// One entry for each declared Volume and DataContainer that was looked at.
    pub stores: BTreeMap<Uid, ObservedStores>,
    /// Whether the disk takes new work.
    pub pressure: DiskPressure,
}

/// Volumes of files as they were written, by the names of their directories.
pub type WrittenFiles = BTreeMap<String, Arc<Files>>;

impl Observed {
    /// How many starts are in flight.
    pub fn starts_in_flight(&self) -> usize {
        self.containers.values().filter(|seen| seen.in_flight == Some(ActionKind::Start)).count()
    }
}

/// What was seen of one container. The default is that nothing is known.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ObservedContainer {
    /// The image that the container wants, as [`wanted_image`](crate::wanted_image) names it.
    pub image: ObservedImage,
    /// Its process.
    pub process: ProcessState,
    /// Its cgroups, in every hierarchy.
    pub cgroup: CgroupState,
    /// Its writable layer.
    pub rootfs: RootfsState,
    /// The limit of that layer; `None` when it cannot be told.
    pub limit: Option<LayerLimit>,
    /// Its own directories: data, logs, run directory.
    pub files: FilesState,
    /// The effect that the agent is running for it now, pulls excepted (they are [`ImageState::Pulling`]).
    pub in_flight: Option<ActionKind>,
    /// How the last effect for it failed; `None` once one of the same kind succeeded.
    pub failure: Option<Failure>,
    /// The last generation whose changes were applied to the running process in place.
    pub updated: Option<Generation>,
    /// How far the `postStart` hook of a run is; `None` when this agent has run none.
    pub post_start: Option<PostStart>,
    /// What its probes say of a run; `None` when they have said nothing.
    pub probes: Option<ProbeFacts>,
    /// The files of ConfigMaps and Secrets that were written for it last; `None` when this agent has written none yet.
    pub files_written: Option<WrittenFiles>,
}

impl ObservedContainer {
    /// What is seen of an object that has nothing on the machine, its image included.
    pub fn nothing(reference: &str) -> Self {
        Self {
            image: ObservedImage {
                reference: reference.into(),
                state: ImageState::Absent,
                ..ObservedImage::default()
            },
            process: ProcessState::Absent,
            cgroup: CgroupState::Absent,
            rootfs: RootfsState::Absent,
            limit: None,
            files: FilesState::Absent,
            in_flight: None,
            failure: None,
            updated: None,
            post_start: None,
            probes: None,
            files_written: None,
        }
    }

    /// Whether it is proven that nothing of it is left on the machine.
    pub fn is_gone(&self) -> bool {
        self.process == ProcessState::Absent
            && self.cgroup == CgroupState::Absent
            && self.rootfs == RootfsState::Absent
            && self.files == FilesState::Absent
    }
}

/// What the image store says of an image.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ObservedImage {
    /// The reference that was asked for. An answer for another one than the container wants is no answer.
    pub reference: String,
    /// The answer.
    pub state: ImageState,
    /// The paths of its `VOLUME`s, as it has them, while it is here.
    pub volumes: Cow<'static, [String]>,
}

impl ObservedImage {
    /// Nobody has asked.
    pub(crate) const fn unknown() -> Self {
        Self { reference: String::new(), state: ImageState::Unknown, volumes: Cow::Borrowed(&[]) }
    }
}

/// Whether an image is on this machine, whole.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum ImageState {
    /// The store has not answered.
    #[default]
    Unknown,
    /// It is not here.
    Absent,
    /// It is on its way.
    Pulling,
    /// It is here.
    Present {
        /// Which.
        digest: ImageDigest,
        /// The generation for which the registry gave this answer, when it was asked since the agent started.
        asked: Option<Generation>,
    },
    /// The last attempt to get it failed.
    Failed {
        /// As `status` names it.
        reason: PullFailure,
        /// For people.
        message: String,
        /// When.
        at: Mono,
        /// How many attempts in a row have failed, from 1.
        attempts: u32,
    },
}

/// Why an image is not here; the names that kubelet uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PullFailure {
    /// The registry refused, has none, or broke off.
    ErrImagePull,
    /// The reference cannot be parsed.
    InvalidImageName,
    /// What is stored cannot be read.
    ImageInspectError,
    /// The registry does not answer.
    RegistryUnavailable,
    /// There is too little room for it.
    DiskPressure,
}

impl PullFailure {
    /// As `status.state.waiting.reason` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ErrImagePull => "ErrImagePull",
            Self::InvalidImageName => "InvalidImageName",
            Self::ImageInspectError => "ImageInspectError",
            Self::RegistryUnavailable => "RegistryUnavailable",
            Self::DiskPressure => "DiskPressure",
        }
    }
}

/// What is known of the container's process.
#[derive(Debug, Clone, PartialEq)]
pub enum ProcessState {
    /// It cannot be told.
    Unknown {
        /// What cannot be read, for people.
        why: String,
    },
    /// No run has left anything in this boot.
    Absent,
    /// Its shim is there and its process too.
    Running {
        /// Which run.
        run: Run,
        /// The process on the host.
        pid: u32,
        /// When it started.
        started_at: Timestamp,
        /// The stop that its shim carries out.
        stopping: Option<Stopping>,
    },
    /// It has ended and its exit was recorded.
    Exited {
        /// Which run.
        run: Run,
        /// How.
        exit: Exit,
    },
    /// Its shim is gone and left no exit record.
    Lost {
        /// Which run.
        run: Run,
        /// When it started.
        started_at: Option<Timestamp>,
        /// The exit, when the kernel still tells it.
        exit: Option<Exit>,
    },
}

impl Default for ProcessState {
    fn default() -> Self {
        Self::Unknown { why: "not observed yet".into() }
    }
}

impl ProcessState {
    /// The run it speaks of.
    pub fn run(&self) -> Option<Run> {
        match self {
            Self::Unknown { .. } | Self::Absent => None,
            Self::Running { run, .. } | Self::Exited { run, .. } | Self::Lost { run, .. } => Some(*run),
        }
    }
}

/// A stop in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopping {
    /// When the shim kills the cgroup.
    pub deadline: Mono,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Exit {
    /// Its exit code; 128 and the signal's number when a signal ended it.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The kernel killed something in its cgroup for lack of memory.
    pub oom_killed: bool,
    /// When it started.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// How long it ran on the monotonic clock, where that is known; wall time serves otherwise.
    pub ran_for: Option<Duration>,
    /// What it left to be told.
    pub last_words: LastWords,
}

/// What a run left to be told, within bounds. The spec says which of it is taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LastWords {
    /// The end of the file `terminationMessagePath`.
    pub message: String,
    /// The end of the log, where that file is empty and the program failed.
    pub log: String,
}

/// What is known of the container's cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CgroupState {
    /// It cannot be told.
    #[default]
    Unknown,
    /// There is none.
    Absent,
    /// No process is in any.
    Empty,
    /// At least one process is in one.
    Populated,
}

/// What is known of the container's writable layer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum RootfsState {
    /// It cannot be told.
    #[default]
    Unknown,
    /// There is none.
    Absent,
    /// There is one.
    Present {
        /// The image below it, where that is known.
        image: Option<ImageDigest>,
    },
}

/// What is known of the directories that belong to the container alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FilesState {
    /// It cannot be told.
    #[default]
    Unknown,
    /// There is none.
    Absent,
    /// There are some.
    Present,
}

/// How an effect failed.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// Which kind of action.
    pub action: ActionKind,
    /// The run, of a start.
    pub run: Option<Run>,
    /// As `status` names it.
    pub reason: FailureReason,
    /// For people: what, where, and what to do.
    pub message: String,
    /// When, for intervals.
    pub at: Mono,
    /// When, for people.
    pub wall: Timestamp,
    /// How many attempts of that kind have failed in a row, from 1.
    pub attempts: u32,
}

/// Why an effect failed; the names that kubelet uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum FailureReason {
    /// Something that the start needs is not there. Nothing was made; it is no run, and is tried again.
    CreateContainerConfigError,
    /// The runtime that it asks for is not configured on this node, or not there. As above.
    RuntimeNotFound,
    /// Something could not be made.
    CreateContainerError,
    /// Everything was made, but the command could not be run.
    RunContainerError,
    /// A stop or a kill failed.
    KillContainerError,
    /// A change in place failed.
    UpdateContainerError,
    /// A teardown failed.
    RemoveContainerError,
    /// The effect did not end by its deadline.
    DeadlineExceeded,
    /// A store could not be made or filled.
    ProvisioningFailed,
    /// A store could not be removed.
    VolumeFailedDelete,
    /// There is too little room. Nothing was made; it is no run, and is tried again when there is.
    DiskPressure,
}

impl FailureReason {
    /// As `status` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CreateContainerConfigError => "CreateContainerConfigError",
            Self::RuntimeNotFound => "RuntimeNotFound",
            Self::CreateContainerError => "CreateContainerError",
            Self::RunContainerError => "RunContainerError",
            Self::KillContainerError => "KillContainerError",
            Self::UpdateContainerError => "UpdateContainerError",
            Self::RemoveContainerError => "RemoveContainerError",
            Self::DeadlineExceeded => "DeadlineExceeded",
            Self::ProvisioningFailed => "ProvisioningFailed",
            Self::VolumeFailedDelete => "VolumeFailedDelete",
            Self::DiskPressure => "DiskPressure",
        }
    }
}
