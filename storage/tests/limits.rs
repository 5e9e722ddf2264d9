//! Limited snapshots on overlay, killed at each place that matters. (What a limit is, `tests/conformance.rs` checks on every
//! driver.)
//!
//! A test runs this binary again as the process that dies: the test `victim` alone, told what to do by the environment.

use std::fs;
use std::path::Path;
use std::process::Command;

use stower_storage::testsuite::{Files, Tree, close, difference, open, tree};
use stower_storage::{
    ChainId, CommitError, DiffId, Digest, DriverError, Ext4Error, SnapshotError, SnapshotKey, Snapshots,
    detached, failpoint,
};

const LIMIT: u64 = 16 << 20;

fn key(name: &str) -> SnapshotKey {
    SnapshotKey::new(name).unwrap()
}

fn diff_id(name: &str) -> DiffId {
    DiffId(Digest::of(name.as_bytes()))
}

fn base() -> ChainId {
    ChainId::base(diff_id("base"))
}

fn above() -> ChainId {
    ChainId::on(Some(base()), diff_id("above"))
}

fn edit(store: &Snapshots, name: &str, change: impl FnOnce(&Files)) {
    let mounts = store.activate(&key(name)).unwrap();
    let mount = detached::open(&mounts[0]).unwrap();
    change(&Files::new(&mount));
    close(mount);
    store.deactivate(&key(name)).unwrap();
}

