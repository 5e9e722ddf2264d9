//! Watches: one line of JSON a change, from the present state or from a version that the client has.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    response::Response,
};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Api,
    hub::{Cursor, Entry, Gone, Hub},
    objects::{Selection, shown},
    place::Peer,
    query::Params,
    status::{Refusal, status_of, text},
};
use crate::node::{ApiError, ObjectView};

/// How many changes are read of the hub at once.
const BATCH: usize = 64;
/// How often a client that asked for bookmarks gets one.
const BOOKMARK: Duration = Duration::from_secs(60);

/// The version from which a client wants changes; `None` and 0 mean from what is there now.
pub(super) fn wanted_version(params: &Params) -> Result<Option<u64>, Refusal> {
    Ok(params.number("resourceVersion")?.filter(|version| *version > 0))
}

/// Answers a watch of objects.
pub(super) fn objects(
    api: &Api,
    selection: Selection,
    peer: Peer,
    params: &Params,
) -> Result<Response, Refusal> {
    let mut pending = VecDeque::new();
    let (after, cursor) = match wanted_version(params)? {
        None => {
            // Changes from before the view are skipped by their version; none from after it is missed.
            let cursor = api.hub.end();
            let view = api.backend.view();
            let present = view.objects.values().filter(|object| selection.matches(object));
            pending.extend(present.map(|object| line("ADDED", &shown(object, peer))));
            (view.resource_version, cursor)
        }
        Some(version) => {
            let now = api.backend.view().resource_version;
            if version > now {
                return Err(gone(format!("too large resource version: {version}, current: {now}")));
            }
            let cursor = api
                .hub
                .after(version)
                .map_err(|Gone| gone(format!("too old resource version: {version}")))?;
            (version, cursor)
        }
    };
    let deadline =
        params.number("timeoutSeconds")?.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let watch = Watch {
        hub: Arc::clone(&api.hub),
        selection,
        peer,
        after,
        cursor,
        pending,
        bookmarks: params.flag("allowWatchBookmarks")?,
        deadline,
        ended: false,
    };
    let lines = stream::unfold(watch, |mut watch| async move {
        let line = watch.next().await?;
        Some((Ok::<_, std::convert::Infallible>(line), watch))
    });
    Ok(text("application/json", Body::from_stream(lines)))
}

/// 410: the client must list again.
fn gone(message: String) -> Refusal {
    Refusal::new(410, "Expired", message)
}

/// One event of a watch.
pub(super) fn line(kind: &str, object: &Value) -> Bytes {
    let mut line = json!({"type": kind, "object": object}).to_string();
    line.push('\n');
    line.into()
}

/// The event that ends a watch which fell too far behind.
pub(super) fn expired() -> Bytes {
    line(
        "ERROR",
        &status_of(&ApiError {
            code: 410,
            reason: "Expired",
            message: "the watch fell too far behind: list again, and watch from the list's resource version"
                .to_owned(),
        }),
    )
}

struct Watch {
    hub: Arc<Hub>,
    selection: Selection,
    peer: Peer,
    /// Changes up to this version are not told.
    after: u64,
    cursor: Cursor,
    pending: VecDeque<Bytes>,
    bookmarks: bool,
    deadline: Option<Instant>,
    ended: bool,
}

impl Watch {
    async fn next(&mut self) -> Option<Bytes> {
        let mut signal = self.hub.signal();
        loop {
            if let Some(line) = self.pending.pop_front() {
                return Some(line);
            }
            if self.ended {
                return None;
            }
            signal.mark_unchanged();
            match self.hub.read(self.cursor, BATCH) {
                Err(Gone) => {
                    self.ended = true;
                    return Some(expired());
                }
                Ok((entries, next)) if !entries.is_empty() => {
                    self.cursor = next;
                    for entry in entries {
                        if entry.version > self.after {
                            self.pending.extend(self.tell(&entry));
                        }
                    }
                    continue;
                }
                Ok(_) => {}
            }
            let far = Instant::now() + Duration::from_secs(86_400);
            let bookmark = if self.bookmarks { Instant::now() + BOOKMARK } else { far };
            tokio::select! {
                changed = signal.changed() => if changed.is_err() { return None },
                () = tokio::time::sleep_until(self.deadline.unwrap_or(far)), if self.deadline.is_some() => return None,
                () = tokio::time::sleep_until(bookmark), if self.bookmarks => return Some(self.bookmark()),
            }
        }
    }

    /// A change as this client sees it: an object may come into its selection or leave it.
    fn tell(&self, entry: &Entry) -> Option<Bytes> {
        let matches =
            |object: &Option<Arc<ObjectView>>| object.as_ref().is_some_and(|o| self.selection.matches(o));
        match (matches(&entry.before), matches(&entry.now), &entry.now, &entry.before) {
            (false, true, Some(now), _) => Some(line("ADDED", &shown(now, self.peer))),
            (true, true, Some(now), _) => Some(line("MODIFIED", &shown(now, self.peer))),
            (true, false, Some(last), _) | (true, false, None, Some(last)) => {
                let mut object = shown(last, self.peer);
                object["metadata"]["resourceVersion"] = entry.version.to_string().into();
                Some(line("DELETED", &object))
            }
            _ => None,
        }
    }

    fn bookmark(&self) -> Bytes {
        line(
            "BOOKMARK",
            &json!({
                "apiVersion": self.selection.kind.api_version(),
                "kind": self.selection.kind.as_str(),
                "metadata": {"resourceVersion": self.hub.version().max(self.after).to_string()},
            }),
        )
    }
}
