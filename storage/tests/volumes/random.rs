//! Random histories: whatever is done, and wherever a process stops, no byte is lost and nothing is there in part.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustix::fs::{Mode, OFlags};
use stower_storage::testsuite::{Item, Tree};
use stower_storage::{FillSource, VolumeDriver, VolumeError, VolumeOptions, failpoint};

use super::support::*;

const KEYS: [&str; 3] = ["v/a", "v/b", "w"];
const SOURCES: [&str; 3] = ["var/data", "etc", "none"];

#[derive(Debug, Clone, Copy)]
enum Do {
    Provision(usize),
    Ensure,
    Fill(usize),
    Remove,
}

#[derive(Debug, Clone)]
struct Op {
    key: usize,
    what: Do,
    /// Where the process that does it ends.
    crash: Option<usize>,
}

/// What a volume is: its kind, and which source its data are from (`SOURCES.len()` for none).
type Volume = (usize, Option<usize>);
type State = BTreeMap<usize, Volume>;

fn options(kind: usize) -> VolumeOptions {
    [local(), sized(16), tmpfs()][kind].clone()
}

fn op() -> impl Strategy<Value = Op> {
    let what = prop_oneof![
        4 => (0..3usize).prop_map(Do::Provision),
        1 => Just(Do::Ensure),
        5 => (0..SOURCES.len()).prop_map(Do::Fill),
        2 => Just(Do::Remove),
    ];
    let crash = proptest::option::weighted(0.6, 0..failpoint::VOLUMES.len());
    (0..KEYS.len(), what, crash).prop_map(|(key, what, crash)| Op { key, what, crash })
}

/// What becomes of a volume when `what` is done, and whether it is done.
fn after(before: Option<Volume>, what: Do) -> (Option<Volume>, bool) {
    match (what, before) {
        (Do::Remove, _) => (None, true),
        (Do::Provision(kind), None) => (Some((kind, None)), true),
        (Do::Provision(kind), Some((had, _))) => (before, kind == had),
        (_, None) => (None, false),
        (_, Some((_, Some(_)))) => (before, true),
        (Do::Ensure, Some((kind, None))) => (Some((kind, Some(SOURCES.len()))), true),
        (Do::Fill(source), Some((kind, None))) => (Some((kind, Some(source))), true),
    }
}

fn perform(at: &Path, image: &Path, key: usize, what: Do) -> Result<(), VolumeError> {
    let store = open(at);
    let key = super::support::key(KEYS[key]);
    match what {
        Do::Provision(kind) => store.provision(&key, &options(kind)).map(drop),
        Do::Ensure => store.ensure_data(&key).map(drop),
        Do::Remove => store.remove(&key),
        Do::Fill(source) => {
            let tree = rustix::fs::open(image, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
            let tree = std::os::fd::AsFd::as_fd(&tree);
            store.fill(&key, &FillSource { tree, path: SOURCES[source], image: SOURCES[source] }).map(drop)
        }
    }
}

#[test]
fn victim() {
    // Only of use as a process of its own.
    let Ok(text) = std::env::var("RANDOM_DOES") else { return };
    let words: Vec<_> = text.split(' ').collect();
    let number = |at: usize| words[at].parse::<usize>().unwrap();
    let what = match words[3] {
        "provision" => Do::Provision(number(4)),
        "ensure" => Do::Ensure,
        "fill" => Do::Fill(number(4)),
        _ => Do::Remove,
    };
    let _ = perform(Path::new(words[0]), Path::new(words[1]), number(2), what);
}

/// Whether it ended there.
fn crash(at: &Path, image: &Path, op: &Op, point: usize) -> bool {
    let what = match op.what {
        Do::Provision(kind) => format!("provision {kind}"),
        Do::Ensure => "ensure".to_owned(),
        Do::Fill(source) => format!("fill {source}"),
        Do::Remove => "remove".to_owned(),
    };
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "random::victim", "--test-threads", "1", "--quiet"])
        .env("RANDOM_DOES", format!("{} {} {} {what}", at.display(), image.display(), op.key))
        .env("STOWER_FAILPOINT", failpoint::VOLUMES[point])
        .output()
        .unwrap();
    let aborted = std::os::unix::process::ExitStatusExt::signal(&out.status) == Some(6);
    assert!(aborted || out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    aborted
}

