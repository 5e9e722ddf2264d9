//! Which objects a command is about, as kubectl reads its arguments.

use serde_json::Value;

use super::{context::Context, error::CliError};
use crate::client::Url;

/// The group and version of all kinds.
pub(super) const GROUP_VERSION: &str = "stower.dev/v1alpha1";

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
}

/// The kinds that this command line knows.
pub(super) const RESOURCES: &[Resource] = &[Resource {
    kind: "Container",
    plural: "containers",
    singular: "container",
    short: &["ctr", "sctr", "all"],
}];

impl Resource {
    /// A kind by any of its names, with the group or without.
    pub(super) fn find(word: &str) -> Option<&'static Self> {
        let lower = word.to_ascii_lowercase();
        let bare = lower.strip_suffix(".stower.dev").unwrap_or(&lower);
        RESOURCES.iter().find(|r| bare == r.plural || bare == r.singular || r.short.contains(&bare))
    }

    /// The kind of an object.
    pub(super) fn of(object: &Value) -> Result<&'static Self, CliError> {
        let kind = object["kind"].as_str().unwrap_or_default();
        let known = RESOURCES.iter().find(|r| r.kind == kind && object["apiVersion"] == GROUP_VERSION);
        known.ok_or_else(|| {
            CliError::Message(format!(
                "no matches for kind {kind:?} in version {:?}: this version runs {} of {GROUP_VERSION}",
                object["apiVersion"].as_str().unwrap_or_default(),
                RESOURCES.iter().map(|r| r.kind).collect::<Vec<_>>().join(", "),
            ))
        })
    }

    /// The path of a list, in one namespace or in all.
    pub(super) fn list(&self, namespace: Option<&str>) -> Url {
        match namespace {
            Some(namespace) => {
                Url::new(&["apis", "stower.dev", "v1alpha1", "namespaces", namespace, self.plural])
            }
            None => Url::new(&["apis", "stower.dev", "v1alpha1", self.plural]),
        }
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
        let mut segments = vec![
            "apis",
            "stower.dev",
            "v1alpha1",
            "namespaces",
            &self.namespace,
            self.resource.plural,
            &self.name,
        ];
        segments.extend(more);
        Url::new(&segments)
    }
}

impl std::fmt::Display for Target {
    /// As `-o name` and the reports of changes have it: `container.stower.dev/web`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.stower.dev/{}", self.resource.singular, self.name)
    }
}

/// What the arguments of a command ask for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of a kind.
    Kind(&'static Resource),
    /// Objects by name: kind and name.
    Names(Vec<(&'static Resource, String)>),
}

/// Reads `[KIND] [NAME]…` or `KIND/NAME…`. A first word that is no kind is a container's name.
pub(super) fn wanted(words: &[String]) -> Result<Wanted, CliError> {
    let default = &RESOURCES[0];
    let Some(first) = words.first() else { return Ok(Wanted::Kind(default)) };
    let (kind, names) = match Resource::find(first) {
        Some(kind) => (kind, &words[1..]),
        None => (default, words),
    };
    if names.is_empty() {
        return Ok(Wanted::Kind(kind));
    }
    let names = names.iter().map(|word| one(word, kind)).collect::<Result<_, _>>()?;
    Ok(Wanted::Names(names))
}

/// Reads `NAME` or `KIND/NAME`.
fn one(word: &str, default: &'static Resource) -> Result<(&'static Resource, String), CliError> {
    let (kind, name) = match word.split_once('/') {
        None => (default, word),
        Some((kind, name)) => (
            Resource::find(kind).ok_or_else(|| {
                CliError::Message(format!(
                    "the agent doesn't have a resource type {kind:?}: there is \"containers\""
                ))
            })?,
            name,
        ),
    };
    if name.is_empty() || name.contains('/') {
        return Err(CliError::Message(format!("{word:?} is no object: write NAME or container/NAME")));
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

/// The one object that `NAME` or `KIND/NAME` names.
pub(super) fn single(context: &Context, word: &str) -> Result<Target, CliError> {
    refuse_all_namespaces(context)?;
    let (resource, name) = one(word, &RESOURCES[0])?;
    Ok(Target { resource, namespace: context.namespace().to_owned(), name })
}

/// The objects that a selection names: by name without asking, otherwise as the agent lists them.
pub(super) async fn select(
    context: &Context,
    selection: &crate::args::Selection,
) -> Result<Vec<Target>, CliError> {
    let kind = match wanted(&selection.targets)? {
        Wanted::Names(names) => {
            refuse_all_namespaces(context)?;
            let namespace = context.namespace();
            return Ok(names
                .into_iter()
                .map(|(resource, name)| Target { resource, namespace: namespace.to_owned(), name })
                .collect());
        }
        Wanted::Kind(kind) => kind,
    };
    if !selection.all && selection.selector.is_none() {
        return Err(CliError::Message("name the containers, or choose them with -l or --all".to_owned()));
    }
    let url = kind.list(context.scope()).maybe("labelSelector", selection.selector.as_deref());
    let mut list = context.client.get(url.as_str()).await?;
    items(&mut list)
        .iter()
        .map(|object| {
            Target::of(object, context.namespace()).map(|target| Target { resource: kind, ..target })
        })
        .collect()
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
