//! Power cuts: what was promised is there, what is there is whole, and nobody has to act.

use anyhow::{Result, ensure};
use stower_e2e::powercut::{Kills, PowerCuts, Work};

const SEED: u64 = 20_261_130;
const DRIVERS: [&str; 4] = ["overlay", "native", "btrfs", "devicemapper"];

fn work(driver: &str) -> Work {
    Work { driver: driver.to_owned(), seed: SEED, rounds: 3, left_out: None }
}

#[test]
fn overlay_bears_power_cuts_at_a_hundred_entries() -> Result<()> {
    bears("overlay")
}

#[test]
fn native_bears_power_cuts_at_a_hundred_entries() -> Result<()> {
    bears("native")
}

#[test]
fn btrfs_bears_power_cuts_at_a_hundred_entries() -> Result<()> {
    bears("btrfs")
}

#[test]
fn devicemapper_bears_power_cuts_at_a_hundred_entries() -> Result<()> {
    bears("devicemapper")
}

fn bears(driver: &str) -> Result<()> {
    let mut machine = PowerCuts::boot()?;
    let work = work(driver);
    machine.record(&work)?;
    let found = if driver == "devicemapper" {
        machine.replay(&work, 100, SEED, 3)?
    } else {
        // Several times faster, without the machine.
        let kept = machine.keep(&work)?;
        drop(machine);
        kept.replay(100, SEED, 3)?
    };
    ensure!(!found.wrong, "{driver}: {}", found.text);
    Ok(())
}

#[test]
fn the_agent_keeps_what_it_has_confirmed() -> Result<()> {
    let mut machine = PowerCuts::boot()?;
    machine.record_agent(4, None)?;
    let found = machine.replay_agent(12, SEED, 3)?;
    ensure!(!found.wrong, "{}", found.text);
    // Without any sync, and without the answer's wait for it.
    for left_out in ["skip.sync.journal", "skip.sync.answer"] {
        machine.record_agent(3, Some(left_out))?;
        let found = machine.replay_agent(24, SEED, 1)?;
        ensure!(
            found.wrong && found.text.contains("had been promised"),
            "{left_out} is not found: {}",
            found.text
        );
    }
    Ok(())
}

/// Each sync that may be left out, and what is then found.
const LEFT_OUT: [(&str, &str); 4] = [
    ("skip.sync.seal", "its tree is not what its layers say"),
    ("skip.sync.blob", "had been promised and is gone"),
    ("skip.sync.fill", "has not what it was filled with"),
    ("skip.sync.journal", "had been promised, and it is"),
];

#[test]
fn a_sync_that_is_left_out_is_found() -> Result<()> {
    let mut machine = PowerCuts::boot()?;
    let mut unseen = Vec::new();
    for (name, told) in LEFT_OUT {
        let work = Work { rounds: 1, left_out: Some(name.to_owned()), ..work("overlay") };
        machine.record(&work)?;
        let found = machine.keep(&work)?.replay(60, SEED, 1)?;
        if !found.wrong || !found.text.contains(told) {
            unseen.push(format!("{name}: {}", found.text));
        }
    }
    ensure!(unseen.is_empty(), "not found by its traces was\n{}", unseen.join("\n"));
    Ok(())
}

#[test]
fn five_cuts_of_the_machine_are_borne_by_all_drivers_and_the_agent() -> Result<()> {
    let works = DRIVERS.map(work);
    let mut machine = Kills::boot(&works, SEED)?;
    let mut wrong = Vec::new();
    for number in 1..=5 {
        let killed = machine.cut()?;
        wrong.extend(killed.wrong);
        // Each cut is one of every driver: all of them were at work.
        let all: Vec<&str> = killed.steps.iter().map(|(what, _)| what.as_str()).collect();
        ensure!(
            all == ["overlay", "native", "btrfs", "devicemapper", "agent"],
            "cut {number} was of {all:?}"
        );
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
