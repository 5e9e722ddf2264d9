use std::sync::Arc;

use serde_json::{Value, json};
use stower_crds::{AdmitContext, Object, admit};

use super::*;
use crate::{
    desired::{Meta, SourceId},
    fixtures::{Stage, key_of},
};
use PodSecurityLevel::{Baseline, Privileged, Restricted};

/// A Container that every namespace allows.
fn good() -> Value {
    json!({
        "apiVersion": "stower.dev/v1alpha1", "kind": "Container", "metadata": {"name": "a"},
        "spec": {
            "image": "a",
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
                "runAsNonRoot": true,
                "runAsUser": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        },
    })
}

/// An object as the API server has it: also with what this version does not run.
fn object(value: Value) -> Object {
    let admitted = admit(value.clone(), &AdmitContext::default());
    match admitted {
        Ok(object) => object,
        Err(errors) if errors.iter().all(|error| error.message.contains("not supported")) => {
            let mut value = value;
            value["metadata"]["namespace"] = json!("default");
            stower_crds::read_accepted(value).expect("it is of its kind's shape")
        }
        Err(errors) => panic!("{errors:?}"),
    }
}

fn with(pointer: &str, value: Value) -> Object {
    let mut whole = good();
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer has a slash");
    whole.pointer_mut(parent).expect("its parent is there")[name] = value;
    object(whole)
}

fn fields(level: PodSecurityLevel, object: &Object) -> Vec<String> {
    pod_security(level, object).into_iter().map(|violation| violation.field).collect()
}

#[test]
fn the_least_is_allowed_unless_a_label_says_more() {
    for (label, level) in [
        (None, Restricted),
        (Some("restricted"), Restricted),
        (Some("baseline"), Baseline),
        (Some("privileged"), Privileged),
        (Some("Privileged"), Restricted),
        (Some(""), Restricted),
    ] {
        assert_eq!(PodSecurityLevel::of_label(label), level, "{label:?}");
    }
}

#[test]
fn what_restricted_allows_is_allowed_everywhere() {
    for level in [Restricted, Baseline, Privileged] {
        assert_eq!(fields(level, &object(good())), Vec::<String>::new());
    }
}

#[test]
fn each_way_to_the_host_is_forbidden_below_privileged() {
    let volume = |source: Value| json!([{"name": "v", "hostPath": source}]);
    for (pointer, value, field) in [
        ("/spec/hostNetwork", json!(true), "spec.hostNetwork"),
        ("/spec/hostPID", json!(true), "spec.hostPID"),
        ("/spec/hostIPC", json!(true), "spec.hostIPC"),
        ("/spec/volumes", volume(json!({"path": "/etc"})), "spec.volumes[v].hostPath"),
        ("/spec/devices", json!([{"hostPath": "/dev/kmsg"}]), "spec.devices"),
        ("/spec/ports", json!([{"containerPort": 1, "hostPort": 1}]), "spec.ports[].hostPort"),
        (
            "/spec/securityContext/capabilities",
            json!({"drop": ["ALL"], "add": ["NET_BIND_SERVICE", "SYS_ADMIN"]}),
            "spec.securityContext.capabilities.add",
        ),
        ("/spec/securityContext/procMount", json!("Unmasked"), "spec.securityContext.procMount"),
        (
            "/spec/securityContext/seccompProfile",
            json!({"type": "Unconfined"}),
            "spec.securityContext.seccompProfile.type",
        ),
        (
            "/spec/securityContext/appArmorProfile",
            json!({"type": "Unconfined"}),
            "spec.securityContext.appArmorProfile.type",
        ),
        (
            "/spec/securityContext/seLinuxOptions",
            json!({"type": "spc_t"}),
            "spec.securityContext.seLinuxOptions.type",
        ),
        (
            "/spec/securityContext/seLinuxOptions",
            json!({"user": "system_u"}),
            "spec.securityContext.seLinuxOptions.user",
        ),
        (
            "/spec/livenessProbe",
            json!({"httpGet": {"port": 1, "host": "10.0.0.1"}}),
            "spec.livenessProbe.httpGet.host",
        ),
        (
            "/spec/startupProbe",
            json!({"tcpSocket": {"port": 1, "host": "10.0.0.1"}}),
            "spec.startupProbe.tcpSocket.host",
        ),
        (
            "/spec/lifecycle",
            json!({"preStop": {"httpGet": {"port": 1, "host": "10.0.0.1"}}}),
            "spec.lifecycle.preStop.httpGet.host",
        ),
    ] {
        let object = with(pointer, value);
        assert_eq!(fields(Baseline, &object), [field]);
        assert_eq!(fields(Restricted, &object), [field]);
        assert_eq!(fields(Privileged, &object), Vec::<String>::new());
    }
    let mut privileged = good();
    privileged["spec"]["securityContext"] = json!({"privileged": true});
    assert_eq!(fields(Baseline, &object(privileged)), ["spec.securityContext.privileged"]);
}

#[test]
fn what_baseline_allows_and_restricted_does_not() {
    for (pointer, value, field) in [
        (
            "/spec/securityContext/allowPrivilegeEscalation",
            Value::Null,
            "spec.securityContext.allowPrivilegeEscalation",
        ),
        ("/spec/securityContext/capabilities", json!({}), "spec.securityContext.capabilities.drop"),
        (
            "/spec/securityContext/capabilities",
            json!({"drop": ["ALL"], "add": ["CHOWN"]}),
            "spec.securityContext.capabilities.add",
        ),
        ("/spec/securityContext/runAsNonRoot", json!(false), "spec.securityContext.runAsNonRoot"),
        ("/spec/securityContext/runAsUser", json!(0), "spec.securityContext.runAsUser"),
    ] {
        let mut whole = good();
        *whole.pointer_mut(pointer).expect("it is there") = value;
        if whole.pointer(pointer) == Some(&Value::Null) {
            let (parent, name) = pointer.rsplit_once('/').expect("a pointer has a slash");
            whole.pointer_mut(parent).and_then(Value::as_object_mut).map(|map| map.remove(name));
        }
        let object = object(whole);
        assert_eq!(fields(Restricted, &object), [field]);
        assert_eq!(fields(Baseline, &object), Vec::<String>::new(), "{field}");
    }
}

