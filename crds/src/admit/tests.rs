//! Admission: each rule with the message it gives, the corpus of invalid manifests, and arbitrary input.

use std::{collections::BTreeSet, fs, path::Path as File};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{Document, Limits, PullPolicy, RestartPolicy, Signal, read_documents};

/// What admission says about a Container whose spec has these fields beside an image.
fn verdict(fields: &Value) -> Vec<String> {
    texts(admit(container(fields), &AdmitContext::default()))
}

fn texts(verdict: Result<Object, Vec<FieldError>>) -> Vec<String> {
    verdict.err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

fn container(fields: &Value) -> Value {
    let mut spec = json!({ "image": "docker.io/library/busybox:1.36" });
    for (name, value) in fields.as_object().expect("a map") {
        spec[name] = value.clone();
    }
    json!({ "apiVersion": API_VERSION, "kind": "Container", "metadata": { "name": "web" }, "spec": spec })
}

fn accept(fields: &Value) -> Object {
    admit(container(fields), &AdmitContext::default()).unwrap_or_else(|errors| panic!("{errors:?}"))
}

fn spec(fields: &Value) -> crate::ContainerSpec {
    let Object::Container(container) = accept(fields) else { panic!("a Container") };
    container.spec
}

#[test]
fn rules_compile() {
    for kind in Kind::ALL {
        assert_eq!(rules::broken(*kind), Vec::<String>::new());
    }
}

#[test]
fn rules_give_their_messages() {
    let probe = |handler: Value| json!({ "livenessProbe": handler });
    let cases = [
        (
            json!({ "volumeMounts": [{ "name": "a", "mountPath": "/a" }] }),
            "spec: every one of volumeMounts must name one of volumes",
        ),
        (json!({ "restart": { "maxRetries": 3 } }), "spec: restart.maxRetries needs restartPolicy OnFailure"),
        (
            json!({ "hostUsers": false, "hostPID": true }),
            "spec: hostUsers must not be false with hostNetwork, hostPID or hostIPC",
        ),
        (
            json!({ "volumes": [{ "name": "a", "emptyDir": {} }],
                "volumeMounts": [{ "name": "a", "mountPath": "/a", "mountPropagation": "Bidirectional" }] }),
            "spec: mountPropagation Bidirectional needs securityContext.privileged",
        ),
        (
            json!({ "env": [{ "name": "A", "value": "x", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }] }),
            "spec.env[0]: value and valueFrom must not both be set",
        ),
        (
            json!({ "env": [{ "name": "A", "valueFrom": {} }] }),
            "spec.env[0].valueFrom: exactly one of fieldRef, configMapKeyRef and secretKeyRef must be set",
        ),
        (
            json!({ "envFrom": [{ "prefix": "A" }] }),
            "spec.envFrom[0]: exactly one of configMapRef and secretRef must be set",
        ),
        (
            probe(json!({})),
            "spec.livenessProbe: exactly one of exec, httpGet, tcpSocket and grpc must be set",
        ),
        (
            json!({ "lifecycle": { "preStop": {} } }),
            "spec.lifecycle.preStop: exactly one of exec, httpGet and sleep must be set",
        ),
        (
            json!({ "resources": { "limits": { "memory": "1Gi" }, "requests": { "memory": "2Gi" } } }),
            "spec.resources: the request of memory must not be above its limit",
        ),
        (
            json!({ "resources": { "limits": { "cpu": 1 }, "requests": { "cpu": "1001m" } } }),
            "spec.resources: the request of cpu must not be above its limit",
        ),
        (
            json!({ "resources": { "limits": { "ephemeral-storage": "1Gi" }, "requests": { "ephemeral-storage": "1025Mi" } } }),
            "spec.resources: the request of ephemeral-storage must not be above its limit",
        ),
        (
            json!({ "resources": { "limits": { "ephemeral-storage": 0 } } }),
            "spec.resources: the limit of ephemeral-storage must be above 0",
        ),
        (
            json!({ "resources": { "requests": { "pids": 5 } } }),
            "spec.resources: pids has a limit only, no request",
        ),
        (
            json!({ "rlimits": [{ "name": "nofile", "soft": -1, "hard": 3 }] }),
            "spec.rlimits[0]: soft must not be above hard",
        ),
        (
            json!({ "restart": { "backoff": { "initial": "61s" } } }),
            "spec.restart.backoff: initial must not be longer than max",
        ),
        (
            json!({ "restart": { "rules": [{ "action": "Stop" }] } }),
            "spec.restart.rules[0]: one of exitCodes, signals and oomKilled must be set",
        ),
        (
            json!({ "securityContext": { "privileged": true, "allowPrivilegeEscalation": false } }),
            "spec.securityContext: allowPrivilegeEscalation must not be false with privileged",
        ),
        (
            json!({ "securityContext": { "seccompProfile": { "type": "Localhost" } } }),
            "spec.securityContext.seccompProfile: localhostProfile must be set with type Localhost, and only then",
        ),
        (
            json!({ "securityContext": { "appArmorProfile": { "type": "Unconfined", "localhostProfile": "x" } } }),
            "spec.securityContext.appArmorProfile: localhostProfile must be set with type Localhost, and only then",
        ),
        (
            json!({ "volumes": [{ "name": "a", "emptyDir": {}, "hostPath": { "path": "/a" } }] }),
            "spec.volumes[0]: exactly one of hostPath, emptyDir, volume, configMap and secret must be set",
        ),
        (
            json!({ "volumes": [{ "name": "a", "hostPath": { "path": "/a/../b" } }] }),
            "spec.volumes[0].hostPath: path must not contain '..'",
        ),
        (
            json!({ "volumes": [{ "name": "a", "emptyDir": {} }], "volumeMounts": [{ "name": "a", "mountPath": "/a/.." }] }),
            "spec.volumeMounts[0]: mountPath must not contain '..'",
        ),
        (
            json!({ "volumes": [{ "name": "a", "emptyDir": {} }], "volumeMounts": [{ "name": "a", "mountPath": "/./" }] }),
            "spec.volumeMounts[0]: mountPath must be a path other than '/'",
        ),
        (
            json!({ "env": [{ "name": "A", "valueFrom": { "fieldRef": { "fieldPath": "metadata.labels['a'" } } }] }),
            "spec.env[0].valueFrom.fieldRef: fieldPath must be metadata.name, metadata.namespace, metadata.uid, \
             metadata.labels['KEY'], metadata.annotations['KEY'] or spec.nodeName",
        ),
        (
            json!({ "env": [{ "name": "A", "valueFrom": {
                "configMapKeyRef": { "name": "c", "key": "k" }, "secretKeyRef": { "name": "s", "key": "k" } } }] }),
            "spec.env[0].valueFrom: exactly one of fieldRef, configMapKeyRef and secretKeyRef must be set",
        ),
        (
            json!({ "volumes": [{ "name": "a", "emptyDir": {} }],
                "volumeMounts": [{ "name": "a", "mountPath": "/a", "subPath": "/b" }] }),
            "spec.volumeMounts[0]: subPath must be relative and must not contain '..'",
        ),
        (
            json!({ "volumes": [{ "name": "a", "configMap": { "name": "a", "items": [{ "key": "k", "path": "../x" }] } }] }),
            "spec.volumes[0].configMap.items[0]: path must be relative and must not contain '..'",
        ),
    ];
    for (fields, message) in cases {
        assert_eq!(verdict(&fields), [message], "{fields}");
    }
}

mod kinds;

/// As an API server does it: see `a_field_that_is_null_says_nothing` of the cluster's tests for the same from a real one.
#[test]
fn a_field_that_is_null_says_nothing() {
    let null = json!({ "args": null, "restartPolicy": null, "restart": { "backoff": { "max": null } } });
    assert_eq!(accept(&null), accept(&json!({ "restart": { "backoff": {} } })));
    assert_eq!(verdict(&json!({ "image": null })), ["spec.image: is required"]);
    assert_eq!(
        verdict(&json!({ "args": [null] })),
        ["spec.args[0]: must be a string, not null (leave the field out)"]
    );
    assert_eq!(verdict(&json!({ "argz": null })), ["spec.argz: unknown field, did you mean \"args\"?"]);
}

#[test]
fn a_whole_number_is_an_integer_however_it_is_written() {
    let one = |number: Value| json!({ "terminationGracePeriodSeconds": number });
    assert_eq!(accept(&one(json!(3e1))), accept(&one(json!(30))));
    assert_eq!(
        verdict(&one(json!(0.5))),
        ["spec.terminationGracePeriodSeconds: must be an integer, not the number 0.5"]
    );
    assert_eq!(verdict(&one(json!(1e19))).len(), 1);
}

/// What is of the right type but wrong otherwise is told together with the rules that do not hold; else rules are not asked.
#[test]
fn rules_are_asked_beside_errors_of_values() {
    let both = json!({ "restart": { "maxRetries": -1 } });
    assert_eq!(
        verdict(&both),
        [
            "spec.restart.maxRetries: must be 0 or more, not -1",
            "spec: restart.maxRetries needs restartPolicy OnFailure",
        ]
    );
    let blocked = json!({ "restart": { "maxRetries": 1 }, "args": 5 });
    assert_eq!(verdict(&blocked), ["spec.args: must be a list, not the number 5"]);
}

/// No rule is asked about amounts that it would have to multiply beyond 128 bits.
#[test]
fn vast_amounts_are_compared_with_nothing() {
    for vast in ["1e99", "1e999", "99999999999999999999999999999999", "-99999999999999999999E"] {
        let asked = json!({ "resources": { "limits": { "memory": vast }, "requests": { "memory": "1n" } } });
        let said = verdict(&asked);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with("spec.resources.limits.memory: "), "{said:?}");
    }
    assert_eq!(verdict(&json!({ "restart": { "backoff": { "initial": "1µs" } } })), Vec::<String>::new());
    // Less than the smallest amount is the smallest amount, as in Kubernetes.
    let tiny = json!({ "resources": { "limits": { "memory": "1E-99" }, "requests": { "memory": "1n" } } });
    assert_eq!(verdict(&tiny), Vec::<String>::new());
}

