//! What a namespace of a cluster allows of the objects in it: the Pod Security Standards of Kubernetes, for the fields that a
//! Container and a Volume have of those of a Pod.
//!
//! | field | baseline and restricted | restricted, besides |
//! |---|---|---|
//! | `hostNetwork`, `hostPID`, `hostIPC` | not true | |
//! | `securityContext.privileged` | not true | |
//! | `securityContext.capabilities.add` | of [`BASELINE_CAPABILITIES`] | of [`RESTRICTED_CAPABILITIES`] |
//! | `volumes[].hostPath` | unset | |
//! | `devices` | none | |
//! | `ports[].hostPort` | unset or 0 | |
//! | `securityContext.appArmorProfile.type` | not `Unconfined` | |
//! | `securityContext.seLinuxOptions` | `type` of [`SE_LINUX_TYPES`] or unset; `user`, `role` unset | |
//! | `securityContext.procMount` | not `Unmasked` | |
//! | `securityContext.seccompProfile.type` | not `Unconfined` | |
//! | `*Probe.{httpGet,tcpSocket}.host`, `lifecycle.*.httpGet.host` | unset or empty | |
//! | `securityContext.allowPrivilegeEscalation` | | false |
//! | `securityContext.runAsNonRoot` | | true |
//! | `securityContext.runAsUser` | | not 0 |
//! | `securityContext.capabilities.drop` | | has `ALL` |
//! | a Volume's `driver` | not `hostPath` | |
//!
//! Two rows differ from a Pod's. `devices` has no like there: a Pod gets the host's only as `hostPath` with `privileged`. And
//! `restricted` lets `seccompProfile` be unset, since that is `RuntimeDefault` here and unconfined there.
//!
//! What an object takes from others cannot be seen in it alone: those may be older than what their namespace allows today. So
//! the level that it was accepted at stays with it ([`LEVEL_ANNOTATION`]), and where that is below `privileged`, no mount of the host
//! comes to it by a Volume that it names or by `volumesFrom`.
//!
//! A ValidatingAdmissionPolicy with the same rules, order and words keeps such objects out of the API server; this one keeps them
//! from being run where that policy is not.

use std::{collections::BTreeMap, fmt};

use stower_crds::{
    Container, ContainerSpec, LifecycleHandler, Object, Probe, ProcMount, ProfileType, VolumeDriver,
};

use crate::resolve::{MountWhat, ResolvedMount};

/// Says at which level an object of an API server was accepted that takes storage from others. The agent alone writes it.
pub const LEVEL_ANNOTATION: &str = "stower.dev/pod-security-level";

/// Capabilities that may be added under `baseline`, as they are written there.
pub const BASELINE_CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// Capabilities that may be added under `restricted`.
pub const RESTRICTED_CAPABILITIES: &[&str] = &["NET_BIND_SERVICE"];
/// Types of SELinux that may be asked for under `baseline`.
pub const SE_LINUX_TYPES: &[&str] =
    &["container_t", "container_init_t", "container_kvm_t", "container_engine_t"];

/// How much a namespace allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PodSecurityLevel {
    /// As good practice has it.
    Restricted,
    /// What is known to lead to the host is forbidden.
    Baseline,
    /// Everything.
    Privileged,
}

impl PodSecurityLevel {
    /// What the label `pod-security.kubernetes.io/enforce` of a namespace says. Without it, or with a word that is none, the
    /// least is allowed.
    #[must_use]
    pub fn of_label(label: Option<&str>) -> Self {
        match label {
            Some("privileged") => Self::Privileged,
            Some("baseline") => Self::Baseline,
            _ => Self::Restricted,
        }
    }

    /// As the label has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Restricted => "restricted",
            Self::Baseline => "baseline",
            Self::Privileged => "privileged",
        }
    }
}

impl fmt::Display for PodSecurityLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A field that is not as a level wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its path.
    pub field: String,
    /// How it must be.
    pub must: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field, self.must)
    }
}

