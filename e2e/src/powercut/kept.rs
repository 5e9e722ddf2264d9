//! Recorded work that was taken out of its machine, to be replayed on this one.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::{DISK, Found, Ground, JOURNAL, Look, Place, Replay, STORAGE, Work, program, verdict};
use crate::Vm;
use crate::process;
use crate::vm::Mirror;

/// The log of a work, and what the work had beside it. It outlives the machine.
#[derive(Debug)]
pub struct Kept {
    work: Work,
    programs: Arc<Mirror>,
    folder: TempDir,
}

impl Kept {
    /// Takes the machine's log, which is complete, and the folder `beside` of the guest.
    pub(super) fn take(vm: &mut Vm, work: &Work, beside: &str, programs: &Arc<Mirror>) -> Result<Self> {
        ensure!(
            work.driver != "devicemapper",
            "devicemapper is replayed in the machine: this one may lack it"
        );
        let folder = tempfile::Builder::new().prefix("stower-powercut-").tempdir_in("/var/tmp")?;
        let kept = Self { work: work.clone(), programs: Arc::clone(programs), folder };
        for name in ["beside", "memory", "cut"] {
            std::fs::create_dir(kept.path(name))?;
        }
        vm.ok(&format!("tar -C {beside} -cf /var/tmp/beside.tar . && sync"))?;
        let archive = kept.path("beside.tar");
        std::fs::write(&archive, vm.pull("/var/tmp/beside.tar")?)?;
        let to = kept.path("beside");
        process::run("tar", ["-C".as_ref(), to.as_os_str(), "-xf".as_ref(), archive.as_os_str()])?;
        let log = vm.disk("log").context("a machine without a log")?;
        process::run("cp", [Path::new("--sparse=always"), &log, &kept.path("log")])?;
        Ok(kept)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Cuts the work so many times, until `enough` cuts had something wrong. This machine's kernel mounts what a cut has left.
    pub fn replay(&self, count: usize, seed: u64, enough: usize) -> Result<Found> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let here = Place { mount: text(&self.path("cut")), beside: text(&self.path("beside")) };
        let programs = text(self.programs.path());
        let look = |name: &str| Look {
            command: program(&programs, name),
            environment: self.work.environment("verify", &here),
        };
        let replay = Replay {
            log: self.path("log"),
            ground: Ground::Memory { folder: self.path("memory"), size: DISK },
            filesystem: self.work.filesystem().to_owned(),
            mount: self.path("cut"),
            looks: vec![look(STORAGE), look(JOURNAL)],
            count,
            seed,
            enough,
        };
        // Mounts of its own: nobody else sees the disks, and they go with it.
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "--"]).arg(self.programs.path().join("replay"));
        command.arg("cuts").arg(serde_json::to_string(&replay)?);
        let mut command = process::dies_with_us(&command);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = process::spawn_from_lasting_thread(command)?;
        let mut text = String::new();
        for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
            let line = line?;
            println!("{line}");
            text.extend([line.as_str(), "\n"]);
        }
        verdict(child.wait()?.code(), text)
    }
}
