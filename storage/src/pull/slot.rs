//! Where a download hands its blob to the unpacker, which waits for it on a thread of its own.

use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex};

use super::progress::{BlobState, Meter};
use crate::content::{ContentStore, FileReader, lock};
use crate::digest::Digest;

/// Where the bytes of a blob are.
#[derive(Clone)]
pub(super) enum Source {
    /// Verified a moment ago.
    Fresh(Arc<std::fs::File>),
    /// In the store for longer: verified again while it is read.
    Stored(Digest),
    /// It will not come; the reason is told elsewhere.
    Failed,
}

#[derive(Clone, Default)]
pub(super) struct Slot(Arc<(Mutex<Option<Source>>, Condvar)>);

impl Slot {
    /// The first word counts.
    pub(super) fn fill(&self, source: Source) {
        let (state, filled) = &*self.0;
        lock(state).get_or_insert(source);
        filled.notify_all();
    }

    fn wait(&self) -> Source {
        let (state, filled) = &*self.0;
        let mut state = lock(state);
        loop {
            match &*state {
                Some(source) => return source.clone(),
                None => state = filled.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner),
            }
        }
    }

    /// Blocks until the blob is there.
    pub(super) fn open(&self, store: &ContentStore, meter: &Arc<Meter>) -> io::Result<Box<dyn Read + Send>> {
        let inner: Box<dyn Read + Send> = match self.wait() {
            Source::Fresh(file) => Box::new(FileReader::new(file)),
            Source::Stored(digest) => Box::new(store.reader(&digest).map_err(io::Error::other)?),
            Source::Failed => return Err(io::Error::other("the layer could not be downloaded")),
        };
        meter.begin(BlobState::Unpacking);
        Ok(Box::new(Metered { inner, meter: Arc::clone(meter) }))
    }
}

/// Fills its slots when it goes, so that nobody waits for a download that has been given up.
pub(super) struct FailOnDrop(pub(super) Vec<Slot>);

impl Drop for FailOnDrop {
    fn drop(&mut self) {
        for slot in &self.0 {
            slot.fill(Source::Failed);
        }
    }
}

struct Metered {
    inner: Box<dyn Read + Send>,
    meter: Arc<Meter>,
}

impl Read for Metered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if read == 0 && !buffer.is_empty() {
            self.meter.state(BlobState::Unpacked, u64::MAX);
        } else {
            self.meter.advance(BlobState::Unpacking, u64::try_from(read).unwrap_or(0));
        }
        Ok(read)
    }
}
