//! What counts, what is wrong and where, and what a change asks for.

use std::{ffi::OsString, path::Path};

use serde_json::{Value, json};

use super::{
    fields::{FIELDS, Shape, variable},
    *,
};

const FILE: &str = "/etc/c.yaml";

fn sources(flags: Flags, environment: &[(&str, &str)]) -> Result<Sources, ConfigError> {
    let flags = Flags { config: Some(FILE.into()), ..flags };
    Sources::new(flags, environment.iter().map(|(name, text)| (OsString::from(name), OsString::from(text))))
}

fn config(text: &str) -> Result<Config, ConfigError> {
    sources(Flags::default(), &[])?.with_file(text.as_bytes())
}

fn wrong(text: &str) -> String {
    config(text).expect_err(text).to_string()
}

fn from_environment(name: &str, text: &str) -> Result<Config, String> {
    let sources = sources(Flags::default(), &[(name, text)]).map_err(|error| error.to_string())?;
    sources.with_file(b"").map_err(|error| error.to_string())
}

/// Of a field: its value, and where it comes from.
fn shown(config: &Config, sources: &Sources, field: &str) -> (Value, String) {
    let shown = config.show(sources);
    let found = shown.as_array().unwrap().iter().find(|it| it["field"] == field).unwrap().clone();
    (found["value"].clone(), found["from"].as_str().unwrap().to_owned())
}

#[test]
fn a_flag_wins_over_the_environment_that_over_the_file_and_that_over_the_default() {
    let file =
        "nodeName: file\nvolumeCapacity: project-quota\nlogging:\n  maxFiles: 7\ninsecureRegistries: [a:1]\n";
    let flags = Flags { node_name: Some("flag".into()), ..Flags::default() };
    let environment =
        [("STOWER_NODE_NAME", "environment"), ("STOWER_LOGGING_MAX_FILES", "9"), ("HOME", "/root")];
    let sources = sources(flags, &environment).unwrap();
    let config = sources.with_file(file.as_bytes()).unwrap();
    let shown = |field| shown(&config, &sources, field);
    assert_eq!(shown("nodeName"), (json!("flag"), "flag --node-name".into()));
    assert_eq!(shown("logging.maxFiles"), (json!(9), "environment STOWER_LOGGING_MAX_FILES".into()));
    assert_eq!(shown("volumeCapacity"), (json!("project-quota"), "/etc/c.yaml:2".into()));
    assert_eq!(shown("insecureRegistries"), (json!(["a:1"]), "/etc/c.yaml:5".into()));
    assert_eq!(shown("logging.maxSize"), (json!("10Mi"), "default".into()));
    assert_eq!(config.logging, Logging { max_size: 10 << 20, max_files: 9, block: false });
}

#[test]
fn every_field_has_a_value_a_variable_of_its_own_and_is_taken_from_the_file() {
    let config = config("").unwrap();
    let names: Vec<_> = config.values().into_iter().map(|(path, _)| path).collect();
    assert_eq!(names, FIELDS.iter().map(|field| field.path).collect::<Vec<_>>());
    let variables: std::collections::BTreeSet<_> = FIELDS.iter().map(|it| variable(it.path)).collect();
    assert_eq!(variables.len(), FIELDS.len());
    // A value of each that is no default.
    let other = |field: &fields::Field| match (field.path, field.shape) {
        ("volumeCapacity", _) => "project-quota",
        ("logging.mode", _) => "block",
        ("logLevel", _) => "debug",
        ("storageOpts", _) => "a=b",
        ("images.gc.minAge", _) => "7m",
        ("images.gc.enabled", _) => "false",
        ("storage.minFree" | "storage.minFreeInodes", _) => "{percent: 7}",
        ("runtimes", _) => "{r: {path: r}}",
        ("kube.secretCache", _) => "disk",
        ("kube.leaseNamespace", _) => "agents",
        ("kube.leaseOwner", _) => "stower-x7k2p/0b1c",
        ("metricsBindAddress", _) => "127.0.0.1:9464",
        ("containers.limits", _) => "{memory: 1Gi}",
        (_, Shape::Bool) => "true",
        (_, Shape::Number) => "83",
        (_, Shape::Size) => "7Mi",
        (_, Shape::List) => "h:1",
        (_, Shape::Text) => "/x",
        (_, Shape::Map) => unreachable!("no default is known of {}", field.path),
    };
    for field in FIELDS {
        let next = from_environment(&variable(field.path), other(field)).unwrap();
        let changes = config.changes(&next);
        assert!(changes[0].field.starts_with(field.path), "{changes:?}");
        assert_eq!(changes[0].reload, field.reload);
    }
}

#[test]
fn the_run_root_moves_the_socket_with_it() {
    let config = config("runRoot: /run/x\n").unwrap();
    assert_eq!(config.fixed.paths.socket, Path::new("/run/x/stower.sock"));
}

