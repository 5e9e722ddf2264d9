//! From the bytes of a layer to a directory tree.
//!
//! ```text
//! blob ─► Stream (decompress, hash; own thread) ─► tar::Reader (strict) ─► Extractor ─► tree
//! tree ─► crate::diff ─► write::Writer (nothing but content decides its bytes) ─► blob
//! ```
//!
//! An [`Extractor`](extract::Extractor) writes in one of two ways. *Onto* a tree that has the parent's content, as one would unpack
//! layers one after the other: that is the reference. Or *apart*, into an empty directory that becomes a layer of
//! overlayfs; what only the parent can tell is added by [`finish`] when the parent is there.

mod books;
mod dropped;
mod error;
mod extract;
mod finish;
mod fs;
mod limits;
mod meta;
mod path;
mod remove;
mod resolve;
mod stream;
pub(crate) mod tar;
pub(crate) mod write;

pub(crate) use dropped::together;
pub use error::LayerError;
pub(crate) use error::shown;
pub(crate) use extract::{Apart, apply_apart, apply_onto};
pub(crate) use finish::{Finished, finish};
pub(crate) use fs::{
    Attributes, copy_attributes, copy_dir_meta, is_overlay_attribute, is_whiteout, kind, look, mtime, names,
    open_beneath, open_dir, read_dir_beneath, stamps, stat,
};
pub use limits::UnpackLimits;
pub(crate) use meta::Meta;
pub(crate) use path::{OPAQUE, WHITEOUT};
pub(crate) use remove::remove_all;
pub use stream::{Compression, LayerBlob, OpenBlob, Stream};

#[cfg(test)]
mod tests;
