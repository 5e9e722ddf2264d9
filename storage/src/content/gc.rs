//! Removing what nothing refers to, beside pulls that go on.
//!
//! A pull *leases* each digest before it looks whether the blob is there, and lets go only after the image has its
//! name. A sweep holds the names from marking to the end and looks at the leases at each removal; so whatever a pull
//! relies on is either leased or marked.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;

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

    /// Names an image whose blobs are all committed and synced.
    pub(crate) fn name(&self, record: Record) -> Result<(), ContentError> {
        lock(&self.names).add(record)
    }

    /// Removes names, then every blob that `mark` does not give for the records that are left and that no lease
    /// holds. `mark` gives all digests of a record; where it cannot tell, nothing is removed.
    pub(crate) fn remove_and_sweep<E: From<ContentError>>(
        &self,
        gone: impl Fn(&Record) -> bool,
        mark: impl Fn(&Record) -> Result<Vec<Digest>, E>,
    ) -> Result<(Vec<Record>, Swept), E> {
        let mut names = lock(&self.names);
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
                let leases = lock(&self.leases);
                if keep.contains(&digest) || leases.contains_key(&digest) {
                    continue;
                }
                let bytes = entry.metadata().map_or(0, |meta| meta.len());
                remove_file(&entry.path())?;
                drop(leases);
                swept.blobs += 1;
                swept.bytes += bytes;
            }
        }
        Ok((removed, swept))
    }
}
