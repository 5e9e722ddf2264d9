//! From a name to an unpacked image: resolve, choose, download, unpack, and only then give it its name.
//!
//! Downloads and unpacking overlap: the unpacker has all layers from the start and waits for each where it needs it.

mod error;
mod progress;
mod slot;

use std::sync::Arc;

use tokio::sync::Semaphore;

pub use error::PullError;
pub use progress::{BlobState, Metrics, Progress, ProgressEvent};
pub(crate) use progress::{Hub, Meter, count};
use slot::{FailOnDrop, Slot, Source};

use crate::content::{ContentStore, Lease, Record};
use crate::digest::WrongContent;
use crate::image::manifest::{self, Document};
use crate::image::{Descriptor, Encoding, Image, IndexEntry, Layer, Manifest, ManifestError, assemble};
use crate::layer::{Compression, LayerBlob};
use crate::platform::{Platform, select};
use crate::reference::Reference;
use crate::registry::{Credentials, RegistryError, Served, Session, blocking};
use crate::storage::Inner;

/// How to pull.
#[derive(Clone, Default)]
pub struct PullRequest {
    /// For which machine; this one by default.
    pub platform: Option<Platform>,
    /// Who we are; nobody by default.
    pub credentials: Credentials,
    /// Who is told how it gets on.
    pub progress: Option<Arc<dyn Progress>>,
}

/// One pull under way, whoever waits for it.
pub(crate) struct Pull {
    pub(crate) storage: Arc<Inner>,
    pub(crate) reference: Reference,
    pub(crate) platform: Platform,
    pub(crate) hub: Arc<Hub>,
}

/// What the name means, with the bytes that prove it.
struct Resolved {
    record: Record,
    manifest: Manifest,
    documents: Vec<Vec<u8>>,
}

impl Pull {
    fn content(&self) -> &Arc<ContentStore> {
        &self.storage.content
    }

    fn refused(&self) -> impl Fn(ManifestError) -> PullError {
        |source| PullError::Manifest { reference: self.reference.clone(), source }
    }

    fn stored(&self) -> impl Fn(crate::content::ContentError) -> PullError {
        |source| PullError::Content { reference: self.reference.clone(), source: Box::new(source) }
    }

    /// Does it, and once more if a blob that was here turned out to be damaged.
    pub(crate) async fn run(&self, session: &Session) -> Result<Image, PullError> {
        match self.attempt(session).await {
            Err(PullError::Unpack { reference, source }) => {
                let damaged = self.remove_damaged(session).await?;
                if damaged == 0 {
                    return Err(PullError::Unpack { reference, source });
                }
                tracing::warn!(reference = %self.reference, damaged, "blobs were damaged and are fetched again");
                self.attempt(session).await
            }
            other => other,
        }
    }

    async fn attempt(&self, session: &Session) -> Result<Image, PullError> {
        let limits = &self.storage.limits;
        let mut lease = Lease::new(self.content());
        let resolved = self.resolve(session, &mut lease).await?;
        let Resolved { record, manifest, documents } = resolved;
        lease.hold(manifest.config.digest);
        for (layer, _) in &manifest.layers {
            lease.hold(layer.digest);
        }
        let config = self.small(session, &manifest.config, limits.config_bytes).await?;
        let image = assemble(&record, &manifest, &config).map_err(|source| PullError::Load {
            reference: self.reference.clone(),
            source: Box::new(source),
        })?;
        // Old tools left the architecture out.
        if !image.platform.architecture.is_empty() && self.platform.fit(&image.platform).is_none() {
            let available = vec![image.platform];
            let (reference, wanted) = (self.reference.clone(), self.platform.clone());
            return Err(PullError::Platform { reference, wanted, available });
        }
        let layers = image.layers.iter().map(|layer| (layer.digest, layer.size)).collect();
        self.hub.report(ProgressEvent::Resolved { digest: image.digest, layers });
        // Layers that are unpacked already must stay, too; a chain id is a digest that no blob has.
        for chain in image.chain() {
            lease.hold(chain.0);
        }
        let store = Arc::clone(self.content());
        let documents = tokio::task::spawn_blocking(move || {
            documents.iter().try_for_each(|bytes| store.put(bytes).map(|_| ()))
        });
        self.layers(Some(session), &image).await?;
        match documents.await {
            Ok(result) => result.map_err(self.stored())?,
            Err(_) => return Err(PullError::Cancelled(self.reference.clone())),
        }
        let store = Arc::clone(self.content());
        // The lease goes with it: it must hold until the image has its name, even if nobody waits any more.
        blocking(move || {
            let result = store.sync().and_then(|()| store.name(record));
            drop(lease);
            result
        })
        .await
        .map_err(self.stored())?;
        Ok(image)
    }

