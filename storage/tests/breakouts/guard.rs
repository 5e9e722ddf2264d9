//! Everything outside of a layer, as it was and as it is.
//!
//! Outside are: canaries of every kind in a directory that cases know by its path; all that lies around the store, up to
//! the test's own directory; layers and snapshots that were there before; and some files of the machine that every attack
//! on paths tries. The time of the last change of an inode is compared too, which no call can set back.

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use stower_storage::Digest;
use stower_storage::testsuite::{Bench, Files, Item, close};

/// What the file of the host says. It must come to be in no layer.
pub(crate) const SECRET: &str = "of the host";

/// All that can be told of one inode without changing it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    inode: (u64, u64),
    mode: u32,
    owner: (u32, u32),
    links: u64,
    size: u64,
    device: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    content: Option<Digest>,
}

/// See the module.
pub(crate) struct Guard {
    canaries: tempfile::TempDir,
    before: BTreeMap<PathBuf, Seen>,
}

/// Files of the machine that a way out would reach first.
const HOST: [&str; 7] =
    ["/etc/passwd", "/etc/shadow", "/etc/hosts", "/etc/hostname", "/bin/sh", "/root/.bashrc", "/dev/null"];

impl Guard {
    /// Puts canaries in place, and something of others into the store.
    pub(crate) fn new(bench: &mut Bench) -> Self {
        let canaries = tempfile::Builder::new().prefix("stower-outside").tempdir().unwrap();
        for dir in [canaries.path(), bench.at(), bench.at().parent().unwrap()] {
            canary(dir);
        }
        // A neighbour: an image, and a container on it that has written.
        let image = bench.unpack(&[
            vec![
                Item::dir("d").mode(0o700),
                Item::file("d/secret", SECRET).mode(0o600),
                Item::file("f", "1"),
            ],
            vec![Item::whiteout("f"), Item::symlink("l", "/d")],
        ]);
        let (key, mount) = bench.mounted(Some(&image));
        Files::new(&mount).write("d/mine", "kept");
        close(mount);
        bench.store().deactivate(&key).unwrap();
        let mut guard = Self { canaries, before: BTreeMap::new() };
        guard.before = guard.seen(bench);
        assert!(guard.before.len() > 30, "there is something to guard");
        guard
    }

    /// Where the canaries are.
    pub(crate) fn path(&self) -> &Path {
        self.canaries.path()
    }

    /// Fails when anything is not as it was.
    pub(crate) fn check(&self, bench: &Bench, what: &str) {
        let now = self.seen(bench);
        let paths: std::collections::BTreeSet<_> = self.before.keys().chain(now.keys()).collect();
        let mut different = Vec::new();
        for path in paths {
            let (was, is) = (self.before.get(path), now.get(path));
            if was != is {
                different.push(format!("{}:\n  {was:?}\n  {is:?}", path.display()));
            }
        }
        assert!(different.is_empty(), "{what} changed what is outside:\n{}", different.join("\n"));
    }

    fn seen(&self, bench: &Bench) -> BTreeMap<PathBuf, Seen> {
        let mut out = BTreeMap::new();
        for path in HOST.iter().map(Path::new).filter(|path| path.exists()) {
            out.insert(path.to_owned(), look(path));
        }
        walk(self.canaries.path(), &mut out, &|_| true);
        let own = bench.at().parent().unwrap();
        let driver = bench.at().join(bench.store().driver());
        // What is being made and removed is the driver's business, and so is what it keeps beside directories.
        walk(own, &mut out, &|path| !path.starts_with(&driver) || path == driver);
        for dir in ["layers", "snapshots"] {
            let known = self.before.keys().filter(|path| path.parent() == Some(&driver.join(dir)));
            let there: Vec<PathBuf> = if self.before.is_empty() {
                std::fs::read_dir(driver.join(dir)).unwrap().map(|entry| entry.unwrap().path()).collect()
            } else {
                known.cloned().collect()
            };
            for path in there {
                walk(&path, &mut out, &|_| true);
            }
        }
        // What a case leaves here is a layer, which is looked at by itself.
        out.remove(&driver);
        out
    }
}

