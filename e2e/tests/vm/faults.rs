//! What fails below the driver on device-mapper: the lines of the scoreboard in the storage crate's README, and an agent with
//! containers over it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use stower_e2e::vm::{Mirror, Tests};
use stower_e2e::{Catalog, Vm, VmOptions, catalog, node, process};

use crate::services::words;

/// For all of the test program; the emulator is ten times slower than the machine.
const LIMIT: Duration = Duration::from_secs(400);
/// For the agent to do something.
const PATIENCE: Duration = Duration::from_secs(90);
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

const AGENT: &str = "mkdir -p /data /etc/stower/manifests; modprobe dm-thin-pool; \
                     echo 5 > /sys/module/dm_thin_pool/parameters/no_space_timeout; \
                     stower agent --data-root /data/stower --storage-driver devicemapper \
                     --storage-opt dm.directlvm_device=/dev/disk/by-id/pool --storage-opt dm.blkdiscard=true \
                     --storage-opt dm.basesize=256M >>/var/log/stower.log 2>&1 </dev/null & echo $! > /run/agent.pid";

/// It reads and writes nothing but its log.
const TICKER: &str = "i=0; while :; do i=$((i+1)); echo tick $i; sleep 1; done";
/// It writes to its own layer, and has it on the disk.
const WRITER: &str = "i=0; while :; do i=$((i+1)); echo $i | dd of=/own conv=fsync 2>/dev/null && echo wrote $i || \
                      echo failed $i; sleep 1; done";
/// It fills the pool, and then waits.
const FILLER: &str = "n=0; while why=$(dd if=/dev/zero of=/fill$n bs=1M count=4 conv=fsync 2>&1); do n=$((n+1)); done; \
                      echo told: $why; while :; do sleep 60; done";
const LATE: &str = "echo here; while :; do sleep 60; done";

struct Guest {
    vm: Vm,
    curl: String,
}

impl Guest {
    fn boot() -> Result<Self> {
        let catalog = Catalog::get()?;
        let image = catalog::busybox()?;
        let mirror = Mirror::new()?;
        mirror.add_program_as(&node::binary()?, "/usr/bin/stower")?;
        mirror.add(&catalog.tools.path)?;
        mirror.add(&image.layout)?;
        let folders = vec![("mirror".to_owned(), mirror.path().to_owned())];
        let disks = vec![("pool".to_owned(), 192 << 20)];
        let mut vm = Vm::boot(VmOptions { folders, disks, memory: 1536, ..VmOptions::default() })?;
        let mut curl = catalog.tools.command("usr/bin/curl")?;
        curl.args(["-sS", "--max-time", "20", "--unix-socket", "/run/stower/stower.sock"]);
        vm.ok("cp -a /host/mirror/. /")?;
        vm.ok(AGENT)?;
        let mut guest = Self { vm, curl: words(&curl)? };
        guest.wait("stower get containers", "")?;
        guest.vm.ok(&format!("stower image import {} localhost/busybox:1", image.layout.display()))?;
        Ok(guest)
    }

    fn declare(&mut self, name: &str, script: &str) -> Result<()> {
        let text = format!(
            "apiVersion: stower.dev/v1alpha1\nkind: Container\nmetadata: {{name: {name}}}\nspec:\n  image: \
             localhost/busybox:1\n  command: [sh, -c, {script:?}]\n  terminationGracePeriodSeconds: 1\n"
        );
        self.vm.write(&format!("/etc/stower/manifests/{name}.yaml"), 0o644, text.as_bytes())
    }

    fn withdraw(&mut self, name: &str) -> Result<()> {
        self.vm.ok(&format!("rm /etc/stower/manifests/{name}.yaml")).map(drop)
    }

    /// What a command says that must answer soon, whatever hangs below.
    fn ask(&mut self, command: &str) -> Result<String> {
        let output = self.vm.run(&["sh", "-c", command], Duration::from_secs(30))?;
        ensure!(output.code == 0, "`{command}` ended with {}: {}", output.code, output.text);
        Ok(output.text.trim().to_owned())
    }

    /// Runs a command until it succeeds and says what is wanted; how long that took.
    fn wait(&mut self, command: &str, wanted: &str) -> Result<Duration> {
        let begin = Instant::now();
        loop {
            let output = self.vm.run(&["sh", "-c", command], PATIENCE)?;
            if output.code == 0 && output.text.contains(wanted) {
                return Ok(begin.elapsed());
            }
            if begin.elapsed() > PATIENCE {
                let told = "stower get containers -o yaml; stower events; tail -40 /var/log/stower.log; dmesg | tail -20";
                let story = self.vm.run(&["sh", "-c", told], PATIENCE)?.text;
                bail!("`{command}` does not say {wanted:?} but {:?}\n{story}", output.text);
            }
        }
    }

    /// The last line of a container's log.
    fn said(&mut self, name: &str) -> Result<String> {
        self.ask(&format!("stower logs {name} | tail -1"))
    }

    /// Waits for another last line.
    fn goes_on(&mut self, name: &str) -> Result<()> {
        let before = self.said(name)?;
        let begin = Instant::now();
        while self.said(name)? == before {
            ensure!(begin.elapsed() < PATIENCE, "{name} stays at {before:?}");
        }
        Ok(())
    }

    fn pressure(&mut self) -> Result<String> {
        let command =
            format!("{} http://stower/metrics | grep '^stower_storage_pressure.* 1$' || true", self.curl);
        self.ask(&command)
    }

    /// Why a container waits.
    fn waits(&mut self, name: &str) -> Result<String> {
        let item = self.ask(&format!("stower get container {name} -o json"))?;
        let item: serde_json::Value = serde_json::from_str(&item)?;
        let waiting = &item["status"]["state"]["waiting"];
        Ok(format!(
            "{}: {}",
            waiting["reason"].as_str().unwrap_or("-"),
            waiting["message"].as_str().unwrap_or("-")
        ))
    }
}

#[test]
fn an_agent_goes_on_over_a_pool_that_is_suspended_and_one_that_is_full() -> Result<()> {
    let mut guest = Guest::boot()?;
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
