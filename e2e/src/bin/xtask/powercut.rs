//! `cargo xtask powercut`: the long run of what `tests/vm/powercut.rs` does in short.

use anyhow::{Context, Result, bail, ensure};
use stower_e2e::powercut::{Kills, PowerCuts, Work};
use stower_e2e::{requires, vm};

use crate::build::{cargo, show};

/// Where a run of a thousand cuts ends that finds something at each.
const ENOUGH: usize = 20;
struct Options {
    cuts: usize,
    /// How often the machine itself is killed.
    kills: usize,
    seed: u64,
    /// Whether cuts are looked at on this machine, where the driver needs no device-mapper.
    here: bool,
    drivers: Vec<String>,
}

impl Options {
    fn of(args: &[&str]) -> Result<Self> {
        let mut options = Self { cuts: 1000, kills: 5, seed: 1, here: false, drivers: Vec::new() };
        options.here = args.contains(&"--here");
        let args: Vec<&str> = args.iter().copied().filter(|word| *word != "--here").collect();
        for pair in args.chunks(2) {
            let &[name, value] = pair else { bail!("{} needs a value", pair[0]) };
            let number = || format!("{name} {value}: no number");
            match name {
                "--n" => options.cuts = value.parse().with_context(number)?,
                "--kills" => options.kills = value.parse().with_context(number)?,
                "--seed" => options.seed = value.parse().with_context(number)?,
                "--driver" => options.drivers.push(value.to_owned()),
                _ => bail!("{name} is unknown; there are --n, --kills, --driver, --seed and --here"),
            }
        }
        if options.drivers.is_empty() {
            options.drivers = DRIVERS.map(str::to_owned).to_vec();
        }
        Ok(options)
    }

    fn work(&self, driver: &str, rounds: u64) -> Work {
        Work { driver: driver.to_owned(), seed: self.seed, rounds, left_out: None }
    }
}

const DRIVERS: [&str; 4] = ["overlay", "native", "btrfs", "devicemapper"];

/// Cuts the work of each driver, and then all of them at once.
pub(crate) fn run(args: &[&str]) -> Result<()> {
    let options = Options::of(args)?;
    requires::root()?;
    requires::program(vm::PROGRAM, vm::PACKAGE)?;
    show(cargo().args(crate::vm::BUILD))?;
    let mut failed = Vec::new();
    if options.cuts > 0 {
        failed.extend(cuts(&options)?);
    }
    if options.kills > 0 {
        failed.extend(kills(&options)?);
    }
    ensure!(failed.is_empty(), "something was wrong after cuts of {}", failed.join(", "));
    Ok(())
}

fn cuts(options: &Options) -> Result<Vec<String>> {
    let (count, seed) = (options.cuts, options.seed);
    let mut machine = PowerCuts::boot()?;
    let (mut failed, mut kept) = (Vec::new(), Vec::new());
    for driver in &options.drivers {
        // Half of the cuts are at flushes, of which a round has more than a hundred.
        let rounds = 2 + u64::try_from(count / 250)?;
        let work = options.work(driver, rounds);
        println!("{driver}: {rounds} rounds");
        machine.record(&work)?;
        if options.here && driver != "devicemapper" {
            kept.push((driver, machine.keep(&work)?));
        } else if machine.replay(&work, count, seed, ENOUGH)?.wrong {
            failed.push(driver.clone());
        }
    }
    drop(machine);
    for (driver, kept) in kept {
        println!("{driver}, on this machine");
        if kept.replay(count, seed, ENOUGH)?.wrong {
            failed.push(driver.clone());
        }
    }
    Ok(failed)
}

fn kills(options: &Options) -> Result<Vec<String>> {
    let works: Vec<Work> = options.drivers.iter().map(|driver| options.work(driver, 0)).collect();
    let mut machine = Kills::boot(&works, options.seed)?;
    let mut failed = Vec::new();
    for _ in 0..options.kills {
        failed.extend(machine.cut()?.wrong);
    }
    Ok(failed)
}
