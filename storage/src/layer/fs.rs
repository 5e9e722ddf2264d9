//! The few things that are done to a tree, all by descriptor and without following a symbolic link.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{self, AtFlags, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::dropped::{self, Why};
use super::tar::Time;

const DIR: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A bare name or a path of real directories, as the kernel takes it.
pub(crate) fn os(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

/// The directory `name` in `dir`, for use as a starting point only.
pub(crate) fn open_dir(dir: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    fs::openat(dir, os(name), DIR, Mode::empty())
}

/// Whatever is at `path` below `root`, as long as every component but the last is a real directory below it.
pub(crate) fn open_beneath(root: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    fs::openat2(
        root,
        os(path),
        flags | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS,
    )
}

/// The directory at `path` below `root`, opened so that it can be read and changed.
pub(crate) fn read_dir_beneath(root: impl AsFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    open_beneath(root, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW)
}

/// Of `name` in `dir` itself; an empty name means `dir`.
pub(crate) fn stat(dir: impl AsFd, name: &[u8]) -> Result<Stat, Errno> {
    let empty = if name.is_empty() { AtFlags::EMPTY_PATH } else { AtFlags::empty() };
    fs::statat(dir, os(name), AtFlags::SYMLINK_NOFOLLOW | empty)
}

/// Whether a thing exists, and what it is.
pub(crate) fn look(dir: impl AsFd, name: &[u8]) -> Result<Option<Stat>, Errno> {
    match stat(dir, name) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The type bits of a mode.
pub(crate) fn kind(stat: &Stat) -> fs::FileType {
    fs::FileType::from_raw_mode(stat.st_mode)
}

/// overlayfs's own whiteout (kernel documentation, filesystems/overlayfs.rst, "whiteouts and opaque directories").
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    kind(stat) == fs::FileType::CharacterDevice && stat.st_rdev == 0
}

/// Access and modification time both `time`.
pub(crate) fn stamps(time: Time) -> Timestamps {
    let spec = Timespec { tv_sec: time.seconds, tv_nsec: i64::from(time.nanos) };
    Timestamps { last_access: spec, last_modification: spec }
}

/// The modification time in `stat`.
pub(crate) fn mtime(stat: &Stat) -> Time {
    Time { seconds: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) }
}

/// Ids that came out of a checked header.
pub(crate) fn owner(uid: u32, gid: u32) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

/// The names of all entries of a directory.
pub(crate) fn names(dir: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut out = Vec::new();
    for entry in fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_bytes() != b"." && name.to_bytes() != b".." {
            out.push(name.to_owned());
        }
    }
    Ok(out)
}

/// A place whose extended attributes are read and written: a descriptor that is open for reading, or a name in a
/// directory (for links and nodes, which cannot be opened), reached through `/proc` without following it.
#[derive(Debug)]
pub(crate) enum Attributes<'a> {
    Fd(BorrowedFd<'a>),
    Path(CString),
}

impl<'a> Attributes<'a> {
    pub(crate) fn of_fd(fd: &'a impl AsFd) -> Self {
        Self::Fd(fd.as_fd())
    }

    pub(crate) fn of_name(dir: impl AsFd, name: &[u8]) -> Result<Self, Errno> {
        let mut path = format!("/proc/thread-self/fd/{}/", dir.as_fd().as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        CString::new(path).map(Self::Path).map_err(|_| Errno::INVAL)
    }

    pub(crate) fn set(&self, name: &CStr, value: &[u8]) -> Result<(), Errno> {
        let flags = fs::XattrFlags::empty();
        match self {
            Self::Fd(fd) => fs::fsetxattr(fd, name, value, flags),
            Self::Path(path) => fs::lsetxattr(path, name, value, flags),
        }
    }

    pub(crate) fn remove(&self, name: &CStr) -> Result<(), Errno> {
        let done = match self {
            Self::Fd(fd) => fs::fremovexattr(fd, name),
            Self::Path(path) => fs::lremovexattr(path, name),
        };
        match done {
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            other => other,
        }
    }

    pub(crate) fn get(&self, name: &CStr) -> Result<Option<Vec<u8>>, Errno> {
        // The kernel's own limit of a value (XATTR_SIZE_MAX).
        let mut value = vec![0u8; 64 << 10];
        let read = match self {
            Self::Fd(fd) => fs::fgetxattr(fd, name, &mut value[..]),
            Self::Path(path) => fs::lgetxattr(path, name, &mut value[..]),
        };
        match read {
            Ok(length) => {
                value.truncate(length);
                Ok(Some(value))
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All names, sorted.
    pub(crate) fn list(&self) -> Result<Vec<CString>, Errno> {
        let needed = match self {
            Self::Fd(fd) => fs::flistxattr_query(fd),
            Self::Path(path) => fs::llistxattr_query(path),
        };
        match needed {
            Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
        // XATTR_LIST_MAX.
        let mut list = vec![0u8; 64 << 10];
        let length = match self {
            Self::Fd(fd) => fs::flistxattr(fd, &mut list[..])?,
            Self::Path(path) => fs::llistxattr(path, &mut list[..])?,
        };
        let mut names: Vec<CString> = list[..length]
            .split(|b| *b == 0)
            .filter(|name| !name.is_empty())
            .filter_map(|name| CString::new(name).ok())
            .collect();
        names.sort();
        Ok(names)
    }
}

/// Attributes with which overlayfs keeps its books; they belong to a driver, never to content.
pub(crate) fn is_overlay_attribute(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

/// Copies owner, mode, times and extended attributes of the directory `from` to the directory `to`.
pub(crate) fn copy_dir_meta(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let stat = fs::fstat(from)?;
    let (uid, gid) = owner(stat.st_uid, stat.st_gid);
    fs::fchown(to, uid, gid)?;
    fs::fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    copy_attributes(&Attributes::of_fd(from), &Attributes::of_fd(to))?;
    fs::futimens(to, &stamps(mtime(&stat)))?;
    Ok(())
}

/// Copies all extended attributes but overlayfs's own, and those that the filesystem there does not take.
pub(crate) fn copy_attributes(from: &Attributes<'_>, to: &Attributes<'_>) -> io::Result<()> {
    for name in from.list()? {
        if is_overlay_attribute(name.to_bytes()) {
            continue;
        }
        let Some(value) = from.get(&name)? else { continue };
        match to.set(&name, &value) {
            Ok(()) => {}
            // A capability that is lost would show only when the program runs.
            Err(Errno::OPNOTSUPP) if name.to_bytes() != b"security.capability" => {
                dropped::note(Why::Unsupported, b"", name.to_bytes());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
