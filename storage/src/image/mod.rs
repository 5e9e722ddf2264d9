//! What an image is, once its manifest and configuration have been read.

mod change;
mod config;
pub(crate) mod manifest;
pub mod media;

use std::sync::Arc;

pub(crate) use change::Applied;
pub use change::{ConfigChange, ParseChangeError};
pub(crate) use config::parse as parse_config;
pub use config::{ConfigError, ImageConfig};
#[cfg(feature = "fuzzing")]
pub(crate) use manifest::parse as parse_manifest;
pub use manifest::{Descriptor, ManifestError};
pub(crate) use manifest::{Document, IndexEntry, Manifest};
pub use media::Encoding;

use crate::content::{ContentError, ContentStore, Record};
use crate::digest::{ChainId, DiffId, Digest};
use crate::limits::Limits;
use crate::platform::Platform;
use crate::reference::Reference;

/// One image of the content store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its name; none when the name has moved on to another image.
    pub reference: Option<Reference>,
    /// What the name means: the digest of an index or of a manifest. People pin this one.
    pub digest: Digest,
    /// The manifest that is used here.
    pub manifest: Digest,
    /// The configuration's digest, which Docker shows as the image's id.
    pub id: Digest,
    /// The machine that it is for.
    pub platform: Platform,
    /// How it should be run. Hostile values.
    pub config: Arc<ImageConfig>,
    /// Its layers, lowest first; at least one.
    pub layers: Vec<Layer>,
    /// The stack of all its layers.
    pub chain_id: ChainId,
    /// Bytes of configuration and layers as they are transferred.
    pub size: u64,
}

impl Image {
    /// The stacks of its lowest layer, its two lowest, and so on; the last is its chain id.
    pub fn chain(&self) -> Vec<ChainId> {
        let diffs: Vec<DiffId> = self.layers.iter().map(|layer| layer.diff_id).collect();
        ChainId::all(&diffs)
    }
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// How it is compressed.
    pub encoding: Encoding,
    /// Of the uncompressed tar stream.
    pub diff_id: DiffId,
}

/// Why what is in the content store is no image that could be used.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A blob is missing or damaged, or the disk failed.
    #[error("image content cannot be used: pull the image again")]
    Content(#[from] ContentError),
    /// The manifest is refused.
    #[error("manifest {digest} is refused")]
    Manifest {
        /// Which.
        digest: Digest,
        /// Why.
        source: ManifestError,
    },
    /// The configuration is refused.
    #[error("image configuration {digest} is refused")]
    Config {
        /// Which.
        digest: Digest,
        /// Why.
        source: ConfigError,
    },
}

/// Reads the image that `record` names, from verified blobs.
pub(crate) fn load(store: &ContentStore, record: &Record, limits: &Limits) -> Result<Image, LoadError> {
    let manifest = load_manifest(store, record, limits)?;
    let bytes = store.read(&manifest.config.digest, limits.config_bytes)?;
    assemble(record, &manifest, &bytes)
}

/// The manifest that `record` uses.
pub(crate) fn load_manifest(
    store: &ContentStore,
    record: &Record,
    limits: &Limits,
) -> Result<Manifest, LoadError> {
    let digest = record.manifest;
    let served_as = (digest == record.target.digest).then_some(record.target.media_type.as_str());
    let bytes = store.read(&digest, limits.manifest_bytes)?;
    match manifest::parse(&bytes, served_as, limits) {
        Ok(Document::Manifest(manifest)) => Ok(manifest),
        Ok(Document::Index(_)) => {
            Err(LoadError::Manifest { digest, source: ManifestError::Malformed("it is an index".into()) })
        }
        Err(source) => Err(LoadError::Manifest { digest, source }),
    }
}

/// An image from its manifest and the bytes of its configuration.
pub(crate) fn assemble(record: &Record, manifest: &Manifest, config: &[u8]) -> Result<Image, LoadError> {
    let id = manifest.config.digest;
    let failed = |source| LoadError::Config { digest: id, source };
    let file = parse_config(config, manifest.layers.len()).map_err(failed)?;
    let chain = ChainId::all(&file.diff_ids);
    let chain_id =
        *chain.last().ok_or_else(|| failed(ConfigError::Malformed("the image has no layers".into())))?;
    let layers: Vec<Layer> = manifest
        .layers
        .iter()
        .zip(&file.diff_ids)
        .map(|((blob, encoding), diff_id)| Layer {
            digest: blob.digest,
            size: blob.size,
            encoding: *encoding,
            diff_id: *diff_id,
        })
        .collect();
    let size = layers.iter().fold(manifest.config.size, |sum, layer| sum.saturating_add(layer.size));
    Ok(Image {
        reference: record.reference.clone(),
        digest: record.target.digest,
        manifest: record.manifest,
        id,
        platform: file.platform,
        config: Arc::new(file.config),
        layers,
        chain_id,
        size,
    })
}

/// Every digest that `record` relies on. What cannot be read relies on nothing more than what is known of it: a
/// damaged image is fetched again as a whole.
pub(crate) fn mark(store: &ContentStore, record: &Record, limits: &Limits) -> Result<Vec<Digest>, LoadError> {
    let mut digests = vec![record.target.digest, record.manifest];
    match load_manifest(store, record, limits) {
        Ok(manifest) => {
            digests.push(manifest.config.digest);
            digests.extend(manifest.layers.iter().map(|(layer, _)| layer.digest));
        }
        Err(
            LoadError::Content(ContentError::Missing(_) | ContentError::Corrupt { .. })
            | LoadError::Manifest { .. },
        ) => {}
        Err(error) => return Err(error),
    }
    Ok(digests)
}

#[cfg(test)]
mod tests;
