//! Events of this node's objects, and of the node, told to the API server as the kubelet tells its own: counted, combined, limited.
//!
//! Nothing waits for them. While the server is away they wait in a queue that has an end; what falls off it is counted.

mod queue;

use std::{future::pending, sync::Arc};

use hyper::Method;
use jiff::Timestamp;
use serde_json::{Value, json};
use stower_controllers::{About, Correlator, EventAct, EventLimits, Mono, Occurrence, WrittenEvent};
use stower_crds::{Kind, Name, Namespace, ObjectKey};
use tokio::{
    sync::broadcast::error::RecvError,
    time::{Instant, sleep_until},
};

use self::queue::{Queue, Telling};
use super::{Backoff, CallError, Cluster, Gate, call::request, chance, status::FIELD_MANAGER};
use crate::{
    effects::chain,
    events::{EventType, EventView},
    node::{Node, SourceRef},
};

/// The longest answer that is read.
const MAX_ANSWER: usize = 1 << 20;
/// The namespace of a node's Events, as the kubelet has it.
const NODE_NAMESPACE: &str = "default";

/// Tells until the agent ends.
pub(crate) async fn run(cluster: Arc<Cluster>, node: Arc<Node>) {
    let began = Instant::now();
    let mut feed = node.watch_events();
    let mut gate = cluster.gate().subscribe();
    let mut correlator = Correlator::new(EventLimits::default());
    let mut queue = Queue::default();
    let mut backoff = Backoff::default();
    let mut not_before = began;
    let mut telling = None;
    let metrics = cluster.metrics.events.clone();
    let count = |result: &str, by: u64| metrics.with_label_values(&[result]).inc_by(by);
    loop {
        let open = *gate.borrow_and_update() == Gate::Open;
        let due = not_before > Instant::now();
        if telling.is_none() && open && !due {
            telling = queue.take().map(|next| Box::pin(tell(Arc::clone(&cluster), next)));
        }
        let waits = telling.is_none() && open && due && !queue.is_empty();
        tokio::select! {
            (event, result) = async { match &mut telling { Some(telling) => telling.await, None => pending().await } } => {
                telling = None;
                match result {
                    Ok(()) => {
                        backoff.reset();
                        count("sent", 1);
                    }
                    Err(error) if is_away(&error) => {
                        let asked = error.refusal().and_then(|refusal| refusal.retry_after);
                        not_before = Instant::now() + backoff.next(asked, chance());
                        count("dropped", queue.put_back(event));
                    }
                    Err(error) => {
                        tracing::debug!(error = chain(&error), "an event is not taken");
                        count("refused", 1);
                    }
                }
            }
            () = sleep_until(not_before), if waits => {}
            event = feed.recv() => match event {
                Ok(event) => {
                    let Some(about) = about(&cluster, &node, &event) else { continue };
                    let what = Occurrence {
                        about,
                        warning: event.type_ == EventType::Warning,
                        reason: event.reason,
                        message: event.message,
                    };
                    let now = Mono::from_nanos(0).plus(began.elapsed());
                    match correlator.observe(what, now, event.last_seen) {
                        EventAct::Create(event) => count("dropped", queue.put(Telling { event, known: false })),
                        EventAct::Count(event) => count("dropped", queue.put(Telling { event, known: true })),
                        EventAct::Limited => count("limited", 1),
                    }
                }
                Err(RecvError::Lagged(missed)) => count("dropped", missed),
                Err(RecvError::Closed) => return,
            },
            changed = gate.changed() => if changed.is_err() { return },
        }
    }
}

/// Whether nobody takes anything at present.
fn is_away(error: &CallError) -> bool {
    error.refusal().is_none_or(|refusal| refusal.code == 401 || refusal.code == 429 || refusal.code >= 500)
}

/// The object of an event, as the cluster knows it; `None` for what is none of its business.
fn about(cluster: &Cluster, node: &Node, event: &EventView) -> Option<About> {
    if event.kind == "Node" {
        let name = cluster.node().to_owned();
        return Some(About {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            namespace: String::new(),
            // As the kubelet has it.
            uid: name.clone(),
            name,
        });
    }
    let kind: Kind = event.kind.parse().ok()?;
    let key = ObjectKey::new(kind, Namespace::new(&*event.namespace).ok()?, Name::new(&*event.name).ok()?);
    let view = node.view();
    let shown = view.objects.get(&key).filter(|shown| shown.source == SourceRef::Kube)?;
    Some(About {
        api_version: kind.api_version().to_owned(),
        kind: event.kind.clone(),
        namespace: event.namespace.clone(),
        name: event.name.clone(),
        uid: shown.object["metadata"]["uid"].as_str()?.to_owned(),
    })
}

fn second(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn namespace(about: &About) -> &str {
    if about.namespace.is_empty() { NODE_NAMESPACE } else { &about.namespace }
}

/// The whole Event.
fn body(event: &WrittenEvent, node: &str) -> Value {
    let about = &event.what.about;
    let mut object = json!({
        "apiVersion": about.api_version, "kind": about.kind, "name": about.name, "uid": about.uid,
    });
    if !about.namespace.is_empty() {
        object["namespace"] = about.namespace.as_str().into();
    }
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": event.name, "namespace": namespace(about)},
        "involvedObject": object,
        "type": if event.what.warning { "Warning" } else { "Normal" },
        "reason": event.what.reason,
        "message": event.what.message,
        "count": event.count,
        "firstTimestamp": second(event.first),
        "lastTimestamp": second(event.last),
        "source": {"component": FIELD_MANAGER, "host": node},
        "reportingComponent": FIELD_MANAGER,
        "reportingInstance": node,
    })
}

/// What changes of an Event that is counted.
fn counted(event: &WrittenEvent) -> Value {
    json!({
        "count": event.count,
        "lastTimestamp": second(event.last),
        "message": event.what.message,
    })
}

async fn tell(cluster: Arc<Cluster>, telling: Telling) -> (Telling, Result<(), CallError>) {
    let result = told(&cluster, &telling).await;
    (telling, result)
}

async fn told(cluster: &Cluster, telling: &Telling) -> Result<(), CallError> {
    let event = &telling.event;
    let events = format!("/api/v1/namespaces/{}/events", namespace(&event.what.about));
    let by = format!("fieldManager={FIELD_MANAGER}");
    if telling.known {
        let body = counted(event).to_string().into_bytes();
        let path = format!("{events}/{}?{by}", event.name);
        let asked = request(Method::PATCH, &path, Some("application/merge-patch+json"), body);
        match cluster.json("patch", asked, MAX_ANSWER).await {
            // The server keeps Events for an hour; then it is told anew, with its count.
            Err(error) if error.is_not_found() => {}
            answer => return answer.map(drop),
        }
    }
    let body = body(event, cluster.node()).to_string().into_bytes();
    let asked = request(Method::POST, &format!("{events}?{by}"), Some("application/json"), body);
    match cluster.json("create", asked, MAX_ANSWER).await {
        // The answer to an earlier attempt was lost.
        Err(error) if error.refusal().is_some_and(|refusal| refusal.reason == "AlreadyExists") => Ok(()),
        answer => answer.map(drop),
    }
}

#[cfg(test)]
mod tests;
