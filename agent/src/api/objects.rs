//! Objects: list, watch, get, create, replace, patch, delete, and a person's word on them.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode},
    response::Response,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use stower_crds::{Kind, Name, Namespace, ObjectKey};
use tokio::sync::OwnedMutexGuard;

use super::{
    Api, GROUP, OUTCOME_HEADER, SOURCE_ANNOTATION, VERSION, body,
    query::Params,
    selector::{FieldSelector, LabelSelector},
    status::{Refusal, ok, with_code},
    watch,
};
use crate::node::{ApiError, Applied, ObjectView, Operation, Outcome};

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

/// An object as clients see it: with its version, and with who declared it.
pub(super) fn shown(view: &ObjectView) -> Value {
    let mut object = view.object.clone();
    let metadata = &mut object["metadata"];
    metadata["resourceVersion"] = view.resource_version.to_string().into();
    if !metadata["annotations"].is_object() {
        metadata["annotations"] = Value::Object(Map::new());
    }
    metadata["annotations"][SOURCE_ANNOTATION] = view.source.to_string().into();
    object
}

fn kind_of(plural: &str) -> Result<Kind, Refusal> {
    Kind::ALL.iter().copied().find(|kind| kind.plural() == plural).ok_or_else(|| {
        let kinds: Vec<_> = Kind::ALL.iter().map(|kind| kind.plural()).collect();
        Refusal::new(
            404,
            "NotFound",
            format!(
                "the server doesn't have a resource type {plural:?} in {GROUP}/{VERSION}: there is {}",
                kinds.join(", ")
            ),
        )
    })
}

fn namespace_of(text: &str) -> Result<Namespace, Refusal> {
    Namespace::new(text).map_err(|error| Refusal::bad_request(format!("namespace {text:?}: {error}")))
}

/// The key of a request's path. A name that no object can have is one that is not there.
fn key_of(namespace: &str, plural: &str, name: &str) -> Result<ObjectKey, Refusal> {
    let kind = kind_of(plural)?;
    let namespace = namespace_of(namespace)?;
    let name = Name::new(name).map_err(|error| {
        Refusal::new(422, "Invalid", format!("{plural}.{GROUP} {name:?} is invalid: metadata.name: {error}"))
    })?;
    Ok(ObjectKey { kind, namespace, name })
}

/// `containers.stower.dev "web"`.
fn words(key: &ObjectKey) -> String {
    format!("{}.{GROUP} {:?}", key.kind.plural(), key.name.as_str())
}

pub(super) fn find(api: &Api, path: &(String, String, String)) -> Result<Arc<ObjectView>, Refusal> {
    let key = key_of(&path.0, &path.1, &path.2)?;
    current(api, &key).ok_or_else(|| ApiError::not_found(&key).into())
}

fn current(api: &Api, key: &ObjectKey) -> Option<Arc<ObjectView>> {
    api.backend.view().objects.get(key).map(Arc::clone)
}

pub(super) async fn list_all(
    State(api): State<Api>,
    Path(plural): Path<String>,
    params: Params,
) -> Result<Response, Refusal> {
    list_or_watch(&api, &plural, None, &params)
}

pub(super) async fn list(
    State(api): State<Api>,
    Path((namespace, plural)): Path<(String, String)>,
    params: Params,
) -> Result<Response, Refusal> {
    let namespace = namespace_of(&namespace)?;
    list_or_watch(&api, &plural, Some(namespace), &params)
}

fn list_or_watch(
    api: &Api,
    plural: &str,
    namespace: Option<Namespace>,
    params: &Params,
) -> Result<Response, Refusal> {
    params.only(&[
        "labelSelector",
        "fieldSelector",
        "watch",
        "resourceVersion",
        "timeoutSeconds",
        "allowWatchBookmarks",
    ])?;
    let kind = kind_of(plural)?;
    let selection = Selection::new(kind, namespace, params)?;
    if params.flag("watch")? {
        return watch::objects(api, selection, params);
    }
    let view = api.backend.view();
    let items: Vec<Value> = view
        .objects
        .values()
        .chain(view.rejected.iter())
        .filter(|object| selection.matches(object))
        .map(|object| shown(object))
        .collect();
    Ok(ok(&json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": format!("{kind}List"),
        "metadata": {"resourceVersion": view.resource_version.to_string()},
        "items": items,
    })))
}

