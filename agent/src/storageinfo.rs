//! How images and root filesystems are stored, as people and Prometheus see it. The driver may have to wait for a disk or a
//! pool, so it is asked on a thread for it, by one at a time, and with a bound on patience.

use std::{path::PathBuf, sync::Arc, time::Duration};

use serde::Serialize;
use stower_storage::{Chosen, DriverStatus, Fill, PoolStatus, Pressure, Selection, Snapshots};

use crate::{effects::chain, metrics::StorageGauges, node::ApiError};

/// How long a scrape waits; what does not answer by then has no series.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a person waits.
const LONG: Duration = Duration::from_secs(30);

/// The storage of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StorageView {
    /// The driver, as `--storage-driver` takes it.
    pub driver: String,
    /// Why it is the one: `Named`, `InUse` or `FirstThatWorks`.
    pub chosen: &'static str,
    /// Where everything is kept.
    pub data_root: PathBuf,
    /// The filesystem that the driver keeps its directories on.
    pub backing_filesystem: String,
    /// Whether what a container writes to its root filesystem can be limited.
    pub limits: bool,
    /// The pool of blocks that root filesystems come from, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolView>,
    /// What the driver has to tell, such as options in force.
    pub details: Vec<Detail>,
    /// The other drivers, in the order in which they are tried.
    pub passed_over: Vec<PassedOverView>,
    /// Those of them that have data here, which stays unused.
    pub unused: Vec<String>,
}

/// A pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolView {
    /// Its name.
    pub name: String,
    /// Bytes for data.
    pub data: FillView,
    /// Bytes for the pool's own tables.
    pub metadata: FillView,
    /// Why new work is refused, where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pressure: Option<PressureView>,
}

/// How full something is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FillView {
    /// Taken.
    pub used: u64,
    /// All there is.
    pub total: u64,
}

/// Why new work is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PressureView {
    /// In a word.
    pub reason: &'static str,
    /// In a sentence, with what to do.
    pub message: String,
}

/// What a driver has to tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Detail {
    /// What it is.
    pub name: String,
    /// How it is.
    pub value: String,
}

/// A driver that is not used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PassedOverView {
    /// The driver.
    pub driver: String,
    /// Why not.
    pub reason: String,
}

impl From<Fill> for FillView {
    fn from(fill: Fill) -> Self {
        Self { used: fill.used, total: fill.total }
    }
}

impl From<PoolStatus> for PoolView {
    fn from(pool: PoolStatus) -> Self {
        let pressure = |why: Pressure| PressureView { reason: why.reason(), message: why.to_string() };
        Self {
            name: pool.name,
            data: pool.data.into(),
            metadata: pool.metadata.into(),
            pressure: pool.pressure.map(pressure),
        }
    }
}

impl StorageView {
    fn new(selection: &Selection, status: DriverStatus, data_root: PathBuf) -> Self {
        let owned = |text: &&str| (*text).to_owned();
        Self {
            driver: selection.driver.to_owned(),
            chosen: match selection.chosen {
                Chosen::Named => "Named",
                Chosen::InUse => "InUse",
                Chosen::FirstThatWorks => "FirstThatWorks",
            },
            data_root,
            backing_filesystem: status.backing_filesystem,
            limits: status.limits,
            pool: status.pool.map(PoolView::from),
            details: status.details.into_iter().map(|(name, value)| Detail { name, value }).collect(),
            passed_over: selection
                .passed_over
                .iter()
                .map(|other| PassedOverView { driver: other.driver.to_owned(), reason: other.why.clone() })
                .collect(),
            unused: selection.unused.iter().map(owned).collect(),
        }
    }
}

/// The store of root filesystems, to be asked how it is.
#[derive(Debug)]
pub(crate) struct StorageInfo {
    snapshots: Arc<Snapshots>,
    data_root: PathBuf,
    /// Held by whoever asks the driver, so that one that hangs costs one thread.
    asking: Arc<tokio::sync::Mutex<()>>,
}

impl StorageInfo {
    pub(crate) fn new(snapshots: Arc<Snapshots>, data_root: PathBuf) -> Self {
        Self { snapshots, data_root, asking: Arc::default() }
    }

    /// How it is now.
    pub(crate) async fn view(&self) -> Result<StorageView, ApiError> {
        let status = self.status(LONG).await?;
        Ok(StorageView::new(self.snapshots.selection(), status, self.data_root.clone()))
    }

    /// Sets the gauges; of what is not known there are none.
    pub(crate) async fn measure(&self, gauges: &StorageGauges) {
        match self.status(PATIENCE).await {
            Ok(status) => gauges.set(&status),
            Err(error) => {
                gauges.clear();
                tracing::warn!(%error, "cannot tell how the storage is");
            }
        }
    }

    async fn status(&self, patience: Duration) -> Result<DriverStatus, ApiError> {
        let asked = async {
            let held = Arc::clone(&self.asking).lock_owned().await;
            let snapshots = Arc::clone(&self.snapshots);
            let status = tokio::task::spawn_blocking(move || {
                let status = snapshots.status();
                drop(held);
                status
            });
            let failed = |why: String| ApiError::internal(format!("asking the storage driver failed: {why}"));
            status.await.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(chain(&error)))
        };
        tokio::time::timeout(patience, asked).await.map_err(|_| {
            ApiError::unavailable(format!(
                "the storage driver {} did not answer within {} s: see the kernel's log for its disk or pool",
                self.snapshots.driver(),
                patience.as_secs()
            ))
        })?
    }
}

#[cfg(test)]
mod tests;
