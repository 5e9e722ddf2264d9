//! What is said of a container: phase, state, conditions; the words of kubelet.

use jiff::Timestamp;
use stower_crds::{
    Condition, ConditionStatus, ConditionType, ContainerSpec, ContainerState, ContainerStateKind,
    ContainerStatus, Phase, ProbeResult, ProbeType, Quantity, Reason, ResourceStatus, StateRunning,
    StateTerminated, StateWaiting, Time,
};

use crate::{
    action::ActionKind,
    container::{describe, has_its_storage, needs_process, replaced},
    desired::Declared,
    disk::DiskPressure,
    image::{ImageNeed, image_need},
    limit,
    observed::{CgroupState, ImageState, ObservedContainer, ProcessState},
    probe::ProbeFacts,
    record::{EndCause, Ended, LaunchStage, Record, RecordState},
    resolve::{Problem, ProblemKind, sentence},
    restart::{Decider, Verdict, decider, verdict},
    time::Now,
};

/// What a status is made of.
#[derive(Debug, Clone, Copy)]
pub struct StatusInput<'a> {
    /// The object.
    pub declared: &'a Declared,
    /// What was seen of it.
    pub observed: &'a ObservedContainer,
    /// Its record, after the plan brought it up to what was seen.
    pub record: Option<&'a RecordState>,
    /// It is in [`Plan::deferred`](crate::Plan::deferred).
    pub queued: bool,
    /// What a start of it would lack now.
    pub problems: &'a [Problem],
    /// Whether the disk takes new work.
    pub pressure: &'a DiskPressure,
    /// The status before: what did not change keeps its time; what only the agent knows (image ID, mounts) is kept.
    pub old: Option<&'a ContainerStatus>,
}

/// Says what is seen of a container.
pub fn container_status(input: &StatusInput<'_>, now: &Now) -> ContainerStatus {
    let StatusInput { declared, record: state, old, .. } = *input;
    let mut status = old.cloned().unwrap_or_default();
    status.observed_generation = Some(declared.generation);
    status.next_restart_time = None;
    let empty = Record::new(declared.uid.clone(), declared.key.clone());
    let record = match state {
        Some(RecordState::Unknown { why }) => {
            let message = format!("its record cannot be read: {why}");
            conditions(&mut status, declared, None, &Told::unknown(message), now.wall);
            return status;
        }
        Some(RecordState::Known(record)) => record,
        None => &empty,
    };
    status.restart_count = record.restart_count;
    let facts = facts(input, record);
    status.started = facts.as_ref().map(|facts| facts.started);
    // A hook comes before everything that a probe may say.
    let hooked = record.launch.as_ref().is_some_and(|launch| launch.post_start_due);
    let awaits = hooked || record.failed_hook.is_some();
    status.ready = facts.as_ref().is_some_and(|facts| facts.ready) && !awaits;
    status.probes = facts.map_or_else(Vec::new, |facts| facts.last);
    let image = record
        .launch
        .as_ref()
        .filter(|launch| launch.stage == LaunchStage::Started)
        .and_then(|launch| Some((launch.spec.image.as_str(), launch.image.as_ref()?)))
        .or_else(|| record.image.as_ref().map(|image| (image.reference.as_str(), &image.digest)));
    status.image = image.map(|(reference, digest)| format!("{}@{digest}", repository(reference)));
    // Those of the last run stay told after its end.
    let ran = record.launch.as_ref().filter(|launch| launch.stage == LaunchStage::Started);
    status.mounts = ran.map_or_else(Vec::new, |launch| launch.mounts.clone());
    status.resources = ran.and_then(|launch| given(&launch.spec, input.observed));
    let told = tell(input, record, now);
    if let Some((phase, state)) = &told.state {
        let ended =
            record.ended.as_ref().map(|ended| ContainerStateKind::Terminated(terminated(ended)).into());
        if state.terminated.is_none() {
            status.last_state = ended;
        }
        status.phase = *phase;
        status.state = Some(state.clone());
        if state.waiting.is_some() {
            let next = record.next_start.as_ref().filter(|next| next.mono > now.mono);
            status.next_restart_time = next.map(|next| Time(next.wall));
        }
    }
    conditions(&mut status, declared, Some(record), &told, now.wall);
    match resize_pending(input, record) {
        Some((reason, message)) => status.conditions.set(Condition {
            type_: ConditionType::ResizePending,
            status: ConditionStatus::True,
            observed_generation: Some(declared.generation),
            last_transition_time: Time(now.wall),
            reason,
            message,
        }),
        None => drop(status.conditions.remove(&ConditionType::ResizePending)),
    }
    status
}