pub(super) async fn get(
    State(api): State<Api>,
    Path(path): Path<(String, String, String)>,
    params: Params,
) -> Result<Response, Refusal> {
    params.only(&["resourceVersion"])?;
    Ok(ok(&shown(&*find(&api, &path)?)))
}

/// Waits for the change before this one.
async fn alone(api: &Api) -> Result<OwnedMutexGuard<()>, Refusal> {
    tokio::time::timeout(WRITE_DEADLINE, Arc::clone(&api.writes).lock_owned())
        .await
        .map_err(|_| ApiError::unavailable("another change is still being made; try again").into())
}

pub(super) async fn create(
    State(api): State<Api>,
    Path((namespace, plural)): Path<(String, String)>,
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
    let key = key_of(&namespace, &plural, &name)?;
    let object = addressed(object, &key)?;
    let _alone = alone(&api).await?;
    if current(&api, &key).is_some() {
        return Err(Refusal::new(409, "AlreadyExists", format!("{} already exists", words(&key))));
    }
    Ok(applied(&api.backend.apply(bare(object), dry_run).await?))
}

pub(super) async fn replace(
    State(api): State<Api>,
    Path((namespace, plural, name)): Path<(String, String, String)>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    params.only(&["dryRun"])?;
    let dry_run = params.dry_run()?;
    let key = key_of(&namespace, &plural, &name)?;
    body::media_type(&headers, &[body::JSON, body::YAML])?;
    let object = addressed(body::object(&body::bytes(body).await?)?, &key)?;
    let _alone = alone(&api).await?;
    let before = current(&api, &key).ok_or_else(|| ApiError::not_found(&key))?;
    precondition(&object["metadata"], Some(&before), &key)?;
    Ok(applied(&api.backend.apply(bare(object), dry_run).await?))
}

pub(super) async fn patch(
    State(api): State<Api>,
    Path((namespace, plural, name)): Path<(String, String, String)>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    params.only(&["dryRun"])?;
    let dry_run = params.dry_run()?;
    let key = key_of(&namespace, &plural, &name)?;
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
    Ok(applied(&api.backend.apply(bare(addressed(object, &key)?), dry_run).await?))
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
    let version = format!("{GROUP}/{VERSION}");
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
    set(&mut object["apiVersion"], &version, "apiVersion")?;
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
    Ok(object)
}

/// Refuses a change of an object that is not the one, or not in the state, that the client has seen.
fn precondition(metadata: &Value, before: Option<&Arc<ObjectView>>, key: &ObjectKey) -> Result<(), Refusal> {
    let conflict = |what: &str| {
        Err(ApiError::conflict(format!("Operation cannot be fulfilled on {}: {what}", words(key))).into())
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
            annotations.remove(SOURCE_ANNOTATION);
            if annotations.is_empty() {
                metadata.remove("annotations");
            }
        }
    }
    object
}

fn applied(applied: &Applied) -> Response {
    let (code, word) = match applied.outcome {
        Outcome::Created => (StatusCode::CREATED, "created"),
        Outcome::Configured => (StatusCode::OK, "configured"),
        Outcome::Unchanged => (StatusCode::OK, "unchanged"),
    };
    let mut response = with_code(code, &shown(&applied.object));
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
    Path((namespace, plural, name)): Path<(String, String, String)>,
    params: Params,
    body: Body,
) -> Result<Response, Refusal> {
    params.only(&["dryRun", "propagationPolicy"])?;
    let key = key_of(&namespace, &plural, &name)?;
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
    Ok(ok(&shown(&object)))
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
    Path(path): Path<(String, String, String)>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    params.only(&[])?;
    let asked: HoldRequest = body::request(&headers, body).await?;
    let object = find(&api, &path)?;
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
    Ok(ok(&shown(&object)))
}