    async fn resolve(&self, session: &Session, lease: &mut Lease) -> Result<Resolved, PullError> {
        let limits = &self.storage.limits;
        let served = self.storage.client.manifest(session, &self.reference, limits.manifest_bytes).await?;
        let document =
            manifest::parse(&served.bytes, served.media_type.as_deref(), limits).map_err(self.refused())?;
        let is_index = matches!(document, Document::Index(_));
        let target = describe(&served, is_index);
        lease.hold(target.digest);
        let reference = Some(self.reference.clone());
        let entries = match document {
            Document::Manifest(manifest) => {
                let record = Record { reference, manifest: target.digest, target };
                return Ok(Resolved { record, manifest, documents: vec![served.bytes] });
            }
            Document::Index(entries) => entries,
        };
        let entry = choose(&self.reference, &self.platform, &entries)?;
        lease.hold(entry.digest);
        let bytes = self
            .small(session, &Descriptor { media_type: String::new(), ..entry.clone() }, limits.manifest_bytes)
            .await?;
        let media_type = Some(entry.media_type.as_str()).filter(|text| !text.is_empty());
        match manifest::parse(&bytes, media_type, limits).map_err(self.refused())? {
            Document::Manifest(manifest) => {
                let record = Record { reference, manifest: entry.digest, target };
                Ok(Resolved { record, manifest, documents: vec![served.bytes, bytes] })
            }
            Document::Index(_) => {
                Err(self.refused()(ManifestError::Malformed("it is an index within an index".into())))
            }
        }
    }

    /// A manifest (without a media type here) or a configuration, from the store or else from the registry.
    async fn small(&self, session: &Session, what: &Descriptor, max: u64) -> Result<Vec<u8>, PullError> {
        let (digest, size) = (what.digest, what.size);
        if size > max {
            return Err(self.refused()(ManifestError::Limit {
                what: "a document of bytes",
                found: size,
                max,
            }));
        }
        let store = Arc::clone(self.content());
        let here = blocking(move || match store.has(&digest, size)? {
            true => store.read(&digest, max).map(Some),
            false => Ok(None),
        });
        match here.await {
            Ok(Some(bytes)) => return Ok(bytes),
            Ok(None) => {}
            Err(crate::content::ContentError::Corrupt { .. }) => {
                count(&self.storage.metrics.blobs_damaged, 1);
            }
            Err(error) => return Err(self.stored()(error)),
        }
        if what.media_type.is_empty() {
            let by_digest = self.reference.with_digest(digest);
            let served = self.storage.client.manifest(session, &by_digest, max).await?;
            let found = u64::try_from(served.bytes.len()).unwrap_or(u64::MAX);
            if found != size {
                let registry = session.registry().to_owned();
                return Err(RegistryError::WrongSize { registry, digest, expected: size, found }.into());
            }
            return Ok(served.bytes);
        }
        self.fetch(session, what, None).await?;
        let store = Arc::clone(self.content());
        blocking(move || store.read(&digest, max)).await.map_err(self.stored())
    }

