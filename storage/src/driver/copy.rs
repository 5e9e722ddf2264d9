//! A copy of a tree that nothing distinguishes from it.

use std::collections::HashMap;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use crate::layer::{Attributes, copy_attributes, copy_dir_meta, kind, mtime, names, stamps, stat, together};

const READ_DIR: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Copies all of `from` into the empty directory `to`: content (shared where the filesystem can), holes, links between
/// files, owners, modes, times, extended attributes, nodes.
pub(crate) fn copy_tree(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    copy(from, to, false)
}

/// Far deeper than any layer can make it; each level takes two descriptors, and room on the stack.
const MAX_DEPTH: usize = 300;

/// The same of a directory that overlayfs has written to: its marks on directories that hide lower ones are copied too.
pub(crate) fn copy_upper(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    copy(from, to, true)
}

fn copy(from: &OwnedFd, to: &OwnedFd, marks: bool) -> io::Result<()> {
    let mut copy = Copy { root: to.as_fd(), linked: HashMap::new(), marks };
    together(|| copy.level(from, to, &mut Vec::new()))
}

/// The mark (kernel documentation, filesystems/overlayfs.rst, "Whiteouts and opaque directories").
const OPAQUE: &CStr = c"trusted.overlay.opaque";

struct Copy<'a> {
    root: BorrowedFd<'a>,
    /// The first name of each file that has several.
    linked: HashMap<(u64, u64), Vec<u8>>,
    marks: bool,
}

impl Copy<'_> {
    fn level(&mut self, from: &OwnedFd, to: &OwnedFd, path: &mut Vec<u8>) -> io::Result<()> {
        for name in names(from)? {
            let stat = stat(from, name.to_bytes())?;
            let length = path.len();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.to_bytes());
            if kind(&stat) == FileType::Directory {
                if path.iter().filter(|byte| **byte == b'/').count() >= MAX_DEPTH {
                    return Err(io::Error::other("directories are too deep to be copied"));
                }
                fs::mkdirat(to, &name, Mode::RWXU)?;
                let inner_from = fs::openat(from, &name, READ_DIR, Mode::empty())?;
                let inner_to = fs::openat(to, &name, READ_DIR, Mode::empty())?;
                self.level(&inner_from, &inner_to, path)?;
            } else {
                let first =
                    (stat.st_nlink > 1).then(|| self.linked.get(&(stat.st_dev, stat.st_ino))).flatten();
                match first {
                    // Links are within what we copied ourselves, of real directories.
                    Some(first) => fs::linkat(self.root, first.as_slice(), to, &name, AtFlags::empty())?,
                    None => {
                        leaf(from, to, name.to_bytes(), &stat)?;
                        if stat.st_nlink > 1 {
                            self.linked.insert((stat.st_dev, stat.st_ino), path.clone());
                        }
                    }
                }
            }
            path.truncate(length);
        }
        if self.marks
            && let Some(mark) = Attributes::of_fd(from).get(OPAQUE)?
        {
            Attributes::of_fd(to).set(OPAQUE, &mark)?;
        }
        copy_dir_meta(from, to)
    }
}

fn leaf(from: &OwnedFd, to: &OwnedFd, name: &[u8], stat: &Stat) -> io::Result<()> {
    let (uid, gid) = (fs::Uid::from_raw(stat.st_uid), fs::Gid::from_raw(stat.st_gid));
    let mode = Mode::from_raw_mode(stat.st_mode);
    if kind(stat) == FileType::RegularFile {
        let source =
            fs::openat(from, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
        content(&source, &file, stat)?;
        fs::fchown(&file, Some(uid), Some(gid))?;
        fs::fchmod(&file, mode)?;
        copy_attributes(&Attributes::of_fd(&source), &Attributes::of_fd(&file))?;
        fs::futimens(&file, &stamps(mtime(stat)))?;
        return Ok(());
    }
    if kind(stat) == FileType::Symlink {
        fs::symlinkat(fs::readlinkat(from, name, Vec::new())?, to, name)?;
        fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    } else {
        fs::mknodat(to, name, kind(stat), mode, stat.st_rdev)?;
        fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        fs::chmodat(to, name, mode, AtFlags::empty())?;
    }
    copy_attributes(&Attributes::of_name(from, name)?, &Attributes::of_name(to, name)?)?;
    fs::utimensat(to, name, &stamps(mtime(stat)), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

/// By reflink where the filesystem can, else by the kernel, piece of data by piece of data.
pub(crate) fn content(from: &OwnedFd, to: &OwnedFd, stat: &Stat) -> io::Result<()> {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    if size == 0 {
        return Ok(());
    }
    if fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    // A file whose blocks are all there has no holes to look for.
    if u64::try_from(stat.st_blocks).unwrap_or(0) * 512 >= size {
        return range(from, to, 0, size);
    }
    fs::ftruncate(to, size)?;
    let mut at = 0;
    while at < size {
        let start = match fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = fs::seek(from, SeekFrom::Hole(start))?.min(size);
        range(from, to, start, end - start)?;
        at = end;
    }
    Ok(())
}

fn range(from: &OwnedFd, to: &OwnedFd, offset: u64, length: u64) -> io::Result<()> {
    let (mut read, mut write) = (offset, offset);
    let mut left = length;
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(1 << 30).min(1 << 30);
        match fs::copy_file_range(from, Some(&mut read), to, Some(&mut write), want) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(done) => left -= u64::try_from(done).unwrap_or(left),
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                return by_hand(from, to, read, left);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn by_hand(from: &OwnedFd, to: &OwnedFd, mut offset: u64, mut left: u64) -> io::Result<()> {
    let mut buffer = vec![0u8; 128 << 10];
    while left > 0 {
        let want = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let read = rustix::io::pread(from, &mut buffer[..want], offset)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut done = 0;
        while done < read {
            let at = offset + u64::try_from(done).unwrap_or(0);
            done += rustix::io::pwrite(to, &buffer[done..read], at)?;
        }
        let read = u64::try_from(read).unwrap_or(left);
        offset += read;
        left -= read;
    }
    Ok(())
}
