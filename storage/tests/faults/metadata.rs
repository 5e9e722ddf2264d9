//! A pool whose own tables are full and cannot grow.

use std::time::Instant;

use stower_storage::{DriverError, PrepareError, Pressure, SnapshotKey};

use crate::support::{LoopDevice, chain, detail, image, key, open, run, settled};
use crate::tools::{mode, mount, noise, parameter, pool, pressure, put, read, reason, score, within};

const FAULT: &str = "metadata full";

/// Somebody's pool with 1 MiB of metadata: a tenth of it is more than one container's writes take at once, so that the
/// moment in which it is low cannot be missed.
struct Given {
    name: &'static str,
    data: LoopDevice,
    metadata: LoopDevice,
}

impl Given {
    fn new(name: &'static str) -> Self {
        let it = Self { name, data: LoopDevice::new(1 << 30), metadata: LoopDevice::new(1 << 20) };
        it.make();
        it
    }

    fn make(&self) {
        let table =
            format!("0 {} thin-pool {} {} 128 0", (1 << 30) / 512, self.metadata.path, self.data.path);
        run(&format!("dmsetup create --noudevsync {0} --table '{table}' && dmsetup mknodes {0}", self.name));
    }

    fn take_down(&self) {
        run(&format!("dmsetup remove --noudevsync {}", self.name));
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        let _ = std::process::Command::new("dmsetup").args(["remove", self.name]).output();
    }
}

#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn root_metadata_are_full() {
    let given = Given::new("given-small");
    parameter("no_space_timeout", "5");
    let dir = tempfile::tempdir().unwrap();
    let device = format!("/dev/mapper/{}", given.name);
    let options = [("dm.thinpooldev", device.as_str()), ("dm.basesize", "256M")];
    let store = open(dir.path(), &options).unwrap();
    let base = image(&store, 4, 1 << 20);
    let reader = key("reader");
    store.prepare(&reader, Some(&base)).unwrap();
    let reading = mount(&store, &reader);
    put(&reading, "kept", 7, 1 << 20).unwrap();

    // Each that writes needs tables of its own.
    let writers: Vec<SnapshotKey> = (0..200).map(|n| key(&format!("w{n}"))).collect();
    for key in &writers {
        store.prepare(key, Some(&base)).unwrap();
    }
    let begin = Instant::now();
    let (mut mounts, mut low, mut failed) = (Vec::new(), None, None);
    for key in &writers {
        let wrote = within("mount and write", || {
            let mounts = store.activate(key).map_err(|error| chain(&error))?;
            let mount = stower_storage::detached::open(&mounts[0]).map_err(|error| chain(&error))?;
            let wrote = put(&mount, "mine", 1, 1 << 20).map_err(|error| error.to_string());
            Ok::<_, String>((mount, wrote))
        });
        let (mount, wrote) = match wrote {
            Ok((mount, wrote)) => (Some(mount), wrote),
            Err(error) => (None, Err(error)),
        };
        mounts.extend(mount);
        if let Err(error) = wrote {
            failed = Some(error);
            break;
        }
        if low.is_none() && pressure(&store).is_some() {
            let refused = store.prepare(&self::key("new"), Some(&base)).unwrap_err();
            score(FAULT, "prepare, less than 10 % free", chain(&refused), begin);
            low = Some(refused);
        }
    }
    assert!(
        matches!(low, Some(PrepareError::Driver(_, DriverError::Pressure(Pressure::MetadataLow { .. })))),
        "{low:?} {:?}",
        pool(&store)
    );
    let failed = failed.expect("the pool's tables were not filled");
    score(FAULT, "write + fsync", format!("{failed}, after {} containers", mounts.len()), begin);
    score(FAULT, "state", format!("{} | {}", mode(&store), reason(&store)), begin);
    within("status", || score(FAULT, "status", pressure(&store).unwrap(), begin));
    assert!(matches!(pressure(&store), Some(Pressure::ReadOnly { .. })), "{:?}", pool(&store));
    let begin = Instant::now();
    within("reading", || {
        assert!(read(&reading, "kept").unwrap() == noise(7, 1 << 20));
        assert!(read(&reading, "f1").unwrap() == crate::support::noise(1, 1 << 20));
    });
    score(FAULT, "read", "all there", begin);
    let refused = within("prepare", || store.prepare(&key("new"), Some(&base)).unwrap_err());
    score(FAULT, "prepare", chain(&refused), begin);
    let gone = &writers[writers.len() - 1];
    within("remove", || store.remove(gone).unwrap());
    score(FAULT, "remove", format!("removed; pending: {}", detail(&store, "pending removals")), begin);

    // A start tells the same, and shows what there is.
    drop(store);
    let begin = Instant::now();
    let store = open(dir.path(), &[]).unwrap();
    score(
        FAULT,
        "start again",
        format!("{} | {} | {} snapshots", mode(&store), reason(&store), store.list().len()),
        begin,
    );
    assert!(matches!(pressure(&store), Some(Pressure::ReadOnly { .. })), "{:?}", pool(&store));
    assert_eq!(store.list().len(), writers.len(), "one fewer, and the reader");

    // Its owner mends it.
    drop((reading, mounts));
    drop(store);
    given.take_down();
    let begin = Instant::now();
    println!("{}", run(&format!("thin_check --clear-needs-check-flag {} 2>&1", given.metadata.path)));
    run(&format!(
        "f=$(losetup -nO BACK-FILE {0}); truncate -s 4M $f && losetup --set-capacity {0}",
        given.metadata.path
    ));
    given.make();
    let store = open(dir.path(), &[]).unwrap();
    score(
        FAULT,
        "thin_check --clear-needs-check-flag, 4 MiB of metadata, start again",
        format!("{} | {}", mode(&store), reason(&store)),
        begin,
    );
    assert_eq!(pressure(&store), None);
    let begin = Instant::now();
    settled(&store);
    let reading = mount(&store, &reader);
    assert!(read(&reading, "kept").unwrap() == noise(7, 1 << 20));
    put(&reading, "after", 1, 1 << 20).unwrap();
    store.prepare(&key("new"), Some(&base)).unwrap();
    let devices = (writers.len() + 3).to_string();
    assert_eq!(detail(&store, "thin devices"), devices, "one is lost, or left over");
    score(
        FAULT,
        "then: synced files, write, prepare",
        format!("all work; {devices} thin devices, none lost"),
        begin,
    );
    drop(reading);
}
