//! What fails below the driver on device-mapper: the lines of the scoreboard in the storage crate's README.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use stower_e2e::vm::{Mirror, Tests};
use stower_e2e::{Vm, VmOptions, process};

/// For all of the test program; the emulator is ten times slower than the machine.
const LIMIT: Duration = Duration::from_secs(400);
/// A filter that fits nothing passes too.
const LEAST: usize = 10;

#[test]
fn faults_below_the_driver_are_told_and_end() -> Result<()> {
    let tests = Tests::build(&["-p", "stower-storage", "--test", "faults"])?;
    let mirror = Mirror::new()?;
    tests.add_to(&mirror)?;
    let folders = vec![("mirror".to_owned(), mirror.path().to_owned())];
    let mut vm = Vm::boot(VmOptions { folders, memory: 1536, ..VmOptions::default() })?;
    let (_, program) = tests.programs.first().context("no test program")?;
    let begin = Instant::now();
    let script =
        format!("exec /host/mirror{} --include-ignored --nocapture --test-threads 3", program.display());
    let output = vm.run(&["sh", "-c", &script], LIMIT)?;
    for line in output.text.lines().filter_map(|line| Some(line.split_once("SCORE ")?.1)) {
        println!("{line}");
    }
    let last = output.text.lines().rev().find_map(|line| line.strip_prefix("test result: ok. "));
    let passed = last.and_then(|line| line.split(' ').next()?.parse::<usize>().ok()).unwrap_or(0);
    println!("{passed} passed in {:.0} s", begin.elapsed().as_secs_f64());
    ensure!(output.code == 0 && passed >= LEAST, "{}", process::tail(&output.text, 80));
    let left = vm.ok("dmsetup ls; losetup --all; grep -c ' /dev/dm-' /proc/mounts || true")?;
    ensure!(left.trim() == "No devices found\n0", "something was left over:\n{left}");
    Ok(())
}
