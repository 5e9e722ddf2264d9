//! The decisions of stower, pure: values in, values out.
//!
//! ```text
//!  SourceSnapshot ─► accept ─► Ledger ─► Desired ─┐
//!                                                 │                 ┌► [Action]  ─► the agent carries them out
//!  the agent observes ──────────────► Observed ───┼─► plan ─► Plan ─┼► [Record]  ─► the agent remembers them
//!  the agent remembers ─────────────► Records  ───┤                 └► wake_at, deferred, notes
//!  the agent reads its clocks ──────► Now ────────┘
//!                                         └─────────► container_status ─► ContainerStatus ─► the agent publishes it
//! ```
//!
//! One action at most for each object and plan. A plan that was carried out and observed gives nothing more. What is
//! unknown is kept and reported; only proven absence removes anything. No clock, file, socket, task, environment or
//! randomness is used here: the crate's clippy configuration forbids them.

#![forbid(unsafe_code)]

mod accept;
mod account;
mod action;
mod bucket;
mod change;
mod check;
mod container;
mod correlate;
mod desired;
mod disk;
#[cfg(test)]
mod fixtures;
mod gc;
mod hooks;
mod image;
mod lease;
mod limit;
mod observed;
mod plan;
mod pod_security;
mod probe;
mod publish;
mod record;
mod resolve;
mod restart;
mod status;
mod store;
mod store_status;
mod time;

pub use accept::{
    Changes, Claim, Entry, FileId, FileState, FsId, Ledger, RejectReason, Rejection, SourceSnapshot,
};
pub use action::{Act, Action, ActionKind, StorageMode, Why};
pub use bucket::TokenBucket;
pub use change::{Change, FieldChange, diff};
pub use check::check;
pub use correlate::{About, Correlator, EventAct, EventLimits, Occurrence, WrittenEvent};
pub use desired::{AnyDeclared, Completeness, Declared, Desired, Meta, SourceId, Values};
pub use disk::{Disk, DiskPolicy, DiskPressure, Floor, Goal, PoolRoom, PressureKind, Room};
pub use gc::{ImageFacts, References, Removal, Spared, Stored, Takes, references};
pub use hooks::{FailedHook, HOOK_EXTENSION, HookState, PostStart};
pub use image::{WantedImage, pull_policy, wanted_image};
pub use lease::{LEASE_DURATION, LEASE_RENEWAL, Lease, LeaseAct, LeaseAnswer, LeaseKeeper, Standing};
pub use limit::{LayerLimit, LimitChange};
pub use observed::{
    CgroupState, Exit, Failure, FailureReason, FilesState, ImageDigest, ImageState, LastWords, Observed,
    ObservedContainer, ObservedImage, ProcessState, PullFailure, RootfsState, Run, Stopping, WrittenFiles,
};
pub use plan::{Note, Plan, START_CONCURRENCY, StartBudget, plan, plan_some};
pub use pod_security::{
    BASELINE_CAPABILITIES, LEVEL_ANNOTATION, PodSecurityLevel, RESTRICTED_CAPABILITIES, SE_LINUX_TYPES,
    Violation, accepted, accepted_at, pod_security, takes_from_others, violates,
};
pub use probe::{
    KeptProbes, ProbeEvent, ProbeFacts, ProbeFailure, ProbeOutcome, Probed, Prober, Ticket as ProbeTicket,
};
pub use publish::{Answer, Mark, Outbox, Publish, PublishLimits};
pub use record::{
    Deadline, EndCause, Ended, Hold, Launch, LaunchStage, RECORD_VERSION, Record, RecordState, Records,
    ResolvedImage, Unhealthy,
};
pub use resolve::{File, Files, MountWhat, Problem, ProblemKind, Resolved, ResolvedMount, Variable, resolve};
pub use restart::{Decider, Verdict, backoff_delay, decider, pull_delay, retry_delay, verdict};
pub use status::{StatusInput, container_status};
pub use store::{
    ObservedStores, StoreContent, StoreFacts, StoreId, StoreMedium, StoreState, StoreWant, Uses,
};
pub use store_status::{data_status, volume_status};
pub use time::{BootId, Mono, Now};
