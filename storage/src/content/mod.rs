//! Blobs by digest, as an OCI image layout.
//!
//! ```text
//! oci-layout       {"imageLayoutVersion":"1.0.0"}
//! index.json       names, one entry a line
//! ballast          room for the next index.json on a full disk
//! blobs/sha256/H   whole and verified, else it would not have this name
//! ingest/H         the beginning of a blob that is being fetched; continued by the next attempt
//! ingest/tmp-N     content whose digest is not known yet; void after a restart
//! ```
//!
//! A blob is written in `ingest/`, verified, fsynced and renamed; then the directory is fsynced once for all blobs of
//! an image, and only then is the image named in `index.json`. So a name that is there after a power cut has its
//! blobs, and blobs without a name are garbage. A content store has one process; the caller holds its lock.

mod gc;
mod ingest;
mod names;

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

pub(crate) use gc::Lease;
pub use gc::Swept;
pub(crate) use ingest::{CopyError, Ingest, Verified};
use names::Names;
pub(crate) use names::Record;

use crate::digest::{Digest, VerifyReader, WrongContent};

/// How long the beginning of a blob is kept for the next attempt.
const PARTIAL_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Something in the content store went wrong.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// The blob is not there.
    #[error("blob {0} is not in the content store")]
    Missing(Digest),
    /// The blob's bytes are not the promised ones; it has been removed, to be fetched again.
    #[error("blob {digest} is damaged")]
    Corrupt {
        /// Which.
        digest: Digest,
        /// How.
        source: WrongContent,
    },
    /// Larger than what is wanted of it.
    #[error("blob {digest} has {size} bytes, more than the {max} that are allowed")]
    TooLarge {
        /// Which.
        digest: Digest,
        /// Its bytes.
        size: u64,
        /// Allowed.
        max: u64,
    },
    /// The disk is full.
    #[error("no space left on the filesystem of {}: free some, or remove images", path.display())]
    NoSpace {
        /// What was written.
        path: PathBuf,
        /// The system's word.
        source: Arc<io::Error>,
    },
    /// Anything else that the filesystem said.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's word.
        source: Arc<io::Error>,
    },
}

impl ContentError {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| {
            let (path, source) = (path.to_owned(), Arc::new(source));
            match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { path, source },
                _ => Self::Io { what, path, source },
            }
        }
    }
}

/// The blobs and names of one data root.
#[derive(Debug)]
pub struct ContentStore {
    root: PathBuf,
    blobs: PathBuf,
    ingest: PathBuf,
    temporary: AtomicU64,
    names: Mutex<Names>,
    leases: Mutex<HashMap<Digest, usize>>,
    /// One fetch of a blob at a time; the others wait and find it there.
    fetching: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

/// A panic elsewhere leaves maps and counters whole: each is changed in one step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ContentStore {
    /// Opens the store in `root`, making it (mode 0700) where it is not, and removes what an earlier process left
    /// half done.
    pub fn open(root: &Path) -> Result<Self, ContentError> {
        let (blobs, ingest) = (root.join("blobs/sha256"), root.join("ingest"));
        for dir in [root, &blobs, &ingest] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .map_err(ContentError::io("make directory", dir))?;
        }
        let marker = root.join("oci-layout");
        if !marker.exists() {
            write_durably(&marker, b"{\"imageLayoutVersion\":\"1.0.0\"}\n")?;
        }
        clean_ingest(&ingest)?;
        let names = Names::load(root.join("index.json"))?;
        Ok(Self {
            root: root.to_owned(),
            blobs,
            ingest,
            temporary: AtomicU64::new(0),
            names: Mutex::new(names),
            leases: Mutex::default(),
            fetching: Mutex::default(),
        })
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    /// The size in bytes of a blob that is there.
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>, ContentError> {
        let path = self.blob_path(digest);
        match fs::symlink_metadata(&path) {
            Ok(meta) => Ok(meta.is_file().then_some(meta.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ContentError::io("look at", &path)(error)),
        }
    }

    /// Whether the blob is there with this size. One of another size is damaged, and removed.
    pub fn has(&self, digest: &Digest, size: u64) -> Result<bool, ContentError> {
        match self.size(digest)? {
            Some(found) if found == size => Ok(true),
            Some(_) => self.remove_blob(digest).map(|()| false),
            None => Ok(false),
        }
    }

    /// A small blob as a whole, verified. A damaged one is removed.
    pub fn read(&self, digest: &Digest, max: u64) -> Result<Vec<u8>, ContentError> {
        let (path, file, size) = self.open_file(digest)?;
        if size > max {
            return Err(ContentError::TooLarge { digest: *digest, size, max });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        match VerifyReader::new(file, *digest, Some(size)).read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(error) => match WrongContent::of(&error) {
                Some(wrong) => {
                    let source = wrong.clone();
                    self.remove_blob(digest)?;
                    Err(ContentError::Corrupt { digest: *digest, source })
                }
                None => Err(ContentError::io("read", &path)(error)),
            },
        }
    }

    /// The blob as a stream that fails at its end when the bytes are not the promised ones. The caller then calls
    /// [`ContentStore::remove_blob`].
    pub fn reader(&self, digest: &Digest) -> Result<VerifyReader<FileReader>, ContentError> {
        let (_, file, size) = self.open_file(digest)?;
        Ok(VerifyReader::new(FileReader::new(Arc::new(file)), *digest, Some(size)))
    }

    fn open_file(&self, digest: &Digest) -> Result<(PathBuf, File, u64), ContentError> {
        let path = self.blob_path(digest);
        let opened = OpenOptions::new().read(true).custom_flags(libc_nofollow()).open(&path);
        let file = opened.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ContentError::Missing(*digest),
            _ => ContentError::io("open", &path)(error),
        })?;
        let size = file.metadata().map_err(ContentError::io("look at", &path))?.len();
        Ok((path, file, size))
    }

    /// Puts a small blob, durably but for its directory: call [`ContentStore::sync`] before it is named.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, ContentError> {
        let digest = Digest::of(bytes);
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if !self.has(&digest, size)? {
            let mut ingest = Ingest::temporary(self, size)?;
            ingest.write(bytes)?;
            ingest.verify()?.commit()?;
        }
        Ok(digest)
    }

    /// Removes a blob; one that is not there is as good as removed.
    pub fn remove_blob(&self, digest: &Digest) -> Result<(), ContentError> {
        remove_file(&self.blob_path(digest))
    }

    /// Makes durable that all blobs that were committed have their names. Once for an image.
    pub fn sync(&self) -> Result<(), ContentError> {
        sync_dir(&self.blobs)
    }

    /// Held while a blob is fetched, so that two pulls that share it fetch it once.
    pub(crate) fn fetch_lock(&self, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut fetching = lock(&self.fetching);
        fetching.retain(|_, lock| lock.strong_count() > 0);
        let lock = fetching.get(digest).and_then(Weak::upgrade).unwrap_or_default();
        fetching.insert(*digest, Arc::downgrade(&lock));
        lock
    }

    fn temporary_path(&self) -> PathBuf {
        self.ingest.join(format!("tmp-{}", self.temporary.fetch_add(1, Ordering::Relaxed)))
    }
}

