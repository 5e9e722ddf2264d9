//! Images and snapshots of one data root, as one thing.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::watch;

use crate::archive::{self, ImportError, Imported};
use crate::content::{ContentError, ContentStore, Record, Swept, lock};
use crate::diff::{Change, DiffError};
use crate::digest::{ChainId, Digest};
use crate::driver::SnapshotKey;
use crate::image::{self, Image, LoadError};
use crate::layer::{LayerBlob, UnpackLimits};
use crate::limits::Limits;
use crate::platform::Platform;
use crate::pull::{Hub, Metrics, Pull, PullError, PullRequest, count};
use crate::reference::{
    DEFAULT_REGISTRY, ParseReferenceError, Reference, looks_like_registry, valid_registry,
};
use crate::registry::{Client, Credential, RegistryOptions, blocking};
use crate::snapshots::{OpenError, Snapshots, UnpackError};
use crate::view::{ImageTree, OpenTreeError};

/// How storage is opened.
#[derive(Debug, Clone)]
pub struct StorageOptions {
    /// The data root; `content/` and `snapshots/` are made in it. The caller holds its lock.
    pub root: PathBuf,
    /// The snapshot driver; by default the first that works here, or the one that has data.
    pub driver: Option<String>,
    /// The driver's options, as `--storage-opt` has them.
    pub driver_options: Vec<(String, String)>,
    /// Bounds on images.
    pub limits: Limits,
    /// Bounds on layers when they are unpacked.
    pub unpack_limits: UnpackLimits,
    /// How registries are reached.
    pub registry: RegistryOptions,
    /// The registry of names that have none.
    pub default_registry: String,
}

impl StorageOptions {
    /// The defaults, in `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            driver: None,
            driver_options: Vec::new(),
            limits: Limits::default(),
            unpack_limits: UnpackLimits::default(),
            registry: RegistryOptions::default(),
            default_registry: DEFAULT_REGISTRY.to_owned(),
        }
    }
}

/// Why storage cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenStorageError {
    /// The content store.
    #[error("cannot open the content store")]
    Content(#[from] ContentError),
    /// The snapshot driver.
    #[error("cannot open the snapshot store")]
    Snapshots(#[from] OpenError),
    /// A configured registry is none.
    #[error("{0:?} is not a registry: expected HOST:PORT, or a HOST with a dot in it")]
    Registry(String),
}

/// Why an image was not removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveError {
    /// There is none of that name.
    #[error("image {0} is not here")]
    NotFound(String),
    /// Blobs or names.
    #[error("cannot remove image content")]
    Content(#[from] ContentError),
    /// An image that is left cannot be read, so it is not known what it needs; no blob was removed.
    #[error("cannot tell which content is still needed")]
    Load(#[from] LoadError),
}

/// What [`Storage::remove_image`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that are gone.
    pub references: Vec<Reference>,
    /// Blobs that nothing refers to any more.
    pub swept: Swept,
    /// Unpacked layers that are gone.
    pub layers: Vec<ChainId>,
}

/// Images and snapshots of one data root. Cheap to clone; all clones are the same storage.
#[derive(Debug, Clone)]
pub struct Storage(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) content: Arc<ContentStore>,
    pub(crate) client: Client,
    pub(crate) limits: Limits,
    pub(crate) metrics: Arc<Metrics>,
    snapshots: Arc<Snapshots>,
    unpack_limits: Mutex<Arc<UnpackLimits>>,
    default_registry: String,
    platform: Platform,
    flights: Mutex<HashMap<FlightKey, Weak<Flight>>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Storage").field("content", &self.content.root()).finish_non_exhaustive()
    }
}

/// Pulls are one only for the same rights: nobody gets an image by another's credentials.
type FlightKey = (Reference, Platform, Option<Credential>);
type Outcome = Result<Image, PullError>;

