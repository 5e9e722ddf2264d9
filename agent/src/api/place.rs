//! What a request is about, by its path, and who asks.

use axum::{
    extract::{FromRequestParts, RawPathParams},
    http::request::Parts,
};
use stower_crds::{Kind, Name, Namespace, ObjectKey};

use super::{GROUP, VERSION, status::Refusal};
use crate::node::resource;

/// Where the kinds of `core/v1` are served.
const CORE: &str = "/api/v1/";

/// One object: `…/namespaces/{namespace}/{plural}/{name}`.
#[derive(Debug)]
pub(super) struct One(pub(super) ObjectKey);

/// The objects of a kind, in one namespace or in all: `…[/namespaces/{namespace}]/{plural}`.
#[derive(Debug)]
pub(super) struct Many {
    pub(super) kind: Kind,
    pub(super) namespace: Option<Namespace>,
}

/// Who asks, by the kernel's word on the connection (`SO_PEERCRED`).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Peer {
    /// Whether it is root, who may read values of Secrets. Nobody else may, and neither may who is not known.
    pub(super) root: bool,
}

impl<S: Send + Sync> FromRequestParts<S> for Peer {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get().copied().unwrap_or_default())
    }
}

/// The values in a path.
async fn captured<S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
) -> Result<impl Fn(&str) -> Option<String> + use<S>, Refusal> {
    let params = RawPathParams::from_request_parts(parts, state)
        .await
        .map_err(|error| Refusal::bad_request(format!("the path cannot be read: {error}")))?;
    let params: Vec<(String, String)> =
        params.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Ok(move |name: &str| params.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()))
}

impl<S: Send + Sync> FromRequestParts<S> for Many {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let core = parts.uri.path().starts_with(CORE);
        let get = captured(parts, state).await?;
        let kind = kind_of(&get("plural").unwrap_or_default(), core)?;
        Ok(Self { kind, namespace: get("namespace").map(|text| namespace_of(&text)).transpose()? })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for One {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let core = parts.uri.path().starts_with(CORE);
        let get = captured(parts, state).await?;
        let kind = kind_of(&get("plural").unwrap_or_default(), core)?;
        let namespace = namespace_of(&get("namespace").unwrap_or_default())?;
        Ok(Self(key_of(kind, namespace, &get("name").unwrap_or_default())?))
    }
}

impl One {
    /// The key, of a kind that has the subresource.
    pub(super) fn with(self, subresource: &str, kinds: &[Kind]) -> Result<ObjectKey, Refusal> {
        if kinds.contains(&self.0.kind) {
            return Ok(self.0);
        }
        let have: Vec<&str> = kinds.iter().map(|kind| kind.plural()).collect();
        Err(Refusal::new(
            404,
            "NotFound",
            format!("{} has no {subresource}: only {} have", resource(&self.0), have.join(" and ")),
        ))
    }
}

fn kind_of(plural: &str, core: bool) -> Result<Kind, Refusal> {
    let mut kinds = Kind::ALL.iter().copied().filter(|kind| kind.is_core() == core);
    kinds.clone().find(|kind| kind.plural() == plural).ok_or_else(|| {
        let mut known: Vec<_> = kinds.by_ref().map(Kind::plural).collect();
        let version = if core { "v1".to_owned() } else { format!("{GROUP}/{VERSION}") };
        if core {
            known.push("events");
        }
        Refusal::new(
            404,
            "NotFound",
            format!(
                "the server doesn't have a resource type {plural:?} in {version}: there are {}",
                known.join(", ")
            ),
        )
    })
}

fn namespace_of(text: &str) -> Result<Namespace, Refusal> {
    Namespace::new(text).map_err(|error| Refusal::bad_request(format!("namespace {text:?}: {error}")))
}

/// A key with a name that a client gave. A name that no object can have is one that is not there.
pub(super) fn key_of(kind: Kind, namespace: Namespace, name: &str) -> Result<ObjectKey, Refusal> {
    let name = Name::new(name).map_err(|error| {
        let group = if kind.is_core() { String::new() } else { format!(".{GROUP}") };
        let plural = kind.plural();
        Refusal::new(422, "Invalid", format!("{plural}{group} {name:?} is invalid: metadata.name: {error}"))
    })?;
    Ok(ObjectKey { kind, namespace, name })
}
