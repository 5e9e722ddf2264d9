use super::*;

#[expect(clippy::needless_pass_by_value, reason = "cases read better without a borrow each")]
fn spec(json: serde_json::Value) -> ContainerSpec {
    let mut all = serde_json::json!({"image": "x"});
    all.as_object_mut().unwrap().extend(json.as_object().unwrap().clone());
    serde_json::from_value(all).unwrap()
}

fn image(json: serde_json::Value) -> ImageConfig {
    serde_json::from_value(json).unwrap()
}

fn made(spec: &ContainerSpec, image: &ImageConfig) -> Result<Built, SpecError> {
    let mounts: Vec<ResolvedMount> = spec
        .volume_mounts
        .iter()
        .map(|mount| ResolvedMount {
            path: mount.mount_path.clone(),
            what: stower_controllers::MountWhat::HostPath {
                path: "/host/data".to_owned(),
                type_: stower_crds::HostPathType::Unset,
            },
            read_only: mount.read_only,
            sub_path: None,
            propagation: stower_crds::MountPropagation::None,
            name: Some(mount.name.clone()),
            from: None,
        })
        .collect();
    let env: Vec<Variable> = spec
        .env
        .iter()
        .map(|var| Variable {
            name: var.name.clone(),
            value: var.value.clone().unwrap_or_default(),
            expand: true,
        })
        .collect();
    build(&Input {
        spec,
        name: "web",
        image,
        mounts: &mounts,
        env: &env,
        files: Path::new("/run/files"),
        host_devices: Vec::new(),
        devices: Vec::new(),
        own_caps: u64::MAX,
        host_name: "machine",
    })
}

fn args(spec_json: serde_json::Value, image_json: serde_json::Value) -> Result<Vec<String>, SpecError> {
    let built = made(&spec(spec_json), &image(image_json))?;
    Ok(built.spec.process().as_ref().unwrap().args().clone().unwrap())
}

#[test]
fn command_and_args_replace_entrypoint_and_cmd_as_in_a_pod() {
    let image = serde_json::json!({"Entrypoint": ["e"], "Cmd": ["c"]});
    for (spec, want) in [
        (serde_json::json!({}), vec!["e", "c"]),
        (serde_json::json!({"args": ["a"]}), vec!["e", "a"]),
        (serde_json::json!({"command": ["k"]}), vec!["k"]),
        (serde_json::json!({"command": ["k"], "args": ["a"]}), vec!["k", "a"]),
    ] {
        assert_eq!(args(spec, image.clone()).unwrap(), want);
    }
    assert_eq!(args(serde_json::json!({}), serde_json::json!({})), Err(SpecError::NoCommand));
}

#[test]
fn variables_are_expanded_in_order_and_unknown_ones_stay() {
    let declared = serde_json::json!({
        "env": [{"name": "A", "value": "$(BASE)/a"}, {"name": "B", "value": "$(A)-$(C)-$$(A)"}],
        "command": ["run", "$(B)", "$x", "$("],
    });
    let built = made(&spec(declared), &image(serde_json::json!({"Env": ["BASE=/b", "A=image"]}))).unwrap();
    let process = built.spec.process().as_ref().unwrap();
    let env = process.env().as_ref().unwrap();
    assert!(env.contains(&"A=/b/a".to_owned()) && env.contains(&"B=/b/a-$(C)-$(A)".to_owned()), "{env:?}");
    assert_eq!(process.args().as_ref().unwrap()[1..], ["/b/a-$(C)-$(A)", "$x", "$("]);
}

#[test]
fn who_it_runs_as_comes_from_the_spec_and_then_the_image() {
    for (security, in_image, want) in [
        (serde_json::json!({}), "", None),
        (serde_json::json!({}), "postgres", Some("postgres")),
        (serde_json::json!({"runAsUser": 5}), "postgres:postgres", Some("5")),
        (serde_json::json!({"runAsUser": 5, "runAsGroup": 6}), "", Some("5:6")),
        (serde_json::json!({"runAsGroup": 6}), "postgres", Some("postgres:6")),
        (serde_json::json!({"runAsGroup": 6}), "", Some("0:6")),
    ] {
        let built = made(
            &spec(serde_json::json!({"command": ["x"], "securityContext": security})),
            &image(serde_json::json!({"User": in_image})),
        );
        assert_eq!(built.unwrap().user.as_deref(), want);
    }
    for (in_image, refused) in [("", true), ("0", true), ("root", true), ("postgres", true), ("70", false)] {
        let built = made(
            &spec(serde_json::json!({"command": ["x"], "securityContext": {"runAsNonRoot": true}})),
            &image(serde_json::json!({"User": in_image})),
        );
        assert_eq!(built.is_err(), refused, "{in_image}");
    }
}

#[test]
fn capabilities_are_the_usual_ones_less_drop_with_add() {
    let caps = |json| {
        let declared: stower_crds::Capabilities = serde_json::from_value(json).unwrap();
        caps::resolve(Some(&declared), false, u64::MAX)
    };
    assert_eq!(caps(serde_json::json!({})).unwrap(), 0xa804_25fb, "Docker's default set");
    assert_eq!(caps(serde_json::json!({"drop": ["ALL"], "add": ["net_admin"]})).unwrap(), 1 << 12);
    assert_eq!(caps(serde_json::json!({"drop": ["CAP_CHOWN"]})).unwrap(), 0xa804_25fa);
    assert_eq!(caps(serde_json::json!({"add": ["ALL"], "drop": ["SYS_ADMIN"]})).unwrap().count_ones(), 40);
    assert_eq!(caps(serde_json::json!({"add": ["FLY"]})), Err(SpecError::Capability("FLY".into())));
    assert_eq!(caps::resolve(None, true, u64::MAX).unwrap().count_ones(), 41);
    // All are those that the agent has; one by name stays, and the start fails.
    let few = !(1 << 24);
    assert_eq!(caps::resolve(None, true, few).unwrap().count_ones(), 40);
    let named: stower_crds::Capabilities =
        serde_json::from_value(serde_json::json!({"add": ["ALL", "SYS_RESOURCE"]})).unwrap();
    assert_eq!(caps::resolve(Some(&named), false, few).unwrap().count_ones(), 41);
}

#[test]
fn namespaces_follow_the_host_flags_and_a_mount_over_a_provided_file_wins() {
    let declared = serde_json::json!({
        "command": ["x"], "hostNetwork": true, "hostPID": true,
        "volumes": [{"name": "data", "hostPath": {"path": "/host/data"}}],
        "volumeMounts": [{"name": "data", "mountPath": "/etc/hosts", "readOnly": true}],
    });
    let built = made(&spec(declared), &image(serde_json::json!({}))).unwrap();
    let kinds: Vec<_> =
        built.spec.linux().as_ref().unwrap().namespaces().as_ref().unwrap().iter().map(|n| n.typ()).collect();
    assert!(!kinds.contains(&LinuxNamespaceType::Network) && !kinds.contains(&LinuxNamespaceType::Pid));
    assert!(kinds.contains(&LinuxNamespaceType::Mount));
    let provided =
        |path: &str| built.spec.mounts().iter().flatten().any(|mount| mount.destination() == Path::new(path));
    assert!(!provided("/etc/hosts") && provided("/etc/hostname"));
}
