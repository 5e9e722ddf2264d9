//! `cargo xtask powercut`: the long run of what `tests/vm/powercut.rs` does in short.

use anyhow::{Context, Result, bail, ensure};
use stower_e2e::powercut::{Kills, PowerCuts, Work};
use stower_e2e::{requires, vm};

use crate::build::{cargo, show};

/// Where a run of a thousand cuts ends that finds something at each.
const ENOUGH: usize = 20;
/// How often the machine itself is killed.
const KILLS: usize = 5;

struct Options {
    cuts: usize,
    seed: u64,
    drivers: Vec<String>,
}

impl Options {
    fn of(args: &[&str]) -> Result<Self> {
        let mut options = Self { cuts: 1000, seed: 1, drivers: Vec::new() };
        for pair in args.chunks(2) {
            let &[name, value] = pair else { bail!("{} needs a value", pair[0]) };
            let number = || format!("{name} {value}: no number");
            match name {
                "--n" => options.cuts = value.parse().with_context(number)?,
                "--seed" => options.seed = value.parse().with_context(number)?,
                "--driver" => options.drivers.push(value.to_owned()),
                _ => bail!("{name} is unknown; there are --n, --driver and --seed"),
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
    let mut machine = PowerCuts::boot()?;
    let mut failed = Vec::new();
    for driver in &options.drivers {
        // About eight entries of the log for each cut.
        let rounds = 3 + u64::try_from(options.cuts / 120)?;
        let work = options.work(driver, rounds);
        println!("{driver}: {rounds} rounds");
        machine.record(&work)?;
        if machine.replay(&work, options.cuts, options.seed, ENOUGH)?.wrong {
            failed.push(driver.clone());
        }
    }
    drop(machine);
    let works: Vec<Work> = options.drivers.iter().map(|driver| options.work(driver, 0)).collect();
    let mut machine = Kills::boot(&works, options.seed)?;
    for _ in 0..KILLS {
        failed.extend(machine.cut()?);
    }
    ensure!(failed.is_empty(), "something was wrong after cuts of {}", failed.join(", "));
    Ok(())
}
