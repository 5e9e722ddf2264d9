//! From what the sources show to what is accepted: identity, generation, ownership of names, proven removal.
//!
//! ```text
//!  SourceSnapshot (all of a source) ─┐
//!  files (what changed in it)       ─┼─► claims by name ─► Entry: uid, generation ─► Declared ─► Desired
//!  forget (teardown is done)        ─┘        └► contested names ─► Rejection
//! ```
//!
//! A claim is a file's word for a name. The first claim owns the name. An entry leaves the ledger only when its
//! removal was proven and its teardown is done.

mod types;

pub use types::{Changes, Claim, Entry, FileId, FileState, FsId, RejectReason, Rejection, SourceSnapshot};

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use stower_crds::{Generation, Object, ObjectKey, Uid, spec_changed};

use crate::desired::{Completeness, Desired, SourceId};

/// What is known of a source.
#[derive(Debug, Clone, PartialEq, Default)]
struct Source {
    /// It was read once, or came from the ledger on disk.
    known: bool,
    /// It gives its objects identity, generation and time of creation.
    numbers: bool,
    fs_id: Option<FsId>,
    trouble: Option<String>,
    /// The names that each file's last good state claims.
    files: BTreeMap<FileId, Vec<ObjectKey>>,
    errors: BTreeMap<FileId, String>,
}

/// Everything that is accepted, from all sources.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ledger {
    entries: BTreeMap<ObjectKey, Entry>,
    uids: BTreeMap<Uid, ObjectKey>,
    /// Claims by name, in the order in which they were made.
    claims: BTreeMap<ObjectKey, Vec<(Claim, Arc<Object>)>>,
    contested: BTreeSet<ObjectKey>,
    sources: BTreeMap<SourceId, Source>,
}

impl Ledger {
    /// Takes what an earlier agent left on disk of a source. Call it for a source whose ledger was read, also when
    /// it was empty: from then on its objects are known to be all.
    pub fn restore(&mut self, source: &SourceId, fs_id: Option<FsId>, entries: Vec<Entry>) {
        let state = self.sources.entry(source.clone()).or_default();
        state.known = true;
        state.fs_id = fs_id;
        for entry in entries {
            let key = entry.object.key();
            if entry.deleted_at.is_none() {
                state.files.entry(entry.claim.file.clone()).or_default().push(key.clone());
                let claim = (entry.claim.clone(), Arc::clone(&entry.object));
                self.claims.entry(key.clone()).or_default().push(claim);
            }
            self.uids.insert(entry.uid.clone(), key.clone());
            self.entries.insert(key, entry);
        }
    }

    /// As [`Ledger::restore`], for a ledger of which a part could not be read: until the source itself was read, what
    /// is not among its entries is not known to be absent.
    pub fn restore_incomplete(
        &mut self,
        source: &SourceId,
        fs_id: Option<FsId>,
        entries: Vec<Entry>,
        why: String,
    ) {
        self.restore(source, fs_id, entries);
        let state = self.sources.entry(source.clone()).or_default();
        state.known = false;
        state.trouble = Some(why);
    }

    /// Takes all that a source shows. `fresh` gives a UID that was never used.
    ///
    /// Nothing at all is taken from a source that cannot be read, that lies on another filesystem than remembered,
    /// or that lost every file at once: each keeps what is accepted until it is read well again.
    pub fn snapshot(
        &mut self,
        source: &SourceId,
        snapshot: SourceSnapshot,
        fresh: &mut dyn FnMut() -> Uid,
        now: Timestamp,
    ) -> Changes {
        let state = self.sources.entry(source.clone()).or_default();
        let (fs_id, files, allow_empty) = match snapshot {
            SourceSnapshot::Unreadable { why } => return state.set_trouble(why),
            SourceSnapshot::Read { fs_id, files, allow_empty } => (fs_id, files, allow_empty),
        };
        let has_objects = state.files.values().any(|keys| !keys.is_empty());
        if has_objects && !allow_empty {
            if state.fs_id.is_some() && state.fs_id != fs_id {
                return state.set_trouble(
                    "it is on another filesystem than its objects were accepted from; mount that one again"
                        .into(),
                );
            }
            if files.is_empty() {
                return state.set_trouble(
                    "every file is gone at once; put them back, or allow it to be empty".into(),
                );
            }
        }
        let mut changes = Changes { source: state.trouble.take().is_some(), ..Changes::default() };
        changes.source |= !state.known || state.fs_id != fs_id;
        state.known = true;
        state.fs_id = fs_id;
        let gone = state.files.keys().chain(state.errors.keys()).filter(|file| !files.contains_key(*file));
        let mut batch: BTreeMap<FileId, Option<FileState>> = gone.map(|file| (file.clone(), None)).collect();
        batch.extend(files.into_iter().map(|(file, state)| (file, Some(state))));
        self.apply(source, batch, fresh, now, changes)
    }

