//! Values of ConfigMaps, Secrets and of the object itself, as variables and as files.

use std::{collections::BTreeSet, fmt};

use stower_crds::{
    ConfigMapVolumeSource, ContainerSpec, EnvFromSource, EnvVar, KeyToPath, Kind, Name, ObjectKey,
    SecretVolumeSource,
};

use super::Problem;
use crate::desired::{Declared, Desired, Values};

/// A variable. Its value may be secret and is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// `$(NAME)` in it stands for another variable; only what the spec itself says does so.
    pub expand: bool,
}

impl fmt::Debug for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=…", self.name)
    }
}

/// The files of a ConfigMap or Secret volume.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Files(pub Vec<File>);

/// One of them. Its content may be secret and is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct File {
    /// Relative path, without `..`.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Content.
    pub data: Vec<u8>,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:o}, {} bytes)", self.path, self.mode, self.data.len())
    }
}

/// Every ConfigMap and Secret that variables come from.
pub(super) fn references(spec: &ContainerSpec) -> impl Iterator<Item = (Kind, &str)> {
    let from = spec.env_from.iter().flat_map(|source| {
        let map = source.config_map_ref.as_ref().map(|it| (Kind::ConfigMap, it.name.as_str()));
        let secret = source.secret_ref.as_ref().map(|it| (Kind::Secret, it.name.as_str()));
        [map, secret]
    });
    let one = spec.env.iter().filter_map(|var| var.value_from.as_ref()).flat_map(|source| {
        let map = source.config_map_key_ref.as_ref().map(|it| (Kind::ConfigMap, it.name.as_str()));
        let secret = source.secret_key_ref.as_ref().map(|it| (Kind::Secret, it.name.as_str()));
        [map, secret]
    });
    from.chain(one).flatten()
}

/// The values of an object that may be missing when it is optional: `Ok(None)` then.
fn look_up<'a>(
    declared: &Declared,
    kind: Kind,
    name: &str,
    optional: bool,
    desired: &'a Desired,
) -> Result<Option<&'a Values>, Problem> {
    let Ok(parsed) = Name::new(name) else {
        return Err(Problem::invalid(format!("{name:?} is no name of a {kind}")));
    };
    let key = ObjectKey::new(kind, declared.key.namespace.clone(), parsed);
    let found = match desired.values(&key) {
        None => Err(match desired.unavailable(&declared.source, &key) {
            Some(why) => Problem::unavailable(&key, why),
            None => Problem::missing(&key),
        }),
        Some(it) => Problem::check(&key, it.terminating, &it.source, &declared.source)
            .map(|()| Some(it.spec.as_ref())),
    };
    match found {
        // What may be there is not left out.
        Err(problem) if optional && !problem.kind.is_unavailable() => Ok(None),
        other => other,
    }
}

fn missing_key(declared: &Declared, kind: Kind, name: &str, key: &str) -> Problem {
    Problem {
        kind: super::ProblemKind::Missing,
        message: format!("{kind} {}/{name} has no key {key:?}", declared.key.namespace),
    }
}

/// The variables of `envFrom`, then those of `env`.
pub(super) fn environment(
    declared: &Declared,
    desired: &Desired,
    problems: &mut Vec<Problem>,
) -> Vec<Variable> {
    let mut env = Vec::new();
    for source in &declared.spec.env_from {
        if let Err(problem) = env_from(declared, source, desired, &mut env, problems) {
            problems.push(problem);
        }
    }
    for var in &declared.spec.env {
        match variable(declared, var, desired) {
            Ok(Some((value, expand))) => env.push(Variable { name: var.name.clone(), value, expand }),
            Ok(None) => {}
            Err(problem) => problems.push(problem),
        }
    }
    env
}

fn env_from(
    declared: &Declared,
    source: &EnvFromSource,
    desired: &Desired,
    env: &mut Vec<Variable>,
    problems: &mut Vec<Problem>,
) -> Result<(), Problem> {
    let (kind, name, optional) = match (&source.config_map_ref, &source.secret_ref) {
        (Some(it), _) => (Kind::ConfigMap, &it.name, it.optional),
        (None, Some(it)) => (Kind::Secret, &it.name, it.optional),
        (None, None) => return Ok(()),
    };
    let Some(values) = look_up(declared, kind, name, optional, desired)? else { return Ok(()) };
    let prefix = source.prefix.as_deref().unwrap_or_default();
    for (key, value) in &values.0 {
        match text(kind, name, key, value) {
            Ok(value) => env.push(Variable { name: format!("{prefix}{key}"), value, expand: false }),
            Err(problem) => problems.push(problem),
        }
    }
    Ok(())
}

/// A variable takes no zero byte, and here it is text.
fn text(kind: Kind, name: &str, key: &str, value: &[u8]) -> Result<String, Problem> {
    match std::str::from_utf8(value) {
        Ok(text) if !text.contains('\0') => Ok(text.to_owned()),
        _ => Err(Problem::invalid(format!(
            "key {key:?} of {kind} {name} is not text, which a variable must be; mount it as a file"
        ))),
    }
}

