//! The configuration: one immutable snapshot of what people wrote, with what follows from it.
//!
//! ```text
//! flags ──────┐
//! environment ┼─► Sources ─► Merged: each field once, with its origin ─► Config ─► Settings ─► an operation takes it once
//! file ───────┘
//! ```
//!
//! A flag wins over the environment, that over the file, and that over the default. [`fields`] is the one list of fields. All that
//! is wrong is told at once, by file, line and column, variable or flag.

use std::{collections::BTreeMap, io, net::SocketAddr, path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use stower_storage::{CapacityKind, UnpackLimits};

use crate::paths::Paths;

mod changes;
mod disk;
mod fields;
mod kube;
mod layers;
mod runtimes;
#[cfg(test)]
mod tests;
mod whole;

use self::layers::Merged;
pub use self::{
    changes::Change,
    disk::DiskConfig,
    fields::Reload,
    kube::{KubeConfig, SecretCache},
    layers::{Origin, Sources},
    runtimes::{BUILT_IN, RuntimeConfig},
    whole::ContainersLimits,
};

/// Where the file lies unless named.
pub const DEFAULT_FILE: &str = "/etc/stower/config.yaml";

/// What the agent runs with.
#[derive(Debug, Clone)]
pub struct Config {
    /// What stays as it is as long as the agent runs.
    pub fixed: Arc<Fixed>,
    /// What keeps new volumes of the driver `local` within their capacity; those that are there keep what they have.
    pub volume_capacity: CapacityKind,
    /// Registries (`HOST:PORT`) that are spoken to by plain HTTP.
    pub insecure_registries: Vec<String>,
    /// How much one layer of an image may ask for when it is unpacked.
    pub unpack_limits: UnpackLimits,
    /// How many containers may be starting at once.
    pub start_concurrency: usize,
    /// Whether an empty manifests directory is proof that nothing is declared.
    pub allow_empty: bool,
    /// What is done about a disk that fills.
    pub disk: DiskConfig,
    /// What is kept of what containers write.
    pub logging: Logging,
    /// Other OCI runtimes, by name.
    pub runtimes: BTreeMap<String, RuntimeConfig>,
    /// What the agent itself logs, as in `info,stower=debug`.
    pub log_level: String,
    origins: BTreeMap<&'static str, Origin>,
}

/// What stays as it is as long as the agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    /// The directories.
    pub paths: Paths,
    /// This machine's name, for `spec.nodeName`.
    pub node_name: String,
    /// The snapshot driver to use; otherwise the one in use, or the first that works.
    pub storage_driver: Option<String>,
    /// The driver's options.
    pub storage_opts: Vec<(String, String)>,
    /// The cgroup below which the agent keeps its own; the top by default.
    pub cgroup_parent: Option<String>,
    /// What all containers together may use.
    pub containers_limits: ContainersLimits,
    /// The cluster whose API server objects are taken from, where that is asked for.
    pub kube: KubeConfig,
    /// Where metrics are served over TCP; nowhere by default.
    pub metrics_bind_address: Option<SocketAddr>,
}

/// What is kept of what a container writes. It counts for runs that begin after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Logging {
    /// The size at which a log file is full, in bytes.
    pub max_size: u64,
    /// How many log files of a run are kept.
    pub max_files: u32,
    /// Whether a container waits for its log, however long that cannot be written; else lines are dropped and counted.
    pub block: bool,
}

/// What flags say; a field that is `None` or empty was not given.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--manifests`.
    pub manifests: Option<PathBuf>,
    /// `--data-root`.
    pub data_root: Option<PathBuf>,
    /// `--run-root`.
    pub run_root: Option<PathBuf>,
    /// `--socket`.
    pub socket: Option<PathBuf>,
    /// `--node-name`.
    pub node_name: Option<String>,
    /// `--storage-driver`.
    pub storage_driver: Option<String>,
    /// `--storage-opt`, each `K=V`.
    pub storage_opts: Vec<String>,
    /// `--metrics-bind-address`.
    pub metrics_bind_address: Option<String>,
    /// `--volume-capacity`.
    pub volume_capacity: Option<String>,
    /// `--insecure-registry`.
    pub insecure_registries: Vec<String>,
    /// `--allow-empty`.
    pub allow_empty: bool,
    /// `--kube`.
    pub kube: bool,
    /// `--kubeconfig`.
    pub kubeconfig: Option<PathBuf>,
    /// `--kube-context`.
    pub kube_context: Option<String>,
}

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `FILE:LINE:COLUMN`, a variable or a flag.
    pub place: Option<String>,
    /// The field.
    pub field: Option<String>,
    /// What is wrong with it.
    pub message: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for part in [&self.place, &self.field].into_iter().flatten() {
            write!(f, "{part}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        #[source]
        /// What the kernel said.
        source: io::Error,
    },
    /// The file is longer than a configuration may be.
    #[error("the configuration {path} is longer than {most} bytes")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The most, in bytes.
        most: u64,
    },
    /// All that is wrong with it.
    #[error("{}", problems(.0))]
    Invalid(Vec<Problem>),
}

