//! `cargo xtask oci`: the validation programs of the OCI runtime-tools on `stower-runtime`, and on other runtimes that are
//! installed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use stower_e2e::{cache, cargo, process, requires};

/// The module's version, its content and what it is built with.
const MODULE: &str = "github.com/opencontainers/runtime-tools";
const GO_MOD: &str = include_str!("../../../oci/go.mod");
const GO_SUM: &str = include_str!("../../../oci/go.sum");
const TOOLS: &str = include_str!("../../../oci/tools.go");
/// No program takes longer on an idle machine than a third of it.
const DEADLINE: Duration = Duration::from_secs(120);

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Passed,
    /// So many lines say `not ok`.
    Failed(usize),
    /// It gave up.
    Exited,
    /// It was ended at the deadline.
    Hung,
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

/// Runs those whose name contains `name`, or all.
pub(crate) fn run(name: Option<&str>) -> Result<()> {
    requires::root()?;
    requires::program("go", "golang-go, or from go.dev, 1.26 or later")?;
    let runtime = built()?;
    let suite = Suite::prepare()?;
    let names: Vec<&String> = suite.programs.iter().filter(|p| name.is_none_or(|n| p.contains(n))).collect();
    ensure!(!names.is_empty(), "no program's name contains {:?}", name.unwrap_or_default());
    let mut runtimes = vec![("stower-runtime".to_owned(), runtime)];
    for other in ["runc", "crun"] {
        if let Ok(path) = process::run("sh", ["-c", &format!("command -v {other}")]) {
            runtimes.push((other.to_owned(), PathBuf::from(path.trim())));
        }
    }
    let mut unexplained = Vec::new();
    let mut passed: BTreeMap<&str, usize> = BTreeMap::new();
    for program in &names {
        let mut line = format!("{program:<34}");
        for (i, (runtime, path)) in runtimes.iter().enumerate() {
            let (outcome, said) = suite.one(program, path)?;
            *passed.entry(runtime).or_default() += usize::from(outcome == Outcome::Passed);
            line.push_str(&format!(" {runtime}: {:<9}", outcome.to_string()));
            if i > 0 || outcome == Outcome::Passed {
                continue;
            }
            match reason(program) {
                Some(reason) => line.push_str(&format!(" ({reason})")),
                None => {
                    unexplained.push((*program).clone());
                    line.push_str(&format!("\n{}", process::tail(&said, 30)));
                }
            }
        }
        println!("{}", line.trim_end());
    }
    for (runtime, count) in &passed {
        println!("{runtime}: {count} of {}", names.len());
    }
    if !unexplained.is_empty() {
        bail!("no reason is known why these fail: {}", unexplained.join(", "));
    }
    Ok(())
}

/// The command line of this checkout.
fn built() -> Result<PathBuf> {
    cargo::messages(&["build", "-p", "stower-runtime", "--bin", "stower-runtime"])?
        .iter()
        .filter(|m| m["reason"] == "compiler-artifact" && m["target"]["name"] == "stower-runtime")
        .find_map(|m| m["executable"].as_str().map(PathBuf::from))
        .context("cargo tells of no stower-runtime that it has built")
}

/// Why a program cannot pass, where that is not for the runtime to change.
fn reason(program: &str) -> Option<&'static str> {
    let controller = |name: &str| {
        let v1 = fs::read_to_string("/proc/self/mountinfo").is_ok_and(|text| {
            text.lines()
                .filter_map(|l| l.rsplit_once(' '))
                .any(|(_, options)| options.split(',').any(|o| o == name))
        });
        v1 || fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")
            .is_ok_and(|t| t.split_whitespace().any(|c| c == name))
    };
    let version_2_alone = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let all_capabilities = fs::read_to_string("/proc/self/status").is_ok_and(|t| {
        t.lines().filter_map(|l| l.strip_prefix("CapEff:\t")).any(|caps| caps.ends_with("1ffffffffff"))
    });
    match program.strip_prefix("linux_cgroups_").map(|p| p.strip_prefix("relative_").unwrap_or(p)) {
        Some(_) if version_2_alone => return Some("the program reads version 1 of cgroups only"),
        Some("blkio") => return Some("it asks for leafWeight, which kernels from 5.0 on do not have"),
        Some("memory") => {
            return Some("it asks for a limit of kernel memory, which kernels from 5.16 on do not have");
        }
        Some("network") if !controller("net_cls") => return Some("this kernel has no controller net_cls"),
        Some("hugetlb") if !controller("hugetlb") => return Some("this kernel has no controller hugetlb"),
        _ => {}
    }
    match program {
        "linux_rootfs_propagation" | "process_capabilities" if !all_capabilities => {
            Some("it asks for all capabilities, and this machine has no CAP_SYS_RESOURCE to give")
        }
        "linux_process_apparmor_profile" if !Path::new("/sys/module/apparmor").exists() => {
            Some("this kernel has no AppArmor")
        }
        "linux_mount_label" if !Path::new("/sys/fs/selinux/enforce").exists() => {
            Some("this kernel has no SELinux")
        }
        "hooks_stdin" => Some("it asks for the pid of a container that may have ended"),
        "mounts" => Some(
            "the table of newer kernels (6.8) is in the order in which copies are made, all before the first is attached",
        ),
        "misc_props" => Some("it starts a program that it has not put into its bundle"),
        "process_rlimits" => {
            Some("its own Go runtime raises the soft limit of open files that it then looks at")
        }
        "start" => {
            Some("its last check is the wrong way round: it wants a start without `process` to succeed")
        }
        _ => None,
    }
}

/// The built programs.
struct Suite {
    dir: PathBuf,
    programs: Vec<String>,
}

impl Suite {
    fn prepare() -> Result<Self> {
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
    fn one(&self, program: &str, runtime: &Path) -> Result<(Outcome, String)> {
        let folder = tempfile::tempdir()?;
        for file in ["rootfs-amd64.tar.gz", "runtimetest"] {
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
        let failed = said.lines().filter(|l| l.trim_start().starts_with("not ok")).count();
        let outcome = match status {
            None => Outcome::Hung,
            Some(_) if failed > 0 => Outcome::Failed(failed),
            Some(status) if status.success() => Outcome::Passed,
            Some(_) => Outcome::Exited,
        };
        Ok((outcome, said))
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
