//! The reconcile loop: the only place that holds desired, observed and records together, and the only one that changes them.
//!
//! It takes in what sources, effects and people say, asks `stower_controllers` what follows, writes down what must not be forgotten,
//! begins the effects, and publishes what is to be seen. It decides nothing and waits for nothing but its inputs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use stower_controllers::{
    Act, Action, ActionKind, BootId, CgroupState, Desired, Entry, Failure, FailureReason, FilesState,
    HookState, ImageState, Mono, Now, Observed, ObservedContainer, ObservedImage, Plan, PostStart,
    ProcessState, Record, RecordState, Records, RootfsState, accepted_at, plan, plan_some,
};
use stower_crds::{ContainerStatus, ObjectKey, Uid};
use tokio::sync::mpsc;

use crate::{
    config::Settings,
    effects::{Done, Effects, Told},
    journal::{Journal, JournalError, Syncer},
    kube,
    node::{Node, Request},
    probe::Probes,
    source::dir,
    time,
};

mod cluster;
mod declared;
mod disk;
mod dump;
mod images;
mod probes;
mod publish;
mod requests;
mod stores;

use declared::Sources;

/// What wakes the loop.
pub(crate) struct Inputs {
    /// Ends of effects and of runs.
    pub(crate) told: mpsc::UnboundedReceiver<Told>,
    /// People.
    pub(crate) asked: mpsc::Receiver<Request>,
    /// The API server.
    pub(crate) heard: mpsc::Receiver<kube::Update>,
    /// The manifests directory.
    pub(crate) changed: mpsc::UnboundedReceiver<dir::Update>,
}

/// How many inputs are taken together before a plan is made.
const BATCH: usize = 1024;
/// How long after work the memory that it took is given back.
const REST: Duration = Duration::from_secs(2);
/// How long the loop sleeps at most when there is something to look at again.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// The loop's state.
pub(crate) struct Engine {
    node: Arc<Node>,
    effects: Arc<Effects>,
    boot_id: BootId,
    settings: Settings,
    sources: Sources,
    desired: Desired,
    observed: Observed,
    records: Records,
    journal: Journal,
    statuses: HashMap<Uid, ContainerStatus>,
    store_statuses: HashMap<Uid, stores::StoreStatus>,
    /// When each running effect began.
    running: BTreeMap<(Uid, ActionKind), Instant>,
    /// To be planned in the next turn.
    dirty: BTreeSet<Uid>,
    /// To be looked at again at that time.
    wakes: BTreeSet<(Mono, Uid)>,
    /// What could not be found out at start-up.
    unobserved: Option<String>,
    /// Those that wait for a place to start.
    queued: BTreeSet<Uid>,
    /// The image store's last answer, until anything may have changed it.
    image_answer: Option<images::Answer>,
    /// Failed pulls in a row.
    pull_attempts: HashMap<Uid, u32>,
    /// Who asks probes.
    probes: Probes,
    /// Objects of the API server that are not taken.
    refused: BTreeMap<ObjectKey, cluster::Refusal>,
}

impl Engine {
    /// Reads the ledgers and the records.
    ///
    /// # Errors
    /// When they cannot be opened.
    pub(crate) fn load(
        node: Arc<Node>,
        effects: Arc<Effects>,
        settings: Settings,
        syncer: &Syncer,
    ) -> Result<Self, JournalError> {
        let config = settings.get();
        let boot_id = BootId::new(effects.runtime.boot_id());
        let path = config.fixed.paths.data.join("records").join("containers.journal");
        let (journal, loaded) = Journal::open::<Record>(&path, syncer.clone())?;
        if loaded.corrupt > 0 {
            tracing::error!(path = %path.display(), lines = loaded.corrupt, "passed over corrupt records");
        }
        let known = loaded
            .entries
            .into_iter()
            .filter_map(|(key, record)| Uid::new(key).ok().map(|uid| (uid, RecordState::Known(record))));
        let mut records: Records = known.collect();
        for key in loaded.newer {
            if let Ok(uid) = Uid::new(key) {
                let why = "it was written by a newer release; use that, or remove the object".to_owned();
                records.insert(uid, RecordState::Unknown { why });
            }
        }
        let mut desired = Desired::default();
        let sources = Sources::load(&config, syncer, &mut desired)?;
        let pressure = node.disk.last().pressure.clone();
        Ok(Self {
            node,
            effects,
            boot_id,
            settings,
            sources,
            desired,
            observed: Observed { pressure, ..Observed::default() },
            records,
            journal,
            statuses: HashMap::new(),
            store_statuses: HashMap::new(),
            running: BTreeMap::new(),
            dirty: BTreeSet::new(),
            wakes: BTreeSet::new(),
            unobserved: None,
            queued: BTreeSet::new(),
            image_answer: None,
            pull_attempts: HashMap::new(),
            probes: Probes::default(),
            refused: BTreeMap::new(),
        })
    }

