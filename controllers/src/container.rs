//! What one container needs next.
//!
//! First the record is brought up to what was seen (`account`), then one action at most follows from it.
//! Everything that cannot be told ends in a note and leaves the container as it is.

use std::{sync::Arc, time::Duration};

use stower_crds::{ContainerSpec, Generation, ObjectKey, RestartPolicy, RootfsPolicy, Signal, Uid};

use crate::{
    account::account,
    action::{Act, Action, ActionKind, StorageMode, Why},
    change::{Change, FieldChange, diff},
    desired::Declared,
    hooks::{FailedHook, HOOK_EXTENSION, HookState, hooked, post_start, stop_signal},
    image::{ImageNeed, image_need},
    limit,
    observed::{
        CgroupState, FilesState, ImageDigest, ObservedContainer, ProcessState, RootfsState, Run, Stopping,
    },
    plan::Note,
    probe::{ProbeFailure, grace_after},
    record::{EndCause, Ended, Launch, LaunchStage, Record, RecordState, Unhealthy},
    resolve::{Files, Resolved, ResolvedMount, reachable, resolve, resolve_files, sentence},
    restart::{Verdict, decider, retry_delay, verdict},
    store::{Facts, list},
    time::{Mono, Now},
};

/// The grace period of a container whose spec nobody has any more.
const ORPHAN_GRACE: Duration = Duration::from_secs(30);
/// How long after the deadline of a stop the shim is waited for before its work is done for it.
const OVERDUE_SLACK: Duration = Duration::from_secs(5);
/// How many stops may fail before the cgroup is killed instead.
const STOPS_BEFORE_KILL: u32 = 3;

/// What was decided for one object.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Decision {
    /// What to do.
    pub(crate) action: Option<Action>,
    /// The record, when it has changed.
    pub(crate) record: Option<Record>,
    /// When to look again, even if nothing is observed.
    pub(crate) wake_at: Option<Mono>,
    /// Why it is left as it is.
    pub(crate) note: Option<Note>,
    /// It would start, but may not yet.
    pub(crate) deferred: bool,
}

/// Decides for one object: declared, or left over on the machine.
///
/// `may_start` is false while as many starts as are allowed are in flight.
pub(crate) fn plan_container(
    uid: &Uid,
    facts: &Facts<'_>,
    state: Option<&RecordState>,
    may_start: bool,
) -> Decision {
    let (desired, now) = (facts.desired, facts.now);
    let observed = facts.observed.containers.get(uid);
    let declared = desired.by_uid(uid).map(AsRef::as_ref);
    if let (Some(declared), Some(observed), Some(RecordState::Known(record))) = (declared, observed, state)
        && is_settled(declared, observed, record, now)
    {
        return Decision::default();
    }
    let key = declared.map(|d| &d.key).or_else(|| state.and_then(RecordState::known).map(|r| &r.key));
    let unknown = ObservedContainer::default();
    let mut planner = Planner {
        uid,
        key: key.cloned(),
        observed: observed.unwrap_or(&unknown),
        now,
        facts,
        may_start,
        decision: Decision::default(),
    };
    match (declared, state) {
        (_, Some(RecordState::Unknown { why })) => planner.note(format!("its record cannot be read: {why}")),
        (Some(declared), state) if declared.terminating => {
            let why = Why::Removed { source: declared.source.to_string() };
            planner.remove(why, Some(declared), state.and_then(RecordState::known));
        }
        (Some(declared), state) => {
            let old = state.and_then(RecordState::known);
            let mut record =
                old.cloned().unwrap_or_else(|| Record::new(declared.uid.clone(), declared.key.clone()));
            account(&mut record, declared, planner.observed, now);
            // It runs, and nobody remembers with what: what it names is not taken from under it.
            let remembered = old.and_then(|old| old.launch.as_ref()).map(|launch| launch.run);
            if let Some(launch) = record.launch.as_mut().filter(|launch| Some(launch.run) != remembered) {
                launch.uses = reachable(declared, desired);
            }
            planner.keep(declared, &mut record);
            if old.map_or_else(
                || record != Record::new(declared.uid.clone(), declared.key.clone()),
                |old| *old != record,
            ) {
                planner.decision.record = Some(record);
            }
        }
        (None, state) => {
            let record = state.and_then(RecordState::known);
            match desired.unproven() {
                Some((source, why)) => {
                    planner.note(format!("it is kept, because {source} may still declare it: {why}"));
                }
                None => planner.remove(Why::Orphan, None, record),
            }
        }
    }
    planner.decision
}

