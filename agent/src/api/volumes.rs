//! The data of volumes: also of those that no object declares any more.

use axum::{
    extract::{Path, State},
    response::Response,
};
use serde_json::json;
use stower_crds::{Kind, Namespace};

use super::{
    Api, GROUP, VERSION,
    objects::alone,
    place::{One, key_of},
    query::Params,
    status::{Refusal, ok},
};
use crate::volumedata::VolumeView;

fn list_of(items: &[VolumeView]) -> Response {
    ok(&json!({"apiVersion": format!("{GROUP}/{VERSION}"), "kind": "VolumeDataList", "items": items}))
}

pub(super) async fn list(State(api): State<Api>, params: Params) -> Result<Response, Refusal> {
    params.only(&[])?;
    Ok(list_of(&api.backend.volumes_list().await?))
}

pub(super) async fn usage(State(api): State<Api>, one: One, params: Params) -> Result<Response, Refusal> {
    params.only(&[])?;
    let key = one.with("usage", &[Kind::Volume, Kind::DataContainer])?;
    Ok(list_of(&api.backend.volumes_usage(&key).await?))
}

pub(super) async fn remove(
    State(api): State<Api>,
    Path((namespace, name)): Path<(String, String)>,
    params: Params,
) -> Result<Response, Refusal> {
    params.only(&["kind"])?;
    let kind = match params.get("kind") {
        None => Kind::Volume,
        Some(text) => text.parse().map_err(|error| Refusal::bad_request(format!("kind: {error}")))?,
    };
    let namespace = Namespace::new(namespace.as_str())
        .map_err(|error| Refusal::bad_request(format!("namespace {namespace:?}: {error}")))?;
    let key = key_of(kind, namespace, &name)?;
    // No object of that name comes through this API meanwhile.
    let _alone = alone(&api).await?;
    Ok(list_of(&api.backend.volumes_remove(&key).await?))
}