/// What is known by the probes of the run that goes on.
fn facts(input: &StatusInput<'_>, record: &Record) -> Option<ProbeFacts> {
    let ProcessState::Running { run, .. } = input.observed.process else { return None };
    let told = input.observed.probes.as_ref().filter(|facts| facts.run == run).cloned();
    // It runs by the spec that it was started with, not by one that is to replace it.
    let launch = record.launch.as_ref().filter(|launch| launch.run == run);
    let spec = launch.map_or(&input.declared.spec, |launch| &launch.spec);
    Some(told.unwrap_or_else(|| ProbeFacts::untold(spec, run)))
}

/// Whether what runs is ready.
fn ready(input: &StatusInput<'_>, record: &Record, now: &Now) -> (ConditionStatus, Reason, String) {
    let behind = behind(input, record, now);
    let Some(facts) = facts(input, record).filter(|facts| !facts.ready) else {
        return (ConditionStatus::True, Reason::Running, behind);
    };
    let (reason, type_) = if facts.started {
        (Reason::NotReady, ProbeType::Readiness)
    } else {
        (Reason::NotStarted, ProbeType::Startup)
    };
    let word = type_.as_str().to_lowercase();
    let last = facts.last.into_iter().find(|last| last.type_ == type_);
    let said = last.filter(|last| last.result != ProbeResult::Success).and_then(|last| last.message);
    let mut message = match said {
        Some(said) => format!("its {word} probe does not succeed: {said}"),
        None => format!("its {word} probe has not succeeded yet"),
    };
    if !behind.is_empty() {
        message = format!("{message}; {behind}");
    }
    (ConditionStatus::False, reason, message)
}

/// What a run was given, by the spec that it was last told of and by what its layer says.
fn given(spec: &ContainerSpec, observed: &ObservedContainer) -> Option<ResourceStatus> {
    let (mut limits, requests) = (spec.resources.limits.clone(), spec.resources.requests.clone());
    if let Some(limit) = observed.limit.filter(|limit| !limit.is(limit::wanted(spec))) {
        limits.ephemeral_storage = limit.bytes.map(Quantity::from_bytes);
    }
    Some(ResourceStatus { limits, requests }).filter(|given| *given != ResourceStatus::default())
}

/// Why resources are not as declared.
fn resize_pending(input: &StatusInput<'_>, record: &Record) -> Option<(Reason, String)> {
    let StatusInput { declared, observed, .. } = *input;
    // Another run has begun with what is declared.
    let run = record.launch.as_ref().map(|launch| launch.run);
    let failed = observed.failure.as_ref();
    if let Some(failure) = failed.filter(|it| it.action == ActionKind::Update && it.run == run) {
        return Some((failure.reason.as_str().into(), failure.message.clone()));
    }
    limit::kept(&declared.spec, observed).map(|kept| (kept.reason, kept.message))
}

/// What is to be said.
struct Told {
    /// Phase and state; `None` leaves what was said before.
    state: Option<(Phase, ContainerState)>,
    ready: (ConditionStatus, Reason, String),
    /// What cannot be told.
    unknown: Option<String>,
}

impl Told {
    fn unknown(message: String) -> Self {
        let ready = (ConditionStatus::Unknown, Reason::Unknown, message.clone());
        Self { state: None, ready, unknown: Some(message) }
    }

    fn waiting(phase: Phase, reason: Reason, message: impl Into<String>) -> Self {
        let message = message.into();
        let said = Some(message.clone()).filter(|message| !message.is_empty());
        let state =
            ContainerStateKind::Waiting(StateWaiting { reason: reason.clone(), message: said }).into();
        Self { state: Some((phase, state)), ready: (ConditionStatus::False, reason, message), unknown: None }
    }

    fn terminated(phase: Phase, ended: &Ended, message: &str) -> Self {
        let state = terminated(ended);
        let reason = state.reason.clone();
        let message = match (&state.message, message) {
            (Some(said), "") => said.clone(),
            (_, "") => describe(ended),
            (_, message) => message.to_owned(),
        };
        let state = ContainerStateKind::Terminated(state).into();
        Self { state: Some((phase, state)), ready: (ConditionStatus::False, reason, message), unknown: None }
    }
}

