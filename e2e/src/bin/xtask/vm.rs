//! `cargo xtask vm`: tests in a machine of its own, with device-mapper, cgroup v2 alone and all capabilities.

use std::process::Command;

use anyhow::Result;
use stower_e2e::{requires, vm};

use crate::build::{cargo, show};

/// Runs all of them, or those whose name contains `name`.
pub(crate) fn run(name: Option<&str>) -> Result<()> {
    requires::root()?;
    requires::program(vm::PROGRAM, vm::PACKAGE)?;
    show(cargo().args(BUILD))?;
    show(&mut tests(name))
}

/// What the tests take into the machine.
pub(crate) const BUILD: [&str; 6] = ["build", "-p", "stower", "-p", "stower-e2e", "--bins"];

/// The command that runs them. Each has machines of its own with two processors; two at once are what two cores bear.
pub(crate) fn tests(name: Option<&str>) -> Command {
    let mut command = cargo();
    command.args(["test", "-p", "stower-e2e", "--test", "vm", "--"]).args(name);
    command.args(["--nocapture", "--test-threads", "2"]);
    if std::env::var_os(vm::DEADLINE).is_none() {
        command.env(vm::DEADLINE, "3600");
    }
    command
}
