//! What ought to be: the objects that the sources declare.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use stower_crds::{ContainerSpec, Generation, ObjectKey, Uid};

/// Names a source of objects: `directory`, `api`, or a server's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SourceId(Box<str>);

impl SourceId {
    /// The source named `name`.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether the absence of an object from a source is proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completeness {
    /// The ledger of the source is read and every object in it is in [`Desired`].
    Complete,
    /// Something of it cannot be read: what is missing may still be declared.
    Unknown {
        /// What cannot be read, for people.
        why: String,
    },
}

/// One object as a source declares it, validated and defaulted.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared {
    /// Its name.
    pub key: ObjectKey,
    /// Its identity.
    pub uid: Uid,
    /// Rises when the defaulted spec changes.
    pub generation: Generation,
    /// The spec, defaulted.
    pub spec: Arc<ContainerSpec>,
    /// Where it comes from.
    pub source: SourceId,
    /// Its removal is proven; it stays until its teardown is done.
    pub terminating: bool,
    /// Lower starts first when starts must queue: its place in the order of dependency. 0 while objects refer
    /// to none.
    pub rank: u32,
}

/// Everything that is declared, and whether that is all of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Desired {
    objects: BTreeMap<ObjectKey, Arc<Declared>>,
    uids: BTreeMap<Uid, ObjectKey>,
    sources: BTreeMap<SourceId, Completeness>,
}

impl Desired {
    /// Puts an object in the place of any of the same name.
    pub fn insert(&mut self, declared: Arc<Declared>) {
        self.remove(&declared.key);
        self.uids.insert(declared.uid.clone(), declared.key.clone());
        self.objects.insert(declared.key.clone(), declared);
    }

    /// Takes an object out, when its teardown is done.
    pub fn remove(&mut self, key: &ObjectKey) -> Option<Arc<Declared>> {
        let old = self.objects.remove(key)?;
        self.uids.remove(&old.uid);
        Some(old)
    }

    /// Says how much of a source is known. A source that is not named here has nothing to say.
    pub fn set_source(&mut self, source: SourceId, completeness: Completeness) {
        self.sources.insert(source, completeness);
    }

    /// The object of that name.
    pub fn get(&self, key: &ObjectKey) -> Option<&Arc<Declared>> {
        self.objects.get(key)
    }

    /// The object of that identity.
    pub fn by_uid(&self, uid: &Uid) -> Option<&Arc<Declared>> {
        self.objects.get(self.uids.get(uid)?)
    }

    /// Every object, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Declared>> {
        self.objects.values()
    }

    /// Every identity, in order.
    pub fn uids(&self) -> impl Iterator<Item = &Uid> {
        self.uids.keys()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// The first source whose objects are not all known, and why: nothing that is absent is proven so. `None`
    /// when absence here is proof.
    pub fn unproven(&self) -> Option<(&SourceId, &str)> {
        self.sources.iter().find_map(|(id, completeness)| match completeness {
            Completeness::Complete => None,
            Completeness::Unknown { why } => Some((id, why.as_str())),
        })
    }
}
