//! A store in a directory of its own, and images to fill from.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use stower_storage::testsuite::{Bench, Item, Tree, difference, tree};
use stower_storage::{
    ActiveVolume, FillSource, VolumeDriver, VolumeError, VolumeKey, VolumeOptions, VolumeRecord, Volumes,
    detached,
};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const DIGEST: &str = "sha256:0123";

pub(crate) fn key(text: &str) -> VolumeKey {
    text.parse().unwrap()
}

pub(crate) fn local() -> VolumeOptions {
    VolumeOptions::new(VolumeDriver::Local)
}

pub(crate) fn sized(mebibytes: u64) -> VolumeOptions {
    VolumeOptions { capacity: Some(mebibytes * MIB), ..local() }
}

pub(crate) fn tmpfs() -> VolumeOptions {
    VolumeOptions { capacity: Some(16 * MIB), ..VolumeOptions::new(VolumeDriver::Tmpfs) }
}

pub(crate) fn open(at: &Path) -> Volumes {
    Volumes::open(at.join("volumes"), at.join("mounts")).unwrap()
}

/// A directory for a store, without anything mounted when it goes.
pub(crate) struct Place {
    at: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::below(&std::env::temp_dir())
    }

    pub(crate) fn below(at: &Path) -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test needs root");
        Self { at: tempfile::Builder::new().prefix("stower-volumes").tempdir_in(at).unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.at.path()
    }

    pub(crate) fn open(&self) -> Volumes {
        open(self.path())
    }

    /// Mount points below.
    pub(crate) fn mounts(&self) -> Vec<PathBuf> {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        points.filter(|point| point.starts_with(self.path())).collect()
    }

    /// Loop devices whose file is below.
    pub(crate) fn devices(&self) -> Vec<String> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/sys/block").unwrap() {
            let entry = entry.unwrap();
            let file = std::fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
            if Path::new(&file).starts_with(self.path()) {
                found.push(entry.file_name().into_string().unwrap());
            }
        }
        found
    }

    /// A child that another thread starts has a copy of each descriptor until it executes its program, so a device may stay
    /// for a moment.
    pub(crate) fn assert_no_devices(&self) {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !self.devices().is_empty() && std::time::Instant::now() < end {
            std::thread::yield_now();
        }
        assert_eq!(self.devices(), Vec::<String>::new(), "loop devices are left");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for point in self.mounts().into_iter().rev() {
            let _ = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// An unpacked image.
pub(crate) struct Image {
    _bench: Bench,
    tree: OwnedFd,
}

impl Image {
    pub(crate) fn new(layers: &[Vec<Item>]) -> Self {
        let mut bench = Bench::new("overlay");
        let chain = bench.unpack(layers);
        let key = bench.key();
        bench.store().view(&key, Some(&chain)).unwrap();
        let tree = bench.mount(&key);
        Self { _bench: bench, tree }
    }

    pub(crate) fn source<'a>(&'a self, path: &'a str) -> FillSource<'a> {
        FillSource { tree: self.tree.as_fd(), path, image: DIGEST }
    }

    /// What a directory of it looks like.
    pub(crate) fn seen(&self, path: &str) -> Tree {
        tree(&dir(&self.tree, path))
    }
}

/// With everything that a copy has to keep.
pub(crate) fn rich() -> Vec<Vec<Item>> {
    use stower_storage::testsuite::ItemKind;
    vec![
        vec![
            Item::dir("var").mtime(1, 0),
            Item::dir("var/data").mode(0o2770).owner(999, 998).mtime(1_234_567, 89),
            Item::file("var/data/a", "content").mode(0o4711).owner(5, 6).mtime(77, 1).xattr("user.note", "x"),
            Item::hardlink("var/data/b", "var/data/a"),
            Item::symlink("var/data/l", "../../etc/passwd").owner(7, 8),
            Item::special("var/data/null", ItemKind::Char(1, 3)).mode(0o666),
            Item::special("var/data/pipe", ItemKind::Fifo).mode(0o620),
            Item::dir("var/data/deep").mode(0o500).mtime(3, 4).xattr("user.dir", "y"),
            Item::file("var/data/deep/er", "2").owner(999, 998),
            Item::new_sparse("var/data/sparse"),
            Item::file("var/data/gone", "g"),
            Item::file("etc/passwd", "image"),
        ],
        vec![Item::whiteout("var/data/gone"), Item::file("var/data/upper", "from above").mode(0o600)],
    ]
}

trait Sparse {
    fn new_sparse(path: &str) -> Item;
}

impl Sparse for Item {
    fn new_sparse(path: &str) -> Item {
        let kind = stower_storage::testsuite::ItemKind::Sparse(3 << 20, vec![(1 << 20, b"island".to_vec())]);
        Item { kind, ..Item::file(path, "") }
    }
}

/// The data of an active volume.
pub(crate) struct Mounted {
    root: OwnedFd,
}

impl Mounted {
    pub(crate) fn new(active: &ActiveVolume) -> Self {
        let mount = detached::open(&active.mount).unwrap();
        let inside = active.inside.as_deref().unwrap_or(".");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(&mount, inside, flags, Mode::empty()).unwrap();
        Self { root }
    }

    pub(crate) fn tree(&self) -> Tree {
        tree(&self.root)
    }

    /// For ordinary calls.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.root.as_raw_fd())).join(name)
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.root
    }
}

pub(crate) fn mounted(store: &Volumes, key: &VolumeKey) -> Mounted {
    Mounted::new(&store.activate(key).unwrap())
}

pub(crate) fn dir(at: impl AsFd, path: &str) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(at, path, flags, Mode::empty()).unwrap()
}

