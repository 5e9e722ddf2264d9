//! The API over a real socket, on objects in memory.

use std::{io::Write, path::PathBuf, sync::Mutex, time::Duration};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use hyper::Method;
use stower_crds::{Kind, Name, Namespace, ObjectKey};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::{broadcast, mpsc},
    task::JoinHandle,
};

use super::*;
use crate::{
    client::{Client, ClientError, Content, Status},
    disk::{DiskUsage, PruneOptions, Pruned},
    events::{EventLog, EventType, EventView},
    exec::{AttachOptions, Attachment, CopyFrom, CopyTo, ExecOptions, ProcessView, Session, StatsView},
    node::{
        ApiError, Applied, Change, ImageView, ObjectView, Operation, Outcome, PullProgress, SourceIssue,
        SourceRef, View,
    },
    rootfs::{ChangeView, CommitOptions},
    storageinfo::StorageView,
    volumedata::VolumeView,
};

/// A container at a version.
pub(super) fn container(name: &str, version: u64) -> ObjectView {
    labelled(name, version, "web")
}

fn labelled(name: &str, version: u64, app: &str) -> ObjectView {
    ObjectView {
        key: key(name),
        source: SourceRef::Local,
        object: json!({
            "apiVersion": "stower.dev/v1alpha1", "kind": "Container",
            "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "generation": 1,
                         "labels": {"app": app}},
            "spec": {"image": "nginx", "nodeName": "here"},
            "status": {"phase": "Running"},
        }),
        resource_version: version,
    }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey { kind: Kind::Container, namespace: Namespace::default(), name: Name::new(name).unwrap() }
}

/// A node that only remembers.
pub(super) struct Memory {
    view: ArcSwap<View>,
    changes: broadcast::Sender<Change>,
    events: EventLog,
    asked: Mutex<Vec<String>>,
    logs: Mutex<Option<PathBuf>>,
}

impl Memory {
    /// With these containers, at versions from 1.
    pub(super) fn with(names: &[&str]) -> Arc<Self> {
        let view = View {
            resource_version: 0,
            objects: rpds::RedBlackTreeMapSync::new_sync(),
            rejected: Arc::default(),
        };
        let memory = Self {
            view: ArcSwap::from_pointee(view),
            changes: broadcast::channel(64).0,
            events: EventLog::default(),
            asked: Mutex::default(),
            logs: Mutex::default(),
        };
        for (n, name) in (1..).zip(names) {
            memory.set(container(name, n));
        }
        Arc::new(memory)
    }

    /// Puts an object in, and tells of it.
    pub(super) fn set(&self, object: ObjectView) {
        let object = Arc::new(object);
        let view = self.view.load();
        let change = if view.objects.contains_key(&object.key) {
            Change::Modified(Arc::clone(&object))
        } else {
            Change::Added(Arc::clone(&object))
        };
        self.view.store(Arc::new(View {
            resource_version: object.resource_version,
            objects: view.objects.insert(object.key.clone(), object),
            rejected: Arc::default(),
        }));
        let _ = self.changes.send(change);
    }

    fn remove(&self, key: &ObjectKey) -> Option<Arc<ObjectView>> {
        let view = self.view.load();
        let last = view.objects.get(key)?;
        let version = view.resource_version + 1;
        let last = Arc::new(ObjectView { resource_version: version, ..(**last).clone() });
        self.view.store(Arc::new(View {
            resource_version: version,
            objects: view.objects.remove(key),
            rejected: Arc::default(),
        }));
        let _ = self.changes.send(Change::Deleted(Arc::clone(&last)));
        Some(last)
    }

    /// Takes an object out by name.
    pub(super) fn remove_named(&self, name: &str) {
        self.remove(&key(name));
    }

    /// Says where the logs lie.
    pub(super) fn log_in(&self, dir: &std::path::Path) {
        *self.logs.lock().unwrap() = Some(dir.to_owned());
    }

    /// Of as many bytes as the name says.
    fn archive(&self, name: &str, out: &mut dyn Write) -> Result<(), ApiError> {
        let ended = |error: std::io::Error| {
            self.note(format!("ended {error}"));
            ApiError::internal(error.to_string())
        };
        match name {
            "small" => out.write_all(b"small").map_err(ended)?,
            "large" | "breaks" => out.write_all(&vec![7; 5_000_000]).map_err(ended)?,
            "endless" => loop {
                out.write_all(&[7; 4096]).map_err(ended)?;
            },
            _ => {}
        }
        match name {
            "refused" => Err(ApiError::conflict("not now")),
            "breaks" => Err(ApiError::internal("a bad disk")),
            _ => out.flush().map_err(ended),
        }
    }

