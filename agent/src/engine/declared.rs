//! What the sources declare: their ledgers on disk, and what changes in them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use stower_controllers::{
    Changes, Claim, Desired, Entry, FileId, FileState, FsId, Ledger, SourceId, SourceSnapshot,
};
use stower_crds::{Container, Generation, Kind, Object, ObjectKey, Uid};

use super::Engine;
use crate::{
    config::{Config, SecretCache},
    effects::chain,
    events::{EventType, EventView},
    journal::{Journal, JournalError, Syncer},
    node::{SourceIssue, SourceRef},
    paths::random_uuid,
    source::dir::{FileUpdate, Handle, Problem, Update},
};

/// The name of the directory source.
const DIRECTORY: &str = "directory";
/// The name of the local API's source.
const LOCAL: &str = "local API";
/// The name of the API server's source.
const KUBE: &str = "API server";
/// The journal key of a source's own state; no object's key begins so.
const SOURCE_KEY: &str = "@source";

/// All sources and what was accepted from them.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) ledger: Ledger,
    directory: SourceId,
    pub(super) local: SourceId,
    pub(super) kube: SourceId,
    /// The kinds of which the API server has told all since the agent began.
    pub(super) listed: BTreeSet<Kind>,
    /// All of the API server was read once, by this agent or an earlier one.
    pub(super) kube_known: bool,
    /// Secrets of the API server, where they are kept on disk.
    secrets: Option<Journal>,
    journals: BTreeMap<SourceId, Journal>,
    manifests: PathBuf,
    node_name: String,
    problems: BTreeMap<String, Problem>,
    /// Files that were taken as they stand, for the count.
    good: BTreeSet<String>,
    pub(super) handle: Option<Handle>,
    /// The directory has been read since the agent began.
    pub(super) seen: bool,
}

/// A line of a ledger.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Stored {
    /// The source itself.
    Source {
        /// The filesystem that its objects came from.
        filesystem: Option<FsId>,
    },
    /// An accepted object.
    Entry {
        uid: Uid,
        generation: Generation,
        file: FileId,
        created_at: Timestamp,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deleted_at: Option<Timestamp>,
        object: Box<Container>,
    },
    /// An accepted object of another kind.
    Other {
        uid: Uid,
        generation: Generation,
        file: FileId,
        created_at: Timestamp,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deleted_at: Option<Timestamp>,
        object: Value,
    },
}

impl Stored {
    fn of(entry: &Entry) -> Self {
        let (uid, generation) = (entry.uid.clone(), entry.generation);
        let (file, created_at, deleted_at) = (entry.claim.file.clone(), entry.created_at, entry.deleted_at);
        match entry.object.as_ref() {
            Object::Container(container) => {
                let object = container.clone();
                Self::Entry { uid, generation, file, created_at, deleted_at, object }
            }
            other => {
                let object = other.to_value();
                Self::Other { uid, generation, file, created_at, deleted_at, object }
            }
        }
    }
}

/// A ledger as it was found.
struct Read {
    journal: Journal,
    filesystem: Option<FsId>,
    /// It has a word on the source itself.
    told: bool,
    entries: Vec<Entry>,
    /// A part of it cannot be read.
    trouble: Option<String>,
}

impl Read {
    fn new(path: &Path, source: &SourceId, syncer: &Syncer) -> Result<Self, JournalError> {
        let (journal, loaded) = Journal::open::<Stored>(path, syncer.clone())?;
        let (mut filesystem, mut told, mut entries) = (None, false, Vec::new());
        let mut unreadable = 0;
        let claim = |file| Claim { source: source.clone(), file };
        for (_, stored) in loaded.entries {
            match stored {
                Stored::Source { filesystem: id } => {
                    told = true;
                    filesystem = id;
                }
                Stored::Entry { uid, generation, file, created_at, deleted_at, object } => {
                    let (object, claim) = (Arc::new(Object::Container(object)), claim(file));
                    entries.push(Entry { uid, generation, object, claim, created_at, deleted_at });
                }
                Stored::Other { uid, generation, file, created_at, deleted_at, object } => {
                    match stower_crds::read_accepted(object) {
                        Ok(object) => {
                            let (object, claim) = (Arc::new(object), claim(file));
                            entries.push(Entry { uid, generation, object, claim, created_at, deleted_at });
                        }
                        Err(_) => unreadable += 1,
                    }
                }
            }
        }
        let mut trouble = None;
        if loaded.corrupt > 0 || !loaded.newer.is_empty() || unreadable > 0 {
            // Objects may be missing from it, so what it lacks is not known to be absent.
            tracing::error!(
                path = %path.display(), corrupt = loaded.corrupt + unreadable, newer = loaded.newer.len(),
                "the ledger has lines that cannot be read; nothing is taken for removed until all sources were read"
            );
            trouble = Some(format!("{} has lines that cannot be read", path.display()));
        }
        Ok(Self { journal, filesystem, told, entries, trouble })
    }
}

