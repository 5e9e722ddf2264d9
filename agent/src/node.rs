//! What the agent shows to whoever asks: an immutable view that readers take without waiting, and the operations that
//! they may ask for, which go to the reconcile loop as messages.

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use serde::Serialize;
use serde_json::Value;
use stower_controllers::{DiskPressure, References};
use stower_crds::{Kind, ObjectKey};
use stower_runtime::cgroup::Cgroups;
use stower_storage::{Digest, ImageName, PullRequest, Reference, RemoveError, Storage, Volumes};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::{
    disk::{DiskUsage, Keeper, NodeView, PruneOptions, Pruned, PrunedItem},
    effects::chain,
    events::{EventLog, EventType, EventView},
    exec::Execs,
    journal::{self, Syncer},
    kube::Cluster,
    metrics::Metrics,
    paths::Paths,
    reload::Configured,
    rootfs::Frozen,
    storageinfo::{StorageInfo, StorageView},
    volumedata::{VolumeData, VolumeView},
};

/// All objects at one moment.
#[derive(Debug, Clone)]
pub struct View {
    /// The agent's durable counter at that moment.
    pub resource_version: u64,
    /// The objects.
    pub objects: rpds::RedBlackTreeMapSync<ObjectKey, Arc<ObjectView>>,
    /// Objects whose name another one had first: shown in lists, and nothing else.
    pub rejected: Arc<[Arc<ObjectView>]>,
}

/// One object as the local API shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectView {
    /// Kind, namespace and name.
    pub key: ObjectKey,
    /// Who declared it.
    pub source: SourceRef,
    /// The whole object: `apiVersion`, `kind`, `metadata`, `spec`, `status`.
    pub object: Value,
    /// The counter's value when it last changed.
    pub resource_version: u64,
}

/// Who declared an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum SourceRef {
    /// A file in the manifests directory.
    File(PathBuf),
    /// `apply` on the local API.
    Local,
    /// The API server of a cluster.
    Kube,
}

impl std::fmt::Display for SourceRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Local => f.write_str("local API"),
            Self::Kube => f.write_str("API server"),
        }
    }
}

/// One step of the view, for watches.
#[derive(Debug, Clone)]
pub enum Change {
    /// A new object.
    Added(Arc<ObjectView>),
    /// An object whose metadata, spec or status changed.
    Modified(Arc<ObjectView>),
    /// An object that is gone, as it was last.
    Deleted(Arc<ObjectView>),
}

/// What `apply` did.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The object after it.
    pub object: Arc<ObjectView>,
    /// What changed.
    pub outcome: Outcome,
}

/// What `apply` changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// There was none.
    Created,
    /// The spec or metadata changed.
    Configured,
    /// It already was so.
    Unchanged,
}

/// A person's word on one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Stop it and hold it stopped.
    Stop {
        /// Instead of the spec's grace period.
        grace: Option<Duration>,
    },
    /// End the hold.
    Start,
    /// Stop it and start it again, once.
    Restart {
        /// Instead of the spec's grace period.
        grace: Option<Duration>,
    },
}

/// Why an operation was refused; becomes a Kubernetes `Status`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The HTTP status.
    pub code: u16,
    /// The word for programs, such as `NotFound`.
    pub reason: &'static str,
    /// What, where and what to do.
    pub message: String,
}

impl ApiError {
    /// 404.
    pub fn not_found(key: &ObjectKey) -> Self {
        Self { code: 404, reason: "NotFound", message: format!("{} not found", resource(key)) }
    }
    /// 403.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self { code: 403, reason: "Forbidden", message: message.into() }
    }
    /// 409.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self { code: 409, reason: "Conflict", message: message.into() }
    }
    /// 422.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { code: 422, reason: "Invalid", message: message.into() }
    }
    /// 500.
    pub fn internal(message: impl Into<String>) -> Self {
        Self { code: 500, reason: "InternalError", message: message.into() }
    }
    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { code: 503, reason: "ServiceUnavailable", message: message.into() }
    }
}

