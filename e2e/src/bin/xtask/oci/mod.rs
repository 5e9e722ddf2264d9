//! `cargo xtask oci`: the validation programs of the OCI runtime-tools on `stower-runtime`, and on other runtimes that are
//! installed; with `--vm` in a virtual machine, on Debian's runc and crun too.

mod guest;
pub(crate) mod podman;
mod reason;
mod suite;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use stower_e2e::{cargo, process, requires, vm};

use self::guest::Guest;
use self::reason::Machine;
use self::suite::{Outcome, Suite};

/// Runs those whose name contains one of `names`, or all.
pub(crate) fn run(names: &[&str]) -> Result<()> {
    let (suite, runtime) = prepare()?;
    let mut runtimes = vec![("stower-runtime".to_owned(), runtime.display().to_string())];
    for other in ["runc", "crun"] {
        if let Ok(path) = process::run("sh", ["-c", &format!("command -v {other}")]) {
            runtimes.push((other.to_owned(), path.trim().to_owned()));
        }
    }
    table(&suite, names, &runtimes, &Machine::here(), |program, runtime| {
        suite.one(program, Path::new(runtime))
    })
}

/// The same in a virtual machine; `alone`: without the other runtimes, in a third of the time.
pub(crate) fn run_in_guest(names: &[&str], alone: bool) -> Result<()> {
    requires::program(vm::PROGRAM, vm::PACKAGE)?;
    let (suite, runtime) = prepare()?;
    // What the machine is controlled by.
    crate::build::show(cargo::cargo().args(["build", "-p", "stower-e2e", "--bins"]))?;
    let mut guest = Guest::boot(&suite, &runtime)?;
    let machine = Machine::guest(&mut guest.vm)?;
    println!("Linux {}", guest.vm.release.trim());
    let mut runtimes = guest.runtimes()?;
    if alone {
        runtimes.truncate(1);
    }
    table(&suite, names, &runtimes, &machine, |program, runtime| guest.one(program, runtime))
}

fn prepare() -> Result<(Suite, PathBuf)> {
    requires::root()?;
    requires::program("go", "golang-go, or from go.dev, 1.26 or later")?;
    Ok((Suite::prepare()?, built()?))
}

/// Prints how each program ends on each runtime, and fails where ours does without a known reason.
fn table(
    suite: &Suite,
    wanted: &[&str],
    runtimes: &[(String, String)],
    machine: &Machine,
    mut one: impl FnMut(&str, &str) -> Result<(Outcome, String)>,
) -> Result<()> {
    let is_wanted = |program: &&String| wanted.is_empty() || wanted.iter().any(|name| program.contains(name));
    let names: Vec<&String> = suite.programs.iter().filter(is_wanted).collect();
    ensure!(!names.is_empty(), "no program's name contains {}", wanted.join(" or "));
    let begin = Instant::now();
    let mut unexplained = Vec::new();
    let mut passed: BTreeMap<&str, usize> = BTreeMap::new();
    for program in &names {
        let mut line = format!("{program:<34}");
        for (i, (runtime, path)) in runtimes.iter().enumerate() {
            let (outcome, said) = one(program, path)?;
            *passed.entry(runtime).or_default() += usize::from(outcome == Outcome::Passed);
            line.push_str(&format!(" {runtime}: {:<9}", outcome.to_string()));
            if i > 0 || outcome == Outcome::Passed {
                continue;
            }
            match machine.reason(program) {
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
    println!("after {} s", begin.elapsed().as_secs());
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
