use std::time::Duration;

use serde_json::json;
use stower_crds::{Generation, Signal};

use crate::{
    fixtures::{Scene, after_reboot, at, digest, exit, key, started_at, uid},
    *,
};

mod unhealthy;

fn failure(action: ActionKind, run: Option<Run>, reason: FailureReason, attempts: u32) -> Option<Failure> {
    let (now, message) = (at(10_000), "it broke".into());
    Some(Failure { action, run, reason, message, at: now.mono, wall: now.wall, attempts })
}

fn stopping(scene: &mut Scene, deadline: u64) {
    scene.observed.process = ProcessState::Running {
        run: Run(1),
        pid: 42,
        started_at: started_at(),
        stopping: Some(Stopping { deadline: at(deadline).mono }),
    };
}

/// The base is a container that runs as declared; each row changes one thing and names the whole plan.
#[test]
fn each_change_of_a_running_container_asks_for_one_thing() {
    type Row = (&'static str, fn(&mut Scene), &'static str);
    let rows: &[Row] = &[
        ("nothing", |_| {}, "nothing to do"),
        (
            "another argument",
            |s| s.edit(json!({"args": ["-v"]})),
            "replace Container default/web: spec.args set to [\"-v\"]",
        ),
        (
            "another environment, not shown",
            |s| s.edit(json!({"env": [{"name": "PASSWORD", "value": "secret"}]})),
            "replace Container default/web: spec.env changed",
        ),
        (
            "another image that is here",
            |s| {
                s.edit(json!({"image": "registry.example/web:2"}));
                s.observed.image.state = ImageState::Present { digest: digest("2"), asked: None };
            },
            "replace Container default/web: spec.image changed registry.example/web:1 -> registry.example/web:2",
        ),
        (
            "another image that is not here: the old one runs until it is",
            |s| {
                s.edit(json!({"image": "registry.example/web:2"}));
                s.observed.image.state = ImageState::Absent;
            },
            "pull image registry.example/web:2 for Container default/web: it is not on this machine",
        ),
        (
            "another image that is on its way",
            |s| {
                s.edit(json!({"image": "registry.example/web:2"}));
                s.observed.image.state = ImageState::Pulling;
            },
            "nothing to do",
        ),
        (
            "what the store says of another image is no answer",
            |s| {
                s.edit(json!({"image": "registry.example/web:2"}));
                s.observed.image.reference = "registry.example/web:1".into();
            },
            "Container default/web: whether image registry.example/web:2 is here cannot be told yet",
        ),
        (
            "more memory",
            |s| s.edit(json!({"resources": {"limits": {"memory": "64Mi"}}})),
            "update Container default/web in place: spec.resources set to {\"limits\":{\"memory\":\"64Mi\"}}",
        ),
        ("another restart policy", |s| s.edit(json!({"restartPolicy": "Never"})), "nothing to do"),
        (
            "a hold",
            |s| {
                let now = at(9_000);
                s.record().stop("root", &now);
            },
            "stop Container default/web: held by root",
        ),
        ("a restart", |s| s.record().restart(), "restart Container default/web: a restart was asked for"),
        ("a start", |s| s.record().start(), "nothing to do"),
        (
            "its removal",
            |s| s.declared.terminating = true,
            "stop Container default/web: removed from directory",
        ),
        ("its absence, proven", |s| s.absent = true, "stop Container default/web: no source declares it"),
        (
            "its absence, not proven",
            |s| (s.absent, s.unproven) = (true, true),
            "Container default/web: it is kept, because api may still declare it: permission denied",
        ),
        (
            "a record of a newer release",
            |s| s.unknown_record = true,
            "Container default/web: its record cannot be read: version 2",
        ),
        (
            "an unknown process",
            |s| {
                s.edit(json!({"args": ["-v"]}));
                s.observed.process = ProcessState::Unknown { why: "input/output error".into() };
            },
            "Container default/web: its process cannot be told: input/output error",
        ),
        (
            "a pulled image",
            |s| {
                s.record().image.as_mut().unwrap().digest = digest("9");
                s.observed.image.state = ImageState::Present { digest: digest("9"), asked: None };
            },
            "replace Container default/web: image registry.example/web:1 changed sha256:1 -> sha256:9",
        ),
        (
            "something in flight",
            |s| {
                s.edit(json!({"args": ["-v"]}));
                s.observed.in_flight = Some(ActionKind::Update);
            },
            "nothing to do",
        ),
        (
            "a removal during a start",
            |s| {
                s.declared.terminating = true;
                s.observed.in_flight = Some(ActionKind::Start);
            },
            "stop Container default/web: removed from directory",
        ),
        (
            "a stop in progress",
            |s| {
                s.declared.terminating = true;
                stopping(s, 12_000);
            },
            "nothing to do",
        ),
        (
            "a stop in progress with a longer grace than is wanted",
            |s| {
                s.declared.terminating = true;
                stopping(s, 90_000);
            },
            "stop Container default/web: removed from directory",
        ),
        (
            "a stop that is overdue",
            |s| {
                s.declared.terminating = true;
                stopping(s, 5_000);
            },
            "kill what is left of Container default/web: it outlived the deadline of its stop",
        ),
        (
            "a stop that failed three times",
            |s| {
                s.declared.terminating = true;
                s.observed.failure = failure(ActionKind::Stop, None, FailureReason::KillContainerError, 3);
            },
            "kill what is left of Container default/web: it outlived the deadline of its stop",
        ),
        (
            "a stop that failed just now",
            |s| {
                s.declared.terminating = true;
                s.observed.failure = failure(ActionKind::Stop, None, FailureReason::KillContainerError, 1);
            },
            "nothing to do",
        ),
    ];
    for (name, change, expected) in rows {
        assert_eq!(Scene::running().with(change).says(), *expected, "{name}");
    }
}

