//! The storage driver on btrfs on an older kernel, whose quotas are kept otherwise.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use stower_e2e::vm::{Mirror, Tests};
use stower_e2e::{Vm, VmOptions, process};

/// For one test program; the emulator is ten times slower than the machine.
const LIMIT: Duration = Duration::from_secs(300);

/// What runs, and how many tests that must be at least: a filter that fits nothing passes too.
const RUNS: [(&str, &str, usize); 2] = [
    ("btrfs", "", 10),
    // Where kernels differ; all of them pass, and take three minutes.
    ("conformance", "root_btrfs_quota::quota root_btrfs_quota::remove_ root_btrfs_quota::commit_", 11),
];

#[test]
fn the_btrfs_driver_works_on_linux_6_1() -> Result<()> {
    let tests = Tests::build(&["-p", "stower-storage", "--test", "btrfs", "--test", "conformance"])?;
    let mirror = Mirror::new()?;
    tests.add_to(&mirror)?;
    let folders = vec![("mirror".to_owned(), mirror.path().to_owned())];
    let mut vm = Vm::boot(VmOptions { folders, memory: 1536, show: true, ..VmOptions::default() })?;
    let mut failed = Vec::new();
    for (name, filter, least) in RUNS {
        let begin = Instant::now();
        let program = tests.programs.iter().find(|(known, _)| known == name).map(|(_, path)| path);
        let program = program.ok_or_else(|| anyhow::anyhow!("no test program {name}"))?;
        let script = format!("exec /host/mirror{} --nocapture --test-threads 2 {filter}", program.display());
        let output = vm.run(&["sh", "-c", &script], LIMIT)?;
        let last = output.text.lines().rev().find_map(|line| line.strip_prefix("test result: ok. "));
        let passed = last.and_then(|line| line.split(' ').next()?.parse::<usize>().ok()).unwrap_or(0);
        println!("{name} {filter}: {passed} passed in {:.0} s", begin.elapsed().as_secs_f64());
        if output.code != 0 || passed < least {
            failed.push(format!("{name} {filter}:\n{}", process::tail(&output.text, 60)));
        }
    }
    ensure!(failed.is_empty(), "in the guest failed:\n{}", failed.join("\n"));
    Ok(())
}
