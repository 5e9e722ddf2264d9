//! The state of probes, step by step and at random.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::fixtures::{at, spec, uid};

const FAILED: &str = "HTTP probe failed with statuscode: 500";

fn failure() -> ProbeOutcome {
    ProbeOutcome::Failure(FAILED.into())
}

fn probe(more: &Value) -> Value {
    let mut probe = json!({ "tcpSocket": { "port": 80 } });
    probe.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    probe
}

/// Run 1 began one second after the boot, and this agent has begun it.
fn begin(fields: Value) -> Prober {
    begin_with(fields, false, None)
}

fn begin_with(fields: Value, adopted: bool, kept: Option<KeptProbes>) -> Prober {
    let uid = uid();
    let probed = Probed { uid: &uid, run: Run(1), started_at: at(1_000).wall, adopted, kept };
    Prober::new(&probed, &spec(fields), &at(1_000))
}

fn mono(millis: u64) -> Mono {
    at(millis).mono
}

/// Asks what is due, which must be this one alone, and answers.
fn step(prober: &mut Prober, millis: u64, type_: ProbeType, outcome: ProbeOutcome) -> Option<ProbeEvent> {
    let due = prober.due(mono(millis));
    assert_eq!(due.iter().map(|(type_, _)| *type_).collect::<Vec<_>>(), [type_], "at {millis}");
    assert_eq!(prober.due(mono(millis)), [], "asked twice");
    prober.answered(type_, due[0].1, outcome, mono(millis))
}

#[test]
fn without_probes_it_has_started_and_is_ready() {
    let mut prober = begin(json!({}));
    assert_eq!(prober.facts(), ProbeFacts::untold(&spec(json!({})), Run(1)));
    assert!(prober.facts().started && prober.facts().ready);
    assert_eq!((prober.next(), prober.due(mono(1_000_000))), (None, vec![]));
}

#[test]
fn a_probe_is_asked_after_its_delay_and_then_every_period() {
    let mut prober =
        begin(json!({ "livenessProbe": probe(&json!({ "initialDelaySeconds": 4, "periodSeconds": 2 })) }));
    assert_eq!(prober.next(), Some(mono(5_000)));
    assert_eq!(prober.due(mono(4_999)), []);
    step(&mut prober, 5_000, ProbeType::Liveness, ProbeOutcome::Success);
    assert_eq!(prober.next(), Some(mono(7_000)));
    // A question that takes longer than the period is put again at once, and none is put beside it.
    let due = prober.due(mono(7_500));
    assert_eq!((prober.next(), prober.due(mono(12_000))), (None, vec![]));
    prober.answered(ProbeType::Liveness, due[0].1, ProbeOutcome::Success, mono(12_000));
    assert_eq!(prober.next(), Some(mono(12_000)));
    // Zero is the default, as the API server fills it in.
    let prober =
        begin(json!({ "livenessProbe": probe(&json!({ "periodSeconds": 0, "timeoutSeconds": 0 })) }));
    let probe = prober.probe(ProbeType::Liveness).unwrap();
    assert_eq!((probe.period(), probe.timeout(), probe.failures(), probe.successes()), (10, 1, 3, 1));
}

#[test]
fn liveness_fails_after_as_many_failures_in_a_row_as_it_may() {
    let mut prober =
        begin(json!({ "livenessProbe": probe(&json!({ "periodSeconds": 1, "failureThreshold": 2 })) }));
    let event = step(&mut prober, 1_000, ProbeType::Liveness, failure());
    let message = format!("Liveness probe failed: {FAILED}");
    assert_eq!(event, Some(ProbeEvent { reason: "Unhealthy", message }));
    let shown = |failures| vec![status(ProbeType::Liveness, ProbeResult::Failure, failures, FAILED)];
    assert_eq!((prober.facts().failed, prober.facts().last), (None, shown(1)));
    // A success in between begins the count anew, and what could not be asked counts for nothing.
    assert_eq!(step(&mut prober, 2_000, ProbeType::Liveness, ProbeOutcome::Success), None);
    step(&mut prober, 3_000, ProbeType::Liveness, failure());
    let event =
        step(&mut prober, 4_000, ProbeType::Liveness, ProbeOutcome::Unknown("no such program".into()));
    assert_eq!(
        event.unwrap().message,
        "Liveness probe errored and resulted in unknown state: no such program"
    );
    assert_eq!(prober.facts().failed, None);
    step(&mut prober, 5_000, ProbeType::Liveness, failure());
    let facts = prober.facts();
    assert_eq!(facts.failed, Some(ProbeFailure { probe: ProbeType::Liveness, message: FAILED.into() }));
    assert_eq!(facts.last, shown(2));
    // Nobody asks any more, until there is another run. What is being ended is as ready as it was.
    assert_eq!((prober.next(), facts.ready), (None, true));
}

