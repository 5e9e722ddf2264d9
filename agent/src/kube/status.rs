//! The status of this node's objects, written to the API server; and the agent's finalizer with it.
//!
//! ```text
//!  node::Change ─┐                                              ┌─► finalizer (server-side apply), then /status
//!  Remotes ──────┼─► what is said, what is there ─► Outbox ─────┤
//!  Gate ─────────┘                                              └─► the finalizer of what is torn down goes
//! ```
//!
//! Nothing waits for this: an object runs without a status, and a server that is away gets the last one when it is back.

mod body;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    sync::Arc,
    time::Duration,
};

use hyper::Method;
use jiff::Timestamp;
use serde_json::Value;
use stower_controllers::{Answer, Mark, Mono, Outbox, Publish, PublishLimits};
use stower_crds::{FINALIZER, ObjectKey, Uid};
use tokio::{
    sync::broadcast::error::RecvError,
    time::{Instant, sleep_until},
};

use self::body::{Carried, Undeclared};
use super::{
    Backoff, CallError, Cluster, Gate, Remote,
    call::{get, request},
    chance,
};
use crate::{
    effects::chain,
    node::{Change, Node, SourceRef},
};

/// Who writes, in the words of server-side apply.
pub(super) const FIELD_MANAGER: &str = "stower-agent";
/// 50 at once and 20 a second after them; for one object 10, and one a second after them.
const LIMITS: PublishLimits = PublishLimits {
    all: (50, Duration::from_millis(50)),
    each: (10, Duration::from_secs(1)),
    settle: Duration::from_millis(50),
};
/// The longest answer that is read: an object, with all that others keep in it.
const MAX_ANSWER: usize = 4 << 20;
/// How long until the agent is asked again whether it has seen what is on this machine.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// What is written instead of a status where the finalizer goes.
const RELEASED: Mark = Mark(u64::MAX);

/// Something to write.
#[derive(Debug, Clone, PartialEq)]
enum Work {
    /// The status of an object, and the finalizer where it lacks it.
    Status { key: ObjectKey, status: Arc<Value>, finalize: bool },
    /// What stood for the object is gone from this node: the finalizer goes.
    Release { key: ObjectKey },
}

/// What is remembered of an object that is written.
#[derive(Debug, Default)]
struct Known {
    carried: Carried,
    /// When it was seen first.
    since: Option<Timestamp>,
    /// A status of it was taken, so that times are this agent's own from now on.
    settled: bool,
    /// The version that the last taken status made.
    version: Option<u64>,
    /// How often it was refused in a row.
    refused: Backoff,
}

/// Writes until the agent ends.
pub(crate) async fn run(cluster: Arc<Cluster>, node: Arc<Node>) {
    let mut writer = Writer {
        began: Instant::now(),
        outbox: Outbox::new(LIMITS),
        known: BTreeMap::new(),
        names: BTreeMap::new(),
        look_again: None,
        undeclared: Undeclared::default(),
        away: Backoff::default(),
        cluster: Arc::clone(&cluster),
        node: Arc::clone(&node),
    };
    let mut changes = node.watch();
    let mut remotes = cluster.remotes().subscribe();
    let mut gate = cluster.gate().subscribe();
    let mut writing = None;
    writer.look_at_all();
    loop {
        let open = *gate.borrow_and_update() == Gate::Open;
        let mut due = None;
        if writing.is_none() && open {
            match writer.outbox.next(writer.now()) {
                Publish::Write(uid, work) => {
                    let undeclared = std::mem::take(&mut writer.undeclared);
                    writing = Some(Box::pin(write(Arc::clone(&cluster), uid, work, undeclared)));
                }
                Publish::Wait(until) => due = until.map(|until| writer.instant(until)),
            }
        }
        tokio::select! {
            written = async { match &mut writing { Some(writing) => writing.await, None => pending().await } } => {
                writing = None;
                writer.written(written);
            }
            () = async { match writer.look_again { Some(at) => sleep_until(at).await, None => pending().await } } => {
                writer.look_again = None;
                writer.look_at_all();
            }
            () = async { match due { Some(due) => sleep_until(due).await, None => pending().await } } => {}
            change = changes.recv() => match change {
                Ok(Change::Added(object) | Change::Modified(object) | Change::Deleted(object)) => {
                    writer.look_at(&object.key);
                }
                Err(RecvError::Lagged(_)) => writer.look_at_all(),
                Err(RecvError::Closed) => return,
            },
            key = remotes.recv() => match key {
                Ok(key) => writer.look_at(&key),
                Err(RecvError::Lagged(_)) => writer.look_at_all(),
                Err(RecvError::Closed) => return,
            },
            changed = gate.changed() => match changed {
                Ok(()) => writer.look_at_all(),
                Err(_) => return,
            },
        }
    }
}