fn tell(input: &StatusInput<'_>, record: &Record, now: &Now) -> Told {
    let StatusInput { declared, observed, .. } = *input;
    match &observed.process {
        ProcessState::Unknown { why } => return Told::unknown(format!("its process cannot be told: {why}")),
        ProcessState::Running { pid, started_at, stopping, .. } => {
            let state = StateRunning { started_at: Time(*started_at), pid: *pid };
            let hooked = record.launch.as_ref().is_some_and(|launch| launch.post_start_due);
            let ready = if stopping.is_some() || declared.terminating {
                (ConditionStatus::False, Reason::Stopping, "it is being stopped".to_owned())
            } else if let Some(failed) = &record.failed_hook {
                let message = format!("its postStart hook failed: {}", failed.message);
                (ConditionStatus::False, Reason::PostStartHookError, message)
            } else if hooked {
                let message = "its postStart hook has not ended yet".to_owned();
                (ConditionStatus::False, Reason::ContainerCreating, message)
            } else {
                ready(input, record, now)
            };
            let state = ContainerStateKind::Running(state).into();
            return Told { state: Some((Phase::Running, state)), ready, unknown: None };
        }
        ProcessState::Absent | ProcessState::Exited { .. } | ProcessState::Lost { .. } => {}
    }
    if declared.terminating {
        return Told {
            state: None,
            ..Told::waiting(Phase::Pending, Reason::Stopping, "it is being removed")
        };
    }
    if observed.cgroup == CgroupState::Unknown {
        return Told::unknown("whether processes of it are left cannot be told".to_owned());
    }
    let ended = record.ended.as_ref();
    if let Some(hold) = &record.hold {
        let message = format!("held by {}; `stower start` ends that", hold.by);
        return match ended {
            Some(ended) => Told::terminated(Phase::Pending, ended, &message),
            None => Told::waiting(Phase::Pending, Reason::Held, message),
        };
    }
    if observed.cgroup == CgroupState::Populated && observed.in_flight != Some(ActionKind::Start) {
        return Told::waiting(Phase::Pending, Reason::Stopping, "processes of its last run are left");
    }
    let changed = !replaced(declared, record).is_empty();
    let current = ended.filter(|ended| {
        !changed && !record.start_requested && record.launch.as_ref().is_some_and(|run| run.run == ended.run)
    });
    if let Some(ended) = current.filter(|ended| !ended.asked) {
        match verdict(&declared.spec, ended, record.retries) {
            Verdict::Succeeded => return Told::terminated(Phase::Succeeded, ended, &left(declared, ended)),
            Verdict::Failed => return Told::terminated(Phase::Failed, ended, &left(declared, ended)),
            Verdict::Exhausted => {
                let message = format!(
                    "{} starts in a row were in vain, and maxRetries allows no more; the last ended with {}",
                    record.retries,
                    describe(ended)
                );
                return Told::terminated(Phase::Failed, ended, &message);
            }
            Verdict::Restart => {}
        }
    }
    let waits = record.next_start.as_ref().filter(|next| !changed && next.mono > now.mono);
    if let (Some(_), Some(ended)) = (waits, current) {
        return match ended.cause {
            EndCause::StartFailed(reason) => {
                Told::waiting(Phase::Pending, reason.as_str().into(), ended.message.clone())
            }
            _ => Told::waiting(
                Phase::Pending,
                Reason::CrashLoopBackOff,
                format!(
                    "back-off before restart {} by {} after {}",
                    record.retries,
                    decider(&declared.spec, ended),
                    describe(ended)
                ),
            ),
        };
    }
    if !input.problems.is_empty() {
        return dependencies(input, record, now);
    }
    if let Some(told) = full(input, record, now) {
        return told;
    }
    if let Some(failure) = observed.failure.as_ref().filter(|failure| {
        failure.action == ActionKind::Start
            && failure.run == record.launch.as_ref().map(|launch| launch.run)
            && !changed
    }) {
        return Told::waiting(Phase::Pending, failure.reason.as_str().into(), failure.message.clone());
    }
    if let Some(told) = image_trouble(input, record, now) {
        return told;
    }
    if input.queued {
        return Told::waiting(
            Phase::Pending,
            Reason::StartQueued,
            "as many starts as are allowed are in flight",
        );
    }
    Told::waiting(Phase::Pending, Reason::ContainerCreating, "")
}

/// Which rule leaves it ended, where it is not the policy.
fn left(declared: &Declared, ended: &Ended) -> String {
    match decider(&declared.spec, ended) {
        by @ Decider::Rule(_) => format!("{by} leaves it ended after {}", describe(ended)),
        Decider::Policy(_) => String::new(),
    }
}

/// That the disk takes no new work, where it needs some and none of it is under way.
fn full(input: &StatusInput<'_>, record: &Record, now: &Now) -> Option<Told> {
    let StatusInput { declared, observed, pressure, .. } = *input;
    let under_way = observed.in_flight.is_some() || observed.image.state == ImageState::Pulling;
    if !pressure.is_on() || under_way {
        return None;
    }
    let needs_none =
        has_its_storage(declared, record, observed) && image_trouble(input, record, now).is_none();
    (!needs_none).then(|| Told::waiting(Phase::Pending, Reason::DiskPressure, pressure.message.clone()))
}

/// Everything that is missing, its image included.
fn dependencies(input: &StatusInput<'_>, record: &Record, now: &Now) -> Told {
    let gravest = input.problems.iter().map(|problem| problem.kind).max().unwrap_or(ProblemKind::Missing);
    let mut message = sentence(input.problems);
    // That it is on its way is nothing that is missing.
    let image = image_trouble(input, record, now);
    if let Some(image) = image.filter(|told| told.ready.1 != Reason::ContainerCreating) {
        message = format!("{message}; {}", image.ready.2);
    }
    Told::waiting(Phase::Pending, gravest.reason(), message)
}

