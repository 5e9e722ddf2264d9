use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use stower_crds::{ConditionType, Generation, Signal};

use crate::{
    fixtures::{Scene, at, exit, spec},
    *,
};

fn both() -> Value {
    json!({
        "terminationGracePeriodSeconds": 20,
        "lifecycle": {
            "postStart": {"exec": {"command": ["up"]}},
            "preStop": {"sleep": {"seconds": 3}},
            "stopSignal": "SIGUSR1",
        },
    })
}

/// Run 1 runs with both hooks, and its first is due.
fn running() -> Scene {
    Scene::running().with(|s| {
        s.declared.spec = spec(both());
        let spec = s.declared.spec.clone();
        let launch = s.record().launch.as_mut().unwrap();
        (launch.spec, launch.post_start_due) = (spec, true);
    })
}

fn seen(scene: &mut Scene, state: HookState) {
    scene.observed.post_start = Some(PostStart { run: Run(1), state });
}

fn stop(spec: &Arc<stower_crds::ContainerSpec>, grace: u64) -> Act {
    Act::Stop {
        run: Run(1),
        signal: Some("SIGUSR1".parse::<Signal>().unwrap()),
        grace: Duration::from_secs(grace),
        pre_stop: Some(spec.clone()),
    }
}

fn ready(scene: &Scene) -> (String, String) {
    let ready = scene.status().conditions.get(&ConditionType::Ready).unwrap().clone();
    (format!("{:?} {}", ready.status, ready.reason), ready.message)
}

#[test]
fn a_start_with_a_hook_makes_it_due_and_the_run_has_it_once() {
    let mut scene = Scene::new().with(|s| s.declared.spec = spec(both()));
    scene.take();
    assert!(scene.record().launch.as_ref().unwrap().post_start_due);

    let mut scene = running();
    let plan = scene.take();
    assert_eq!(plan.to_string(), "run the postStart hook of Container default/web: it has started\n");
    let act = Act::PostStart { run: Run(1), spec: scene.declared.spec.clone() };
    assert_eq!(plan.actions[0].act, act);
    seen(&mut scene, HookState::Running);
    assert_eq!(scene.take(), Plan::default(), "it is under way");
    let (reason, message) = ready(&scene);
    assert_eq!(
        (reason.as_str(), message.as_str()),
        ("False ContainerCreating", "its postStart hook has not ended yet")
    );
    seen(&mut scene, HookState::Succeeded);
    assert!(scene.take().actions.is_empty());
    assert!(!scene.record().launch.as_ref().unwrap().post_start_due);
    assert_eq!(ready(&scene).0, "True Running");
    // The next agent knows it.
    scene.observed.post_start = None;
    assert_eq!(scene.take(), Plan::default());
}

#[test]
fn a_hook_of_another_run_says_nothing_and_one_that_was_taken_out_is_not_waited_for() {
    let mut scene = running();
    scene.observed.post_start = Some(PostStart { run: Run(0), state: HookState::Failed("old".into()) });
    assert!(matches!(scene.take().actions[0].act, Act::PostStart { run: Run(1), .. }));
    let mut scene = running();
    scene.edit(json!({"terminationGracePeriodSeconds": 20}));
    assert!(scene.take().actions.is_empty());
    assert!(!scene.record().launch.as_ref().unwrap().post_start_due);
    // One that is put in while a run is there is the next one's.
    let mut scene = Scene::running();
    scene.edit(both());
    assert!(scene.take().actions.is_empty());
}