#[test]
fn a_variable_that_nobody_reads_is_refused_by_name() {
    for (name, text, want) in [
        (
            "STOWER_DATAROOT",
            "/x",
            "STOWER_DATAROOT: the agent has no such variable; STOWER_DATA_ROOT is meant?",
        ),
        ("STOWER_COLOUR", "red", "STOWER_COLOUR: the agent has no such variable"),
        (
            "STOWER_START_CONCURRENCY",
            "many",
            "STOWER_START_CONCURRENCY: \"many\" must be a whole number, not negative",
        ),
        ("STOWER_START_CONCURRENCY", "0", "STOWER_START_CONCURRENCY: startConcurrency: must be at least 1"),
        ("STOWER_ALLOW_EMPTY", "perhaps", "STOWER_ALLOW_EMPTY: \"perhaps\" must be true or false"),
    ] {
        assert_eq!(from_environment(name, text).unwrap_err(), want);
    }
    // What the container runtime or Kubernetes sets for a service of that name is nobody's word.
    for name in [
        "STOWER_SERVICE_HOST",
        "STOWER_SERVICE_PORT",
        "STOWER_SERVICE_PORT_HTTP",
        "STOWER_PORT",
        "STOWER_PORT_80_TCP",
        "STOWER_PORT_80_TCP_ADDR",
        "STOWER_API_SERVICE_HOST",
        "STOWER_API_PORT_443_TCP_PROTO",
        "STOWER_FAILPOINT",
    ] {
        assert!(from_environment(name, "x").is_ok(), "{name}");
    }
    assert!(from_environment("STOWER_COLOUR", "").is_ok());
    for name in ["STOWER_PORT_X", "STOWER_SERVICE", "STOWER_PORT_80"] {
        assert!(from_environment(name, "x").is_err(), "{name}");
    }
}

#[test]
fn the_environment_names_the_file_and_lists_have_commas() {
    let environment = [("STOWER_CONFIG".into(), "/env.yaml".into())];
    let sources = Sources::new(Flags::default(), environment.clone()).unwrap();
    assert_eq!((sources.file.as_path(), sources.named), (Path::new("/env.yaml"), true));
    let flags = Flags { config: Some("/flag.yaml".into()), ..Flags::default() };
    assert_eq!(Sources::new(flags, environment).unwrap().file, Path::new("/flag.yaml"));
    let none = Sources::new(Flags::default(), []).unwrap();
    assert_eq!((none.file.as_path(), none.named), (Path::new(DEFAULT_FILE), false));
    let config = from_environment("STOWER_INSECURE_REGISTRIES", "a:1, b").unwrap();
    assert_eq!(config.insecure_registries, ["a:1", "b"]);
}

#[test]
fn all_that_is_wrong_is_told_at_once_with_its_place() {
    let text =
        "dataroot: /x\nlogging:\n  maxSize: 10MB\n  colour: red\nimages: [1]\nstartConcurrency: many\n";
    assert_eq!(
        wrong(text).split("; ").collect::<Vec<_>>(),
        [
            "/etc/c.yaml:1:1: dataroot: unknown field",
            "dataRoot is meant?",
            "/etc/c.yaml:5:1: images: must be a map of fields",
            "/etc/c.yaml:4:3: logging.colour: unknown field",
            "there are maxSize, maxFiles, mode",
            "/etc/c.yaml:6:1: startConcurrency: \"many\" must be a whole number, not negative",
            "/etc/c.yaml:3:3: logging.maxSize: \"10MB\" is not a size of at least 4Ki, such as 10Mi",
        ]
    );
}

