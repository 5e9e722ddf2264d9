//! The validation programs, built, and how one of them is run.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use stower_e2e::{cache, process};

/// The module's version, its content and what it is built with.
const MODULE: &str = "github.com/opencontainers/runtime-tools";
const GO_MOD: &str = include_str!("../../../../oci/go.mod");
const GO_SUM: &str = include_str!("../../../../oci/go.sum");
const TOOLS: &str = include_str!("../../../../oci/tools.go");
/// No program takes longer on an idle machine than a third of it.
pub(super) const DEADLINE: Duration = Duration::from_secs(120);
/// What a program wants to find in the folder that it is started in.
pub(super) const BESIDE: [&str; 2] = ["rootfs-amd64.tar.gz", "runtimetest"];

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// No line says `not ok`.
    Passed,
    /// So many lines say `not ok`.
    Failed(usize),
    /// It gave up.
    Exited,
    /// It was ended at the deadline.
    Hung,
}

impl Outcome {
    /// By what a program said and whether it succeeded, unless it was ended.
    pub(super) fn of(said: &str, succeeded: Option<bool>) -> Self {
        let failed = said.lines().filter(|l| l.trim_start().starts_with("not ok")).count();
        match succeeded {
            None => Self::Hung,
            Some(_) if failed > 0 => Self::Failed(failed),
            Some(true) => Self::Passed,
            Some(false) => Self::Exited,
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Passed => f.write_str("ok"),
            Self::Failed(n) => write!(f, "{n} not ok"),
            Self::Exited => f.write_str("error"),
            Self::Hung => f.write_str("hangs"),
        }
    }
}

/// The built programs.
pub(super) struct Suite {
    /// What [`BESIDE`] names, and `bin/`.
    pub(super) dir: PathBuf,
    /// The names in `bin/`, sorted.
    pub(super) programs: Vec<String>,
}

impl Suite {
    /// Builds them at their first use.
    pub(super) fn prepare() -> Result<Self> {
        let _lock = cache::lock()?;
        let go = process::run("go", ["env", "GOVERSION"])?;
        let key = cache::sha256([GO_MOD, GO_SUM, TOOLS, &go].concat().as_bytes());
        let dir = cache::once("oci", &key[..16], build)?;
        let mut programs: Vec<String> = fs::read_dir(dir.join("bin"))
            .with_context(|| format!("list {}", dir.display()))?
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
            .collect();
        programs.sort();
        Ok(Self { dir, programs })
    }

    /// Runs one program in a folder of its own; gives what it said too.
    pub(super) fn one(&self, program: &str, runtime: &Path) -> Result<(Outcome, String)> {
        let folder = tempfile::tempdir()?;
        for file in BESIDE {
            // No link: the programs copy one as a link.
            fs::copy(self.dir.join(file), folder.path().join(file))?;
        }
        let output = fs::File::create(folder.path().join("output"))?;
        let mut child = Command::new(self.dir.join("bin").join(program))
            .current_dir(folder.path())
            .env("RUNTIME", runtime)
            // Its bundles go with the folder, whatever becomes of the program.
            .env("TMPDIR", folder.path())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("run {program}"))?;
        let until = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if Instant::now() > until {
                child.kill()?;
                child.wait()?;
                break None;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let said = fs::read(folder.path().join("output"))?;
        let said = String::from_utf8_lossy(&said).into_owned();
        Ok((Outcome::of(&said, status.map(|status| status.success())), said))
    }
}

/// Builds all programs with the Go tool, and takes the root filesystem from the module.
fn build(dir: &Path) -> Result<()> {
    for (name, text) in [("go.mod", GO_MOD), ("go.sum", GO_SUM), ("tools.go", TOOLS)] {
        fs::write(dir.join(name), text)?;
    }
    let go = |args: &[&str]| -> Result<String> {
        process::run_command(Command::new("go").current_dir(dir).env("GOFLAGS", "-mod=mod").args(args))
    };
    let source = PathBuf::from(go(&["mod", "download", "-json", MODULE]).and_then(|text| {
        let value: serde_json::Value = serde_json::from_str(&text)?;
        value["Dir"].as_str().map(str::to_owned).context("the Go tool tells no folder of the module")
    })?);
    let mut names: Vec<String> = fs::read_dir(source.join("validation"))?
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|name| name != "util")
        .collect();
    names.sort();
    println!("building {} validation programs", names.len());
    fs::create_dir(dir.join("bin"))?;
    let packages: Vec<String> = names.iter().map(|name| format!("{MODULE}/validation/{name}")).collect();
    let mut args = vec!["build", "-o", "bin"];
    args.extend(packages.iter().map(String::as_str));
    go(&args)?;
    process::run_command(
        Command::new("go").current_dir(dir).env("GOFLAGS", "-mod=mod").env("CGO_ENABLED", "0").args([
            "build",
            "-o",
            ".",
            &format!("{MODULE}/cmd/runtimetest"),
        ]),
    )?;
    fs::copy(source.join("rootfs-amd64.tar.gz"), dir.join("rootfs-amd64.tar.gz"))?;
    Ok(())
}
