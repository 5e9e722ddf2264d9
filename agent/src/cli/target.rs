//! Which objects a command is about, as kubectl reads its arguments.

use serde_json::Value;

use super::{context::Context, error::CliError};
use crate::client::Url;

/// The group and version of the kinds that are not of `core/v1`.
const GROUP_VERSION: &str = "stower.dev/v1alpha1";

/// A kind as requests and people name it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Resource {
    /// In documents: `Container`.
    pub(super) kind: &'static str,
    /// In request paths: `containers`.
    pub(super) plural: &'static str,
    /// In `-o name`: `container`.
    pub(super) singular: &'static str,
    short: &'static [&'static str],
    /// Whether it is of `core/v1`.
    core: bool,
}

/// The kinds that this command line knows.
pub(super) const RESOURCES: &[Resource] = &[
    Resource {
        kind: "Container",
        plural: "containers",
        singular: "container",
        short: &["ctr", "sctr"],
        core: false,
    },
    Resource {
        kind: "DataContainer",
        plural: "datacontainers",
        singular: "datacontainer",
        short: &["sdc", "dc"],
        core: false,
    },
    Resource { kind: "Volume", plural: "volumes", singular: "volume", short: &["svol", "vol"], core: false },
    Resource { kind: "ConfigMap", plural: "configmaps", singular: "configmap", short: &["cm"], core: true },
    Resource { kind: "Secret", plural: "secrets", singular: "secret", short: &[], core: true },
];

/// What `all` stands for: as in kubectl, not the kinds that only hold values.
const ALL: &str = "all";

impl Resource {
    /// A kind by any of its names, with the group or without.
    pub(super) fn find(word: &str) -> Option<&'static Self> {
        let lower = word.to_ascii_lowercase();
        let (bare, custom) = match lower.strip_suffix(".stower.dev") {
            Some(bare) => (bare, true),
            None => (lower.as_str(), false),
        };
        RESOURCES
            .iter()
            .filter(|r| !(custom && r.core))
            .find(|r| bare == r.plural || bare == r.singular || r.short.contains(&bare))
    }

    /// A kind by its name in documents; Container for one that is not known.
    pub(super) fn named(kind: &str) -> &'static Self {
        RESOURCES.iter().find(|r| r.kind == kind).unwrap_or(&RESOURCES[0])
    }

    /// Whether it is of `core/v1`.
    pub(super) fn is_core(&self) -> bool {
        self.core
    }

    fn api_version(&self) -> &'static str {
        if self.core { "v1" } else { GROUP_VERSION }
    }

    /// The kind of an object.
    pub(super) fn of(object: &Value) -> Result<&'static Self, CliError> {
        let kind = object["kind"].as_str().unwrap_or_default();
        let known = RESOURCES.iter().find(|r| r.kind == kind && object["apiVersion"] == r.api_version());
        known.ok_or_else(|| {
            let names = |core: bool| {
                RESOURCES.iter().filter(|r| r.core == core).map(|r| r.kind).collect::<Vec<_>>().join(", ")
            };
            CliError::Message(format!(
                "no matches for kind {kind:?} in version {:?}: this version runs {} of {GROUP_VERSION}, and {} of v1",
                object["apiVersion"].as_str().unwrap_or_default(),
                names(false),
                names(true),
            ))
        })
    }

    /// The path of a list, in one namespace or in all.
    pub(super) fn list(&self, namespace: Option<&str>) -> Url {
        let mut segments = self.base();
        if let Some(namespace) = namespace {
            segments.extend(["namespaces", namespace]);
        }
        segments.push(self.plural);
        Url::new(&segments)
    }

    fn base(&self) -> Vec<&str> {
        if self.core { vec!["api", "v1"] } else { vec!["apis", "stower.dev", "v1alpha1"] }
    }
}

/// One object by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// Its kind.
    pub(super) resource: &'static Resource,
    /// Its namespace.
    pub(super) namespace: String,
    /// Its name.
    pub(super) name: String,
}

impl Target {
    /// The object that a document declares or shows; a namespace of its own wins over the default.
    pub(super) fn of(object: &Value, default_namespace: &str) -> Result<Self, CliError> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            return Err(CliError::Message(
                "metadata.name: Required value: every object has a name".to_owned(),
            ));
        }
        Ok(Self {
            resource: Resource::of(object)?,
            namespace: object["metadata"]["namespace"].as_str().unwrap_or(default_namespace).to_owned(),
            name: name.to_owned(),
        })
    }

    /// Its path.
    pub(super) fn url(&self) -> Url {
        self.sub(&[])
    }

    /// The path of a subresource.
    pub(super) fn sub(&self, more: &[&str]) -> Url {
        let mut segments = self.resource.base();
        segments.extend(["namespaces", &self.namespace, self.resource.plural, &self.name]);
        segments.extend(more);
        Url::new(&segments)
    }
}

impl std::fmt::Display for Target {
    /// As `-o name` and the reports of changes have it: `container.stower.dev/web`, `secret/key`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let group = if self.resource.core { "" } else { ".stower.dev" };
        write!(f, "{}{group}/{}", self.resource.singular, self.name)
    }
}

