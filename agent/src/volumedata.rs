//! The data of volumes as people and Prometheus see it: whose it is, how much it takes, and what nobody declares any
//! more. Blocking work runs on threads for it, never on the reconcile task.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::Serialize;
use sha2::{Digest, Sha256};
use stower_crds::{Kind, Name, Namespace, ObjectKey};
use stower_storage::{VolumeKey, VolumeList, VolumeRecord, VolumeUsage, Volumes};

use crate::{
    effects::chain,
    metrics::VolumeGauges,
    node::{ApiError, View},
};

/// How long a measurement is taken for true.
const FRESH: Duration = Duration::from_secs(30);
/// A walk is made no oftener than this many times what it took, so that large volumes cost no more than small ones.
const SPARING: u32 = 20;
/// How long a scrape or a list waits for measurements; what is not there by then is there the next time.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a person waits who asks for one object.
const LONG: Duration = Duration::from_secs(30);

/// The data of one volume.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeView {
    /// Its key in the store.
    pub key: String,
    /// The kind of the object that it belongs to: `Volume`, `DataContainer` or `Container`.
    pub kind: &'static str,
    /// That object's namespace, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// That object's name; of a Container that is not there, its UID.
    pub name: String,
    /// Where a DataContainer has it, where that is declared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_path: Option<String>,
    /// Whether the object is there.
    pub declared: bool,
    /// What uses it: `Container default/web`.
    pub users: Vec<String>,
    /// What keeps it, as in `spec.driver`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<&'static str>,
    /// Whether it has been filled, be it with nothing.
    pub has_data: bool,
    /// The digest of the image that its data came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filled_from: Option<String>,
    /// Where its data is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The most that it may hold, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u64>,
    /// Whether anything keeps it from holding more.
    pub capacity_enforced: bool,
    /// What it takes, as it was measured last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageView>,
    /// Why it cannot be used or measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl VolumeView {
    /// Whether it was left behind. What belongs to a container goes with it, and is never left for anybody.
    pub(crate) fn is_retained(&self) -> bool {
        !self.declared && self.kind != Kind::Container.as_str()
    }

    /// The object that it belongs to; `None` for a Container that is not there.
    pub(crate) fn object_key(&self) -> Option<ObjectKey> {
        let namespace = Namespace::new(self.namespace.as_deref()?).ok()?;
        Some(ObjectKey::new(self.kind.parse().ok()?, namespace, Name::new(self.name.as_str()).ok()?))
    }
}

/// What a volume takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UsageView {
    /// Bytes in use.
    pub bytes: u64,
    /// Files, directories and other entries.
    pub inodes: u64,
    /// Bytes that it may take, where it has a limit of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u64>,
    /// Bytes that can still be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available: Option<u64>,
}

impl From<VolumeUsage> for UsageView {
    fn from(usage: VolumeUsage) -> Self {
        Self {
            bytes: usage.bytes,
            inodes: usage.inodes,
            capacity: usage.capacity,
            available: usage.available,
        }
    }
}

/// The store of volumes, with what was measured lately.
#[derive(Debug)]
pub(crate) struct VolumeData {
    store: Arc<Volumes>,
    measured: Mutex<HashMap<VolumeKey, Measured>>,
    /// Held by whoever measures: there is one at a time.
    measuring: Arc<tokio::sync::Mutex<()>>,
    /// The labels of the gauges that are set.
    labels: Mutex<BTreeSet<[String; 3]>>,
}

#[derive(Debug, Clone)]
struct Measured {
    usage: Result<UsageView, String>,
    next: Instant,
}

