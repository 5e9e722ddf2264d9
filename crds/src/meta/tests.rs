//! Names, keys, kinds.

use super::*;

#[test]
fn names_follow_rfc_1123() {
    let long = "a".repeat(253);
    for name in ["a", "0", "web-1", "a.b.c", "1.2", &long] {
        assert!(Name::new(name).is_ok(), "{name}");
    }
    for name in ["", "-a", "a-", "A", "a_b", "a..b", ".a", "a.", "a/b", "a.-b", "ä", &format!("{long}a")] {
        assert!(Name::new(name).is_err(), "{name}");
    }
    assert!(Namespace::new("a".repeat(63)).is_ok());
    for namespace in ["", "a.b", "-", &"a".repeat(64)] {
        assert!(Namespace::new(namespace).is_err(), "{namespace}");
    }
    assert_eq!(Namespace::default().as_str(), "default");
}

#[test]
fn a_uid_is_a_file_name() {
    assert!(Uid::new("0f3a9c1e-6b0e-4a43-9a55-1f7f6d1c2b3a").is_ok());
    for uid in ["", ".", "..", "../x", "a/b", "-a", "a b", "a\0", &"a".repeat(129)] {
        assert!(Uid::new(uid).is_err(), "{uid}");
    }
    assert!(serde_json::from_str::<Uid>("\"../x\"").is_err());
}

#[test]
fn keys_and_kinds() {
    let key = ObjectKey::container("default", "web").unwrap();
    assert_eq!(key.to_string(), "Container default/web");
    let json = serde_json::to_string(&key).unwrap();
    assert_eq!(json, r#"{"kind":"Container","namespace":"default","name":"web"}"#);
    assert_eq!(serde_json::from_str::<ObjectKey>(&json).unwrap(), key);
    for text in ["container", "containers", "sctr", "Container", "containers.stower.dev"] {
        assert_eq!(text.parse(), Ok(Kind::Container), "{text}");
    }
    for (text, kind) in [
        ("volumes.stower.dev", Kind::Volume),
        ("svol", Kind::Volume),
        ("DataContainer", Kind::DataContainer),
        ("sdc", Kind::DataContainer),
        ("cm", Kind::ConfigMap),
        ("configmaps", Kind::ConfigMap),
        ("secret", Kind::Secret),
    ] {
        assert_eq!(text.parse(), Ok(kind), "{text}");
    }
    assert!("secrets.stower.dev".parse::<Kind>().is_err(), "of another group");
    let refused = "no kind \"pod\"; there are Container, DataContainer, Volume, ConfigMap and Secret";
    assert_eq!("pod".parse::<Kind>().unwrap_err().to_string(), refused);
    assert_eq!(Generation::FIRST.next(), Generation(2));
}

#[test]
fn times_keep_their_fraction() {
    let time: Time = "2026-11-21T10:00:00.25Z".parse().unwrap();
    assert_eq!(serde_json::to_string(&time).unwrap(), "\"2026-11-21T10:00:00.25Z\"");
}