    /// Says what is wanted of the API server, before it is asked for anything, and what of it was accepted before.
    pub(crate) fn expect(&mut self) -> kube::Accepted {
        let Some(cluster) = &self.node.cluster else { return kube::Accepted::new() };
        if let Some(identity) = self.sources.kube_cluster() {
            cluster.belongs_to(identity.as_str());
        }
        self.want_values();
        let kube = &self.sources.kube;
        let mine = self.sources.ledger.iter().filter(|(_, entry)| entry.claim.source == *kube);
        let before = |entry: &Entry| kube::Before {
            uid: entry.uid.clone(),
            generation: entry.generation.0,
            level: accepted_at(&entry.object),
        };
        mine.map(|(key, entry)| (key.clone(), before(entry))).collect()
    }

    /// Whom to ask to read the manifests directory again.
    pub(crate) fn follow(&mut self, handle: dir::Handle) {
        self.sources.handle = Some(handle);
    }

    /// Looks at the whole machine: what runs, what is left over.
    pub(crate) fn observe(&mut self) {
        let begun = Instant::now();
        let stores: Vec<Uid> = self.desired.uids().cloned().collect();
        for uid in stores {
            self.declared_store(&uid);
            self.observe_image(&uid);
            self.dirty.insert(uid);
        }
        let mut uids: BTreeSet<Uid> = self.desired.iter().map(|declared| declared.uid.clone()).collect();
        uids.extend(self.records.keys().cloned());
        // Once for all: asking for each would grow with their square.
        let layered = self.effects.layered();
        uids.extend(layered.iter().cloned());
        match self.effects.uids() {
            Ok(found) => {
                self.unobserved = None;
                uids.extend(found);
            }
            Err(why) => {
                tracing::error!(why, "cannot find out what is on this machine; nothing is removed");
                self.unobserved = Some(why);
            }
        }
        for (uid, found) in self.effects.find_all(&uids, &layered) {
            self.take_in(&uid, found);
            self.dirty.insert(uid);
        }
        self.remove_stale_programs();
        self.remove_stale_scripts();
        let took = begun.elapsed();
        tracing::info!(containers = self.observed.containers.len(), ?took, "found what is on this machine");
        let all: Vec<Uid> = self.dirty.iter().cloned().collect();
        self.follow_probes(&all, true);
        self.publish(&all, &time::now(&self.boot_id));
    }

    fn take_in(&mut self, uid: &Uid, found: crate::effects::observe::Found) {
        let rootfs = match (found.rootfs, self.record(uid).and_then(|record| record.launch.as_ref())) {
            (RootfsState::Present { .. }, Some(launch)) => {
                RootfsState::Present { image: launch.image.clone() }
            }
            (state, _) => state,
        };
        let seen = self.observed.containers.entry(uid.clone()).or_default();
        seen.process = found.process;
        seen.cgroup = found.cgroup;
        seen.rootfs = rootfs;
        seen.limit = found.limit;
        seen.files = found.files;
        self.observe_image(uid);
    }

    /// Nobody waits for it: those of this release are never stale.
    fn remove_stale_programs(&self) {
        let effects = Arc::clone(&self.effects);
        std::thread::spawn(move || {
            let (used, bin) = (effects.shim_digests(), effects.paths.data.join("bin"));
            if let Err(error) = crate::effects::files::remove_stale_programs(&bin, &effects.programs, &used) {
                tracing::warn!(%error, "cannot remove programs of earlier releases");
            }
        });
    }

    fn remove_stale_scripts(&self) {
        let paths = &self.effects.paths;
        if let Err(error) = crate::runtimes::remove_stale(&paths.data, &paths.run) {
            tracing::warn!(%error, "cannot remove scripts of runtimes that no container was started with");
        }
    }

