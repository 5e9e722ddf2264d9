//! The verbs `storage`, `volume` and `wait`.

use clap::{Args, Subcommand};

use super::{DataOutput, Selection};

/// `stower storage`.
#[derive(Debug, Args)]
pub struct StorageArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: StorageCommand,
}

/// What `stower storage` does.
#[derive(Debug, Subcommand)]
pub enum StorageCommand {
    /// Show the storage driver, what it keeps its data on, and why the other drivers were passed over
    Info(StorageInfoArgs),
}

/// `stower storage info`.
#[derive(Debug, Args)]
pub struct StorageInfoArgs {
    /// How to print: json or yaml
    #[arg(short, long, value_enum, value_name = "FORMAT", hide_possible_values = true)]
    pub output: Option<DataOutput>,
}

/// `stower volume`.
#[derive(Debug, Args)]
pub struct VolumeArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: VolumeCommand,
}

/// What `stower volume` does.
#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// List volumes with what they take, also those whose data is all that is left
    #[command(visible_alias = "list")]
    Ls(VolumeLsArgs),
    /// Print a Volume or DataContainer with where its data is and what it takes
    Inspect(VolumeInspectArgs),
    /// Remove data that a deleted Volume or DataContainer left behind
    Rm(VolumeRmArgs),
    /// Remove all such data
    Prune(VolumePruneArgs),
}

/// `stower volume ls`.
#[derive(Debug, Args)]
pub struct VolumeLsArgs {
    /// Only data that was left behind
    #[arg(long)]
    pub retained: bool,
    /// How to print: json or yaml
    #[arg(short, long, value_enum, value_name = "FORMAT", hide_possible_values = true)]
    pub output: Option<DataOutput>,
    /// Leave out the table's headings
    #[arg(long)]
    pub no_headers: bool,
}

/// `stower volume inspect`.
#[derive(Debug, Args)]
pub struct VolumeInspectArgs {
    /// Volumes, or datacontainer/NAME
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
    /// How to print: json or yaml
    #[arg(
        short,
        long,
        value_enum,
        value_name = "FORMAT",
        hide_possible_values = true,
        default_value = "json"
    )]
    pub output: DataOutput,
}

/// `stower volume rm`.
#[derive(Debug, Args)]
pub struct VolumeRmArgs {
    /// Names of Volumes that are deleted, or datacontainer/NAME
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}

/// `stower volume prune`.
#[derive(Debug, Args)]
pub struct VolumePruneArgs {
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}

/// `stower wait`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  stower wait --for=condition=Ready volume/data\n  stower wait --for=delete container/web --timeout=1m"
)]
pub struct WaitForArgs {
    /// Which.
    #[command(flatten)]
    pub selection: Selection,
    /// What for: condition=NAME, condition=NAME=STATUS, or delete
    #[arg(long = "for", value_name = "WHAT", required = true)]
    pub condition: String,
    /// How long, such as 30s or 5m; 0 for ever
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    pub timeout: String,
}
