//! The latest changes, kept so that a watch can begin at a version that has passed and a slow one holds up nobody.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use stower_crds::ObjectKey;
use tokio::sync::{broadcast, watch};

use super::backend::Backend;
use crate::node::{Change, ObjectView, SourceRef};

/// How many changes are kept.
const KEPT: usize = 512;
/// How many of them are kept as they are. The others are read by nobody but who is late or comes back, and wait as text: a small JSON
/// object takes ten times as much memory as its text.
const FRESH: usize = 32;

/// One change, with what was there before it.
#[derive(Debug)]
pub(super) struct Entry {
    /// The resource version of the change.
    pub(super) version: u64,
    /// What is there now; `None` when it is gone.
    pub(super) now: Option<Arc<ObjectView>>,
    /// What was there before.
    pub(super) before: Option<Arc<ObjectView>>,
}

/// The latest changes.
#[derive(Debug)]
pub(super) struct Hub {
    kept: Mutex<Kept>,
    /// Raised with each change, to wake watches.
    signal: watch::Sender<u64>,
    limit: usize,
}

#[derive(Debug)]
struct Kept {
    entries: VecDeque<Slot>,
    /// The place of the first entry in the order of all changes ever.
    first: u64,
    /// Changes up to this version are no longer kept.
    floor: u64,
    /// The version of the last change.
    last: u64,
    known: HashMap<ObjectKey, Arc<ObjectView>>,
}

/// A change that is kept.
#[derive(Debug)]
enum Slot {
    Fresh(Arc<Entry>),
    Packed { version: u64, now: Option<Arc<Packed>>, before: Option<Arc<Packed>> },
}

/// An object as text.
#[derive(Debug)]
struct Packed {
    key: ObjectKey,
    source: SourceRef,
    text: Box<[u8]>,
    resource_version: u64,
}

impl Packed {
    fn of(view: &ObjectView) -> Option<Arc<Self>> {
        let text = serde_json::to_vec(&view.object).ok()?.into_boxed_slice();
        let (key, source) = (view.key.clone(), view.source.clone());
        Some(Arc::new(Self { key, source, text, resource_version: view.resource_version }))
    }

    fn unpacked(&self) -> Arc<ObjectView> {
        // It was made from a value.
        let object = serde_json::from_slice(&self.text).unwrap_or_default();
        let (key, source) = (self.key.clone(), self.source.clone());
        Arc::new(ObjectView { key, source, object, resource_version: self.resource_version })
    }
}

impl Slot {
    fn version(&self) -> u64 {
        match self {
            Self::Fresh(entry) => entry.version,
            Self::Packed { version, .. } => *version,
        }
    }

    fn entry(&self) -> Arc<Entry> {
        match self {
            Self::Fresh(entry) => Arc::clone(entry),
            Self::Packed { version, now, before } => {
                let view = |packed: &Option<Arc<Packed>>| packed.as_ref().map(|packed| packed.unpacked());
                Arc::new(Entry { version: *version, now: view(now), before: view(before) })
            }
        }
    }
}

/// A place in the order of all changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor(u64);

/// The changes asked for are no longer kept.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gone;

impl Hub {
    /// A hub that knows what is there now, and the changes that it is to be fed with.
    pub(super) fn new(backend: &dyn Backend) -> (Arc<Self>, broadcast::Receiver<Change>) {
        Self::with_limit(backend, KEPT)
    }

    pub(super) fn with_limit(
        backend: &dyn Backend,
        limit: usize,
    ) -> (Arc<Self>, broadcast::Receiver<Change>) {
        let changes = backend.watch();
        let mut kept = Kept { entries: VecDeque::new(), first: 0, floor: 0, last: 0, known: HashMap::new() };
        kept.restart(backend);
        (Arc::new(Self { kept: Mutex::new(kept), signal: watch::channel(0).0, limit }), changes)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes changes until the node is gone.
    pub(super) async fn feed(&self, mut changes: broadcast::Receiver<Change>, backend: &dyn Backend) {
        loop {
            match changes.recv().await {
                Ok(change) => self.add(change, backend),
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    // What was missed is not known: every watch begins anew.
                    changes = changes.resubscribe();
                    let mut kept = self.kept();
                    kept.first += u64::try_from(kept.entries.len()).unwrap_or(0) + 1;
                    kept.entries.clear();
                    kept.restart(backend);
                }
                Err(broadcast::error::RecvError::Closed) => return,
            }
            self.signal.send_modify(|n| *n = n.wrapping_add(1));
        }
    }

