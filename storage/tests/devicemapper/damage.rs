//! What somebody or something broke costs what was broken, and nothing else.

use std::path::Path;

use stower_storage::testsuite::{Files, close};
use stower_storage::{DriverError, PrepareError, Pressure, SnapshotError, detached};

use crate::support::{SMALL, bench, chain, detail, image, key, noise, open, run, settled};

/// Replaces the record of a thin device.
fn spoil(dir: &Path, record: &str) {
    let at = dir.join("thin");
    std::fs::remove_file(&at).unwrap();
    std::os::unix::fs::symlink(record, at).unwrap();
}

/// The number of the pool's device that a record names.
fn number(dir: &Path) -> String {
    let target = std::fs::read_link(dir.join("thin")).unwrap();
    target.to_str().unwrap().split('/').nth(1).unwrap().to_owned()
}

#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn root_a_damaged_record_costs_that_record() {
    let mut bench = bench(SMALL);
    let base = image(bench.store(), 2, 100_000);
    for name in ["bad", "gone", "twice", "good"] {
        bench.store().prepare(&key(name), Some(&base)).unwrap();
    }
    let root = bench.at().join("devicemapper/snapshots");
    spoil(&root.join("bad"), "v1/what/ever");
    spoil(&root.join("gone"), "v1/7777/524288");
    // Nobody could say whose it is.
    let good = std::fs::read_link(root.join("twice/thin")).unwrap();
    bench.store().prepare(&key("other"), Some(&base)).unwrap();
    spoil(&root.join("other"), good.to_str().unwrap());
    bench.reopen();
    let left: Vec<_> = bench.store().list().into_iter().map(|snapshot| snapshot.key).collect();
    assert_eq!(left, [key("good")]);
    assert!(bench.store().has(&base));
    settled(bench.store());
    assert_eq!(detail(bench.store(), "thin devices"), "3", "what they named is gone with them");
    let mount = detached::open(&bench.store().activate(&key("good")).unwrap()[0]).unwrap();
    assert_eq!(std::fs::read(Files::new(&mount).path("f1")).unwrap(), noise(1, 100_000));
}

#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn root_a_device_that_the_pool_lost_costs_what_is_based_on_it() {
    let mut bench = bench(SMALL);
    let one = bench.commit(None, |files| files.write("one", "1"));
    let two = bench.commit(Some(&one), |files| files.write("two", "2"));
    let three = bench.commit(Some(&two), |files| files.write("three", "3"));
    bench.store().prepare(&key("on-three"), Some(&three)).unwrap();
    bench.store().prepare(&key("on-one"), Some(&one)).unwrap();
    let pool = bench.store().status().unwrap().pool.unwrap().name;
    let lost = number(&bench.at().join("devicemapper/layers").join(two.0.hex()));
    run(&format!("dmsetup message {pool} 0 'delete {lost}'"));
    bench.reopen();
    assert!(bench.store().has(&one) && !bench.store().has(&two) && !bench.store().has(&three));
    let left: Vec<_> = bench.store().list().into_iter().map(|snapshot| snapshot.key).collect();
    assert_eq!(left, [key("on-one")]);
    settled(bench.store());
    assert_eq!(detail(bench.store(), "thin devices"), "3");
    assert_eq!(bench.view(&one).len(), 2);
}

/// It is told, and nothing new hangs on it.
#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn root_a_pool_that_is_held_still_takes_no_new_work() {
    let bench = bench(SMALL);
    let base = image(bench.store(), 2, 100_000);
    let pool = bench.store().status().unwrap().pool.unwrap();
    assert_eq!(pool.pressure, None);
    run(&format!("dmsetup suspend {}", pool.name));
    let refused = bench.store().prepare(&key("new"), Some(&base)).unwrap_err();
    println!("{}", chain(&refused));
    assert!(matches!(
        &refused,
        PrepareError::Driver(_, DriverError::Pressure(Pressure::ReadOnly { why, .. })) if why.contains("dmsetup resume")
    ));
    run(&format!("dmsetup resume {}", pool.name));
    bench.store().prepare(&key("new"), Some(&base)).unwrap();
}

#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn root_without_deferred_deletion_what_is_mounted_stays() {
    let mut bench = bench(&[
        ("dm.loopdatasize", "1G"),
        ("dm.loopmetadatasize", "16M"),
        ("dm.basesize", "64M"),
        ("dm.use_deferred_deletion", "false"),
    ]);
    let (mine, mount) = bench.mounted(None);
    let refused = bench.store().remove(&mine).unwrap_err();
    assert!(chain(&refused).contains("something has it mounted"), "{}", chain(&refused));
    assert!(matches!(refused, SnapshotError::Driver(..)));
    assert_eq!(bench.store().list().len(), 1);
    Files::new(&mount).write("still", "there");
    close(mount);
    // Nobody has it any more.
    bench.store().remove(&mine).unwrap();
    assert!(bench.store().list().is_empty());
}

const GROWING: &[(&str, &str)] = &[
    ("dm.loopdatasize", "96M"),
    ("dm.loopmetadatasize", "8M"),
    ("dm.basesize", "256M"),
    ("dm.thinp_autoextend_threshold", "50"),
    ("dm.thinp_autoextend_percent", "60"),
];

/// Writes until the pool grows; only of use as a process of its own.
#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn victim() {
    let Some(at) = std::env::var_os("VICTIM_AT") else { return };
    let store = open(Path::new(&at), GROWING).unwrap();
    store.prepare(&key("k"), None).unwrap();
    let mount = detached::open(&store.activate(&key("k")).unwrap()[0]).unwrap();
    let files = Files::new(&mount);
    for n in 0..16 {
        let name = format!("f{n}");
        std::fs::write(files.path(&name), noise(n, 4 << 20)).unwrap();
        std::fs::File::open(files.path(&name)).unwrap().sync_all().unwrap();
        std::fs::write(Path::new(&at).join("written"), n.to_string()).unwrap();
    }
}

#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn root_who_dies_while_the_pool_grows_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "damage::victim", "--include-ignored", "--quiet"])
        .env("VICTIM_AT", dir.path())
        .env("STOWER_FAILPOINT", "pool.stretched")
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap()
        .status;
    assert!(!status.success(), "the pool did not grow");
    let store = open(dir.path(), &[]).unwrap();
    let pool = store.status().unwrap().pool.unwrap();
    assert!(pool.data.total >= 150 << 20, "{pool:?}");
    let written: usize = std::fs::read_to_string(dir.path().join("written")).unwrap().parse().unwrap();
    let mount = detached::open(&store.activate(&key("k")).unwrap()[0]).unwrap();
    for n in 0..=written {
        assert_eq!(
            std::fs::read(Files::new(&mount).path(&format!("f{n}"))).unwrap(),
            noise(n, 4 << 20),
            "f{n}"
        );
    }
    println!("{} of 16 files were written when it died, and all are there", written + 1);
}