/// The common case, told at once: it runs as declared and nobody wants anything else.
fn is_settled(declared: &Declared, observed: &ObservedContainer, record: &Record, now: &Now) -> bool {
    let (ProcessState::Running { run, stopping: None, .. }, Some(launch)) =
        (&observed.process, &record.launch)
    else {
        return false;
    };
    !declared.terminating
        && launch.run == *run
        && launch.stage == LaunchStage::Started
        && launch.generation == declared.generation
        && launch.boot_id == now.boot_id
        && launch.image.as_ref() == record.image.as_ref().map(|image| &image.digest)
        && record.hold.is_none()
        && record.restart_requested.is_none()
        && !record.start_requested
        && !record.renew
        && record.next_start.is_none()
        && record.failed_hook.is_none()
        && !launch.post_start_due
        && record.unhealthy.is_none()
        && observed.probes.as_ref().is_none_or(|probes| probes.failed.is_none())
        && !has_files(&declared.spec)
        && limit::kept(&declared.spec, observed).is_none()
}

/// Whether a container may have volumes whose content follows another object.
fn has_files(spec: &ContainerSpec) -> bool {
    !spec.volumes_from.is_empty()
        || spec.volumes.iter().any(|volume| volume.config_map.is_some() || volume.secret.is_some())
}

/// What has changed, since the last start was set out on, that asks for another process.
pub(crate) fn replaced(declared: &Declared, record: &Record) -> Vec<FieldChange> {
    let Some(launch) = &record.launch else { return Vec::new() };
    if launch.generation != declared.generation
        && let Change::Replace { fields } = diff(&launch.spec, &declared.spec)
    {
        return fields;
    }
    match (&launch.image, &record.image) {
        (Some(ran), Some(wanted)) if *ran != wanted.digest && wanted.reference == declared.spec.image => {
            vec![FieldChange {
                path: format!("image {}", wanted.reference),
                from: Some(ran.to_string()),
                to: Some(wanted.digest.to_string()),
            }]
        }
        _ => Vec::new(),
    }
}

/// Whether the next start is one of a new or changed spec.
pub(crate) fn needs_process(declared: &Declared, record: &Record) -> bool {
    record.launch.is_none() || !replaced(declared, record).is_empty()
}

/// Whether a start goes on with the storage of the last run, and so needs no room to speak of.
pub(crate) fn has_its_storage(declared: &Declared, record: &Record, observed: &ObservedContainer) -> bool {
    matches!(observed.rootfs, RootfsState::Present { .. })
        && !record.renew
        && !needs_process(declared, record)
        && declared.spec.restart.rootfs != RootfsPolicy::Fresh
}

struct Planner<'a, 'f> {
    uid: &'a Uid,
    key: Option<ObjectKey>,
    observed: &'a ObservedContainer,
    now: &'a Now,
    facts: &'a Facts<'f>,
    may_start: bool,
    decision: Decision,
}

impl Planner<'_, '_> {
    fn note(&mut self, message: impl Into<String>) {
        let message = match self.decision.note.take() {
            Some(note) => format!("{}; {}", note.message, message.into()),
            None => message.into(),
        };
        let (uid, key) = (self.uid.clone(), self.key.clone());
        self.decision.note = Some(Note { uid, key, message });
    }

