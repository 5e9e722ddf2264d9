//! Objects: list, watch, get, create, replace, patch, delete, and a person's word on them.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode},
    response::Response,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use stower_crds::{Kind, Namespace, ObjectKey};
use tokio::sync::OwnedMutexGuard;

use super::{
    Api, OUTCOME_HEADER, REDACTED_ANNOTATION, SOURCE_ANNOTATION, body,
    place::{Many, One, Peer, key_of},
    query::Params,
    selector::{FieldSelector, LabelSelector},
    status::{Refusal, ok, with_code},
    watch,
};
use crate::node::{ApiError, Applied, ObjectView, Operation, Outcome, resource};

/// The fields that objects can be selected by.
const FIELDS: &[&str] = &["metadata.name", "metadata.namespace", "spec.nodeName"];
/// How long a change waits for the one before it.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);

/// Which objects a list or watch is about.
#[derive(Debug, Clone)]
pub(super) struct Selection {
    pub(super) kind: Kind,
    namespace: Option<Namespace>,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    fn new(kind: Kind, namespace: Option<Namespace>, params: &Params) -> Result<Self, Refusal> {
        Ok(Self {
            kind,
            namespace,
            labels: LabelSelector::parse(params.get("labelSelector").unwrap_or_default())
                .map_err(Refusal::bad_request)?,
            fields: FieldSelector::parse(params.get("fieldSelector").unwrap_or_default(), FIELDS)
                .map_err(Refusal::bad_request)?,
        })
    }

    pub(super) fn matches(&self, object: &ObjectView) -> bool {
        object.key.kind == self.kind
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == object.key.namespace)
            && self.labels.matches(&object.object)
            && self.fields.matches(&object.object)
    }
}

/// An object as clients see it: with its version, and with who declared it. Of a Secret, only root sees the values;
/// others see its keys, and that it is so.
pub(super) fn shown(view: &ObjectView, peer: Peer) -> Value {
    let mut object = view.object.clone();
    let metadata = &mut object["metadata"];
    metadata["resourceVersion"] = view.resource_version.to_string().into();
    if !metadata["annotations"].is_object() {
        metadata["annotations"] = Value::Object(Map::new());
    }
    metadata["annotations"][SOURCE_ANNOTATION] = view.source.to_string().into();
    if view.key.kind == Kind::Secret && !peer.root {
        redact(&mut object);
    }
    object
}

fn redact(secret: &mut Value) {
    for field in ["data", "stringData"] {
        for value in secret.get_mut(field).and_then(Value::as_object_mut).into_iter().flatten() {
            *value.1 = "".into();
        }
    }
    if let Some(annotations) = secret["metadata"]["annotations"].as_object_mut() {
        // kubectl keeps the whole object in it.
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        annotations.insert(REDACTED_ANNOTATION.to_owned(), "true".into());
    }
}

pub(super) fn find(api: &Api, key: &ObjectKey) -> Result<Arc<ObjectView>, Refusal> {
    current(api, key).ok_or_else(|| ApiError::not_found(key).into())
}

fn current(api: &Api, key: &ObjectKey) -> Option<Arc<ObjectView>> {
    api.backend.view().objects.get(key).map(Arc::clone)
}

pub(super) async fn list(
    State(api): State<Api>,
    Many { kind, namespace }: Many,
    peer: Peer,
    params: Params,
) -> Result<Response, Refusal> {
    params.only(&[
        "labelSelector",
        "fieldSelector",
        "watch",
        "resourceVersion",
        "timeoutSeconds",
        "allowWatchBookmarks",
    ])?;
    let selection = Selection::new(kind, namespace, &params)?;
    if params.flag("watch")? {
        return watch::objects(&api, selection, peer, &params);
    }
    let view = api.backend.view();
    let items: Vec<Value> = view
        .objects
        .values()
        .chain(view.rejected.iter())
        .filter(|object| selection.matches(object))
        .map(|object| shown(object, peer))
        .collect();
    Ok(ok(&json!({
        "apiVersion": kind.api_version(),
        "kind": format!("{kind}List"),
        "metadata": {"resourceVersion": view.resource_version.to_string()},
        "items": items,
    })))
}

pub(super) async fn get(
    State(api): State<Api>,
    One(key): One,
    peer: Peer,
    params: Params,
) -> Result<Response, Refusal> {
    params.only(&["resourceVersion"])?;
    Ok(ok(&shown(&*find(&api, &key)?, peer)))
}

