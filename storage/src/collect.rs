//! What there is, in parts that images share, and taking away of it what is not needed. What to take is decided elsewhere.
//!
//! Three things keep an image from going while somebody begins to use it: a lease, taken *before* the image is looked up;
//! a snapshot that is based on it; and the names, which are held from the look at both to the end of the removal. So who has
//! a lease finds his image whole, or does not find it at all.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::Metadata;
use std::time::SystemTime;

use crate::content::{ContentError, Lease, Record, Swept};
use crate::digest::{ChainId, Digest};
use crate::driver::Usage;
use crate::image::{self, Image, LoadError};
use crate::pull::count;
use crate::reference::Reference;
use crate::snapshots::RemoveLayerError;
use crate::storage::{RemoveError, Storage};

/// That an image stays, for as long as this lives.
#[derive(Debug)]
pub struct ImageLease(Lease);

/// Everything that images consist of, and what is left of others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    /// One for each manifest, in no order.
    pub images: Vec<StoredImage>,
    /// What the blobs and layers of images take on disk, by [`PartId`].
    pub parts: BTreeMap<PartId, Usage>,
    /// Blobs and beginnings of blobs that belong to no image and to no pull that goes on.
    pub garbage: Vec<Garbage>,
    /// Layers of no image on which nothing is based, lowest first within a stack.
    pub layers: Vec<ChainId>,
    /// What snapshots are based on.
    pub bases: BTreeSet<ChainId>,
}

/// An image as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    /// The manifest that is used.
    pub manifest: Digest,
    /// Its names; none when they have moved on to other images.
    pub names: Vec<Reference>,
    /// What its names mean: digests of indexes, or that of the manifest.
    pub targets: BTreeSet<Digest>,
    /// The stack of all its layers; `None` when the image is damaged.
    pub chain: Option<ChainId>,
    /// When it was pulled, made or started from last.
    pub last_used: SystemTime,
    /// What it consists of. Other images may have parts of it too.
    pub parts: BTreeSet<PartId>,
}

/// A blob, or an unpacked layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PartId {
    /// In the content store.
    Blob(Digest),
    /// With the driver, beside its parent.
    Layer(ChainId),
}

impl std::fmt::Display for PartId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Blob(digest) => write!(f, "blob {digest}"),
            Self::Layer(chain) => write!(f, "layer {chain}"),
        }
    }
}

/// A file of the content store that nothing needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Garbage {
    /// Its bytes.
    pub bytes: u64,
    /// When it was written last.
    pub since: SystemTime,
}

/// What a removal took away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Names that are gone.
    pub references: Vec<Reference>,
    /// Blobs, whole or not.
    pub swept: Swept,
    /// Unpacked layers.
    pub layers: Vec<ChainId>,
}

/// Why an image was not taken away.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollectError {
    /// A pull or a start relies on it.
    #[error("image {0} is being pulled or started from")]
    Leased(Digest),
    /// A container's snapshot is based on it.
    #[error("image {image} is in use by snapshot {snapshot}")]
    InUse {
        /// The manifest.
        image: Digest,
        /// The snapshot's key.
        snapshot: String,
    },
    /// Names and blobs cannot be changed, or what is needed cannot be told.
    #[error(transparent)]
    Remove(#[from] RemoveError),
}

impl From<ContentError> for CollectError {
    fn from(error: ContentError) -> Self {
        Self::Remove(error.into())
    }
}

impl From<LoadError> for CollectError {
    fn from(error: LoadError) -> Self {
        Self::Remove(error.into())
    }
}

impl Storage {
    /// Keeps the image whose index or manifest has this digest. Whoever is about to use it takes this first, and looks the
    /// image up afterwards: then it is either not there, or stays.
    pub fn lease(&self, digest: &Digest) -> ImageLease {
        let mut lease = Lease::new(self.content());
        lease.hold(*digest);
        ImageLease(lease)
    }

