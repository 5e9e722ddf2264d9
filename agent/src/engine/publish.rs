//! What others see of it: status, the view, events.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};
use stower_controllers::{
    Act, Action, Entry, Now, Plan, ProblemKind, ProcessState, RecordState, RejectReason, StatusInput, Why,
    container_status, resolve,
};
use stower_crds::{ContainerStatus, Kind, ObjectKey, Phase, Reason, Uid};

use super::{Engine, stores::StoreStatus};
use crate::{
    events::{EventType, EventView},
    node::{Change, ObjectView, SourceRef, View},
};

/// Says which source an object came from; for people and for other agents' tools.
pub(super) const SOURCE_ANNOTATION: &str = "stower.dev/source";

impl Engine {
    /// Brings status and view in line for some objects.
    pub(super) fn publish(&mut self, uids: &[Uid], now: &Now) {
        let mut changed = Vec::new();
        for (uid, status) in self.store_statuses(uids, now) {
            let Some(key) = self.desired.key_of(&uid).cloned() else { continue };
            let value = status.as_ref().map(StoreStatus::to_value);
            if let Some(status) = status {
                self.store_statuses.insert(uid, status);
            }
            changed.push((key, value, None));
        }
        for uid in uids {
            let Some(key) = self.desired.key_of(uid).cloned() else { continue };
            if key.kind != Kind::Container {
                continue;
            }
            let Some(status) = self.container_status(uid, now) else { continue };
            let phase = status.phase;
            let value = serde_json::to_value(&status).unwrap_or_default();
            self.statuses.insert(uid.clone(), status);
            changed.push((key, Some(value), Some(phase)));
        }
        if changed.is_empty() {
            return;
        }
        let mut view = View::clone(&self.node.view());
        let mut steps = Vec::new();
        for (key, status, phase) in changed {
            let Some(entry) = self.sources.ledger.get(&key) else { continue };
            let source = self.sources.source_ref(&entry.claim);
            let old = view.objects.get(&key).cloned();
            let mut object = present(entry, &source, status);
            self.overlay(&key, &entry.uid, &mut object);
            if phase.is_some() {
                self.count_phase(old.as_deref(), phase);
            }
            if let Some(old) = &old {
                object["metadata"]["resourceVersion"] = old.object["metadata"]["resourceVersion"].clone();
                if old.object == object {
                    continue;
                }
            }
            view.resource_version += 1;
            object["metadata"]["resourceVersion"] = view.resource_version.to_string().into();
            let shown = Arc::new(ObjectView {
                key: key.clone(),
                source,
                object,
                resource_version: view.resource_version,
            });
            view.objects.insert_mut(key, Arc::clone(&shown));
            steps.push(if old.is_some() { Change::Modified(shown) } else { Change::Added(shown) });
        }
        self.show(view, steps);
    }

    fn container_status(&self, uid: &Uid, now: &Now) -> Option<ContainerStatus> {
        let declared = self.desired.by_uid(uid)?;
        let seen = self.observed.containers.get(uid)?;
        let record = self.records.get(uid);
        let old = self.statuses.get(uid);
        // What runs as declared asks for nothing.
        let running = matches!(seen.process, ProcessState::Running { .. })
            && record
                .and_then(RecordState::known)
                .and_then(|record| record.launch.as_ref())
                .is_some_and(|launch| launch.generation == declared.generation);
        let problems = if running || declared.terminating {
            Vec::new()
        } else {
            resolve(declared, &self.desired, &self.observed).err().unwrap_or_default()
        };
        if let Some(cluster) = &self.node.cluster {
            let limited = problems.iter().any(|problem| problem.kind == ProblemKind::PodSecurity);
            cluster.limit(&declared.key, limited);
        }
        let input = StatusInput {
            declared,
            observed: seen,
            record,
            queued: self.queued.contains(uid),
            problems: &problems,
            pressure: &self.observed.pressure,
            old,
        };
        let status = container_status(&input, now);
        let waiting =
            |status: &ContainerStatus| status.state.as_ref().and_then(|state| state.waiting.clone());
        if let Some(waits) = waiting(&status).filter(|_| !problems.is_empty())
            && old.and_then(waiting).as_ref() != Some(&waits)
        {
            // What is missing may only be on its way.
            let type_ = match waits.reason {
                Reason::DependencyMissing => EventType::Normal,
                _ => EventType::Warning,
            };
            self.event(uid, type_, waits.reason.as_str(), waits.message.unwrap_or_default());
        }
        let backs_off = |status: &ContainerStatus| {
            waiting(status).is_some_and(|waits| waits.reason == Reason::CrashLoopBackOff)
        };
        if backs_off(&status) && !old.is_some_and(backs_off) {
            // One and the same each time, so that it is counted.
            let message = "Back-off restarting failed container".to_owned();
            self.event(uid, EventType::Warning, "BackOff", message);
        }
        let restarts = record.and_then(RecordState::known).map_or(0, |record| record.restart_count);
        let before = old.map_or(restarts, |old| old.restart_count);
        if restarts > before {
            self.node.metrics.restarts.inc_by(u64::from(restarts - before));
        }
        Some(status)
    }

