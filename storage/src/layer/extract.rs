//! Entries of a layer, made into a tree.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::books::{Books, DirState, Origin};
use super::dropped::together;
use super::fs::{is_whiteout, kind, look, names, open_dir, os, read_dir_beneath, stamps};
use super::meta::Meta;
use super::path::{Leaf, components, split};
use super::remove::remove_all;
use super::resolve::Dir;
use super::stream::Stream;
use super::tar::{Entry, Kind, Reader, Segment, Source};
use super::{LayerError, UnpackLimits};

const NO_TARGET: &str = "its hard link target is not there";

/// How a layer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Over a tree that has the parent's content; whiteouts remove.
    Onto,
    /// Into an empty directory; whiteouts become overlayfs's own.
    Apart,
}

/// A layer that was unpacked apart, or why it cannot be.
#[derive(Debug)]
pub(crate) enum Apart {
    /// Unpacked; [`finish`](super::finish::finish) does the rest.
    Done(Unfinished),
    /// It does not make sense without its parent (most often it links to a file of it): it has to be read again, onto it.
    NeedsParent,
}

/// What only the parent can tell about an unpacked layer.
#[derive(Debug)]
pub(crate) struct Unfinished {
    pub(super) dirs: BTreeMap<Vec<u8>, DirState>,
    pub(super) whiteouts: BTreeSet<Vec<u8>>,
    pub(super) implied: BTreeSet<Vec<u8>>,
}

pub(super) struct Extractor<'a> {
    pub(super) root: Rc<Dir>,
    pub(super) way: Way,
    pub(super) limits: &'a UnpackLimits,
    pub(super) books: Books<'a>,
    pub(super) cache: HashMap<Vec<u8>, Rc<Dir>>,
    /// Onto only: hashes of the paths of what this layer made; its whiteouts do not reach them (OCI image
    /// specification, layer.md: whiteouts apply to lower layers only).
    own: HashSet<u64>,
    hasher: RandomState,
    needs_parent: bool,
}

/// Unpacks `stream` over the tree at `root`. `empty` says that there is no parent. The whole stream is verified.
pub(crate) fn apply_onto(
    root: OwnedFd,
    empty: bool,
    mut stream: Stream,
    limits: &UnpackLimits,
) -> Result<(), LayerError> {
    let state = if empty {
        DirState::made()
    } else {
        let stat =
            fs::fstat(&root).map_err(|error| LayerError::io(b"", "look at the root directory", error))?;
        DirState::touched(super::fs::mtime(&stat))
    };
    let mut extractor = Extractor::new(root, Way::Onto, state, limits);
    together(|| {
        extractor.run(&mut stream)?;
        stream.verify()?;
        extractor.settle()
    })
}

/// Unpacks `stream` into the empty directory `root`. The whole stream is verified, unless the parent is needed.
pub(crate) fn apply_apart(
    root: OwnedFd,
    mut stream: Stream,
    limits: &UnpackLimits,
) -> Result<Apart, LayerError> {
    let mut extractor = Extractor::new(root, Way::Apart, DirState::made(), limits);
    let done = together(|| {
        extractor.run(&mut stream)?;
        if extractor.needs_parent {
            return Ok(false);
        }
        stream.verify()?;
        extractor.settle().map(|()| true)
    })?;
    if !done {
        return Ok(Apart::NeedsParent);
    }
    let Books { dirs, whiteouts, implied, .. } = extractor.books;
    Ok(Apart::Done(Unfinished { dirs, whiteouts, implied }))
}

impl<'a> Extractor<'a> {
    pub(super) fn new(root: OwnedFd, way: Way, state: DirState, limits: &'a UnpackLimits) -> Self {
        Self {
            root: Rc::new(Dir { fd: root, path: Vec::new(), inherits: way == Way::Onto }),
            way,
            limits,
            books: Books::new(state, limits),
            cache: HashMap::new(),
            own: HashSet::new(),
            hasher: RandomState::new(),
            needs_parent: false,
        }
    }

    pub(super) fn run<S: Source>(&mut self, source: &mut S) -> Result<(), LayerError> {
        let mut reader = Reader::new(source, self.limits);
        let mut bytes = 0u64;
        while let Some(entry) = reader.next()? {
            self.books.count()?;
            // Holes count too: they cost nothing here and everything to whoever copies the file.
            bytes = bytes.saturating_add(entry.size);
            if bytes > self.limits.max_bytes {
                return Err(LayerError::Limit { what: "bytes in files", limit: self.limits.max_bytes });
            }
            match self.entry(&entry, &mut reader) {
                // What is wrong here may be right where the parent is: a directory that was implied may be a link there, and
                // a link's target only be there. The second reading, onto the parent, has the last word.
                Err(LayerError::Refused { .. }) if self.way == Way::Apart => {
                    self.needs_parent = true;
                    return Ok(());
                }
                done => done?,
            }
        }
        Ok(())
    }

