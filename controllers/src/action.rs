//! What is to be done, and why. [`Action`]'s `Display` is what `stower plan` prints.

use std::{fmt, sync::Arc, time::Duration};

use stower_crds::{ContainerSpec, Generation, ObjectKey, ProbeType, Signal, Uid};

use crate::{
    change::FieldChange,
    observed::{ImageDigest, Run, WrittenFiles},
    resolve::Resolved,
    restart::Decider,
    store::{StoreId, StoreWant},
};

/// One thing to do to one object. The executor decides nothing: what is not here is not done.
#[derive(Debug, Clone, PartialEq)]
pub struct Action {
    /// The object.
    pub uid: Uid,
    /// Its name, where it is known: what is left of an object without ledger and record has none.
    pub key: Option<ObjectKey>,
    /// What to do.
    pub act: Act,
    /// Why.
    pub why: Why,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Act {
    /// Get an image onto this machine. The answer is observed as [`ObservedImage`](crate::ObservedImage).
    PullImage {
        /// What to ask for.
        reference: String,
        /// This image and no other, when it was resolved before.
        digest: Option<ImageDigest>,
        /// The generation that it is for, to be reported as `asked`.
        generation: Generation,
    },
    /// Resolve everything that the start needs, then make and start the process; or make and keep nothing.
    Start {
        /// The run.
        run: Run,
        /// The generation of `spec`.
        generation: Generation,
        /// The image to run.
        image: ImageDigest,
        /// The spec to run.
        spec: Arc<ContainerSpec>,
        /// What to keep of the storage of former runs.
        storage: StorageMode,
        /// Everything else that it needs.
        resolved: Arc<Resolved>,
    },
    /// Have the shim stop the process; or abandon the start of that run while that is in flight.
    Stop {
        /// The run.
        run: Run,
        /// The signal, as the spec names it; `None` for what the image says, else `SIGTERM`.
        signal: Option<Signal>,
        /// How long until the whole cgroup is killed; with a hook that takes all of it,
        /// [`HOOK_EXTENSION`](crate::HOOK_EXTENSION) longer.
        grace: Duration,
        /// The spec whose `preStop` hook comes before the signal.
        pre_stop: Option<Arc<ContainerSpec>>,
    },
    /// Run the `postStart` hook, to be reported as [`PostStart`](crate::PostStart). Nothing else waits for it.
    PostStart {
        /// The run.
        run: Run,
        /// The spec whose hook it is.
        spec: Arc<ContainerSpec>,
    },
    /// Kill everything in the container's cgroup, now.
    Kill,
    /// Apply changes to the running process, to be reported as `updated`.
    Update {
        /// The run.
        run: Run,
        /// The generation of `spec`.
        generation: Generation,
        /// The spec to apply.
        spec: Arc<ContainerSpec>,
    },
    /// Bring the files of ConfigMaps and Secrets in a running container up to date, each volume at once.
    Refresh {
        /// The run.
        run: Run,
        /// Every volume of files, by its directory's name.
        files: WrittenFiles,
    },
    /// Make the stores of a Volume or DataContainer, and fill those that are new; what is there is kept.
    MakeStores {
        /// The generation of the spec.
        generation: Generation,
        /// Each store.
        stores: Vec<StoreWant>,
        /// What new ones are filled from.
        image: Option<ImageDigest>,
    },
    /// Remove stores with their data.
    RemoveStores {
        /// Each store.
        stores: Vec<StoreId>,
    },
    /// Remove the writable layer, the directories, the run directory and the cgroups.
    Teardown,
    /// Drop the record and the ledger entry: nothing of the object is left.
    Forget,
}

impl Act {
    /// Which kind it is.
    pub fn kind(&self) -> ActionKind {
        match self {
            Self::PullImage { .. } => ActionKind::PullImage,
            Self::Start { .. } => ActionKind::Start,
            Self::Stop { .. } => ActionKind::Stop,
            Self::PostStart { .. } => ActionKind::PostStart,
            Self::Kill => ActionKind::Kill,
            Self::Update { .. } => ActionKind::Update,
            Self::Refresh { .. } => ActionKind::Refresh,
            Self::MakeStores { .. } => ActionKind::MakeStores,
            Self::RemoveStores { .. } => ActionKind::RemoveStores,
            Self::Teardown => ActionKind::Teardown,
            Self::Forget => ActionKind::Forget,
        }
    }
}

/// The kind of an action, for metrics and for what is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ActionKind {
    /// [`Act::PullImage`].
    PullImage,
    /// [`Act::Start`].
    Start,
    /// [`Act::Stop`].
    Stop,
    /// [`Act::PostStart`].
    PostStart,
    /// [`Act::Kill`].
    Kill,
    /// [`Act::Update`].
    Update,
    /// [`Act::Refresh`].
    Refresh,
    /// [`Act::MakeStores`].
    MakeStores,
    /// [`Act::RemoveStores`].
    RemoveStores,
    /// [`Act::Teardown`].
    Teardown,
    /// [`Act::Forget`].
    Forget,
}

impl ActionKind {
    /// A lower-case word, as in metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PullImage => "pull",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::PostStart => "postStart",
            Self::Kill => "kill",
            Self::Update => "update",
            Self::Refresh => "refresh",
            Self::MakeStores => "make",
            Self::RemoveStores => "remove",
            Self::Teardown => "teardown",
            Self::Forget => "forget",
        }
    }
}

/// What a start does with the storage of former runs: writable layer, anonymous and `emptyDir` volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorageMode {
    /// Keep all of it; make what is missing.
    Keep,
    /// A new writable layer; keep the volumes (`restart.rootfs: Fresh`).
    NewLayer,
    /// Begin all of it anew.
    New,
}