    fn act(&mut self, act: Act, why: Why) {
        self.decision.action = Some(Action { uid: self.uid.clone(), key: self.key.clone(), act, why });
    }

    fn wake(&mut self, at: Mono) {
        self.decision.wake_at = Some(self.decision.wake_at.map_or(at, |old| old.min(at)));
    }

    /// Whether an effect of that kind failed so lately that it is not tried again yet.
    fn backs_off(&mut self, kind: ActionKind) -> bool {
        let Some(failure) = self.observed.failure.as_ref().filter(|failure| failure.action == kind) else {
            return false;
        };
        let again = failure.at.plus(retry_delay(failure.attempts));
        let waits = self.now.mono < again;
        if waits {
            self.wake(again);
        }
        waits
    }

    /// Towards nothing being left.
    fn remove(&mut self, why: Why, declared: Option<&Declared>, record: Option<&Record>) {
        let launch = record.and_then(|record| record.launch.as_ref());
        match self.observed.in_flight {
            Some(ActionKind::Start) => {
                let run = record.map(|record| record.last_run).unwrap_or_default();
                return self.act(abandon(run), why);
            }
            Some(_) => return,
            None => {}
        }
        if let ProcessState::Running { run, stopping, .. } = &self.observed.process {
            let spec = declared.map(|d| &d.spec).or_else(|| launch.map(|launch| &launch.spec));
            let grace = spec.map_or(ORPHAN_GRACE, |spec| grace_of(spec, record));
            let pre_stop = hooked(launch, declared.map(|d| &d.spec), grace);
            let how = How { signal: spec.and_then(|spec| stop_signal(spec)), grace, pre_stop };
            self.stop(*run, *stopping, how, why);
            return;
        }
        if !self.ended_for_good() {
            return;
        }
        let users = self.facts.uses.names(self.uid, self.facts.desired);
        if !users.is_empty() {
            self.note(format!(
                "its volumes are in use by {} and are removed when they have stopped",
                list(&users)
            ));
        } else if self.observed.is_gone() {
            if declared.is_some() || record.is_some() {
                self.act(Act::Forget, why);
            }
        } else if self.observed.rootfs == RootfsState::Unknown || self.observed.files == FilesState::Unknown {
            self.note("what is left of it cannot be told");
        } else if !self.backs_off(ActionKind::Teardown) {
            self.act(Act::Teardown, why);
        }
    }

