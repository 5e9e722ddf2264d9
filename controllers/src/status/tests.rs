use serde_json::json;
use stower_crds::{ConditionStatus, ConditionType, ContainerStatus, Phase};

use super::repository;
use crate::{
    fixtures::{Scene, at, spec},
    *,
};

/// Phase, the part of the state with its reason, and whether it is ready.
fn say(status: &ContainerStatus) -> String {
    let state = status.state.as_ref();
    let part = |reason: &stower_crds::Reason, message: &Option<String>| match message {
        Some(message) => format!("{reason}: {message}"),
        None => reason.to_string(),
    };
    let state = if let Some(waiting) = state.and_then(|state| state.waiting.as_ref()) {
        format!("waiting {}", part(&waiting.reason, &waiting.message))
    } else if let Some(running) = state.and_then(|state| state.running.as_ref()) {
        format!("running {}", running.pid)
    } else if let Some(ended) = state.and_then(|state| state.terminated.as_ref()) {
        format!("terminated {} {}", ended.exit_code, part(&ended.reason, &ended.message))
    } else {
        "no state".into()
    };
    let ready = status.conditions.get(&ConditionType::Ready).expect("it is always there");
    format!("{} | {state} | {:?} {}", status.phase, ready.status, ready.reason)
}

fn failed(scene: &mut Scene, reason: FailureReason) {
    scene.take();
    let (now, message) = (at(10_000), "exec /bin/nope: no such file".into());
    scene.observed.failure = Some(Failure {
        action: ActionKind::Start,
        run: Some(Run(1)),
        reason,
        message,
        at: now.mono,
        wall: now.wall,
        attempts: 1,
    });
}

fn pull_failed(scene: &mut Scene, attempts: u32) {
    scene.observed.image.state = ImageState::Failed {
        reason: PullFailure::ErrImagePull,
        message: "no such image".into(),
        at: at(10_000).mono,
        attempts,
    };
}

#[test]
fn each_scene_is_told_in_kubelets_words() {
    type Row = (&'static str, fn() -> Scene, &'static str);
    let rows: &[Row] = &[
        ("runs", Scene::running, "Running | running 42 | True Running"),
        ("new", Scene::new, "Pending | waiting ContainerCreating | False ContainerCreating"),
        (
            "pulls",
            || Scene::new().with(|s| s.observed.image.state = ImageState::Pulling),
            "Pending | waiting ContainerCreating: pulling image registry.example/web:1 | False ContainerCreating",
        ),
        (
            "a first pull failed",
            || Scene::new().with(|s| pull_failed(s, 1)),
            "Pending | waiting ErrImagePull: no such image | False ErrImagePull",
        ),
        (
            "more pulls failed",
            || Scene::new().with(|s| pull_failed(s, 2)),
            "Pending | waiting ImagePullBackOff: no such image | False ImagePullBackOff",
        ),
        (
            "the command is not there",
            || Scene::new().with(|s| failed(s, FailureReason::RunContainerError)),
            "Pending | waiting RunContainerError: exec /bin/nope: no such file | False RunContainerError",
        ),
        (
            "what it needs is not there",
            || Scene::new().with(|s| failed(s, FailureReason::CreateContainerConfigError)),
            "Pending | waiting CreateContainerConfigError: exec /bin/nope: no such file | False CreateContainerConfigError",
        ),
        (
            "the command is not there, under Never",
            || {
                Scene::new().with(|s| {
                    s.declared.spec = spec(json!({"restartPolicy": "Never"}));
                    failed(s, FailureReason::RunContainerError);
                })
            },
            "Failed | terminated 128 ContainerCannotRun: exec /bin/nope: no such file | False ContainerCannotRun",
        ),
        (
            "crashed",
            || Scene::exited(1, 5_000),
            "Pending | waiting CrashLoopBackOff: back-off before restart 1 by restartPolicy Always after exit code 1 | False CrashLoopBackOff",
        ),
        (
            "completed",
            || Scene::exited(0, 5_000).with(|s| s.edit(json!({"restartPolicy": "OnFailure"}))),
            "Succeeded | terminated 0 Completed | False Completed",
        ),
        (
            "failed",
            || Scene::exited(3, 5_000).with(|s| s.edit(json!({"restartPolicy": "Never"}))),
            "Failed | terminated 3 Error | False Error",
        ),
        (
            "out of memory",
            || {
                Scene::exited(137, 5_000).with(|s| {
                    s.edit(json!({"restartPolicy": "Never"}));
                    let ProcessState::Exited { exit, .. } = &mut s.observed.process else { panic!() };
                    exit.oom_killed = true;
                })
            },
            "Failed | terminated 137 OOMKilled | False OOMKilled",
        ),
        (
            "its shim was lost",
            || {
                Scene::running().with(|s| {
                    s.edit(json!({"restartPolicy": "Never"}));
                    s.observed.process = ProcessState::Lost { run: Run(1), started_at: None, exit: None };
                    s.observed.cgroup = CgroupState::Empty;
                })
            },
            "Failed | terminated 255 ShimLost | False ShimLost",
        ),
        (
            "held",
            || {
                Scene::exited(143, 5_000).with(|s| {
                    let now = at(9_000);
                    s.record().stop("root", &now);
                })
            },
            "Pending | terminated 143 Error | False Error",
        ),
        (
            "cannot be told",
            || Scene::running().with(|s| s.observed.process = ProcessState::default()),
            "Pending | no state | Unknown Unknown",
        ),
    ];
    for (name, scene, expected) in rows {
        let mut scene = scene();
        scene.take();
        assert_eq!(say(&scene.status()), *expected, "{name}");
    }
}