#[test]
fn nothing_else_is_asked_before_it_has_started() {
    let all = json!({
        "startupProbe": probe(&json!({ "periodSeconds": 1, "failureThreshold": 30 })),
        "livenessProbe": probe(&json!({ "initialDelaySeconds": 9 })),
        "readinessProbe": probe(&json!({})),
    });
    let mut prober = begin(all.clone());
    assert!(!prober.facts().started && !prober.facts().ready);
    step(&mut prober, 1_000, ProbeType::Startup, failure());
    step(&mut prober, 2_000, ProbeType::Startup, ProbeOutcome::Success);
    // Readiness at once, liveness after its delay from the start of the run; startup never again.
    assert!(prober.facts().started && !prober.facts().ready);
    step(&mut prober, 2_000, ProbeType::Readiness, ProbeOutcome::Success);
    assert!(prober.facts().ready);
    assert_eq!(prober.next(), Some(mono(10_000)));
    // One that never starts is ended.
    let mut never = begin(all);
    for second in 1..=30 {
        step(&mut never, second * 1_000, ProbeType::Startup, failure());
        assert_eq!(never.facts().failed.is_some(), second == 30);
    }
    assert_eq!((never.next(), never.facts().ready), (None, false));
}

#[test]
fn readiness_comes_and_goes_by_its_thresholds() {
    let mut prober = begin(json!({ "readinessProbe":
        probe(&json!({ "periodSeconds": 1, "successThreshold": 2, "failureThreshold": 2 })) }));
    let answers = [(true, false), (true, true), (false, true), (true, true), (false, true), (false, false)];
    for (second, (answer, ready)) in (1..).zip(answers) {
        let outcome = if answer { ProbeOutcome::Success } else { failure() };
        step(&mut prober, second * 1_000, ProbeType::Readiness, outcome);
        assert_eq!(prober.facts().ready, ready, "at {second}");
        assert_eq!(prober.facts().failed, None);
    }
    let event = step(&mut prober, 7_000, ProbeType::Readiness, ProbeOutcome::Warning("moved".into()));
    assert_eq!(
        event,
        Some(ProbeEvent { reason: "ProbeWarning", message: "Readiness probe warning: moved".into() })
    );
}

#[test]
fn another_agent_says_nothing_anew_of_a_run_that_goes_on() {
    let fields = json!({
        "startupProbe": probe(&json!({})),
        "livenessProbe": probe(&json!({ "failureThreshold": 1 })),
        "readinessProbe": probe(&json!({})),
    });
    let mut first = begin(fields.clone());
    step(&mut first, 1_000, ProbeType::Startup, ProbeOutcome::Success);
    for (type_, ticket) in first.due(mono(1_000)) {
        first.answered(type_, ticket, ProbeOutcome::Success, mono(1_000));
    }
    assert!(first.facts().ready);
    let mut second = begin_with(fields.clone(), true, Some(first.kept()));
    assert!(second.facts().started && second.facts().ready, "{:?}", second.facts());
    // The startup probe is not asked again; the others are spread over a period, the same way each time.
    let next = second.next().unwrap();
    assert!(next >= mono(1_000) && next < mono(11_000), "{next:?}");
    assert_eq!(second, begin_with(fields.clone(), true, Some(first.kept())));
    assert!(second.due(mono(11_000)).iter().all(|(type_, _)| *type_ != ProbeType::Startup));
    // Of another run nothing holds.
    let other = begin_with(fields, true, Some(KeptProbes { run: Run(7), ..first.kept() }));
    assert!(!other.facts().started && !other.facts().ready);
}

#[test]
fn a_stop_ends_liveness_and_not_readiness() {
    let fields = json!({ "livenessProbe": probe(&json!({ "failureThreshold": 1 })), "readinessProbe": probe(&json!({})) });
    let mut prober = begin(fields);
    let due = prober.due(mono(1_000));
    prober.stop();
    for (type_, ticket) in due {
        prober.answered(type_, ticket, failure(), mono(1_500));
    }
    assert_eq!(prober.facts().failed, None);
    assert_eq!(prober.next(), Some(mono(11_000)));
    assert_eq!(prober.due(mono(11_000)).len(), 1);
}

