//! Many at once, mounts that others have, and what a restart says of options.

use std::sync::mpsc::channel;
use std::time::Instant;

use stower_storage::testsuite::{Files, close};
use stower_storage::{SnapshotKind, detached};

use crate::support::{SMALL, bench, chain, detail, image, key, open, settled};

#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn root_a_hundred_snapshots_are_made_and_mounted_at_once() {
    const THREADS: usize = 10;
    let bench = bench(SMALL);
    let base = image(bench.store(), 20, 10_000);
    let begin = Instant::now();
    let mounts: Vec<_> = std::thread::scope(|scope| {
        let store = bench.store();
        let work = |thread: usize| {
            move || -> Vec<_> {
                (0..10)
                    .map(|n| {
                        let key = key(&format!("k{thread}-{n}"));
                        store.prepare(&key, Some(&base)).unwrap();
                        let mount = detached::open(&store.activate(&key).unwrap()[0]).unwrap();
                        Files::new(&mount).write("mine", key.as_str());
                        (key, mount)
                    })
                    .collect()
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(work(thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    println!("100 snapshots made, mounted and written to: {:.2} s", begin.elapsed().as_secs_f64());
    assert_eq!(mounts.len(), 100);
    assert_eq!(detail(bench.store(), "thin devices"), "102", "the base and the layer too");
    for (key, mount) in mounts {
        assert_eq!(Files::new(&mount).read("mine"), key.as_str());
        drop(mount);
    }
    let begin = Instant::now();
    for snapshot in bench.store().list() {
        assert_eq!(snapshot.kind, SnapshotKind::Writable);
        bench.store().remove(&snapshot.key).unwrap();
    }
    println!("removed: {:.2} s", begin.elapsed().as_secs_f64());
    settled(bench.store());
    println!("and their blocks given back: {:.2} s", begin.elapsed().as_secs_f64());
    assert_eq!(detail(bench.store(), "thin devices"), "2");
}

/// Somebody else's mount namespace has a copy of the mount, as Docker's old `EBUSY` came about.
#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn root_removal_does_not_wait_for_a_mount_in_another_namespace() {
    use rustix::mount::{MountPropagationFlags, MoveMountFlags, mount_change, move_mount};
    let mut bench = bench(SMALL);
    let base = bench.commit(None, |files| files.write("foo", "1"));
    let (mine, mount) = bench.mounted(Some(&base));
    Files::new(&mount).write("kept", "by the other");
    let (told, hears) = channel::<()>();
    let (done, finished) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
            let at = tempfile::tempdir().unwrap();
            let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            move_mount(&mount, "", rustix::fs::CWD, at.path(), empty).unwrap();
            drop(mount);
            done.send(()).unwrap();
            hears.recv().unwrap();
            assert_eq!(std::fs::read_to_string(at.path().join("kept")).unwrap(), "by the other");
            std::fs::write(at.path().join("more"), vec![7; 1 << 20]).unwrap();
            let detach = rustix::mount::UnmountFlags::DETACH;
            rustix::mount::unmount(at.path(), detach).unwrap();
        });
        finished.recv().unwrap();
        let store = bench.store();
        store.remove(&mine).unwrap();
        assert!(store.list().is_empty());
        // The name is free, and what is made under it is new.
        store.prepare(&mine, Some(&base)).unwrap();
        let again = detached::open(&store.activate(&mine).unwrap()[0]).unwrap();
        assert!(!Files::new(&again).path("kept").exists());
        close(again);
        assert_eq!(detail(store, "pending removals"), "1", "it is only not there for us");
        told.send(()).unwrap();
    });
    settled(bench.store());
    assert_eq!(detail(bench.store(), "thin devices"), "3");
}

/// Whoever else has it mounted goes on writing to what is nobody's any more; the layer is what was there.
#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn root_a_commit_does_not_wait_for_a_mount_that_somebody_has() {
    let mut bench = bench(SMALL);
    let (mine, mount) = bench.mounted(None);
    let files = Files::new(&mount);
    files.write("foo", "committed");
    let diff_id = bench.diff_id();
    let chain = bench.store().commit(&mine, &diff_id).unwrap();
    files.write("foo", "too late");
    files.write("bar", "too late");
    assert_eq!(bench.view(&chain).keys().collect::<Vec<_>>(), ["", "foo"]);
    let (_again, above) = bench.mounted(Some(&chain));
    assert_eq!(Files::new(&above).read("foo"), "committed");
    assert_eq!(detail(bench.store(), "pending removals"), "1");
    close(mount);
    settled(bench.store());
    assert_eq!(detail(bench.store(), "thin devices"), "3");
    close(above);
    bench.reopen();
    assert_eq!(bench.view(&chain).len(), 2);
}