/// An object as kubectl names it in errors: `containers.stower.dev "web"`, `secrets "key"`.
pub(crate) fn resource(key: &ObjectKey) -> String {
    let group = if key.kind.is_core() { "" } else { ".stower.dev" };
    format!("{}{group} {:?}", key.kind.plural(), key.name.as_str())
}

/// An image on this machine.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageView {
    /// The name it is known by here.
    pub reference: String,
    /// The digest of its manifest.
    pub digest: String,
    /// Bytes of its blobs, compressed.
    pub size: u64,
    /// When it was built, as its configuration says.
    pub created: Option<String>,
}

impl From<&stower_storage::Image> for ImageView {
    fn from(image: &stower_storage::Image) -> Self {
        Self {
            reference: image.reference.as_ref().map_or_else(|| "<none>".to_owned(), Reference::familiar),
            digest: image.digest.to_string(),
            size: image.size,
            created: None,
        }
    }
}

/// Hands a pull's progress on; a slow reader misses steps and never slows the pull.
struct Bars(mpsc::Sender<PullProgress>);

impl stower_storage::Progress for Bars {
    fn report(&self, event: &stower_storage::ProgressEvent) {
        for step in PullProgress::of(event) {
            let _ = self.0.try_send(step);
        }
    }
}

/// How far a pull is.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PullProgress {
    /// The blob.
    pub digest: String,
    /// `downloading`, `downloaded`, `unpacking`, `exists`, `done`.
    pub phase: String,
    /// Bytes so far.
    pub current: u64,
    /// Bytes in all; 0 when not known.
    pub total: u64,
}

impl PullProgress {
    fn of(event: &stower_storage::ProgressEvent) -> Vec<Self> {
        use stower_storage::{BlobState, ProgressEvent};
        let step = |digest: &Digest, phase: &str, current, total| Self {
            digest: digest.to_string(),
            phase: phase.to_owned(),
            current,
            total,
        };
        match event {
            ProgressEvent::Resolved { layers, .. } => {
                layers.iter().map(|(digest, total)| step(digest, "waiting", 0, *total)).collect()
            }
            ProgressEvent::Blob { digest, state, done, total } => {
                let phase = match state {
                    BlobState::Exists => "exists",
                    BlobState::Waiting => "waiting",
                    BlobState::Downloading => "downloading",
                    BlobState::Downloaded => "downloaded",
                    BlobState::Unpacking => "unpacking",
                    BlobState::Unpacked => "done",
                    _ => "working",
                };
                vec![step(digest, phase, *done, *total)]
            }
            _ => Vec::new(),
        }
    }
}

/// A file in the manifests directory that could not be taken.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SourceIssue {
    /// The file, or the directory itself.
    pub file: PathBuf,
    /// The line, from 1, where one can be named.
    pub line: Option<u32>,
    /// The column, from 1.
    pub column: Option<u32>,
    /// What is wrong and what to do.
    pub message: String,
}

/// What the reconcile loop is asked.
#[derive(Debug)]
pub(crate) enum Request {
    Apply {
        object: Box<Value>,
        dry_run: bool,
        reply: oneshot::Sender<Result<Applied, ApiError>>,
    },
    Delete {
        key: ObjectKey,
        reply: oneshot::Sender<Result<Arc<ObjectView>, ApiError>>,
    },
    Operate {
        key: ObjectKey,
        op: Operation,
        reply: oneshot::Sender<Result<(), ApiError>>,
    },
    Plan {
        reply: oneshot::Sender<Vec<String>>,
    },
    Dump {
        reply: oneshot::Sender<String>,
    },
    Ping {
        reply: oneshot::Sender<()>,
    },
    /// Images came or went by another way than a container's need.
    ImagesChanged,
    /// The configuration is another one.
    Configured,
    /// Whether the disk takes new work has changed.
    Disk(DiskPressure),
    /// What declared objects and records need of images.
    References {
        reply: oneshot::Sender<References>,
    },
}

