//! What ought to be: the objects that the sources declare.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use stower_crds::{
    ConfigData, ContainerSpec, DataContainerSpec, Generation, Kind, ObjectKey, Uid, VolumeSpec,
};

use crate::{
    pod_security::{self, PodSecurityLevel},
    resolve::{data_references, references},
};

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
pub struct Declared<S = ContainerSpec> {
    /// Its name.
    pub key: ObjectKey,
    /// Its identity.
    pub uid: Uid,
    /// Rises when the defaulted spec changes.
    pub generation: Generation,
    /// The spec, defaulted.
    pub spec: Arc<S>,
    /// What is only handed on.
    pub meta: Arc<Meta>,
    /// Where it comes from.
    pub source: SourceId,
    /// Its removal is proven; it stays until its teardown is done.
    pub terminating: bool,
    /// Lower starts first when starts must queue: its place in the order of dependency.
    pub rank: u32,
}

/// Labels and annotations, which a container may read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meta {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

/// The values of a ConfigMap or Secret. Never shown.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Values(pub ConfigData);

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Everything that is declared, and whether that is all of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Desired {
    objects: BTreeMap<ObjectKey, Arc<Declared>>,
    volumes: BTreeMap<ObjectKey, Arc<Declared<VolumeSpec>>>,
    data: BTreeMap<ObjectKey, Arc<Declared<DataContainerSpec>>>,
    values: BTreeMap<ObjectKey, Arc<Declared<Values>>>,
    uids: BTreeMap<Uid, ObjectKey>,
    /// Who names an object, by the name, whether that is there or not.
    users: BTreeMap<ObjectKey, BTreeSet<Uid>>,
    sources: BTreeMap<SourceId, Completeness>,
    single: Singly,
    node_name: String,
}

/// A source whose ConfigMaps and Secrets are read one by one, so that one which is not among [`Desired`] may still be there.
#[derive(Debug, Clone, PartialEq, Default)]
struct Singly {
    source: Option<SourceId>,
    /// Proven not to be there.
    absent: BTreeSet<ObjectKey>,
    /// Why each of these cannot be read.
    unavailable: BTreeMap<ObjectKey, String>,
}

/// An object of any kind.
#[derive(Debug, Clone)]
pub enum AnyDeclared {
    /// A Container.
    Container(Arc<Declared>),
    /// A Volume.
    Volume(Arc<Declared<VolumeSpec>>),
    /// A DataContainer.
    Data(Arc<Declared<DataContainerSpec>>),
    /// A ConfigMap or Secret.
    Values(Arc<Declared<Values>>),
}

impl Desired {
    /// Puts an object in the place of any of the same name.
    pub fn insert(&mut self, declared: Arc<Declared>) {
        self.insert_any(AnyDeclared::Container(declared));
    }

    /// Puts an object of any kind in the place of any of the same name.
    pub fn insert_any(&mut self, declared: AnyDeclared) {
        let (uid, key, names) = match &declared {
            AnyDeclared::Container(it) => (&it.uid, &it.key, references(it)),
            AnyDeclared::Data(it) => (&it.uid, &it.key, data_references(it)),
            AnyDeclared::Volume(it) => (&it.uid, &it.key, BTreeSet::new()),
            AnyDeclared::Values(it) => (&it.uid, &it.key, BTreeSet::new()),
        };
        let (uid, key) = (uid.clone(), key.clone());
        self.remove(&key);
        for name in names {
            self.users.entry(name).or_default().insert(uid.clone());
        }
        self.uids.insert(uid, key.clone());
        match declared {
            AnyDeclared::Container(it) => {
                self.objects.insert(key, it);
            }
            AnyDeclared::Volume(it) => {
                self.volumes.insert(key, it);
            }
            AnyDeclared::Data(it) => {
                self.data.insert(key, it);
            }
            AnyDeclared::Values(it) => {
                self.values.insert(key, it);
            }
        }
    }

    /// Takes an object out, when its teardown is done.
    pub fn remove(&mut self, key: &ObjectKey) {
        let (uid, names) = match self.get_any(key) {
            None => return,
            Some(AnyDeclared::Container(it)) => (it.uid.clone(), references(&it)),
            Some(AnyDeclared::Data(it)) => (it.uid.clone(), data_references(&it)),
            Some(AnyDeclared::Volume(it)) => (it.uid.clone(), BTreeSet::new()),
            Some(AnyDeclared::Values(it)) => (it.uid.clone(), BTreeSet::new()),
        };
        for name in names {
            if let Some(users) = self.users.get_mut(&name) {
                users.remove(&uid);
                if users.is_empty() {
                    self.users.remove(&name);
                }
            }
        }
        self.uids.remove(&uid);
        self.objects.remove(key);
        self.volumes.remove(key);
        self.data.remove(key);
        self.values.remove(key);
    }

    /// The object of that name, of whatever kind.
    pub fn get_any(&self, key: &ObjectKey) -> Option<AnyDeclared> {
        Some(match key.kind {
            Kind::Container => AnyDeclared::Container(Arc::clone(self.objects.get(key)?)),
            Kind::Volume => AnyDeclared::Volume(Arc::clone(self.volumes.get(key)?)),
            Kind::DataContainer => AnyDeclared::Data(Arc::clone(self.data.get(key)?)),
            _ => AnyDeclared::Values(Arc::clone(self.values.get(key)?)),
        })
    }

    /// The object of that identity, of whatever kind.
    pub fn any_by_uid(&self, uid: &Uid) -> Option<AnyDeclared> {
        self.get_any(self.uids.get(uid)?)
    }

