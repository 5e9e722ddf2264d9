//! `stower host-run`: from a privileged pod, runs a command of stower on the host. [`crate::host`] has the picture.

use std::{
    ffi::OsString,
    os::unix::process::ExitStatusExt,
    process::{ExitStatus, Stdio},
};

use clap::Parser;
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::signal::unix::{SignalKind, signal};

use super::{agent::chain, error::CliError};
use crate::{
    args::{Cli, HostRunArgs},
    host::{self, Carried},
};

/// What is passed on to the command.
const SIGNALS: [Signal; 6] =
    [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2];

pub(super) fn run(args: HostRunArgs) -> Result<(), CliError> {
    match args.entering_for {
        Some(parent) => enter(args, parent),
        None => supervise(&args),
    }
}

/// Stays in the pod, so that its files are found by who execs into it, and ends when the command has ended.
fn supervise(args: &HostRunArgs) -> Result<(), CliError> {
    let failed = |what: &str, error: std::io::Error| CliError::Message(format!("{what}: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed("cannot set up the command", error))?;
    let status = runtime.block_on(async {
        let mut signals = Vec::new();
        for number in SIGNALS {
            let kind = SignalKind::from_raw(number.as_raw());
            signals.push((number, signal(kind).map_err(|error| failed("cannot take signals", error))?));
        }
        // This thread starts the child and lives as long as this process, whose end is the child's signal to end.
        let mut command = tokio::process::Command::new("/proc/self/exe");
        command.arg0("stower").arg("host-run").arg(format!("--entering-for={}", std::process::id()));
        for carried in &args.carry {
            command.arg("--carry").arg(carried);
        }
        if let Some(directory) = &args.service_account {
            command.arg("--service-account").arg(directory);
        }
        command.arg("--").args(&args.command).stdin(Stdio::inherit());
        let mut child = command.spawn().map_err(|error| failed("cannot start the command", error))?;
        let pidfd = child
            .id()
            .and_then(|pid| Pid::from_raw(pid.cast_signed()))
            .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
        let pidfd = pidfd.as_ref();
        let passed_on = async {
            let mut waiting: futures_util::stream::FuturesUnordered<_> = signals
                .iter_mut()
                .map(|(number, signals)| async move {
                    while signals.recv().await.is_some() {
                        if let Some(pidfd) = pidfd {
                            // It may have ended just now.
                            let _ = rustix::process::pidfd_send_signal(pidfd, *number);
                        }
                    }
                })
                .collect();
            while futures_util::StreamExt::next(&mut waiting).await.is_some() {}
            std::future::pending::<()>().await;
        };
        tokio::select! {
            status = child.wait() => status.map_err(|error| failed("cannot wait for the command", error)),
            () = passed_on => unreachable!("passing on signals never ends"),
        }
    })?;
    ended(status)
}

fn ended(status: ExitStatus) -> Result<(), CliError> {
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(CliError::Told(u8::try_from(code).unwrap_or(1))),
        (None, signal) => Err(CliError::Told(signal.and_then(|n| u8::try_from(128 + n).ok()).unwrap_or(1))),
    }
}

/// Enters the host and is the command. There is one thread yet, as the kernel asks for.
fn enter(args: HostRunArgs, parent: u32) -> Result<(), CliError> {
    let told = |error: &host::HostError| CliError::Message(chain(error));
    let mut carried = Carried::default();
    for directory in &args.carry {
        carried.add(directory).map_err(|error| told(&error))?;
    }
    let is_agent = args.command.first().is_some_and(|verb| verb == "agent");
    let mut command: Vec<OsString> = vec!["stower".into()];
    command.extend(args.command.iter().map(|argument| carried.translate(argument)));
    if let Some(directory) = args.service_account.filter(|_| is_agent) {
        carried.add(&directory).map_err(|error| told(&error))?;
        let path = carried.kubeconfig(&directory).map_err(|error| told(&error))?;
        let mut argument = OsString::from("--kubeconfig=");
        argument.push(path);
        command.push(argument);
    }
    // Who stays in the pod may be killed at any time, and the agent must not outlive its pod.
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM)).map_err(|error| {
        CliError::Message(format!("cannot ask for the end of this process's parent: {error}"))
    })?;
    let alive =
        rustix::process::getppid().is_some_and(|pid| pid.as_raw_nonzero().get().cast_unsigned() == parent);
    if !alive {
        return Err(CliError::Message("the process that asked for the host has ended".to_owned()));
    }
    host::enter().map_err(|error| told(&error))?;
    let cli = Cli::try_parse_from(command).unwrap_or_else(|error| error.exit());
    let done = super::run(cli, super::Meant::default());
    // Read until here, by descriptor.
    drop(carried);
    done
}
