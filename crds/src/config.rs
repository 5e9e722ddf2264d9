//! The kinds ConfigMap and Secret of `core/v1`: their shape, as far as a node needs it.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::{Value, json};

use crate::Kind;

/// The most bytes of all values together, as in Kubernetes (`core/v1` `MaxSecretSize`).
const MAX_DATA: usize = 1 << 20;

/// The values of a ConfigMap or Secret by key, decoded.
pub type ConfigData = std::collections::BTreeMap<String, Vec<u8>>;

/// The schema of a kind of `core/v1`, without `metadata`.
pub(crate) fn schema(kind: Kind) -> Value {
    let strings = |length: usize| {
        json!({
            "type": "object", "maxProperties": 1024,
            "additionalProperties": { "type": "string", "maxLength": length },
        })
    };
    let base64 = MAX_DATA * 4 / 3 + 4;
    let own = match kind {
        Kind::Secret => json!({
            "data": strings(base64), "stringData": strings(MAX_DATA), "type": { "type": "string", "maxLength": 253 },
        }),
        _ => json!({ "data": strings(MAX_DATA), "binaryData": strings(base64) }),
    };
    let mut properties = json!({ "immutable": { "type": "boolean" } });
    if let (Some(all), Value::Object(own)) = (properties.as_object_mut(), own) {
        all.extend(own);
    }
    json!({ "type": "object", "properties": properties })
}

/// A field that cannot be taken, and why.
pub(crate) type Refused = (String, String);

/// Checks what the schema cannot say, on a document that the schema accepts.
pub(crate) fn check(value: &Value, old: Option<&Value>) -> Vec<Refused> {
    let mut errors = Vec::new();
    let mut size = 0usize;
    let mut seen = std::collections::BTreeSet::new();
    for field in ["data", "binaryData", "stringData"] {
        for (key, item) in value[field].as_object().into_iter().flatten() {
            let plain = key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
            if !plain || key.is_empty() || key.len() > 253 || key == "." || key.starts_with("..") {
                let message =
                    "a key must be letters, digits, '-', '_' or '.', at most 253, and not begin with '..'";
                errors.push((format!("{field}.{key}"), message.to_owned()));
            }
            let doubled = field == "binaryData" && !seen.insert(key.clone());
            if field == "data" {
                seen.insert(key.clone());
            }
            if doubled {
                errors.push((format!("{field}.{key}"), "is in data as well".to_owned()));
            }
            size = size.saturating_add(item.as_str().map_or(0, str::len));
        }
    }
    if size > MAX_DATA * 4 / 3 {
        errors.push(("data".to_owned(), format!("too long: at most {MAX_DATA} bytes are allowed in all")));
    }
    if let Some(old) = old.filter(|old| old["immutable"] == true) {
        for field in ["data", "binaryData", "immutable"] {
            if old[field] != value[field] {
                errors.push((field.to_owned(), "cannot be changed, because immutable is true".to_owned()));
            }
        }
    }
    errors
}

/// Puts `stringData` where the server puts it: base64 in `data`.
pub(crate) fn fold_string_data(value: &mut Value) {
    let Some(strings) = value.as_object_mut().and_then(|map| map.remove("stringData")) else { return };
    let Value::Object(strings) = strings else { return };
    if !value["data"].is_object() {
        value["data"] = json!({});
    }
    for (key, text) in strings {
        let bytes = k8s_openapi::ByteString(text.as_str().unwrap_or_default().as_bytes().to_vec());
        value["data"][key] = serde_json::to_value(bytes).unwrap_or_default();
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
