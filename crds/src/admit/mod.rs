//! From a JSON value to an object, or to what is wrong with it.

mod metadata;
mod rules;
mod schema;
mod support;

use std::sync::LazyLock;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use self::schema::{Errors, Path, Schema};
use crate::{
    API_VERSION, ConfigMap, Container, DataContainer, Kind, Location, Name, Namespace, ObjectKey, Secret,
    Uid, Volume, config, crd,
};

/// Kinds that the project will have and this version does not run, with the group they are of.
const NOT_YET: &[(&str, &str)] = &[(crate::GROUP, "ContainerSet"), (crate::GROUP, "NodeAgent")];

/// What is known beside the document.
#[derive(Debug, Clone, Copy, Default)]
pub struct AdmitContext<'a> {
    /// Namespace of an object that names none; `default` when it is not given.
    pub default_namespace: Option<&'a Namespace>,
    /// The accepted object that this one replaces, for the rules that compare.
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

impl FieldError {
    fn document(message: String) -> Self {
        Self { path: String::new(), message, location: None }
    }

    fn field(path: &str, message: String) -> Self {
        Self { path: path.to_owned(), message, location: None }
    }
}

impl std::fmt::Display for FieldError {
    /// `12:5: spec.imagee: unknown field`, as far as each part is known; a file's name and `:` go before it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(location) = &self.location {
            write!(f, "{location}: ")?;
        }
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
    /// A set of volumes.
    DataContainer(Box<DataContainer>),
    /// A volume.
    Volume(Box<Volume>),
    /// Values.
    ConfigMap(Box<ConfigMap>),
    /// Secret values.
    Secret(Box<Secret>),
}

impl Object {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Object::Container(_) => Kind::Container,
            Object::DataContainer(_) => Kind::DataContainer,
            Object::Volume(_) => Kind::Volume,
            Object::ConfigMap(_) => Kind::ConfigMap,
            Object::Secret(_) => Kind::Secret,
        }
    }

    /// Its metadata.
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Object::Container(object) => &object.metadata,
            Object::DataContainer(object) => &object.metadata,
            Object::Volume(object) => &object.metadata,
            Object::ConfigMap(object) => &object.metadata,
            Object::Secret(object) => &object.metadata,
        }
    }

    /// Its metadata, to be changed.
    pub fn metadata_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Object::Container(object) => &mut object.metadata,
            Object::DataContainer(object) => &mut object.metadata,
            Object::Volume(object) => &mut object.metadata,
            Object::ConfigMap(object) => &mut object.metadata,
            Object::Secret(object) => &mut object.metadata,
        }
    }

    /// Its key.
    pub fn key(&self) -> ObjectKey {
        let metadata = self.metadata();
        let checked = "admission filled in and checked it";
        let namespace = Namespace::new(metadata.namespace.clone().unwrap_or_default()).expect(checked);
        let name = Name::new(metadata.name.clone().unwrap_or_default()).expect(checked);
        ObjectKey::new(self.kind(), namespace, name)
    }

    /// Its UID, where it has one.
    pub fn uid(&self) -> Option<Uid> {
        self.metadata().uid.as_ref().and_then(|uid| Uid::new(uid.as_str()).ok())
    }

    /// The node that it is for, where it names one.
    pub fn node_name(&self) -> Option<&str> {
        match self {
            Object::Container(object) => object.spec.node_name.as_deref(),
            Object::DataContainer(object) => object.spec.node_name.as_deref(),
            Object::Volume(object) => object.spec.node_name.as_deref(),
            Object::ConfigMap(_) | Object::Secret(_) => None,
        }
    }

    /// The object as JSON, with its defaults.
    pub fn to_value(&self) -> Value {
        let value = match self {
            Object::Container(object) => serde_json::to_value(object),
            Object::DataContainer(object) => serde_json::to_value(object),
            Object::Volume(object) => serde_json::to_value(object),
            Object::ConfigMap(object) => serde_json::to_value(object),
            Object::Secret(object) => serde_json::to_value(object),
        };
        value.expect("an object is JSON")
    }
}

/// Admits a document in the API server's order: unknown fields, defaults, schema, CEL rules; then what this version
/// does not support. A `status` in it is dropped, as it is when a spec is written to a server.
///
/// # Errors
/// Everything that is wrong, of the first of these steps that finds something; at most a hundred of them.
pub fn admit(mut value: Value, context: &AdmitContext<'_>) -> Result<Object, Vec<FieldError>> {
    let kind = read_kind(&value).map_err(|error| vec![error])?;
    let schema = compiled(kind);
    if let Value::Object(map) = &mut value {
        map.remove("status");
    }
    metadata::fill(&mut value, context.default_namespace);

    let mut errors = Errors::default();
    schema.unknown(&value, Path::Root, &mut errors);
    errors.check()?;

    schema.fill(&mut value);

    let mut errors = Errors::default();
    schema.check(&value, Path::Root, &mut errors);
    metadata::check(&value, &mut errors);
    let old = context.old.map(Object::to_value);
    if !errors.is_blocking() {
        rules::check(kind, &value, old.as_ref(), &mut errors);
    }
    errors.check()?;

    if kind.is_core() {
        let refused = config::finish(kind, &mut value, old.as_ref());
        if !refused.is_empty() {
            return Err(refused.into_iter().map(|(path, why)| FieldError::field(&path, why)).collect());
        }
    }

    let mut errors = Errors::default();
    support::check(kind, &value, &mut errors);
    errors.check()?;

    decode(kind, value)
}

