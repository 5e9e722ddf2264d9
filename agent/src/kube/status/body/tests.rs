use stower_crds::{Kind, Name, Namespace};

use super::*;

fn key() -> ObjectKey {
    ObjectKey::new(Kind::Container, Namespace::new("default").unwrap(), Name::new("web").unwrap())
}

fn condition(type_: &str, status: &str, since: &str) -> Value {
    json!({"type": type_, "status": status, "lastTransitionTime": since})
}

#[test]
fn an_apply_names_the_object_by_its_uid() {
    let uid = Uid::new("u-1").unwrap();
    assert_eq!(path(&key()), "/apis/stower.dev/v1alpha1/namespaces/default/containers/web");
    assert_eq!(
        of_status(&key(), &uid, &json!({"phase": "Running"})),
        json!({"apiVersion": "stower.dev/v1alpha1", "kind": "Container",
            "metadata": {"name": "web", "namespace": "default", "uid": "u-1"},
            "status": {"phase": "Running"}})
    );
    assert_eq!(of_finalizer(&key(), &uid)["metadata"]["finalizers"], json!(["stower.dev/agent"]));
}

#[test]
fn only_the_agents_finalizer_goes() {
    let object =
        json!({"metadata": {"uid": "u", "resourceVersion": "9", "finalizers": ["a/b", FINALIZER, "c"]}});
    assert_eq!(
        without_finalizer(&object),
        Some(json!({"metadata": {"uid": "u", "resourceVersion": "9", "finalizers": ["a/b", "c"]}}))
    );
    assert_eq!(without_finalizer(&json!({"metadata": {"finalizers": ["a/b"]}})), None);
    assert_eq!(without_finalizer(&json!({"metadata": {}})), None);
}

#[test]
fn what_was_so_before_the_agent_came_keeps_its_time() {
    let there = json!({"conditions": [
        condition("Ready", "True", "2026-01-01T00:00:00Z"),
        condition("Accepted", "False", "2026-01-01T00:00:00Z"),
    ]});
    let mut said = json!({"conditions": [
        condition("Ready", "True", "2026-06-01T00:00:00Z"),
        condition("Accepted", "True", "2026-06-01T00:00:00Z"),
        condition("Held", "False", "2026-06-01T00:00:00Z"),
    ]});
    let carried = Carried::new(&said, &there);
    carried.apply(&mut said);
    assert_eq!(said["conditions"][0]["lastTransitionTime"], "2026-01-01T00:00:00Z");
    assert_eq!(said["conditions"][1]["lastTransitionTime"], "2026-06-01T00:00:00Z", "it has changed");
    assert_eq!(said["conditions"][2]["lastTransitionTime"], "2026-06-01T00:00:00Z", "it is new");
    // What changes from then on has the time that this agent saw, also when it changes back.
    let mut later = json!({"conditions": [condition("Ready", "True", "2026-06-02T00:00:00Z")]});
    carried.apply(&mut later);
    assert_eq!(later["conditions"][0]["lastTransitionTime"], "2026-06-02T00:00:00Z");
}

#[test]
fn nulls_are_no_part_of_a_status() {
    let status = json!({"a": null, "b": {"c": null, "d": 1}, "e": [{"f": null}]});
    assert_eq!(plain(status), json!({"b": {"d": 1}, "e": [{}]}));
}

#[test]
fn fields_that_the_server_does_not_have_are_left_out() {
    let mut undeclared = Undeclared::default();
    let refusal = "failed to create typed patch object (default/web; stower.dev/v1alpha1, Kind=Container): errors:\n  \
                   .status.probes[type=\"Liveness\"].took: field not declared in schema\n  .status.next: field not declared in schema";
    assert!(undeclared.learn(refusal));
    assert!(!undeclared.learn(refusal), "it is known");
    assert!(!undeclared.learn(".spec.image: Required value"));
    assert!(!undeclared.learn(".spec.new: field not declared in schema"), "specs are not written");
    let mut object =
        json!({"status": {"phase": "Running", "next": 1, "probes": [{"type": "Liveness", "took": 3}]}});
    undeclared.apply(&mut object);
    assert_eq!(object, json!({"status": {"phase": "Running", "probes": [{"type": "Liveness"}]}}));
}

#[test]
fn a_condition_without_a_time_gets_one() {
    let mut status =
        json!({"conditions": [{"type": "Accepted"}, condition("Ready", "True", "2026-06-01T00:00:00Z")]});
    date(&mut status, Timestamp::UNIX_EPOCH);
    assert_eq!(status["conditions"][0]["lastTransitionTime"], "1970-01-01T00:00:00Z");
    assert_eq!(status["conditions"][1]["lastTransitionTime"], "2026-06-01T00:00:00Z");
}