/// The agent as others see it.
#[derive(Debug)]
pub struct Node {
    pub(crate) view: ArcSwap<View>,
    pub(crate) changes: broadcast::Sender<Change>,
    pub(crate) events: EventLog,
    pub(crate) issues: ArcSwap<Vec<SourceIssue>>,
    /// What still keeps the agent from being ready; empty once it is.
    pub(crate) unready: ArcSwap<Vec<String>>,
    pub(crate) metrics: Metrics,
    pub(crate) storage: Storage,
    /// How the driver of it is.
    pub(crate) storage_info: StorageInfo,
    /// Who looks after the disk.
    pub(crate) disk: Arc<Keeper>,
    /// The store of volumes.
    pub(crate) volumes: Arc<VolumeData>,
    pub(crate) cgroups: Cgroups,
    pub(crate) frozen: Arc<Frozen>,
    pub(crate) paths: Paths,
    pub(crate) configured: Configured,
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) syncer: Syncer,
    /// What runs commands in containers.
    pub(crate) execs: Execs,
    /// The cluster that objects are taken from, where there is one.
    pub(crate) cluster: Option<Arc<Cluster>>,
}

/// The reconcile loop, as others see it.
#[derive(Debug)]
pub(crate) struct Loop {
    /// Takes what it is asked.
    pub requests: mpsc::Sender<Request>,
    /// Syncs what it writes.
    pub syncer: Syncer,
}

/// How many changes a watch may lag behind before it has to list again.
const CHANGES_KEPT: usize = 1024;
/// How long a request waits for the loop before it is said to be stuck.
const LOOP_DEADLINE: Duration = Duration::from_secs(10);

impl Node {
    /// A node with no objects yet.
    #[expect(clippy::too_many_arguments, reason = "each is made once, at the start, and named so")]
    pub(crate) fn new(
        storage: Storage,
        volumes: Arc<Volumes>,
        cgroups: Cgroups,
        configured: Configured,
        metrics: Metrics,
        disk: Arc<Keeper>,
        resource_version: u64,
        reconcile: Loop,
        execs: Execs,
        cluster: Option<Arc<Cluster>>,
    ) -> Self {
        let Loop { requests, syncer } = reconcile;
        let paths = configured.settings.get().fixed.paths.clone();
        let view = View {
            resource_version,
            objects: rpds::RedBlackTreeMapSync::new_sync(),
            rejected: Arc::default(),
        };
        Self {
            view: ArcSwap::from_pointee(view),
            changes: broadcast::channel(CHANGES_KEPT).0,
            events: EventLog::default(),
            issues: ArcSwap::default(),
            unready: ArcSwap::from_pointee(vec!["the agent is starting".to_owned()]),
            metrics,
            storage_info: StorageInfo::new(Arc::clone(storage.snapshots()), paths.data.clone()),
            storage,
            disk,
            volumes: Arc::new(VolumeData::new(volumes)),
            cgroups,
            frozen: Arc::default(),
            paths,
            configured,
            requests,
            syncer,
            execs,
            cluster,
        }
    }

    /// All objects now.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// The changes to come. Subscribe before taking the view, then skip what the view already has.
    #[must_use]
    pub fn watch(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// Adds an event of the node itself, as the kubelet has them.
    pub(crate) fn tell(&self, type_: EventType, reason: &str, message: String) {
        let name = self.configured.settings.get().fixed.node_name.clone();
        self.events.add(EventView::of_node(name, type_, reason, message));
    }

    /// What the agent runs with, where each value comes from, and what waits for a restart.
    #[must_use]
    pub fn config(&self) -> Value {
        self.configured.view()
    }

    /// What a configuration file with this text would change.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn config_check(&self, text: &str) -> Result<Value, ApiError> {
        self.configured.check(text)
    }

    /// Reads the configuration file again, and goes by it.
    ///
    /// # Errors
    /// All that is wrong with it; then nothing has changed.
    pub async fn config_reload(&self) -> Result<Value, ApiError> {
        self.configured.reload().await
    }

    /// What happened lately.
    #[must_use]
    pub fn events(&self) -> Vec<EventView> {
        self.events.all()
    }

