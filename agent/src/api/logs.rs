//! What a container wrote, streamed: from its log files, and with `follow` as it writes, over its restarts.
//!
//! A reader never waits in the kernel for a writer: it reads what is there on a thread for such work, then sleeps
//! until the log directory or the container changes.

mod text;
mod wake;

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    body::{Body, Bytes},
    extract::State,
    response::Response,
};
use futures_util::stream;
use jiff::Timestamp;
use stower_crds::Kind;
use stower_runtime::{
    LogDir,
    logs::{LogError, ReadOptions},
};

use self::{text::Text, wake::Wake};
use super::{Api, objects::find, place::One, query::Params, status::Refusal};
use crate::node::{ApiError, ObjectView};

/// The media type of a log; a container may write any bytes.
const LOG_TEXT: &str = "text/plain; charset=utf-8";

pub(super) async fn read(State(api): State<Api>, one: One, params: Params) -> Result<Response, Refusal> {
    let key = one.with("log", &[Kind::Container])?;
    params.only(&[
        "follow",
        "previous",
        "sinceSeconds",
        "sinceTime",
        "tailLines",
        "timestamps",
        "limitBytes",
    ])?;
    let (follow, previous) = (params.flag("follow")?, params.flag("previous")?);
    if follow && previous {
        return Err(Refusal::bad_request(
            "follow and previous cannot be given together: a previous run has ended",
        ));
    }
    let options = ReadOptions {
        since: since(&params)?,
        tail: params.number("tailLines")?.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX)),
    };
    let timestamps = params.flag("timestamps")?;
    let left = params.number("limitBytes")?.unwrap_or(u64::MAX);
    let object = find(&api, &key)?;
    let directory = api.backend.logs(&object.key)?;
    let failed = |error: &LogError| {
        Refusal::from(ApiError::internal(format!("the log cannot be read: {}", chain(error))))
    };
    let blocked = |error| Refusal::from(ApiError::internal(format!("reading the log failed: {error}")));
    let opened = tokio::task::spawn_blocking(move || -> Result<_, LogError> {
        let Some(dir) = LogDir::open(&directory)? else { return Ok(None) };
        // Watched before it is read, so that nothing comes in between unseen.
        let wake = if follow { Wake::new(&directory).map(Some) } else { Ok(None) };
        let runs = dir.runs()?;
        Ok(Some((dir, wake, runs)))
    });
    let Some((dir, wake, runs)) = opened.await.map_err(blocked)?.map_err(|error| failed(&error))? else {
        return Err(not_begun(&object, previous));
    };
    let wake = wake.map_err(|error| {
        ApiError::internal(format!(
            "the log cannot be followed: {error}; fs.inotify.max_user_instances may be too low"
        ))
    })?;
    let run = if previous { runs.iter().rev().nth(1) } else { runs.last() }.copied();
    let has_run =
        ["running", "terminated"].iter().any(|state| object.object["status"]["state"][*state].is_object());
    if run.is_none() && (previous || !has_run) {
        return Err(not_begun(&object, previous));
    }
    let text = tokio::task::spawn_blocking(move || Text::new(dir, run, &options, timestamps))
        .await
        .map_err(blocked)?
        .map_err(|error| failed(&error))?;
    let log = Log { api, object, text: Some(text), wake, left };
    let chunks = stream::unfold(log, |mut log| async move {
        let chunk = log.next().await.transpose()?;
        if let Err(error) = &chunk {
            tracing::warn!(%error, container = %log.object.key.name, "a log could not be read to its end");
        }
        Some((chunk, log))
    });
    Ok(super::status::text(LOG_TEXT, Body::from_stream(chunks)))
}

/// The time from which lines are wanted.
fn since(params: &Params) -> Result<Option<SystemTime>, Refusal> {
    let ago = params.number("sinceSeconds")?;
    match (ago, params.get("sinceTime")) {
        (Some(_), Some(_)) => {
            Err(Refusal::bad_request("at most one of `sinceTime` or `sinceSeconds` may be specified"))
        }
        (Some(0), None) => Err(Refusal::bad_request("sinceSeconds: must be greater than 0")),
        (Some(seconds), None) => Ok(Some(
            SystemTime::now().checked_sub(Duration::from_secs(seconds)).unwrap_or(SystemTime::UNIX_EPOCH),
        )),
        (None, Some(text)) => match text.parse::<Timestamp>() {
            Ok(time) => Ok(Some(time.into())),
            Err(error) => {
                Err(Refusal::bad_request(format!("sinceTime: {text:?} is no RFC 3339 time: {error}")))
            }
        },
        (None, None) => Ok(None),
    }
}

/// Nothing was ever written, as the kubelet says it.
fn not_begun(object: &ObjectView, previous: bool) -> Refusal {
    let name = object.key.name.as_str();
    if previous {
        return Refusal::bad_request(format!("previous terminated container {name:?} not found"));
    }
    let waiting = &object.object["status"]["state"]["waiting"];
    let reason = waiting["reason"].as_str().unwrap_or("ContainerCreating");
    let message = waiting["message"].as_str().map_or(String::new(), |message| format!(" ({message})"));
    Refusal::bad_request(format!("container {name:?} is waiting to start: {reason}{message}"))
}

/// An error with what is behind it.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

/// A log on its way to a client.
struct Log {
    api: Api,
    object: Arc<ObjectView>,
    /// Away only while a thread reads it.
    text: Option<Text>,
    wake: Option<Wake>,
    /// How many bytes the client still wants.
    left: u64,
}

impl Log {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let mut changes = self.api.hub.signal();
        loop {
            if self.left == 0 {
                return Ok(None);
            }
            // Asked before the reading: what an ended container wrote is all there by then.
            let over = self.wake.is_none() || self.is_over();
            changes.mark_unchanged();
            let Some(mut text) = self.text.take() else { return Ok(None) };
            let follow = self.wake.is_some();
            let (chunk, text) = tokio::task::spawn_blocking(move || (text.read(follow, over), text))
                .await
                .map_err(io::Error::other)?;
            let mut chunk = chunk.map_err(|error| io::Error::other(chain(&error)))?;
            self.text = Some(text);
            if !chunk.is_empty() {
                chunk.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= u64::try_from(chunk.len()).unwrap_or(0);
                return Ok(Some(chunk.into()));
            }
            let Some(wake) = self.wake.as_mut().filter(|_| !over) else { return Ok(None) };
            tokio::select! {
                woken = wake.wait() => woken?,
                _ = changes.changed() => {}
            }
        }
    }

    /// Whether nothing will ever be written again: the container is gone, or has ended for good.
    fn is_over(&self) -> bool {
        let view = self.api.backend.view();
        let Some(now) = view.objects.get(&self.object.key) else { return true };
        now.object["metadata"]["uid"] != self.object.object["metadata"]["uid"]
            || matches!(now.object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
    }
}

#[cfg(test)]
mod tests;
