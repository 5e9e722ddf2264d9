//! Files and directories as a tar stream, out of one directory and into another.
//!
//! Both ends are reached by descriptor. Neither who wrote the stream nor who changes the directories meanwhile is trusted: no
//! link is followed, a name never goes up, and nothing but directories, regular files, links and fifos comes out.

use std::ffi::OsStr;
use std::io::{self, BufRead, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use thiserror::Error;

use crate::diff::{DiffError, write_path};
use crate::layer::tar::{Entry, Kind, Reader, Source};
use crate::layer::{LayerError, Meta, UnpackLimits, kind, look, open_dir, shown};

#[cfg(test)]
mod tests;

/// Why files could not be copied.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CopyError {
    /// What is to be copied cannot be read, or its reader does not take it.
    #[error(transparent)]
    Pack(#[from] DiffError),
    /// The stream is none, or was cut off.
    #[error(transparent)]
    Stream(#[from] LayerError),
    /// Something that is not taken from a stream.
    #[error("{path:?} is refused: {what}")]
    Refused {
        /// Which entry.
        path: String,
        /// Why.
        what: &'static str,
    },
    /// The filesystem refused something.
    #[error("{path:?}: cannot {action}")]
    Io {
        /// Which entry.
        path: String,
        /// What was tried.
        action: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// What becomes of what comes in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnpackOptions {
    /// The name of the thing that is copied, in place of the one that the stream has for it; `None` for its content alone,
    /// when it is a directory.
    pub name: Option<Vec<u8>>,
    /// Who owns all of it, user and group. Bits of set user and group id and extended attributes go then, for they were
    /// given to another owner. `None` keeps all as it is in the stream.
    pub owner: Option<(u32, u32)>,
}

/// The name in a stream for whatever is copied; who unpacks gives it another.
pub const NAME: &[u8] = b"copy";

/// Writes `name` in `dir`, and all below it, as a stream; an empty name is the directory itself. Links are written as links.
///
/// # Errors
/// See [`CopyError`]. What goes away meanwhile is no error.
pub fn pack(dir: &OwnedFd, name: &[u8], out: impl Write) -> Result<(), CopyError> {
    let limits = UnpackLimits { max_bytes: u64::MAX, ..UnpackLimits::default() };
    Ok(write_path(dir, name, NAME, &limits, out)?)
}

/// Makes in `dir` what the stream holds. Files take the place of files of their name, directories are filled up, and neither
/// takes the other's place.
///
/// # Errors
/// See [`CopyError`]. What was made before stays.
pub fn unpack(dir: &OwnedFd, from: impl BufRead, options: &UnpackOptions) -> Result<(), CopyError> {
    let limits = UnpackLimits { max_bytes: u64::MAX, ..UnpackLimits::default() };
    let mut source = Plain(from);
    let mut reader = Reader::new(&mut source, &limits);
    // Times and modes of directories come last, or what is made in them would change or need them.
    let mut directories: Vec<(Vec<u8>, OwnedFd, Meta)> = Vec::new();
    while let Some(entry) = reader.next()? {
        let parts = components(&entry.path, &entry.path)?;
        let Some((_, below)) = parts.split_first() else { continue };
        let mut path: Vec<&[u8]> = options.name.iter().map(Vec::as_slice).collect();
        path.extend(below);
        let Some((name, above)) = path.split_last() else {
            if entry.kind != Kind::Directory {
                return Err(refused(
                    &entry.path,
                    "only a directory has a content to copy; name the file itself",
                ));
            }
            continue;
        };
        let at = walk(dir, above, &entry.path)?;
        let mut meta = Meta::of(&entry)?;
        if let Some((uid, gid)) = options.owner {
            (meta.uid, meta.gid) = (uid, gid);
            meta.mode &= 0o1777;
            meta.xattrs.clear();
        }
        match &entry.kind {
            Kind::Directory => {
                if let Some(made) = directory(&at, name, &entry.path)? {
                    directories.push((entry.path.clone(), made, meta));
                }
            }
            Kind::Regular => file(&at, name, &entry, &meta, &mut reader)?,
            Kind::Symlink(target) => {
                make_room(&at, name, &entry.path)?;
                rustix::fs::symlinkat(OsStr::from_bytes(target), &at, OsStr::from_bytes(name))
                    .map_err(|e| failed(&entry.path, "make the link", e))?;
                meta.apply_node(&entry.path, &at, name, true)?;
            }
            Kind::Hardlink(target) => {
                let parts = components(target, &entry.path)?;
                let Some((_, below)) = parts.split_first() else {
                    return Err(refused(&entry.path, "a link to nothing"));
                };
                let mut to: Vec<&[u8]> = options.name.iter().map(Vec::as_slice).collect();
                to.extend(below);
                let Some((last, above)) = to.split_last() else {
                    return Err(refused(&entry.path, "a link to nothing"));
                };
                let from = walk(dir, above, &entry.path)?;
                make_room(&at, name, &entry.path)?;
                let (last, name) = (OsStr::from_bytes(last), OsStr::from_bytes(name));
                // Without a flag, a link at its end is linked and not followed.
                rustix::fs::linkat(&from, last, &at, name, AtFlags::empty())
                    .map_err(|e| failed(&entry.path, "make the link", e))?;
            }
            Kind::Fifo => {
                make_room(&at, name, &entry.path)?;
                let mode = Mode::from_raw_mode(0o600);
                rustix::fs::mknodat(&at, OsStr::from_bytes(name), FileType::Fifo, mode, 0)
                    .map_err(|e| failed(&entry.path, "make the fifo", e))?;
                meta.apply_node(&entry.path, &at, name, false)?;
            }
            Kind::Char(..) | Kind::Block(..) => {
                return Err(refused(&entry.path, "devices are not copied; declare them in spec.devices"));
            }
        }
    }
    for (path, made, meta) in directories.iter().rev() {
        meta.apply_dir(path, made, true)?;
    }
    Ok(())
}

struct Plain<R>(R);

impl<R: BufRead> io::Read for Plain<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl<R: BufRead> BufRead for Plain<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.0.consume(amount);
    }
}

impl<R: BufRead> Source for Plain<R> {}

fn refused(path: &[u8], what: &'static str) -> CopyError {
    CopyError::Refused { path: shown(path), what }
}

fn failed(path: &[u8], action: &'static str, source: impl Into<io::Error>) -> CopyError {
    CopyError::Io { path: shown(path), action, source: source.into() }
}

fn components<'a>(path: &'a [u8], of: &[u8]) -> Result<Vec<&'a [u8]>, CopyError> {
    let parts: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    if path.first() == Some(&b'/') || parts.contains(&&b".."[..]) || path.contains(&0) {
        return Err(refused(of, "its path is not one below what is copied"));
    }
    Ok(parts)
}

