//! ConfigMaps and Secrets that objects of this node name: one watch and one read each, by name, so that the rights to `get` and
//! `watch` these are enough. Where a watch is forbidden, they are read from time to time, and `get` alone is enough: often at first
//! while one is not there, since somebody waits for it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::Value;
use stower_crds::{AdmitContext, Kind, ObjectKey, admit};
use tokio::{
    sync::mpsc,
    task::AbortHandle,
    time::{Instant, sleep},
};

use super::{
    Backoff, CallError, Cluster, Update, ValueState,
    call::get,
    chance,
    source::{opened, plain},
    stream::{Event, Resource},
};

/// How often one that may not be watched is read, while it is there.
const AGAIN: Duration = Duration::from_secs(60);
/// After how many reads it is tried whether it may be watched by now.
const READS: u32 = 15;
/// The longest that is read, in bytes; the server keeps no larger one than 1.5 MiB.
const MAX_VALUE: usize = 4 << 20;
/// A watch that ends sooner did not work.
const WORKED: Duration = Duration::from_secs(5);

/// Follows those that are wanted, until nobody listens.
pub(super) async fn run(cluster: Arc<Cluster>, out: mpsc::Sender<Update>) {
    let mut wanted = cluster.wanted.subscribe();
    let mut followed: BTreeMap<ObjectKey, AbortHandle> = BTreeMap::new();
    loop {
        let now = wanted.borrow_and_update().clone();
        followed.retain(|key, task| {
            let keep = now.contains(key);
            if !keep {
                task.abort();
            }
            keep
        });
        for key in now {
            followed.entry(key).or_insert_with_key(|key| {
                tokio::spawn(follow(Arc::clone(&cluster), key.clone(), out.clone())).abort_handle()
            });
        }
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { break },
            () = out.closed() => break,
        }
    }
    for task in followed.values() {
        task.abort();
    }
}

async fn follow(cluster: Arc<Cluster>, key: ObjectKey, out: mpsc::Sender<Update>) {
    let mut gate = cluster.gate().subscribe();
    let mut backoff = Backoff::default();
    let resource = Resource { path: collection(&key), field_selector: format!("metadata.name={}", key.name) };
    let mut forbidden = 0;
    while opened(&mut gate).await {
        let began = Instant::now();
        let watched = if forbidden % READS == 0 { Some(&resource) } else { None };
        let next = one(&cluster, &key, watched, &out).await;
        forbidden = if matches!(next, Ok(Next::Read { .. })) { forbidden + 1 } else { 0 };
        let wait = match next {
            Ok(Next::Deaf) => return,
            Ok(Next::Watch) if began.elapsed() >= WORKED => {
                backoff.reset();
                Duration::ZERO
            }
            Ok(Next::Watch) => backoff.next(None, chance()),
            Ok(Next::Read { there: true }) => {
                backoff.reset();
                AGAIN.mul_f64(0.75 + chance() / 2.0)
            }
            Ok(Next::Read { there: false }) => backoff.next(None, chance()),
            Err(error) => {
                let why = crate::effects::chain(&error);
                let state = ValueState::Unavailable { why };
                if out.send(Update::Value { key: key.clone(), state }).await.is_err() {
                    return;
                }
                if began.elapsed() >= WORKED {
                    backoff.reset();
                }
                let asked = error.refusal().and_then(|refusal| refusal.retry_after);
                backoff.next(asked, chance())
            }
        };
        sleep(wait).await;
    }
}

/// The path of all objects of that kind in the namespace.
fn collection(key: &ObjectKey) -> String {
    format!("/api/v1/namespaces/{}/{}", key.namespace, key.kind.plural())
}

/// How to go on.
enum Next {
    /// By a watch.
    Watch,
    /// By a read, later.
    Read {
        /// It is there.
        there: bool,
    },
    /// Nobody listens.
    Deaf,
}

/// Reads one object and, where it may be watched, follows it as long as that lasts.
async fn one(
    cluster: &Cluster,
    key: &ObjectKey,
    watched: Option<&Resource>,
    out: &mpsc::Sender<Update>,
) -> Result<Next, CallError> {
    // The watch comes first, so that nothing happens between the two unheard. It begins with what is there, if anything is.
    let events = match watched {
        None => None,
        Some(resource) => match resource.watch(cluster, None, chance()).await {
            Ok(events) => Some(events),
            Err(error) if error.refusal().is_some_and(|refusal| refusal.code == 403) => None,
            Err(error) => return Err(error),
        },
    };
    let path = format!("{}/{}", collection(key), key.name);
    let state = match cluster.json("get", get(&path), MAX_VALUE).await {
        Ok(object) => present(key, &object),
        Err(error) if error.is_not_found() => ValueState::Absent,
        Err(error) => return Err(error),
    };
    let there = !matches!(state, ValueState::Absent);
    if out.send(Update::Value { key: key.clone(), state }).await.is_err() {
        return Ok(Next::Deaf);
    }
    let Some(mut events) = events else { return Ok(Next::Read { there }) };
    while let Some(event) = events.next().await? {
        cluster.heard_now();
        let state = match event {
            Event::Bookmark(_) => continue,
            Event::Put(object) => present(key, &object),
            Event::Deleted(_) => ValueState::Absent,
        };
        if out.send(Update::Value { key: key.clone(), state }).await.is_err() {
            return Ok(Next::Deaf);
        }
    }
    Ok(Next::Watch)
}

/// What an object of the server says; one that cannot be used is as good as one that cannot be read.
fn present(key: &ObjectKey, object: &Value) -> ValueState {
    let mut plain = plain(key.kind, object);
    // Only the values count here, and an annotation may hold them a second time.
    for name in ["labels", "annotations"] {
        plain["metadata"].as_object_mut().map(|metadata| metadata.remove(name));
    }
    match admit(plain, &AdmitContext::default()) {
        Ok(object) if object.key() == *key && object.uid().is_some() => ValueState::Present(Arc::new(object)),
        Ok(_) => ValueState::Unavailable { why: "the API server answered with another object".to_owned() },
        Err(errors) => {
            // What is wrong may be told, since no message quotes a value of a Secret.
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            ValueState::Unavailable { why: format!("it cannot be used: {}", errors.join("; ")) }
        }
    }
}

/// Whether values of that kind can be followed here.
pub(crate) fn is_value(kind: Kind) -> bool {
    matches!(kind, Kind::ConfigMap | Kind::Secret)
}
