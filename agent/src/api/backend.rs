//! What the API needs of the node: a port of its own, so that its tests run on objects in memory.

use std::{io::Write, path::PathBuf, sync::Arc};

use futures_util::future::BoxFuture;
use serde_json::Value;
use stower_crds::ObjectKey;
use tokio::sync::{broadcast, mpsc};

use crate::{
    disk::{DiskUsage, PruneOptions, Pruned},
    events::EventView,
    exec::{AttachOptions, Attachment, CopyFrom, CopyTo, ExecOptions, ProcessView, Session, StatsView},
    node::{
        ApiError, Applied, Change, ImageView, Node, ObjectView, Operation, PullProgress, SourceIssue, View,
    },
    rootfs::{ChangeView, CommitOptions},
    storageinfo::StorageView,
    volumedata::VolumeView,
};

/// What the API asks of the node; each method is that of [`Node`].
pub trait Backend: Send + Sync + 'static {
    /// See [`Node::view`].
    fn view(&self) -> Arc<View>;
    /// See [`Node::watch`].
    fn watch(&self) -> broadcast::Receiver<Change>;
    /// See [`Node::events`].
    fn events(&self) -> Vec<EventView>;
    /// See [`Node::watch_events`].
    fn watch_events(&self) -> broadcast::Receiver<EventView>;
    /// See [`Node::apply`].
    fn apply(&self, object: Value, dry_run: bool) -> BoxFuture<'_, Result<Applied, ApiError>>;
    /// See [`Node::delete`].
    fn delete<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Arc<ObjectView>, ApiError>>;
    /// See [`Node::operate`].
    fn operate<'a>(&'a self, key: &'a ObjectKey, op: Operation) -> BoxFuture<'a, Result<(), ApiError>>;
    /// See [`Node::plan`].
    fn plan(&self) -> BoxFuture<'_, Result<Vec<String>, ApiError>>;
    /// See [`Node::dump`].
    fn dump(&self) -> BoxFuture<'_, String>;
    /// See [`Node::ping`].
    fn ping(&self) -> BoxFuture<'_, Result<(), ApiError>>;
    /// See [`Node::images`]; may read the disk.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn images(&self) -> Result<Vec<ImageView>, ApiError>;
    /// See [`Node::pull`].
    fn pull(
        &self,
        reference: String,
        progress: mpsc::Sender<PullProgress>,
    ) -> BoxFuture<'_, Result<ImageView, ApiError>>;
    /// See [`Node::import`].
    fn import(&self, path: PathBuf, name: Option<String>) -> BoxFuture<'_, Result<Vec<ImageView>, ApiError>>;
    /// See [`Node::remove_image`].
    fn remove_image(&self, reference: String) -> BoxFuture<'_, Result<String, ApiError>>;
    /// See [`Node::changes`]; reads the disk.
    ///
    /// # Errors
    /// When there is no such container, it was never started, or the disk fails.
    fn changes(&self, key: &ObjectKey) -> Result<Vec<ChangeView>, ApiError>;
    /// See [`Node::export`]; blocks for as long as `out` does.
    ///
    /// # Errors
    /// When there is nothing to export, or it cannot be read or written.
    fn export(&self, key: &ObjectKey, out: &mut dyn Write) -> Result<(), ApiError>;
    /// See [`Node::commit`].
    fn commit<'a>(
        &'a self,
        key: &'a ObjectKey,
        options: CommitOptions,
    ) -> BoxFuture<'a, Result<ImageView, ApiError>>;
    /// See [`Node::exec`].
    fn exec<'a>(
        &'a self,
        key: &'a ObjectKey,
        options: ExecOptions,
    ) -> BoxFuture<'a, Result<Session, ApiError>>;
    /// See [`Node::attach`].
    fn attach<'a>(
        &'a self,
        key: &'a ObjectKey,
        options: AttachOptions,
    ) -> BoxFuture<'a, Result<Attachment, ApiError>>;
    /// See [`Node::processes`]; reads `/proc`.
    ///
    /// # Errors
    /// When the container does not run.
    fn processes(&self, key: &ObjectKey) -> Result<Vec<ProcessView>, ApiError>;
    /// See [`Node::stats`]; reads the container's groups.
    ///
    /// # Errors
    /// When the container does not run.
    fn stats(&self, key: &ObjectKey) -> Result<StatsView, ApiError>;
    /// See [`Node::copy_from`]; reads the disk.
    ///
    /// # Errors
    /// When the container does not run, or has no such thing.
    fn copy_from(&self, key: &ObjectKey, path: &str) -> Result<CopyFrom, ApiError>;
    /// See [`Node::copy_to`]; reads the disk.
    ///
    /// # Errors
    /// When the container does not run, or has no such place.
    fn copy_to(
        &self,
        key: &ObjectKey,
        path: &str,
        name: Option<&str>,
        keep: bool,
    ) -> Result<CopyTo, ApiError>;
    /// See [`Node::save`]; blocks for as long as `out` does.
    ///
    /// # Errors
    /// When an image is not here, or it cannot be read or written.
    fn save(&self, references: &[String], out: &mut dyn Write) -> Result<(), ApiError>;
    /// See [`Node::logs`].
    ///
    /// # Errors
    /// When there is no such container.
    fn logs(&self, key: &ObjectKey) -> Result<PathBuf, ApiError>;
    /// See [`Node::ready`].
    ///
    /// # Errors
    /// What the agent still waits for.
    fn ready(&self) -> Result<(), Vec<String>>;
    /// See [`Node::metrics_text`].
    fn metrics_text(&self) -> BoxFuture<'_, String>;
    /// See [`Node::storage_info`].
    fn storage_info(&self) -> BoxFuture<'_, Result<StorageView, ApiError>>;
    /// See [`Node::node_view`].
    fn node_view(&self) -> BoxFuture<'_, Value>;
    /// See [`Node::system_usage`].
    fn system_usage(self: Arc<Self>) -> BoxFuture<'static, Result<DiskUsage, ApiError>>;
    /// See [`Node::system_prune`].
    fn system_prune(self: Arc<Self>, options: PruneOptions) -> BoxFuture<'static, Result<Pruned, ApiError>>;
    /// See [`Node::volumes_list`].
    fn volumes_list(&self) -> BoxFuture<'_, Result<Vec<VolumeView>, ApiError>>;
    /// See [`Node::volumes_usage`].
    fn volumes_usage<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Vec<VolumeView>, ApiError>>;
    /// See [`Node::volumes_remove`].
    fn volumes_remove<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Vec<VolumeView>, ApiError>>;
    /// See [`Node::issues`].
    fn issues(&self) -> Vec<SourceIssue>;
    /// See [`Node::config`].
    fn config(&self) -> Value;
    /// See [`Node::config_check`].
    ///
    /// # Errors
    /// All that is wrong with it.
    fn config_check(&self, text: &str) -> Result<Value, ApiError>;
    /// See [`Node::config_reload`].
    fn config_reload(&self) -> BoxFuture<'_, Result<Value, ApiError>>;
}

