//! What the tests of every module begin with: one container that runs as declared.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde_json::{Value, json};
use stower_crds::{ContainerSpec, Generation, Kind, Name, Namespace, Object, ObjectKey, Uid};

use crate::*;

pub(crate) const IMAGE: &str = "registry.example/web:1";

pub(crate) fn at(millis: u64) -> Now {
    Now {
        mono: Mono::from_nanos(millis * 1_000_000),
        wall: Timestamp::from_second(1_700_000_000).unwrap() + Duration::from_millis(millis),
        boot_id: BootId::new("boot-1"),
    }
}

pub(crate) fn after_reboot(millis: u64) -> Now {
    Now { boot_id: BootId::new("boot-2"), ..at(millis) }
}

/// An object with these fields of its spec, beside the image.
pub(crate) fn object(name: &str, fields: Value) -> Arc<Object> {
    let mut value = json!({
        "apiVersion": "stower.dev/v1alpha1",
        "kind": "Container",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"image": IMAGE},
    });
    let Value::Object(fields) = fields else { panic!("fields of a spec") };
    value["spec"].as_object_mut().unwrap().extend(fields);
    Arc::new(stower_crds::read_accepted(value).unwrap())
}

pub(crate) fn spec(fields: Value) -> Arc<ContainerSpec> {
    let object = object("web", fields);
    let Object::Container(container) = object.as_ref() else { panic!("a Container") };
    Arc::new(container.spec.clone())
}

pub(crate) fn uid() -> Uid {
    Uid::new("uid-1").unwrap()
}

pub(crate) fn key() -> ObjectKey {
    ObjectKey::container("default", "web").unwrap()
}

pub(crate) fn digest(text: &str) -> ImageDigest {
    ImageDigest::new(&format!("sha256:{text}"))
}

pub(crate) fn started_at() -> Timestamp {
    at(1_000).wall
}

pub(crate) fn exit(code: i32, ran_millis: u64) -> Exit {
    Exit {
        code,
        signal: (code > 128).then(|| code - 128),
        oom_killed: false,
        started_at: started_at(),
        finished_at: started_at() + Duration::from_millis(ran_millis),
        ran_for: Some(Duration::from_millis(ran_millis)),
        last_words: LastWords::default(),
    }
}

/// One declared container, what is seen of it, and its record; at 10 s.
#[derive(Clone)]
pub(crate) struct Scene {
    pub(crate) declared: Declared,
    pub(crate) unproven: bool,
    pub(crate) absent: bool,
    pub(crate) observed: ObservedContainer,
    pub(crate) record: Option<Record>,
    pub(crate) unknown_record: bool,
    pub(crate) pressure: DiskPressure,
    pub(crate) now: Now,
}

impl Scene {
    /// Declared just now; only its image is there.
    pub(crate) fn new() -> Self {
        let mut observed = ObservedContainer::nothing(IMAGE);
        observed.image.state = ImageState::Present { digest: digest("1"), asked: None };
        Self {
            declared: Declared {
                key: key(),
                uid: uid(),
                generation: Generation::FIRST,
                spec: spec(json!({})),
                meta: Arc::default(),
                source: SourceId::new("directory"),
                terminating: false,
                rank: 0,
            },
            unproven: false,
            absent: false,
            observed,
            record: None,
            unknown_record: false,
            pressure: DiskPressure::default(),
            now: at(10_000),
        }
    }

