//! Limits: cgroups, rlimits, devices.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Quantity;

/// What the container may use at most, and what is set aside for it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("!has(self.limits) || !has(self.requests) || !has(self.limits.cpu) || !has(self.requests.cpu) || quantity(string(self.requests.cpu)).compareTo(quantity(string(self.limits.cpu))) <= 0", "the request of cpu must not be above its limit"))]
#[x_kube(validation = ("!has(self.limits) || !has(self.requests) || !has(self.limits.memory) || !has(self.requests.memory) || quantity(string(self.requests.memory)).compareTo(quantity(string(self.limits.memory))) <= 0", "the request of memory must not be above its limit"))]
#[x_kube(validation = ("!has(self.limits) || !has(self.requests) || !has(self.limits.ephemeral__dash__storage) || !has(self.requests.ephemeral__dash__storage) || quantity(string(self.requests.ephemeral__dash__storage)).compareTo(quantity(string(self.limits.ephemeral__dash__storage))) <= 0", "the request of ephemeral-storage must not be above its limit"))]
#[x_kube(validation = ("!has(self.limits) || !has(self.limits.ephemeral__dash__storage) || quantity(string(self.limits.ephemeral__dash__storage)).isGreaterThan(quantity('0'))", "the limit of ephemeral-storage must be above 0"))]
#[x_kube(validation = ("!has(self.requests) || !has(self.requests.pids)", "pids has a limit only, no request"))]
pub struct ResourceRequirements {
    /// The most that the container gets.
    #[serde(default, skip_serializing_if = "ResourceList::is_empty")]
    pub limits: ResourceList,
    /// What is set aside for it; by default the same as `limits`.
    #[serde(default, skip_serializing_if = "ResourceList::is_empty")]
    pub requests: ResourceList,
}

impl ResourceRequirements {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.limits.is_empty() && self.requests.is_empty()
    }
}

/// What a container has been given, which may lag behind what is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceStatus {
    /// The most that it gets.
    #[serde(default, skip_serializing_if = "ResourceList::is_empty")]
    pub limits: ResourceList,
    /// What is set aside for it.
    #[serde(default, skip_serializing_if = "ResourceList::is_empty")]
    pub requests: ResourceList,
}

/// Amounts of resources.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceList {
    /// Processor time, in cores: `0.5` or `500m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Quantity>,
    /// Memory, in bytes: `64Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
    /// Number of processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<Quantity>,
    /// What the container writes to its root filesystem, in bytes. A limit can become larger at any time; a smaller one takes
    /// effect with the next new writable layer. A request must be free on the disk for a new layer to be made.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "ephemeral-storage")]
    pub ephemeral_storage: Option<Quantity>,
}

impl ResourceList {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A resource limit of the kernel for each process, `getrlimit(2)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("self.hard == -1 || (self.soft != -1 && self.soft <= self.hard)", "soft must not be above hard"))]
pub struct Rlimit {
    /// Which limit: `nofile` and so on.
    pub name: RlimitName,
    /// The limit that holds; -1 is unlimited.
    pub soft: i64,
    /// The limit up to which a process may raise it; -1 is unlimited.
    pub hard: i64,
}

/// The resource limits of Linux, as `ulimit` of Docker and limits.conf(5) name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RlimitName {
    /// `RLIMIT_AS`, bytes.
    As,
    /// `RLIMIT_CORE`, bytes.
    Core,
    /// `RLIMIT_CPU`, seconds.
    Cpu,
    /// `RLIMIT_DATA`, bytes.
    Data,
    /// `RLIMIT_FSIZE`, bytes.
    Fsize,
    /// `RLIMIT_LOCKS`.
    Locks,
    /// `RLIMIT_MEMLOCK`, bytes.
    Memlock,
    /// `RLIMIT_MSGQUEUE`, bytes.
    Msgqueue,
    /// `RLIMIT_NICE`.
    Nice,
    /// `RLIMIT_NOFILE`.
    Nofile,
    /// `RLIMIT_NPROC`.
    Nproc,
    /// `RLIMIT_RSS`, bytes.
    Rss,
    /// `RLIMIT_RTPRIO`.
    Rtprio,
    /// `RLIMIT_RTTIME`, microseconds.
    Rttime,
    /// `RLIMIT_SIGPENDING`.
    Sigpending,
    /// `RLIMIT_STACK`, bytes.
    Stack,
}

/// A device of the host that the container may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// Path of the device on the host.
    pub host_path: String,
    /// Path of the device in the container. By default the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_path: Option<String>,
    /// What is allowed: some of `r`, `w` and `m` (mknod).
    #[serde(default = "rwm")]
    pub permissions: String,
}

fn rwm() -> String {
    "rwm".to_owned()
}
