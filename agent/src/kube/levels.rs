//! What a namespace allows of the objects in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use stower_controllers::PodSecurityLevel;
use stower_crds::Namespace;
use tokio::{sync::mpsc, time::Instant};

use super::{
    Cluster,
    call::{CallError, get},
    chance,
};

/// The label that says so, as for Pods.
const LABEL: &str = "pod-security.kubernetes.io/enforce";
/// The longest namespace that is read, in bytes.
const MAX_NAMESPACE: usize = 2 << 20;
/// How often a namespace is asked for its level while an object waits for that.
const AGAIN: Duration = Duration::from_secs(30);
/// How long what a namespace said counts.
const COUNTS: Duration = Duration::from_secs(5);

/// What a namespace allows, or why that cannot be told.
pub(super) type Level = Result<PodSecurityLevel, String>;

type Told = (Namespace, Level);

/// What namespaces said, and which are being asked.
pub(super) struct Levels {
    known: BTreeMap<Namespace, (Instant, Level)>,
    asked: BTreeSet<Namespace>,
    told: (mpsc::Sender<Told>, mpsc::Receiver<Told>),
}

impl Levels {
    pub(super) fn new() -> Self {
        Self { known: BTreeMap::new(), asked: BTreeSet::new(), told: mpsc::channel(64) }
    }

    /// What a namespace said just now.
    pub(super) fn get(&self, namespace: &Namespace) -> Option<&Level> {
        let (at, level) = self.known.get(namespace)?;
        (at.elapsed() < COUNTS).then_some(level)
    }

    /// Asks a namespace; [`Levels::told`] has the answer.
    pub(super) fn ask(&mut self, cluster: &Arc<Cluster>, namespace: &Namespace) {
        if !self.asked.insert(namespace.clone()) {
            return;
        }
        let (cluster, namespace, told) = (Arc::clone(cluster), namespace.clone(), self.told.0.clone());
        tokio::spawn(async move {
            let level = read(&cluster, &namespace).await.map_err(|error| crate::effects::chain(&error));
            // It fails when nobody waits any more.
            let _ = told.send((namespace, level)).await;
        });
    }

    /// The next namespace that answers. May be dropped while it waits.
    pub(super) async fn told(&mut self) -> Namespace {
        let Some((namespace, level)) = self.told.1.recv().await else {
            // Its other end is here too.
            return std::future::pending().await;
        };
        self.asked.remove(&namespace);
        self.known.insert(namespace.clone(), (Instant::now(), level));
        namespace
    }

    /// When one of those that are waited for is to be asked next.
    pub(super) fn next<'a>(&self, waiting: impl Iterator<Item = &'a Namespace>) -> Instant {
        let now = Instant::now();
        let next = waiting.filter(|namespace| !self.asked.contains(*namespace)).map(|namespace| {
            self.known.get(namespace).map_or(now, |(at, _)| *at + AGAIN.mul_f64(0.75 + chance() / 2.0))
        });
        next.min().unwrap_or(now + Duration::from_secs(3600))
    }

    /// Which of those that are waited for are to be asked now.
    pub(super) fn due<'a>(&self, waiting: impl Iterator<Item = &'a Namespace>) -> BTreeSet<Namespace> {
        let due = |namespace: &&Namespace| {
            self.known.get(*namespace).is_none_or(|(at, _)| at.elapsed() >= AGAIN / 2)
        };
        waiting.filter(due).cloned().collect()
    }
}

/// Reads what a namespace allows now. One without the label, or with a word in it that is none, allows the least.
async fn read(cluster: &Cluster, namespace: &Namespace) -> Result<PodSecurityLevel, CallError> {
    let path = format!("/api/v1/namespaces/{namespace}");
    let object = cluster.json("get", get(&path), MAX_NAMESPACE).await?;
    if object["kind"] != "Namespace" {
        return Err(CallError::Malformed { server: cluster.server(), what: "Namespace" });
    }
    Ok(PodSecurityLevel::of_label(object["metadata"]["labels"][LABEL].as_str()))
}

/// The identity of the cluster: that of a namespace which each has. `None` where that may not be read.
pub(super) async fn identity(cluster: &Cluster) -> Result<Option<String>, CallError> {
    match cluster.json("get", get("/api/v1/namespaces/kube-system"), MAX_NAMESPACE).await {
        Ok(object) => Ok(object["metadata"]["uid"].as_str().map(str::to_owned)),
        Err(error) if error.refusal().is_some_and(|refusal| matches!(refusal.code, 403 | 404)) => Ok(None),
        Err(error) => Err(error),
    }
}
