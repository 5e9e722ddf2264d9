//! `tmpcopyup`: what the root has at a place, copied into the filesystem that is mounted there.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use super::path::open_inside;
use crate::error::Failure;

/// Directories nest no deeper in what is copied.
const MAX_DEPTH: usize = 128;

/// Copies the directory at `path`, if there is one, into `to`. No link is followed; how much it is, the new filesystem limits.
pub(super) fn copy(
    root: BorrowedFd<'_>,
    path: &str,
    to: BorrowedFd<'_>,
    data: &[String],
    stage: &str,
) -> Result<(), Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let from = match open_inside(root, path, flags, ResolveFlags::empty()) {
        Ok(from) => from,
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(Failure::errno(stage, "opening what is to be copied", e)),
    };
    let fail = |e: Errno| Failure::errno(stage, "copying what the root has there", e);
    let keep_mode = data.iter().any(|o| o.starts_with("mode="));
    tree(&from, to, keep_mode, 0).map_err(fail)
}

fn tree(from: &OwnedFd, to: BorrowedFd<'_>, keep_mode: bool, depth: usize) -> Result<(), Errno> {
    if depth > MAX_DEPTH {
        return Err(Errno::NAMETOOLONG);
    }
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        let kind = FileType::from_raw_mode(stat.st_mode);
        match kind {
            FileType::Directory => {
                rustix::fs::mkdirat(to, name, mode)?;
                let inner = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let below = rustix::fs::openat(from, name, inner, Mode::empty())?;
                let new = rustix::fs::openat(to, name, inner, Mode::empty())?;
                tree(&below, new.as_fd(), false, depth + 1)?;
                continue;
            }
            FileType::RegularFile => {
                let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let source = rustix::fs::openat(from, name, read, Mode::empty())?;
                let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let target = rustix::fs::openat(to, name, write, mode)?;
                let (mut source, mut target) = (std::fs::File::from(source), std::fs::File::from(target));
                std::io::copy(&mut source, &mut target)
                    .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(&target, to, name)?;
            }
            _ => rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev)?,
        }
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if kind != FileType::Symlink {
            // After the owner, whose change takes set-id bits away; and the file creation mask is none here.
            rustix::fs::chmodat(to, name, mode, AtFlags::empty())?;
        }
    }
    let top = rustix::fs::fstat(from)?;
    // By name: a new mount's descriptor is a place only.
    let (uid, gid) = (Uid::from_raw(top.st_uid), Gid::from_raw(top.st_gid));
    rustix::fs::chownat(to, ".", Some(uid), Some(gid), AtFlags::empty())?;
    if !keep_mode {
        rustix::fs::chmodat(to, ".", Mode::from_raw_mode(top.st_mode & 0o7777), AtFlags::empty())?;
    }
    Ok(())
}
