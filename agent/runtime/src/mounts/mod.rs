//! The container's mounts: detached trees, attached only in the container's own mount namespace.
//!
//! ```text
//!  block devices (by the starter) ─► follow the host's mounts ─► isolate ─► all other sources ─► root ─► attach each in order ─► mask ─► pivot
//!          source: a place, a part of it (below), a detached copy     └─ target by descriptor inside the root (path)
//! ```

mod attach;
mod below;
#[cfg(feature = "cli")]
mod copy_up;
pub(crate) mod options;
mod path;
mod protect;
mod source;
#[cfg(test)]
mod tests;
mod tree;

pub(crate) use attach::{Root, attach_all, isolate};
pub(crate) use path::{open_dir_making, open_inside};
pub(crate) use protect::protect;
pub(crate) use source::{Blocks, open_following, open_others};
pub(crate) use tree::{fd_path, sealed_program};
#[cfg(feature = "cli")]
pub(crate) use {
    attach::{move_to, set_attrs},
    path::{Make, open_making},
    source::{Sources, open_all},
    tree::{bind, bind_fd},
};

/// A procfs of this pid namespace that is attached nowhere, so that nothing can cover a part of it.
pub(crate) fn private_proc(stage: &str) -> Result<std::os::fd::OwnedFd, crate::error::Failure> {
    tree::filesystem(stage, "proc", "proc", &[], 0)
}
