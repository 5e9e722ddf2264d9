use std::collections::BTreeSet;

use serde_json::json;
use stower_crds::{ConditionStatus, ConditionType, Conditions, Generation, VolumePhase};

use crate::{fixtures::*, *};

const SEED: &str = "registry.example/seed:1";

fn failure(action: ActionKind, attempts: u32) -> Failure {
    Failure {
        action,
        run: None,
        reason: FailureReason::CreateContainerError,
        message: "no space left".into(),
        at: at(10_000).mono,
        wall: at(10_000).wall,
        attempts,
    }
}

fn acts(plan: &Plan) -> Vec<(&str, &Act)> {
    plan.actions.iter().map(|action| (action.uid.as_str(), &action.act)).collect()
}

fn ready(conditions: &Conditions) -> (ConditionStatus, String, String) {
    let ready = conditions.iter().find(|it| it.type_ == ConditionType::Ready).unwrap();
    (ready.status, ready.reason.as_str().to_owned(), ready.message.clone())
}

/// Phase; status, reason and message of `Ready`; users.
type Said = (VolumePhase, (ConditionStatus, String, String), Vec<String>);

fn volume_is(stage: &Stage, uid: &str) -> Said {
    let uses = Uses::new(&stage.observed, &stage.records);
    let declared = stage.desired.volume(&key_of(uid)).unwrap();
    let status = volume_status(declared, &stage.desired, &stage.observed, &uses, None, &at(0));
    (status.phase, ready(&status.conditions), status.users)
}

fn data_is(stage: &Stage, uid: &str) -> Said {
    let uses = Uses::new(&stage.observed, &stage.records);
    let declared = stage.desired.data_container(&key_of(uid)).unwrap();
    let status = data_status(declared, &stage.desired, &stage.observed, &uses, None, &at(0));
    (status.phase, ready(&status.conditions), status.users)
}

fn waits(phase: VolumePhase, reason: &str, message: &str) -> Said {
    (phase, (ConditionStatus::False, reason.into(), message.into()), Vec::new())
}

fn is_ready() -> Said {
    (VolumePhase::Ready, (ConditionStatus::True, "Ready".into(), String::new()), Vec::new())
}

#[test]
fn a_volume_is_made_once_and_again_when_its_spec_changes() {
    let mut stage = Stage::default();
    stage.put("Volume-v", json!({"driver": "local", "capacity": "1Gi"}));
    let want = |capacity: u64| StoreWant {
        id: store_id("Volume-v", ""),
        medium: StoreMedium::Local { capacity: Some(capacity << 30), owner: Default::default(), mode: None },
        content: StoreContent::Later,
    };
    let make = |generation: Generation, capacity| Act::MakeStores {
        generation,
        stores: vec![want(capacity)],
        image: None,
    };
    assert_eq!(acts(&stage.take()), [("Volume-v", &make(Generation::FIRST, 1))]);
    assert_eq!(volume_is(&stage, "Volume-v"), waits(VolumePhase::Pending, "Making", "it is being made"));
    stage.stores("Volume-v").in_flight = Some(ActionKind::MakeStores);
    assert_eq!(stage.take(), Plan::default());
    stage.stores("Volume-v").in_flight = None;
    stage.stores("Volume-v").failure = Some(failure(ActionKind::MakeStores, 2));
    assert_eq!(
        stage.take(),
        Plan { wake_at: Some(at(10_500).mono), ..Plan::default() },
        "it waits for its backoff"
    );
    assert_eq!(
        volume_is(&stage, "Volume-v"),
        waits(VolumePhase::Failed, "CreateContainerError", "no space left")
    );
    let again = stage.plan_at(10_500);
    assert_eq!(acts(&again), [("Volume-v", &make(Generation::FIRST, 1))]);
    assert_eq!(again.actions[0].why, Why::Retry { attempts: 2 });
    stage.stores("Volume-v").failure = None;
    stage.made("Volume-v", false);
    assert_eq!(stage.take(), Plan::default());
    assert_eq!(volume_is(&stage, "Volume-v"), is_ready());
    stage.put("Volume-v", json!({"driver": "local", "capacity": "2Gi"}));
    assert_eq!(acts(&stage.take()), [("Volume-v", &make(Generation::FIRST.next(), 2))]);
}

