//! The kind Container: one process tree from one image.

#![expect(unreachable_pub, reason = "the derive of KubeSchema repeats the struct inside a function")]

mod access;
mod env;
mod lifecycle;
mod resources;
mod restart;
mod security;
mod status;
mod volumes;

pub use env::{
    ConfigMapEnvSource, ConfigMapKeySelector, EnvFromSource, EnvVar, EnvVarSource, ObjectFieldSelector,
    SecretEnvSource, SecretKeySelector,
};
pub use lifecycle::{
    ExecAction, GrpcAction, GrpcMode, HttpGetAction, HttpHeader, HttpProtocol, IntOrString, Lifecycle,
    LifecycleHandler, Probe, SleepAction, TcpSocketAction, UriScheme,
};
pub use resources::{Device, ResourceList, ResourceRequirements, ResourceStatus, Rlimit, RlimitName};
pub use restart::{
    Backoff, ExitCodeMatch, Restart, RestartPolicy, RestartRule, RootfsPolicy, RuleAction, SetOperator,
};
pub use security::{
    AppArmorProfile, Capabilities, ProcMount, ProfileType, SeLinuxOptions, SeccompProfile, SecurityContext,
};
pub use status::{
    Condition, ConditionStatus, ConditionType, Conditions, ContainerState, ContainerStateKind,
    ContainerStatus, MountStatus, Phase, ProbeResult, ProbeStatus, ProbeType, Reason, StateRunning,
    StateTerminated, StateWaiting,
};
pub use volumes::{
    ConfigMapVolumeSource, EmptyDirVolumeSource, HostPathType, HostPathVolumeSource, InlineVolume, KeyToPath,
    MountPropagation, NamedVolumeSource, SecretVolumeSource, StorageMedium, VolumeMount, VolumeSourceKind,
    VolumesFrom, VolumesFromKind,
};

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::Signal;

/// What to run, and how. Field names, defaults and meanings are those of a Pod and its container in core/v1
/// wherever Kubernetes has the concept.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[kube(
    group = "stower.dev",
    version = "v1alpha1",
    kind = "Container",
    plural = "containers",
    singular = "container",
    namespaced,
    status = "ContainerStatus",
    shortname = "sctr",
    category = "stower",
    selectable = ".spec.nodeName",
    derive = "PartialEq",
    doc = "A Container is one process tree, started from an image and supervised by the agent of one node.",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status","description":"Whether the container runs and is ready."}"#,
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.phase","description":"Where the container is in its life."}"#,
    printcolumn = r#"{"name":"Restarts","type":"integer","jsonPath":".status.restartCount","description":"How often it was restarted."}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp","description":"Time since it was created."}"#,
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".spec.nodeName","priority":1,"description":"The node it belongs to."}"#,
    printcolumn = r#"{"name":"Image","type":"string","jsonPath":".spec.image","priority":1,"description":"The image that is declared."}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("!has(oldSelf.nodeName) || (has(self.nodeName) && self.nodeName == oldSelf.nodeName)", "nodeName is set once and never changed"))]
#[x_kube(validation = ("!has(self.volumeMounts) || self.volumeMounts.all(mount, has(self.volumes) && self.volumes.exists(volume, volume.name == mount.name))", "every one of volumeMounts must name one of volumes"))]
#[x_kube(validation = ("!has(self.restart.maxRetries) || self.restartPolicy == 'OnFailure'", "restart.maxRetries needs restartPolicy OnFailure"))]
#[x_kube(validation = ("self.hostUsers || !((has(self.hostNetwork) && self.hostNetwork) || (has(self.hostPID) && self.hostPID) || (has(self.hostIPC) && self.hostIPC))", "hostUsers must not be false with hostNetwork, hostPID or hostIPC"))]
#[x_kube(validation = ("!has(self.volumeMounts) || (has(self.securityContext) && has(self.securityContext.privileged) && self.securityContext.privileged) || self.volumeMounts.all(mount, !has(mount.mountPropagation) || mount.mountPropagation != 'Bidirectional')", "mountPropagation Bidirectional needs securityContext.privileged"))]
#[x_kube(validation = lifecycle::port_is_named("startupProbe", &["httpGet", "tcpSocket"]))]
#[x_kube(validation = lifecycle::port_is_named("livenessProbe", &["httpGet", "tcpSocket"]))]
#[x_kube(validation = lifecycle::port_is_named("readinessProbe", &["httpGet", "tcpSocket"]))]
#[x_kube(validation = lifecycle::port_is_named("lifecycle.postStart", &["httpGet"]))]
#[x_kube(validation = lifecycle::port_is_named("lifecycle.preStop", &["httpGet"]))]
pub struct ContainerSpec {
    /// Image to run: `[registry/]name[:tag][@digest]`. Without a registry it is `docker.io`, without a tag and digest
    /// it is `latest`.
    pub image: String,

    /// When the registry is asked for the image: `Always`, `IfNotPresent` or `Never`. By default `Always` for the tag
    /// `latest` or no tag, else `IfNotPresent`. A registry is asked only when the spec is new or changed, never at
    /// a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<PullPolicy>,

    /// Secrets of the same namespace that hold credentials for the registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,

    /// Program and its first arguments, without a shell. By default the image's entrypoint. `$(VAR)` is replaced by
    /// the variable of the container's environment, `$$` is a `$`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,

