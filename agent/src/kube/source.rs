//! The objects of one kind: listed, followed, admitted, and told to the reconcile loop.
//!
//! What the loop is told is proven: an object is gone when the server says so, or when a whole list lacks it. As long as the
//! server says nothing, nothing is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use stower_controllers::{PodSecurityLevel, accepted, pod_security, takes_from_others, violates};
use stower_crds::{AdmitContext, FieldError, Kind, Namespace, Object, ObjectKey, Uid, admit};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};

use super::{
    Backoff, CallError, Cluster, Gate, Remote, chance,
    levels::Levels,
    stream::{Event, Events, Resource},
};

/// The longest wait before a list that all agents of a cluster have reason for at once.
const SPREAD: Duration = Duration::from_secs(5);
/// A watch that ends sooner did not work.
const WORKED: Duration = Duration::from_secs(5);

/// What the server says.
#[derive(Debug)]
pub(crate) enum Update {
    /// Of objects of one kind.
    Objects {
        /// The kind.
        kind: Kind,
        /// These are all of them: any other is gone.
        whole: bool,
        /// The cluster, where it can be told.
        cluster: Option<String>,
        /// The objects.
        said: Vec<Said>,
    },
    /// Of a ConfigMap or Secret.
    Value {
        /// Its name.
        key: ObjectKey,
        /// What is known of it.
        state: ValueState,
    },
}

/// One object.
#[derive(Debug)]
pub(crate) struct Said {
    /// As the server has it.
    pub remote: Arc<Remote>,
    /// What that means.
    pub word: Word,
}

/// What a server's word on an object means.
#[derive(Debug)]
pub(crate) enum Word {
    /// It is there, and there is nothing new for this node.
    Same,
    /// It is to be so.
    Accepted(Arc<Object>),
    /// It is there, and this agent does not take it. What was accepted of it before goes on.
    Refused(Refused),
    /// It is to go.
    Terminating,
    /// It is gone, or no object of this node.
    Gone,
}

/// An object that the server accepted and this agent does not.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Refused {
    /// `False`, or `Unknown` where it cannot be told yet.
    pub status: &'static str,
    /// One word for programs.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
    /// The object itself, as the server has it.
    pub object: Arc<Value>,
}

/// What is known of a ConfigMap or Secret.
#[derive(Debug)]
pub(crate) enum ValueState {
    /// It says this.
    Present(Arc<Object>),
    /// The server says that there is none.
    Absent,
    /// Nobody can tell.
    Unavailable {
        /// Why, for people.
        why: String,
    },
}

/// What is kept of an object between two events.
#[derive(Debug)]
struct Held {
    uid: Uid,
    /// Of all that counts on this node.
    print: u64,
    /// It waits for what its namespace allows.
    waits: Option<(Waits, Arc<Value>)>,
}

/// For what of its namespace an object waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// To be taken at all.
    ToBeTaken,
    /// To take from others what it cannot now, if there is such a thing: [`Cluster::limited`].
    ForMore,
}

/// Follows the objects of one kind.
pub(super) struct Source {
    cluster: Arc<Cluster>,
    kind: Kind,
    resource: Resource,
    out: mpsc::Sender<Update>,
    held: BTreeMap<ObjectKey, Held>,
    accepted: Accepted,
    levels: Levels,
}

/// What was accepted, by this agent or an earlier one: it is not asked again whether its namespace allows it.
pub(crate) type Accepted = BTreeMap<ObjectKey, Before>;

/// Which state of an object was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Before {
    /// The object.
    pub uid: Uid,
    /// The generation of its spec.
    pub generation: i64,
    /// At which level, where that counts.
    pub level: Option<PodSecurityLevel>,
}

/// Why a watch came to its end.
enum End {
    /// It is to be gone on with.
    Over,
    /// Nothing may be taken for now.
    Closed,
    /// Nobody wants to hear any more.
    Deaf,
}

