//! On a machine in the declared state nothing is to do, and nothing is done.

use anyhow::{Result, ensure};
use stower_e2e::TestNode;

use crate::support::idle;

#[test]
fn plan_says_that_nothing_is_to_do() -> Result<()> {
    let node = TestNode::start()?;
    for n in 0..3 {
        node.write(&format!("c{n}.yaml"), &idle(&format!("c{n}"), "")?)?;
    }
    for n in 0..3 {
        node.wait_running(&format!("c{n}"))?;
    }
    let plan = node.wait("an empty plan", || {
        let output = node.cli(["plan", "--detailed-exitcode"])?;
        Ok((output.code == 0).then_some(output.stdout))
    })?;
    ensure!(plan.to_lowercase().contains("nothing to do"), "{plan}");
    Ok(())
}

#[test]
fn plan_tells_what_would_be_done_without_doing_it() -> Result<()> {
    let node = TestNode::builder().build()?;
    node.write("later.yaml", &idle("later", "")?)?;
    node.start_agent()?;
    let pid = node.wait_running("later")?;
    node.ok(["stop", "later"])?;
    let held = node.ok(["plan"])?;
    ensure!(held.to_lowercase().contains("nothing to do"), "a held container asks for nothing: {held}");
    ensure!(!stower_e2e::process::alive(pid));
    Ok(())
}

#[test]
fn a_second_reconcile_performs_no_effect() -> Result<()> {
    let node = TestNode::start()?;
    for n in 0..5 {
        node.write(&format!("c{n}.yaml"), &idle(&format!("c{n}"), "")?)?;
    }
    for n in 0..5 {
        node.wait_running(&format!("c{n}"))?;
    }
    node.wait("an empty plan", || Ok((node.cli(["plan", "--detailed-exitcode"])?.code == 0).then_some(())))?;
    let effects = node.metric("stower_effects_total")?;
    ensure!(effects >= 5.0, "five starts are at least five effects, and the metric says {effects}");
    // A label asks for nothing on the machine, but each file is taken anew and the loop turns.
    let turns = node.metric("stower_reconcile_total")?;
    for n in 0..5 {
        let text = idle(&format!("c{n}"), "")?.replace("metadata: {", "metadata: {labels: {edited: 'yes'}, ");
        node.write(&format!("c{n}.yaml"), &text)?;
    }
    node.write("notes.txt", "no manifest")?;
    node.wait("the labels to be shown", || {
        let edited =
            node.containers()?.iter().filter(|item| item["metadata"]["labels"]["edited"] == "yes").count();
        Ok((edited == 5).then_some(()))
    })?;
    node.wait("more turns of the loop", || {
        Ok((node.metric("stower_reconcile_total")? > turns).then_some(()))
    })?;
    ensure!(node.cli(["plan", "--detailed-exitcode"])?.code == 0);
    let after = node.metric("stower_effects_total")?;
    ensure!((after - effects).abs() < 0.5, "effects rose from {effects} to {after} with nothing to do");
    Ok(())
}

#[test]
fn an_idle_machine_is_reconciled_to_the_same_after_a_new_agent() -> Result<()> {
    let node = TestNode::start()?;
    node.write("one.yaml", &idle("one", "")?)?;
    let pid = node.wait_running("one")?;
    node.restart_agent()?;
    ensure!(node.wait_running("one")? == pid);
    node.wait("an empty plan", || Ok((node.cli(["plan", "--detailed-exitcode"])?.code == 0).then_some(())))?;
    let effects = node.metric("stower_effects_total")?;
    ensure!(effects < 0.5, "adoption is no effect, and {effects} were counted");
    Ok(())
}
