//! What the schema has and this version does not run yet. A line goes when its behaviour is there.

use serde_json::Value;

use super::schema::{Errors, Path, show};
use crate::Kind;

/// How far a field is supported.
#[derive(Debug, Clone, Copy)]
enum Support {
    /// It must not be set.
    Unset,
    /// It may have one of these values.
    Only(&'static [&'static str]),
    /// It may be this.
    Bool(bool),
}

use Support::{Bool, Only, Unset};

/// Fields of a Container, with `[]` for every item of a list.
const CONTAINER: &[(&str, Support)] = &[
    ("spec.imagePullSecrets", Unset),
    ("spec.ports[].hostPort", Unset),
    ("spec.ports[].hostIP", Unset),
    ("spec.securityContext.procMount", Only(&["Default"])),
    ("spec.securityContext.seccompProfile.type", Only(&["RuntimeDefault", "Unconfined"])),
    ("spec.securityContext.appArmorProfile", Unset),
    ("spec.securityContext.seLinuxOptions", Unset),
    ("spec.hostUsers", Bool(true)),
];

/// Fields of a Volume.
const VOLUME: &[(&str, Support)] = &[("spec.driver", Only(&["local", "tmpfs", "hostPath"]))];

fn table(kind: Kind) -> &'static [(&'static str, Support)] {
    match kind {
        Kind::Container => CONTAINER,
        Kind::Volume => VOLUME,
        Kind::DataContainer | Kind::ConfigMap | Kind::Secret => &[],
    }
}

/// Reports what is set and not supported.
pub(super) fn check(kind: Kind, value: &Value, errors: &mut Errors) {
    for (path, support) in table(kind) {
        walk(value, path, *support, Path::Root, errors);
    }
}

fn walk(value: &Value, rest: &str, support: Support, path: Path<'_>, errors: &mut Errors) {
    if rest.is_empty() {
        let refused = match support {
            Unset => !is_empty(value),
            Only(allowed) => value.as_str().is_some_and(|text| !allowed.contains(&text)),
            Bool(allowed) => value.as_bool().is_some_and(|have| have != allowed),
        };
        if refused {
            let what = match support {
                Unset => String::new(),
                _ => format!("{} is ", show(value)),
            };
            errors.push(path, format!("{what}not supported by this version"));
        }
        return;
    }
    let (name, after) = rest.split_once('.').unwrap_or((rest, ""));
    let (name, each) = match name.strip_suffix("[]") {
        Some(name) => (name, true),
        None => (name, false),
    };
    let Some(child) = value.get(name) else { return };
    let here = Path::Field(&path, name);
    if !each {
        return walk(child, after, support, here, errors);
    }
    for (at, item) in child.as_array().into_iter().flatten().enumerate() {
        walk(item, after, support, Path::Index(&here, at), errors);
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// The paths of the table, for a test that each is a field of the schema.
#[cfg(test)]
pub(super) fn paths(kind: Kind) -> impl Iterator<Item = &'static str> {
    table(kind).iter().map(|(path, _)| *path)
}