    /// The name of an identity.
    pub fn key_of(&self, uid: &Uid) -> Option<&ObjectKey> {
        self.uids.get(uid)
    }

    /// The Volume of that name.
    pub fn volume(&self, key: &ObjectKey) -> Option<&Arc<Declared<VolumeSpec>>> {
        self.volumes.get(key)
    }

    /// The DataContainer of that name.
    pub fn data_container(&self, key: &ObjectKey) -> Option<&Arc<Declared<DataContainerSpec>>> {
        self.data.get(key)
    }

    /// Every DataContainer, by name.
    pub fn data_containers(&self) -> impl Iterator<Item = &Arc<Declared<DataContainerSpec>>> {
        self.data.values()
    }

    /// Every Volume, by name.
    pub fn volumes(&self) -> impl Iterator<Item = &Arc<Declared<VolumeSpec>>> {
        self.volumes.values()
    }

    /// The values of a ConfigMap or Secret.
    pub fn values(&self, key: &ObjectKey) -> Option<&Arc<Declared<Values>>> {
        self.values.get(key)
    }

    /// Says that a source's ConfigMaps and Secrets are read one by one: the absence of each has to be told.
    pub fn reads_singly(&mut self, source: SourceId) {
        self.single.source = Some(source);
    }

    /// A ConfigMap or Secret of the source that is read one by one is proven not to be there.
    pub fn set_absent(&mut self, key: ObjectKey) {
        self.single.unavailable.remove(&key);
        self.single.absent.insert(key);
    }

    /// Whether a ConfigMap or Secret of that source is there cannot be told.
    pub fn set_unavailable(&mut self, key: ObjectKey, why: String) {
        self.single.absent.remove(&key);
        self.single.unavailable.insert(key, why);
    }

    /// Nothing is known of a ConfigMap or Secret of that source but what is declared.
    pub fn set_untold(&mut self, key: &ObjectKey) {
        self.single.absent.remove(key);
        self.single.unavailable.remove(key);
    }

    /// The level that an object was accepted at, where its source says so: the API server's objects alone have one.
    pub(crate) fn level<S>(&self, declared: &Declared<S>) -> Option<PodSecurityLevel> {
        let level = pod_security::level_in(&declared.meta.annotations)?;
        (self.single.source.as_ref() == Some(&declared.source)).then_some(level)
    }

    /// Why it cannot be told whether a source has a ConfigMap or Secret that is not declared; `None` where that is proven absent.
    pub fn unavailable(&self, source: &SourceId, key: &ObjectKey) -> Option<&str> {
        if self.single.source.as_ref() != Some(source) || self.single.absent.contains(key) {
            return None;
        }
        let why = self.single.unavailable.get(key).map(String::as_str);
        Some(why.unwrap_or("the API server has not been asked yet"))
    }

    /// The names of all objects that an object names, whether they are there or not.
    pub fn names_of(&self, uid: &Uid) -> BTreeSet<ObjectKey> {
        match self.any_by_uid(uid) {
            Some(AnyDeclared::Container(it)) => references(&it),
            Some(AnyDeclared::Data(it)) => data_references(&it),
            _ => BTreeSet::new(),
        }
    }

    /// Who names an object, whether that is there or not.
    pub fn users(&self, key: &ObjectKey) -> impl Iterator<Item = &Uid> {
        self.users.get(key).into_iter().flatten()
    }

    /// Everyone that what happens to an object may concern: who names it, who names those, and so on.
    pub fn dependents(&self, key: &ObjectKey) -> BTreeSet<Uid> {
        let mut all = BTreeSet::new();
        let mut todo = vec![key.clone()];
        while let Some(key) = todo.pop() {
            for uid in self.users(&key) {
                if all.insert(uid.clone()) {
                    todo.extend(self.uids.get(uid).cloned());
                }
            }
        }
        all
    }

    /// The objects that an object names, as far as they are there.
    pub fn named_by(&self, uid: &Uid) -> Vec<Uid> {
        self.names_of(uid).iter().filter_map(|key| self.uid_of(key)).collect()
    }

    /// The identity of a name.
    pub fn uid_of(&self, key: &ObjectKey) -> Option<Uid> {
        Some(match self.get_any(key)? {
            AnyDeclared::Container(it) => it.uid.clone(),
            AnyDeclared::Volume(it) => it.uid.clone(),
            AnyDeclared::Data(it) => it.uid.clone(),
            AnyDeclared::Values(it) => it.uid.clone(),
        })
    }

    /// Names this node, which a container may read.
    pub fn set_node_name(&mut self, name: &str) {
        name.clone_into(&mut self.node_name);
    }

    /// The name of this node.
    pub fn node_name(&self) -> &str {
        &self.node_name
    }

    /// Says how much of a source is known. A source that is not named here has nothing to say.
    pub fn set_source(&mut self, source: SourceId, completeness: Completeness) {
        self.sources.insert(source, completeness);
    }

    /// The Container of that name.
    pub fn get(&self, key: &ObjectKey) -> Option<&Arc<Declared>> {
        self.objects.get(key)
    }

    /// The Container of that identity.
    pub fn by_uid(&self, uid: &Uid) -> Option<&Arc<Declared>> {
        self.objects.get(self.uids.get(uid)?)
    }

    /// Every Container, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Declared>> {
        self.objects.values()
    }

    /// Every identity, of every kind, in order.
    pub fn uids(&self) -> impl Iterator<Item = &Uid> {
        self.uids.keys()
    }

    /// How many objects there are, of every kind.
    pub fn len(&self) -> usize {
        self.uids.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.uids.is_empty()
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
