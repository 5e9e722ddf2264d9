//! The verbs for pods: `host-run`, `health` and `cluster`.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Subcommand};

/// `stower host-run`.
#[derive(Debug, Args)]
#[command(
    after_help = "For a pod with hostPID and a privileged container. The command runs in the namespaces of the host's process 1; it ends with\nthis one, signals are passed on, and its exit code is this one's. Paths in directories that are carried are read from the pod.\n\nExamples:\n  stower host-run --carry /etc/stower -- agent --config /etc/stower/config.yaml\n  kubectl exec -n stower-system ds/stower -- /stower host-run -- get containers -A"
)]
pub struct HostRunArgs {
    /// A directory of the pod that arguments of the command name; may be repeated
    #[arg(long, value_name = "DIR")]
    pub carry: Vec<PathBuf>,
    /// The directory of the pod's token and CA: the agent takes its objects from the pod's API server by them
    #[arg(long, value_name = "DIR")]
    pub service_account: Option<PathBuf>,
    /// Said by the process that stays in the pod to the one that enters the host: its own id
    #[arg(long, hide = true, value_name = "PID")]
    pub entering_for: Option<u32>,
    /// The command of stower and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `stower health`.
#[derive(Debug, Args)]
#[command(
    after_help = "For probes and monitors. The answer has been through the agent's reconcile loop; the exit code is 0 when it is well."
)]
pub struct HealthArgs {
    /// Whether it is ready, too: it has seen all that it looks after
    #[arg(long)]
    pub ready: bool,
    /// How many seconds it may take to answer
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
}

/// `stower cluster`.
#[derive(Debug, Args)]
pub struct ClusterArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ClusterCommand,
}

/// What `stower cluster` does.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Delete every Container, DataContainer and Volume of the cluster, and wait until the agents have torn them down
    Purge(ClusterPurgeArgs),
    /// Check that the kinds are served and that the agents of a DaemonSet's pods renew their Leases
    Check(ClusterCheckArgs),
}

/// `stower cluster purge`.
#[derive(Debug, Args)]
pub struct ClusterPurgeArgs {
    /// Of all namespaces; there is no other way, and it cannot be undone
    #[arg(long, required = true)]
    pub all: bool,
    /// How long to wait, such as 90s or 10m
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    pub timeout: String,
}

/// `stower cluster check`.
#[derive(Debug, Args)]
pub struct ClusterCheckArgs {
    /// The labels of the agents' pods
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: String,
    /// How long to wait until all is well, such as 60s
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    pub timeout: String,
}