impl Sources {
    /// Reads the ledgers: the last accepted objects, with their identities.
    pub(super) fn load(
        config: &Config,
        syncer: &Syncer,
        desired: &mut Desired,
    ) -> Result<Self, JournalError> {
        let mut ledger = Ledger::default();
        let mut journals = BTreeMap::new();
        let folder = config.fixed.paths.data.join("ledger");
        let kube = &config.fixed.kube;
        let (mut secrets, mut kube_known) = (None, false);
        for (name, file) in
            [(DIRECTORY, "directory.journal"), (LOCAL, "local.journal"), (KUBE, "kube.journal")]
        {
            let source = SourceId::new(name);
            let path = folder.join(file);
            let fresh = !path.exists();
            // Objects of a server that is not asked any more go on: nobody said that they are gone.
            if name == KUBE && fresh && !kube.enabled {
                continue;
            }
            let mut read = Read::new(&path, &source, syncer)?;
            if name == KUBE {
                kube_known = read.told;
                let path = folder.join("kube-secrets.journal");
                if kube.enabled && kube.secret_cache == SecretCache::Disk {
                    let mut kept = Read::new(&path, &source, syncer)?;
                    read.entries.append(&mut kept.entries);
                    secrets = Some(kept.journal);
                } else if let Err(source) = std::fs::remove_file(&path)
                    && source.kind() != std::io::ErrorKind::NotFound
                {
                    return Err(JournalError::Write { path, source });
                }
            }
            let Read { journal, filesystem, entries, trouble, .. } = read;
            journals.insert(source.clone(), journal);
            if let Some(why) = trouble {
                ledger.restore_incomplete(&source, filesystem, entries, why);
            } else if !fresh || name != DIRECTORY {
                ledger.restore(&source, filesystem, entries);
            }
        }
        *desired = ledger.desired();
        desired.set_node_name(&config.fixed.node_name);
        desired.reads_singly(SourceId::new(KUBE));
        Ok(Self {
            ledger,
            directory: SourceId::new(DIRECTORY),
            local: SourceId::new(LOCAL),
            kube: SourceId::new(KUBE),
            listed: BTreeSet::new(),
            kube_known,
            secrets,
            journals,
            manifests: config.fixed.paths.manifests.clone(),
            node_name: config.fixed.node_name.clone(),
            problems: BTreeMap::new(),
            good: BTreeSet::new(),
            handle: None,
            seen: false,
        })
    }

    /// Who a claim belongs to, as people see it.
    pub(super) fn source_ref(&self, claim: &Claim) -> SourceRef {
        if claim.source == self.directory {
            SourceRef::File(self.manifests.join(claim.file.as_str()))
        } else if claim.source == self.kube {
            SourceRef::Kube
        } else {
            SourceRef::Local
        }
    }

    /// The cluster that objects were accepted from.
    pub(super) fn kube_cluster(&self) -> Option<&FsId> {
        self.ledger.fs_id(&self.kube)
    }

    /// All of the API server was read.
    pub(super) fn kube_read(&mut self) {
        self.kube_known = true;
        let Some(journal) = self.journals.get_mut(&self.kube) else { return };
        let filesystem = self.ledger.fs_id(&self.kube).cloned();
        if let Err(error) = journal.put(SOURCE_KEY, &Stored::Source { filesystem }) {
            tracing::error!(error = %chain(&error), "cannot write the ledger");
        }
    }

    /// Writes what could not be written before; one result for each journal.
    pub(super) fn mend(&mut self) -> Vec<Result<(), JournalError>> {
        self.journals.values_mut().chain(&mut self.secrets).map(Journal::mend).collect()
    }

    /// Whether the local API's ledger has something in memory alone.
    pub(super) fn local_is_broken(&self) -> bool {
        self.journals.iter().any(|(source, journal)| *source == self.local && journal.is_broken())
    }

