//! A pool of data that is full and cannot grow.

use std::time::Instant;

use stower_storage::{DriverError, PrepareError, Pressure};

use crate::support::{LoopDevice, chain, detail, image, key, open, settled, until};
use crate::tools::{
    mode, mount, noise, parameter, pressure, put, read, reason, score, until_refused, within,
};

const FAULT: &str = "data full";

/// Two containers write into a pool that is full; a third one reads.
#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn root_data_are_full() {
    let disk = LoopDevice::new(128 << 20);
    let dir = tempfile::tempdir().unwrap();
    let options =
        [("dm.directlvm_device", disk.path.as_str()), ("dm.basesize", "256M"), ("dm.blkdiscard", "true")];
    let store = open(dir.path(), &options).unwrap();
    parameter("no_space_timeout", "5");
    let base = image(&store, 4, 1 << 20);
    let [a, b, reader] = ["a", "b", "reader"].map(key);
    let mounts = [&a, &b, &reader].map(|key| {
        store.prepare(key, Some(&base)).unwrap();
        mount(&store, key)
    });
    for mount in &mounts {
        put(mount, "kept", 7, 1 << 20).unwrap();
    }

    // As long as there is some room, only new work is refused.
    let begin = Instant::now();
    let mut written = 0;
    while pressure(&store).is_none() {
        put(&mounts[0], &format!("p{written}"), written, 4 << 20).unwrap();
        written += 1;
    }
    let refused = store.prepare(&key("new"), Some(&base)).unwrap_err();
    score(FAULT, "prepare, less than 10 % free", chain(&refused), begin);
    assert!(matches!(refused, PrepareError::Driver(_, DriverError::Pressure(Pressure::DataLow { .. }))));
    put(&mounts[1], "still", 1, 1 << 20).unwrap();

    let begin = Instant::now();
    let errors = within("writers in a full pool", || {
        std::thread::scope(|scope| {
            let writers =
                [&mounts[0], &mounts[1]].map(|mount| scope.spawn(move || until_refused(mount, "q")));
            writers.map(|writer| writer.join().unwrap())
        })
    });
    for (error, files) in errors {
        score(
            FAULT,
            "write + fsync (2 containers, wait of 5 s)",
            format!("{error} after {files} files"),
            begin,
        );
    }
    score(FAULT, "state", format!("{} | {}", mode(&store), reason(&store)), begin);
    assert!(matches!(pressure(&store), Some(Pressure::ReadOnly { .. })), "{:?}", pressure(&store));

    let begin = Instant::now();
    within("reading in a full pool", || {
        assert!(read(&mounts[2], "kept").unwrap() == noise(7, 1 << 20));
        assert!(read(&mounts[2], "f1").unwrap() == crate::support::noise(1, 1 << 20));
        assert!(read(&mounts[0], "kept").unwrap() == noise(7, 1 << 20));
        store.view(&key("view"), Some(&base)).unwrap();
        let view = mount(&store, &key("view"));
        assert!(read(&view, "f2").unwrap() == crate::support::noise(2, 1 << 20));
        drop(view);
        store.remove(&key("view")).unwrap();
    });
    score(FAULT, "read, of others and of the writers; view", "all there", begin);
    let refused = within("prepare", || store.prepare(&key("new"), Some(&base)).unwrap_err());
    score(FAULT, "prepare", chain(&refused), begin);
    // Overwriting needs no block.
    let begin = Instant::now();
    let again = within("overwrite", || {
        use std::os::unix::fs::FileExt;
        let path = stower_storage::testsuite::Files::new(&mounts[2]).path("kept");
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&noise(8, 4096), 0).and_then(|()| file.sync_data())
    });
    score(FAULT, "overwrite in place + fdatasync", format!("{again:?}"), begin);

    // One of them goes, and the others go on without a restart.
    let begin = Instant::now();
    let [first, second, third] = mounts;
    drop(first);
    within("removal in a full pool", || store.remove(&a).unwrap());
    settled(&store);
    until("there is room again", || pressure(&store).is_none());
    score(FAULT, "remove one container", format!("{} | {}", mode(&store), reason(&store)), begin);
    let begin = Instant::now();
    let wrote = within("write after it", || put(&second, "after", 3, 1 << 20));
    score(FAULT, "then: write to the mount that saw the error", format!("{wrote:?}"), begin);
    let wrote = within("write after it", || put(&third, "after", 3, 1 << 20));
    score(FAULT, "then: write to the mount that only read", format!("{wrote:?}"), begin);
    wrote.unwrap();
    drop(second);
    store.deactivate(&b).unwrap();
    let begin = Instant::now();
    within("a restart of the container", || {
        let again = mount(&store, &b);
        assert!(read(&again, "kept").unwrap() == noise(7, 1 << 20), "what was synced");
        put(&again, "restarted", 4, 1 << 20).unwrap();
        assert!(read(&again, "restarted").unwrap() == noise(4, 1 << 20));
    });
    score(FAULT, "then: mount it anew (restart), read, write", "synced files there, writes work", begin);
    store.prepare(&key("new"), Some(&base)).unwrap();
    put(&mount(&store, &key("new")), "new", 5, 1 << 20).unwrap();
    score(FAULT, "then: prepare, write", "works", begin);
    assert_eq!(detail(&store, "thin devices"), "5");
}
