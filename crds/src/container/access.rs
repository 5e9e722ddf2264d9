//! What others ask of a spec: units, names and defaults that depend on more than one field.

use super::{
    Container, ContainerSpec, ContainerState, ContainerStateKind, HostPathVolumeSource, InlineVolume,
    PullPolicy, ResourceList,
};
use crate::{Generation, ObjectKey, Signal, Uid};

impl Container {
    /// The key of an admitted object.
    pub fn key(&self) -> ObjectKey {
        let namespace = self.metadata.namespace.as_deref().unwrap_or("default");
        let name = self.metadata.name.as_deref().unwrap_or_default();
        ObjectKey::container(namespace, name).expect("admission checked name and namespace")
    }

    /// The UID, where it has one that is valid.
    pub fn uid(&self) -> Option<Uid> {
        self.metadata.uid.as_ref().and_then(|uid| Uid::new(uid.as_str()).ok())
    }

    /// The generation; that of a new object when it has none.
    pub fn generation(&self) -> Generation {
        self.metadata.generation.map_or(Generation::FIRST, Generation)
    }
}

impl ContainerSpec {
    /// A spec of an image and defaults.
    pub fn new(image: impl Into<String>) -> Self {
        serde_json::from_value(serde_json::json!({ "image": image.into() }))
            .expect("every other field has a default")
    }

    /// When the registry is asked: as set, else `Always` for the tag `latest` or no tag, else `IfNotPresent`.
    pub fn pull_policy(&self) -> PullPolicy {
        if let Some(policy) = self.image_pull_policy {
            return policy;
        }
        if self.image.contains('@') {
            return PullPolicy::IfNotPresent;
        }
        // A `:` before the last `/` is a registry's port.
        let last = self.image.rsplit('/').next().unwrap_or_default();
        match last.rsplit_once(':') {
            None | Some((_, "latest")) => PullPolicy::Always,
            Some(_) => PullPolicy::IfNotPresent,
        }
    }

    /// Memory limit, in bytes.
    pub fn memory_limit(&self) -> Option<u64> {
        self.resources.limits.memory_bytes()
    }

    /// Memory set aside, in bytes: the request, else the limit, as in Kubernetes.
    pub fn memory_request(&self) -> Option<u64> {
        self.resources.requests.memory_bytes().or_else(|| self.memory_limit())
    }

    /// Processor limit, in thousandths of a core.
    pub fn cpu_limit_millis(&self) -> Option<u64> {
        self.resources.limits.cpu_millis()
    }

    /// Processor share set aside, in thousandths of a core: the request, else the limit.
    pub fn cpu_request_millis(&self) -> Option<u64> {
        self.resources.requests.cpu_millis().or_else(|| self.cpu_limit_millis())
    }

    /// Limit of processes and threads.
    pub fn pids_limit(&self) -> Option<u64> {
        self.resources.limits.pids.as_ref().and_then(crate::Quantity::units)
    }

    /// The time between stop signal and kill.
    pub fn grace_period(&self) -> std::time::Duration {
        std::time::Duration::from_secs(u64::try_from(self.termination_grace_period_seconds).unwrap_or(0))
    }

    /// The signal that asks to end: as set, else the image's, else `SIGTERM`.
    pub fn stop_signal_or(&self, image: Option<Signal>) -> Signal {
        self.stop_signal.or(image).unwrap_or(Signal::TERM)
    }

    /// The volume of a name.
    pub fn volume(&self, name: &str) -> Option<&InlineVolume> {
        self.volumes.iter().find(|volume| volume.name == name)
    }

    /// Whether the container is privileged.
    pub fn privileged(&self) -> bool {
        self.security_context.privileged.unwrap_or(false)
    }

    /// Whether processes run with `no_new_privs`: `allowPrivilegeEscalation` is `false`, and the container is neither
    /// privileged nor given `CAP_SYS_ADMIN`, as in Kubernetes.
    pub fn no_new_privs(&self) -> bool {
        let context = &self.security_context;
        let sys_admin = context.capabilities.as_ref().is_some_and(|capabilities| {
            capabilities.add.iter().any(|name| matches!(name.as_str(), "SYS_ADMIN" | "CAP_SYS_ADMIN" | "ALL"))
        });
        !self.privileged() && !sys_admin && context.allow_privilege_escalation == Some(false)
    }

    /// The files and directories of the host that it uses.
    pub fn host_paths(&self) -> impl Iterator<Item = (&InlineVolume, &HostPathVolumeSource)> {
        self.volumes.iter().filter_map(|volume| volume.host_path.as_ref().map(|source| (volume, source)))
    }
}

impl ResourceList {
    /// Memory, in bytes.
    pub fn memory_bytes(&self) -> Option<u64> {
        self.memory.as_ref().and_then(crate::Quantity::units)
    }

    /// Processor time, in thousandths of a core.
    pub fn cpu_millis(&self) -> Option<u64> {
        self.cpu.as_ref().and_then(crate::Quantity::millis)
    }
}

impl ContainerState {
    /// The one part that is set.
    pub fn kind(&self) -> Option<ContainerStateKind> {
        if let Some(running) = &self.running {
            return Some(ContainerStateKind::Running(running.clone()));
        }
        if let Some(terminated) = &self.terminated {
            return Some(ContainerStateKind::Terminated(terminated.clone()));
        }
        self.waiting.clone().map(ContainerStateKind::Waiting)
    }
}
