//! The metrics, in Prometheus' text format. Names and units follow its conventions; objects' names are labels of the
//! gauges of volumes and the counters of probes alone, as in the kubelet's `kubelet_volume_stats_*` and `prober_probe_total`.

use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

use std::time::Duration;

use stower_crds::{ObjectKey, ProbeType};
use stower_storage::{DriverStatus, PoolStatus, Pressure};

use crate::{kube::KubeMetrics, volumedata::UsageView};

/// The gauges of volumes, by namespace, name and kind.
#[derive(Debug, Clone)]
pub(crate) struct VolumeGauges {
    used: IntGaugeVec,
    capacity: IntGaugeVec,
    available: IntGaugeVec,
    inodes: IntGaugeVec,
}

impl VolumeGauges {
    /// Sets those of one volume; what is not known has no gauge.
    pub(crate) fn set(&self, labels: &[&str; 3], usage: &UsageView) {
        let set = |gauge: &IntGaugeVec, value: Option<u64>| match value {
            Some(value) => {
                gauge.with_label_values(labels).set(i64::try_from(value).unwrap_or(i64::MAX));
            }
            // One that was not there is as good as removed.
            None => drop(gauge.remove_label_values(labels)),
        };
        set(&self.used, Some(usage.bytes));
        set(&self.inodes, Some(usage.inodes));
        set(&self.capacity, usage.capacity);
        set(&self.available, usage.available);
    }

    /// Takes away those of one volume.
    pub(crate) fn remove(&self, labels: &[&str; 3]) {
        for gauge in [&self.used, &self.inodes, &self.capacity, &self.available] {
            // One that was not there is as good as removed.
            let _ = gauge.remove_label_values(labels);
        }
    }
}

/// What probes came to, by container, and how long they took.
#[derive(Debug, Clone)]
pub(crate) struct ProbeMetrics {
    total: IntCounterVec,
    seconds: HistogramVec,
}

impl ProbeMetrics {
    const RESULTS: [&str; 3] = ["successful", "failed", "unknown"];

    /// Counts one that came to `result`, one of kubelet's words.
    pub(crate) fn count(&self, type_: ProbeType, result: &str, of: &ObjectKey, took: Duration) {
        let labels = [type_.as_str(), result, of.namespace.as_str(), of.name.as_str()];
        self.total.with_label_values(&labels).inc();
        self.seconds.with_label_values(&[type_.as_str()]).observe(took.as_secs_f64());
    }

    /// Takes away those of one container.
    pub(crate) fn forget(&self, of: &ObjectKey) {
        for type_ in ProbeType::ALL {
            for result in Self::RESULTS {
                let labels = [type_.as_str(), result, of.namespace.as_str(), of.name.as_str()];
                // One that was not there is as good as removed.
                let _ = self.total.remove_label_values(&labels);
            }
        }
    }
}

/// The gauges of the storage driver.
#[derive(Debug, Clone)]
pub(crate) struct StorageGauges {
    data_used: IntGaugeVec,
    data_size: IntGaugeVec,
    metadata_used: IntGaugeVec,
    metadata_size: IntGaugeVec,
    pressure: IntGaugeVec,
}

impl StorageGauges {
    /// Sets those of the pool, where there is one, and whether anything presses.
    pub(crate) fn set(&self, status: &DriverStatus) {
        let fill = |gauge: &IntGaugeVec, bytes: fn(&PoolStatus) -> u64| match &status.pool {
            Some(pool) => {
                gauge.with_label_values(&[&pool.name]).set(i64::try_from(bytes(pool)).unwrap_or(i64::MAX));
            }
            None => gauge.reset(),
        };
        fill(&self.data_used, |pool| pool.data.used);
        fill(&self.data_size, |pool| pool.data.total);
        fill(&self.metadata_used, |pool| pool.metadata.used);
        fill(&self.metadata_size, |pool| pool.metadata.total);
        let pressing = status.pool.as_ref().and_then(|pool| pool.pressure.as_ref()).map(Pressure::reason);
        for reason in Pressure::REASONS {
            self.pressure.with_label_values(&[reason]).set(i64::from(pressing == Some(reason)));
        }
    }

