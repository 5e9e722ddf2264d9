//! What the server has, for whoever writes to it: which objects are there, what they carry, and whether they are to go.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use serde_json::Value;
use stower_crds::{Kind, Name, Namespace, ObjectKey, Uid};
use tokio::sync::broadcast;

use super::locked;

/// How many changes whoever follows may lag behind before it has to look at all of them.
const CHANGES_KEPT: usize = 1024;

/// An object as the server has it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Remote {
    /// Kind, namespace and name.
    pub key: ObjectKey,
    /// Its identity.
    pub uid: Uid,
    /// The generation of its spec.
    pub generation: i64,
    /// The version of the whole object.
    pub resource_version: String,
    /// Somebody deleted it; it stays as long as it has finalizers.
    pub deleting: bool,
    /// What keeps it.
    pub finalizers: Vec<String>,
    /// The status that it has there, or null.
    pub status: Value,
    /// The node that it names.
    pub(super) node: Option<String>,
}

impl Remote {
    /// Reads what counts of an object of `kind`; `None` when it is not one that a server would have.
    pub(super) fn read(kind: Kind, object: &Value) -> Option<Self> {
        let metadata = &object["metadata"];
        let text = |name: &str| metadata[name].as_str().unwrap_or_default();
        let (namespace, name) = (Namespace::new(text("namespace")).ok()?, Name::new(text("name")).ok()?);
        let finalizers = metadata["finalizers"].as_array().into_iter().flatten();
        Some(Self {
            key: ObjectKey::new(kind, namespace, name),
            uid: Uid::new(text("uid")).ok()?,
            generation: metadata["generation"].as_i64().unwrap_or_default(),
            resource_version: text("resourceVersion").to_owned(),
            deleting: metadata["deletionTimestamp"].is_string(),
            finalizers: finalizers.filter_map(Value::as_str).map(str::to_owned).collect(),
            status: object["status"].clone(),
            node: object["spec"]["nodeName"].as_str().map(str::to_owned),
        })
    }
}

/// All of them, as far as the reconcile loop has taken them in: what is not there is not known to it either.
#[derive(Debug)]
pub(crate) struct Remotes {
    objects: Mutex<BTreeMap<ObjectKey, Arc<Remote>>>,
    changes: broadcast::Sender<ObjectKey>,
}

impl Default for Remotes {
    fn default() -> Self {
        Self { objects: Mutex::default(), changes: broadcast::channel(CHANGES_KEPT).0 }
    }
}

impl Remotes {
    /// The object of that name.
    pub(crate) fn get(&self, key: &ObjectKey) -> Option<Arc<Remote>> {
        locked(&self.objects).get(key).cloned()
    }

    /// Every object.
    pub(crate) fn all(&self) -> Vec<Arc<Remote>> {
        locked(&self.objects).values().cloned().collect()
    }

    /// The names of those that change from now on. Whoever lags behind looks at [`Remotes::all`].
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<ObjectKey> {
        self.changes.subscribe()
    }

    /// Puts one in the place of what was known of its name, or takes that away.
    pub(crate) fn set(&self, key: &ObjectKey, remote: Option<Arc<Remote>>) {
        let mut objects = locked(&self.objects);
        match remote {
            Some(remote) => objects.insert(key.clone(), remote),
            None => objects.remove(key),
        };
        drop(objects);
        // Told also where it is as before, since what was made of it may differ. Nobody may listen yet.
        let _ = self.changes.send(key.clone());
    }

    /// Takes away those of a kind that are not among `keys`.
    pub(crate) fn retain(&self, kind: Kind, keys: &BTreeSet<ObjectKey>) {
        let gone: Vec<ObjectKey> = {
            let objects = locked(&self.objects);
            objects.keys().filter(|key| key.kind == kind && !keys.contains(*key)).cloned().collect()
        };
        for key in gone {
            self.set(&key, None);
        }
    }
}