/// Waits for the change before this one.
pub(super) async fn alone(api: &Api) -> Result<OwnedMutexGuard<()>, Refusal> {
    tokio::time::timeout(WRITE_DEADLINE, Arc::clone(&api.writes).lock_owned())
        .await
        .map_err(|_| ApiError::unavailable("another change is still being made; try again").into())
}

pub(super) async fn create(
    State(api): State<Api>,
    Many { kind, namespace }: Many,
    peer: Peer,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    params.only(&["dryRun"])?;
    let dry_run = params.dry_run()?;
    body::media_type(&headers, &[body::JSON, body::YAML])?;
    let object = body::object(&body::bytes(body).await?)?;
    let Some(name) = object["metadata"]["name"].as_str().map(str::to_owned) else {
        let hint = if object["metadata"]["generateName"].is_string() {
            ": generateName is not supported"
        } else {
            ""
        };
        return Err(
            ApiError::invalid(format!("metadata.name: Required value: name is required{hint}")).into()
        );
    };
    let key = key_of(kind, namespace.unwrap_or_default(), &name)?;
    let object = addressed(object, &key)?;
    let _alone = alone(&api).await?;
    if current(&api, &key).is_some() {
        return Err(Refusal::new(409, "AlreadyExists", format!("{} already exists", resource(&key))));
    }
    Ok(applied(&api.backend.apply(bare(object), dry_run).await?, peer))
}

pub(super) async fn replace(
    State(api): State<Api>,
    One(key): One,
    peer: Peer,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    params.only(&["dryRun"])?;
    let dry_run = params.dry_run()?;
    body::media_type(&headers, &[body::JSON, body::YAML])?;
    let object = addressed(body::object(&body::bytes(body).await?)?, &key)?;
    let _alone = alone(&api).await?;
    let before = current(&api, &key).ok_or_else(|| ApiError::not_found(&key))?;
    precondition(&object["metadata"], Some(&before), &key)?;
    Ok(applied(&api.backend.apply(bare(object), dry_run).await?, peer))
}

pub(super) async fn patch(
    State(api): State<Api>,
    One(key): One,
    peer: Peer,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    params.only(&["dryRun"])?;
    let dry_run = params.dry_run()?;
    let media_type = body::media_type(&headers, &[body::APPLY, body::MERGE])?;
    let patch = body::object(&body::bytes(body).await?)?;
    let _alone = alone(&api).await?;
    let before = current(&api, &key);
    precondition(&patch["metadata"], before.as_ref(), &key)?;
    let object = if media_type == body::MERGE {
        let mut object = before.ok_or_else(|| ApiError::not_found(&key))?.object.clone();
        merge(&mut object, patch);
        object
    } else {
        patch
    };
    Ok(applied(&api.backend.apply(bare(addressed(object, &key)?), dry_run).await?, peer))
}

/// RFC 7386: null removes, objects are merged, anything else replaces.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    if let Some(target) = target.as_object_mut() {
        for (key, value) in patch {
            if value.is_null() {
                target.remove(&key);
            } else {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
    }
}

/// Gives an object the kind, namespace and name of the request's path, or refuses one that has others.
fn addressed(mut object: Value, key: &ObjectKey) -> Result<Value, Refusal> {
    let set = |slot: &mut Value, want: &str, mismatch: &str| match slot.as_str() {
        None if slot.is_null() => {
            *slot = want.into();
            Ok(())
        }
        Some(have) if have == want => Ok(()),
        _ => Err(Refusal::bad_request(format!(
            "the {mismatch} of the provided object ({slot}) does not match the one of the request ({want:?})"
        ))),
    };
    set(&mut object["apiVersion"], key.kind.api_version(), "apiVersion")?;
    set(&mut object["kind"], key.kind.as_str(), "kind")?;
    let metadata = &mut object["metadata"];
    if metadata.is_null() {
        *metadata = json!({});
    }
    if !metadata.is_object() {
        return Err(Refusal::bad_request("metadata: must be an object"));
    }
    set(&mut metadata["name"], key.name.as_str(), "name")?;
    set(&mut metadata["namespace"], key.namespace.as_str(), "namespace")?;
    if key.kind == Kind::Secret && !metadata["annotations"][REDACTED_ANNOTATION].is_null() {
        return Err(ApiError::invalid(format!(
            "metadata.annotations: {REDACTED_ANNOTATION} says that the values were left out when this Secret was read: \
             read it as root, or write the values and take the annotation off"
        ))
        .into());
    }
    Ok(object)
}