fn held<T>(lock: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl VolumeData {
    pub(crate) fn new(store: Arc<Volumes>) -> Self {
        Self { store, measured: Mutex::default(), measuring: Arc::default(), labels: Mutex::default() }
    }

    /// The data of one object, or of all.
    pub(crate) async fn list(
        self: &Arc<Self>,
        view: Arc<View>,
        only: Option<&ObjectKey>,
    ) -> Result<Vec<VolumeView>, ApiError> {
        let VolumeList { volumes, broken } = self.blocking(|store| store.list()).await?;
        let owners = Owners::new(&view);
        let is_wanted = |key: &VolumeKey| only.is_none_or(|only| owners.of(key).key.as_ref() == Some(only));
        let volumes: Vec<VolumeRecord> =
            volumes.into_iter().filter(|record| is_wanted(&record.key)).collect();
        let keys = volumes.iter().map(|record| record.key.clone()).collect();
        self.refresh(keys, if only.is_some() { LONG } else { PATIENCE }, only.is_some()).await;
        let measured = held(&self.measured);
        let sound = volumes.iter().map(|record| {
            let mut shown = owners.shown(&record.key);
            shown.driver = Some(record.driver.as_str());
            shown.has_data = record.has_data;
            shown.filled_from.clone_from(&record.filled_from);
            shown.path = Some(record.data.clone());
            shown.capacity = record.capacity;
            shown.capacity_enforced = record.capacity_enforced;
            match measured.get(&record.key).map(|measured| &measured.usage) {
                Some(Ok(usage)) => shown.usage = Some(*usage),
                Some(Err(why)) => shown.problem = Some(why.clone()),
                None => {}
            }
            shown
        });
        let broken = broken
            .iter()
            .filter(|(key, _)| is_wanted(key))
            .map(|(key, error)| VolumeView { problem: Some(chain(error)), ..owners.shown(key) });
        let mut all: Vec<VolumeView> = sound.chain(broken).collect();
        all.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(all)
    }

    /// Removes what an object that is no longer declared left behind.
    pub(crate) async fn remove(
        self: &Arc<Self>,
        view: Arc<View>,
        key: &ObjectKey,
    ) -> Result<Vec<VolumeView>, ApiError> {
        let letter = match key.kind {
            Kind::Volume => "v",
            Kind::DataContainer => "d",
            kind => {
                return Err(ApiError::invalid(format!("a {kind} leaves no data behind")));
            }
        };
        if view.objects.contains_key(key) {
            return Err(ApiError::conflict(format!(
                "{key} is declared: its data goes by its reclaimPolicy when it is deleted; delete it first"
            )));
        }
        let prefix = VolumeKey::new([letter, key.namespace.as_str(), key.name.as_str()])
            .map_err(|error| ApiError::invalid(error.to_string()))?;
        let list = self.blocking(|store| store.list()).await?;
        let all = list.volumes.iter().map(|record| &record.key).chain(list.broken.iter().map(|(key, _)| key));
        let keys: Vec<VolumeKey> = all.filter(|key| key.starts_with(&prefix)).cloned().collect();
        if keys.is_empty() {
            return Err(ApiError {
                code: 404,
                reason: "NotFound",
                message: format!("there is no data of a {key} on this machine"),
            });
        }
        let owners = Owners::new(&view);
        let shown = keys.iter().map(|key| owners.shown(key)).collect();
        let removed = keys.clone();
        self.blocking(move |store| removed.iter().try_for_each(|key| store.remove(key))).await?;
        held(&self.measured).retain(|key, _| !keys.contains(key));
        tracing::info!(object = %key, volumes = keys.len(), "removed the data that it left behind");
        Ok(shown)
    }

    /// Sets the gauges: of every Volume, and of every DataContainer with its own volumes taken together.
    pub(crate) async fn measure(self: &Arc<Self>, view: &Arc<View>, gauges: &VolumeGauges) {
        let views = match self.list(Arc::clone(view), None).await {
            Ok(views) => views,
            Err(error) => {
                tracing::warn!(%error, "cannot measure volumes");
                return;
            }
        };
        let mut sums: HashMap<[String; 3], UsageView> = HashMap::new();
        for view in views.iter().filter(|view| view.kind != Kind::Container.as_str()) {
            let Some(usage) = view.usage else { continue };
            let labels =
                [view.namespace.clone().unwrap_or_default(), view.name.clone(), view.kind.to_owned()];
            sums.entry(labels).and_modify(|sum| *sum = add(*sum, usage)).or_insert(usage);
        }
        let mut labels = held(&self.labels);
        for gone in labels.iter().filter(|labels| !sums.contains_key(*labels)) {
            gauges.remove(&gone.each_ref().map(String::as_str));
        }
        for (labels, usage) in &sums {
            gauges.set(&labels.each_ref().map(String::as_str), usage);
        }
        *labels = sums.into_keys().collect();
    }

    /// Measures those whose time has come, or all of them `now`. One walk at a time; one that outlasts the `patience`
    /// goes on, and is there the next time.
    async fn refresh(self: &Arc<Self>, keys: Vec<VolumeKey>, patience: Duration, now: bool) {
        let started = Instant::now();
        let due = |this: &Self| -> Vec<VolumeKey> {
            let measured = held(&this.measured);
            let is_due = |key: &&VolumeKey| measured.get(*key).is_none_or(|it| it.next <= started);
            keys.iter().filter(|key| now || is_due(key)).cloned().collect()
        };
        if due(self).is_empty() {
            return;
        }
        let work = async {
            let guard = Arc::clone(&self.measuring).lock_owned().await;
            // Whoever measured meanwhile may have measured these.
            let due = due(self);
            let this = Arc::clone(self);
            // A thread that panics leaves its volumes unmeasured, which is seen.
            let _ = tokio::task::spawn_blocking(move || {
                let _guard = guard;
                for key in due {
                    this.measure_one(key);
                }
            })
            .await;
        };
        let _ = tokio::time::timeout(patience, work).await;
    }

    fn measure_one(&self, key: VolumeKey) {
        let began = Instant::now();
        let usage = self.store.usage(&key).map(UsageView::from).map_err(|error| chain(&error));
        let ended = Instant::now();
        let next = ended + FRESH.max((ended - began).saturating_mul(SPARING));
        held(&self.measured).insert(key, Measured { usage, next });
    }

    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Volumes) -> Result<T, stower_storage::VolumeError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let store = Arc::clone(&self.store);
        tokio::task::spawn_blocking(move || work(&store))
            .await
            .map_err(|error| ApiError::internal(format!("the store of volumes failed: {error}")))?
            .map_err(|error| ApiError::internal(chain(&error)))
    }
}

