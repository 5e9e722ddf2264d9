//! Volume, DataContainer, ConfigMap and Secret: their rules, and that no secret is ever told.

use super::*;

fn custom(kind: &str, spec: &Value) -> Value {
    json!({ "apiVersion": API_VERSION, "kind": kind, "metadata": { "name": "a" }, "spec": spec })
}

fn core(kind: &str, fields: &Value) -> Value {
    let mut value = json!({ "apiVersion": "v1", "kind": kind, "metadata": { "name": "a" } });
    for (name, field) in fields.as_object().expect("a map") {
        value[name] = field.clone();
    }
    value
}

fn said(value: Value) -> Vec<String> {
    texts(admit(value, &AdmitContext::default()))
}

/// What is said of a change.
fn change(old: &Value, new: &Value) -> Vec<String> {
    let old = ok(old.clone());
    texts(admit(new.clone(), &AdmitContext { old: Some(&old), ..AdmitContext::default() }))
}

fn ok(value: Value) -> Object {
    admit(value, &AdmitContext::default()).unwrap_or_else(|errors| panic!("{errors:?}"))
}

#[test]
fn volumes_give_their_messages() {
    let cases = [
        (json!({ "driver": "hostPath" }), "spec: hostPath must be set with driver hostPath, and only then"),
        (
            json!({ "hostPath": { "path": "/a" } }),
            "spec: hostPath must be set with driver hostPath, and only then",
        ),
        (
            json!({ "driver": "hostPath", "hostPath": { "path": "/a" }, "capacity": "1Gi" }),
            "spec: capacity, owner and mode cannot be set with driver hostPath",
        ),
        (
            json!({ "driver": "hostPath", "hostPath": { "path": "/a" }, "mode": 493 }),
            "spec: capacity, owner and mode cannot be set with driver hostPath",
        ),
        (
            json!({ "driver": "hostPath", "hostPath": { "path": "/a" }, "reclaimPolicy": "Delete" }),
            "spec: reclaimPolicy must be Retain with driver hostPath: somebody else looks after what is there",
        ),
        (
            json!({ "driver": "hostPath", "hostPath": { "path": "/a/../b" } }),
            "spec.hostPath: path must not contain '..'",
        ),
        (
            json!({ "driver": "hostPath", "hostPath": { "path": "a" } }),
            "spec.hostPath.path: must be an absolute path, not \"a\"",
        ),
        (json!({ "capacity": "0" }), "spec: capacity must be above 0"),
        (json!({ "capacity": 0 }), "spec: capacity must be above 0"),
        (json!({ "mode": 4096 }), "spec.mode: must be 4095 or less, not 4096"),
        (json!({ "owner": { "uid": -1 } }), "spec.owner.uid: must be 0 or more, not -1"),
        (
            json!({ "driver": "devicemapper" }),
            "spec.driver: \"devicemapper\" is not supported by this version",
        ),
        (
            json!({ "driver": "nfs" }),
            "spec.driver: unsupported value \"nfs\": must be one of \"local\", \"devicemapper\", \"tmpfs\", \"hostPath\"",
        ),
    ];
    for (spec, message) in cases {
        assert_eq!(said(custom("Volume", &spec)), [message], "{spec}");
    }
    let Object::Volume(volume) = ok(custom("Volume", &json!({}))) else { panic!("a Volume") };
    assert_eq!(volume.spec.driver, crate::VolumeDriver::Local);
    assert_eq!(volume.spec.reclaim_policy, crate::ReclaimPolicy::Retain);
    assert_eq!((volume.spec.capacity, volume.spec.mode, volume.spec.owner), (None, None, None));
}

