use proptest::prelude::*;
use serde_json::json;
use stower_crds::{Kind, ObjectKey};

use crate::{fixtures::*, resolve::normal, *};

fn two_sources() -> Stage {
    let mut stage = Stage::default();
    stage.ready("DataContainer-foo", json!({"volumes": [{"mountPath": "/foo"}]}));
    stage.ready("DataContainer-bar", json!({"volumes": [{"mountPath": "/bar"}]}));
    stage.put("Container-web", json!({"volumesFrom": [{"name": "foo"}, {"name": "bar"}]}));
    stage
}

#[test]
fn a_set_is_taken_whole_or_every_missing_thing_is_named() {
    let mut stage = two_sources();
    let foo = "/foo DataContainer default/foo /foo from DataContainer default/foo";
    let bar = "/bar DataContainer default/bar /bar from DataContainer default/bar";
    assert_eq!(stage.mounts("Container-web"), [bar, foo]);
    assert_eq!(stage.uses("Container-web"), ["DataContainer-bar", "DataContainer-foo"]);
    stage.desired.remove(&key_of("DataContainer-bar"));
    stage.observed.stores.remove("DataContainer-bar");
    assert_eq!(stage.mounts("Container-web"), ["Missing: DataContainer default/bar is not there"]);
    // Once more is the same once more.
    assert_eq!(stage.mounts("Container-web"), ["Missing: DataContainer default/bar is not there"]);
    stage.put("DataContainer-bar", json!({"volumes": [{"mountPath": "/bar"}]}));
    assert_eq!(
        stage.mounts("Container-web"),
        ["Missing: DataContainer default/bar is not ready: it is being made"]
    );
    stage.made("DataContainer-bar", true);
    assert_eq!(stage.mounts("Container-web"), [bar, foo]);
}

#[test]
fn everything_that_is_missing_is_named_in_the_order_of_the_spec() {
    let mut stage = Stage::default();
    stage.put("ConfigMap-there", json!({"data": {"a": "b"}}));
    stage.put(
        "Container-web",
        json!({
            "volumes": [
                {"name": "v", "volume": {"name": "gone"}},
                {"name": "s", "secret": {"secretName": "key"}},
                {"name": "c", "configMap": {"name": "there", "items": [{"key": "z", "path": "z"}]}},
            ],
            "volumeMounts": [
                {"name": "v", "mountPath": "/v"}, {"name": "s", "mountPath": "/s"},
                {"name": "c", "mountPath": "/c"}, {"name": "none", "mountPath": "/n"},
            ],
            "volumesFrom": [{"name": "data"}, {"name": "other", "kind": "Container"}, {"name": "No name"}],
            "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "there", "key": "b"}}}],
            "envFrom": [{"secretRef": {"name": "key"}}, {"secretRef": {"name": "key2"}}],
        }),
    );
    assert_eq!(
        stage.mounts("Container-web"),
        [
            "Missing: Volume default/gone is not there",
            "Missing: Secret default/key is not there",
            "Missing: ConfigMap default/there has no key \"z\"",
            "Invalid: volume \"none\" is not declared in spec.volumes",
            "Missing: DataContainer default/data is not there",
            "Missing: Container default/other is not there",
            "Invalid: \"No name\" is no name of a DataContainer",
            "Missing: Secret default/key2 is not there",
            "Missing: ConfigMap default/there has no key \"b\"",
        ]
    );
}

#[test]
fn what_is_elsewhere_or_on_its_way_out_is_not_taken() {
    let mut stage = two_sources();
    let volumes = json!({"volumes": [{"mountPath": "/foo"}]});
    stage.put_from("DataContainer-foo", volumes, "api", false);
    stage.put_from("DataContainer-bar", json!({"volumes": [{"mountPath": "/bar"}]}), "directory", true);
    assert_eq!(
        stage.mounts("Container-web"),
        [
            "Elsewhere: DataContainer default/foo comes from the api and this object from the directory; declare \
             both in one of them",
            "Missing: DataContainer default/bar is being removed",
        ]
    );
}