    /// Takes what changed in a source since its last snapshot: `None` for a file whose removal was seen. Cheap, however
    /// many files there are. A source that is in trouble is left alone until a whole snapshot was read.
    pub fn files(
        &mut self,
        source: &SourceId,
        batch: BTreeMap<FileId, Option<FileState>>,
        fresh: &mut dyn FnMut() -> Uid,
        now: Timestamp,
    ) -> Changes {
        let state = self.sources.entry(source.clone()).or_default();
        if state.trouble.is_some() || !state.known {
            return Changes::default();
        }
        // The last file may go alone; all of several at once is how a lost directory looks.
        let removed =
            batch.iter().filter(|(file, now)| now.is_none() && state.files.contains_key(*file)).count();
        let adds = batch.values().any(Option::is_some);
        if removed > 1 && removed == state.files.len() && !adds {
            return state
                .set_trouble("every file is gone at once; put them back, or allow it to be empty".into());
        }
        self.apply(source, batch, fresh, now, Changes::default())
    }

    /// Takes what a source says that proves each removal by itself, as an API server does, and that gives its objects identity and
    /// generation. `complete` says that by now all of it was read.
    pub fn objects(
        &mut self,
        source: &SourceId,
        batch: BTreeMap<FileId, Option<FileState>>,
        complete: bool,
        fresh: &mut dyn FnMut() -> Uid,
        now: Timestamp,
    ) -> Changes {
        let state = self.sources.entry(source.clone()).or_default();
        state.numbers = true;
        let mut changes = Changes::default();
        if complete {
            changes.source = state.trouble.take().is_some() || !state.known;
            state.known = true;
        }
        self.apply(source, batch, fresh, now, changes)
    }

    /// Remembers where the objects of a source come from.
    pub fn set_fs_id(&mut self, source: &SourceId, id: FsId) {
        self.sources.entry(source.clone()).or_default().fs_id = Some(id);
    }

    /// The names that a source claims, by file.
    pub fn claimed(&self, source: &SourceId) -> impl Iterator<Item = (&FileId, &ObjectKey)> {
        let files = self.sources.get(source).map(|source| &source.files);
        files.into_iter().flatten().flat_map(|(file, keys)| keys.iter().map(move |key| (file, key)))
    }

    fn apply(
        &mut self,
        source: &SourceId,
        batch: BTreeMap<FileId, Option<FileState>>,
        fresh: &mut dyn FnMut() -> Uid,
        now: Timestamp,
        mut changes: Changes,
    ) -> Changes {
        let mut touched = BTreeSet::new();
        let Some(state) = self.sources.get_mut(source) else { return changes };
        // All claims first, then the names: an object that moves between files is never gone in between.
        for (file, said) in batch {
            let objects = match said {
                Some(FileState::Bad { error }) => {
                    changes.source |= state.errors.get(&file) != Some(&error);
                    state.errors.insert(file, error);
                    continue;
                }
                Some(FileState::Good(objects)) => Some(objects),
                None => None,
            };
            changes.source |= state.errors.remove(&file).is_some();
            let claim = Claim { source: source.clone(), file: file.clone() };
            let before = state.files.remove(&file).unwrap_or_default();
            let mut mine: BTreeMap<ObjectKey, Vec<Arc<Object>>> = BTreeMap::new();
            let mut keys = Vec::new();
            let removed = objects.is_none();
            for object in objects.unwrap_or_default() {
                let key = object.key();
                keys.push(key.clone());
                mine.entry(key).or_default().push(object);
            }
            let concerned: BTreeSet<ObjectKey> = before.into_iter().chain(keys.iter().cloned()).collect();
            for key in &concerned {
                let said = mine.remove(key).unwrap_or_default();
                replace_claims(self.claims.entry(key.clone()).or_default(), &claim, said);
            }
            if !removed {
                state.files.insert(file, keys);
            }
            touched.extend(concerned);
        }
        for key in touched {
            self.evaluate(&key, fresh, now, &mut changes);
        }
        changes
    }

