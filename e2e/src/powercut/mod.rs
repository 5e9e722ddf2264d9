//! Power cuts, in a machine of their own.
//!
//! ```text
//!  work (a test program of storage, one of the agent) ──► filesystem ──► dm-log-writes ──► disk
//!     └──► marks: "this is certain from now on" ──────────────────────────────┤
//!                                                                             ▼ log
//!  replay: chosen cuts ──► a copy of the disk as each would leave it ──► mount, start, verify
//!           (in the machine, or on this one, which is many times faster but has no device-mapper)
//!
//!  kills: the same work, the emulator killed in the middle of it, the machine switched on, start, verify
//! ```
//!
//! Everything below the data root is recorded: the filesystem's own tables, and what lies in files of it that are disks themselves.

mod cuts;
mod ground;
mod kept;
mod kills;
mod replay;
mod tell;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

pub use self::ground::Ground;
pub use self::kept::Kept;
pub use self::kills::{Killed, Kills};
pub use self::replay::{Look, Replay};
pub use self::tell::{tell, told};
use crate::vm::{Mirror, Tests};
use crate::{Vm, VmOptions, catalog, node};

/// The exit code of `replay` where something was wrong after a cut.
pub const FOUND: u8 = 3;
/// Where the disk with the data root is mounted in the guest.
const MOUNT: &str = "/cut";
/// Where the programs are.
const PROGRAMS: &str = "/host/programs";
/// How `replay` is told to put marks into the log.
const MARK: &str = "mark log";
/// The two that have the work and the look at its remains, in a test `program`.
const STORAGE: &str = "storage";
const JOURNAL: &str = "journal";
/// Bytes of the recorded disk. What is below is sparse.
const DISK: u64 = 1 << 30;
/// Bytes of the log: all that is written, and a block for each write.
const LOG: u64 = 8 << 30;
const SCRATCH: u64 = 1 << 30;
/// How long the recorded work may take.
const WORK_LIMIT: Duration = Duration::from_secs(300);

/// What is done while the power is there.
#[derive(Clone, Debug)]
pub struct Work {
    /// The storage driver.
    pub driver: String,
    /// What is done.
    pub seed: u64,
    /// How often.
    pub rounds: u64,
    /// A sync that is left out on purpose: a `skip.sync.*` of `STOWER_FAILPOINT`.
    pub left_out: Option<String>,
}

impl Work {
    /// The filesystem that the driver is tried on.
    fn filesystem(&self) -> &'static str {
        if self.driver == "btrfs" { "btrfs" } else { "ext4" }
    }

    /// What makes it.
    fn mkfs(&self) -> &'static str {
        match self.filesystem() {
            "ext4" => "mkfs.ext4 -q -F -E nodiscard -J size=16",
            _ => "mkfs.btrfs -q -f -K",
        }
    }

    /// Both kinds of work, for a shell, until both have ended.
    fn both(&self, place: &Place) -> String {
        format!("{} & {} && wait $!", self.command(JOURNAL, place, MARK), self.command(STORAGE, place, MARK))
    }

    fn environment(&self, what: &str, place: &Place) -> Vec<(String, String)> {
        let root = format!("{}/root", place.mount);
        let (seed, rounds) = (self.seed.to_string(), self.rounds.to_string());
        let mut all = vec![
            ("POWERCUT_DO", what),
            ("POWERCUT_ROOT", &root),
            ("POWERCUT_BESIDE", &place.beside),
            ("POWERCUT_DRIVER", &self.driver),
            ("POWERCUT_SEED", &seed),
            ("POWERCUT_ROUNDS", &rounds),
        ];
        if let Some(name) = self.left_out.as_deref().filter(|_| what == "work") {
            all.push(("STOWER_FAILPOINT", name));
        }
        all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn look(&self, name: &str, place: &Place) -> Look {
        Look { command: program(PROGRAMS, name), environment: self.environment("verify", place) }
    }

    /// For a shell; nothing in it needs quotes but the mark.
    fn command(&self, name: &str, place: &Place, mark: &str) -> String {
        let mut words = vec!["env".to_owned(), format!("POWERCUT_MARK='{PROGRAMS}/replay {mark}'")];
        words.extend(
            self.environment("work", place).into_iter().map(|(name, value)| format!("{name}={value}")),
        );
        words.extend(program(PROGRAMS, name));
        words.join(" ")
    }
}

