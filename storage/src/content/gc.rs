//! Removing what nothing refers to, beside pulls that go on.
//!
//! A pull *leases* each digest before it looks whether the blob is there, and lets go only after the image has its
//! name. A sweep holds the names from marking to the end and looks at the leases at each removal; so whatever a pull
//! relies on is either leased or marked.

use std::collections::HashSet;
use std::fs::{self, File, FileTimes, Metadata};
use std::sync::Arc;
use std::time::SystemTime;

use super::{ContentError, ContentStore, Record, lock, remove_file};
use crate::digest::Digest;

/// Digests that no sweep may remove, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Lease {
    store: Arc<ContentStore>,
    held: HashSet<Digest>,
}

/// What a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Files.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Lease {
    /// A lease on nothing yet.
    pub(crate) fn new(store: &Arc<ContentStore>) -> Self {
        Self { store: Arc::clone(store), held: HashSet::new() }
    }

    /// Keeps `digest`, whether it is there already or not.
    pub(crate) fn hold(&mut self, digest: Digest) {
        if self.held.insert(digest) {
            *lock(&self.store.leases).entry(digest).or_insert(0) += 1;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut leases = lock(&self.store.leases);
        for digest in &self.held {
            if let Some(count) = leases.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    leases.remove(digest);
                }
            }
        }
    }
}

impl ContentStore {
    /// Whether some pull relies on `digest` now.
    pub(crate) fn leased(&self, digest: &Digest) -> bool {
        lock(&self.leases).contains_key(digest)
    }

    /// All images, in the order in which they were named.
    pub(crate) fn records(&self) -> Vec<Record> {
        lock(&self.names).records().to_vec()
    }

    /// Names an image whose blobs are all committed and synced. That is a use of it.
    pub(crate) fn name(&self, record: Record) -> Result<(), ContentError> {
        let manifest = record.manifest;
        lock(&self.names).add(record)?;
        self.touch(&manifest, SystemTime::now());
        Ok(())
    }

    /// Notes when the image of this manifest was used last: the manifest's time of modification, which costs a start no sync and
    /// a full disk no room. A note that is lost makes the image seem older, and nothing worse.
    pub(crate) fn touch(&self, manifest: &Digest, at: SystemTime) {
        let path = self.blob_path(manifest);
        let touched = File::open(&path).and_then(|file| file.set_times(FileTimes::new().set_modified(at)));
        if let Err(error) = touched {
            tracing::debug!(%error, path = %path.display(), "cannot note the use of an image");
        }
    }

    /// When the image of this manifest was used last; `None` when the manifest is not there.
    pub(crate) fn touched(&self, manifest: &Digest) -> Option<SystemTime> {
        fs::symlink_metadata(self.blob_path(manifest)).and_then(|meta| meta.modified()).ok()
    }

    /// Removes names, then every blob that `mark` does not give for the records that are left and that no lease
    /// holds. `mark` gives all digests of a record; where it cannot tell, nothing is removed.
    pub(crate) fn remove_and_sweep<E: From<ContentError>>(
        &self,
        gone: impl Fn(&Record) -> bool,
        mark: impl Fn(&Record) -> Result<Vec<Digest>, E>,
    ) -> Result<(Vec<Record>, Swept), E> {
        self.remove_and_sweep_some(|_| Ok(()), gone, mark, |_, _| true)
    }

    /// The same, of blobs that `what` says, and after `may` has looked at the names, which then stay as they are to the end: whoever
    /// has a lease before that is seen, and whoever takes one afterwards finds the names gone.
    pub(crate) fn remove_and_sweep_some<E: From<ContentError>>(
        &self,
        may: impl FnOnce(&[Record]) -> Result<(), E>,
        gone: impl Fn(&Record) -> bool,
        mark: impl Fn(&Record) -> Result<Vec<Digest>, E>,
        what: impl Fn(&Digest, &Metadata) -> bool,
    ) -> Result<(Vec<Record>, Swept), E> {
        let mut names = lock(&self.names);
        may(names.records())?;
        let removed = names.remove(gone)?;
        let mut keep = HashSet::new();
        for record in names.records() {
            keep.extend(mark(record)?);
        }
        let mut swept = Swept::default();
        for dir in [&self.blobs, &self.ingest] {
            let failed = || ContentError::io("read directory", dir);
            for entry in fs::read_dir(dir).map_err(failed())? {
                let entry = entry.map_err(failed())?;
                let Some(digest) = entry.file_name().to_str().and_then(|name| Digest::from_hex(name).ok())
                else {
                    continue;
                };
                // One that is gone by now was renamed or removed by whoever made it.
                let Ok(meta) = entry.metadata() else { continue };
                let leases = lock(&self.leases);
                if keep.contains(&digest) || leases.contains_key(&digest) || !what(&digest, &meta) {
                    continue;
                }
                let bytes = meta.len();
                remove_file(&entry.path())?;
                drop(leases);
                swept.blobs += 1;
                swept.bytes += bytes;
            }
        }
        Ok((removed, swept))
    }

    /// Blobs and beginnings of blobs that nothing marked by `keep` and no lease needs: their bytes, and when they were
    /// written last.
    pub(crate) fn garbage(&self, keep: &HashSet<Digest>) -> Result<Vec<(u64, SystemTime)>, ContentError> {
        let mut found = Vec::new();
        for dir in [&self.blobs, &self.ingest] {
            let failed = || ContentError::io("read directory", dir);
            for entry in fs::read_dir(dir).map_err(failed())? {
                let entry = entry.map_err(failed())?;
                let name = entry.file_name();
                let Some(digest) = name.to_str().and_then(|name| Digest::from_hex(name).ok()) else {
                    continue;
                };
                if keep.contains(&digest) || self.leased(&digest) {
                    continue;
                }
                if let Ok(meta) = entry.metadata()
                    && let Ok(at) = meta.modified()
                {
                    found.push((meta.len(), at));
                }
            }
        }
        Ok(found)
    }
}