/// A value and whether it is expanded; `None` for an optional one that is not there.
fn variable(declared: &Declared, var: &EnvVar, desired: &Desired) -> Result<Option<(String, bool)>, Problem> {
    let Some(source) = &var.value_from else {
        return Ok(Some((var.value.clone().unwrap_or_default(), true)));
    };
    if let Some(field) = &source.field_ref {
        return match field_value(declared, &field.field_path, desired) {
            Some(value) => Ok(Some((value, false))),
            None => Err(Problem::invalid(format!(
                "env {}: fieldPath {:?} is none that can be read here",
                var.name, field.field_path
            ))),
        };
    }
    let (kind, name, key, optional) = match (&source.config_map_key_ref, &source.secret_key_ref) {
        (Some(it), _) => (Kind::ConfigMap, &it.name, &it.key, it.optional),
        (None, Some(it)) => (Kind::Secret, &it.name, &it.key, it.optional),
        (None, None) => return Ok(None),
    };
    let Some(values) = look_up(declared, kind, name, optional, desired)? else { return Ok(None) };
    match values.0.get(key) {
        Some(value) => Ok(Some((text(kind, name, key, value)?, false))),
        None if optional => Ok(None),
        None => Err(missing_key(declared, kind, name, key)),
    }
}

/// A field of the object. A label or annotation that is not there is empty, as in a Pod.
fn field_value(declared: &Declared, path: &str, desired: &Desired) -> Option<String> {
    let entry = |prefix: &str| -> Option<&str> {
        let key = path.strip_prefix(prefix)?.strip_suffix(']')?;
        key.strip_prefix('\'')
            .and_then(|key| key.strip_suffix('\''))
            .or_else(|| key.strip_prefix('"').and_then(|key| key.strip_suffix('"')))
    };
    Some(match path {
        "metadata.name" => declared.key.name.to_string(),
        "metadata.namespace" => declared.key.namespace.to_string(),
        "metadata.uid" => declared.uid.to_string(),
        "spec.nodeName" => desired.node_name().to_owned(),
        _ => {
            if let Some(key) = entry("metadata.labels[") {
                declared.meta.labels.get(key).cloned().unwrap_or_default()
            } else {
                let key = entry("metadata.annotations[")?;
                declared.meta.annotations.get(key).cloned().unwrap_or_default()
            }
        }
    })
}

/// The files of a ConfigMap volume.
pub(super) fn config_map(
    declared: &Declared,
    source: &ConfigMapVolumeSource,
    desired: &Desired,
    problems: &mut Vec<Problem>,
) -> Option<Files> {
    let wanted = (Kind::ConfigMap, source.name.as_str(), source.optional);
    files(declared, wanted, &source.items, source.default_mode, desired, problems)
}

/// The files of a Secret volume.
pub(super) fn secret(
    declared: &Declared,
    source: &SecretVolumeSource,
    desired: &Desired,
    problems: &mut Vec<Problem>,
) -> Option<Files> {
    let wanted = (Kind::Secret, source.secret_name.as_str(), source.optional);
    files(declared, wanted, &source.items, source.default_mode, desired, problems)
}

fn files(
    declared: &Declared,
    (kind, name, optional): (Kind, &str, bool),
    items: &[KeyToPath],
    default_mode: u32,
    desired: &Desired,
    problems: &mut Vec<Problem>,
) -> Option<Files> {
    let values = match look_up(declared, kind, name, optional, desired) {
        Ok(Some(values)) => values,
        Ok(None) => return Some(Files::default()),
        Err(problem) => {
            problems.push(problem);
            return None;
        }
    };
    if items.is_empty() {
        let file = |(key, data): (&String, &Vec<u8>)| File {
            path: key.clone(),
            mode: default_mode,
            data: data.clone(),
        };
        return Some(Files(values.0.iter().map(file).collect()));
    }
    let mut files = Vec::new();
    let mut paths = BTreeSet::new();
    let before = problems.len();
    for item in items {
        let path: Vec<&str> = item.path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        if path.is_empty() || path.contains(&"..") || path[0].starts_with("..") {
            problems.push(Problem::invalid(format!(
                "{kind} {name}: path {:?} is no path of a file in the volume",
                item.path
            )));
            continue;
        }
        let path = path.join("/");
        let inside = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|rest| rest.starts_with('/'));
        if paths.iter().any(|other: &String| *other == path || inside(other, &path) || inside(&path, other)) {
            problems.push(Problem::invalid(format!("{kind} {name}: two items are at path {path:?}")));
            continue;
        }
        paths.insert(path.clone());
        match values.0.get(&item.key) {
            Some(data) => {
                let mode = item.mode.unwrap_or(default_mode);
                files.push(File { path, mode, data: data.clone() });
            }
            None if optional => {}
            None => problems.push(missing_key(declared, kind, name, &item.key)),
        }
    }
    (problems.len() == before).then_some(Files(files))
}
