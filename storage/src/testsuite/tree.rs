//! Everything that can be seen of a tree, in a form that compares.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode, OFlags};

use crate::digest::Digest;
use crate::layer::{Attributes, kind, names, stat};

/// One thing of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Type and permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Seconds and nanoseconds.
    pub mtime: (i64, u64),
    /// All but overlayfs's own.
    pub xattrs: Vec<(String, Vec<u8>)>,
    /// The digest of a file's content and its size, or a link's target.
    pub content: String,
    /// Of a device.
    pub device: u64,
    /// The first name of the same file.
    pub link: String,
}

/// By path.
pub type Tree = BTreeMap<String, Node>;

/// All that is below `root`, and `root` itself as the empty path.
///
/// # Panics
/// When something cannot be read: this is for tests.
pub fn tree(root: &OwnedFd) -> Tree {
    let mut out = Tree::new();
    let mut first = HashMap::new();
    let top = open(root, ".");
    out.insert(String::new(), node(&top, b"", String::new(), &mut first));
    level(&top, "", &mut out, &mut first);
    out
}

fn open(dir: &OwnedFd, name: &str) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty()).unwrap()
}

fn level(dir: &OwnedFd, path: &str, out: &mut Tree, first: &mut HashMap<u64, String>) {
    let mut names = names(dir).unwrap();
    names.sort();
    for name in names {
        // Names need not be text, and must not become the same when shown.
        let shown = String::from_utf8(name.to_bytes().to_vec())
            .unwrap_or_else(|_| format!("bytes:{}", name.to_bytes().escape_ascii()));
        let full = if path.is_empty() { shown } else { format!("{path}/{shown}") };
        let seen = node(dir, name.to_bytes(), full.clone(), first);
        let is_dir = seen.mode & 0o170_000 == 0o040_000;
        out.insert(full.clone(), seen);
        if is_dir {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let inner = rustix::fs::openat(dir, &name, flags, Mode::empty()).unwrap();
            level(&inner, &full, out, first);
        }
    }
}

fn node(dir: &OwnedFd, name: &[u8], full: String, first: &mut HashMap<u64, String>) -> Node {
    let stat = stat(dir, name).unwrap();
    let attributes =
        if name.is_empty() { Attributes::of_fd(dir) } else { Attributes::of_name(dir, name).unwrap() };
    let xattrs = attributes
        .list()
        .unwrap()
        .into_iter()
        .filter(|name| !name.to_bytes().starts_with(b"trusted.overlay."))
        .map(|name| (name.to_string_lossy().into_owned(), attributes.get(&name).unwrap().unwrap()))
        .collect();
    let content = match kind(&stat) {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(dir, name, flags, Mode::empty()).unwrap();
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut std::fs::File::from(file), &mut bytes).unwrap();
            format!("{} bytes {}", bytes.len(), Digest::of(&bytes))
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(dir, name, Vec::new()).unwrap();
            format!("-> {}", target.to_bytes().escape_ascii())
        }
        _ => String::new(),
    };
    let link = match kind(&stat) {
        FileType::Directory => String::new(),
        _ => first.entry(stat.st_ino).or_insert(full).clone(),
    };
    Node {
        mode: stat.st_mode,
        owner: (stat.st_uid, stat.st_gid),
        mtime: (stat.st_mtime, stat.st_mtime_nsec),
        xattrs,
        content,
        device: stat.st_rdev,
        link,
    }
}

/// What differs, for a message.
pub fn difference(left: &Tree, right: &Tree) -> Vec<String> {
    let mut out = Vec::new();
    for path in left.keys().chain(right.keys()).collect::<std::collections::BTreeSet<_>>() {
        match (left.get(path), right.get(path)) {
            (Some(left), Some(right)) if left == right => {}
            (left, right) => out.push(format!("{path:?}:\n  {left:?}\n  {right:?}")),
        }
    }
    out
}