/// Where a work is done.
#[derive(Clone, Debug)]
struct Place {
    /// Where the disk with the data root is mounted.
    mount: String,
    /// A folder on another disk.
    beside: String,
}

/// The test programs and what they need, for `/host/programs`.
fn programs() -> Result<Mirror> {
    let programs = Mirror::new()?;
    for (package, name) in [("stower-storage", STORAGE), ("stower", JOURNAL)] {
        let tests = Tests::build(&["-p", package, "--test", "powercut"])?;
        let (_, path) = tests.programs.first().context("no test program")?;
        programs.add_program_as(path, &format!("/{name}"))?;
    }
    programs.add_program_as(&catalog::own_program("replay")?, "/replay")?;
    programs.add_program_as(&node::binary()?, "/stower")?;
    std::fs::write(programs.place("/agent.sh".as_ref())?, include_str!("agent.sh"))?;
    Ok(programs)
}

/// The test `program` of a test program.
fn program(programs: &str, name: &str) -> Vec<String> {
    [&format!("{programs}/{name}"), "program", "--exact", "--nocapture"].map(str::to_owned).to_vec()
}

/// What says on what disk the agent is.
fn agents_work() -> Work {
    Work { driver: "agent".to_owned(), seed: 0, rounds: 0, left_out: None }
}

/// Where the recorded disk is.
fn place(work: &Work) -> Place {
    Place { mount: MOUNT.to_owned(), beside: format!("/var/tmp/powercut-{}-{}", work.driver, work.seed) }
}

/// A command of `agent.sh`, for a shell.
fn agent_program(what: &str, mount: &str) -> String {
    format!("sh {PROGRAMS}/agent.sh {what} {mount}/agent")
}

/// Whether a replay that ended so has found something wrong.
fn verdict(code: Option<i32>, text: String) -> Result<Found> {
    match code.map(u8::try_from) {
        Some(Ok(0)) => Ok(Found { wrong: false, text }),
        Some(Ok(FOUND)) => Ok(Found { wrong: true, text }),
        _ => bail!("replay ended with {code:?}:\n{text}"),
    }
}

/// What a replay has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Whether anything was wrong after a cut.
    pub wrong: bool,
    /// All that it told.
    pub text: String,
}

/// The machine, with what it needs.
#[derive(Debug)]
pub struct PowerCuts {
    vm: Vm,
    programs: Arc<Mirror>,
}

impl PowerCuts {
    /// Builds the test programs and boots.
    pub fn boot() -> Result<Self> {
        let programs = programs()?;
        let disks = [("data", DISK), ("log", LOG), ("copy", DISK), ("scratch", SCRATCH)];
        let options = VmOptions {
            disks: disks.map(|(name, size)| (name.to_owned(), size)).to_vec(),
            folders: vec![("programs".to_owned(), programs.path().to_owned())],
            show: true,
            ..VmOptions::default()
        };
        let mut vm = Vm::boot(options)?;
        vm.ok("modprobe -a dm-log-writes dm-snapshot dm-thin-pool loop overlay btrfs")?;
        Ok(Self { vm, programs: Arc::new(programs) })
    }

    /// Does the work on a new filesystem, and leaves the log of it.
    pub fn record(&mut self, work: &Work) -> Result<()> {
        let place = place(work);
        self.begin(work.filesystem(), work.mkfs(), &place)?;
        self.log(&work.both(&place))
    }

