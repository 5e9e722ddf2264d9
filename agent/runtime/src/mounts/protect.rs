//! What the container may not see or change: masked and read-only paths, and its own view of the groups.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, ResolveFlags};
use rustix::io::Errno;

use super::attach::{INERT, move_to, refuse_shared, set_attrs, target};
use super::options::{NODEV, RDONLY};
use super::path::open_inside;
use super::tree;
use crate::error::{Failure, FailureKind};
use crate::job::{Job, MountJob};

/// Applies masked and read-only paths. Every path is opened once, without following a link, and what was opened is
/// what is covered.
pub(crate) fn protect(root: BorrowedFd<'_>, job: &Job) -> Result<(), Failure> {
    for path in &job.readonly_paths {
        let stage = format!("read-only path {path}");
        let Some(place) = open(root, path, &stage)? else { continue };
        refuse_shared(job, place.as_fd(), &stage)?;
        let copy = tree::bind_fd(place.as_fd(), true)
            .map_err(|e| Failure::errno(&*stage, "copying the mount", e))?;
        set_attrs(&stage, copy.as_fd(), true, RDONLY, 0, 0)?;
        move_to(&copy, place.as_fd()).map_err(|e| Failure::errno(&*stage, "attaching", e))?;
    }
    // One empty directory and one null device cover them all. The first cover is the thing itself and the others are copies of
    // it, since before 6.15 the kernel copies only what is attached.
    let mut empty: Option<OwnedFd> = None;
    let mut null: Option<OwnedFd> = None;
    for path in &job.masked_paths {
        let stage = format!("masked path {path}");
        let Some(place) = open(root, path, &stage)? else { continue };
        refuse_shared(job, place.as_fd(), &stage)?;
        let fail = |e| Failure::errno(&*stage, "looking at it", e);
        let is_dir = rustix::fs::fstat(&place).map_err(fail)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
        let first = if is_dir { &mut empty } else { &mut null };
        let attach = |cover: &OwnedFd| {
            move_to(cover, place.as_fd()).map_err(|e| Failure::errno(&*stage, "attaching", e))
        };
        if let Some(first) = first {
            let copy = tree::bind_fd(first.as_fd(), false);
            attach(&copy.map_err(|e| Failure::errno(&*stage, "copying the cover", e))?)?;
        } else {
            let cover = if is_dir { empty_directory(&stage)? } else { null_device(&stage)? };
            attach(&cover)?;
            *first = Some(cover);
        }
    }
    Ok(())
}

fn empty_directory(stage: &str) -> Result<OwnedFd, Failure> {
    tree::filesystem(stage, "tmpfs", "tmpfs", &["mode=555".to_owned()], RDONLY | INERT)
}

fn null_device(stage: &str) -> Result<OwnedFd, Failure> {
    let device = crate::device::open_null()?;
    let cover = tree::bind_fd(device.as_fd(), false)
        .map_err(|e| Failure::errno(stage, "copying the null device", e))?;
    set_attrs(stage, cover.as_fd(), false, (INERT & !NODEV) | RDONLY, 0, 0)?;
    Ok(cover)
}

/// `None` when there is no such path, so nothing to protect.
fn open(root: BorrowedFd<'_>, path: &str, stage: &str) -> Result<Option<OwnedFd>, Failure> {
    match open_inside(root, path, OFlags::PATH, ResolveFlags::NO_SYMLINKS) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(Errno::LOOP) => Err(Failure::new(
            stage,
            FailureKind::UnsafePath,
            "the path leads through a symbolic link, so protecting it would protect something else",
        )),
        Err(e) => Err(Failure::errno(stage, "opening it", e)),
    }
}

/// The container's own groups: cgroup2 alone, or a directory of hierarchies as a version 1 host has it. Read-only for
/// every container of the agent; each a copy of the container's own group, so that nothing above it can be reached.
pub(super) fn cgroup(root: BorrowedFd<'_>, job: &Job, mount: &MountJob, stage: &str) -> Result<(), Failure> {
    let attrs = INERT | (mount.attrs.set & RDONLY);
    let group = |path: &std::path::Path| -> Result<OwnedFd, Failure> {
        let fd = tree::bind(stage, path, false)?;
        set_attrs(stage, fd.as_fd(), false, attrs, 0, 0)?;
        Ok(fd)
    };
    if job.cgroup.v1.is_empty() {
        let Some(v2) = &job.cgroup.v2 else { return Ok(()) };
        let fd = tree::bind(stage, v2, false)?;
        let place = target(root, job, mount, true, fd.as_fd(), stage)?;
        set_attrs(stage, fd.as_fd(), false, attrs, 0, 0)?;
        return move_to(&fd, place.as_fd()).map_err(|e| Failure::errno(stage, "attaching", e));
    }
    let top = tree::filesystem(stage, "tmpfs", "cgroup", &["mode=755".to_owned()], INERT)?;
    let place = target(root, job, mount, true, top.as_fd(), stage)?;
    move_to(&top, place.as_fd()).map_err(|e| Failure::errno(stage, "attaching", e))?;
    let dir = rustix::fs::Mode::from_raw_mode(0o755);
    // As on a hybrid host, cgroup2 stands beside the others.
    let unified = job.cgroup.v2.as_ref().map(|dir| ("unified", dir));
    for (name, path) in job.cgroup.v1.iter().map(|g| (g.name.as_str(), &g.dir)).chain(unified) {
        let fail = |e| Failure::errno(stage, format_args!("hierarchy {name}"), e);
        rustix::fs::mkdirat(&top, name, dir).map_err(fail)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let at = rustix::fs::openat(&top, name, flags, rustix::fs::Mode::empty()).map_err(fail)?;
        move_to(&group(path)?, at.as_fd()).map_err(fail)?;
        for one in name.split(',').filter(|one| *one != name) {
            rustix::fs::symlinkat(name, &top, one).map_err(fail)?;
        }
    }
    set_attrs(stage, top.as_fd(), false, mount.attrs.set & RDONLY, 0, 0)
}
