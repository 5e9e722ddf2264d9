//! What probes have a say in: the plan, the end of a run, the status.

use std::time::Duration;

use serde_json::{Value, json};
use stower_crds::{ConditionType, ProbeResult, ProbeStatus, ProbeType};

use super::stopping;
use crate::{
    fixtures::{Scene, at, exit, spec},
    *,
};

fn probe(grace: Option<u32>) -> Value {
    let mut probe = json!({ "tcpSocket": { "port": 80 } });
    if let Some(grace) = grace {
        probe["terminationGracePeriodSeconds"] = grace.into();
    }
    probe
}

/// Run 1 runs with these fields, and its liveness probe has failed.
fn unhealthy(fields: Value) -> Scene {
    let mut scene = Scene::running();
    scene.declared.spec = spec(fields);
    scene.record().launch.as_mut().unwrap().spec = scene.declared.spec.clone();
    let failed = Some(ProbeFailure { probe: ProbeType::Liveness, message: "no answer".into() });
    let facts = ProbeFacts { run: Run(1), started: true, ready: true, failed, last: Vec::new() };
    scene.observed.probes = Some(facts);
    scene
}

fn stop(grace: u64) -> Act {
    Act::Stop { run: Run(1), signal: None, grace: Duration::from_secs(grace), pre_stop: None }
}

#[test]
fn a_failed_liveness_probe_ends_the_run_and_the_restart_rule_decides() {
    let mut scene = unhealthy(json!({ "livenessProbe": probe(None), "restartPolicy": "OnFailure" }));
    assert_eq!(scene.says(), "restart Container default/web: its liveness probe failed: no answer");
    let plan = scene.take();
    assert_eq!(plan.actions[0].act, stop(30));
    let message = "no answer".into();
    let why = Why::Unhealthy { probe: ProbeType::Liveness, message, restarts: true };
    assert_eq!(plan.actions[0].why, why);
    // Remembered, and asked by nobody: an agent that dies here goes on with it.
    let remembered = scene.record().unhealthy.clone().unwrap();
    assert_eq!((remembered.run, remembered.probe), (Run(1), ProbeType::Liveness));
    assert_eq!(scene.record().asked_to_stop, None);
    scene.observed.probes = None;
    assert_eq!(scene.says(), "restart Container default/web: its liveness probe failed: no answer");
    stopping(&mut scene, 40_000);
    assert_eq!(scene.says(), "nothing to do");
    scene.take();
    // It ended well when it was asked to, and is a failure all the same.
    scene.observed.process = ProcessState::Exited { run: Run(1), exit: exit(0, 5_000) };
    scene.observed.cgroup = CgroupState::Empty;
    scene.take();
    let record = scene.record().clone();
    let ended = record.ended.as_ref().unwrap();
    assert_eq!((ended.asked, ended.unhealthy, record.retries), (false, Some(ProbeType::Liveness), 1));
    assert_eq!(record.unhealthy, None);
    assert!(record.next_start.is_some(), "it backs off");
    scene.now = at(20_000);
    assert_eq!(
        scene.says(),
        "restart Container default/web: restartPolicy OnFailure after its liveness probe failed (exit code 0)"
    );
}

#[test]
fn the_grace_is_the_probes_where_it_has_one_and_never_restarts_nothing() {
    let fields = json!({ "livenessProbe": probe(Some(3)), "restartPolicy": "Never" });
    let mut scene = unhealthy(fields);
    assert_eq!(scene.says(), "stop Container default/web: its liveness probe failed: no answer");
    assert_eq!(scene.take().actions[0].act, stop(3));
    scene.observed.process = ProcessState::Exited { run: Run(1), exit: exit(137, 5_000) };
    scene.observed.cgroup = CgroupState::Empty;
    scene.take();
    scene.now = at(90_000);
    assert_eq!(scene.says(), "nothing to do");
    assert_eq!(scene.status().phase, stower_crds::Phase::Failed);
}

#[test]
fn what_probes_said_of_another_run_counts_for_nothing() {
    let mut scene = unhealthy(json!({ "livenessProbe": probe(None) }));
    scene.observed.probes.as_mut().unwrap().run = Run(7);
    assert_eq!(scene.says(), "nothing to do");
}

#[test]
fn a_hold_and_a_replacement_come_before_it() {
    let held = unhealthy(json!({ "livenessProbe": probe(None) })).with(|s| {
        let now = s.now.clone();
        s.record().stop("root", &now);
    });
    assert_eq!(held.says(), "stop Container default/web: held by root");
    // One that cannot be started yet does not end what runs, healthy or not.
    let mut waits = unhealthy(json!({ "livenessProbe": probe(None) }));
    waits.edit(json!({ "livenessProbe": probe(None), "image": "registry.example/web:2" }));
    waits.observed.image.state = ImageState::Pulling;
    assert_eq!(waits.says(), "nothing to do");
}

#[test]
fn status_says_what_probes_said() {
    let fields = json!({ "startupProbe": probe(None), "readinessProbe": probe(None) });
    let told = |facts: Option<ProbeFacts>| {
        let mut scene = Scene::running();
        scene.declared.spec = spec(fields.clone());
        scene.record().launch.as_mut().unwrap().spec = scene.declared.spec.clone();
        scene.observed.probes = facts;
        let status = scene.status();
        let ready = status.conditions.get(&ConditionType::Ready).unwrap();
        let condition = format!("{:?} {}: {}", ready.status, ready.reason, ready.message);
        (status.started, status.ready, condition, status.probes)
    };
    let facts = |started, ready, last: &[ProbeStatus]| {
        Some(ProbeFacts { run: Run(1), started, ready, failed: None, last: last.to_vec() })
    };
    let failure = |type_| ProbeStatus {
        type_,
        result: ProbeResult::Failure,
        failures: 2,
        message: Some("connection refused".into()),
    };
    let no = |started, text: &str| (Some(started), false, format!("False {text}"), Vec::new());
    let untold = no(false, "NotStarted: its startup probe has not succeeded yet");
    assert_eq!(told(None), untold);
    assert_eq!(told(facts(false, false, &[])), untold);
    let last = [failure(ProbeType::Startup)];
    let text = "NotStarted: its startup probe does not succeed: connection refused";
    assert_eq!(
        told(facts(false, false, &last)),
        (Some(false), false, format!("False {text}"), last.to_vec())
    );
    assert_eq!(
        told(facts(true, false, &[])),
        no(true, "NotReady: its readiness probe has not succeeded yet")
    );
    let last = [failure(ProbeType::Readiness)];
    let text = "NotReady: its readiness probe does not succeed: connection refused";
    assert_eq!(told(facts(true, false, &last)), (Some(true), false, format!("False {text}"), last.to_vec()));
    assert_eq!(told(facts(true, true, &[])), (Some(true), true, "True Running: ".into(), Vec::new()));
    // What does not run is neither.
    let ended = Scene::exited(0, 1).status();
    assert_eq!((ended.started, ended.ready), (None, false));
}