#[test]
fn an_edit_changes_nothing_of_what_holds() {
    let mut prober = begin(json!({ "readinessProbe": probe(&json!({ "failureThreshold": 1 })) }));
    step(&mut prober, 1_000, ProbeType::Readiness, ProbeOutcome::Success);
    // Another probe: asked at once, and ready until it says otherwise. What is still out to the old one is passed over.
    let out = prober.due(mono(11_000));
    let edited =
        spec(json!({ "readinessProbe": probe(&json!({ "failureThreshold": 1, "periodSeconds": 3 })),
        "startupProbe": probe(&json!({})) }));
    prober.change(&edited, mono(11_100));
    prober.answered(ProbeType::Readiness, out[0].1, failure(), mono(11_200));
    assert!(prober.facts().ready && prober.facts().started && prober.facts().last.is_empty());
    step(&mut prober, 11_200, ProbeType::Readiness, failure());
    assert!(!prober.facts().ready);
    // The same spec again is no edit.
    let before = prober.clone();
    prober.change(&edited, mono(11_300));
    assert_eq!(prober, before);
    // Without a probe it is ready.
    prober.change(&spec(json!({})), mono(12_000));
    assert!(prober.facts().ready && prober.next().is_none());
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Answer(u8, u8),
    Stop,
    Edit(u8),
    /// The agent dies, and another one takes over what was kept.
    Adopt,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1..5_000_u64).prop_map(Step::Wait),
        8 => (0..3_u8, 0..4_u8).prop_map(|(which, how)| Step::Answer(which, how)),
        1 => Just(Step::Stop),
        1 => (0..4_u8).prop_map(Step::Edit),
        1 => Just(Step::Adopt),
    ];
    proptest::collection::vec(step, 1..80)
}

fn fields(variant: u8) -> Value {
    let mut fields = json!({ "livenessProbe": probe(&json!({ "periodSeconds": 1, "failureThreshold": 2 })) });
    if variant & 1 == 0 {
        fields["startupProbe"] = probe(&json!({ "periodSeconds": 2 }));
    }
    if variant & 2 == 0 {
        fields["readinessProbe"] = probe(&json!({ "successThreshold": 2, "failureThreshold": 1 }));
    }
    fields
}

proptest! {
    /// Whatever happens, at whatever time: no probe is asked twice at once, none before it may, started never ends, an
    /// agent's death and an edit change neither readiness nor start, and asking twice changes nothing.
    #[test]
    fn whatever_happens(variant in 0..4_u8, steps in steps()) {
        let uid = uid();
        let mut probes = spec(fields(variant));
        let mut prober = begin(fields(variant));
        let (mut now, mut out) = (1_000, Vec::new());
        let mut stopped = false;
        for step in steps {
            let before = prober.facts();
            match step {
                Step::Wait(millis) => now += millis,
                Step::Answer(which, how) => {
                    if !out.is_empty() {
                        let (type_, ticket) = out.remove(usize::from(which) % out.len());
                        let outcome = match how {
                            0 | 1 => ProbeOutcome::Success,
                            2 => failure(),
                            _ => ProbeOutcome::Unknown("?".into()),
                        };
                        prober.answered(type_, ticket, outcome, mono(now));
                        // The same answer again is none.
                        let once = prober.clone();
                        prop_assert_eq!(prober.answered(type_, ticket, failure(), mono(now)), None);
                        prop_assert_eq!(&prober, &once);
                    }
                }
                Step::Stop => {
                    prober.stop();
                    stopped = true;
                }
                Step::Edit(variant) => {
                    probes = spec(fields(variant));
                    prober.change(&probes, mono(now));
                }
                Step::Adopt => {
                    let probed = Probed {
                        uid: &uid, run: Run(1), started_at: at(1_000).wall, adopted: true, kept: Some(prober.kept()),
                    };
                    prober = Prober::new(&probed, &probes, &at(now));
                    out.clear();
                    prop_assert_eq!(prober.facts().failed, None, "an adopted run is not failed by its past");
                    if stopped {
                        prober.stop();
                    }
                }
            }
            let after = prober.facts();
            if !matches!(step, Step::Answer(..)) {
                // An edit may take away the startup probe that it waited for.
                let edited = probes.readiness_probe.is_none() || (after.started && !before.started);
                prop_assert!(after.ready == before.ready || edited, "{:?}", step);
            }
            prop_assert!(after.started || !before.started, "started ended by {:?}", step);
            let due = prober.due(mono(now));
            prop_assert_eq!(prober.due(mono(now)), vec![]);
            for (type_, ticket) in due {
                out.retain(|(old, _)| *old != type_);
                let startup = type_ == ProbeType::Startup;
                prop_assert!(startup != prober.facts().started, "{:?} out of turn", type_);
                prop_assert!(type_ == ProbeType::Readiness || (!stopped && prober.facts().failed.is_none()));
                out.push((type_, ticket));
            }
            if let Some(next) = prober.next() {
                prop_assert!(next > mono(now));
            }
            prop_assert!(!prober.facts().ready || prober.facts().started);
        }
    }
}