impl Source {
    pub(super) fn new(
        cluster: Arc<Cluster>,
        kind: Kind,
        accepted: &Accepted,
        out: mpsc::Sender<Update>,
    ) -> Self {
        let resource = Resource {
            path: format!("/apis/{}/{}", stower_crds::API_VERSION, kind.plural()),
            field_selector: format!("spec.nodeName={}", cluster.node()),
        };
        let accepted = accepted.iter().filter(|(key, _)| key.kind == kind);
        let accepted = accepted.map(|(key, which)| (key.clone(), which.clone())).collect();
        let (held, levels) = (BTreeMap::new(), Levels::new());
        Self { cluster, kind, resource, out, held, accepted, levels }
    }

    /// Goes on until nobody listens.
    pub(super) async fn run(mut self) {
        let mut gate = self.cluster.gate().subscribe();
        let mut backoff = Backoff::default();
        while opened(&mut gate).await && !self.out.is_closed() {
            match self.list().await {
                Ok(Some(version)) => {
                    backoff.reset();
                    if self.follow(version, &mut gate, &mut backoff).await.is_none() {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => self.pause(&mut backoff, &error).await,
            }
        }
    }

    /// Follows from a version until a list is needed; `None` when nobody listens.
    async fn follow(
        &mut self,
        mut version: String,
        gate: &mut watch::Receiver<Gate>,
        backoff: &mut Backoff,
    ) -> Option<()> {
        loop {
            let began = Instant::now();
            let ended = match self.resource.watch(&self.cluster, Some(&version), chance()).await {
                Ok(events) => {
                    self.cluster.not_read(self.kind, None);
                    self.take(events, &mut version, gate).await
                }
                Err(error) => Err(error),
            };
            match ended {
                Ok(End::Closed) => return Some(()),
                Ok(End::Deaf) => return None,
                Ok(End::Over) if began.elapsed() >= WORKED => backoff.reset(),
                Ok(End::Over) => sleep(backoff.next(None, chance())).await,
                Err(error) if error.is_expired() => {
                    tracing::info!(kind = %self.kind, "the API server has forgotten what was seen last; all is listed again");
                    sleep(SPREAD.mul_f64(chance())).await;
                    return Some(());
                }
                Err(error) => {
                    if began.elapsed() >= WORKED {
                        backoff.reset();
                    }
                    self.pause(backoff, &error).await;
                }
            }
            self.cluster.metrics.watch_restarts.with_label_values(&[self.kind.plural()]).inc();
        }
    }

    async fn pause(&self, backoff: &mut Backoff, error: &CallError) {
        let asked = error.refusal().and_then(|refusal| refusal.retry_after);
        let wait = backoff.next(asked, chance());
        self.cluster.not_read(self.kind, Some(crate::effects::chain(error)));
        sleep(wait).await;
    }

    /// Reads all and tells it; `None` when nobody listens.
    async fn list(&mut self) -> Result<Option<String>, CallError> {
        let cluster = self.cluster.identity().await?;
        self.cluster.metrics.lists.with_label_values(&[self.kind.plural()]).inc();
        let listed = self.resource.list(&self.cluster).await?;
        let said: Vec<Said> = listed.items.into_iter().filter_map(|object| self.judge(object)).collect();
        let there: BTreeSet<&ObjectKey> = said.iter().map(|said| &said.remote.key).collect();
        self.held.retain(|key, _| there.contains(key));
        self.accepted.retain(|key, _| there.contains(key));
        self.cluster.not_read(self.kind, None);
        let update = Update::Objects { kind: self.kind, whole: true, cluster, said };
        Ok(self.out.send(update).await.ok().map(|()| listed.resource_version))
    }

    /// Takes the events of a watch.
    async fn take(
        &mut self,
        mut events: Events,
        version: &mut String,
        gate: &mut watch::Receiver<Gate>,
    ) -> Result<End, CallError> {
        let mut limited = self.cluster.limited.subscribe();
        loop {
            let again = self.levels.next(self.waiting().iter());
            let said: Vec<Said> = tokio::select! {
                event = events.next() => match event? {
                    None => return Ok(End::Over),
                    Some(Event::Bookmark(at)) => {
                        *version = at;
                        self.cluster.heard_now();
                        continue;
                    }
                    Some(Event::Put(object)) => {
                        self.reached(&object, version);
                        self.judge(object).into_iter().collect()
                    }
                    Some(Event::Deleted(object)) => {
                        self.reached(&object, version);
                        self.gone(&object).into_iter().collect()
                    }
                },
                namespace = self.levels.told() => self.level_told(&namespace),
                () = tokio::time::sleep_until(again) => {
                    for namespace in self.levels.due(self.waiting().iter()) {
                        self.levels.ask(&self.cluster, &namespace);
                    }
                    continue;
                }
                Ok(()) = limited.changed() => continue,
                changed = gate.changed() => {
                    if changed.is_err() || *gate.borrow_and_update() != Gate::Open {
                        return Ok(End::Closed);
                    }
                    continue;
                }
            };
            let news = Update::Objects { kind: self.kind, whole: false, cluster: None, said };
            if self.out.send(news).await.is_err() {
                return Ok(End::Deaf);
            }
        }
    }

    /// The watch is as far as this object, which is told before anything else is heard.
    fn reached(&self, object: &Value, version: &mut String) {
        self.cluster.heard_now();
        if let Some(at) = object["metadata"]["resourceVersion"].as_str() {
            at.clone_into(version);
        }
    }

    fn gone(&mut self, object: &Value) -> Option<Said> {
        let remote = Arc::new(Remote::read(self.kind, object)?);
        self.let_go(&remote.key);
        Some(Said { remote, word: Word::Gone })
    }

    fn let_go(&mut self, key: &ObjectKey) {
        self.held.remove(key);
        self.accepted.remove(key);
    }

    /// What the server's word on an object means here.
    fn judge(&mut self, object: Value) -> Option<Said> {
        let Some(remote) = Remote::read(self.kind, &object).map(Arc::new) else {
            tracing::error!(kind = %self.kind, name = %object["metadata"]["name"], "the API server has an object without a proper name or uid");
            return None;
        };
        if remote.node.as_deref() != Some(self.cluster.node()) {
            self.let_go(&remote.key);
            return Some(Said { remote, word: Word::Gone });
        }
        if remote.deleting {
            self.let_go(&remote.key);
            return Some(Said { remote, word: Word::Terminating });
        }
        let print = print(&object);
        let known = self.held.get(&remote.key);
        if known.is_some_and(|held| held.uid == remote.uid && held.print == print) {
            return Some(Said { remote, word: Word::Same });
        }
        let object = Arc::new(object);
        let (word, waits) = self.admit(&remote, &object);
        let held = Held { uid: remote.uid.clone(), print, waits: waits.map(|waits| (waits, object)) };
        self.held.insert(remote.key.clone(), held);
        Some(Said { remote, word })
    }

    /// Admits an object; also says whether it waits for what its namespace allows.
    fn admit(&mut self, remote: &Remote, object: &Arc<Value>) -> (Word, Option<Waits>) {
        let refused = |status, reason, message| {
            Word::Refused(Refused { status, reason, message, object: Arc::clone(object) })
        };
        let admitted = match admit(plain(self.kind, object), &AdmitContext::default()) {
            Ok(admitted) => admitted,
            Err(errors) => return (refused("False", reason(&errors), words(&errors)), None),
        };
        let namespace = &remote.key.namespace;
        let said = self.levels.get(namespace).cloned();
        let before = self.accepted.get(&remote.key);
        let before = before.filter(|it| it.uid == remote.uid && it.generation == remote.generation);
        let harmless = pod_security(PodSecurityLevel::Restricted, &admitted).is_empty();
        let level = match (before, said) {
            // What was allowed before still is, and more where its namespace allows more by now.
            (Some(before), Some(Ok(now))) => before.level.map(|level| level.max(now)),
            (Some(before), _) => before.level,
            // What is allowed everywhere needs no question.
            (None, _) if harmless && !takes_from_others(&admitted) => None,
            (None, None) => {
                self.levels.ask(&self.cluster, namespace);
                return (Word::Same, Some(Waits::ToBeTaken));
            }
            (None, Some(Err(_))) if harmless => Some(PodSecurityLevel::Restricted),
            (None, Some(Err(why))) => {
                let message = format!("what namespace {namespace} allows cannot be told: {why}");
                return (refused("Unknown", "NamespaceUnavailable", message), Some(Waits::ToBeTaken));
            }
            (None, Some(Ok(level))) => {
                let violations = pod_security(level, &admitted);
                if !violations.is_empty() {
                    let message = violates(level, &violations);
                    return (refused("False", "PodSecurity", message), Some(Waits::ToBeTaken));
                }
                takes_from_others(&admitted).then_some(level)
            }
        };
        let before = Before { uid: remote.uid.clone(), generation: remote.generation, level };
        self.accepted.insert(remote.key.clone(), before);
        let limited = level.is_some_and(|level| level < PodSecurityLevel::Privileged);
        (Word::Accepted(Arc::new(accepted(admitted, level))), limited.then_some(Waits::ForMore))
    }

    /// The namespaces that something waits for.
    fn waiting(&self) -> BTreeSet<Namespace> {
        let limited = self.cluster.limited.borrow();
        let waits = |(key, held): &(&ObjectKey, &Held)| match held.waits {
            None => false,
            Some((Waits::ToBeTaken, _)) => true,
            Some((Waits::ForMore, _)) => limited.contains(*key),
        };
        self.held.iter().filter(waits).map(|(key, _)| key.namespace.clone()).collect()
    }

    /// Looks again at what waits for a namespace.
    fn level_told(&mut self, namespace: &Namespace) -> Vec<Said> {
        let waiting: Vec<Arc<Value>> = self
            .held
            .iter()
            .filter(|(key, _)| key.namespace == *namespace)
            .filter_map(|(_, held)| held.waits.as_ref().map(|(_, object)| Arc::clone(object)))
            .collect();
        let mut said = Vec::new();
        for object in waiting {
            let Some(remote) = Remote::read(self.kind, &object).map(Arc::new) else { continue };
            let (word, waits) = self.admit(&remote, &object);
            if let Some(held) = self.held.get_mut(&remote.key) {
                held.waits = waits.map(|waits| (waits, object));
            }
            said.push(Said { remote, word });
        }
        said
    }
}

/// Waits until objects may be taken; false when nobody can say so any more.
pub(super) async fn opened(gate: &mut watch::Receiver<Gate>) -> bool {
    gate.wait_for(|gate| *gate == Gate::Open).await.is_ok()
}

/// Of all that counts here: identity, spec, labels and annotations.
fn print(object: &Value) -> u64 {
    let metadata = &object["metadata"];
    let mut hasher = DefaultHasher::new();
    for part in [&metadata["uid"], &metadata["labels"], &metadata["annotations"], &object["spec"]] {
        part.to_string().hash(&mut hasher);
    }
    hasher.finish()
}

/// The object without what the server keeps in it for others, which would make it another one each time.
pub(super) fn plain(kind: Kind, object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(map) = object.as_object_mut() {
        map.remove("status");
        let metadata = map.get_mut("metadata").and_then(Value::as_object_mut);
        if let Some(metadata) = metadata {
            const KEPT: [&str; 7] =
                ["name", "namespace", "uid", "generation", "creationTimestamp", "labels", "annotations"];
            metadata.retain(|name, _| KEPT.contains(&name.as_str()));
        }
        // Items of a list of core kinds do not name it.
        map.insert("apiVersion".to_owned(), json!(kind.api_version()));
        map.insert("kind".to_owned(), json!(kind.as_str()));
    }
    object
}

/// One word for why an object that the server took cannot be taken here.
fn reason(errors: &[FieldError]) -> &'static str {
    let newer = |error: &FieldError| {
        error.message.contains("not supported by this version") || error.message.contains("unknown field")
    };
    if errors.iter().all(newer) { "NotSupported" } else { "Invalid" }
}

fn words(errors: &[FieldError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
