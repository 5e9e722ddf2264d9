//! Power cuts of the machine itself: it is killed in the middle of the work.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::cuts::{self, Random};
use super::replay::{Figures, Known};
use super::{JOURNAL, Place, STORAGE, Work, agent_program, programs};
use crate::vm::Mirror;
use crate::{Vm, VmOptions};

/// Bytes of a disk with a data root.
const DISK: u64 = 2 << 30;
/// The disk of what is beside the data roots: what is written there is there at once.
const BESIDE: &str = "/beside";
/// What works beside the drivers.
const AGENT: &str = "agent";
/// How long a look may take in the emulator.
const LOOK_LIMIT: Duration = Duration::from_secs(180);
/// How long the power may stay, in milliseconds, after all have got somewhere.
const WORK_TIME: u64 = 4000;
/// How long getting somewhere may take.
const BEGIN_LIMIT: Duration = Duration::from_secs(400);

/// What a cut of the machine was in the middle of, and what is wrong since.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Killed {
    /// Each driver, and `agent`, with the step that its work was at. All were at work, and each had promised something since
    /// the machine was switched on.
    pub steps: Vec<(String, String)>,
    /// What is wrong, a text for each work.
    pub wrong: Vec<String>,
}

/// A machine in which works are done side by side, each on a disk of its own, and the agent on that of the first.
#[derive(Debug)]
pub struct Kills {
    vm: Vm,
    works: Vec<Work>,
    random: Random,
    _programs: Mirror,
}

impl Kills {
    /// Boots, and makes the disks. The works are done until the power fails, whatever their `rounds`.
    pub fn boot(works: &[Work], seed: u64) -> Result<Self> {
        let programs = programs()?;
        let works: Vec<Work> = works.iter().map(|work| Work { rounds: 0, ..work.clone() }).collect();
        let mut disks = vec![("beside".to_owned(), DISK)];
        disks.extend(works.iter().map(|work| (work.driver.clone(), DISK)));
        let folders = vec![("programs".to_owned(), programs.path().to_owned())];
        let mut vm = Vm::boot(VmOptions { memory: 1536, disks, folders, ..VmOptions::default() })?;
        for work in &works {
            vm.ok(&format!("{} /dev/disk/by-id/{}", work.mkfs(), work.driver))?;
        }
        vm.ok("mkfs.ext4 -q -F /dev/disk/by-id/beside")?;
        vm.ok(&format!(
            "mkdir -p {BESIDE} && mount /dev/disk/by-id/beside {BESIDE} && mkdir {BESIDE}/marks"
        ))?;
        for (driver, name) in parts(&works) {
            vm.ok(&format!("touch {}", marks_of(&driver, name)))?;
        }
        vm.ok(&format!("umount {BESIDE}"))?;
        let mut kills = Self { vm, works, random: Random(seed), _programs: programs };
        kills.mount()?;
        Ok(kills)
    }

    /// Works, cuts the power in the middle of it, switches on again, and looks.
    pub fn cut(&mut self) -> Result<Killed> {
        // The agent begins first, as it has to be ready.
        let mut script = format!("set -e; {}; rm -f /run/ended-*\n", agent("start", &self.works));
        let mut begin = |driver: &str, name: &str, work: &str| {
            script += &format!(
                "( {work}; touch /run/ended-{driver}-{name} ) >/var/log/work-{driver}-{name} 2>&1 &\n"
            );
        };
        for work in &self.works {
            for name in [STORAGE, JOURNAL] {
                let mark = format!("note {}", marks_of(&work.driver, name));
                begin(&work.driver, name, &work.command(name, &place(work), &mark));
            }
        }
        let tell = format!("{} 0 note {}", agent("work", &self.works), marks_of(AGENT, AGENT));
        begin(AGENT, AGENT, &tell);
        // Promises, not marks of what is begun.
        let count = format!("grep -c '^+' {BESIDE}/marks/*");
        self.vm.ok(&format!("{count} >/run/before; true"))?;
        let output = self.vm.run(&["sh", "-c", &script], LOOK_LIMIT)?;
        ensure!(output.code == 0, "the work does not begin:\n{}", output.text);
        // Every work is to have promised something since, so that there is something to lose.
        let begun = format!("until ! {count} | grep -qxFf /run/before; do sleep 0.2; done");
        let output = self.vm.run(&["sh", "-c", &begun], BEGIN_LIMIT);
        let told = "tail -n 20 /var/log/work-* /var/log/agent.log; tail -n 2 /beside/marks/*";
        ensure!(output.is_ok_and(|it| it.code == 0), "a work gets nowhere:\n{}", self.vm.ok(told)?);
        let time = Duration::from_millis(self.random.below(WORK_TIME));
        std::thread::sleep(time);
        // A work that ended by itself would be cut in nothing.
        let ended = self.vm.ok("ls /run | grep ended- || true; pidof stower >/run/agents || echo agent")?;
        ensure!(ended.is_empty(), "not all are at work: {ended}{}", self.vm.ok(told)?);
        self.vm.kill();
        self.vm.power_on()?;
        self.mount()?;
        println!("cut after {time:?}");
        self.look()
    }

