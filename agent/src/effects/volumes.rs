//! From what a start has resolved to what the runtime mounts: all of it is looked at before any of it is made.

use std::{
    collections::HashMap,
    fs::{DirBuilder, OpenOptions},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};
use stower_controllers::{ImageDigest, MountWhat, Resolved, ResolvedMount, StoreId};
use stower_crds::{HostPathType, MountPropagation, StorageMedium, Uid};
use stower_runtime::job::{RootFs, SubPath, VolumeMount};
use stower_storage::{FillSource, ImageTree, VolumeDriver, VolumeKey, VolumeOptions};

use super::{Effects, chain, files, values};

/// Why a volume cannot be had. All that are wrong are named at once.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub(super) struct VolumesError(pub(super) Vec<String>);

/// What the runtime is to mount.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    /// In order.
    pub(super) mounts: Vec<VolumeMount>,
    /// Devices that are there only while something holds them.
    pub(super) holds: Vec<OwnedFd>,
}

/// The name of a store on disk. Retained data is found again by it.
pub(super) fn key(id: &StoreId) -> Result<VolumeKey, String> {
    let key = match id {
        StoreId::Volume { namespace, name } => VolumeKey::new(["v", namespace.as_str(), name.as_str()]),
        StoreId::Data { namespace, name, path } => {
            VolumeKey::new(["d", namespace.as_str(), name.as_str(), &short_digest(path)])
        }
        StoreId::Private { owner, name } => VolumeKey::new(["c", owner.as_str(), name]),
    };
    key.map_err(|error| chain(&error))
}

/// Everything that belongs to one container alone.
pub(super) fn private_prefix(owner: &Uid) -> Result<VolumeKey, String> {
    VolumeKey::new(["c", owner.as_str()]).map_err(|error| chain(&error))
}

/// Every store of the DataContainer that has this one.
pub(super) fn data_prefix(key: &VolumeKey) -> Result<VolumeKey, String> {
    VolumeKey::new(key.parts().iter().take(3)).map_err(|error| chain(&error))
}

