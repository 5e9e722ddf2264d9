//! Power cuts, in a machine of their own.
//!
//! ```text
//!  work (a test program of storage, one of the agent) ──► filesystem ──► dm-log-writes ──► disk
//!     └──► marks: "this is certain from now on" ──────────────────────────────┤
//!                                                                             ▼ log
//!  replay: chosen cuts ──► a copy of the disk as each would leave it ──► mount, start, verify
//!
//!  kills: the same work, the emulator killed in the middle of it, the machine switched on, start, verify
//! ```
//!
//! Everything below the data root is recorded: the filesystem's own tables, and what lies in files of it that are disks themselves.

mod cuts;
mod replay;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

pub use self::replay::{Look, Replay};
use crate::vm::{Mirror, Tests};
use crate::{Vm, VmOptions, catalog};

/// The exit code of `replay` where something was wrong after a cut.
pub const FOUND: u8 = 3;
/// Where the disk with the data root is mounted in the guest.
const MOUNT: &str = "/cut";
/// Where the programs are.
const PROGRAMS: &str = "/host/programs";
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

    fn beside(&self) -> String {
        format!("/var/tmp/powercut-{}-{}", self.driver, self.seed)
    }

    fn environment(&self, what: &str) -> Vec<(String, String)> {
        let root = format!("{MOUNT}/root");
        let (beside, seed, rounds) = (self.beside(), self.seed.to_string(), self.rounds.to_string());
        let mut all = vec![
            ("POWERCUT_DO", what),
            ("POWERCUT_ROOT", &root),
            ("POWERCUT_BESIDE", &beside),
            ("POWERCUT_DRIVER", &self.driver),
            ("POWERCUT_SEED", &seed),
            ("POWERCUT_ROUNDS", &rounds),
        ];
        if let Some(name) = self.left_out.as_deref().filter(|_| what == "work") {
            all.push(("STOWER_FAILPOINT", name));
        }
        all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn look(&self, name: &str) -> Look {
        Look { command: program(name), environment: self.environment("verify") }
    }

    /// For a shell; nothing in it needs quotes but the mark.
    fn command(&self, name: &str, what: &str, mark: &str) -> String {
        let mut words = vec!["env".to_owned(), format!("POWERCUT_MARK='{mark}'")];
        words.extend(self.environment(what).into_iter().map(|(name, value)| format!("{name}={value}")));
        words.extend(program(name));
        words.join(" ")
    }
}

/// The test `program` of a test program.
fn program(name: &str) -> Vec<String> {
    [&format!("{PROGRAMS}/{name}"), "program", "--exact", "--nocapture"].map(str::to_owned).to_vec()
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
    _programs: Mirror,
}

impl PowerCuts {
    /// Builds the test programs and boots.
    pub fn boot() -> Result<Self> {
        let programs = Mirror::new()?;
        for (package, name) in [("stower-storage", STORAGE), ("stower", JOURNAL)] {
            let tests = Tests::build(&["-p", package, "--test", "powercut"])?;
            let (_, path) = tests.programs.first().context("no test program")?;
            programs.add_program_as(path, &format!("/{name}"))?;
        }
        programs.add_program_as(&catalog::own_program("replay")?, "/replay")?;
        let disks = [("data", DISK), ("log", LOG), ("copy", DISK), ("scratch", SCRATCH)];
        let options = VmOptions {
            disks: disks.map(|(name, size)| (name.to_owned(), size)).to_vec(),
            folders: vec![("programs".to_owned(), programs.path().to_owned())],
            show: true,
            ..VmOptions::default()
        };
        let mut vm = Vm::boot(options)?;
        vm.ok("modprobe -a dm-log-writes dm-snapshot dm-thin-pool loop overlay")?;
        Ok(Self { vm, _programs: programs })
    }

    /// Does the work on a new filesystem, and leaves the log of it.
    pub fn record(&mut self, work: &Work) -> Result<()> {
        let filesystem = work.filesystem();
        let mkfs = match filesystem {
            "ext4" => "mkfs.ext4 -q -F -E nodiscard -J size=16",
            _ => "mkfs.btrfs -q -f -K",
        };
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
            {PROGRAMS}/replay mark log begin",
            beside = work.beside(),
        ))?;
        let mark = format!("{PROGRAMS}/replay mark log");
        let both = format!(
            "{} & {} && wait $!",
            work.command(JOURNAL, "work", &mark),
            work.command(STORAGE, "work", &mark)
        );
        let output = self.vm.run(&["sh", "-c", &both], WORK_LIMIT)?;
        ensure!(output.code == 0, "the work ended with {}:\n{}", output.code, output.text);
        // What the driver has made goes, as it would with the power; then the log's end is written.
        self.vm.ok(&format!(
            "for try in $(seq 100); do umount {MOUNT} 2>/dev/null && break; sleep 0.1; done
            ! mountpoint -q {MOUNT} && dmsetup remove log"
        ))?;
        Ok(())
    }

    /// Cuts the recorded work so many times, until `enough` cuts had something wrong.
    pub fn replay(&mut self, work: &Work, count: usize, seed: u64, enough: usize) -> Result<Found> {
        let disk = |name: &str| PathBuf::from(format!("/dev/disk/by-id/{name}"));
        let replay = Replay {
            log: disk("log"),
            copy: disk("copy"),
            scratch: disk("scratch"),
            filesystem: work.filesystem().to_owned(),
            mount: MOUNT.into(),
            looks: vec![work.look(STORAGE), work.look(JOURNAL)],
            count,
            seed,
            enough,
        };
        let text = serde_json::to_string(&replay)?;
        // The emulator takes a second and more for each.
        let limit = Duration::from_secs(60 + 20 * u64::try_from(count)?);
        let output = self.vm.run(&[&format!("{PROGRAMS}/replay"), "cuts", &text], limit)?;
        let wrong = match u8::try_from(output.code).context("an odd exit code")? {
            0 => false,
            FOUND => true,
            code => anyhow::bail!("replay ended with {code}:\n{}", output.text),
        };
        Ok(Found { wrong, text: output.text })
    }
}
