//! A configuration as fields with values, and the difference between two.

use std::{collections::BTreeSet, fmt, sync::Arc};

use serde_json::{Value, json};
use stower_controllers::Floor;
use stower_crds::Quantity;
use stower_storage::CapacityKind;

use super::{
    Config, Sources,
    fields::{self, Reload},
    layers::Origin,
};

/// How many characters of a value are told.
const TOLD: usize = 120;

/// A field that has another value, or an entry of one that is a map.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The field.
    pub field: String,
    /// What it was; null where it was not set.
    pub old: Value,
    /// What it is to be.
    pub new: Value,
    /// When that takes effect.
    pub reload: Reload,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} → {}", self.field, Told(&self.old), Told(&self.new))
    }
}

impl Change {
    /// For programs.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({"field": self.field, "old": self.old, "new": self.new, "reload": self.reload.as_str()})
    }
}

/// A value on one line, not endless.
struct Told<'a>(&'a Value);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            Value::Null => "unset".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        match text.char_indices().nth(TOLD) {
            Some((at, _)) => write!(f, "{}…", &text[..at]),
            None => f.write_str(&text),
        }
    }
}

fn size(bytes: u64) -> Value {
    Quantity::from_bytes(bytes).to_string().into()
}

fn floor(floor: &Floor, unit: &str, shown: impl Fn(u64) -> Value) -> Value {
    let mut map = serde_json::Map::new();
    map.extend(floor.absolute.map(|amount| (unit.to_owned(), shown(amount))));
    map.extend(floor.percent.map(|share| ("percent".to_owned(), share.into())));
    map.into()
}

impl Config {
    /// Every field with its value, in the order of the table. None of them is secret.
    pub(super) fn values(&self) -> Vec<(&'static str, Value)> {
        let (fixed, disk, unpack, logging) = (&self.fixed, &self.disk, &self.unpack_limits, &self.logging);
        let (paths, kube) = (&fixed.paths, &fixed.kube);
        let opts = fixed.storage_opts.iter().map(|(key, value)| format!("{key}={value}"));
        let capacity = match self.volume_capacity {
            CapacityKind::Image => "image",
            CapacityKind::ProjectQuota => "project-quota",
        };
        vec![
            ("manifests", json!(paths.manifests)),
            ("dataRoot", json!(paths.data)),
            ("runRoot", json!(paths.run)),
            ("socket", json!(paths.socket)),
            ("nodeName", json!(fixed.node_name)),
            ("cgroupParent", json!(fixed.cgroup_parent)),
            ("containers.limits", fixed.containers_limits.to_json()),
            ("metricsBindAddress", json!(fixed.metrics_bind_address)),
            ("allowEmpty", json!(self.allow_empty)),
            ("logLevel", json!(self.log_level)),
            ("startConcurrency", json!(self.start_concurrency)),
            ("insecureRegistries", json!(self.insecure_registries)),
            ("storageDriver", json!(fixed.storage_driver)),
            ("storageOpts", opts.collect()),
            ("volumeCapacity", json!(capacity)),
            ("images.gc.enabled", json!(disk.collect)),
            ("images.gc.highThresholdPercent", json!(disk.policy.high_percent)),
            ("images.gc.lowThresholdPercent", json!(disk.policy.low_percent)),
            ("images.gc.minAge", stower_crds::Duration::from(disk.min_age).to_string().into()),
            ("images.gc.pinned", json!(disk.pinned)),
            ("images.unpack.maxSize", size(unpack.max_bytes)),
            ("images.unpack.maxRatio", json!(unpack.max_ratio)),
            ("images.unpack.maxEntries", json!(unpack.max_entries)),
            ("storage.minFree", floor(&disk.policy.min_free, "bytes", size)),
            ("storage.minFreeInodes", floor(&disk.policy.min_free_inodes, "inodes", Value::from)),
            ("logging.maxSize", size(logging.max_size)),
            ("logging.maxFiles", json!(logging.max_files)),
            ("logging.mode", json!(if logging.block { "block" } else { "drop" })),
            ("runtimes", self.runtimes.iter().map(|(name, it)| (name.clone(), it.to_json())).collect()),
            ("kube.kubeconfig", json!(kube.kubeconfig)),
            ("kube.enabled", json!(kube.enabled)),
            ("kube.context", json!(kube.context)),
            ("kube.secretCache", json!(kube.secret_cache.as_str())),
            ("kube.leaseNamespace", json!(kube.lease_namespace)),
            ("kube.leaseOwner", json!(kube.lease_owner.as_ref().map(ToString::to_string))),
        ]
    }

    /// What `next` has otherwise.
    #[must_use]
    pub fn changes(&self, next: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        for ((path, old), (_, new)) in self.values().into_iter().zip(next.values()) {
            if old == new {
                continue;
            }
            let reload = fields::find(path).map_or(Reload::Restart, |field| field.reload);
            match (&old, &new) {
                (Value::Object(before), Value::Object(after)) if path == "runtimes" => {
                    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
                    let of = |map: &serde_json::Map<String, Value>, name| {
                        map.get(name).cloned().unwrap_or_default()
                    };
                    changes.extend(
                        names.into_iter().filter(|name| before.get(*name) != after.get(*name)).map(|name| {
                            Change {
                                field: format!("{path}.{name}"),
                                old: of(before, name),
                                new: of(after, name),
                                reload,
                            }
                        }),
                    );
                }
                _ => changes.push(Change { field: path.to_owned(), old, new, reload }),
            }
        }
        changes
    }

    /// `next` as far as it can be had without a restart.
    #[must_use]
    pub fn succeeded_by(&self, mut next: Self) -> Self {
        next.fixed = Arc::clone(&self.fixed);
        for field in fields::FIELDS.iter().filter(|field| field.reload == Reload::Restart) {
            match self.origins.get(field.path) {
                Some(origin) => next.origins.insert(field.path, *origin),
                None => next.origins.remove(field.path),
            };
        }
        next
    }

    /// Every field with its value, where that comes from and when a change takes effect.
    #[must_use]
    pub fn show(&self, sources: &Sources) -> Value {
        let shown = self.values().into_iter().map(|(path, value)| {
            let origin = self.origins.get(path).copied().unwrap_or(Origin::Default);
            let reload = fields::find(path).map_or(Reload::Restart, |field| field.reload);
            json!({
                "field": path, "value": value, "from": sources.describe(path, origin), "reload": reload.as_str(),
            })
        });
        shown.collect()
    }
}
