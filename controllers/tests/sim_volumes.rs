//! A machine in memory with stores, whose truth is every byte that a process wrote. Histories of Volumes,
//! DataContainers and Containers that take from each other, under failures, deaths of the agent and reboots.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::json;
use stower_controllers::*;
use stower_crds::{
    ContainerSpec, Generation, Kind, Name, Namespace, Object, ObjectKey, ReclaimPolicy, Uid, VolumesFromKind,
};

const CONTAINERS: u8 = 3;
const PAIRS: u8 = 2;
/// The only container whose image asks for a volume.
const ASKS: &str = "c2";

#[derive(Debug, Clone)]
enum Event {
    Volume(u8, bool),
    Data(u8, u8),
    Container(u8, u16),
    Delete(u8),
    Exit(u8),
    KillShim(u8),
    /// Every process writes to everything that it can.
    Write,
    AgentDies,
    Reboot,
    /// The next effects fail, each after this many of its parts.
    Fail(u8, u8),
    Pass(u32),
    Step(u8),
}

/// What a directory of data is.
#[derive(Debug, Clone, Default)]
struct Store {
    /// No two stores ever have the same.
    serial: u32,
    /// What was written; none as long as nobody filled it.
    data: Option<BTreeSet<u32>>,
    filled: u32,
}

#[derive(Debug, Clone, Default)]
struct Machine {
    running: Option<(Run, Timestamp, Option<Stopping>)>,
    exit: Option<(Run, Exit)>,
    lost: Option<Run>,
    leftovers: bool,
    cgroup: bool,
    rootfs: bool,
    /// Path, store, its serial, whether it is read-only.
    mounts: Vec<(String, StoreId, u32, bool)>,
    last_run: Run,
}

#[derive(Default)]
struct World {
    disk: BTreeMap<ObjectKey, Arc<Object>>,
    machines: BTreeMap<Uid, Machine>,
    stores: BTreeMap<StoreId, Store>,
    /// What must be in each store.
    truth: BTreeMap<StoreId, BTreeSet<u32>>,
    images: BTreeSet<String>,
    boot: u32,
    mono: u64,
    ledger: Ledger,
    records: Records,
    // The agent's memory.
    queue: Vec<Action>,
    failures: BTreeMap<Uid, Failure>,
    pulls: BTreeMap<Uid, ImageState>,
    made: BTreeMap<Uid, Generation>,
    gone: BTreeSet<Uid>,
    fail: (u8, u8),
    serial: u32,
    uids: u32,
}

fn source() -> SourceId {
    SourceId::new("directory")
}

fn key(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey::new(kind, Namespace::new("default").unwrap(), Name::new(name).unwrap())
}

fn object(kind: &str, name: &str, spec: &serde_json::Value) -> Arc<Object> {
    let value = json!({
        "apiVersion": "stower.dev/v1alpha1", "kind": kind,
        "metadata": {"name": name, "namespace": "default"}, "spec": spec,
    });
    Arc::new(stower_crds::read_accepted(value).expect("a sound object"))
}

fn volume(index: u8, delete: bool) -> Arc<Object> {
    let policy = if delete { "Delete" } else { "Retain" };
    object("Volume", &format!("v{index}"), &json!({"driver": "local", "reclaimPolicy": policy}))
}

/// Of the bits: removed with its data, filled from an image, names each Volume.
fn data(index: u8, bits: u8) -> Arc<Object> {
    let mut volumes = vec![json!({"mountPath": format!("/d{index}"), "readOnly": bits & 16 != 0})];
    for pair in 0..PAIRS {
        if bits & (4 << pair) != 0 {
            volumes.push(json!({"mountPath": format!("/d{index}-v{pair}"), "volume": format!("v{pair}")}));
        }
    }
    let mut spec =
        json!({"volumes": volumes, "reclaimPolicy": if bits & 1 != 0 { "Delete" } else { "Retain" }});
    if bits & 2 != 0 {
        spec["image"] = json!("registry.example/seed:1");
    }
    object("DataContainer", &format!("d{index}"), &spec)
}

