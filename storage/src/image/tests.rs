use serde_json::{Value, json};

use super::*;

fn parse(value: &Value, layers: usize) -> Result<config::ConfigFile, ConfigError> {
    parse_config(value.to_string().as_bytes(), layers)
}

fn minimal() -> Value {
    json!({ "os": "linux", "architecture": "amd64", "rootfs": { "type": "layers", "diff_ids": [Digest::of(b"x")] } })
}

#[test]
fn every_value_is_read() {
    let mut value = minimal();
    value["config"] = json!({
        "User": "1:2", "Env": ["A=b"], "Entrypoint": ["/e"], "Cmd": ["c"], "WorkingDir": "/w", "StopSignal": "SIGQUIT",
        "Volumes": { "/data": {}, "/logs": {} }, "ExposedPorts": { "80/tcp": {} }, "Labels": { "a": "b" }, "Unknown": [1],
    });
    let config = parse(&value, 1).unwrap().config;
    assert_eq!(
        (config.user.as_str(), config.working_dir.as_str(), config.stop_signal.as_str()),
        ("1:2", "/w", "SIGQUIT")
    );
    assert_eq!((config.env.len(), config.entrypoint.len(), config.cmd.len()), (1, 1, 1));
    assert_eq!(config.volumes, ["/data", "/logs"]);
    assert_eq!(config.exposed_ports, ["80/tcp"]);
    assert_eq!(config.labels["a"], "b");
}

#[test]
fn nulls_are_nothing() {
    let mut value = minimal();
    value["config"] = json!({ "User": null, "Env": null, "Entrypoint": null, "Cmd": null, "Volumes": null, "Labels": null, "ExposedPorts": null });
    assert_eq!(parse(&value, 1).unwrap().config, ImageConfig::default());
    value["config"] = Value::Null;
    assert_eq!(parse(&value, 1).unwrap().config, ImageConfig::default());
}

#[test]
fn layers_and_diff_ids_must_be_as_many() {
    assert_eq!(parse(&minimal(), 2).unwrap_err(), ConfigError::LayerCount { diff_ids: 1, layers: 2 });
    let mut value = minimal();
    value["rootfs"]["type"] = "windows".into();
    assert!(matches!(parse(&value, 1), Err(ConfigError::Malformed(_))));
    value["rootfs"] = json!({ "type": "layers", "diff_ids": ["sha256:short"] });
    assert!(matches!(parse(&value, 1), Err(ConfigError::Malformed(_))));
}