#[test]
fn a_volume_that_is_larger_than_declared_is_ready_and_says_so() {
    let mut stage = Stage::default();
    stage.put("Volume-v", json!({"capacity": "1Gi"}));
    stage.put("DataContainer-d", json!({"volumes": [{"mountPath": "/d", "capacity": "1Gi"}]}));
    for name in ["Volume-v", "DataContainer-d"] {
        stage.made(name, true);
        let StoreState::Made { stores, .. } = &mut stage.stores(name).state else { panic!("{name}") };
        stores[0].capacity = Some(2 << 30);
    }
    assert_eq!(stage.take(), Plan::default());
    let kept = |message: &str| {
        let ready = (ConditionStatus::True, "CannotShrink".into(), message.to_owned());
        (VolumePhase::Ready, ready, Vec::new())
    };
    let why = "its capacity is 2Gi and cannot shrink to 1Gi";
    assert_eq!(volume_is(&stage, "Volume-v"), kept(why));
    assert_eq!(data_is(&stage, "DataContainer-d"), kept(&format!("/d: {why}")));
}

#[test]
fn a_volume_that_nobody_can_make_says_so_and_nothing_is_tried() {
    let mut stage = Stage::default();
    stage.put("Volume-v", json!({"driver": "devicemapper"}));
    let why = "driver devicemapper is not supported; use local, tmpfs or hostPath";
    assert_eq!(stage.says(), format!("Volume default/v: it cannot be made: {why}"));
    assert_eq!(volume_is(&stage, "Volume-v"), waits(VolumePhase::Failed, "CreateContainerConfigError", why));
}

#[test]
fn a_data_container_is_made_then_its_image_is_pulled_then_it_is_filled() {
    let mut stage = Stage::default();
    stage.put("DataContainer-d", json!({"image": SEED, "volumes": [{"mountPath": "/d"}]}));
    stage.stores("DataContainer-d").image =
        ObservedImage { reference: SEED.into(), state: ImageState::Absent, ..Default::default() };
    let stores = vec![StoreWant {
        id: store_id("DataContainer-d", "/d"),
        medium: StoreMedium::Local { capacity: None, owner: Default::default(), mode: None },
        content: StoreContent::Image { path: "/d".into() },
    }];
    let generation = Generation::FIRST;
    let make = Act::MakeStores { generation, stores: stores.clone(), image: None };
    assert_eq!(acts(&stage.take()), [("DataContainer-d", &make)]);
    assert_eq!(data_is(&stage, "DataContainer-d"), waits(VolumePhase::Pending, "Making", "it is being made"));
    stage.made("DataContainer-d", false);
    let pull = Act::PullImage { reference: SEED.into(), digest: None, generation };
    assert_eq!(acts(&stage.take()), [("DataContainer-d", &pull)]);
    let pulling = format!("pulling image {SEED}");
    assert_eq!(data_is(&stage, "DataContainer-d"), waits(VolumePhase::Pending, "Filling", &pulling));
    stage.stores("DataContainer-d").image.state = ImageState::Failed {
        reason: PullFailure::ErrImagePull,
        message: "no route".into(),
        at: at(10_000).mono,
        attempts: 1,
    };
    assert_eq!(stage.take(), Plan { wake_at: Some(at(11_000).mono), ..Plan::default() });
    assert_eq!(data_is(&stage, "DataContainer-d"), waits(VolumePhase::Pending, "ErrImagePull", "no route"));
    stage.stores("DataContainer-d").image.state = ImageState::Present { digest: digest("seed"), asked: None };
    let fill = Act::MakeStores { generation, stores, image: Some(digest("seed")) };
    assert_eq!(acts(&stage.take()), [("DataContainer-d", &fill)]);
    stage.stores("DataContainer-d").failure = Some(failure(ActionKind::MakeStores, 1));
    assert_eq!(stage.take(), Plan { wake_at: Some(at(10_250).mono), ..Plan::default() });
    assert_eq!(acts(&stage.plan_at(10_250)), [("DataContainer-d", &fill)]);
    stage.stores("DataContainer-d").failure = None;
    stage.made("DataContainer-d", true);
    assert_eq!(stage.take(), Plan::default());
    assert_eq!(data_is(&stage, "DataContainer-d"), is_ready());
}

