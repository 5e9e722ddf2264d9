//! `index.json`: which names there are and what they mean.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{ContentError, write_durably};
use crate::digest::Digest;
use crate::image::Descriptor;
use crate::image::manifest::clip;
use crate::reference::Reference;

const NAME: &str = "io.containerd.image.name";
const TAG: &str = "org.opencontainers.image.ref.name";
/// Which manifest of an index was chosen for this machine.
const CHOSEN: &str = "dev.stower.image.manifest";

/// A file that only takes room, and one inode: it goes when the index cannot be written for lack of them.
const BALLAST: &str = "ballast";
/// More than an index of a thousand images takes.
const BALLAST_BYTES: u64 = 512 << 10;

/// What is read of the index, in bytes: some thirty thousand images. Of a file that damage has made longer, the rest is lost.
const INDEX_BYTES: u64 = 16 << 20;

/// One image of the store, with or without a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// Its name; none when the name has moved on to another image.
    pub(crate) reference: Option<Reference>,
    /// What the name means: an index or a manifest.
    pub(crate) target: Descriptor,
    /// The manifest that is used: the target itself, or the one of it that was chosen.
    pub(crate) manifest: Digest,
}

/// All records, in memory and on disk.
#[derive(Debug)]
pub(crate) struct Names {
    path: PathBuf,
    records: Vec<Record>,
    /// Entries that are not understood (a later release's, say) are kept as they are.
    foreign: Vec<Value>,
}

impl Names {
    /// Reads what is there. A damaged entry costs that entry, which is logged.
    pub(super) fn load(path: PathBuf) -> Result<Self, ContentError> {
        let text = match File::open(&path) {
            Ok(file) => {
                let mut bytes = Vec::new();
                file.take(INDEX_BYTES).read_to_end(&mut bytes).map_err(ContentError::io("read", &path))?;
                String::from_utf8_lossy(&bytes).into_owned()
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(ContentError::io("read", &path)(error)),
        };
        let mut names = Self { path, records: Vec::new(), foreign: Vec::new() };
        names.take_ballast();
        for entry in entries(&text) {
            match record(&entry) {
                Some(record) => names.records.push(record),
                None => {
                    tracing::warn!(entry = clip(&entry.to_string()), "entry of index.json is not understood");
                    names.foreign.push(entry);
                }
            }
        }
        Ok(names)
    }

    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }

    /// Names `record`, durably. What had the name before stays without one, for containers may still use it.
    pub(super) fn add(&mut self, record: Record) -> Result<(), ContentError> {
        // Pulled again and still the same: nothing to write.
        if self.records.contains(&record) {
            return Ok(());
        }
        let mut records = self.records.clone();
        for other in &mut records {
            if other.reference == record.reference {
                other.reference = None;
            }
        }
        records.retain(|other| {
            other.reference.is_some()
                || (other.target.digest, other.manifest) != (record.target.digest, record.manifest)
        });
        records.push(record);
        dedup(&mut records);
        self.replace(records)
    }

    /// Removes those that `gone` says, durably. Gives them back.
    pub(super) fn remove(&mut self, gone: impl Fn(&Record) -> bool) -> Result<Vec<Record>, ContentError> {
        let (removed, kept): (Vec<_>, Vec<_>) = self.records.iter().cloned().partition(gone);
        if !removed.is_empty() {
            self.replace(kept)?;
        }
        Ok(removed)
    }

    fn replace(&mut self, records: Vec<Record>) -> Result<(), ContentError> {
        if records == self.records {
            return Ok(());
        }
        // One entry a line: where the whole cannot be read any more, the lines that can are.
        let entries = records.iter().map(value).chain(self.foreign.iter().cloned());
        let lines: Vec<String> = entries.map(|entry| entry.to_string()).collect();
        let media_type = crate::image::media::OCI_INDEX;
        let text = format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"{media_type}\",\"manifests\":[\n{}\n]}}\n",
            lines.join(",\n")
        );
        match write_durably(&self.path, text.as_bytes()) {
            // Removing an image needs room for a new index first.
            Err(ContentError::NoSpace { .. }) if self.drop_ballast() => {
                write_durably(&self.path, text.as_bytes())?;
            }
            other => other?,
        }
        self.records = records;
        self.take_ballast();
        Ok(())
    }

    fn ballast(&self) -> PathBuf {
        self.path.with_file_name(BALLAST)
    }

    /// Gives up the ballast; false when there is none.
    fn drop_ballast(&self) -> bool {
        fs::remove_file(self.ballast()).is_ok()
    }

    /// Makes the ballast where it is not; that there is no room for it is nothing to be told.
    fn take_ballast(&self) {
        let path = self.ballast();
        if fs::symlink_metadata(&path).is_ok_and(|meta| meta.len() == BALLAST_BYTES) {
            return;
        }
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let Ok(file) = file else { return };
        // Blocks that are really there; zeros may be stored as a hole.
        let taken = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, BALLAST_BYTES);
        if let Err(error) = taken {
            tracing::debug!(%error, path = %path.display(), "no ballast for a full disk");
            let _ = fs::remove_file(&path);
        }
    }
}

/// An image without a name is kept once, and not at all beside the same one with a name.
fn dedup(records: &mut Vec<Record>) {
    let mut seen = std::collections::HashSet::new();
    for record in records.iter().filter(|record| record.reference.is_some()) {
        seen.insert((record.target.digest, record.manifest));
    }
    records
        .retain(|record| record.reference.is_some() || seen.insert((record.target.digest, record.manifest)));
}

fn entries(text: &str) -> Vec<Value> {
    if text.is_empty() {
        return Vec::new();
    }
    match serde_json::from_str::<Value>(text) {
        Ok(mut index) => match index.get_mut("manifests").map(Value::take) {
            Some(Value::Array(entries)) => entries,
            _ => Vec::new(),
        },
        Err(error) => {
            tracing::warn!(%error, "index.json is damaged, keeping the entries that can be read");
            text.lines()
                .filter_map(|line| serde_json::from_str(line.trim_end_matches(',')).ok())
                .filter(|entry: &Value| entry.get("digest").is_some())
                .collect()
        }
    }
}

fn record(entry: &Value) -> Option<Record> {
    let target: Descriptor = serde_json::from_value(entry.clone()).ok()?;
    let annotation =
        |key: &str| entry.get("annotations").and_then(|all| all.get(key)).and_then(Value::as_str);
    let reference = match annotation(NAME) {
        Some(name) => Some(name.parse().ok()?),
        None => None,
    };
    let manifest = match annotation(CHOSEN) {
        Some(digest) => digest.parse().ok()?,
        None => target.digest,
    };
    Some(Record { reference, target, manifest })
}

fn value(record: &Record) -> Value {
    let mut annotations = BTreeMap::new();
    if let Some(reference) = &record.reference {
        annotations.insert(NAME, reference.to_string());
        if let Some(tag) = reference.tag() {
            annotations.insert(TAG, tag.to_owned());
        }
    }
    annotations.insert(CHOSEN, record.manifest.to_string());
    let Descriptor { media_type, digest, size } = &record.target;
    json!({ "mediaType": media_type, "digest": digest, "size": size, "annotations": annotations })
}
