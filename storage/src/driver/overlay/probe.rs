//! Whether overlayfs works on this machine, on the filesystem of the data root, by really using it.

use std::path::PathBuf;

use rustix::fs::{AtFlags, Mode, OFlags};

use super::OPTIONS;
use crate::driver::DriverError;
use crate::driver::store::{Staging, Store};
use crate::layer::{Attributes, kind, stat};
use crate::mount::{Mount, detached};

/// The options that a mount takes here.
pub(super) fn options(store: &Store) -> Result<Vec<String>, DriverError> {
    let staging = store.stage()?;
    let mut options: Vec<String> = OPTIONS.iter().map(|option| (*option).to_owned()).collect();
    if attempt(&staging, "trusted", &options).is_ok() {
        return Ok(options);
    }
    // In a user namespace `trusted.*` cannot be written; overlayfs then keeps its books in `user.*`, which layers made by
    // us would not have. It is tried for the message alone.
    options.push("userxattr".to_owned());
    let unprivileged = attempt(&staging, "user", &options).is_ok();
    options.pop();
    match attempt(&staging, "again", &options) {
        Ok(()) => Ok(options),
        Err(_) if unprivileged => Err(refused(
            &staging,
            "overlayfs works only with userxattr here (is this a user namespace?), which this version does not support",
        )),
        Err(error) => Err(error),
    }
}

fn refused(staging: &Staging, why: &'static str) -> DriverError {
    DriverError::io("use overlayfs in", staging.path())(std::io::Error::other(why))
}

/// Mounts, removes a lower file, replaces a lower directory, and looks for what should then be in the upper one.
fn attempt(staging: &Staging, name: &str, options: &[String]) -> Result<(), DriverError> {
    let at = staging.mkdir(name, 0o700)?;
    let path = |part: &str| -> PathBuf { at.join(part) };
    for part in ["low", "lower", "lower/dir", "lower/dir/inner", "diff", "work"] {
        crate::driver::store::mkdir(&path(part), 0o700)?;
    }
    let file = path("lower/file");
    std::fs::write(&file, b"").map_err(DriverError::io("write", &file))?;
    let mount = detached::open(&Mount::Overlay {
        lower: vec![path("lower"), path("low")],
        upper: Some(path("diff")),
        work: Some(path("work")),
        options: options.to_vec(),
        on: None,
    })?;
    let io = || DriverError::io("use overlayfs in", &at);
    rustix::fs::unlinkat(&mount, "file", AtFlags::empty()).map_err(io())?;
    rustix::fs::unlinkat(&mount, "dir/inner", AtFlags::REMOVEDIR).map_err(io())?;
    rustix::fs::unlinkat(&mount, "dir", AtFlags::REMOVEDIR).map_err(io())?;
    rustix::fs::mkdirat(&mount, "dir", Mode::from_raw_mode(0o755)).map_err(io())?;
    drop(mount);
    let diff = crate::driver::store::open_dir(&path("diff"))?;
    let whiteout = stat(&diff, b"file").map_err(io())?;
    if kind(&whiteout) != rustix::fs::FileType::CharacterDevice || whiteout.st_rdev != 0 {
        return Err(refused(staging, "it leaves no whiteout"));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(&diff, "dir", flags, Mode::empty()).map_err(io())?;
    let prefix = if options.iter().any(|option| option == "userxattr") {
        c"user.overlay.opaque"
    } else {
        c"trusted.overlay.opaque"
    };
    match Attributes::of_fd(&dir).get(prefix).map_err(io())? {
        Some(value) if value == b"y" => Ok(()),
        _ => Err(refused(staging, "it does not mark a directory opaque")),
    }
}
