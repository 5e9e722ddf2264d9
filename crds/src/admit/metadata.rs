//! `metadata`, as every kind has it.

use serde_json::{Value, json};

use super::schema::{Errors, Path};
use crate::{Name, Namespace};

/// The most bytes of all annotations together, as in Kubernetes.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// The schema of `ObjectMeta`. What a server writes is accepted from one, and has no effect elsewhere.
pub(super) fn schema() -> Value {
    let strings = |max: u64| {
        json!({
            "type": "object", "maxProperties": max,
            "additionalProperties": { "type": "string", "maxLength": MAX_ANNOTATIONS },
        })
    };
    let text = || json!({ "type": "string", "maxLength": 1024 });
    let opaque = json!({
        "type": "object", "maxProperties": 10_000, "additionalProperties": { "type": "string", "maxLength": 1 },
    });
    json!({
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": text(),
            "namespace": text(),
            "labels": strings(256),
            "annotations": strings(256),
            "uid": { "type": "string", "maxLength": 128 },
            "generation": { "type": "integer", "minimum": 0 },
            "resourceVersion": text(),
            "creationTimestamp": text(),
            "deletionTimestamp": text(),
            "deletionGracePeriodSeconds": { "type": "integer" },
            "finalizers": { "type": "array", "maxItems": 64, "items": text() },
            "ownerReferences": { "type": "array", "maxItems": 64, "items": {
                "type": "object",
                "required": ["apiVersion", "kind", "name", "uid"],
                "properties": {
                    "apiVersion": text(), "kind": text(), "name": text(), "uid": text(),
                    "controller": { "type": "boolean" }, "blockOwnerDeletion": { "type": "boolean" },
                },
            } },
            "managedFields": { "type": "array", "maxItems": 0, "items": opaque },
            "generateName": text(),
            "selfLink": text(),
        },
    })
}

/// Fills in the namespace.
pub(super) fn fill(object: &mut Value, namespace: Option<&Namespace>) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    // Neither the fields' owners nor an empty time that clients write say anything about what is declared.
    metadata.remove("managedFields");
    metadata.retain(|name, value| {
        !(value.is_null() || ((name == "namespace" || name.ends_with("Timestamp")) && value == ""))
    });
    if !metadata.contains_key("namespace") {
        let namespace = namespace.cloned().unwrap_or_default();
        metadata.insert("namespace".to_owned(), Value::String(namespace.to_string()));
    }
}

/// Checks what the schema cannot say.
pub(super) fn check(object: &Value, errors: &mut Errors) {
    let Some(metadata) = object.get("metadata") else { return };
    let root = Path::Root;
    let here = Path::Field(&root, "metadata");
    let text = |name: &str| metadata.get(name).and_then(Value::as_str);
    if let Some(Err(error)) = text("name").map(Name::new) {
        errors.also(Path::Field(&here, "name"), error.to_string());
    }
    if let Some(Err(error)) = text("namespace").map(Namespace::new) {
        errors.also(Path::Field(&here, "namespace"), error.to_string());
    }
    if let Some(Err(error)) = text("uid").map(crate::Uid::new) {
        errors.also(Path::Field(&here, "uid"), error.to_string());
    }
    let entries = |name: &str| metadata.get(name).and_then(Value::as_object).into_iter().flatten();
    let labels = Path::Field(&here, "labels");
    for (key, value) in entries("labels") {
        check_key(key, labels, errors);
        if !value.as_str().is_some_and(|value| value.is_empty() || is_label_part(value)) {
            errors.also(
                Path::Field(&labels, key),
                "must be at most 63 letters, digits, '-', '_' or '.', starting and ending with a letter or digit"
                    .to_owned(),
            );
        }
    }
    let annotations = Path::Field(&here, "annotations");
    let mut size = 0usize;
    for (key, value) in entries("annotations") {
        check_key(&key.to_lowercase(), annotations, errors);
        size = size.saturating_add(key.len()).saturating_add(value.as_str().map_or(0, str::len));
    }
    if size > MAX_ANNOTATIONS {
        errors.push(annotations, format!("too long: {size} bytes, at most {MAX_ANNOTATIONS} are allowed"));
    }
}

/// A key: an optional subdomain and `/`, then a name (`apimachinery` `IsQualifiedName`).
fn check_key(key: &str, path: Path<'_>, errors: &mut Errors) {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if !is_label_part(name) || prefix.is_some_and(|prefix| Name::new(prefix).is_err()) {
        errors.also(
            Path::Field(&path, key),
            "must be a key such as \"name\" or \"example.com/name\": at most 63 letters, digits, '-', '_' or '.' after the '/'"
                .to_owned(),
        );
    }
}

fn is_label_part(text: &str) -> bool {
    let alnum = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && alnum(bytes.first())
        && alnum(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}