#[test]
fn a_volume_changes_within_limits() {
    let volume = |spec: Value| custom("Volume", &spec);
    let local = volume(json!({ "capacity": "1Gi" }));
    let driver = "spec: driver cannot be changed: the data that is there is kept; delete the Volume, or declare another one";
    assert_eq!(change(&local, &volume(json!({ "driver": "tmpfs", "capacity": "1Gi" }))), [driver]);
    assert_eq!(
        change(&local, &volume(json!({ "capacity": "1023Mi" }))),
        ["spec: capacity can grow and not shrink"]
    );
    // A number and a text are compared as amounts.
    assert_eq!(change(&local, &volume(json!({ "capacity": 9 }))), ["spec: capacity can grow and not shrink"]);
    let added = "spec: capacity cannot be added to a Volume or taken from it; declare another one";
    assert_eq!(change(&local, &volume(json!({}))), [added]);
    assert_eq!(change(&volume(json!({})), &local), [added]);
    for same in ["1Gi", "1024Mi", "2Gi", "1.5Gi"] {
        assert!(change(&local, &volume(json!({ "capacity": same }))).is_empty(), "{same}");
    }
    let (a, b) = (volume(json!({ "nodeName": "a" })), volume(json!({ "nodeName": "b" })));
    assert_eq!(change(&a, &b), ["spec: nodeName is set once and never changed"]);
    assert!(change(&volume(json!({})), &a).is_empty());
    assert!(change(&a, &volume(json!({ "nodeName": "a", "reclaimPolicy": "Delete" }))).is_empty());
}

#[test]
fn data_containers_give_their_messages() {
    let at = |path: &str| json!({ "volumes": [{ "mountPath": path }] });
    let absolute = |path: &str| {
        format!(
            "spec.volumes[0].mountPath: must be an absolute path other than '/', without ':', not {path:?}"
        )
    };
    let plain = "spec.volumes[0]: mountPath must be written without '//', '/./' and a '/' at its end: the data is \
                 found by it";
    for path in ["data", "/", "", "/a:b", "//"] {
        let got = said(custom("DataContainer", &at(path)));
        let want = if path.is_empty() {
            "spec.volumes[0].mountPath: must not be empty".to_owned()
        } else {
            absolute(path)
        };
        let also = (path == "//").then(|| plain.to_owned());
        assert_eq!(got, [want].into_iter().chain(also).collect::<Vec<_>>(), "{path}");
    }
    for path in ["/a/", "//a", "/a//b", "/./a", "/a/.", "/."] {
        assert_eq!(said(custom("DataContainer", &at(path))), [plain], "{path}");
    }
    let cases = [
        (json!({}), "spec.volumes: is required"),
        (json!({ "volumes": [] }), "spec.volumes: too few: 0 items, at least 1 must be there"),
        (at("/a/../b"), "spec.volumes[0]: mountPath must not contain '..'"),
        (
            json!({ "volumes": [{ "mountPath": "/a" }, { "mountPath": "/a", "volume": "b" }] }),
            "spec.volumes[1]: duplicate of item 0: mountPath \"/a\" is there twice",
        ),
        (
            json!({ "volumes": [{ "mountPath": "/a", "volume": "b", "capacity": "1Gi" }] }),
            "spec.volumes[0]: capacity, owner and mode are those of the Volume that is named",
        ),
        (
            json!({ "volumes": [{ "mountPath": "/a", "capacity": "0" }] }),
            "spec.volumes[0]: capacity must be above 0",
        ),
        (
            json!({ "volumes": [{ "mountPath": "/a" }], "imagePullPolicy": "Always" }),
            "spec: imagePullPolicy needs image",
        ),
        (json!({ "volumes": [{ "mountPath": "/a" }], "image": "" }), "spec.image: must not be empty"),
    ];
    for (spec, message) in cases {
        assert_eq!(said(custom("DataContainer", &spec)), [message], "{spec}");
    }
    for path in ["/a", "/a/.b", "/a/b..", "/a.", "/...", "/a b"] {
        assert_eq!(said(custom("DataContainer", &at(path))), [""; 0], "{path}");
    }
}

#[test]
fn a_data_container_changes_within_limits() {
    let set = |volumes: Value| custom("DataContainer", &json!({ "volumes": volumes }));
    let old = set(json!([{ "mountPath": "/a", "capacity": "1Gi" }, { "mountPath": "/b" }]));
    let shrunk = set(json!([{ "mountPath": "/b" }, { "mountPath": "/a", "capacity": "1Mi" }]));
    assert_eq!(change(&old, &shrunk), ["spec: capacity can grow and not shrink"]);
    let added = "spec: capacity cannot be added to a volume or taken from it; name another path";
    assert_eq!(change(&old, &set(json!([{ "mountPath": "/a" }]))), [added]);
    let both =
        set(json!([{ "mountPath": "/a", "capacity": "1Gi" }, { "mountPath": "/b", "capacity": "1Gi" }]));
    assert_eq!(change(&old, &both), [added]);
    let grown =
        set(json!([{ "mountPath": "/a", "capacity": "2Gi" }, { "mountPath": "/c", "capacity": "1Gi" }]));
    assert_eq!(change(&old, &grown), [""; 0]);
    assert_eq!(change(&old, &set(json!([{ "mountPath": "/a", "volume": "named" }]))), [""; 0]);
}

