//! A disk that fills: looks how full it is, tells the loop when there is no room for new work, and has unused images removed.
//!
//! ```text
//! a start, a pull, a removal, a scrape, a timer ─► measure ─► Disk ─► pressure ─► Request::Disk ─► the loop plans by it
//!                                                     └─► goal ─► Request::References ─► collect ─► Storage::collect_image
//! ```
//!
//! To measure is a system call or two. Nothing is looked at while nothing happens, but once in five minutes; and every ten
//! seconds while new work is refused, since others may free room.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use stower_controllers::{Disk, DiskPressure, Goal, PoolRoom, PressureKind, Room};
use stower_storage::{Fill, Pressure, Storage};
use tokio::sync::Notify;

use crate::{
    config::{Config, Settings},
    effects::chain,
    events::EventType,
    metrics::DiskGauges,
    node::{Node, Request},
};

mod collect;
mod usage;
mod view;

pub use self::{
    collect::{PruneOptions, Pruned, PrunedItem},
    usage::{DiskUsage, Share, UsageItem},
    view::NodeView,
};

/// How often the disk is looked at when nothing happens; the kubelet's period for images.
const IDLE: Duration = Duration::from_secs(300);
/// The same while new work is refused; the kubelet's period for evictions.
const PRESSED: Duration = Duration::from_secs(10);
/// How long a measurement is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long after a collection that could do nothing the next one is, while the disk stays above its mark.
const FUTILE: Duration = Duration::from_secs(60);

/// How the disk was when it was measured last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Measured {
    /// What is free.
    pub(crate) disk: Disk,
    /// Whether new work is refused.
    pub(crate) pressure: DiskPressure,
    /// Why the storage driver refuses new work, in a word.
    refusal: Option<&'static str>,
    /// What is to become free.
    pub(crate) goal: Goal,
    /// Since when new work is refused, or is not.
    pub(crate) since: Timestamp,
}

impl Measured {
    /// Whether both refuse new work for the same reasons, or neither does. Numbers in messages change all the time.
    fn presses_as(&self, other: &Self) -> bool {
        (&self.pressure.kinds, self.refusal) == (&other.pressure.kinds, other.refusal)
    }
}

/// Looks after the disk of the data root. One for each agent.
#[derive(Debug)]
pub(crate) struct Keeper {
    storage: Storage,
    data: PathBuf,
    settings: Settings,
    metrics: DiskGauges,
    /// Whether the driver has a pool of its own; one that has none is not asked again.
    pooled: bool,
    now: ArcSwap<Measured>,
    /// Held by whoever measures. A disk or pool that does not answer holds up one thread, and nobody else.
    measuring: Mutex<()>,
    wake: Notify,
    /// Held while something is removed: a collection and a person's `prune` come one after the other.
    removing: tokio::sync::Mutex<()>,
}

impl Keeper {
    /// Measures for the first time.
    pub(crate) fn new(storage: Storage, data: PathBuf, settings: Settings, metrics: DiskGauges) -> Arc<Self> {
        let status = storage.snapshots().status();
        let none = Measured {
            disk: Disk::default(),
            pressure: DiskPressure::default(),
            refusal: None,
            goal: Goal::default(),
            since: Timestamp::now(),
        };
        let keeper = Self {
            pooled: status.is_ok_and(|status| status.pool.is_some()),
            storage,
            data,
            settings,
            metrics,
            now: ArcSwap::from_pointee(none),
            measuring: Mutex::default(),
            wake: Notify::new(),
            removing: tokio::sync::Mutex::new(()),
        };
        keeper.refresh();
        Arc::new(keeper)
    }

    /// How the disk was when it was measured last.
    pub(crate) fn last(&self) -> Arc<Measured> {
        self.now.load_full()
    }

    /// Measures, and sees to it that something is done where it must be. Costs a system call; with a pool, one of its driver.
    /// While somebody else measures, it is as it was.
    pub(crate) fn measure(&self) -> Arc<Measured> {
        let Ok(held) = self.measuring.try_lock() else { return self.last() };
        let (before, now) = self.look_again();
        drop(held);
        let is_news = !now.presses_as(&before) || (before.goal.is_reached() && !now.goal.is_reached());
        if is_news {
            self.wake.notify_one();
        }
        now
    }

    /// Measures after whoever does, and gives how it is.
    fn refresh(&self) -> Arc<Measured> {
        let _held = self.measuring.lock().unwrap_or_else(PoisonError::into_inner);
        self.look_again().1
    }

    /// Measures; gives how it was before, and how it is.
    fn look_again(&self) -> (Arc<Measured>, Arc<Measured>) {
        let before = self.last();
        let (disk, refusal) = match self.look() {
            Ok(seen) => seen,
            Err(error) => {
                // What cannot be told is no reason to refuse anything.
                tracing::error!(%error, path = %self.data.display(), "cannot tell how full the disk is");
                return (Arc::clone(&before), before);
            }
        };
        let policy = &self.settings.get().disk.policy;
        let pressure = disk.pressure(policy);
        let goal = disk.goal(policy);
        let turned = pressure.is_on() != before.pressure.is_on();
        let since = if turned { Timestamp::now() } else { before.since };
        self.show(&disk, &pressure);
        let now = Arc::new(Measured { disk, pressure, refusal, goal, since });
        self.now.store(Arc::clone(&now));
        (before, now)
    }

