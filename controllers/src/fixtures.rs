//! What the tests of every module begin with: one container that runs as declared.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde_json::{Value, json};
use stower_crds::{ContainerSpec, Generation, Object, ObjectKey, Uid};

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
        let observed =
            Observed { containers: [(uid(), self.observed.clone())].into(), ..Observed::default() };
        let records: Records = self.state().map(|state| (uid(), state)).into_iter().collect();
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
            old: None,
        };
        container_status(&input, &self.now)
    }
}
