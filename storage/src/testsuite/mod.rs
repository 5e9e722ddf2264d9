//! One suite that every driver runs. A check gets a [`Bench`] and panics when the driver does not behave.
//!
//! The behaviours are those of containerd's snapshotter suite and moby's graph test, and ours; [`CHECKS`] has them by
//! name. Nothing is ever attached to a mount namespace: trees are reached through detached mounts.

use std::io::{Cursor, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::digest::{ChainId, DiffId, Digest};
use crate::driver::SnapshotKey;
use crate::layer::{Compression, LayerBlob, UnpackLimits};
use crate::mount::detached;
use crate::snapshots::{Snapshots, UnpackError};

mod changes;
mod checks;
mod graph;
mod images;
mod limit;
mod limited;
mod looped;
pub mod random;
mod stat;
pub mod subject;
pub mod tar;
mod tree;

pub use images::Stack;
pub use looped::Looped;
pub use subject::{Ground, SUBJECTS, Subject};
pub use tar::{Item, ItemKind};
pub use tree::{Node, Tree, difference, tree};

/// A check, by name.
pub type Check = (&'static str, fn(&mut Bench));

/// All of them.
pub fn all() -> Vec<Check> {
    [checks::CHECKS, stat::CHECKS, graph::CHECKS, limit::CHECKS, changes::CHECKS, images::CHECKS].concat()
}

/// A driver in a directory of its own.
#[derive(Debug)]
pub struct Bench {
    subject: Subject,
    at: PathBuf,
    snapshots: Option<Snapshots>,
    serial: u32,
    // After the store, and before the directory.
    _ground: Ground,
    _dir: tempfile::TempDir,
}

/// Opens a store with the subject of that name.
///
/// # Panics
/// When it does not open.
pub fn open(subject: &str, at: &Path) -> Snapshots {
    Subject::find(subject).open(at)
}

impl Bench {
    /// The [`Subject`] of that name in a new directory.
    ///
    /// # Panics
    /// When the driver does not open, or without root.
    pub fn new(subject: &str) -> Self {
        Self::on(Subject::find(subject))
    }

    /// One that is in no list.
    ///
    /// # Panics
    /// When the driver does not open, or without root.
    pub fn on(subject: Subject) -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test needs root");
        let dir = tempfile::Builder::new().prefix("stower-storage").tempdir().unwrap();
        let at = dir.path().join("snapshots");
        std::fs::create_dir_all(&at).unwrap();
        let ground = (subject.ground)(&at);
        let snapshots = Some(subject.open(&at));
        Self { subject, at, snapshots, serial: 0, _ground: ground, _dir: dir }
    }

    /// What this is a bench of.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The store.
    pub fn store(&self) -> &Snapshots {
        self.snapshots.as_ref().unwrap()
    }

    /// Where it is.
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// As if the process had ended and begun anew.
    pub fn reopen(&mut self) {
        self.snapshots = None;
        self.snapshots = Some(self.subject.open(&self.at));
    }

    /// How many entries the driver has in its directory `name`; 0 for one that it does not have.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn entries(&self, name: &str) -> usize {
        match std::fs::read_dir(self.at.join(self.store().driver()).join(name)) {
            Ok(entries) => entries.count(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
            Err(error) => panic!("{name}: {error}"),
        }
    }

    /// A key that was not used before.
    pub fn key(&mut self) -> SnapshotKey {
        self.serial += 1;
        SnapshotKey::new(format!("key-{}", self.serial)).unwrap()
    }

    /// A diff id that no content has, for commits.
    pub fn diff_id(&mut self) -> DiffId {
        self.serial += 1;
        DiffId(Digest::of(format!("commit {}", self.serial).as_bytes()))
    }

    /// Unpacks an image.
    pub fn unpack(&self, layers: &[Vec<Item>]) -> ChainId {
        self.try_unpack(layers).unwrap()
    }

    /// Unpacks an image that may be bad.
    pub fn try_unpack(&self, layers: &[Vec<Item>]) -> Result<ChainId, UnpackError> {
        let blobs = layers.iter().map(|items| blob(tar::archive(items), Compression::None)).collect();
        self.store().unpack_image(blobs, &UnpackLimits::default())
    }

    /// A writable snapshot, mounted.
    pub fn mounted(&mut self, parent: Option<&ChainId>) -> (SnapshotKey, OwnedFd) {
        let key = self.key();
        self.store().prepare(&key, parent).unwrap();
        let mount = self.mount(&key);
        (key, mount)
    }

    /// Mounts what the snapshot consists of.
    pub fn mount(&self, key: &SnapshotKey) -> OwnedFd {
        let mounts = self.store().activate(key).unwrap();
        assert_eq!(mounts.len(), 1);
        detached::open(&mounts[0]).unwrap()
    }

    /// What a stack looks like.
    pub fn view(&mut self, chain: &ChainId) -> Tree {
        let key = self.key();
        self.store().view(&key, Some(chain)).unwrap();
        let seen = tree(&self.mount(&key));
        self.store().remove(&key).unwrap();
        seen
    }

    /// Makes a layer of what `change` does to a tree.
    pub fn commit(&mut self, parent: Option<&ChainId>, change: impl FnOnce(&Files)) -> ChainId {
        let (key, mount) = self.mounted(parent);
        change(&Files::new(&mount));
        close(mount);
        let diff_id = self.diff_id();
        self.store().commit(&key, &diff_id).unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(store) = &self.snapshots {
            for snapshot in store.list() {
                // A test that failed may have left it mounted; then this is the second failure.
                let _ = store.deactivate(&snapshot.key);
            }
        }
    }
}

/// Ends the use of a mount. It may outlive its descriptor for a moment (a child of another thread has a copy until it
/// executes its program), so what was written goes to where it belongs first.
///
/// # Panics
/// When it cannot be synced.
pub fn close(mount: OwnedFd) {
    rustix::fs::syncfs(crate::driver::overlay::reopen(&mount).unwrap()).unwrap();
    drop(mount);
}

/// A layer from bytes.
///
/// # Panics
/// When they cannot be compressed.
pub fn blob(archive: Vec<u8>, compression: Compression) -> LayerBlob {
    let diff_id = DiffId(Digest::of(&archive));
    let packed = match compression {
        Compression::None => archive,
        Compression::Gzip => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            out.write_all(&archive).unwrap();
            out.finish().unwrap()
        }
        Compression::Zstd => zstd::encode_all(Cursor::new(archive), 1).unwrap(),
    };
    let size = u64::try_from(packed.len()).unwrap();
    let open = move || Ok(Box::new(Cursor::new(packed.clone())) as Box<dyn Read + Send>);
    LayerBlob { diff_id, compression, size, open: Box::new(open) }
}

/// A mounted tree, changed with ordinary calls through `/proc`.
#[derive(Debug)]
pub struct Files(PathBuf);

impl Files {
    /// Of a mount's root.
    pub fn new(mount: &OwnedFd) -> Self {
        use std::os::fd::AsRawFd;
        Self(PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), mount.as_raw_fd())))
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).unwrap();
    }

    /// Reads a file.
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Makes directories.
    pub fn mkdir(&self, name: &str) {
        std::fs::create_dir_all(self.path(name)).unwrap();
    }

    /// Removes anything.
    pub fn remove(&self, name: &str) {
        let path = self.path(name);
        if path.symlink_metadata().unwrap().is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        } else {
            std::fs::remove_file(path).unwrap();
        }
    }

    /// Sets permission bits.
    pub fn chmod(&self, name: &str, mode: u32) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
}
