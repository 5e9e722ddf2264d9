//! `cargo xtask kills`: the long run of what `tests/all/kills.rs` does in short.

use anyhow::{Context, Result, bail};
use stower_e2e::{kills, requires};

use crate::build::{cargo, show};

pub(crate) fn run(args: &[&str]) -> Result<()> {
    let mut plan = kills::Plan { kills: 1000, seed: 1 };
    for pair in args.chunks(2) {
        let &[name, value] = pair else { bail!("{} needs a value", pair[0]) };
        let number = || format!("{name} {value}: no number");
        match name {
            "--n" => plan.kills = value.parse().with_context(number)?,
            "--seed" => plan.seed = value.parse().with_context(number)?,
            _ => bail!("{name} is unknown; there are --n and --seed"),
        }
    }
    requires::root()?;
    show(cargo().args(["build", "-p", "stower", "-p", "stower-e2e", "--bins"]))?;
    print!("{}", kills::run(plan)?);
    Ok(())
}
