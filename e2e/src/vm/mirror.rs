//! Test programs of the workspace, made ready to run in the guest at the paths where they were built.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use crate::{cargo, process};

/// A folder that mirrors parts of the host's file tree, to be laid over the guest's.
#[derive(Debug)]
pub struct Mirror {
    folder: TempDir,
}

impl Mirror {
    /// An empty one.
    pub fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("stower-vm-mirror-").tempdir_in("/var/tmp")?;
        Ok(Self { folder })
    }

    /// The folder, for [`super::VmOptions::folders`].
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Adds a file or a folder of the host, with owners, modes and times.
    pub fn add(&self, path: &Path) -> Result<()> {
        let to = self.place(path)?;
        process::run("cp", [Path::new("-a"), path, &to]).map(drop)
    }

    /// Adds a program without its debug information.
    pub fn add_program(&self, path: &Path) -> Result<()> {
        super::strip(path, &self.place(path)?)
    }

    /// Adds a program under another path.
    pub fn add_program_as(&self, path: &Path, guest: &str) -> Result<()> {
        super::strip(path, &self.place(Path::new(guest))?)
    }

    /// Where a path of the host is in the mirror.
    pub fn place(&self, path: &Path) -> Result<PathBuf> {
        let relative = path.strip_prefix("/").with_context(|| format!("{} is relative", path.display()))?;
        let to = self.folder.path().join(relative);
        fs::create_dir_all(to.parent().context("no file's path")?)?;
        Ok(to)
    }
}

/// The test programs that `cargo test --no-run ARGS` builds, with the programs of the package that they use.
#[derive(Debug)]
pub struct Tests {
    /// Name and path of each.
    pub programs: Vec<(String, PathBuf)>,
    /// What was built beside them, and the build scripts' folders.
    also: Vec<PathBuf>,
}

impl Tests {
    /// Builds them. What the compiler has to say goes to standard error.
    pub fn build(args: &[&str]) -> Result<Self> {
        let mut tests = Self { programs: Vec::new(), also: Vec::new() };
        for message in cargo::messages(&[&["test", "--no-run"], args].concat())? {
            let own = message["package_id"].as_str().is_some_and(|id| id.starts_with("path+"));
            if let (Some(folder), true) = (message["out_dir"].as_str(), own) {
                tests.also.push(folder.into());
            }
            let Some(program) = message["executable"].as_str().map(PathBuf::from) else { continue };
            if message["profile"]["test"] == Value::Bool(true) {
                let name = message["target"]["name"].as_str().context("a target without a name")?;
                tests.programs.push((name.to_owned(), program));
            } else {
                tests.also.push(program);
            }
        }
        anyhow::ensure!(!tests.programs.is_empty(), "cargo test --no-run {} gave no test", args.join(" "));
        Ok(tests)
    }

    /// Puts them and what they use into the mirror.
    pub fn add_to(&self, mirror: &Mirror) -> Result<()> {
        for path in self.programs.iter().map(|(_, path)| path).chain(&self.also) {
            if path.is_dir() { mirror.add(path)? } else { mirror.add_program(path)? }
        }
        Ok(())
    }

    /// The folder that cargo gives tests for their files, `CARGO_TARGET_TMPDIR`.
    pub fn temporary(&self) -> Result<PathBuf> {
        // <target>/<profile>/deps/<program>
        let (_, program) = self.programs.first().context("no test")?;
        Ok(program.ancestors().nth(3).context("a program outside of a target folder")?.join("tmp"))
    }
}

/// Compiles a program of one file, static and small, as the tests of the runtime do it for themselves.
pub fn compile(source: &Path, to: &Path) -> Result<()> {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--edition", "2024", "-C", "opt-level=1", "-C", "panic=abort", "-C", "strip=symbols"]);
    rustc.args(["-C", "target-feature=+crt-static", "-C", "relocation-model=static"]);
    process::run_command(rustc.arg("-o").arg(to).arg(source)).map(drop)
}