    /// Run 1 runs as declared, and everybody knows.
    pub(crate) fn running() -> Self {
        let mut scene = Self::new();
        scene.observed.process =
            ProcessState::Running { run: Run(1), pid: 42, started_at: started_at(), stopping: None };
        scene.observed.cgroup = CgroupState::Populated;
        scene.observed.rootfs = RootfsState::Present { image: Some(digest("1")) };
        scene.observed.files = FilesState::Present;
        let mut record = Record::new(uid(), key());
        record.last_run = Run(1);
        record.image = Some(ResolvedImage {
            reference: IMAGE.into(),
            digest: digest("1"),
            generation: Generation::FIRST,
        });
        record.launch = Some(Launch {
            run: Run(1),
            boot_id: BootId::new("boot-1"),
            generation: Generation::FIRST,
            image: Some(digest("1")),
            spec: scene.declared.spec.clone(),
            stage: LaunchStage::Started,
            is_restart: false,
            uses: BTreeSet::new(),
            mounts: Vec::new(),
            post_start_due: false,
        });
        scene.record = Some(record);
        scene
    }

    /// Run 1 has ended; nobody has asked the restart rule yet.
    pub(crate) fn exited(code: i32, ran_millis: u64) -> Self {
        let mut scene = Self::running();
        scene.observed.process = ProcessState::Exited { run: Run(1), exit: exit(code, ran_millis) };
        scene.observed.cgroup = CgroupState::Empty;
        scene
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The spec is edited, as an accepted change.
    pub(crate) fn edit(&mut self, fields: Value) {
        self.declared.spec = spec(fields);
        self.declared.generation = self.declared.generation.next();
        self.observed.image.reference = self.declared.spec.image.clone();
    }

    pub(crate) fn record(&mut self) -> &mut Record {
        self.record.as_mut().unwrap()
    }

    pub(crate) fn state(&self) -> Option<RecordState> {
        if self.unknown_record {
            return Some(RecordState::Unknown { why: "version 2".into() });
        }
        self.record.clone().map(RecordState::Known)
    }

    pub(crate) fn records(&self) -> Records {
        self.state().map(|state| (uid(), state)).into_iter().collect()
    }

    /// The disk takes no new work.
    pub(crate) fn full(mut self) -> Self {
        self.pressure = DiskPressure { kinds: [PressureKind::Bytes].into(), message: "it is full".into() };
        self
    }

    pub(crate) fn desired(&self) -> Desired {
        let mut desired = Desired::default();
        if !self.absent {
            desired.insert(Arc::new(self.declared.clone()));
        }
        if self.unproven {
            let why = "permission denied".into();
            desired.set_source(SourceId::new("api"), Completeness::Unknown { why });
        }
        desired
    }

    /// The plan, checked.
    pub(crate) fn plan(&self) -> Plan {
        let desired = self.desired();
        let observed = Observed {
            containers: [(uid(), self.observed.clone())].into(),
            pressure: self.pressure.clone(),
            ..Observed::default()
        };
        let records = self.records();
        let plan = plan(&desired, &observed, &records, &self.now, START_CONCURRENCY);
        assert_eq!(check(&plan, &desired, &observed, &records), Vec::<String>::new());
        plan
    }

    /// Plans, and remembers what the plan says.
    pub(crate) fn take(&mut self) -> Plan {
        let plan = self.plan();
        if let Some((_, record)) = plan.records.last() {
            self.record = Some(record.clone());
        }
        plan
    }

    /// The plan as people read it, in one line.
    pub(crate) fn says(&self) -> String {
        self.plan().to_string().trim_end().replace('\n', "; ")
    }

    pub(crate) fn status(&self) -> stower_crds::ContainerStatus {
        let state = self.state();
        let input = StatusInput {
            declared: &self.declared,
            observed: &self.observed,
            record: state.as_ref(),
            queued: false,
            problems: &[],
            pressure: &self.pressure,
            old: None,
        };
        container_status(&input, &self.now)
    }
}

/// Objects of every kind by name, and what is seen of them; at 10 s. An identity is the kind and the name: `Volume-v`.
#[derive(Default)]
pub(crate) struct Stage {
    pub(crate) desired: Desired,
    pub(crate) observed: Observed,
    pub(crate) records: Records,
}

pub(crate) fn named(text: &str) -> Uid {
    Uid::new(text).unwrap()
}

pub(crate) fn key_of(uid: &str) -> ObjectKey {
    let (kind, name) = uid.split_once('-').unwrap();
    let kind = [Kind::Container, Kind::Volume, Kind::DataContainer, Kind::ConfigMap, Kind::Secret]
        .into_iter()
        .find(|known| known.to_string() == kind)
        .unwrap();
    ObjectKey::new(kind, Namespace::new("default").unwrap(), Name::new(name).unwrap())
}

pub(crate) fn store_id(uid: &str, path: &str) -> StoreId {
    let ObjectKey { kind, namespace, name } = key_of(uid);
    match kind {
        Kind::Volume => StoreId::Volume { namespace, name },
        _ => StoreId::Data { namespace, name, path: path.to_owned() },
    }
}

impl Stage {
    /// Declares `Kind-name`: its spec, or all of its fields for values. Containers have their image.
    pub(crate) fn put(&mut self, uid: &str, fields: Value) -> &mut Self {
        self.put_from(uid, fields, "directory", false)
    }