#[test]
fn what_fills_is_pulled_by_the_policy_that_the_kind_has() {
    let mut stage = Stage::default();
    for (policy, state, says) in [
        (None, ImageState::Absent, "pull image seed for DataContainer default/d: it is not on this machine"),
        (
            None,
            ImageState::Present { digest: digest("s"), asked: None },
            "fill DataContainer default/d: it is declared",
        ),
        (
            Some("Always"),
            ImageState::Present { digest: digest("s"), asked: None },
            "pull image seed for DataContainer default/d: imagePullPolicy is Always and the spec is new",
        ),
        (
            Some("Never"),
            ImageState::Absent,
            "DataContainer default/d: image seed is not on this machine and imagePullPolicy is Never",
        ),
    ] {
        let mut fields = json!({"image": "seed", "volumes": [{"mountPath": "/d"}]});
        if let Some(policy) = policy {
            fields["imagePullPolicy"] = policy.into();
        }
        stage.put("DataContainer-d", fields).made("DataContainer-d", false);
        stage.stores("DataContainer-d").image =
            ObservedImage { reference: "seed".into(), state, ..Default::default() };
        assert_eq!(stage.says(), says);
    }
    let never = "image seed is not on this machine and imagePullPolicy is Never";
    assert_eq!(data_is(&stage, "DataContainer-d"), waits(VolumePhase::Failed, "ErrImageNeverPull", never));
}

#[test]
fn a_data_container_waits_for_the_volumes_that_it_names() {
    let mut stage = Stage::default();
    stage.put(
        "DataContainer-d",
        json!({"volumes": [
            {"mountPath": "/d"}, {"mountPath": "/v", "volume": "v"}, {"mountPath": "/w", "volume": "No name"},
        ]}),
    );
    let missing = "Volume default/v is not there; \"No name\" is no name of a Volume";
    assert_eq!(stage.says(), format!("DataContainer default/d: it waits: {missing}"));
    assert_eq!(
        data_is(&stage, "DataContainer-d"),
        waits(VolumePhase::Failed, "CreateContainerConfigError", missing)
    );
    stage.put(
        "DataContainer-d",
        json!({"volumes": [{"mountPath": "/d"}, {"mountPath": "/v", "volume": "v"}]}),
    );
    let missing = "Volume default/v is not there";
    assert_eq!(data_is(&stage, "DataContainer-d"), waits(VolumePhase::Pending, "DependencyMissing", missing));
    stage.ready("Volume-v", json!({"driver": "local"}));
    assert_eq!(stage.says(), "make DataContainer default/d: it is declared");
    // Somebody else's directory is never filled, and is not waited for.
    stage.ready("Volume-h", json!({"driver": "hostPath", "hostPath": {"path": "/srv"}}));
    stage.put("DataContainer-d", json!({"image": SEED, "volumes": [{"mountPath": "/h", "volume": "h"}]}));
    stage.made("DataContainer-d", false);
    assert_eq!(stage.says(), "nothing to do");
}

/// A DataContainer, and one container that runs with its volumes.
fn in_use(policy: &str) -> Stage {
    let mut stage = Stage::default();
    stage.ready("Volume-v", json!({"driver": "local", "reclaimPolicy": policy}));
    stage.ready(
        "DataContainer-d",
        json!({"reclaimPolicy": policy, "volumes": [{"mountPath": "/d"}, {"mountPath": "/v", "volume": "v"}]}),
    );
    stage.put("Container-web", json!({"volumesFrom": [{"name": "d"}]}));
    let plan = stage.take();
    let Act::Start { run: Run(1), .. } = plan.actions[0].act else { panic!("{plan}") };
    stage.runs("Container-web", 1);
    stage.take();
    stage
}

fn delete(stage: &mut Stage, uid: &str) {
    let spec = match stage.desired.get_any(&key_of(uid)).unwrap() {
        AnyDeclared::Volume(it) => serde_json::to_value(&*it.spec),
        AnyDeclared::Data(it) => serde_json::to_value(&*it.spec),
        AnyDeclared::Container(it) => serde_json::to_value(&*it.spec),
        AnyDeclared::Values(_) => panic!("values have no spec"),
    };
    stage.put_from(uid, spec.unwrap(), "directory", true);
}

