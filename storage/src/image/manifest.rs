//! Manifests and indexes, read with suspicion.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::media::{self, Encoding, Kind};
use crate::digest::Digest;
use crate::limits::Limits;
use crate::platform::Platform;

/// What a blob is, how long it is, and its digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// As in `media`.
    pub media_type: String,
    /// Of the bytes.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

/// A manifest that names a configuration and layers, lowest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// The image configuration.
    pub config: Descriptor,
    /// Layers with their encodings, lowest first.
    pub layers: Vec<(Descriptor, Encoding)>,
}

/// One manifest of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    /// The manifest.
    pub descriptor: Descriptor,
    /// The machine that it is for; attestations and the like have none that could match.
    pub platform: Option<Platform>,
    /// `org.opencontainers.image.ref.name` and `io.containerd.image.name`, where given.
    pub names: Vec<String>,
}

/// What a manifest's bytes turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    /// Several, to choose from.
    Index(Vec<IndexEntry>),
    /// One image.
    Manifest(Manifest),
}

/// A manifest that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Longer than allowed.
    #[error("manifest is larger than {max} bytes")]
    TooLarge {
        /// Bytes allowed.
        max: u64,
    },
    /// Not the JSON that it should be.
    #[error("manifest is not valid: {0}")]
    Malformed(String),
    /// Both an index and a manifest, or not what it was served as (CVE-2021-41190).
    #[error("manifest is ambiguous: {0}")]
    Ambiguous(String),
    /// Docker's old format.
    #[error(
        "manifest is in Docker's schema 1, which is not supported: push the image again with a current tool"
    )]
    Schema1,
    /// Some other media type.
    #[error("manifest has media type {0:?}, which is not supported")]
    MediaType(String),
    /// An artifact that is no image.
    #[error("not a container image: its configuration has media type {0:?}")]
    NotAnImage(String),
    /// Layers whose content is somewhere else.
    #[error("layer {digest} is a foreign layer ({media_type}), which is not supported")]
    ForeignLayer {
        /// The layer.
        digest: Digest,
        /// Its type.
        media_type: String,
    },
    /// A layer in an unknown format.
    #[error("layer {digest} has media type {media_type:?}, which is not supported")]
    LayerType {
        /// The layer.
        digest: Digest,
        /// Its type.
        media_type: String,
    },
    /// More than allowed.
    #[error("image has {what} {found}, more than the {max} that are allowed")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many.
        found: u64,
        /// Allowed.
        max: u64,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: Option<String>,
    digest: Digest,
    size: u64,
    #[serde(default)]
    urls: Option<Vec<String>>,
    #[serde(default)]
    platform: Option<RawPlatform>,
    #[serde(default)]
    annotations: Option<Value>,
}

#[derive(Deserialize)]
struct RawPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

/// Fields that are not looked at are `Value`s, so that a repeated field is an error in all of them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u64,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    config: Option<RawDescriptor>,
    #[serde(default)]
    layers: Option<Vec<RawDescriptor>>,
    // Entries may use algorithms or fields that are not understood; only a chosen one must be.
    #[serde(default)]
    manifests: Option<Vec<Value>>,
    #[serde(default)]
    fs_layers: Option<Value>,
}

/// Reads a manifest or an index. `served_as` is the media type that the registry or the descriptor gave, if any.
pub(crate) fn parse(
    bytes: &[u8],
    served_as: Option<&str>,
    limits: &Limits,
) -> Result<Document, ManifestError> {
    if length(bytes) > limits.manifest_bytes {
        return Err(ManifestError::TooLarge { max: limits.manifest_bytes });
    }
    let served_as = served_as.map(|text| clip(text.split(';').next().unwrap_or(text).trim()));
    if served_as.as_deref().map(media::kind) == Some(Kind::Schema1) {
        return Err(ManifestError::Schema1);
    }
    // serde also reads a struct from an array of its fields, which no other reader does.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(ManifestError::Malformed("it is no JSON object".into()));
    }
    let raw: Raw =
        serde_json::from_slice(bytes).map_err(|error| ManifestError::Malformed(clip(&error.to_string())))?;
    if raw.schema_version == 1 || raw.fs_layers.is_some() {
        return Err(ManifestError::Schema1);
    }
    if raw.schema_version != 2 {
        return Err(ManifestError::Malformed(format!("schemaVersion is {}, not 2", raw.schema_version)));
    }
    let is_index = match (raw.manifests.is_some(), raw.config.is_some() || raw.layers.is_some()) {
        (true, true) => return Err(ManifestError::Ambiguous("it has both manifests and layers".into())),
        (false, false) => {
            return Err(match raw.media_type.or(served_as) {
                Some(other) if media::kind(&other) == Kind::Other => ManifestError::MediaType(clip(&other)),
                _ => ManifestError::Malformed("it has neither manifests nor layers".into()),
            });
        }
        (index, _) => index,
    };
    let own = raw.media_type.as_deref();
    // A generic type from a dumb server says nothing.
    let served = served_as
        .as_deref()
        .filter(|t| !matches!(*t, "" | "application/json" | "application/octet-stream" | "text/plain"));
    if let (Some(own), Some(served)) = (own, served)
        && own != served
    {
        return Err(ManifestError::Ambiguous(format!(
            "it says it is {}, but was served as {served}",
            clip(own)
        )));
    }
    match (own.or(served).map(media::kind), is_index) {
        (None | Some(Kind::Index), true) | (None | Some(Kind::Manifest), false) => {}
        (Some(Kind::Other | Kind::Schema1), _) => {
            return Err(ManifestError::MediaType(clip(own.or(served).unwrap_or_default())));
        }
        (Some(Kind::Manifest), true) | (Some(Kind::Index), false) => {
            return Err(ManifestError::Ambiguous("its content does not fit its media type".into()));
        }
    }
    if is_index {
        index(raw.manifests.unwrap_or_default(), limits)
    } else {
        manifest(raw.config, raw.layers, limits)
    }
}