    /// Notes that the image with this digest of an index or manifest was used. Costs one system call and no sync; where it
    /// fails, the image seems older.
    pub fn used(&self, digest: &Digest, at: SystemTime) {
        let records = self.content().records();
        let named = |record: &&Record| record.target.digest == *digest || record.manifest == *digest;
        if let Some(record) = records.iter().find(named) {
            self.content().touch(&record.manifest, at);
        }
    }

    /// Looks at everything. Reads the manifest and configuration of each image, and walks layers that were not measured before.
    ///
    /// # Errors
    /// When the disk fails. A damaged image is no error.
    pub fn inventory(&self) -> Result<Inventory, LoadError> {
        let (content, snapshots) = (self.content(), self.snapshots());
        let mut images: BTreeMap<Digest, StoredImage> = BTreeMap::new();
        let mut parts = BTreeMap::new();
        let (mut keep, mut chains) = (HashSet::new(), HashSet::new());
        let mut damaged = false;
        for record in content.records() {
            let marked = image::mark(content, &record, self.limits())?;
            keep.extend(marked.iter().copied());
            let loaded = self.load(&record)?;
            damaged |= loaded.is_none();
            let stored = images.entry(record.manifest).or_insert_with(|| StoredImage {
                manifest: record.manifest,
                names: Vec::new(),
                targets: BTreeSet::new(),
                chain: loaded.as_ref().map(|image| image.chain_id),
                last_used: content.touched(&record.manifest).unwrap_or(SystemTime::UNIX_EPOCH),
                parts: BTreeSet::new(),
            });
            stored.names.extend(record.reference.clone());
            stored.targets.insert(record.target.digest);
            for digest in marked {
                if let Some(bytes) = content.size(&digest)? {
                    parts.insert(PartId::Blob(digest), Usage { bytes, inodes: 1 });
                    stored.parts.insert(PartId::Blob(digest));
                }
            }
            for chain in loaded.iter().flat_map(Image::chain).filter(|chain| snapshots.has(chain)) {
                chains.insert(chain);
                let usage = snapshots.layer_usage(&chain).unwrap_or_else(|error| {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(%chain, error, "cannot tell what a layer takes");
                    None
                });
                parts.insert(PartId::Layer(chain), usage.unwrap_or_default());
                stored.parts.insert(PartId::Layer(chain));
            }
        }
        let bases: BTreeSet<ChainId> =
            snapshots.list().into_iter().filter_map(|snapshot| snapshot.parent).collect();
        let garbage = content.garbage(&keep)?;
        Ok(Inventory {
            images: images.into_values().collect(),
            parts,
            garbage: garbage.into_iter().map(|(bytes, since)| Garbage { bytes, since }).collect(),
            // A damaged image does not say which layers are its own.
            layers: if damaged { Vec::new() } else { self.orphans(&chains, &bases) },
            bases,
        })
    }

    /// Layers that neither an image nor a snapshot needs.
    fn orphans(&self, of_images: &HashSet<ChainId>, bases: &BTreeSet<ChainId>) -> Vec<ChainId> {
        let layers = self.snapshots().layers();
        let parents: BTreeMap<ChainId, Option<ChainId>> =
            layers.iter().map(|layer| (layer.chain, layer.parent)).collect();
        let mut needed: HashSet<ChainId> = HashSet::new();
        for top in of_images.iter().chain(bases) {
            let mut next = Some(*top);
            while let Some(chain) = next.filter(|chain| needed.insert(*chain)) {
                next = parents.get(&chain).copied().flatten();
            }
        }
        let mut left: Vec<(usize, ChainId)> = parents
            .keys()
            .filter(|chain| !needed.contains(chain) && !self.content().leased(&chain.0))
            .map(|chain| {
                let below = std::iter::successors(Some(*chain), |at| parents.get(at).copied().flatten());
                (below.count(), *chain)
            })
            .collect();
        left.sort_unstable();
        left.into_iter().map(|(_, chain)| chain).collect()
    }