    /// What happens from now on.
    #[must_use]
    pub fn watch_events(&self) -> broadcast::Receiver<EventView> {
        self.events.subscribe()
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        let stopping = || ApiError::unavailable("the agent is stopping");
        let asked = async {
            self.requests.send(request(reply)).await.map_err(|_| stopping())?;
            answer.await.map_err(|_| stopping())
        };
        tokio::time::timeout(LOOP_DEADLINE, asked).await.map_err(|_| {
            ApiError::unavailable(format!(
                "the reconcile loop did not answer within {} s; send the agent SIGUSR1 for a dump of what it is doing",
                LOOP_DEADLINE.as_secs()
            ))
        })?
    }

    /// Declares an object in the local API's source.
    ///
    /// # Errors
    /// When it is not valid, belongs to another source, or cannot be kept.
    pub async fn apply(&self, object: Value, dry_run: bool) -> Result<Applied, ApiError> {
        let applied = self.ask(|reply| Request::Apply { object: Box::new(object), dry_run, reply }).await??;
        if !dry_run {
            self.synced().await;
        }
        Ok(applied)
    }

    /// Takes an object out of the local API's source.
    ///
    /// # Errors
    /// When there is none, or it belongs to another source.
    pub async fn delete(&self, key: &ObjectKey) -> Result<Arc<ObjectView>, ApiError> {
        let deleted = self.ask(|reply| Request::Delete { key: key.clone(), reply }).await??;
        self.synced().await;
        Ok(deleted)
    }

    /// Stops, starts or restarts a container, whoever declared it.
    ///
    /// # Errors
    /// When there is no such container.
    pub async fn operate(&self, key: &ObjectKey, op: Operation) -> Result<(), ApiError> {
        self.ask(|reply| Request::Operate { key: key.clone(), op, reply }).await??;
        self.synced().await;
        Ok(())
    }

    /// Waits until what the loop has written is on disk: what people were told is done outlives a power cut. The loop does not
    /// wait for it, and no start does.
    async fn synced(&self) {
        if journal::left_out("skip.sync.answer") {
            return;
        }
        let syncer = self.syncer.clone();
        // It fails when the runtime ends, and the agent with it.
        let _ = tokio::task::spawn_blocking(move || syncer.flush()).await;
    }

    /// What the agent would do now, a line an action; empty when the machine is as declared.
    ///
    /// # Errors
    /// When the loop does not answer.
    pub async fn plan(&self) -> Result<Vec<String>, ApiError> {
        self.ask(|reply| Request::Plan { reply }).await
    }

    /// A dump of every object and running effect, for a person.
    pub async fn dump(&self) -> String {
        self.ask(|reply| Request::Dump { reply }).await.unwrap_or_else(|error| error.message)
    }

    /// Goes through the reconcile loop and back: the cheapest real request.
    ///
    /// # Errors
    /// When the loop does not answer.
    pub async fn ping(&self) -> Result<(), ApiError> {
        self.ask(|reply| Request::Ping { reply }).await
    }

    /// Whether the agent has read its sources and found what runs.
    ///
    /// # Errors
    /// What it still waits for.
    pub fn ready(&self) -> Result<(), Vec<String>> {
        let unready = self.unready.load();
        if unready.is_empty() { Ok(()) } else { Err(unready.to_vec()) }
    }

    /// The metrics in Prometheus' text format. Those of volumes are measured for it, where they are not fresh, and the storage
    /// driver is asked.
    pub async fn metrics_text(&self) -> String {
        let view = self.view();
        tokio::join!(
            self.volumes.measure(&view, &self.metrics.volumes),
            self.storage_info.measure(&self.metrics.storage),
            self.disk.measure_aside()
        );
        self.metrics.text()
    }

    /// What declared objects and records need of images.
    pub(crate) async fn references(&self) -> Result<References, ApiError> {
        self.ask(|reply| Request::References { reply }).await
    }

    /// The node itself: its conditions and its disk, measured now.
    pub async fn node_view(&self) -> NodeView {
        self.disk.measure_aside().await;
        self.disk.view(self)
    }

    /// What takes room.
    ///
    /// # Errors
    /// When the disk fails, or the loop does not answer.
    pub async fn system_usage(self: &Arc<Self>) -> Result<DiskUsage, ApiError> {
        self.disk.usage(self).await
    }