    /// Has the agent itself told of so many containers and holds on a new filesystem, and leaves the log of it.
    pub fn record_agent(&mut self, containers: u64, left_out: Option<&str>) -> Result<()> {
        let (work, place) = (agents_work(), place(&agents_work()));
        self.begin(work.filesystem(), work.mkfs(), &place)?;
        let [start, tell, stop] = ["start", "work", "stop"].map(|what| agent_program(what, MOUNT));
        // What is to be found is what was told, so the start is left out then.
        let start = match left_out {
            Some(name) => {
                format!("export STOWER_FAILPOINT={name}; {start} && {PROGRAMS}/replay {MARK} begin")
            }
            None => start,
        };
        self.log(&format!("{start} && {tell} {containers} {MARK}; told=$?; {stop}; exit $told"))
    }

    /// Makes and mounts a new filesystem whose writes are logged.
    fn begin(&mut self, filesystem: &str, mkfs: &str, place: &Place) -> Result<()> {
        // The disks begin with zeros: the log has what came to them since.
        self.vm.ok(&format!(
            "set -e
            for disk in data copy log; do blkdiscard -f /dev/disk/by-id/$disk; done
            dmsetup create log --table \"0 $(blockdev --getsz /dev/disk/by-id/data) log-writes \\
                $(realpath /dev/disk/by-id/data) $(realpath /dev/disk/by-id/log)\"
            dmsetup mknodes
            {mkfs} /dev/mapper/log
            mkdir -p {MOUNT} {beside}
            mount -t {filesystem} /dev/mapper/log {MOUNT}
            {PROGRAMS}/replay {MARK} begin",
            beside = place.beside,
        ))?;
        Ok(())
    }

    /// Runs the script to its end, and ends the log.
    fn log(&mut self, script: &str) -> Result<()> {
        let output = self.vm.run(&["sh", "-c", script], WORK_LIMIT)?;
        ensure!(output.code == 0, "the work ended with {}:\n{}", output.code, output.text);
        self.vm.ok(&format!(
            "for try in $(seq 100); do umount {MOUNT} 2>/dev/null && break; sleep 0.1; done
            ! mountpoint -q {MOUNT} && dmsetup remove log"
        ))?;
        Ok(())
    }

    /// Cuts the recorded work so many times, until `enough` cuts had something wrong.
    pub fn replay(&mut self, work: &Work, count: usize, seed: u64, enough: usize) -> Result<Found> {
        let place = place(work);
        let looks = vec![work.look(STORAGE, &place), work.look(JOURNAL, &place)];
        self.look(work.filesystem(), looks, count, seed, enough)
    }

    /// Takes the recorded work out of the machine, for drivers that need no device-mapper.
    pub fn keep(&mut self, work: &Work) -> Result<Kept> {
        Kept::take(&mut self.vm, work, &place(work).beside, &self.programs)
    }

    /// Cuts what the agent was told so many times.
    pub fn replay_agent(&mut self, count: usize, seed: u64, enough: usize) -> Result<Found> {
        let command = agent_program("look", MOUNT).split(' ').map(str::to_owned).collect();
        let looks = vec![Look { command, environment: Vec::new() }];
        self.look(agents_work().filesystem(), looks, count, seed, enough)
    }

    fn look(
        &mut self,
        filesystem: &str,
        looks: Vec<Look>,
        count: usize,
        seed: u64,
        enough: usize,
    ) -> Result<Found> {
        let disk = |name: &str| PathBuf::from(format!("/dev/disk/by-id/{name}"));
        let replay = Replay {
            log: disk("log"),
            ground: Ground::Machine { copy: disk("copy"), scratch: disk("scratch") },
            filesystem: filesystem.to_owned(),
            mount: MOUNT.into(),
            looks,
            count,
            seed,
            enough,
        };
        let text = serde_json::to_string(&replay)?;
        // The emulator takes a second and more for each.
        let limit = Duration::from_secs(60 + 20 * u64::try_from(count)?);
        let output = self.vm.run(&[&format!("{PROGRAMS}/replay"), "cuts", &text], limit)?;
        verdict(Some(output.code), output.text)
    }
}
