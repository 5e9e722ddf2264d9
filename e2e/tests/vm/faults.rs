//! What fails below the driver on device-mapper: the lines of the scoreboard in the storage crate's README, and an agent with
//! containers over it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use stower_e2e::vm::{Mirror, Tests};
use stower_e2e::{Vm, VmOptions, process};

use crate::guest::{Guest, PATIENCE};

/// For all of the test program; the emulator is ten times slower than the machine.
const LIMIT: Duration = Duration::from_secs(400);
/// A filter that fits nothing passes too.
const LEAST: usize = 11;

#[test]
fn faults_below_the_driver_are_told_and_end() -> Result<()> {
    let tests = Tests::build(&["-p", "stower-storage", "--test", "faults"])?;
    let mirror = Mirror::new()?;
    tests.add_to(&mirror)?;
    let folders = vec![("mirror".to_owned(), mirror.path().to_owned())];
    let mut vm = Vm::boot(VmOptions { folders, memory: 1536, ..VmOptions::default() })?;
    let (_, program) = tests.programs.first().context("no test program")?;
    let begin = Instant::now();
    // One at a time: what one has closed is open for a moment in a child of another that is not its program yet, and the pool is in
    // use for as long.
    let script =
        format!("exec /host/mirror{} --include-ignored --nocapture --test-threads 1", program.display());
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

/// The pool's own settings, and the driver on it.
const PREPARE: &str = "modprobe dm-thin-pool; echo 5 > /sys/module/dm_thin_pool/parameters/no_space_timeout";
const DRIVER: &str = "--storage-driver devicemapper --storage-opt dm.directlvm_device=/dev/disk/by-id/pool \
                      --storage-opt dm.blkdiscard=true --storage-opt dm.basesize=256M";

/// It reads and writes nothing but its log.
const TICKER: &str = "i=0; while :; do i=$((i+1)); echo tick $i; sleep 1; done";
/// It writes to its own layer, and has it on the disk.
const WRITER: &str = "i=0; while :; do i=$((i+1)); echo $i | dd of=/own conv=fsync 2>/dev/null && echo wrote $i || \
                      echo failed $i; sleep 1; done";
/// It fills the pool, and then waits.
const FILLER: &str = "n=0; while why=$(dd if=/dev/zero of=/fill$n bs=1M count=4 conv=fsync 2>&1); do n=$((n+1)); done; \
                      echo told: $why; while :; do sleep 60; done";
const LATE: &str = "echo here; while :; do sleep 60; done";

#[test]
fn an_agent_goes_on_over_a_pool_that_is_suspended_and_one_that_is_full() -> Result<()> {
    let mut guest = Guest::boot(PREPARE, DRIVER, &[("pool", 192 << 20)])?;
    guest.declare("ticker", TICKER)?;
    guest.declare("writer", WRITER)?;
    guest.wait("stower logs ticker", "tick")?;
    guest.wait("stower logs writer", "wrote")?;
    let pool = guest.ask("dmsetup ls | grep -o 'stower-[0-9a-f]*-pool'")?;

    guest.vm.ok(&format!("dmsetup suspend {pool}"))?;
    let info = guest.ask("stower storage info")?;
    ensure!(info.contains(&format!("dmsetup resume {pool}")), "{info}");
    let pressure = guest.pressure()?;
    println!("suspended: {pressure}");
    ensure!(pressure.contains("ReadOnly"), "no pressure: {pressure:?}");
    guest.goes_on("ticker")?;
    let stuck = guest.said("writer")?;
    guest.declare("third", LATE)?;
    guest.wait("stower get container third -o json", "waiting")?;
    let begin = Instant::now();
    let why = loop {
        let why = guest.waits("third")?;
        if why.starts_with("DiskPressure") && why.contains("somebody holds it still") {
            break why;
        }
        ensure!(begin.elapsed() < PATIENCE, "third does not tell: {why}");
    };
    println!("suspended: third waits: {why}");
    // The one that hangs is told to go, and the others are not held up by it.
    guest.withdraw("writer")?;
    guest.goes_on("ticker")?;
    guest.ask("stower get containers")?;
    ensure!(guest.said("writer")? == stuck, "the writer went on in a pool that is held still");
    guest.vm.ok(&format!("dmsetup resume {pool}"))?;
    let took = guest.wait("stower logs third", "here")?;
    println!("resumed: third started by itself after {:.0} s", took.as_secs_f64());
    guest.wait("stower get containers -o name; echo .", "third")?;
    guest.wait("stower get containers -o name | grep -c writer || true", "0")?;
    guest.withdraw("third")?;

    guest.declare("filler", FILLER)?;
    guest
        .wait("stower logs filler", "error")
        .or_else(|_| guest.wait("stower logs filler", "No space left"))?;
    println!("full: the filler was told: {}", guest.said("filler")?);
    let pressure = guest.pressure()?;
    println!("full: {pressure}");
    ensure!(pressure.contains("stower_storage_pressure{"), "no pressure: {pressure:?}");
    guest.declare("late", LATE)?;
    let begin = Instant::now();
    let why = loop {
        let why = guest.waits("late")?;
        if why.starts_with("DiskPressure") && why.contains(&pool) {
            break why;
        }
        ensure!(begin.elapsed() < PATIENCE, "late does not tell: {why}");
    };
    println!("full: late waits: {why}");
    guest.goes_on("ticker")?;
    let agent = guest.ask("cat /run/agent.pid")?;
    guest.withdraw("filler")?;
    let took = guest.wait("stower logs late", "here")?;
    println!("freed: late started by itself after {:.0} s", took.as_secs_f64());
    guest.goes_on("ticker")?;
    ensure!(guest.pressure()?.is_empty(), "there is pressure still");
    guest.ask(&format!("kill -0 {agent}")).map(drop)
}