#[test]
fn config_maps_and_secrets_are_as_the_server_has_them() {
    let key = "a key must be 1 to 253 letters, digits, '-', '_' or '.', other than '.', and must not start with '..'";
    let long = "k".repeat(254);
    for bad in ["", "a b", "a/b", ".", "..", "..a", "ä", &long] {
        for (kind, field) in
            [("ConfigMap", "data"), ("ConfigMap", "binaryData"), ("Secret", "data"), ("Secret", "stringData")]
        {
            assert_eq!(said(core(kind, &json!({ field: { bad: "" } }))), [format!("{field}.{bad}: {key}")]);
        }
    }
    for good in ["a", ".a", "a..b", "A_b-c.d", &"k".repeat(253)] {
        assert_eq!(said(core("ConfigMap", &json!({ "data": { good: "" } }))), [""; 0], "{good}");
    }
    assert_eq!(
        said(core("ConfigMap", &json!({ "data": { "a": "" }, "binaryData": { "a": "" } }))),
        ["binaryData.a: is in data as well"]
    );
    assert_eq!(
        said(core("ConfigMap", &json!({ "binaryData": { "k": "?" } }))),
        ["binaryData.k: must be base64 (RFC 4648)"]
    );
    assert_eq!(said(core("ConfigMap", &json!({ "spec": {} }))), ["spec: unknown field"]);
    assert_eq!(
        said(core("Secret", &json!({ "string_data": {} }))),
        ["string_data: unknown field, did you mean \"stringData\"?"]
    );
    assert_eq!(
        said(core("Secret", &json!({ "stringData": { "tls.crt": "x" }, "type": "kubernetes.io/tls" }))),
        ["data.tls.key: is required by type kubernetes.io/tls"]
    );
    assert_eq!(
        said(core("Secret", &json!({ "type": "kubernetes.io/basic-auth" }))),
        ["data: username or password is required by type kubernetes.io/basic-auth"]
    );
    assert_eq!(
        said(core(
            "Secret",
            &json!({ "type": "kubernetes.io/dockerconfigjson", "stringData": { ".dockerconfigjson": "{" } })
        )),
        ["data..dockerconfigjson: must be JSON"]
    );
}

/// What is bounded is what a file will hold, not its base64.
#[test]
fn a_mebibyte_fits_and_one_byte_more_does_not() {
    const MAX: usize = 1 << 20;
    let encoded = |length: usize| serde_json::to_value(k8s_openapi::ByteString(vec![0; length])).unwrap();
    let over =
        |length: usize| vec![format!("data: too long: {length} bytes in all, at most 1048576 are allowed")];
    let half = "x".repeat(MAX / 2);
    let string = |length: usize| json!({ "data": { "a": half, "b": "x".repeat(length - MAX / 2) } });
    assert_eq!(said(core("ConfigMap", &string(MAX))), [""; 0]);
    assert_eq!(said(core("ConfigMap", &string(MAX + 1))), over(MAX + 1));
    for (kind, field) in [("ConfigMap", "binaryData"), ("Secret", "data")] {
        assert_eq!(said(core(kind, &json!({ field: { "a": encoded(MAX) } }))), [""; 0]);
        assert_eq!(said(core(kind, &json!({ field: { "a": encoded(MAX + 1) } }))), over(MAX + 1));
    }
    let both = json!({ "stringData": { "a": half, "b": half }, "data": { "a": encoded(9) } });
    assert_eq!(said(core("Secret", &both)), [""; 0], "what stringData replaces does not count");
}