    fn note(&self, what: String) {
        self.asked.lock().unwrap().push(what);
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    fn happened(&self, name: &str, reason: &str, second: i64) {
        let at = jiff::Timestamp::from_second(second).unwrap();
        self.events.add(EventView {
            namespace: "default".into(),
            kind: "Container".into(),
            name: name.into(),
            type_: EventType::Normal,
            reason: reason.into(),
            message: "it did".into(),
            count: 1,
            first_seen: at,
            last_seen: at,
        });
    }
}

impl Backend for Memory {
    fn view(&self) -> Arc<View> {
        self.view.load_full()
    }
    fn watch(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }
    fn events(&self) -> Vec<EventView> {
        self.events.all()
    }
    fn watch_events(&self) -> broadcast::Receiver<EventView> {
        self.events.subscribe()
    }
    fn apply(&self, object: Value, dry_run: bool) -> BoxFuture<'_, Result<Applied, ApiError>> {
        Box::pin(async move {
            self.note(format!("apply dry={dry_run} {object}"));
            if object["spec"]["image"] == "bad" {
                return Err(ApiError::invalid("spec.image: bad"));
            }
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            let view = self.view();
            let kind = object["kind"].as_str().and_then(|kind| kind.parse().ok()).unwrap_or(Kind::Container);
            let key = ObjectKey { kind, ..key(&name) };
            let outcome = match view.objects.get(&key) {
                None => Outcome::Created,
                Some(before) if before.object["spec"] == object["spec"] => Outcome::Unchanged,
                Some(_) => Outcome::Configured,
            };
            let mut object = ObjectView { object, key, ..container(&name, view.resource_version + 1) };
            object.object["metadata"]["uid"] = format!("uid-{name}").into();
            if !dry_run {
                self.set(object.clone());
            }
            Ok(Applied { object: Arc::new(object), outcome })
        })
    }
    fn delete<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Arc<ObjectView>, ApiError>> {
        Box::pin(async move { self.remove(key).ok_or_else(|| ApiError::not_found(key)) })
    }
    fn operate<'a>(&'a self, key: &'a ObjectKey, op: Operation) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            self.note(format!("{} {op:?}", key.name));
            Ok(())
        })
    }
    fn plan(&self) -> BoxFuture<'_, Result<Vec<String>, ApiError>> {
        Box::pin(async { Ok(vec!["start default/web".to_owned()]) })
    }
    fn dump(&self) -> BoxFuture<'_, String> {
        Box::pin(async { "all is well\n".to_owned() })
    }
    fn ping(&self) -> BoxFuture<'_, Result<(), ApiError>> {
        Box::pin(async { Ok(()) })
    }
    fn images(&self) -> Result<Vec<ImageView>, ApiError> {
        Ok(vec![image()])
    }
    fn pull(
        &self,
        reference: String,
        progress: mpsc::Sender<PullProgress>,
    ) -> BoxFuture<'_, Result<ImageView, ApiError>> {
        Box::pin(async move {
            for current in 0..100 {
                let report = PullProgress {
                    digest: "sha256:a".into(),
                    phase: "downloading".into(),
                    current,
                    total: 100,
                };
                let _ = progress.send(report).await;
            }
            if reference == "none" { Err(ApiError::unavailable("no registry")) } else { Ok(image()) }
        })
    }
    fn import(&self, path: PathBuf, name: Option<String>) -> BoxFuture<'_, Result<Vec<ImageView>, ApiError>> {
        self.note(format!("import {} {name:?}", path.display()));
        Box::pin(async { Ok(vec![image()]) })
    }
    fn remove_image(&self, reference: String) -> BoxFuture<'_, Result<String, ApiError>> {
        Box::pin(async move { Ok(format!("removed {reference}")) })
    }
    fn changes(&self, key: &ObjectKey) -> Result<Vec<ChangeView>, ApiError> {
        self.note(format!("diff {}", key.name));
        Ok(vec![ChangeView { path: "/new".into(), kind: "Added".into() }])
    }
    fn export(&self, key: &ObjectKey, out: &mut dyn Write) -> Result<(), ApiError> {
        self.archive(key.name.as_str(), out)
    }
    fn commit<'a>(
        &'a self,
        key: &'a ObjectKey,
        options: CommitOptions,
    ) -> BoxFuture<'a, Result<ImageView, ApiError>> {
        self.note(format!("commit {} {options:?}", key.name));
        Box::pin(async { Ok(image()) })
    }
    fn exec<'a>(
        &'a self,
        key: &'a ObjectKey,
        options: ExecOptions,
    ) -> BoxFuture<'a, Result<Session, ApiError>> {
        self.note(format!("exec {} {options:?}", key.name));
        Box::pin(async { Err(ApiError::unavailable("this node runs nothing")) })
    }
    fn attach<'a>(
        &'a self,
        key: &'a ObjectKey,
        options: AttachOptions,
    ) -> BoxFuture<'a, Result<Attachment, ApiError>> {
        self.note(format!("attach {} {options:?}", key.name));
        Box::pin(async { Err(ApiError::unavailable("this node runs nothing")) })
    }
    fn processes(&self, key: &ObjectKey) -> Result<Vec<ProcessView>, ApiError> {
        Err(ApiError::not_found(key))
    }
    fn stats(&self, key: &ObjectKey) -> Result<StatsView, ApiError> {
        Err(ApiError::not_found(key))
    }
    fn copy_from(&self, key: &ObjectKey, _: &str) -> Result<CopyFrom, ApiError> {
        Err(ApiError::not_found(key))
    }
    fn copy_to(&self, key: &ObjectKey, _: &str, _: Option<&str>, _: bool) -> Result<CopyTo, ApiError> {
        Err(ApiError::not_found(key))
    }
    fn save(&self, references: &[String], out: &mut dyn Write) -> Result<(), ApiError> {
        self.archive(&references.join(" "), out)
    }
    fn logs(&self, key: &ObjectKey) -> Result<PathBuf, ApiError> {
        self.logs.lock().unwrap().clone().ok_or_else(|| ApiError::not_found(key))
    }
    fn ready(&self) -> Result<(), Vec<String>> {
        Err(vec!["manifests not read yet".to_owned()])
    }
    fn metrics_text(&self) -> BoxFuture<'_, String> {
        Box::pin(async { "stower_up 1\n".to_owned() })
    }
    fn storage_info(&self) -> BoxFuture<'_, Result<StorageView, ApiError>> {
        Box::pin(async { Err(ApiError::unavailable("the pool does not answer")) })
    }
    fn node_view(&self) -> BoxFuture<'_, Value> {
        Box::pin(async { json!({"kind": "Node"}) })
    }
    fn system_usage(self: Arc<Self>) -> BoxFuture<'static, Result<DiskUsage, ApiError>> {
        Box::pin(async { Ok(DiskUsage::default()) })
    }
    fn system_prune(self: Arc<Self>, options: PruneOptions) -> BoxFuture<'static, Result<Pruned, ApiError>> {
        self.note(format!("{options:?}"));
        Box::pin(async { Ok(Pruned::default()) })
    }
    fn volumes_list(&self) -> BoxFuture<'_, Result<Vec<VolumeView>, ApiError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    fn volumes_usage<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Vec<VolumeView>, ApiError>> {
        Box::pin(async move { Err(ApiError::not_found(key)) })
    }
    fn volumes_remove<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Vec<VolumeView>, ApiError>> {
        self.note(format!("remove the data of {key}"));
        Box::pin(async { Ok(Vec::new()) })
    }
    fn issues(&self) -> Vec<SourceIssue> {
        Vec::new()
    }
    fn config(&self) -> Value {
        json!({"kind": "AgentConfig"})
    }
    fn config_check(&self, text: &str) -> Result<Value, ApiError> {
        self.note(format!("check {text:?}"));
        Err(ApiError::invalid("c.yaml:1:1: a: unknown field"))
    }
    fn config_reload(&self) -> BoxFuture<'_, Result<Value, ApiError>> {
        Box::pin(async { Ok(json!({"kind": "ConfigChanges"})) })
    }
}