/// A pull under way. Ends with the last who waits for it.
struct Flight {
    outcome: watch::Receiver<Option<Outcome>>,
    hub: Arc<Hub>,
    task: tokio::task::AbortHandle,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Inner {
    pub(crate) fn has_snapshot(&self, chain: &ChainId) -> bool {
        self.snapshots.has(chain)
    }

    pub(crate) fn unpack(&self, layers: Vec<LayerBlob>, wanted: ChainId) -> Result<(), UnpackError> {
        let limits = Arc::clone(&lock(&self.unpack_limits));
        let made = self.snapshots.unpack_image(layers, &limits)?;
        debug_assert_eq!(made, wanted, "both sides derive the chain id from the same diff ids");
        Ok(())
    }
}

impl Storage {
    /// Opens what is in the data root, and removes what an earlier process left half done.
    pub fn open(options: StorageOptions) -> Result<Self, OpenStorageError> {
        if let Some(wrong) = options.registry.insecure.iter().find(|registry| !valid_registry(registry)) {
            return Err(OpenStorageError::Registry(wrong.clone()));
        }
        let default = &options.default_registry;
        // A name must be read back as it is written, so the host must look like one.
        if !(valid_registry(default) && looks_like_registry(default)) {
            return Err(OpenStorageError::Registry(default.clone()));
        }
        let content = Arc::new(ContentStore::open(&options.root.join("content"))?);
        let snapshots = options.root.join("snapshots");
        let snapshots = Snapshots::open(&snapshots, options.driver.as_deref(), &options.driver_options)?;
        ImageTree::tidy(&snapshots);
        Ok(Self(Arc::new(Inner {
            content,
            client: Client::new(options.registry),
            limits: options.limits,
            metrics: Arc::default(),
            snapshots: Arc::new(snapshots),
            unpack_limits: Mutex::new(Arc::new(options.unpack_limits)),
            default_registry: options.default_registry,
            platform: Platform::host(),
            flights: Mutex::default(),
        })))
    }

    /// Takes other options for pulls and unpacking that begin after it. What is no registry is spoken to by nobody
    /// ([`crate::valid_registry`]).
    pub fn reconfigure(&self, insecure: &[String], unpack_limits: UnpackLimits) {
        self.0.client.set_insecure(insecure);
        *lock(&self.0.unpack_limits) = Arc::new(unpack_limits);
    }

    /// Layers and containers' snapshots.
    pub fn snapshots(&self) -> &Arc<Snapshots> {
        &self.0.snapshots
    }

    /// The tree of an unpacked image, read-only; `name` tells its views from others (a part of a snapshot's key). Blocks for a
    /// mount.
    pub fn open_tree(&self, chain: &ChainId, name: &str) -> Result<ImageTree, OpenTreeError> {
        ImageTree::open(&self.0.snapshots, chain, name)
    }

    /// The blobs and names.
    pub fn content(&self) -> &Arc<ContentStore> {
        &self.0.content
    }

    /// Counters of this process.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    /// The machine here, as images name it.
    pub fn platform(&self) -> &Platform {
        &self.0.platform
    }

    /// Reads an image name; one without a registry gets the configured one.
    pub fn reference(&self, text: &str) -> Result<Reference, ParseReferenceError> {
        Reference::parse(text, &self.0.default_registry)
    }

    /// Asks the registry what `reference` means now, gets what is missing, unpacks it and names it. Who asks for the
    /// same while it goes on waits for the same pull. Given up when nobody waits any more; what has been downloaded by then is
    /// used by the next.
    pub async fn pull(&self, reference: &Reference, request: PullRequest) -> Result<Image, PullError> {
        let flight = self.fly(reference, request)?;
        let mut outcome = flight.outcome.clone();
        match outcome.wait_for(Option::is_some).await.map(|outcome| outcome.clone()) {
            Ok(Some(outcome)) => outcome,
            _ => Err(PullError::Cancelled(reference.clone())),
        }
    }

    fn fly(&self, reference: &Reference, request: PullRequest) -> Result<Arc<Flight>, PullError> {
        let credential = request.credentials.get(reference.registry()).cloned();
        let platform = request.platform.unwrap_or_else(|| self.0.platform.clone());
        let key = (reference.clone(), platform.clone(), credential.clone());
        let mut flights = lock(&self.0.flights);
        flights.retain(|_, flight| flight.strong_count() > 0);
        let under_way =
            flights.get(&key).and_then(Weak::upgrade).filter(|flight| flight.outcome.borrow().is_none());
        if let Some(flight) = under_way {
            if let Some(progress) = request.progress {
                flight.hub.join(progress);
            }
            return Ok(flight);
        }
        let session = self.0.client.session(reference, credential)?;
        let hub: Arc<Hub> = Arc::default();
        if let Some(progress) = request.progress {
            hub.join(progress);
        }
        let pull = Pull {
            storage: Arc::clone(&self.0),
            reference: reference.clone(),
            platform,
            hub: Arc::clone(&hub),
        };
        let (tell, outcome) = watch::channel(None);
        count(&self.0.metrics.pulls, 1);
        let task = tokio::spawn(async move {
            let result = pull.run(&session).await;
            if result.is_err() {
                count(&pull.storage.metrics.pull_failures, 1);
            }
            tell.send_replace(Some(result));
        });
        let flight = Arc::new(Flight { outcome, hub, task: task.abort_handle() });
        flights.insert(key, Arc::downgrade(&flight));
        Ok(flight)
    }