    /// Towards running as declared.
    fn keep(&mut self, declared: &Declared, record: &mut Record) {
        let held = record.hold.as_ref().map(|hold| Why::Held { by: hold.by.clone() });
        match (self.observed.in_flight, &held) {
            (Some(ActionKind::Start), Some(why)) => {
                record.asked_to_stop = Some(record.last_run);
                return self.act(abandon(record.last_run), why.clone());
            }
            (Some(_), _) => return,
            (None, _) => {}
        }
        let changes = replaced(declared, record);
        let applied = changes.is_empty() && self.take_over(declared, record);
        if changes.is_empty()
            && !record.renew
            && let Some(kept) = limit::kept(&declared.spec, self.observed)
        {
            self.note(kept.message);
        }
        if let ProcessState::Running { run, stopping, .. } = &self.observed.process {
            let (run, stopping) = (*run, *stopping);
            let why = if let Some(why) = held {
                why
            } else if record.restart_requested == Some(run) {
                Why::RestartRequested
            } else if let Some(message) = self.failed_hook(record, run) {
                Why::PostStartFailed { message }
            } else if let Some(unhealthy) = self.unhealthy(record, run).filter(|_| changes.is_empty()) {
                let restarts = declared.spec.restart_policy != RestartPolicy::Never;
                let Unhealthy { probe, message, .. } = unhealthy.clone();
                record.unhealthy = Some(unhealthy);
                Why::Unhealthy { probe, message, restarts }
            } else if changes.is_empty() {
                // Somebody changed their mind during a stop: it goes to its end, and a start follows.
                if let Some(stopping) = stopping {
                    self.await_stop(run, stopping, record);
                } else if self.post_start(record, run) {
                    // It is asked for; a change may follow it.
                } else if !applied {
                    self.update(declared, record, run);
                } else {
                    self.refresh(declared, run);
                }
                return;
            } else {
                // What runs is not ended for something that cannot be started.
                if self.is_full() {
                    return;
                }
                let (image, resolved) = (self.image(declared, record, true), self.resolve(declared));
                if image.is_none() || resolved.is_none() {
                    return;
                }
                Why::Replaced(changes)
            };
            let mut grace = grace_of(&declared.spec, Some(record));
            if let Why::Unhealthy { probe, .. } = &why {
                grace = grace_after(&declared.spec, *probe).unwrap_or(grace);
            }
            let pre_stop = hooked(record.launch.as_ref(), Some(&declared.spec), grace);
            let how = How { signal: stop_signal(&declared.spec), grace, pre_stop };
            // The end that a failed hook or probe brings is a failure: the restart rule is asked about it.
            let asked = !matches!(why, Why::PostStartFailed { .. } | Why::Unhealthy { .. });
            self.stop(run, stopping, how, why);
            if asked && self.decision.action.is_some() {
                record.asked_to_stop = Some(run);
            }
            return;
        }
        if !self.ended_for_good() || held.is_some() {
            return;
        }
        let Some((why, is_restart)) = self.start_reason(declared, record, changes) else { return };
        let new_process = needs_process(declared, record);
        if !has_its_storage(declared, record, self.observed) && self.is_full() {
            return;
        }
        let image = self.image(declared, record, new_process);
        let resolved = self.resolve(declared);
        let (Some(image), Some(resolved)) = (image, resolved) else { return };
        if !self.may_start {
            self.decision.deferred = true;
            return;
        }
        self.start(declared, record, image, resolved, (why, is_restart));
    }

    /// Whether the disk takes no new work; a note then says so.
    fn is_full(&mut self) -> bool {
        let pressure = &self.facts.observed.pressure;
        if pressure.is_on() {
            self.note(format!("it waits: DiskPressure: {}", pressure.message));
        }
        pressure.is_on()
    }

    /// Whether it is proven that no process of it is left. What is left over is killed.
    fn ended_for_good(&mut self) -> bool {
        match (&self.observed.process, self.observed.cgroup) {
            (ProcessState::Unknown { why }, _) => {
                let message = format!("its process cannot be told: {why}");
                self.note(message);
                false
            }
            (ProcessState::Running { .. }, _) => false,
            (_, CgroupState::Unknown) => {
                self.note("whether processes of it are left cannot be told");
                false
            }
            (process, CgroupState::Populated) => {
                let lost = matches!(process, ProcessState::Lost { .. });
                if !self.backs_off(ActionKind::Kill) {
                    self.act(Act::Kill, if lost { Why::ShimLost } else { Why::Leftovers });
                }
                false
            }
            (_, CgroupState::Absent | CgroupState::Empty) => true,
        }
    }

    /// Takes changes into the record that only need to be remembered. False when the process must be told.
    fn take_over(&self, declared: &Declared, record: &mut Record) -> bool {
        let Some(launch) = record.launch.as_mut() else { return true };
        if launch.generation == declared.generation {
            return true;
        }
        let told = matches!(diff(&launch.spec, &declared.spec), Change::InPlace { applied: true, .. });
        let runs = matches!(self.observed.process, ProcessState::Running { .. });
        if told && runs && self.observed.updated.is_none_or(|updated| updated < declared.generation) {
            return false;
        }
        launch.generation = declared.generation;
        launch.spec = declared.spec.clone();
        true
    }

