use serde_json::json;

use super::{Change, diff};
use crate::fixtures::spec;

fn say(fields: serde_json::Value) -> String {
    match diff(&spec(json!({})), &spec(fields)) {
        Change::None => "none".into(),
        Change::InPlace { fields, applied } => format!("in place, applied {applied}: {}", fields[0]),
        Change::Replace { fields } => {
            format!("replace: {}", fields.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
        }
    }
}

#[test]
fn each_field_asks_for_what_it_needs() {
    assert_eq!(say(json!({})), "none");
    assert_eq!(
        say(json!({"restartPolicy": "Never"})),
        "in place, applied false: spec.restartPolicy changed Always -> Never"
    );
    assert_eq!(
        say(json!({"restart": {"backoff": {"max": "5s"}}})),
        "in place, applied false: spec.restart.backoff.max changed 60s -> 5s".replace("60s", "1m0s")
    );
    assert_eq!(
        say(json!({"resources": {"limits": {"memory": "1Gi"}}})),
        "in place, applied true: spec.resources set to {\"limits\":{\"memory\":\"1Gi\"}}"
    );
    assert_eq!(say(json!({"hostNetwork": true})), "replace: spec.hostNetwork set to true");
    assert_eq!(
        say(json!({"image": "b", "restartPolicy": "Never"})),
        "replace: spec.image changed registry.example/web:1 -> b",
        "what needs no process is not named as a reason for one"
    );
}

#[test]
fn what_is_shown_is_short_and_harmless() {
    let shown = say(json!({"args": ["\u{1b}[31m", "x".repeat(500)]}));
    assert!(shown.len() < 200 && !shown.contains('\u{1b}'), "{shown}");
    assert_eq!(say(json!({"env": [{"name": "A", "value": "secret"}]})), "replace: spec.env changed");
}