#[test]
fn another_containers_volumes_are_taken_whether_it_runs_or_not() {
    let mut stage = Stage::default();
    stage.ready("Volume-v", json!({"driver": "local"}));
    stage.put(
        "Container-db",
        json!({
            "volumes": [{"name": "e", "emptyDir": {}}, {"name": "v", "volume": {"name": "v"}}],
            "volumeMounts": [
                {"name": "e", "mountPath": "/e"}, {"name": "v", "mountPath": "/v/", "readOnly": true},
                {"name": "v", "mountPath": "/v/deep", "subPath": "x"},
            ],
        }),
    );
    stage.seen("Container-db").image.volumes = vec!["/e".to_owned(), "anon".to_owned()].into();
    stage.put("Container-web", json!({"volumesFrom": [{"name": "db", "kind": "Container"}]}));
    let from = "from Container default/db";
    let all = [
        format!("/anon anonymous /anon of Container-db {from}"),
        format!("/e empty e of Container-db {from}"),
        format!("/v Volume default/v {from} ro"),
        format!("/v/deep Volume default/v {from}"),
    ];
    assert_eq!(stage.mounts("Container-web"), all);
    assert_eq!(stage.uses("Container-web"), ["Container-db", "Volume-v"]);
    stage.runs("Container-db", 1);
    assert_eq!(stage.mounts("Container-web"), all);
    stage.ends("Container-db", 1, 0);
    assert_eq!(stage.mounts("Container-web"), all);
    // What its image asks for is not known without the image.
    stage.seen("Container-db").image.state = ImageState::Absent;
    assert_eq!(
        stage.mounts("Container-web"),
        [
            "Missing: Container default/db is not ready: its image registry.example/web:1 is not on this machine"
        ]
    );
}

#[test]
fn what_is_mounted_explicitly_wins_and_two_sources_at_one_path_are_both_named() {
    let mut stage = two_sources();
    let both = json!({"volumes": [{"mountPath": "/foo"}, {"mountPath": "/bar"}]});
    stage.ready("DataContainer-bar", both);
    assert_eq!(
        stage.mounts("Container-web"),
        [
            "Invalid: volumesFrom: DataContainer foo and DataContainer bar both have a volume at /foo; leave one out, \
          or mount one of your own there"
        ]
    );
    stage.put(
        "Container-web",
        json!({
            "volumesFrom": [{"name": "foo"}, {"name": "bar"}],
            "volumes": [{"name": "e", "emptyDir": {}}],
            "volumeMounts": [{"name": "e", "mountPath": "//foo/./"}],
        }),
    );
    assert_eq!(
        stage.mounts("Container-web"),
        [
            "/bar DataContainer default/bar /bar from DataContainer default/bar",
            "/foo empty e of Container-web"
        ]
    );
    assert_eq!(stage.uses("Container-web"), ["DataContainer-bar"], "only what is mounted is used");
    stage.put(
        "Container-web",
        json!({
            "volumes": [{"name": "e", "emptyDir": {}}, {"name": "f", "emptyDir": {}}],
            "volumeMounts": [{"name": "e", "mountPath": "/a"}, {"name": "f", "mountPath": "/a/"}],
        }),
    );
    assert_eq!(
        stage.mounts("Container-web"),
        ["Invalid: volumeMounts \"e\" and volumeMounts \"f\" are both at /a"]
    );
}

#[test]
fn read_only_only_narrows() {
    for (volume, source, taken) in
        (0..8).map(|bits| (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0)).collect::<Vec<_>>()
    {
        let mut stage = Stage::default();
        stage.ready("DataContainer-d", json!({"volumes": [{"mountPath": "/d", "readOnly": volume}]}));
        stage.put("Container-mid", json!({"volumesFrom": [{"name": "d", "readOnly": source}]}));
        stage.put(
            "Container-web",
            json!({"volumesFrom": [{"name": "mid", "kind": "Container", "readOnly": taken}]}),
        );
        let resolved = stage.resolve("Container-web").unwrap();
        assert_eq!(resolved.mounts[0].read_only, volume || source || taken, "{volume} {source} {taken}");
        let mid = stage.resolve("Container-mid").unwrap();
        assert_eq!(mid.mounts[0].read_only, volume || source, "{volume} {source} {taken}");
    }
}