/// All that a limited snapshot goes through, once. What is there already is not done again, so it is also what goes on
/// after a crash.
fn everything(at: &Path) {
    let store = open("overlay", at);
    if !store.has(&base()) {
        store.prepare(&key("first"), None).unwrap();
        edit(&store, "first", |files| {
            files.mkdir("gone");
            files.mkdir("replaced/inner");
        });
        store.commit(&key("first"), &diff_id("base")).unwrap();
    }
    if !store.has(&above()) {
        if store.list().iter().all(|it| it.key != key("c")) {
            store.prepare_limited(&key("c"), Some(&base()), LIMIT).unwrap();
        }
        edit(&store, "c", |files| {
            let replaced = files.path("replaced/new");
            if !replaced.exists() {
                files.remove("replaced");
                files.mkdir("replaced/new");
            }
            if files.path("gone").exists() {
                files.remove("gone");
            }
            files.write("kept", "kept");
        });
        store.resize(&key("c"), Some(2 * LIMIT)).unwrap();
        match store.commit(&key("c"), &diff_id("above")) {
            Ok(_) | Err(CommitError::Exists(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    store.prepare_limited(&key("gone"), Some(&above()), LIMIT).unwrap();
    store.remove(&key("gone")).unwrap();
    if store.list().iter().all(|it| it.key != key("kept")) {
        store.prepare_limited(&key("kept"), Some(&above()), LIMIT).unwrap();
    }
    // Where a mounted filesystem cannot grow, ours is none.
    store.deactivate(&key("kept")).unwrap();
    store.resize(&key("kept"), Some(2 * LIMIT)).unwrap();
}

#[test]
fn victim() {
    // Only of use as a process of its own.
    if let Some(at) = std::env::var_os("VICTIM_AT") {
        everything(Path::new(&at));
    }
}

/// Whether the failpoint was reached.
fn crash(at: &Path, point: &str) -> bool {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "victim", "--test-threads", "1", "--quiet"])
        .env("VICTIM_AT", at)
        .env("STOWER_FAILPOINT", point)
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap()
        .status;
    !status.success()
}

fn entries(at: &Path) -> usize {
    fs::read_dir(at).unwrap().count()
}

/// Loop devices on files below `at`, those that were removed too.
fn devices(at: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/block").unwrap() {
        let file = entry.unwrap().path().join("loop/backing_file");
        let text = fs::read_to_string(file).unwrap_or_default();
        if text.contains(at.to_str().unwrap()) {
            found.push(text);
        }
    }
    found
}

/// The mount may last a moment longer than its descriptor, where another thread starts a process.
fn no_devices(at: &Path, point: &str) {
    for _ in 0..500 {
        if devices(at).is_empty() {
            return;
        }
        std::thread::yield_now();
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{point}: {:?}", devices(at));
}

/// Everything that is on disk is known and can be used, and a snapshot that became a layer is gone.
fn consistent(at: &Path, point: &str) {
    let store = open("overlay", at);
    let root = at.join("overlay");
    assert_eq!((entries(&root.join("staging")), entries(&root.join("trash"))), (0, 0), "{point}");
    assert_eq!(store.layers().len(), entries(&root.join("layers")), "{point}");
    assert_eq!(store.list().len(), entries(&root.join("snapshots")), "{point}");
    for snapshot in store.list() {
        assert!(!root.join("snapshots").join(snapshot.key.as_str()).join("committed").exists(), "{point}");
        assert!(!(snapshot.key == key("c") && store.has(&above())), "{point}: it is a layer and a snapshot");
        edit(&store, snapshot.key.as_str(), |files| assert!(files.path("").is_dir()));
    }
}

fn shown(at: &Path, name: &str) -> Tree {
    let store = open("overlay", at);
    let mounts = store.activate(&key(name)).unwrap();
    let seen = tree(&detached::open(&mounts[0]).unwrap());
    store.deactivate(&key(name)).unwrap();
    assert_eq!(store.limit(&key(name)).unwrap().bytes, Some(2 * LIMIT));
    seen
}

/// Without times, which differ from run to run.
fn names(tree: &Tree) -> Vec<String> {
    tree.keys().map(ToString::to_string).collect()
}

#[test]
fn root_limited_snapshots_at_every_failpoint() {
    assert!(rustix::process::geteuid().is_root(), "this test needs root");
    let reference = tempfile::tempdir().unwrap();
    everything(reference.path());
    let expected = names(&shown(reference.path(), "kept"));
    assert_eq!(expected, ["", "kept", "replaced", "replaced/new"]);
    let mut reached = Vec::new();
    for point in failpoint::LIMITED {
        let dir = tempfile::tempdir().unwrap();
        if crash(dir.path(), point) {
            reached.push(*point);
        }
        no_devices(dir.path(), point);
        consistent(dir.path(), point);
        // And it goes on from there.
        everything(dir.path());
        consistent(dir.path(), point);
        assert_eq!(names(&shown(dir.path(), "kept")), expected, "{point}");
        no_devices(dir.path(), point);
    }
    assert_eq!(reached, failpoint::LIMITED, "every failpoint is reached");
}

/// A snapshot that could not become a layer, since that is there, is as it was.
#[test]
fn root_a_commit_that_is_refused_keeps_the_snapshot() {
    assert!(rustix::process::geteuid().is_root(), "this test needs root");
    let dir = tempfile::tempdir().unwrap();
    everything(dir.path());
    let before = shown(dir.path(), "kept");
    let store = open("overlay", dir.path());
    store.prepare_limited(&key("twin"), Some(&base()), LIMIT).unwrap();
    assert!(matches!(store.commit(&key("twin"), &diff_id("above")), Err(CommitError::Exists(_))));
    edit(&store, "twin", |files| files.write("still", "there"));
    drop(store);
    consistent(dir.path(), "a refused commit");
    assert_eq!(difference(&before, &shown(dir.path(), "kept")), Vec::<String>::new());
}

/// Sizes that no filesystem has are refused before anything is made.
#[test]
fn root_impossible_limits_leave_nothing() {
    assert!(rustix::process::geteuid().is_root(), "this test needs root");
    let dir = tempfile::tempdir().unwrap();
    let store = open("overlay", dir.path());
    for limit in [0, 1, (8 << 20) - 1] {
        let error = store.prepare_limited(&key("a"), None, limit).unwrap_err();
        let text = format!("{error:?}");
        assert!(text.contains("LimitTooSmall") && text.contains("8388608"), "{text}");
    }
    for limit in [u64::MAX, 1 << 60] {
        let error = store.prepare_limited(&key("a"), None, limit).unwrap_err();
        assert!(format!("{error:?}").contains("TooLarge"), "{error:?}");
    }
    store.prepare_limited(&key("a"), None, LIMIT).unwrap();
    let error = store.resize(&key("a"), Some(1 << 60)).unwrap_err();
    let SnapshotError::Driver(_, _, DriverError::Ext4(Ext4Error::TooLarge { .. })) = error else {
        panic!("{error:?}");
    };
    store.deactivate(&key("a")).unwrap();
    store.remove(&key("a")).unwrap();
    let root = dir.path().join("overlay");
    assert_eq!((entries(&root.join("staging")), entries(&root.join("snapshots"))), (0, 0));
    no_devices(dir.path(), "at the end");
}
