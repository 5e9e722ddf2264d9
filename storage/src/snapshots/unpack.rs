//! All layers of an image at once.
//!
//! Each layer that is missing has a thread, which waits for its blob, then for one of as many slots as there are cores,
//! unpacks, waits for its parent, and finishes. Images that share layers unpack each of them once: who comes second
//! waits for it, or takes over if the first one failed. After the last layer everything is synced once, and only then do
//! the layers count.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use super::Snapshots;
use crate::digest::{ChainId, DiffId};
use crate::driver::{DriverError, LayerRecord, Unpack};
use crate::layer::{LayerBlob, LayerError, Stream, UnpackLimits};

/// Why an image is not unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// An image of no layers has nothing to be based on.
    #[error("the image has no layers")]
    NoLayers,
    /// One layer failed; those below it stay.
    #[error("cannot unpack layer {diff_id}")]
    Layer {
        /// Which.
        diff_id: DiffId,
        /// Why.
        #[source]
        source: DriverError,
    },
    /// Everything is unpacked, but not on disk.
    #[error("cannot make the layers durable")]
    Seal(#[source] DriverError),
    /// No thread could be started.
    #[error("cannot start a thread to unpack with")]
    Thread(#[source] io::Error),
}

/// As many as there are cores.
#[derive(Debug)]
pub(super) struct Slots {
    free: Mutex<usize>,
    changed: Condvar,
}

impl Default for Slots {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Self { free: Mutex::new(cores), changed: Condvar::new() }
    }
}

struct Slot<'a>(&'a Slots);

impl Slots {
    fn take(&self) -> Slot<'_> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free =
            self.changed.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Slot(self)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.changed.notify_one();
    }
}

/// One image under way.
struct Job<'a> {
    store: &'a Snapshots,
    limits: &'a UnpackLimits,
    records: &'a [LayerRecord],
    failed: AtomicBool,
}

/// Why a layer's thread ended without its layer.
enum Stop {
    Failed(DriverError),
    /// Another layer of the image failed.
    Other,
}

impl From<DriverError> for Stop {
    fn from(error: DriverError) -> Self {
        Self::Failed(error)
    }
}

impl From<LayerError> for Stop {
    fn from(error: LayerError) -> Self {
        Self::Failed(error.into())
    }
}

impl Snapshots {
    /// Unpacks the layers of an image, the lowest first, and gives the stack's id. Layers that are there already are not
    /// opened. When it returns, all of them are durable.
    pub fn unpack_image(
        &self,
        layers: Vec<LayerBlob>,
        limits: &UnpackLimits,
    ) -> Result<ChainId, UnpackError> {
        let diffs: Vec<DiffId> = layers.iter().map(|layer| layer.diff_id).collect();
        let chains = ChainId::all(&diffs);
        let top = *chains.last().ok_or(UnpackError::NoLayers)?;
        let mut parent = None;
        let records: Vec<LayerRecord> = chains
            .iter()
            .zip(&diffs)
            .map(|(chain, diff)| LayerRecord {
                chain: *chain,
                parent: parent.replace(*chain),
                diff_id: *diff,
            })
            .collect();
        let pins = Pins::new(self, chains);
        let job = Job { store: self, limits, records: &records, failed: AtomicBool::new(false) };
        let done = job.run(layers);
        // Those below one that failed stay, so they count: what is not sealed is in no list and is removed by nobody, and an
        // image that always fails would fill the disk.
        let sealed = self.seal_finished(&records);
        drop(pins);
        done.and_then(|()| sealed.map_err(UnpackError::Seal)).map(|()| top)
    }

    fn seal_finished(&self, records: &[LayerRecord]) -> Result<(), DriverError> {
        let unsealed: Vec<LayerRecord> = {
            let index = self.index();
            let new = |chain: &ChainId| index.is_finished(chain) && !index.is_sealed(chain);
            records.iter().filter(|layer| new(&layer.chain)).cloned().collect()
        };
        if !unsealed.is_empty() {
            self.driver.seal(&unsealed)?;
            let mut index = self.index();
            for layer in &unsealed {
                index.sealed(&layer.chain);
            }
        }
        Ok(())
    }
}

/// Keeps the layers of an image from being removed while it unpacks.
struct Pins<'a> {
    store: &'a Snapshots,
    chains: Vec<ChainId>,
}

impl<'a> Pins<'a> {
    fn new(store: &'a Snapshots, chains: Vec<ChainId>) -> Self {
        let mut index = store.index();
        for chain in &chains {
            index.pin(chain);
        }
        drop(index);
        Self { store, chains }
    }
}

impl Drop for Pins<'_> {
    fn drop(&mut self) {
        let mut index = self.store.index();
        for chain in &self.chains {
            index.unpin(chain);
        }
    }
}