    fn mount(&mut self) -> Result<()> {
        self.vm.ok(&format!(
            "modprobe -a dm-thin-pool loop overlay btrfs; mkdir -p {BESIDE}
            mount -o sync,dirsync /dev/disk/by-id/beside {BESIDE}"
        ))?;
        for work in &self.works {
            let place = place(work);
            self.vm.ok(&format!(
                "mkdir -p {} {} && mount -t {} /dev/disk/by-id/{} {}",
                place.mount,
                place.beside,
                work.filesystem(),
                work.driver,
                place.mount
            ))?;
        }
        Ok(())
    }

    fn look(&mut self) -> Result<Killed> {
        let (mut killed, mut figures) = (Killed::default(), Figures::default());
        for work in self.works.clone() {
            let (place, driver) = (place(&work), &work.driver);
            let mut known = Known::default();
            for name in [STORAGE, JOURNAL] {
                let marks = self.marks(driver, name)?;
                let of_this = Known::of(&marks.lines().collect::<Vec<_>>());
                known.certain.extend(of_this.certain);
                known.begun.extend(of_this.begun);
                if name == STORAGE {
                    killed.steps.push((driver.clone(), cuts::step(marks.lines()).to_owned()));
                }
            }
            for name in [STORAGE, JOURNAL] {
                let look = work.look(name, &place);
                let mut command = vec!["env".to_owned()];
                let known = known.environment().map(|(name, value)| (name.to_owned(), value));
                command.extend(
                    known.iter().chain(&look.environment).map(|(name, value)| format!("{name}={value}")),
                );
                command.extend(look.command);
                let output = self.vm.run(&command, LOOK_LIMIT)?;
                figures.take(&output.text);
                if output.code != 0 {
                    killed.wrong.push(format!("{driver} ({name}): {}", output.text));
                }
            }
        }
        let marks = self.marks(AGENT, AGENT)?;
        let known = Known::of(&marks.lines().collect::<Vec<_>>());
        let last = marks.lines().next_back().and_then(|mark| mark.split(':').next()).unwrap_or_default();
        killed.steps.push((AGENT.to_owned(), format!("after {last}")));
        let script = format!(
            "{} && POWERCUT_MUST='{}' {}",
            agent("start", &self.works),
            known.certain.join(" "),
            agent("verify", &self.works)
        );
        let output = self.vm.run(&["sh", "-c", &script], LOOK_LIMIT)?;
        figures.take(&output.text);
        if output.code != 0 {
            killed.wrong.push(format!("agent: {}", output.text));
        }
        // It is started anew with the work.
        self.vm.ok(&agent("stop", &self.works))?;
        let steps: Vec<String> = killed.steps.iter().map(|(what, step)| format!("{what}: {step}")).collect();
        println!("in the middle of: {}\nfound: {figures}; {} wrong", steps.join(", "), killed.wrong.len());
        Ok(killed)
    }

    /// All marks; one that was being written is none yet.
    fn marks(&mut self, driver: &str, name: &str) -> Result<String> {
        let text = String::from_utf8(self.vm.pull(&marks_of(driver, name)).context("the marks")?)?;
        Ok(text.rsplit_once('\n').map_or_else(String::new, |(whole, _)| whole.to_owned()))
    }
}

/// What is done side by side, each with marks of its own.
fn parts(works: &[Work]) -> Vec<(String, &'static str)> {
    let of_drivers = works.iter().flat_map(|work| [STORAGE, JOURNAL].map(|name| (work.driver.clone(), name)));
    of_drivers.chain([(AGENT.to_owned(), AGENT)]).collect()
}

fn marks_of(driver: &str, name: &str) -> String {
    format!("{BESIDE}/marks/{driver}-{name}")
}

fn place(work: &Work) -> Place {
    Place { mount: format!("/cut-{}", work.driver), beside: format!("{BESIDE}/{}", work.driver) }
}

/// The agent is on a disk of the first work.
fn agent(what: &str, works: &[Work]) -> String {
    agent_program(what, &works.first().map(place).map_or_else(String::new, |place| place.mount))
}