/// Of the bits: takes from each DataContainer, from each other container, has a directory and a Volume of its own.
fn container(index: u8, bits: u16) -> Arc<Object> {
    let (mut from, mut volumes, mut mounts) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        if bits & (1 << pair) != 0 {
            from.push(json!({"name": format!("d{pair}"), "readOnly": bits & 256 != 0}));
        }
    }
    for other in (0..CONTAINERS).filter(|other| *other != index) {
        // More seldom, or everything would go in circles.
        if bits & (4 << other) != 0 && bits & 128 != 0 {
            from.push(json!({"name": format!("c{other}"), "kind": "Container"}));
        }
    }
    if bits & 32 != 0 {
        volumes.push(json!({"name": "e", "emptyDir": {}}));
        mounts.push(json!({"name": "e", "mountPath": format!("/e{index}")}));
    }
    if bits & 64 != 0 {
        volumes.push(json!({"name": "v", "volume": {"name": "v0"}}));
        mounts.push(json!({"name": "v", "mountPath": format!("/x{index}")}));
    }
    let spec = json!({
        "image": "registry.example/app:1", "args": [format!("{}", bits & 512)],
        "volumes": volumes, "volumeMounts": mounts, "volumesFrom": from,
    });
    object("Container", &format!("c{index}"), &spec)
}

fn any_key(index: u8) -> ObjectKey {
    match index {
        0..2 => key(Kind::Volume, &format!("v{index}")),
        2..4 => key(Kind::DataContainer, &format!("d{}", index - 2)),
        _ => key(Kind::Container, &format!("c{}", (index - 4) % CONTAINERS)),
    }
}

/// What a start of that spec must mount, told apart from how the crate finds it; `None` when it cannot start.
fn expected(
    name: &str,
    spec: &ContainerSpec,
    desired: &Desired,
    above: &[String],
) -> Option<BTreeMap<String, bool>> {
    let mut own = BTreeMap::new();
    for mount in &spec.volume_mounts {
        let volume = spec.volumes.iter().find(|volume| volume.name == mount.name)?;
        if let Some(named) = &volume.volume {
            desired.volume(&key(Kind::Volume, &named.name)).filter(|it| !it.terminating)?;
        }
        own.insert(mount.mount_path.clone(), mount.read_only);
    }
    let mut taken = BTreeMap::new();
    for from in &spec.volumes_from {
        let paths: BTreeMap<String, bool> = match from.kind {
            VolumesFromKind::DataContainer => {
                let data = desired.data_container(&key(Kind::DataContainer, &from.name))?;
                if data.terminating {
                    return None;
                }
                for named in data.spec.volumes.iter().filter_map(|it| it.volume.as_deref()) {
                    desired.volume(&key(Kind::Volume, named)).filter(|it| !it.terminating)?;
                }
                data.spec.volumes.iter().map(|it| (it.mount_path.clone(), it.read_only)).collect()
            }
            VolumesFromKind::Container => {
                let source = desired.get(&key(Kind::Container, &from.name))?;
                if source.terminating || from.name == name || above.contains(&from.name) {
                    return None;
                }
                let mut above = above.to_vec();
                above.push(name.to_owned());
                expected(&from.name, &source.spec, desired, &above)?
            }
        };
        for (path, read_only) in paths {
            if !own.contains_key(&path) && taken.insert(path, read_only || from.read_only).is_some() {
                return None;
            }
        }
    }
    own.extend(taken);
    if name == ASKS {
        own.entry("/anon".to_owned()).or_insert(false);
    }
    Some(own)
}

impl World {
    fn new() -> Self {
        let mut world = Self { boot: 1, mono: 1_000_000_000, ..Self::default() };
        world.ledger.restore(&source(), None, Vec::new());
        world
    }