/// A layer that is ours to unpack. Whoever waits for it hears of its end, however it ends.
struct Claim<'a> {
    job: &'a Job<'a>,
    record: &'a LayerRecord,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.job.failed.store(true, Ordering::SeqCst);
        }
        self.job.store.index().unclaim(&self.record.chain);
        self.job.store.changed.notify_all();
    }
}

impl Job<'_> {
    fn run(&self, layers: Vec<LayerBlob>) -> Result<(), UnpackError> {
        let missing: Vec<_> = {
            let index = self.store.index();
            layers
                .into_iter()
                .enumerate()
                .filter(|(at, _)| !index.is_finished(&self.records[*at].chain))
                .collect()
        };
        std::thread::scope(|scope| {
            let mut threads = Vec::with_capacity(missing.len());
            let mut first: Option<UnpackError> = None;
            for (at, blob) in missing {
                let diff_id = blob.diff_id;
                let spawned =
                    std::thread::Builder::new().name("layer-unpack".into()).spawn_scoped(scope, move || {
                        let done = self.layer(at, blob);
                        if done.is_err() {
                            self.failed.store(true, Ordering::SeqCst);
                            // Under the lock, so that nobody is between looking and waiting.
                            drop(self.store.index());
                            self.store.changed.notify_all();
                        }
                        done
                    });
                match spawned {
                    Ok(thread) => threads.push((diff_id, thread)),
                    Err(error) => {
                        self.failed.store(true, Ordering::SeqCst);
                        drop(self.store.index());
                        self.store.changed.notify_all();
                        first = Some(UnpackError::Thread(error));
                        break;
                    }
                }
            }
            for (diff_id, thread) in threads {
                let lost = || {
                    Stop::Failed(DriverError::Layer(LayerError::Read(io::Error::other(
                        "the thread panicked",
                    ))))
                };
                match thread.join().unwrap_or_else(|_| Err(lost())) {
                    Ok(()) | Err(Stop::Other) => {}
                    Err(Stop::Failed(source)) => {
                        first.get_or_insert(UnpackError::Layer { diff_id, source });
                    }
                }
            }
            first.map_or(Ok(()), Err)
        })
    }

    /// Waits until the layer is there (`false`) or ours to unpack (`true`).
    fn claim(&self, layer: &LayerRecord) -> Result<bool, Stop> {
        let mut index = self.store.index();
        loop {
            if self.failed.load(Ordering::SeqCst) {
                return Err(Stop::Other);
            }
            if index.is_finished(&layer.chain) {
                return Ok(false);
            }
            if index.claim(layer) {
                return Ok(true);
            }
            index = self.store.changed.wait(index).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wait_for(&self, parent: Option<&ChainId>) -> Result<Vec<ChainId>, Stop> {
        let mut index = self.store.index();
        loop {
            match parent {
                None => return Ok(Vec::new()),
                Some(parent) if index.is_finished(parent) => return Ok(index.stack(Some(parent))),
                Some(_) if self.failed.load(Ordering::SeqCst) => return Err(Stop::Other),
                Some(_) => {
                    index = self.store.changed.wait(index).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    fn layer(&self, at: usize, mut blob: LayerBlob) -> Result<(), Stop> {
        let record = &self.records[at];
        if !self.claim(record)? {
            return Ok(());
        }
        let claim = Claim { job: self, record };
        let done = self.claimed(record, &mut blob);
        if done.is_ok() {
            self.store.index().finished(record);
        }
        drop(claim);
        done
    }

    fn claimed(&self, record: &LayerRecord, blob: &mut LayerBlob) -> Result<(), Stop> {
        let driver = &self.store.driver;
        own_umask().map_err(LayerError::Read)?;
        let on_parent = driver.unpack() == Unpack::OnParent;
        let parent = record.parent.as_ref();
        let lowers = if on_parent { self.wait_for(parent)? } else { Vec::new() };
        // Opening may wait for a download, and must not hold a slot meanwhile.
        let raw = (blob.open)().map_err(LayerError::Read)?;
        {
            let slot = self.store.slots.take();
            let stream = Stream::start(raw, blob, self.limits)?;
            driver.stage(record, &lowers, stream, self.limits)?;
            drop(slot);
        }
        let lowers = match self.wait_for(parent) {
            Ok(lowers) => lowers,
            Err(stop) => {
                driver.abandon(record);
                return Err(stop);
            }
        };
        let slot = self.store.slots.take();
        let mut reread = || Stream::open(blob, self.limits);
        driver.finish(record, &lowers, &mut reread, self.limits)?;
        drop(slot);
        Ok(())
    }
}

/// This thread's own mode creation mask, so that modes are as the layer says. The mask belongs to the process unless a
/// thread asks for its own (unshare(2), `CLONE_FS`).
pub(crate) fn own_umask() -> io::Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
    rustix::process::umask(rustix::fs::Mode::empty());
    Ok(())
}