#[test]
fn string_data_is_folded_and_read_again() {
    let fields = json!({ "data": { "a": "b2xk\n", "b": "QQ==" }, "stringData": { "a": "new", "c": "" } });
    let object = ok(core("Secret", &fields));
    let Object::Secret(secret) = &object else { panic!("a Secret") };
    let data = crate::secret_data(secret);
    let want: Vec<(&str, &[u8])> = vec![("a", b"new"), ("b", b"A"), ("c", b"")];
    assert_eq!(data.iter().map(|(k, v)| (k.as_str(), v.as_slice())).collect::<Vec<_>>(), want);
    assert_eq!(secret.type_.as_deref(), Some("Opaque"));
    assert_eq!(object.to_value()["stringData"], Value::Null);
    assert_eq!(read_accepted(object.to_value()), Ok(object.clone()));
    assert_eq!(admit(object.to_value(), &AdmitContext::default()), Ok(object.clone()));
    // The same bytes in another spelling, and an empty map, are no change.
    let spelled = ok(core("Secret", &json!({ "data": { "a": "bm\nV3", "b": "QQ==", "c": "" } })));
    assert!(!spec_changed(&object, &spelled));
    assert!(spec_changed(&object, &ok(core("Secret", &json!({})))));
    let (none, empty) = (ok(core("ConfigMap", &json!({}))), ok(core("ConfigMap", &json!({ "data": {} }))));
    assert!(!spec_changed(&none, &empty));
    assert!(spec_changed(&none, &ok(core("ConfigMap", &json!({ "immutable": true })))));
    assert_eq!(read_accepted(none.to_value()), Ok(none));
}

#[test]
fn what_is_immutable_stays() {
    let message = |field: &str| vec![format!("{field}: field is immutable when `immutable` is set")];
    for (kind, field, one, two) in [
        ("ConfigMap", "data", "a", "b"),
        ("ConfigMap", "binaryData", "QQ==", "Qg=="),
        ("Secret", "data", "QQ==", "Qg=="),
    ] {
        let object = |value: &str| core(kind, &json!({ field: { "k": value }, "immutable": true }));
        assert_eq!(change(&object(one), &object(two)), message(field));
        assert_eq!(change(&object(one), &object(one)), [""; 0]);
        let open = core(kind, &json!({ field: { "k": one } }));
        assert_eq!(change(&object(one), &open), message("immutable"));
        assert_eq!(change(&open, &object(two)), [""; 0]);
    }
    // `stringData` is compared as what it becomes.
    let old = core("Secret", &json!({ "stringData": { "k": "A" }, "immutable": true }));
    assert_eq!(change(&old, &old), [""; 0]);
    assert_eq!(
        change(&old, &core("Secret", &json!({ "stringData": { "k": "B" }, "immutable": true }))),
        message("data")
    );
    let typed = core("Secret", &json!({ "type": "example.com/x" }));
    assert_eq!(change(&core("Secret", &json!({})), &typed), ["type: field is immutable"]);
}

/// Whatever is wrong with a Secret, no message holds a value of it.
#[test]
fn no_secret_is_told() {
    let word = "hunter2";
    for field in ["data", "stringData"] {
        for fields in [
            json!({ field: word }),
            json!({ field: [word] }),
            json!({ field: { "k": { "k": word } } }),
            json!({ field: { "k": [word] } }),
            json!({ field: { "k": format!("{word}\0") } }),
            json!({ field: { "k": format!("{word}!") , "..": 1 } }),
            json!({ field: { "k": word.repeat(1 << 19) } }),
        ] {
            let texts = said(core("Secret", &fields));
            let told =
                field == "stringData" && fields[field]["k"].is_string() && fields[field][".."].is_null();
            assert!(!texts.is_empty() || told, "{fields}");
            assert!(texts.iter().all(|text| !text.contains(word)), "{texts:?}");
        }
        let texts = said(core("Secret", &json!({ field: { "pin": 4711 } })));
        assert_eq!(texts, [format!("{field}.pin: must be a string, not a number: put it in quotes")]);
    }
    let damaged = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "a", "namespace": "b" }, "data": { "k": word } });
    assert!(!texts(read_accepted(damaged)).concat().contains(word));
    // Those of a ConfigMap are shown, which is what helps.
    assert!(said(core("ConfigMap", &json!({ "data": { "k": 4711 } })))[0].contains("4711"));
}