fn index(entries: Vec<Value>, limits: &Limits) -> Result<Document, ManifestError> {
    if entries.len() > limits.index_entries {
        return Err(limit("manifests", entries.len(), limits.index_entries));
    }
    let mut out = Vec::with_capacity(entries.len());
    for entry in entries {
        let Ok(raw) = serde_json::from_value::<RawDescriptor>(entry) else { continue };
        let platform =
            raw.platform.as_ref().map(|p| Platform::new(&p.os, &p.architecture, p.variant.as_deref()));
        let names = ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
            .iter()
            .filter_map(|key| raw.annotations.as_ref()?.get(key)?.as_str().map(str::to_owned))
            .collect();
        out.push(IndexEntry { descriptor: descriptor(raw), platform, names });
    }
    Ok(Document::Index(out))
}

fn manifest(
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    limits: &Limits,
) -> Result<Document, ManifestError> {
    let malformed = |text: &str| ManifestError::Malformed(text.into());
    let config = descriptor(config.ok_or_else(|| malformed("it has no config"))?);
    let raw_layers = layers.ok_or_else(|| malformed("it has no layers"))?;
    if !matches!(config.media_type.as_str(), media::OCI_CONFIG | media::DOCKER_CONFIG) {
        return Err(ManifestError::NotAnImage(clip(&config.media_type)));
    }
    if config.size > limits.config_bytes {
        return Err(ManifestError::Limit {
            what: "a configuration of bytes",
            found: config.size,
            max: limits.config_bytes,
        });
    }
    if raw_layers.len() > limits.layers {
        return Err(limit("layers", raw_layers.len(), limits.layers));
    }
    let mut total = 0u64;
    let mut layers = Vec::with_capacity(raw_layers.len());
    for raw in raw_layers {
        let foreign = raw.urls.as_ref().is_some_and(|urls| !urls.is_empty());
        let layer = descriptor(raw);
        let media_type = clip(&layer.media_type);
        match media::layer(&layer.media_type) {
            // A layer with URLs would be fetched from where the image says (CVE-2020-15157).
            Err(true) => return Err(ManifestError::ForeignLayer { digest: layer.digest, media_type }),
            Ok(_) if foreign => return Err(ManifestError::ForeignLayer { digest: layer.digest, media_type }),
            Err(false) => return Err(ManifestError::LayerType { digest: layer.digest, media_type }),
            Ok(encoding) => {
                if layer.size > limits.layer_bytes {
                    return Err(ManifestError::Limit {
                        what: "a layer of bytes",
                        found: layer.size,
                        max: limits.layer_bytes,
                    });
                }
                total = total.saturating_add(layer.size);
                layers.push((layer, encoding));
            }
        }
    }
    if total > limits.image_bytes {
        return Err(ManifestError::Limit { what: "layers of bytes", found: total, max: limits.image_bytes });
    }
    // The same blob under two sizes or encodings would make one of them wrong.
    for (at, (layer, encoding)) in layers.iter().enumerate() {
        if layers[..at]
            .iter()
            .any(|(other, how)| other.digest == layer.digest && (other.size != layer.size || how != encoding))
        {
            return Err(ManifestError::Ambiguous(format!("layer {} is there in two ways", layer.digest)));
        }
    }
    Ok(Document::Manifest(Manifest { config, layers }))
}

fn descriptor(raw: RawDescriptor) -> Descriptor {
    Descriptor { media_type: raw.media_type.unwrap_or_default(), digest: raw.digest, size: raw.size }
}

fn limit(what: &'static str, found: usize, max: usize) -> ManifestError {
    let wide = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    ManifestError::Limit { what, found: wide(found), max: wide(max) }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// Hostile text goes into messages only in part, and without control characters.
pub(crate) fn clip(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(160).collect()
}

/// Bytes of a manifest of these parts.
pub(crate) fn render(config: &Descriptor, layers: &[Descriptor]) -> Vec<u8> {
    let value = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media::OCI_MANIFEST,
        "config": config,
        "layers": layers,
    });
    value.to_string().into_bytes()
}

#[cfg(test)]
mod tests;
