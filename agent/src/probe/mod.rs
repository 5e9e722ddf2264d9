//! Probes: a task for each container that has some, which asks when `stower_controllers::Prober` says so, and tells the loop what
//! came of it.
//!
//! ```text
//!  engine ─► Probes::follow ─► task: Prober ─► Asker ─► handlers ─► the program
//!     ▲                          │
//!     └── Told::Probed ◄─────────┴─► RUN/c/UID/probes.json: what another agent must know
//! ```
//!
//! A task ends with its run, and what it is asking with it. What it says of a run is written down before it is told, so that no
//! agent's death takes back what people were shown.

mod ask;
mod kept;

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use stower_controllers::{
    BootId, KeptProbes, ProbeEvent, ProbeFacts, ProbeOutcome, ProbeTicket, Probed, Prober, Run,
};
use stower_crds::{ContainerSpec, ObjectKey, ProbeType, Uid};
use tokio::{sync::mpsc, task::JoinSet};

use self::ask::Asker;
use crate::{
    effects::{Effects, Told},
    time,
};

/// How long a task sleeps when nothing is due.
const LONG: Duration = Duration::from_secs(3600);

/// A run that may have probes.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) key: ObjectKey,
    pub(crate) run: Run,
    pub(crate) started_at: Timestamp,
    /// The spec of the run.
    pub(crate) spec: Arc<ContainerSpec>,
    /// It is being stopped.
    pub(crate) stopping: bool,
    /// An earlier agent began it.
    pub(crate) adopted: bool,
}

/// What a task is told.
#[derive(Debug)]
enum Order {
    Change(Arc<ContainerSpec>),
    Stop,
}

#[derive(Debug)]
struct Task {
    run: Run,
    spec: Arc<ContainerSpec>,
    stopping: bool,
    /// The task ends with it.
    orders: mpsc::UnboundedSender<Order>,
    handle: tokio::task::JoinHandle<()>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// All tasks, by container.
#[derive(Debug, Default)]
pub(crate) struct Probes(HashMap<Uid, Task>);

impl Probes {
    /// Brings the task of a container in line with what it is now; `None` is a container that does not run. Gives what is known
    /// of a run whose task has begun, or that has no probes any more.
    pub(crate) fn follow(
        &mut self,
        effects: &Arc<Effects>,
        uid: &Uid,
        wanted: Option<Wanted>,
    ) -> Option<ProbeFacts> {
        let Some(wanted) = wanted.filter(|wanted| has_probes(&wanted.spec)) else {
            self.0.remove(uid);
            return None;
        };
        if let Some(task) = self.0.get_mut(uid).filter(|task| task.run == wanted.run) {
            if !Arc::ptr_eq(&task.spec, &wanted.spec) {
                task.spec = Arc::clone(&wanted.spec);
                // A task that has ended has nobody to change.
                let _ = task.orders.send(Order::Change(Arc::clone(&wanted.spec)));
            }
            if wanted.stopping && !task.stopping {
                task.stopping = true;
                let _ = task.orders.send(Order::Stop);
            }
            return None;
        }
        let Some(container) = effects.shim(uid) else {
            // Its end is about to be told.
            self.0.remove(uid);
            return None;
        };
        let boot_id = BootId::new(effects.runtime.boot_id());
        let kept = if wanted.adopted { kept::read(&effects.run_dir(uid), &boot_id) } else { None };
        let Wanted { key, run, started_at, spec, stopping, adopted } = wanted;
        let probed = Probed { uid, run, started_at, adopted, kept };
        let mut prober = Prober::new(&probed, &spec, &time::now(&boot_id));
        if stopping {
            prober.stop();
        }
        let facts = prober.facts();
        let (orders, ordered) = mpsc::unbounded_channel();
        let watch = Watch {
            effects: Arc::clone(effects),
            uid: uid.clone(),
            boot_id,
            kept,
            told: facts.clone(),
            prober,
            asker: Arc::new(Asker::new(Arc::clone(effects), container, key, uid.clone(), &spec)),
        };
        let handle = tokio::spawn(watch.run(ordered));
        self.0.insert(uid.clone(), Task { run, spec, stopping, orders, handle });
        Some(facts)
    }
}

pub(crate) fn has_probes(spec: &ContainerSpec) -> bool {
    spec.startup_probe.is_some() || spec.liveness_probe.is_some() || spec.readiness_probe.is_some()
}

/// What came of one question.
struct Answer {
    type_: ProbeType,
    ticket: ProbeTicket,
    outcome: ProbeOutcome,
}

/// The task of one run.
struct Watch {
    effects: Arc<Effects>,
    uid: Uid,
    boot_id: BootId,
    /// What is on disk.
    kept: Option<KeptProbes>,
    /// What the loop knows.
    told: ProbeFacts,
    prober: Prober,
    asker: Arc<Asker>,
}

impl Watch {
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        let mut out: JoinSet<Answer> = JoinSet::new();
        loop {
            let now = time::now_mono();
            for (type_, ticket) in self.prober.due(now) {
                let Some(probe) = self.prober.probe(type_).cloned() else { continue };
                let asker = Arc::clone(&self.asker);
                out.spawn(async move {
                    let outcome = asker.ask(type_, &probe).await;
                    Answer { type_, ticket, outcome }
                });
            }
            let mut events = Vec::new();
            let sleep = self.prober.next().map_or(LONG, |at| now.until(at));
            tokio::select! {
                order = orders.recv() => match order {
                    None => return,
                    Some(Order::Stop) => self.prober.stop(),
                    Some(Order::Change(spec)) => {
                        self.asker = Arc::new(self.asker.with(&spec));
                        self.prober.change(&spec, time::now_mono());
                    }
                },
                Some(answer) = out.join_next(), if !out.is_empty() => match answer {
                    Ok(Answer { type_, ticket, outcome }) => {
                        events.extend(self.prober.answered(type_, ticket, outcome, time::now_mono()));
                    }
                    Err(error) => tracing::error!(uid = %self.uid, %error, "the agent failed while asking a probe"),
                },
                () = tokio::time::sleep(sleep) => {}
            }
            self.tell(events).await;
        }
    }

    /// Writes down what has changed, then tells it.
    async fn tell(&mut self, events: Vec<ProbeEvent>) {
        let kept = self.prober.kept();
        if self.kept != Some(kept) {
            let (dir, boot_id) = (self.effects.run_dir(&self.uid), self.boot_id.clone());
            let written = tokio::task::spawn_blocking(move || kept::write(&dir, &boot_id, kept)).await;
            match written {
                Ok(Ok(())) => self.kept = Some(kept),
                // Without it another agent takes it for not ready until it has asked.
                Ok(Err(error)) => tracing::warn!(uid = %self.uid, %error, "cannot keep what probes say"),
                Err(error) => {
                    tracing::error!(uid = %self.uid, %error, "the agent failed while keeping what probes say");
                }
            }
        }
        let facts = self.prober.facts();
        if facts == self.told && events.is_empty() {
            return;
        }
        self.told = facts.clone();
        let (uid, run) = (self.uid.clone(), facts.run);
        self.effects.report(Told::Probed { uid, run, facts, events });
    }
}
