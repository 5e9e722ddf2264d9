//! Environment variables and where their values come from.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One environment variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("!(has(self.value) && has(self.valueFrom))", "value and valueFrom must not both be set"))]
pub struct EnvVar {
    /// Name of the variable; without `=`.
    pub name: String,
    /// Its value. `$(VAR)` is replaced by a variable that is defined before it, `$$` is a `$`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Where the value comes from; not together with `value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<EnvVarSource>,
}

/// Where the value of a variable comes from: exactly one of these.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("[has(self.fieldRef), has(self.configMapKeyRef), has(self.secretKeyRef)].filter(set, set).size() == 1", "exactly one of fieldRef, configMapKeyRef and secretKeyRef must be set"))]
pub struct EnvVarSource {
    /// A field of the container's own object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field_ref: Option<ObjectFieldSelector>,
    /// A key of a ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<ConfigMapKeySelector>,
    /// A key of a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeySelector>,
}

/// A field of the container's own object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("self.fieldPath in ['metadata.name', 'metadata.namespace', 'metadata.uid', 'spec.nodeName'] || ((self.fieldPath.startsWith(\"metadata.labels['\") || self.fieldPath.startsWith(\"metadata.annotations['\")) && self.fieldPath.endsWith(\"']\") && self.fieldPath.split(\"'\").size() == 3 && !self.fieldPath.contains(\"''\"))", "fieldPath must be metadata.name, metadata.namespace, metadata.uid, metadata.labels['KEY'], metadata.annotations['KEY'] or spec.nodeName"))]
pub struct ObjectFieldSelector {
    /// Path of the field: `metadata.name`, `metadata.namespace`, `metadata.uid`, `metadata.labels['KEY']`,
    /// `metadata.annotations['KEY']` or `spec.nodeName`.
    pub field_path: String,
}

/// A key of a ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapKeySelector {
    /// Name of the ConfigMap.
    pub name: String,
    /// The key.
    pub key: String,
    /// Start without the variable when the ConfigMap or the key is missing.
    #[serde(default, skip_serializing_if = "crate::container::is_false")]
    pub optional: bool,
}

/// A key of a Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeySelector {
    /// Name of the Secret.
    pub name: String,
    /// The key.
    pub key: String,
    /// Start without the variable when the Secret or the key is missing.
    #[serde(default, skip_serializing_if = "crate::container::is_false")]
    pub optional: bool,
}

/// An object whose entries become variables: exactly one of `configMapRef` and `secretRef`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("[has(self.configMapRef), has(self.secretRef)].filter(set, set).size() == 1", "exactly one of configMapRef and secretRef must be set"))]
pub struct EnvFromSource {
    /// Put before each key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<ConfigMapEnvSource>,
    /// The Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretEnvSource>,
}

/// A ConfigMap whose entries become variables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapEnvSource {
    /// Name of the ConfigMap.
    pub name: String,
    /// Start without it when it is missing.
    #[serde(default, skip_serializing_if = "crate::container::is_false")]
    pub optional: bool,
}

/// A Secret whose entries become variables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretEnvSource {
    /// Name of the Secret.
    pub name: String,
    /// Start without it when it is missing.
    #[serde(default, skip_serializing_if = "crate::container::is_false")]
    pub optional: bool,
}
