//! The directory in which a volume's `data/` is, wherever that is: how data get there.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use super::error::room;
use super::record::Record;
use super::{FillSource, VolumeError, VolumeKey, quota, tmpfs};
use crate::driver::copy::copy_tree;
use crate::driver::store::usage_of;
use crate::ext4::Mounted;
use crate::failpoint::{self, failpoint};
use crate::layer::{kind, look, remove_all};

pub(super) const DATA: &str = "data";
const NEW: &str = "data.new";
const DEFAULT_MODE: u32 = 0o755;
const READ_DIR: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// How often a path is looked up again when something is renamed meanwhile (openat2(2), EAGAIN).
const LOOKUPS: usize = 128;

/// See the module.
#[derive(Debug)]
pub(super) struct Home {
    root: OwnedFd,
    /// Keeps the loop device of an image.
    device: Option<crate::loopdev::Device>,
    /// What is made here belongs to this XFS project.
    project: Option<u32>,
    /// For messages.
    at: PathBuf,
}

impl Home {
    pub(super) fn directory(at: PathBuf, project: Option<u32>) -> Result<Self, VolumeError> {
        Ok(Self { root: tmpfs::open(&at)?, device: None, project, at })
    }

    pub(super) fn image(mounted: Mounted, at: PathBuf) -> Self {
        Self { root: mounted.root, device: Some(mounted.device), project: None, at }
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    pub(super) fn has_data(&self) -> Result<bool, VolumeError> {
        let found = look(&self.root, DATA.as_bytes()).map_err(VolumeError::io("look into", &self.at))?;
        Ok(found.is_some_and(|stat| kind(&stat) == FileType::Directory))
    }

    /// Removes what a fill that did not end has left.
    pub(super) fn clear(&self) -> Result<(), VolumeError> {
        remove_all(&self.root, NEW.as_bytes()).map_err(VolumeError::io("remove data.new in", &self.at))
    }

    pub(super) fn begin(&self) -> Result<(), VolumeError> {
        rustix::fs::mkdirat(&self.root, NEW, Mode::RWXU)
            .map_err(VolumeError::io("make data.new in", &self.at))?;
        if let Some(project) = self.project {
            quota::hand_on(&self.dir(NEW)?, project)
                .map_err(VolumeError::io("set the project of data.new in", &self.at))?;
        }
        failpoint!("volume.fill_begun");
        Ok(())
    }

    fn dir(&self, name: &str) -> Result<OwnedFd, VolumeError> {
        rustix::fs::openat(&self.root, name, READ_DIR, Mode::empty())
            .map_err(VolumeError::io("open the data in", &self.at))
    }

    /// Owner and mode of an empty `data/`.
    pub(super) fn own_new(&self, record: &Record) -> Result<(), VolumeError> {
        let mut record = record.clone();
        record.mode = record.mode.or(Some(DEFAULT_MODE));
        let dir = self.dir(NEW)?;
        set_owner(&dir, &record)
            .and_then(|()| rustix::fs::fsync(&dir))
            .map_err(VolumeError::io("set the owner of the data in", &self.at))
    }

    /// Owner and mode of data that are there, where others are asked for.
    pub(super) fn own(&self, record: &Record) -> Result<(), VolumeError> {
        if self.has_data()? {
            set_owner(&self.dir(DATA)?, record)
                .map_err(VolumeError::io("set the owner of the data in", &self.at))?;
        }
        Ok(())
    }

    /// Copies the source. `below` is on the filesystem that an image takes its room from.
    pub(super) fn copy(
        &self,
        key: &VolumeKey,
        source: &FillSource<'_>,
        record: &Record,
        below: &Path,
    ) -> Result<(), VolumeError> {
        let Some(from) = find(source)? else { return self.own_new(record) };
        if self.device.is_some() {
            // A filesystem that loses its disk's room while it writes is broken until it is mounted anew.
            let (needed, (_, available)) = (self.needed(&from)?, room(below)?);
            if needed > available {
                let at = below.to_owned();
                return Err(VolumeError::Full { key: key.clone(), at, needed, available });
            }
        }
        let to = self.dir(NEW)?;
        let copied = copy_tree(&from, &to)
            .and_then(|()| {
                failpoint!("volume.fill_copied");
                set_owner(&to, record)?;
                if failpoint::skipped("skip.sync.fill") {
                    return Ok(());
                }
                Ok(rustix::fs::syncfs(&self.root)?)
            })
            .map_err(VolumeError::io("copy the image's content into", &self.at));
        match copied {
            Err(error) if error.is_full() => {
                // The directory that is in the project tells its room, removed or not; the one above the whole disk's.
                let left = self.project.is_some().then_some(to);
                self.clear()?;
                let stat = rustix::fs::fstatvfs(left.as_ref().unwrap_or(&self.root))
                    .map_err(VolumeError::io("measure", &self.at))?;
                Err(VolumeError::Full {
                    key: key.clone(),
                    at: self.at.clone(),
                    needed: self.needed(&from)?,
                    available: stat.f_bavail.saturating_mul(stat.f_frsize),
                })
            }
            other => other,
        }
    }

    /// Bytes that the tree takes where it is.
    fn needed(&self, from: &OwnedFd) -> Result<u64, VolumeError> {
        let from = rustix::fs::openat(from, ".", READ_DIR, Mode::empty())
            .map_err(VolumeError::io("measure what goes into", &self.at))?;
        let usage = usage_of(from, Path::new("the image"));
        let usage = usage
            .map_err(|error| VolumeError::io("measure what goes into", &self.at)(io::Error::other(error)))?;
        Ok(usage.bytes)
    }

    /// Gives what is in `data.new/`, all of it on disk, its name.
    pub(super) fn finish(&self) -> Result<(), VolumeError> {
        failpoint!("volume.fill_synced");
        rustix::fs::renameat_with(&self.root, NEW, &self.root, DATA, RenameFlags::NOREPLACE)
            .map_err(VolumeError::io("name the data in", &self.at))?;
        failpoint!("volume.fill_renamed");
        rustix::fs::fsync(&self.root).map_err(VolumeError::io("sync", &self.at))
    }
}

/// Where the record asks for another owner or mode than there is.
fn set_owner(dir: &OwnedFd, record: &Record) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(dir)?;
    let (uid, gid) = (record.uid.unwrap_or(stat.st_uid), record.gid.unwrap_or(stat.st_gid));
    let mode = record.mode.unwrap_or(stat.st_mode) & 0o7777;
    if (uid, gid) != (stat.st_uid, stat.st_gid) {
        rustix::fs::fchown(dir, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    // A change of owner may take bits away.
    if mode != rustix::fs::fstat(dir)?.st_mode & 0o7777 {
        rustix::fs::fchmod(dir, Mode::from_raw_mode(mode))?;
    }
    Ok(())
}

/// The source's directory. Links in the image, which is hostile, lead nowhere but into the image.
fn find(source: &FillSource<'_>) -> Result<Option<OwnedFd>, VolumeError> {
    let (image, path) = (source.image.to_owned(), source.path.to_owned());
    let relative = source.path.trim_start_matches('/');
    let relative = if relative.is_empty() { "." } else { relative };
    let open = || {
        rustix::fs::openat2(
            source.tree,
            relative,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    };
    let mut found = open();
    for _ in 0..LOOKUPS {
        if !matches!(found, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
        found = open();
    }
    match found {
        Ok(dir) => Ok(Some(dir)),
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::NOTDIR) => Err(VolumeError::NotDirectory { image, path }),
        Err(error) => Err(VolumeError::ImagePath { image, path, source: error.into() }),
    }
}
