//! The host's devices, as OCI has them.

use std::{
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType};
use stower_crds::ContainerSpec;

/// How deep below `/dev` a privileged container's devices are looked for.
const MAX_DEPTH: usize = 3;

fn device(host: &Path, inside: &Path) -> Result<LinuxDevice, String> {
    let meta = std::fs::metadata(host).map_err(|error| format!("device {}: {error}", host.display()))?;
    let kind = match meta.file_type() {
        kind if kind.is_char_device() => LinuxDeviceType::C,
        kind if kind.is_block_device() => LinuxDeviceType::B,
        _ => return Err(format!("device {}: is not a device", host.display())),
    };
    LinuxDeviceBuilder::default()
        .path(inside)
        .typ(kind)
        .major(i64::from(rustix::fs::major(meta.rdev())))
        .minor(i64::from(rustix::fs::minor(meta.rdev())))
        .file_mode(meta.mode() & 0o7777)
        .uid(meta.uid())
        .gid(meta.gid())
        .build()
        .map_err(|error| format!("device {}: {error}", host.display()))
}

/// The devices that a spec names.
pub(super) fn declared(spec: &ContainerSpec) -> Result<Vec<LinuxDevice>, String> {
    spec.devices
        .iter()
        .map(|wanted| {
            let inside = wanted.container_path.as_deref().unwrap_or(&wanted.host_path);
            device(Path::new(&wanted.host_path), Path::new(inside))
        })
        .collect()
}

/// All of the machine's, for a privileged container; those that each container has of its own are left out.
pub(super) fn all() -> Vec<LinuxDevice> {
    const OWN: [&str; 12] =
        ["console", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "tty", "urandom", "zero"];
    fn walk(dir: &Path, depth: usize, found: &mut Vec<LinuxDevice>) {
        let Ok(entries) = std::fs::read_dir(dir) else { return };
        for entry in entries.flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            if depth == 0 && OWN.iter().any(|own| name == *own) {
                continue;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && depth < MAX_DEPTH => walk(&path, depth + 1, found),
                Ok(kind) if kind.is_char_device() || kind.is_block_device() => {
                    found.extend(device(&path, &path));
                }
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new("/dev"), 0, &mut found);
    found
}