fn libc_nofollow() -> i32 {
    // Flags of open(2) fit an i32; rustix has them as u32.
    i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0)
}

/// Reads a file from its beginning by offset, so that several readers share one descriptor.
#[derive(Debug)]
pub struct FileReader {
    file: Arc<File>,
    offset: u64,
}

impl FileReader {
    /// From the beginning of `file`.
    pub fn new(file: Arc<File>) -> Self {
        Self { file, offset: 0 }
    }
}

impl Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += u64::try_from(read).unwrap_or(0);
        Ok(read)
    }
}

/// Temporary files mean nothing without the process that made them; beginnings of blobs are kept a while.
fn clean_ingest(dir: &Path) -> Result<(), ContentError> {
    let failed = || ContentError::io("read directory", dir);
    for entry in fs::read_dir(dir).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let name = entry.file_name();
        let is_partial = name.to_str().is_some_and(|name| Digest::from_hex(name).is_ok());
        let fresh = entry.metadata().is_ok_and(|meta| {
            let age = meta.modified().map(|at| SystemTime::now().duration_since(at).unwrap_or_default());
            meta.is_file() && age.is_ok_and(|age| age < PARTIAL_KEPT)
        });
        if !(is_partial && fresh) {
            remove_file(&entry.path())?;
        }
    }
    Ok(())
}

pub(crate) fn remove_file(path: &Path) -> Result<(), ContentError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ContentError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

fn sync_dir(dir: &Path) -> Result<(), ContentError> {
    let failed = || ContentError::io("sync", dir);
    File::open(dir).map_err(failed())?.sync_all().map_err(failed())
}

/// Replaces `path` so that after a crash it is the old or the new one, and after this call the new one.
fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), ContentError> {
    use std::io::Write as _;
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let temporary = PathBuf::from(name);
    let failed = |what| ContentError::io(what, path);
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary);
    let mut file = file.map_err(failed("write"))?;
    if let Err(error) = file.write_all(bytes).and_then(|()| file.sync_all()) {
        // On a full disk, what was written of it is room that somebody needs.
        let _ = fs::remove_file(&temporary);
        return Err(failed("write")(error));
    }
    fs::rename(&temporary, path).map_err(failed("replace"))?;
    path.parent().map_or(Ok(()), sync_dir)
}

#[cfg(test)]
mod tests;

/// Reads the list of names, whatever is in it.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz_names(path: &Path) -> Result<usize, ContentError> {
    Names::load(path.to_owned()).map(|names| names.records().len())
}
