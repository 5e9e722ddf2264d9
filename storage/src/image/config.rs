//! The image configuration: hostile values, each bounded, none of which chooses anything on the host.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::DiffId;
use crate::image::manifest::clip;
use crate::platform::Platform;

/// What an image says about how it should be run (OCI image specification, config.md). Values are as they came:
/// who uses one checks it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// `user`, `uid`, `user:group`, ...; empty is root.
    #[serde(deserialize_with = "nullable")]
    pub user: String,
    /// `NAME=value`.
    #[serde(deserialize_with = "nullable")]
    pub env: Vec<String>,
    /// First words of the command line.
    #[serde(deserialize_with = "nullable")]
    pub entrypoint: Vec<String>,
    /// Default arguments, or the whole command line where there is no entrypoint.
    #[serde(deserialize_with = "nullable")]
    pub cmd: Vec<String>,
    /// Where the process starts; empty is `/`.
    #[serde(deserialize_with = "nullable")]
    pub working_dir: String,
    /// Paths that should be volumes.
    #[serde(deserialize_with = "keys")]
    pub volumes: Vec<String>,
    /// `port`, `port/tcp`, `port/udp`.
    #[serde(deserialize_with = "keys")]
    pub exposed_ports: Vec<String>,
    /// For people and tools; never instructions to this program.
    #[serde(deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    /// A name or a number; empty is `SIGTERM`.
    #[serde(deserialize_with = "nullable")]
    pub stop_signal: String,
}

/// A whole configuration blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConfigFile {
    pub(crate) platform: Platform,
    pub(crate) config: ImageConfig,
    pub(crate) diff_ids: Vec<DiffId>,
}

/// A configuration that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not the JSON that it should be.
    #[error("image configuration is not valid: {0}")]
    Malformed(String),
    /// As many diff ids as layers there must be.
    #[error("image configuration has {diff_ids} diff ids for {layers} layers")]
    LayerCount {
        /// In the configuration.
        diff_ids: usize,
        /// In the manifest.
        layers: usize,
    },
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default)]
    config: Option<ImageConfig>,
    rootfs: RawRootfs,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, deserialize_with = "nullable")]
    diff_ids: Vec<DiffId>,
}

fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

/// A set that Go writes as an object of empty objects; ours is a list.
fn keys<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Set {
        Object(BTreeMap<String, serde::de::IgnoredAny>),
        List(Vec<String>),
    }
    Ok(match Option::<Set>::deserialize(from)? {
        None => Vec::new(),
        Some(Set::Object(map)) => map.into_keys().collect(),
        Some(Set::List(list)) => list,
    })
}

/// Reads a configuration blob, which the caller has bounded and verified, for a manifest of `layers` layers.
pub(crate) fn parse(bytes: &[u8], layers: usize) -> Result<ConfigFile, ConfigError> {
    let raw: Raw =
        serde_json::from_slice(bytes).map_err(|error| ConfigError::Malformed(clip(&error.to_string())))?;
    if raw.rootfs.kind != "layers" {
        return Err(ConfigError::Malformed(format!(
            "rootfs.type is {:?}, not \"layers\"",
            clip(&raw.rootfs.kind)
        )));
    }
    if raw.rootfs.diff_ids.len() != layers {
        return Err(ConfigError::LayerCount { diff_ids: raw.rootfs.diff_ids.len(), layers });
    }
    let os = if raw.os.is_empty() { "linux" } else { &raw.os };
    Ok(ConfigFile {
        platform: Platform::new(os, &raw.architecture, raw.variant.as_deref()),
        config: raw.config.unwrap_or_default(),
        diff_ids: raw.rootfs.diff_ids,
    })
}