/// What is there is there again. With a directory that lasts (`STOWER_KEPT`), it is also after a reboot and a power cut.
#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn root_what_was_kept_is_found_again() {
    let own = tempfile::tempdir().unwrap();
    let at = std::env::var_os("STOWER_KEPT").map_or_else(|| own.path().to_owned(), std::path::PathBuf::from);
    let all: Vec<_> = SMALL.iter().copied().chain([("dm.fs", "ext4")]).collect();
    let chain = |store: &stower_storage::Snapshots| {
        assert_eq!((store.layers().len(), store.list().len()), (1, 1));
        assert_eq!(detail(store, "thin devices"), "3");
        store.layers()[0].chain
    };
    if !at.join("devicemapper").exists() {
        std::fs::create_dir_all(&at).unwrap();
        let store = open(&at, &all).unwrap();
        let base = image(&store, 3, 1 << 20);
        store.prepare(&key("kept"), Some(&base)).unwrap();
        let mount = detached::open(&store.activate(&key("kept")).unwrap()[0]).unwrap();
        Files::new(&mount).write("mine", "kept");
        close(mount);
        // A snapshot's record is never waited for by itself.
        rustix::fs::syncfs(std::fs::File::open(&at).unwrap()).unwrap();
        chain(&store);
        if std::env::var_os("STOWER_KEPT").is_some() {
            // As if killed: the pool stays, for the next process, or for the power to be cut.
            Box::leak(Box::new(store));
            return;
        }
    }
    let store = open(&at, &[]).unwrap();
    chain(&store);
    let mount = detached::open(&store.activate(&key("kept")).unwrap()[0]).unwrap();
    assert_eq!(Files::new(&mount).read("mine"), "kept");
    for n in 0..3 {
        let read = std::fs::read(Files::new(&mount).path(&format!("f{n}"))).unwrap();
        assert_eq!(read, crate::support::noise(n, 1 << 20));
    }
    println!("found again: {}", at.display());
}

/// Who dies with removals to do leaves them to the next, which finds them by itself.
#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn root_a_mount_outlives_the_store_and_its_device_goes_later() {
    let mut bench = bench(SMALL);
    let (mine, mount) = bench.mounted(None);
    bench.store().remove(&mine).unwrap();
    bench.reopen();
    assert!(bench.store().list().is_empty());
    assert_eq!(detail(bench.store(), "pending removals"), "1");
    Files::new(&mount).write("still", "mounted");
    close(mount);
    settled(bench.store());
    assert_eq!(detail(bench.store(), "thin devices"), "1");
}

#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn root_options_are_read_strictly_and_do_not_change_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |options: &[(&str, &str)], why: &str| {
        let error = chain(&open(dir.path(), options).unwrap_err());
        assert!(error.contains(why), "{error}");
    };
    refused(&[("dm.nothing", "1")], "has these: dm.basesize, dm.loopdatasize");
    refused(&[("dm.basesize", "small")], "such as 512M or 10G");
    drop(open(dir.path(), SMALL).unwrap());
    refused(&[("dm.basesize", "512M")], "was made with 268435456");
    refused(&[("dm.fs", "xfs")], "was made with ext4");
    refused(&[("dm.blocksize", "128K")], "was made with 65536");
    refused(&[("dm.thinpooldev", "/dev/mapper/other")], "was made with files");
    refused(&[("dm.loopdatasize", "1G")], "a pool is not made smaller");
    // Left out it stays, and more is possible.
    let store = open(dir.path(), &[]).unwrap();
    assert_eq!(store.status().unwrap().pool.unwrap().metadata.total, 32 << 20);
    drop(store);
    let store = open(dir.path(), &[("dm.loopmetadatasize", "64M")]).unwrap();
    assert_eq!(store.status().unwrap().pool.unwrap().metadata.total, 64 << 20);
}
