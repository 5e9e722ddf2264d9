//! A blob on its way in.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::{ContentError, ContentStore, remove_file};
use crate::digest::{Digest, Hasher, WrongContent};

/// A blob on its way in: hashed as it is written, bounded by its size.
#[derive(Debug)]
pub(crate) struct Ingest {
    file: File,
    path: PathBuf,
    blobs: PathBuf,
    hasher: Hasher,
    written: u64,
    max: u64,
    expected: Option<Digest>,
    keep_partial: bool,
}

/// A blob whose bytes are the promised ones. It can be read at once, and has its name after
/// [`Verified::commit`].
#[derive(Debug)]
pub(crate) struct Verified {
    file: Arc<File>,
    path: PathBuf,
    blobs: PathBuf,
    digest: Digest,
    committed: bool,
}

impl Ingest {
    /// Continues (or begins) the fetch of a blob. What an earlier attempt wrote is hashed again: after a power cut
    /// it may not be what was written. The caller holds the blob's fetch lock.
    pub(crate) fn resume(store: &ContentStore, digest: Digest, size: u64) -> Result<Self, ContentError> {
        let path = store.ingest.join(digest.hex());
        let mut ingest = Self::open(store, path, size, Some(digest))?;
        let mut buffer = vec![0u8; 256 << 10];
        loop {
            let read = ingest.file.read(&mut buffer).map_err(ContentError::io("read", &ingest.path))?;
            if read == 0 {
                break;
            }
            ingest.hasher.update(&buffer[..read]);
            ingest.written = ingest.written.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
            if ingest.written > size {
                ingest.restart()?;
                break;
            }
        }
        ingest.keep_partial = true;
        Ok(ingest)
    }

    /// Begins content of at most `max` bytes whose digest is not known yet.
    pub(crate) fn temporary(store: &ContentStore, max: u64) -> Result<Self, ContentError> {
        Self::open(store, store.temporary_path(), max, None)
    }

    /// Begins content of exactly `size` bytes that must have this digest, from a source that cannot be resumed.
    pub(crate) fn exact(store: &ContentStore, digest: Digest, size: u64) -> Result<Self, ContentError> {
        Self::open(store, store.temporary_path(), size, Some(digest))
    }

    fn open(
        store: &ContentStore,
        path: PathBuf,
        max: u64,
        expected: Option<Digest>,
    ) -> Result<Self, ContentError> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(super::libc_nofollow());
        let file = options.open(&path).map_err(ContentError::io("write", &path))?;
        let blobs = store.blobs.clone();
        Ok(Self { file, path, blobs, hasher: Hasher::new(), written: 0, max, expected, keep_partial: false })
    }

    /// Bytes that are there already.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Appends bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), ContentError> {
        let total = self.written.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        if total > self.max {
            self.keep_partial = false;
            return Err(self.wrong(WrongContent::TooLong { expected: self.max }));
        }
        self.file.write_all(bytes).map_err(ContentError::io("write", &self.path))?;
        self.hasher.update(bytes);
        self.written = total;
        Ok(())
    }

    /// Appends all that `from` has.
    pub(crate) fn copy(&mut self, from: &mut impl Read) -> Result<(), CopyError> {
        let mut buffer = vec![0u8; 256 << 10];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => self.write(&buffer[..read]).map_err(CopyError::Write)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(CopyError::Read(error)),
            }
        }
    }

    /// Throws away what is there, for a server that cannot continue.
    pub(crate) fn restart(&mut self) -> Result<(), ContentError> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .map_err(ContentError::io("write", &self.path))?;
        self.hasher = Hasher::new();
        self.written = 0;
        Ok(())
    }

    fn wrong(&self, source: WrongContent) -> ContentError {
        ContentError::Corrupt { digest: self.expected.unwrap_or_else(|| Digest::of(b"")), source }
    }

    /// Says whether all bytes came and are the promised ones. What is too short stays for the next attempt, what is
    /// wrong goes.
    pub(crate) fn verify(mut self) -> Result<Verified, ContentError> {
        if let Some(expected) = self.expected {
            if self.written < self.max {
                return Err(self.wrong(WrongContent::Truncated { expected: self.max, found: self.written }));
            }
            let found = std::mem::take(&mut self.hasher).finish();
            if found != expected {
                self.keep_partial = false;
                return Err(self.wrong(WrongContent::Digest { expected, found }));
            }
        }
        let digest = self.expected.unwrap_or_else(|| std::mem::take(&mut self.hasher).finish());
        let file = self.file.try_clone().map_err(ContentError::io("open", &self.path))?;
        // From here on the file is the verified blob's.
        self.keep_partial = true;
        Ok(Verified {
            file: Arc::new(file),
            path: std::mem::take(&mut self.path),
            blobs: self.blobs.clone(),
            digest,
            committed: false,
        })
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if !self.keep_partial
            && let Err(error) = remove_file(&self.path)
        {
            tracing::warn!(%error, "leftover in the content store");
        }
    }
}

/// Which side of a copy failed.
#[derive(Debug)]
pub(crate) enum CopyError {
    Read(io::Error),
    Write(ContentError),
}

impl Verified {
    /// The blob's digest.
    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    /// The blob's bytes, to be read by offset.
    pub(crate) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Makes the blob durable under its name, but for the directory ([`ContentStore::sync`]). Blocks for the time
    /// of an fsync.
    pub(crate) fn commit(mut self) -> Result<(), ContentError> {
        if !crate::failpoint::skipped("skip.sync.blob") {
            self.file.sync_data().map_err(ContentError::io("sync", &self.path))?;
        }
        let to = self.blobs.join(self.digest.hex());
        fs::rename(&self.path, &to).map_err(ContentError::io("rename", &self.path))?;
        self.committed = true;
        Ok(())
    }
}

impl Drop for Verified {
    fn drop(&mut self) {
        // The beginning of a known blob stays for the next attempt; it is the whole of it.
        let known = self
            .path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| Digest::from_hex(name).is_ok());
        if !self.committed
            && !known
            && let Err(error) = remove_file(&self.path)
        {
            tracing::warn!(%error, "leftover in the content store");
        }
    }
}
