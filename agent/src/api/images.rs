//! Images: list, pull with progress, import, remove.

use std::{path::PathBuf, sync::Arc};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::HeaderMap,
    response::Response,
};
use futures_util::stream;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    Api, body,
    query::Params,
    status::{Refusal, ok, status_of, text},
    watch::line,
};
use crate::node::{ApiError, ImageView, PullProgress};

/// How many reports of a pull wait for a slow reader before the pull itself waits.
const REPORTS: usize = 64;

pub(super) async fn list(State(api): State<Api>, params: Params) -> Result<Response, Refusal> {
    params.only(&[])?;
    let backend = Arc::clone(&api.backend);
    let images = tokio::task::spawn_blocking(move || backend.images())
        .await
        .map_err(|error| ApiError::internal(format!("listing the images failed: {error}")))??;
    Ok(ok(&json!({"kind": "ImageList", "items": images})))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PullRequest {
    reference: String,
}

/// Pulls while the client listens; each line is `{"type": "PROGRESS" | "DONE" | "ERROR", "object": …}`.
pub(super) async fn pull(
    State(api): State<Api>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    params.only(&[])?;
    let PullRequest { reference } = body::request(&headers, body).await?;
    let (sender, reports) = mpsc::channel(REPORTS);
    let backend = Arc::clone(&api.backend);
    // The pull ends with the stream: a client that goes away takes it along, and what came is kept for the next.
    let running = Box::pin(async move { backend.pull(reference, sender).await });
    let pull = Pull { reports, running, result: None, ended: false };
    let lines = stream::unfold(pull, |mut pull| async move {
        let line = pull.next().await?;
        Some((Ok::<_, std::convert::Infallible>(line), pull))
    });
    Ok(text("application/json", Body::from_stream(lines)))
}

struct Pull<F> {
    reports: mpsc::Receiver<PullProgress>,
    running: F,
    result: Option<Result<ImageView, ApiError>>,
    ended: bool,
}

impl<F: Future<Output = Result<ImageView, ApiError>> + Unpin> Pull<F> {
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        while self.result.is_none() {
            tokio::select! {
                biased;
                Some(report) = self.reports.recv() => return Some(line("PROGRESS", &json!(report))),
                result = &mut self.running => self.result = Some(result),
            }
        }
        // What was reported before the end is told before it.
        if let Ok(report) = self.reports.try_recv() {
            return Some(line("PROGRESS", &json!(report)));
        }
        self.ended = true;
        Some(match self.result.take()? {
            Ok(image) => line("DONE", &json!(image)),
            Err(error) => line("ERROR", &status_of(&error)),
        })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ImportRequest {
    path: PathBuf,
    name: Option<String>,
}

pub(super) async fn import(
    State(api): State<Api>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    params.only(&[])?;
    let ImportRequest { path, name } = body::request(&headers, body).await?;
    if !path.is_absolute() {
        return Err(Refusal::bad_request(format!(
            "path: {}: must be absolute: the agent reads it",
            path.display()
        )));
    }
    let images = api.backend.import(path, name).await?;
    Ok(ok(&json!({"kind": "ImageList", "items": images})))
}

pub(super) async fn remove(State(api): State<Api>, params: Params) -> Result<Response, Refusal> {
    params.only(&["reference"])?;
    let Some(reference) = params.get("reference") else {
        return Err(Refusal::bad_request("reference: required: the image to remove"));
    };
    let message = api.backend.remove_image(reference.to_owned()).await?;
    Ok(ok(&json!({"kind": "Status", "apiVersion": "v1", "status": "Success", "message": message})))
}