fn problems(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl Config {
    /// From what was given to what the agent runs with; notes what is wrong.
    fn derive(merged: &mut Merged) -> Self {
        let fixed = Arc::new(Fixed::derive(merged));
        let volume_capacity = match merged.text("volumeCapacity") {
            None | Some("image") => CapacityKind::Image,
            Some("project-quota") => CapacityKind::ProjectQuota,
            Some(other) => {
                let message = format!("{other:?} is neither image nor project-quota");
                merged.wrong("volumeCapacity", message);
                CapacityKind::Image
            }
        };
        let start_concurrency = merged.number("startConcurrency", 8);
        if start_concurrency == 0 {
            merged.wrong("startConcurrency", "must be at least 1");
        }
        let insecure_registries = merged.list("insecureRegistries");
        for wrong in insecure_registries.iter().filter(|name| !stower_storage::valid_registry(name)) {
            merged.wrong("insecureRegistries", format!("{wrong:?} is not HOST or HOST:PORT"));
        }
        let log_level = merged.text("logLevel").unwrap_or("info").to_owned();
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&log_level) {
            merged.wrong("logLevel", format!("{log_level:?}: {error}; such as info, or info,stower=debug"));
        }
        Self {
            fixed,
            volume_capacity,
            insecure_registries,
            unpack_limits: unpack_limits(merged),
            start_concurrency,
            allow_empty: merged.bool("allowEmpty", false),
            disk: DiskConfig::derive(merged),
            logging: Logging::derive(merged),
            runtimes: runtimes::derive(merged),
            log_level,
            origins: BTreeMap::new(),
        }
    }
}

impl Fixed {
    fn derive(merged: &mut Merged) -> Self {
        let run = merged.path("runRoot", "/run/stower");
        let paths = Paths {
            manifests: merged.path("manifests", "/etc/stower/manifests"),
            data: merged.path("dataRoot", "/var/lib/stower"),
            socket: merged.path("socket", run.join("stower.sock")),
            run,
        };
        let mut storage_opts = Vec::new();
        for opt in merged.list("storageOpts") {
            match opt.split_once('=') {
                Some((key, value)) if !key.is_empty() => {
                    storage_opts.push((key.to_owned(), value.to_owned()));
                }
                _ => merged.wrong("storageOpts", format!("{opt:?} is not KEY=VALUE")),
            }
        }
        let kube = KubeConfig::derive(merged);
        let containers_limits = ContainersLimits::derive(merged);
        let metrics_bind_address = merged.text("metricsBindAddress").map(str::to_owned).and_then(|text| {
            let address = address(&text);
            if address.is_none() {
                merged.wrong(
                    "metricsBindAddress",
                    format!("{text:?} is not ADDRESS:PORT, such as 127.0.0.1:9464"),
                );
            }
            address
        });
        let text = |path| merged.text(path).map(str::to_owned);
        Self {
            node_name: text("nodeName").unwrap_or_else(hostname),
            storage_driver: text("storageDriver"),
            cgroup_parent: text("cgroupParent"),
            containers_limits,
            metrics_bind_address,
            storage_opts,
            paths,
            kube,
        }
    }
}

impl Logging {
    fn derive(merged: &mut Merged) -> Self {
        let max_size = size(merged, "logging.maxSize", 10 << 20, 4096, "4Ki, such as 10Mi");
        let max_files = merged.number("logging.maxFiles", 5);
        if max_files < 2 {
            merged.wrong("logging.maxFiles", "must be at least 2");
        }
        let block = match merged.text("logging.mode") {
            None | Some("drop") => false,
            Some("block") => true,
            Some(other) => {
                let message = format!("{other:?} is neither drop nor block");
                merged.wrong("logging.mode", message);
                false
            }
        };
        Self { max_size, max_files, block }
    }
}

fn unpack_limits(merged: &mut Merged) -> UnpackLimits {
    let usual = UnpackLimits::default();
    let max_bytes = size(merged, "images.unpack.maxSize", usual.max_bytes, 1 << 20, "1Mi, such as 64Gi");
    let max_ratio = merged.number("images.unpack.maxRatio", usual.max_ratio);
    // What is compressed at all can be twice as large.
    if max_ratio < 2 {
        merged.wrong("images.unpack.maxRatio", "must be at least 2");
    }
    let max_entries = merged.number("images.unpack.maxEntries", usual.max_entries);
    if max_entries == 0 {
        merged.wrong("images.unpack.maxEntries", "must be at least 1");
    }
    UnpackLimits { max_bytes, max_ratio, max_entries, ..usual }
}

fn size(merged: &mut Merged, path: &str, default: u64, least: u64, such: &str) -> u64 {
    let Some(text) = merged.text(path).map(str::to_owned) else { return default };
    match bytes(&text).filter(|size| *size >= least) {
        Some(size) => size,
        None => {
            merged.wrong(path, format!("{text:?} is not a size of at least {such}"));
            default
        }
    }
}

/// An address with a port. One of version 6 may be without its brackets, as Kubernetes gives a node's.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.rsplit_once(':')?;
    let address = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    Some(SocketAddr::new(address.parse().ok()?, port.parse().ok().filter(|port| *port > 0)?))
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().to_lowercase()
}

/// A size with the binary suffixes of Kubernetes (`Ki`, `Mi`, `Gi`, `Ti`) or none.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "Ki" => 10,
        "Mi" => 20,
        "Gi" => 30,
        "Ti" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// The configuration that counts now. An operation takes it once, and goes by that to its end.
#[derive(Debug, Clone)]
pub(crate) struct Settings(Arc<ArcSwap<Config>>);

impl Settings {
    /// Those that the agent begins with.
    pub(crate) fn new(config: Config) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(config)))
    }

    /// As they are now.
    pub(crate) fn get(&self) -> Arc<Config> {
        self.0.load_full()
    }

    /// Replaces them, for whoever takes them from now on.
    pub(crate) fn replace(&self, config: Config) {
        self.0.store(Arc::new(config));
    }
}
