//! Paths inside a volume. What a container has written there cannot lead out of it, whatever moves meanwhile: the kernel
//! refuses at every step (`openat2(2)`, `RESOLVE_BENEATH`), and what was opened is what is mounted.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Failure, FailureKind};
use crate::job::SubPath;

/// How often the kernel may ask to be asked again, because something was renamed meanwhile, before that is an error.
const MAX_TRIES: u32 = 4096;
/// For paths of a manifest in what a container has written.
const UNTRUSTED: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);
/// For directories of our own.
const TRUSTED: ResolveFlags = UNTRUSTED.union(ResolveFlags::NO_SYMLINKS);

/// The directory of a tree that is the volume.
pub(super) fn volume(stage: &str, top: BorrowedFd<'_>, inside: &str) -> Result<OwnedFd, Failure> {
    open(top, inside, OFlags::DIRECTORY, TRUSTED).map_err(|e| match e {
        Errno::LOOP | Errno::XDEV | Errno::NOTDIR => Failure {
            errno: e.raw_os_error(),
            ..Failure::new(
                stage,
                FailureKind::UnsafePath,
                format!(
                    "`{inside}` of the volume's filesystem is no plain directory; look at what has changed it"
                ),
            )
        },
        e => Failure::errno(stage, format_args!("`{inside}` of the volume's filesystem"), e),
    })
}

/// The part of a volume that is to be mounted, made as a directory if that is asked for.
pub(super) fn sub_path(stage: &str, volume: BorrowedFd<'_>, sub: &SubPath) -> Result<OwnedFd, Failure> {
    let opened = match open(volume, &sub.path, OFlags::empty(), UNTRUSTED) {
        Err(Errno::NOENT) if sub.create => make(volume, &sub.path),
        other => other,
    };
    opened.map_err(|e| explain(stage, sub, e))
}

fn explain(stage: &str, sub: &SubPath, e: Errno) -> Failure {
    let path = &sub.path;
    let (kind, message) = match e {
        Errno::XDEV => (
            FailureKind::UnsafePath,
            format!(
                "sub path `{path}` leads out of the volume; a link in it may only lead, relatively, to a place in it"
            ),
        ),
        Errno::LOOP => (
            FailureKind::UnsafePath,
            format!("sub path `{path}` leads through a loop of links, or a link of /proc"),
        ),
        Errno::NOTDIR => (
            FailureKind::UnsafePath,
            format!("sub path `{path}` of the volume leads through something that is no directory"),
        ),
        Errno::NOENT if sub.create => (
            FailureKind::UnsafePath,
            format!(
                "sub path `{path}` of the volume leads through a link to nothing; remove the link or make what it names"
            ),
        ),
        Errno::NOENT => {
            (FailureKind::Other, format!("sub path `{path}` is not in the volume; make it first"))
        }
        Errno::AGAIN => (
            FailureKind::Other,
            format!("sub path `{path}` cannot be told: the volume's directories are renamed all the time"),
        ),
        e => return Failure::errno(stage, format_args!("sub path `{path}` of the volume"), e),
    };
    Failure { errno: e.raw_os_error(), ..Failure::new(stage, kind, message) }
}

fn open(top: BorrowedFd<'_>, path: &str, flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | flags;
    for _ in 0..MAX_TRIES {
        match rustix::fs::openat2(top, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// Makes one component at a time, each in a directory that was just opened beneath the volume, and opens each from the
/// volume's top again. `mkdirat` follows no link at its end.
///
/// A new directory belongs to whom the volume's top belongs to, with the same mode: so the user that a volume is made for
/// can write in a part of it too. It has its owner from the first moment; a `chown` after it could be led to another.
fn make(volume: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    let top = rustix::fs::fstat(volume)?;
    let mode = Mode::from_raw_mode(top.st_mode & 0o1777);
    let mut parent: Option<OwnedFd> = None;
    let mut so_far = String::new();
    for part in path.split('/') {
        if !so_far.is_empty() {
            so_far.push('/');
        }
        so_far.push_str(part);
        let next = match open(volume, &so_far, OFlags::DIRECTORY, UNTRUSTED) {
            Err(Errno::NOENT) => {
                let at = parent.as_ref().map_or(volume, AsFd::as_fd);
                let made = crate::start::sys::as_owner(top.st_uid, top.st_gid, || {
                    rustix::fs::mkdirat(at, part, mode)
                });
                match made.map_err(|_| Errno::PERM)? {
                    // Somebody else made it, or it is a link to nothing, which the next line tells.
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(e),
                }
                open(volume, &so_far, OFlags::DIRECTORY, UNTRUSTED)?
            }
            other => other?,
        };
        parent = Some(next);
    }
    parent.ok_or(Errno::NOENT)
}