    fn now(&self) -> Now {
        let wall = Timestamp::from_second(1_700_000_000 + i64::from(self.boot) * 1_000_000).unwrap()
            + Duration::from_nanos(self.mono);
        let boot_id = BootId::new(&format!("boot-{}", self.boot));
        Now { mono: Mono::from_nanos(self.mono), wall, boot_id }
    }

    fn pass(&mut self, millis: u64) {
        self.mono += millis * 1_000_000;
        let now = self.now();
        for machine in self.machines.values_mut() {
            if let Some((_, _, Some(stopping))) = machine.running
                && stopping.deadline <= now.mono
            {
                end(machine, 137, &now);
            }
        }
    }

    fn fresh(uids: &mut u32) -> Uid {
        *uids += 1;
        Uid::new(format!("uid-{uids}")).unwrap()
    }

    fn scan(&mut self) {
        let files = self
            .disk
            .iter()
            .map(|(key, object)| (FileId::new(&key.to_string()), FileState::Good(vec![Arc::clone(object)])));
        let snapshot = SourceSnapshot::Read { fs_id: None, files: files.collect(), allow_empty: true };
        let (mut uids, now) = (self.uids, self.now().wall);
        self.ledger.snapshot(&source(), snapshot, &mut || Self::fresh(&mut uids), now);
        self.uids = uids;
    }

    fn in_flight(&self, uid: &Uid) -> Option<ActionKind> {
        let mut kinds = self.queue.iter().filter(|it| it.uid == *uid).map(|it| it.act.kind());
        kinds.find(|kind| *kind != ActionKind::PullImage)
    }

    fn image(&self, uid: &Uid, reference: &str, volumes: Vec<String>) -> ObservedImage {
        let pulls = self.queue.iter().any(|it| it.uid == *uid && it.act.kind() == ActionKind::PullImage);
        let state = if pulls {
            ImageState::Pulling
        } else if self.images.contains(reference) {
            ImageState::Present { digest: ImageDigest::new(reference), asked: None }
        } else {
            self.pulls.get(uid).cloned().unwrap_or(ImageState::Absent)
        };
        let here = matches!(state, ImageState::Present { .. });
        let volumes = Cow::Owned(if here { volumes } else { Vec::new() });
        ObservedImage { reference: reference.to_owned(), state, volumes }
    }

    fn facts(&self, id: &StoreId) -> Option<StoreFacts> {
        let store = self.stores.get(id)?;
        Some(StoreFacts {
            id: id.clone(),
            path: format!("/{}", store.serial),
            has_data: store.data.is_some(),
            filled_from: None,
            capacity: None,
            capacity_enforced: false,
        })
    }

