//! Trees as tar streams.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, Stat};

use super::{Action, DiffError, Item, Trees, attributes, gone, is_left_out, join, open_file, split_last};
use crate::layer::tar::{Entry, Kind};
use crate::layer::write::Writer;
use crate::layer::{
    Attributes, OPAQUE, UnpackLimits, WHITEOUT, kind, mtime, names, read_dir_beneath, shown, stat,
};

/// Writes `items`, which [`compare`](super::compare) found in `trees`, as a layer.
pub(crate) fn write_layer(
    trees: &Trees,
    items: &[Item],
    limits: &UnpackLimits,
    out: impl Write,
) -> Result<(), DiffError> {
    let mut archive = Archive::new(limits, out);
    let mut at: Option<(Vec<u8>, OwnedFd)> = None;
    for item in items {
        let path = item.path.as_slice();
        let (dir, name) = split_last(path);
        if name.starts_with(WHITEOUT) && item.action != Action::Omit {
            return Err(DiffError::refused(path, "names that begin with '.wh.' mark what a layer removes"));
        }
        match item.action {
            Action::Omit | Action::Implied => {}
            Action::Whiteout => archive.mark(&join(dir, &[WHITEOUT, name].concat()))?,
            Action::Write => {
                if at.as_ref().is_none_or(|(open, _)| open != dir) {
                    at = gone(read_dir_beneath(&trees.top, dir), path)?.map(|fd| (dir.to_vec(), fd));
                }
                if let Some((_, fd)) = &at {
                    archive.entry(path, fd, name)?;
                }
                if item.opaque {
                    archive.mark(&join(path, OPAQUE))?;
                }
            }
        }
    }
    archive.finish()
}

/// Writes all of the tree but its root: each directory, then what is in it, by the bytes of the names.
pub(crate) fn write_tree(tree: &OwnedFd, limits: &UnpackLimits, out: impl Write) -> Result<(), DiffError> {
    // Whoever unpacks it somewhere has no such limit; paths must be reachable by us.
    let limits = UnpackLimits { max_bytes: u64::MAX, ..limits.clone() };
    let mut archive = Archive::new(&limits, out);
    archive.below(tree, b"")?;
    archive.finish()
}

/// Writes `name` in `dir`, and all below it, under the name `as_name`; an empty name is the directory itself.
pub(crate) fn write_path(
    dir: &OwnedFd,
    name: &[u8],
    as_name: &[u8],
    limits: &UnpackLimits,
    out: impl Write,
) -> Result<(), DiffError> {
    let mut archive = Archive::new(limits, out);
    let found = stat(dir, name).map_err(|error| DiffError::read(name, error))?;
    archive.entry(as_name, dir, name)?;
    if kind(&found) == FileType::Directory
        && let Some(top) = gone(read_dir_beneath(dir, name), name)?
    {
        archive.below(&top, as_name)?;
    }
    archive.finish()
}

struct Archive<'a, W> {
    writer: Writer<W>,
    limits: &'a UnpackLimits,
    /// The first name of each file that has several.
    /// By device and inode number: on btrfs a tree may have further subvolumes in it.
    linked: HashMap<(u64, u64), Vec<u8>>,
    bytes: u64,
    buffer: Vec<u8>,
}

impl<'a, W: Write> Archive<'a, W> {
    fn new(limits: &'a UnpackLimits, out: W) -> Self {
        let buffer = vec![0u8; 128 << 10];
        Self { writer: Writer::new(out), limits, linked: HashMap::new(), bytes: 0, buffer }
    }

    fn finish(self) -> Result<(), DiffError> {
        self.writer.finish().and_then(|mut out| out.flush()).map_err(DiffError::Write)
    }

    /// All below a directory, but not itself, with `as_name` before each name: each directory, then what is in it, by the bytes of
    /// the names.
    fn below(&mut self, top: &OwnedFd, as_name: &[u8]) -> Result<(), DiffError> {
        let mut todo = vec![Vec::new()];
        while let Some(path) = todo.pop() {
            let depth = path.iter().filter(|byte| **byte == b'/').count();
            if path.len() > self.limits.max_path || depth >= self.limits.max_depth {
                return Err(DiffError::refused(&path, "it is too deep, or its path too long"));
            }
            let Some(dir) = gone(read_dir_beneath(top, &path), &path)? else { continue };
            if !path.is_empty() {
                let Some(up) = gone(read_dir_beneath(top, split_last(&path).0), &path)? else { continue };
                self.entry(&join(as_name, &path), &up, split_last(&path).1)?;
            }
            let mut names = names(&dir).map_err(|error| DiffError::read(&path, error))?;
            names.sort();
            let mut inner = Vec::new();
            for name in names {
                let full = join(&path, name.to_bytes());
                match gone(stat(&dir, name.to_bytes()), &full)? {
                    Some(stat) if kind(&stat) == FileType::Directory => inner.push(full),
                    Some(_) => self.entry(&join(as_name, &full), &dir, name.to_bytes())?,
                    None => {}
                }
            }
            todo.extend(inner.into_iter().rev());
        }
        Ok(())
    }

