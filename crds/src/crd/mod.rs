//! The CustomResourceDefinitions: what kube derives from the types, with every value bounded.

mod bounds;

pub(crate) use bounds::explain;

use std::sync::LazyLock;

use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use crate::Kind;

/// A CustomResourceDefinition as JSON, complete: an API server takes it as it is. `null` for a kind of `core/v1`.
pub fn crd(kind: Kind) -> Value {
    let derived = match kind {
        Kind::Container => crate::Container::crd(),
        Kind::DataContainer => crate::DataContainer::crd(),
        Kind::Volume => crate::Volume::crd(),
        Kind::ConfigMap | Kind::Secret => return Value::Null,
    };
    let mut crd = serde_json::to_value(derived).expect("a definition is plain data");
    let schema = crd
        .pointer_mut("/spec/versions/0/schema/openAPIV3Schema")
        .expect("a derived definition has a schema for its one version");
    finish(kind, schema, "");
    if let Some(top) = schema.as_object_mut() {
        top.remove("title");
    }
    crd
}

/// The schema of a kind: `openAPIV3Schema` of its [`crd`].
pub(crate) fn schema(kind: Kind) -> &'static Value {
    fn of(kind: Kind) -> Value {
        if kind.is_core() {
            return crate::config::schema(kind);
        }
        crd(kind)
            .pointer_mut("/spec/versions/0/schema/openAPIV3Schema")
            .map(Value::take)
            .expect("a definition has a schema")
    }
    static CONTAINER: LazyLock<Value> = LazyLock::new(|| of(Kind::Container));
    static DATA_CONTAINER: LazyLock<Value> = LazyLock::new(|| of(Kind::DataContainer));
    static VOLUME: LazyLock<Value> = LazyLock::new(|| of(Kind::Volume));
    static CONFIG_MAP: LazyLock<Value> = LazyLock::new(|| of(Kind::ConfigMap));
    static SECRET: LazyLock<Value> = LazyLock::new(|| of(Kind::Secret));
    match kind {
        Kind::Container => &CONTAINER,
        Kind::DataContainer => &DATA_CONTAINER,
        Kind::Volume => &VOLUME,
        Kind::ConfigMap => &CONFIG_MAP,
        Kind::Secret => &SECRET,
    }
}

/// All CustomResourceDefinitions as YAML, one document each.
pub fn crd_yaml() -> String {
    let documents: Vec<String> = Kind::CUSTOM.iter().map(|kind| crate::to_yaml(&crd(*kind))).collect();
    documents.join("---\n")
}

/// Makes a derived schema one that holds for a server and for [`crate::admit`] alike.
fn finish(kind: Kind, schema: &mut Value, path: &str) {
    let Some(node) = schema.as_object_mut() else { return };
    // `field: null` is refused with a message instead of being one more way to say nothing: `has()` in a rule is true
    // for it.
    node.remove("nullable");
    if let Some(values) = node.get_mut("enum").and_then(Value::as_array_mut) {
        values.retain(|value| !value.is_null());
    }
    integer_format(node);
    if let Some(extra) = bounds::explicit(kind, path) {
        for (key, value) in extra {
            node.insert(key, value);
        }
    }
    bounds::fallback(node);
    if let Some(Value::Object(properties)) = node.get_mut("properties") {
        for (name, property) in properties {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            finish(kind, property, &path);
        }
    }
    if let Some(items) = node.get_mut("items") {
        finish(kind, items, &format!("{path}[]"));
    }
}

/// Kubernetes knows the formats int32 and int64 only; what is narrower or unsigned becomes a range.
fn integer_format(node: &mut Map<String, Value>) {
    let (format, max) = match node.get("format").and_then(Value::as_str) {
        Some("uint8") => ("int32", 255),
        Some("uint16") => ("int32", 65_535),
        Some("uint32") => ("int64", 4_294_967_295i64),
        _ => return,
    };
    node.insert("format".to_owned(), json!(format));
    node.insert("minimum".to_owned(), json!(0));
    node.entry("maximum").or_insert(json!(max));
}

#[cfg(test)]
mod tests;