#[test]
fn all_is_told_in_one_sentence_in_the_order_of_the_table() {
    let mut whole = good();
    whole["spec"]["hostPID"] = json!(true);
    whole["spec"]["volumes"] = json!([{"name": "v", "hostPath": {"path": "/etc"}}]);
    whole["spec"]["securityContext"] =
        json!({"capabilities": {"add": ["SYS_ADMIN", "CAP_KILL"]}, "runAsUser": 0});
    let object = object(whole);
    assert_eq!(
        violates(Restricted, &pod_security(Restricted, &object)),
        "violates PodSecurity \"restricted\": spec.hostPID must not be true; \
         spec.securityContext.capabilities.add must not have SYS_ADMIN; \
         spec.securityContext.capabilities.add must not have CAP_KILL; spec.volumes[v].hostPath must not be set; \
         spec.securityContext.allowPrivilegeEscalation must be false; \
         spec.securityContext.runAsNonRoot must be true; spec.securityContext.runAsUser must not be 0; \
         spec.securityContext.capabilities.drop must have ALL"
    );
    assert_eq!(
        violates(Baseline, &pod_security(Baseline, &object)),
        "violates PodSecurity \"baseline\": spec.hostPID must not be true; \
         spec.securityContext.capabilities.add must not have SYS_ADMIN; spec.volumes[v].hostPath must not be set"
    );
}

#[test]
fn a_volume_on_the_host_needs_privileged() {
    let volume = |spec: Value| {
        object(json!({
            "apiVersion": "stower.dev/v1alpha1", "kind": "Volume", "metadata": {"name": "a"}, "spec": spec,
        }))
    };
    let host = volume(json!({"driver": "hostPath", "hostPath": {"path": "/srv"}}));
    assert_eq!(fields(Restricted, &host), ["spec.driver"]);
    assert_eq!(fields(Baseline, &host), ["spec.driver"]);
    assert_eq!(fields(Privileged, &host), Vec::<String>::new());
    assert_eq!(fields(Restricted, &volume(json!({}))), Vec::<String>::new());
}

/// A stage of which the container was accepted at a level, as objects of an API server are.
fn accepted_at_level(stage: &mut Stage, level: Option<&str>) {
    let key = key_of("Container-web");
    let mut declared = stage.desired.get(&key).expect("it is declared").as_ref().clone();
    let annotations =
        level.map(|level| (LEVEL_ANNOTATION.to_owned(), level.to_owned())).into_iter().collect();
    declared.meta = Arc::new(Meta { annotations, ..Meta::default() });
    stage.desired.insert(Arc::new(declared));
}

#[test]
fn what_is_older_than_the_label_gives_nothing_of_the_host_away() {
    let mut stage = Stage::default();
    stage.desired.reads_singly(SourceId::new("directory"));
    stage.ready("Volume-root", json!({"driver": "hostPath", "hostPath": {"path": "/srv"}}));
    stage.ready("Volume-room", json!({}));
    stage.ready("DataContainer-data", json!({"volumes": [{"mountPath": "/data", "volume": "root"}]}));
    stage.put(
        "Container-early",
        json!({
            "volumes": [{"name": "etc", "hostPath": {"path": "/etc"}}, {"name": "room", "volume": {"name": "room"}}],
            "volumeMounts": [{"name": "etc", "mountPath": "/host"}, {"name": "room", "mountPath": "/room"}],
        }),
    );
    // It goes through containers that have nothing of the host by themselves.
    stage.put("Container-between", json!({"volumesFrom": [{"name": "early", "kind": "Container"}]}));
    stage.put(
        "Container-web",
        json!({
            "volumes": [{"name": "v", "volume": {"name": "root"}}],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            "volumesFrom": [{"name": "data"}, {"name": "between", "kind": "Container"}],
        }),
    );
    for free in [None, Some("privileged")] {
        accepted_at_level(&mut stage, free);
        assert_eq!(stage.mounts("Container-web").len(), 4, "{free:?}");
    }
    for level in ["baseline", "restricted", "generous"] {
        accepted_at_level(&mut stage, Some(level));
        let level = PodSecurityLevel::of_label(Some(level));
        assert_eq!(
            stage.mounts("Container-web"),
            [format!(
                "PodSecurity: violates PodSecurity \"{level}\": spec.volumes[v] must not be /srv of the host; \
                 spec.volumesFrom[data] must not bring /srv of the host to /data; \
                 spec.volumesFrom[between] must not bring /etc of the host to /host"
            )]
        );
    }
    // What is not of the host may be taken at every level.
    stage.put(
        "Container-early",
        json!({"volumes": [{"name": "r", "volume": {"name": "room"}}], "volumeMounts": [{"name": "r", "mountPath": "/r"}]}),
    );
    stage.put("Container-web", json!({"volumesFrom": [{"name": "between", "kind": "Container"}]}));
    accepted_at_level(&mut stage, Some("restricted"));
    assert_eq!(stage.mounts("Container-web").len(), 1);
    // Only a source that asks for levels has them.
    stage.put("Container-web", json!({"volumesFrom": [{"name": "data"}]}));
    accepted_at_level(&mut stage, Some("restricted"));
    stage.desired.reads_singly(SourceId::new("API server"));
    assert_eq!(stage.mounts("Container-web").len(), 1);
}