/// The base is a container whose run 1 has exited with code 1 after 5 s.
#[test]
fn each_change_of_an_ended_container_asks_for_one_thing() {
    type Row = (&'static str, fn(&mut Scene), &'static str);
    let rows: &[Row] = &[
        ("nothing: it backs off", |_| {}, "nothing to do"),
        (
            "processes left in its cgroup",
            |s| s.observed.cgroup = CgroupState::Populated,
            "kill what is left of Container default/web: processes are left after its end",
        ),
        (
            "an unknown cgroup",
            |s| s.observed.cgroup = CgroupState::Unknown,
            "Container default/web: whether processes of it are left cannot be told",
        ),
        (
            "a lost shim with processes left",
            |s| {
                s.observed.process = ProcessState::Lost { run: Run(1), started_at: None, exit: None };
                s.observed.cgroup = CgroupState::Populated;
            },
            "kill what is left of Container default/web: its shim is gone",
        ),
        (
            "its removal",
            |s| s.declared.terminating = true,
            "remove Container default/web: removed from directory",
        ),
        (
            "its removal, with everything gone",
            |s| {
                s.declared.terminating = true;
                s.observed = ObservedContainer::nothing("");
            },
            "forget Container default/web: removed from directory",
        ),
        (
            "its removal, with an unknown layer",
            |s| {
                s.declared.terminating = true;
                s.observed.rootfs = RootfsState::Unknown;
            },
            "Container default/web: what is left of it cannot be told",
        ),
        (
            "another argument: a new spec waits for no backoff",
            |s| s.edit(json!({"args": ["-v"]})),
            "start Container default/web: spec.args set to [\"-v\"]",
        ),
        (
            "a start",
            |s| {
                s.take();
                s.record().start();
            },
            "start Container default/web: start was asked for",
        ),
        (
            "a hold",
            |s| {
                let now = at(9_000);
                s.record().stop("root", &now);
            },
            "nothing to do",
        ),
        (
            "the end of the backoff",
            |s| {
                s.take();
                s.now = at(10_200);
            },
            "restart Container default/web: restartPolicy Always after exit code 1",
        ),
        (
            "an image that is no longer here",
            |s| {
                s.take();
                s.now = at(10_200);
                s.observed.image.state = ImageState::Absent;
            },
            "pull image registry.example/web:1 for Container default/web: it is not on this machine",
        ),
        ("the policy Never", |s| s.edit(json!({"restartPolicy": "Never"})), "nothing to do"),
    ];
    for (name, change, expected) in rows {
        assert_eq!(Scene::exited(1, 5_000).with(change).says(), *expected, "{name}");
    }
}

#[test]
fn a_first_start_has_all_it_needs_and_new_storage() {
    let mut scene = Scene::new();
    let plan = scene.take();
    let start = Act::Start {
        run: Run(1),
        generation: Generation::FIRST,
        image: digest("1"),
        spec: scene.declared.spec.clone(),
        storage: StorageMode::New,
        resolved: std::sync::Arc::default(),
    };
    assert_eq!(plan.actions, [Action { uid: uid(), key: Some(key()), act: start, why: Why::New }]);
    assert_eq!(scene.record().launch.as_ref().unwrap().stage, LaunchStage::Intended);
    // While it is in flight, nothing more; when it is seen to run, it is remembered, and that is all.
    scene.observed.in_flight = Some(ActionKind::Start);
    assert_eq!(scene.plan(), Plan::default());
    scene.observed = Scene::running().observed;
    assert!(scene.take().is_idle());
    assert_eq!(scene.plan(), Plan::default());
    assert_eq!(scene.record().restart_count, 0);
}

