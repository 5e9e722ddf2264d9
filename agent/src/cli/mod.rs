//! The command line: one file a verb.
//!
//! ```text
//! args (clap) ─► main ─► verb(Context, args) ─► client ─► the agent's socket
//!                              └─► table, describe, JSON or YAML on standard output; errors on standard error
//! ```
//!
//! A verb works on JSON values, not on typed objects, so that it shows what an older or newer agent says.
//! Client verbs run on a current-thread runtime and set up nothing else: they start in a few milliseconds.

mod age;
mod agent;
mod apply;
mod archive;
mod attach;
mod cluster;
mod commit;
mod completion;
mod config;
mod context;
mod cp;
mod crds;
mod delete;
mod describe;
mod diff;
mod error;
mod events;
mod exec;
mod export;
mod files;
mod get;
mod health;
mod host_run;
mod images;
mod import;
mod logs;
mod operate;
mod plan;
mod progress;
mod pull;
mod restart;
mod rmi;
mod row;
mod save;
mod start;
mod stats;
mod stop;
mod storage;
mod system;
mod table;
mod target;
mod terminal;
mod top;
mod validate;
mod version;
mod volume;
mod wait;
mod wait_for;

use std::{io::Write, process::ExitCode};

use clap::Parser;

use self::{context::Context, error::CliError};
use crate::args::{Cli, Command, ImageCommand};

/// The keys that leave a command running, if no others are given; as in Docker.
pub(crate) const DETACH_KEYS: &str = "ctrl-p,ctrl-q";

/// Parses the command line and runs the verb; the exit code is 0 only when all of it succeeded.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(text) = error.text() {
                // Nobody is left to tell when standard error is closed.
                let _ = writeln!(std::io::stderr(), "{text}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(cli: Cli) -> Result<(), CliError> {
    let Cli { global, command } = cli;
    match command {
        Command::Agent(args) => return agent::run(global, args),
        Command::Completion(args) => return completion::run(&args),
        Command::Crds => return crds::run(),
        Command::Validate(args) => return validate::run(&args),
        Command::Health(args) => return health::run(global, &args),
        Command::HostRun(args) => return host_run::run(args),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| CliError::Message(format!("cannot set up the command: {error}")))?;
    runtime.block_on(async {
        let context = Context::new(&global);
        match command {
            Command::Agent(_)
            | Command::Completion(_)
            | Command::Crds
            | Command::Validate(_)
            | Command::Health(_)
            | Command::HostRun(_) => Ok(()),
            Command::Cluster(args) => cluster::run(&context, args).await,
            Command::Get(args) => get::run(&context, &args).await,
            Command::Describe(args) => describe::run(&context, &args).await,
            Command::Logs(args) => logs::run(&context, &args).await,
            Command::Attach(args) => attach::run(&context, &args).await,
            Command::Top(args) => top::run(&context, &args).await,
            Command::Stats(args) => stats::run(&context, &args).await,
            Command::Cp(args) => cp::run(&context, &args).await,
            Command::Exec(args) => exec::run(&context, &args).await,
            Command::Diff(args) => diff::run(&context, &args).await,
            Command::Commit(args) => commit::run(&context, &args).await,
            Command::Export(args) => export::run(&context, &args).await,
            Command::Apply(args) => apply::run(&context, &args).await,
            Command::Delete(args) => delete::run(&context, &args).await,
            Command::Stop(args) => stop::run(&context, &args).await,
            Command::Start(args) => start::run(&context, &args).await,
            Command::Restart(args) => restart::run(&context, &args).await,
            Command::Plan(args) => plan::run(&context, &args).await,
            Command::Events(args) => events::run(&context, &args).await,
            Command::Images(args) => images::run(&context, &args).await,
            Command::Pull(args) => pull::run(&context, &args).await,
            Command::Rmi(args) => rmi::run(&context, &args).await,
            Command::Version(args) => version::run(&context, &args).await,
            Command::Storage(args) => storage::run(&context, &args).await,
            Command::System(args) => system::run(&context, &args).await,
            Command::Config(args) => config::run(&context, &global, args).await,
            Command::Volume(args) => volume::run(&context, &args).await,
            Command::Wait(args) => wait_for::run(&context, &args).await,
            Command::Image(args) => match args.command {
                ImageCommand::Import(args) => import::run(&context, &args).await,
                ImageCommand::Ls(args) => images::run(&context, &args).await,
                ImageCommand::Pull(args) => pull::run(&context, &args).await,
                ImageCommand::Save(args) => save::run(&context, &args).await,
                ImageCommand::Rm(args) => rmi::run(&context, &args).await,
            },
        }
    })
}
