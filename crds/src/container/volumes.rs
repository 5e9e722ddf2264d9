//! Volumes and where they are mounted.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Quantity;

/// A volume that `volumeMounts` can name: exactly one of its sources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("[has(self.hostPath), has(self.emptyDir), has(self.volume), has(self.configMap), has(self.secret)].filter(set, set).size() == 1", "exactly one of hostPath, emptyDir, volume, configMap and secret must be set"))]
pub struct InlineVolume {
    /// Name for `volumeMounts`, an RFC 1123 label.
    pub name: String,
    /// A file or directory of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_path: Option<HostPathVolumeSource>,
    /// An empty directory that lives as long as the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_dir: Option<EmptyDirVolumeSource>,
    /// An object of kind Volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<NamedVolumeSource>,
    /// Files from a ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapVolumeSource>,
    /// Files from a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretVolumeSource>,
}

/// A borrowed view of the one source of an [`InlineVolume`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum VolumeSourceKind<'a> {
    /// A file or directory of the host.
    HostPath(&'a HostPathVolumeSource),
    /// An empty directory.
    EmptyDir(&'a EmptyDirVolumeSource),
    /// An object of kind Volume.
    Named(&'a NamedVolumeSource),
    /// Files from a ConfigMap.
    ConfigMap(&'a ConfigMapVolumeSource),
    /// Files from a Secret.
    Secret(&'a SecretVolumeSource),
}

impl InlineVolume {
    /// The one source that is set; `None` for a volume that did not pass validation.
    pub fn source(&self) -> Option<VolumeSourceKind<'_>> {
        let host_path = self.host_path.as_ref().map(VolumeSourceKind::HostPath);
        let empty_dir = self.empty_dir.as_ref().map(VolumeSourceKind::EmptyDir);
        let named = self.volume.as_ref().map(VolumeSourceKind::Named);
        let config_map = self.config_map.as_ref().map(VolumeSourceKind::ConfigMap);
        let secret = self.secret.as_ref().map(VolumeSourceKind::Secret);
        host_path.or(empty_dir).or(named).or(config_map).or(secret)
    }
}

/// A file or directory of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("!self.path.matches('(^|/)[.][.](/|$)')", "path must not contain '..'"))]
pub struct HostPathVolumeSource {
    /// Absolute path on the host, without `..`.
    pub path: String,
    /// What must be there: empty for no check, `Directory`, `DirectoryOrCreate`, `File`, `FileOrCreate`, `Socket`,
    /// `CharDevice` or `BlockDevice`.
    #[serde(default, rename = "type")]
    pub type_: HostPathType,
}

/// What must be at a path of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
pub enum HostPathType {
    /// Anything; nothing is checked before the mount.
    #[default]
    #[serde(rename = "")]
    Unset,
    /// A directory; made with mode 0755 when it is missing.
    DirectoryOrCreate,
    /// A directory.
    Directory,
    /// A file; made empty with mode 0644 when it is missing.
    FileOrCreate,
    /// A file.
    File,
    /// A UNIX socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// An empty directory that lives as long as the container's object; a restart keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EmptyDirVolumeSource {
    /// Empty for the node's disk, `Memory` for memory.
    #[serde(default)]
    pub medium: StorageMedium,
    /// The most it may hold, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_limit: Option<Quantity>,
}

/// What an `emptyDir` is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
pub enum StorageMedium {
    /// The node's disk.
    #[default]
    #[serde(rename = "")]
    Disk,
    /// Memory (tmpfs).
    Memory,
}

/// An object of kind Volume, of the same namespace and node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamedVolumeSource {
    /// Name of the Volume.
    pub name: String,
    /// Mount it read-only everywhere in this container.
    #[serde(default, skip_serializing_if = "crate::container::is_false")]
    pub read_only: bool,
}

/// Files from a ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapVolumeSource {
    /// Name of the ConfigMap.
    pub name: String,
    /// Which keys, and where. By default all, each in a file of its name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<KeyToPath>,
    /// Mode of the files, in decimal as JSON has it (420 is 0644).
    #[serde(default = "default_mode")]
    pub default_mode: u32,
    /// Start without it when it is missing.
    #[serde(default, skip_serializing_if = "crate::container::is_false")]
    pub optional: bool,
}

/// Files from a Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretVolumeSource {
    /// Name of the Secret.
    pub secret_name: String,
    /// Which keys, and where. By default all, each in a file of its name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<KeyToPath>,
    /// Mode of the files, in decimal as JSON has it (420 is 0644).
    #[serde(default = "default_mode")]
    pub default_mode: u32,
    /// Start without it when it is missing.
    #[serde(default, skip_serializing_if = "crate::container::is_false")]
    pub optional: bool,
}

/// A key and the file for its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("!self.path.matches('^/|(^|/)[.][.](/|$)')", "path must be relative and must not contain '..'"))]
pub struct KeyToPath {
    /// The key.
    pub key: String,
    /// Relative path of the file in the volume, without `..`.
    pub path: String,
    /// Mode of the file, instead of `defaultMode`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
}

/// Where a volume is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("!self.mountPath.matches('(^|/)[.][.](/|$)')", "mountPath must not contain '..'"))]
#[x_kube(validation = ("self.mountPath.matches('[^/.]|[.][.]')", "mountPath must be a path other than '/'"))]
#[x_kube(validation = ("!has(self.subPath) || !self.subPath.matches('^/|(^|/)[.][.](/|$)')", "subPath must be relative and must not contain '..'"))]
pub struct VolumeMount {
    /// Name of one of `volumes`.
    pub name: String,
    /// Absolute path in the container.
    pub mount_path: String,
    /// Mount it read-only.
    #[serde(default, skip_serializing_if = "crate::container::is_false")]
    pub read_only: bool,
    /// Relative path in the volume that is mounted instead of its root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_path: Option<String>,
    /// Whether later mounts are seen: `None`, `HostToContainer` or `Bidirectional`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_propagation: Option<MountPropagation>,
}

/// Whether mounts that are made later are seen on the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
pub enum MountPropagation {
    /// Neither way.
    #[default]
    None,
    /// Those of the host in the container.
    HostToContainer,
    /// Both ways; for privileged containers.
    Bidirectional,
}

/// A set of volumes of another object, mounted at the same paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumesFrom {
    /// Name of the object.
    pub name: String,
    /// `DataContainer` or `Container`.
    #[serde(default)]
    pub kind: VolumesFromKind,
    /// Mount them read-only. This can only narrow: what is read-only there stays so.
    #[serde(default, skip_serializing_if = "crate::container::is_false")]
    pub read_only: bool,
}

/// A kind that has volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
pub enum VolumesFromKind {
    /// A set of volumes that no process runs in.
    #[default]
    DataContainer,
    /// Another container, running or not.
    Container,
}

fn default_mode() -> u32 {
    0o644
}