    fn entry<S: Source>(&mut self, entry: &Entry, reader: &mut Reader<'_, S>) -> Result<(), LayerError> {
        let path = entry.path.as_slice();
        let parts = components(path, self.limits)?;
        let (parent, leaf) = split(path, &parts)?;
        match leaf {
            Leaf::Root if entry.kind == Kind::Directory => self.books.describe(Vec::new(), Meta::of(entry)?),
            Leaf::Root => Err(LayerError::refused(path, "the root can only be a directory")),
            Leaf::Aufs => Ok(()),
            Leaf::Whiteout(_) | Leaf::Opaque if !matches!(entry.kind, Kind::Regular | Kind::Hardlink(_)) => {
                Err(LayerError::refused(path, "a whiteout is a regular file"))
            }
            Leaf::Whiteout(name) => {
                let dir = self.directory(path, parent)?;
                self.whiteout(path, &dir, name)
            }
            Leaf::Opaque => {
                let dir = self.directory(path, parent)?;
                self.opaque(path, &dir)
            }
            Leaf::Name(name) => {
                let dir = self.directory(path, parent)?;
                self.make(entry, &dir, name, reader)
            }
        }
    }

    fn make<S: Source>(
        &mut self,
        entry: &Entry,
        dir: &Rc<Dir>,
        name: &[u8],
        reader: &mut Reader<'_, S>,
    ) -> Result<(), LayerError> {
        let path = entry.path.as_slice();
        let meta = Meta::of(entry)?;
        match &entry.kind {
            Kind::Directory => return self.make_dir(path, dir, name, meta),
            Kind::Hardlink(target) => return self.make_hardlink(path, dir, name, target),
            Kind::Regular => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = self.fresh(path, dir, name, "make the file", || {
                    fs::openat(&dir.fd, os(name), flags, meta.mode())
                })?;
                write(path, &file, entry.size, entry.sparse.as_deref(), reader)?;
                self.disinherit(path, dir, &super::Attributes::of_fd(&file))?;
                meta.apply_file(path, &file, !dir.inherits)?;
            }
            Kind::Symlink(target) => {
                if target.contains(&0) {
                    return Err(LayerError::refused(path, "its link target contains a NUL byte"));
                }
                self.fresh(path, dir, name, "make the symbolic link", || {
                    fs::symlinkat(os(target), &dir.fd, os(name))
                })?;
                meta.apply_node(path, &dir.fd, name, true)?;
            }
            Kind::Char(major, minor) | Kind::Block(major, minor) => {
                let char = matches!(entry.kind, Kind::Char(..));
                if char && (*major, *minor) == (0, 0) {
                    return Err(LayerError::refused(path, "the device 0:0 is overlayfs's own whiteout"));
                }
                let kind = if char { FileType::CharacterDevice } else { FileType::BlockDevice };
                self.node(path, dir, name, kind, &meta, fs::makedev(*major, *minor))?;
            }
            Kind::Fifo => self.node(path, dir, name, FileType::Fifo, &meta, 0)?,
        }
        self.owns(&dir.join(name));
        Ok(())
    }

    fn node(
        &mut self,
        path: &[u8],
        dir: &Rc<Dir>,
        name: &[u8],
        kind: FileType,
        meta: &Meta,
        device: fs::Dev,
    ) -> Result<(), LayerError> {
        self.fresh(path, dir, name, "make the node", || {
            fs::mknodat(&dir.fd, os(name), kind, meta.mode(), device)
        })?;
        let attributes = super::Attributes::of_name(&dir.fd, name)
            .map_err(|error| LayerError::io(path, "name the entry", error))?;
        self.disinherit(path, dir, &attributes)?;
        meta.apply_node(path, &dir.fd, name, false)
    }

    /// Takes off an access control list that came from the directory's default one.
    fn disinherit(
        &self,
        path: &[u8],
        dir: &Rc<Dir>,
        attributes: &super::Attributes<'_>,
    ) -> Result<(), LayerError> {
        if !dir.inherits {
            return Ok(());
        }
        attributes
            .remove(c"system.posix_acl_access")
            .map_err(|error| LayerError::io(path, "remove an inherited access control list", error))
    }

    /// Makes something new; what is in its place goes first.
    fn fresh<T>(
        &mut self,
        path: &[u8],
        dir: &Rc<Dir>,
        name: &[u8],
        action: &'static str,
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, LayerError> {
        match make() {
            Err(Errno::EXIST) => {
                self.clear(path, dir, name)?;
                make()
            }
            made => made,
        }
        .map_err(|error| LayerError::io(path, action, error))
    }

    fn make_dir(&mut self, path: &[u8], dir: &Rc<Dir>, name: &[u8], meta: Meta) -> Result<(), LayerError> {
        let full = dir.join(name);
        let mode = Mode::from_raw_mode(meta.mode & 0o777);
        let make = || fs::mkdirat(&dir.fd, os(name), mode);
        let mut replaced = false;
        match make() {
            Err(Errno::EXIST) => {
                let there = look(&dir.fd, name).map_err(|error| LayerError::io(path, "look at it", error))?;
                if !there.is_some_and(|stat| kind(&stat) == FileType::Directory) {
                    self.clear(path, dir, name)?;
                    make().map_err(|error| LayerError::io(path, "make the directory", error))?;
                    replaced = true;
                } else if self.way == Way::Apart {
                    // It was made with another mode.
                    let fd = open_dir(&dir.fd, name);
                    fd.and_then(|_| fs::chmodat(&dir.fd, os(name), mode, AtFlags::empty()))
                        .map_err(|error| LayerError::io(path, "set the mode", error))?;
                }
            }
            made => made.map_err(|error| LayerError::io(path, "make the directory", error))?,
        }
        self.books.describe(full.clone(), meta)?;
        if replaced {
            self.detach(&full);
        }
        Ok(())
    }

    fn make_hardlink(
        &mut self,
        path: &[u8],
        dir: &Rc<Dir>,
        name: &[u8],
        target: &[u8],
    ) -> Result<(), LayerError> {
        let parts = components(target, self.limits)?;
        let (parent, leaf) = split(target, &parts)?;
        let Leaf::Name(target_name) = leaf else {
            return Err(LayerError::refused(path, "a hard link to something that cannot have one"));
        };
        let Some(target_dir) = self.existing(path, parent)? else {
            return Err(LayerError::refused(path, NO_TARGET));
        };
        let there = look(&target_dir.fd, target_name)
            .map_err(|error| LayerError::io(path, "look at its target", error))?;
        match there {
            None => return Err(LayerError::refused(path, NO_TARGET)),
            Some(stat) if self.way == Way::Apart && is_whiteout(&stat) => {
                return Err(LayerError::refused(path, NO_TARGET));
            }
            Some(stat) if kind(&stat) == FileType::Directory => {
                return Err(LayerError::refused(path, "a hard link to a directory"));
            }
            Some(_) => {}
        }
        let full = dir.join(name);
        if full == target_dir.join(target_name) {
            return Ok(());
        }
        let link = || fs::linkat(&target_dir.fd, os(target_name), &dir.fd, os(name), AtFlags::empty());
        self.fresh(path, dir, name, "make the hard link", link)?;
        self.owns(&full);
        Ok(())
    }

    /// Removes what is at `name`, whatever it is, and forgets what was known of it.
    pub(super) fn clear(&mut self, path: &[u8], dir: &Rc<Dir>, name: &[u8]) -> Result<(), LayerError> {
        let full = dir.join(name);
        let there =
            look(&dir.fd, name).map_err(|error| LayerError::io(path, "look at what it replaces", error))?;
        match there.as_ref().map(kind) {
            None => return Ok(()),
            Some(FileType::Directory) => {
                self.books.forget(&full);
                self.cache.clear();
            }
            Some(FileType::Symlink) => self.cache.clear(),
            Some(_) => {}
        }
        self.books.unmark(&full);
        remove_all(&dir.fd, name).map_err(|error| LayerError::io(path, "remove what it replaces", error))
    }

    fn owns(&mut self, full: &[u8]) {
        if self.way == Way::Onto {
            self.own.insert(self.hasher.hash_one(full));
        }
    }

    fn whiteout(&mut self, path: &[u8], dir: &Rc<Dir>, name: &[u8]) -> Result<(), LayerError> {
        let full = dir.join(name);
        let there =
            look(&dir.fd, name).map_err(|error| LayerError::io(path, "look at what it hides", error))?;
        let is_dir = there.as_ref().is_some_and(|stat| kind(stat) == FileType::Directory);
        match (self.way, there) {
            (Way::Apart, None) => {
                fs::mknodat(&dir.fd, os(name), FileType::CharacterDevice, Mode::empty(), 0)
                    .map_err(|error| LayerError::io(path, "make a whiteout", error))?;
                self.books.whiteout(full)?;
            }
            (Way::Apart, Some(_)) if is_dir => self.detach(&full),
            // A file of this layer hides what is below it anyway.
            (Way::Apart, Some(_)) | (Way::Onto, None) => {}
            (Way::Onto, Some(_)) => {
                self.remove_lower(path, &dir.fd, name, &full)?;
            }
        }
        Ok(())
    }

    fn opaque(&mut self, path: &[u8], dir: &Rc<Dir>) -> Result<(), LayerError> {
        match self.way {
            Way::Apart => {
                if let Some(state) = self.books.dirs.get_mut(&dir.path) {
                    state.opaque = true;
                }
                Ok(())
            }
            Way::Onto => self.empty_lower(path, &dir.fd, &dir.path),
        }
    }

    /// Removes `name`, as far as this layer did not make it.
    fn remove_lower(
        &mut self,
        path: &[u8],
        dir: &OwnedFd,
        name: &[u8],
        full: &[u8],
    ) -> Result<(), LayerError> {
        let io = |error| LayerError::io(path, "remove what it hides", error);
        let stat = super::fs::stat(dir, name).map_err(io)?;
        if kind(&stat) != FileType::Directory {
            if !self.own.contains(&self.hasher.hash_one(full)) {
                if kind(&stat) == FileType::Symlink {
                    self.cache.clear();
                }
                fs::unlinkat(dir, os(name), AtFlags::empty()).map_err(io)?;
            }
            return Ok(());
        }
        // A directory that this layer goes through stays, but has nothing from below any more.
        match self.books.dirs.get_mut(full) {
            Some(state) => {
                if let Origin::Touched(_) = state.origin {
                    state.origin = Origin::Made;
                }
                let inner = open_dir(dir, name).map_err(io)?;
                self.empty_lower(path, &inner, full)
            }
            None => {
                self.cache.clear();
                remove_all(dir, name).map_err(io)
            }
        }
    }

    fn empty_lower(&mut self, path: &[u8], dir: &OwnedFd, full: &[u8]) -> Result<(), LayerError> {
        let io = |error| LayerError::io(path, "list what it hides", error);
        let listing =
            fs::openat(dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .and_then(|fd| names(&fd))
                .map_err(io)?;
        for name in listing {
            let name = name.to_bytes();
            let inner = if full.is_empty() { name.to_vec() } else { [full, b"/", name].concat() };
            self.remove_lower(path, dir, name, &inner)?;
        }
        Ok(())
    }

    /// Gives directories what could not stay right while things were made in them.
    fn settle(&mut self) -> Result<(), LayerError> {
        self.cache.clear();
        for (path, state) in self.books.dirs.iter().rev() {
            let io = |action| move |error: Errno| LayerError::io(path, action, error);
            let apart = self.way == Way::Apart;
            let plain = Meta::default();
            let meta = match &state.origin {
                Origin::Explicit(meta) => meta,
                // Only the parent can tell.
                Origin::Made if apart && !state.opaque => continue,
                Origin::Made => &plain,
                Origin::Touched(time) => {
                    let dir = read_dir_beneath(&self.root.fd, path).map_err(io("open the directory"))?;
                    fs::futimens(&dir, &stamps(*time)).map_err(io("set the times"))?;
                    continue;
                }
            };
            let dir = read_dir_beneath(&self.root.fd, path).map_err(io("open the directory"))?;
            if apart && state.opaque {
                super::Attributes::of_fd(&dir)
                    .set(c"trusted.overlay.opaque", b"y")
                    .map_err(io("mark the directory opaque"))?;
            }
            meta.apply_dir(path, &dir, !apart || path.is_empty())?;
        }
        Ok(())
    }
}

/// The entry's data into a new file.
fn write<S: Source>(
    path: &[u8],
    file: &OwnedFd,
    size: u64,
    sparse: Option<&[Segment]>,
    reader: &mut Reader<'_, S>,
) -> Result<(), LayerError> {
    let io = |error| LayerError::io(path, "write the file", error);
    let Some(segments) = sparse else {
        loop {
            let piece = reader.data()?;
            if piece.is_empty() {
                return Ok(());
            }
            let written = rustix::io::write(file, piece).map_err(io)?;
            reader.used(written);
        }
    };
    fs::ftruncate(file, size).map_err(io)?;
    for segment in segments {
        let mut done = 0u64;
        while done < segment.length {
            let piece = reader.data()?;
            let take =
                usize::try_from(segment.length - done).map_or(piece.len(), |left| left.min(piece.len()));
            let written = rustix::io::pwrite(file, &piece[..take], segment.offset + done).map_err(io)?;
            reader.used(written);
            done += u64::try_from(written).unwrap_or(u64::MAX);
        }
    }
    Ok(())
}
