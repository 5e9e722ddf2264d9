use serde_json::json;

use super::*;

#[test]
fn a_container_is_described_as_a_pod_is() {
    let object = json!({
        "apiVersion": "stower.dev/v1alpha1",
        "kind": "Container",
        "metadata": {
            "name": "web", "namespace": "default", "uid": "6a0e", "generation": 2,
            "creationTimestamp": "2026-11-21T10:00:00Z",
            "labels": {"app": "web", "tier": "front"},
            "annotations": {"stower.dev/source": "file /etc/stower/manifests/web.yaml"},
        },
        "spec": {
            "image": "nginx:1.29",
            "command": ["sh", "-c", "it's me"],
            "env": [{"name": "A", "value": "b"}, {"name": "LONGER", "value": ""}],
            "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}},
            "volumeMounts": [{"name": "data", "mountPath": "/data", "readOnly": true}],
            "volumes": [{"name": "data", "emptyDir": {"medium": "Memory"}}],
            "restartPolicy": "Always",
            "hostNetwork": true,
            "securityContext": {"runAsUser": 5, "capabilities": {"add": ["NET_ADMIN", "SYS_TIME"]}},
        },
        "status": {
            "observedGeneration": 2, "phase": "Running", "restartCount": 1,
            "image": "docker.io/library/nginx@sha256:0123",
            "state": {"running": {"startedAt": "2026-11-21T10:04:00Z", "pid": 4711}},
            "lastState": {"terminated": {"exitCode": 137, "signal": 9, "reason": "OOMKilled",
                          "startedAt": "2026-11-21T10:00:00Z", "finishedAt": "2026-11-21T10:03:00Z"}},
            "conditions": [{"type": "Ready", "status": "True", "reason": "Running", "message": "",
                            "lastTransitionTime": "2026-11-21T10:04:00Z"}],
        },
    });
    let now = "2026-11-21T10:05:00Z".parse().unwrap();
    let want = "\
Name:            web
Namespace:       default
UID:             6a0e
Labels:          app=web
                 tier=front
Annotations:     <none>
Source:          file /etc/stower/manifests/web.yaml
Created:         Sat, 21 Nov 2026 10:00:00 +0000 (5m ago)
Generation:      2
Status:          Running
Image:           nginx:1.29
Image ID:        docker.io/library/nginx@sha256:0123
Command:         sh -c 'it'\\''s me'
State:           Running
  PID:           4711
  Started:       Sat, 21 Nov 2026 10:04:00 +0000 (60s ago)
Last State:      Terminated
  Reason:        OOMKilled
  Exit Code:     137
  Signal:        9
  Started:       Sat, 21 Nov 2026 10:00:00 +0000 (5m ago)
  Finished:      Sat, 21 Nov 2026 10:03:00 +0000 (2m ago)
Ready:           True
Restart Count:   1
Restart Policy:  Always
Limits:
  cpu:     500m
  memory:  64Mi
Environment:
  A:       b
  LONGER:
Mounts:
  /data from data (ro)
Volumes:
  data:
    Type:    EmptyDir
    Medium:  Memory
Settings:
  Host Network:  true
  Security Context:
    Capabilities:
      Add:  NET_ADMIN, SYS_TIME
    Run As User:  5
Conditions:
  Type    Status   Since   Reason    Message
  Ready   True     60s     Running
Events:  <none>
";
    let got = text(&object, &[], now);
    assert_eq!(got, want, "\n{got}");
}

#[test]
fn a_status_of_an_older_generation_is_said_so() {
    assert_eq!(
        generation(&json!({"generation": 3}), &json!({"observedGeneration": 2})),
        "3 (the status is of 2)"
    );
    assert_eq!(generation(&json!({"generation": 1}), &json!({})), "1 (not yet seen to)");
}

#[test]
fn field_names_become_words() {
    for (key, want) in [
        ("terminationGracePeriodSeconds", "Termination Grace Period Seconds"),
        ("hostPID", "Host PID"),
        ("tty", "Tty"),
        ("memory", "memory"),
        ("example.com/gpu", "example.com/gpu"),
        ("KEEP", "KEEP"),
    ] {
        assert_eq!(title(key), want);
    }
}

#[test]
fn events_follow_as_a_table() {
    let events = [json!({
        "type": "Warning", "reason": "BackOff", "message": "restarting\nfailed", "count": 3,
        "firstTimestamp": "2000-01-01T00:00:00Z", "lastTimestamp": "2000-01-01T00:00:00Z",
    })];
    let mut out = String::new();
    event_table(&mut out, &events);
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[0], "Events:");
    assert!(lines[1].starts_with("  Type      Reason    Age"), "{out}");
    assert!(
        lines[2].starts_with("  Warning   BackOff   ") && lines[2].ends_with("restarting failed"),
        "{out}"
    );
    assert!(lines[2].contains(" (x3 over "), "{out}");
}