#[test]
fn what_is_in_use_is_removed_after_its_users() {
    for policy in ["Retain", "Delete"] {
        let mut stage = in_use(policy);
        delete(&mut stage, "DataContainer-d");
        delete(&mut stage, "Volume-v");
        let waiting = "Volume default/v: it is in use by Container default/web, DataContainer default/d and is \
                       removed when they have stopped; DataContainer default/d: it is in use by Container \
                       default/web and is removed when they have stopped";
        let sorted = |text: &str| text.split("; ").map(str::to_owned).collect::<BTreeSet<_>>();
        assert_eq!(sorted(&stage.says()), sorted(waiting));
        let (phase, ready, users) = data_is(&stage, "DataContainer-d");
        assert_eq!((phase, ready.1.as_str()), (VolumePhase::Pending, "Terminating"));
        assert_eq!(users, ["Container default/web"]);
        assert_eq!(volume_is(&stage, "Volume-v").2, ["Container default/web", "DataContainer default/d"]);
        // As long as it cannot be told whether the user runs, it does.
        let seen = stage.observed.containers.remove("Container-web").unwrap();
        assert!(stage.plan_at(10_000).actions.is_empty());
        stage.observed.containers.insert(named("Container-web"), seen);
        stage.ends("Container-web", 1, 0);
        stage.take();
        let plan = stage.plan_at(20_000);
        let why = || Why::Removed { source: "directory".into() };
        let act = |uid: &str, act| Action { uid: named(uid), key: Some(key_of(uid)), act, why: why() };
        let remove = Act::RemoveStores { stores: vec![store_id("DataContainer-d", "/d")] };
        let first = if policy == "Retain" { Act::Forget } else { remove };
        assert_eq!(plan.actions, [act("DataContainer-d", first)]);
        let waits = "it waits: DataContainer default/d is being removed";
        assert!(plan.notes.iter().any(|note| note.message == waits), "{plan}");
        // What was not removed is tried again; what is gone is forgotten.
        stage.stores("DataContainer-d").failure = Some(failure(ActionKind::RemoveStores, 1));
        let plan = stage.plan_at(10_100);
        assert_eq!(plan.actions.is_empty(), policy == "Delete");
        stage.stores("DataContainer-d").state = StoreState::Gone;
        assert_eq!(acts(&stage.plan_at(20_000)), [("DataContainer-d", &Act::Forget)]);
        stage.desired.remove(&key_of("DataContainer-d"));
        let remove = Act::RemoveStores { stores: vec![store_id("Volume-v", "")] };
        let first = if policy == "Retain" { Act::Forget } else { remove };
        assert_eq!(acts(&stage.plan_at(20_000)), [("Volume-v", &first)]);
    }
}

#[test]
fn a_start_in_flight_uses_what_it_is_going_to_mount() {
    let mut stage = Stage::default();
    stage.ready("Volume-v", json!({"driver": "local", "reclaimPolicy": "Delete"}));
    stage.put(
        "Container-web",
        json!({
            "volumes": [{"name": "v", "volume": {"name": "v"}}],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}],
        }),
    );
    stage.take();
    delete(&mut stage, "Volume-v");
    stage.seen("Container-web").in_flight = Some(ActionKind::Start);
    assert_eq!(
        stage.says(),
        "Volume default/v: it is in use by Container default/web and is removed when they have stopped"
    );
    // So do processes whose shim is gone, until they are killed.
    let seen = stage.seen("Container-web");
    (seen.in_flight, seen.cgroup) = (None, CgroupState::Populated);
    seen.process = ProcessState::Lost { run: Run(1), started_at: None, exit: None };
    assert_eq!(acts(&stage.plan_at(10_000)), [("Container-web", &Act::Kill)]);
    // A start that left nothing uses nothing.
    let seen = stage.seen("Container-web");
    (seen.cgroup, seen.process) = (CgroupState::Absent, ProcessState::Absent);
    let plan = stage.plan_at(10_000);
    let remove = Act::RemoveStores { stores: vec![store_id("Volume-v", "")] };
    assert_eq!(acts(&plan), [("Volume-v", &remove)]);
}

