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
/// After how long a namespace is asked again while an object waits for more than it allows: somebody may be about to change that.
const AGAIN: Duration = Duration::from_secs(4);
/// The same in the end; it is doubled each time until then.
const AGAIN_AT_LAST: Duration = Duration::from_secs(30);
/// How long what a namespace said counts.
const COUNTS: Duration = Duration::from_secs(5);

/// What a namespace allows, or why that cannot be told.
pub(super) type Level = Result<PodSecurityLevel, String>;

type Told = (Namespace, Level);

/// What namespaces said, and which are being asked.
pub(super) struct Levels {
    known: BTreeMap<Namespace, Known>,
    asked: BTreeSet<Namespace>,
    told: (mpsc::Sender<Told>, mpsc::Receiver<Told>),
}

/// What one namespace said.
struct Known {
    at: Instant,
    level: Level,
    /// How often it was asked, one time soon after the other.
    times: u32,
}

impl Known {
    /// After how long it is asked again.
    fn again(&self) -> Duration {
        AGAIN_AT_LAST.min(AGAIN * 2_u32.pow(self.times.min(10)))
    }
}

impl Levels {
    pub(super) fn new() -> Self {
        Self { known: BTreeMap::new(), asked: BTreeSet::new(), told: mpsc::channel(64) }
    }

    /// What a namespace said just now.
    pub(super) fn get(&self, namespace: &Namespace) -> Option<&Level> {
        let known = self.known.get(namespace)?;
        (known.at.elapsed() < COUNTS).then_some(&known.level)
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
        let before = self.known.get(&namespace).filter(|known| known.at.elapsed() < AGAIN_AT_LAST * 2);
        let times = before.map_or(0, |before| before.times.saturating_add(1));
        self.known.insert(namespace.clone(), Known { at: Instant::now(), level, times });
        namespace
    }

    /// When one of those that are waited for is to be asked next.
    pub(super) fn next<'a>(&self, waiting: impl Iterator<Item = &'a Namespace>) -> Instant {
        let now = Instant::now();
        let next = waiting.filter(|namespace| !self.asked.contains(*namespace)).map(|namespace| {
            self.known.get(namespace).map_or(now, |it| it.at + it.again().mul_f64(0.75 + chance() / 2.0))
        });
        next.min().unwrap_or(now + Duration::from_secs(3600))
    }

    /// Which of those that are waited for are to be asked now.
    pub(super) fn due<'a>(&self, waiting: impl Iterator<Item = &'a Namespace>) -> BTreeSet<Namespace> {
        let due = |namespace: &&Namespace| {
            self.known.get(*namespace).is_none_or(|it| it.at.elapsed() >= it.again() / 2)
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

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waits_asks_soon_and_then_less_often() {
        let mut levels = Levels::new();
        let namespace = Namespace::default();
        let least = |levels: &Levels| {
            let nexts = (0..200).map(|_| levels.next([&namespace].into_iter()));
            nexts.min().expect("there are some") - Instant::now()
        };
        assert_eq!(least(&levels), Duration::ZERO);
        let answer = async |levels: &mut Levels| {
            let sent = levels.told.0.send((namespace.clone(), Ok(PodSecurityLevel::Baseline))).await;
            assert!(sent.is_ok() && levels.told().await == namespace);
        };
        for seconds in [4, 8, 16, 30, 30] {
            answer(&mut levels).await;
            let (least, about) = (least(&levels), Duration::from_secs(seconds));
            assert!(least >= about.mul_f64(0.75) && least < about, "{least:?} for {about:?}");
            assert!(levels.due([&namespace].into_iter()).is_empty());
            advance(about).await;
            assert_eq!(levels.due([&namespace].into_iter()), BTreeSet::from([namespace.clone()]));
        }
        // Somebody waits again after a while in which nobody did.
        advance(Duration::from_secs(300)).await;
        answer(&mut levels).await;
        assert!(least(&levels) < Duration::from_secs(4));
        assert_eq!(levels.get(&namespace), Some(&Ok(PodSecurityLevel::Baseline)));
        advance(COUNTS).await;
        assert_eq!(levels.get(&namespace), None);
    }
}