    fn observe(&self, desired: &Desired) -> Observed {
        let mut observed = Observed::default();
        let uids: BTreeSet<&Uid> =
            desired.iter().map(|it| &it.uid).chain(self.machines.keys()).chain(self.records.keys()).collect();
        for uid in uids {
            let machine = self.machines.get(uid).cloned().unwrap_or_default();
            let declared = desired.by_uid(uid);
            let asks = declared.is_some_and(|it| it.key.name.as_str() == ASKS);
            let volumes = if asks { vec!["/anon".to_owned()] } else { Vec::new() };
            let reference = declared.map_or("", |it| it.spec.image.as_str());
            let process = match (&machine.running, machine.lost, &machine.exit) {
                (Some((run, started_at, stopping)), _, _) => {
                    ProcessState::Running { run: *run, pid: 42, started_at: *started_at, stopping: *stopping }
                }
                (None, Some(run), _) => ProcessState::Lost { run, started_at: None, exit: None },
                (None, None, Some((run, exit))) => ProcessState::Exited { run: *run, exit: exit.clone() },
                _ => ProcessState::Absent,
            };
            let seen = ObservedContainer {
                image: self.image(uid, reference, volumes),
                process,
                cgroup: match (machine.running.is_some() || machine.leftovers, machine.cgroup) {
                    (true, _) => CgroupState::Populated,
                    (false, true) => CgroupState::Empty,
                    (false, false) => CgroupState::Absent,
                },
                rootfs: if machine.rootfs {
                    RootfsState::Present { image: None }
                } else {
                    RootfsState::Absent
                },
                files: if machine.rootfs { FilesState::Present } else { FilesState::Absent },
                in_flight: self.in_flight(uid),
                failure: self.failures.get(uid).cloned(),
                ..ObservedContainer::default()
            };
            observed.containers.insert(uid.clone(), seen);
        }
        let made = |uid: &Uid, ids: Vec<StoreId>| match self.made.get(uid) {
            _ if self.gone.contains(uid) => StoreState::Gone,
            Some(generation) => {
                let stores = ids.iter().filter_map(|id| self.facts(id)).collect();
                StoreState::Made { generation: *generation, stores }
            }
            None => StoreState::Unknown,
        };
        for declared in desired.volumes() {
            let id = volume_id(declared.key.name.as_str());
            observed.stores.insert(
                declared.uid.clone(),
                self.stores_of(&declared.uid, "", made(&declared.uid, vec![id])),
            );
        }
        for declared in desired.data_containers() {
            let ids = declared.spec.volumes.iter().map(|it| data_id(&declared.key, it)).collect();
            let image = declared.spec.image.as_deref().unwrap_or_default();
            observed
                .stores
                .insert(declared.uid.clone(), self.stores_of(&declared.uid, image, made(&declared.uid, ids)));
        }
        observed
    }

    fn stores_of(&self, uid: &Uid, image: &str, state: StoreState) -> ObservedStores {
        ObservedStores {
            image: self.image(uid, image, Vec::new()),
            state,
            in_flight: self.in_flight(uid),
            failure: self.failures.get(uid).cloned(),
        }
    }

    fn tick(&mut self) -> Plan {
        self.scan();
        let desired = self.ledger.desired();
        let observed = self.observe(&desired);
        let plan = plan(&desired, &observed, &self.records, &self.now(), 2);
        let faults = check(&plan, &desired, &observed, &self.records);
        assert!(faults.is_empty(), "{faults:#?}");
        for (uid, record) in &plan.records {
            self.records.insert(uid.clone(), RecordState::Known(record.clone()));
        }
        for action in &plan.actions {
            if let Act::Start { spec, resolved, .. } = &action.act {
                let name = action.key.as_ref().unwrap().name.as_str();
                let wanted = expected(name, spec, &desired, &[]);
                let mounts: BTreeMap<String, bool> =
                    resolved.mounts.iter().map(|it| (it.path.clone(), it.read_only)).collect();
                assert_eq!(wanted, Some(mounts), "{action}: another set than it asks for");
            }
            if let (Act::RemoveStores { .. }, Some(key)) = (&action.act, &action.key) {
                let mut users = desired.users(key).filter_map(|uid| desired.key_of(uid));
                assert!(users.all(|user| user.kind != Kind::DataContainer), "{action}: it is named");
            }
            self.queue.retain(|it| it.uid != action.uid || it.act.kind() == ActionKind::PullImage);
            self.queue.push(action.clone());
        }
        plan
    }

    /// Nobody may have any of these mounted.
    fn assert_free(&self, of: &Action, gone: impl Fn(&StoreId) -> bool) {
        for (uid, machine) in &self.machines {
            for (path, id, ..) in &machine.mounts {
                assert!(!gone(id), "{of}: {uid} has {id} mounted at {path}");
            }
        }
    }

    fn store(&mut self, id: &StoreId) -> &mut Store {
        self.serial += 1;
        let serial = self.serial;
        self.stores.entry(id.clone()).or_insert_with(|| Store { serial, ..Store::default() })
    }

