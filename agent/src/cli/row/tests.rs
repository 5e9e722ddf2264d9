use serde_json::json;

use super::*;

fn object(status: Value) -> Value {
    let mut object = json!({
        "metadata": {"name": "web", "namespace": "default", "creationTimestamp": "2026-11-21T10:00:00Z",
                     "labels": {"app": "web", "tier": "front"},
                     "annotations": {"stower.dev/source": "file /etc/stower/manifests/web.yaml"}},
        "spec": {"image": "nginx:1.29", "nodeName": "n1"},
    });
    object["status"] = status;
    object
}

fn container() -> &'static Resource {
    Resource::named("Container")
}

fn held() -> Value {
    json!([{"type": "Held", "status": "True"}])
}

#[test]
fn the_status_is_one_word() {
    let ended = |extra: Value| {
        let mut terminated = json!({"exitCode": 3});
        terminated.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({"phase": "Failed", "state": {"terminated": terminated}})
    };
    for (status, want) in [
        (json!({}), "Pending"),
        (json!({"phase": "Pending"}), "Pending"),
        (json!({"phase": "Running", "state": {"running": {"pid": 7}}}), "Running"),
        (json!({"phase": "Running", "state": {"running": {"pid": 7}}, "conditions": held()}), "Stopping"),
        (
            json!({"phase": "Running", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}),
            "CrashLoopBackOff",
        ),
        (
            json!({"phase": "Pending", "state": {"waiting": {"reason": "Held"}}, "conditions": held()}),
            "Stopped",
        ),
        (ended(json!({"reason": "OOMKilled"})), "OOMKilled"),
        (ended(json!({})), "ExitCode:3"),
        (ended(json!({"signal": 9})), "Signal:9"),
        (
            json!({"conditions": [{"type": "Accepted", "status": "False", "reason": "NameConflict"}]}),
            "NameConflict",
        ),
    ] {
        assert_eq!(word(&object(status.clone())), want, "{status}");
    }
    let mut going = object(json!({"state": {"running": {"pid": 7}}}));
    going["metadata"]["deletionTimestamp"] = "2026-11-21T10:00:00Z".into();
    assert_eq!(word(&going), "Terminating");
}

#[test]
fn a_row_says_what_kubectl_would() {
    let now = "2026-11-21T10:05:00Z".parse().unwrap();
    let object = object(json!({
        "phase": "Running",
        "state": {"running": {"pid": 4711, "startedAt": "2026-11-21T10:04:00Z"}},
        "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-11-21T10:04:00Z"}},
        "restartCount": 2,
        "image": "docker.io/library/nginx@sha256:0123456789abcdef0123",
        "conditions": [{"type": "Ready", "status": "True"}],
    }));
    assert_eq!(
        cells(container(), &object, Columns::default(), now),
        ["web", "Running", "True", "2 (60s ago)", "5m", "nginx:1.29"]
    );
    let columns = Columns { namespaced: true, wide: true, labels: true, kinds: false };
    let all = cells(container(), &object, columns, now);
    assert_eq!(all.len(), headings(container(), columns).len());
    assert_eq!(
        all[7..],
        ["0123456789ab", "4711", "n1", "file /etc/stower/manifests/web.yaml", "app=web,tier=front"]
    );
}

#[test]
fn what_is_missing_does_not_matter() {
    let now = "2026-11-21T10:05:00Z".parse().unwrap();
    assert_eq!(
        cells(
            container(),
            &json!({"metadata": {"name": "x"}}),
            Columns { namespaced: false, wide: true, labels: true, kinds: false },
            now
        ),
        [
            "x",
            "Pending",
            "False",
            "0",
            "<unknown>",
            "<none>",
            "<none>",
            "<none>",
            "<none>",
            "<none>",
            "<none>"
        ]
    );
}

#[test]
fn storage_and_values_have_rows_of_their_own() {
    let now = "2026-11-21T10:05:00Z".parse().unwrap();
    let metadata = json!({"name": "a", "namespace": "default", "creationTimestamp": "2026-11-21T10:00:00Z",
                          "annotations": {"stower.dev/source": "local API"}});
    let ready = json!([{"type": "Ready", "status": "True"}]);
    let volume = json!({
        "kind": "Volume", "metadata": metadata,
        "spec": {"driver": "local", "capacity": "1Gi", "reclaimPolicy": "Retain", "nodeName": "n1"},
        "status": {"conditions": ready, "path": "/v", "users": ["Container default/web", "DataContainer default/d"]},
    });
    let data = json!({
        "kind": "DataContainer", "metadata": metadata,
        "spec": {"volumes": [{"mountPath": "/a"}, {"mountPath": "/b"}], "reclaimPolicy": "Delete"},
    });
    let map = json!({"kind": "ConfigMap", "metadata": metadata, "data": {"a": ""}, "binaryData": {"b": "", "c": ""}});
    let secret = json!({"kind": "Secret", "metadata": metadata, "data": {"a": ""}, "type": "Opaque"});
    let wide = Columns { wide: true, ..Columns::default() };
    for (object, want) in [
        (
            &volume,
            vec![
                "a",
                "True",
                "local",
                "1Gi",
                "Retain",
                "5m",
                "n1",
                "container/web,datacontainer/d",
                "/v",
                "local API",
            ],
        ),
        (&data, vec!["a", "False", "/a,/b", "Delete", "5m", "<none>", "<none>", "<none>", "local API"]),
        (&map, vec!["a", "3", "5m", "local API"]),
        (&secret, vec!["a", "Opaque", "1", "5m", "local API"]),
    ] {
        let resource = Resource::named(object["kind"].as_str().unwrap());
        let got = cells(resource, object, wide, now);
        assert_eq!(got, want);
        assert_eq!(got.len(), headings(resource, wide).len());
        let usual = cells(resource, object, Columns { kinds: true, ..Columns::default() }, now);
        assert_eq!(usual[0], format!("{}/a", resource.singular));
        assert_eq!(usual.len(), headings(resource, Columns::default()).len());
    }
    let mut leaving = volume.clone();
    leaving["metadata"]["deletionTimestamp"] = "2026-11-21T10:01:00Z".into();
    assert_eq!(cells(Resource::named("Volume"), &leaving, wide, now)[1], "Terminating");
    let mut second = volume;
    second["status"]["conditions"] =
        json!([{"type": "Accepted", "status": "False", "reason": "NameConflict"}]);
    assert_eq!(cells(Resource::named("Volume"), &second, wide, now)[1], "NameConflict");
    assert_eq!(
        (word(&leaving), word(&second), word(&data)),
        ("Terminating".into(), "NameConflict".into(), "Pending".into())
    );
}

/// What `kubectl get` prints from the definition, `stower get` prints too.
#[test]
fn the_columns_are_those_of_the_definition() {
    for kind in [stower_crds::Kind::Volume, stower_crds::Kind::DataContainer] {
        let definition = stower_crds::crd(kind);
        let columns = definition["spec"]["versions"][0]["additionalPrinterColumns"].as_array().unwrap();
        let of = |wide: bool| -> Vec<String> {
            let columns = columns.iter().filter(|column| (column["priority"] == 1) == wide);
            columns.map(|column| column["name"].as_str().unwrap().to_uppercase()).collect()
        };
        let resource = Resource::named(kind.as_str());
        assert_eq!(headings(resource, Columns::default())[1..], of(false));
        let wide = headings(resource, Columns { wide: true, ..Columns::default() });
        for column in of(true) {
            assert!(wide.contains(&column.as_str()), "{column}");
        }
    }
}