fn image() -> ImageView {
    ImageView {
        reference: "docker.io/library/nginx:1".into(),
        digest: "sha256:ab".into(),
        size: 7,
        created: None,
    }
}

/// A served node; ends with the test.
pub(super) struct Served {
    pub(super) memory: Arc<Memory>,
    pub(super) client: Client,
    socket: PathBuf,
    task: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn serve_limited(names: &[&str], limits: Limits) -> Served {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let memory = Memory::with(names);
    let listener = Listener::bind(&socket).unwrap();
    let task = tokio::spawn(serve_with(Arc::<Memory>::clone(&memory), listener, limits));
    Served { memory, client: Client::new(&socket), socket, task, _dir: dir }
}

pub(super) fn served(names: &[&str]) -> Served {
    serve_limited(names, Limits::default())
}

const BASE: &str = "/apis/stower.dev/v1alpha1/namespaces/default/containers";

fn refusal(error: ClientError) -> Status {
    match error {
        ClientError::Status(status) => status,
        other => panic!("{other}"),
    }
}

async fn refused(
    client: &Client,
    method: Method,
    path: &str,
    content: Option<Content>,
) -> (u16, String, String) {
    let status = refusal(client.json(method.clone(), path, content).await.expect_err(path));
    (status.code, status.reason, status.message)
}

/// Everything that a raw request gets back.
async fn raw(socket: &std::path::Path, request: &str) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

mod archives;
mod bounds;
mod changes;
mod kinds;
mod reads;