    fn remove_store(&mut self, id: &StoreId) {
        self.stores.remove(id);
        self.truth.remove(id);
    }

    /// How many parts of an effect are carried out before it fails.
    fn parts(&mut self, action: &Action) -> Option<usize> {
        let kind = action.act.kind();
        if self.fail.0 == 0 || kind == ActionKind::Forget {
            if self.failures.get(&action.uid).is_some_and(|it| it.action == kind) {
                self.failures.remove(&action.uid);
            }
            return None;
        }
        self.fail.0 -= 1;
        let now = self.now();
        if kind == ActionKind::PullImage {
            let attempts = match self.pulls.get(&action.uid) {
                Some(ImageState::Failed { attempts, .. }) => attempts + 1,
                _ => 1,
            };
            let (reason, message) = (PullFailure::ErrImagePull, "no route".into());
            let failed = ImageState::Failed { reason, message, at: now.mono, attempts };
            self.pulls.insert(action.uid.clone(), failed);
            return Some(0);
        }
        let before = self.failures.get(&action.uid).filter(|it| it.action == kind);
        let failure = Failure {
            action: kind,
            run: if let Act::Start { run, .. } = &action.act { Some(*run) } else { None },
            reason: FailureReason::CreateContainerError,
            message: "injected".into(),
            at: now.mono,
            wall: now.wall,
            attempts: before.map_or(1, |it| it.attempts + 1),
        };
        self.failures.insert(action.uid.clone(), failure);
        Some(usize::from(self.fail.1))
    }

    fn act(&mut self, action: &Action) {
        let parts = self.parts(action);
        let uid = &action.uid;
        let now = self.now();
        match &action.act {
            Act::PullImage { reference, .. } => {
                if parts.is_none() {
                    self.images.insert(reference.clone());
                    self.pulls.remove(uid);
                }
            }
            Act::MakeStores { generation, stores, image } => {
                self.make(action, *generation, stores, image.is_some(), parts);
            }
            Act::RemoveStores { stores } => {
                let entry = self.ledger.by_uid(uid).expect("it is in the ledger until it is forgotten");
                let delete = match entry.object.as_ref() {
                    Object::Volume(it) => it.spec.reclaim_policy == ReclaimPolicy::Delete,
                    Object::DataContainer(it) => it.spec.reclaim_policy == ReclaimPolicy::Delete,
                    _ => false,
                };
                assert!(delete && entry.deleted_at.is_some(), "{action}: its data is to be kept");
                let name = entry.object.key().name;
                for id in stores.iter().take(parts.unwrap_or(usize::MAX)) {
                    let whose = match id {
                        StoreId::Volume { name, .. } | StoreId::Data { name, .. } => Some(name),
                        StoreId::Private { .. } => None,
                    };
                    assert_eq!(whose, Some(&name), "{action}: removes {id}");
                    self.assert_free(action, |mounted| mounted == id);
                    self.remove_store(id);
                }
                if parts.is_none() {
                    self.gone.insert(uid.clone());
                }
            }
            Act::Start { .. } => self.start(action, parts.is_some()),
            Act::Teardown => {
                let private = |id: &StoreId| matches!(id, StoreId::Private { owner, .. } if owner == uid);
                if parts.is_none() {
                    self.assert_free(action, private);
                    let ids: Vec<StoreId> = self.stores.keys().filter(|id| private(id)).cloned().collect();
                    ids.iter().for_each(|id| self.remove_store(id));
                    self.machines.remove(uid);
                }
            }
            Act::Forget => {
                assert!(self.machines.get(uid).is_none_or(|it| !it.rootfs), "{action}: something is left");
                self.machines.remove(uid);
                self.records.remove(uid);
                self.failures.remove(uid);
                let mut uids = self.uids;
                self.ledger.forget(uid, &mut || Self::fresh(&mut uids), now.wall);
                self.uids = uids;
            }
            Act::Stop { grace, .. } => {
                let machine = self.machines.get_mut(uid).and_then(|it| it.running.as_mut());
                if let (Some(running), None) = (machine, parts) {
                    running.2 = Some(Stopping { deadline: now.mono.plus(*grace) });
                }
            }
            Act::Kill => {
                if let (Some(machine), None) = (self.machines.get_mut(uid), parts) {
                    machine.leftovers = false;
                    machine.mounts.clear();
                    if machine.running.is_some() {
                        end(machine, 137, &now);
                    }
                }
            }
            other => panic!("the world knows no {other:?}"),
        }
        self.assert_kept();
    }