/// Compiles schemas and rules, which the first [`admit`] of a process does otherwise (26 ms here, against 0.07 ms for
/// each later one). An agent calls it while it starts.
pub fn prepare() {
    for kind in Kind::ALL {
        compiled(*kind);
        rules::prepare(*kind);
    }
}

/// Reads an object that was admitted before, from where it was kept. Rules are not asked again: what was accepted
/// stays accepted, also by a release with more rules.
///
/// # Errors
/// When it is not of the kind's shape.
pub fn read_accepted(value: Value) -> Result<Object, Vec<FieldError>> {
    let kind = read_kind(&value).map_err(|error| vec![error])?;
    let mut errors = Errors::default();
    metadata::check(&value, &mut errors);
    errors.check()?;
    let object = decode(kind, value)?;
    if object.metadata().name.is_none() || object.metadata().namespace.is_none() {
        return Err(vec![FieldError::field("metadata", "name and namespace are required".to_owned())]);
    }
    Ok(object)
}

/// Whether the defaulted specs of two objects differ, which makes a new generation. Of values without a spec, all but
/// the metadata counts.
pub fn spec_changed(old: &Object, new: &Object) -> bool {
    match (old, new) {
        (Object::Container(old), Object::Container(new)) => old.spec != new.spec,
        (Object::DataContainer(old), Object::DataContainer(new)) => old.spec != new.spec,
        (Object::Volume(old), Object::Volume(new)) => old.spec != new.spec,
        (Object::ConfigMap(old), Object::ConfigMap(new)) => {
            (&old.data, &old.binary_data, old.immutable) != (&new.data, &new.binary_data, new.immutable)
        }
        (Object::Secret(old), Object::Secret(new)) => {
            (&old.data, &old.type_, old.immutable) != (&new.data, &new.type_, new.immutable)
        }
        _ => true,
    }
}

fn decode(kind: Kind, value: Value) -> Result<Object, Vec<FieldError>> {
    let decoded = match kind {
        Kind::Container => serde_json::from_value(value).map(Object::Container),
        Kind::DataContainer => serde_json::from_value(value).map(Object::DataContainer),
        Kind::Volume => serde_json::from_value(value).map(Object::Volume),
        Kind::ConfigMap => serde_json::from_value(value).map(Object::ConfigMap),
        Kind::Secret => serde_json::from_value(value).map(Object::Secret),
    };
    decoded.map_err(|error| {
        let message = error.to_string();
        // The reader's message may quote a value, and that may be secret.
        let message =
            if kind == Kind::Secret { "is not of the shape of a Secret".to_owned() } else { message };
        vec![FieldError::document(message)]
    })
}

/// The compiled schema of a kind, with `metadata` and without `status`.
fn compiled(kind: Kind) -> &'static Schema {
    fn of(kind: Kind) -> Schema {
        let mut schema = crd::schema(kind).clone();
        if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
            properties.remove("status");
            properties.insert("metadata".to_owned(), metadata::schema());
            for name in ["apiVersion", "kind"] {
                properties.insert(name.to_owned(), serde_json::json!({ "type": "string", "maxLength": 253 }));
            }
        }
        schema["required"] = if kind.is_core() {
            serde_json::json!(["apiVersion", "kind", "metadata"])
        } else {
            serde_json::json!(["apiVersion", "kind", "metadata", "spec"])
        };
        Schema::compile(&schema).expect("the schema of a kind compiles")
    }
    static CONTAINER: LazyLock<Schema> = LazyLock::new(|| of(Kind::Container));
    static DATA_CONTAINER: LazyLock<Schema> = LazyLock::new(|| of(Kind::DataContainer));
    static VOLUME: LazyLock<Schema> = LazyLock::new(|| of(Kind::Volume));
    static CONFIG_MAP: LazyLock<Schema> = LazyLock::new(|| of(Kind::ConfigMap));
    static SECRET: LazyLock<Schema> = LazyLock::new(|| of(Kind::Secret));
    match kind {
        Kind::Container => &CONTAINER,
        Kind::DataContainer => &DATA_CONTAINER,
        Kind::Volume => &VOLUME,
        Kind::ConfigMap => &CONFIG_MAP,
        Kind::Secret => &SECRET,
    }
}

/// Finds the kind of a document.
fn read_kind(value: &Value) -> Result<Kind, FieldError> {
    let Value::Object(map) = value else {
        return Err(FieldError::document(
            "must be a map with apiVersion, kind, metadata and spec".to_owned(),
        ));
    };
    let text = |name: &str| match map.get(name) {
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(_) => Err(FieldError::field(name, "must be a string".to_owned())),
        None => Err(FieldError::field(name, "is required".to_owned())),
    };
    let (api_version, kind) = (text("apiVersion")?, text("kind")?);
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    if NOT_YET.contains(&(group, kind)) {
        return Err(FieldError::document(format!("kind {kind}: not supported by this version")));
    }
    let known = Kind::ALL.iter().find(|known| known.as_str() == kind);
    match known {
        Some(known) if api_version == known.api_version() => Ok(*known),
        _ => {
            let names = |core: bool| {
                let all: Vec<&str> = Kind::ALL
                    .iter()
                    .filter(|kind| kind.is_core() == core)
                    .map(|kind| kind.as_str())
                    .collect();
                all.join(", ")
            };
            let shown = |text: &str| schema::show(&Value::String(text.to_owned()));
            Err(FieldError::document(format!(
                "no kind {} in version {}: there are {} in {API_VERSION}, and {} in v1",
                shown(kind),
                shown(api_version),
                names(false),
                names(true),
            )))
        }
    }
}

#[cfg(test)]
mod tests;