    /// Takes an object that is gone out of the view.
    pub(super) fn withdraw(&mut self, key: &ObjectKey) {
        let mut view = View::clone(&self.node.view());
        if let Some(cluster) = &self.node.cluster {
            cluster.limit(key, false);
        }
        let Some(old) = view.objects.get(key).cloned() else { return };
        if key.kind == Kind::Container {
            self.count_phase(Some(&old), None);
        }
        view.objects.remove_mut(key);
        view.resource_version += 1;
        let mut object = old.object.clone();
        object["metadata"]["resourceVersion"] = view.resource_version.to_string().into();
        let last = ObjectView { object, resource_version: view.resource_version, ..ObjectView::clone(&old) };
        self.show(view, vec![Change::Deleted(Arc::new(last))]);
    }

    /// Brings what waits for a name in line.
    pub(super) fn show_rejected(&self) {
        let rejections: Vec<_> = self.sources.ledger.rejections().collect();
        let old = self.node.view();
        let refused = self.refused_views(old.resource_version);
        if rejections.is_empty() && refused.is_empty() && old.rejected.is_empty() {
            return;
        }
        let shown = rejections.iter().map(|rejection| {
            let source = self.sources.source_ref(&rejection.claim);
            let reason = match rejection.reason {
                RejectReason::NameConflict => "NameConflict",
                RejectReason::Terminating => "Terminating",
            };
            let mut object = rejection.object.to_value();
            let mut condition = json!({
                "type": "Accepted", "status": "False", "reason": reason, "message": rejection.to_string(),
            });
            let numbers = rejection.object.metadata();
            object["metadata"] = json!({
                "name": rejection.key.name.to_string(),
                "namespace": rejection.key.namespace.to_string(),
                "annotations": { SOURCE_ANNOTATION: source.to_string() },
            });
            if source == SourceRef::Kube {
                object["metadata"]["uid"] = json!(numbers.uid);
                object["metadata"]["generation"] = json!(numbers.generation);
                condition["observedGeneration"] = json!(numbers.generation);
            }
            object["status"] = json!({ "phase": Phase::Pending, "conditions": [condition] });
            let resource_version = old.resource_version;
            Arc::new(ObjectView { key: rejection.key.clone(), source, object, resource_version })
        });
        let view = View { rejected: shown.chain(refused).collect(), ..View::clone(&old) };
        self.node.view.store(Arc::new(view));
    }

    fn show(&self, view: View, steps: Vec<Change>) {
        if steps.is_empty() {
            return;
        }
        // The view first: whoever hears of a change finds it there.
        self.node.view.store(Arc::new(view));
        for step in steps {
            let _ = self.node.changes.send(step);
        }
    }

    fn count_phase(&self, old: Option<&ObjectView>, new: Option<Phase>) {
        let name =
            |phase: Phase| serde_json::to_value(phase).ok().and_then(|v| v.as_str().map(str::to_owned));
        let gauge = &self.node.metrics.containers;
        if let Some(phase) = old.and_then(|old| old.object["status"]["phase"].as_str()) {
            gauge.with_label_values(&[phase]).dec();
        }
        if let Some(phase) = new.and_then(name) {
            gauge.with_label_values(&[phase.as_str()]).inc();
        }
    }

    /// Says what the agent is still waiting for, and nothing once it is not.
    pub(super) fn say_ready(&self) {
        let mut waits = Vec::new();
        if !self.sources.seen {
            waits.push("the manifests directory has not been read yet".to_owned());
        }
        if self.node.cluster.is_some() && !self.sources.kube_known {
            waits.push("the API server has not been read yet".to_owned());
        }
        if let Some(why) = &self.unobserved {
            waits.push(format!("what runs on this machine is not known: {why}"));
        }
        self.node.unready.store(Arc::new(waits));
    }

