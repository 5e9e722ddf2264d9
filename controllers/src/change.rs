//! What a change of a spec asks for: nothing, an update of the running process, or another process.

use std::fmt;

use serde_json::Value;
use stower_crds::ContainerSpec;

/// Fields that a running container takes over without a new process. A field that is not here needs one, so a
/// field that is added later is safe.
const IN_PLACE: &[&str] = &[
    "imagePullPolicy",
    "imagePullSecrets",
    "lifecycle",
    "livenessProbe",
    "nodeName",
    "ports",
    "readinessProbe",
    "resources",
    "restart",
    "restartPolicy",
    "startupProbe",
    "stopSignal",
    "terminationGracePeriodSeconds",
    "terminationMessagePolicy",
];
/// Those of them that something on the machine must be told of; the others are read when they are needed.
const APPLIED: &[&str] = &["resources"];
/// Fields whose values may be secret and are not shown.
const HIDDEN: &[&str] = &["env"];
/// The longest value that is shown, in characters.
const MAX_SHOWN: usize = 80;

/// A field that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldChange {
    /// Its path: `spec.image`.
    pub path: String,
    /// What it was; `None` when it was not set, or is not to be shown.
    pub from: Option<String>,
    /// What it is; likewise.
    pub to: Option<String>,
}

impl fmt::Display for FieldChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => write!(f, "{} changed {from} -> {to}", self.path),
            (None, Some(to)) => write!(f, "{} set to {to}", self.path),
            (Some(from), None) => write!(f, "{} removed (was {from})", self.path),
            (None, None) => write!(f, "{} changed", self.path),
        }
    }
}

/// What a change of a spec asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Both are the same.
    None,
    /// The running process stays.
    InPlace {
        /// What differs.
        fields: Vec<FieldChange>,
        /// Something on the machine must be told; otherwise remembering it is enough.
        applied: bool,
    },
    /// Only another process, with new storage, can be as declared.
    Replace {
        /// What differs and asks for that.
        fields: Vec<FieldChange>,
    },
}

/// Compares two defaulted specs.
pub fn diff(old: &ContainerSpec, new: &ContainerSpec) -> Change {
    if old == new {
        return Change::None;
    }
    let (old, new) = (top_level(old), top_level(new));
    let mut in_place = Vec::new();
    let mut replace = Vec::new();
    let mut applied = false;
    let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let (before, after) = (old.get(name), new.get(name));
        if before == after {
            continue;
        }
        let to = if IN_PLACE.contains(&name.as_str()) {
            applied |= APPLIED.contains(&name.as_str());
            &mut in_place
        } else {
            &mut replace
        };
        let hidden = HIDDEN.contains(&name.as_str());
        compare(&format!("spec.{name}"), before, after, hidden, to);
    }
    if !replace.is_empty() {
        Change::Replace { fields: replace }
    } else if in_place.is_empty() {
        Change::None
    } else {
        Change::InPlace { fields: in_place, applied }
    }
}

fn top_level(spec: &ContainerSpec) -> serde_json::Map<String, Value> {
    match serde_json::to_value(spec) {
        Ok(Value::Object(fields)) => fields,
        // A spec is a struct of named fields; should it ever not be one, the whole of it has changed.
        _ => [(String::new(), Value::String(format!("{spec:?}")))].into_iter().collect(),
    }
}

/// Names the smallest fields that differ; a list is one field.
fn compare(
    path: &str,
    before: Option<&Value>,
    after: Option<&Value>,
    hidden: bool,
    changes: &mut Vec<FieldChange>,
) {
    if let (Some(Value::Object(before)), Some(Value::Object(after))) = (before, after) {
        let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            if before.get(name) != after.get(name) {
                compare(&format!("{path}.{name}"), before.get(name), after.get(name), hidden, changes);
            }
        }
        return;
    }
    let shown = |value: Option<&Value>| if hidden { None } else { value.map(show) };
    changes.push(FieldChange { path: path.to_owned(), from: shown(before), to: shown(after) });
}

fn show(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    // Control characters would reach a terminal through `stower plan`.
    let mut shown: String =
        text.chars().take(MAX_SHOWN).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(MAX_SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests;