    pub(crate) fn put_from(&mut self, uid: &str, fields: Value, from: &str, terminating: bool) -> &mut Self {
        let key = key_of(uid);
        let generation = match self.desired.get_any(&key) {
            None => Generation::FIRST,
            Some(AnyDeclared::Container(it)) => it.generation.next(),
            Some(AnyDeclared::Volume(it)) => it.generation.next(),
            Some(AnyDeclared::Data(it)) => it.generation.next(),
            Some(AnyDeclared::Values(it)) => it.generation.next(),
        };
        let generation = if terminating { Generation::FIRST } else { generation };
        let group =
            if matches!(key.kind, Kind::ConfigMap | Kind::Secret) { "v1" } else { "stower.dev/v1alpha1" };
        let mut value = json!({
            "apiVersion": group, "kind": key.kind.to_string(),
            "metadata": {"name": key.name.to_string(), "namespace": "default"},
        });
        let Value::Object(fields) = fields else { panic!("fields") };
        if group == "v1" {
            value.as_object_mut().unwrap().extend(fields);
        } else {
            let image = if key.kind == Kind::Container { json!({"image": IMAGE}) } else { json!({}) };
            value["spec"] = image;
            value["spec"].as_object_mut().unwrap().extend(fields);
        }
        let entry = Entry {
            uid: named(uid),
            generation,
            object: Arc::new(stower_crds::read_accepted(value).unwrap()),
            claim: Claim { source: SourceId::new(from), file: FileId::new("file") },
            created_at: at(0).wall,
            deleted_at: terminating.then(|| at(0).wall),
        };
        self.desired.insert_any(entry.declared());
        if key.kind == Kind::Container {
            let seen = self.observed.containers.entry(named(uid)).or_insert_with(|| {
                let mut seen = ObservedContainer::nothing(IMAGE);
                seen.image.state = ImageState::Present { digest: digest("1"), asked: None };
                seen
            });
            let declared = self.desired.get(&key).unwrap();
            seen.image.reference.clone_from(&declared.spec.image);
        }
        self
    }

    /// Its stores are there, as its spec has it now.
    pub(crate) fn made(&mut self, uid: &str, has_data: bool) -> &mut Self {
        let (generation, ids) = match self.desired.get_any(&key_of(uid)).unwrap() {
            AnyDeclared::Volume(it) => (it.generation, vec![store_id(uid, "")]),
            AnyDeclared::Data(it) => {
                let id = |volume: &stower_crds::DataVolume| match &volume.volume {
                    Some(name) => store_id(&format!("Volume-{name}"), ""),
                    None => store_id(uid, &volume.mount_path),
                };
                (it.generation, it.spec.volumes.iter().map(id).collect())
            }
            other => panic!("{other:?} has no stores"),
        };
        let facts = |id: StoreId| StoreFacts {
            path: format!("/data/{id}"),
            id,
            has_data,
            filled_from: None,
            capacity: None,
            capacity_enforced: false,
        };
        let stores = ids.into_iter().map(facts).collect();
        self.stores(uid).state = StoreState::Made { generation, stores };
        self
    }

