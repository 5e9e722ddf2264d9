//! What people do with a container's root filesystem: see its changes, take its tree, keep it as an image.

use std::{
    collections::HashSet,
    io::Write,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use stower_crds::{Kind, ObjectKey};
use stower_runtime::cgroup::Cgroups;
use stower_storage::{
    ChangeKind, CommitImageError, CommitRequest, ConfigChange, DiffError, Digest, ImageName, SaveError,
    SnapshotError, SnapshotKey,
};

use crate::{
    effects::chain,
    node::{ApiError, ImageView, Node, ObjectView, Request},
};

/// What becomes an image, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CommitOptions {
    /// The name of the new image; without one it is known by its digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// What for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Instructions of a Dockerfile that change the configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<String>,
    /// Whether the container stands still while it is read.
    #[serde(default = "yes")]
    pub pause: bool,
}

fn yes() -> bool {
    true
}

impl Default for CommitOptions {
    fn default() -> Self {
        Self { reference: None, author: None, message: None, changes: Vec::new(), pause: true }
    }
}

/// One changed path of a container's root filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeView {
    /// Absolute; what is no text in it is shown as `\u{fffd}`.
    pub path: String,
    /// `Added`, `Modified` or `Deleted`.
    pub kind: String,
}

/// Containers that stand still for a commit.
#[derive(Debug, Default)]
pub(crate) struct Frozen(Mutex<HashSet<String>>);

/// A container that stands still until this is dropped, whatever happens.
#[derive(Debug)]
struct Freeze {
    cgroups: Cgroups,
    frozen: Arc<Frozen>,
    uid: String,
}

impl Drop for Freeze {
    fn drop(&mut self) {
        if let Err(error) = self.cgroups.thaw(&self.uid) {
            tracing::error!(
                uid = self.uid,
                error = &error as &dyn std::error::Error,
                "a container stands still after a commit; the next start of the agent lets it go on"
            );
        }
        self.frozen.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.uid);
    }
}

impl Freeze {
    /// Makes the container stand still; `None` when nothing of it runs.
    fn begin(cgroups: &Cgroups, frozen: &Arc<Frozen>, uid: &str) -> Result<Option<Self>, ApiError> {
        if cgroups.populated(uid) == Some(false) {
            return Ok(None);
        }
        if !frozen.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned()) {
            return Err(ApiError::conflict(
                "another commit of this container is under way, and it is paused for that: try again after it",
            ));
        }
        // From here on it is thawed on every way out, also where only some of it stands still.
        let freeze = Self { cgroups: cgroups.clone(), frozen: Arc::clone(frozen), uid: uid.to_owned() };
        match cgroups.freeze(uid) {
            Ok(()) => Ok(Some(freeze)),
            // It ended meanwhile.
            Err(_) if cgroups.populated(uid) == Some(false) => Ok(None),
            Err(error) => Err(ApiError::conflict(format!(
                "the container cannot be paused: {}; commit it without pausing, or try again",
                chain(&error)
            ))),
        }
    }
}

/// Lets go on what an agent that died in the middle of a commit has left standing still.
pub(crate) fn thaw_all(cgroups: &Cgroups) {
    let uids = match cgroups.list() {
        Ok(uids) => uids,
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "cannot tell which containers stand still");
            return;
        }
    };
    for uid in uids.iter().filter(|uid| cgroups.frozen(uid) == Some(true)) {
        match cgroups.thaw(uid) {
            Ok(()) => {
                tracing::warn!(uid, "a container stood still after a commit that was cut off; it goes on");
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(uid, error, "a container stands still and cannot be let go on");
            }
        }
    }
}

