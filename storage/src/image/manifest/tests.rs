use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::image::media::*;

fn descriptor(media_type: &str, size: u64) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::of(b"x"), "size": size })
}

fn good() -> Value {
    json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(OCI_CONFIG, 3), "layers": [descriptor(OCI_LAYER_GZIP, 5)] })
}

fn index() -> Value {
    json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [descriptor(OCI_MANIFEST, 3)] })
}

fn read(value: &Value, served_as: Option<&str>) -> Result<Document, ManifestError> {
    parse(value.to_string().as_bytes(), served_as, &Limits::default())
}

fn with(change: impl FnOnce(&mut Value)) -> Result<Document, ManifestError> {
    let mut value = good();
    change(&mut value);
    read(&value, None)
}

#[test]
fn good_ones_are_read() {
    assert!(
        matches!(read(&good(), Some(OCI_MANIFEST)), Ok(Document::Manifest(m)) if m.layers[0].1 == Encoding::Gzip)
    );
    assert!(matches!(read(&index(), Some(OCI_INDEX)), Ok(Document::Index(_))));
    // Neither says what it is: its content does.
    assert!(with(|m| drop(m.as_object_mut().unwrap().remove("mediaType"))).is_ok());
    assert!(read(&good(), Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8")).is_ok());
    assert!(with(|m| m["layers"][0]["mediaType"] = DOCKER_LAYER_ZSTD.into()).is_ok());
    assert!(with(|m| m["unknown"] = json!({"a": 1})).is_ok());
}

#[test]
fn ambiguous_ones_are_refused() {
    let ambiguous = |result| assert!(matches!(result, Err(ManifestError::Ambiguous(_))), "{result:?}");
    ambiguous(with(|m| m["manifests"] = json!([])));
    ambiguous(read(&good(), Some(OCI_INDEX)));
    ambiguous(read(&good(), Some(DOCKER_MANIFEST)));
    ambiguous(with(|m| m["mediaType"] = OCI_INDEX.into()));
    ambiguous(with(|m| m["layers"] = json!([descriptor(OCI_LAYER, 5), descriptor(OCI_LAYER_GZIP, 5)])));
    ambiguous(with(|m| m["layers"] = json!([descriptor(OCI_LAYER, 5), descriptor(OCI_LAYER, 6)])));
    // A repeated field would be read differently by others.
    let twice = good().to_string().replacen('{', "{\"layers\":[],", 1);
    assert!(matches!(parse(twice.as_bytes(), None, &Limits::default()), Err(ManifestError::Malformed(_))));
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    assert_eq!(
        read(&good(), Some("application/vnd.docker.distribution.manifest.v1+prettyjws")),
        Err(ManifestError::Schema1)
    );
    assert_eq!(read(&json!({"schemaVersion": 1, "fsLayers": []}), None), Err(ManifestError::Schema1));
    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    assert!(matches!(
        with(|m| m["layers"][0]["mediaType"] = foreign.into()),
        Err(ManifestError::ForeignLayer { .. })
    ));
    let nondistributable = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
    assert!(matches!(
        with(|m| m["layers"][0]["mediaType"] = nondistributable.into()),
        Err(ManifestError::ForeignLayer { .. })
    ));
    assert!(matches!(
        with(|m| m["layers"][0]["urls"] = json!(["http://169.254.169.254/"])),
        Err(ManifestError::ForeignLayer { .. })
    ));
    assert!(matches!(
        with(|m| m["layers"][0]["mediaType"] = "text/plain".into()),
        Err(ManifestError::LayerType { .. })
    ));
    assert!(matches!(
        with(|m| m["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json".into()),
        Err(ManifestError::NotAnImage(_))
    ));
    assert!(matches!(with(|m| m["mediaType"] = "text/html".into()), Err(ManifestError::MediaType(_))));
    assert!(matches!(
        read(&json!({"schemaVersion": 2, "mediaType": "a/b"}), None),
        Err(ManifestError::MediaType(_))
    ));
}

#[test]
fn limits_hold() {
    let limits = Limits {
        layers: 2,
        layer_bytes: 10,
        image_bytes: 15,
        config_bytes: 10,
        index_entries: 1,
        manifest_bytes: 4 << 20,
        ..Limits::default()
    };
    let read = |value: &Value| parse(value.to_string().as_bytes(), None, &limits);
    let layers = |sizes: &[u64]| {
        let mut value = good();
        let entries = sizes.iter().enumerate().map(
            |(at, size)| json!({ "mediaType": OCI_LAYER, "digest": Digest::of(at.to_string().as_bytes()), "size": size }),
        );
        value["layers"] = entries.collect();
        value
    };
    assert!(read(&layers(&[7, 8])).is_ok());
    for bad in [layers(&[1, 1, 1]), layers(&[11]), layers(&[8, 8])] {
        assert!(matches!(read(&bad), Err(ManifestError::Limit { .. })));
    }
    let mut config = good();
    config["config"]["size"] = 11.into();
    assert!(matches!(read(&config), Err(ManifestError::Limit { .. })));
    let mut two = index();
    two["manifests"] = json!([descriptor(OCI_MANIFEST, 1), descriptor(OCI_MANIFEST, 1)]);
    assert!(matches!(read(&two), Err(ManifestError::Limit { .. })));
    assert!(matches!(parse(&vec![b' '; (4 << 20) + 1], None, &limits), Err(ManifestError::TooLarge { .. })));
    assert!(matches!(with(|m| m["layers"][0]["size"] = (-1).into()), Err(ManifestError::Malformed(_))));
    assert!(matches!(
        with(|m| m["layers"][0]["digest"] = "sha256:../../x".into()),
        Err(ManifestError::Malformed(_))
    ));
    // Deep nesting ends in an error and not in the stack.
    let deep = format!("{{\"schemaVersion\":2,\"x\":{}", "[".repeat(1_000_000));
    assert!(matches!(parse(deep.as_bytes(), None, &Limits::default()), Err(ManifestError::Malformed(_))));
}

#[test]
fn an_entry_of_an_index_that_is_not_understood_hides_no_other() {
    let mut value = index();
    value["manifests"] = json!([{ "digest": "sha512:00" }, { "mediaType": OCI_MANIFEST, "digest": Digest::of(b"x"), "size": 1, "platform": {"os": "linux", "architecture": "arm", "variant": "v7"} }]);
    let Ok(Document::Index(entries)) = read(&value, None) else { panic!() };
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].platform.as_ref().unwrap().to_string(), "linux/arm/v7");
}

/// Any JSON, with the words of manifests in it.
fn any_json() -> impl Strategy<Value = Value> {
    let word = prop_oneof![
        Just(OCI_MANIFEST),
        Just(OCI_INDEX),
        Just(OCI_CONFIG),
        Just(OCI_LAYER_GZIP),
        Just("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        Just("")
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        Just(Value::from(2)),
        word.prop_map(Value::from)
    ];
    let key = prop_oneof![
        Just("schemaVersion"),
        Just("mediaType"),
        Just("config"),
        Just("layers"),
        Just("manifests"),
        Just("digest"),
        Just("size"),
        Just("urls"),
        Just("platform"),
        Just("annotations"),
        Just("fsLayers")
    ];
    leaf.prop_recursive(5, 64, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::hash_map(key.clone().prop_map(str::to_owned), inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn hostile_manifests_never_panic_nor_pass_limits(mut value in any_json(), sane in any::<bool>()) {
        if sane && let Some(object) = value.as_object_mut() {
            object.insert("schemaVersion".into(), 2.into());
        }
        if let Ok(Document::Manifest(manifest)) = parse(value.to_string().as_bytes(), None, &Limits::default()) {
            prop_assert!(manifest.config.size <= Limits::default().config_bytes);
            prop_assert!(value.get("manifests").is_none_or(Value::is_null));
        }
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes, None, &Limits::default());
        let _ = crate::image::parse_config(&bytes, 1);
    }

    #[test]
    fn hostile_configurations_never_panic(value in any_json(), layers in 0usize..3) {
        let whole = json!({ "os": "linux", "architecture": "amd64", "config": value, "rootfs": {"type": "layers", "diff_ids": value} });
        let _ = crate::image::parse_config(whole.to_string().as_bytes(), layers);
    }
}