struct Writer {
    began: Instant,
    outbox: Outbox<Work>,
    known: BTreeMap<Uid, Known>,
    names: BTreeMap<ObjectKey, Uid>,
    undeclared: Undeclared,
    away: Backoff,
    /// When all is to be looked at again.
    look_again: Option<Instant>,
    cluster: Arc<Cluster>,
    node: Arc<Node>,
}

/// What became of a write.
struct Written {
    uid: Uid,
    /// The version that it made.
    result: Result<Option<u64>, CallError>,
    undeclared: Undeclared,
}

impl Writer {
    fn now(&self) -> Mono {
        Mono::from_nanos(0).plus(self.began.elapsed())
    }

    fn instant(&self, at: Mono) -> Instant {
        self.began + Mono::from_nanos(0).until(at)
    }

    fn look_at_all(&mut self) {
        let remotes = self.cluster.remotes().all();
        let keys: BTreeSet<ObjectKey> =
            remotes.iter().map(|remote| remote.key.clone()).chain(self.names.keys().cloned()).collect();
        for key in keys {
            self.look_at(&key);
        }
    }

    fn forget(&mut self, uid: &Uid) {
        self.known.remove(uid);
        self.outbox.forget(uid);
    }

    /// Compares what this node says of an object with what the server has.
    fn look_at(&mut self, key: &ObjectKey) {
        let Some(remote) = self.cluster.remotes().get(key) else {
            if let Some(uid) = self.names.remove(key) {
                self.forget(&uid);
            }
            return;
        };
        if let Some(old) = self.names.insert(key.clone(), remote.uid.clone()).filter(|old| *old != remote.uid)
        {
            self.forget(&old);
        }
        let view = self.node.view();
        // What is not taken is shown beside what is.
        let shown =
            view.objects.get(key).into_iter().chain(view.rejected.iter().filter(|shown| shown.key == *key));
        let mine = shown
            .filter(|shown| shown.source == SourceRef::Kube)
            .find(|shown| shown.object["metadata"]["uid"] == remote.uid.as_str());
        let now = self.now();
        let Some(mine) = mine else {
            // Before the agent has seen what is on this machine, it cannot know that there is nothing.
            if remote.deleting && has_finalizer(&remote) {
                match self.node.ready() {
                    Ok(()) => self.outbox.put(&remote.uid, RELEASED, Work::Release { key: key.clone() }, now),
                    Err(_) => self.look_again = Some(Instant::now() + LOOK_AGAIN),
                }
            }
            return;
        };
        let mut status = body::plain(mine.object["status"].clone());
        if !status.is_object() {
            return;
        }
        let known = self.known.entry(remote.uid.clone()).or_default();
        body::date(&mut status, *known.since.get_or_insert_with(Timestamp::now));
        if !known.settled {
            known.carried = Carried::new(&status, &remote.status);
        }
        known.carried.apply(&mut status);
        // A word of the server that is older than the last write says nothing.
        let version = remote.resource_version.parse::<u64>().ok();
        let current = known.version.is_none_or(|written| version.is_none_or(|version| version >= written));
        let finalize = current && !remote.deleting && !has_finalizer(&remote);
        let mark = body::mark(&status);
        if current && !finalize && remote.status == status {
            known.settled = true;
            self.outbox.is_there(&remote.uid, mark, now);
        } else if current {
            // Somebody else has written there, or taken the finalizer off.
            self.outbox.doubt(&remote.uid);
        }
        let work = Work::Status { key: key.clone(), status: Arc::new(status), finalize };
        self.outbox.put(&remote.uid, mark, work, now);
    }