/// A path as a file name: 16 hexadecimal digits of its digest.
fn short_digest(path: &str) -> String {
    Sha256::digest(path.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

impl Effects {
    /// Whether everything that is to be mounted is there; makes nothing.
    ///
    /// # Errors
    /// With everything that is missing or of the wrong kind.
    pub(super) fn check_volumes(&self, resolved: &Resolved) -> Result<(), VolumesError> {
        let mut problems = Vec::new();
        for mount in &resolved.mounts {
            let problem = match &mount.what {
                MountWhat::HostPath { path, type_ } => {
                    check(Path::new(path), *type_).err().map(|problem| format!("hostPath {path}: {problem}"))
                }
                MountWhat::Store(id) => {
                    match key(id).and_then(|key| self.volumes.find(&key).map_err(|e| chain(&e))) {
                        Ok(Some(_)) => None,
                        Ok(None) => Some(format!(
                            "the data of {id} is gone; put it back, or delete and declare it again to begin with none"
                        )),
                        Err(error) => Some(format!("{id}: {error}")),
                    }
                }
                _ => None,
            };
            problems.extend(problem.map(|problem| format!("{}: {problem}", named(mount))));
        }
        if problems.is_empty() { Ok(()) } else { Err(VolumesError(problems)) }
    }

    /// Makes what may be made, fills what is new, and says what to mount.
    ///
    /// # Errors
    /// With everything that could not be made.
    pub(super) fn prepare_volumes(&self, uid: &Uid, resolved: &Resolved) -> Result<Prepared, VolumesError> {
        let mut prepared = Prepared::default();
        let mut problems = Vec::new();
        let mut trees = HashMap::new();
        for mount in &resolved.mounts {
            match self.prepare_one(uid, mount, &mut trees, &mut prepared.holds) {
                Ok((tree, inside)) => prepared.mounts.push(VolumeMount {
                    destination: mount.path.clone(),
                    tree,
                    inside,
                    sub_path: mount.sub_path.as_ref().map(|path| SubPath {
                        path: path.clone(),
                        create: !mount.read_only && !matches!(mount.what, MountWhat::Files { .. }),
                    }),
                    options: options(mount),
                }),
                Err(problem) => problems.push(format!("{}: {problem}", named(mount))),
            }
            super::failpoint("start.volume");
        }
        if problems.is_empty() { Ok(prepared) } else { Err(VolumesError(problems)) }
    }

    fn prepare_one(
        &self,
        uid: &Uid,
        mount: &ResolvedMount,
        trees: &mut HashMap<ImageDigest, ImageTree>,
        holds: &mut Vec<OwnedFd>,
    ) -> Result<(RootFs, Option<String>), String> {
        let bind = |path: PathBuf| (RootFs::Bind { path, readonly: false }, None);
        let words = |error: io::Error| error.to_string();
        match &mount.what {
            MountWhat::HostPath { path, type_ } => {
                let path = PathBuf::from(path);
                make_host_path(&path, *type_).map_err(words)?;
                Ok(bind(path))
            }
            MountWhat::EmptyDir { owner, name, medium: StorageMedium::Disk, size: None } => {
                let path = self.paths.container_data(owner.as_str()).join("volumes").join(name);
                make_empty_dir(&path).map_err(words)?;
                Ok(bind(path))
            }
            MountWhat::EmptyDir { owner, name, medium, size } => {
                let driver = match medium {
                    StorageMedium::Memory => VolumeDriver::Tmpfs,
                    StorageMedium::Disk => VolumeDriver::Local,
                };
                let key = key(&StoreId::Private { owner: owner.clone(), name: name.clone() })?;
                // World-writable, as in Kubernetes.
                let options =
                    VolumeOptions { capacity: *size, mode: Some(0o777), ..VolumeOptions::new(driver) };
                self.volumes.provision(&key, &options).map_err(|error| chain(&error))?;
                self.activate(&key, holds)
            }
            MountWhat::Store(id) => self.activate(&key(id)?, holds),
            MountWhat::Anonymous { owner, path, image } => {
                let name = format!("@{}", short_digest(path));
                let key = key(&StoreId::Private { owner: owner.clone(), name })?;
                let options = VolumeOptions::new(VolumeDriver::Local);
                let made = self.volumes.provision(&key, &options).map_err(|error| chain(&error))?;
                if !made.has_data {
                    self.fill(&key, image, path, trees)?;
                }
                self.activate(&key, holds)
            }
            MountWhat::Files { name, files } => {
                let dir = self.files_dir(uid, name);
                values::write(&dir, files).map_err(|error| format!("cannot write its files: {error}"))?;
                Ok(bind(dir))
            }
        }
    }

    /// Where the files of a volume with values are.
    pub(super) fn files_dir(&self, uid: &Uid, name: &str) -> PathBuf {
        self.run_dir(uid).join("volumes").join(name)
    }

    fn activate(
        &self,
        key: &VolumeKey,
        holds: &mut Vec<OwnedFd>,
    ) -> Result<(RootFs, Option<String>), String> {
        self.volumes.ensure_data(key).map_err(|error| chain(&error))?;
        let active = self.volumes.activate(key).map_err(|error| chain(&error))?;
        holds.extend(active.hold);
        Ok((super::start::tree(active.mount), active.inside))
    }

    /// Fills a store from an image, whose tree is opened once for all paths.
    pub(super) fn fill(
        &self,
        key: &VolumeKey,
        image: &ImageDigest,
        path: &str,
        trees: &mut HashMap<ImageDigest, ImageTree>,
    ) -> Result<(), String> {
        if !trees.contains_key(image) {
            let found = self.image(image)?.ok_or_else(|| format!("image {image} is not on this machine"))?;
            let name = key.parts().join("+");
            let name = format!("{:.40}-{}", short_digest(&name), crate::paths::random_uuid());
            let tree = self.storage.open_tree(&found.chain_id, &name).map_err(|error| chain(&error))?;
            trees.insert(image.clone(), tree);
        }
        let tree = &trees[image];
        let source = FillSource { tree: tree.as_fd(), path, image: image.as_str() };
        self.volumes.fill(key, &source).map(drop).map_err(|error| chain(&error))
    }
}

/// A mount, for people.
fn named(mount: &ResolvedMount) -> String {
    match (&mount.name, &mount.from) {
        (Some(name), Some(from)) => format!("volume {name:?} of {from} at {}", mount.path),
        (Some(name), None) => format!("volume {name:?} at {}", mount.path),
        (None, Some(from)) => format!("the volume of {from} at {}", mount.path),
        (None, None) => format!("the volume at {}", mount.path),
    }
}

fn options(mount: &ResolvedMount) -> Vec<String> {
    let propagation = match mount.propagation {
        MountPropagation::None => "rprivate",
        MountPropagation::HostToContainer => "rslave",
        MountPropagation::Bidirectional => "rshared",
    };
    // Nothing is said for a writable one: what the host has mounted read-only stays so.
    let access = mount.read_only.then_some("rro");
    access.into_iter().chain([propagation]).map(str::to_owned).collect()
}

/// Whether the path is there and of the kind that its type asks for (core/v1 `HostPathType`).
pub(super) fn check(path: &Path, kind: HostPathType) -> Result<(), String> {
    let found = match std::fs::metadata(path) {
        Ok(meta) => Some(meta.file_type()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error.to_string()),
    };
    let may_make = matches!(kind, HostPathType::DirectoryOrCreate | HostPathType::FileOrCreate);
    let Some(found) = found else {
        return if may_make {
            Ok(())
        } else {
            Err("does not exist; make it, or ask for type DirectoryOrCreate".into())
        };
    };
    let (right, want) = match kind {
        HostPathType::Unset => (true, ""),
        HostPathType::Directory | HostPathType::DirectoryOrCreate => (found.is_dir(), "a directory"),
        HostPathType::File | HostPathType::FileOrCreate => (found.is_file(), "a regular file"),
        HostPathType::Socket => (found.is_socket(), "a socket"),
        HostPathType::CharDevice => (found.is_char_device(), "a character device"),
        HostPathType::BlockDevice => (found.is_block_device(), "a block device"),
    };
    if right { Ok(()) } else { Err(format!("is not {want}")) }
}

pub(super) fn make_host_path(path: &Path, kind: HostPathType) -> io::Result<()> {
    match kind {
        HostPathType::DirectoryOrCreate => DirBuilder::new().recursive(true).mode(0o755).create(path),
        HostPathType::FileOrCreate => {
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(path).map(drop)
        }
        _ => Ok(()),
    }
}

/// World-writable as in Kubernetes, below a directory that only root can enter.
fn make_empty_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    files::private_parent(path)?;
    std::fs::create_dir(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))
}

#[cfg(test)]
mod tests;
