use super::*;

fn lease(renewed: &str) -> Value {
    json!({"metadata": {"namespace": "stower-system", "name": "n1"},
        "spec": {"holderIdentity": "abc", "renewTime": renewed, "leaseDurationSeconds": 45}})
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn a_node_is_alive_as_long_as_its_lease() {
    let lease = lease("2026-11-30T10:00:00.000000Z");
    assert_eq!(
        alive(&lease, at("2026-11-30T10:00:10Z")).unwrap(),
        "its agent abc renewed the Lease stower-system/n1 10s ago, and holds it for 45s"
    );
    assert!(alive(&lease, at("2026-11-30T10:00:44Z")).is_some());
    assert_eq!(alive(&lease, at("2026-11-30T10:00:45Z")), None);
    // A clock that is behind makes it no less alive.
    assert!(alive(&lease, at("2026-11-30T09:59:00Z")).unwrap().contains("0s ago"));
}

#[test]
fn a_lease_that_was_given_back_holds_nobody() {
    let mut lease = lease("2026-11-30T10:00:00Z");
    lease["spec"]["holderIdentity"] = "".into();
    assert_eq!(alive(&lease, at("2026-11-30T10:00:01Z")), None);
}

#[test]
fn others_finalizers_stay() {
    let object = json!({"metadata": {"uid": "u", "resourceVersion": "7",
        "finalizers": ["example.org/backup", FINALIZER, "foregroundDeletion"]}});
    assert!(is_held(&object));
    assert_eq!(
        without(&object),
        json!({"metadata": {"uid": "u", "resourceVersion": "7",
            "finalizers": ["example.org/backup", "foregroundDeletion"]}})
    );
}

#[test]
fn the_data_given_up_is_named() {
    let volume =
        json!({"kind": "Volume", "spec": {"driver": "local"}, "status": {"path": "/var/lib/stower/x"}});
    assert_eq!(given_up(&volume), "gives up the data of this local volume at /var/lib/stower/x");
    let volumes: Vec<_> = (0..18).map(|n| json!({"mountPath": format!("/{n}")})).collect();
    let data = given_up(&json!({"kind": "DataContainer", "spec": {"volumes": volumes}}));
    assert!(data.starts_with("gives up the data of /0, /1, ") && data.ends_with("/15 and 2 more"), "{data}");
}
