//! Images as they come, and root filesystems as they are run.
//!
//! ```text
//! Reference ─► registry ─┐                              ┌─► Image (config, chain id)
//!             layout  ───┼─► pull ─► content (blobs) ───┤
//!             archive ───┘                              └─► layers ─► driver ─► snapshots ─► Mounts
//! ```
//!
//! Bytes of images are hostile: nothing is believed before its digest has been verified, and nothing that an image
//! says chooses anything on the host. This crate knows nothing of Kubernetes or of reconciling.

mod digest;

pub use digest::{ChainId, DiffId, Digest, Hasher, ParseDigestError, VerifyReader, WrongContent};
