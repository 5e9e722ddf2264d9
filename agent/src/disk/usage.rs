//! What takes room, as `docker system df` tells it.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use stower_controllers::{Goal, Spared};
use stower_storage::SnapshotKind;

use super::{Keeper, collect::stored};
use crate::{
    effects::chain,
    node::{ApiError, Node},
    volumedata::VolumeView,
};

/// What takes room, by what it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskUsage {
    /// Images: blobs and unpacked layers.
    pub images: Share,
    /// What containers wrote to their root filesystems.
    pub containers: Share,
    /// Data of volumes.
    pub volumes: Share,
    /// Content and layers that belong to no image.
    pub leftovers: Share,
}

/// What one kind of thing takes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Share {
    /// How many there are.
    pub total: u64,
    /// How many of them are used.
    pub active: u64,
    /// Bytes that all of them take; what they share counts once.
    pub bytes: u64,
    /// Bytes that `system prune --all --volumes` would free.
    pub reclaimable_bytes: u64,
    /// Each of them.
    pub items: Vec<UsageItem>,
}

/// What one thing takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UsageItem {
    /// What it is called.
    pub name: String,
    /// The digest of an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Bytes, shared ones too.
    pub bytes: u64,
    /// Bytes that nothing else has.
    pub unique_bytes: u64,
    /// Files and directories.
    pub inodes: u64,
    /// Whether something needs it.
    pub active: bool,
    /// When it was used last, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Timestamp>,
}

impl Share {
    fn add(&mut self, item: UsageItem) {
        self.total += 1;
        self.active += u64::from(item.active);
        self.items.push(item);
    }
}

impl Keeper {
    /// What takes room now. Reads all images, and walks what containers wrote.
    ///
    /// # Errors
    /// When the disk fails, or the loop does not answer.
    pub(crate) async fn usage(self: &Arc<Self>, node: &Arc<Node>) -> Result<DiskUsage, ApiError> {
        let references = node.references().await?;
        let names = node.container_names();
        let keeper = Arc::clone(self);
        let usage = tokio::task::spawn_blocking(move || {
            let spared = keeper.spared(&references);
            let images = keeper.images(&spared).map_err(|error| ApiError::internal(chain(&error)))?;
            let containers = keeper.containers(&names)?;
            Ok(DiskUsage { images: images.0, leftovers: images.1, containers, volumes: Share::default() })
        });
        let usage: Result<DiskUsage, ApiError> =
            usage.await.map_err(|error| ApiError::internal(error.to_string()))?;
        Ok(DiskUsage { volumes: volumes(&node.volumes_list().await?), ..usage? })
    }

    /// Images, and what belongs to none.
    fn images(&self, spared: &Spared) -> Result<(Share, Share), stower_storage::LoadError> {
        let inventory = self.storage.inventory()?;
        let stored = stored(&inventory);
        let free = stored.collect(spared, Goal::EVERYTHING, Timestamp::now());
        let mut images = Share {
            bytes: stored.takes().bytes,
            reclaimable_bytes: free.iter().map(|removal| removal.frees.bytes).sum(),
            ..Share::default()
        };
        for facts in &stored.images {
            let of = |unique: bool| {
                let others =
                    |part| stored.images.iter().any(|it| it.id != facts.id && it.parts.contains(part));
                let own = facts.parts.iter().filter(|part| !unique || !others(part));
                own.filter_map(|part| stored.parts.get(part)).fold((0_u64, 0_u64), |sum, takes| {
                    (sum.0.saturating_add(takes.bytes), sum.1.saturating_add(takes.inodes))
                })
            };
            let ((bytes, inodes), (unique_bytes, _)) = (of(false), of(true));
            let names: Vec<String> = facts
                .names
                .iter()
                .filter_map(|name| name.parse::<stower_storage::Reference>().ok())
                .map(|name| name.familiar())
                .collect();
            images.add(UsageItem {
                name: if names.is_empty() { "<none>".to_owned() } else { names.join(", ") },
                digest: Some(facts.id.to_string()),
                bytes,
                unique_bytes,
                inodes,
                active: spared.refers_to(facts),
                last_used: Some(facts.last_used),
            });
        }
        images.items.sort_by(|a, b| (&a.name, &a.digest).cmp(&(&b.name, &b.digest)));
        let mut leftovers = Share::default();
        let layer = |chain| {
            let usage = self.storage.snapshots().layer_usage(chain).ok().flatten();
            usage.unwrap_or_default()
        };
        let blobs = inventory.garbage.iter().map(|it| ("blob", it.bytes, 1));
        let layers = inventory.layers.iter().map(layer).map(|usage| ("layer", usage.bytes, usage.inodes));
        for (name, bytes, inodes) in blobs.chain(layers) {
            leftovers.bytes = leftovers.bytes.saturating_add(bytes);
            let name = name.to_owned();
            leftovers.add(UsageItem {
                name,
                digest: None,
                bytes,
                unique_bytes: bytes,
                inodes,
                active: false,
                last_used: None,
            });
        }
        leftovers.reclaimable_bytes = leftovers.bytes;
        Ok((images, leftovers))
    }

    /// What was written to root filesystems; `names` are those of declared containers, by UID.
    fn containers(&self, names: &[(String, String)]) -> Result<Share, ApiError> {
        let mut share = Share::default();
        let snapshots = self.storage.snapshots();
        for snapshot in snapshots.list() {
            if snapshot.kind != SnapshotKind::Writable {
                continue;
            }
            let key = snapshot.key.as_str();
            let known = names.iter().find(|(uid, _)| uid == key);
            let usage = match snapshots.usage(&snapshot.key) {
                Ok(usage) => usage,
                // It went meanwhile, or is on its way.
                Err(stower_storage::SnapshotError::NotFound(_) | stower_storage::SnapshotError::Busy(_)) => {
                    continue;
                }
                Err(error) => return Err(ApiError::internal(chain(&error))),
            };
            share.bytes = share.bytes.saturating_add(usage.bytes);
            share.add(UsageItem {
                name: known.map_or_else(|| key.to_owned(), |(_, name)| name.clone()),
                digest: None,
                bytes: usage.bytes,
                unique_bytes: usage.bytes,
                inodes: usage.inodes,
                // What is not declared any more is on its way out by itself.
                active: known.is_some(),
                last_used: None,
            });
        }
        share.items.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(share)
    }
}

fn volumes(all: &[VolumeView]) -> Share {
    let mut share = Share::default();
    for volume in all {
        let usage = volume.usage;
        let bytes = usage.map_or(0, |usage| usage.bytes);
        share.bytes = share.bytes.saturating_add(bytes);
        if volume.is_retained() {
            share.reclaimable_bytes = share.reclaimable_bytes.saturating_add(bytes);
        }
        share.add(UsageItem {
            name: volume.key.clone(),
            digest: None,
            bytes,
            unique_bytes: bytes,
            inodes: usage.map_or(0, |usage| usage.inodes),
            active: volume.declared,
            last_used: None,
        });
    }
    share
}