    /// Removes what nothing needs.
    ///
    /// # Errors
    /// When it is not known what is needed, or the disk fails.
    pub async fn system_prune(self: &Arc<Self>, options: PruneOptions) -> Result<Pruned, ApiError> {
        Arc::clone(&self.disk).prune(self, options).await
    }

    /// Containers that are declared, as (UID, `namespace/name`).
    pub(crate) fn container_names(&self) -> Vec<(String, String)> {
        let view = self.view();
        let containers = view.objects.iter().filter(|(key, _)| key.kind == Kind::Container);
        let named = containers.filter_map(|(key, shown)| {
            let uid = shown.object["metadata"]["uid"].as_str()?;
            Some((uid.to_owned(), format!("{}/{}", key.namespace, key.name)))
        });
        named.collect()
    }

    /// Removes the data that deleted objects left behind, telling of each.
    pub(crate) async fn prune_volumes(
        &self,
        dry_run: bool,
        tell: &mut (dyn FnMut(PrunedItem) + Send),
    ) -> Result<(), ApiError> {
        let mut done: Vec<ObjectKey> = Vec::new();
        let all = self.volumes_list().await?;
        for volume in all.iter().filter(|volume| volume.is_retained()) {
            let Some(key) = volume.object_key().filter(|key| !done.contains(key)) else { continue };
            // The parts of a DataContainer go together.
            let parts = all.iter().filter(|it| it.object_key().as_ref() == Some(&key));
            let bytes = parts.filter_map(|it| it.usage).map(|usage| usage.bytes).sum();
            let removed = if dry_run { Ok(Vec::new()) } else { self.volumes_remove(&key).await };
            tell(PrunedItem {
                kind: key.kind.as_str().to_owned(),
                name: format!("{}/{}", key.namespace, key.name),
                digest: None,
                bytes,
                problem: removed.err().map(|error| error.message),
            });
            done.push(key);
        }
        Ok(())
    }

    /// Refuses what would write much, while there is no room for it.
    pub(crate) async fn refuse_full(&self, what: &str) -> Result<(), ApiError> {
        let measured = self.disk.measure_aside().await;
        if measured.pressure.is_on() {
            return Err(ApiError {
                code: 507,
                reason: "DiskPressure",
                message: format!("cannot {what}: {}", measured.pressure.message),
            });
        }
        Ok(())
    }

    /// How images and root filesystems are stored.
    ///
    /// # Errors
    /// When the driver fails, or does not answer.
    pub async fn storage_info(&self) -> Result<StorageView, ApiError> {
        self.storage_info.view().await
    }

