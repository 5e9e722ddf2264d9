//! Files with the values of ConfigMaps and Secrets. A reader sees all of the old ones or all of the new: the files are in
//! a directory of their own, and one link that is renamed says which (as kubelet's atomic writer does it).
//!
//! ```text
//! <volume>/..data -> ..<random>     renamed into place
//!          ..<random>/<key>         the files
//!          <key> -> ..data/<key>    what programs open
//! ```

use std::{
    collections::BTreeSet,
    fs::{DirBuilder, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink},
    path::Path,
};

use stower_controllers::Files;

use super::files::private_parent;

/// The link that says which files count.
const DATA: &str = "..data";

/// Brings a volume's directory in line with `files`; nothing is touched when it is so already.
///
/// # Errors
/// When it cannot be written; what was there counts then.
pub(super) fn write(volume: &Path, files: &Files) -> io::Result<()> {
    if !volume.is_dir() {
        private_parent(volume)?;
        DirBuilder::new().mode(0o755).create(volume)?;
    }
    let current = std::fs::read_link(volume.join(DATA)).ok();
    if let Some(current) = &current
        && is_so(&volume.join(current), files)?
    {
        return tidy(volume, current, files);
    }
    let name = format!("..{}", crate::paths::random_uuid());
    let dir = volume.join(&name);
    DirBuilder::new().mode(0o755).create(&dir)?;
    let written = fill(&dir, files).and_then(|()| {
        let new = volume.join("..data_tmp");
        remove(&new)?;
        symlink(&name, &new)?;
        std::fs::rename(&new, volume.join(DATA))
    });
    if let Err(error) = written {
        let _ = std::fs::remove_dir_all(&dir);
        return Err(error);
    }
    tidy(volume, Path::new(&name), files)
}

fn fill(dir: &Path, files: &Files) -> io::Result<()> {
    for file in &files.0 {
        let path = dir.join(&file.path);
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
        }
        let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        out.write_all(&file.data)?;
        // Whatever the umask is.
        out.set_permissions(Permissions::from_mode(file.mode))?;
    }
    Ok(())
}

/// Whether a directory has these files and no others.
fn is_so(dir: &Path, files: &Files) -> io::Result<bool> {
    for file in &files.0 {
        let path = dir.join(&file.path);
        let same = match std::fs::symlink_metadata(&path) {
            Ok(meta) => {
                meta.is_file()
                    && meta.permissions().mode() & 0o7777 == file.mode
                    && meta.len() == file.data.len() as u64
                    && std::fs::read(&path)? == file.data
            }
            Err(_) => false,
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(count(dir)? == files.0.len())
}

fn count(dir: &Path) -> io::Result<usize> {
    let mut files = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        files += if entry.file_type()?.is_dir() { count(&entry.path())? } else { 1 };
    }
    Ok(files)
}

/// Makes the links that programs open, and removes those of keys that are gone and files that no longer count.
fn tidy(volume: &Path, current: &Path, files: &Files) -> io::Result<()> {
    let wanted: BTreeSet<&str> = files.0.iter().filter_map(|file| file.path.split('/').next()).collect();
    for name in &wanted {
        let link = volume.join(name);
        if std::fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in std::fs::read_dir(volume)? {
        let name = entry?.file_name();
        let Some(text) = name.to_str() else { continue };
        let keeps = text == DATA || Path::new(text) == current || wanted.contains(text);
        if !keeps {
            remove(&volume.join(text))?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
