//! Events, as `core/v1` has them.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
};

use axum::{
    body::Body,
    extract::{Path, State},
    response::Response,
};
use futures_util::stream;
use serde_json::{Value, json};
use stower_crds::Kind;
use tokio::sync::broadcast::{self, error::RecvError};

use super::{
    Api,
    query::Params,
    selector::FieldSelector,
    status::{Refusal, ok, text},
    watch::{expired, line, wanted_version},
};
use crate::events::EventView;

/// The fields that events can be selected by.
const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "involvedObject.kind",
    "involvedObject.name",
    "involvedObject.namespace",
    "reason",
    "type",
];

pub(super) async fn list_all(State(api): State<Api>, params: Params) -> Result<Response, Refusal> {
    list_or_watch(&api, None, &params)
}

pub(super) async fn list(
    State(api): State<Api>,
    Path(namespace): Path<String>,
    params: Params,
) -> Result<Response, Refusal> {
    list_or_watch(&api, Some(namespace), &params)
}

/// Which events, and from when.
struct Selection {
    namespace: Option<String>,
    fields: FieldSelector,
}

impl Selection {
    fn show(&self, event: &EventView) -> Option<Value> {
        if self.namespace.as_ref().is_some_and(|namespace| *namespace != event.namespace) {
            return None;
        }
        let event = shown(event);
        self.fields.matches(&event).then_some(event)
    }
}

/// The version of an event: the nanosecond at which it was last seen.
fn version(event: &EventView) -> u64 {
    u64::try_from(event.last_seen.as_nanosecond()).unwrap_or(0)
}

/// An event as clients see it. One that is counted keeps its name.
fn shown(event: &EventView) -> Value {
    let mut hasher = DefaultHasher::new();
    (&event.kind, &event.reason, &event.message, event.first_seen.as_nanosecond()).hash(&mut hasher);
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": format!("{}.{:016x}", event.name, hasher.finish()),
            "namespace": event.namespace,
            "resourceVersion": version(event).to_string(),
            "creationTimestamp": event.first_seen,
        },
        "involvedObject": {
            "apiVersion": event.kind.parse().map_or(stower_crds::API_VERSION, Kind::api_version),
            "kind": event.kind,
            "namespace": event.namespace,
            "name": event.name,
        },
        "type": event.type_,
        "reason": event.reason,
        "message": event.message,
        "count": event.count,
        "firstTimestamp": event.first_seen,
        "lastTimestamp": event.last_seen,
        "source": {"component": "stower"},
        "reportingComponent": "stower",
    })
}

fn list_or_watch(api: &Api, namespace: Option<String>, params: &Params) -> Result<Response, Refusal> {
    params.only(&["fieldSelector", "watch", "resourceVersion"])?;
    let fields = FieldSelector::parse(params.get("fieldSelector").unwrap_or_default(), FIELDS)
        .map_err(Refusal::bad_request)?;
    let selection = Selection { namespace, fields };
    if params.flag("watch")? {
        return Ok(watch(api, selection, wanted_version(params)?));
    }
    let events = api.backend.events();
    let last = events.iter().map(version).max().unwrap_or(0);
    let items: Vec<_> = events.iter().filter_map(|event| selection.show(event)).collect();
    Ok(ok(&json!({
        "apiVersion": "v1",
        "kind": "EventList",
        "metadata": {"resourceVersion": last.to_string()},
        "items": items,
    })))
}

struct Watch {
    feed: broadcast::Receiver<EventView>,
    selection: Selection,
    /// What was there when the watch began: the feed may bring it again.
    past: Vec<EventView>,
    pending: VecDeque<Value>,
    ended: bool,
}

fn watch(api: &Api, selection: Selection, after: Option<u64>) -> Response {
    let feed = api.backend.watch_events();
    let past = api.backend.events();
    let new = past.iter().filter(|event| after.is_none_or(|after| version(event) > after));
    let pending = new.filter_map(|event| selection.show(event)).collect();
    let watch = Watch { feed, selection, past, pending, ended: false };
    let lines = stream::unfold(watch, |mut watch| async move {
        loop {
            if let Some(event) = watch.pending.pop_front() {
                return Some((Ok::<_, std::convert::Infallible>(line("ADDED", &event)), watch));
            }
            if watch.ended {
                return None;
            }
            match watch.feed.recv().await {
                Ok(event) if watch.past.contains(&event) => {}
                Ok(event) => watch.pending.extend(watch.selection.show(&event)),
                Err(RecvError::Lagged(_)) => {
                    watch.ended = true;
                    return Some((Ok(expired()), watch));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    });
    text("application/json", Body::from_stream(lines))
}