    fn write(&mut self, changes: &Changes) {
        let Self { ledger, journals, secrets, kube, .. } = self;
        let said = |result: Result<(), JournalError>| {
            if let Err(error) = result {
                tracing::error!(error = %chain(&error), "cannot write the ledger");
            }
        };
        for key in changes.changed.iter().chain(&changes.forgotten) {
            let entry = ledger.get(key);
            let secret = entry.filter(|entry| key.kind == Kind::Secret && entry.claim.source == *kube);
            if let Some(journal) = secrets.as_mut().filter(|_| key.kind == Kind::Secret) {
                said(match secret.map(Stored::of) {
                    Some(stored) => journal.put(&key.to_string(), &stored),
                    None => journal.remove(&key.to_string()),
                });
                // A value that was taken back is not left lying there.
                said(journal.purge());
            }
            for (source, journal) in journals.iter_mut() {
                let mine = entry.filter(|entry| secret.is_none() && entry.claim.source == *source);
                let mine = mine.map(Stored::of);
                said(match mine {
                    Some(stored) => journal.put(&key.to_string(), &stored),
                    None => journal.remove(&key.to_string()),
                });
            }
        }
        if changes.source {
            for (source, journal) in journals.iter_mut() {
                let filesystem = ledger.fs_id(source).cloned();
                said(journal.put(SOURCE_KEY, &Stored::Source { filesystem }));
            }
        }
    }

    fn issues(&self) -> Vec<SourceIssue> {
        let issue = |file, problem: &Problem| SourceIssue {
            file,
            line: problem.at.and_then(|at| u32::try_from(at.line).ok()),
            column: problem.at.and_then(|at| u32::try_from(at.column).ok()),
            message: problem.message.clone(),
        };
        let mut issues: Vec<_> =
            self.problems.iter().map(|(name, problem)| issue(self.manifests.join(name), problem)).collect();
        if let Some(why) = self.ledger.trouble(&self.directory) {
            let (file, message) = (self.manifests.clone(), format!("{why}; what it declared before is kept"));
            issues.push(SourceIssue { file, line: None, column: None, message });
        }
        issues.extend(self.ledger.rejections().map(|rejection| SourceIssue {
            file: self.manifests.join(rejection.claim.file.as_str()),
            line: None,
            column: None,
            message: rejection.to_string(),
        }));
        issues
    }
}

/// A bad file has no object of its own to hang the news on, so the file itself is named.
fn bad_file(name: &str, error: &str) -> EventView {
    let now = Timestamp::now();
    EventView {
        namespace: "default".to_owned(),
        kind: "File".to_owned(),
        name: name.to_owned(),
        type_: EventType::Warning,
        reason: "FailedValidation".to_owned(),
        message: format!("{error}; its last good objects are kept"),
        count: 1,
        first_seen: now,
        last_seen: now,
    }
}

/// Whether an object belongs to this machine. In a directory, one that names no node does.
fn is_for(object: &Object, node: &str) -> bool {
    object.node_name().is_none_or(|name| name == node)
}

pub(super) fn fresh() -> Uid {
    Uid::new(random_uuid()).expect("a UUID is a valid UID")
}