    /// A whiteout or an opaque mark: an empty file that says the same on every machine.
    fn mark(&mut self, path: &[u8]) -> Result<(), DiffError> {
        self.writer.entry(&Entry { mode: 0, ..blank(path, Kind::Regular) }).map_err(DiffError::Write)
    }

    /// `name` in `dir`, which is at `path`; an empty name is the root. What is gone is passed over.
    fn entry(&mut self, path: &[u8], dir: &OwnedFd, name: &[u8]) -> Result<(), DiffError> {
        let Some(stat) = gone(stat(dir, name), path)? else {
            tracing::debug!(path = shown(path), "it went away while it was to be written");
            return Ok(());
        };
        if is_left_out(&stat) {
            tracing::info!(
                path = shown(path),
                "left out what an archive cannot hold (a socket, or the device 0:0)"
            );
            return Ok(());
        }
        let node = kind(&stat);
        if node == FileType::RegularFile {
            return self.file(path, dir, name);
        }
        let path = if path.is_empty() { b"./" } else { path };
        let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let what = match node {
            FileType::Directory => Kind::Directory,
            FileType::Fifo => Kind::Fifo,
            FileType::CharacterDevice => Kind::Char(major, minor),
            FileType::BlockDevice => Kind::Block(major, minor),
            FileType::Symlink => match gone(rustix::fs::readlinkat(dir, name, Vec::new()), path)? {
                Some(target) => Kind::Symlink(target.into_bytes()),
                None => return Ok(()),
            },
            _ => return Err(DiffError::refused(path, "its type is not known")),
        };
        if node != FileType::Directory && self.link(path, &stat)? {
            return Ok(());
        }
        let place = if name.is_empty() { Ok(Attributes::of_fd(dir)) } else { Attributes::of_name(dir, name) };
        let Some(xattrs) = gone(place.and_then(|place| attributes(&place)), path)? else { return Ok(()) };
        let entry = described(path, what, &stat, xattrs);
        self.writer.entry(&entry).map_err(DiffError::Write)
    }

    /// Another name of what was written already.
    fn link(&mut self, path: &[u8], stat: &Stat) -> Result<bool, DiffError> {
        if stat.st_nlink < 2 {
            return Ok(false);
        }
        match self.linked.get(&(stat.st_dev, stat.st_ino)) {
            Some(first) => {
                let entry = described(path, Kind::Hardlink(first.clone()), stat, Vec::new());
                self.writer.entry(&entry).map_err(DiffError::Write)?;
                Ok(true)
            }
            None => {
                self.linked.insert((stat.st_dev, stat.st_ino), path.to_vec());
                Ok(false)
            }
        }
    }

    fn file(&mut self, path: &[u8], dir: &OwnedFd, name: &[u8]) -> Result<(), DiffError> {
        let io = |error| DiffError::read(path, error);
        let Some(file) = gone(open_file(dir, name), path)? else { return Ok(()) };
        let stat = rustix::fs::fstat(&file).map_err(io)?;
        if kind(&stat) != FileType::RegularFile {
            return Err(DiffError::refused(path, "it was replaced while it was read"));
        }
        if self.link(path, &stat)? {
            return Ok(());
        }
        let xattrs = attributes(&Attributes::of_fd(&file)).map_err(io)?;
        let entry = described(path, Kind::Regular, &stat, xattrs);
        self.bytes = self.bytes.saturating_add(entry.size);
        if self.bytes > self.limits.max_bytes {
            return Err(DiffError::Limit { what: "bytes in files", limit: self.limits.max_bytes });
        }
        self.writer.entry(&entry).map_err(DiffError::Write)?;
        while self.writer.left() > 0 {
            let mut read = rustix::io::read(&file, &mut self.buffer).map_err(io)?;
            if read == 0 {
                // Only who was not paused does that. Its size is promised already.
                tracing::warn!(
                    path = shown(path),
                    "it became shorter while it was read; zeros stand for the rest"
                );
                self.buffer.fill(0);
                read = self.buffer.len();
            }
            self.writer.data(&self.buffer[..read]).map_err(DiffError::Write)?;
        }
        Ok(())
    }
}

fn blank(path: &[u8], kind: Kind) -> Entry {
    let mtime = crate::layer::tar::Time::default();
    Entry { path: path.to_vec(), kind, size: 0, mode: 0, uid: 0, gid: 0, mtime, xattrs: vec![], sparse: None }
}

fn described(path: &[u8], kind: Kind, stat: &Stat, xattrs: Vec<(std::ffi::CString, Vec<u8>)>) -> Entry {
    let size = if kind == Kind::Regular { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 };
    let (xattrs, unnamable): (Vec<_>, Vec<_>) =
        xattrs.into_iter().partition(|(name, _)| !name.as_bytes().contains(&b'='));
    for (name, _) in unnamable {
        let attribute = std::ffi::OsStr::from_bytes(name.as_bytes()).to_string_lossy();
        tracing::warn!(path = shown(path), %attribute, "left out an extended attribute whose name has a '='");
    }
    Entry {
        size,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: mtime(stat),
        xattrs: xattrs.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect(),
        ..blank(path, kind)
    }
}
