//! Paths inside the container's root, resolved by descriptor. Nothing here follows a link out of the root.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};

/// Links followed on one path before it is taken for a loop.
const MAX_LINKS: u32 = 40;

/// Opens what `path` names, with `root` as `/`. Links are followed inside the root, those of `/proc` never.
pub(crate) fn open_inside(
    root: BorrowedFd<'_>,
    path: &str,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | resolve;
    loop {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // The kernel asks to be asked again when a rename ran beside it.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

/// What is made where a path ends and nothing is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Make {
    Dir,
    File,
}

/// Opens the directory `path`, making it and those above it where they are missing (mode 0755).
pub(crate) fn open_dir_making(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd> {
    open_making(root, path, Make::Dir, ResolveFlags::empty())
}

/// Opens `path` as a place (`O_PATH`), making what is missing.
pub(crate) fn open_making(
    root: BorrowedFd<'_>,
    path: &str,
    make: Make,
    resolve: ResolveFlags,
) -> Result<OwnedFd> {
    let flags = OFlags::PATH | if make == Make::Dir { OFlags::DIRECTORY } else { OFlags::empty() };
    match open_inside(root, path, flags, resolve) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    walk_making(root, path, make, resolve.contains(ResolveFlags::NO_SYMLINKS))?;
    // The walk held every directory by descriptor; this one look says that its end is still inside.
    open_inside(root, path, flags, resolve)
}

/// Makes something in the directory `at` and leaves the directory's time of modification as it was: what is made so is a
/// place to mount on and no content, and a layer that is made of this tree is to be the same at any time.
fn keeping_time<T>(at: BorrowedFd<'_>, make: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = rustix::fs::fstat(at);
    let made = make()?;
    if let Ok(before) = before {
        let nanoseconds = i64::try_from(before.st_mtime_nsec).unwrap_or(0);
        let time = rustix::fs::Timespec { tv_sec: before.st_mtime, tv_nsec: nanoseconds };
        let omit = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
        let times = rustix::fs::Timestamps { last_access: omit, last_modification: time };
        // Not worth a container that does not start.
        let _ = rustix::fs::utimensat(at, ".", &times, rustix::fs::AtFlags::empty());
    }
    Ok(made)
}

/// Walks one component at a time and makes what is missing. `..` in a link's target goes back on the walk's own stack,
/// so that it cannot leave the root.
fn walk_making(root: BorrowedFd<'_>, path: &str, make: Make, no_links: bool) -> Result<()> {
    let mut stack: Vec<OwnedFd> = Vec::new();
    let mut todo: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
    let mut links = 0;
    while let Some(name) = todo.pop() {
        match name.as_str() {
            "" | "." => continue,
            ".." => {
                stack.pop();
                continue;
            }
            _ => {}
        }
        let last = todo.iter().all(|c| matches!(c.as_str(), "" | "."));
        let at = stack.last().map_or(root, AsFd::as_fd);
        if make == Make::File && last {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match keeping_time(at, || rustix::fs::openat(at, &*name, flags, Mode::from_raw_mode(0o644))) {
                Ok(_) => return Ok(()),
                Err(Errno::EXIST) => {}
                Err(e) => return Err(e),
            }
        } else {
            match keeping_time(at, || rustix::fs::mkdirat(at, &*name, Mode::from_raw_mode(0o755))) {
                Ok(()) | Err(Errno::EXIST) => {}
                // A read-only filesystem that has the directory says so before it says that it exists.
                Err(Errno::ROFS) => {}
                Err(e) => return Err(e),
            }
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let next = rustix::fs::openat(at, &*name, flags, Mode::empty())
            .map_err(|e| if e == Errno::NOENT { Errno::ROFS } else { e })?;
        if rustix::fs::fstat(&next)?.st_mode & libc::S_IFMT != libc::S_IFLNK {
            stack.push(next);
            continue;
        }
        links += 1;
        if no_links || links > MAX_LINKS {
            return Err(Errno::LOOP);
        }
        let target = rustix::fs::readlinkat(&next, "", Vec::new())?;
        let target = target.to_str().map_err(|_| Errno::ILSEQ)?;
        if target.starts_with('/') {
            stack.clear();
        }
        todo.extend(target.split('/').rev().map(str::to_owned));
    }
    Ok(())
}