    /// The image that `reference` names here, without asking anybody. `None` when there is none, or when what was
    /// there is damaged (then a pull fetches it again). Blocks on the disk for two small files.
    pub fn image(&self, reference: &Reference) -> Result<Option<Image>, LoadError> {
        if let Some(digest) = reference.digest() {
            return Ok(self
                .image_by_digest(&digest)?
                .map(|found| Image { reference: Some(reference.clone()), ..found }));
        }
        self.find(|record| record.reference.as_ref() == Some(reference))
    }

    /// The image whose index, manifest or id has this digest. An image keeps its digest when its name moves on, so
    /// what a container was started with is found until it is removed.
    pub fn image_by_digest(&self, digest: &Digest) -> Result<Option<Image>, LoadError> {
        match self.find(|record| record.target.digest == *digest || record.manifest == *digest)? {
            Some(image) => Ok(Some(image)),
            None => Ok(self.images()?.into_iter().find(|image| image.id == *digest)),
        }
    }

    /// The same, with what the content store knows of it.
    pub(crate) fn with_record(&self, digest: &Digest) -> Result<Option<(Record, Image)>, LoadError> {
        let records = self.0.content.records();
        let direct = |record: &&Record| record.target.digest == *digest || record.manifest == *digest;
        for record in records.iter().filter(direct).chain(&records) {
            if let Some(image) = self.load(record)?
                && (direct(&record) || image.id == *digest)
            {
                return Ok(Some((record.clone(), image)));
            }
        }
        Ok(None)
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    pub(crate) fn unpack_limits(&self) -> Arc<UnpackLimits> {
        Arc::clone(&lock(&self.0.unpack_limits))
    }

    /// What a container's snapshot changed. See [`Snapshots::changes`].
    pub fn changes(&self, key: &SnapshotKey, stubs: &[PathBuf]) -> Result<Vec<Change>, DiffError> {
        self.0.snapshots.changes(key, stubs)
    }

    /// All that a container sees of its root filesystem, as a tar archive. See [`Snapshots::export`].
    pub fn export(&self, key: &SnapshotKey, out: &mut dyn std::io::Write) -> Result<(), DiffError> {
        self.0.snapshots.export(key, out)
    }

    fn find(&self, wanted: impl Fn(&Record) -> bool) -> Result<Option<Image>, LoadError> {
        for record in self.0.content.records().iter().filter(|record| wanted(record)) {
            if let Some(image) = self.load(record)? {
                return Ok(Some(image));
            }
        }
        Ok(None)
    }

    /// All images that can be used.
    pub fn images(&self) -> Result<Vec<Image>, LoadError> {
        let records = self.0.content.records();
        let loaded = records.iter().map(|record| self.load(record));
        loaded.filter_map(Result::transpose).collect()
    }

    pub(crate) fn load(&self, record: &Record) -> Result<Option<Image>, LoadError> {
        match image::load(&self.0.content, record, &self.0.limits) {
            Ok(image) => Ok(Some(image)),
            Err(error @ LoadError::Content(ContentError::Io { .. } | ContentError::NoSpace { .. })) => {
                Err(error)
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(reference = ?record.reference, error, "image is damaged, pull it again");
                Ok(None)
            }
        }
    }

    /// Whether all layers of `image` are unpacked, so that a container can start.
    pub fn is_unpacked(&self, image: &Image) -> bool {
        self.0.snapshots.has(&image.chain_id)
    }

    /// Unpacks `image` from the blobs that are here (after a change of driver, say). Asks nobody.
    pub async fn unpack(&self, image: &Image) -> Result<(), PullError> {
        let reference = image.reference.clone().unwrap_or_else(|| unnamed(&image.manifest));
        let storage = Arc::clone(&self.0);
        let pull = Pull { storage, reference, platform: image.platform.clone(), hub: Arc::default() };
        pull.layers(None, image).await
    }

    /// Takes in the images of an archive (`docker save`, OCI; plain, gzip or zstd) or of an OCI layout directory, and
    /// unpacks those for this machine. `name` names the image of a source that has one image, whatever name it has
    /// there.
    pub async fn import(&self, path: PathBuf, name: Option<Reference>) -> Result<Vec<Image>, ImportError> {
        let result = self.try_import(path, name).await;
        // What was in the file and belongs to no image for this machine goes again, as does all of a failed import.
        let storage = self.clone();
        if let Err(error) = blocking(move || storage.sweep(|_| false)).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "content that nothing refers to is left behind"
            );
        }
        result
    }

