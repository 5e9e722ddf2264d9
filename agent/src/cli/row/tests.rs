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
        cells(&object, false, false, false, now),
        ["web", "Running", "True", "2 (60s ago)", "5m", "nginx:1.29"]
    );
    let all = cells(&object, true, true, true, now);
    assert_eq!(all.len(), headings(true, true, true).len());
    assert_eq!(
        all[7..],
        ["0123456789ab", "4711", "n1", "file /etc/stower/manifests/web.yaml", "app=web,tier=front"]
    );
}

#[test]
fn what_is_missing_does_not_matter() {
    let now = "2026-11-21T10:05:00Z".parse().unwrap();
    assert_eq!(
        cells(&json!({"metadata": {"name": "x"}}), false, true, true, now),
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
