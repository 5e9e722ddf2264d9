use serde_json::json;

use super::*;

fn object(status: Value) -> Value {
    let mut object = json!({"metadata": {"uid": "u1", "generation": 2}});
    object["status"] = status;
    object
}

#[test]
fn goals_are_reached_when_they_are() {
    let running = object(json!({"state": {"running": {"pid": 1, "startedAt": "a"}}, "phase": "Running"}));
    let again = object(json!({"state": {"running": {"pid": 2, "startedAt": "b"}}, "phase": "Running"}));
    let ended = object(
        json!({"state": {"terminated": {"exitCode": 0}}, "phase": "Succeeded", "observedGeneration": 2}),
    );
    let ready = |seen: i64| {
        object(
            json!({"conditions": [{"type": "Ready", "status": "True"}], "observedGeneration": seen, "phase": "Running"}),
        )
    };
    for (goal, state, want) in [
        (Goal::Gone("u1".into()), Some(&running), false),
        (Goal::Gone("u0".into()), Some(&running), true),
        (Goal::Gone("u1".into()), None, true),
        (Goal::Stopped, Some(&running), false),
        (Goal::Stopped, Some(&ended), true),
        (Goal::Stopped, None, true),
        (Goal::Running, Some(&running), true),
        (Goal::Running, Some(&ended), true),
        (Goal::Running, Some(&object(json!({"state": {"waiting": {"reason": "x"}}}))), false),
        (Goal::Restarted(running.clone()), Some(&running), false),
        (Goal::Restarted(running.clone()), Some(&again), true),
        (Goal::Ready, Some(&ready(1)), false),
        (Goal::Ready, Some(&ready(2)), true),
        (Goal::Ready, Some(&ended), true),
        (Goal::Ready, Some(&json!({"kind": "Secret", "metadata": {"generation": 1}})), true),
        (Goal::Condition("Ready".into(), "true".into()), Some(&ready(2)), true),
        (Goal::Condition("Ready".into(), "True".into()), Some(&ready(1)), false),
        (Goal::Condition("Ready".into(), "False".into()), Some(&ready(2)), false),
        (Goal::Condition("Held".into(), "True".into()), Some(&ready(2)), false),
        (Goal::Condition("Ready".into(), "True".into()), None, false),
    ] {
        assert_eq!(goal.reached(state), Ok(want), "{goal:?} {state:?}");
    }
}

#[test]
fn what_cannot_be_reached_any_more_is_an_error() {
    assert_eq!(Goal::Running.reached(None), Err("it was removed".to_owned()));
    let failed = object(json!({
        "phase": "Failed", "observedGeneration": 2, "state": {"terminated": {"exitCode": 1, "reason": "Error"}},
    }));
    assert_eq!(Goal::Ready.reached(Some(&failed)), Err("it failed (Error)".to_owned()));
}
