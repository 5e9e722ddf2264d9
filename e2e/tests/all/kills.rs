//! The agent is killed in the middle of everything; `cargo xtask kills` does it a thousand times.

use anyhow::Result;
use stower_e2e::kills::{Plan, run};

#[test]
fn an_agent_killed_under_load_loses_and_leaves_nothing() -> Result<()> {
    print!("{}", run(Plan { kills: 25, seed: 7 })?);
    Ok(())
}
