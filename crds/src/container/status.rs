//! What the agent says it sees.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::{Generation, ResourceStatus, Time, text::open_names};

/// What the agent says it sees.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>")]
    pub observed_generation: Option<Generation>,
    /// Where the container is in its life: `Pending`, `Running`, `Succeeded` or `Failed`.
    #[serde(default)]
    pub phase: Phase,
    /// What the process is doing now; one of its parts is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<ContainerState>,
    /// How the run before ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_state: Option<ContainerState>,
    /// Whether its startup probe, where it has one, has succeeded in this run; absent while it does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<bool>,
    /// Whether it runs, has started and passes its readiness probe, where it has one.
    #[serde(default)]
    pub ready: bool,
    /// What its probes said last, in this run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<ProbeStatus>,
    /// How often the container was restarted.
    #[serde(default)]
    pub restart_count: u32,
    /// When it is started next, while it waits for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_restart_time: Option<Time>,
    /// The image that runs, by digest: `docker.io/library/redis@sha256:…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Digest of the image's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "imageID")]
    pub image_id: Option<String>,
    /// What is mounted in the container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<MountStatus>,
    /// What the run that is told of was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceStatus>,
    /// What holds of the container, one of each type.
    #[serde(default, skip_serializing_if = "Conditions::is_empty")]
    pub conditions: Conditions,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// It has not run yet, or waits for its next start.
    #[default]
    Pending,
    /// Its process runs.
    Running,
    /// It ended with exit code 0 and is not started again.
    Succeeded,
    /// It ended otherwise and is not started again, or cannot be started.
    Failed,
}

impl Phase {
    /// The name as documents have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Pending => "Pending",
            Phase::Running => "Running",
            Phase::Succeeded => "Succeeded",
            Phase::Failed => "Failed",
        }
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a process is doing or how it ended; exactly one part is set.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerState {
    /// It does not run yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<StateWaiting>,
    /// It runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<StateRunning>,
    /// It ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminated: Option<StateTerminated>,
}

/// A [`ContainerState`] as the one thing it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerStateKind {
    /// It does not run yet.
    Waiting(StateWaiting),
    /// It runs.
    Running(StateRunning),
    /// It ended.
    Terminated(StateTerminated),
}

impl From<ContainerStateKind> for ContainerState {
    fn from(kind: ContainerStateKind) -> Self {
        let mut state = Self::default();
        match kind {
            ContainerStateKind::Waiting(waiting) => state.waiting = Some(waiting),
            ContainerStateKind::Running(running) => state.running = Some(running),
            ContainerStateKind::Terminated(terminated) => state.terminated = Some(terminated),
        }
        state
    }
}

/// Why a container does not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StateWaiting {
    /// One word for programs: `CrashLoopBackOff`.
    pub reason: Reason,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// The process that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StateRunning {
    /// When it was started.
    pub started_at: Time,
    /// Number of its first process on the host.
    pub pid: u32,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StateTerminated {
    /// Its exit code; 128 + the signal's number when a signal ended it.
    pub exit_code: i32,
    /// Number of the signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// One word for programs: `Completed`, `Error`, `OOMKilled`.
    pub reason: Reason,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When it was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
}

/// What a probe said last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProbeStatus {
    /// Which one: `Startup`, `Liveness` or `Readiness`.
    #[serde(rename = "type")]
    pub type_: ProbeType,
    /// What came of it.
    pub result: ProbeResult,
    /// Failures in a row, up to the probe's `failureThreshold`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures: u32,
    /// A sentence for people, where it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// The probes that a container may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ProbeType {
    /// Says when the program has started.
    Startup,
    /// Says whether it is alive.
    Liveness,
    /// Says whether it is ready.
    Readiness,
}

impl ProbeType {
    /// All of them.
    pub const ALL: [ProbeType; 3] = [ProbeType::Startup, ProbeType::Liveness, ProbeType::Readiness];

    /// The name as documents have it.
    pub fn as_str(self) -> &'static str {
        match self {
            ProbeType::Startup => "Startup",
            ProbeType::Liveness => "Liveness",
            ProbeType::Readiness => "Readiness",
        }
    }
}

/// What came of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ProbeResult {
    /// It succeeded.
    Success,
    /// It failed, or was not answered in time.
    Failure,
    /// It could not be asked, which counts for nothing.
    Unknown,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if gives a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A mount in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MountStatus {
    /// Path in the container.
    pub mount_path: String,
    /// Name of the volume, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The object that it comes from: `DataContainer default/data`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Whether it is read-only.
    #[serde(default, skip_serializing_if = "crate::container::is_false")]
    pub read_only: bool,
}

/// One thing that holds of an object, as in Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it says.
    #[serde(rename = "type")]
    pub type_: ConditionType,
    /// Whether it holds: `True`, `False` or `Unknown`.
    pub status: ConditionStatus,
    /// Generation of the spec that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>")]
    pub observed_generation: Option<Generation>,
    /// When `status` changed last.
    pub last_transition_time: Time,
    /// One word for programs.
    pub reason: Reason,
    /// A sentence for people.
    #[serde(default)]
    pub message: String,
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody can tell.
    Unknown,
}

open_names! {
    /// What a condition says.
    ConditionType {
        /// The object passed validation and owns its name.
        Accepted,
        /// The process runs and is ready.
        Ready,
        /// A person stopped it, and only a person starts it again.
        Held,
        /// What the agent sees is certain.
        Observed,
        /// A change of resources has not taken effect; as `PodResizePending` of a Pod.
        ResizePending,
    }
}

