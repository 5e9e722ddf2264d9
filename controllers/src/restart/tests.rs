use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;
use stower_crds::{Backoff, Uid};

use crate::{
    fixtures::{exit, spec, started_at, uid},
    *,
};

fn ended(code: i32) -> Ended {
    let exit = exit(code, 100);
    Ended {
        run: Run(1),
        cause: EndCause::Exited,
        exit_code: code,
        signal: exit.signal,
        oom_killed: false,
        message: String::new(),
        started_at: Some(started_at()),
        finished_at: exit.finished_at,
        asked: false,
        failed_hook: false,
        unhealthy: None,
    }
}

#[test]
fn each_policy_answers_each_end() {
    use Verdict::{Exhausted, Failed, Restart, Succeeded};
    let lost = Ended { cause: EndCause::ShimLost, ..ended(255) };
    let rebooted = Ended { cause: EndCause::Rebooted, ..ended(255) };
    let unstarted = Ended { cause: EndCause::StartFailed(FailureReason::RunContainerError), ..ended(128) };
    let rows = [
        // policy, exit 0, exit 1, killed, shim lost, rebooted, not started
        ("Always", [Restart, Restart, Restart, Restart, Restart, Restart]),
        ("UnlessStopped", [Restart, Restart, Restart, Restart, Restart, Restart]),
        ("OnFailure", [Succeeded, Restart, Restart, Restart, Restart, Restart]),
        ("Never", [Succeeded, Failed, Failed, Failed, Failed, Failed]),
    ];
    for (policy, expected) in rows {
        let spec = spec(json!({"restartPolicy": policy}));
        let ends = [ended(0), ended(1), ended(137), lost.clone(), rebooted.clone(), unstarted.clone()];
        assert_eq!(ends.map(|end| verdict(&spec, &end, 1)), expected, "{policy}");
    }
    let limited = spec(json!({"restartPolicy": "OnFailure", "restart": {"maxRetries": 2}}));
    assert_eq!(verdict(&limited, &ended(1), 2), Restart);
    assert_eq!(verdict(&limited, &ended(1), 3), Exhausted);
    assert_eq!(verdict(&limited, &rebooted, 3), Restart, "a reboot is no retry");
}

#[test]
fn the_first_rule_that_matches_wins_over_the_policy() {
    let spec = spec(json!({"restartPolicy": "Always", "restart": {"rules": [
        {"action": "Restart", "oomKilled": true},
        {"action": "Stop", "exitCodes": {"operator": "In", "values": [42]}},
        {"action": "Stop", "signals": ["SIGKILL"]},
        {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}},
    ]}}));
    assert_eq!(verdict(&spec, &ended(42), 1), Verdict::Failed);
    assert_eq!(verdict(&spec, &ended(137), 1), Verdict::Failed);
    assert_eq!(verdict(&spec, &Ended { oom_killed: true, ..ended(137) }, 1), Verdict::Restart);
    assert_eq!(verdict(&spec, &ended(1), 1), Verdict::Restart);
}

#[test]
fn rules_match_by_all_that_they_set_and_only_the_end_of_the_program() {
    let spec = spec(json!({"restartPolicy": "Never", "restart": {"rules": [
        {"action": "Restart", "exitCodes": {"operator": "NotIn", "values": [0, 3, 137]}},
        {"action": "Restart", "signals": ["SIGKILL"], "oomKilled": false},
        {"action": "Stop", "oomKilled": true},
    ]}}));
    let oom = |code| Ended { oom_killed: true, ..ended(code) };
    let rows = [
        (ended(0), "restartPolicy Never", Verdict::Succeeded),
        (ended(1), "restart.rules[0]", Verdict::Restart),
        (ended(3), "restartPolicy Never", Verdict::Failed),
        (ended(137), "restart.rules[1]", Verdict::Restart),
        (oom(137), "restart.rules[2]", Verdict::Failed),
        (oom(3), "restart.rules[2]", Verdict::Failed),
        // Code 255 is nobody's word here.
        (Ended { cause: EndCause::ShimLost, ..ended(255) }, "restartPolicy Never", Verdict::Failed),
        (Ended { cause: EndCause::Rebooted, ..ended(255) }, "restartPolicy Never", Verdict::Failed),
    ];
    for (end, by, expected) in rows {
        let name = format!("{end:?}");
        assert_eq!(
            (decider(&spec, &end).to_string().as_str(), verdict(&spec, &end, 1)),
            (by, expected),
            "{name}"
        );
    }
}

#[test]
fn the_plan_and_the_status_name_the_rule() {
    let rules = json!({"restartPolicy": "Never", "restart": {"rules": [
        {"action": "Stop", "exitCodes": {"operator": "In", "values": [0]}},
        {"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}},
    ]}});
    let mut crashed = fixtures::Scene::exited(1, 5_000).with(|s| s.edit(rules.clone()));
    crashed.take();
    let waiting = crashed.status().state.unwrap().waiting.unwrap();
    assert_eq!(waiting.message.unwrap(), "back-off before restart 1 by restart.rules[1] after exit code 1");
    crashed.now = fixtures::at(10_200);
    assert_eq!(crashed.says(), "restart Container default/web: restart.rules[1] after exit code 1");
    let mut left = fixtures::Scene::exited(0, 5_000).with(|s| s.edit(rules));
    left.take();
    assert_eq!(left.says(), "nothing to do");
    let ready = left.status().conditions.get(&stower_crds::ConditionType::Ready).unwrap().clone();
    assert_eq!(ready.message, "restart.rules[0] leaves it ended after exit code 0");
}

#[test]
fn the_default_backoff_is_100_ms_doubled_to_a_minute() {
    let backoff = Backoff { jitter: 0, ..Backoff::default() };
    let delays: Vec<u128> =
        [0, 1, 2, 3, 10, 11, u32::MAX].map(|n| backoff_delay(&backoff, n, &uid(), Run(1)).as_millis()).into();
    assert_eq!(delays, [0, 100, 200, 400, 51_200, 60_000, 60_000]);
}

#[test]
fn two_containers_do_not_stay_in_step() {
    let of = |uid: &str| backoff_delay(&Backoff::default(), 4, &Uid::new(uid).unwrap(), Run(4));
    assert_ne!(of("a"), of("b"));
    assert_eq!(of("a"), of("a"));
}

#[test]
fn a_run_of_reset_after_begins_the_backoff_anew() {
    for (ran, retries) in [(9_999, 6), (10_000, 1)] {
        let mut scene = fixtures::Scene::exited(1, ran);
        scene.record().retries = 5;
        scene.take();
        assert_eq!(scene.record().retries, retries, "after {ran} ms");
    }
}

proptest! {
    #[test]
    fn a_delay_lies_between_initial_and_max_and_its_jitter(
        initial in 0_u64..100_000, factor in 0_u32..1_000, max in 0_u64..100_000, jitter in 0_u32..=100,
        retries in 1_u32.., run in any::<u64>(),
    ) {
        let backoff = Backoff {
            initial: stower_crds::Duration::from_millis(initial),
            factor,
            max: stower_crds::Duration::from_millis(max),
            jitter,
            ..Backoff::default()
        };
        let delay = backoff_delay(&backoff, retries, &uid(), Run(run));
        let longest = Duration::from_millis(max).mul_f64(1.0 + f64::from(jitter) / 100.0);
        prop_assert!(delay >= Duration::from_millis(initial.min(max)));
        prop_assert!(delay <= longest + Duration::from_micros(1));
    }
}
