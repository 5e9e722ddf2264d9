//! `stower agent`: reads the configuration, sets up logs and the runtime, and runs until a signal.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use super::error::CliError;
use crate::{
    args::{AgentArgs, GlobalArgs},
    config::{Config, Flags},
};

/// The environment variable that chooses what is logged, as in `info,stower=debug`.
const LOG_ENV: &str = "STOWER_LOG";

pub(super) fn run(global: GlobalArgs, args: AgentArgs) -> Result<(), CliError> {
    if global.namespace.is_some() || global.all_namespaces {
        return Err(CliError::Message(
            "--namespace and --all-namespaces: the agent runs the containers of all".to_owned(),
        ));
    }
    let config = Config::load(Flags {
        config: args.config,
        manifests: args.manifests,
        data_root: args.data_root,
        run_root: args.run_root,
        socket: global.socket.filter(|path| !path.as_os_str().is_empty()),
        node_name: args.node_name,
        storage_driver: args.storage_driver,
        storage_opts: args.storage_opt,
        volume_capacity: args.volume_capacity,
        insecure_registries: args.insecure_registry,
        allow_empty: args.allow_empty,
    })
    .map_err(|error| CliError::Message(chain(&error)))?;
    logs()?;
    crate::memory::configure();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // A burst of starts makes many threads; their stacks are not kept for the next one.
        .thread_keep_alive(std::time::Duration::from_secs(1))
        .build()
        .map_err(|error| CliError::Message(format!("cannot start the agent's threads: {error}")))?;
    runtime.block_on(crate::run::run(config)).map_err(|error| CliError::Message(chain(error.as_ref())))
}

fn logs() -> Result<(), CliError> {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
        .with_env_var(LOG_ENV)
        .from_env()
        .map_err(|error| CliError::Message(format!("{LOG_ENV}: {error}")))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}

/// An error with what is behind it, on one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let more = inner.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        source = inner.source();
    }
    text
}