    fn make(
        &mut self,
        action: &Action,
        generation: Generation,
        stores: &[StoreWant],
        image: bool,
        parts: Option<usize>,
    ) {
        for want in stores.iter().take(parts.unwrap_or(usize::MAX)) {
            if want.medium == StoreMedium::Made {
                assert!(self.stores.contains_key(&want.id), "{action}: {} is not made", want.id);
            }
            let store = self.store(&want.id);
            match &want.content {
                StoreContent::Empty => {
                    store.data.get_or_insert_default();
                }
                StoreContent::Image { .. } if image && store.data.is_none() => {
                    store.filled += 1;
                    assert_eq!(store.filled, 1, "{action}: {} is filled again", want.id);
                    store.data = Some([0].into());
                    self.truth.entry(want.id.clone()).or_default().insert(0);
                }
                _ => {}
            }
        }
        if parts.is_none() {
            self.made.insert(action.uid.clone(), generation);
        }
    }

    fn start(&mut self, action: &Action, fails: bool) {
        let Act::Start { run, resolved, storage, .. } = &action.act else { return };
        let uid = &action.uid;
        if *storage == StorageMode::New {
            let private = |id: &StoreId| matches!(id, StoreId::Private { owner, .. } if owner == uid);
            self.assert_free(action, private);
            let ids: Vec<StoreId> = self.stores.keys().filter(|id| private(id)).cloned().collect();
            ids.iter().for_each(|id| self.remove_store(id));
        }
        let mut mounts = Vec::new();
        for mount in &resolved.mounts {
            let id = match &mount.what {
                MountWhat::Store(id) => {
                    assert!(self.stores.contains_key(id), "{action}: {id} is not there");
                    id.clone()
                }
                MountWhat::EmptyDir { owner, name, .. } | MountWhat::Anonymous { owner, path: name, .. } => {
                    StoreId::Private { owner: owner.clone(), name: name.clone() }
                }
                other => panic!("the world mounts no {other:?}"),
            };
            let store = self.store(&id);
            let own = matches!(id, StoreId::Data { .. });
            assert!(!own || store.data.is_some(), "{action}: {id} is not filled");
            store.data.get_or_insert_default();
            mounts.push((mount.path.clone(), id, store.serial, mount.read_only));
        }
        let now = self.now();
        let machine = self.machines.entry(uid.clone()).or_default();
        assert!(machine.running.is_none() && !machine.leftovers, "{action}: two processes");
        assert!(*run > machine.last_run, "{action}: that run again");
        // What fails keeps its directories, and mounts nothing.
        (machine.exit, machine.lost, machine.rootfs, machine.last_run) = (None, None, true, *run);
        if !fails {
            machine.cgroup = true;
            machine.running = Some((*run, now.wall, None));
            machine.mounts = mounts;
        }
    }

    /// Not a byte is lost, and what is mounted is what is there.
    fn assert_kept(&self) {
        for (id, written) in &self.truth {
            let there = self.stores.get(id).and_then(|store| store.data.as_ref());
            assert!(there.is_some_and(|there| there.is_superset(written)), "{id} has lost {written:?}");
        }
        for (uid, machine) in &self.machines {
            assert!(
                machine.mounts.is_empty() || machine.running.is_some() || machine.leftovers,
                "{uid}: an orphan mount"
            );
            for (path, id, serial, _) in &machine.mounts {
                let is = self.stores.get(id).map(|store| store.serial);
                assert_eq!(is, Some(*serial), "{uid}: {id} was removed from under {path}");
            }
        }
    }