/// What in an object a namespace of that level does not allow; nothing where it may run. Kinds that have no process and no
/// place on the host are allowed everywhere.
#[must_use]
pub fn pod_security(level: PodSecurityLevel, object: &Object) -> Vec<Violation> {
    let mut found = Found(Vec::new());
    let allowed = match level {
        PodSecurityLevel::Privileged => return found.0,
        PodSecurityLevel::Baseline => BASELINE_CAPABILITIES,
        PodSecurityLevel::Restricted => RESTRICTED_CAPABILITIES,
    };
    match object {
        Object::Container(container) => {
            let Container { spec, .. } = container.as_ref();
            baseline(spec, allowed, &mut found);
            if level == PodSecurityLevel::Restricted {
                restricted(spec, &mut found);
            }
        }
        Object::Volume(volume) if volume.spec.driver == VolumeDriver::HostPath => {
            found.add("spec.driver", "must not be hostPath");
        }
        _ => {}
    }
    found.0
}

/// Whether a container takes storage from other objects, of which only its start can tell what they have.
#[must_use]
pub fn takes_from_others(object: &Object) -> bool {
    let Object::Container(container) = object else { return false };
    let spec = &container.spec;
    !spec.volumes_from.is_empty() || spec.volumes.iter().any(|volume| volume.volume.is_some())
}

/// The level that an object was accepted at, where that counts.
#[must_use]
pub fn accepted_at(object: &Object) -> Option<PodSecurityLevel> {
    level_in(object.metadata().annotations.as_ref()?)
}

/// The level that annotations tell of.
pub(crate) fn level_in(annotations: &BTreeMap<String, String>) -> Option<PodSecurityLevel> {
    annotations.get(LEVEL_ANNOTATION).map(|level| PodSecurityLevel::of_label(Some(level)))
}

/// The object with the level that it was accepted at, which is nobody else's to say.
#[must_use]
pub fn accepted(mut object: Object, level: Option<PodSecurityLevel>) -> Object {
    let annotations = &mut object.metadata_mut().annotations;
    if let Some(level) = level {
        annotations.get_or_insert_default().insert(LEVEL_ANNOTATION.to_owned(), level.to_string());
    } else if let Some(annotations) = annotations {
        annotations.remove(LEVEL_ANNOTATION);
    }
    object
}

/// Which of a container's mounts its level does not allow: those of the host, by whatever way they come.
pub(crate) fn mounts<'a>(mounts: impl IntoIterator<Item = &'a ResolvedMount>) -> Vec<Violation> {
    let mut found = Found(Vec::new());
    for mount in mounts {
        let MountWhat::HostPath { path, .. } = &mount.what else { continue };
        match (&mount.from, &mount.name) {
            (Some(from), _) => {
                let field = format!("spec.volumesFrom[{}]", from.name);
                found.add(field, format!("must not bring {path} of the host to {}", mount.path));
            }
            (None, name) => {
                let field = format!("spec.volumes[{}]", name.as_deref().unwrap_or_default());
                found.add(field, format!("must not be {path} of the host"));
            }
        }
    }
    found.0
}

/// All of it in one sentence.
#[must_use]
pub fn violates(level: PodSecurityLevel, violations: &[Violation]) -> String {
    let violations: Vec<String> = violations.iter().map(ToString::to_string).collect();
    format!("violates PodSecurity \"{level}\": {}", violations.join("; "))
}

struct Found(Vec<Violation>);

impl Found {
    fn add(&mut self, field: impl Into<String>, must: impl Into<String>) {
        self.0.push(Violation { field: field.into(), must: must.into() });
    }
}

/// The path of a field of the security context.
fn context(field: &str) -> String {
    format!("spec.securityContext.{field}")
}

