//! What sources show, and what is kept of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use stower_crds::{Generation, Object, ObjectKey, Uid, config_map_data, secret_data};

use crate::desired::{AnyDeclared, Declared, Meta, SourceId, Values};

/// Names a file within its source. A source without files has one name for each object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FileId(Box<str>);

impl FileId {
    /// The file named `name`.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names the filesystem that a directory lies on, over reboots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FsId(Box<str>);

impl FsId {
    /// The filesystem named `id`.
    pub fn new(id: &str) -> Self {
        Self(id.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a file says.
#[derive(Debug, Clone, PartialEq)]
pub enum FileState {
    /// These objects, in its order; none when it is empty.
    Good(Vec<Arc<Object>>),
    /// It cannot be accepted: its last good objects stay.
    Bad {
        /// What is wrong, with line and column.
        error: String,
    },
}

/// All that a source shows at one moment.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceSnapshot {
    /// It cannot be read.
    Unreadable {
        /// Why, for people.
        why: String,
    },
    /// It was read to its end.
    Read {
        /// The filesystem, of a source that has one.
        fs_id: Option<FsId>,
        /// Every file.
        files: BTreeMap<FileId, FileState>,
        /// That no file is left is meant: `--allow-empty`, or an operator's word.
        allow_empty: bool,
    },
}

/// The word of a file of a source for a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Claim {
    /// The source.
    pub source: SourceId,
    /// The file.
    pub file: FileId,
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.file, self.source)
    }
}

/// An accepted object: what the ledger keeps of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its identity.
    pub uid: Uid,
    /// Rises when its defaulted spec changes.
    pub generation: Generation,
    /// The last good object.
    pub object: Arc<Object>,
    /// Whose word it is.
    pub claim: Claim,
    /// When it was accepted first.
    pub created_at: Timestamp,
    /// When its removal was proven. It stays until [`Ledger::forget`].
    pub deleted_at: Option<Timestamp>,
}

/// Why a claim does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectReason {
    /// Another file or source declared the name first.
    NameConflict,
    /// The object that had the name before is still being removed.
    Terminating,
}

/// A claim that waits.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejection {
    /// The name.
    pub key: ObjectKey,
    /// Who claims it.
    pub claim: Claim,
    /// Who has it.
    pub owner: Claim,
    /// Why it waits.
    pub reason: RejectReason,
    /// What it would be.
    pub object: Arc<Object>,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            RejectReason::NameConflict => {
                write!(f, "{} of {} is not accepted: {} declared it first", self.key, self.claim, self.owner)
            }
            RejectReason::Terminating => {
                write!(f, "{} of {} waits until its predecessor is removed", self.key, self.claim)
            }
        }
    }
}

/// What a call changed, to be made durable and planned anew.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Changes {
    /// Names whose entry is new or differs.
    pub changed: BTreeSet<ObjectKey>,
    /// Names whose entry is gone.
    pub forgotten: BTreeSet<ObjectKey>,
    /// The source's own state differs: its filesystem, its readability or its files' errors.
    pub source: bool,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.forgotten.is_empty() && !self.source
    }
}

impl Entry {
    /// As the plan takes it.
    pub fn declared(&self) -> AnyDeclared {
        match self.object.as_ref() {
            Object::Container(it) => AnyDeclared::Container(self.with(it.spec.clone())),
            Object::Volume(it) => AnyDeclared::Volume(self.with(it.spec.clone())),
            Object::DataContainer(it) => AnyDeclared::Data(self.with(it.spec.clone())),
            Object::ConfigMap(it) => AnyDeclared::Values(self.with(Values(config_map_data(it)))),
            Object::Secret(it) => AnyDeclared::Values(self.with(Values(secret_data(it)))),
            _ => unreachable!("the kinds that are accepted are those that are planned"),
        }
    }

    fn with<S>(&self, spec: S) -> Arc<Declared<S>> {
        let metadata = self.object.metadata();
        let meta = Meta {
            labels: metadata.labels.clone().unwrap_or_default(),
            annotations: metadata.annotations.clone().unwrap_or_default(),
        };
        Arc::new(Declared {
            key: self.object.key(),
            uid: self.uid.clone(),
            generation: self.generation,
            spec: Arc::new(spec),
            meta: Arc::new(meta),
            source: self.claim.source.clone(),
            terminating: self.deleted_at.is_some(),
            rank: 0,
        })
    }
}