    fn add(&self, change: Change, backend: &dyn Backend) {
        let mut kept = self.kept();
        let entry = match change {
            Change::Added(object) | Change::Modified(object) => {
                if object.resource_version <= kept.floor {
                    // The view that this hub began with has it already.
                    return;
                }
                let before = kept.known.insert(object.key.clone(), Arc::clone(&object));
                Entry { version: object.resource_version, now: Some(object), before }
            }
            Change::Deleted(object) => {
                let version = if object.resource_version > kept.last {
                    object.resource_version
                } else {
                    backend.view().resource_version.max(kept.last)
                };
                let before = kept.known.remove(&object.key).or(Some(object));
                Entry { version, now: None, before }
            }
        };
        kept.last = kept.last.max(entry.version);
        kept.entries.push_back(Slot::Fresh(Arc::new(entry)));
        kept.pack();
        if kept.entries.len() > self.limit {
            if let Some(old) = kept.entries.pop_front() {
                kept.floor = kept.floor.max(old.version());
            }
            kept.first += 1;
        }
    }

    /// Where the changes to come begin.
    pub(super) fn end(&self) -> Cursor {
        let kept = self.kept();
        Cursor(kept.first + u64::try_from(kept.entries.len()).unwrap_or(0))
    }

    /// Where the changes after a version begin, if they are all still kept. Changes before it may follow too.
    pub(super) fn after(&self, version: u64) -> Result<Cursor, Gone> {
        let kept = self.kept();
        if version < kept.floor {
            return Err(Gone);
        }
        let skip = kept.entries.iter().take_while(|entry| entry.version() <= version).count();
        Ok(Cursor(kept.first + u64::try_from(skip).unwrap_or(0)))
    }

    /// The next changes, at most `most` of them, and where those after them begin.
    pub(super) fn read(&self, from: Cursor, most: usize) -> Result<(Vec<Arc<Entry>>, Cursor), Gone> {
        let kept = self.kept();
        let skip = from.0.checked_sub(kept.first).ok_or(Gone)?;
        let skip = usize::try_from(skip).map_err(|_| Gone)?;
        let entries: Vec<_> = kept.entries.iter().skip(skip).take(most).map(Slot::entry).collect();
        let next = Cursor(from.0 + u64::try_from(entries.len()).unwrap_or(0));
        Ok((entries, next))
    }

    /// The version of the last change.
    pub(super) fn version(&self) -> u64 {
        self.kept().last
    }

    /// Is woken by each change after this call.
    pub(super) fn signal(&self) -> watch::Receiver<u64> {
        self.signal.subscribe()
    }
}

impl Kept {
    /// Turns the entry that is no longer among the latest into text.
    fn pack(&mut self) {
        let Some(at) = self.entries.len().checked_sub(FRESH + 1) else { return };
        let Slot::Fresh(entry) = &self.entries[at] else { return };
        let entry = Arc::clone(entry);
        // What was there before is, most often, what an earlier entry brought.
        let packed = |view: &Arc<ObjectView>| {
            let same = self.entries.iter().take(at).rev().find_map(|slot| match slot {
                Slot::Packed { now: Some(now), .. }
                    if now.resource_version == view.resource_version && now.key == view.key =>
                {
                    Some(Arc::clone(now))
                }
                _ => None,
            });
            same.or_else(|| Packed::of(view))
        };
        let (now, before) = (entry.now.as_ref().map(packed), entry.before.as_ref().map(packed));
        let (now, before) = match (now, before) {
            // One that cannot be text stays as it is.
            (Some(None), _) | (_, Some(None)) => return,
            (now, before) => (now.flatten(), before.flatten()),
        };
        self.entries[at] = Slot::Packed { version: entry.version, now, before };
    }

    fn restart(&mut self, backend: &dyn Backend) {
        let view = backend.view();
        self.floor = view.resource_version;
        self.last = self.last.max(view.resource_version);
        self.known = view.objects.iter().map(|(key, object)| (key.clone(), Arc::clone(object))).collect();
    }
}

#[cfg(test)]
mod tests;