    async fn try_import(&self, path: PathBuf, name: Option<Reference>) -> Result<Vec<Image>, ImportError> {
        let storage = Arc::clone(&self.0);
        let platform = self.0.platform.clone();
        let Imported { records, mut lease } = blocking(move || {
            archive::import(
                &storage.content,
                &path,
                name,
                &platform,
                &storage.limits,
                &storage.default_registry,
            )
        })
        .await?;
        let mut images = Vec::new();
        for record in records {
            let image = image::load(&self.0.content, &record, &self.0.limits).map_err(ImportError::Load)?;
            image.chain().into_iter().for_each(|chain| lease.hold(chain.0));
            self.unpack(&image).await.map_err(ImportError::Unpack)?;
            let store = Arc::clone(&self.0.content);
            blocking(move || store.sync().and_then(|()| store.name(record)))
                .await
                .map_err(ImportError::Content)?;
            images.push(image);
        }
        drop(lease);
        Ok(images)
    }

    /// Removes the name; where it was the last of its image, also blobs and unpacked layers that no other image
    /// needs and no container is based on. A name with a digest, or a bare digest, removes every name of that image.
    pub async fn remove_image(&self, what: ImageName) -> Result<Removed, RemoveError> {
        let storage = self.clone();
        blocking(move || storage.remove(&what)).await
    }

    fn remove(&self, what: &ImageName) -> Result<Removed, RemoveError> {
        let digest = match what {
            ImageName::Digest(digest) => Some(*digest),
            ImageName::Reference(reference) => reference.digest(),
        };
        let by_id = digest
            .and_then(|digest| self.image_by_digest(&digest).ok().flatten())
            .map(|image| image.manifest);
        let gone = |record: &Record| match (what, digest) {
            (_, Some(digest)) => {
                record.target.digest == digest || record.manifest == digest || Some(record.manifest) == by_id
            }
            (ImageName::Reference(reference), None) => record.reference.as_ref() == Some(reference),
            (ImageName::Digest(_), None) => false,
        };
        let records = self.0.content.records();
        let leaving: Vec<&Record> = records.iter().filter(|record| gone(record)).collect();
        if leaving.is_empty() {
            return Err(RemoveError::NotFound(what.to_string()));
        }
        let chains: Vec<Vec<ChainId>> = leaving.iter().filter_map(|record| self.chains(record)).collect();
        let (removed, swept) = self.sweep(gone)?;
        // From the top down: a layer goes only when nothing is based on it.
        let layers = chains.iter().flat_map(|chain| self.remove_layers(chain)).collect();
        let references = removed.into_iter().filter_map(|record| record.reference).collect();
        Ok(Removed { references, swept, layers })
    }

    pub(crate) fn sweep(&self, gone: impl Fn(&Record) -> bool) -> Result<(Vec<Record>, Swept), RemoveError> {
        let mark = |record: &Record| image::mark(&self.0.content, record, &self.0.limits);
        let (removed, swept) =
            self.0.content.remove_and_sweep::<RemoveError>(gone, |record| Ok(mark(record)?))?;
        count(&self.0.metrics.bytes_swept, swept.bytes);
        Ok((removed, swept))
    }

    pub(crate) fn chains(&self, record: &Record) -> Option<Vec<ChainId>> {
        Some(image::load(&self.0.content, record, &self.0.limits).ok()?.chain())
    }
}

/// What an image is called when it is to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageName {
    /// By name.
    Reference(Reference),
    /// By the digest of its index or manifest, or by its id.
    Digest(Digest),
}

impl std::fmt::Display for ImageName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Reference(reference) => reference.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

fn unnamed(digest: &Digest) -> Reference {
    // Only for messages about an image that has no name.
    format!("localhost/unnamed@{digest}").parse().expect("a fixed name with a digest is a reference")
}
