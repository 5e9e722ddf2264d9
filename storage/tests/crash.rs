//! The process dies at each place that matters; the next one puts things right without anybody's help.
//!
//! A test runs this binary again as the process that dies: the test `victim` alone, told what to do by the environment.

use std::path::Path;
use std::process::Command;

use stower_storage::testsuite::{Ground, Item, Subject, blob, difference, open, tar, tree};
use stower_storage::{ChainId, Compression, DiffId, Digest, SnapshotKey, UnpackLimits, detached, failpoint};

fn stack() -> Vec<Vec<Item>> {
    vec![
        vec![Item::dir("d").mode(0o700), Item::file("d/f", "1"), Item::symlink("l", "d")],
        vec![Item::file("d/g", "2"), Item::whiteout("d/f")],
        vec![Item::file("l/h", "3")],
    ]
}

fn key(name: &str) -> SnapshotKey {
    SnapshotKey::new(name).unwrap()
}

fn committed() -> DiffId {
    DiffId(Digest::of(b"committed"))
}

fn unpack(store: &stower_storage::Snapshots) -> ChainId {
    let blobs = stack().iter().map(|items| blob(tar::archive(items), Compression::Gzip)).collect();
    store.unpack_image(blobs, &UnpackLimits::default()).unwrap()
}

/// All that a store does, once. What is there already is not done again, so it is also what goes on after a crash.
fn everything(driver: &str, at: &Path) {
    let store = open(driver, at);
    let top = unpack(&store);
    let above = ChainId::on(Some(top), committed());
    if !store.has(&above) {
        store.prepare(&key("c"), Some(&top)).unwrap();
        store.activate(&key("c")).unwrap();
        store.deactivate(&key("c")).unwrap();
        store.commit(&key("c"), &committed()).unwrap();
    }
    store.prepare(&key("gone"), Some(&above)).unwrap();
    store.remove(&key("gone")).unwrap();
    store.remove_layer(&above).unwrap();
    store.prepare(&key("kept"), Some(&top)).unwrap();
    if store.status().unwrap().limits {
        let limit = Subject::find(driver).limit;
        // What has been enlarged is not made smaller again by every driver.
        if !store.list().iter().any(|snapshot| snapshot.key == key("limited")) {
            store.prepare_limited(&key("limited"), Some(&top), limit).unwrap();
        }
        // What is in use grows only with CAP_SYS_RESOURCE on some drivers.
        store.deactivate(&key("limited")).unwrap();
        store.resize(&key("limited"), Some(2 * limit)).unwrap();
    }
}

#[test]
fn victim() {
    // Only of use as a process of its own.
    let (Some(driver), Some(at)) = (std::env::var_os("VICTIM_DRIVER"), std::env::var_os("VICTIM_AT")) else {
        return;
    };
    everything(driver.to_str().unwrap(), Path::new(&at));
}

/// Whether the failpoint was reached.
fn crash(driver: &str, at: &Path, point: &str) -> bool {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "victim", "--test-threads", "1", "--quiet"])
        .env("VICTIM_DRIVER", driver)
        .env("VICTIM_AT", at)
        .env("STOWER_FAILPOINT", point)
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap()
        .status;
    !status.success()
}

fn entries(at: &Path) -> Vec<String> {
    std::fs::read_dir(at).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Everything that is on disk is known, and the other way round.
fn consistent(driver: &str, at: &Path, point: &str) {
    let store = open(driver, at);
    let root = at.join(store.driver());
    for dir in ["staging", "trash"] {
        assert_eq!(entries(&root.join(dir)), Vec::<String>::new(), "{driver}, {point}: {dir} is not empty");
    }
    let known = store.layers();
    assert_eq!(known.len(), entries(&root.join("layers")).len(), "{driver}, {point}");
    for layer in &known {
        assert!(layer.parent.is_none_or(|parent| store.has(&parent)), "{driver}, {point}: no parent");
    }
    assert_eq!(store.list().len(), entries(&root.join("snapshots")).len(), "{driver}, {point}");
    if store.driver() == "devicemapper" {
        let named = 1 + known.len() + store.list().len();
        until(&format!("{driver}, {point}: {named} thin devices"), || {
            let details = store.status().unwrap().details;
            details.contains(&("thin devices".to_owned(), named.to_string()))
                && details.contains(&("pending removals".to_owned(), "0".to_owned()))
        });
    }
    for snapshot in store.list() {
        store.activate(&snapshot.key).unwrap();
        store.deactivate(&snapshot.key).unwrap();
        assert!(snapshot.parent.is_none_or(|parent| store.has(&parent)), "{driver}, {point}: no parent");
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !is_so() {
        assert!(std::time::Instant::now() < end, "not in a minute: {what}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// A directory that the subject can be opened in, also by the victims, which this thread starts.
fn place(driver: &str) -> (Ground, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    ((Subject::find(driver).ground)(dir.path()), dir)
}

/// Those of all drivers, and `more` of this one.
fn every_point(driver: &str, more: &[&str]) {
    assert!(rustix::process::geteuid().is_root(), "this test needs root");
    let (_ground, reference) = place(driver);
    everything(driver, reference.path());
    let expected = shown(driver, reference.path());
    let mut reached = Vec::new();
    let all: Vec<&str> = failpoint::ALL.iter().chain(more).copied().collect();
    for point in &all {
        let (_ground, dir) = place(driver);
        if crash(driver, dir.path(), point) {
            reached.push(*point);
        }
        consistent(driver, dir.path(), point);
        // And it goes on from there.
        everything(driver, dir.path());
        consistent(driver, dir.path(), point);
        let found = shown(driver, dir.path());
        assert_eq!(difference(&expected, &found), Vec::<String>::new(), "{driver}, {point}");
    }
    assert_eq!(reached, all, "{driver}: every failpoint is reached");
}

fn shown(driver: &str, at: &Path) -> stower_storage::testsuite::Tree {
    let store = open(driver, at);
    let mounts = store.activate(&key("kept")).unwrap();
    let seen = tree(&detached::open(&mounts[0]).unwrap());
    store.deactivate(&key("kept")).unwrap();
    seen
}

#[test]
fn root_overlay_every_failpoint() {
    every_point("overlay", &[]);
}

#[test]
fn root_btrfs_every_failpoint() {
    every_point("btrfs_quota", failpoint::BTRFS);
}

#[test]
fn root_native_every_failpoint() {
    every_point("native", &[]);
}

#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn root_devicemapper_every_failpoint() {
    every_point("devicemapper_ext4", failpoint::DEVICEMAPPER);
}