    /// Drops an object whose teardown is done. A claim that waited for its name is accepted now.
    pub fn forget(&mut self, uid: &Uid, fresh: &mut dyn FnMut() -> Uid, now: Timestamp) -> Changes {
        let mut changes = Changes::default();
        let Some(key) = self.uids.get(uid).cloned() else { return changes };
        if self.entries.get(&key).is_none_or(|entry| entry.deleted_at.is_none()) {
            return changes;
        }
        self.entries.remove(&key);
        self.uids.remove(uid);
        changes.forgotten.insert(key.clone());
        self.evaluate(&key, fresh, now, &mut changes);
        changes
    }

    /// Brings the entry of a name in line with the claims for it.
    fn evaluate(
        &mut self,
        key: &ObjectKey,
        fresh: &mut dyn FnMut() -> Uid,
        now: Timestamp,
        changes: &mut Changes,
    ) {
        let claims = self.claims.entry(key.clone()).or_default();
        match self.entries.get_mut(key) {
            Some(entry) if entry.deleted_at.is_some() => {}
            Some(entry) => {
                // The owner's word; else another file's of the same source, to which the object has moved.
                let heir = claims
                    .iter()
                    .position(|(claim, _)| *claim == entry.claim)
                    .or_else(|| claims.iter().position(|(claim, _)| claim.source == entry.claim.source))
                    .filter(|at| claims[*at].1.uid().is_none_or(|uid| uid == entry.uid));
                if let Some(at) = heir {
                    claims[..=at].rotate_right(1);
                    let (claim, object) = &claims[0];
                    if entry.claim != *claim || entry.object != *object {
                        match numbered(&self.sources, claim, object) {
                            Some((generation, _)) => entry.generation = generation,
                            None if spec_changed(&entry.object, object) => {
                                entry.generation = entry.generation.next();
                            }
                            None => {}
                        }
                        entry.claim = claim.clone();
                        entry.object = Arc::clone(object);
                        changes.changed.insert(key.clone());
                    }
                } else {
                    entry.deleted_at = Some(now);
                    changes.changed.insert(key.clone());
                }
            }
            None => {
                if let Some((claim, object)) = claims.first() {
                    let uid = object.uid().unwrap_or_else(fresh);
                    self.uids.insert(uid.clone(), key.clone());
                    let (generation, created_at) =
                        numbered(&self.sources, claim, object).unwrap_or((Generation::FIRST, now));
                    let entry = Entry {
                        uid,
                        generation,
                        object: Arc::clone(object),
                        claim: claim.clone(),
                        created_at,
                        deleted_at: None,
                    };
                    self.entries.insert(key.clone(), entry);
                    changes.changed.insert(key.clone());
                }
            }
        }
        let live = self.entries.get(key).is_some_and(|entry| entry.deleted_at.is_none());
        if claims.len() > usize::from(live) {
            self.contested.insert(key.clone());
        } else {
            self.contested.remove(key);
        }
        if claims.is_empty() {
            self.claims.remove(key);
        }
    }

    /// The entry of a name.
    pub fn get(&self, key: &ObjectKey) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// The entry of an identity.
    pub fn by_uid(&self, uid: &Uid) -> Option<&Entry> {
        self.entries.get(self.uids.get(uid)?)
    }

