//! Removing images that nobody needs: by itself until there is room, or because a person asks for it.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use stower_controllers::{Goal, ImageDigest, ImageFacts, References, Removal, Spared, Stored, Takes};
use stower_storage::{CollectError, Inventory, PartId, Reference};

use super::Keeper;
use crate::{
    effects::chain,
    events::EventType,
    node::{ApiError, Node, Request},
};

/// How stale the note of the last use of an image in use may become.
const STALE: Duration = Duration::from_secs(3600);

/// What a person wants removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PruneOptions {
    /// Images with a name too, when nothing refers to them.
    pub all: bool,
    /// Data that deleted Volumes and DataContainers left behind, too.
    pub volumes: bool,
    /// Remove nothing; say what would go.
    pub dry_run: bool,
}

/// What went, or would go.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pruned {
    /// One for each thing.
    pub items: Vec<PrunedItem>,
    /// Bytes of all of them.
    pub reclaimed_bytes: u64,
}

/// One thing that went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrunedItem {
    /// `Image`, `Layers`, `Content`, or the kind of the object that left data behind.
    pub kind: String,
    /// What it was called.
    pub name: String,
    /// The digest of an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Bytes that it took, which nothing else has.
    pub bytes: u64,
    /// Why it is still there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl Pruned {
    fn add(&mut self, item: PrunedItem) {
        if item.problem.is_none() {
            self.reclaimed_bytes = self.reclaimed_bytes.saturating_add(item.bytes);
        }
        self.items.push(item);
    }
}

/// What was found in the store, as decisions take it.
pub(super) fn stored(inventory: &Inventory) -> Stored<PartId> {
    let images = inventory.images.iter().map(|image| ImageFacts {
        id: ImageDigest::new(&image.manifest.to_string()),
        names: image.names.iter().map(Reference::to_string).collect(),
        digests: image
            .targets
            .iter()
            .chain([&image.manifest])
            .map(|digest| ImageDigest::new(&digest.to_string()))
            .collect(),
        is_base: image.chain.is_some_and(|chain| inventory.bases.contains(&chain)),
        last_used: Timestamp::try_from(image.last_used).unwrap_or(Timestamp::UNIX_EPOCH),
        parts: image.parts.clone(),
    });
    let takes = |(part, usage): (&PartId, &stower_storage::Usage)| {
        (*part, Takes { bytes: usage.bytes, inodes: usage.inodes })
    };
    Stored { images: images.collect(), parts: inventory.parts.iter().map(takes).collect() }
}

impl Keeper {
    /// What refers to images, with names written out.
    pub(super) fn spared(&self, references: &References) -> Spared {
        let mut spared = Spared { digests: references.digests.clone(), ..Spared::default() };
        for text in references.names.iter().chain(&self.settings.get().disk.pinned) {
            // A name that is none names no image.
            let Ok(reference) = self.storage.reference(text) else { continue };
            spared.digests.extend(reference.digest().map(|digest| ImageDigest::new(&digest.to_string())));
            spared.names.insert(reference.to_string());
        }
        spared
    }