    /// Everything that a start needs beside its image; a note of all that is missing otherwise.
    fn resolve(&mut self, declared: &Declared) -> Option<Arc<Resolved>> {
        match resolve(declared, self.facts.desired, self.facts.observed) {
            Ok(resolved) => Some(Arc::new(resolved)),
            Err(problems) => {
                self.note(format!("it waits: {}", sentence(&problems)));
                None
            }
        }
    }

    /// Brings files in line with the values that they show. What cannot be resolved now stays as it was.
    fn refresh(&mut self, declared: &Declared, run: Run) {
        if !has_files(&declared.spec) {
            return;
        }
        let files = resolve_files(declared, self.facts.desired, self.facts.observed);
        let known = self.observed.files_written.as_ref();
        let same = |(name, files): (&String, &Arc<Files>)| known.and_then(|all| all.get(name)) == Some(files);
        if files.iter().all(same) || self.backs_off(ActionKind::Refresh) {
            return;
        }
        self.act(Act::Refresh { run, files }, Why::ValuesChanged);
    }

    fn update(&mut self, declared: &Declared, record: &Record, run: Run) {
        if self.backs_off(ActionKind::Update) {
            return;
        }
        let Some(launch) = &record.launch else { return };
        if let Change::InPlace { fields, .. } = diff(&launch.spec, &declared.spec) {
            let (generation, spec) = (declared.generation, declared.spec.clone());
            self.act(Act::Update { run, generation, spec }, Why::Changed(fields));
        }
    }

    /// Runs the `postStart` hook of a run where that is due. True when it was just asked for.
    fn post_start(&mut self, record: &mut Record, run: Run) -> bool {
        let Some(launch) = record.launch.as_mut().filter(|launch| launch.run == run && launch.post_start_due)
        else {
            return false;
        };
        let seen = self.observed.post_start.as_ref().filter(|seen| seen.run == run);
        // A hook that was taken out of the spec is not waited for.
        let is_over = seen.is_some_and(|seen| seen.state == HookState::Succeeded);
        if is_over || post_start(&launch.spec).is_none() {
            launch.post_start_due = false;
            return false;
        }
        if seen.is_none() {
            let spec = launch.spec.clone();
            self.act(Act::PostStart { run, spec }, Why::Started);
            return true;
        }
        false
    }

    /// Why a run is to end for its `postStart` hook: as is seen, or as an earlier agent has found.
    fn failed_hook(&self, record: &mut Record, run: Run) -> Option<String> {
        if let Some(failed) = record.failed_hook.as_ref().filter(|failed| failed.run == run) {
            return Some(failed.message.clone());
        }
        let is_due = record.launch.as_ref().is_some_and(|launch| launch.run == run && launch.post_start_due);
        let seen = self.observed.post_start.as_ref().filter(|seen| is_due && seen.run == run)?;
        let HookState::Failed(message) = &seen.state else { return None };
        record.failed_hook = Some(FailedHook { run, message: message.clone() });
        Some(message.clone())
    }

    fn stop(&mut self, run: Run, stopping: Option<Stopping>, how: How, why: Why) {
        let How { signal, grace, pre_stop } = how;
        if let Some(stopping) = stopping {
            let whole = if pre_stop.is_some() { grace.saturating_add(HOOK_EXTENSION) } else { grace };
            if self.now.mono.plus(whole) < stopping.deadline && !self.backs_off(ActionKind::Stop) {
                self.act(Act::Stop { run, signal, grace, pre_stop }, why);
            } else {
                self.overdue(stopping);
            }
            return;
        }
        let failed = self.observed.failure.as_ref().filter(|failure| failure.action == ActionKind::Stop);
        if failed.is_some_and(|failure| failure.attempts >= STOPS_BEFORE_KILL) {
            if !self.backs_off(ActionKind::Kill) {
                self.act(Act::Kill, Why::Overdue);
            }
        } else if !self.backs_off(ActionKind::Stop) {
            self.act(Act::Stop { run, signal, grace, pre_stop }, why);
        }
    }

