//! The process dies at each place that matters, in each step of each kind of volume; the next one goes on from there.
//!
//! A test runs this binary again as the process that dies: the test `victim` alone, told what to do by the environment.

use std::path::Path;
use std::process::Command;

use rustix::fs::OFlags;
use stower_storage::{FillSource, VolumeOptions, failpoint};

use super::quota::{in_xfs, quota};
use super::support::*;

const VOLUME: &str = "v/default/data";

/// What is done to a volume in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(crate) enum Step {
    Provision,
    Fill,
    Grow,
    Remove,
}

const STEPS: [Step; 4] = [Step::Provision, Step::Fill, Step::Grow, Step::Remove];

fn options(kind: &str, step: Step) -> VolumeOptions {
    let (mut options, larger) = match kind {
        "plain" => (local(), local()),
        "image" => (sized(16), sized(24)),
        "quota" => (quota(16), quota(24)),
        _ => (tmpfs(), VolumeOptions { capacity: Some(24 * MIB), ..tmpfs() }),
    };
    if step == Step::Grow {
        options = larger;
    }
    options
}

fn run(kind: &str, at: &Path, step: Step, source: &Path) {
    let store = open(at);
    let key = key(VOLUME);
    match step {
        Step::Provision | Step::Grow => {
            store.provision(&key, &options(kind, step)).unwrap();
        }
        Step::Fill => {
            let tree =
                rustix::fs::open(source, OFlags::PATH | OFlags::CLOEXEC, rustix::fs::Mode::empty()).unwrap();
            let source = FillSource { tree: std::os::fd::AsFd::as_fd(&tree), path: "/", image: DIGEST };
            store.fill(&key, &source).unwrap();
        }
        Step::Remove => store.remove(&key).unwrap(),
    }
}

#[test]
fn victim() {
    // Only of use as a process of its own.
    let Ok(text) = std::env::var("VICTIM_DOES") else { return };
    let mut words = text.split(' ');
    let mut word = || words.next().unwrap();
    let (kind, step, at, source) = (word(), word(), word(), word());
    let step = STEPS[step.parse::<usize>().unwrap()];
    run(kind, Path::new(at), step, Path::new(source));
}

/// Whether the failpoint was reached.
fn crash(kind: &str, at: &Path, step: Step, source: &Path, point: &str) -> bool {
    let number = STEPS.iter().position(|other| *other == step).unwrap();
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::victim", "--test-threads", "1", "--quiet"])
        .env("VICTIM_DOES", format!("{kind} {number} {} {}", at.display(), source.display()))
        .env("STOWER_FAILPOINT", point)
        .output()
        .unwrap();
    let aborted = std::os::unix::process::ExitStatusExt::signal(&out.status) == Some(6);
    assert!(aborted || out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    aborted
}

fn every_point(kind: &str, below: &Path) -> Vec<&'static str> {
    let image = Image::new(&rich());
    let expected = image.seen("var/data");
    // By a path, for the other process.
    let source = tempfile::tempdir().unwrap();
    let reference = Place::new();
    {
        let store = reference.open();
        store.provision(&key(VOLUME), &local()).unwrap();
        let from = store.fill(&key(VOLUME), &image.source("/var/data")).unwrap().data;
        std::fs::rename(from, source.path().join("data")).unwrap();
    }
    let source = source.path().join("data");
    let mut reached = Vec::new();
    for (number, step) in STEPS.into_iter().enumerate() {
        for point in failpoint::VOLUMES {
            let place = Place::below(below);
            for before in &STEPS[..number] {
                run(kind, place.path(), *before, &source);
            }
            place.assert_no_devices();
            if !crash(kind, place.path(), step, &source, point) {
                continue;
            }
            reached.push(*point);
            let what = format!("{kind}, {step:?}, {point}");
            place.assert_no_devices();
            consistent(&place, kind, step, &expected, &what);
            if step == Step::Fill && ["volume.fill_renamed", "volume.filled"].contains(point) {
                // Named before the process died, so it is known after, without another fill.
                assert!(records(&place.open())[0].has_data, "{what}");
            }
            // And it goes on from there.
            for after in &STEPS[number..] {
                run(kind, place.path(), *after, &source);
                consistent(&place, kind, *after, &expected, &what);
                let there = place.open().find(&key(VOLUME)).unwrap();
                assert_eq!(there.is_some(), *after != Step::Remove, "{what}");
                assert!(*after < Step::Fill || there.is_none_or(|it| it.has_data), "{what}");
            }
            assert_eq!(contents(place.path()), Vec::<String>::new(), "{what}");
            assert_eq!(place.mounts(), Vec::<std::path::PathBuf>::new(), "{what}");
            place.assert_no_devices();
        }
    }
    reached
}

/// What is there is whole, and what is not whole is not there.
fn consistent(place: &Place, kind: &str, step: Step, expected: &stower_storage::testsuite::Tree, what: &str) {
    let store = place.open();
    contents(place.path());
    let found = records(&store);
    if step == Step::Fill || step == Step::Grow {
        assert_eq!(found.len(), 1, "{what}: a volume is lost");
    }
    for record in &found {
        let mut inside = names(&record.path);
        inside.retain(|name| name != "volume.json" && name != "image");
        let has_dir = record.has_data && ["plain", "quota"].contains(&kind);
        assert_eq!(inside, if has_dir { vec!["data".to_owned()] } else { Vec::new() }, "{what}");
        if record.has_data {
            assert_eq!(record.filled_from.as_deref(), Some(DIGEST), "{what}");
            let seen = mounted(&store, &record.key).tree();
            assert_eq!(
                stower_storage::testsuite::difference(expected, &seen),
                Vec::<String>::new(),
                "{what}"
            );
        } else {
            let lost = step == Step::Grow || (step == Step::Remove && kind != "tmpfs");
            assert!(!lost, "{what}: data are lost");
        }
    }
    for point in place.mounts() {
        let of = found.iter().find(|record| record.data == point);
        assert!(of.is_some(), "{what}: {} is mounted for nobody", point.display());
    }
}

#[test]
fn root_every_failpoint() {
    let mut reached: Vec<_> = ["plain", "image", "tmpfs"]
        .into_iter()
        .flat_map(|kind| every_point(kind, &std::env::temp_dir()))
        .collect();
    reached.sort_unstable();
    reached.dedup();
    let mut all = failpoint::VOLUMES.to_vec();
    all.retain(|point| !point.starts_with("volume.project"));
    all.sort_unstable();
    assert_eq!(reached, all, "every failpoint is reached");
}

#[test]
#[ignore = "needs a kernel with CONFIG_XFS_QUOTA"]
fn root_every_failpoint_with_a_quota() {
    in_xfs("prjquota", |at| {
        let reached = every_point("quota", at);
        for point in failpoint::VOLUMES.iter().filter(|point| point.starts_with("volume.project")) {
            assert!(reached.contains(point), "{point} is not reached");
        }
    });
}
