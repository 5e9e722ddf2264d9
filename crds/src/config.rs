//! The kinds ConfigMap and Secret of `core/v1`: their shape, as far as a node needs it.

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use serde_json::{Value, json};

use crate::Kind;

/// The most bytes of all values together, as in Kubernetes (`core/v1` `MaxSecretSize`).
const MAX_DATA: usize = 1 << 20;

/// The values of a ConfigMap or Secret by key, decoded.
pub type ConfigData = std::collections::BTreeMap<String, Vec<u8>>;

/// The type of a Secret that names none.
const OPAQUE: &str = "Opaque";

/// The schema of a kind of `core/v1`, without `metadata`. Values of the format `password` (OpenAPI's word) are never
/// shown in a message.
pub(crate) fn schema(kind: Kind) -> Value {
    // Lines may end within base64, and what it stands for is measured once it is decoded.
    const ENCODED: usize = MAX_DATA * 2;
    let values = |length: usize, format: &str| {
        json!({
            "type": "object", "maxProperties": 1024, "format": format,
            "additionalProperties": { "type": "string", "maxLength": length, "format": format },
        })
    };
    let properties = match kind {
        Kind::Secret => json!({
            "data": values(ENCODED, "password"),
            "stringData": values(MAX_DATA, "password"),
            "type": { "type": "string", "maxLength": 253, "default": OPAQUE },
            "immutable": { "type": "boolean" },
        }),
        _ => json!({
            "data": values(MAX_DATA, ""),
            "binaryData": values(ENCODED, ""),
            "immutable": { "type": "boolean" },
        }),
    };
    json!({ "type": "object", "properties": properties })
}

/// A field that cannot be taken, and why.
pub(crate) type Refused = (String, String);

/// Brings a document that the schema accepts to the form that a server keeps (`stringData` in `data`, base64 in one
/// spelling, no empty maps) and checks what the schema cannot say, as `ValidateConfigMap` and `ValidateSecret` do
/// (`pkg/apis/core/validation`). No message holds a value.
pub(crate) fn finish(kind: Kind, value: &mut Value, old: Option<&Value>) -> Vec<Refused> {
    let mut refused = Vec::new();
    let encoded = if kind == Kind::Secret { "data" } else { "binaryData" };
    for field in ["data", "binaryData", "stringData"] {
        for key in value[field].as_object().into_iter().flatten().map(|(key, _)| key) {
            if !is_key(key) {
                refused.push((format!("{field}.{key}"), BAD_KEY.to_owned()));
            }
        }
    }
    let mut size = 0usize;
    for (key, item) in value.get_mut(encoded).and_then(Value::as_object_mut).into_iter().flatten() {
        match decode(item) {
            Some(bytes) => *item = encode(&bytes),
            None => refused.push((format!("{encoded}.{key}"), "must be base64 (RFC 4648)".to_owned())),
        }
    }
    fold_string_data(value);
    for (key, item) in value[encoded].as_object().into_iter().flatten() {
        size = size.saturating_add(decode(item).map_or(0, |bytes| bytes.len()));
        if kind == Kind::ConfigMap && !value["data"][key].is_null() {
            refused.push((format!("{encoded}.{key}"), "is in data as well".to_owned()));
        }
    }
    if kind == Kind::ConfigMap {
        let texts = value["data"].as_object().into_iter().flatten();
        size = texts.fold(size, |size, (_, text)| size.saturating_add(text.as_str().map_or(0, str::len)));
    }
    if size > MAX_DATA {
        let message = format!("too long: {size} bytes in all, at most {MAX_DATA} are allowed");
        refused.push(("data".to_owned(), message));
    }
    for field in ["data", "binaryData"] {
        if value[field].as_object().is_some_and(serde_json::Map::is_empty) {
            value.as_object_mut().map(|map| map.remove(field));
        }
    }
    if kind == Kind::Secret {
        check_type(value, &mut refused);
    }
    if let Some(old) = old {
        check_change(kind, value, old, &mut refused);
    }
    refused
}

/// As Kubernetes' `IsConfigMapKey`.
fn is_key(key: &str) -> bool {
    let plain = key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    plain && !key.is_empty() && key.len() <= 253 && key != "." && !key.starts_with("..")
}

const BAD_KEY: &str =
    "a key must be 1 to 253 letters, digits, '-', '_' or '.', other than '.', and must not start with '..'";

/// What base64 stands for; as Go's reader, which kubectl and the API server use, it passes over ends of lines.
fn decode(item: &Value) -> Option<Vec<u8>> {
    let text: String = item.as_str()?.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
    serde_json::from_value::<ByteString>(Value::String(text)).ok().map(|bytes| bytes.0)
}

fn encode(bytes: &[u8]) -> Value {
    serde_json::to_value(ByteString(bytes.to_vec())).expect("base64 is a string")
}

/// Puts `stringData` where the server puts it: base64 in `data`, over what is there.
fn fold_string_data(value: &mut Value) {
    let strings = value.as_object_mut().and_then(|map| map.remove("stringData"));
    let Some(Value::Object(strings)) = strings else { return };
    if !value["data"].is_object() {
        value["data"] = json!({});
    }
    for (key, text) in strings {
        value["data"][key] = encode(text.as_str().unwrap_or_default().as_bytes());
    }
}

/// The keys that a type of Secret must have.
fn check_type(value: &Value, refused: &mut Vec<Refused>) {
    let kind = value["type"].as_str().unwrap_or(OPAQUE);
    let data = &value["data"];
    let required: &[&str] = match kind {
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/basic-auth" if data["username"].is_null() && data["password"].is_null() => {
            let message = format!("username or password is required by type {kind}");
            return refused.push(("data".to_owned(), message));
        }
        _ => &[],
    };
    for key in required {
        if data[key].is_null() {
            refused.push((format!("data.{key}"), format!("is required by type {kind}")));
        } else if key.starts_with(".docker") {
            let json = decode(&data[key]).unwrap_or_default();
            if serde_json::from_slice::<serde::de::IgnoredAny>(&json).is_err() {
                refused.push((format!("data.{key}"), "must be JSON".to_owned()));
            }
        }
    }
}

/// What an update may not change, in the API server's words.
fn check_change(kind: Kind, value: &Value, old: &Value, refused: &mut Vec<Refused>) {
    if kind == Kind::Secret && old["type"].as_str().unwrap_or(OPAQUE) != value["type"] {
        refused.push(("type".to_owned(), "field is immutable".to_owned()));
    }
    if old["immutable"] != true {
        return;
    }
    for field in ["data", "binaryData", "immutable"] {
        if old[field] != value[field] {
            refused.push((field.to_owned(), "field is immutable when `immutable` is set".to_owned()));
        }
    }
}

/// The values of a ConfigMap, text and binary.
pub fn config_map_data(map: &ConfigMap) -> ConfigData {
    let text = map.data.iter().flatten().map(|(key, text)| (key.clone(), text.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(key, bytes)| (key.clone(), bytes.0.clone()));
    text.chain(binary).collect()
}

/// The values of a Secret.
pub fn secret_data(secret: &Secret) -> ConfigData {
    secret.data.iter().flatten().map(|(key, bytes)| (key.clone(), bytes.0.clone())).collect()
}
