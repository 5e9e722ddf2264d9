//! The configuration: one immutable value, made once from file and flags together. A flag wins over the file.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use stower_storage::{CapacityKind, UnpackLimits};

use crate::paths::Paths;

mod disk;

pub use self::disk::DiskConfig;

/// The longest configuration file, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Where the file lies unless named.
pub const DEFAULT_FILE: &str = "/etc/stower/config.yaml";

/// What the agent runs with.
#[derive(Debug, Clone)]
pub struct Config {
    /// The directories.
    pub paths: Paths,
    /// This machine's name, for `spec.nodeName`.
    pub node_name: String,
    /// The snapshot driver to use; otherwise the one in use, or the first that works.
    pub storage_driver: Option<String>,
    /// The driver's options.
    pub storage_opts: Vec<(String, String)>,
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
    /// The cgroup below which the agent keeps its own; the top by default.
    pub cgroup_parent: Option<String>,
    /// What is done about a disk that fills.
    pub disk: DiskConfig,
    /// The size at which a log file is full, in bytes.
    pub log_max_size: u64,
    /// How many log files of a run are kept.
    pub log_max_files: u32,
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
    /// `--volume-capacity`.
    pub volume_capacity: Option<String>,
    /// `--insecure-registry`.
    pub insecure_registries: Vec<String>,
    /// `--allow-empty`.
    pub allow_empty: bool,
}

/// The file, strictly.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct FileConfig {
    manifests: Option<PathBuf>,
    data_root: Option<PathBuf>,
    run_root: Option<PathBuf>,
    socket: Option<PathBuf>,
    node_name: Option<String>,
    storage_driver: Option<String>,
    storage_opts: Vec<String>,
    volume_capacity: Option<String>,
    insecure_registries: Vec<String>,
    start_concurrency: Option<usize>,
    allow_empty: Option<bool>,
    cgroup_parent: Option<String>,
    images: Images,
    storage: disk::Storage,
    logging: Logging,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Images {
    gc: disk::ImagesGc,
    unpack: Unpack,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Unpack {
    max_size: Option<String>,
    max_ratio: Option<u64>,
    max_entries: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Logging {
    max_size: Option<String>,
    max_files: Option<u32>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file that was named cannot be read.
    #[error("cannot read the configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        #[source]
        /// What the kernel said.
        source: io::Error,
    },
    /// The file is longer than a configuration may be.
    #[error("the configuration {path} is longer than {MAX_FILE} bytes")]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// The file is not what a configuration looks like.
    #[error("the configuration {path} is not valid: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        message: String,
    },
    /// A value is not one that its field takes.
    #[error("{field}: {message}")]
    Value {
        /// The field or flag.
        field: &'static str,
        /// What is wrong with it.
        message: String,
    },
}

impl Config {
    /// Reads the file, if there is one, and puts the flags over it.
    ///
    /// # Errors
    /// When a named file is missing, or anything in it or in the flags is not valid.
    pub fn load(flags: Flags) -> Result<Self, ConfigError> {
        let file = match &flags.config {
            Some(path) => read(path)?.ok_or_else(|| ConfigError::Read {
                path: path.clone(),
                source: io::Error::from(io::ErrorKind::NotFound),
            })?,
            None => read(Path::new(DEFAULT_FILE))?.unwrap_or_default(),
        };
        let value = |field, message: String| ConfigError::Value { field, message };
        let run = flags.run_root.or(file.run_root).unwrap_or_else(|| "/run/stower".into());
        let paths = Paths {
            manifests: flags.manifests.or(file.manifests).unwrap_or_else(|| "/etc/stower/manifests".into()),
            data: flags.data_root.or(file.data_root).unwrap_or_else(|| "/var/lib/stower".into()),
            socket: flags.socket.or(file.socket).unwrap_or_else(|| run.join("stower.sock")),
            run,
        };
        let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        let paths = Paths {
            manifests: absolute(paths.manifests),
            data: absolute(paths.data),
            run: absolute(paths.run),
            socket: absolute(paths.socket),
        };
        let opts = if flags.storage_opts.is_empty() { file.storage_opts } else { flags.storage_opts };
        let storage_opts = opts
            .into_iter()
            .map(|opt| match opt.split_once('=') {
                Some((key, val)) if !key.is_empty() => Ok((key.to_owned(), val.to_owned())),
                _ => Err(value("storage-opt", format!("{opt:?} is not KEY=VALUE"))),
            })
            .collect::<Result<_, _>>()?;
        let volume_capacity = match flags.volume_capacity.or(file.volume_capacity).as_deref() {
            None | Some("image") => CapacityKind::Image,
            Some("project-quota") => CapacityKind::ProjectQuota,
            Some(other) => {
                return Err(value("volumeCapacity", format!("{other:?} is neither image nor project-quota")));
            }
        };
        let start_concurrency = file.start_concurrency.unwrap_or(8);
        if start_concurrency == 0 {
            return Err(value("startConcurrency", "must be at least 1".into()));
        }
        let log_max_size = match file.logging.max_size {
            None => 10 << 20,
            Some(text) => bytes(&text).filter(|size| *size >= 4096).ok_or_else(|| {
                value("logging.maxSize", format!("{text:?} is not a size of at least 4Ki, such as 10Mi"))
            })?,
        };
        let log_max_files = file.logging.max_files.unwrap_or(5);
        if log_max_files < 2 {
            return Err(value("logging.maxFiles", "must be at least 2".into()));
        }
        let unpack_limits = unpack_limits(&file.images.unpack)?;
        let disk = DiskConfig::new(file.images.gc, file.storage)?;
        let mut insecure_registries = file.insecure_registries;
        insecure_registries.extend(flags.insecure_registries);
        Ok(Self {
            paths,
            node_name: match flags.node_name.or(file.node_name) {
                Some(name) => name,
                None => hostname(),
            },
            storage_driver: flags.storage_driver.or(file.storage_driver),
            storage_opts,
            volume_capacity,
            insecure_registries,
            unpack_limits,
            start_concurrency,
            allow_empty: flags.allow_empty || file.allow_empty.unwrap_or(false),
            cgroup_parent: file.cgroup_parent,
            disk,
            log_max_size,
            log_max_files,
        })
    }
}