    /// Arguments of the program. By default the image's, unless `command` is set. `$(VAR)` is replaced as in
    /// `command`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,

    /// Directory that the program starts in, an absolute path. By default the image's, else `/`. It is made when it is
    /// missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,

    /// Environment variables, over those of the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,

    /// Objects whose entries become environment variables; `env` wins over them, a later one over an earlier one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_from: Vec<EnvFromSource>,

    /// Ports that the program listens on. For information: a port that is not listed is reachable as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ContainerPort>,

    /// What the container may use at most, and what is set aside for it.
    #[serde(default, skip_serializing_if = "ResourceRequirements::is_empty")]
    pub resources: ResourceRequirements,

    /// Resource limits of the kernel for each process, as `ulimit` sets them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rlimits: Vec<Rlimit>,

    /// Devices of the host that the container may use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,

    /// Where volumes are mounted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volume_mounts: Vec<VolumeMount>,

    /// Volumes that `volumeMounts` can name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<InlineVolume>,

    /// DataContainers and Containers of the same namespace and node whose volumes are mounted at the same paths, in
    /// this order. A path in `volumeMounts` wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes_from: Vec<VolumesFrom>,

    /// When the container is started again: `Always`, `OnFailure`, `UnlessStopped` or `Never`.
    #[serde(default)]
    pub restart_policy: RestartPolicy,

    /// How it is started again.
    #[serde(default)]
    pub restart: Restart,

    /// Says when the program has started; the other probes wait for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("self.successThreshold <= 1", "successThreshold must be 1"))]
    pub startup_probe: Option<Probe>,

    /// Says whether the program is alive; when it fails, the container is restarted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("self.successThreshold <= 1", "successThreshold must be 1"))]
    pub liveness_probe: Option<Probe>,

    /// Says whether the program is ready; sets the condition `Ready` and `status.ready`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("!has(self.terminationGracePeriodSeconds)", "terminationGracePeriodSeconds must not be set for a readiness probe, which ends nothing"))]
    pub readiness_probe: Option<Probe>,

    /// What is done after the start and before the stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifecycle: Option<Lifecycle>,

    /// Seconds between the stop signal and the kill.
    #[serde(default = "default_grace")]
    pub termination_grace_period_seconds: i64,

    /// Signal that asks the program to end: `SIGTERM`, `TERM` or a number in quotes. By default the image's, else
    /// `SIGTERM`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<Signal>,

    /// File in the container that the program may leave a last message in.
    #[serde(default = "default_termination_message_path")]
    pub termination_message_path: String,

    /// Where the last message comes from: `File`, or `FallbackToLogsOnError` for the end of the log when the file is
    /// empty and the program failed.
    #[serde(default)]
    pub termination_message_policy: TerminationMessagePolicy,

    /// Users, capabilities and confinement of the processes.
    #[serde(default, skip_serializing_if = "SecurityContext::is_empty")]
    pub security_context: SecurityContext,

    /// Name that the processes see as the host's name. By default the container's own name, up to its first dot; with
    /// `hostNetwork` the node's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,

    /// Use the host's network. Otherwise the container has its own, with loopback only.
    #[serde(default, skip_serializing_if = "is_false")]
    pub host_network: bool,

    /// See and signal the host's processes.
    #[serde(default, skip_serializing_if = "is_false", rename = "hostPID")]
    pub host_pid: bool,

    /// Use the host's System V IPC and POSIX message queues.
    #[serde(default, skip_serializing_if = "is_false", rename = "hostIPC")]
    pub host_ipc: bool,

    /// Use the host's user namespace. With `false` the container has its own users, and its root is nobody on the host.
    #[serde(default = "default_true")]
    pub host_users: bool,

    /// Give the program a terminal.
    #[serde(default, skip_serializing_if = "is_false")]
    pub tty: bool,

    /// Keep standard input open for `attach`. Otherwise it is at its end from the start.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stdin: bool,

    /// Close standard input when the first client that attached to it goes. Otherwise the program never sees its end.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stdin_once: bool,

    /// Name of a configured OCI runtime. By default the built-in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,

    /// Node whose agent runs the container. Set once and never changed. In an API server, an object without it belongs
    /// to no agent; in a directory it is the node of the agent that reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
}

/// When a registry is asked for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub enum PullPolicy {
    /// When the spec is new or changed.
    Always,
    /// When the image is not on this machine.
    IfNotPresent,
    /// Never: an image that is not here is an error.
    Never,
}

/// Where the last message of a program comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub enum TerminationMessagePolicy {
    /// From the file `terminationMessagePath` alone.
    #[default]
    File,
    /// From the end of the log, when that file is empty and the program failed.
    FallbackToLogsOnError,
}

/// An object of the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalObjectReference {
    /// Name of the object.
    pub name: String,
}

/// A port that the program listens on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// Name, for probes and services; unique in the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Number of the port in the container.
    pub container_port: u16,
    /// Number of the port on the host that leads to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
    /// Address of the host that `hostPort` is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "hostIP")]
    pub host_ip: Option<String>,
    /// `TCP`, `UDP` or `SCTP`.
    #[serde(default)]
    pub protocol: Protocol,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

fn default_grace() -> i64 {
    30
}

fn default_termination_message_path() -> String {
    "/dev/termination-log".to_owned()
}

pub(crate) fn default_true() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if gives a reference")]
pub(crate) fn is_false(value: &bool) -> bool {
    !*value
}
