//! A driver only for tests, of the kind that device-mapper is: a layer is written over a copy of its parent, on a
//! filesystem image of its own, and a snapshot is there only while it is active, as a loop device.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use crate::diff::Trees;
use crate::digest::ChainId;
use crate::driver::copy::content;
use crate::driver::overlay::reopen;
use crate::driver::staged::Staged;
use crate::driver::store::{Removed, Staging, Store};
use crate::driver::{
    Driver, DriverError, DriverStatus, Found, LayerRecord, Reread, SnapshotKey, SnapshotKind, SnapshotRecord,
    Unpack, Usage,
};
use crate::layer::{Stream, UnpackLimits, apply_onto};
use crate::loopdev::{self, Device};
use crate::mount::{Mount, Mounts, detached};

const IMAGE: &str = "image";

/// See the module.
#[derive(Debug)]
pub struct Looped {
    store: Store,
    staged: Staged,
    active: Mutex<HashMap<SnapshotKey, (Device, Mount)>>,
}

impl Looped {
    /// Opens the driver at `root`.
    pub fn open(root: &Path) -> Result<Self, DriverError> {
        let store = Store::open(root.to_owned())?;
        Ok(Self { store, staged: Staged::default(), active: Mutex::default() })
    }

    fn copy(&self, parent: Option<&ChainId>) -> Result<Staging, DriverError> {
        let staging = self.store.stage()?;
        let to = staging.path().join(IMAGE);
        match parent {
            Some(parent) => copy_file(&self.store.layer(parent).join(IMAGE), &to)?,
            None => {
                std::fs::File::create_new(&to)
                    .and_then(|file| file.set_len(64 << 20))
                    .map_err(DriverError::io("make", &to))?;
                run(Command::new("mkfs.ext4").args(["-q", "-O", "^has_journal", "-N", "4096"]).arg(&to))?;
                let mount = mount(&to)?;
                rustix::fs::unlinkat(&mount, "lost+found", AtFlags::REMOVEDIR)
                    .and_then(|()| rustix::fs::syncfs(&mount))
                    .map_err(DriverError::io("empty", &to))?;
            }
        }
        Ok(staging)
    }

    fn image(&self, snapshot: &SnapshotRecord, lowers: &[ChainId]) -> PathBuf {
        match (snapshot.kind, lowers.first()) {
            (SnapshotKind::View, Some(parent)) => self.store.layer(parent).join(IMAGE),
            _ => self.store.snapshot(&snapshot.key).join(IMAGE),
        }
    }
}

fn run(command: &mut Command) -> Result<String, DriverError> {
    let program = PathBuf::from(command.get_program());
    let out = command.output().map_err(DriverError::io("run", &program))?;
    if out.status.success() {
        Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    } else {
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        Err(DriverError::io("run", &program)(std::io::Error::other(text)))
    }
}

fn copy_file(from: &Path, to: &Path) -> Result<(), DriverError> {
    let open = |path: &Path, flags: OFlags| {
        rustix::fs::openat(CWD, path, flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)
            .map_err(DriverError::io("open", path))
    };
    let source = open(from, OFlags::RDONLY)?;
    let target = open(to, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)?;
    let stat = rustix::fs::fstat(&source).map_err(DriverError::io("look at", from))?;
    content(&source, &target, &stat).map_err(DriverError::io("copy to", to))
}

fn attach(image: &Path, readonly: bool) -> Result<(Device, Mount), DriverError> {
    let device = loopdev::attach_new(image, readonly).map_err(DriverError::io("attach", image))?;
    // Whoever was killed left nothing to replay: there is no journal.
    let options = if readonly { vec!["ro".to_owned()] } else { Vec::new() };
    let mount = Mount::Block { device: device.path.clone(), fstype: "ext4".to_owned(), options };
    Ok((device, mount))
}

/// The image's filesystem; the loop device goes with the mount.
fn mount(image: &Path) -> Result<OwnedFd, DriverError> {
    let (_device, mount) = attach(image, false)?;
    reopen(&detached::open(&mount)?)
}