    /// Keeps which objects wait for a place to start, so that status says so.
    pub(super) fn deferred(&mut self, plan: &Plan, dirty: &[Uid]) {
        for uid in dirty {
            self.queued.remove(uid);
        }
        self.queued.extend(plan.deferred.iter().cloned());
    }

    /// Lets those that waited for a place be planned again.
    pub(super) fn release_deferred(&mut self) {
        if self.starts_left() > 0 {
            self.dirty.extend(std::mem::take(&mut self.queued));
        }
    }

    fn event(&self, uid: &Uid, type_: EventType, reason: &str, message: String) {
        let Some(key) = self.desired.key_of(uid) else { return };
        let of = (key.namespace.to_string(), key.kind.as_str(), key.name.to_string());
        self.node.events.add(EventView::now(of, type_, reason, message));
    }

    pub(super) fn normal_event(&self, uid: &Uid, reason: &str, message: String) {
        self.event(uid, EventType::Normal, reason, message);
    }

    pub(super) fn failed_event(&self, uid: &Uid, reason: &str, message: String) {
        self.event(uid, EventType::Warning, reason, message);
    }

    pub(super) fn event_of(&self, action: &Action) {
        let reason = match &action.act {
            Act::PullImage { .. } => "Pulling",
            Act::Start { .. } | Act::PostStart { .. } => return,
            Act::Stop { .. } | Act::Kill => "Killing",
            Act::Update { .. } | Act::Refresh { .. } => "Updated",
            Act::MakeStores { image: Some(_), .. } => "Filling",
            Act::MakeStores { .. } => "Provisioning",
            _ => "Removing",
        };
        let message = match (&action.why, &action.key) {
            (Why::Unhealthy { probe, restarts, .. }, Some(key)) => {
                let then = if *restarts { ", will be restarted" } else { "" };
                format!("Container {} failed {} probe{then}", key.name, probe.as_str().to_lowercase())
            }
            _ => action.to_string(),
        };
        self.normal_event(&action.uid, reason, message);
    }

    /// Counts and tells the end of a run.
    pub(super) fn ended(&self, uid: &Uid, process: &ProcessState) {
        let (reason, message) = match process {
            ProcessState::Exited { exit, .. } if exit.oom_killed => {
                let what = if exit.signal == Some(9) { "it" } else { "a process of it" };
                (
                    "OOMKilled",
                    format!("{what} was killed by the kernel for lack of memory; exit code {}", exit.code),
                )
            }
            ProcessState::Exited { exit, .. } => {
                let reason = if exit.code == 0 { "Completed" } else { "Error" };
                let how =
                    exit.signal.map_or_else(|| format!("exit code {}", exit.code), |n| format!("signal {n}"));
                (reason, format!("ended with {how}"))
            }
            _ => ("ShimLost", "its shim ended without a word, so what is left of it is killed".to_owned()),
        };
        self.node.metrics.exits.with_label_values(&[reason]).inc();
        let type_ = if reason == "Completed" { EventType::Normal } else { EventType::Warning };
        self.event(uid, type_, reason, message);
    }

    pub(super) fn started(&self, uid: &Uid) {
        self.normal_event(uid, "Started", "started container".to_owned());
    }
}

/// The whole object, as the API shows it.
fn present(entry: &Entry, source: &SourceRef, status: Option<Value>) -> Value {
    let key = entry.object.key();
    let metadata = entry.object.metadata();
    let mut annotations: BTreeMap<String, String> = metadata.annotations.clone().unwrap_or_default();
    annotations.insert(SOURCE_ANNOTATION.to_owned(), source.to_string());
    let mut shown = json!({
        "name": key.name.to_string(),
        "namespace": key.namespace.to_string(),
        "uid": entry.uid.as_str(),
        "generation": entry.generation.0,
        "creationTimestamp": second(entry.created_at),
        "annotations": annotations,
    });
    if let Some(labels) = &metadata.labels {
        shown["labels"] = json!(labels);
    }
    if let Some(at) = entry.deleted_at {
        shown["deletionTimestamp"] = second(at).into();
    }
    let mut object = entry.object.to_value();
    object["metadata"] = shown;
    if let Some(status) = status {
        object["status"] = status;
    }
    object
}

/// Times of metadata have whole seconds, as in Kubernetes.
pub(super) fn second(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