    /// Has a blob in the store, and says so in `slot` as soon as it is verified.
    async fn fetch(
        &self,
        session: &Session,
        what: &Descriptor,
        slot: Option<&Slot>,
    ) -> Result<(), PullError> {
        let (digest, size) = (what.digest, what.size);
        let (store, metrics) = (self.content(), &self.storage.metrics);
        let meter = Meter::new(&self.hub, metrics, digest, size);
        let fetching = store.fetch_lock(&digest);
        let _fetching = fetching.lock().await;
        let looker = Arc::clone(store);
        if blocking(move || looker.has(&digest, size)).await.map_err(self.stored())? {
            count(&metrics.blobs_reused, 1);
            meter.state(BlobState::Exists, size);
            if let Some(slot) = slot {
                slot.fill(Source::Stored(digest));
            }
            return Ok(());
        }
        let verified = self.storage.client.blob(session, what, store, &meter).await?;
        count(&metrics.blobs_downloaded, 1);
        meter.state(BlobState::Downloaded, size);
        if let Some(slot) = slot {
            slot.fill(Source::Fresh(verified.file()));
        }
        blocking(move || verified.commit()).await.map_err(self.stored())
    }

    /// Downloads what is missing (with a session) and unpacks. Layers whose stack is unpacked need no blob.
    pub(crate) async fn layers(&self, session: Option<&Session>, image: &Image) -> Result<(), PullError> {
        let unpacked = self.unpacked_layers(image).await?;
        let slots: Vec<Slot> = image.layers.iter().map(|_| Slot::default()).collect();
        let guard = FailOnDrop(slots.clone());
        let meters: Vec<Arc<Meter>> = image
            .layers
            .iter()
            .map(|layer| Arc::new(Meter::new(&self.hub, &self.storage.metrics, layer.digest, layer.size)))
            .collect();
        for meter in &meters[..unpacked] {
            meter.state(BlobState::Exists, u64::MAX);
        }
        if unpacked == image.layers.len() {
            return Ok(());
        }
        let blobs = image.layers.iter().zip(&slots).zip(&meters);
        let blobs: Vec<LayerBlob> =
            blobs.map(|((layer, slot), meter)| self.layer_blob(layer, slot, meter)).collect();
        let (storage, wanted) = (Arc::clone(&self.storage), image.chain_id);
        let mut unpacking = tokio::task::spawn_blocking(move || storage.unpack(blobs, wanted));
        let unpacked = {
            let mut downloads =
                std::pin::pin!(self.download(session, &image.layers[unpacked..], &slots[unpacked..]));
            tokio::select! {
                biased;
                done = &mut downloads => {
                    if done.is_err() {
                        // The unpacker gets an error where it waits, and ends.
                        drop(guard);
                        let _ = unpacking.await;
                        return done;
                    }
                    (&mut unpacking).await
                }
                // Done before the last blob is synced; or failed, and then the rest need not come.
                done = &mut unpacking => {
                    if matches!(done, Ok(Ok(()))) {
                        downloads.await?;
                    }
                    done
                }
            }
        };
        match unpacked {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => {
                Err(PullError::Unpack { reference: self.reference.clone(), source: Arc::new(source) })
            }
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(PullError::Cancelled(self.reference.clone())),
        }
    }

    fn layer_blob(&self, layer: &Layer, slot: &Slot, meter: &Arc<Meter>) -> LayerBlob {
        let (store, slot, meter) = (Arc::clone(self.content()), slot.clone(), Arc::clone(meter));
        LayerBlob {
            diff_id: layer.diff_id,
            compression: match layer.encoding {
                Encoding::Tar => Compression::None,
                Encoding::Gzip => Compression::Gzip,
                Encoding::Zstd => Compression::Zstd,
            },
            size: layer.size,
            open: Box::new(move || slot.open(&store, &meter)),
        }
    }

    /// How many of the lowest layers are unpacked already.
    async fn unpacked_layers(&self, image: &Image) -> Result<usize, PullError> {
        let chain = image.chain();
        let storage = Arc::clone(&self.storage);
        Ok(blocking(move || {
            chain.iter().rposition(|chain| storage.has_snapshot(chain)).map_or(0, |last| last + 1)
        })
        .await)
    }

