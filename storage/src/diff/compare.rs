//! Two trees side by side.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{FileType, OFlags, Stat};

use super::{ChangeKind, DiffError, Trees, attributes, gone, is_left_out, join, open_file, split_last};
use crate::layer::{Attributes, UnpackLimits, kind, look, names, open_beneath, read_dir_beneath, stat};

/// What a change is in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// An entry.
    Write,
    /// A whiteout.
    Whiteout,
    /// Nothing: an opaque directory says it.
    Implied,
    /// Nothing: no archive can hold it.
    Omit,
}

/// One change. The root has the empty path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: ChangeKind,
    pub(crate) action: Action,
    /// A directory of which nothing of the lower one is left.
    pub(crate) opaque: bool,
}

/// All changes from `trees.parent` to `trees.top`, by the bytes of their paths. Directories on the way to a change are
/// changes too.
///
/// `stubs` are places to mount on that were made for whoever runs in it. Where such a place was added and is an empty file
/// or directory, it is no change, and neither are directories that were added only to hold it.
pub(crate) fn compare(
    trees: &Trees,
    stubs: &[PathBuf],
    limits: &UnpackLimits,
) -> Result<Vec<Item>, DiffError> {
    let mut walk = Walk::new(trees, trees.upper.as_ref(), limits);
    walk.run()?;
    // A linked file that was copied and is equal may have lost a name that was not looked at.
    if trees.upper.is_some() && walk.links.some_unseen() {
        walk = Walk::new(trees, None, limits);
        walk.run()?;
    }
    walk.broken_links();
    walk.forget_stubs(stubs)?;
    walk.parents();
    Ok(walk
        .items
        .into_iter()
        .map(|(path, (kind, action, opaque))| Item { path, kind, action, opaque })
        .collect())
}

struct Walk<'a> {
    trees: &'a Trees,
    upper: Option<&'a OwnedFd>,
    limits: &'a UnpackLimits,
    items: BTreeMap<Vec<u8>, (ChangeKind, Action, bool)>,
    links: Links,
    /// Directories to look into; whether the parent has them too. No descriptor is held on the way.
    todo: Vec<(Vec<u8>, bool)>,
}

/// Device and inode number: on btrfs a tree may have further subvolumes in it, each with numbers of its own.
type File = (u64, u64);

fn file(stat: &Stat) -> File {
    (stat.st_dev, stat.st_ino)
}

/// Whether a file of one snapshot is what it is in the other, its names aside.
fn untouched(one: &Stat, two: &Stat) -> bool {
    let of = |stat: &Stat| (stat.st_ino, stat.st_ctime, stat.st_ctime_nsec);
    of(one) == of(two) && equal_stats(one, two)
}

/// Files with several names.
#[derive(Default)]
struct Links {
    top: HashMap<File, Vec<Vec<u8>>>,
    lower: HashMap<File, Vec<Vec<u8>>>,
    /// Names whose files are equal, but are not the same file: the file in the top, in the parent, and how many names
    /// it has there.
    equal: BTreeMap<Vec<u8>, (File, File, u64)>,
}

impl Links {
    fn some_unseen(&self) -> bool {
        self.equal.values().any(|(_, there, links)| {
            let seen = self.lower.get(there).map_or(1, Vec::len);
            u64::try_from(seen).is_ok_and(|seen| seen < *links)
        })
    }
}

impl<'a> Walk<'a> {
    fn new(trees: &'a Trees, upper: Option<&'a OwnedFd>, limits: &'a UnpackLimits) -> Self {
        let (items, links, todo) = (BTreeMap::new(), Links::default(), Vec::new());
        Self { trees, upper, limits, items, links, todo }
    }

    fn run(&mut self) -> Result<(), DiffError> {
        self.root()?;
        while let Some((path, both)) = self.todo.pop() {
            self.directory(&path, both)?;
        }
        Ok(())
    }

    fn note(&mut self, path: Vec<u8>, kind: ChangeKind, action: Action) -> Result<(), DiffError> {
        self.items.insert(path, (kind, action, false));
        let max = self.limits.max_entries;
        match u64::try_from(self.items.len()) {
            Ok(found) if found <= max => Ok(()),
            _ => Err(DiffError::Limit { what: "entries", limit: max }),
        }
    }