    /// Removes what is not needed until there is room. False when nothing could be removed.
    pub(super) async fn collect(self: &Arc<Self>, node: &Arc<Node>) -> bool {
        let _alone = self.removing.lock().await;
        let references = match node.references().await {
            Ok(References { unknown: None, names, digests }) => References { names, digests, unknown: None },
            Ok(References { unknown: Some(why), .. }) => {
                tracing::warn!(why, "no image is removed, since it is not known what needs them");
                return false;
            }
            Err(error) => {
                tracing::warn!(%error, "no image is removed, since it is not known what needs them");
                return false;
            }
        };
        self.metrics.gc_runs.inc();
        let keeper = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || {
            let spared = Spared { min_age: keeper.settings.get().disk.min_age, ..keeper.spared(&references) };
            keeper.collect_until(&spared)
        });
        let (pruned, reached) = match done.await {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => {
                let why = chain(&error);
                tracing::error!(why, "cannot remove images");
                node.tell(EventType::Warning, "ImageGCFailed", why);
                self.metrics.gc_failures.inc();
                return false;
            }
            Err(error) => {
                tracing::error!(%error, "the agent failed while it removed images");
                return false;
            }
        };
        let removed = pruned.items.iter().filter(|item| item.problem.is_none()).count();
        if removed > 0 {
            let names: Vec<&str> = pruned
                .items
                .iter()
                .filter(|item| item.problem.is_none())
                .map(|item| item.name.as_str())
                .collect();
            let message = format!("removed {}: {} bytes", names.join(", "), pruned.reclaimed_bytes);
            tracing::info!(bytes = pruned.reclaimed_bytes, "{message}");
            node.tell(EventType::Normal, "ImageGC", message);
            let _ = node.requests.send(Request::ImagesChanged).await;
        }
        if !reached {
            self.metrics.gc_failures.inc();
            let message = format!(
                "the filesystem of {} is above its mark, and no more images can be removed: all that are left are young or \
                 in use",
                self.data.display()
            );
            tracing::warn!("{message}");
            node.tell(EventType::Warning, "FreeDiskSpaceFailed", message);
        }
        removed > 0
    }

    /// Removes one thing after the other, measuring after each, until it is enough.
    fn collect_until(&self, spared: &Spared) -> Result<(Pruned, bool), CollectError> {
        let mut pruned = Pruned::default();
        self.touch_used(&self.storage.inventory()?, spared);
        let before = SystemTime::now().checked_sub(spared.min_age).unwrap_or(SystemTime::UNIX_EPOCH);
        self.remove_garbage(before, false, &mut pruned)?;
        loop {
            let goal = self.refresh().goal;
            if goal.is_reached() {
                return Ok((pruned, true));
            }
            let plan = stored(&self.storage.inventory()?).collect(spared, goal, Timestamp::now());
            let mut removed = false;
            for removal in &plan {
                let item = self.remove(removal);
                removed |= item.problem.is_none();
                pruned.add(item);
                if self.refresh().goal.is_reached() {
                    return Ok((pruned, true));
                }
            }
            if !removed {
                return Ok((pruned, false));
            }
        }
    }

    /// What is in use is used now, as the kubelet sees it too; told now and then, so that it is young when its last user goes.
    fn touch_used(&self, inventory: &Inventory, spared: &Spared) {
        let now = SystemTime::now();
        for (image, facts) in inventory.images.iter().zip(stored(inventory).images) {
            let stale = now.duration_since(image.last_used).map_or(true, |age| age > STALE);
            if stale && spared.refers_to(&facts) || image.last_used > now {
                self.storage.used(&image.manifest, now);
            }
        }
    }

    fn remove(&self, removal: &Removal) -> PrunedItem {
        let item = item(removal);
        let removed = match removal.id.as_str().parse() {
            Ok(manifest) => self.storage.collect_image(&manifest).map_err(|error| chain(&error)),
            Err(error) => Err(chain(&error)),
        };
        match removed {
            Ok(_) => {
                self.metrics.gc_images.inc();
                self.metrics.gc_bytes.inc_by(item.bytes);
                item
            }
            Err(why) => {
                // Somebody has begun to use it since.
                tracing::info!(image = item.name, why, "an image stays");
                PrunedItem { problem: Some(why), ..item }
            }
        }
    }

    /// Removes content that belongs to no image and was written before then, and layers without an image.
    fn remove_garbage(&self, before: SystemTime, dry: bool, pruned: &mut Pruned) -> Result<(), CollectError> {
        let found = self.storage.inventory()?;
        let old: Vec<u64> = found.garbage.iter().filter(|it| it.since <= before).map(|it| it.bytes).collect();
        let layers = found.layers.iter().map(|chain| {
            let usage = self.storage.snapshots().layer_usage(chain);
            usage.ok().flatten().map_or(0, |usage| usage.bytes)
        });
        let layers: Vec<u64> = layers.collect();
        if old.is_empty() && layers.is_empty() {
            return Ok(());
        }
        if !dry {
            self.storage.collect_garbage(before)?;
            self.metrics.gc_bytes.inc_by(old.iter().chain(&layers).sum());
        }
        for (kind, sizes, what) in [
            ("Content", old, "unfinished or left over blobs"),
            ("Layers", layers, "layers of images that are gone"),
        ] {
            if !sizes.is_empty() {
                let name = format!("{} {what}", sizes.len());
                let bytes = sizes.iter().sum();
                pruned.add(PrunedItem { kind: kind.to_owned(), name, digest: None, bytes, problem: None });
            }
        }
        Ok(())
    }

    /// Removes what a person asks for: leftovers, and images that nothing refers to, however young.
    ///
    /// # Errors
    /// When it is not known what images are needed for, or the disk fails.
    pub(crate) async fn prune(
        self: &Arc<Self>,
        node: &Arc<Node>,
        options: PruneOptions,
    ) -> Result<Pruned, ApiError> {
        let _alone = self.removing.lock().await;
        let references = node.references().await?;
        if let Some(why) = &references.unknown {
            return Err(ApiError::conflict(format!(
                "it is not known what images are needed for: {why}; nothing was removed"
            )));
        }
        let keeper = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || {
            let spared = Spared { named: !options.all, ..keeper.spared(&references) };
            let mut pruned = Pruned::default();
            // What a pull that goes on needs has a lease.
            keeper.remove_garbage(SystemTime::now(), options.dry_run, &mut pruned)?;
            let stored = stored(&keeper.storage.inventory()?);
            for removal in stored.collect(&spared, Goal::EVERYTHING, Timestamp::now()) {
                pruned.add(if options.dry_run { item(&removal) } else { keeper.remove(&removal) });
            }
            keeper.measure();
            Ok(pruned)
        });
        let failed = |why: String| ApiError::internal(why);
        let done: Result<Pruned, CollectError> = done.await.map_err(|error| failed(error.to_string()))?;
        let mut pruned = done.map_err(|error| failed(chain(&error)))?;
        if !options.dry_run {
            let _ = node.requests.send(Request::ImagesChanged).await;
        }
        if options.volumes {
            node.prune_volumes(options.dry_run, &mut |item| pruned.add(item)).await?;
            self.measure_aside().await;
        }
        Ok(pruned)
    }
}

/// A removal, for people.
fn item(removal: &Removal) -> PrunedItem {
    let familiar =
        |name: &String| name.parse().map_or_else(|_| name.clone(), |name: Reference| name.familiar());
    let names: BTreeSet<String> = removal.names.iter().map(familiar).collect();
    let name = names.into_iter().collect::<Vec<_>>().join(", ");
    PrunedItem {
        kind: "Image".to_owned(),
        name: if name.is_empty() { removal.id.to_string() } else { name },
        digest: Some(removal.id.to_string()),
        bytes: removal.frees.bytes,
        problem: None,
    }
}
