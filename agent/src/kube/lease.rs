//! The Lease of this node's agent: as long as another agent holds it, nothing is taken from the API server here.

use std::{sync::Arc, time::Duration};

use hyper::Method;
use jiff::Timestamp;
use serde_json::{Value, json};
use stower_controllers::{LEASE_DURATION, Lease, LeaseAct, LeaseAnswer, LeaseKeeper, Mono, Standing};
use tokio::time::{Instant, sleep_until};

use super::{
    CallError, Cluster, Gate,
    call::{get, request},
    chance,
};
use crate::{effects::chain, events::EventType, node::Node};

/// The longest answer that is read.
const MAX_ANSWER: usize = 1 << 20;
/// As long as it is believed that a Lease holds, whatever it says.
const MAX_DURATION: Duration = Duration::from_secs(3600);

/// Why nothing is taken before the Lease was heard of.
pub(super) const NOT_YET: &str = "the Lease of this node has not been heard of yet";

/// Keeps the Lease until the agent ends.
pub(crate) async fn run(cluster: Arc<Cluster>, node: Arc<Node>, namespace: String, identity: String) {
    let began = Instant::now();
    let now = || Mono::from_nanos(0).plus(began.elapsed());
    let mut task =
        Task { cluster, node, namespace, identity, acquired: None, last: None, told: None, failure: None };
    let mut keeper = LeaseKeeper::new(&task.identity, now());
    loop {
        let (act, at) = keeper.next();
        let act = act.clone();
        sleep_until(began + Mono::from_nanos(0).until(at)).await;
        let answer = task.act(&act).await;
        keeper.heard(answer, now(), chance());
        task.tell(keeper.standing());
    }
}

struct Task {
    cluster: Arc<Cluster>,
    node: Arc<Node>,
    namespace: String,
    identity: String,
    /// Since when this agent holds it.
    acquired: Option<Timestamp>,
    /// The Lease as it was read last: what others keep in it stays.
    last: Option<Value>,
    told: Option<Standing>,
    /// What was logged of a failure last.
    failure: Option<String>,
}