    fn look(&self) -> std::io::Result<(Disk, Option<&'static str>)> {
        let stat = rustix::fs::statvfs(&self.data)?;
        let room = |total: u64, free: u64, available: u64, unit: u64| Room {
            available: available.saturating_mul(unit),
            total: total.saturating_sub(free).saturating_add(available).saturating_mul(unit),
        };
        let mut disk = Disk {
            path: self.data.display().to_string(),
            bytes: room(stat.f_blocks, stat.f_bfree, stat.f_bavail, stat.f_frsize),
            // btrfs says 0: it makes inodes as it goes.
            inodes: (stat.f_files > 0).then(|| room(stat.f_files, stat.f_ffree, stat.f_favail, 1)),
            ..Disk::default()
        };
        let mut refusal = None;
        if self.pooled {
            match self.storage.snapshots().status() {
                Ok(status) => {
                    let room = |fill: Fill| Room {
                        available: fill.total.saturating_sub(fill.used),
                        total: fill.total,
                    };
                    let why = status.pool.as_ref().and_then(|pool| pool.pressure.as_ref());
                    refusal = why.map(Pressure::reason);
                    disk.refusal = why.map(ToString::to_string);
                    disk.pool = status.pool.map(|pool| PoolRoom {
                        name: pool.name,
                        data: room(pool.data),
                        metadata: room(pool.metadata),
                    });
                }
                Err(error) => {
                    refusal = Some("Failed");
                    disk.refusal = Some(chain(&error));
                }
            }
        }
        Ok((disk, refusal))
    }

    fn show(&self, disk: &Disk, pressure: &DiskPressure) {
        let set = |gauge: &prometheus::IntGauge, value: u64| {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        let inodes = disk.inodes.unwrap_or_default();
        set(&self.metrics.available, disk.bytes.available);
        set(&self.metrics.size, disk.bytes.total);
        set(&self.metrics.inodes, inodes.total);
        set(&self.metrics.inodes_free, inodes.available);
        for kind in PressureKind::ALL {
            let on = i64::from(pressure.kinds.contains(&kind));
            self.metrics.pressure.with_label_values(&[kind.as_str()]).set(on);
        }
    }

    /// [`Keeper::measure`] on a thread for it, with a bound on patience: then it is as it was.
    pub(crate) async fn measure_aside(self: &Arc<Self>) -> Arc<Measured> {
        let keeper = Arc::clone(self);
        let measured = tokio::task::spawn_blocking(move || keeper.measure());
        match tokio::time::timeout(PATIENCE, measured).await {
            Ok(Ok(measured)) => measured,
            Ok(Err(_)) => self.last(),
            Err(_) => {
                tracing::warn!(path = %self.data.display(), "the disk of the data root does not answer");
                self.last()
            }
        }
    }

    /// Looks after the disk until the process ends.
    pub(crate) async fn run(self: Arc<Self>, node: Arc<Node>) {
        let mut told: Option<Arc<Measured>> = None;
        let mut next = Instant::now();
        let mut known: Option<Arc<Config>> = None;
        loop {
            let config = self.settings.get();
            if known.replace(Arc::clone(&config)).is_none_or(|known| !Arc::ptr_eq(&known, &config)) {
                next = Instant::now();
            }
            let measured = self.measure_aside().await;
            let same = told.as_ref().map_or(!measured.pressure.is_on(), |told| told.presses_as(&measured));
            if !same {
                tell(&node, &measured.pressure);
                let _ = node.requests.send(Request::Disk(measured.pressure.clone())).await;
                told = Some(Arc::clone(&measured));
            }
            let wanted = config.disk.collect && !measured.goal.is_reached();
            if wanted && Instant::now() >= next {
                if self.collect(&node).await {
                    // The room that became free is told before anything else.
                    continue;
                }
                next = Instant::now() + FUTILE;
            }
            let sleep = match (measured.pressure.is_on(), wanted) {
                (true, _) => PRESSED,
                (false, true) => FUTILE,
                (false, false) => IDLE,
            };
            let _ = tokio::time::timeout(sleep, self.wake.notified()).await;
        }
    }

    /// Looks again: what is wanted of the disk may be something else by now.
    pub(crate) fn look_after(&self) {
        self.wake.notify_one();
    }
}

fn tell(node: &Node, now: &DiskPressure) {
    if now.is_on() {
        tracing::warn!(why = now.message, "the disk takes no new work");
        node.tell(EventType::Warning, "NodeHasDiskPressure", now.message.clone());
    } else {
        tracing::info!("the disk takes new work again");
        let message = "there is room for pulls and starts again".to_owned();
        node.tell(EventType::Normal, "NodeHasNoDiskPressure", message);
    }
}

#[cfg(test)]
mod tests;