impl Engine {
    /// Takes in what the directory says.
    pub(super) fn changed(&mut self, update: Update) {
        let now = Timestamp::now();
        let allow_empty = self.settings.get().allow_empty;
        let sources = &mut self.sources;
        let directory = sources.directory.clone();
        let changes = match update {
            Update::Unreadable { why } => {
                tracing::warn!(
                    why,
                    "the manifests directory cannot be read; what it declared before is kept"
                );
                let unreadable = SourceSnapshot::Unreadable { why };
                sources.ledger.snapshot(&directory, unreadable, &mut fresh, now)
            }
            Update::Changes { filesystem, files, whole } => {
                let filesystem = FsId::new(&filesystem);
                let moved = sources.ledger.fs_id(&directory).is_some_and(|known| *known != filesystem);
                let troubled = sources.ledger.trouble(&directory).is_some();
                if !whole && (moved || troubled) {
                    // Only a look at all of it can tell what that means.
                    if let Some(handle) = &sources.handle {
                        handle.reread();
                    }
                    return;
                }
                if whole {
                    self.node.metrics.source_rescans.inc();
                    sources.problems.clear();
                    sources.good.clear();
                }
                let mut batch = BTreeMap::new();
                for (name, update) in files {
                    sources.problems.remove(&name);
                    match &update {
                        FileUpdate::Good(_) => sources.good.insert(name.clone()),
                        FileUpdate::Bad(_) | FileUpdate::Gone => sources.good.remove(&name),
                    };
                    let state = match update {
                        FileUpdate::Good(objects) => {
                            let objects = objects.into_iter().map(|declared| declared.object);
                            let objects = objects.filter(|object| is_for(object, &sources.node_name));
                            let objects = objects.map(Arc::new).collect();
                            Some(FileState::Good(objects))
                        }
                        FileUpdate::Bad(problem) => {
                            let file = sources.manifests.join(&name);
                            let error = match problem.at {
                                Some(at) => format!(
                                    "{}:{}:{}: {}",
                                    file.display(),
                                    at.line,
                                    at.column,
                                    problem.message
                                ),
                                None => format!("{}: {}", file.display(), problem.message),
                            };
                            tracing::warn!("{error}; its last good objects are kept");
                            self.node.events.add(bad_file(&name, &error));
                            sources.problems.insert(name.clone(), problem);
                            Some(FileState::Bad { error })
                        }
                        FileUpdate::Gone => None,
                    };
                    batch.insert(FileId::new(&name), state);
                }
                if whole {
                    let files = batch.into_iter().filter_map(|(file, state)| Some((file, state?))).collect();
                    let snapshot = SourceSnapshot::Read { fs_id: Some(filesystem), files, allow_empty };
                    sources.ledger.snapshot(&directory, snapshot, &mut fresh, now)
                } else {
                    sources.ledger.files(&directory, batch, &mut fresh, now)
                }
            }
        };
        self.sources.seen = true;
        self.accepted(&changes);
        let trouble = self.sources.ledger.trouble(&directory);
        self.node.metrics.source_readable.set(i64::from(trouble.is_none()));
        for (result, files) in [("good", self.sources.good.len()), ("bad", self.sources.problems.len())] {
            let files = i64::try_from(files).unwrap_or(i64::MAX);
            self.node.metrics.source_files.with_label_values(&[result]).set(files);
        }
        if let Some(why) = trouble {
            if let Some(handle) = &self.sources.handle {
                handle.doubt();
            }
            if changes.source {
                let dir = self.sources.manifests.display().to_string();
                self.node.events.add(bad_file(&dir, &format!("{dir}: {why}")));
                tracing::warn!(why, "the manifests directory is not followed at present");
            }
        }
        self.say_ready();
    }

    /// Makes what was accepted durable, and plans for it.
    pub(super) fn accepted(&mut self, changes: &Changes) {
        self.sources.write(changes);
        self.sources.ledger.update(&mut self.desired, changes);
        for key in &changes.changed {
            let Some(entry) = self.sources.ledger.get(key) else { continue };
            let uid = entry.uid.clone();
            if key.kind != Kind::Container {
                self.declared_store(&uid);
            } else if !self.observed.containers.contains_key(&uid) {
                let reference = self.desired.by_uid(&uid).map(|declared| declared.spec.image.clone());
                self.observed
                    .containers
                    .insert(uid.clone(), super::unseen(reference.as_deref().unwrap_or_default()));
            }
            self.observe_image(&uid);
            self.dirty.insert(uid);
        }
        for key in &changes.forgotten {
            self.dirty.extend(self.desired.dependents(key));
            if self.sources.ledger.get(key).is_none() {
                self.withdraw(key);
            }
        }
        if changes.source {
            // What is left over may have become provably so.
            self.dirty.extend(self.observed.containers.keys().cloned());
        }
        self.node.issues.store(Arc::new(self.sources.issues()));
        self.show_rejected();
    }

    pub(super) fn forget_declared(&mut self, uid: &Uid) {
        let changes = self.sources.ledger.forget(uid, &mut fresh, Timestamp::now());
        self.accepted(&changes);
    }

    /// Whether an object belongs to this machine.
    pub(super) fn is_ours(&self, object: &Object) -> bool {
        is_for(object, &self.sources.node_name)
    }

    pub(super) fn node_name(&self) -> &str {
        &self.sources.node_name
    }

    /// Declares or withdraws an object of the local API.
    pub(super) fn set_local(&mut self, key: &ObjectKey, object: Option<Object>) -> Changes {
        let state = object.map(|object| FileState::Good(vec![Arc::new(object)]));
        let batch = BTreeMap::from([(FileId::new(&key.to_string()), state)]);
        let local = self.sources.local.clone();
        let changes = self.sources.ledger.files(&local, batch, &mut fresh, Timestamp::now());
        self.accepted(&changes);
        changes
    }
}