#[test]
fn who_takes_shows_no_more_to_the_host_than_it_may_itself() {
    let mut stage = Stage::default();
    let privileged = json!({"privileged": true});
    stage.put(
        "Container-db",
        json!({
            "securityContext": privileged,
            "volumes": [{"name": "h", "hostPath": {"path": "/srv"}}],
            "volumeMounts": [{"name": "h", "mountPath": "/h", "mountPropagation": "Bidirectional"}],
        }),
    );
    let from = json!([{"name": "db", "kind": "Container"}]);
    stage.put("Container-web", json!({"volumesFrom": from}));
    stage.put("Container-root", json!({"volumesFrom": from, "securityContext": privileged}));
    let propagation = |uid| stage.resolve(uid).unwrap().mounts[0].propagation;
    assert_eq!(propagation("Container-web"), stower_crds::MountPropagation::HostToContainer);
    assert_eq!(propagation("Container-root"), stower_crds::MountPropagation::Bidirectional);
}

#[test]
fn an_image_asks_for_volumes_below_the_root_and_for_nothing_else() {
    let mut stage = two_sources();
    let mut asks = |paths: &[&str]| {
        stage.seen("Container-web").image.volumes =
            paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>().into();
        stage.mounts("Container-web")
    };
    let covered = asks(&["/foo", "/bar//"]);
    assert_eq!(covered.len(), 2);
    assert_eq!(asks(&["/new", "new/"]).last().unwrap(), "/new anonymous /new of Container-web");
    assert_eq!(asks(&["/new", "new/"]).len(), 3);
    for hostile in ["/", "", ".", "/a/../b", "..", "/a\0b"] {
        assert_eq!(
            asks(&[hostile]),
            [format!("Invalid: image {IMAGE}: its VOLUME {hostile:?} is no path below /; use another image")]
        );
    }
}

#[test]
fn circles_are_named() {
    for length in 1..4 {
        let mut stage = Stage::default();
        for index in 0..length {
            let next = format!("c{}", (index + 1) % length);
            stage.put(
                &format!("Container-c{index}"),
                json!({"volumesFrom": [{"name": next, "kind": "Container"}]}),
            );
        }
        let names: Vec<String> = (0..=length).map(|index| format!("c{}", index % length)).collect();
        assert_eq!(
            stage.mounts("Container-c0"),
            [format!("Invalid: volumesFrom goes in a circle: Container {}", names.join(" → "))]
        );
    }
}

#[test]
fn a_chain_may_be_long_but_not_endless() {
    let mut stage = Stage::default();
    for index in 0..40 {
        let next = format!("c{}", index + 1);
        stage.put(
            &format!("Container-c{index}"),
            json!({"volumesFrom": [{"name": next, "kind": "Container"}]}),
        );
    }
    stage.ready("DataContainer-d", json!({"volumes": [{"mountPath": "/d"}]}));
    stage.put("Container-c40", json!({"volumesFrom": [{"name": "d"}]}));
    assert_eq!(stage.mounts("Container-c9"), ["/d DataContainer default/d /d from Container default/c10"]);
    assert_eq!(stage.mounts("Container-c8"), ["Invalid: volumesFrom goes through more than 32 containers"]);
}

/// Each container is looked at once, however many ways lead to it: with 2^24 ways this would not end otherwise.
#[test]
fn a_wide_diamond_is_walked_once() {
    let mut stage = Stage::default();
    for level in 0..24 {
        for side in ["a", "b"] {
            let from: Vec<_> = ["a", "b"]
                .map(|next| json!({"name": format!("{next}{}", level + 1), "kind": "Container"}))
                .into();
            stage.put(&format!("Container-{side}{level}"), json!({"volumesFrom": from}));
        }
    }
    stage.put("Container-a24", json!({}));
    stage.put("Container-b24", json!({}));
    assert_eq!(stage.mounts("Container-a0"), Vec::<String>::new());
    let key = key_of("Container-a0");
    let declared = stage.desired.get(&key).unwrap();
    let mut resolver = super::Resolver {
        desired: &stage.desired,
        observed: &stage.observed,
        top: declared,
        memo: std::collections::BTreeMap::new(),
        stack: Vec::new(),
        problems: Vec::new(),
        steps: 0,
    };
    resolver.mounts(declared);
    assert_eq!(resolver.steps, 1 + 2 * 24);
}