    fn root(&mut self) -> Result<(), DiffError> {
        let top = self.open(&self.trees.top, b"")?;
        let lower = match &self.trees.parent {
            Some(parent) => self.open(parent, b"")?,
            None => None,
        };
        let changed = match (&top, &lower) {
            (Some(top), Some(lower)) => !self.equal_dirs(b"", top, lower)?,
            _ => true,
        };
        if changed {
            self.note(Vec::new(), ChangeKind::Modified, Action::Write)?;
        }
        self.todo.push((Vec::new(), lower.is_some()));
        Ok(())
    }

    fn open(&self, tree: &OwnedFd, path: &[u8]) -> Result<Option<OwnedFd>, DiffError> {
        gone(read_dir_beneath(tree, path), path)
    }

    fn directory(&mut self, path: &[u8], both: bool) -> Result<(), DiffError> {
        let depth = path.iter().filter(|byte| **byte == b'/').count();
        if path.len() > self.limits.max_path || depth >= self.limits.max_depth {
            return Err(DiffError::refused(path, "it is too deep, or its path too long"));
        }
        let Some(top) = self.open(&self.trees.top, path)? else { return Ok(()) };
        let lower = match &self.trees.parent {
            Some(parent) if both => self.open(parent, path)?,
            _ => None,
        };
        let list = |dir: &OwnedFd| {
            names(dir).map_err(|error| DiffError::read(path, error)).map(|names| names.into_iter().collect())
        };
        let here: BTreeSet<_> = list(&top)?;
        let below: BTreeSet<_> = lower.as_ref().map(list).transpose()?.unwrap_or_default();
        // Where nothing of the lower directory is left, one mark says what many whiteouts would. overlayfs has no opaque
        // root.
        let opaque = !path.is_empty() && below.len() > 1 && here.is_disjoint(&below);
        for name in below.difference(&here) {
            let action = if opaque { Action::Implied } else { Action::Whiteout };
            self.note(join(path, name.to_bytes()), ChangeKind::Deleted, action)?;
        }
        for name in &here {
            let name = name.to_bytes();
            let full = join(path, name);
            let Some(stat) = gone(stat(&top, name), &full)? else { continue };
            let there = match &lower {
                Some(lower) => look(lower, name).map_err(|error| DiffError::read(&full, error))?,
                None => None,
            };
            self.entry(full, &stat, there.as_ref(), &top, lower.as_ref())?;
        }
        if opaque {
            let state = (ChangeKind::Modified, Action::Write, false);
            self.items.entry(path.to_vec()).or_insert(state).2 = true;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        full: Vec<u8>,
        stat: &Stat,
        there: Option<&Stat>,
        top: &OwnedFd,
        lower: Option<&OwnedFd>,
    ) -> Result<(), DiffError> {
        let name = split_last(&full).1.to_vec();
        let is_dir = kind(stat) == FileType::Directory;
        if !is_dir && stat.st_nlink > 1 && !is_left_out(stat) {
            self.links.top.entry(file(stat)).or_default().push(full.clone());
        }
        let (Some(there), Some(lower)) = (there, lower) else {
            if is_dir {
                self.todo.push((full.clone(), false));
            }
            let action = if is_left_out(stat) { Action::Omit } else { Action::Write };
            return self.note(full, ChangeKind::Added, action);
        };
        let was_dir = kind(there) == FileType::Directory;
        if !was_dir && there.st_nlink > 1 {
            self.links.lower.entry(file(there)).or_default().push(full.clone());
        }
        if is_dir && was_dir {
            // What the driver says is untouched need not be looked at.
            if let Some(upper) = self.upper
                && gone(open_beneath(upper, &full, OFlags::PATH | OFlags::NOFOLLOW), &full)?.is_none()
            {
                return Ok(());
            }
            self.todo.push((full.clone(), true));
            let (one, two) = (self.open(&self.trees.top, &full)?, read_dir_beneath(lower, &name));
            let two = two.map_err(|error| DiffError::read(&full, error))?;
            return match one {
                Some(one) if !self.equal_dirs(&full, &one, &two)? => {
                    self.note(full, ChangeKind::Modified, Action::Write)
                }
                _ => Ok(()),
            };
        }
        if is_dir {
            self.todo.push((full.clone(), false));
            return self.note(full, ChangeKind::Modified, Action::Write);
        }
        let same = self.trees.same_files && stat.st_ino == there.st_ino;
        if same {
            return Ok(());
        }
        let untouched = self.trees.snapshots && untouched(stat, there);
        if untouched || self.equal_files(&full, &name, (stat, top), (there, lower))? {
            if stat.st_nlink > 1 || there.st_nlink > 1 {
                self.links.equal.insert(full, (file(stat), file(there), there.st_nlink));
            }
            return Ok(());
        }
        // A socket in a file's place: in the image the file is gone.
        let action = if is_left_out(stat) { Action::Whiteout } else { Action::Write };
        self.note(full, ChangeKind::Modified, action)
    }

    fn equal_dirs(&self, path: &[u8], top: &OwnedFd, lower: &OwnedFd) -> Result<bool, DiffError> {
        let io = |error| DiffError::read(path, error);
        let (one, two) = (stat(top, b"").map_err(io)?, stat(lower, b"").map_err(io)?);
        Ok(equal_stats(&one, &two)
            && attributes(&Attributes::of_fd(top)).map_err(io)?
                == attributes(&Attributes::of_fd(lower)).map_err(io)?)
    }

    fn equal_files(
        &self,
        path: &[u8],
        name: &[u8],
        (stat, top): (&Stat, &OwnedFd),
        (there, lower): (&Stat, &OwnedFd),
    ) -> Result<bool, DiffError> {
        if !equal_stats(stat, there) {
            return Ok(false);
        }
        let of = |dir: &OwnedFd| Attributes::of_name(dir, name).and_then(|place| attributes(&place));
        let Some(one) = gone(of(top), path)? else { return Ok(false) };
        if one != of(lower).map_err(|error| DiffError::read(path, error))? {
            return Ok(false);
        }
        let link = |dir: &OwnedFd| rustix::fs::readlinkat(dir, name, Vec::new());
        match kind(stat) {
            FileType::Symlink => {
                let two = link(lower).map_err(|error| DiffError::read(path, error))?;
                Ok(gone(link(top), path)?.is_some_and(|one| one == two))
            }
            FileType::RegularFile if stat.st_size > 0 => {
                let Some(one) = gone(open_file(top, name), path)? else { return Ok(false) };
                let two = open_file(lower, name).map_err(|error| DiffError::read(path, error))?;
                equal_content(&one, &two).map_err(|error| DiffError::read(path, error))
            }
            _ => Ok(true),
        }
    }

    /// A link that is there in one tree only is a change of all names of its file.
    fn broken_links(&mut self) {
        let Links { top, lower, equal } = std::mem::take(&mut self.links);
        let mut write: Vec<&Vec<u8>> = Vec::new();
        let mut changed: HashSet<File> = HashSet::new();
        for (inode, all) in &top {
            if all.iter().any(|path| self.items.contains_key(path)) {
                changed.insert(*inode);
                write.extend(all);
            }
        }
        let alone = |path: &Vec<u8>| vec![path.clone()];
        for (path, (inode, there, _)) in &equal {
            if changed.contains(inode) {
                continue;
            }
            let mut mine = top.get(inode).cloned().unwrap_or_else(|| alone(path));
            let all = lower.get(there).cloned().unwrap_or_else(|| alone(path));
            let unchanged =
                |path: &Vec<u8>| equal.get(path).is_some_and(|(inode, _, _)| !changed.contains(inode));
            let mut theirs: Vec<_> = all.into_iter().filter(|path| unchanged(path)).collect();
            mine.sort();
            theirs.sort();
            if mine != theirs {
                write.extend(top.get(inode).into_iter().flatten().chain([path]));
            }
        }
        for path in write {
            let state = (ChangeKind::Modified, Action::Write, false);
            self.items.entry(path.clone()).or_insert(state);
        }
    }

    fn forget_stubs(&mut self, stubs: &[PathBuf]) -> Result<(), DiffError> {
        let bytes = |path: &PathBuf| path.as_os_str().as_bytes().to_vec();
        let clean = |path: Vec<u8>| {
            let parts = path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
            parts.collect::<Vec<_>>().join(&b'/')
        };
        let stubs: BTreeSet<Vec<u8>> = stubs.iter().map(|path| clean(bytes(path))).collect();
        for stub in stubs.iter().rev() {
            let mut path = stub.as_slice();
            while !path.is_empty() {
                let below = [path, b"/"].concat();
                let added = matches!(self.items.get(path), Some((ChangeKind::Added, Action::Write, _)));
                let holds = self
                    .items
                    .range(below.clone()..)
                    .next()
                    .is_some_and(|(inner, _)| inner.starts_with(&below));
                if !added || holds || !self.is_empty(path, path == stub.as_slice())? {
                    break;
                }
                self.items.remove(path);
                path = split_last(path).0;
            }
        }
        Ok(())
    }

    /// Whether a directory, or where it may be one a file, has nothing in it.
    fn is_empty(&self, path: &[u8], or_file: bool) -> Result<bool, DiffError> {
        let (dir, name) = split_last(path);
        let Some(dir) = self.open(&self.trees.top, dir)? else { return Ok(false) };
        let Some(stat) = gone(stat(&dir, name), path)? else { return Ok(false) };
        // What a directory holds is among the changes, as it was added itself.
        Ok(match kind(&stat) {
            FileType::Directory => true,
            FileType::RegularFile => or_file && stat.st_size == 0,
            _ => false,
        })
    }

    fn parents(&mut self) {
        let paths: Vec<Vec<u8>> = self.items.keys().cloned().collect();
        for path in paths {
            let mut up = split_last(&path).0;
            while !up.is_empty() && !self.items.contains_key(up) {
                self.items.insert(up.to_vec(), (ChangeKind::Modified, Action::Write, false));
                up = split_last(up).0;
            }
        }
    }
}

/// Whether the root directories differ in nothing but their time of modification.
pub(crate) fn same_root_but_time(trees: &Trees) -> Result<bool, DiffError> {
    let io = |error| DiffError::read(b"", error);
    let Some(parent) = &trees.parent else { return Ok(false) };
    let (top, parent) =
        (read_dir_beneath(&trees.top, b"").map_err(io)?, read_dir_beneath(parent, b"").map_err(io)?);
    let (one, mut two) = (stat(&top, b"").map_err(io)?, stat(&parent, b"").map_err(io)?);
    (two.st_mtime, two.st_mtime_nsec) = (one.st_mtime, one.st_mtime_nsec);
    Ok(equal_stats(&one, &two)
        && attributes(&Attributes::of_fd(&top)).map_err(io)?
            == attributes(&Attributes::of_fd(&parent)).map_err(io)?)
}

/// All but content and attributes. A directory's size is a matter of its filesystem.
fn equal_stats(one: &Stat, two: &Stat) -> bool {
    let size = |stat: &Stat| if kind(stat) == FileType::Directory { 0 } else { stat.st_size };
    let device = |stat: &Stat| match kind(stat) {
        FileType::CharacterDevice | FileType::BlockDevice => stat.st_rdev,
        _ => 0,
    };
    (one.st_mode, one.st_uid, one.st_gid, one.st_mtime, one.st_mtime_nsec, size(one), device(one))
        == (two.st_mode, two.st_uid, two.st_gid, two.st_mtime, two.st_mtime_nsec, size(two), device(two))
}

fn equal_content(one: &OwnedFd, two: &OwnedFd) -> Result<bool, rustix::io::Errno> {
    let (mut left, mut right) = (vec![0u8; 128 << 10], vec![0u8; 128 << 10]);
    let mut offset = 0u64;
    loop {
        let read = rustix::io::pread(one, &mut left, offset)?;
        if read == 0 {
            // As long as the other, as was seen.
            return Ok(rustix::io::pread(two, &mut right[..1], offset)? == 0);
        }
        let mut got = 0;
        while got < read {
            let at = offset + u64::try_from(got).unwrap_or(0);
            match rustix::io::pread(two, &mut right[got..read], at)? {
                0 => return Ok(false),
                more => got += more,
            }
        }
        if left[..read] != right[..read] {
            return Ok(false);
        }
        offset += u64::try_from(read).unwrap_or(0);
    }
}