impl Node {
    /// A container and its snapshot's key.
    fn container(&self, key: &ObjectKey) -> Result<(Arc<ObjectView>, String, SnapshotKey), ApiError> {
        if key.kind != Kind::Container {
            return Err(ApiError::invalid(format!("{key} has no root filesystem: only a Container has one")));
        }
        let object = self.view().objects.get(key).cloned().ok_or_else(|| ApiError::not_found(key))?;
        let uid = object.object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let snapshot =
            SnapshotKey::new(uid.as_str()).map_err(|error| ApiError::internal(error.to_string()))?;
        Ok((object, uid, snapshot))
    }

    /// What a container has changed in its root filesystem. Blocks on the disk.
    ///
    /// # Errors
    /// When there is no such container, it was never started, or the disk fails.
    pub fn changes(&self, key: &ObjectKey) -> Result<Vec<ChangeView>, ApiError> {
        let (object, _, snapshot) = self.container(key)?;
        let changes = self
            .storage
            .changes(&snapshot, &stubs(&object.object))
            .map_err(|error| diff_error(key, &error))?;
        let shown = changes.into_iter().map(|change| ChangeView {
            path: change.path.to_string_lossy().into_owned(),
            kind: match change.kind {
                ChangeKind::Added => "Added",
                ChangeKind::Modified => "Modified",
                ChangeKind::Deleted => "Deleted",
            }
            .to_owned(),
        });
        Ok(shown.collect())
    }

    /// Writes a container's root filesystem as a tar archive. Blocks for as long as `out` does.
    ///
    /// # Errors
    /// When there is no such container, it was never started, the disk fails, or `out` takes no more.
    pub fn export(&self, key: &ObjectKey, out: &mut dyn Write) -> Result<(), ApiError> {
        let (_, _, snapshot) = self.container(key)?;
        self.storage.export(&snapshot, out).map_err(|error| diff_error(key, &error))
    }

    /// Writes images as one archive. Blocks for as long as `out` does.
    ///
    /// # Errors
    /// When one is not here or damaged, or `out` takes no more.
    pub fn save(&self, references: &[String], out: &mut dyn Write) -> Result<(), ApiError> {
        let name = |text: &String| match text.parse::<Digest>() {
            Ok(digest) => Ok(ImageName::Digest(digest)),
            Err(_) => self.reference(text).map(ImageName::Reference),
        };
        let names = references.iter().map(name).collect::<Result<Vec<_>, _>>()?;
        self.storage.save(&names, out).map_err(|error| match &error {
            SaveError::NotFound(_) => ApiError { code: 404, reason: "NotFound", message: chain(&error) },
            SaveError::Incomplete { .. } => ApiError::conflict(chain(&error)),
            _ => ApiError::internal(chain(&error)),
        })
    }

    /// Makes an image of what a container has changed. The container is paused while it is read, unless the options say
    /// otherwise.
    ///
    /// # Errors
    /// When there is no such container, it was never started, the options are wrong, or the image cannot be made.
    pub async fn commit(&self, key: &ObjectKey, options: CommitOptions) -> Result<ImageView, ApiError> {
        let (object, uid, snapshot) = self.container(key)?;
        let name = options.reference.as_deref().map(|text| self.reference(text)).transpose()?;
        let changes = options.changes.iter().map(|text| {
            text.parse::<ConfigChange>()
                .map_err(|error| ApiError::invalid(format!("change {text:?}: {error}")))
        });
        let changes = changes.collect::<Result<Vec<_>, _>>()?;
        self.refuse_full("commit").await?;
        let storage = self.storage.clone();
        let (wanted, shown) = (snapshot.clone(), object.object["status"]["image"].clone());
        let base = blocking(move || base_of(&storage, &wanted, &shown)).await?;
        let base = base.ok_or_else(|| never_started(key))??;
        let reading = match options.pause {
            false => None,
            true => {
                let (cgroups, frozen) = (self.cgroups.clone(), Arc::clone(&self.frozen));
                blocking(move || Freeze::begin(&cgroups, &frozen, &uid)).await??
            }
        };
        let request = CommitRequest {
            snapshot,
            base: base.digest,
            name,
            author: options.author,
            message: options.message,
            created_by: command_line(&object.object["spec"], &base.config),
            created: jiff::Timestamp::now(),
            stubs: stubs(&object.object),
            changes,
            reading: reading.map(|freeze| Box::new(freeze) as Box<dyn Send>),
        };
        let image = self.storage.commit_image(request).await.map_err(|error| match &error {
            CommitImageError::Diff(error @ DiffError::Snapshot(_)) => diff_error(key, error),
            CommitImageError::Change(_)
            | CommitImageError::Name(_)
            | CommitImageError::Diff(DiffError::Refused { .. }) => ApiError::invalid(chain(&error)),
            CommitImageError::NoBase(_)
            | CommitImageError::OtherBase { .. }
            | CommitImageError::BaseIncomplete { .. } => ApiError::conflict(chain(&error)),
            _ => ApiError::internal(chain(&error)),
        })?;
        let _ = self.requests.send(Request::ImagesChanged).await;
        Ok(ImageView::from(&image))
    }
}

