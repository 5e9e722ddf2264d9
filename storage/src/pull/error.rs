use std::sync::Arc;

use crate::content::ContentError;
use crate::image::{LoadError, ManifestError};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::registry::RegistryError;
use crate::snapshots::UnpackError;

/// Why an image could not be pulled.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// What the registry has is refused.
    #[error("image {reference} is refused")]
    Manifest {
        /// Which.
        reference: Reference,
        /// Why.
        source: ManifestError,
    },
    /// Manifest or configuration cannot be used.
    #[error("image {reference} cannot be used")]
    Load {
        /// Which.
        reference: Reference,
        /// Why.
        source: Box<LoadError>,
    },
    /// For other machines only.
    #[error(
        "image {reference} is not for {wanted}: {}",
        if available.is_empty() { "it is for no machine at all".to_owned() } else { format!("it is there for {}", list(available)) }
    )]
    Platform {
        /// Which.
        reference: Reference,
        /// The machine here.
        wanted: Platform,
        /// The machines that it is for.
        available: Vec<Platform>,
    },
    /// The content store.
    #[error("image {reference} cannot be stored")]
    Content {
        /// Which.
        reference: Reference,
        /// Why.
        source: Box<ContentError>,
    },
    /// A layer cannot be unpacked.
    #[error("image {reference} cannot be unpacked")]
    Unpack {
        /// Which.
        reference: Reference,
        /// Why.
        source: Arc<UnpackError>,
    },
    /// The pull that this one had joined was given up.
    #[error("the pull of {0} was given up: try again")]
    Cancelled(Reference),
}

fn list(platforms: &[Platform]) -> String {
    let all: Vec<String> = platforms.iter().take(16).map(Platform::to_string).collect();
    all.join(", ")
}
