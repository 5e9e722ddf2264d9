//! Gates: what a test needs from the machine. Each fails with what to do; none skips.

use anyhow::{Context, Result, bail};

use crate::process;

/// Root, which namespaces, mounts and cgroups need.
pub fn root() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("these tests start containers and need root: run them with sudo or in a root shell");
    }
    Ok(())
}

/// A program of an essential or widely installed Debian package.
pub fn program(name: &str, package: &str) -> Result<()> {
    process::run("sh", ["-c", &format!("command -v {name}")])
        .with_context(|| format!("the tests need {name}: apt-get install {package}"))?;
    Ok(())
}

/// All that every test needs.
pub fn all() -> Result<()> {
    root()?;
    for (name, package) in [
        ("apt-get", "apt"),
        ("dpkg-deb", "dpkg"),
        ("tar", "tar"),
        ("gzip", "gzip"),
        ("setpriv", "util-linux"),
    ] {
        program(name, package)?;
    }
    Ok(())
}
