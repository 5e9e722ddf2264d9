//! Directories on the way to an entry.
//!
//! Every component is opened by descriptor without following a link; links are followed by us, as they would be in a
//! `chroot` to the tree. Directories that are not there are made. Descriptors of directories are cached by the path that
//! led there; whenever a directory or a link of the tree is removed, all of the cache goes (a cache that outlived
//! such a change is how CVE-2025-47290 came about).

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::{self, FileType, Mode};
use rustix::io::Errno;

use super::LayerError;
use super::books::DirState;
use super::extract::{Extractor, Way};
use super::fs::{kind, look, mtime, open_beneath, open_dir, os};

/// As many as the kernel follows in one path.
const MAX_LINKS: usize = 40;
/// Descriptors kept; far below the usual limit of 1024 for a process.
const MAX_CACHED: usize = 128;

/// A directory of the tree.
#[derive(Debug)]
pub(crate) struct Dir {
    pub(crate) fd: OwnedFd,
    /// Real directories from the root down; empty for the root.
    pub(crate) path: Vec<u8>,
    /// Whether what is made in it may inherit from it: its group, or a default access control list.
    pub(crate) inherits: bool,
}

impl Dir {
    /// The path of `name` in it.
    pub(crate) fn join(&self, name: &[u8]) -> Vec<u8> {
        if self.path.is_empty() { name.to_vec() } else { [&self.path, &b"/"[..], name].concat() }
    }
}

impl Extractor<'_> {
    /// The directory in which an entry goes, made as needed.
    pub(super) fn directory(&mut self, path: &[u8], parts: &[&[u8]]) -> Result<Rc<Dir>, LayerError> {
        if parts.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        let key = parts.join(&b'/');
        if let Some(dir) = self.cache.get(&key) {
            return Ok(Rc::clone(dir));
        }
        // Most often only the last component is new.
        let (mut from, mut rest) = (Rc::clone(&self.root), parts);
        if let Some((_, up)) = parts.split_last()
            && !up.is_empty()
            && let Some(dir) = self.cache.get(&up.join(&b'/'))
        {
            from = Rc::clone(dir);
            rest = &parts[up.len()..];
        }
        let dir = self
            .walk(path, from, rest, true)?
            .ok_or_else(|| LayerError::refused(path, "its directory cannot be made"))?;
        if self.cache.len() >= MAX_CACHED {
            self.cache.clear();
        }
        self.cache.insert(key, Rc::clone(&dir));
        Ok(dir)
    }

    /// The directory of something that should be there already; nothing is made.
    pub(super) fn existing(&mut self, path: &[u8], parts: &[&[u8]]) -> Result<Option<Rc<Dir>>, LayerError> {
        let root = Rc::clone(&self.root);
        self.walk(path, root, parts, false)
    }

    fn walk(
        &mut self,
        path: &[u8],
        from: Rc<Dir>,
        parts: &[&[u8]],
        make: bool,
    ) -> Result<Option<Rc<Dir>>, LayerError> {
        let mut todo: VecDeque<Vec<u8>> = parts.iter().map(|part| part.to_vec()).collect();
        let mut at = from;
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    at = self.parent(path, &at)?;
                    continue;
                }
                _ => {}
            }
            match open_dir(&at.fd, &name) {
                Ok(fd) => at = self.entered(path, &at, &name, fd, make)?,
                Err(Errno::NOENT) if !make => return Ok(None),
                Err(Errno::NOENT) => at = self.implied(path, &at, &name)?,
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let there = look(&at.fd, &name)
                        .map_err(|error| LayerError::io(path, "look at its path", error))?;
                    if there.is_some_and(|stat| kind(&stat) == FileType::Symlink) {
                        links += 1;
                        if links > MAX_LINKS {
                            return Err(LayerError::refused(path, "too many symbolic links on its path"));
                        }
                        let target = fs::readlinkat(&at.fd, os(&name), Vec::new())
                            .map_err(|error| LayerError::io(path, "read a symbolic link on its path", error))?
                            .into_bytes();
                        if target.starts_with(b"/") {
                            at = Rc::clone(&self.root);
                        }
                        for part in target.split(|b| *b == b'/').rev() {
                            todo.push_front(part.to_vec());
                        }
                    } else if make {
                        self.clear(path, &at, &name)?;
                        at = self.implied(path, &at, &name)?;
                        self.detach(&at.path.clone());
                    } else {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(LayerError::io(path, "open a directory on its path", error)),
            }
        }
        Ok(Some(at))
    }

    /// `..` never leaves the root.
    fn parent(&self, path: &[u8], of: &Rc<Dir>) -> Result<Rc<Dir>, LayerError> {
        let Some(slash) = of.path.iter().rposition(|b| *b == b'/') else { return Ok(Rc::clone(&self.root)) };
        let up = &of.path[..slash];
        let flags = fs::OFlags::PATH | fs::OFlags::DIRECTORY | fs::OFlags::NOFOLLOW;
        let fd = open_beneath(&self.root.fd, up, flags)
            .map_err(|error| LayerError::io(path, "open a directory on its path", error))?;
        let inherits = self.way == Way::Onto;
        Ok(Rc::new(Dir { fd, path: up.to_vec(), inherits }))
    }

    /// A directory that is there.
    fn entered(
        &mut self,
        path: &[u8],
        at: &Rc<Dir>,
        name: &[u8],
        fd: OwnedFd,
        make: bool,
    ) -> Result<Rc<Dir>, LayerError> {
        let dir = Dir { fd, path: at.join(name), inherits: self.way == Way::Onto };
        if make && self.way == Way::Onto && !self.books.dirs.contains_key(&dir.path) {
            let stat =
                fs::fstat(&dir.fd).map_err(|error| LayerError::io(path, "look at its directory", error))?;
            self.books.set(dir.path.clone(), DirState::touched(mtime(&stat)))?;
        }
        Ok(Rc::new(dir))
    }

    /// A directory that only the path of an entry tells of.
    fn implied(&mut self, path: &[u8], at: &Rc<Dir>, name: &[u8]) -> Result<Rc<Dir>, LayerError> {
        // The target of a link on the path may be as long as it likes.
        if at.path.split(|byte| *byte == b'/').count() >= self.limits.max_depth
            || at.path.len() + name.len() >= self.limits.max_path
        {
            return Err(LayerError::refused(path, "a directory on its path is too deep"));
        }
        self.books.count()?;
        fs::mkdirat(&at.fd, os(name), Mode::from_raw_mode(0o755))
            .map_err(|error| LayerError::io(path, "make a directory on its path", error))?;
        let fd = open_dir(&at.fd, name)
            .map_err(|error| LayerError::io(path, "open a directory on its path", error))?;
        let dir = Dir { fd, path: at.join(name), inherits: self.way == Way::Onto };
        self.books.set(dir.path.clone(), DirState::made())?;
        if self.way == Way::Apart {
            self.books.imply(dir.path.clone())?;
        }
        Ok(Rc::new(dir))
    }

    /// The directory at `path` took the place of something of this layer, so nothing of lower layers shows in it.
    pub(super) fn detach(&mut self, path: &[u8]) {
        if let Some(state) = self.books.dirs.get_mut(path) {
            state.detached = true;
            state.opaque = true;
        }
    }
}