#[test]
fn values_out_of_range_are_refused_with_their_field() {
    for (text, want) in [
        ("startConcurrency: 0", "startConcurrency: must be at least 1"),
        ("startConcurrency: -1", "startConcurrency: -1 must be a whole number, not negative"),
        ("logging: {maxFiles: 1}", "logging.maxFiles: must be at least 2"),
        ("logging: {maxFiles: 4294967296}", "logging.maxFiles: 4294967296 is too large"),
        ("logging: {mode: keep}", "logging.mode: \"keep\" is neither drop nor block"),
        ("volumeCapacity: quota", "volumeCapacity: \"quota\" is neither image nor project-quota"),
        ("storageOpts: [size]", "storageOpts: \"size\" is not KEY=VALUE"),
        ("insecureRegistries: ['a b']", "insecureRegistries: \"a b\" is not HOST or HOST:PORT"),
        ("insecureRegistries: a:1", "insecureRegistries: \"a:1\" must be a list of texts"),
        ("nodeName: 7", "nodeName: 7 must be a text (in quotes, where it looks like something else)"),
        (
            "images: {unpack: {maxSize: 1Ki}}",
            "images.unpack.maxSize: \"1Ki\" is not a size of at least 1Mi, such as 64Gi",
        ),
        ("images: {unpack: {maxRatio: 1}}", "images.unpack.maxRatio: must be at least 2"),
        ("images: {unpack: {maxEntries: 0}}", "images.unpack.maxEntries: must be at least 1"),
        ("images: {gc: {highThresholdPercent: 101}}", "images.gc.highThresholdPercent: must be at most 100"),
        (
            "images: {gc: {lowThresholdPercent: 85}}",
            "images.gc.lowThresholdPercent: 85 must be below highThresholdPercent, which is 85",
        ),
        (
            "images: {gc: {minAge: '2'}}",
            "images.gc.minAge: \"2\": must be a duration such as \"100ms\", \"10s\" or \"1m30s\" (units: ns, us, ms, s, m, h)",
        ),
        ("kube: {leaseOwner: stower-x7k2p}", "kube.leaseOwner: \"stower-x7k2p\" is not NAME/UID of a Pod"),
        ("kube: {secretCache: ram}", "kube.secretCache: \"ram\" is neither memory nor disk"),
        (
            "kube: {enabled: true, context: c}",
            "kube.context: is a context of the file kube.kubeconfig, which is not set",
        ),
        ("containers: {limits: {pid: 0}}", "containers.limits.pid: 0 is not above 0"),
        (
            "containers: {limits: {gpu: 1}}",
            "containers.limits: unknown field `gpu`, expected one of `cpu`, `memory`, `pid`",
        ),
        ("storage: {minFree: {bytes: 1GB}}", "storage.minFree.bytes: \"1GB\" is not a size such as 1Gi"),
        ("storage: {minFree: {percent: 100}}", "storage.minFree.percent: 100 must be below 100"),
        (
            "storage: {minFree: {inodes: 1}}",
            "storage.minFree: unknown field `inodes`, expected `bytes` or `percent`",
        ),
    ] {
        let said = wrong(text);
        let (place, message) = said.split_once(": ").unwrap();
        assert!(place.starts_with("/etc/c.yaml:1:"), "{said}");
        assert_eq!(message, want);
    }
    assert!(wrong("logLevel: 'a=b=c'").contains("logLevel"));
}

#[test]
fn a_file_that_is_no_configuration_is_refused() {
    for (text, want) in [
        ("- a\n", "/etc/c.yaml:1:1: a configuration is a map of fields"),
        ("a: [\n", "/etc/c.yaml:"),
        ("nodeName: a\n---\nnodeName: b\n", "/etc/c.yaml:3:1: a configuration is one document"),
    ] {
        let said = wrong(text);
        assert!(said.starts_with(want), "{said}");
    }
    for text in ["", "# nothing\n", "---\n", "{}", "images:\nlogging: {maxSize: }\n"] {
        assert_eq!(config("").unwrap().values(), config(text).unwrap().values(), "{text:?}");
    }
}

#[test]
fn a_missing_file_that_was_named_is_an_error() {
    let flags = Flags { config: Some("/nonexistent/config.yaml".into()), ..Flags::default() };
    assert!(matches!(Sources::new(flags, []).unwrap().load(), Err(ConfigError::Read { .. })));
}

#[test]
fn what_is_written_is_what_counts() {
    use stower_controllers::{DiskPolicy, Floor};
    let text = "images: {gc: {enabled: false, highThresholdPercent: 70, lowThresholdPercent: 60, minAge: 1m30s, pinned: [a:1]},\n\
                unpack: {maxSize: 2Gi, maxRatio: 20, maxEntries: 1000}}\n\
                storage: {minFree: {bytes: 64Mi}, minFreeInodes: {}}\n\
                logging: {maxSize: 4096, mode: block}\n";
    let config = config(text).unwrap();
    let policy = DiskPolicy {
        high_percent: 70,
        low_percent: 60,
        min_free: Floor { absolute: Some(64 << 20), percent: None },
        min_free_inodes: Floor::default(),
    };
    let min_age = std::time::Duration::from_secs(90);
    assert_eq!(config.disk, DiskConfig { collect: false, policy, min_age, pinned: vec!["a:1".into()] });
    let usual = UnpackLimits::default();
    let limits = UnpackLimits { max_bytes: 2 << 30, max_ratio: 20, max_entries: 1000, ..usual };
    assert_eq!(config.unpack_limits, limits);
    assert_eq!(config.logging, Logging { max_size: 4096, max_files: 5, block: true });
}