    /// A Volume or DataContainer that is ready.
    pub(crate) fn ready(&mut self, uid: &str, fields: Value) -> &mut Self {
        self.put(uid, fields).made(uid, true)
    }

    pub(crate) fn stores(&mut self, uid: &str) -> &mut ObservedStores {
        self.observed.stores.entry(named(uid)).or_default()
    }

    pub(crate) fn seen(&mut self, uid: &str) -> &mut ObservedContainer {
        self.observed.containers.get_mut(uid).unwrap()
    }

    /// It runs, as its last start has it; `uses` when it has no record yet.
    pub(crate) fn runs(&mut self, uid: &str, run: u64) -> &mut Self {
        let seen = self.seen(uid);
        seen.process =
            ProcessState::Running { run: Run(run), pid: 42, started_at: started_at(), stopping: None };
        seen.cgroup = CgroupState::Populated;
        seen.rootfs = RootfsState::Present { image: Some(digest("1")) };
        seen.files = FilesState::Present;
        self
    }

    /// Its run has ended.
    pub(crate) fn ends(&mut self, uid: &str, run: u64, code: i32) -> &mut Self {
        self.runs(uid, run);
        let seen = self.seen(uid);
        seen.process = ProcessState::Exited { run: Run(run), exit: exit(code, 1_000) };
        seen.cgroup = CgroupState::Empty;
        self
    }

    pub(crate) fn plan_at(&self, millis: u64) -> Plan {
        let plan = plan(&self.desired, &self.observed, &self.records, &at(millis), START_CONCURRENCY);
        assert_eq!(check(&plan, &self.desired, &self.observed, &self.records), Vec::<String>::new());
        plan
    }

    /// The plan at 10 s, checked and remembered.
    pub(crate) fn take(&mut self) -> Plan {
        let plan = self.plan_at(10_000);
        for (uid, record) in &plan.records {
            self.records.insert(uid.clone(), RecordState::Known(record.clone()));
        }
        plan
    }

    /// The plan as people read it, in one line.
    pub(crate) fn says(&self) -> String {
        self.plan_at(10_000).to_string().trim_end().replace('\n', "; ")
    }

    pub(crate) fn resolve(&self, uid: &str) -> Result<Resolved, Vec<Problem>> {
        let key = key_of(uid);
        resolve(self.desired.get(&key).unwrap(), &self.desired, &self.observed)
    }

    /// Each mount as `path what`, with ` ro`, or each problem after its kind.
    pub(crate) fn mounts(&self, uid: &str) -> Vec<String> {
        match self.resolve(uid) {
            Ok(resolved) => resolved.mounts.iter().map(shown).collect(),
            Err(problems) => problems.iter().map(|it| format!("{:?}: {it}", it.kind)).collect(),
        }
    }

    pub(crate) fn uses(&self, uid: &str) -> Vec<String> {
        self.resolve(uid).unwrap().uses.iter().map(ToString::to_string).collect()
    }
}

fn shown(mount: &ResolvedMount) -> String {
    let what = match &mount.what {
        MountWhat::HostPath { path, .. } => format!("host {path}"),
        MountWhat::EmptyDir { owner, name, .. } => format!("empty {name} of {owner}"),
        MountWhat::Store(id) => id.to_string(),
        MountWhat::Anonymous { owner, path, .. } => format!("anonymous {path} of {owner}"),
        MountWhat::Files { name, files } => format!("files {name} {files:?}"),
    };
    let from = mount.from.as_ref().map(|key| format!(" from {key}")).unwrap_or_default();
    format!("{} {what}{from}{}", mount.path, if mount.read_only { " ro" } else { "" })
}