    async fn download(
        &self,
        session: Option<&Session>,
        layers: &[Layer],
        slots: &[Slot],
    ) -> Result<(), PullError> {
        let Some(session) = session else {
            for (layer, slot) in layers.iter().zip(slots) {
                slot.fill(Source::Stored(layer.digest));
            }
            return Ok(());
        };
        let turns = Semaphore::new(self.storage.limits.concurrent_downloads.max(1));
        let all = layers.iter().zip(slots).map(|(layer, slot)| {
            let turns = &turns;
            async move {
                // Turns are given in order, so the lowest layers come first. The semaphore is never closed.
                let _turn = turns.acquire().await;
                let what = Descriptor { media_type: "layer".into(), digest: layer.digest, size: layer.size };
                self.fetch(session, &what, Some(slot)).await
            }
        });
        try_all(all.collect()).await
    }

    /// Looks at every blob of the image that is here, and removes the damaged ones. Gives their number.
    async fn remove_damaged(&self, session: &Session) -> Result<usize, PullError> {
        let mut lease = Lease::new(self.content());
        let resolved = self.resolve(session, &mut lease).await?;
        let (store, metrics) = (Arc::clone(self.content()), Arc::clone(&self.storage.metrics));
        let damaged = blocking(move || {
            let mut damaged = 0;
            for (layer, _) in &resolved.manifest.layers {
                let Ok(reader) = store.reader(&layer.digest) else { continue };
                if let Err(error) = reader.finish()
                    && WrongContent::of(&error).is_some()
                {
                    store.remove_blob(&layer.digest)?;
                    count(&metrics.blobs_damaged, 1);
                    damaged += 1;
                }
            }
            Ok(damaged)
        });
        damaged.await.map_err(self.stored())
    }
}

/// Which manifest of an index is for this machine.
pub(crate) fn choose<'a>(
    reference: &Reference,
    here: &Platform,
    entries: &'a [IndexEntry],
) -> Result<&'a Descriptor, PullError> {
    // Attestations say that they are for unknown/unknown.
    let fit = select(here, entries.iter().map(|entry| entry.platform.as_ref()));
    // An index of one image that does not say for whom it is: its configuration will.
    let only = || matches!(entries, [one] if one.platform.is_none()).then_some(0);
    if let Some(index) = fit.or_else(only) {
        return Ok(&entries[index].descriptor);
    }
    let mut available: Vec<Platform> = entries.iter().filter_map(|entry| entry.platform.clone()).collect();
    available.retain(|platform| platform.os != "unknown");
    available.sort();
    available.dedup();
    Err(PullError::Platform { reference: reference.clone(), wanted: here.clone(), available })
}

fn describe(served: &Served, is_index: bool) -> Descriptor {
    use crate::image::media::{Kind, OCI_INDEX, OCI_MANIFEST, kind};
    let own = served.media_type.as_deref().map(|text| text.split(';').next().unwrap_or(text).trim());
    let fallback = if is_index { OCI_INDEX } else { OCI_MANIFEST };
    let media_type =
        own.filter(|text| matches!(kind(text), Kind::Index | Kind::Manifest)).unwrap_or(fallback);
    Descriptor {
        media_type: media_type.to_owned(),
        digest: served.digest,
        size: u64::try_from(served.bytes.len()).unwrap_or(u64::MAX),
    }
}

/// All of them, or the first error; the others are then given up.
async fn try_all<F: Future<Output = Result<(), PullError>>>(futures: Vec<F>) -> Result<(), PullError> {
    let mut pending: Vec<_> = futures.into_iter().map(Box::pin).collect();
    std::future::poll_fn(move |context| {
        let mut failed = None;
        pending.retain_mut(|future| match future.as_mut().poll(context) {
            _ if failed.is_some() => true,
            std::task::Poll::Pending => true,
            std::task::Poll::Ready(Ok(())) => false,
            std::task::Poll::Ready(Err(error)) => {
                failed = Some(error);
                false
            }
        });
        match failed {
            Some(error) => std::task::Poll::Ready(Err(error)),
            None if pending.is_empty() => std::task::Poll::Ready(Ok(())),
            None => std::task::Poll::Pending,
        }
    })
    .await
}
