//! `stower-runtime`: the OCI command line on the code that the agent's containers start with.
//!
//! ```text
//! create: config.json ─► plan (job::compile, and what the agent does without) ─► cgroups, sources ─► clone3 ─► init
//!            state.json ◄─ pid                                hooks ◄── "h" ─ mounts    │
//!            exit       ◄────────────────────────────────────────────── "r" ─ ready ────┤ holds `created`, waits at `s`
//! start:  ──► `s` ── "g" ──────────────────────────────────────────────────► confinement, exec
//!            end of the connection = executing; a failure comes through it
//! ```
//!
//! A container is a directory in `--root`: its state by write and rename, its configuration as it was at `create`, the socket
//! that `start` knocks at, and a file that the first process keeps locked until its exec. Nothing runs on beside the
//! container's own processes.

mod cli;
mod console;
mod create;
mod error;
mod exec;
mod features;
mod hooks;
mod idmap;
mod io;
mod log;
mod operate;
mod plan;
mod process;
mod state;
mod steps;
mod update;

use std::process::ExitCode;

use clap::Parser;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let args = cli::Args::parse();
    let log = log::Log::new(&args);
    match cli::run(&args, &log) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            log.error(&e);
            ExitCode::from(e.exit_code())
        }
    }
}
