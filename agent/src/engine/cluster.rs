//! What the API server says, taken in: objects into the ledger, refusals into their status, values where they are wanted.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use serde_json::{Value, json};
use stower_controllers::{FileId, FileState, FsId};
use stower_crds::{Kind, ObjectKey, Phase, Uid};

use super::{Engine, declared::fresh, publish::SOURCE_ANNOTATION};
use crate::{
    kube::{Cluster, Refused, Remote, Said, Update, ValueState, Word, is_value},
    node::{ObjectView, SourceRef},
    time,
};

/// An object that the server accepted and this agent does not take.
#[derive(Debug)]
pub(super) struct Refusal {
    remote: Arc<Remote>,
    refused: Refused,
    /// Since when.
    since: Timestamp,
}

impl Refusal {
    /// The condition that says so.
    fn condition(&self) -> Value {
        json!({
            "type": "Accepted", "status": self.refused.status, "reason": self.refused.reason,
            "message": self.refused.message, "observedGeneration": self.remote.generation,
            "lastTransitionTime": super::publish::second(self.since),
        })
    }
}

impl Engine {
    /// Takes in what the API server says.
    pub(super) fn heard(&mut self, update: Update) {
        let Some(cluster) = self.node.cluster.clone() else { return };
        match update {
            Update::Objects { kind, whole, cluster: identity, said } => {
                self.objects_said(&cluster, kind, whole, said);
                if whole {
                    self.listed(&cluster, kind, identity);
                }
            }
            Update::Value { key, state } => {
                // It may have been on its way when nobody wanted it any more.
                if cluster.wants(&key) {
                    self.value_said(&key, state);
                }
            }
        }
    }

    fn objects_said(&mut self, cluster: &Cluster, kind: Kind, whole: bool, said: Vec<Said>) {
        let now = Timestamp::now();
        let mut batch = BTreeMap::new();
        let mut remotes = Vec::new();
        let mut told = BTreeSet::new();
        for Said { remote, word } in said {
            let key = remote.key.clone();
            let file = FileId::new(&key.to_string());
            told.insert(key.clone());
            // What had the name before is gone, whatever is to be said of its successor.
            let other = self.sources.ledger.get(&key).is_some_and(|entry| entry.uid != remote.uid);
            let there = !matches!(word, Word::Gone);
            match word {
                Word::Same | Word::Refused(_) if other => drop(batch.insert(file, None)),
                Word::Same | Word::Refused(_) => {}
                Word::Accepted(ref object) => {
                    batch.insert(file, Some(FileState::Good(vec![Arc::clone(object)])));
                }
                Word::Terminating | Word::Gone => drop(batch.insert(file, None)),
            }
            match word {
                Word::Same => {}
                Word::Refused(refused) => self.refuse(&remote, refused, now),
                Word::Accepted(_) | Word::Terminating | Word::Gone => drop(self.refused.remove(&key)),
            }
            remotes.push((key, there.then_some(remote)));
        }
        if whole {
            let claimed = self.sources.ledger.claimed(&self.sources.kube);
            let gone = claimed.filter(|(_, key)| key.kind == kind && !told.contains(*key));
            batch.extend(gone.map(|(file, _)| (file.clone(), None)));
            self.refused.retain(|key, _| key.kind != kind || told.contains(key));
            cluster.remotes().retain(kind, &told);
        }
        self.take_kube(batch, now);
        // Seen at once: whoever looks at what the server has finds here what follows from it.
        let seen = told.iter().filter_map(|key| self.sources.ledger.get(key)).map(|entry| entry.uid.clone());
        let seen: Vec<Uid> = seen.collect();
        self.publish(&seen, &time::now(&self.boot_id));
        self.show_rejected();
        self.count_refused();
        for (key, remote) in remotes {
            cluster.remotes().set(&key, remote);
        }
        if kind == Kind::Container {
            self.want_values();
        }
    }

    fn refuse(&mut self, remote: &Arc<Remote>, refused: Refused, now: Timestamp) {
        let old = self.refused.get(&remote.key).filter(|old| old.remote.uid == remote.uid);
        let since = old.filter(|old| old.refused.status == refused.status).map_or(now, |old| old.since);
        if old.is_none_or(|old| old.refused.message != refused.message) {
            tracing::warn!(key = %remote.key, reason = refused.reason, message = refused.message, "an object of the API server is not taken");
        }
        self.refused.insert(remote.key.clone(), Refusal { remote: Arc::clone(remote), refused, since });
    }

    fn count_refused(&self) {
        let gauge = &self.node.metrics.kube.refused;
        gauge.reset();
        for refusal in self.refused.values() {
            gauge.with_label_values(&[refusal.refused.reason]).inc();
        }
    }

