//! The cluster whose API server this node takes objects from.

use std::path::PathBuf;

use stower_crds::Namespace;

use super::layers::Merged;
use crate::args::DEFAULT_LEASE_NAMESPACE;

/// How the API server is found, and what is kept of what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubeConfig {
    /// Whether objects are taken from an API server at all.
    pub enabled: bool,
    /// The file that says where the server is and who asks; without one, what a pod finds in its environment.
    pub kubeconfig: Option<PathBuf>,
    /// The context of that file; its current one by default.
    pub context: Option<String>,
    /// Where the values of Secrets are kept.
    pub secret_cache: SecretCache,
    /// The namespace of the agents' Leases.
    pub lease_namespace: String,
    /// The Pod with which the Lease is to go.
    pub lease_owner: Option<PodRef>,
}

/// A Pod, and no other of its name: `NAME/UID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRef {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

impl PodRef {
    fn new(text: &str) -> Option<Self> {
        let (name, uid) = text.split_once('/')?;
        let plain = |text: &str, more: &[u8]| {
            let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || more.contains(&byte);
            (1..=253).contains(&text.len()) && text.bytes().all(fits)
        };
        (plain(name, b"-.") && plain(uid, b"-")).then(|| Self { name: name.to_owned(), uid: uid.to_owned() })
    }
}

impl std::fmt::Display for PodRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.name, self.uid)
    }
}

/// Where the values of Secrets are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SecretCache {
    /// In memory: after a restart of the agent, a start waits until the server has told them again.
    #[default]
    Memory,
    /// In the data root too, readable by root alone: a node boots with no server in reach.
    Disk,
}

impl SecretCache {
    /// As it is written.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }
}

impl KubeConfig {
    pub(super) fn derive(merged: &mut Merged) -> Self {
        let kubeconfig = merged.text("kube.kubeconfig").map(|_| merged.path("kube.kubeconfig", ""));
        let context = merged.text("kube.context").map(str::to_owned);
        // A file is reason enough, as for the kubelet.
        let enabled = merged.bool("kube.enabled", kubeconfig.is_some());
        if enabled && context.is_some() && kubeconfig.is_none() {
            merged.wrong("kube.context", "is a context of the file kube.kubeconfig, which is not set");
        }
        let secret_cache = match merged.text("kube.secretCache") {
            None | Some("memory") => SecretCache::Memory,
            Some("disk") => SecretCache::Disk,
            Some(other) => {
                let message = format!("{other:?} is neither memory nor disk");
                merged.wrong("kube.secretCache", message);
                SecretCache::Memory
            }
        };
        let lease_namespace =
            merged.text("kube.leaseNamespace").unwrap_or(DEFAULT_LEASE_NAMESPACE).to_owned();
        if let Err(error) = Namespace::new(&*lease_namespace) {
            merged.wrong("kube.leaseNamespace", error.to_string());
        }
        let lease_owner = merged.text("kube.leaseOwner").map(|text| (PodRef::new(text), text.to_owned()));
        let lease_owner = lease_owner.and_then(|(owner, text)| {
            if owner.is_none() {
                merged.wrong("kube.leaseOwner", format!("{text:?} is not NAME/UID of a Pod"));
            }
            owner
        });
        Self { enabled, kubeconfig, context, secret_cache, lease_namespace, lease_owner }
    }
}