    /// Every entry, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectKey, &Entry)> {
        self.entries.iter()
    }

    /// The filesystem that a source's objects were accepted from.
    pub fn fs_id(&self, source: &SourceId) -> Option<&FsId> {
        self.sources.get(source)?.fs_id.as_ref()
    }

    /// Why a source is not followed at present.
    pub fn trouble(&self, source: &SourceId) -> Option<&str> {
        self.sources.get(source)?.trouble.as_deref()
    }

    /// The files of a source that keep their last good objects, and what is wrong with each.
    pub fn file_errors(&self, source: &SourceId) -> impl Iterator<Item = (&FileId, &str)> {
        let errors = self.sources.get(source).map(|source| &source.errors);
        errors.into_iter().flatten().map(|(file, error)| (file, error.as_str()))
    }

    /// The claims that wait.
    pub fn rejections(&self) -> impl Iterator<Item = Rejection> {
        self.contested.iter().flat_map(|key| {
            let entry = self.entries.get(key);
            let live = entry.is_some_and(|entry| entry.deleted_at.is_none());
            let claims = self.claims.get(key).map(Vec::as_slice).unwrap_or_default();
            claims.iter().skip(usize::from(live)).filter_map(move |(claim, object)| {
                Some(Rejection {
                    key: key.clone(),
                    claim: claim.clone(),
                    owner: entry?.claim.clone(),
                    reason: if live { RejectReason::NameConflict } else { RejectReason::Terminating },
                    object: Arc::clone(object),
                })
            })
        })
    }

    /// What is desired by what is accepted.
    pub fn desired(&self) -> Desired {
        let mut desired = Desired::default();
        for entry in self.entries.values() {
            desired.insert_any(entry.declared());
        }
        for (id, source) in &self.sources {
            desired.set_source(id.clone(), source.completeness());
        }
        desired
    }

    /// Brings what is desired in line with what a call changed.
    pub fn update(&self, desired: &mut Desired, changes: &Changes) {
        for key in changes.forgotten.iter().chain(&changes.changed) {
            match self.entries.get(key) {
                Some(entry) => desired.insert_any(entry.declared()),
                None => desired.remove(key),
            }
        }
        if changes.source {
            for (id, source) in &self.sources {
                desired.set_source(id.clone(), source.completeness());
            }
        }
    }
}

/// Generation and time of creation, where the source of a claim gives them.
fn numbered(
    sources: &BTreeMap<SourceId, Source>,
    claim: &Claim,
    object: &Object,
) -> Option<(Generation, Timestamp)> {
    let metadata = object.metadata();
    sources.get(&claim.source).filter(|source| source.numbers)?;
    let generation = metadata.generation.map(Generation)?;
    Some((generation, metadata.creation_timestamp.as_ref()?.0))
}

/// Puts what a file says now in the place of what it said, which keeps its turn.
fn replace_claims(claims: &mut Vec<(Claim, Arc<Object>)>, claim: &Claim, said: Vec<Arc<Object>>) {
    let at = claims.iter().position(|(have, _)| have == claim);
    claims.retain(|(have, _)| have != claim);
    let at = at.unwrap_or(claims.len());
    claims.splice(at..at, said.into_iter().map(|object| (claim.clone(), object)));
}

impl Source {
    fn set_trouble(&mut self, why: String) -> Changes {
        let source = self.trouble.as_ref() != Some(&why);
        self.trouble = Some(why);
        Changes { source, ..Changes::default() }
    }

    /// The ledger is the proof: an object leaves it only when its removal was proven. Only a source of which there
    /// is no ledger and that was never read may declare what nobody knows of.
    fn completeness(&self) -> Completeness {
        if self.known {
            Completeness::Complete
        } else {
            let why = self.trouble.clone().unwrap_or_else(|| "it has not been read yet".into());
            Completeness::Unknown { why }
        }
    }
}

#[cfg(test)]
mod tests;
