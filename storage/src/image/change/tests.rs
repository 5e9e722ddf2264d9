use super::*;

fn applied(from: Value, changes: &[&str]) -> Value {
    let Value::Object(mut config) = from else { panic!("an object") };
    let mut before = Applied::default();
    for change in changes {
        change.parse::<ConfigChange>().unwrap().apply(&mut config, &mut before).unwrap();
    }
    Value::Object(config)
}

#[test]
fn each_instruction() {
    for (from, change, expected) in [
        (json!({}), r#"CMD ["a", "b c"]"#, json!({ "Cmd": ["a", "b c"] })),
        (json!({}), "cmd a b", json!({ "Cmd": ["/bin/sh", "-c", "a b"] })),
        (json!({}), "CMD []", json!({ "Cmd": [] })),
        (json!({ "Cmd": ["old"] }), r#"ENTRYPOINT ["e"]"#, json!({ "Entrypoint": ["e"] })),
        (
            json!({ "Env": ["A=1", "B=2"] }),
            "ENV A=3 C='x y' D=$B-${B}",
            json!({ "Env": ["B=2", "A=3", "C=x y", "D=2-2"] }),
        ),
        (json!({ "Env": null }), "ENV A some words", json!({ "Env": ["A=some words"] })),
        (
            json!({ "Env": ["P=/bin"] }),
            r#"ENV P="$P:/x" Q='$P' R=\$P"#,
            json!({ "Env": ["P=/bin:/x", "Q=$P", "R=$P"] }),
        ),
        (
            json!({ "Labels": { "a": "1" } }),
            "LABEL b=2 a=\"3 4\"",
            json!({ "Labels": { "a": "3 4", "b": "2" } }),
        ),
        (
            json!({}),
            "EXPOSE 80 53/UDP 8000-8002",
            json!({ "ExposedPorts": { "80/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {}, "8002/tcp": {} } }),
        ),
        (json!({ "Volumes": null }), r#"VOLUME ["/a b"]"#, json!({ "Volumes": { "/a b": {} } })),
        (
            json!({ "Volumes": { "/x": {} } }),
            "VOLUME /a /b",
            json!({ "Volumes": { "/x": {}, "/a": {}, "/b": {} } }),
        ),
        (json!({ "User": "root" }), "USER 1000:100", json!({ "User": "1000:100" })),
        (json!({ "WorkingDir": "/srv" }), "WORKDIR ../www/./x", json!({ "WorkingDir": "/www/x" })),
        (json!({ "WorkingDir": "/srv" }), "WORKDIR /", json!({ "WorkingDir": "/" })),
        (json!({ "WorkingDir": "/srv" }), "WORKDIR ../../..", json!({ "WorkingDir": "/" })),
        (json!({ "Env": ["U=me"] }), "USER $U", json!({ "Env": ["U=me"], "User": "me" })),
        (json!({}), "STOPSIGNAL SIGRTMIN+3", json!({ "StopSignal": "SIGRTMIN+3" })),
        (json!({}), "STOPSIGNAL 9", json!({ "StopSignal": "9" })),
        (json!({ "OnBuild": ["RUN a"] }), "ONBUILD RUN b $c", json!({ "OnBuild": ["RUN a", "RUN b $c"] })),
    ] {
        assert_eq!(applied(from, &[change]), expected, "{change}");
    }
}

/// An entrypoint makes old arguments go, but not new ones, whichever comes first.
#[test]
fn arguments_of_the_old_entrypoint_go() {
    let old = || json!({ "Cmd": ["old"], "Entrypoint": ["o"] });
    let expected = json!({ "Cmd": ["c"], "Entrypoint": ["e"] });
    assert_eq!(applied(old(), &[r#"CMD ["c"]"#, r#"ENTRYPOINT ["e"]"#]), expected);
    assert_eq!(applied(old(), &[r#"ENTRYPOINT ["e"]"#, r#"CMD ["c"]"#]), expected);
}

#[test]
fn bad_changes_are_refused_by_name() {
    for (change, said) in [
        ("RUN ls", "expected one of CMD, ENTRYPOINT, ENV"),
        ("", "cannot be changed"),
        ("CMD", "CMD: needs a value"),
        ("CMD ['a']", "JSON list"),
        ("CMD [1]", "JSON list"),
        ("ENV A", "not NAME=VALUE"),
        ("ENV A=1 B", "not NAME=VALUE"),
        ("ENV =1", "without a name"),
        ("ENV A='1", "not closed"),
        ("EXPOSE 0", "not a port"),
        ("EXPOSE 80/icmp", "not a port"),
        ("EXPOSE 9-8", "not a port"),
        ("EXPOSE 70000", "not a port"),
        ("STOPSIGNAL nine", "not a signal"),
        ("STOPSIGNAL 99", "not a signal"),
        ("USER a b", "one value"),
        ("VOLUME data", "absolute path"),
        ("VOLUME /a/../b", "absolute path"),
        ("VOLUME []", "needs a path"),
        ("ONBUILD ONBUILD RUN x", "not allowed"),
        ("LABEL a=1\nb=2", "one line"),
    ] {
        let error = change.parse::<ConfigChange>().unwrap_err().to_string();
        assert!(error.contains(said), "{change}: {error}");
    }
}

#[test]
fn what_variables_give_is_checked() {
    for change in ["USER $NOBODY", "ENV A=${B:-c}", "VOLUME $NOWHERE"] {
        let change: ConfigChange = change.parse().unwrap();
        assert!(change.apply(&mut Map::new(), &mut Applied::default()).is_err(), "{change}");
    }
}
