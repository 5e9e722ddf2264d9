//! What an unpacked layer still needs from its parent.
//!
//! Sequential unpacking sees the parent's tree; unpacking apart does not. Three things differ, and are put right here: a
//! directory that the layer only implies is the parent's one; a whiteout of nothing, or one in a directory in which
//! nothing of lower layers shows, must not stand (overlayfs would list it); and a layer whose path leads through a link
//! of a lower layer has to be read again.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, OFlags};
use rustix::io::Errno;

use super::LayerError;
use super::books::Origin;
use super::dropped::together;
use super::extract::Unfinished;
use super::fs::{copy_dir_meta, kind, look, open_beneath, os, read_dir_beneath, stamps};
use super::meta::Meta;

/// Whether the tree is right now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Finished {
    Done,
    /// The layer has to be read again, onto its parent.
    NeedsParent,
}

/// Completes the unpacked tree at `root`. `parent` is the merged tree of all lower layers, if there are any.
pub(crate) fn finish(
    root: &OwnedFd,
    layer: &Unfinished,
    parent: Option<BorrowedFd<'_>>,
) -> Result<Finished, LayerError> {
    together(|| complete(root, layer, parent))
}

fn complete(
    root: &OwnedFd,
    layer: &Unfinished,
    parent: Option<BorrowedFd<'_>>,
) -> Result<Finished, LayerError> {
    let mut below = Below { layer, parent, known: HashMap::new() };
    if let Some(parent) = parent {
        // overlayfs has no opaque root.
        if layer.dirs.get(&b""[..]).is_some_and(|state| state.opaque) {
            return Ok(Finished::NeedsParent);
        }
        for path in &layer.implied {
            if below.at(parent, path)? == Some(FileType::Symlink) {
                return Ok(Finished::NeedsParent);
            }
        }
    }
    let mut again = Vec::new();
    for path in &layer.whiteouts {
        let (up, name) = split_last(path);
        let stands = match parent {
            Some(parent) => below.shows(up)? && below.at(parent, path)?.is_some(),
            None => false,
        };
        if !stands {
            let io = |error| LayerError::io(path, "remove an idle whiteout", error);
            let dir = read_dir_beneath(root, up).map_err(io)?;
            fs::unlinkat(&dir, os(name), AtFlags::empty()).map_err(io)?;
            again.push(up);
        }
    }
    for path in again {
        if let Some(state) = layer.dirs.get(path)
            && let Origin::Explicit(meta) = &state.origin
        {
            let io = |error| LayerError::io(path, "set the times", error);
            let dir = read_dir_beneath(root, path).map_err(io)?;
            fs::futimens(&dir, &stamps(meta.mtime)).map_err(io)?;
        }
    }
    for (path, state) in layer.dirs.iter().rev() {
        if state.origin != Origin::Made {
            continue;
        }
        let dir = read_dir_beneath(root, path)
            .map_err(|error| LayerError::io(path, "open the directory", error))?;
        let lower = match parent {
            Some(parent) if below.counts(path)? => Some(
                read_dir_beneath(parent, path)
                    .map_err(|error| LayerError::io(path, "open the lower directory", error))?,
            ),
            _ => None,
        };
        match lower {
            Some(lower) => copy_dir_meta(&lower, &dir)
                .map_err(|error| LayerError::io(path, "copy what the lower directory has", error))?,
            None => Meta::default().apply_dir(path, &dir, true)?,
        }
    }
    Ok(Finished::Done)
}

fn split_last(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// What the lower layers have, seen through this one.
struct Below<'a> {
    layer: &'a Unfinished,
    parent: Option<BorrowedFd<'a>>,
    known: HashMap<Vec<u8>, bool>,
}

impl Below<'_> {
    /// What is at `path` in the parent, if every directory on the way is a real one there.
    fn at(&self, parent: BorrowedFd<'_>, path: &[u8]) -> Result<Option<FileType>, LayerError> {
        let (up, name) = split_last(path);
        let io = |error| LayerError::io(path, "look at the lower layers", error);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let dir = match open_beneath(parent.as_fd(), up, flags) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        Ok(look(&dir, name).map_err(io)?.as_ref().map(kind))
    }

    /// Whether the parent has a directory at `path` that is the same directory as this layer's.
    fn counts(&mut self, path: &[u8]) -> Result<bool, LayerError> {
        if let Some(known) = self.known.get(path) {
            return Ok(*known);
        }
        let detached = self.layer.dirs.get(path).is_some_and(|state| state.detached);
        let counts = match self.parent {
            None => false,
            Some(_) if detached => false,
            Some(_) if path.is_empty() => true,
            Some(parent) => {
                self.shows(split_last(path).0)? && self.at(parent, path)? == Some(FileType::Directory)
            }
        };
        self.known.insert(path.to_vec(), counts);
        Ok(counts)
    }

    /// Whether what lower layers have in the directory at `path` shows.
    fn shows(&mut self, path: &[u8]) -> Result<bool, LayerError> {
        let opaque = self.layer.dirs.get(path).is_some_and(|state| state.opaque);
        Ok(!opaque && self.counts(path)?)
    }
}