#[test]
fn outer_mounts_come_before_inner_ones() {
    let mut stage = Stage::default();
    stage.put(
        "Container-web",
        json!({
            "volumes": [{"name": "e", "emptyDir": {}}],
            "volumeMounts": [
                {"name": "e", "mountPath": "/a/b/c"}, {"name": "e", "mountPath": "/z"},
                {"name": "e", "mountPath": "/a-b"}, {"name": "e", "mountPath": "/a/b"},
                {"name": "e", "mountPath": "/a"},
            ],
        }),
    );
    let resolved = stage.resolve("Container-web").unwrap();
    let paths: Vec<&str> = resolved.mounts.iter().map(|mount| mount.path.as_str()).collect();
    assert_eq!(paths, ["/a", "/a-b", "/z", "/a/b", "/a/b/c"]);
}

#[test]
fn values_come_as_variables_and_are_never_shown() {
    let mut stage = Stage::default();
    stage.desired.set_node_name("node-1");
    stage.put("ConfigMap-c", json!({"data": {"a": "one", "b": "$(a)"}, "binaryData": {"z": "/wD/"}}));
    stage.put("Secret-s", json!({"data": {"p": "c2VjcmV0"}}));
    let from = |kind: &str, name: &str, key: &str, optional: bool| json!({kind: {"name": name, "key": key, "optional": optional}});
    stage.put(
        "Container-web",
        json!({
            "envFrom": [{"secretRef": {"name": "s"}, "prefix": "S_"}, {"configMapRef": {"name": "no", "optional": true}}],
            "env": [
                {"name": "A", "value": "$(B)"},
                {"name": "B", "valueFrom": from("configMapKeyRef", "c", "b", false)},
                {"name": "P", "valueFrom": from("secretKeyRef", "s", "p", false)},
                {"name": "N", "valueFrom": from("secretKeyRef", "s", "none", true)},
                {"name": "M", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "U", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
                {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['x']"}}},
                {"name": "H", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            ],
        }),
    );
    let resolved = stage.resolve("Container-web").unwrap();
    let shown: Vec<String> =
        resolved.env.iter().map(|it| format!("{}={} {}", it.name, it.value, it.expand)).collect();
    assert_eq!(
        shown,
        [
            "S_p=secret false",
            "A=$(B) true",
            "B=$(a) false",
            "P=secret false",
            "M=web false",
            "U=Container-web false",
            "L= false",
            "H=node-1 false",
        ]
    );
    assert!(!format!("{resolved:?}").contains("secret"));
    stage.put(
        "Container-web",
        json!({
            "envFrom": [{"configMapRef": {"name": "c"}}],
            "env": [
                {"name": "Z", "valueFrom": from("configMapKeyRef", "c", "z", true)},
                {"name": "F", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            ],
        }),
    );
    let text = "key \"z\" of ConfigMap c is not text, which a variable must be; mount it as a file";
    assert_eq!(
        stage.mounts("Container-web"),
        [
            format!("Invalid: {text}"),
            "Invalid: env F: fieldPath \"status.podIP\" is none that can be read here".to_owned(),
        ]
    );
}

#[test]
fn values_come_as_files_with_modes_each_at_a_path_of_its_own() {
    let mut stage = Stage::default();
    stage.put("Secret-s", json!({"data": {"p": "c2VjcmV0", "q": "/wD/"}}));
    let with = |items: serde_json::Value| {
        json!({
            "volumes": [
                {"name": "s", "secret": {"secretName": "s", "items": items, "defaultMode": 256}},
                {"name": "o", "secret": {"secretName": "none", "optional": true}},
            ],
            "volumeMounts": [{"name": "s", "mountPath": "/s"}, {"name": "o", "mountPath": "/o"}],
        })
    };
    stage.put(
        "Container-web",
        with(json!([{"key": "p", "path": "./a//b", "mode": 292}, {"key": "q", "path": "c"}])),
    );
    let files = "Files([a/b (444, 6 bytes), c (400, 3 bytes)]) ro";
    assert_eq!(stage.mounts("Container-web"), ["/o files o Files([]) ro", &format!("/s files s {files}")]);
    // Another container's have names of their own among those of who takes them.
    stage.put("Container-side", json!({"volumesFrom": [{"name": "web", "kind": "Container"}]}));
    let names: Vec<String> = stage.resolve("Container-side").unwrap().files().into_keys().collect();
    assert_eq!(names, ["Container-web@o", "Container-web@s"]);
    stage.put("Container-web", with(json!([])));
    assert_eq!(stage.mounts("Container-web")[1], "/s files s Files([p (400, 6 bytes), q (400, 3 bytes)]) ro");
    assert!(!format!("{:?}", stage.desired).contains("secret\""));
    let two = |path: &str| format!("Invalid: Secret s: two items are at path {path:?}");
    let none = |path: &str| format!("Invalid: Secret s: path {path:?} is no path of a file in the volume");
    for (first, second, said) in [
        ("a", "a", two("a")),
        ("a", "./a", two("a")),
        ("a", "a/b", two("a/b")),
        ("a/b", "a", two("a")),
        ("a", "../x", none("../x")),
        ("a", "x/../y", none("x/../y")),
        ("a", "..data", none("..data")),
        ("a", "", none("")),
    ] {
        stage.put("Container-web", with(json!([{"key": "p", "path": first}, {"key": "q", "path": second}])));
        assert_eq!(stage.mounts("Container-web"), [said]);
    }
}

#[test]
fn a_host_path_volume_is_its_path() {
    let mut stage = Stage::default();
    stage.ready("Volume-h", json!({"driver": "hostPath", "hostPath": {"path": "/srv"}}));
    stage.ready("DataContainer-d", json!({"volumes": [{"mountPath": "/d", "volume": "h"}]}));
    stage.put("Container-web", json!({"volumesFrom": [{"name": "d"}]}));
    assert_eq!(stage.mounts("Container-web"), ["/d host /srv from DataContainer default/d"]);
    assert_eq!(stage.uses("Container-web"), ["DataContainer-d", "Volume-h"]);
    stage.put("Volume-x", json!({"driver": "devicemapper"}));
    stage.put("DataContainer-d", json!({"volumes": [{"mountPath": "/d", "volume": "x"}]}));
    assert_eq!(
        stage.mounts("Container-web"),
        [
            "Missing: DataContainer default/d is not ready: Volume default/x cannot be made: driver devicemapper is not \
          supported; use local, tmpfs or hostPath"
        ]
    );
}

proptest! {
    #[test]
    fn a_normal_path_is_absolute_and_has_only_names(path in "[/.a\u{0}]{0,12}") {
        match normal(&path) {
            None => prop_assert!(
                !path.starts_with('/')
                    || path.contains('\0')
                    || path.split('/').any(|part| part == "..")
                    || path.split('/').all(|part| part.is_empty() || part == ".")
            ),
            Some(clean) => {
                prop_assert!(clean.starts_with('/') && path.starts_with('/'));
                prop_assert!(clean[1..].split('/').all(|part| !matches!(part, "" | "." | "..")));
                prop_assert_eq!(normal(&clean), Some(clean));
            }
        }
    }
}

#[test]
fn what_a_server_does_not_tell_of_is_waited_for_and_never_left_out() {
    let source = SourceId::new("directory");
    let mut stage = Stage::default();
    let from = |kind: &str, name: &str| json!({kind: {"name": name, "key": "a", "optional": true}});
    stage.put(
        "Container-web",
        json!({"env": [
            {"name": "S", "valueFrom": from("secretKeyRef", "s")},
            {"name": "C", "valueFrom": from("configMapKeyRef", "c")},
        ]}),
    );
    // All of the source is read at once: what is not there is not there, and may be left out.
    assert!(stage.resolve("Container-web").unwrap().env.is_empty());
    stage.desired.reads_singly(source.clone());
    let secret = ObjectKey { kind: Kind::Secret, ..key_of("ConfigMap-s") };
    let map = key_of("ConfigMap-c");
    stage.desired.set_unavailable(secret.clone(), "forbidden".to_owned());
    assert_eq!(
        stage.mounts("Container-web"),
        [
            "SecretUnavailable: Secret default/s cannot be read: forbidden",
            "ConfigMapUnavailable: ConfigMap default/c cannot be read: the API server has not been asked yet",
        ]
    );
    stage.desired.set_absent(secret.clone());
    stage.desired.set_absent(map);
    assert!(stage.resolve("Container-web").unwrap().env.is_empty());
    stage.desired.set_untold(&secret);
    assert_eq!(stage.desired.unavailable(&source, &secret), Some("the API server has not been asked yet"));
    assert_eq!(stage.desired.unavailable(&SourceId::new("local API"), &secret), None);
}