/// The defaults, with what the file says.
fn unpack_limits(file: &Unpack) -> Result<UnpackLimits, ConfigError> {
    let value = |field, message| Err(ConfigError::Value { field, message });
    let mut limits = UnpackLimits::default();
    if let Some(text) = &file.max_size {
        match bytes(text).filter(|size| *size >= 1 << 20) {
            Some(size) => limits.max_bytes = size,
            None => {
                let message = format!("{text:?} is not a size of at least 1Mi, such as 64Gi");
                return value("images.unpack.maxSize", message);
            }
        }
    }
    match file.max_ratio {
        None => {}
        // What is compressed at all can be twice as large.
        Some(0 | 1) => return value("images.unpack.maxRatio", "must be at least 2".into()),
        Some(ratio) => limits.max_ratio = ratio,
    }
    match file.max_entries {
        None => {}
        Some(0) => return value("images.unpack.maxEntries", "must be at least 1".into()),
        Some(entries) => limits.max_entries = entries,
    }
    Ok(limits)
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

fn read(path: &Path) -> Result<Option<FileConfig>, ConfigError> {
    let read_err = |source| ConfigError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(read_err(error)),
    };
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(read_err)?;
    if text.len() as u64 > MAX_FILE {
        return Err(ConfigError::TooLong { path: path.to_owned() });
    }
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Some(FileConfig::default()));
    }
    match serde_yaml::from_str(&text) {
        Ok(config) => Ok(Some(config)),
        Err(error) => Err(ConfigError::Parse { path: path.to_owned(), message: error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_file(text: &str, flags: Flags) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        std::fs::write(&path, text).unwrap();
        Config::load(Flags { config: Some(path), ..flags })
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let flags = Flags { data_root: Some("/flag".into()), ..Flags::default() };
        let config =
            with_file("dataRoot: /file\nrunRoot: /run/file\nlogging: {maxSize: 1Mi}\n", flags).unwrap();
        assert_eq!(config.paths.data, Path::new("/flag"));
        assert_eq!(config.paths.socket, Path::new("/run/file/stower.sock"));
        assert_eq!((config.log_max_size, config.log_max_files), (1 << 20, 5));
    }

    #[test]
    fn what_keeps_capacities_is_one_of_two() {
        let kind = |text| with_file(text, Flags::default()).map(|config| config.volume_capacity);
        assert_eq!(kind("").unwrap(), CapacityKind::Image);
        assert_eq!(kind("volumeCapacity: project-quota\n").unwrap(), CapacityKind::ProjectQuota);
        let error = kind("volumeCapacity: quota\n").unwrap_err().to_string();
        assert_eq!(error, "volumeCapacity: \"quota\" is neither image nor project-quota");
    }

    #[test]
    fn what_a_layer_may_ask_for_is_set_by_the_file() {
        let limits = |text| with_file(text, Flags::default()).map(|config| config.unpack_limits);
        let default = UnpackLimits::default();
        assert_eq!(limits("").unwrap(), default);
        assert_eq!(limits("images: {unpack: {maxSize: 1Ti}}").unwrap().max_bytes, 1 << 40);
        let set = limits("images:\n  unpack: {maxSize: 2Gi, maxRatio: 20, maxEntries: 1000}\n").unwrap();
        let expected = UnpackLimits { max_bytes: 2 << 30, max_ratio: 20, max_entries: 1000, ..default };
        assert_eq!(set, expected);
    }

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        let error = with_file("dataroot: /x\n", Flags::default()).unwrap_err().to_string();
        assert!(error.contains("dataroot"), "{error}");
        for text in
            ["images: {unpak: {}}", "images: {unpack: {maxFiles: 3}}", "images: {unpack: {maxRatio: -1}}"]
        {
            assert!(with_file(text, Flags::default()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_missing_file_that_was_named_is_an_error() {
        let flags = Flags { config: Some("/nonexistent/config.yaml".into()), ..Flags::default() };
        assert!(matches!(Config::load(flags), Err(ConfigError::Read { .. })));
    }

    #[test]
    fn values_out_of_range_are_refused_with_their_field() {
        for (text, want) in [
            ("startConcurrency: 0", "startConcurrency: must be at least 1"),
            ("logging: {maxFiles: 1}", "logging.maxFiles: must be at least 2"),
            (
                "logging: {maxSize: 10MB}",
                "logging.maxSize: \"10MB\" is not a size of at least 4Ki, such as 10Mi",
            ),
            ("storageOpts: [size]", "storage-opt: \"size\" is not KEY=VALUE"),
            (
                "images: {unpack: {maxSize: 10GB}}",
                "images.unpack.maxSize: \"10GB\" is not a size of at least 1Mi, such as 64Gi",
            ),
            (
                "images: {unpack: {maxSize: 1Ki}}",
                "images.unpack.maxSize: \"1Ki\" is not a size of at least 1Mi, such as 64Gi",
            ),
            ("images: {unpack: {maxRatio: 1}}", "images.unpack.maxRatio: must be at least 2"),
            ("images: {unpack: {maxEntries: 0}}", "images.unpack.maxEntries: must be at least 1"),
        ] {
            assert_eq!(with_file(text, Flags::default()).unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn a_disk_that_fills_is_seen_to_unless_told_otherwise() {
        use stower_controllers::{DiskPolicy, Floor};
        let disk = |text| with_file(text, Flags::default()).map(|config| config.disk);
        let usual = DiskConfig {
            collect: true,
            policy: DiskPolicy {
                high_percent: 85,
                low_percent: 80,
                min_free: Floor { absolute: Some(1 << 30), percent: Some(5) },
                min_free_inodes: Floor { absolute: Some(10_000), percent: Some(5) },
            },
            min_age: std::time::Duration::from_secs(120),
            pinned: Vec::new(),
        };
        assert_eq!(disk("").unwrap(), usual);
        let told = disk(
            "images: {gc: {enabled: false, highThresholdPercent: 70, lowThresholdPercent: 60, minAge: 1m30s, pinned: [a:1]}}\n\
             storage: {minFree: {bytes: 64Mi}, minFreeInodes: {}}\n",
        );
        let policy = DiskPolicy {
            high_percent: 70,
            low_percent: 60,
            min_free: Floor { absolute: Some(64 << 20), percent: None },
            min_free_inodes: Floor::default(),
        };
        let min_age = std::time::Duration::from_secs(90);
        assert_eq!(told.unwrap(), DiskConfig { collect: false, policy, min_age, pinned: vec!["a:1".into()] });
        for (text, want) in [
            (
                "images: {gc: {highThresholdPercent: 101}}",
                "images.gc.highThresholdPercent: must be at most 100",
            ),
            (
                "images: {gc: {lowThresholdPercent: 85}}",
                "images.gc.lowThresholdPercent: must be below highThresholdPercent, which is 85",
            ),
            (
                "images: {gc: {minAge: 2}}",
                "images.gc.minAge: \"2\": must be a duration such as \"100ms\", \"10s\" or \"1m30s\" (units: ns, us, ms, s, m, h)",
            ),
            ("storage: {minFree: {bytes: 1GB}}", "storage.minFree.bytes: \"1GB\" is not a size such as 1Gi"),
            ("storage: {minFree: {percent: 100}}", "storage.minFree.percent: 100 must be below 100"),
        ] {
            assert_eq!(disk(text).unwrap_err().to_string(), want);
        }
        let unknown = disk("storage: {minFree: {inodes: 1}}").unwrap_err().to_string();
        assert!(unknown.contains("inodes"), "{unknown}");
    }
}
