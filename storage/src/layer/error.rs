//! What can be wrong with a layer.

use std::io;

use crate::digest::DiffId;

/// Why a layer was not unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// The blob could not be opened, read or decompressed.
    #[error("cannot read the layer")]
    Read(#[source] io::Error),
    /// The tar stream ends within an entry.
    #[error("layer is truncated at byte {at} of its tar stream")]
    Truncated {
        /// Bytes read so far.
        at: u64,
    },
    /// A header that is malformed, or that different readers would understand differently.
    #[error("layer has a bad tar header at byte {at}: {what}")]
    Header {
        /// Where in the tar stream.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// An entry that is well formed and not allowed.
    #[error("layer entry {path:?} is refused: {what}")]
    Refused {
        /// The entry, as the layer names it.
        path: String,
        /// Why.
        what: &'static str,
    },
    /// More than [`UnpackLimits`](super::UnpackLimits) allows.
    #[error("layer exceeds the limit of {limit} {what}; a node can be configured to take more")]
    Limit {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The filesystem refused something.
    #[error("layer entry {path:?}: cannot {action}")]
    Io {
        /// The entry.
        path: String,
        /// What was tried.
        action: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The uncompressed bytes are not the ones the image configuration names.
    #[error("layer has diff id {found}, not {expected} as the image says")]
    DiffId {
        /// From the image configuration.
        expected: DiffId,
        /// Of the bytes that came.
        found: DiffId,
    },
}

/// Hostile names go into messages escaped and in part.
pub(crate) fn shown(path: &[u8]) -> String {
    let clipped = &path[..path.len().min(256)];
    String::from_utf8_lossy(clipped).into_owned()
}

impl LayerError {
    pub(crate) fn refused(path: &[u8], what: &'static str) -> Self {
        Self::Refused { path: shown(path), what }
    }

    pub(crate) fn io(path: &[u8], action: &'static str, source: impl Into<io::Error>) -> Self {
        Self::Io { path: shown(path), action, source: source.into() }
    }
}