impl Task {
    fn collection(&self) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.namespace)
    }

    fn path(&self) -> String {
        format!("{}/{}", self.collection(), self.cluster.node())
    }

    /// The Lease as it is made. With its owner it goes, by the cluster's garbage collector. That is said at its making alone: a cluster may
    /// ask who changes owners for the right to delete, which an agent does not have. One with a former owner goes too, and is made anew.
    fn unheld(&self) -> Value {
        let mut lease = json!({"metadata": {"name": self.cluster.node(), "namespace": self.namespace}});
        if let Some(pod) = &self.cluster.config.lease_owner {
            lease["metadata"]["ownerReferences"] =
                json!([{"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid}]);
        }
        lease
    }

    /// The Lease, held by this agent from now on.
    fn held(&mut self, version: Option<&str>, transitions: u32, acquired: bool) -> Value {
        let now = Timestamp::now();
        let since = match self.acquired.filter(|_| !acquired) {
            Some(since) => since,
            None => {
                let before = self.last.as_ref().filter(|_| !acquired);
                let before = before.and_then(|last| last["spec"]["acquireTime"].as_str()?.parse().ok());
                before.unwrap_or(now)
            }
        };
        self.acquired = Some(since);
        let mut lease = self.last.clone().filter(|_| version.is_some()).unwrap_or_else(|| self.unheld());
        lease["apiVersion"] = "coordination.k8s.io/v1".into();
        lease["kind"] = "Lease".into();
        if let Some(version) = version {
            lease["metadata"]["resourceVersion"] = version.into();
        }
        lease["spec"]["holderIdentity"] = self.identity.as_str().into();
        lease["spec"]["leaseDurationSeconds"] = LEASE_DURATION.as_secs().into();
        lease["spec"]["acquireTime"] = micros(since).into();
        lease["spec"]["renewTime"] = micros(now).into();
        lease["spec"]["leaseTransitions"] = transitions.into();
        lease
    }

    async fn act(&mut self, act: &LeaseAct) -> LeaseAnswer {
        const JSON: Option<&str> = Some("application/json");
        let (verb, asked) = match act {
            LeaseAct::Get => ("get", get(&self.path())),
            LeaseAct::Create => {
                let body = self.held(None, 0, true);
                ("create", request(Method::POST, &self.collection(), JSON, body.to_string().into_bytes()))
            }
            LeaseAct::Update { version, transitions, acquired } => {
                let body = self.held(Some(version.as_str()), *transitions, *acquired);
                ("update", request(Method::PUT, &self.path(), JSON, body.to_string().into_bytes()))
            }
        };
        let metrics = self.cluster.metrics.lease_requests.clone();
        let count = move |result| metrics.with_label_values(&[verb, result]).inc();
        match self.cluster.json(verb, asked, MAX_ANSWER).await {
            Ok(lease) => {
                count("success");
                self.failure = None;
                let read = read(&lease);
                self.last = Some(lease);
                LeaseAnswer::Is(read)
            }
            Err(error) => {
                count("failure");
                self.failed(act, &error)
            }
        }
    }

    fn failed(&mut self, act: &LeaseAct, error: &CallError) -> LeaseAnswer {
        let refusal = error.refusal();
        match (act, refusal.map(|refusal| refusal.code)) {
            (LeaseAct::Get | LeaseAct::Update { .. }, Some(404)) if error.is_not_found() => {
                return LeaseAnswer::NotFound;
            }
            (LeaseAct::Create | LeaseAct::Update { .. }, Some(409)) => return LeaseAnswer::Conflict,
            _ => {}
        }
        // Nobody is in another agent's way then, but it cannot be known.
        if self.told.is_none() || refusal.is_some_and(|refusal| refusal.code < 429) {
            let hint = match refusal.map(|refusal| refusal.code) {
                Some(403) => "; allow this agent get, create and update of leases.coordination.k8s.io there",
                Some(404) => "; create that namespace, or name another one by kube.leaseNamespace",
                _ => "",
            };
            let why = format!(
                "the Lease {}/{} of this node cannot be had: {}{hint}",
                self.namespace,
                self.cluster.node(),
                chain(error)
            );
            if self.failure.as_ref() != Some(&why) {
                tracing::warn!("{why}");
            }
            if self.told != Some(Standing::Held) {
                self.close(why.clone());
            }
            self.failure = Some(why);
        }
        LeaseAnswer::Failed(refusal.and_then(|refusal| refusal.retry_after))
    }

    fn close(&self, why: String) {
        self.cluster.metrics.lease_held.set(0);
        self.cluster.gate().send_replace(Gate::Closed { why });
    }

    /// Says who holds it, to those who go by it and to people.
    fn tell(&mut self, standing: &Standing) {
        if self.told.as_ref() == Some(standing) || *standing == Standing::Unknown {
            return;
        }
        let lease = format!("{}/{}", self.namespace, self.cluster.node());
        match standing {
            Standing::Unknown => {}
            Standing::Held => {
                tracing::info!(lease, identity = self.identity, "this agent holds the Lease of its node");
                if self.told.is_some() {
                    self.node.tell(
                        EventType::Normal,
                        "LeaseAcquired",
                        format!(
                            "agent {} holds the Lease {lease} and takes this node's objects",
                            self.identity
                        ),
                    );
                }
                self.cluster.metrics.lease_held.set(1);
                self.cluster.gate().send_replace(Gate::Open);
            }
            Standing::HeldBy(other) => {
                let why = format!(
                    "another agent, {other}, holds the Lease {lease}: two agents must not have one node's name; stop one of them, or \
                     give it another --node-name"
                );
                tracing::error!("{why}; nothing is taken from the API server until it has run out");
                self.close(why.clone());
                self.node.tell(EventType::Warning, "LeaseHeldByOther", why);
            }
        }
        self.told = Some(standing.clone());
    }
}

fn read(lease: &Value) -> Lease {
    let spec = &lease["spec"];
    let seconds = spec["leaseDurationSeconds"].as_u64().unwrap_or(0);
    let transitions = spec["leaseTransitions"].as_u64().unwrap_or(0);
    Lease {
        holder: spec["holderIdentity"].as_str().unwrap_or_default().to_owned(),
        duration: Duration::from_secs(seconds).min(MAX_DURATION),
        version: lease["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned(),
        transitions: u32::try_from(transitions).unwrap_or(u32::MAX),
    }
}

/// A time as Leases have it (`MicroTime`).
fn micros(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}