#[test]
fn a_user_that_no_source_declares_is_one_as_well() {
    let mut stage = in_use("Delete");
    delete(&mut stage, "DataContainer-d");
    stage.desired.remove(&key_of("Container-web"));
    let held = |stage: &Stage, by: &str| {
        let plan = stage.plan_at(10_000);
        let note = format!("it is in use by {by} and is removed when they have stopped");
        assert!(plan.notes.iter().any(|it| it.message == note), "{plan}");
        assert!(plan.actions.iter().all(|it| it.uid != named("DataContainer-d")), "{plan}");
    };
    held(&stage, "Container default/web");
    let uid = named("Container-web");
    stage.records.insert(uid.clone(), RecordState::Unknown { why: "version 2".into() });
    held(&stage, "the container with UID Container-web");
    stage.records.remove(&uid);
    held(&stage, "the container with UID Container-web");
}

#[test]
fn what_runs_without_a_record_is_taken_to_use_what_it_names() {
    let mut stage = in_use("Delete");
    stage.records.clear();
    stage.take();
    let record = stage.records["Container-web"].known().unwrap();
    let uses: Vec<&str> = record.launch.as_ref().unwrap().uses.iter().map(|uid| uid.as_str()).collect();
    assert_eq!(uses, ["DataContainer-d", "Volume-v"]);
}

#[test]
fn what_was_refused_takes_nothing_with_it() {
    let mut stage = Stage::default();
    stage.put("Volume-v", json!({"driver": "tmpfs", "reclaimPolicy": "Delete"}));
    let refused =
        Failure { reason: FailureReason::CreateContainerConfigError, ..failure(ActionKind::MakeStores, 1) };
    stage.stores("Volume-v").failure = Some(refused);
    delete(&mut stage, "Volume-v");
    assert_eq!(acts(&stage.take()), [("Volume-v", &Act::Forget)]);
}

#[test]
fn a_consumer_starts_in_the_plan_that_sees_the_last_thing_ready() {
    let mut stage = Stage::default();
    stage.put("DataContainer-d", json!({"volumes": [{"mountPath": "/d"}]}));
    stage.put("Container-web", json!({"volumesFrom": [{"name": "d"}]}));
    let plan = stage.take();
    let waits = "make DataContainer default/d: it is declared\nContainer default/web: it waits: DataContainer default/d \
                 is not ready: it is being made\n";
    assert_eq!(plan.to_string(), waits);
    stage.made("DataContainer-d", true);
    let plan = stage.take();
    assert_eq!(plan.to_string(), "start Container default/web: it has not run yet\n");
    let launch = stage.records["Container-web"].known().unwrap().launch.clone().unwrap();
    assert_eq!(launch.uses, BTreeSet::from([named("DataContainer-d")]));
    let mounts: Vec<_> =
        launch.mounts.iter().map(|mount| (&*mount.mount_path, mount.from.as_deref())).collect();
    assert_eq!(mounts, [("/d", Some("DataContainer default/d"))]);
}

#[test]
fn what_runs_is_not_ended_for_what_cannot_be_started() {
    let mut stage = in_use("Retain");
    stage.put("Container-web", json!({"image": "other:1", "volumesFrom": [{"name": "d"}, {"name": "e"}]}));
    stage.seen("Container-web").image.state = ImageState::Present { digest: digest("2"), asked: None };
    assert_eq!(stage.says(), "Container default/web: it waits: DataContainer default/e is not there");
    // Without the image too, both are dealt with.
    stage.seen("Container-web").image.state = ImageState::Absent;
    assert_eq!(
        stage.says(),
        "pull image other:1 for Container default/web: it is not on this machine; Container default/web: it waits: \
         DataContainer default/e is not there"
    );
    stage.seen("Container-web").image.state = ImageState::Present { digest: digest("2"), asked: None };
    stage.ready("DataContainer-e", json!({"volumes": [{"mountPath": "/e"}]}));
    assert!(stage.says().starts_with("replace Container default/web: "), "{}", stage.says());
}

