//! The kind Volume: named storage that outlives containers.

#![expect(unreachable_pub, reason = "the derive of KubeSchema repeats the struct inside a function")]

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Conditions, Generation, HostPathVolumeSource, Quantity};

/// What a Volume is to be.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[kube(
    group = "stower.dev",
    version = "v1alpha1",
    kind = "Volume",
    plural = "volumes",
    singular = "volume",
    namespaced,
    status = "VolumeStatus",
    shortname = "svol",
    category = "stower",
    selectable = ".spec.nodeName",
    derive = "PartialEq",
    doc = "A Volume is named storage on one node that outlives the containers that use it.",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status","description":"Whether containers can mount it."}"#,
    printcolumn = r#"{"name":"Driver","type":"string","jsonPath":".spec.driver","description":"What it is made of."}"#,
    printcolumn = r#"{"name":"Capacity","type":"string","jsonPath":".spec.capacity","description":"The most it may hold."}"#,
    printcolumn = r#"{"name":"Reclaim","type":"string","jsonPath":".spec.reclaimPolicy","description":"What becomes of its data when it is deleted."}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp","description":"Time since it was created."}"#,
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".spec.nodeName","priority":1,"description":"The node it belongs to."}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("!has(oldSelf.nodeName) || (has(self.nodeName) && self.nodeName == oldSelf.nodeName)", "nodeName is set once and never changed"))]
#[x_kube(validation = ("self.driver == oldSelf.driver", "driver cannot be changed: the data that is there is kept; delete the Volume, or declare another one"))]
#[x_kube(validation = ("(self.driver == 'hostPath') == has(self.hostPath)", "hostPath must be set with driver hostPath, and only then"))]
#[x_kube(validation = ("self.driver != 'hostPath' || !(has(self.capacity) || has(self.owner) || has(self.mode))", "capacity, owner and mode cannot be set with driver hostPath"))]
#[x_kube(validation = ("self.driver != 'hostPath' || self.reclaimPolicy == 'Retain'", "reclaimPolicy must be Retain with driver hostPath: somebody else looks after what is there"))]
#[x_kube(validation = ("!has(self.capacity) || quantity(string(self.capacity)).isGreaterThan(quantity('0'))", "capacity must be above 0"))]
#[x_kube(validation = ("has(self.capacity) == has(oldSelf.capacity)", "capacity cannot be added to a Volume or taken from it; declare another one"))]
#[x_kube(validation = ("!has(self.capacity) || !has(oldSelf.capacity) || quantity(string(self.capacity)).compareTo(quantity(string(oldSelf.capacity))) >= 0", "capacity can grow and not shrink"))]
pub struct VolumeSpec {
    /// What it is made of: `local` (a directory of the node, or with `capacity` a filesystem of its own), `tmpfs`
    /// (memory, empty after a reboot), `hostPath` (a path that somebody else looks after) or `devicemapper`.
    #[serde(default)]
    pub driver: VolumeDriver,
    /// The most it may hold, in bytes. With `local` this makes a filesystem of that size, which can grow later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Quantity>,
    /// What becomes of its data when it is deleted: `Retain` keeps it for a Volume of the same name, `Delete` removes
    /// it.
    #[serde(default)]
    pub reclaim_policy: ReclaimPolicy,
    /// Owner of its top directory; what fills it decides where it is not set, else 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Mode of its top directory, in decimal as JSON has it (493 is 0755); what fills it decides where it is not set,
    /// else 0755.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// The path, of driver `hostPath`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_path: Option<HostPathVolumeSource>,
    /// The node that it is on. Set once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
}

/// What a Volume is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
pub enum VolumeDriver {
    /// A directory of the node, or a filesystem of its own.
    #[default]
    #[serde(rename = "local")]
    Local,
    /// A thin device.
    #[serde(rename = "devicemapper")]
    DeviceMapper,
    /// Memory.
    #[serde(rename = "tmpfs")]
    Tmpfs,
    /// A path of the host.
    #[serde(rename = "hostPath")]
    HostPath,
}

impl VolumeDriver {
    /// The name as documents have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::DeviceMapper => "devicemapper",
            Self::Tmpfs => "tmpfs",
            Self::HostPath => "hostPath",
        }
    }
}

/// What becomes of data when its object is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
pub enum ReclaimPolicy {
    /// It is kept, for an object of the same name in the same namespace.
    #[default]
    Retain,
    /// It is removed.
    Delete,
}

/// An owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// Number of the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Number of the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

/// What the agent says it sees.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>")]
    pub observed_generation: Option<Generation>,
    /// Where it is in its life: `Pending`, `Ready` or `Failed`.
    #[serde(default)]
    pub phase: VolumePhase,
    /// Where its data is on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The most it may hold, in bytes, where there is a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Quantity>,
    /// Whether anything keeps it from holding more.
    #[serde(default)]
    pub capacity_enforced: bool,
    /// The objects that use it: `Container default/web`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<String>,
    /// What holds of it, one of each type.
    #[serde(default, skip_serializing_if = "Conditions::is_empty")]
    pub conditions: Conditions,
}

/// Where a Volume or DataContainer is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
pub enum VolumePhase {
    /// It is not made yet.
    #[default]
    Pending,
    /// It can be mounted.
    Ready,
    /// It cannot be made as it is declared.
    Failed,
}

impl VolumePhase {
    /// The name as documents have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Ready => "Ready",
            Self::Failed => "Failed",
        }
    }
}
