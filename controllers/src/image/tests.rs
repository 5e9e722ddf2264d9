use serde_json::json;
use stower_crds::{Generation, PullPolicy};

use crate::{
    fixtures::{Scene, at, digest, spec},
    *,
};

#[test]
fn the_policy_follows_the_tag() {
    for (image, policy) in [
        ("web", PullPolicy::Always),
        ("web:latest", PullPolicy::Always),
        ("localhost:5000/web", PullPolicy::Always),
        ("localhost:5000/web:1", PullPolicy::IfNotPresent),
        ("web:1", PullPolicy::IfNotPresent),
        ("web:latest@sha256:00", PullPolicy::IfNotPresent),
    ] {
        assert_eq!(pull_policy(&spec(json!({"image": image}))), policy, "{image}");
    }
}

/// A registry is asked when the spec is new or needs another process, never at a restart.
#[test]
fn always_asks_once_for_each_new_process() {
    let mut scene = Scene::new().with(|s| s.declared.spec = spec(json!({"imagePullPolicy": "Always"})));
    let plan = scene.take();
    assert_eq!(
        plan.to_string(),
        "pull image registry.example/web:1 for Container default/web: imagePullPolicy is Always and the spec is new\n"
    );
    scene.observed.image.state = ImageState::Present { digest: digest("1"), asked: Some(Generation::FIRST) };
    assert_eq!(scene.take().actions[0].act.kind(), ActionKind::Start);

    // It runs; the agent forgets that it asked; the process crashes: no registry.
    let mut crashed = Scene::exited(1, 60_000);
    crashed.declared = scene.declared.clone();
    crashed.record().launch.as_mut().unwrap().spec = scene.declared.spec.clone();
    crashed.take();
    crashed.now = at(20_000);
    assert_eq!(crashed.take().actions[0].act.kind(), ActionKind::Start);

    // A change in place asks nobody; a new process does, while the old one runs.
    let mut running = Scene::running();
    running.declared = scene.declared.clone();
    running.record().launch.as_mut().unwrap().spec = scene.declared.spec.clone();
    running.edit(json!({"imagePullPolicy": "Always", "restartPolicy": "Never"}));
    assert!(running.plan().is_idle());
    running.edit(json!({"imagePullPolicy": "Always", "args": ["-v"]}));
    assert_eq!(running.plan().actions[0].act.kind(), ActionKind::PullImage);
    let record = running.record.as_ref();
    assert_eq!(
        wanted_image(&running.declared, record).digest,
        None,
        "what the tag stands for is the question"
    );
}

#[test]
fn a_restart_wants_the_image_that_was_resolved() {
    let scene = Scene::exited(1, 100);
    assert_eq!(wanted_image(&scene.declared, scene.record.as_ref()).digest, Some(&digest("1")));
    assert_eq!(wanted_image(&scene.declared, None).digest, None);
}

#[test]
fn a_failed_pull_is_tried_again_by_its_backoff() {
    let failed = |reason, attempts| {
        Scene::new().with(|s| {
            s.observed.image.state =
                ImageState::Failed { reason, message: "not found".into(), at: at(10_000).mono, attempts };
        })
    };
    assert_eq!(failed(PullFailure::ErrImagePull, 3).plan().wake_at, Some(at(14_000).mono));
    assert_eq!(failed(PullFailure::ErrImagePull, 40).plan().wake_at, Some(at(70_000).mono));
    let due = failed(PullFailure::ErrImagePull, 3).with(|s| s.now = at(14_000));
    assert_eq!(
        due.says(),
        "pull image registry.example/web:1 for Container default/web: the last 3 attempts failed"
    );
    let hopeless = failed(PullFailure::InvalidImageName, 1).with(|s| s.now = at(1_000_000));
    assert_eq!(hopeless.plan(), Plan::default());
}

#[test]
fn never_means_never() {
    let scene = Scene::new().with(|s| {
        s.declared.spec = spec(json!({"imagePullPolicy": "Never"}));
        s.observed.image.state = ImageState::Absent;
    });
    assert!(scene.says().ends_with("is not on this machine and imagePullPolicy is Never"));
}
