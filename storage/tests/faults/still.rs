//! The pool is held still by somebody, and does not answer.

use std::os::fd::AsRawFd;
use std::time::Instant;

use stower_storage::{DriverError, PrepareError, SnapshotError, detached};

use crate::support::{SMALL, chain, detail, image, key, open, run, settled, until};
use crate::tools::{mode, mount, noise, pool, pressure, put, read, reason, score, within};

const FAULT: &str = "pool suspended";

#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn root_the_pool_is_suspended() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), SMALL).unwrap();
    let base = image(&store, 4, 1 << 20);
    let [writer, idle, gone] = ["writer", "idle", "gone"].map(key);
    for key in [&writer, &idle, &gone] {
        store.prepare(key, Some(&base)).unwrap();
    }
    let held = mount(&store, &writer);
    put(&held, "kept", 7, 1 << 20).unwrap();
    let name = pool(&store).name;
    run(&format!("dmsetup suspend {name}"));
    std::thread::scope(|scope| {
        let begin = Instant::now();
        let waiting = scope.spawn(|| put(&held, "during", 1, 1 << 20));

        within("status", || {
            score(FAULT, "status", pressure(&store).unwrap(), begin);
            score(FAULT, "state", format!("{} | {}", mode(&store), reason(&store)), begin);
        });
        assert!(pressure(&store).unwrap().to_string().contains("dmsetup resume"));
        let begin = Instant::now();
        let refused = within("prepare", || store.prepare(&key("new"), Some(&base)).unwrap_err());
        score(FAULT, "prepare", chain(&refused), begin);
        assert!(matches!(refused, PrepareError::Driver(_, DriverError::Pressure(_))));
        let begin = Instant::now();
        for (what, key) in [("activate", &idle), ("activate what is mounted", &writer)] {
            let refused = within(what, || store.activate(key).unwrap_err());
            score(FAULT, what, chain(&refused), begin);
            assert!(matches!(refused, SnapshotError::Driver(_, _, DriverError::Pressure(_))));
        }
        let begin = Instant::now();
        within("view", || store.view(&key("view"), Some(&base)).unwrap());
        let refused = within("activate a view", || store.activate(&key("view")).unwrap_err());
        score(FAULT, "view (a record), activate it", chain(&refused), begin);
        let begin = Instant::now();
        let refused = within("changes", || store.changes(&idle, &[]).unwrap_err());
        score(FAULT, "diff", chain(&refused), begin);
        let refused = within("usage", || store.usage(&idle).unwrap_err());
        score(FAULT, "usage", chain(&refused), begin);
        let refused = within("commit", || {
            let diff_id = stower_storage::DiffId(stower_storage::Digest::of(b"x"));
            store.commit(&idle, &diff_id).unwrap_err()
        });
        score(FAULT, "commit", chain(&refused), begin);
        let begin = Instant::now();
        within("remove", || store.remove(&gone).unwrap());
        within("remove", || store.remove(&key("view")).unwrap());
        score(
            FAULT,
            "remove",
            format!("removed; blocks pending: {}", detail(&store, "pending removals")),
            begin,
        );
        within("list", || assert_eq!(store.list().len(), 2));
        assert!(!waiting.is_finished(), "the pool is not held still");
        run(&format!("dmsetup resume {name}"));
        let begin = Instant::now();
        waiting.join().unwrap().unwrap();
        score(FAULT, "resume: the writer that waited", "went on, no error", begin);
    });
    let begin = Instant::now();
    settled(&store);
    assert_eq!(pressure(&store), None);
    assert!(read(&held, "during").unwrap() == noise(1, 1 << 20));
    store.prepare(&key("new"), Some(&base)).unwrap();
    drop(mount(&store, &key("new")));
    drop(mount(&store, &idle));
    score(FAULT, "then: removal ends, prepare, activate", "all as before", begin);
    assert_eq!(detail(&store, "thin devices"), "5");
}

/// Work on a device that hangs holds up nobody who works on another one.
#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn root_a_filesystem_that_is_frozen_is_its_own_affair() {
    const FAULT: &str = "one filesystem frozen";
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), SMALL).unwrap();
    let base = image(&store, 1, 1 << 20);
    // More than once around any small table of locks.
    let keys: Vec<_> = (0..70).map(|n| key(&format!("k{n}"))).collect();
    for key in &keys {
        store.prepare(key, Some(&base)).unwrap();
    }
    let stuck = &keys[0];
    let held = mount(&store, stuck);
    put(&held, "kept", 7, 1 << 20).unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), held.as_raw_fd());
    run(&format!("fsfreeze --freeze {path}"));
    std::thread::scope(|scope| {
        let writes = scope.spawn(|| put(&held, "during", 1, 1 << 20));
        let grows = scope.spawn(|| store.resize(stuck, Some(512 << 20)).map_err(|error| chain(&error)));
        // The device has its new size before its filesystem is to grow, which then waits.
        until("it grows", || run("dmsetup table").contains(&format!(" {} thin ", (512 << 20) / 512)));
        let begin = Instant::now();
        within("all others", || {
            for key in &keys[1..] {
                drop(detached::open(&store.activate(key).unwrap()[0]).unwrap());
                store.deactivate(key).unwrap();
            }
        });
        score(FAULT, "activate and mount 69 others", "all work", begin);
        assert!(!writes.is_finished() && !grows.is_finished(), "it is not frozen");
        run(&format!("fsfreeze --unfreeze {path}"));
        let begin = Instant::now();
        writes.join().unwrap().unwrap();
        score(FAULT, "thawed: write, growth", format!("{:?}", grows.join().unwrap()), begin);
    });
}