    /// The probe that a run has failed, by what is seen or by what an earlier agent had begun.
    fn unhealthy(&self, record: &Record, run: Run) -> Option<Unhealthy> {
        if let Some(begun) = record.unhealthy.as_ref().filter(|unhealthy| unhealthy.run == run) {
            return Some(begun.clone());
        }
        let facts = self.observed.probes.as_ref().filter(|facts| facts.run == run)?;
        let ProbeFailure { probe, message } = facts.failed.clone()?;
        Some(Unhealthy { run, probe, message })
    }

    fn await_stop(&mut self, run: Run, stopping: Stopping, record: &mut Record) {
        // A stop that the shim was told of before the agent could remember it is the agent's all the same.
        record.asked_to_stop = Some(run);
        self.overdue(stopping);
    }

    /// Does the shim's work when it does not.
    fn overdue(&mut self, stopping: Stopping) {
        let late = stopping.deadline.plus(OVERDUE_SLACK);
        if self.now.mono < late {
            self.wake(late);
        } else if !self.backs_off(ActionKind::Kill) {
            self.act(Act::Kill, Why::Overdue);
        }
    }

    /// Why it should start now, and whether that is a restart; `None` when it should not, or not yet.
    fn start_reason(
        &mut self,
        declared: &Declared,
        record: &Record,
        changes: Vec<FieldChange>,
    ) -> Option<(Why, bool)> {
        if !changes.is_empty() {
            return Some((Why::Replaced(changes), false));
        }
        if record.start_requested {
            let restart = record.restart_requested.is_some();
            return Some((if restart { Why::RestartRequested } else { Why::StartRequested }, false));
        }
        let Some(launch) = &record.launch else { return Some((Why::New, false)) };
        let ended = record.ended.as_ref().filter(|ended| ended.run >= launch.run);
        let reason = match (launch.stage, ended) {
            (LaunchStage::Failed, None) => {
                let attempts = self.observed.failure.as_ref().map_or(1, |failure| failure.attempts);
                (Why::Retry { attempts }, launch.is_restart)
            }
            (_, None) => (Why::Resume, launch.is_restart),
            (_, Some(ended)) if ended.asked && launch.boot_id != self.now.boot_id => (Why::Reboot, true),
            (_, Some(ended)) if ended.asked => (Why::StartRequested, false),
            (_, Some(ended)) => match verdict(&declared.spec, ended, record.retries) {
                Verdict::Restart if ended.cause == EndCause::Rebooted => (Why::Reboot, true),
                Verdict::Restart => {
                    (Why::Restart { by: decider(&declared.spec, ended), after: describe(ended) }, true)
                }
                Verdict::Succeeded | Verdict::Failed | Verdict::Exhausted => return None,
            },
        };
        match &record.next_start {
            Some(at) if at.boot_id == self.now.boot_id && self.now.mono < at.mono => {
                self.wake(at.mono);
                None
            }
            _ => Some(reason),
        }
    }

    /// The image to run, once it is here; otherwise what is to be done for it.
    fn image(&mut self, declared: &Declared, record: &mut Record, new_process: bool) -> Option<ImageDigest> {
        let spec = &declared.spec;
        let generation: Generation = declared.generation;
        match image_need(spec, generation, new_process, record, &self.observed.image, self.now) {
            ImageNeed::Ready(image) => {
                let digest = image.digest.clone();
                record.image = Some(image);
                return Some(digest);
            }
            ImageNeed::Pull { digest, why } => {
                if !self.is_full() {
                    self.act(Act::PullImage { reference: spec.image.clone(), digest, generation }, why);
                }
            }
            ImageNeed::Failed { retry_at: Some(at) } => self.wake(at),
            ImageNeed::NeverPull => {
                self.note(format!(
                    "image {} is not on this machine and imagePullPolicy is Never",
                    spec.image
                ));
            }
            ImageNeed::Unknown => {
                self.note(format!("whether image {} is here cannot be told yet", spec.image));
            }
            ImageNeed::Failed { retry_at: None } | ImageNeed::Pulling => {}
        }
        None
    }

