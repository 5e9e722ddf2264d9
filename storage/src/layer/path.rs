//! Names in a layer, made into lists of components.

use super::{LayerError, UnpackLimits};

/// The prefix of whiteouts (OCI image specification, layer.md, "Whiteouts").
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// Hides everything that lower layers have in a directory.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";
/// What aufs kept for itself in layers of long ago.
const AUFS: &[u8] = b".wh..wh.";

/// The last component of an entry's path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Leaf<'a> {
    /// The root directory itself.
    Root,
    /// A thing of that name.
    Name(&'a [u8]),
    /// The thing of that name in lower layers is gone.
    Whiteout(&'a [u8]),
    /// All that lower layers have in the directory is gone.
    Opaque,
    /// Bookkeeping of aufs.
    Aufs,
}

/// Components of `path`, without `.` and empty ones; a leading `/` means the layer's root.
/// `..`, components over 255 bytes and paths over the limits are refused: no real image has them.
pub(crate) fn components<'a>(path: &'a [u8], limits: &UnpackLimits) -> Result<Vec<&'a [u8]>, LayerError> {
    if path.len() > limits.max_path {
        return Err(LayerError::refused(path, "path is too long"));
    }
    let mut out = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(LayerError::refused(path, "path contains '..'")),
            _ if part.len() > 255 => return Err(LayerError::refused(path, "name is longer than 255 bytes")),
            _ if part.contains(&0) => return Err(LayerError::refused(path, "path contains a NUL byte")),
            _ => out.push(part),
        }
    }
    if out.len() > limits.max_depth {
        return Err(LayerError::refused(path, "path is too deep"));
    }
    Ok(out)
}

/// Splits components into the directory and the last one, with whiteouts recognised.
pub(crate) fn split<'a, 'b>(
    path: &[u8],
    parts: &'b [&'a [u8]],
) -> Result<(&'b [&'a [u8]], Leaf<'a>), LayerError> {
    let Some((last, parent)) = parts.split_last() else { return Ok((parts, Leaf::Root)) };
    if parent.iter().any(|part| part.starts_with(WHITEOUT) && !part.starts_with(AUFS)) {
        return Err(LayerError::refused(path, "a whiteout has no children"));
    }
    if parent.iter().any(|part| part.starts_with(AUFS)) {
        return Ok((parent, Leaf::Aufs));
    }
    let leaf = if *last == OPAQUE {
        Leaf::Opaque
    } else if last.starts_with(AUFS) {
        Leaf::Aufs
    } else if let Some(name) = last.strip_prefix(WHITEOUT) {
        if matches!(name, b"" | b"." | b"..") {
            return Err(LayerError::refused(path, "a whiteout of nothing"));
        }
        Leaf::Whiteout(name)
    } else {
        Leaf::Name(last)
    };
    Ok((parent, leaf))
}
