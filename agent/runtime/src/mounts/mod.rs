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

pub(crate) use attach::{Root, attach_all, isolate, move_to};
pub(crate) use path::{Make, open_dir_making, open_inside, open_making};
pub(crate) use protect::protect;
pub(crate) use source::{Blocks, open_following, open_others, open_volumes};
pub(crate) use tree::{bind_fd, fd_path, sealed_program};
#[cfg(feature = "cli")]
pub(crate) use {
    attach::set_attrs,
    source::{Sources, open_all},
    tree::bind,
};

/// A procfs of this pid namespace that is attached nowhere, so that nothing can cover a part of it.
pub(crate) fn private_proc(stage: &str) -> Result<std::os::fd::OwnedFd, crate::error::Failure> {
    tree::filesystem(stage, "proc", "proc", &[], 0)
}