    fn write(&mut self) {
        for machine in self.machines.values() {
            for (_, id, _, _) in machine.mounts.iter().filter(|(.., read_only)| !read_only) {
                self.serial += 1;
                let data = self.stores.get_mut(id).and_then(|store| store.data.as_mut());
                data.expect("what is mounted has data").insert(self.serial);
                self.truth.entry(id.clone()).or_default().insert(self.serial);
            }
        }
    }

    fn drain(&mut self, most: usize) {
        for action in self.queue.drain(..most.min(self.queue.len())).collect::<Vec<_>>() {
            self.act(&action);
        }
    }

    fn machine(&mut self, index: u8) -> Option<&mut Machine> {
        let uid = self.ledger.get(&key(Kind::Container, &format!("c{index}")))?.uid.clone();
        self.machines.get_mut(&uid).filter(|machine| machine.running.is_some())
    }

    fn happen(&mut self, event: &Event) {
        let now = self.now();
        match event {
            Event::Volume(index, delete) => self.declare(volume(*index, *delete)),
            Event::Data(index, bits) => self.declare(data(*index, *bits)),
            Event::Container(index, bits) => self.declare(container(*index, *bits)),
            Event::Delete(index) => {
                self.disk.remove(&any_key(*index));
            }
            Event::Exit(index) => {
                if let Some(machine) = self.machine(*index) {
                    end(machine, 1, &now);
                }
            }
            Event::KillShim(index) => {
                if let Some(machine) = self.machine(*index) {
                    machine.lost = machine.running.take().map(|(run, ..)| run);
                    machine.leftovers = true;
                }
            }
            Event::Write => self.write(),
            Event::AgentDies => self.forget_memory(),
            Event::Reboot => {
                self.forget_memory();
                self.boot += 1;
                self.mono = 1_000_000_000;
                for machine in self.machines.values_mut() {
                    (machine.running, machine.exit, machine.lost) = (None, None, None);
                    (machine.leftovers, machine.cgroup) = (false, false);
                    machine.mounts.clear();
                }
            }
            Event::Fail(count, parts) => self.fail = (count % 5, parts % 3),
            Event::Pass(millis) => self.pass(u64::from(*millis)),
            Event::Step(effects) => {
                self.tick();
                self.drain(usize::from(*effects));
            }
        }
        self.assert_kept();
    }

    fn declare(&mut self, object: Arc<Object>) {
        self.disk.insert(object.key(), object);
    }

    fn forget_memory(&mut self) {
        // Of what was in flight, every other thing was done.
        for action in std::mem::take(&mut self.queue).iter().step_by(2) {
            if action.act.kind() != ActionKind::Forget {
                self.act(action);
            }
        }
        (self.failures, self.pulls) = (BTreeMap::new(), BTreeMap::new());
        (self.made, self.gone) = (BTreeMap::new(), BTreeSet::new());
    }

    fn settle(&mut self) {
        self.fail = (0, 0);
        for _ in 0..400 {
            let plan = self.tick();
            if self.queue.is_empty() {
                if plan.records.is_empty() && plan.wake_at.is_none() {
                    assert!(plan.is_idle(), "{plan}");
                    return;
                }
                if let Some(at) = plan.wake_at {
                    let wait = self.now().mono.until(at);
                    self.pass(u64::try_from(wait.as_millis()).unwrap() + 1);
                }
            }
            self.drain(usize::MAX);
            let stops = self.machines.values().any(|it| matches!(it.running, Some((.., Some(_)))));
            self.pass(if stops { 31_000 } else { 1 });
        }
        panic!("it does not come to rest: {}", self.tick());
    }

