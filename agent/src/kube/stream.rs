//! Lists and watches of the API server, within bounds: a page at a time, an event at a time.

use std::time::Duration;

use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use url::form_urlencoded::byte_serialize;

use super::{
    Cluster,
    call::{CallError, Refusal, get},
};

/// The most objects of a page.
const PAGE: usize = 250;
/// The longest page that is read, in bytes.
const MAX_PAGE: usize = 32 << 20;
/// The longest event that is read, in bytes; the server keeps no larger object than 1.5 MiB.
const MAX_EVENT: usize = 8 << 20;
/// The most objects that one node may have of a kind.
const MAX_OBJECTS: usize = 100_000;
/// How long a watch may say nothing at all.
const SILENCE: Duration = Duration::from_secs(300);
/// The same, once the server showed that it tells from time to time how far it is; it does so each minute.
const SILENCE_WITH_BOOKMARKS: Duration = Duration::from_secs(180);
/// How long a watch lasts, and what chance adds, in seconds.
const LASTS: (u64, f64) = (1500, 900.0);

/// A collection of the server, or a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resource {
    /// `/apis/stower.dev/v1alpha1/containers`
    pub(super) path: String,
    /// `spec.nodeName=node-1`
    pub(super) field_selector: String,
}

/// What a server has at one moment.
#[derive(Debug, Default)]
pub(super) struct Listed {
    pub(super) items: Vec<Value>,
    pub(super) resource_version: String,
}

/// One step of a watch.
#[derive(Debug)]
pub(super) enum Event {
    /// An object is there, in this form.
    Put(Value),
    /// An object is gone, and this was its last form.
    Deleted(Value),
    /// The watch is as far as that.
    Bookmark(String),
}

impl Resource {
    fn url(&self, more: &str) -> String {
        let selector: String = byte_serialize(self.field_selector.as_bytes()).collect();
        format!("{}?fieldSelector={selector}{more}", self.path)
    }

    /// Reads all of it, as it is now: a server that answers out of an old cache would have objects be gone that are there.
    pub(super) async fn list(&self, cluster: &Cluster) -> Result<Listed, CallError> {
        let mut listed = Listed::default();
        let (mut page, mut token) = (PAGE, String::new());
        loop {
            let mut more = format!("&limit={page}");
            if !token.is_empty() {
                more.extend(["&continue="].into_iter().chain(byte_serialize(token.as_bytes())));
            }
            let mut answer = match cluster.json("list", get(&self.url(&more)), MAX_PAGE).await {
                Err(CallError::TooLong { .. }) if page > 1 => {
                    page /= 2;
                    continue;
                }
                answer => answer?,
            };
            let malformed = || CallError::Malformed { server: cluster.server(), what: "list" };
            let Some(Value::Array(items)) = answer.get_mut("items").map(Value::take) else {
                return Err(malformed());
            };
            listed.items.extend(items);
            if listed.items.len() > MAX_OBJECTS {
                return Err(malformed());
            }
            let text = |name: &str| answer["metadata"][name].as_str().unwrap_or_default().to_owned();
            token = text("continue");
            if token.is_empty() {
                listed.resource_version = text("resourceVersion");
                // Without one, no watch could go on from here, and a proxy's empty page would pass for an empty list.
                if listed.resource_version.is_empty() {
                    return Err(malformed());
                }
                return Ok(listed);
            }
        }
    }

    /// Begins to watch what follows a version; without one, also what is there.
    pub(super) async fn watch(
        &self,
        cluster: &Cluster,
        from: Option<&str>,
        chance: f64,
    ) -> Result<Events, CallError> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a number of seconds between two that fit"
        )]
        let seconds = LASTS.0 + (LASTS.1 * chance.clamp(0.0, 1.0)) as u64;
        let mut more = format!("&watch=1&allowWatchBookmarks=true&timeoutSeconds={seconds}");
        if let Some(from) = from {
            more.extend(["&resourceVersion="].into_iter().chain(byte_serialize(from.as_bytes())));
        }
        let response = cluster.send("watch", get(&self.url(&more))).await?;
        Ok(Events {
            body: response.into_body(),
            buffer: Vec::new(),
            searched: 0,
            server: cluster.server(),
            silence: SILENCE,
            heard: Instant::now(),
        })
    }
}

/// The events of a watch.
pub(super) struct Events {
    body: Body,
    buffer: Vec<u8>,
    /// So far there is no end of a line in the buffer.
    searched: usize,
    server: String,
    silence: Duration,
    heard: Instant,
}

impl Events {
    /// The next one; `None` when the server ended the watch, or said nothing for so long that it may be gone. May be dropped
    /// while it waits: nothing is lost.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, CallError> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=self.searched + at).collect();
                self.searched = 0;
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return self.event(&line).map(Some);
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > MAX_EVENT {
                return Err(CallError::TooLong { server: self.server.clone(), most: MAX_EVENT });
            }
            let frame = match timeout_at(self.heard + self.silence, self.body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(source))) => {
                    let (server, source) = (self.server.clone(), Box::new(source));
                    return Err(CallError::Unreachable { server, source });
                }
                // What is left in the buffer is half a line.
                Ok(None) => return Ok(None),
                Err(_) => {
                    tracing::info!(
                        server = self.server,
                        "a watch was silent for too long and is begun again"
                    );
                    return Ok(None);
                }
            };
            self.heard = Instant::now();
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }

    fn event(&mut self, line: &[u8]) -> Result<Event, CallError> {
        let malformed = || CallError::Malformed { server: self.server.clone(), what: "watch event" };
        let mut event: Value = serde_json::from_slice(line).map_err(|_| malformed())?;
        let object = event["object"].take();
        match event["type"].as_str() {
            Some("ADDED" | "MODIFIED") => Ok(Event::Put(object)),
            Some("DELETED") => Ok(Event::Deleted(object)),
            Some("BOOKMARK") => {
                self.silence = SILENCE_WITH_BOOKMARKS;
                let version = object["metadata"]["resourceVersion"].as_str().ok_or_else(malformed)?;
                Ok(Event::Bookmark(version.to_owned()))
            }
            Some("ERROR") => Err(CallError::Refused {
                server: self.server.clone(),
                what: "go on with a watch".to_owned(),
                refusal: Box::new(Refusal::of(500, &object)),
            }),
            _ => Err(malformed()),
        }
    }
}
