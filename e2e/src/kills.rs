//! The agent is killed again and again, at any moment, while containers come and go; in the end everything is counted.
//!
//! ```text
//!  churn: writes and removes manifests, and never waits ─► manifests ─► agent ◄─ SIGKILL, anew, … (moments drawn by a seed)
//!  look:  no container ever has two first processes                       └► containers that stay: always the same processes
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::footprint::Footprint;
use crate::node::{pid_of, restarts_of};
use crate::{Catalog, TestNode, catalog, process, teardown};

/// Containers that nobody touches.
const STEADY: usize = 5;
/// Names that containers come and go under.
const CHURNED: usize = 8;
/// Between two changes of a manifest.
const BEAT: Duration = Duration::from_millis(7);
/// The longest that an agent lives after its start, or after it was ready.
const LIFE_MS: u64 = 120;

/// What is done.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How often the agent is killed.
    pub kills: usize,
    /// Draws the moments.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// How often the agent was killed before it had come up, and after.
    pub kills: (usize, usize),
    /// Manifests that were written or removed meanwhile.
    pub changes: usize,
    /// Containers that were seen to exist, by their cgroups.
    pub containers: usize,
    /// How often the machine was looked at for a second process.
    pub looks: usize,
    /// How long it took.
    pub took: Duration,
    /// What there was of each kind before and after.
    pub counts: Vec<(&'static str, usize, usize)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kills: (early, late), changes, containers, looks, took, counts } = self;
        writeln!(
            f,
            "{} kills in {} s: {early} while the agent came up, {late} after; {changes} manifests written or removed, {containers} containers seen, {looks} looks for a second process",
            early + late,
            took.as_secs()
        )?;
        writeln!(f, "{:<24} before  after", "")?;
        for (what, before, after) in counts {
            writeln!(f, "{what:<24} {before:>6} {after:>6}")?;
        }
        Ok(())
    }
}

/// What the threads share.
#[derive(Default)]
struct Shared {
    end: AtomicBool,
    changes: AtomicUsize,
    looks: AtomicUsize,
}

/// All that is counted.
#[derive(Clone)]
struct Count {
    footprint: Footprint,
    descriptors: usize,
    threads: usize,
}

impl Count {
    fn of(node: &TestNode) -> Result<Self> {
        let (descriptors, threads) = node.agent_descriptors_and_threads()?;
        Ok(Self { footprint: node.footprint(), descriptors, threads })
    }
}

/// Kills the agent so often, and looks.
///
/// # Errors
/// When a container is lost, doubled or left over, or anything else is.
pub fn run(plan: Plan) -> Result<Report> {
    let node = TestNode::start()?;
    let image = Catalog::get()?.reference(catalog::payload)?;
    let steady: Vec<u32> = (0..STEADY)
        .map(|n| {
            node.write(&format!("steady{n}.yaml"), &manifest(&image, &format!("steady{n}"), 0))?;
            node.wait_running(&format!("steady{n}"))
        })
        .collect::<Result<_>>()?;
    // What a first start makes for ever is there before it is counted.
    for n in 0..CHURNED {
        node.write(&format!("c{n}.yaml"), &manifest(&image, &format!("c{n}"), 0))?;
        node.wait_running(&format!("c{n}"))?;
    }
    clear(&node)?;
    node.restart_agent()?;
    rest(&node, &steady)?;
    let before = Count::of(&node)?;

    let (begun, shared) = (Instant::now(), Shared::default());
    let (kills, seen) = std::thread::scope(|scope| -> Result<_> {
        let churn = scope.spawn(|| churn(&node, &image, &shared, plan.seed));
        let look = scope.spawn(|| look(&node, &shared));
        let killed = kill(&node, plan);
        shared.end.store(true, Ordering::Relaxed);
        churn.join().expect("the thread of changes panicked")?;
        let seen = look.join().expect("the thread that looks panicked")?;
        Ok((killed?, seen))
    })?;
    let took = begun.elapsed();

    clear(&node)?;
    rest(&node, &steady)?;
    let after = node.wait("the same footprint as before", || {
        let after = Count::of(&node)?;
        let (more, less) =
            (after.footprint.beyond(&before.footprint), before.footprint.beyond(&after.footprint));
        ensure!(more.is_empty(), "left behind: {more:#?}");
        ensure!(less.is_empty(), "lost: {less:#?}");
        // Threads for blocking calls go after ten seconds without work.
        ensure!(
            after.descriptors <= before.descriptors + 2 && after.threads <= before.threads + 1,
            "{} descriptors and {} threads, and there were {} and {}",
            after.descriptors,
            after.threads,
            before.descriptors,
            before.threads
        );
        Ok(Some(after))
    })?;
    let counts = [
        ("mounts", before.footprint.mounts.len(), after.footprint.mounts.len()),
        ("cgroups", before.footprint.cgroups.len(), after.footprint.cgroups.len()),
        ("processes", before.footprint.processes.len(), after.footprint.processes.len()),
        ("files and directories", before.footprint.paths.len(), after.footprint.paths.len()),
        ("the agent's descriptors", before.descriptors, after.descriptors),
        ("the agent's threads", before.threads, after.threads),
    ];
    Ok(Report {
        kills,
        changes: shared.changes.load(Ordering::Relaxed),
        containers: seen.len(),
        looks: shared.looks.load(Ordering::Relaxed),
        took,
        counts: counts.to_vec(),
    })
}

