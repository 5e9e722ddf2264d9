//! Blocks come, and go back to where they came from.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use stower_storage::testsuite::{Files, close};
use stower_storage::{DriverError, PrepareError, Pressure, detached};

use crate::support::{LoopDevice, SMALL, bench, detail, image, key, noise, open, settled, until};

/// Bytes that the pool's file takes.
fn taken(at: &Path) -> u64 {
    std::fs::metadata(at.join("devicemapper/data")).unwrap().blocks() * 512
}

#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn root_commit_diff_and_removal_return_space_to_the_file() {
    const MIB: u64 = 1 << 20;
    let mut bench = bench(SMALL);
    let at = bench.at().to_owned();
    let show = |what: &str| {
        let taken = taken(&at);
        println!("the file takes {:7.1} MiB {what}", taken as f64 / MIB as f64);
        taken
    };
    let empty = show("with the base");
    let base = image(bench.store(), 8, 4 << 20);
    let unpacked = show("with an image of 32 MiB");
    assert!(unpacked >= empty + 32 * MIB, "{empty} {unpacked}");

    let (mine, mount) = bench.mounted(Some(&base));
    let files = Files::new(&mount);
    std::fs::write(files.path("big"), noise(99, 64 << 20)).unwrap();
    std::fs::write(files.path("small"), noise(98, 8 << 20)).unwrap();
    close(mount);
    let written = show("with 72 MiB written to a snapshot");
    assert!(written >= unpacked + 72 * MIB, "{unpacked} {written}");

    // Nothing stays of looking.
    assert_eq!(bench.store().changes(&mine, &[]).unwrap().len(), 2);
    let looked = show("after its changes were read");
    assert!(looked <= written + 4 * MIB, "{written} {looked}");

    let mount = bench.mount(&mine);
    Files::new(&mount).remove("big");
    close(mount);
    let diff_id = bench.diff_id();
    let above = bench.store().commit(&mine, &diff_id).unwrap();
    let committed = show("after 64 MiB of it were removed, and the rest committed");
    assert!(committed + 56 * MIB <= written, "{written} {committed}");
    assert_eq!(bench.view(&above).len(), 10);

    bench.store().remove_layer(&above).unwrap();
    settled(bench.store());
    let removed = show("after the new layer was removed");
    assert!(removed <= unpacked + 8 * MIB, "{unpacked} {removed}");
    bench.store().remove_layer(&base).unwrap();
    settled(bench.store());
    let end = show("after the image was removed");
    assert!(end <= empty + 4 * MIB, "{empty} {end}");
    assert_eq!(detail(bench.store(), "thin devices"), "1");
}

/// The files begin far too small for what is written, and grow ahead of it.
#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn root_the_pool_grows_before_it_is_full() {
    let bench = bench(&[
        ("dm.loopdatasize", "96M"),
        ("dm.loopmetadatasize", "4M"),
        ("dm.basesize", "512M"),
        ("dm.thinp_autoextend_threshold", "50"),
        ("dm.thinp_autoextend_percent", "60"),
    ]);
    let before = bench.store().status().unwrap().pool.unwrap();
    bench.store().prepare(&key("k"), None).unwrap();
    let mount = detached::open(&bench.store().activate(&key("k")).unwrap()[0]).unwrap();
    let content = noise(1, 4 << 20);
    let mut file = std::fs::File::create(Files::new(&mount).path("big")).unwrap();
    for _ in 0..60 {
        file.write_all(&content).unwrap();
        file.sync_data().unwrap();
    }
    let after = bench.store().status().unwrap().pool.unwrap();
    println!(
        "data {:?} -> {:?}, metadata {:?} -> {:?}",
        before.data, after.data, before.metadata, after.metadata
    );
    assert!(after.data.total >= 240 << 20 && after.pressure.is_none(), "{after:?}");
    let read = std::fs::read(Files::new(&mount).path("big")).unwrap();
    assert!(read.chunks(content.len()).all(|part| part == content), "what was written while it grew");
    close(mount);
}

/// On a device that does not grow: new work is refused in time, what is there can be read, and room helps.
#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn root_a_full_pool_refuses_new_work_and_recovers() {
    let disk = LoopDevice::new(256 << 20);
    let dir = tempfile::tempdir().unwrap();
    let options =
        [("dm.directlvm_device", disk.path.as_str()), ("dm.basesize", "512M"), ("dm.blkdiscard", "true")];
    let store = open(dir.path(), &options).unwrap();
    std::fs::write("/sys/module/dm_thin_pool/parameters/no_space_timeout", "3").unwrap();
    let base = image(&store, 4, 1 << 20);
    store.prepare(&key("full"), Some(&base)).unwrap();
    let mount = detached::open(&store.activate(&key("full")).unwrap()[0]).unwrap();
    let files = Files::new(&mount);
    let low = || {
        let pool = store.status().unwrap().pool.unwrap();
        matches!(pool.pressure, Some(Pressure::DataLow { .. }))
    };
    let piece = noise(5, 4 << 20);
    for n in 0..64 {
        if low() {
            break;
        }
        let mut file = std::fs::File::create(files.path(&format!("p{n}"))).unwrap();
        file.write_all(&piece).and_then(|()| file.sync_all()).unwrap();
    }
    let refused = store.prepare(&key("new"), Some(&base)).unwrap_err();
    println!("nearly full: {}", crate::support::chain(&refused));
    assert!(matches!(refused, PrepareError::Driver(_, DriverError::Pressure(Pressure::DataLow { .. }))));
    assert_eq!(store.list().len(), 1);

    // Whoever writes on gets an error in time, and reading goes on.
    let begin = std::time::Instant::now();
    let failed = (0..64).find_map(|n| {
        let mut file = std::fs::File::create(files.path(&format!("q{n}"))).ok()?;
        file.write_all(&piece).and_then(|()| file.sync_all()).err()
    });
    println!("full: {failed:?} after {:.1} s", begin.elapsed().as_secs_f64());
    assert!(failed.is_some());
    let pool = store.status().unwrap().pool.unwrap();
    println!("{:?}", pool.pressure.as_ref().map(ToString::to_string));
    assert!(matches!(pool.pressure, Some(Pressure::ReadOnly { .. })), "{pool:?}");
    store.view(&key("view"), Some(&base)).unwrap();
    let view = detached::open(&store.activate(&key("view")).unwrap()[0]).unwrap();
    assert_eq!(std::fs::read(Files::new(&view).path("f1")).unwrap(), noise(1, 1 << 20));
    drop(view);
    store.remove(&key("view")).unwrap();

    drop(mount);
    store.remove(&key("full")).unwrap();
    settled(&store);
    until("there is room again", || store.status().unwrap().pool.unwrap().pressure.is_none());
    store.prepare(&key("new"), Some(&base)).unwrap();
    let mount = detached::open(&store.activate(&key("new")).unwrap()[0]).unwrap();
    let mut file = std::fs::File::create(Files::new(&mount).path("p")).unwrap();
    file.write_all(&piece).and_then(|()| file.sync_all()).unwrap();
    drop(file);
    close(mount);
    drop(store);
    std::fs::write("/sys/module/dm_thin_pool/parameters/no_space_timeout", "60").unwrap();
}