    /// The data of volumes on this machine, also of those that no object declares any more.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn volumes_list(&self) -> Result<Vec<VolumeView>, ApiError> {
        self.volumes.list(self.view(), None).await
    }

    /// The data of a Volume's or DataContainer's volumes, measured now.
    ///
    /// # Errors
    /// When there is no such object, or its data cannot be measured.
    pub async fn volumes_usage(&self, key: &ObjectKey) -> Result<Vec<VolumeView>, ApiError> {
        let view = self.view();
        if !view.objects.contains_key(key) {
            return Err(ApiError::not_found(key));
        }
        self.volumes.list(view, Some(key)).await
    }

    /// Removes data that a Volume or DataContainer left behind.
    ///
    /// # Errors
    /// When there is none, or an object of that name is declared.
    pub async fn volumes_remove(&self, key: &ObjectKey) -> Result<Vec<VolumeView>, ApiError> {
        self.volumes.remove(self.view(), key).await
    }

    /// The files that could not be taken.
    #[must_use]
    pub fn issues(&self) -> Vec<SourceIssue> {
        self.issues.load().to_vec()
    }

    /// The images on this machine.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn images(&self) -> Result<Vec<ImageView>, ApiError> {
        let images = self.storage.images().map_err(|error| ApiError::internal(chain(&error)))?;
        Ok(images.iter().map(ImageView::from).collect())
    }

    /// Fetches an image, or what its name means by now.
    ///
    /// # Errors
    /// When the name is none, or the image cannot be had.
    pub async fn pull(
        &self,
        reference: &str,
        progress: mpsc::Sender<PullProgress>,
    ) -> Result<ImageView, ApiError> {
        let reference = self.reference(reference)?;
        self.refuse_full("pull").await?;
        let request = PullRequest { progress: Some(Arc::new(Bars(progress))), ..PullRequest::default() };
        let pulled = self.storage.pull(&reference, request).await;
        self.disk.measure_aside().await;
        let image =
            pulled.map_err(|error| ApiError { code: 502, reason: "ErrImagePull", message: chain(&error) })?;
        let _ = self.requests.send(Request::ImagesChanged).await;
        Ok(ImageView::from(&image))
    }

    /// Takes images from an OCI layout or an archive on this machine.
    ///
    /// # Errors
    /// When it cannot be read, or holds no image for this machine.
    pub async fn import(&self, path: PathBuf, name: Option<String>) -> Result<Vec<ImageView>, ApiError> {
        let name = name.map(|name| self.reference(&name)).transpose()?;
        self.refuse_full("import").await?;
        let imported = self.storage.import(path, name).await;
        self.disk.measure_aside().await;
        let images = imported.map_err(|error| ApiError::invalid(chain(&error)))?;
        let _ = self.requests.send(Request::ImagesChanged).await;
        Ok(images.iter().map(ImageView::from).collect())
    }

    /// Removes an image's name and what nothing else needs.
    ///
    /// # Errors
    /// When there is none of that name.
    pub async fn remove_image(&self, reference: &str) -> Result<String, ApiError> {
        let name = match reference.parse::<Digest>() {
            Ok(digest) => ImageName::Digest(digest),
            Err(_) => ImageName::Reference(self.reference(reference)?),
        };
        self.refuse_in_use(reference, &name)?;
        let removed = self.storage.remove_image(name).await.map_err(|error| match &error {
            RemoveError::NotFound(_) => ApiError { code: 404, reason: "NotFound", message: chain(&error) },
            _ => ApiError::internal(chain(&error)),
        })?;
        let _ = self.requests.send(Request::ImagesChanged).await;
        let names: Vec<String> = removed.references.iter().map(Reference::familiar).collect();
        let mut said = names.iter().map(|name| format!("untagged {name}")).collect::<Vec<_>>();
        said.push(format!("removed {} blobs and {} layers", removed.swept.blobs, removed.layers.len()));
        Ok(said.join("\n"))
    }

    /// An image that a container is to run stays, or its next start would have to fetch it.
    fn refuse_in_use(&self, text: &str, name: &ImageName) -> Result<(), ApiError> {
        let digest = match name {
            ImageName::Digest(digest) => Some(digest.to_string()),
            ImageName::Reference(reference) => {
                let image =
                    self.storage.image(reference).map_err(|error| ApiError::internal(chain(&error)))?;
                image.map(|image| image.digest.to_string())
            }
        };
        let Some(digest) = digest else { return Ok(()) };
        let users: Vec<String> = self
            .view()
            .objects
            .iter()
            .filter(|(_, shown)| {
                shown.object["status"]["image"].as_str().is_some_and(|image| image.ends_with(&digest))
            })
            .map(|(key, _)| key.to_string())
            .collect();
        if users.is_empty() {
            return Ok(());
        }
        Err(ApiError::conflict(format!(
            "image {text} is in use by {}; remove what declares it first",
            users.join(", ")
        )))
    }

    pub(crate) fn reference(&self, text: &str) -> Result<Reference, ApiError> {
        self.storage.reference(text).map_err(|error| ApiError::invalid(chain(&error)))
    }

    /// The log directory of a container.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn logs(&self, key: &ObjectKey) -> Result<PathBuf, ApiError> {
        let view = self.view();
        let object = view.objects.get(key).ok_or_else(|| ApiError::not_found(key))?;
        let uid = object.object["metadata"]["uid"].as_str().unwrap_or_default();
        Ok(self.paths.logs(uid))
    }
}