    /// Takes an image away: all its names, and what no other image needs. Blocks until that takes no room any more.
    ///
    /// # Errors
    /// When somebody uses it or begins to, or the disk fails. Nothing is half done: what was removed is whole.
    pub fn collect_image(&self, manifest: &Digest) -> Result<Collected, CollectError> {
        let own = |record: &Record| record.manifest == *manifest;
        let records: Vec<Record> = self.content().records().into_iter().filter(own).collect();
        let chain = records.first().and_then(|record| self.chains(record));
        let mut blobs = HashSet::new();
        for record in &records {
            blobs.extend(image::mark(self.content(), record, self.limits())?);
        }
        let may = |records: &[Record]| {
            let mut digests = records.iter().filter(|record| own(record)).map(|record| record.target.digest);
            if self.content().leased(manifest) || digests.any(|digest| self.content().leased(&digest)) {
                return Err(CollectError::Leased(*manifest));
            }
            let top = chain.as_ref().and_then(|chain| chain.last());
            let user = self.snapshots().list().into_iter().find(|it| it.parent.as_ref() == top);
            match user.filter(|_| top.is_some()) {
                Some(user) => Err(CollectError::InUse { image: *manifest, snapshot: user.key.to_string() }),
                None => Ok(()),
            }
        };
        let mark = |record: &Record| Ok(image::mark(self.content(), record, self.limits())?);
        let (removed, swept) =
            self.content()
                .remove_and_sweep_some::<CollectError>(may, own, mark, |digest, _| blobs.contains(digest))?;
        count(&self.metrics().bytes_swept, swept.bytes);
        let layers = self.remove_layers(&chain.unwrap_or_default());
        self.snapshots().settle();
        let references = removed.into_iter().filter_map(|record| record.reference).collect();
        Ok(Collected { references, swept, layers })
    }

    /// Takes away what belongs to no image and was written before `before`, and layers that nothing needs. Blocks until that takes
    /// no room any more.
    ///
    /// # Errors
    /// When an image that is here cannot be read, so that it is not known what it needs; or the disk fails.
    pub fn collect_garbage(&self, before: SystemTime) -> Result<Collected, CollectError> {
        let layers = self.inventory()?.layers;
        let old = |_: &Digest, meta: &Metadata| meta.modified().is_ok_and(|at| at <= before);
        let mark = |record: &Record| Ok(image::mark(self.content(), record, self.limits())?);
        let (_, swept) =
            self.content().remove_and_sweep_some::<CollectError>(|_| Ok(()), |_| false, mark, old)?;
        count(&self.metrics().bytes_swept, swept.bytes);
        let layers = self.remove_layers(&layers);
        self.snapshots().settle();
        Ok(Collected { references: Vec::new(), swept, layers })
    }

    /// Removes layers, the last one first, as far as no image and nothing else needs them.
    pub(crate) fn remove_layers(&self, chains: &[ChainId]) -> Vec<ChainId> {
        let records = self.content().records();
        let kept: HashSet<ChainId> =
            records.iter().filter_map(|record| self.chains(record)).flatten().collect();
        let mut removed = Vec::new();
        for chain in chains.iter().rev().filter(|chain| !kept.contains(chain)) {
            if !self.snapshots().has(chain) {
                continue;
            }
            let leased = || self.content().leased(&chain.0);
            match self.snapshots().remove_layer_unless(chain, leased) {
                Ok(()) => removed.push(*chain),
                Err(RemoveLayerError::InUse { .. }) => {}
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(%chain, error, "layer is left behind");
                }
            }
        }
        removed
    }
}

impl ImageLease {
    /// Keeps an image too that was found, with its layers.
    pub fn hold(&mut self, image: &Image) {
        self.0.hold(image.digest);
        self.0.hold(image.manifest);
        self.0.hold(image.id);
        image.chain().into_iter().for_each(|chain| self.0.hold(chain.0));
    }
}
