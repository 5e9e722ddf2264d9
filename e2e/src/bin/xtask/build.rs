//! Building the workspace's programs.

use std::process::Command;

use anyhow::{Context, Result, bail};
pub(crate) use stower_e2e::cargo::{cargo, checkout};
use stower_e2e::process;

/// Runs a command with its output shown as it comes.
pub(crate) fn show(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {:?}", command.get_program()))?;
    if !status.success() {
        let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
        bail!("{} {}: {status}", command.get_program().display(), args.join(" "));
    }
    Ok(())
}

/// Installs the Debian packages whose programs are missing.
pub(crate) fn install(programs: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> = programs
        .iter()
        .filter(|(program, _)| process::run("sh", ["-c", &format!("command -v {program}")]).is_err())
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing {}", missing.join(" "));
    process::run("apt-get", ["update", "-qq"])?;
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args([
        "install",
        "-y",
        "-qq",
        "--no-install-recommends",
    ]);
    show(command.args(missing))
}
