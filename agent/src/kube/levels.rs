//! What a namespace allows of the objects in it.

use stower_controllers::PodSecurityLevel;
use stower_crds::Namespace;

use super::{
    Cluster,
    call::{CallError, get},
};

/// The label that says so, as for Pods.
const LABEL: &str = "pod-security.kubernetes.io/enforce";
/// The longest namespace that is read, in bytes.
const MAX_NAMESPACE: usize = 2 << 20;

/// Reads what a namespace allows now. One without the label, or with a word in it that is none, allows the least.
pub(super) async fn read(cluster: &Cluster, namespace: &Namespace) -> Result<PodSecurityLevel, CallError> {
    let path = format!("/api/v1/namespaces/{namespace}");
    let object = cluster.json("get", get(&path), MAX_NAMESPACE).await?;
    if object["kind"] != "Namespace" {
        return Err(CallError::Malformed { server: cluster.server(), what: "Namespace" });
    }
    Ok(PodSecurityLevel::of_label(object["metadata"]["labels"][LABEL].as_str()))
}

/// The identity of the cluster: that of a namespace which each has. `None` where that may not be read.
pub(super) async fn identity(cluster: &Cluster) -> Result<Option<String>, CallError> {
    match cluster.json("get", get("/api/v1/namespaces/kube-system"), MAX_NAMESPACE).await {
        Ok(object) => Ok(object["metadata"]["uid"].as_str().map(str::to_owned)),
        Err(error) if error.refusal().is_some_and(|refusal| matches!(refusal.code, 403 | 404)) => Ok(None),
        Err(error) => Err(error),
    }
}