/// What is there, proven by a look at every byte.
fn observe(place: &Place, trees: &[Tree]) -> State {
    let store = place.open();
    contents(place.path());
    let mut state = State::new();
    for record in records(&store) {
        let key = KEYS.iter().position(|key| *key == record.key.to_string()).unwrap();
        let kind = match (record.driver, record.capacity) {
            (VolumeDriver::Tmpfs, _) => 2,
            (VolumeDriver::Local, Some(_)) => 1,
            (VolumeDriver::Local, None) => 0,
        };
        let data = record.has_data.then(|| {
            let source = record
                .filled_from
                .as_deref()
                .map_or(SOURCES.len(), |image| SOURCES.iter().position(|source| *source == image).unwrap());
            let mut seen = mounted(&store, &record.key).tree();
            if trees[source].len() == 1 {
                // When an empty directory was made is its own affair.
                seen.get_mut("").unwrap().mtime = trees[source][""].mtime;
            }
            assert_same(&trees[source], &seen);
            source
        });
        state.insert(key, (kind, data));
    }
    let mut expected: Vec<PathBuf> = records(&store)
        .into_iter()
        .filter(|record| record.driver == VolumeDriver::Tmpfs)
        .map(|record| record.data)
        .collect();
    expected.sort();
    let mut mounts = place.mounts();
    mounts.sort();
    assert!(mounts.iter().all(|point| expected.contains(point)), "{mounts:?} for {expected:?}");
    state
}

fn play(ops: &[Op], image: &Path, trees: &[Tree]) {
    let place = Place::new();
    let mut state = State::new();
    for op in ops {
        let before = state.get(&op.key).copied();
        let (wanted, works) = after(before, op.what);
        let crashed = op.crash.is_some_and(|point| crash(place.path(), image, op, point));
        if op.crash.is_none() {
            let done = perform(place.path(), image, op.key, op.what);
            assert_eq!(done.is_ok(), works, "{op:?}: {done:?}");
        }
        let found = observe(&place, trees);
        let now = found.get(&op.key).copied();
        // A tmpfs that is being removed loses its data first.
        let halfway = matches!(op.what, Do::Remove) && before.is_some_and(|(kind, _)| kind == 2);
        let allowed = now == wanted || crashed && (now == before || halfway && now == Some((2, None)));
        assert!(allowed, "{op:?}, {crashed}: {before:?} became {now:?}, not {wanted:?}");
        // Nobody else's.
        state.insert(op.key, (0, None));
        let mut others = found.clone();
        others.insert(op.key, (0, None));
        assert_eq!(state, others, "{op:?}");
        state = found;
    }
    for key in ["v", "w"] {
        place.open().remove_all(&key.parse().unwrap()).unwrap();
    }
    assert_eq!(contents(place.path()), Vec::<String>::new());
    assert_eq!(place.mounts(), Vec::<PathBuf>::new());
    place.assert_no_devices();
}

#[test]
fn root_random_histories_lose_nothing() {
    let image = Image::new(&rich());
    let empty = Image::new(&[vec![Item::dir("d")]]);
    let mut trees: Vec<Tree> =
        vec![image.seen("var/data"), image.seen("etc"), empty.seen("d"), empty.seen("d")];
    // In the order of SOURCES, then what is not from an image; both are an empty directory.
    assert_eq!(trees.iter().map(|tree| tree.len() == 1).collect::<Vec<_>>(), [false, false, true, true]);
    let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), image.fd().as_raw_fd()));
    trees[3].get_mut("").unwrap().mode = 0o040_755;
    let config = Config { cases: 48, failure_persistence: None, max_shrink_iters: 64, ..Config::default() };
    TestRunner::new(config)
        .run(&proptest::collection::vec(op(), 4..14), |ops| {
            play(&ops, &path, &trees);
            Ok(())
        })
        .unwrap();
}
