//! The verb `config`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::DataOutput;

/// `stower config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// What `stower config` does.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show what the agent runs with, where each value comes from, and what takes effect without a restart
    Show(ConfigShowArgs),
    /// Check a configuration file, and tell what it would change in a running agent
    Check(ConfigCheckArgs),
    /// Let the agent read its configuration file again, as SIGHUP does
    Reload,
}

/// `stower config show`.
#[derive(Debug, Args)]
pub struct ConfigShowArgs {
    /// Ask no agent: show what one would have that is started here without flags
    #[arg(long)]
    pub offline: bool,
    /// The configuration file [default: /etc/stower/config.yaml]
    #[arg(long, value_name = "FILE", requires = "offline")]
    pub config: Option<PathBuf>,
    /// How to print: json or yaml
    #[arg(short, long, value_enum, value_name = "FORMAT", hide_possible_values = true)]
    pub output: Option<DataOutput>,
    /// Leave out the table's headings
    #[arg(long)]
    pub no_headers: bool,
}

/// `stower config check`.
#[derive(Debug, Args)]
#[command(
    after_help = "Nothing is changed. The file is checked by itself, with no flags and no environment. Where an agent answers, it is\n\
                  told what the file would change in it, and what of that needs a restart.\n\n\
                  Examples:\n  stower config check /etc/stower/config.yaml && stower config reload"
)]
pub struct ConfigCheckArgs {
    /// The file
    #[arg(value_name = "FILE", default_value = super::DEFAULT_CONFIG)]
    pub file: PathBuf,
    /// Print only what is wrong
    #[arg(short, long)]
    pub quiet: bool,
}
