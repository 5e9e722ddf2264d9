//! `cargo xtask vm`: tests in a machine of its own, with device-mapper, cgroup v2 alone and all capabilities.

use std::process::Command;

use anyhow::Result;
use stower_e2e::{requires, vm};

use crate::build::{cargo, show};

/// What every change has to pass: what only a machine shows, in some minutes. The rest are power cuts by the hundred, and services
/// on each driver.
pub(crate) const ESSENTIAL: [&str; 4] = ["boots::", "crates::", "faults::faults_below", "limits::"];
/// A hung machine must not hold all checks up, in seconds. None of those takes half of it on two busy cores.
const ESSENTIAL_DEADLINE: &str = "900";
const DEADLINE: &str = "3600";

/// Runs those whose name contains one of `names`, or all.
pub(crate) fn run(names: &[&str]) -> Result<()> {
    with_deadline(names, DEADLINE)
}

/// Runs those of [`ESSENTIAL`].
pub(crate) fn run_essential() -> Result<()> {
    with_deadline(&ESSENTIAL, ESSENTIAL_DEADLINE)
}

fn with_deadline(names: &[&str], seconds: &str) -> Result<()> {
    requires::root()?;
    requires::program(vm::PROGRAM, vm::PACKAGE)?;
    show(cargo().args(BUILD))?;
    let mut command = tests(names);
    if std::env::var_os(vm::DEADLINE).is_none() {
        command.env(vm::DEADLINE, seconds);
    }
    show(&mut command)
}

/// What the tests take into the machine.
pub(crate) const BUILD: [&str; 6] = ["build", "-p", "stower", "-p", "stower-e2e", "--bins"];

/// The command that runs them. Each has machines of its own with two processors; two at once are what two cores bear.
fn tests(names: &[&str]) -> Command {
    let mut command = cargo();
    command.args(["test", "-p", "stower-e2e", "--test", "vm", "--"]).args(names);
    command.args(["--nocapture", "--test-threads", "2"]);
    command
}