#[test]
fn a_start_that_left_no_trace_is_set_out_on_again_with_the_next_number() {
    let mut scene = Scene::new();
    scene.take();
    let plan = scene.take();
    assert_eq!(plan.to_string(), "start Container default/web: an earlier start left no trace\n");
    assert!(matches!(plan.actions[0].act, Act::Start { run: Run(2), storage: StorageMode::New, .. }));
}

#[test]
fn a_restart_keeps_the_layer_unless_it_is_to_be_fresh_and_is_counted_once_it_ran() {
    for (rootfs, storage) in [("Keep", StorageMode::Keep), ("Fresh", StorageMode::NewLayer)] {
        let mut scene = Scene::exited(1, 5_000);
        scene.declared.spec = fixtures::spec(json!({"restart": {"rootfs": rootfs}}));
        scene.record().launch.as_mut().unwrap().spec = scene.declared.spec.clone();
        let waits = scene.take();
        assert_eq!(waits.wake_at, scene.record().next_start.as_ref().map(|next| next.mono));
        scene.now = at(10_200);
        let plan = scene.take();
        assert!(matches!(&plan.actions[0].act, Act::Start { run: Run(2), storage: s, .. } if *s == storage));
        assert_eq!(scene.record().restart_count, 0);
        scene.observed.process =
            ProcessState::Running { run: Run(2), pid: 43, started_at: started_at(), stopping: None };
        scene.observed.cgroup = CgroupState::Populated;
        scene.take();
        assert_eq!(scene.record().restart_count, 1);
        assert_eq!(scene.plan(), Plan::default());
    }
}

#[test]
fn a_replacement_begins_new_storage_even_after_failed_starts() {
    let mut scene = Scene::running();
    scene.edit(json!({"args": ["-v"], "stopSignal": "SIGINT", "terminationGracePeriodSeconds": 3}));
    let stop = scene.take();
    assert_eq!(
        stop.actions[0].act,
        Act::Stop {
            run: Run(1),
            signal: Some("SIGINT".parse::<Signal>().unwrap()),
            grace: Duration::from_secs(3),
            pre_stop: None,
        }
    );
    scene.observed.process = ProcessState::Exited { run: Run(1), exit: exit(143, 500) };
    scene.observed.cgroup = CgroupState::Empty;
    let start = scene.take();
    assert!(matches!(start.actions[0].act, Act::Start { run: Run(2), storage: StorageMode::New, .. }));
    // It fails; after its backoff the next attempt still begins new storage.
    scene.observed.failure = failure(ActionKind::Start, Some(Run(2)), FailureReason::CreateContainerError, 1);
    assert!(scene.take().actions.is_empty());
    scene.now = at(11_000);
    let again = scene.take();
    assert!(
        matches!(again.actions[0].act, Act::Start { run: Run(3), storage: StorageMode::New, .. }),
        "{again}"
    );
}

#[test]
fn what_the_start_needs_and_is_missing_is_no_run() {
    let mut scene = Scene::new();
    scene.take();
    scene.observed.failure =
        failure(ActionKind::Start, Some(Run(1)), FailureReason::CreateContainerConfigError, 1);
    let plan = scene.take();
    assert_eq!(plan.wake_at, Some(at(10_250).mono));
    assert_eq!((scene.record().retries, scene.record().ended.clone()), (0, None));
    scene.now = at(10_250);
    assert_eq!(scene.says(), "start Container default/web: the last attempt failed");
}

#[test]
fn a_stop_that_was_asked_for_is_nobodys_failure() {
    // Replaced, but the edit is taken back before it has ended: it starts again at once, even under Never.
    let mut scene = Scene::running();
    scene.edit(json!({"restartPolicy": "Never", "args": ["-v"]}));
    scene.take();
    scene.edit(json!({"restartPolicy": "Never"}));
    scene.observed.process = ProcessState::Exited { run: Run(1), exit: exit(143, 100) };
    scene.observed.cgroup = CgroupState::Empty;
    assert_eq!(scene.says(), "start Container default/web: start was asked for");
}

#[test]
fn a_lost_shim_is_an_exit_of_255_once_nothing_is_left() {
    let mut scene = Scene::running();
    scene.observed.process = ProcessState::Lost { run: Run(1), started_at: None, exit: None };
    assert_eq!(scene.take().actions[0].act, Act::Kill);
    assert_eq!(scene.record().ended, None);
    scene.observed.cgroup = CgroupState::Empty;
    scene.take();
    let ended = scene.record().ended.clone().unwrap();
    assert_eq!((ended.exit_code, ended.cause), (255, EndCause::ShimLost));
    assert!(scene.record().next_start.is_some());
}