/// What stands between the container and its image, if anything does.
fn image_trouble(input: &StatusInput<'_>, record: &Record, now: &Now) -> Option<Told> {
    let StatusInput { declared, observed, .. } = *input;
    let spec = &declared.spec;
    let new_process = needs_process(declared, record);
    let waiting = |reason, message| Some(Told::waiting(Phase::Pending, reason, message));
    match image_need(spec, declared.generation, new_process, record, &observed.image, now) {
        ImageNeed::Ready(_) => None,
        ImageNeed::NeverPull => waiting(
            Reason::ErrImageNeverPull,
            format!("image {} is not on this machine and imagePullPolicy is Never", spec.image),
        ),
        ImageNeed::Unknown | ImageNeed::Pulling | ImageNeed::Pull { .. } | ImageNeed::Failed { .. } => {
            match &observed.image.state {
                ImageState::Failed { reason, message, attempts, .. }
                    if observed.image.reference == spec.image =>
                {
                    let one = *attempts <= 1 || *reason == crate::PullFailure::InvalidImageName;
                    let reason = if one { reason.as_str().into() } else { Reason::ImagePullBackOff };
                    waiting(reason, message.clone())
                }
                ImageState::Pulling | ImageState::Absent => {
                    waiting(Reason::ContainerCreating, format!("pulling image {}", spec.image))
                }
                _ => None,
            }
        }
    }
}

/// What a running process is behind its spec in.
fn behind(input: &StatusInput<'_>, record: &Record, now: &Now) -> String {
    if replaced(input.declared, record).is_empty() {
        return String::new();
    }
    let trouble = if input.problems.is_empty() {
        full(input, record, now).or_else(|| image_trouble(input, record, now))
    } else {
        Some(dependencies(input, record, now))
    };
    let waits = trouble.map(|told| format!(": {}: {}", told.ready.1, told.ready.2));
    format!("it is to be replaced by generation {}{}", input.declared.generation, waits.unwrap_or_default())
}

fn conditions(
    status: &mut ContainerStatus,
    declared: &Declared,
    record: Option<&Record>,
    told: &Told,
    now: Timestamp,
) {
    let mut set = |type_, status_, reason, message: String| {
        status.conditions.set(Condition {
            type_,
            status: status_,
            observed_generation: Some(declared.generation),
            last_transition_time: Time(now),
            reason,
            message,
        });
    };
    set(ConditionType::Accepted, ConditionStatus::True, Reason::Accepted, String::new());
    let (ready, reason, message) = told.ready.clone();
    set(ConditionType::Ready, ready, reason, message);
    match &told.unknown {
        Some(why) => set(ConditionType::Observed, ConditionStatus::False, Reason::Unknown, why.clone()),
        None => set(ConditionType::Observed, ConditionStatus::True, Reason::from("Observed"), String::new()),
    }
    match record.map(|record| &record.hold) {
        Some(Some(hold)) => {
            let message = format!("held by {} since {}", hold.by, hold.since);
            set(ConditionType::Held, ConditionStatus::True, Reason::Held, message);
        }
        Some(None) => set(ConditionType::Held, ConditionStatus::False, Reason::NotHeld, String::new()),
        None => {}
    }
}

/// The end of a run as `state.terminated` has it.
fn terminated(ended: &Ended) -> StateTerminated {
    let reason = match ended.cause {
        EndCause::ShimLost => Reason::ShimLost,
        EndCause::Rebooted => Reason::Rebooted,
        EndCause::StartFailed(_) => Reason::ContainerCannotRun,
        EndCause::Exited if ended.oom_killed => Reason::OOMKilled,
        EndCause::Exited if ended.exit_code == 0 => Reason::Completed,
        EndCause::Exited => Reason::Error,
    };
    StateTerminated {
        exit_code: ended.exit_code,
        signal: ended.signal,
        reason,
        message: Some(ended.message.clone()).filter(|message| !message.is_empty()),
        started_at: ended.started_at.map(Time),
        finished_at: Some(Time(ended.finished_at)),
    }
}

/// The repository of a reference, with its registry: `redis:7` is of `docker.io/library/redis`.
fn repository(reference: &str) -> String {
    let name = reference.split('@').next().unwrap_or_default();
    let slash = name.rfind('/').map_or(0, |at| at + 1);
    let name = match name[slash..].find(':') {
        Some(colon) => &name[..slash + colon],
        None => name,
    };
    match name.split_once('/') {
        None => format!("docker.io/library/{name}"),
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
    }
}

#[cfg(test)]
mod tests;