    fn record(&self, uid: &Uid) -> Option<&Record> {
        self.records.get(uid).and_then(RecordState::known)
    }

    /// Runs until the process ends.
    pub(crate) async fn run(mut self, mut inputs: Inputs) {
        // Set by work, and done once after it.
        let mut trim = false;
        loop {
            trim |= self.turn();
            let sleep = self.wakes.first().map_or(LONGEST_SLEEP, |(at, _)| {
                time::now_mono().until(*at).clamp(Duration::from_millis(1), LONGEST_SLEEP)
            });
            tokio::select! {
                biased;
                Some(told) = inputs.told.recv() => self.told(told),
                Some(update) = inputs.changed.recv() => self.changed(update),
                Some(update) = inputs.heard.recv() => self.heard(update),
                Some(request) = inputs.asked.recv() => self.asked(request),
                () = tokio::time::sleep(if trim { sleep.min(REST) } else { sleep }) => {
                    if std::mem::take(&mut trim) && sleep >= REST {
                        crate::memory::trim();
                    }
                }
            }
            for _ in 0..BATCH {
                if let Ok(told) = inputs.told.try_recv() {
                    self.told(told);
                } else if let Ok(update) = inputs.changed.try_recv() {
                    self.changed(update);
                } else if let Ok(update) = inputs.heard.try_recv() {
                    self.heard(update);
                } else if let Ok(request) = inputs.asked.try_recv() {
                    self.asked(request);
                } else {
                    break;
                }
            }
        }
    }

    /// One turn: plan what is dirty, remember, begin, publish. False when there was nothing.
    fn turn(&mut self) -> bool {
        self.image_answer = None;
        let now = time::now(&self.boot_id);
        while let Some((at, uid)) = self.wakes.first().cloned() {
            if at > now.mono {
                break;
            }
            self.wakes.remove(&(at, uid.clone()));
            self.dirty.insert(uid);
        }
        if self.dirty.is_empty() {
            return false;
        }
        self.spread();
        let begun = Instant::now();
        let dirty: Vec<Uid> = std::mem::take(&mut self.dirty).into_iter().collect();
        let plan = self.plan_for(&dirty, &now);
        self.carry_out(&plan, &dirty);
        self.follow_probes(&dirty, false);
        self.publish(&dirty, &now);
        self.node.metrics.reconciles.inc();
        self.node.metrics.reconcile_seconds.observe(begun.elapsed().as_secs_f64());
        true
    }

    fn plan_for(&self, uids: &[Uid], now: &Now) -> Plan {
        if let Some(why) = self.blind() {
            tracing::debug!(why, "not acting yet");
            return Plan::default();
        }
        let most = self.settings.get().start_concurrency;
        plan_some(&self.desired, &self.observed, &self.records, now, most, uids)
    }

    /// Everything, for people who ask.
    fn plan_all(&self, now: &Now) -> Plan {
        plan(&self.desired, &self.observed, &self.records, now, self.settings.get().start_concurrency)
    }

    /// Why nothing may be done yet.
    fn blind(&self) -> Option<&str> {
        self.unobserved.as_deref()
    }

    fn carry_out(&mut self, plan: &Plan, dirty: &[Uid]) {
        for (uid, record) in &plan.records {
            self.remember(uid.clone(), record.clone());
        }
        for action in &plan.actions {
            self.begin(action.clone());
        }
        // The plan names the earliest of all wake-ups; whoever's it is not says then when his own is.
        if let Some(at) = plan.wake_at {
            self.wakes.extend(dirty.iter().map(|uid| (at, uid.clone())));
        }
        self.deferred(plan, dirty);
    }

    fn remember(&mut self, uid: Uid, record: Record) {
        if let Err(error) = self.journal.put(uid.as_str(), &record) {
            tracing::error!(%uid, error = %crate::effects::chain(&error), "cannot write a record");
        }
        self.records.insert(uid, RecordState::Known(record));
    }