#[test]
fn a_hook_that_failed_ends_the_run_which_has_failed() {
    for policy in ["Always", "OnFailure", "Never"] {
        let mut scene = running();
        let mut fields = both();
        fields["restartPolicy"] = policy.into();
        scene.declared.spec = spec(fields);
        scene.record().launch.as_mut().unwrap().spec = scene.declared.spec.clone();
        seen(&mut scene, HookState::Failed("exit code 3".into()));
        let plan = scene.take();
        assert_eq!(plan.to_string(), "stop Container default/web: its postStart hook failed: exit code 3\n");
        assert_eq!(plan.actions[0].act, stop(&scene.declared.spec, 20));
        assert_eq!(scene.record().asked_to_stop, None);
        assert_eq!(ready(&scene).0, "False PostStartHookError");
        // An agent that dies now has another one go on.
        scene.observed.post_start = None;
        assert_eq!(scene.take().actions[0].act, stop(&scene.declared.spec, 20));
        // It ends politely, which is no success.
        scene.observed.process = ProcessState::Exited { run: Run(1), exit: exit(0, 500) };
        scene.observed.cgroup = CgroupState::Empty;
        scene.take();
        let ended = scene.record().ended.clone().unwrap();
        assert!(ended.failed_hook && !ended.asked);
        scene.now = at(11_000);
        let expected = match policy {
            "Never" => "nothing to do".to_owned(),
            _ => format!(
                "restart Container default/web: restartPolicy {policy} after its postStart hook failed (exit code 0)"
            ),
        };
        assert_eq!(scene.says(), expected);
    }
}

#[test]
fn a_stop_has_its_hook_unless_there_is_no_time_for_it() {
    let mut scene = running();
    seen(&mut scene, HookState::Running);
    let now = at(9_000);
    scene.record().stop("root", &now);
    assert_eq!(
        scene.take().actions[0].act,
        stop(&scene.declared.spec, 20),
        "a hook that hangs holds up no stop"
    );
    // What is told by the shim is not asked for again, though it lasts longer than the grace period.
    let told = |scene: &mut Scene, seconds: u64| {
        let deadline = at(10_000).mono.plus(Duration::from_secs(seconds));
        let ProcessState::Running { stopping, .. } = &mut scene.observed.process else { panic!() };
        *stopping = Some(Stopping { deadline });
    };
    told(&mut scene, 22);
    assert!(scene.take().actions.is_empty());
    scene.now = at(15_000);
    assert!(scene.take().actions.is_empty());
    // Somebody is in a hurry.
    scene.record().asked_grace_ms = Some(5_000);
    assert_eq!(scene.take().actions[0].act, stop(&scene.declared.spec, 5));
    scene.record().asked_grace_ms = Some(0);
    let Act::Stop { pre_stop: None, grace: Duration::ZERO, .. } = scene.take().actions[0].act else {
        panic!()
    };
}

/// A longer one too: what somebody asked for is not shortened by the spec.
#[test]
fn a_grace_period_that_was_asked_for_counts_to_the_end_of_the_run() {
    let mut scene =
        Scene::running().with(|s| s.declared.spec = spec(json!({"terminationGracePeriodSeconds": 1})));
    let now = at(9_000);
    scene.record().stop("root", &now);
    scene.record().asked_grace_ms = Some(60_000);
    let Act::Stop { grace, .. } = scene.take().actions[0].act else { panic!() };
    assert_eq!(grace, Duration::from_secs(60));
    let ProcessState::Running { stopping, .. } = &mut scene.observed.process else { panic!() };
    *stopping = Some(Stopping { deadline: at(70_000).mono });
    scene.now = at(12_000);
    assert!(scene.take().actions.is_empty());
    scene.observed.process = ProcessState::Exited { run: Run(1), exit: exit(143, 500) };
    scene.observed.cgroup = CgroupState::Empty;
    scene.take();
    assert_eq!(scene.record().asked_grace_ms, None);
}

#[test]
fn the_hook_is_of_what_runs_and_an_orphan_has_the_one_that_it_was_started_with() {
    let mut scene = running();
    let ran = scene.declared.spec.clone();
    scene.edit(json!({"args": ["new"], "terminationGracePeriodSeconds": 4}));
    let Act::Stop { pre_stop, grace, .. } = scene.take().actions[0].act.clone() else { panic!() };
    assert_eq!((pre_stop, grace), (Some(ran), Duration::from_secs(4)));
    assert_eq!(scene.declared.generation, Generation::FIRST.next());

    let mut scene = running();
    scene.absent = true;
    assert_eq!(scene.take().actions[0].act, stop(&scene.declared.spec, 20));
}
