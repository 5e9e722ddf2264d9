//! Power cuts of the machine itself: it is killed in the middle of the work.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::cuts::{Random, certain};
use super::{JOURNAL, Place, STORAGE, Work, agent_program, programs};
use crate::vm::Mirror;
use crate::{Vm, VmOptions};

/// Bytes of a disk with a data root.
const DISK: u64 = 2 << 30;
/// The disk of what is beside the data roots: what is written there is there at once.
const BESIDE: &str = "/beside";
/// Puts a mark into a file.
const NOTE: &str = "/host/programs/replay note";
const AGENT_MARKS: &str = "/beside/agent-marks";
/// How long a look may take in the emulator.
const LOOK_LIMIT: Duration = Duration::from_secs(180);
/// How long the power may stay, in milliseconds, after all have got somewhere.
const WORK_TIME: u64 = 4000;
/// How long getting somewhere may take.
const BEGIN_LIMIT: Duration = Duration::from_secs(180);

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
        vm.ok(&format!("mkdir -p {BESIDE} && mount /dev/disk/by-id/beside {BESIDE} && touch {AGENT_MARKS}"))?;
        for work in &works {
            vm.ok(&format!("mkdir -p {0} && touch {0}/marks", place(work).beside))?;
        }
        vm.ok(&format!("umount {BESIDE}"))?;
        let mut kills = Self { vm, works, random: Random(seed), _programs: programs };
        kills.mount()?;
        Ok(kills)
    }

    /// Works, cuts the power in the middle of it, switches on again, and gives what is wrong then, a text for each work.
    pub fn cut(&mut self) -> Result<Vec<String>> {
        // The agent begins first, as it has to be ready.
        let mut script = format!("set -e; {}\n", agent("start", &self.works));
        for work in &self.works {
            let place = place(work);
            let mark = format!("{NOTE} {}/marks", place.beside);
            script += &format!("( {} ) >/var/log/work-{} 2>&1 &\n", work.both(&place, &mark), work.driver);
        }
        script += &format!(
            "( {} 0 {NOTE} {AGENT_MARKS} ) >/var/log/work-agent 2>&1 &\n",
            agent("work", &self.works)
        );
        self.vm.ok(&format!("wc -l {BESIDE}/*/marks {AGENT_MARKS} >{BESIDE}/before"))?;
        let output = self.vm.run(&["sh", "-c", &script], LOOK_LIMIT)?;
        ensure!(output.code == 0, "the work does not begin:\n{}", output.text);
        // Every work is to have promised something since, so that there is something to lose.
        let begun = format!(
            "before=$(cat {BESIDE}/before); until ! wc -l {BESIDE}/*/marks {AGENT_MARKS} | grep -qxF \"$before\"; \
             do sleep 0.1; done"
        );
        let output = self.vm.run(&["sh", "-c", &begun], BEGIN_LIMIT)?;
        ensure!(output.code == 0, "the work gets nowhere:\n{}", output.text);
        let time = Duration::from_millis(self.random.below(WORK_TIME));
        std::thread::sleep(time);
        // A work that ended by itself would be cut in nothing.
        let at_work = self.vm.ok("pidof storage journal replay | wc -w; pidof stower | wc -w")?;
        let counts: Vec<usize> = at_work.lines().filter_map(|line| line.parse().ok()).collect();
        ensure!(
            counts.len() == 2 && counts[0] >= 2 * self.works.len() && counts[1] >= 1,
            "not all are at work: {at_work}{}",
            self.vm.ok("tail -n 20 /var/log/work-* /var/log/agent.log")?
        );
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

    fn look(&mut self) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        for work in self.works.clone() {
            let place = place(&work);
            let marks = self.marks(&format!("{}/marks", place.beside))?;
            let must = certain(marks.lines());
            println!("{}: {} certain", work.driver, must.len());
            for name in [STORAGE, JOURNAL] {
                let look = work.look(name, &place);
                let mut command = vec!["env".to_owned(), format!("POWERCUT_MUST={}", must.join(" "))];
                command.extend(look.environment.iter().map(|(name, value)| format!("{name}={value}")));
                command.extend(look.command);
                let output = self.vm.run(&command, LOOK_LIMIT)?;
                if output.code != 0 {
                    wrong.push(format!("{} ({name}): {}", work.driver, output.text));
                }
            }
        }
        let marks = self.marks(AGENT_MARKS)?;
        let must = certain(marks.lines());
        println!("agent: {} certain", must.len());
        let script = format!(
            "{} && POWERCUT_MUST='{}' {}",
            agent("start", &self.works),
            must.join(" "),
            agent("verify", &self.works)
        );
        let output = self.vm.run(&["sh", "-c", &script], LOOK_LIMIT)?;
        if output.code != 0 {
            wrong.push(format!("agent: {}", output.text));
        }
        // It is started anew with the work.
        self.vm.ok(&agent("stop", &self.works))?;
        Ok(wrong)
    }

    /// All marks; one that was being written is none yet.
    fn marks(&mut self, file: &str) -> Result<String> {
        let text = String::from_utf8(self.vm.pull(file).context("the marks")?)?;
        Ok(text.rsplit_once('\n').map_or_else(String::new, |(whole, _)| whole.to_owned()))
    }
}

fn place(work: &Work) -> Place {
    Place { mount: format!("/cut-{}", work.driver), beside: format!("{BESIDE}/{}", work.driver) }
}

/// The agent is on a disk of the first work.
fn agent(what: &str, works: &[Work]) -> String {
    agent_program(what, &works.first().map(place).map_or_else(String::new, |place| place.mount))
}
