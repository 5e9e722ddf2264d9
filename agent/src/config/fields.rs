//! Every field of the configuration: how it is written, what else names it, and when a change of it takes effect.

use serde_json::Value;

/// How a field is written in YAML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// A text.
    Text,
    /// A number of bytes, or a text such as `10Mi`.
    Size,
    /// A whole number that is not negative.
    Number,
    /// `true` or `false`.
    Bool,
    /// A list of texts.
    List,
    /// A map, with keys of its own.
    Map,
}

/// When a change of a field takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// At once, for what begins after it.
    Live,
    /// With the agent's next start.
    Restart,
}

impl Reload {
    /// As people read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Restart => "restart",
        }
    }
}

/// One field.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    /// Its name, with dots between the levels.
    pub(super) path: &'static str,
    pub(super) shape: Shape,
    pub(super) reload: Reload,
    /// The flag of `stower agent` that says the same.
    pub(super) flag: Option<&'static str>,
}

const fn live(path: &'static str, shape: Shape) -> Field {
    Field { path, shape, reload: Reload::Live, flag: None }
}

const fn restart(path: &'static str, shape: Shape) -> Field {
    Field { path, shape, reload: Reload::Restart, flag: None }
}

const fn flag(flag: &'static str, field: Field) -> Field {
    Field { flag: Some(flag), ..field }
}

/// All of them, in the order in which they are shown.
pub(super) const FIELDS: &[Field] = &[
    flag("--manifests", restart("manifests", Shape::Text)),
    flag("--data-root", restart("dataRoot", Shape::Text)),
    flag("--run-root", restart("runRoot", Shape::Text)),
    flag("--socket", restart("socket", Shape::Text)),
    flag("--node-name", restart("nodeName", Shape::Text)),
    restart("cgroupParent", Shape::Text),
    restart("containers.limits", Shape::Map),
    flag("--metrics-bind-address", restart("metricsBindAddress", Shape::Text)),
    flag("--allow-empty", live("allowEmpty", Shape::Bool)),
    live("logLevel", Shape::Text),
    live("startConcurrency", Shape::Number),
    flag("--insecure-registry", live("insecureRegistries", Shape::List)),
    flag("--storage-driver", restart("storageDriver", Shape::Text)),
    flag("--storage-opt", restart("storageOpts", Shape::List)),
    flag("--volume-capacity", live("volumeCapacity", Shape::Text)),
    live("images.gc.enabled", Shape::Bool),
    live("images.gc.highThresholdPercent", Shape::Number),
    live("images.gc.lowThresholdPercent", Shape::Number),
    live("images.gc.minAge", Shape::Text),
    live("images.gc.pinned", Shape::List),
    live("images.unpack.maxSize", Shape::Size),
    live("images.unpack.maxRatio", Shape::Number),
    live("images.unpack.maxEntries", Shape::Number),
    live("storage.minFree", Shape::Map),
    live("storage.minFreeInodes", Shape::Map),
    live("logging.maxSize", Shape::Size),
    live("logging.maxFiles", Shape::Number),
    live("logging.mode", Shape::Text),
    live("runtimes", Shape::Map),
    flag("--kubeconfig", restart("kube.kubeconfig", Shape::Text)),
    flag("--kube", restart("kube.enabled", Shape::Bool)),
    flag("--kube-context", restart("kube.context", Shape::Text)),
    restart("kube.secretCache", Shape::Text),
    restart("kube.leaseNamespace", Shape::Text),
    restart("kube.leaseOwner", Shape::Text),
];

/// The field of that name.
pub(super) fn find(path: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.path == path)
}

/// The environment variable of a field: `images.gc.minAge` is `STOWER_IMAGES_GC_MIN_AGE`.
pub(super) fn variable(path: &str) -> String {
    if path == "logLevel" {
        return "STOWER_LOG".to_owned();
    }
    let mut name = "STOWER_".to_owned();
    for letter in path.chars() {
        match letter {
            '.' => name.push('_'),
            letter if letter.is_ascii_uppercase() => name.extend(['_', letter]),
            letter => name.push(letter.to_ascii_uppercase()),
        }
    }
    name
}

/// A value as its field takes it.
///
/// # Errors
/// What it must be instead.
pub(super) fn shaped(shape: Shape, value: Value) -> Result<Value, String> {
    let fits = match (shape, &value) {
        (Shape::Size, Value::Number(number)) => return Ok(Value::String(number.to_string())),
        (Shape::Text | Shape::Size, Value::String(_))
        | (Shape::Bool, Value::Bool(_))
        | (Shape::Map, Value::Object(_)) => true,
        (Shape::Number, Value::Number(number)) => number.is_u64(),
        (Shape::List, Value::Array(items)) => items.iter().all(Value::is_string),
        _ => false,
    };
    if fits {
        return Ok(value);
    }
    let wanted = match shape {
        Shape::Text => "a text (in quotes, where it looks like something else)",
        Shape::Size => "a size, such as 10Mi",
        Shape::Number => "a whole number, not negative",
        Shape::Bool => "true or false",
        Shape::List => "a list of texts",
        Shape::Map => "a map",
    };
    Err(format!("{value} must be {wanted}"))
}

/// What a variable of the environment says for a field. Lists have commas; maps are YAML.
///
/// # Errors
/// What it must be instead.
pub(super) fn from_text(shape: Shape, text: &str) -> Result<Value, String> {
    let value = match shape {
        Shape::Text | Shape::Size => Value::from(text),
        Shape::List => {
            text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(Value::from).collect()
        }
        Shape::Number | Shape::Bool | Shape::Map => serde_json::from_str(text)
            .or_else(|_| serde_yaml::from_str(text))
            .unwrap_or_else(|_| Value::from(text)),
    };
    shaped(shape, value)
}