    /// Takes all of them away.
    pub(crate) fn clear(&self) {
        for gauge in
            [&self.data_used, &self.data_size, &self.metadata_used, &self.metadata_size, &self.pressure]
        {
            gauge.reset();
        }
    }
}

/// What is known of the disk, and what was done about it.
#[derive(Debug, Clone)]
pub(crate) struct DiskGauges {
    /// Bytes that can still be written.
    pub available: IntGauge,
    /// Bytes that are taken or can be.
    pub size: IntGauge,
    /// Inodes that are taken or can be; none where the filesystem makes them as it goes.
    pub inodes: IntGauge,
    /// Inodes that can still be made.
    pub inodes_free: IntGauge,
    /// Whether new work is refused, by reason.
    pub pressure: IntGaugeVec,
    /// Collections of images.
    pub gc_runs: IntCounter,
    /// Collections that could not free what they were to.
    pub gc_failures: IntCounter,
    /// Images that were removed.
    pub gc_images: IntCounter,
    /// Bytes that became free.
    pub gc_bytes: IntCounter,
}

/// All metrics of one agent.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    registry: Registry,
    /// Turns of the reconcile loop.
    pub reconciles: IntCounter,
    /// Time of one turn, in seconds.
    pub reconcile_seconds: Histogram,
    /// Effects begun, by action.
    pub effects: IntCounterVec,
    /// Effects that failed, by action.
    pub effect_failures: IntCounterVec,
    /// Time of an effect, in seconds, by action.
    pub effect_seconds: HistogramVec,
    /// Effects running now.
    pub effects_in_flight: IntGauge,
    /// Time from an accepted change to a started process, in seconds.
    pub start_seconds: Histogram,
    /// Containers by phase.
    pub containers: IntGaugeVec,
    /// Restarts by rule since the agent began.
    pub restarts: IntCounter,
    /// Runs that ended, by reason.
    pub exits: IntCounterVec,
    /// Files in the manifests directory, by result.
    pub source_files: IntGaugeVec,
    /// Whether the manifests directory can be read and believed (1) or not (0).
    pub source_readable: IntGauge,
    /// Full rescans of the manifests directory.
    pub source_rescans: IntCounter,
    /// What probes came to.
    pub probes: ProbeMetrics,
    /// Images pulled, by result.
    pub pulls: IntCounterVec,
    /// When the agent began, in seconds since the epoch.
    pub start_time: Gauge,
    /// What volumes take.
    pub volumes: VolumeGauges,
    /// How much of the disk is free.
    pub disk: DiskGauges,
    /// Whether the last reload of the configuration succeeded (1) or changed nothing (0).
    pub config_successful: IntGauge,
    /// When a reload succeeded last, in seconds since the epoch.
    pub config_success_time: Gauge,
    /// How the storage driver is.
    pub storage: StorageGauges,
    /// The connection to the API server.
    pub kube: KubeMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Fresh metrics in a registry of their own.
    ///
    /// # Panics
    /// When two metrics have one name, which any test would see.
    #[must_use]
    pub(crate) fn new() -> Self {
        let registry = Registry::new();
        macro_rules! add {
            ($metric:expr) => {{
                let metric = $metric.expect("metric names and labels are well formed");
                registry.register(Box::new(metric.clone())).expect("metric names are unique");
                metric
            }};
        }
        let times = |name: &str, help: &str| {
            HistogramOpts::new(name, help)
                .buckets(vec![0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0])
        };
        let action = &["action"];
        let volume = &["namespace", "volume", "kind"];
        let pool = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &["pool"]);
        Self {
            reconciles: add!(IntCounter::new("stower_reconcile_total", "Turns of the reconcile loop.")),
            reconcile_seconds: add!(Histogram::with_opts(times(
                "stower_reconcile_duration_seconds",
                "Time of one turn of the reconcile loop."
            ))),
            effects: add!(IntCounterVec::new(
                Opts::new(
                    "stower_effects_total",
                    "Effects begun, by action. A machine in the declared state adds none."
                ),
                action
            )),
            effect_failures: add!(IntCounterVec::new(
                Opts::new("stower_effect_failures_total", "Effects that failed, by action."),
                action
            )),
            effect_seconds: add!(HistogramVec::new(
                times("stower_effect_duration_seconds", "Time of an effect, by action."),
                action
            )),
            effects_in_flight: add!(IntGauge::new("stower_effects_in_flight", "Effects running now.")),
            start_seconds: add!(Histogram::with_opts(times(
                "stower_container_start_duration_seconds",
                "Time from the decision to start a container to its first instruction."
            ))),
            containers: add!(IntGaugeVec::new(
                Opts::new("stower_containers", "Declared containers, by phase."),
                &["phase"]
            )),
            restarts: add!(IntCounter::new("stower_container_restarts_total", "Restarts by rule.")),
            exits: add!(IntCounterVec::new(
                Opts::new("stower_container_exits_total", "Runs of containers that ended, by reason."),
                &["reason"]
            )),
            source_files: add!(IntGaugeVec::new(
                Opts::new("stower_source_files", "Files in the manifests directory, by result."),
                &["result"]
            )),
            source_readable: add!(IntGauge::new(
                "stower_source_readable",
                "Whether the manifests directory can be read and believed."
            )),
            source_rescans: add!(IntCounter::new(
                "stower_source_rescans_total",
                "Full rescans of the manifests directory."
            )),
            probes: ProbeMetrics {
                total: add!(IntCounterVec::new(
                    Opts::new("stower_prober_probe_total", "Probes asked, by container and result."),
                    &["probe_type", "result", "namespace", "container"]
                )),
                seconds: add!(HistogramVec::new(
                    times("stower_prober_probe_duration_seconds", "Time of a probe, by its type."),
                    &["probe_type"]
                )),
            },
            pulls: add!(IntCounterVec::new(
                Opts::new("stower_image_pulls_total", "Images pulled, by result."),
                &["result"]
            )),
            start_time: add!(Gauge::new(
                "stower_start_time_seconds",
                "When the agent began, since the epoch."
            )),
            config_successful: add!(IntGauge::new(
                "stower_config_last_reload_successful",
                "Whether the last reload of the configuration succeeded (1), or changed nothing for what is wrong with it (0)."
            )),
            config_success_time: add!(Gauge::new(
                "stower_config_last_reload_success_timestamp_seconds",
                "When the configuration was last taken, since the epoch."
            )),
            disk: DiskGauges {
                available: add!(IntGauge::new(
                    "stower_filesystem_available_bytes",
                    "Bytes that can still be written to the filesystem of the data root."
                )),
                size: add!(IntGauge::new(
                    "stower_filesystem_size_bytes",
                    "Bytes in use and available there; what is kept for root alone is left out."
                )),
                inodes: add!(IntGauge::new(
                    "stower_filesystem_inodes",
                    "Inodes in use and available there; 0 where their number is not fixed."
                )),
                inodes_free: add!(IntGauge::new(
                    "stower_filesystem_inodes_free",
                    "Inodes that can still be made there."
                )),
                pressure: add!(IntGaugeVec::new(
                    Opts::new(
                        "stower_disk_pressure",
                        "Whether pulls and new starts are refused (1) or not (0), by reason."
                    ),
                    &["reason"]
                )),
                gc_runs: add!(IntCounter::new(
                    "stower_image_gc_runs_total",
                    "Collections of images, because the disk was above its mark."
                )),
                gc_failures: add!(IntCounter::new(
                    "stower_image_gc_failures_total",
                    "Collections that could not free what they were to."
                )),
                gc_images: add!(IntCounter::new(
                    "stower_image_gc_removed_images_total",
                    "Images that collections removed."
                )),
                gc_bytes: add!(IntCounter::new(
                    "stower_image_gc_freed_bytes_total",
                    "Bytes of content and layers that collections removed."
                )),
            },
            volumes: VolumeGauges {
                used: add!(IntGaugeVec::new(
                    Opts::new("stower_volume_stats_used_bytes", "Bytes in use in the volume."),
                    volume
                )),
                capacity: add!(IntGaugeVec::new(
                    Opts::new(
                        "stower_volume_stats_capacity_bytes",
                        "Bytes that the volume may hold, where it has a limit of its own."
                    ),
                    volume
                )),
                available: add!(IntGaugeVec::new(
                    Opts::new(
                        "stower_volume_stats_available_bytes",
                        "Bytes that can still be written to the volume."
                    ),
                    volume
                )),
                inodes: add!(IntGaugeVec::new(
                    Opts::new("stower_volume_stats_inodes_used", "Files and directories in the volume."),
                    volume
                )),
            },
            storage: StorageGauges {
                data_used: add!(pool(
                    "stower_storage_pool_data_used_bytes",
                    "Bytes of data in use in the storage driver's pool."
                )),
                data_size: add!(pool(
                    "stower_storage_pool_data_size_bytes",
                    "Bytes that the storage driver's pool has for data."
                )),
                metadata_used: add!(pool(
                    "stower_storage_pool_metadata_used_bytes",
                    "Bytes of metadata in use in the storage driver's pool."
                )),
                metadata_size: add!(pool(
                    "stower_storage_pool_metadata_size_bytes",
                    "Bytes that the storage driver's pool has for metadata."
                )),
                pressure: add!(IntGaugeVec::new(
                    Opts::new(
                        "stower_storage_pressure",
                        "Whether the storage driver refuses new work (1) or not (0), by reason."
                    ),
                    &["reason"]
                )),
            },
            kube: KubeMetrics {
                requests: add!(IntCounterVec::new(
                    Opts::new(
                        "stower_kube_requests_total",
                        "Requests to the API server, by verb and code of the answer."
                    ),
                    &["verb", "code"]
                )),
                watch_restarts: add!(IntCounterVec::new(
                    Opts::new(
                        "stower_kube_watch_restarts_total",
                        "Watches of objects of this node that were begun again."
                    ),
                    &["resource"]
                )),
                lists: add!(IntCounterVec::new(
                    Opts::new("stower_kube_lists_total", "Lists of all objects of this node."),
                    &["resource"]
                )),
                last_contact: add!(Gauge::new(
                    "stower_kube_last_contact_timestamp_seconds",
                    "When the API server answered last, since the epoch."
                )),
                connected: add!(IntGauge::new(
                    "stower_kube_connected",
                    "Whether the last request to the API server was answered (1), or not as it should be (0)."
                )),
                refused: add!(IntGaugeVec::new(
                    Opts::new(
                        "stower_kube_refused_objects",
                        "Objects that the API server accepted and this agent does not take, by reason."
                    ),
                    &["reason"]
                )),
                status_writes: add!(IntCounterVec::new(
                    Opts::new(
                        "stower_kube_status_writes_total",
                        "Writes of status and finalizer to the API server, by result."
                    ),
                    &["result"]
                )),
                events: add!(IntCounterVec::new(
                    Opts::new(
                        "stower_kube_events_total",
                        "Events for the API server, by what became of them: sent, limited, dropped or refused."
                    ),
                    &["result"]
                )),
                lease_requests: add!(IntCounterVec::new(
                    Opts::new(
                        "stower_kube_lease_requests_total",
                        "Requests about the Lease of this node, by verb and result."
                    ),
                    &["verb", "result"]
                )),
                lease_held: add!(IntGauge::new(
                    "stower_kube_lease_held",
                    "Whether this agent holds the Lease of its node (1) or not (0)."
                )),
            },
            registry,
        }
    }

    /// All of them as text.
    #[must_use]
    pub(crate) fn text(&self) -> String {
        let mut out = Vec::with_capacity(8 << 10);
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut out) {
            tracing::error!(%error, "cannot encode the metrics");
        }
        String::from_utf8(out).unwrap_or_default()
    }
}