/// One of every kind, with everything that can be changed of it.
fn canary(at: &Path) {
    let path = |name: &str| at.join(name);
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path("file")).unwrap();
    std::io::Write::write_all(&mut file, SECRET.as_bytes()).unwrap();
    std::fs::DirBuilder::new().mode(0o711).create(path("dir")).unwrap();
    std::fs::write(path("dir/inner"), "").unwrap();
    std::fs::write(path("suid"), "#!/bin/false\n").unwrap();
    chown(path("suid"), Some(1234), Some(4321)).unwrap();
    rustix::fs::chmod(path("suid"), Mode::from_raw_mode(0o6755)).unwrap();
    std::fs::hard_link(path("file"), path("second name")).unwrap();
    symlink("file", path("link")).unwrap();
    rustix::fs::mknodat(CWD, path("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    rustix::fs::setxattr(path("file"), "trusted.canary", b"1", XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(path("dir"), "user.canary", b"2", XattrFlags::empty()).unwrap();
}

fn walk(at: &Path, out: &mut BTreeMap<PathBuf, Seen>, into: &dyn Fn(&Path) -> bool) {
    if !into(at) {
        return;
    }
    let seen = look(at);
    let is_dir = seen.mode & 0o170_000 == 0o040_000;
    out.insert(at.to_owned(), seen);
    if is_dir {
        for entry in std::fs::read_dir(at).unwrap() {
            walk(&entry.unwrap().path(), out, into);
        }
    }
}

fn look(at: &Path) -> Seen {
    let meta = at.symlink_metadata().unwrap();
    let content = match meta.mode() & 0o170_000 {
        // The image of a whole filesystem tells by its times.
        0o100_000 if meta.len() < 1 << 20 => Some(Digest::of(&std::fs::read(at).unwrap())),
        0o120_000 => {
            use std::os::unix::ffi::OsStrExt;
            Some(Digest::of(std::fs::read_link(at).unwrap().as_os_str().as_bytes()))
        }
        _ => None,
    };
    Seen {
        inode: (meta.dev(), meta.ino()),
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        links: meta.nlink(),
        size: meta.size(),
        device: meta.rdev(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
        xattrs: xattrs(at),
        content,
    }
}

fn xattrs(at: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(at, &mut names[..]).unwrap_or(0);
    let mut out = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 4096];
        let length = rustix::fs::lgetxattr(at, name, &mut value[..]).unwrap();
        value.truncate(length);
        out.push((name.to_vec(), value));
    }
    out.sort();
    out
}

/// A change, and what makes it.
type Change<'a> = (&'a str, &'a dyn Fn(&Path));

/// The guard is no good if it does not see the smallest change.
#[test]
fn root_sees_everything() {
    let mut bench = Bench::new("overlay");
    let changes: [Change<'_>; 7] = [
        ("mode", &|at| {
            // There and back again.
            rustix::fs::chmod(at.join("file"), Mode::from_raw_mode(0o777)).unwrap();
            rustix::fs::chmod(at.join("file"), Mode::from_raw_mode(0o600)).unwrap();
        }),
        ("owner", &|at| chown(at.join("dir"), Some(1), Some(1)).unwrap()),
        ("content", &|at| std::fs::write(at.join("dir/inner"), "1").unwrap()),
        ("new", &|at| std::fs::write(at.join("dir/new"), "").unwrap()),
        ("link", &|at| std::fs::hard_link(at.join("suid"), at.join("../stower-linked")).unwrap()),
        ("xattr", &|at| {
            rustix::fs::setxattr(at.join("file"), "user.new", b"", XattrFlags::empty()).unwrap();
        }),
        ("gone", &|at| std::fs::remove_file(at.join("pipe")).unwrap()),
    ];
    for (name, change) in changes {
        let guard = Guard::new_once(&mut bench);
        guard.check(&bench, name);
        change(guard.path());
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| guard.check(&bench, name)));
        assert!(told.is_err(), "{name} is not seen");
        let _ = std::fs::remove_file(guard.path().join("../stower-linked"));
    }
}

impl Guard {
    /// As [`Guard::new`], where others have been already.
    fn new_once(bench: &mut Bench) -> Self {
        if bench.at().join("file").exists() {
            let canaries = tempfile::Builder::new().prefix("stower-outside").tempdir().unwrap();
            canary(canaries.path());
            let mut guard = Self { canaries, before: BTreeMap::new() };
            guard.before = guard.seen(bench);
            return guard;
        }
        Self::new(bench)
    }
}
