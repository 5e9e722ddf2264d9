//! The replay of a log: to each cut, and there a look at what is left.
//!
//! ```text
//!  log ──► entries, one by one ──► the copy of the disk
//!                                        ▲ below
//!                     at each cut:   what keeps what the look writes (ground) ──► mount ──► the looks ──► dropped
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::cuts::{self, Cut};
use super::ground::Ground;
use crate::log_writes::{Log, flag};
use crate::process;

/// What a look begins a line of numbers with: `FIGURES NAME=NUMBER …`.
pub(super) const FIGURES: &str = "FIGURES ";

/// What is to be done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Replay {
    /// The log.
    pub log: PathBuf,
    /// Where the cuts are looked at.
    pub ground: Ground,
    /// What is on the recorded disk.
    pub filesystem: String,
    /// Where it is mounted for the looks.
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
    /// Its environment. What is certain is added as `POWERCUT_MUST`, what is only begun as `POWERCUT_BEGUN`.
    pub environment: Vec<(String, String)>,
}

/// Numbers that the looks have told, added up by name.
#[derive(Debug, Default)]
pub(super) struct Figures(BTreeMap<String, u64>);

impl Figures {
    pub(super) fn one(&mut self, name: &str) {
        *self.0.entry(name.to_owned()).or_default() += 1;
    }

    /// Takes what a look has printed.
    pub(super) fn take(&mut self, printed: &str) {
        // The test's own line may begin before it.
        let lines = printed.lines().filter_map(|line| Some(line.split_once(FIGURES)?.1));
        for (name, number) in lines.flat_map(str::split_whitespace).filter_map(|word| word.split_once('=')) {
            *self.0.entry(name.to_owned()).or_default() += number.parse::<u64>().unwrap_or(0);
        }
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all: Vec<String> = self.0.iter().map(|(name, number)| format!("{number} {name}")).collect();
        f.write_str(&all.join(", "))
    }
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
        let copy = self.ground.open()?;
        fs::create_dir_all(&self.mount)?;
        let (mut done, mut wrong, mut looked) = (0, 0, 0);
        let (mut steps, mut figures) = (Figures::default(), Figures::default());
        for cut in &cuts {
            for entry in &log.entries[done..cut.after] {
                log.replay(entry, &copy)?;
            }
            done = cut.after;
            let marks: Vec<&str> =
                log.entries[..done].iter().filter_map(|entry| entry.mark.as_deref()).collect();
            let known = Known::of(&marks);
            steps.one(cuts::step(marks.into_iter()));
            let start = Instant::now();
            let found = self.ground.look(&copy, &self.filesystem, &self.mount, || {
                let found = self.looks.iter().map(|look| look.wrong(&known, &mut figures));
                let found: String = found.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
                Ok((!found.is_empty()).then_some(found))
            })?;
            looked += 1;
            let Cut { after, moment } = cut;
            let (seconds, must) = (start.elapsed().as_secs_f64(), known.certain.len());
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
        println!("in the middle of: {steps}");
        println!("{looked} cuts: {figures}; {wrong} with something wrong");
        Ok(wrong)
    }
}

/// What is known by the time of a cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// What must be there.
    pub(super) certain: Vec<String>,
    /// What may be.
    pub(super) begun: Vec<String>,
}

impl Known {
    pub(super) fn of(marks: &[&str]) -> Self {
        let texts = |all: Vec<&str>| all.into_iter().map(str::to_owned).collect();
        Self {
            certain: texts(cuts::certain(marks.iter().copied())),
            begun: texts(cuts::begun(marks.iter().copied())),
        }
    }

    /// For the environment of a look.
    pub(super) fn environment(&self) -> [(&'static str, String); 2] {
        [("POWERCUT_MUST", self.certain.join(" ")), ("POWERCUT_BEGUN", self.begun.join(" "))]
    }
}

impl Look {
    fn wrong(&self, known: &Known, figures: &mut Figures) -> Result<Option<String>> {
        let (program, arguments) = self.command.split_first().context("no command")?;
        let mut command = Command::new(program);
        command.args(arguments).envs(self.environment.iter().cloned());
        command.envs(known.environment()).stdin(Stdio::null());
        let output = command.output().with_context(|| format!("run {program}"))?;
        figures.take(&String::from_utf8_lossy(&output.stdout));
        if output.status.success() {
            return Ok(None);
        }
        let text = [output.stdout, output.stderr].concat();
        Ok(Some(format!("{}: {}", output.status, process::tail(&String::from_utf8_lossy(&text), 30))))
    }
}
