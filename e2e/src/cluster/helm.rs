//! Helm, and the charts of this checkout.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use tempfile::TempDir;

use super::{Cluster, programs};
use crate::{Output, cargo, process};

/// Helm with caches of its own, so that nobody's home is read or written.
#[derive(Debug)]
pub struct Helm {
    program: PathBuf,
    home: TempDir,
    kubeconfig: Option<PathBuf>,
}

/// A chart of this checkout, by its name.
pub fn chart(name: &str) -> PathBuf {
    cargo::checkout().join("charts").join(name)
}

impl Helm {
    /// Without a cluster: lint and template.
    pub fn get() -> Result<Self> {
        Ok(Self { program: programs::helm()?, home: tempfile::tempdir()?, kubeconfig: None })
    }

    /// As the administrator of a cluster.
    pub fn of(cluster: &Cluster) -> Result<Self> {
        Ok(Self { kubeconfig: Some(cluster.kubeconfig.clone()), ..Self::get()? })
    }

    /// A command.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).env("HOME", self.home.path());
        for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME", "KUBECONFIG"] {
            command.env_remove(name);
        }
        if let Some(path) = &self.kubeconfig {
            command.env("KUBECONFIG", path);
        }
        command
    }

    /// Runs a command, whatever it answers.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Output> {
        Ok(process::output(&mut self.command(args))?.into())
    }

    /// Runs a command that must succeed, and gives its standard output.
    pub fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        process::run_command(&mut self.command(args))
    }

    /// Runs a command that must fail, and gives what it said.
    pub fn refused<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        let output = self.run(args)?;
        ensure!(output.code > 0, "the command was to fail, and ended with {}: {output:?}", output.code);
        Ok(output.stdout + &output.stderr)
    }

    /// What the chart `stower` is with `values` (YAML), as a release `stower` in the namespace `stower-system`.
    pub fn template(&self, values: &str) -> Result<String> {
        let file = self.values(values)?;
        self.ok([OsStr::new("template"), OsStr::new("stower")].into_iter().chain([
            chart("stower").as_os_str(),
            OsStr::new("--namespace"),
            OsStr::new("stower-system"),
            OsStr::new("--values"),
            file.as_os_str(),
        ]))
    }

    /// Writes a file of values.
    pub fn values(&self, values: &str) -> Result<PathBuf> {
        let path = self.home().join("values.yaml");
        fs::write(&path, values)?;
        Ok(path)
    }

    /// A folder of its own.
    pub fn home(&self) -> &Path {
        self.home.path()
    }
}
