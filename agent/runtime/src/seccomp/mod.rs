//! seccomp filters: compiled once, kept by the digest of their bytes.

use std::sync::Arc;

use sha2::{Digest, Sha256};

/// A compiled filter: classic BPF instructions in the machine's byte order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    digest: String,
    bytes: Arc<[u8]>,
}

impl Filter {
    /// A filter from its bytes, as they were written to a file named by [`Filter::digest`].
    #[must_use]
    pub fn from_bytes(bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        let digest = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        Self { digest, bytes }
    }

    /// The SHA-256 of the bytes, in hex.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The instructions, eight bytes each.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