fn manifest(image: &str, name: &str, version: usize) -> String {
    format!(
        "apiVersion: stower.dev/v1alpha1\nkind: Container\nmetadata: {{name: {name}}}\nspec:\n  image: {image}\n  args: [stay]\n  \
         terminationGracePeriodSeconds: 1\n  env: [{{name: VERSION, value: '{version}'}}]\n  \
         volumes: [{{name: v, emptyDir: {{}}}}]\n  volumeMounts: [{{name: v, mountPath: /v}}]\n"
    )
}

/// Kills and starts the agent, every other time before it has come up; how often of each.
fn kill(node: &TestNode, plan: Plan) -> Result<(usize, usize)> {
    let mut draw = draws(plan.seed);
    let (mut early, mut late) = (0, 0);
    for n in 0..plan.kills {
        node.kill_agent()?;
        if n % 2 == 0 {
            node.spawn_agent()?;
            early += 1;
        } else {
            node.start_agent().with_context(|| format!("after kill {}", n + 1))?;
            late += 1;
        }
        std::thread::sleep(Duration::from_micros(draw(LIFE_MS * 1000)));
        if n % 100 == 99 {
            eprintln!("{} kills", n + 1);
        }
    }
    node.kill_agent()?;
    node.start_agent()?;
    Ok((early, late))
}

/// Has containers come, change and go, whether or not anybody looks.
fn churn(node: &TestNode, image: &str, shared: &Shared, seed: u64) -> Result<()> {
    let mut draw = draws(seed ^ 0x00c0_ffee);
    let mut version = 0;
    while !shared.end.load(Ordering::Relaxed) {
        let name = format!("c{}", draw(CHURNED as u64));
        let file = format!("{name}.yaml");
        let is_there = node.manifests.join(&file).exists();
        version += 1;
        // Two of three that are there go, the third is replaced.
        if is_there && draw(3) > 0 {
            node.remove(&file)?;
        } else {
            node.write(&file, &manifest(image, &name, version))?;
        }
        shared.changes.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(BEAT);
    }
    Ok(())
}

/// Looks that no container has a second process, which the payload never makes; gives the UIDs that were seen.
fn look(node: &TestNode, shared: &Shared) -> Result<BTreeSet<String>> {
    let instance = teardown::instance(&node.data)?;
    let mut seen = BTreeSet::new();
    while !shared.end.load(Ordering::Relaxed) {
        for top in teardown::cgroups_of(&instance) {
            for entry in fs::read_dir(top.join("c")).into_iter().flatten().flatten() {
                let uid = entry.file_name().to_string_lossy().into_owned();
                let inside: Vec<u32> = teardown::processes_in(&entry.path())
                    .into_iter()
                    .filter(|pid| process::alive(*pid))
                    .collect();
                ensure!(inside.len() <= 1, "container {uid} has more than one process: {inside:?}");
                seen.insert(uid);
            }
        }
        shared.looks.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(BEAT);
    }
    Ok(seen)
}

/// Removes all manifests but those of the containers that stay.
fn clear(node: &TestNode) -> Result<()> {
    for n in 0..CHURNED {
        match fs::remove_file(node.manifests.join(format!("c{n}.yaml"))) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    node.wait("all that came and went to be gone", || {
        let left = node.containers()?;
        ensure!(left.len() == STEADY, "{} containers are there", left.len());
        Ok(Some(()))
    })
}

/// That those that stay are the same processes as ever.
fn rest(node: &TestNode, steady: &[u32]) -> Result<()> {
    for (n, pid) in steady.iter().enumerate() {
        let item = node.wait_container(&format!("steady{n}"), "running", |item| pid_of(item).is_some())?;
        ensure!(
            pid_of(&item) == Some(*pid) && process::alive(*pid),
            "steady{n} was process {pid}: {}",
            item["status"]
        );
        ensure!(restarts_of(&item) == 0, "steady{n} was restarted: {}", item["status"]);
    }
    Ok(())
}

/// Numbers below a bound, the same for the same seed (xorshift).
fn draws(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    }
}