#[test]
fn a_hold_is_a_condition() {
    let mut scene = Scene::exited(143, 5_000);
    let now = at(9_000);
    scene.record().stop("root", &now);
    scene.take();
    assert!(scene.status().conditions.is_true(&ConditionType::Held));
    scene.record().start();
    scene.take();
    assert!(!scene.status().conditions.is_true(&ConditionType::Held));
}

#[test]
fn a_crash_shows_its_end_and_the_next_start() {
    let mut scene = Scene::exited(1, 5_000);
    scene.take();
    let status = scene.status();
    assert_eq!(status.last_state.unwrap().terminated.unwrap().exit_code, 1);
    let next = scene.record().next_start.as_ref().unwrap().wall;
    assert_eq!(status.next_restart_time, Some(stower_crds::Time(next)));
    assert_eq!(status.image.as_deref(), Some("registry.example/web@sha256:1"));
}

#[test]
fn a_condition_keeps_its_time_until_it_changes_and_the_unknown_changes_nothing() {
    let told = |scene: &Scene, old: &ContainerStatus, millis| {
        let state = scene.state();
        let input = StatusInput {
            pressure: &DiskPressure::default(),
            problems: &[],
            declared: &scene.declared,
            observed: &scene.observed,
            record: state.as_ref(),
            queued: false,
            old: Some(old),
        };
        container_status(&input, &at(millis))
    };
    let mut scene = Scene::running();
    let first = scene.status();
    assert_eq!(told(&scene, &first, 20_000), first, "nothing changed");
    scene.observed.process = ProcessState::default();
    let unknown = told(&scene, &first, 30_000);
    assert_eq!((&unknown.state, unknown.phase), (&first.state, Phase::Running));
    let ready = unknown.conditions.get(&ConditionType::Ready).unwrap();
    assert_eq!(
        (ready.status, ready.last_transition_time),
        (ConditionStatus::Unknown, at(30_000).wall.into())
    );
}

#[test]
fn a_process_that_waits_for_its_replacement_says_why() {
    let mut scene = Scene::running();
    scene.edit(json!({"image": "registry.example/web:2"}));
    pull_failed(&mut scene, 2);
    let status = scene.status();
    let ready = status.conditions.get(&ConditionType::Ready).unwrap();
    assert_eq!(ready.message, "it is to be replaced by generation 2: ImagePullBackOff: no such image");
    assert_eq!(ready.status, ConditionStatus::True);
}

#[test]
fn an_image_is_named_with_its_registry() {
    for (reference, expected) in [
        ("redis", "docker.io/library/redis"),
        ("redis:7", "docker.io/library/redis"),
        ("bitnami/redis:7@sha256:00", "docker.io/bitnami/redis"),
        ("localhost:5000/redis:7", "localhost:5000/redis"),
        ("localhost/redis", "localhost/redis"),
    ] {
        assert_eq!(repository(reference), expected);
    }
}
