//! The disk below gives errors.

use std::time::Instant;

use stower_storage::Pressure;

use crate::support::{LoopDevice, chain, detail, image, key, open, run, settled, until};
use crate::tools::{
    Disk, mode, mount, noise, pressure, put, read, reason, score, started_unused, until_refused, within,
};

/// Where the driver puts data on a device of 512 MiB: after a label and 1 %, at least 8 MiB, of metadata.
const DATA: u64 = 9 << 20;
const OPTIONS: [(&str, &str); 2] = [("dm.basesize", "256M"), ("dm.blkdiscard", "true")];

#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn root_data_give_errors() {
    const FAULT: &str = "EIO, data";
    let disk = Disk::new("faulty-data", 512 << 20);
    let path = disk.path();
    let dir = tempfile::tempdir().unwrap();
    let options = [("dm.directlvm_device", path.as_str()), OPTIONS[0], OPTIONS[1]];
    let store = open(dir.path(), &options).unwrap();
    let base = image(&store, 4, 1 << 20);
    let [writer, other] = ["writer", "other"].map(key);
    for key in [&writer, &other] {
        store.prepare(key, Some(&base)).unwrap();
    }
    let held = mount(&store, &writer);
    put(&held, "kept", 7, 1 << 20).unwrap();
    let before = detail(&store, "thin devices");

    disk.fails_from(DATA);
    let begin = Instant::now();
    let gave = within("write", || put(&held, "during", 1, 1 << 20));
    score(FAULT, "write + fsync", format!("{gave:?}"), begin);
    assert!(gave.is_err());
    let gave = within("read", || read(&held, "kept").map(|bytes| bytes.len()));
    score(FAULT, "read", format!("{gave:?}"), begin);
    score(FAULT, "state", format!("{} | {}", mode(&store), reason(&store)), begin);
    let begin = Instant::now();
    let gave = within("activate", || {
        let mounts = store.activate(&other).map_err(|error| chain(&error))?;
        stower_storage::detached::open(&mounts[0]).map(drop).map_err(|error| chain(&error))
    });
    score(FAULT, "activate, mount", format!("{gave:?}"), begin);
    let begin = Instant::now();
    let gave = within("prepare", || store.prepare(&key("new"), Some(&base)).map_err(|error| chain(&error)));
    score(FAULT, "prepare", format!("{gave:?}"), begin);
    let begin = Instant::now();
    let gave = within("unpack", || {
        let items = vec![stower_storage::testsuite::Item::file("x", noise(3, 1 << 20))];
        let blob = stower_storage::testsuite::blob(
            stower_storage::testsuite::tar::archive(&items),
            stower_storage::Compression::None,
        );
        store
            .unpack_image(vec![blob], &stower_storage::UnpackLimits::default())
            .map_err(|error| chain(&error))
    });
    score(FAULT, "unpack", format!("{gave:?}"), begin);
    assert!(gave.is_err());
    within("status", || score(FAULT, "status", format!("{:?}", pressure(&store)), begin));
    let _ = store.remove(&key("new"));

    disk.works();
    let begin = Instant::now();
    let gave = within("read", || read(&held, "kept").map(|bytes| bytes == noise(7, 1 << 20)));
    score(FAULT, "the disk works again: read", format!("{gave:?}"), begin);
    drop(held);
    drop(store);
    // The pool goes with the last that used it; the next start sees to what the kernel wants checked.
    let store = started_unused(dir.path());
    score(
        FAULT,
        "then: start again, nothing in use",
        format!("{} | {}", mode(&store), reason(&store)),
        begin,
    );
    assert_eq!(pressure(&store), None);
    let begin = Instant::now();
    settled(&store);
    assert_eq!(detail(&store, "thin devices"), before, "a thin device is lost");
    let held = mount(&store, &writer);
    assert!(read(&held, "kept").unwrap() == noise(7, 1 << 20), "what was synced");
    put(&held, "after", 2, 1 << 20).unwrap();
    assert!(read(&mount(&store, &other), "f1").unwrap() == crate::support::noise(1, 1 << 20));
    store.prepare(&key("new"), Some(&base)).unwrap();
    score(
        FAULT,
        "then: synced files, write, prepare",
        format!("all as before; {before} thin devices, none lost"),
        begin,
    );
}

