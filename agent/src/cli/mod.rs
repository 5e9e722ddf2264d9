//! The command line: one file a verb.
//!
//! ```text
//! args (clap) ─► main ─► verb(Context, args) ─► client ─► the agent's socket, or an API server
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
mod node;
mod node_verbs;
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
mod watch;

use std::{ffi::OsStr, io::Write, path::Path, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, parser::ValueSource};

use self::{
    context::{Context, Meant},
    error::CliError,
};
use crate::args::{Cli, Command, ImageCommand};

/// What the program is called where kubectl finds it as a plugin.
const PLUGIN: &str = "kubectl-stower";

/// The keys that leave a command running, if no others are given; as in Docker.
pub(crate) const DETACH_KEYS: &str = "ctrl-p,ctrl-q";

/// Parses the command line and runs the verb; the exit code is 0 only when all of it succeeded.
#[must_use]
pub fn main() -> ExitCode {
    let plugin = std::env::args_os().next().is_some_and(|called| is_plugin(&called));
    let mut command = Cli::command();
    if plugin {
        command = command.bin_name("kubectl stower");
    }
    let matches = command.get_matches();
    let meant =
        Meant { cluster: plugin, socket: matches.value_source("socket") == Some(ValueSource::CommandLine) };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match run(cli, meant) {
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

/// Whether the program was called by the name of a plugin of kubectl.
fn is_plugin(called: &OsStr) -> bool {
    Path::new(called).file_stem().is_some_and(|name| name == PLUGIN)
}

fn run(cli: Cli, mut meant: Meant) -> Result<(), CliError> {
    let Cli { global, command } = cli;
    let cluster = global.context.is_some() || global.kubeconfig.is_some();
    match command {
        Command::Agent(args) => return agent::run(global, args),
        Command::Completion(args) => return completion::run(&args),
        Command::Crds => return crds::run(),
        Command::Validate(args) if !cluster && !meant.cluster => return validate::run(&args),
        Command::Health(args) => return health::run(global, &args),
        Command::HostRun(args) => return host_run::run(args),
        Command::Cluster(_) | Command::Node(_) => meant.cluster = true,
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| CliError::Message(format!("cannot set up the command: {error}")))?;
    runtime.block_on(async {
        let context = Context::new(&global, meant).await?;
        if context.client.is_cluster() {
            node_verbs::refuse(&context, &command).await?;
        }
        match command {
            Command::Agent(_)
            | Command::Completion(_)
            | Command::Crds
            | Command::Health(_)
            | Command::HostRun(_) => Ok(()),
            Command::Cluster(args) => cluster::run(&context, args).await,
            Command::Validate(args) => validate::by_server(&context, &args).await,
            Command::Node(args) => node::run(&context, &args).await,
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

#[cfg(test)]
mod tests;