    fn begin(&mut self, mut action: Action) {
        if let Act::Stop { signal: signal @ None, .. } = &mut action.act {
            // The spec says nothing, so the image's word counts.
            *signal = self.image_stop_signal(&action.uid);
        }
        let (uid, kind) = (action.uid.clone(), action.act.kind());
        tracing::info!(%uid, action = kind.as_str(), "{action}");
        if self.begin_store(&action) {
            return;
        }
        let seen = self.observed.containers.entry(uid.clone()).or_default();
        match &action.act {
            Act::Forget => return self.forget(&uid),
            Act::PullImage { .. } => seen.image.state = ImageState::Pulling,
            Act::PostStart { run, .. } => {
                seen.post_start = Some(PostStart { run: *run, state: HookState::Running });
            }
            _ => {}
        }
        // These two stand in nobody's way; that they go on is told by what is seen.
        let superseded = if stands_aside(kind) { None } else { seen.in_flight.replace(kind) };
        if kind == ActionKind::Stop && superseded == Some(ActionKind::Start) {
            // The start is let end first; what it leaves is then stopped.
            return;
        }
        if let Act::Start { resolved, .. } = &action.act {
            // Volumes of another container may be made for this one, and go with that one.
            for used in &resolved.uses {
                if let Some(seen) = self.observed.containers.get_mut(used) {
                    seen.files = FilesState::Present;
                }
            }
        }
        self.event_of(&action);
        self.running.insert((uid, kind), Instant::now());
        self.effects.begin(action);
    }

    /// Nothing of it is left on the machine: its ledger entry and its record go.
    fn forget(&mut self, uid: &Uid) {
        if let Some(RecordState::Known(Record { launch: Some(launch), .. })) = self.records.remove(uid) {
            self.dirty.extend(launch.uses);
            // Until now it was in use.
            if let Some(digest) = launch.image.and_then(|image| image.as_str().parse().ok()) {
                self.effects.storage.used(&digest, std::time::SystemTime::now());
            }
        }
        if let Err(error) = self.journal.remove(uid.as_str()) {
            tracing::error!(%uid, error = %crate::effects::chain(&error), "cannot remove a record");
        }
        self.observed.containers.remove(uid);
        self.follow_probes(std::slice::from_ref(uid), false);
        if let Some(key) = self.desired.key_of(uid) {
            self.node.metrics.probes.forget(key);
        }
        self.observed.stores.remove(uid);
        self.statuses.remove(uid);
        self.store_statuses.remove(uid);
        // What it named may have waited for it to go.
        self.dirty.extend(self.desired.named_by(uid));
        self.forget_declared(uid);
    }

    /// Takes in the end of an effect or of a run.
    fn told(&mut self, told: Told) {
        self.image_answer = None;
        match told {
            Told::Ended { uid, run, process, cgroup } => {
                let seen = self.observed.containers.entry(uid.clone()).or_default();
                // A run that was already followed by another has nothing more to say.
                if seen.process.run().is_none_or(|known| known <= run) {
                    tracing::info!(%uid, %run, ?process, "a run ended");
                    seen.process = process.clone();
                    seen.cgroup = cgroup;
                    self.ended(&uid, &process);
                }
                self.dirty.insert(uid);
            }
            Told::PreStopFailed { uid, run, message } => {
                tracing::warn!(%uid, %run, message, "a preStop hook failed");
                self.failed_event(&uid, "FailedPreStopHook", format!("PreStopHook failed: {message}"));
            }
            Told::Probed { uid, run, facts, events } => self.probed(&uid, run, facts, events),
            Told::Done { uid, action, took, done } => {
                self.running.remove(&(uid.clone(), action));
                self.done(&uid, action, took, done);
                self.dirty.insert(uid);
                self.release_deferred();
            }
        }
    }

