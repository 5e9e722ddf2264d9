//! The crates' own tests as root, where cgroup v2 is alone, the kernel is 6.1 and no capability is missing.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use stower_e2e::vm::{Mirror, Tests, compile};
use stower_e2e::{Vm, VmOptions, cargo, process};

/// For one test program; the emulator is ten times slower than the machine.
const LIMIT: Duration = Duration::from_secs(400);

#[test]
fn the_runtime_passes_its_tests_on_cgroup_v2() -> Result<()> {
    let (mut vm, tests) = machine_with(
        "stower-runtime",
        "agent/runtime",
        &[
            "--lib",
            "--test",
            "root_start",
            "--test",
            "root_quota",
            "--test",
            "root_volumes",
            "--test",
            "shim",
        ],
    )?;
    // Races that are looked for by doing it again and again take the emulator too long.
    all_pass(&mut vm, &tests, "agent/runtime", "--skip swapped")
}

#[test]
fn volumes_pass_their_tests_and_grow_while_they_are_mounted() -> Result<()> {
    let (mut vm, tests) = machine_with("stower-storage", "storage", &["--test", "volumes"])?;
    // Those that are ignored elsewhere need this kernel; random histories and each crash take the emulator too long.
    all_pass(
        &mut vm,
        &tests,
        "storage",
        "--include-ignored --skip random:: --skip crash::root_every_failpoint",
    )
}

/// A filesystem that is mounted grows here, and the ends of processes are those of an older kernel.
#[test]
fn limited_snapshots_on_overlay_grow_in_use() -> Result<()> {
    let (mut vm, tests) =
        machine_with("stower-storage", "storage", &["--test", "limits", "--test", "conformance"])?;
    // `limits` has no such names, and all of it.
    all_pass(
        &mut vm,
        &tests,
        "storage",
        "root_limited_ root_a_commit_that root_impossible_ root_overlay_limited::quota",
    )
}

fn machine_with(package: &str, folder: &str, targets: &[&str]) -> Result<(Vm, Tests)> {
    let tests = Tests::build(&[&["-p", package], targets].concat())?;
    let mirror = Mirror::new()?;
    tests.add_to(&mirror)?;
    // The guest has no compiler: what tests compile for themselves is there already, newer than its source.
    let probe = cargo::checkout().join(folder).join("tests/probe/probe.rs");
    if probe.exists() {
        mirror.add(&probe)?;
        compile(&probe, &mirror.place(&tests.temporary()?.join("probe"))?)?;
    }
    // The shims of former releases.
    let shims = cargo::checkout().join(folder).join("tests/shims");
    if shims.exists() {
        mirror.add(&shims)?;
    }
    let folders = vec![("mirror".to_owned(), mirror.path().to_owned())];
    let mut vm = Vm::boot(VmOptions { folders, memory: 1536, show: true, ..VmOptions::default() })?;
    let checkout: PathBuf = cargo::checkout().join(folder);
    vm.ok(&format!(
        "cp -a /host/mirror/. / && mkdir -p {} {}",
        checkout.display(),
        tests.temporary()?.display()
    ))?;
    Ok((vm, tests))
}

/// Runs all, and tells of each that failed.
fn all_pass(vm: &mut Vm, tests: &Tests, folder: &str, args: &str) -> Result<()> {
    let checkout = cargo::checkout().join(folder);
    let mut failed = Vec::new();
    for (name, path) in &tests.programs {
        let script = format!("cd {} && exec {} --test-threads 2 {args}", checkout.display(), path.display());
        let output = vm.run(&["sh", "-c", &script], LIMIT)?;
        let last = output.text.lines().rev().find(|line| line.starts_with("test result: "));
        println!("{name}: {}", last.context("the test program did not come to its end")?);
        if output.code != 0 {
            failed.push(format!("{name}:\n{}", process::tail(&output.text, 60)));
        }
    }
    ensure!(failed.is_empty(), "in the guest failed:\n{}", failed.join("\n"));
    Ok(())
}
