//! What is made once and kept outside the checkout: Debian packages, trees, images, registry data.
//!
//! Everything is named by a key of what it was made from, so a stale entry is never used; the whole folder may be
//! removed at any time.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::process;

/// The cache folder: `$STOWER_CACHE`, by default `/var/cache/stower`.
pub fn root() -> Result<PathBuf> {
    let root =
        std::env::var_os("STOWER_CACHE").map_or_else(|| PathBuf::from("/var/cache/stower"), PathBuf::from);
    fs::create_dir_all(&root).with_context(|| {
        format!("make the cache folder {} (or name another in STOWER_CACHE)", root.display())
    })?;
    Ok(root)
}

/// Lower-case hexadecimal SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// SHA-256 of a file's content, by coreutils: many times faster than an unoptimised build of ours.
pub fn sha256_file(path: &Path) -> Result<String> {
    let text = process::run("sha256sum", [Path::new("--"), path])?;
    text.get(..64)
        .map(str::to_owned)
        .with_context(|| format!("sha256sum of {} printed {text:?}", path.display()))
}

/// Holds the cache for itself while it lives: two test runs never prepare the same entry at once.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "the lock is held by the open descriptor")] File);

/// Waits for the cache's lock.
pub fn lock() -> Result<Lock> {
    lock_of("lock")
}

/// Waits for a lock of its own, for what takes many minutes to make and need not hold up the rest.
pub fn lock_of(name: &str) -> Result<Lock> {
    let path = root()?.join(name);
    let file = File::create(&path).with_context(|| format!("open {}", path.display()))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
        .with_context(|| format!("lock {}", path.display()))?;
    Ok(Lock(file))
}

/// The folder `<cache>/<kind>/<key>`, made by `make` in a folder beside it when it is not there yet, and renamed
/// into place only when complete. The caller holds the [`lock`].
pub fn once(kind: &str, key: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let parent = root()?.join(kind);
    let done = parent.join(key);
    if done.exists() {
        return Ok(done);
    }
    fs::create_dir_all(&parent).with_context(|| format!("make {}", parent.display()))?;
    let staging = parent.join(format!(".{key}.new"));
    if staging.exists() {
        fs::remove_dir_all(&staging)
            .with_context(|| format!("remove the unfinished {}", staging.display()))?;
    }
    fs::create_dir(&staging).with_context(|| format!("make {}", staging.display()))?;
    make(&staging)?;
    fs::rename(&staging, &done).with_context(|| format!("rename {} into place", staging.display()))?;
    Ok(done)
}