/// Two volumes as one. What is left is known where both have a limit of their own; else they share one filesystem.
fn add(a: UsageView, b: UsageView) -> UsageView {
    let both = |a: Option<u64>, b: Option<u64>| Some(a?.saturating_add(b?));
    let capacity = both(a.capacity, b.capacity);
    UsageView {
        bytes: a.bytes.saturating_add(b.bytes),
        inodes: a.inodes.saturating_add(b.inodes),
        capacity,
        available: if capacity.is_some() {
            both(a.available, b.available)
        } else {
            a.available.min(b.available)
        },
    }
}

/// Who has what, by the keys of the store: `v/NAMESPACE/NAME`, `d/NAMESPACE/NAME/PATH`, `c/UID/NAME`.
struct Owners<'a> {
    view: &'a View,
    containers: HashMap<&'a str, &'a ObjectKey>,
}

/// The object that a key of the store names.
struct Owner {
    kind: Kind,
    /// `None` for a Container that is not there.
    key: Option<ObjectKey>,
}

impl<'a> Owners<'a> {
    fn new(view: &'a View) -> Self {
        let containers = view.objects.iter().filter(|(key, _)| key.kind == Kind::Container);
        let containers = containers
            .filter_map(|(key, object)| Some((object.object["metadata"]["uid"].as_str()?, key)))
            .collect();
        Self { view, containers }
    }

    fn of(&self, key: &VolumeKey) -> Owner {
        let named = |kind: Kind, namespace: &str, name: &str| Owner {
            kind,
            key: Namespace::new(namespace)
                .and_then(|namespace| Ok(ObjectKey::new(kind, namespace, Name::new(name)?)))
                .ok(),
        };
        match key.parts() {
            [letter, namespace, name] if letter == "v" => named(Kind::Volume, namespace, name),
            [letter, namespace, name, _] if letter == "d" => named(Kind::DataContainer, namespace, name),
            [_, uid, ..] => Owner {
                kind: Kind::Container,
                key: self.containers.get(uid.as_str()).map(|key| (*key).clone()),
            },
            _ => Owner { kind: Kind::Container, key: None },
        }
    }

    fn shown(&self, key: &VolumeKey) -> VolumeView {
        let owner = self.of(key);
        let object = owner.key.as_ref().and_then(|key| self.view.objects.get(key));
        let users = match (owner.kind, &owner.key) {
            (Kind::Container, Some(key)) => vec![key.to_string()],
            _ => {
                let users = object.and_then(|object| object.object["status"]["users"].as_array());
                users.into_iter().flatten().filter_map(|user| user.as_str().map(str::to_owned)).collect()
            }
        };
        let mount_path = (owner.kind == Kind::DataContainer).then_some(object).flatten().and_then(|object| {
            let paths = object.object["spec"]["volumes"].as_array()?;
            let mut paths = paths.iter().filter_map(|volume| volume["mountPath"].as_str());
            let last = key.parts().last()?;
            paths.find(|path| path_part(path) == *last).map(str::to_owned)
        });
        VolumeView {
            key: key.to_string(),
            kind: owner.kind.as_str(),
            namespace: owner.key.as_ref().map(|key| key.namespace.to_string()),
            name: match &owner.key {
                Some(key) => key.name.to_string(),
                None => key.parts().get(1).cloned().unwrap_or_default(),
            },
            mount_path,
            declared: object.is_some(),
            users,
            driver: None,
            has_data: false,
            filled_from: None,
            path: None,
            capacity: None,
            capacity_enforced: false,
            usage: None,
            problem: None,
        }
    }
}

/// The part of a key that stands for a mount path: the first 16 hexadecimal digits of its SHA-256.
fn path_part(path: &str) -> String {
    Sha256::digest(path.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