#[test]
fn a_change_says_what_and_when_and_what_needs_a_restart_stays() {
    let (old, new) = (
        config("dataRoot: /a\nlogging: {maxFiles: 3}\n").unwrap(),
        config("dataRoot: /b\nlogging: {maxFiles: 4}\ninsecureRegistries: [h:1]\n").unwrap(),
    );
    let changes = old.changes(&new);
    let told: Vec<_> = changes.iter().map(|it| (it.to_string(), it.reload)).collect();
    assert_eq!(
        told,
        [
            ("dataRoot: /a → /b".to_owned(), Reload::Restart),
            ("insecureRegistries: [] → [\"h:1\"]".to_owned(), Reload::Live),
            ("logging.maxFiles: 3 → 4".to_owned(), Reload::Live),
        ]
    );
    let next = old.succeeded_by(new.clone());
    assert_eq!(next.fixed, old.fixed);
    assert_eq!((next.logging, &next.insecure_registries), (new.logging, &new.insecure_registries));
    // What still waits, and nothing else.
    assert_eq!(next.changes(&new), changes[..1]);
    assert!(new.changes(&new).is_empty());
}

#[test]
fn runtimes_are_written_as_docker_has_them() {
    let text = "runtimes:\n  crun: {path: /usr/bin/crun}\n  runc-debug:\n    path: runc\n    runtimeArgs: [--debug]\n    \
                options: {NoPivotRoot: true, NoNewKeyring: true}\n";
    let one = config(text).unwrap();
    let runtime = |path: &str, args: &[&str], create_args: &[&str]| RuntimeConfig {
        path: path.into(),
        args: args.iter().map(|&it| it.to_owned()).collect(),
        create_args: create_args.iter().map(|&it| it.to_owned()).collect(),
    };
    let want = [
        ("crun".to_owned(), runtime("/usr/bin/crun", &[], &[])),
        ("runc-debug".to_owned(), runtime("runc", &["--debug"], &["--no-pivot", "--no-new-keyring"])),
    ];
    assert_eq!(one.runtimes, want.into());
    let other = config("runtimes: {crun: {path: crun}, kata: {path: kata}, runc-debug: {path: runc, runtimeArgs: [--debug], options: {NoPivotRoot: true, NoNewKeyring: true}}}").unwrap();
    let changes: Vec<_> = one.changes(&other).iter().map(ToString::to_string).collect();
    assert_eq!(
        changes,
        [
            r#"runtimes.crun: {"path":"/usr/bin/crun"} → {"path":"crun"}"#,
            r#"runtimes.kata: unset → {"path":"kata"}"#,
        ]
    );
    for (text, want) in [
        ("runtimes: {a: {}}", "/etc/c.yaml:1:12: runtimes.a: missing field `path`"),
        (
            "runtimes: {a: {path: ./a}}",
            "/etc/c.yaml:1:16: runtimes.a.path: \"./a\" is neither an absolute path nor the name of a program",
        ),
        (
            "runtimes: {a: {path: a, root: /}}",
            "/etc/c.yaml:1:12: runtimes.a: unknown field `root`, expected one of `path`, `runtimeArgs`, `options`",
        ),
        (
            "runtimes: {stower: {path: a}}",
            "/etc/c.yaml:1:12: runtimes.stower: is the built-in runtime, which is not configured; take another name",
        ),
        (
            "runtimes: {a: {path: a, options: {SystemdCgroup: true}}}",
            "/etc/c.yaml:1:35: runtimes.a.options.SystemdCgroup: cannot be: the groups of containers are the agent's own; leave it out",
        ),
    ] {
        assert_eq!(wrong(text), want);
    }
    assert!(wrong("runtimes: {'a/b': {path: a}}").contains("a name has letters"));
}

#[test]
fn long_values_are_told_in_short() {
    let long = "x".repeat(500);
    let next = config(&format!("nodeName: {long}\n")).unwrap();
    let change = config("nodeName: a\n").unwrap().changes(&next).remove(0).to_string();
    assert!(change.len() < 200 && change.ends_with('…'), "{change}");
}

#[test]
fn a_kubeconfig_is_reason_enough_for_a_cluster_unless_it_is_switched_off() {
    let kube = |text: &str| config(text).unwrap().fixed.kube.clone();
    assert!(!kube("").enabled);
    assert!(kube("kube: {enabled: true}").enabled);
    let file = kube("kube: {kubeconfig: /k, context: c, secretCache: disk}");
    assert!(file.enabled);
    assert_eq!(file.kubeconfig.as_deref(), Some(Path::new("/k")));
    assert_eq!((file.context.as_deref(), file.secret_cache), (Some("c"), SecretCache::Disk));
    assert!(!kube("kube: {kubeconfig: /k, enabled: false}").enabled);
}

#[test]
fn all_containers_together_have_limits_as_the_kubelet_writes_reservations() {
    let config = config("containers: {limits: {cpu: 1500m, memory: 2Gi, pid: '1000'}}").unwrap();
    let limits = ContainersLimits { cpu_millis: Some(1500), memory: Some(2 << 30), pid: Some(1000) };
    assert_eq!(config.fixed.containers_limits, limits);
}