#[test]
fn the_second_of_several_equal_keys_tells_of_all() {
    let env = json!({ "env": [{ "name": "A" }, { "name": "A" }, { "name": "A" }, { "name": "B" }] });
    assert_eq!(verdict(&env), ["spec.env[1]: duplicate of item 0: name \"A\" is there twice"]);
}

#[test]
fn node_name_is_set_once() {
    let context = |old| AdmitContext { old, ..AdmitContext::default() };
    let (none, a) = (accept(&json!({})), accept(&json!({ "nodeName": "a" })));
    let message = ["spec: nodeName is set once and never changed"];
    assert_eq!(texts(admit(container(&json!({ "nodeName": "b" })), &context(Some(&a)))), message);
    assert_eq!(texts(admit(container(&json!({})), &context(Some(&a)))), message);
    assert!(admit(container(&json!({ "nodeName": "a", "tty": false })), &context(Some(&a))).is_ok());
    assert!(admit(container(&json!({ "nodeName": "a" })), &context(Some(&none))).is_ok());
}

#[test]
fn defaults_are_those_of_the_schema_and_of_serde_alike() {
    let Object::Container(admitted) = accept(&json!({})) else { panic!("a Container") };
    assert_eq!(admitted.spec, crate::ContainerSpec::new("docker.io/library/busybox:1.36"));
    let spec = admitted.spec;
    assert_eq!(spec.restart_policy, RestartPolicy::Always);
    assert_eq!(spec.termination_grace_period_seconds, 30);
    assert_eq!(spec.restart.backoff.initial, "100ms".parse().unwrap());
    assert_eq!(spec.restart.backoff.max, "60s".parse().unwrap());
    assert_eq!((spec.restart.backoff.factor, spec.restart.backoff.jitter), (2, 10));
    assert!(spec.host_users && !spec.host_network && !spec.tty);
    assert_eq!(admitted.metadata.namespace.as_deref(), Some("default"));
    // A part that is set does not lose the defaults of the others.
    let partly = accept(&json!({ "restart": { "backoff": { "max": "5m" } } }));
    assert_eq!(partly.to_value()["spec"]["restart"]["backoff"]["initial"], "100ms");
    // A default that is written out changes nothing, and so makes no generation.
    let written =
        accept(&json!({ "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "args": [] }));
    assert!(!spec_changed(&written, &accept(&json!({}))));
    assert!(spec_changed(&accept(&json!({ "args": ["x"] })), &accept(&json!({}))));
}

#[test]
fn accessors_answer_in_units() {
    let spec = spec(&json!({
        "resources": { "limits": { "memory": "64Mi", "cpu": "1500m", "pids": 100 }, "requests": { "cpu": "0.1" } },
        "stopSignal": "QUIT",
        "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "add": ["NET_ADMIN"] } },
    }));
    assert_eq!((spec.memory_limit(), spec.memory_request()), (Some(64 << 20), Some(64 << 20)));
    assert_eq!((spec.cpu_limit_millis(), spec.cpu_request_millis()), (Some(1500), Some(100)));
    assert_eq!(spec.pids_limit(), Some(100));
    assert_eq!(spec.stop_signal_or(None).to_string(), "SIGQUIT");
    assert_eq!(crate::ContainerSpec::new("a").stop_signal_or(None), Signal::TERM);
    assert!(spec.no_new_privs());
    for (image, policy) in [
        ("redis", PullPolicy::Always),
        ("localhost:5000/redis", PullPolicy::Always),
        ("localhost:5000/redis:latest", PullPolicy::Always),
        ("redis:7", PullPolicy::IfNotPresent),
        ("redis@sha256:00", PullPolicy::IfNotPresent),
    ] {
        assert_eq!(crate::ContainerSpec::new(image).pull_policy(), policy, "{image}");
    }
}

#[test]
fn names_and_labels_are_checked() {
    let with = |metadata: Value| {
        let mut value = container(&json!({}));
        value["metadata"] = metadata;
        texts(admit(value, &AdmitContext::default()))
    };
    assert_eq!(with(json!({})), ["metadata.name: is required"]);
    assert!(
        with(json!({ "name": "Web" }))[0].starts_with("metadata.name: a lowercase RFC 1123 subdomain must")
    );
    assert!(
        with(json!({ "name": "w", "namespace": "a.b" }))[0]
            .starts_with("metadata.namespace: a lowercase RFC 1123 label")
    );
    assert!(
        with(json!({ "name": "w", "labels": { "a": "-" } }))[0]
            .starts_with("metadata.labels.a: must be at most 63")
    );
    assert!(with(json!({ "name": "w", "labels": { "a/b/c": "" } }))[0].contains("must be a key such as"));
    assert_eq!(
        with(json!({ "name": "w", "label": {} })),
        ["metadata.label: unknown field, did you mean \"labels\"?"]
    );
    assert!(
        with(json!({ "name": "w", "labels": { "example.com/a": "" }, "creationTimestamp": null })).is_empty()
    );
    let namespace = Namespace::new("other").unwrap();
    let context = AdmitContext { default_namespace: Some(&namespace), old: None };
    let key = admit(container(&json!({})), &context).unwrap().key();
    assert_eq!(key.to_string(), "Container other/web");
}

#[test]
fn kinds_are_refused_by_name() {
    let kind = |api: &str, kind: &str| {
        texts(admit(
            json!({ "apiVersion": api, "kind": kind, "metadata": { "name": "a" } }),
            &AdmitContext::default(),
        ))
    };
    assert_eq!(kind(API_VERSION, "ContainerSet"), ["kind ContainerSet: not supported by this version"]);
    assert_eq!(kind(API_VERSION, "NodeAgent"), ["kind NodeAgent: not supported by this version"]);
    let there =
        "there are Container, DataContainer, Volume in stower.dev/v1alpha1, and ConfigMap, Secret in v1";
    for (api, name) in
        [("v1", "Pod"), ("stower.dev/v1", "Container"), ("v1", "Volume"), (API_VERSION, "Secret")]
    {
        assert_eq!(kind(api, name), [format!("no kind {name:?} in version {api:?}: {there}")]);
    }
    assert_eq!(texts(admit(json!({}), &AdmitContext::default())), ["apiVersion: is required"]);
    assert_eq!(
        texts(admit(json!([]), &AdmitContext::default())),
        ["must be a map with apiVersion, kind, metadata and spec"]
    );
}

#[test]
fn every_unsupported_path_is_a_field() {
    for (kind, path) in Kind::ALL.iter().flat_map(|kind| support::paths(*kind).map(move |path| (*kind, path)))
    {
        let mut node = crd::schema(kind);
        for part in path.split('.') {
            let (name, each) = part.strip_suffix("[]").map_or((part, false), |name| (name, true));
            node = &node["properties"][name];
            if each {
                node = &node["items"];
            }
            assert!(node.is_object(), "{path} has no {part}");
        }
    }
}

#[test]
fn errors_are_few() {
    let many: serde_json::Map<String, Value> = (0..1000).map(|n| (format!("zz{n}zz"), Value::Null)).collect();
    assert_eq!(verdict(&Value::Object(many)).len(), schema::MAX_ERRORS);
}

#[test]
fn an_accepted_object_is_read_again() {
    let object = accept(&json!({ "args": ["x"], "resources": { "limits": { "memory": "1Gi" } } }));
    assert_eq!(read_accepted(object.to_value()), Ok(object.clone()));
    assert_eq!(admit(object.to_value(), &AdmitContext::default()), Ok(object));
    assert!(read_accepted(json!({ "apiVersion": API_VERSION, "kind": "Container", "metadata": {}, "spec": { "image": "a" } })).is_err());
}

/// What `stower validate` would print for a file, without the file's name.
fn file_verdict(text: &[u8]) -> Vec<String> {
    let documents: Vec<Document> = match read_documents(text, &Limits::default()) {
        Ok(documents) => documents,
        Err(error) => return vec![error.to_string()],
    };
    let mut all = Vec::new();
    for document in documents {
        if let Err(mut errors) = admit(document.value.clone(), &AdmitContext::default()) {
            document.locate_all(&mut errors);
            all.extend(errors.iter().map(ToString::to_string));
        }
    }
    all
}

/// Every file of `manifests/invalid` begins with comments `# error: …`, which are exactly its errors.
#[test]
fn invalid_manifests_give_their_errors() {
    let directory = File::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/invalid");
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(directory).expect("the corpus is there") {
        let path = entry.expect("readable").path();
        let text = fs::read_to_string(&path).expect("readable");
        let expected: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("# error: ")).collect();
        assert!(!expected.is_empty(), "{} says no error", path.display());
        assert_eq!(file_verdict(text.as_bytes()), expected, "{}", path.display());
        names.insert(path);
    }
    assert!(names.len() >= 20, "the corpus has {} files only", names.len());
}

fn any_json() -> impl Strategy<Value = Value> {
    let known = prop::sample::select(vec![
        "image",
        "env",
        "name",
        "value",
        "volumes",
        "hostPath",
        "path",
        "restart",
        "backoff",
        "initial",
        "max",
        "limits",
        "memory",
        "resources",
        "requests",
        "ports",
        "containerPort",
        "volumeMounts",
        "mountPath",
        "metadata",
        "spec",
        "securityContext",
        "capabilities",
        "nodeName",
        "labels",
        "rlimits",
        "soft",
        "hard",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        "[0-9]{1,30}[a-zA-Z]{0,3}".prop_map(Value::from),
        Just(json!("/a/..")),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        let key = prop_oneof![4 => known.clone().prop_map(str::to_owned), 1 => ".{0,6}"];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(key, inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn admit_never_panics(value in any_json(), name in prop::sample::select(vec![
        "env", "volumes", "restart", "resources", "ports", "volumeMounts", "rlimits", "securityContext", "nodeName", "stopSignal",
    ])) {
        let _ = admit(value.clone(), &AdmitContext::default());
        let mut whole = container(&json!({}));
        whole["metadata"]["labels"] = value.clone();
        let _ = admit(whole, &AdmitContext::default());
        let old = accept(&json!({ "nodeName": "a" }));
        let context = AdmitContext { default_namespace: None, old: Some(&old) };
        let mut inner = container(&json!({}));
        inner["spec"] = value.clone();
        let _ = admit(inner, &context);
        // What is accepted stays as it is when it is admitted again.
        if let Ok(object) = admit(container(&json!({ name: value })), &AdmitContext::default()) {
            prop_assert_eq!(admit(object.to_value(), &AdmitContext::default()), Ok(object));
        }
    }

    #[test]
    fn files_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[-a-z0-9:#&*!|>'\"{}\\[\\], \n\t]{0,200}") {
        file_verdict(&bytes);
        file_verdict(text.as_bytes());
    }
}