#[track_caller]
pub(crate) fn assert_same(left: &Tree, right: &Tree) {
    assert_eq!(difference(left, right), Vec::<String>::new());
}

pub(crate) fn names(at: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(at)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// What is in a store, without `.new` and `.trash`, which must be empty.
pub(crate) fn contents(at: &Path) -> Vec<String> {
    let root = at.join("volumes");
    for inner in [".new", ".trash"] {
        assert_eq!(names(&root.join(inner)), Vec::<String>::new(), "{inner} is not empty");
    }
    names(&root).into_iter().filter(|name| !name.starts_with('.')).collect()
}

pub(crate) fn records(store: &Volumes) -> Vec<VolumeRecord> {
    let list = store.list().unwrap();
    assert!(list.broken.is_empty(), "{:?}", list.broken);
    list.volumes
}

/// All of an error, as people see it.
pub(crate) fn told(error: &VolumeError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        text += &format!(": {error}");
        next = error.source();
    }
    text
}

/// Runs `with` on a thread with a mount namespace of its own, of which nothing stays.
pub(crate) fn apart(with: impl FnOnce() + Send) {
    use rustix::mount::MountPropagationFlags;
    assert!(rustix::process::geteuid().is_root(), "this test needs root");
    let thread = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        rustix::mount::mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
            .unwrap();
        with();
    };
    let result = std::thread::scope(|scope| scope.spawn(thread).join());
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Runs `with` where a tmpfs of that size is mounted. Before Linux 6.15 nothing can be copied out of a tree that is attached
/// nowhere, so it is.
pub(crate) fn in_small(bytes: u64, with: impl FnOnce(&Path) + Send) {
    use rustix::mount::{MountFlags, UnmountFlags};
    let dir = tempfile::Builder::new().prefix("stower-small").tempdir().unwrap();
    apart(|| {
        let size = std::ffi::CString::new(format!("size={bytes}")).unwrap();
        rustix::mount::mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), size.as_c_str()).unwrap();
        with(dir.path());
        rustix::mount::unmount(dir.path(), UnmountFlags::DETACH).unwrap();
    });
}

/// What a filesystem without attributes of users, as tmpfs is before Linux 6.6, keeps of a tree: all else.
pub(crate) fn kept_by(fs: impl AsFd, mut tree: Tree) -> Tree {
    use rustix::fs::XattrFlags;
    match rustix::fs::fsetxattr(&fs, "user.probe", b"", XattrFlags::empty()) {
        Ok(()) => rustix::fs::fremovexattr(&fs, "user.probe").unwrap(),
        Err(error) => {
            assert_eq!(error, rustix::io::Errno::OPNOTSUPP);
            for node in tree.values_mut() {
                node.xattrs.retain(|(name, _)| !name.starts_with("user."));
            }
        }
    }
    tree
}

/// Whether this process may enlarge an ext4 that is mounted.
pub(crate) fn can_grow_mounted() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap() >> CAP_SYS_RESOURCE & 1 == 1
}

pub(crate) fn stat(path: &Path) -> rustix::fs::Stat {
    rustix::fs::statat(CWD, path, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap()
}

pub(crate) fn tree_of(at: &impl AsFd) -> Tree {
    tree(&dir(at, "."))
}

impl Image {
    /// Its tree.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.tree
    }
}