#[test]
fn files_are_refreshed_when_values_differ_and_once_after_the_agent_began() {
    let mut stage = Stage::default();
    stage.put("ConfigMap-c", json!({"data": {"a": "1"}}));
    stage.put(
        "Container-web",
        json!({
            "volumes": [{"name": "c", "configMap": {"name": "c"}}],
            "volumeMounts": [{"name": "c", "mountPath": "/c"}],
        }),
    );
    stage.take();
    stage.runs("Container-web", 1);
    stage.take();
    let files = stage.resolve("Container-web").unwrap().files();
    let refresh = |files: &WrittenFiles| Act::Refresh { run: Run(1), files: files.clone() };
    assert_eq!(
        acts(&stage.take()),
        [("Container-web", &refresh(&files))],
        "another agent may have written less"
    );
    stage.seen("Container-web").files_written = Some(files.clone());
    assert_eq!(stage.take(), Plan::default());
    stage.put("ConfigMap-c", json!({"data": {"a": "2"}}));
    let newer = stage.resolve("Container-web").unwrap().files();
    assert_ne!(newer, files);
    assert_eq!(acts(&stage.take()), [("Container-web", &refresh(&newer))]);
    stage.seen("Container-web").failure = Some(failure(ActionKind::Refresh, 3));
    assert_eq!(stage.take(), Plan { wake_at: Some(at(11_000).mono), ..Plan::default() });
    assert_eq!(acts(&stage.plan_at(11_000)), [("Container-web", &refresh(&newer))]);
    // What is gone stays as it was.
    stage.desired.remove(&key_of("ConfigMap-c"));
    assert_eq!(stage.take(), Plan::default());
}

