//! Owner, mode, times and extended attributes of entries.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, AtFlags, Mode};
use rustix::io::Errno;

use super::LayerError;
use super::dropped::{self, Why};
use super::fs::{Attributes, is_overlay_attribute, os, owner, stamps};
use super::tar::{Entry, Time};

/// What an entry says of itself, beside its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) xattrs: Vec<(CString, Vec<u8>)>,
}

impl Default for Meta {
    /// Of a directory that nothing describes: the same on every machine at any time.
    fn default() -> Self {
        Self { mode: 0o755, uid: 0, gid: 0, mtime: Time::default(), xattrs: Vec::new() }
    }
}

impl Meta {
    /// Without the attributes that would forge overlayfs's books; those are dropped, and said so.
    pub(crate) fn of(entry: &Entry) -> Result<Self, LayerError> {
        let mut xattrs = Vec::with_capacity(entry.xattrs.len());
        for (name, value) in &entry.xattrs {
            if is_overlay_attribute(name) {
                dropped::note(Why::Overlay, &entry.path, name);
                continue;
            }
            let name = CString::new(name.as_slice()).map_err(|_| {
                LayerError::refused(&entry.path, "an extended attribute with a NUL byte in its name")
            })?;
            xattrs.push((name, value.clone()));
        }
        Ok(Self { mode: entry.mode, uid: entry.uid, gid: entry.gid, mtime: entry.mtime, xattrs })
    }

    fn is_root(&self) -> bool {
        self.uid == 0 && self.gid == 0
    }

    pub(crate) fn mode(&self) -> Mode {
        Mode::from_raw_mode(self.mode)
    }

    fn set_xattrs(&self, path: &[u8], to: &Attributes<'_>) -> Result<(), LayerError> {
        for (name, value) in &self.xattrs {
            match to.set(name, value) {
                Ok(()) => {}
                // A capability that is lost would show only when the program runs.
                Err(Errno::OPNOTSUPP | Errno::PERM) if name.to_bytes() != b"security.capability" => {
                    dropped::note(Why::Unsupported, path, name.to_bytes());
                }
                Err(error) => return Err(LayerError::io(path, "set an extended attribute", error)),
            }
        }
        Ok(())
    }

    /// For a file that was just made with this mode by the superuser. `fresh` says that nothing was inherited from
    /// its directory.
    pub(crate) fn apply_file(&self, path: &[u8], file: &OwnedFd, fresh: bool) -> Result<(), LayerError> {
        if !fresh || !self.is_root() {
            let (uid, gid) = owner(self.uid, self.gid);
            fs::fchown(file, uid, gid).map_err(|error| LayerError::io(path, "set the owner", error))?;
        }
        // A change of owner takes the setuid and setgid bits away.
        if !fresh || !self.is_root() && self.mode & 0o6000 != 0 {
            fs::fchmod(file, self.mode()).map_err(|error| LayerError::io(path, "set the mode", error))?;
        }
        self.set_xattrs(path, &Attributes::of_fd(file))?;
        fs::futimens(file, &stamps(self.mtime)).map_err(|error| LayerError::io(path, "set the times", error))
    }

    /// For a link or a node that was just made as `name` in `dir`.
    pub(crate) fn apply_node(
        &self,
        path: &[u8],
        dir: &OwnedFd,
        name: &[u8],
        symlink: bool,
    ) -> Result<(), LayerError> {
        let (uid, gid) = owner(self.uid, self.gid);
        fs::chownat(dir, os(name), uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| LayerError::io(path, "set the owner", error))?;
        if !symlink {
            // The name was made by us a moment ago, in a directory that only we write to: it is no link.
            fs::chmodat(dir, os(name), self.mode(), AtFlags::empty())
                .map_err(|error| LayerError::io(path, "set the mode", error))?;
        }
        if !self.xattrs.is_empty() {
            let to = Attributes::of_name(dir, name)
                .map_err(|error| LayerError::io(path, "name the entry", error))?;
            self.set_xattrs(path, &to)?;
        }
        fs::utimensat(dir.as_fd(), os(name), &stamps(self.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| LayerError::io(path, "set the times", error))
    }

    /// For a directory. With `replace`, what it had from elsewhere goes.
    pub(crate) fn apply_dir(&self, path: &[u8], dir: &OwnedFd, replace: bool) -> Result<(), LayerError> {
        if replace || !self.is_root() {
            let (uid, gid) = owner(self.uid, self.gid);
            fs::fchown(dir, uid, gid).map_err(|error| LayerError::io(path, "set the owner", error))?;
        }
        if replace || self.mode & 0o7000 != 0 {
            fs::fchmod(dir, self.mode()).map_err(|error| LayerError::io(path, "set the mode", error))?;
        }
        let attributes = Attributes::of_fd(dir);
        if replace {
            let there =
                attributes.list().map_err(|error| LayerError::io(path, "list extended attributes", error))?;
            for name in there {
                let wanted = self.xattrs.iter().any(|(wanted, _)| *wanted == name);
                if !wanted && !is_overlay_attribute(name.to_bytes()) {
                    attributes
                        .remove(&name)
                        .map_err(|error| LayerError::io(path, "remove an extended attribute", error))?;
                }
            }
        }
        self.set_xattrs(path, &attributes)?;
        fs::futimens(dir, &stamps(self.mtime)).map_err(|error| LayerError::io(path, "set the times", error))
    }
}
