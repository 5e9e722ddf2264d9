//! Removing a tree that a container made, as deep and as wide as it likes: memory grows with the depth alone, and two
//! descriptors are open at a time.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::fs::os;

/// Names that are read at once; a directory of more is read again when these are gone.
const BATCH: usize = 4096;

const INTO: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory that is being emptied.
struct Level {
    /// Its name in the one above.
    name: CString,
    id: (u64, u64),
    names: Vec<CString>,
    /// There may be more than was read.
    more: bool,
}

/// Removes `name` with all that is in it. That another removes it at the same time is no error; that another moves it is.
pub(crate) fn remove_all(dir: impl AsFd, name: &[u8]) -> Result<(), Errno> {
    let dir = dir.as_fd();
    match fs::unlinkat(dir, os(name), AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        Err(Errno::NOENT) => return Ok(()),
        other => return other,
    }
    let mut at = match fs::openat(dir, os(name), INTO, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let mut stack = vec![level(&at, CString::new(name).map_err(|_| Errno::INVAL)?)?];
    while let Some(level) = stack.last_mut() {
        if let Some(inner) = empty(&at, level)? {
            at = inner.0;
            stack.push(inner.1);
            continue;
        }
        let Some(done) = stack.pop() else { break };
        let removed = match stack.last() {
            None => fs::unlinkat(dir, &done.name, AtFlags::REMOVEDIR),
            Some(above) => {
                // Held by what it is, not by its place: `..` of what was moved is elsewhere.
                let up = fs::openat(&at, "..", INTO, Mode::empty())?;
                if identity(&up)? != above.id {
                    return Err(Errno::STALE);
                }
                at = up;
                fs::unlinkat(&at, &done.name, AtFlags::REMOVEDIR)
            }
        };
        match removed {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Removes what is no directory, and gives the next one that is.
fn empty(at: &OwnedFd, level: &mut Level) -> Result<Option<(OwnedFd, Level)>, Errno> {
    loop {
        while let Some(name) = level.names.pop() {
            match fs::unlinkat(at, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR) => match fs::openat(at, &name, INTO, Mode::empty()) {
                    Ok(inner) => {
                        let below = self::level(&inner, name)?;
                        return Ok(Some((inner, below)));
                    }
                    Err(Errno::NOENT) => {}
                    Err(error) => return Err(error),
                },
                Err(error) => return Err(error),
            }
        }
        if !level.more {
            return Ok(None);
        }
        (level.names, level.more) = batch(at)?;
    }
}

fn level(at: &OwnedFd, name: CString) -> Result<Level, Errno> {
    let (names, more) = batch(at)?;
    Ok(Level { name, id: identity(at)?, names, more })
}

fn identity(of: &OwnedFd) -> Result<(u64, u64), Errno> {
    fs::fstat(of).map(|stat| (stat.st_dev, stat.st_ino))
}

fn batch(at: &OwnedFd) -> Result<(Vec<CString>, bool), Errno> {
    let mut out = Vec::new();
    for entry in fs::Dir::read_from(at)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_bytes() != b"." && name.to_bytes() != b".." {
            if out.len() == BATCH {
                return Ok((out, true));
            }
            out.push(name.to_owned());
        }
    }
    Ok((out, false))
}
