//! Images from files: OCI layout directories, and archives of `docker save`, `skopeo`, `buildah` and the like.
//!
//! An archive is read once, as a stream. Nothing in it becomes a path: a blob is stored by its digest, and other
//! members are found again only by the very name that the archive's own list gives.

mod docker;
mod layout;
mod tarball;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::content::{ContentError, ContentStore, Lease, Record};
use crate::image::{LoadError, ManifestError};
use crate::layer::LayerError;
use crate::limits::Limits;
use crate::platform::Platform;
use crate::pull::PullError;
use crate::reference::{ParseReferenceError, Reference};

/// Why nothing was taken in from a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The file or directory cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// It is neither an archive nor a layout.
    #[error("{} is no image: {what}", path.display())]
    NotAnImage {
        /// Which.
        path: PathBuf,
        /// What is missing or wrong.
        what: String,
    },
    /// The archive is damaged or hostile.
    #[error("archive {} cannot be read", path.display())]
    Archive {
        /// Which.
        path: PathBuf,
        /// Why.
        source: LayerError,
    },
    /// A manifest is refused.
    #[error("an image of {} is refused", path.display())]
    Manifest {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: ManifestError,
    },
    /// A name in it, or its lack.
    #[error("image name {name:?} in {} is not valid", path.display())]
    Name {
        /// Which file.
        path: PathBuf,
        /// The name.
        name: String,
        /// Why.
        source: ParseReferenceError,
    },
    /// Blobs cannot be stored.
    #[error("cannot store the image")]
    Content(#[source] ContentError),
    /// The image cannot be used.
    #[error("the image cannot be used")]
    Load(#[source] LoadError),
    /// The image cannot be unpacked, or is for other machines.
    #[error(transparent)]
    Unpack(PullError),
}

/// What was found: images whose blobs are committed, to be named once they are unpacked.
pub(crate) struct Imported {
    pub(crate) records: Vec<Record>,
    pub(crate) lease: Lease,
}

/// One import under way.
struct Import<'a> {
    store: &'a Arc<ContentStore>,
    path: &'a Path,
    name: Option<Reference>,
    platform: &'a Platform,
    limits: &'a Limits,
    default_registry: &'a str,
    lease: Lease,
}

/// Commits the blobs of all images of `path` that are for `platform`. Blocks for as long as that takes.
pub(crate) fn import(
    store: &Arc<ContentStore>,
    path: &Path,
    name: Option<Reference>,
    platform: &Platform,
    limits: &Limits,
    default_registry: &str,
) -> Result<Imported, ImportError> {
    let lease = Lease::new(store);
    let mut import = Import { store, path, name, platform, limits, default_registry, lease };
    let meta = std::fs::metadata(path).map_err(|source| import.unreadable(source))?;
    let records = if meta.is_dir() {
        let index = layout::read_index(&import)?;
        import.layout(&index, true)?
    } else if meta.is_file() {
        let found = tarball::gather(&mut import)?;
        match (&found.index, &found.manifest) {
            // An archive with both is a layout that old tools can read too.
            (Some(index), _) => import.layout(index, false)?,
            (None, Some(manifest)) => import.docker(manifest, &found.members)?,
            (None, None) => return Err(import.no_image("it has neither index.json nor manifest.json")),
        }
    } else {
        return Err(import.no_image("it is neither a file nor a directory"));
    };
    Ok(Imported { records, lease: import.lease })
}

impl Import<'_> {
    fn unreadable(&self, source: io::Error) -> ImportError {
        ImportError::Read { path: self.path.to_owned(), source }
    }

    fn no_image(&self, what: impl Into<String>) -> ImportError {
        ImportError::NotAnImage { path: self.path.to_owned(), what: what.into() }
    }

    fn refused(&self, source: ManifestError) -> ImportError {
        ImportError::Manifest { path: self.path.to_owned(), source }
    }

    fn parse_name(&self, name: &str) -> Result<Reference, ImportError> {
        Reference::parse(name, self.default_registry).map_err(|source| ImportError::Name {
            path: self.path.to_owned(),
            name: crate::image::manifest::clip(name),
            source,
        })
    }
}
