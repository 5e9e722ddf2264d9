//! `stower agent`: reads the configuration, sets up logs and the runtime, and runs until a signal.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use super::error::CliError;
use crate::{
    args::{AgentArgs, GlobalArgs, SOCKET_ENV},
    config::{Config, ConfigError, Flags, Sources},
    reload::{LogLevel, Start},
};

pub(super) fn run(global: GlobalArgs, args: AgentArgs) -> Result<(), CliError> {
    if global.namespace.is_some() || global.all_namespaces {
        return Err(CliError::Message(
            "--namespace and --all-namespaces: the agent runs the containers of all".to_owned(),
        ));
    }
    if global.context.is_some() {
        return Err(CliError::Message("--context: for the agent it is --kube-context".to_owned()));
    }
    let told = |error: &ConfigError| CliError::Message(chain(error));
    let sources = sources(global, args).map_err(|error| told(&error))?;
    let file = sources.read().map_err(|error| told(&error))?.unwrap_or_default();
    let config = sources.with_file(&file).map_err(|error| told(&error))?;
    let log_level = logs(&config)?;
    let start = Start { sources, config, file, log_level };
    crate::memory::configure();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // A burst of starts makes many threads; their stacks are not kept for the next one.
        .thread_keep_alive(std::time::Duration::from_secs(1))
        .build()
        .map_err(|error| CliError::Message(format!("cannot start the agent's threads: {error}")))?;
    runtime.block_on(crate::run::run(start)).map_err(|error| CliError::Message(chain(error.as_ref())))
}

/// What flags and environment say to an agent.
pub(super) fn sources(global: GlobalArgs, args: AgentArgs) -> Result<Sources, ConfigError> {
    // The environment is read by one reader; that of the command line has mixed it with the flag.
    let environment = std::env::var_os(SOCKET_ENV);
    let socket = global
        .socket
        .filter(|path| !path.as_os_str().is_empty() && environment.as_deref() != Some(path.as_os_str()));
    let flags = Flags {
        config: args.config,
        manifests: args.manifests,
        data_root: args.data_root,
        run_root: args.run_root,
        socket,
        node_name: args.node_name,
        storage_driver: args.storage_driver,
        storage_opts: args.storage_opt,
        metrics_bind_address: args.metrics_bind_address,
        volume_capacity: args.volume_capacity,
        insecure_registries: args.insecure_registry,
        allow_empty: args.allow_empty,
        kube: args.kube,
        kubeconfig: args.kubeconfig,
        kube_context: args.kube_context,
    };
    Sources::new(flags, std::env::vars_os())
}

fn logs(config: &Config) -> Result<LogLevel, CliError> {
    let filter = EnvFilter::try_new(&config.log_level)
        .map_err(|error| CliError::Message(format!("logLevel: {error}")))?;
    let logs = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter)
        .with_filter_reloading();
    let handle = logs.reload_handle();
    logs.init();
    Ok(LogLevel::new(move |filter| handle.reload(filter).map_err(|error| error.to_string())))
}

/// An error with what is behind it, on one line.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
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
