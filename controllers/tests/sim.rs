//! An in-memory machine that runs plan → act → observe under injected failures. What must hold at every step is
//! asserted by the machine itself, which knows the truth; what must hold in the end, after `settle`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use proptest::prelude::*;
use stower_controllers::*;
use stower_crds::{Object, ObjectKey, RestartPolicy, Uid};

const OBJECTS: usize = 3;
const LIMIT: usize = 2;

/// What the world's people and its misfortunes do.
#[derive(Debug, Clone)]
enum Event {
    Declare(usize, Variant),
    Delete(usize),
    /// The directory cannot be read, is on another filesystem, or is empty; until `Readable`.
    Trouble(u8),
    Readable,
    Exit(usize, i32),
    /// Its liveness probe fails as often as it may.
    Unhealthy(usize),
    KillShim(usize),
    AgentDies,
    Reboot,
    Hold(usize),
    Start(usize),
    Restart(usize),
    /// The next effects fail.
    Fail(u8),
    /// The disk is full, or has room again.
    Full(bool),
    /// An object cannot be observed for a while.
    Blind(usize),
    /// The record of an object is of a newer release for a while.
    Pass(u32),
    /// One plan, and this many of its effects carried out.
    Step(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Variant {
    image: u8,
    arg: u8,
    memory: u8,
    policy: u8,
}

#[derive(Debug, Clone, Default)]
struct Machine {
    process: Option<Process>,
    /// Run, exit and whether the shim recorded it.
    exit: Option<(Run, Exit)>,
    lost: Option<Run>,
    /// Processes in the cgroup whose shim is gone.
    leftovers: u32,
    cgroup: bool,
    rootfs: Option<ImageDigest>,
    files: bool,
    last_run: Run,
    starts: u32,
}

#[derive(Debug, Clone)]
struct Process {
    run: Run,
    started_at: Timestamp,
    generation: stower_crds::Generation,
    image: ImageDigest,
    stopping: Option<Stopping>,
    unhealthy: bool,
}

struct World {
    // What people did.
    disk: BTreeMap<ObjectKey, Arc<Object>>,
    trouble: u8,
    held: BTreeMap<Uid, BootId>,
    may_remove: BTreeSet<Uid>,
    // The machine.
    machines: BTreeMap<Uid, Machine>,
    images: BTreeSet<String>,
    boot: u32,
    mono: u64,
    // Durable.
    ledger: Ledger,
    records: Records,
    // The agent's memory.
    queue: Vec<Action>,
    failures: BTreeMap<Uid, Failure>,
    pulls: BTreeMap<Uid, ImageState>,
    asked: BTreeMap<Uid, stower_crds::Generation>,
    updated: BTreeMap<Uid, stower_crds::Generation>,
    hooks: BTreeMap<Uid, PostStart>,
    blind: BTreeSet<Uid>,
    full: bool,
    // Bookkeeping.
    fail: u8,
    uids: u32,
    effects: usize,
    counts: BTreeMap<Uid, u32>,
}

fn source() -> SourceId {
    SourceId::new("directory")
}

fn key(index: usize) -> ObjectKey {
    ObjectKey::container("default", &format!("c{index}")).unwrap()
}

fn object(index: usize, variant: Variant) -> Arc<Object> {
    let policy = ["Always", "OnFailure", "UnlessStopped", "Never"][usize::from(variant.policy % 4)];
    let mut value = serde_json::json!({
        "apiVersion": "stower.dev/v1alpha1",
        "kind": "Container",
        "metadata": {"name": format!("c{index}"), "namespace": "default"},
        "spec": {
            "image": format!("registry.example/app:{}", variant.image % 2),
            "args": [format!("{}", variant.arg % 2)],
            "resources": {"limits": {"memory": format!("{}Mi", 64 + u32::from(variant.memory % 2))}},
            "restartPolicy": policy,
        }
    });
    if variant.arg % 2 == 1 {
        let sleep = serde_json::json!({"sleep": {"seconds": 1}});
        value["spec"]["lifecycle"] = serde_json::json!({"postStart": sleep, "preStop": sleep});
    }
    Arc::new(stower_crds::read_accepted(value).expect("a sound object"))
}

fn digest(reference: &str) -> ImageDigest {
    ImageDigest::new(&format!("sha256:{reference}"))
}

impl World {
    fn new() -> Self {
        let mut ledger = Ledger::default();
        ledger.restore(&source(), None, Vec::new());
        Self {
            disk: BTreeMap::new(),
            trouble: 0,
            held: BTreeMap::new(),
            may_remove: BTreeSet::new(),
            machines: BTreeMap::new(),
            images: BTreeSet::new(),
            boot: 1,
            mono: 1_000_000_000,
            ledger,
            records: Records::new(),
            queue: Vec::new(),
            failures: BTreeMap::new(),
            pulls: BTreeMap::new(),
            asked: BTreeMap::new(),
            updated: BTreeMap::new(),
            hooks: BTreeMap::new(),
            blind: BTreeSet::new(),
            full: false,
            fail: 0,
            uids: 0,
            effects: 0,
            counts: BTreeMap::new(),
        }
    }

    fn boot_id(&self) -> BootId {
        BootId::new(&format!("boot-{}", self.boot))
    }

    fn now(&self) -> Now {
        let wall = Timestamp::from_second(1_700_000_000 + i64::from(self.boot) * 1_000_000).unwrap()
            + Duration::from_nanos(self.mono);
        Now { mono: Mono::from_nanos(self.mono), wall, boot_id: self.boot_id() }
    }

    fn pass(&mut self, millis: u64) {
        self.mono += millis * 1_000_000;
        // Shims end what they were told to end.
        let now = self.now();
        for machine in self.machines.values_mut() {
            if machine.process.as_ref().and_then(|p| p.stopping).is_some_and(|s| s.deadline <= now.mono) {
                end(machine, 137, Some(9), &now);
            }
        }
    }

    /// The directory as the agent's scan finds it.
    fn scan(&mut self) {
        let snapshot = match self.trouble {
            1 => SourceSnapshot::Unreadable { why: "permission denied".into() },
            2 => SourceSnapshot::Read {
                fs_id: Some(FsId::new("other")),
                files: BTreeMap::new(),
                allow_empty: false,
            },
            3 => SourceSnapshot::Read {
                fs_id: Some(FsId::new("disk")),
                files: BTreeMap::new(),
                allow_empty: false,
            },
            _ => SourceSnapshot::Read {
                fs_id: Some(FsId::new("disk")),
                files: self
                    .disk
                    .iter()
                    .map(|(key, object)| {
                        (FileId::new(key.name.as_str()), FileState::Good(vec![object.clone()]))
                    })
                    .collect(),
                // The world's people delete files one by one.
                allow_empty: true,
            },
        };
        let (mut uids, now) = (self.uids, self.now().wall);
        let mut fresh = || {
            uids += 1;
            Uid::new(format!("uid-{uids}")).unwrap()
        };
        self.ledger.snapshot(&source(), snapshot, &mut fresh, now);
        self.uids = uids;
    }

    fn observe(&self, desired: &Desired) -> Observed {
        let mut observed = Observed::default();
        if self.full {
            observed.pressure =
                DiskPressure { kinds: [PressureKind::Bytes].into(), message: "it is full".into() };
        }
        let uids: BTreeSet<&Uid> =
            desired.iter().map(|d| &d.uid).chain(self.machines.keys()).chain(self.records.keys()).collect();
        for uid in uids {
            if self.blind.contains(uid) {
                continue;
            }
            let machine = self.machines.get(uid).cloned().unwrap_or_default();
            let reference = desired.by_uid(uid).map(|d| d.spec.image.clone()).unwrap_or_default();
            let here = self.images.contains(&reference);
            let state = match self.pulls.get(uid) {
                Some(failed) if !here => failed.clone(),
                _ if here => {
                    ImageState::Present { digest: digest(&reference), asked: self.asked.get(uid).copied() }
                }
                _ => ImageState::Absent,
            };
            let process = match (&machine.process, machine.lost, &machine.exit) {
                (Some(p), _, _) => ProcessState::Running {
                    run: p.run,
                    pid: 42,
                    started_at: p.started_at,
                    stopping: p.stopping,
                },
                (None, Some(run), _) => ProcessState::Lost { run, started_at: None, exit: None },
                (None, None, Some((run, exit))) => ProcessState::Exited { run: *run, exit: exit.clone() },
                _ => ProcessState::Absent,
            };
            let populated = machine.process.is_some() || machine.leftovers > 0;
            observed.containers.insert(
                uid.clone(),
                ObservedContainer {
                    image: ObservedImage { reference, state, ..ObservedImage::default() },
                    process,
                    cgroup: match (populated, machine.cgroup) {
                        (true, _) => CgroupState::Populated,
                        (false, true) => CgroupState::Empty,
                        (false, false) => CgroupState::Absent,
                    },
                    rootfs: match machine.rootfs {
                        Some(image) => RootfsState::Present { image: Some(image) },
                        None => RootfsState::Absent,
                    },
                    probes: machine.process.as_ref().map(|process| ProbeFacts {
                        run: process.run,
                        started: true,
                        ready: true,
                        failed: process.unhealthy.then(|| ProbeFailure {
                            probe: stower_crds::ProbeType::Liveness,
                            message: "no answer".into(),
                        }),
                        last: Vec::new(),
                    }),
                    limit: None,
                    files: if machine.files { FilesState::Present } else { FilesState::Absent },
                    in_flight: self
                        .queue
                        .iter()
                        .filter(|action| action.uid == *uid)
                        .map(|action| action.act.kind())
                        .find(|kind| !matches!(kind, ActionKind::PullImage | ActionKind::PostStart)),
                    failure: self.failures.get(uid).cloned(),
                    updated: self.updated.get(uid).copied(),
                    post_start: self.hooks.get(uid).cloned(),
                    files_written: None,
                },
            );
            if self.queue.iter().any(|a| a.uid == *uid && a.act.kind() == ActionKind::PullImage) {
                observed.containers.get_mut(uid).unwrap().image.state = ImageState::Pulling;
            }
        }
        observed
    }

    fn plan(&self) -> (Plan, Desired, Observed) {
        let desired = self.ledger.desired();
        let observed = self.observe(&desired);
        let plan = plan(&desired, &observed, &self.records, &self.now(), LIMIT);
        let faults = check(&plan, &desired, &observed, &self.records);
        assert!(faults.is_empty(), "{faults:#?}");
        (plan, desired, observed)
    }

    /// Scans, plans, remembers, and queues what is to be done.
    fn tick(&mut self) -> Plan {
        self.scan();
        let (plan, desired, observed) = self.plan();
        for (uid, record) in &plan.records {
            if record.hold.is_none() && self.held.contains_key(uid) {
                let policy =
                    desired.by_uid(uid).expect("only what is declared has a new record").spec.restart_policy;
                assert_ne!(self.held[uid], self.boot_id(), "{uid}: its hold is lost");
                assert_eq!(policy, RestartPolicy::Always, "{uid}: its hold is lost");
                self.held.remove(uid);
            }
            if let (Some(hold), Some(boot)) = (&record.hold, self.held.get_mut(uid)) {
                boot.clone_from(&hold.boot_id);
            }
            let count = self.counts.entry(uid.clone()).or_default();
            assert!(record.restart_count >= *count, "{uid}: restartCount went back");
            *count = record.restart_count;
            self.records.insert(uid.clone(), RecordState::Known(record.clone()));
        }
        // The same inputs with the records taken over give the same actions, but never another record.
        let starts = observed.starts_in_flight();
        let new = plan.actions.iter().filter(|a| a.act.kind() == ActionKind::Start).count();
        assert!(starts + new <= LIMIT || new == 0, "more starts than are allowed");
        for action in &plan.actions {
            // What people do between a plan and its start is for the next plan.
            if action.act.kind() == ActionKind::Start {
                assert!(!self.held.contains_key(&action.uid), "{action}, but it is held");
            }
            // A stop that supersedes a start in flight takes its place.
            let aside = |kind| matches!(kind, ActionKind::PullImage | ActionKind::PostStart);
            self.queue.retain(|queued| queued.uid != action.uid || aside(queued.act.kind()));
            if let Act::PostStart { run, .. } = &action.act {
                let hook = PostStart { run: *run, state: HookState::Running };
                self.hooks.insert(action.uid.clone(), hook);
            }
            self.queue.push(action.clone());
        }
        plan
    }

    fn act(&mut self, action: &Action) {
        self.effects += 1;
        let uid = &action.uid;
        let kind = action.act.kind();
        if let Act::PostStart { run, .. } = &action.act {
            let state = match self.fail {
                0 => HookState::Succeeded,
                _ => HookState::Failed("exit code 1".into()),
            };
            self.fail = self.fail.saturating_sub(1);
            self.hooks.insert(uid.clone(), PostStart { run: *run, state });
            return;
        }
        if self.fail > 0 && kind != ActionKind::Forget {
            self.fail -= 1;
            let now = self.now();
            let attempts = self.failures.get(uid).filter(|f| f.action == kind).map_or(1, |f| f.attempts + 1);
            let run = match &action.act {
                Act::Start { run, .. } => Some(*run),
                _ => None,
            };
            if kind == ActionKind::PullImage {
                let attempts = match self.pulls.get(uid) {
                    Some(ImageState::Failed { attempts, .. }) => attempts + 1,
                    _ => 1,
                };
                self.pulls.insert(
                    uid.clone(),
                    ImageState::Failed {
                        reason: PullFailure::ErrImagePull,
                        message: "no route".into(),
                        at: now.mono,
                        attempts,
                    },
                );
                return;
            }
            let reason = match attempts % 3 {
                _ if self.full => FailureReason::DiskPressure,
                0 => FailureReason::CreateContainerConfigError,
                1 => FailureReason::RunContainerError,
                _ => FailureReason::CreateContainerError,
            };
            self.failures.insert(
                uid.clone(),
                Failure {
                    action: kind,
                    run,
                    reason,
                    message: "injected".into(),
                    at: now.mono,
                    wall: now.wall,
                    attempts,
                },
            );
            return;
        }
        if self.failures.get(uid).is_some_and(|f| f.action == kind) {
            self.failures.remove(uid);
        }
        if matches!(action.why, Why::Removed { .. } | Why::Orphan) {
            // One that waited for its name may be accepted and removed after its file went.
            let gone = action.key.as_ref().is_some_and(|key| !self.disk.contains_key(key));
            assert!(gone || self.may_remove.contains(uid), "{action}, but nobody removed it");
        }
        let now = self.now();
        let machine = self.machines.entry(uid.clone()).or_default();
        match &action.act {
            Act::PullImage { reference, generation, .. } => {
                self.images.insert(reference.clone());
                self.asked.insert(uid.clone(), *generation);
                self.pulls.remove(uid);
            }
            Act::Start { run, generation, image, spec, storage, resolved: _ } => {
                assert!(machine.process.is_none() && machine.leftovers == 0, "two processes: {action}");
                assert!(*run > machine.last_run, "{action}: run {run} again");
                assert_eq!(*image, digest(&spec.image), "another image than the spec says");
                if *storage == StorageMode::Keep {
                    assert!(
                        machine.rootfs.as_ref().is_none_or(|old| old == image),
                        "kept another image's layer"
                    );
                }
                machine.rootfs = Some(image.clone());
                (machine.files, machine.cgroup) = (true, true);
                (machine.exit, machine.lost) = (None, None);
                machine.last_run = *run;
                machine.starts += 1;
                machine.process = Some(Process {
                    run: *run,
                    started_at: now.wall,
                    generation: *generation,
                    image: image.clone(),
                    stopping: None,
                    unhealthy: false,
                });
            }
            Act::Stop { grace, pre_stop, .. } => {
                let more = pre_stop.as_ref().map_or(Duration::ZERO, |_| HOOK_EXTENSION);
                if let Some(process) = machine.process.as_mut() {
                    process.stopping = Some(Stopping { deadline: now.mono.plus(*grace).plus(more) });
                }
            }
            Act::Kill => {
                machine.leftovers = 0;
                if machine.process.is_some() {
                    end(machine, 137, Some(9), &now);
                }
            }
            Act::Update { generation, .. } => {
                self.updated.insert(uid.clone(), *generation);
            }
            Act::Teardown => {
                assert!(machine.process.is_none() && machine.leftovers == 0, "torn down under a process");
                self.machines.remove(uid);
            }
            Act::Forget => {
                assert!(!self.machines.contains_key(uid) || self.machines[uid].starts == 0);
                self.machines.remove(uid);
                self.records.remove(uid);
                let (mut uids, wall) = (self.uids, now.wall);
                let mut fresh = || {
                    uids += 1;
                    Uid::new(format!("uid-{uids}")).unwrap()
                };
                self.ledger.forget(uid, &mut fresh, wall);
                self.uids = uids;
            }
            other => panic!("the world knows no {other:?}"),
        }
    }

    fn drain(&mut self, most: usize) {
        for action in self.queue.drain(..most.min(self.queue.len())).collect::<Vec<_>>() {
            self.act(&action);
        }
    }

    fn uid(&self, index: usize) -> Option<Uid> {
        self.ledger.get(&key(index)).filter(|entry| entry.deleted_at.is_none()).map(|e| e.uid.clone())
    }

    fn edit_record(&mut self, index: usize, edit: impl FnOnce(&mut Record, &Now)) {
        let Some(uid) = self.uid(index) else { return };
        let now = self.now();
        let state = self
            .records
            .entry(uid.clone())
            .or_insert_with(|| RecordState::Known(Record::new(uid, key(index))));
        if let RecordState::Known(record) = state {
            edit(record, &now);
        }
    }

    fn happen(&mut self, event: &Event) {
        let now = self.now();
        match event {
            Event::Declare(index, variant) => {
                self.disk.insert(key(*index), object(*index, *variant));
            }
            Event::Delete(index) => {
                if let Some(uid) = self.uid(*index) {
                    self.may_remove.insert(uid);
                }
                self.disk.remove(&key(*index));
            }
            Event::Trouble(kind) => self.trouble = 1 + kind % 3,
            Event::Readable => self.trouble = 0,
            Event::Unhealthy(index) => {
                let machine = self.uid(*index).and_then(|uid| self.machines.get_mut(&uid));
                if let Some(process) = machine.and_then(|machine| machine.process.as_mut()) {
                    process.unhealthy = true;
                }
            }
            Event::Exit(index, code) => {
                if let Some(machine) = self.uid(*index).and_then(|uid| self.machines.get_mut(&uid))
                    && machine.process.is_some()
                {
                    end(machine, *code, None, &now);
                }
            }
            Event::KillShim(index) => {
                if let Some(machine) = self.uid(*index).and_then(|uid| self.machines.get_mut(&uid))
                    && let Some(process) = machine.process.take()
                {
                    machine.lost = Some(process.run);
                    machine.leftovers = 2;
                }
            }
            Event::AgentDies => self.forget_memory(),
            Event::Reboot => {
                self.forget_memory();
                self.boot += 1;
                self.mono = 1_000_000_000;
                for machine in self.machines.values_mut() {
                    (machine.process, machine.exit, machine.lost) = (None, None, None);
                    (machine.leftovers, machine.cgroup) = (0, false);
                }
            }
            Event::Hold(index) => {
                if let Some(uid) = self.uid(*index) {
                    self.edit_record(*index, |record, now| record.stop("a test", now));
                    // A hold that is there stays as it is.
                    self.held.entry(uid).or_insert(now.boot_id);
                }
            }
            Event::Start(index) | Event::Restart(index) => {
                if let Some(uid) = self.uid(*index) {
                    let again = matches!(event, Event::Restart(_));
                    self.edit_record(
                        *index,
                        |record, _| if again { record.restart() } else { record.start() },
                    );
                    self.held.remove(&uid);
                }
            }
            Event::Fail(count) => self.fail = count % 5,
            Event::Full(full) => self.full = *full,
            Event::Blind(index) => {
                let uid = self.uid(*index);
                self.blind.extend(uid);
            }
            Event::Pass(millis) => {
                self.pass(u64::from(*millis));
                self.blind.clear();
            }
            Event::Step(effects) => {
                self.tick();
                self.drain(usize::from(*effects));
            }
        }
    }

    fn forget_memory(&mut self) {
        // Of what was in flight, every other thing was done.
        let queue = std::mem::take(&mut self.queue);
        for action in queue.iter().step_by(2) {
            if action.act.kind() != ActionKind::Forget {
                self.act(action);
            }
        }
        self.failures.clear();
        self.pulls.clear();
        self.asked.clear();
        self.updated.clear();
        self.hooks.clear();
    }

    /// Lets the world come to rest; panics when it does not.
    fn settle(&mut self) {
        self.trouble = 0;
        self.full = false;
        self.fail = 0;
        self.blind.clear();
        for _ in 0..400 {
            let plan = self.tick();
            if self.queue.is_empty() {
                if plan.records.is_empty() && plan.wake_at.is_none() {
                    return self.assert_at_rest(&plan);
                }
                if let Some(at) = plan.wake_at {
                    let wait = self.now().mono.until(at);
                    self.pass(u64::try_from(wait.as_millis()).unwrap() + 1);
                }
            }
            self.drain(usize::MAX);
            // Shims need time to end what they were told to end.
            self.pass(
                if self.machines.values().any(|m| m.process.as_ref().is_some_and(|p| p.stopping.is_some())) {
                    33_000
                } else {
                    1
                },
            );
        }
        panic!("it does not come to rest: {}", self.plan().0);
    }

    fn assert_at_rest(&mut self, plan: &Plan) {
        assert!(plan.is_idle(), "{plan}");
        let effects = self.effects;
        assert_eq!(self.tick(), Plan::default(), "a second plan does something");
        self.drain(usize::MAX);
        assert_eq!(self.effects, effects);
        let desired = self.ledger.desired();
        let declared: BTreeSet<&ObjectKey> = desired.iter().map(|d| &d.key).collect();
        assert_eq!(declared, self.disk.keys().collect(), "what is declared is not what is on disk");
        for uid in self.machines.keys() {
            assert!(desired.by_uid(uid).is_some(), "{uid} is left over");
        }
        for uid in self.records.keys() {
            assert!(desired.by_uid(uid).is_some(), "the record of {uid} is left over");
        }
        for declared in desired.iter() {
            let uid = &declared.uid;
            let machine = self.machines.get(uid).cloned().unwrap_or_default();
            let record = self.records.get(uid).and_then(RecordState::known).expect("it has a record");
            let finished = record.ended.as_ref().is_some_and(|ended| {
                !ended.asked && verdict(&declared.spec, ended, record.retries) != Verdict::Restart
            });
            match &machine.process {
                Some(process) => {
                    assert!(!self.held.contains_key(uid), "{}: runs though held", declared.key);
                    assert!(process.stopping.is_none());
                    assert_eq!(
                        process.image,
                        digest(&declared.spec.image),
                        "{}: another image",
                        declared.key
                    );
                    let launch = record.launch.as_ref().unwrap();
                    assert_eq!(launch.spec, declared.spec, "{}: another spec", declared.key);
                    assert!(process.generation <= declared.generation);
                    if process.generation < declared.generation
                        && launch.spec.resources != declared.spec.resources
                    {
                        assert_eq!(self.updated.get(uid), Some(&declared.generation));
                    }
                }
                None => assert!(
                    self.held.contains_key(uid) || finished,
                    "{}: does not run, is not held and has not finished",
                    declared.key
                ),
            }
            let observed = self.observe(&desired);
            let status = container_status(
                &StatusInput {
                    problems: &[],
                    pressure: &observed.pressure,
                    declared,
                    observed: &observed.containers[uid],
                    record: self.records.get(uid),
                    queued: false,
                    old: None,
                },
                &self.now(),
            );
            let state = status.state.expect("a state is told");
            assert_eq!(state.running.is_some(), machine.process.is_some());
            assert_eq!(status.restart_count, record.restart_count);
        }
    }
}

fn end(machine: &mut Machine, code: i32, signal: Option<i32>, now: &Now) {
    let process = machine.process.take().expect("a process to end");
    machine.exit = Some((
        process.run,
        Exit {
            code,
            signal,
            oom_killed: false,
            started_at: process.started_at,
            finished_at: now.wall,
            ran_for: None,
            last_words: LastWords::default(),
        },
    ));
}

fn variant() -> impl Strategy<Value = Variant> {
    (0..2_u8, 0..2_u8, 0..2_u8, 0..4_u8).prop_map(|(image, arg, memory, policy)| Variant {
        image,
        arg,
        memory,
        policy,
    })
}

fn event() -> impl Strategy<Value = Event> {
    let at = 0..OBJECTS;
    prop_oneof![
        4 => (at.clone(), variant()).prop_map(|(i, v)| Event::Declare(i, v)),
        1 => at.clone().prop_map(Event::Delete),
        1 => any::<u8>().prop_map(Event::Trouble),
        1 => Just(Event::Readable),
        1 => at.clone().prop_map(Event::Unhealthy),
        2 => (at.clone(), prop_oneof![Just(0), Just(1), Just(137)]).prop_map(|(i, c)| Event::Exit(i, c)),
        1 => at.clone().prop_map(Event::KillShim),
        1 => Just(Event::AgentDies),
        1 => Just(Event::Reboot),
        1 => at.clone().prop_map(Event::Hold),
        1 => at.clone().prop_map(Event::Start),
        1 => at.clone().prop_map(Event::Restart),
        1 => any::<u8>().prop_map(Event::Fail),
        1 => any::<bool>().prop_map(Event::Full),
        1 => at.prop_map(Event::Blind),
        2 => (0_u32..40_000).prop_map(Event::Pass),
        8 => (0_u8..4).prop_map(Event::Step),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens, in the end the machine is as declared, and on the way no rule is broken.
    #[test]
    fn converges_and_never_breaks_a_rule(events in proptest::collection::vec(event(), 1..60)) {
        let mut world = World::new();
        for event in &events {
            world.happen(event);
        }
        world.settle();
    }
}
