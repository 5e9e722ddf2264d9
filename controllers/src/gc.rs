//! Which images may go, and in which order.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;

use crate::{
    desired::{AnyDeclared, Desired},
    disk::Goal,
    observed::ImageDigest,
    record::{RecordState, Records},
};

/// What declared objects and records refer to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct References {
    /// Names, as the specs have them.
    pub names: BTreeSet<String>,
    /// What names were resolved to, and what runs were started from.
    pub digests: BTreeSet<ImageDigest>,
    /// Why this may not be all. Then nothing is proven to be unused.
    pub unknown: Option<String>,
}

/// What something takes on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Takes {
    /// Bytes.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

/// An image that is here. `P` names its parts, some of which other images may have too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFacts<P> {
    /// Its manifest; each is here once.
    pub id: ImageDigest,
    /// Its names, written out.
    pub names: BTreeSet<String>,
    /// By which it may be referred to: its manifest and what its names mean.
    pub digests: BTreeSet<ImageDigest>,
    /// The storage of a container is based on it.
    pub is_base: bool,
    /// When it was pulled, made or started from last.
    pub last_used: Timestamp,
    /// What it consists of.
    pub parts: BTreeSet<P>,
}

/// All images that are here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored<P> {
    /// In no order.
    pub images: Vec<ImageFacts<P>>,
    /// What parts take; nothing for those that are not in it.
    pub parts: BTreeMap<P, Takes>,
}

/// Which images are spared.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Spared {
    /// Those with one of these names, written out.
    pub names: BTreeSet<String>,
    /// Those with one of these digests.
    pub digests: BTreeSet<ImageDigest>,
    /// Those that were used within this time.
    pub min_age: Duration,
    /// Those that have a name.
    pub named: bool,
}

/// An image to be removed, and what becomes free by it when all before it are removed as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// The image.
    pub id: ImageDigest,
    /// Its names.
    pub names: BTreeSet<String>,
    /// What only it has.
    pub frees: Takes,
}

/// What declared objects and records refer to. A terminating object counts until it is gone.
pub fn references(desired: &Desired, records: &Records) -> References {
    let mut found = References::default();
    for uid in desired.uids() {
        match desired.any_by_uid(uid) {
            Some(AnyDeclared::Container(declared)) => {
                found.names.insert(declared.spec.image.clone());
            }
            Some(AnyDeclared::Data(declared)) => found.names.extend(declared.spec.image.clone()),
            _ => {}
        }
    }
    for (uid, state) in records {
        match state {
            RecordState::Known(record) => {
                found.digests.extend(record.image.as_ref().map(|image| image.digest.clone()));
                found.digests.extend(record.launch.as_ref().and_then(|launch| launch.image.clone()));
            }
            RecordState::Unknown { why } => {
                found.unknown = Some(format!("the record of {uid} cannot be read: {why}"));
            }
        }
    }
    if let Some((source, why)) = desired.unproven() {
        found.unknown = Some(format!("{source} may declare more: {why}"));
    }
    found
}

impl<P: Ord> Stored<P> {
    /// What is to be removed, the least recently used image first, until `goal` is reached or no more may go.
    ///
    /// What two images share becomes free with the second one.
    pub fn collect(&self, spared: &Spared, goal: Goal, now: Timestamp) -> Vec<Removal> {
        if goal.is_reached() {
            return Vec::new();
        }
        let mut users: BTreeMap<&P, usize> = BTreeMap::new();
        for part in self.images.iter().flat_map(|image| &image.parts) {
            *users.entry(part).or_default() += 1;
        }
        let mut candidates: Vec<&ImageFacts<P>> =
            self.images.iter().filter(|image| !spared.spares(image, now)).collect();
        candidates.sort_by(|a, b| (a.last_used, &a.id).cmp(&(b.last_used, &b.id)));
        let mut freed = Takes::default();
        let mut removals = Vec::new();
        for image in candidates {
            if freed.bytes >= goal.bytes && freed.inodes >= goal.inodes && !goal.pool {
                break;
            }
            let mut frees = Takes::default();
            for part in &image.parts {
                let Some(left) = users.get_mut(part) else { continue };
                *left = left.saturating_sub(1);
                if *left == 0 {
                    frees.add(self.parts.get(part).copied().unwrap_or_default());
                }
            }
            freed.add(frees);
            removals.push(Removal { id: image.id.clone(), names: image.names.clone(), frees });
        }
        removals
    }

    /// What all images take together.
    pub fn takes(&self) -> Takes {
        let parts: BTreeSet<&P> = self.images.iter().flat_map(|image| &image.parts).collect();
        let mut all = Takes::default();
        parts.into_iter().filter_map(|part| self.parts.get(part)).for_each(|takes| all.add(*takes));
        all
    }
}

impl Spared {
    /// Whether something refers to the image.
    pub fn refers_to<P>(&self, image: &ImageFacts<P>) -> bool {
        image.is_base
            || !image.names.is_disjoint(&self.names)
            || !image.digests.is_disjoint(&self.digests)
            || self.digests.contains(&image.id)
    }

    fn spares<P>(&self, image: &ImageFacts<P>, now: Timestamp) -> bool {
        // One from the future was used before the clock was set back: that is young too.
        let age = Duration::try_from(now.duration_since(image.last_used)).unwrap_or_default();
        self.refers_to(image) || age < self.min_age || (self.named && !image.names.is_empty())
    }
}

impl Takes {
    /// This much more.
    pub fn add(&mut self, more: Self) {
        self.bytes = self.bytes.saturating_add(more.bytes);
        self.inodes = self.inodes.saturating_add(more.inodes);
    }
}

#[cfg(test)]
mod tests;