    fn take_kube(&mut self, batch: BTreeMap<FileId, Option<FileState>>, now: Timestamp) {
        let (kube, complete) = (self.sources.kube.clone(), self.sources.listed.len() == Kind::CUSTOM.len());
        let changes = self.sources.ledger.objects(&kube, batch, complete, &mut fresh, now);
        if !changes.is_empty() {
            self.accepted(&changes);
        }
    }

    /// All of a kind was read.
    fn listed(&mut self, cluster: &Cluster, kind: Kind, identity: Option<String>) {
        self.sources.listed.insert(kind);
        if let Some(identity) = identity {
            cluster.belongs_to(&identity);
            self.sources.ledger.set_fs_id(&self.sources.kube, FsId::new(&identity));
        }
        if self.sources.listed.len() == Kind::CUSTOM.len() {
            self.take_kube(BTreeMap::new(), Timestamp::now());
            self.sources.kube_read();
        }
        self.say_ready();
    }

    fn value_said(&mut self, key: &ObjectKey, state: ValueState) {
        let file = FileId::new(&key.to_string());
        let now = Timestamp::now();
        let said = match state {
            ValueState::Present(object) => {
                self.desired.set_untold(key);
                Some(FileState::Good(vec![object]))
            }
            ValueState::Absent => {
                self.desired.set_absent(key.clone());
                None
            }
            ValueState::Unavailable { why } => {
                let kube = &self.sources.kube;
                let known = self.sources.ledger.get(key).is_some_and(|entry| entry.claim.source == *kube);
                if known {
                    // What it said last counts as long as nothing else is known.
                    tracing::debug!(%key, why, "cannot be read at present");
                    return;
                }
                self.desired.set_unavailable(key.clone(), why);
                self.dirty.extend(self.desired.dependents(key));
                return;
            }
        };
        self.take_kube(BTreeMap::from([(file, said)]), now);
        self.dirty.extend(self.desired.dependents(key));
    }

    /// Has those ConfigMaps and Secrets read that objects of the API server name, and lets go of those that none names any more.
    pub(super) fn want_values(&mut self) {
        let Some(cluster) = self.node.cluster.clone() else { return };
        let kube = self.sources.kube.clone();
        let mine = self.sources.ledger.iter().filter(|(key, entry)| {
            key.kind == Kind::Container && entry.claim.source == kube && entry.deleted_at.is_none()
        });
        let names = mine.flat_map(|(_, entry)| self.desired.names_of(&entry.uid));
        let wanted: BTreeSet<ObjectKey> = names.filter(|key| is_value(key.kind)).collect();
        let claimed = self.sources.ledger.claimed(&kube);
        let dropped: BTreeMap<FileId, Option<FileState>> = claimed
            .filter(|(_, key)| is_value(key.kind) && !wanted.contains(*key))
            .map(|(file, _)| (file.clone(), None))
            .collect();
        for key in cluster.unwanted(&wanted) {
            self.desired.set_untold(&key);
        }
        cluster.want(wanted);
        if !dropped.is_empty() {
            self.take_kube(dropped, Timestamp::now());
        }
    }

    /// Puts into a status that the last word of the server on this object is not taken.
    pub(super) fn overlay(&self, key: &ObjectKey, uid: &Uid, object: &mut Value) {
        let Some(refusal) = self.refused.get(key).filter(|refusal| refusal.remote.uid == *uid) else {
            return;
        };
        let conditions = &mut object["status"]["conditions"];
        if !conditions.is_array() {
            *conditions = json!([]);
        }
        if let Some(conditions) = conditions.as_array_mut() {
            conditions.retain(|condition| condition["type"] != "Accepted");
            conditions.insert(0, refusal.condition());
        }
    }

    /// Those objects of the server that nothing was ever accepted of.
    pub(super) fn refused_views(&self, resource_version: u64) -> Vec<Arc<ObjectView>> {
        let unknown = self.refused.iter().filter(|(key, refusal)| {
            let entry = self.sources.ledger.get(key);
            entry.is_none_or(|entry| entry.uid != refusal.remote.uid)
        });
        let view = |(key, refusal): (&ObjectKey, &Refusal)| {
            let source = SourceRef::Kube;
            let mut object = Value::clone(&refusal.refused.object);
            object["metadata"] = json!({
                "name": key.name.to_string(),
                "namespace": key.namespace.to_string(),
                "uid": refusal.remote.uid.as_str(),
                "generation": refusal.remote.generation,
                "annotations": { SOURCE_ANNOTATION: source.to_string() },
            });
            object["status"] = json!({ "phase": Phase::Pending, "conditions": [refusal.condition()] });
            Arc::new(ObjectView { key: key.clone(), source, object, resource_version })
        };
        unknown.map(view).collect()
    }
}