open_names! {
    /// Why: one word in CamelCase, those of Kubernetes where it has one.
    Reason {
        /// Passed validation.
        Accepted,
        /// Refused by validation.
        Invalid,
        /// Another source or file declared the name first.
        NameConflict,
        /// A field or kind that this version does not run.
        NotSupported,
        /// Being made.
        ContainerCreating,
        /// There is too little room on disk for anything new.
        DiskPressure,
        /// Waits for its turn after a boot.
        StartQueued,
        /// Waits between an end and the next start.
        CrashLoopBackOff,
        /// Its image is being fetched.
        Pulling,
        /// Its image could not be fetched.
        ErrImagePull,
        /// Waits before the image is tried again.
        ImagePullBackOff,
        /// `imagePullPolicy` is `Never` and the image is not here.
        ErrImageNeverPull,
        /// The image reference is not one.
        InvalidImageName,
        /// The registry does not answer.
        RegistryUnavailable,
        /// The image cannot be used: wrong architecture, bad configuration.
        ImageInspectError,
        /// The spec and the image do not go together: no such user, no command.
        CreateContainerConfigError,
        /// The runtime that it asks for is not configured on this node, or not there.
        RuntimeNotFound,
        /// It could not be made.
        CreateContainerError,
        /// The program could not be started.
        RunContainerError,
        /// Its `postStart` hook failed, so it is ended.
        PostStartHookError,
        /// Something it needs is not there.
        DependencyMissing,
        /// Whether a ConfigMap that it needs is there cannot be told: the API server does not say.
        ConfigMapUnavailable,
        /// Whether a Secret that it needs is there cannot be told: the API server does not say.
        SecretUnavailable,
        /// What its namespace allows cannot be told.
        NamespaceUnavailable,
        /// Its namespace does not allow what it asks for.
        PodSecurity,
        /// Something it needs is on another node.
        DependencyOnOtherNode,
        /// Stopped by a person.
        Held,
        /// Started by a person.
        NotHeld,
        /// Runs.
        Running,
        /// Runs, and its startup probe has not succeeded yet.
        NotStarted,
        /// Runs, and its readiness probe does not succeed.
        NotReady,
        /// Being stopped.
        Stopping,
        /// Ended with exit code 0.
        Completed,
        /// Ended with another exit code, or by a signal.
        Error,
        /// A process was killed for lack of memory.
        OOMKilled,
        /// The program could not be run at all.
        ContainerCannotRun,
        /// Its shim was lost, and with it its processes.
        ShimLost,
        /// How it ended is not known.
        ContainerStatusUnknown,
        /// The end of a machine's run ended it.
        Rebooted,
        /// Smaller than what is there, which is kept.
        CannotShrink,
        /// A change that takes effect later; the word of a Pod's resize.
        Deferred,
        /// A change that this node cannot make; the word of a Pod's resize.
        Infeasible,
        /// As many restarts as are allowed were in vain.
        RetriesExhausted,
        /// What is on the machine cannot be told.
        Unknown,
    }
}

macro_rules! word_schema {
    ($name:ident) => {
        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "maxLength": 316 })
            }
        }
    };
}

word_schema!(ConditionType);
word_schema!(Reason);

/// The conditions of an object, one of each type, in the order of their types.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct Conditions(Vec<Condition>);

impl Conditions {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The condition of a type.
    pub fn get(&self, type_: &ConditionType) -> Option<&Condition> {
        self.0.binary_search_by(|have| have.type_.cmp(type_)).ok().and_then(|at| self.0.get(at))
    }

    /// Whether the condition of a type is there and `True`.
    pub fn is_true(&self, type_: &ConditionType) -> bool {
        self.get(type_).is_some_and(|have| have.status == ConditionStatus::True)
    }

    /// Sets a condition. `lastTransitionTime` stays as it was when the status did not change.
    pub fn set(&mut self, mut condition: Condition) {
        match self.0.binary_search_by(|have| have.type_.cmp(&condition.type_)) {
            Ok(at) => {
                let have = &mut self.0[at];
                if have.status == condition.status {
                    condition.last_transition_time = have.last_transition_time;
                }
                *have = condition;
            }
            Err(at) => self.0.insert(at, condition),
        }
    }

    /// Removes the condition of a type; returns it.
    pub fn remove(&mut self, type_: &ConditionType) -> Option<Condition> {
        let at = self.0.binary_search_by(|have| have.type_.cmp(type_)).ok()?;
        Some(self.0.remove(at))
    }

    /// All of them, in the order of their types.
    pub fn iter(&self) -> std::slice::Iter<'_, Condition> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Conditions {
    type Item = &'a Condition;
    type IntoIter = std::slice::Iter<'a, Condition>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl FromIterator<Condition> for Conditions {
    /// The last of each type counts.
    fn from_iter<I: IntoIterator<Item = Condition>>(conditions: I) -> Self {
        let mut all = Self::default();
        for condition in conditions {
            all.remove(&condition.type_);
            all.set(condition);
        }
        all
    }
}

impl<'de> Deserialize<'de> for Conditions {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::<Condition>::deserialize(deserializer).map(Self::from_iter)
    }
}

impl JsonSchema for Conditions {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Conditions".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "array",
            "items": generator.subschema_for::<Condition>(),
            "maxItems": 32,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        })
    }
}
