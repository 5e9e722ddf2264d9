//! The replay of a log in the guest: to each cut, and there a look at what is left.
//!
//! ```text
//!  log ──► entries, one by one ──► the copy of the disk
//!                                        ▲ below
//!                     at each cut:   a snapshot that keeps what the look writes ──► mount ──► the looks ──► dropped
//! ```

use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, UnmountFlags};
use serde::{Deserialize, Serialize};

use super::cuts::{self, Cut};
use crate::log_writes::{Log, flag};
use crate::{dm, process};

/// The device of the snapshot.
const SNAPSHOT: &str = "cut";
/// What a filesystem that is still busy may take to be let go: deleting threads, loop devices.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the guest is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Replay {
    /// The log.
    pub log: PathBuf,
    /// A disk of the recorded one's size, all zeros.
    pub copy: PathBuf,
    /// A disk for what is written after a cut.
    pub scratch: PathBuf,
    /// What is on the recorded disk.
    pub filesystem: String,
    /// Where it is mounted for the looks; where it was mounted for the work.
    pub mount: PathBuf,
    /// Commands that fail where something is wrong.
    pub looks: Vec<Look>,
    /// How many cuts.
    pub count: usize,
    /// What they are chosen by.
    pub seed: u64,
    /// After how many cuts with something wrong to give up.
    pub enough: usize,
}

/// A command that looks at what a cut has left.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Look {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Its environment. What is certain is added as `POWERCUT_MUST`.
    pub environment: Vec<(String, String)>,
}

impl Replay {
    /// Does it, tells each cut on standard output, and gives the number of cuts with something wrong.
    ///
    /// # Errors
    /// When the machine does not do its part; whatever the cut disk does is no error.
    pub fn run(&self) -> Result<usize> {
        let log = File::open(&self.log).with_context(|| format!("open {}", self.log.display()))?;
        let log = Log::open(log).with_context(|| format!("read {}", self.log.display()))?;
        let flushes = log.entries.iter().filter(|entry| entry.has(flag::FLUSH | flag::FUA)).count();
        let marks = log.entries.iter().filter(|entry| entry.mark.is_some()).count();
        let cuts = cuts::choose(&log.entries, self.count, self.seed);
        println!(
            "{} entries, {flushes} of them flushes, {marks} marks; {} cuts by seed {}",
            log.entries.len(),
            cuts.len(),
            self.seed
        );
        fs::create_dir_all(&self.mount)?;
        let mut copy = File::options().read(true).write(true).open(&self.copy).context("open the copy")?;
        let sectors = copy.seek(SeekFrom::End(0))? / 512;
        let (mut done, mut wrong) = (0, 0);
        for cut in &cuts {
            for entry in &log.entries[done..cut.after] {
                log.replay(entry, &copy)?;
            }
            done = cut.after;
            // The snapshot reads the disk past the cache of this file.
            copy.sync_data()?;
            let marks = log.entries[..done].iter().filter_map(|entry| entry.mark.as_deref());
            let must = cuts::certain(marks);
            let start = Instant::now();
            let found = self.look(sectors, &must)?;
            let Cut { after, moment } = cut;
            let (seconds, must) = (start.elapsed().as_secs_f64(), must.len());
            match found {
                None => println!("cut after {after} ({moment:?}), {must} certain: well, {seconds:.2} s"),
                Some(text) => {
                    println!("cut after {after} ({moment:?}), {must} certain: WRONG, {seconds:.2} s\n{text}");
                    wrong += 1;
                }
            }
            if wrong >= self.enough {
                println!("that is enough");
                break;
            }
        }
        println!("{} cuts, {wrong} with something wrong", cuts.len());
        Ok(wrong)
    }

    /// What is wrong after the cut.
    fn look(&self, sectors: u64, must: &[&str]) -> Result<Option<String>> {
        let table = format!("{} {} N 8", self.copy.display(), self.scratch.display());
        let device = dm::create(SNAPSHOT, sectors, "snapshot", &table)?;
        let mounted = rustix::mount::mount(
            &device,
            &self.mount,
            self.filesystem.as_str(),
            MountFlags::NOATIME,
            None::<&std::ffi::CStr>,
        );
        let found = match mounted {
            Err(error) => Some(format!("the filesystem cannot be mounted: {error}")),
            Ok(()) => {
                let found = self.looks.iter().map(|look| look.wrong(must)).collect::<Result<Vec<_>>>()?;
                until(|| {
                    // What a driver has made on it.
                    dm::remove_others(&[SNAPSHOT])?;
                    rustix::mount::unmount(&self.mount, UnmountFlags::empty()).map_err(Into::into)
                })
                .context("unmount what the looks were at")?;
                let found: String = found.into_iter().flatten().collect();
                (!found.is_empty()).then_some(found)
            }
        };
        until(|| dm::remove(SNAPSHOT)).context("drop the snapshot")?;
        Ok(found)
    }
}

impl Look {
    fn wrong(&self, must: &[&str]) -> Result<Option<String>> {
        let (program, arguments) = self.command.split_first().context("no command")?;
        let mut command = Command::new(program);
        command.args(arguments).envs(self.environment.iter().cloned());
        command.env("POWERCUT_MUST", must.join(" ")).stdin(Stdio::null());
        let output = command.output().with_context(|| format!("run {program}"))?;
        if output.status.success() {
            return Ok(None);
        }
        let text = [output.stdout, output.stderr].concat();
        Ok(Some(format!("{}: {}", output.status, process::tail(&String::from_utf8_lossy(&text), 30))))
    }
}

/// Again and again while it fails: the last holder of a filesystem may be a thread that is about to end.
fn until(mut attempt: impl FnMut() -> Result<()>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
            Ok(()) => return Ok(()),
        }
    }
}
