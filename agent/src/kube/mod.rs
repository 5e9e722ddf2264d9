//! The API server of a Kubernetes cluster as a source of objects.
//!
//! ```text
//!  files ─► client ─► call ─► stream ─┬─► source (a kind each) ─► Update ─► engine ─► Remote ─► whoever writes to the server
//!                                     ├─► values (a ConfigMap or Secret each)           ▲
//!                                     └─► levels (a namespace each)                     └── node::Change
//! ```
//!
//! What goes the other way is in `status` (with the finalizer), `events` and `lease`: each a task that nobody waits for.
//!
//! [`Cluster`] is the one connection that all of it shares. What the server says is admitted here and means nothing before the
//! reconcile loop took it in; a server that does not answer says nothing, so all goes on as it was.

mod backoff;
mod call;
mod client;
mod events;
mod lease;
mod levels;
mod remote;
mod source;
mod status;
mod stream;
mod values;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use jiff::Timestamp;
use prometheus::{Gauge, IntCounterVec, IntGauge, IntGaugeVec};
use serde_json::{Value, json};
use stower_crds::{Kind, ObjectKey};
use tokio::sync::{mpsc, watch};

pub(crate) use self::{
    backoff::{Backoff, chance},
    call::CallError,
    remote::{Remote, Remotes},
    source::{Accepted, Before, Refused, Said, Update, ValueState, Word},
    values::is_value,
};
use self::{client::Built, source::Source};
use crate::{config::KubeConfig, node::Node};

/// The metrics of the connection.
#[derive(Debug, Clone)]
pub(crate) struct KubeMetrics {
    /// Requests, by verb and code; `<error>` where there was no answer.
    pub requests: IntCounterVec,
    /// Watches that were begun again, by resource.
    pub watch_restarts: IntCounterVec,
    /// Lists, by resource.
    pub lists: IntCounterVec,
    /// When the server answered last, in seconds since the epoch.
    pub last_contact: Gauge,
    /// Whether the last call reached it (1) or not (0).
    pub connected: IntGauge,
    /// Objects that the server accepted and this agent does not take, by reason.
    pub refused: IntGaugeVec,
    /// Writes of status and finalizer, by result.
    pub status_writes: IntCounterVec,
    /// Events, by what became of them.
    pub events: IntCounterVec,
    /// Requests about the Lease, by verb and result.
    pub lease_requests: IntCounterVec,
    /// Whether this agent holds the Lease of its node.
    pub lease_held: IntGauge,
}

/// Whether objects may be taken from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Gate {
    /// They may.
    Open,
    /// Not now: what was accepted goes on as it is.
    Closed {
        /// Why, for people.
        why: String,
    },
}

/// What is known of the connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Contact {
    /// When the server answered last.
    pub last: Option<Timestamp>,
    /// Since when it cannot be used, and why.
    pub trouble: Option<(Timestamp, String)>,
}