    fn start(
        &mut self,
        declared: &Declared,
        record: &mut Record,
        image: ImageDigest,
        resolved: Arc<Resolved>,
        (why, is_restart): (Why, bool),
    ) {
        let other_layer = matches!(
            &self.observed.rootfs,
            RootfsState::Present { image: Some(below) } if *below != image
        );
        if record.launch.is_none() || matches!(why, Why::Replaced(_)) || other_layer {
            record.renew = true;
        }
        // Volumes that another container has mounted are not taken from under it.
        let in_use = self.facts.uses.of(self.uid).next().is_some();
        let storage = if record.renew && in_use {
            StorageMode::NewLayer
        } else if record.renew {
            StorageMode::New
        } else if declared.spec.restart.rootfs == RootfsPolicy::Fresh {
            StorageMode::NewLayer
        } else {
            StorageMode::Keep
        };
        if matches!(why, Why::Replaced(_)) {
            record.retries = 0;
        }
        let run = record.last_run.next();
        record.last_run = run;
        record.next_start = None;
        record.start_requested = false;
        record.restart_requested = None;
        record.asked_to_stop = None;
        record.asked_grace_ms = None;
        record.failed_hook = None;
        record.unhealthy = None;
        record.launch = Some(Launch {
            run,
            boot_id: self.now.boot_id.clone(),
            generation: declared.generation,
            image: Some(image.clone()),
            spec: declared.spec.clone(),
            stage: LaunchStage::Intended,
            is_restart,
            uses: resolved.uses.clone(),
            mounts: resolved.mounts.iter().map(ResolvedMount::status).collect(),
            post_start_due: post_start(&declared.spec).is_some(),
        });
        let (generation, spec) = (declared.generation, declared.spec.clone());
        self.act(Act::Start { run, generation, image, spec, storage, resolved }, why);
    }
}

/// How a run is stopped.
struct How {
    signal: Option<Signal>,
    grace: Duration,
    pre_stop: Option<Arc<ContainerSpec>>,
}

/// The end of a start that is in flight.
fn abandon(run: Run) -> Act {
    Act::Stop { run, signal: None, grace: Duration::ZERO, pre_stop: None }
}

/// The grace period: what somebody asked for, else the spec's.
fn grace_of(spec: &ContainerSpec, record: Option<&Record>) -> Duration {
    let asked = record.and_then(|record| record.asked_grace_ms).map(Duration::from_millis);
    asked.unwrap_or_else(|| spec.grace_period())
}

/// The end of a run in words.
pub(crate) fn describe(ended: &Ended) -> String {
    if ended.failed_hook {
        let how = describe(&Ended { failed_hook: false, ..ended.clone() });
        return format!("its postStart hook failed ({how})");
    }
    if let Some(probe) = ended.unhealthy {
        let how = describe(&Ended { unhealthy: None, ..ended.clone() });
        return format!("its {} probe failed ({how})", probe.as_str().to_lowercase());
    }
    match ended.cause {
        EndCause::ShimLost => "its shim was lost".into(),
        EndCause::Rebooted => "the machine was rebooted".into(),
        EndCause::StartFailed(reason) => format!("a start that failed ({})", reason.as_str()),
        EndCause::Exited if ended.oom_killed && ended.signal == Some(Signal::KILL.number()) => {
            "it was killed for lack of memory".into()
        }
        EndCause::Exited if ended.oom_killed => {
            format!("exit code {}, with a process killed for lack of memory", ended.exit_code)
        }
        EndCause::Exited => match ended.signal {
            Some(signal) => match Signal::from_number(signal) {
                Some(signal) => format!("{signal}"),
                None => format!("signal {signal}"),
            },
            None => format!("exit code {}", ended.exit_code),
        },
    }
}

#[cfg(test)]
mod tests;
