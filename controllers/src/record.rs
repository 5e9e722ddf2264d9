//! What an object must not forget, whatever happens to the agent.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use stower_crds::{ContainerSpec, Generation, MountStatus, ObjectKey, ProbeType, Uid};

use crate::{
    hooks::FailedHook,
    observed::{FailureReason, ImageDigest, Run},
    time::{BootId, Mono, Now},
};

/// The version that this release writes. Fields are only ever added to it; what is unknown is skipped, and what is
/// missing has its default.
pub const RECORD_VERSION: u32 = 1;

/// The durable memory of one Container, hanging on its UID.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The version that wrote it.
    pub version: u32,
    /// Whose.
    pub uid: Uid,
    /// Its name, for when no source has it any more.
    pub key: ObjectKey,
    /// The highest number that a run was given.
    #[serde(default)]
    pub last_run: Run,
    /// How often it started again after it had run; never less than before.
    #[serde(default)]
    pub restart_count: u32,
    /// Runs in a row that were too short to count as good, or could not be started.
    #[serde(default)]
    pub retries: u32,
    /// When it may start again. `None`: at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_start: Option<Deadline>,
    /// A manual stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// Somebody asked for a start, whatever the restart rule says. Cleared by that start.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub start_requested: bool,
    /// The run that somebody asked to be restarted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_requested: Option<Run>,
    /// The run that the agent set out to stop: its end is nobody's failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_to_stop: Option<Run>,
    /// The grace period that somebody asked for with a stop or restart, in milliseconds, instead of the spec's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_grace_ms: Option<u64>,
    /// The run that is ended because its `postStart` hook failed: its end is a failure, whatever its exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_hook: Option<FailedHook>,
    /// The run that is ended for what a probe said: its end is a failure, whatever its exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unhealthy: Option<Unhealthy>,
    /// What the image reference of the accepted spec stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ResolvedImage>,
    /// The last start that was set out on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch: Option<Launch>,
    /// A replacement is under way: the next start begins new storage.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub renew: bool,
    /// The last end of a run that the restart rule was asked about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

impl Record {
    /// The record of an object that nothing is remembered of.
    pub fn new(uid: Uid, key: ObjectKey) -> Self {
        Self {
            version: RECORD_VERSION,
            uid,
            key,
            last_run: Run::default(),
            restart_count: 0,
            retries: 0,
            next_start: None,
            hold: None,
            start_requested: false,
            restart_requested: None,
            asked_to_stop: None,
            asked_grace_ms: None,
            failed_hook: None,
            unhealthy: None,
            image: None,
            launch: None,
            renew: false,
            ended: None,
        }
    }

    /// `stop`: holds the container until [`Record::start`], or under `Always` until the machine boots again. A
    /// hold that is there already stays as it is. The grace period is the spec's until
    /// [`asked_grace_ms`](Self::asked_grace_ms) is set.
    pub fn stop(&mut self, by: &str, now: &Now) {
        self.asked_grace_ms = None;
        self.start_requested = false;
        self.restart_requested = None;
        self.hold.get_or_insert_with(|| Hold {
            since: now.wall,
            by: by.to_owned(),
            boot_id: now.boot_id.clone(),
        });
    }

    /// `start`: ends a hold, starts a container that has finished, and cuts a backoff short. Nothing changes for
    /// one that runs.
    pub fn start(&mut self) {
        self.hold = None;
        self.asked_grace_ms = None;
        self.start_requested = true;
        self.retries = 0;
        self.next_start = None;
    }

    /// `restart`: ends the run that is there, if one is, and starts the container. Ends a hold too.
    pub fn restart(&mut self) {
        self.start();
        self.restart_requested = self.launch.as_ref().map(|launch| launch.run);
    }

    /// `pull`: takes what a registry now says the reference stands for. The container is replaced when that is
    /// another image than it runs.
    pub fn set_image(&mut self, image: ResolvedImage) {
        self.image = Some(image);
    }
}

/// A moment on the clock of one boot, with the wall time it was expected at, which carries it over a reboot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deadline {
    /// The boot of `mono`.
    pub boot_id: BootId,
    /// The moment, within that boot.
    pub mono: Mono,
    /// The moment for people, and after another boot.
    pub wall: Timestamp,
}

/// A durable manual stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// Since when.
    pub since: Timestamp,
    /// Who asked for it, for people.
    pub by: String,
    /// The last boot in which it was found to hold.
    pub boot_id: BootId,
}

/// A run that failed its startup or liveness probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unhealthy {
    /// The run.
    pub run: Run,
    /// The probe.
    pub probe: ProbeType,
    /// What it said last.
    pub message: String,
}

/// What an image reference was resolved to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedImage {
    /// The reference, as the spec has it.
    pub reference: String,
    /// The image.
    pub digest: ImageDigest,
    /// The generation of the spec that it was resolved for.
    pub generation: Generation,
}

/// A start that was set out on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Launch {
    /// Its run.
    pub run: Run,
    /// The boot it belongs to.
    pub boot_id: BootId,
    /// What the spec was, with the changes since that were applied in place.
    pub generation: Generation,
    /// The image, where it is known.
    pub image: Option<ImageDigest>,
    /// The spec of `generation`.
    pub spec: Arc<ContainerSpec>,
    /// How far it came.
    pub stage: LaunchStage,
    /// It counts as a restart once it is seen to have run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_restart: bool,
    /// The objects whose storage it has mounted: they stay while it may run.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub uses: BTreeSet<Uid>,
    /// What it has mounted, for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<MountStatus>,
    /// Its `postStart` hook is not known to have succeeded yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub post_start_due: bool,
}

/// How far a start came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LaunchStage {
    /// It was decided; nothing was seen of it yet.
    Intended,
    /// It was seen to have run.
    Started,
    /// It failed.
    Failed,
}

/// The end of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    /// Which run.
    pub run: Run,
    /// How it came about.
    pub cause: EndCause,
    /// The exit code; 255 where there is none.
    pub exit_code: i32,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The kernel killed something in its cgroup for lack of memory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub oom_killed: bool,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When it started, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended, or was found to have.
    pub finished_at: Timestamp,
    /// The agent stopped it, or somebody had asked for a restart: the restart rule has no say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asked: bool,
    /// It was ended because its `postStart` hook failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed_hook: bool,
    /// The probe that it was ended for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unhealthy: Option<ProbeType>,
}

/// How a run came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum EndCause {
    /// Its process exited.
    Exited,
    /// Its shim died, and it was killed for that.
    ShimLost,
    /// The machine went down under it.
    Rebooted,
    /// It could not be started.
    StartFailed(FailureReason),
}

/// What is on disk for an object.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly every value is the large one")]
pub enum RecordState {
    /// A record that this release understands.
    Known(Record),
    /// One that it does not, as of a newer release: the object is left as it is.
    Unknown {
        /// What is wrong with it, for people.
        why: String,
    },
}

impl RecordState {
    /// The record, if it can be understood.
    pub fn known(&self) -> Option<&Record> {
        match self {
            Self::Known(record) => Some(record),
            Self::Unknown { .. } => None,
        }
    }
}

/// The records of all objects. An object that is not in it has none.
pub type Records = BTreeMap<Uid, RecordState>;
