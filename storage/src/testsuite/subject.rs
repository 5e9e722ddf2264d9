//! What the suite runs on. A driver that is to be tested is one more [`Subject`] in [`SUBJECTS`], and one more line in
//! `tests/conformance.rs`.

use std::any::Any;
use std::path::Path;
use std::process::Command;

use super::Looped;
use super::limited::Limited;
use crate::driver::overlay::Overlay;
use crate::loopdev;
use crate::mount::{Mount, detached};
use crate::snapshots::Snapshots;

/// What a store stands on as long as a test uses it, such as a mount. It is dropped after the store.
pub type Ground = Box<dyn Any + Send + Sync>;

/// A driver, and what it needs to be tested.
#[derive(Debug, Clone, Copy)]
pub struct Subject {
    /// As tests name it. Several may have the same driver.
    pub name: &'static str,
    /// As `--storage-driver` names it.
    pub driver: &'static str,
    /// As `--storage-opt` gives them.
    pub options: &'static [(&'static str, &'static str)],
    /// Makes ready the empty directory that the store is going to be in, for instance by [`filesystem`]. It is called once
    /// a bench, on the thread that uses it; the store may be opened more often.
    pub ground: fn(&Path) -> Ground,
    /// Bytes that a snapshot may be limited to, where the driver does that.
    pub limit: u64,
}

/// All of them.
pub const SUBJECTS: &[Subject] = &[
    Subject { name: "overlay", driver: "overlay", ..PLAIN },
    Subject { name: "overlay_xfs", driver: "overlay", ground: xfs, ..PLAIN },
    Subject { name: "overlay_limited", driver: "overlay", ..PLAIN },
    Subject { name: "btrfs", driver: "btrfs", ground: btrfs, ..PLAIN },
    Subject { name: "btrfs_quota", driver: "btrfs", ground: btrfs_quota, ..PLAIN },
    Subject { name: "native", driver: "native", ..PLAIN },
    Subject { name: "looped", driver: "looped", ..PLAIN },
    // Sparse files on the directory for temporary files; so small that an emulator fills them in time.
    Subject {
        name: "devicemapper_ext4",
        driver: "devicemapper",
        options: &[
            ("dm.loopdatasize", "4G"),
            ("dm.loopmetadatasize", "64M"),
            ("dm.basesize", "64M"),
            ("dm.fs", "ext4"),
        ],
        limit: 96 << 20,
        ..PLAIN
    },
    Subject {
        name: "devicemapper_xfs",
        driver: "devicemapper",
        options: &[
            ("dm.loopdatasize", "4G"),
            ("dm.loopmetadatasize", "64M"),
            ("dm.basesize", "300M"),
            ("dm.fs", "xfs"),
        ],
        limit: 320 << 20,
        ..PLAIN
    },
];

/// On the directory for temporary files, without options.
const PLAIN: Subject = Subject { name: "", driver: "", options: &[], ground: nothing, limit: 48 << 20 };

fn nothing(_at: &Path) -> Ground {
    Box::new(())
}

/// Formatted as people do who want quotas: with `ftype=1`, which overlayfs needs.
fn xfs(at: &Path) -> Ground {
    filesystem(at, 512 << 20, "xfs", &["mkfs.xfs", "-q"], &[])
}

fn btrfs(at: &Path) -> Ground {
    filesystem(at, 1 << 30, "btrfs", &["mkfs.btrfs", "-q"], &[])
}

fn btrfs_quota(at: &Path) -> Ground {
    filesystem(at, 1 << 30, "btrfs", &["mkfs.btrfs", "-q", "-R", "quota"], &[])
}

impl Subject {
    /// That of a name.
    ///
    /// # Panics
    /// When there is none.
    pub fn find(name: &str) -> Self {
        *SUBJECTS.iter().find(|known| known.name == name).unwrap_or_else(|| panic!("no subject {name:?}"))
    }

    /// Opens the store at `at`.
    ///
    /// # Panics
    /// When it does not open.
    pub fn open(&self, at: &Path) -> Snapshots {
        if self.driver == "looped" {
            let looped = Looped::open(&at.join("looped")).unwrap();
            return Snapshots::with_driver(Box::new(looped)).unwrap();
        }
        if self.name == "overlay_limited" {
            let overlay = Overlay::open(at.join("overlay")).unwrap();
            return Snapshots::with_driver(Box::new(Limited(overlay))).unwrap();
        }
        let options: Vec<(String, String)> =
            self.options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Snapshots::open(at, Some(self.driver), &options).unwrap()
    }
}

/// Puts a new filesystem of `bytes` on the directory `at`, in a mount namespace of this thread's own: nothing else sees
/// it, but for threads and processes that this one starts from now on. `mkfs` is a program with its arguments; `options`
/// are those of the mount.
///
/// # Panics
/// When that does not work here.
pub fn filesystem(at: &Path, bytes: u64, fstype: &str, mkfs: &[&str], options: &[&str]) -> Ground {
    use rustix::mount::{MountPropagationFlags, MoveMountFlags, mount_change, move_mount};
    let image = tempfile::Builder::new().prefix("stower-ground").tempfile().unwrap();
    image.as_file().set_len(bytes).unwrap();
    let made = Command::new(mkfs[0]).args(&mkfs[1..]).arg(image.path()).output().unwrap();
    assert!(made.status.success(), "{mkfs:?}: {}", String::from_utf8_lossy(&made.stderr));
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    let device = loopdev::attach_new(image.path(), false).unwrap();
    let tree = detached::open(&Mount::Block {
        device: device.path.clone(),
        fstype: fstype.to_owned(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    })
    .unwrap();
    move_mount(&tree, "", rustix::fs::CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).unwrap();
    // The device has the image, and the mount has the device.
    drop((device, image));
    Box::new(Mounted(at.to_owned()))
}

/// Something that is mounted in this thread's namespace.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        // With the thread goes its namespace, so a failure leaves nothing either.
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}