    fn written(&mut self, written: Written) {
        let Written { uid, result, undeclared } = written;
        self.undeclared = undeclared;
        let now = self.now();
        let metrics = &self.cluster.metrics.status_writes;
        let known = self.known.entry(uid.clone()).or_default();
        let answer = match &result {
            Ok(version) => {
                self.away.reset();
                known.refused.reset();
                known.settled = true;
                known.version = (*version).or(known.version);
                metrics.with_label_values(&["success"]).inc();
                Answer::Taken
            }
            Err(error) => match error.refusal() {
                Some(_) if error.is_not_found() => Answer::Gone,
                // Not even the kind is there: the definitions are gone, or somebody in between answers.
                Some(refusal) if refusal.code == 404 => Answer::Away(self.away.next(None, chance())),
                // The object of that name is another one by now.
                Some(refusal) if refusal.code == 409 && refusal.message.contains("UID in precondition") => {
                    Answer::Gone
                }
                Some(refusal) if refusal.code == 429 || refusal.code >= 500 => {
                    Answer::Away(self.away.next(refusal.retry_after, chance()))
                }
                Some(_) => Answer::Refused(known.refused.next(None, chance())),
                None => Answer::Away(self.away.next(None, chance())),
            },
        };
        if let Err(error) = &result {
            let word = match answer {
                Answer::Gone => "gone",
                Answer::Refused(_) => "refused",
                Answer::Taken | Answer::Away(_) => "unavailable",
            };
            metrics.with_label_values(&[word]).inc();
            match answer {
                Answer::Refused(wait) => {
                    tracing::warn!(%uid, error = chain(error), ?wait, "a status is not taken; it is written again later");
                }
                _ => tracing::debug!(%uid, error = chain(error), ?answer, "a status was not written"),
            }
        }
        self.outbox.answered(answer, now);
        if answer == Answer::Gone {
            self.forget(&uid);
        }
    }
}

fn has_finalizer(remote: &Remote) -> bool {
    remote.finalizers.iter().any(|finalizer| finalizer == FINALIZER)
}

async fn write(cluster: Arc<Cluster>, uid: Uid, work: Work, mut undeclared: Undeclared) -> Written {
    let result = match work {
        Work::Status { key, status, finalize } => {
            let finalized = if finalize { finalizer(&cluster, &key, &uid).await } else { Ok(()) };
            match finalized {
                Ok(()) => {
                    apply(&cluster, &key, &uid, &status, &mut undeclared).await.map(|now| version(&now))
                }
                Err(error) => Err(error),
            }
        }
        Work::Release { key } => release(&cluster, &key, &uid).await.map(|()| None),
    };
    Written { uid, result, undeclared }
}

fn version(object: &Value) -> Option<u64> {
    object["metadata"]["resourceVersion"].as_str()?.parse().ok()
}

async fn patch(cluster: &Cluster, path: &str, type_: &'static str, body: &Value) -> Result<Value, CallError> {
    let request = request(Method::PATCH, path, Some(type_), body.to_string().into_bytes());
    cluster.json("patch", request, MAX_ANSWER).await
}

const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";

async fn finalizer(cluster: &Cluster, key: &ObjectKey, uid: &Uid) -> Result<(), CallError> {
    let path = format!("{}?fieldManager={FIELD_MANAGER}&force=true", body::path(key));
    match patch(cluster, &path, APPLY, &body::of_finalizer(key, uid)).await {
        Ok(_) => Ok(()),
        // Somebody deletes it: then none can be added any more, and its status is all that is left to tell.
        Err(error) if error.refusal().is_some_and(|refusal| refusal.message.contains("being deleted")) => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

async fn apply(
    cluster: &Cluster,
    key: &ObjectKey,
    uid: &Uid,
    status: &Value,
    undeclared: &mut Undeclared,
) -> Result<Value, CallError> {
    let path = format!("{}/status?fieldManager={FIELD_MANAGER}&force=true", body::path(key));
    loop {
        let mut object = body::of_status(key, uid, status);
        undeclared.apply(&mut object);
        match patch(cluster, &path, APPLY, &object).await {
            Err(error) if error.refusal().is_some_and(|refusal| undeclared.learn(&refusal.message)) => {
                tracing::info!(%key, error = chain(&error), "the cluster's definitions lack fields of this agent's status, which are left out");
            }
            answer => return answer,
        }
    }
}

/// Takes the agent's finalizer off an object that is to go.
async fn release(cluster: &Cluster, key: &ObjectKey, uid: &Uid) -> Result<(), CallError> {
    let path = body::path(key);
    let object = match cluster.json("get", get(&path), MAX_ANSWER).await {
        Err(error) if error.is_not_found() => return Ok(()),
        answer => answer?,
    };
    if object["metadata"]["uid"] != uid.as_str() {
        return Ok(());
    }
    let Some(change) = body::without_finalizer(&object) else { return Ok(()) };
    let path = format!("{path}?fieldManager={FIELD_MANAGER}");
    match patch(cluster, &path, MERGE, &change).await {
        Err(error) if error.is_not_found() => Ok(()),
        answer => answer.map(drop),
    }
}