#[test]
fn something_that_is_gone_keeps_no_other_file_from_being_refreshed() {
    let mut stage = Stage::default();
    stage.put("ConfigMap-c", json!({"data": {"a": "1"}}));
    stage.put("Secret-s", json!({"data": {"b": "MQ=="}}));
    stage.put(
        "Container-web",
        json!({
            "env": [{"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "b"}}}],
            "volumes": [{"name": "c", "configMap": {"name": "c"}}, {"name": "s", "secret": {"secretName": "s"}}],
            "volumeMounts": [{"name": "c", "mountPath": "/c"}, {"name": "s", "mountPath": "/s"}],
        }),
    );
    stage.take();
    stage.runs("Container-web", 1);
    let all = stage.resolve("Container-web").unwrap().files();
    stage.seen("Container-web").files_written = Some(all.clone());
    stage.take();
    stage.desired.remove(&key_of("Secret-s"));
    assert_eq!(stage.take(), Plan::default());
    stage.put("ConfigMap-c", json!({"data": {"a": "2"}}));
    let plan = stage.take();
    let [(_, Act::Refresh { files, .. })] = acts(&plan)[..] else { panic!("{plan:?}") };
    assert_eq!(files.keys().collect::<Vec<_>>(), ["c"]);
    assert_ne!(files["c"], all["c"]);
}

/// `db` with a directory of its own, and `web`, which takes it.
fn taken() -> Stage {
    let mut stage = Stage::default();
    stage.put(
        "Container-db",
        json!({"volumes": [{"name": "e", "emptyDir": {}}], "volumeMounts": [{"name": "e", "mountPath": "/e"}]}),
    );
    stage.put("Container-web", json!({"volumesFrom": [{"name": "db", "kind": "Container"}]}));
    stage
}

fn storage(plan: &Plan, uid: &str) -> Option<StorageMode> {
    plan.actions.iter().find(|action| action.uid == named(uid)).and_then(|action| match action.act {
        Act::Start { storage, .. } => Some(storage),
        _ => None,
    })
}

#[test]
fn storage_that_is_begun_anew_is_not_taken_from_meanwhile() {
    let mut stage = taken();
    let plan = stage.take();
    assert_eq!(storage(&plan, "Container-db"), Some(StorageMode::New));
    assert_eq!((plan.actions.len(), &plan.deferred), (1, &BTreeSet::from([named("Container-web")])));
    stage.seen("Container-db").in_flight = Some(ActionKind::Start);
    let web = named("Container-web");
    let alone = plan_some(&stage.desired, &stage.observed, &stage.records, &at(10_000), 8, [&web]);
    assert_eq!((alone.actions.len(), alone.deferred.len()), (0, 1), "{alone}");
    stage.seen("Container-db").in_flight = None;
    stage.runs("Container-db", 1);
    assert_eq!(storage(&stage.take(), "Container-web"), Some(StorageMode::New));
    // When it never runs, it is no reason to wait.
    let mut stage = taken();
    let mut record = Record::new(named("Container-db"), key_of("Container-db"));
    record.stop("a test", &at(0));
    stage.records.insert(named("Container-db"), RecordState::Known(record));
    assert_eq!(storage(&stage.take(), "Container-web"), Some(StorageMode::New));
}

#[test]
fn what_others_have_mounted_outlives_its_container() {
    let mut stage = taken();
    stage.take();
    stage.runs("Container-db", 1);
    stage.take();
    stage.runs("Container-web", 1);
    stage.take();
    let mut replaced = Stage {
        desired: stage.desired.clone(),
        observed: stage.observed.clone(),
        records: stage.records.clone(),
    };
    // A replacement keeps the directory while the other has it.
    let spec = json!({
        "args": ["x"], "volumes": [{"name": "e", "emptyDir": {}}], "volumeMounts": [{"name": "e", "mountPath": "/e"}],
    });
    replaced.put("Container-db", spec);
    replaced.take();
    replaced.ends("Container-db", 1, 0);
    assert_eq!(storage(&replaced.take(), "Container-db"), Some(StorageMode::NewLayer));
    // A removal waits for it.
    delete(&mut stage, "Container-db");
    stage.ends("Container-db", 1, 0);
    assert_eq!(
        stage.says(),
        "Container default/db: its volumes are in use by Container default/web and are removed when they have stopped"
    );
    stage.ends("Container-web", 1, 0);
    stage.take();
    let plan = stage.plan_at(20_000);
    assert_eq!(acts(&plan), [("Container-db", &Act::Teardown)]);
    assert_eq!(plan.notes[0].message, "it waits: Container default/db is being removed");
}

#[test]
fn a_waiting_container_names_everything_its_image_included() {
    let mut stage = Stage::default();
    stage.put("Container-web", json!({"imagePullPolicy": "Never", "volumesFrom": [{"name": "d"}]}));
    stage.seen("Container-web").image.state = ImageState::Absent;
    let problems = stage.resolve("Container-web").unwrap_err();
    let status = container_status(
        &StatusInput {
            pressure: &DiskPressure::default(),
            declared: stage.desired.get(&key_of("Container-web")).unwrap(),
            observed: &stage.observed.containers["Container-web"],
            record: None,
            queued: false,
            problems: &problems,
            old: None,
        },
        &at(10_000),
    );
    let waiting = status.state.unwrap().waiting.unwrap();
    assert_eq!(waiting.reason.as_str(), "DependencyMissing");
    assert_eq!(
        waiting.message.unwrap(),
        format!(
            "DataContainer default/d is not there; image {IMAGE} is not on this machine and imagePullPolicy is Never"
        )
    );
    assert_eq!(ready(&status.conditions).0, ConditionStatus::False);
    assert_eq!(
        stage.says(),
        format!(
            "Container default/web: image {IMAGE} is not on this machine and imagePullPolicy is Never; it waits: \
             DataContainer default/d is not there"
        )
    );
}

#[test]
fn the_linter_sees_what_is_wrong_with_a_start() {
    let faults = |change: fn(&mut Resolved)| {
        let mut stage = in_use("Retain");
        stage.ends("Container-web", 1, 0);
        stage.take();
        let mut plan = stage.plan_at(20_000);
        let Act::Start { resolved, .. } = &mut plan.actions[0].act else { panic!("{plan}") };
        change(std::sync::Arc::make_mut(resolved));
        check(&plan, &stage.desired, &stage.observed, &stage.records).join("; ")
    };
    assert_eq!(faults(|_| ()), "");
    assert!(
        faults(|resolved| drop(resolved.mounts.pop()))
            .contains("the mount at /v of DataContainer default/d is missing")
    );
    assert!(
        faults(|resolved| resolved.mounts.push(resolved.mounts[0].clone())).contains("two mounts are at /d")
    );
    assert!(faults(|resolved| resolved.uses.clear()).contains("is not said to be used"));
    assert!(faults(|resolved| resolved.mounts[0].path = "/d/../x".into()).contains("is no path for a mount"));
}
