//! `stower completion`: the script that a shell sources.

use clap::CommandFactory;

use super::{context::print, error::CliError};
use crate::args::{Cli, CompletionArgs, Shell};

pub(super) fn run(args: &CompletionArgs) -> Result<(), CliError> {
    let mut command = Cli::command();
    let mut script = Vec::new();
    let shell = match args.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    clap_complete::generate(shell, &mut command, "stower", &mut script);
    print(script)
}