#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn root_metadata_give_errors() {
    const FAULT: &str = "EIO, metadata";
    let disk = Disk::new("faulty-metadata", 512 << 20);
    let path = disk.path();
    let dir = tempfile::tempdir().unwrap();
    let options = [("dm.directlvm_device", path.as_str()), OPTIONS[0], OPTIONS[1]];
    let store = open(dir.path(), &options).unwrap();
    let base = image(&store, 4, 1 << 20);
    store.prepare(&key("writer"), Some(&base)).unwrap();
    let held = mount(&store, &key("writer"));
    put(&held, "kept", 7, 1 << 20).unwrap();

    // All of it.
    disk.fails_from(1 << 20);
    let begin = Instant::now();
    let (error, files) = within("write", || until_refused(&held, "p"));
    score(FAULT, "write + fsync", format!("{error} after {files} files"), begin);
    // The kernel notices with its next commit, within a second.
    until("the pool says so", || within("status", || pressure(&store).is_some()));
    within("status", || {
        score(FAULT, "state", format!("{} | {}", mode(&store), reason(&store)), begin);
        score(FAULT, "status", pressure(&store).unwrap(), begin);
    });
    assert!(matches!(pressure(&store), Some(Pressure::ReadOnly { .. } | Pressure::Failed { .. })));
    let begin = Instant::now();
    let refused = within("prepare", || store.prepare(&key("new"), Some(&base)).unwrap_err());
    score(FAULT, "prepare", chain(&refused), begin);
    within("remove", || store.remove(&key("new")).unwrap());

    // A start while something is in use tells the same.
    drop(store);
    let store = open(dir.path(), &[]).unwrap();
    score(FAULT, "start again, a container runs", format!("{} | {}", mode(&store), reason(&store)), begin);
    assert!(pressure(&store).is_some());
    disk.works();
    drop(held);
    drop(store);
    let begin = Instant::now();
    let store = started_unused(dir.path());
    score(
        FAULT,
        "the disk works; start again, nothing in use",
        format!("{} | {}", mode(&store), reason(&store)),
        begin,
    );
    let held = mount(&store, &key("writer"));
    assert!(read(&held, "kept").unwrap() == noise(7, 1 << 20), "what was synced");
    put(&held, "after", 2, 1 << 20).unwrap();
    settled(&store);
    assert_eq!(detail(&store, "thin devices"), "3");
    score(FAULT, "then: synced files, write", "all as before; 3 thin devices, none lost", begin);
}

/// A pool of somebody's, whose metadata are on a disk of their own. The kernel gives the whole pool up, and nothing in it is lost.
#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn root_metadata_alone_give_errors() {
    const FAULT: &str = "EIO, metadata device alone";
    let disk = Disk::new("faulty-tables", 16 << 20);
    let data = LoopDevice::new(512 << 20);
    let make = || {
        let table = format!("0 {} thin-pool {} {} 128 0", (512 << 20) / 512, disk.path(), data.path);
        run(&format!("dmsetup create --noudevsync alone --table '{table}' && dmsetup mknodes alone"));
    };
    let _pool = Removed("alone");
    make();
    let dir = tempfile::tempdir().unwrap();
    let options = [("dm.thinpooldev", "/dev/mapper/alone"), OPTIONS[0]];
    let store = open(dir.path(), &options).unwrap();
    let base = image(&store, 4, 1 << 20);
    store.prepare(&key("writer"), Some(&base)).unwrap();
    let held = mount(&store, &key("writer"));
    put(&held, "kept", 7, 1 << 20).unwrap();
    let before = detail(&store, "thin devices");

    disk.fails_from(0);
    let begin = Instant::now();
    let (error, files) = within("write", || until_refused(&held, "p"));
    score(FAULT, "write + fsync", format!("{error} after {files} files"), begin);
    until("the pool says so", || within("status", || pressure(&store).is_some()));
    within("status", || {
        score(FAULT, "state", format!("{} | {}", mode(&store), reason(&store)), begin);
        score(FAULT, "status", pressure(&store).unwrap(), begin);
    });
    assert!(matches!(pressure(&store), Some(Pressure::ReadOnly { .. } | Pressure::Failed { .. })));
    let begin = Instant::now();
    let gave = within("read", || read(&held, "kept").map(|bytes| bytes == noise(7, 1 << 20)));
    score(FAULT, "read", format!("{gave:?}"), begin);
    assert_ne!(gave.ok(), Some(false), "other bytes than were written");
    let refused = within("prepare", || store.prepare(&key("new"), Some(&base)).unwrap_err());
    score(FAULT, "prepare", chain(&refused), begin);
    within("remove", || store.remove(&key("new")).unwrap());

    // Its owner takes it down, and makes it anew once the disk works.
    disk.works();
    drop((held, store));
    run("dmsetup remove --noudevsync alone");
    run(&format!("thin_check --clear-needs-check-flag {} 2>&1", disk.path()));
    make();
    let begin = Instant::now();
    let store = open(dir.path(), &[]).unwrap();
    score(
        FAULT,
        "the disk works, pool made anew: start",
        format!("{} | {}", mode(&store), reason(&store)),
        begin,
    );
    assert_eq!(pressure(&store), None);
    settled(&store);
    assert_eq!(detail(&store, "thin devices"), before, "a thin device is lost, or left over");
    let held = mount(&store, &key("writer"));
    assert!(read(&held, "kept").unwrap() == noise(7, 1 << 20), "what was synced");
    put(&held, "after", 2, 1 << 20).unwrap();
    store.prepare(&key("new"), Some(&base)).unwrap();
    score(
        FAULT,
        "then: synced files, write, prepare",
        format!("all as before; {before} thin devices, none lost"),
        begin,
    );
    drop(held);
}

/// Takes a pool down at the end.
struct Removed(&'static str);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::process::Command::new("dmsetup").args(["remove", self.0]).output();
    }
}