fn baseline(spec: &ContainerSpec, allowed: &[&str], found: &mut Found) {
    for (field, set) in
        [("hostNetwork", spec.host_network), ("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc)]
    {
        if set {
            found.add(format!("spec.{field}"), "must not be true");
        }
    }
    let security = &spec.security_context;
    if security.privileged == Some(true) {
        found.add(context("privileged"), "must not be true");
    }
    for name in security.capabilities.iter().flat_map(|capabilities| &capabilities.add) {
        if !allowed.contains(&name.strip_prefix("CAP_").unwrap_or(name)) {
            found.add(context("capabilities.add"), format!("must not have {name}"));
        }
    }
    for volume in spec.volumes.iter().filter(|volume| volume.host_path.is_some()) {
        found.add(format!("spec.volumes[{}].hostPath", volume.name), "must not be set");
    }
    if !spec.devices.is_empty() {
        found.add("spec.devices", "must not be set");
    }
    if spec.ports.iter().any(|port| port.host_port.is_some_and(|port| port != 0)) {
        found.add("spec.ports[].hostPort", "must not be set");
    }
    if security.app_armor_profile.as_ref().is_some_and(|profile| profile.type_ == ProfileType::Unconfined) {
        found.add(context("appArmorProfile.type"), "must not be Unconfined");
    }
    if let Some(options) = &security.se_linux_options {
        let text = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
        if let Some(type_) = text(&options.type_).filter(|type_| !SE_LINUX_TYPES.contains(&type_.as_str())) {
            found.add(context("seLinuxOptions.type"), format!("must not be {type_}"));
        }
        for (name, field) in [("user", &options.user), ("role", &options.role)] {
            if text(field).is_some() {
                found.add(context(&format!("seLinuxOptions.{name}")), "must not be set");
            }
        }
    }
    if security.proc_mount == Some(ProcMount::Unmasked) {
        found.add(context("procMount"), "must not be Unmasked");
    }
    if security.seccomp_profile.as_ref().is_some_and(|profile| profile.type_ == ProfileType::Unconfined) {
        found.add(context("seccompProfile.type"), "must not be Unconfined");
    }
    hosts(spec, found);
}

/// A probe or hook must not make the agent ask other machines.
fn hosts(spec: &ContainerSpec, found: &mut Found) {
    let mut forbid = |field: String, host: Option<&String>| {
        if host.is_some_and(|host| !host.is_empty()) {
            found.add(field, "must not be set");
        }
    };
    let probes: [(&str, &Option<Probe>); 3] = [
        ("livenessProbe", &spec.liveness_probe),
        ("readinessProbe", &spec.readiness_probe),
        ("startupProbe", &spec.startup_probe),
    ];
    for (name, probe) in probes {
        let Some(probe) = probe else { continue };
        let http = probe.http_get.as_ref().and_then(|get| get.host.as_ref());
        forbid(format!("spec.{name}.httpGet.host"), http);
        let tcp = probe.tcp_socket.as_ref().and_then(|socket| socket.host.as_ref());
        forbid(format!("spec.{name}.tcpSocket.host"), tcp);
    }
    let Some(lifecycle) = &spec.lifecycle else { return };
    let hooks: [(&str, &Option<LifecycleHandler>); 2] =
        [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)];
    for (name, hook) in hooks {
        let http = hook.as_ref().and_then(|hook| hook.http_get.as_ref()).and_then(|get| get.host.as_ref());
        forbid(format!("spec.lifecycle.{name}.httpGet.host"), http);
    }
}

fn restricted(spec: &ContainerSpec, found: &mut Found) {
    let security = &spec.security_context;
    if security.allow_privilege_escalation != Some(false) {
        found.add(context("allowPrivilegeEscalation"), "must be false");
    }
    if security.run_as_non_root != Some(true) {
        found.add(context("runAsNonRoot"), "must be true");
    }
    if security.run_as_user == Some(0) {
        found.add(context("runAsUser"), "must not be 0");
    }
    let mut drops = security.capabilities.iter().flat_map(|capabilities| &capabilities.drop);
    if !drops.any(|name| name == "ALL") {
        found.add(context("capabilities.drop"), "must have ALL");
    }
}

#[cfg(test)]
mod tests;