/// The reason of an action, for people.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Why {
    /// It never ran.
    New,
    /// The restart rule.
    Restart {
        /// Which rule, or the policy.
        by: Decider,
        /// How the last run ended, in words.
        after: String,
    },
    /// A start was decided before but left no trace.
    Resume,
    /// The machine was rebooted.
    Reboot,
    /// `start`.
    StartRequested,
    /// `restart`.
    RestartRequested,
    /// Something changed that a running process cannot take over.
    Replaced(Vec<FieldChange>),
    /// Values that it has as files have changed.
    ValuesChanged,
    /// Something changed that can be applied to the running process.
    Changed(Vec<FieldChange>),
    /// The image is not on this machine.
    ImageAbsent,
    /// `imagePullPolicy: Always`, and the spec is new.
    ImagePolicyAlways,
    /// An attempt failed before.
    Retry {
        /// How many failed.
        attempts: u32,
    },
    /// A manual stop.
    Held {
        /// Who asked for it.
        by: String,
    },
    /// The object was removed from its source.
    Removed {
        /// The source.
        source: String,
    },
    /// No source declares it, and all of them are known whole.
    Orphan,
    /// Its shim is gone.
    ShimLost,
    /// Processes are left in its cgroup after its end.
    Leftovers,
    /// Its shim did not end it by the deadline of the stop.
    Overdue,
    /// It has started, and its hook comes next.
    Started,
    /// Its `postStart` hook failed.
    PostStartFailed {
        /// What the hook said.
        message: String,
    },
    /// A startup or liveness probe failed as often as it may.
    Unhealthy {
        /// Which.
        probe: ProbeType,
        /// What it said last.
        message: String,
        /// It is started again by its policy.
        restarts: bool,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => f.write_str("it has not run yet"),
            Self::Restart { by, after } => write!(f, "{by} after {after}"),
            Self::Resume => f.write_str("an earlier start left no trace"),
            Self::Reboot => f.write_str("the machine was rebooted"),
            Self::StartRequested => f.write_str("start was asked for"),
            Self::RestartRequested => f.write_str("a restart was asked for"),
            Self::Replaced(changes) | Self::Changed(changes) => {
                for (index, change) in changes.iter().enumerate() {
                    if index > 0 {
                        f.write_str(", ")?;
                    }
                    change.fmt(f)?;
                }
                Ok(())
            }
            Self::ValuesChanged => f.write_str("values that it has as files have changed"),
            Self::ImageAbsent => f.write_str("it is not on this machine"),
            Self::ImagePolicyAlways => f.write_str("imagePullPolicy is Always and the spec is new"),
            Self::Retry { attempts: 1 } => f.write_str("the last attempt failed"),
            Self::Retry { attempts } => write!(f, "the last {attempts} attempts failed"),
            Self::Held { by } => write!(f, "held by {by}"),
            Self::Removed { source } => write!(f, "removed from {source}"),
            Self::Orphan => f.write_str("no source declares it"),
            Self::ShimLost => f.write_str("its shim is gone"),
            Self::Leftovers => f.write_str("processes are left after its end"),
            Self::Unhealthy { probe, message, .. } => {
                write!(f, "its {} probe failed: {message}", probe.as_str().to_lowercase())
            }
            Self::Overdue => f.write_str("it outlived the deadline of its stop"),
            Self::Started => f.write_str("it has started"),
            Self::PostStartFailed { message } => write!(f, "its postStart hook failed: {message}"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Name<'a>(&'a Action);
        impl fmt::Display for Name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match &self.0.key {
                    Some(key) => key.fmt(f),
                    None => write!(f, "the container with UID {}", self.0.uid),
                }
            }
        }
        struct Made<'a>(&'a Why);
        impl fmt::Display for Made<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.0 {
                    Why::New => f.write_str("it is declared"),
                    why => why.fmt(f),
                }
            }
        }
        let name = Name(self);
        match (&self.act, &self.why) {
            (Act::PullImage { reference, .. }, why) => write!(f, "pull image {reference} for {name}: {why}"),
            (Act::Stop { .. }, why @ Why::Replaced(_)) => write!(f, "replace {name}: {why}"),
            (Act::Start { .. }, why @ (Why::Restart { .. } | Why::RestartRequested | Why::Reboot)) => {
                write!(f, "restart {name}: {why}")
            }
            (Act::Start { .. }, why) => write!(f, "start {name}: {why}"),
            (Act::Stop { .. }, why @ (Why::RestartRequested | Why::Unhealthy { restarts: true, .. })) => {
                write!(f, "restart {name}: {why}")
            }
            (Act::Stop { .. }, why) => write!(f, "stop {name}: {why}"),
            (Act::PostStart { .. }, why) => write!(f, "run the postStart hook of {name}: {why}"),
            (Act::Kill, why) => write!(f, "kill what is left of {name}: {why}"),
            (Act::Update { .. }, why) => write!(f, "update {name} in place: {why}"),
            (Act::Refresh { .. }, why) => write!(f, "refresh the files of {name}: {why}"),
            (Act::MakeStores { image: Some(_), .. }, why) => write!(f, "fill {name}: {}", Made(why)),
            (Act::MakeStores { .. }, why) => write!(f, "make {name}: {}", Made(why)),
            (Act::RemoveStores { .. }, why) => write!(f, "remove the data of {name}: {why}"),
            (Act::Teardown, why) => write!(f, "remove {name}: {why}"),
            (Act::Forget, why) => write!(f, "forget {name}: {why}"),
        }
    }
}