/// What the arguments of a command ask for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of some kinds.
    Kinds(Vec<&'static Resource>),
    /// Objects by name: kind and name.
    Names(Vec<(&'static Resource, String)>),
}

/// Reads `[KIND[,KIND]…] [NAME]…` or `KIND/NAME…`. A first word that is no kind is a container's name.
pub(super) fn wanted(words: &[String]) -> Result<Wanted, CliError> {
    let default = vec![&RESOURCES[0]];
    let Some(first) = words.first() else { return Ok(Wanted::Kinds(default)) };
    let (kinds, names) = match kinds(first)? {
        Some(kinds) => (kinds, &words[1..]),
        None => (default, words),
    };
    if names.is_empty() {
        return Ok(Wanted::Kinds(kinds));
    }
    let mut all = Vec::new();
    for kind in kinds {
        for word in names {
            all.push(one(word, kind)?);
        }
    }
    Ok(Wanted::Names(all))
}

/// Reads `KIND`, `KIND,KIND` or `all`; `None` for a word that may be a name.
fn kinds(word: &str) -> Result<Option<Vec<&'static Resource>>, CliError> {
    if !word.contains(',') {
        if word.eq_ignore_ascii_case(ALL) {
            return Ok(Some(RESOURCES.iter().filter(|r| !r.core).collect()));
        }
        return Ok(Resource::find(word).map(|kind| vec![kind]));
    }
    let mut found: Vec<&'static Resource> = Vec::new();
    for part in word.split(',') {
        let kind = Resource::find(part).ok_or_else(|| no_kind(part))?;
        if !found.contains(&kind) {
            found.push(kind);
        }
    }
    Ok(Some(found))
}

fn no_kind(word: &str) -> CliError {
    let names: Vec<_> = RESOURCES.iter().map(|r| r.plural).collect();
    CliError::Message(format!(
        "the agent doesn't have a resource type {word:?}: there are {}",
        names.join(", ")
    ))
}

/// Reads `NAME` or `KIND/NAME`.
fn one(word: &str, default: &'static Resource) -> Result<(&'static Resource, String), CliError> {
    let (kind, name) = match word.split_once('/') {
        None => (default, word),
        Some((kind, name)) => (Resource::find(kind).ok_or_else(|| no_kind(kind))?, name),
    };
    if name.is_empty() || name.contains('/') {
        return Err(CliError::Message(format!(
            "{word:?} is no object: write NAME or {}/NAME",
            kind.singular
        )));
    }
    Ok((kind, name.to_owned()))
}

/// Refuses what kubectl refuses: a name says nothing over all namespaces.
pub(super) fn refuse_all_namespaces(context: &Context) -> Result<(), CliError> {
    if context.all_namespaces {
        return Err(CliError::Message(
            "a resource cannot be retrieved by name across all namespaces: name its namespace with -n"
                .to_owned(),
        ));
    }
    Ok(())
}

/// The one object that `NAME` or `KIND/NAME` names; a container without a kind.
pub(super) fn single(context: &Context, word: &str) -> Result<Target, CliError> {
    single_of(context, word, &RESOURCES[0])
}

/// The one object that `NAME` or `KIND/NAME` names.
pub(super) fn single_of(
    context: &Context,
    word: &str,
    default: &'static Resource,
) -> Result<Target, CliError> {
    refuse_all_namespaces(context)?;
    let (resource, name) = one(word, default)?;
    Ok(Target { resource, namespace: context.namespace().to_owned(), name })
}

/// The objects that a selection names: by name without asking, otherwise as the agent lists them.
pub(super) async fn select(
    context: &Context,
    selection: &crate::args::Selection,
) -> Result<Vec<Target>, CliError> {
    let kinds = match wanted(&selection.targets)? {
        Wanted::Names(names) => {
            refuse_all_namespaces(context)?;
            let namespace = context.namespace();
            return Ok(names
                .into_iter()
                .map(|(resource, name)| Target { resource, namespace: namespace.to_owned(), name })
                .collect());
        }
        Wanted::Kinds(kinds) => kinds,
    };
    if !selection.all && selection.selector.is_none() {
        let what: Vec<_> = kinds.iter().map(|kind| kind.plural).collect();
        let what = what.join(" and ");
        return Err(CliError::Message(format!("name the {what}, or choose them with -l or --all")));
    }
    let mut targets = Vec::new();
    for kind in kinds {
        let url = kind.list(context.scope()).maybe("labelSelector", selection.selector.as_deref());
        let mut list = context.client.get(url.as_str()).await?;
        for object in items(&mut list) {
            targets.push(Target { resource: kind, ..Target::of(&object, context.namespace())? });
        }
    }
    Ok(targets)
}

/// Takes the items out of a list, each with its kind and version.
pub(super) fn items(list: &mut Value) -> Vec<Value> {
    let kind = list["kind"].as_str().and_then(|kind| kind.strip_suffix("List")).map(str::to_owned);
    let version = list["apiVersion"].clone();
    let Value::Array(mut items) = list["items"].take() else { return Vec::new() };
    for item in &mut items {
        if let (Some(fields), Some(kind)) = (item.as_object_mut(), &kind) {
            fields.entry("kind").or_insert_with(|| kind.as_str().into());
            fields.entry("apiVersion").or_insert_with(|| version.clone());
        }
    }
    items
}

#[cfg(test)]
mod tests;