/// The cluster whose objects this node takes, and the connection to its API server.
pub(crate) struct Cluster {
    config: KubeConfig,
    node: String,
    metrics: KubeMetrics,
    built: tokio::sync::Mutex<Option<Built>>,
    contact: Mutex<Contact>,
    server: Mutex<String>,
    cluster: Mutex<Option<String>>,
    unread: Mutex<BTreeMap<Kind, String>>,
    gate: watch::Sender<Gate>,
    remotes: Remotes,
    wanted: watch::Sender<BTreeSet<ObjectKey>>,
    limited: watch::Sender<BTreeSet<ObjectKey>>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Cluster {
    /// One that nobody has spoken to yet.
    pub(crate) fn new(config: KubeConfig, node: &str, metrics: KubeMetrics) -> Self {
        let server = match &config.kubeconfig {
            Some(path) => format!("of {}", path.display()),
            None => "of the pod".to_owned(),
        };
        Self {
            config,
            node: node.to_owned(),
            metrics,
            built: tokio::sync::Mutex::new(None),
            contact: Mutex::default(),
            server: Mutex::new(server),
            cluster: Mutex::default(),
            unread: Mutex::default(),
            gate: watch::channel(Gate::Open).0,
            remotes: Remotes::default(),
            wanted: watch::channel(BTreeSet::new()).0,
            limited: watch::channel(BTreeSet::new()).0,
        }
    }

    /// This node's name.
    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    /// The server's address, once it is known.
    pub(crate) fn server(&self) -> String {
        locked(&self.server).clone()
    }

    /// What is known of the connection.
    pub(crate) fn contact(&self) -> Contact {
        locked(&self.contact).clone()
    }

    /// The connection, for people and programs.
    pub(crate) fn view(&self) -> Value {
        let contact = self.contact();
        let second = |at: Timestamp| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let mut view = json!({
            "server": self.server(),
            "connected": contact.last.is_some() && contact.trouble.is_none(),
            "lastContact": contact.last.map(second),
        });
        if let Some((since, why)) = contact.trouble {
            view["troubleSince"] = second(since).into();
            view["message"] = why.into();
        }
        let unread = locked(&self.unread);
        if !unread.is_empty() {
            view["notRead"] =
                unread.iter().map(|(kind, why)| (kind.plural().to_owned(), json!(why))).collect();
        }
        if let Gate::Closed { why } = &*self.gate.borrow() {
            view["notFollowed"] = why.as_str().into();
        }
        view
    }

    /// Whether objects may be taken; whoever holds the other end may change that at any time.
    pub(crate) fn gate(&self) -> &watch::Sender<Gate> {
        &self.gate
    }

    /// What the server has of this node.
    pub(crate) fn remotes(&self) -> &Remotes {
        &self.remotes
    }

    /// Which ConfigMaps and Secrets are to be read: those that objects of this node name, and no other.
    pub(crate) fn want(&self, keys: BTreeSet<ObjectKey>) {
        self.wanted.send_if_modified(|wanted| {
            let differs = *wanted != keys;
            *wanted = keys;
            differs
        });
    }

    /// Those that are wanted now and not among `keys`.
    pub(crate) fn unwanted(&self, keys: &BTreeSet<ObjectKey>) -> Vec<ObjectKey> {
        self.wanted.borrow().difference(keys).cloned().collect()
    }

    /// Whether a ConfigMap or Secret is still wanted.
    pub(crate) fn wants(&self, key: &ObjectKey) -> bool {
        self.wanted.borrow().contains(key)
    }

    /// Whether a container cannot start because its namespace does not allow what it takes from others. As long as that is so,
    /// the namespace is asked from time to time whether it does.
    pub(crate) fn limit(&self, key: &ObjectKey, is_limited: bool) {
        self.limited.send_if_modified(|limited| {
            if is_limited { limited.insert(key.clone()) } else { limited.remove(key) }
        });
    }

    /// Takes what the server says from now on; it ends with `out`.
    pub(crate) fn follow(self: &Arc<Self>, accepted: &Accepted, out: &mpsc::Sender<Update>) {
        for kind in Kind::CUSTOM {
            tokio::spawn(Source::new(Arc::clone(self), *kind, accepted, out.clone()).run());
        }
        tokio::spawn(values::run(Arc::clone(self), out.clone()));
    }

    /// Tells the server from now on what this node has to say: who its agent is, how its objects are, what happens to them. Nothing
    /// is taken from the server before this agent holds the Lease of its node. `identity` is that of this agent and no other.
    pub(crate) fn tell(self: &Arc<Self>, node: &Arc<Node>, identity: &str) {
        self.gate.send_replace(Gate::Closed { why: lease::NOT_YET.to_owned() });
        let namespace = self.config.lease_namespace.clone();
        tokio::spawn(status::run(Arc::clone(self), Arc::clone(node)));
        tokio::spawn(events::run(Arc::clone(self), Arc::clone(node)));
        tokio::spawn(lease::run(Arc::clone(self), Arc::clone(node), namespace, identity.to_owned()));
    }

    /// A client of the server, as its files have it now, and the server's address.
    ///
    /// # Errors
    /// When they cannot be used.
    async fn connection(&self) -> Result<(kube::Client, String), client::ConnectError> {
        let mut built = self.built.lock().await;
        if let Some(built) = built.as_ref().filter(|built| built.is_current()) {
            return Ok((built.client.clone(), built.server.to_string()));
        }
        let fresh = Built::new(&self.config).await?;
        let server = fresh.server.to_string();
        if built.is_some() {
            tracing::info!(server, "the connection to the API server is made anew");
        }
        locked(&self.server).clone_from(&server);
        let client = fresh.client.clone();
        *built = Some(fresh);
        Ok((client, server))
    }

    /// The next call connects anew.
    async fn distrust(&self) {
        *self.built.lock().await = None;
    }

    /// The cluster that the server is of, where that may be read.
    ///
    /// # Errors
    /// When it cannot be told, and when it is another one than before.
    async fn identity(&self) -> Result<Option<String>, CallError> {
        let found = levels::identity(self).await?;
        let known = locked(&self.cluster).clone();
        match (found, known) {
            (Some(found), Some(known)) if found != known => {
                let error = CallError::OtherCluster { server: self.server(), found, known };
                self.note(Some(&error));
                Err(error)
            }
            (found, _) => Ok(found),
        }
    }

    /// Keeps why objects of a kind cannot be read at present, or that they can.
    fn not_read(&self, kind: Kind, why: Option<String>) {
        let mut unread = locked(&self.unread);
        match why {
            None => drop(unread.remove(&kind)),
            Some(why) => {
                if unread.get(&kind) != Some(&why) {
                    tracing::warn!(%kind, why, "objects of the API server cannot be read; what was accepted goes on");
                    unread.insert(kind, why);
                }
            }
        }
    }

    /// From now on objects are taken from that cluster alone.
    pub(crate) fn belongs_to(&self, cluster: &str) {
        *locked(&self.cluster) = Some(cluster.to_owned());
    }

    fn heard_now(&self) {
        self.heard(Timestamp::now());
    }

    /// The server answered.
    fn heard(&self, now: Timestamp) {
        self.metrics.connected.set(1);
        self.metrics.last_contact.set(now.as_second() as f64);
        let mut contact = locked(&self.contact);
        contact.last = Some(now);
        if contact.trouble.take().is_some() {
            tracing::info!(server = self.server(), "the API server answers again");
        }
    }

    fn failed(&self, now: Timestamp, error: &CallError) {
        self.metrics.connected.set(0);
        let why = crate::effects::chain(error);
        let mut contact = locked(&self.contact);
        if error.refusal().is_some() {
            self.metrics.last_contact.set(now.as_second() as f64);
            contact.last = Some(now);
        }
        match &mut contact.trouble {
            Some((_, told)) => *told = why,
            trouble => {
                *trouble = Some((now, why));
            }
        }
    }
}

/// What a lock holds, also after a panic elsewhere: each value is written whole.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