impl Driver for Looped {
    fn name(&self) -> &'static str {
        "looped"
    }

    fn unpack(&self) -> Unpack {
        Unpack::OnParent
    }

    fn load(&self) -> Result<Found, DriverError> {
        self.store.load()
    }

    fn stage(
        &self,
        layer: &LayerRecord,
        lowers: &[ChainId],
        stream: Stream,
        limits: &UnpackLimits,
    ) -> Result<(), DriverError> {
        let staging = self.copy(lowers.first())?;
        let image = staging.path().join(IMAGE);
        let root = mount(&image)?;
        apply_onto(reopen(&root)?, lowers.is_empty(), stream, limits)?;
        // The mount may outlive our descriptor: a child of another thread has a copy until it executes its program.
        rustix::fs::syncfs(&root).map_err(DriverError::io("sync", &image))?;
        self.staged.put(layer, staging);
        Ok(())
    }

    fn finish(
        &self,
        layer: &LayerRecord,
        _lowers: &[ChainId],
        _reread: Reread<'_>,
        _limits: &UnpackLimits,
    ) -> Result<(), DriverError> {
        self.store.place(self.staged.take(layer, &self.store)?, &layer.chain)
    }

    fn abandon(&self, layer: &LayerRecord) {
        drop(self.staged.abandoned(layer));
    }

    fn seal(&self, layers: &[LayerRecord]) -> Result<(), DriverError> {
        self.store.seal(layers)
    }

    fn prepare(
        &self,
        snapshot: &SnapshotRecord,
        lowers: &[ChainId],
        limit: Option<u64>,
    ) -> Result<(), DriverError> {
        self.resize(snapshot, limit)?;
        let staging = match (snapshot.kind, lowers.first()) {
            (SnapshotKind::View, Some(_)) => self.store.stage()?,
            (_, parent) => self.copy(parent)?,
        };
        self.store.place_snapshot(staging, snapshot)
    }

    fn resize(&self, _snapshot: &SnapshotRecord, limit: Option<u64>) -> Result<(), DriverError> {
        match limit {
            None => Ok(()),
            Some(_) => {
                Err(DriverError::NoLimit { driver: self.name(), why: "it is only for tests".to_owned() })
            }
        }
    }

    fn status(&self) -> Result<DriverStatus, DriverError> {
        Ok(DriverStatus { backing_filesystem: self.store.filesystem()?, ..DriverStatus::default() })
    }

    fn activate(&self, snapshot: &SnapshotRecord, lowers: &[ChainId]) -> Result<Mounts, DriverError> {
        let readonly = snapshot.kind == SnapshotKind::View;
        let mut active = self.active.lock().unwrap();
        let (_, mount) = match active.entry(snapshot.key.clone()) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(empty) => empty.insert(attach(&self.image(snapshot, lowers), readonly)?),
        };
        Ok(Mounts(vec![mount.clone()]))
    }

    fn trees(&self, snapshot: &SnapshotRecord, lowers: &[ChainId]) -> Result<Trees, DriverError> {
        let view =
            |image: &Path| attach(image, true).and_then(|(_, mount)| Ok(detached::open_to_read(&mount)?));
        let parent = lowers.first().map(|parent| view(&self.store.layer(parent).join(IMAGE))).transpose()?;
        // A filesystem that is mounted is mounted again only as the same device.
        let active = self.active.lock().unwrap().get(&snapshot.key).map(|(_, mount)| mount.clone());
        let top = match active {
            Some(mount) => detached::open_to_read(&mount)?,
            None => view(&self.image(snapshot, lowers))?,
        };
        Ok(Trees { parent, top, same_files: false, snapshots: false, upper: None })
    }

    fn deactivate(&self, snapshot: &SnapshotRecord) -> Result<(), DriverError> {
        self.active.lock().unwrap().remove(&snapshot.key);
        Ok(())
    }

    fn commit(
        &self,
        snapshot: &SnapshotRecord,
        layer: &LayerRecord,
        _lowers: &[ChainId],
    ) -> Result<(), DriverError> {
        self.store.commit(snapshot, layer)
    }

    fn remove(&self, snapshot: &SnapshotRecord) -> Result<(), DriverError> {
        self.store.remove(&self.store.snapshot(&snapshot.key), Removed::Snapshot)
    }

    fn remove_layer(&self, layer: &LayerRecord) -> Result<(), DriverError> {
        self.store.remove(&self.store.layer(&layer.chain), Removed::Layer)
    }

    fn usage(&self, snapshot: &SnapshotRecord) -> Result<Usage, DriverError> {
        use std::os::unix::fs::MetadataExt;
        let image = self.store.snapshot(&snapshot.key).join(IMAGE);
        match std::fs::metadata(&image) {
            Ok(meta) => Ok(Usage { bytes: meta.blocks() * 512, inodes: 1 }),
            Err(_) => Ok(Usage::default()),
        }
    }
}
