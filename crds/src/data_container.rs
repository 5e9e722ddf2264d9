//! The kind DataContainer: a named set of volumes that no process runs in.

#![expect(unreachable_pub, reason = "the derive of KubeSchema repeats the struct inside a function")]

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Conditions, Generation, Owner, PullPolicy, Quantity, ReclaimPolicy, VolumePhase};

/// What a DataContainer is to be.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[kube(
    group = "stower.dev",
    version = "v1alpha1",
    kind = "DataContainer",
    plural = "datacontainers",
    singular = "datacontainer",
    namespaced,
    status = "DataContainerStatus",
    shortname = "sdc",
    category = "stower",
    selectable = ".spec.nodeName",
    derive = "PartialEq",
    doc = "A DataContainer is a named set of volumes at mount paths, which containers take with volumesFrom. No process runs in it.",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status","description":"Whether containers can take its volumes."}"#,
    printcolumn = r#"{"name":"Paths","type":"string","jsonPath":".spec.volumes[*].mountPath","description":"Where its volumes are mounted."}"#,
    printcolumn = r#"{"name":"Reclaim","type":"string","jsonPath":".spec.reclaimPolicy","description":"What becomes of its own data when it is deleted."}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp","description":"Time since it was created."}"#,
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".spec.nodeName","priority":1,"description":"The node it belongs to."}"#,
    printcolumn = r#"{"name":"Image","type":"string","jsonPath":".spec.image","priority":1,"description":"The image that fills new volumes."}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("oldSelf.volumes.all(old, !self.volumes.exists(new, new.mountPath == old.mountPath && !has(new.volume) && !has(old.volume) && has(new.capacity) != has(old.capacity)))", "capacity cannot be added to a volume or taken from it; name another path"))]
#[x_kube(validation = ("oldSelf.volumes.all(old, !has(old.capacity) || !self.volumes.exists(new, new.mountPath == old.mountPath && has(new.capacity) && quantity(string(new.capacity)).isLessThan(quantity(string(old.capacity)))))", "capacity can grow and not shrink"))]
#[x_kube(validation = ("!has(oldSelf.nodeName) || (has(self.nodeName) && self.nodeName == oldSelf.nodeName)", "nodeName is set once and never changed"))]
#[x_kube(validation = ("has(self.image) || !has(self.imagePullPolicy)", "imagePullPolicy needs image"))]
pub struct DataContainerSpec {
    /// Its volumes: each at a path, which is the same in every container that takes them.
    pub volumes: Vec<DataVolume>,
    /// An image whose content at each path fills the volume there while that is new and empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// When the registry is asked: `IfNotPresent` (the default), `Always` or `Never`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<PullPolicy>,
    /// What becomes of its own volumes' data when it is deleted: `Retain` keeps it for a DataContainer of the same
    /// name, `Delete` removes it. A Volume that it names has a policy of its own.
    #[serde(default)]
    pub reclaim_policy: ReclaimPolicy,
    /// The node that it is on. Set once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
}

/// A volume of a DataContainer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("!self.mountPath.matches('(^|/)[.][.](/|$)')", "mountPath must not contain '..'"))]
#[x_kube(validation = ("!self.mountPath.matches('//|/[.](/|$)|./$')", "mountPath must be written without '//', '/./' and a '/' at its end: the data is found by it"))]
#[x_kube(validation = ("!has(self.capacity) || quantity(string(self.capacity)).isGreaterThan(quantity('0'))", "capacity must be above 0"))]
#[x_kube(validation = ("!has(self.volume) || !(has(self.capacity) || has(self.owner) || has(self.mode))", "capacity, owner and mode are those of the Volume that is named"))]
pub struct DataVolume {
    /// Absolute path in the containers that take it.
    pub mount_path: String,
    /// Name of a Volume of the same namespace; without it, it is the DataContainer's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// Nobody who takes it can write to it.
    #[serde(default, skip_serializing_if = "crate::container::is_false")]
    pub read_only: bool,
    /// The most it may hold, in bytes; makes a filesystem of that size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Quantity>,
    /// Owner of its top directory; the image decides where it is not set, else 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Mode of its top directory, in decimal as JSON has it (493 is 0755); the image decides where it is not set, else
    /// 0755.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
}

/// What the agent says it sees.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataContainerStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>")]
    pub observed_generation: Option<Generation>,
    /// Where it is in its life: `Pending`, `Ready` or `Failed`.
    #[serde(default)]
    pub phase: VolumePhase,
    /// The image that new volumes are filled from, by digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Its volumes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<DataVolumeStatus>,
    /// The objects that use it: `Container default/web`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<String>,
    /// What holds of it, one of each type.
    #[serde(default, skip_serializing_if = "Conditions::is_empty")]
    pub conditions: Conditions,
}

/// A volume of a DataContainer, as it is seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataVolumeStatus {
    /// Path in the containers that take it.
    pub mount_path: String,
    /// Where its data is on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The Volume that it is, where it names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// The image that it was filled from, by digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filled_from: Option<String>,
}