impl Backend for Node {
    fn view(&self) -> Arc<View> {
        self.view()
    }
    fn watch(&self) -> broadcast::Receiver<Change> {
        self.watch()
    }
    fn events(&self) -> Vec<EventView> {
        self.events()
    }
    fn watch_events(&self) -> broadcast::Receiver<EventView> {
        self.watch_events()
    }
    fn apply(&self, object: Value, dry_run: bool) -> BoxFuture<'_, Result<Applied, ApiError>> {
        Box::pin(self.apply(object, dry_run))
    }
    fn delete<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Arc<ObjectView>, ApiError>> {
        Box::pin(self.delete(key))
    }
    fn operate<'a>(&'a self, key: &'a ObjectKey, op: Operation) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(self.operate(key, op))
    }
    fn plan(&self) -> BoxFuture<'_, Result<Vec<String>, ApiError>> {
        Box::pin(self.plan())
    }
    fn dump(&self) -> BoxFuture<'_, String> {
        Box::pin(self.dump())
    }
    fn ping(&self) -> BoxFuture<'_, Result<(), ApiError>> {
        Box::pin(self.ping())
    }
    fn images(&self) -> Result<Vec<ImageView>, ApiError> {
        self.images()
    }
    fn pull(
        &self,
        reference: String,
        progress: mpsc::Sender<PullProgress>,
    ) -> BoxFuture<'_, Result<ImageView, ApiError>> {
        Box::pin(async move { self.pull(&reference, progress).await })
    }
    fn import(&self, path: PathBuf, name: Option<String>) -> BoxFuture<'_, Result<Vec<ImageView>, ApiError>> {
        Box::pin(self.import(path, name))
    }
    fn remove_image(&self, reference: String) -> BoxFuture<'_, Result<String, ApiError>> {
        Box::pin(async move { self.remove_image(&reference).await })
    }
    fn changes(&self, key: &ObjectKey) -> Result<Vec<ChangeView>, ApiError> {
        self.changes(key)
    }
    fn export(&self, key: &ObjectKey, out: &mut dyn Write) -> Result<(), ApiError> {
        self.export(key, out)
    }
    fn commit<'a>(
        &'a self,
        key: &'a ObjectKey,
        options: CommitOptions,
    ) -> BoxFuture<'a, Result<ImageView, ApiError>> {
        Box::pin(self.commit(key, options))
    }
    fn exec<'a>(
        &'a self,
        key: &'a ObjectKey,
        options: ExecOptions,
    ) -> BoxFuture<'a, Result<Session, ApiError>> {
        Box::pin(self.exec(key, options))
    }
    fn attach<'a>(
        &'a self,
        key: &'a ObjectKey,
        options: AttachOptions,
    ) -> BoxFuture<'a, Result<Attachment, ApiError>> {
        Box::pin(self.attach(key, options))
    }
    fn processes(&self, key: &ObjectKey) -> Result<Vec<ProcessView>, ApiError> {
        self.processes(key)
    }
    fn stats(&self, key: &ObjectKey) -> Result<StatsView, ApiError> {
        self.stats(key)
    }
    fn copy_from(&self, key: &ObjectKey, path: &str) -> Result<CopyFrom, ApiError> {
        self.copy_from(key, path)
    }
    fn copy_to(
        &self,
        key: &ObjectKey,
        path: &str,
        name: Option<&str>,
        keep: bool,
    ) -> Result<CopyTo, ApiError> {
        self.copy_to(key, path, name, keep)
    }
    fn save(&self, references: &[String], out: &mut dyn Write) -> Result<(), ApiError> {
        self.save(references, out)
    }
    fn logs(&self, key: &ObjectKey) -> Result<PathBuf, ApiError> {
        self.logs(key)
    }
    fn ready(&self) -> Result<(), Vec<String>> {
        self.ready()
    }
    fn metrics_text(&self) -> BoxFuture<'_, String> {
        Box::pin(self.metrics_text())
    }
    fn storage_info(&self) -> BoxFuture<'_, Result<StorageView, ApiError>> {
        Box::pin(self.storage_info())
    }
    fn node_view(&self) -> BoxFuture<'_, Value> {
        Box::pin(async { self.node_view().await.into_value() })
    }
    fn system_usage(self: Arc<Self>) -> BoxFuture<'static, Result<DiskUsage, ApiError>> {
        Box::pin(async move { Node::system_usage(&self).await })
    }
    fn system_prune(self: Arc<Self>, options: PruneOptions) -> BoxFuture<'static, Result<Pruned, ApiError>> {
        Box::pin(async move { Node::system_prune(&self, options).await })
    }
    fn volumes_list(&self) -> BoxFuture<'_, Result<Vec<VolumeView>, ApiError>> {
        Box::pin(self.volumes_list())
    }
    fn volumes_usage<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Vec<VolumeView>, ApiError>> {
        Box::pin(self.volumes_usage(key))
    }
    fn volumes_remove<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Vec<VolumeView>, ApiError>> {
        Box::pin(self.volumes_remove(key))
    }
    fn issues(&self) -> Vec<SourceIssue> {
        self.issues()
    }
    fn config(&self) -> Value {
        self.config()
    }
    fn config_check(&self, text: &str) -> Result<Value, ApiError> {
        self.config_check(text)
    }
    fn config_reload(&self) -> BoxFuture<'_, Result<Value, ApiError>> {
        Box::pin(self.config_reload())
    }
}