#[test]
fn a_process_that_nobody_remembers_is_kept() {
    let mut scene = Scene::running();
    scene.record = None;
    assert!(scene.take().is_idle());
    assert_eq!(scene.record().last_run, Run(1));
    assert_eq!(scene.plan(), Plan::default());
}

#[test]
fn a_reboot_is_a_restart_without_backoff_for_those_that_are_to_run() {
    let rebooted = |policy: &str| {
        let mut scene = Scene::running();
        scene.declared.spec = fixtures::spec(json!({"restartPolicy": policy}));
        scene.record().launch.as_mut().unwrap().spec = scene.declared.spec.clone();
        scene.observed.process = ProcessState::Absent;
        scene.observed.cgroup = CgroupState::Absent;
        scene.now = after_reboot(3_000);
        scene
    };
    for policy in ["Always", "OnFailure", "UnlessStopped"] {
        let mut scene = rebooted(policy);
        let plan = scene.take();
        assert_eq!(plan.to_string(), "restart Container default/web: the machine was rebooted\n", "{policy}");
        assert!(matches!(plan.actions[0].act, Act::Start { storage: StorageMode::Keep, .. }));
        assert_eq!(scene.record().retries, 0);
    }
    assert_eq!(rebooted("Never").says(), "nothing to do");
}

#[test]
fn a_hold_outlives_everything_but_a_start_and_under_always_a_reboot() {
    for (policy, expected) in [
        ("Always", "restart Container default/web: the machine was rebooted"),
        ("UnlessStopped", "nothing to do"),
        ("OnFailure", "nothing to do"),
        ("Never", "nothing to do"),
    ] {
        let mut scene = Scene::exited(143, 500);
        scene.declared.spec = fixtures::spec(json!({"restartPolicy": policy}));
        scene.record().launch.as_mut().unwrap().spec = scene.declared.spec.clone();
        let now = at(9_000);
        scene.record().stop("root", &now);
        // Whatever the agent forgets, and however late it is.
        scene.now = at(10_000_000);
        assert_eq!((scene.take().actions.len(), scene.says().as_str()), (0, "nothing to do"), "{policy}");
        let mut booted = scene.clone();
        booted.observed.process = ProcessState::Absent;
        booted.observed.cgroup = CgroupState::Absent;
        booted.now = after_reboot(1_000);
        assert_eq!(booted.says(), expected, "{policy} after a reboot");
        // The hold was found to hold in this boot: a policy that changes later does not end it.
        booted.take();
        booted.edit(json!({"restartPolicy": "Always"}));
        assert_eq!(booted.record().hold.is_some(), policy != "Always", "{policy}");
        assert!(booted.plan().records.iter().all(|(_, r)| r.hold.is_some()) || policy == "Always");
        scene.record().start();
        assert_eq!(
            scene.says(),
            "start Container default/web: start was asked for",
            "{policy} after a start"
        );
    }
}

#[test]
fn a_backoff_goes_on_after_a_reboot_by_wall_time_and_never_longer_than_the_longest() {
    let mut scene = Scene::exited(1, 5_000);
    scene.take();
    let left = scene.record().next_start.as_ref().unwrap().wall.duration_since(scene.now.wall);
    scene.observed.process = ProcessState::Absent;
    scene.now = Now { wall: scene.now.wall, ..after_reboot(50) };
    let plan = scene.take();
    assert_eq!(plan.wake_at, Some(at(50).mono.plus(Duration::try_from(left).unwrap())));
    // The wall clock went back a year: the longest backoff it is.
    let mut scene = Scene::exited(1, 5_000);
    scene.take();
    let now = after_reboot(50);
    scene.now = Now { wall: now.wall - Duration::from_secs(31_536_000), ..now };
    assert_eq!(scene.take().wake_at, Some(at(60_050).mono));
}

#[test]
fn what_changes_in_place_is_remembered_once_it_is_applied() {
    let mut scene = Scene::running();
    scene.edit(json!({"resources": {"limits": {"memory": "64Mi"}}}));
    let plan = scene.take();
    assert_eq!(plan.actions[0].act.kind(), ActionKind::Update);
    assert!(plan.records.is_empty());
    scene.observed.updated = Some(Generation(2));
    assert!(scene.take().actions.is_empty());
    assert_eq!(scene.record().launch.as_ref().unwrap().generation, Generation(2));
    assert_eq!(scene.plan(), Plan::default());
}
