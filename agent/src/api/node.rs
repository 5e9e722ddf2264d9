//! The node itself: health, metrics, plan, dump, how it stores, and the files that could not be taken.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use serde_json::json;

use super::{
    Api, body,
    query::Params,
    status::{HEALTH_TEXT, Refusal, ok, text},
};
use crate::disk::PruneOptions;

pub(super) async fn version() -> Response {
    ok(&super::version())
}

pub(super) async fn plan(State(api): State<Api>, params: Params) -> Result<Response, Refusal> {
    params.only(&[])?;
    let actions = api.backend.plan().await?;
    Ok(ok(&json!({"kind": "Plan", "actions": actions})))
}

pub(super) async fn dump(State(api): State<Api>, params: Params) -> Result<Response, Refusal> {
    params.only(&[])?;
    Ok(text("text/plain; charset=utf-8", api.backend.dump().await))
}

pub(super) async fn storage(State(api): State<Api>, params: Params) -> Result<Response, Refusal> {
    params.only(&[])?;
    let mut shown = json!(api.backend.storage_info().await?);
    shown["kind"] = "StorageInfo".into();
    Ok(ok(&shown))
}

pub(super) async fn node(State(api): State<Api>, params: Params) -> Result<Response, Refusal> {
    params.only(&[])?;
    Ok(ok(&api.backend.node_view().await))
}

pub(super) async fn config(State(api): State<Api>, params: Params) -> Result<Response, Refusal> {
    params.only(&[])?;
    Ok(ok(&api.backend.config()))
}

/// What is to be checked.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckConfig {
    text: String,
}

pub(super) async fn config_check(
    State(api): State<Api>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    params.only(&[])?;
    let CheckConfig { text } = body::request(&headers, body).await?;
    Ok(ok(&api.backend.config_check(&text)?))
}

pub(super) async fn config_reload(State(api): State<Api>, params: Params) -> Result<Response, Refusal> {
    params.only(&[])?;
    Ok(ok(&api.backend.config_reload().await?))
}

pub(super) async fn usage(State(api): State<Api>, params: Params) -> Result<Response, Refusal> {
    params.only(&[])?;
    let mut shown = json!(Arc::clone(&api.backend).system_usage().await?);
    shown["kind"] = "DiskUsage".into();
    Ok(ok(&shown))
}

pub(super) async fn prune(
    State(api): State<Api>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    params.only(&[])?;
    let options: PruneOptions = body::request(&headers, body).await?;
    let mut shown = json!(Arc::clone(&api.backend).system_prune(options).await?);
    shown["kind"] = "PruneReport".into();
    Ok(ok(&shown))
}

pub(super) async fn issues(State(api): State<Api>, params: Params) -> Result<Response, Refusal> {
    params.only(&[])?;
    Ok(ok(&json!({"kind": "SourceIssueList", "items": api.backend.issues()})))
}

/// The cheapest real request: through the reconcile loop and back.
pub(super) async fn ping(State(api): State<Api>) -> Response {
    match api.backend.ping().await {
        Ok(()) => text(HEALTH_TEXT, "ok"),
        Err(error) => unwell(&format!("not ok: {}\n", error.message)),
    }
}

pub(super) async fn ready(State(api): State<Api>) -> Response {
    match api.backend.ready() {
        Ok(()) => text(HEALTH_TEXT, "ok"),
        Err(reasons) => {
            let mut lines: String = reasons.iter().map(|reason| format!("[-]{reason}\n")).collect();
            lines.push_str("readyz check failed\n");
            unwell(&lines)
        }
    }
}

fn unwell(why: &str) -> Response {
    let mut response = text(HEALTH_TEXT, why.to_owned());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub(super) async fn metrics(State(api): State<Api>) -> Response {
    text("text/plain; version=0.0.4; charset=utf-8", api.backend.metrics_text().await)
}