    fn done(&mut self, uid: &Uid, action: ActionKind, took: Duration, done: Done) {
        let now = time::now(&self.boot_id);
        let Some(done) = self.store_done(uid, action, took, done, &now) else { return };
        // A hook that did not end in time has failed, and nothing else has.
        let done = match done {
            Done::Failed { run: Some(run), message, .. } if action == ActionKind::PostStart => {
                Done::Hooked { run, outcome: Err(message) }
            }
            done => done,
        };
        if stands_aside(action) && !self.observed.containers.contains_key(uid) {
            // It was removed meanwhile.
            return;
        }
        let generation = self.desired.by_uid(uid).map(|declared| declared.generation);
        let image = self
            .record(uid)
            .and_then(|record| record.launch.as_ref())
            .and_then(|launch| launch.image.clone());
        let seen = self.observed.containers.entry(uid.clone()).or_default();
        if !stands_aside(action) {
            seen.in_flight = None;
        }
        let succeeded = !matches!(done, Done::Failed { .. } | Done::PullFailed { .. });
        if succeeded && seen.failure.as_ref().is_some_and(|failure| failure.action == action) {
            seen.failure = None;
        }
        match done {
            Done::Pulled { digest, volumes } => {
                seen.image.volumes = volumes.into();
                seen.image.state = ImageState::Present { digest, asked: generation };
                self.pulled(uid, took);
            }
            Done::PullFailed { reason, message } => self.pull_failed(uid, reason, message, &now),
            Done::Started { run, process, files, limit } => {
                seen.files_written = Some(files);
                seen.limit = limit;
                // A short run may have ended before its start was told.
                if seen.process.run().is_none_or(|known| known < run) {
                    seen.process = process;
                    seen.cgroup = CgroupState::Populated;
                }
                seen.rootfs = RootfsState::Present { image };
                seen.files = FilesState::Present;
                self.node.metrics.start_seconds.observe(took.as_secs_f64());
                self.started(uid);
            }
            Done::Stopping { run, stopping: deadline } => {
                if let ProcessState::Running { run: known, stopping, .. } = &mut seen.process
                    && *known == run
                {
                    *stopping = Some(deadline);
                }
            }
            Done::Hooked { run, outcome } => {
                let state = outcome.map_or_else(HookState::Failed, |()| HookState::Succeeded);
                if let HookState::Failed(message) = &state {
                    let message = format!("PostStartHook failed: {message}");
                    seen.post_start = Some(PostStart { run, state: state.clone() });
                    self.failed_event(uid, "FailedPostStartHook", message);
                } else {
                    seen.post_start = Some(PostStart { run, state });
                }
            }
            Done::Killed { cgroup } => {
                seen.cgroup = cgroup;
            }
            Done::Updated { limit } => {
                seen.updated = generation;
                seen.limit = limit;
            }
            Done::Refreshed { files } => seen.files_written.get_or_insert_default().extend(files),
            Done::Made { .. } | Done::StoresRemoved => {}
            Done::TornDown => {
                seen.process = ProcessState::Absent;
                seen.cgroup = CgroupState::Absent;
                seen.rootfs = RootfsState::Absent;
                seen.limit = None;
                seen.files = FilesState::Absent;
            }
            Done::Failed { run, reason, message, cgroup } => {
                let attempts = seen.failure.as_ref().filter(|f| f.action == action).map_or(0, |f| f.attempts);
                tracing::warn!(%uid, action = action.as_str(), reason = reason.as_str(), message, "an effect failed");
                seen.cgroup = cgroup;
                seen.failure = Some(Failure {
                    action,
                    run,
                    reason,
                    message: message.clone(),
                    at: now.mono,
                    wall: now.wall,
                    attempts: attempts.saturating_add(1),
                });
                if action == ActionKind::Start && reason != FailureReason::DiskPressure {
                    seen.rootfs = RootfsState::Present { image: None };
                    seen.files = FilesState::Present;
                }
                if action == ActionKind::Start {
                    // What it lacked may be its image, which went since it was decided.
                    self.observe_image(uid);
                }
                self.failed_event(uid, reason.as_str(), message);
            }
        }
    }

    fn starts_left(&self) -> usize {
        self.settings.get().start_concurrency.saturating_sub(self.observed.starts_in_flight())
    }

    /// The configuration is another one: who waits for a place may have one now, and an empty directory may mean something else.
    fn configured(&mut self) {
        self.release_deferred();
        for (uid, seen) in &mut self.observed.containers {
            if seen.failure.as_ref().is_some_and(|failure| failure.reason == FailureReason::RuntimeNotFound) {
                seen.failure = None;
                self.dirty.insert(uid.clone());
            }
        }
        if let Some(handle) = self.sources.handle.as_ref().filter(|_| self.settings.get().allow_empty) {
            handle.reread();
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("desired", &self.desired.len()).finish_non_exhaustive()
    }
}

/// Whether an action goes on beside others of its object.
fn stands_aside(kind: ActionKind) -> bool {
    matches!(kind, ActionKind::PullImage | ActionKind::PostStart)
}

/// What is not looked at yet.
pub(super) fn unseen(reference: &str) -> ObservedContainer {
    let image = ObservedImage { reference: reference.to_owned(), ..ObservedImage::default() };
    ObservedContainer { image, ..ObservedContainer::nothing(reference) }
}