/// Refuses a change of an object that is not the one, or not in the state, that the client has seen.
fn precondition(metadata: &Value, before: Option<&Arc<ObjectView>>, key: &ObjectKey) -> Result<(), Refusal> {
    let conflict = |what: &str| {
        Err(ApiError::conflict(format!("Operation cannot be fulfilled on {}: {what}", resource(key))).into())
    };
    if let Some(uid) = metadata["uid"].as_str() {
        match before {
            Some(before) if before.object["metadata"]["uid"] == uid => {}
            Some(_) => return conflict("the UID in the precondition is not the UID of the object"),
            None => return conflict("it no longer exists"),
        }
    }
    let is_other = |version| before.is_none_or(|before| before.resource_version.to_string() != version);
    if metadata["resourceVersion"].as_str().is_some_and(is_other) {
        return conflict(
            "the object has been modified; please apply your changes to the latest version and try again",
        );
    }
    Ok(())
}

/// Takes off what the agent alone writes, so that what `get` printed can be applied.
fn bare(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for field in [
            "uid",
            "resourceVersion",
            "generation",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "managedFields",
            "selfLink",
        ] {
            metadata.remove(field);
        }
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            for name in [SOURCE_ANNOTATION, stower_controllers::LEVEL_ANNOTATION] {
                annotations.remove(name);
            }
            if annotations.is_empty() {
                metadata.remove("annotations");
            }
        }
    }
    object
}

fn applied(applied: &Applied, peer: Peer) -> Response {
    let (code, word) = match applied.outcome {
        Outcome::Created => (StatusCode::CREATED, "created"),
        Outcome::Configured => (StatusCode::OK, "configured"),
        Outcome::Unchanged => (StatusCode::OK, "unchanged"),
    };
    let mut response = with_code(code, &shown(&applied.object, peer));
    response.headers_mut().insert(OUTCOME_HEADER, HeaderValue::from_static(word));
    response
}

/// What a client may say with a deletion.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct DeleteOptions {
    #[serde(rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(rename = "kind")]
    _kind: Option<String>,
    propagation_policy: Option<String>,
    preconditions: Value,
    dry_run: Vec<String>,
}

pub(super) async fn delete(
    State(api): State<Api>,
    One(key): One,
    peer: Peer,
    params: Params,
    body: Body,
) -> Result<Response, Refusal> {
    params.only(&["dryRun", "propagationPolicy"])?;
    let bytes = body::bytes(body).await?;
    let options: DeleteOptions = if bytes.is_empty() {
        DeleteOptions::default()
    } else {
        serde_json::from_slice(&bytes).map_err(|error| {
            Refusal::bad_request(format!("the body is no DeleteOptions that is supported here: {error}"))
        })?
    };
    let dry_run = params.dry_run()? || !options.dry_run.is_empty();
    if options.propagation_policy.as_deref().or(params.get("propagationPolicy")) == Some("Orphan") {
        return Err(Refusal::bad_request(
            "propagationPolicy: Orphan is not supported: a process has no other owner",
        ));
    }
    let _alone = alone(&api).await?;
    let before = current(&api, &key).ok_or_else(|| ApiError::not_found(&key))?;
    precondition(&options.preconditions, Some(&before), &key)?;
    let object = if dry_run { before } else { api.backend.delete(&key).await? };
    Ok(ok(&shown(&object, peer)))
}

/// A person's word on a container.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HoldRequest {
    action: Action,
    grace_period_seconds: Option<u32>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Stop,
    Start,
    Restart,
}

pub(super) async fn hold(
    State(api): State<Api>,
    one: One,
    peer: Peer,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    params.only(&[])?;
    let key = one.with("hold", &[Kind::Container])?;
    let asked: HoldRequest = body::request(&headers, body).await?;
    let object = find(&api, &key)?;
    let grace = asked.grace_period_seconds.map(|seconds| Duration::from_secs(seconds.into()));
    let operation = match asked.action {
        Action::Stop => Operation::Stop { grace },
        Action::Restart => Operation::Restart { grace },
        Action::Start if grace.is_some() => {
            return Err(Refusal::bad_request("gracePeriodSeconds: a start has none"));
        }
        Action::Start => Operation::Start,
    };
    api.backend.operate(&object.key, operation).await?;
    let object = current(&api, &object.key).unwrap_or(object);
    Ok(ok(&shown(&object, peer)))
}