/// Down to a directory, making what is missing. A link on the way is refused, whoever made it, and wherever it leads.
fn walk(dir: &OwnedFd, parts: &[&[u8]], path: &[u8]) -> Result<OwnedFd, CopyError> {
    let mut at = dir.try_clone().map_err(|e| failed(path, "go to its directory", e))?;
    for part in parts {
        at = match open_dir(&at, part) {
            Err(Errno::NOENT) => {
                let mode = Mode::from_raw_mode(0o755);
                match rustix::fs::mkdirat(&at, OsStr::from_bytes(part), mode) {
                    Ok(()) | Err(Errno::EXIST) => open_dir(&at, part),
                    Err(e) => Err(e),
                }
            }
            other => other,
        }
        .map_err(|e| match e {
            Errno::NOTDIR | Errno::LOOP => refused(
                path,
                "something that is no directory is on the way to it, where it is to be copied to",
            ),
            e => failed(path, "go to its directory", e),
        })?;
    }
    Ok(at)
}

/// The directory, if it is new; one that was there is filled up and stays as it is otherwise.
fn directory(at: &OwnedFd, name: &[u8], path: &[u8]) -> Result<Option<OwnedFd>, CopyError> {
    let made = match rustix::fs::mkdirat(at, OsStr::from_bytes(name), Mode::from_raw_mode(0o700)) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(e) => return Err(failed(path, "make the directory", e)),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(at, OsStr::from_bytes(name), flags, Mode::empty());
    let opened = opened.map_err(|e| match e {
        Errno::NOTDIR | Errno::LOOP => refused(path, "a directory does not take the place of what is none"),
        e => failed(path, "open the directory", e),
    })?;
    Ok(made.then_some(opened))
}

/// Takes away what has the name, unless it is a directory.
fn make_room(at: &OwnedFd, name: &[u8], path: &[u8]) -> Result<(), CopyError> {
    match look(at, name).map_err(|e| failed(path, "look at its place", e))? {
        None => Ok(()),
        Some(stat) if kind(&stat) == FileType::Directory => {
            Err(refused(path, "it does not take the place of a directory"))
        }
        Some(_) => rustix::fs::unlinkat(at, OsStr::from_bytes(name), AtFlags::empty())
            .map_err(|e| failed(path, "take the place of what is there", e)),
    }
}

/// Written under another name and renamed: who has the former file open, or reaches it by a link, keeps it.
fn file<S: Source>(
    at: &OwnedFd,
    name: &[u8],
    entry: &Entry,
    meta: &Meta,
    reader: &mut Reader<'_, S>,
) -> Result<(), CopyError> {
    let path = entry.path.as_slice();
    if entry.sparse.is_some() {
        return Err(refused(path, "a sparse file of GNU tar is not taken"));
    }
    if look(at, name)
        .map_err(|e| failed(path, "look at its place", e))?
        .is_some_and(|stat| kind(&stat) == FileType::Directory)
    {
        return Err(refused(path, "it does not take the place of a directory"));
    }
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let temporary = format!(".stower-copy-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let _ = rustix::fs::unlinkat(at, &temporary, AtFlags::empty());
    let made = rustix::fs::openat(at, &temporary, flags, Mode::from_raw_mode(0o600))
        .map_err(|e| failed(path, "make the file", e))?;
    let written = (|| {
        let mut out = std::fs::File::from(made.try_clone().map_err(|e| failed(path, "write it", e))?);
        loop {
            let piece = reader.data()?;
            if piece.is_empty() {
                break;
            }
            let len = piece.len();
            out.write_all(piece).map_err(|e| failed(path, "write it", e))?;
            reader.used(len);
        }
        meta.apply_file(path, &made, false)?;
        rustix::fs::renameat(at, &temporary, at, OsStr::from_bytes(name))
            .map_err(|e| failed(path, "put it in its place", e))
    })();
    if written.is_err() {
        let _ = rustix::fs::unlinkat(at.as_fd(), &temporary, AtFlags::empty());
    }
    written
}