type Base = Result<stower_storage::Image, ApiError>;

/// The image that the snapshot is based on, which the spec may have moved on from; `None` without a snapshot.
fn base_of(storage: &stower_storage::Storage, key: &SnapshotKey, shown: &Value) -> Option<Base> {
    let record = storage.snapshots().list().into_iter().find(|record| record.key == *key)?;
    let mut images = match storage.images() {
        Ok(images) => images,
        Err(error) => return Some(Err(ApiError::internal(chain(&error)))),
    };
    images.retain(|image| Some(image.chain_id) == record.parent);
    let shown = shown.as_str().unwrap_or_default();
    let at = images.iter().position(|image| shown.ends_with(&image.digest.to_string())).unwrap_or(0);
    if images.is_empty() {
        let message = "the image that the container was started from is not here any more: pull it again";
        return Some(Err(ApiError::conflict(message)));
    }
    Some(Ok(images.swap_remove(at)))
}

/// What the container runs, for the history of the image.
fn command_line(spec: &Value, image: &stower_storage::ImageConfig) -> String {
    let words = |field: &str| -> Vec<String> {
        let list = spec[field].as_array().into_iter().flatten();
        list.filter_map(|word| word.as_str().map(str::to_owned)).collect()
    };
    let (command, args) = (words("command"), words("args"));
    // As in a Pod: a command of its own takes the image's arguments away too.
    let (command, args) = match (command.is_empty(), args.is_empty()) {
        (true, true) => (image.entrypoint.clone(), image.cmd.clone()),
        (true, false) => (image.entrypoint.clone(), args),
        (false, _) => (command, args),
    };
    [command, args].concat().join(" ")
}

/// The places to mount on that are made for every container, and for the volumes of this one.
fn stubs(object: &Value) -> Vec<PathBuf> {
    const ALWAYS: [&str; 6] = ["/dev", "/proc", "/sys", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];
    let mounted = [&object["spec"]["volumeMounts"], &object["status"]["mounts"]];
    let own = mounted.into_iter().filter_map(Value::as_array).flatten();
    let own = own.filter_map(|mount| mount["mountPath"].as_str());
    ALWAYS.into_iter().chain(own).map(PathBuf::from).collect()
}

fn never_started(key: &ObjectKey) -> ApiError {
    ApiError::conflict(format!(
        "container {:?} has no root filesystem yet: it was never started",
        key.name.to_string()
    ))
}

fn diff_error(key: &ObjectKey, error: &DiffError) -> ApiError {
    match error {
        DiffError::Snapshot(SnapshotError::NotFound(_)) => never_started(key),
        DiffError::Snapshot(SnapshotError::Busy(_)) => {
            ApiError::conflict(format!("{}: try again", chain(error)))
        }
        DiffError::Refused { .. } | DiffError::Limit { .. } => ApiError::invalid(chain(error)),
        _ => ApiError::internal(chain(error)),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| ApiError::internal(format!("the agent failed while doing it: {error}")))
}

#[cfg(test)]
mod tests;
