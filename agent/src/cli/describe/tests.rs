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

/// The end of a description, after what every object has.
fn after(text: &str, start: &str) -> String {
    let at = text.find(start).unwrap_or_else(|| panic!("no {start:?} in\n{text}"));
    text[at..].to_owned()
}

fn described(object: &Value) -> String {
    text(object, &[], "2026-11-21T10:05:00Z".parse().unwrap())
}

#[test]
fn where_mounts_and_variables_come_from_is_told() {
    let object = json!({
        "kind": "Container",
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "x"}},
        "spec": {
            "image": "a",
            "env": [
                {"name": "P", "valueFrom": {"secretKeyRef": {"name": "s", "key": "pass"}}},
                {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k", "optional": true}}},
                {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            ],
            "envFrom": [{"configMapRef": {"name": "c"}}, {"prefix": "S_", "secretRef": {"name": "s", "optional": true}}],
            "volumes": [{"name": "pg", "volume": {"name": "data"}}, {"name": "late", "emptyDir": {}}],
            "volumeMounts": [{"name": "pg", "mountPath": "/pg", "subPath": "a/b"}, {"name": "late", "mountPath": "/late"}],
            "volumesFrom": [{"kind": "DataContainer", "name": "foo", "readOnly": true}, {"kind": "Container", "name": "db"}],
        },
        "status": {"mounts": [
            {"mountPath": "/foo", "from": "DataContainer default/foo", "readOnly": true},
            {"mountPath": "/pg", "name": "pg"},
            {"mountPath": "/anon"},
        ]},
    });
    let got = described(&object);
    let want = "\
Environment Variables from:
  c  ConfigMap  Optional: false
  s  Secret with prefix 'S_'  Optional: true
Environment:
  P:  <set to the key 'pass' in secret 's'>  Optional: false
  C:  <set to the key 'k' of config map 'c'>  Optional: true
  N:  web (v1:metadata.name)
  L:  x (v1:metadata.labels['app'])
Mounts:
  /foo from DataContainer default/foo (ro)
  /pg from pg of Volume default/data (rw,path=\"a/b\")
  /anon from the container's own (rw)
  /late from late (rw)
Volumes From:
  DataContainer foo (ro)
  Container db
Volumes:
";
    assert!(got.contains(want), "{got}");
}

#[test]
fn volumes_are_described_with_their_users() {
    let object = json!({
        "kind": "Volume", "metadata": {"name": "data", "namespace": "default", "uid": "u", "generation": 1},
        "spec": {"driver": "local", "capacity": "1Gi", "owner": {"uid": 999}, "mode": 448, "reclaimPolicy": "Retain",
                 "nodeName": "n1"},
        "status": {"observedGeneration": 1, "phase": "Ready", "path": "/d", "capacityEnforced": true,
                   "users": ["Container default/web", "DataContainer default/d"],
                   "conditions": [{"type": "Ready", "status": "True", "reason": "Provisioned"}]},
    });
    let want = "\
Status:          Ready
Driver:          local
Capacity:        1Gi (enforced)
Owner:           999:-
Mode:            0700
Reclaim Policy:  Retain
Path:            /d
Used By:         Container default/web
                 DataContainer default/d
Conditions:
  Type    Status   Since   Reason        Message
  Ready   True             Provisioned
Events:  <none>
";
    assert_eq!(after(&described(&object), "Status:"), want);
    let plain = json!({"kind": "Volume", "metadata": {"name": "a"},
        "spec": {"driver": "hostPath", "hostPath": {"path": "/srv", "type": "Directory"}, "reclaimPolicy": "Retain"}});
    let want = "\
Status:          Pending
Driver:          hostPath
Host Path:       /srv
Host Path Type:  Directory
Capacity:        <none> (no limit is enforced)
Reclaim Policy:  Retain
Used By:         <none>
Events:  <none>
";
    assert_eq!(after(&described(&plain), "Status:"), want);
}

#[test]
fn data_containers_are_described_with_their_volumes() {
    let object = json!({
        "kind": "DataContainer", "metadata": {"name": "d", "namespace": "default", "generation": 1},
        "spec": {"image": "pg", "reclaimPolicy": "Delete", "volumes": [
            {"mountPath": "/foo", "capacity": "1Gi", "readOnly": true}, {"mountPath": "/bar", "volume": "b"}]},
        "status": {"observedGeneration": 1, "phase": "Ready", "image": "pg@sha256:1",
            "conditions": [{"type": "Ready", "status": "False", "reason": "DependencyMissing", "message": "no Volume b"}],
            "volumes": [{"mountPath": "/foo", "path": "/v/1", "filledFrom": "sha256:1"}]},
    });
    let want = "\
Status:          DependencyMissing
Image:           pg
Image ID:        pg@sha256:1
Reclaim Policy:  Delete
Used By:         <none>
Volumes:
  /foo:
    From:         its own data
    Capacity:     1Gi
    Read Only:    true
    Filled From:  sha256:1
    Path:         /v/1
  /bar:
    From:  Volume b
Conditions:
  Type    Status   Since   Reason              Message
  Ready   False            DependencyMissing   no Volume b
Events:  <none>
";
    assert_eq!(after(&described(&object), "Status:"), want);
}

#[test]
fn values_are_described_as_kubectl_does() {
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "default"},
        "data": {"a": "one\ntwo\n", "b": "\u{1b}[31m"}, "binaryData": {"bin": "AAEC"}});
    let want = "
Data
====
a:
----
one
two

b:
----
\u{fffd}[31m


BinaryData
====
bin:  3 bytes

Events:  <none>
";
    let got = described(&map);
    assert_eq!(after(&got, "\nData\n"), want);
    assert!(!got.contains("Generation"), "{got}");
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "type": "Opaque", "immutable": true,
        "data": {"password": "aHVudGVyMg==", "user": ""}});
    let want = "Immutable:    true\n\nType:  Opaque\n\nData\n====\npassword:  7 bytes\nuser:      0 bytes\n\nEvents:  <none>\n";
    let got = described(&secret);
    assert_eq!(after(&got, "Immutable"), want);
    assert!(!got.contains("hunter2") && !got.contains("aHVudGVyMg"), "{got}");
    let mut redacted = secret;
    redacted["metadata"]["annotations"] = json!({"stower.dev/redacted": "true"});
    redacted["data"] = json!({"password": ""});
    assert!(described(&redacted).contains("password:  <only root may see it>\n"), "{}", described(&redacted));
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
