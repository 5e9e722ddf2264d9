//! The verb `system`.

use clap::{Args, Subcommand};

use super::DataOutput;

/// `stower system`.
#[derive(Debug, Args)]
pub struct SystemArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: SystemCommand,
}

/// What `stower system` does.
#[derive(Debug, Subcommand)]
pub enum SystemCommand {
    /// Show what images, containers and volumes take on disk
    Df(SystemDfArgs),
    /// Remove leftovers, and images without a name that nothing needs
    Prune(SystemPruneArgs),
}

/// `stower system df`.
#[derive(Debug, Args)]
pub struct SystemDfArgs {
    /// Show each image, container and volume
    #[arg(short, long)]
    pub verbose: bool,
    /// How to print: json or yaml
    #[arg(short, long, value_enum, value_name = "FORMAT", hide_possible_values = true)]
    pub output: Option<DataOutput>,
}

/// `stower system prune`.
#[derive(Debug, Args)]
#[command(
    after_help = "Nothing that a declared container names, or was started from, is removed.\n\nExamples:\n  stower system prune\n  stower system prune --all --volumes --force"
)]
pub struct SystemPruneArgs {
    /// Remove images with a name too, when no declared object needs them
    #[arg(short, long)]
    pub all: bool,
    /// Remove data that deleted Volumes and DataContainers left behind, too
    #[arg(long)]
    pub volumes: bool,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}