    /// In the end everything that can run runs, with all that it asks for now, and what was deleted is gone.
    fn assert_done(&mut self) {
        self.settle();
        self.write();
        let now = self.now();
        for machine in self.machines.values_mut().filter(|machine| machine.running.is_some()) {
            end(machine, 1, &now);
        }
        self.settle();
        self.write();
        self.assert_kept();
        let desired = self.ledger.desired();
        for declared in desired.iter() {
            let name = declared.key.name.as_str();
            assert!(!declared.terminating, "{} is not removed", declared.key);
            let wanted = expected(name, &declared.spec, &desired, &[]);
            let machine = self.machines.get(&declared.uid).filter(|machine| machine.running.is_some());
            let mounted = machine.map(|machine| {
                machine.mounts.iter().map(|(path, _, _, only)| (path.clone(), *only)).collect()
            });
            assert_eq!(mounted, wanted, "{}", declared.key);
        }
        for data in desired.data_containers() {
            assert!(!data.terminating, "{} is not removed", data.key);
        }
        for volume in desired.volumes().filter(|volume| volume.terminating) {
            let mut users = desired.users(&volume.key).filter_map(|uid| desired.key_of(uid));
            assert!(users.any(|key| key.kind == Kind::DataContainer), "{} is not removed", volume.key);
        }
        for uid in self.machines.keys() {
            assert!(desired.by_uid(uid).is_some(), "{uid} is left over");
        }
        for id in self.stores.keys() {
            if let StoreId::Private { owner, .. } = id {
                assert!(desired.by_uid(owner).is_some(), "{id} is left over");
            }
        }
    }
}

fn volume_id(name: &str) -> StoreId {
    let key = key(Kind::Volume, name);
    StoreId::Volume { namespace: key.namespace, name: key.name }
}

fn data_id(of: &ObjectKey, volume: &stower_crds::DataVolume) -> StoreId {
    match &volume.volume {
        Some(name) => volume_id(name),
        None => StoreId::Data {
            namespace: of.namespace.clone(),
            name: of.name.clone(),
            path: volume.mount_path.clone(),
        },
    }
}

fn end(machine: &mut Machine, code: i32, now: &Now) {
    let (run, started_at, _) = machine.running.take().expect("a process to end");
    machine.mounts.clear();
    let finished_at = now.wall;
    let exit = Exit {
        code,
        signal: None,
        oom_killed: false,
        started_at,
        finished_at,
        ran_for: None,
        last_words: LastWords::default(),
    };
    machine.exit = Some((run, exit));
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..PAIRS, any::<bool>()).prop_map(|(i, d)| Event::Volume(i, d)),
        5 => (0..PAIRS, any::<u8>()).prop_map(|(i, b)| Event::Data(i, b)),
        6 => (0..CONTAINERS, any::<u16>()).prop_map(|(i, b)| Event::Container(i, b)),
        4 => (0_u8..4 + CONTAINERS).prop_map(Event::Delete),
        2 => (0..CONTAINERS).prop_map(Event::Exit),
        1 => (0..CONTAINERS).prop_map(Event::KillShim),
        4 => Just(Event::Write),
        1 => Just(Event::AgentDies),
        1 => Just(Event::Reboot),
        1 => any::<(u8, u8)>().prop_map(|(n, p)| Event::Fail(n, p)),
        3 => (0_u32..40_000).prop_map(Event::Pass),
        20 => (0_u8..5).prop_map(Event::Step),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Not a byte of a Retained store is lost, no partial set is ever mounted, and in the end all is as declared.
    #[test]
    fn bytes_are_kept_and_sets_are_whole(events in proptest::collection::vec(event(), 1..60)) {
        let mut world = World::new();
        for event in &events {
            world.happen(event);
        }
        world.assert_done();
    }
}
