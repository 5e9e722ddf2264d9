//! Inline volumes: what must be on the host before a container starts, and what is made for it.

use std::{
    collections::BTreeMap,
    fs::{DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use stower_crds::{ContainerSpec, HostPathType, VolumeSourceKind};

/// Why a volume cannot be had. All that are wrong are named at once.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub(super) struct VolumesError(Vec<String>);

/// Resolves every declared volume to a path on the host, making what may be made only once all others are there.
///
/// # Errors
/// With everything that is missing or of the wrong kind; then nothing was made.
pub(super) fn resolve(spec: &ContainerSpec, own: &Path) -> Result<BTreeMap<String, PathBuf>, VolumesError> {
    let mut problems = Vec::new();
    for volume in &spec.volumes {
        if let Some(VolumeSourceKind::HostPath(source)) = volume.source()
            && let Err(problem) = check(Path::new(&source.path), source.type_)
        {
            problems.push(format!("volume {:?}: hostPath {}: {problem}", volume.name, source.path));
        }
    }
    if !problems.is_empty() {
        return Err(VolumesError(problems));
    }
    let mut resolved = BTreeMap::new();
    for volume in &spec.volumes {
        let made = match volume.source() {
            Some(VolumeSourceKind::HostPath(source)) => {
                let path = PathBuf::from(&source.path);
                make_host_path(&path, source.type_).map(|()| path)
            }
            Some(VolumeSourceKind::EmptyDir(_)) => {
                let path = own.join("volumes").join(&volume.name);
                make_empty_dir(&path).map(|()| path)
            }
            _ => Err(io::Error::other("this kind of volume is not supported by this version")),
        };
        match made {
            Ok(path) => {
                resolved.insert(volume.name.clone(), path);
            }
            Err(error) => problems.push(format!("volume {:?}: {error}", volume.name)),
        }
    }
    if problems.is_empty() { Ok(resolved) } else { Err(VolumesError(problems)) }
}

/// Whether the path is there and of the kind that its type asks for (core/v1 `HostPathType`).
fn check(path: &Path, kind: HostPathType) -> Result<(), String> {
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

fn make_host_path(path: &Path, kind: HostPathType) -> io::Result<()> {
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
    if let Some(parent) = path.parent() {
        crate::paths::private_dir(parent)?;
    }
    std::fs::create_dir(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "cases read better without a borrow each")]
    fn spec(volumes: serde_json::Value) -> ContainerSpec {
        serde_json::from_value(serde_json::json!({"image": "x", "volumes": volumes})).unwrap()
    }

    #[test]
    fn everything_missing_is_named_at_once_and_nothing_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().to_str().unwrap();
        let volumes = serde_json::json!([
            {"name": "made", "hostPath": {"path": format!("{base}/made"), "type": "DirectoryOrCreate"}},
            {"name": "a", "hostPath": {"path": format!("{base}/a")}},
            {"name": "b", "hostPath": {"path": base, "type": "File"}},
            {"name": "e", "emptyDir": {}},
        ]);
        let error = resolve(&spec(volumes), &dir.path().join("own")).unwrap_err().to_string();
        assert!(error.contains("volume \"a\"") && error.contains("volume \"b\""), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_may_be_made_is_made_and_an_empty_dir_keeps_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().to_str().unwrap();
        let volumes = serde_json::json!([
            {"name": "d", "hostPath": {"path": format!("{base}/x/y"), "type": "DirectoryOrCreate"}},
            {"name": "e", "emptyDir": {}},
        ]);
        let own = dir.path().join("own");
        let paths = resolve(&spec(volumes.clone()), &own).unwrap();
        assert!(paths["d"].is_dir());
        assert_eq!(std::fs::metadata(&paths["e"]).unwrap().permissions().mode() & 0o7777, 0o777);
        std::fs::write(paths["e"].join("kept"), "").unwrap();
        assert!(resolve(&spec(volumes), &own).unwrap()["e"].join("kept").exists());
    }
}
