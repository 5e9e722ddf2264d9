//! What is below the pool's sparse files, and the records beside them.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Instant;

use stower_storage::testsuite::subject::filesystem;
use stower_storage::{DriverError, PrepareError, Pressure, Snapshots};

use crate::support::{SMALL, chain, detail, image, key, open, run, settled, until};
use crate::tools::{mode, mount, noise, pressure, put, read, reason, score, until_refused, within};

/// The filesystem below is full: the pool believes in room that is not there.
#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn root_the_filesystem_below_is_full() {
    const FAULT: &str = "disk below full";
    let dir = tempfile::tempdir().unwrap();
    let _ground = filesystem(dir.path(), 400 << 20, "ext4", &["mkfs.ext4", "-q", "-m", "0"], &[]);
    let store = open(dir.path(), SMALL).unwrap();
    let base = image(&store, 4, 1 << 20);
    let [writer, other] = ["writer", "other"].map(key);
    for key in [&writer, &other] {
        store.prepare(key, Some(&base)).unwrap();
    }
    let (writing, reading) = (mount(&store, &writer), mount(&store, &other));
    for mount in [&writing, &reading] {
        put(mount, "kept", 7, 1 << 20).unwrap();
    }
    // Somebody else takes all of it.
    let filler = dir.path().join("filler");
    run(&format!("dd if=/dev/zero of={} bs=1M status=none 2>&1 || true; sync", filler.display()));
    let begin = Instant::now();
    score(FAULT, "state", format!("{} | {}", mode(&store), reason(&store)), begin);
    let refused = store.prepare(&key("new"), Some(&base)).unwrap_err();
    score(FAULT, "prepare", chain(&refused), begin);
    assert!(matches!(refused, PrepareError::Driver(_, DriverError::Pressure(Pressure::DataLow { .. }))));
    let begin = Instant::now();
    let (error, files) = within("write", || until_refused(&writing, "p"));
    score(FAULT, "write + fsync", format!("{error} after {files} files"), begin);
    // The pool's own tables must not fail with it.
    let begin = Instant::now();
    for n in 0..8 {
        let _ = within("write", || put(&reading, &format!("q{n}"), n, 64 << 10));
    }
    score(FAULT, "state after both wrote", format!("{} | {}", mode(&store), reason(&store)), begin);
    assert_eq!(mode(&store), "rw");
    within("read", || assert!(read(&reading, "kept").unwrap() == noise(7, 1 << 20)));
    drop((writing, reading));
    within("remove", || store.remove(&writer).unwrap());
    settled(&store);
    score(
        FAULT,
        "read; remove",
        format!("all there; removed: {} thin devices", detail(&store, "thin devices")),
        begin,
    );
    std::fs::remove_file(&filler).unwrap();
    let begin = Instant::now();
    until("there is room again", || pressure(&store).is_none());
    store.deactivate(&other).unwrap();
    let again = mount(&store, &other);
    assert!(read(&again, "kept").unwrap() == noise(7, 1 << 20));
    put(&again, "after", 2, 4 << 20).unwrap();
    store.prepare(&key("new"), Some(&base)).unwrap();
    score(FAULT, "room again: mount anew, write, prepare", "all work, no restart", begin);
    drop(again);
    drop(store);
}

fn used(at: &Path) -> (Snapshots, stower_storage::ChainId) {
    let store = open(at, SMALL).unwrap();
    let base = image(&store, 4, 1 << 20);
    for name in ["one", "two"] {
        store.prepare(&key(name), Some(&base)).unwrap();
        let mount = mount(&store, &key(name));
        put(&mount, "kept", 7, 1 << 20).unwrap();
        drop(mount);
        store.deactivate(&key(name)).unwrap();
    }
    (store, base)
}

fn is_whole(store: &Snapshots, name: &str) {
    let mount = mount(store, &key(name));
    assert!(read(&mount, "kept").unwrap() == noise(7, 1 << 20));
    drop(mount);
    store.deactivate(&key(name)).unwrap();
}

#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn root_a_corrupt_record_costs_that_record() {
    const FAULT: &str = "corrupt record";
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("devicemapper");
    let (store, base) = used(dir.path());
    drop(store);
    let corrupt = |path: &str| {
        let path = at.join(path);
        std::fs::remove_file(&path).unwrap();
        symlink("v1/what/is/this", &path).unwrap();
    };

    corrupt("snapshots/one/thin");
    let begin = Instant::now();
    let store = open(dir.path(), &[]).unwrap();
    settled(&store);
    assert_eq!(store.list().len(), 1);
    is_whole(&store, "two");
    score(
        FAULT,
        "`thin` of a snapshot",
        format!("it is gone, its device too ({} left); all others work", detail(&store, "thin devices")),
        begin,
    );
    assert_eq!(detail(&store, "thin devices"), "3");
    drop(store);

    // What all begin with: images and containers have all that they need.
    corrupt("base");
    let begin = Instant::now();
    let store = open(dir.path(), &[]).unwrap();
    settled(&store);
    assert!(store.has(&base));
    is_whole(&store, "two");
    image(&store, 2, 1000);
    score(FAULT, "`base`", "made anew; all images and snapshots work", begin);
    drop(store);
    std::fs::remove_file(at.join("base")).unwrap();
    let store = open(dir.path(), &[]).unwrap();
    assert!(store.has(&base));
    is_whole(&store, "two");
    score(FAULT, "`base` is not there", "made anew; all images and snapshots work", begin);
    drop(store);

    let begin = Instant::now();
    std::fs::write(at.join("pool.json"), b"{\"version\": 1, \"inst").unwrap();
    let store = open(dir.path(), &[]).unwrap();
    is_whole(&store, "two");
    score(FAULT, "`pool.json`", "its copy is taken; everything works", begin);
    drop(store);
    std::fs::remove_file(at.join("pool.json")).unwrap();
    is_whole(&open(dir.path(), &[]).unwrap(), "two");
    assert!(at.join("pool.json").exists());
    for name in ["pool.json", "pool.json.copy"] {
        std::fs::write(at.join(name), b"{").unwrap();
    }
    let refused = chain(&open(dir.path(), &[]).unwrap_err());
    score(FAULT, "`pool.json` and its copy", &refused, begin);
    assert!(refused.contains("pool.json") && refused.contains("from a backup"), "{refused}");
}

#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn root_the_file_is_cut_off_or_gone() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("devicemapper");
    let (store, base) = used(dir.path());

    // While it is in use, the kernel goes on with the file that it has.
    let begin = Instant::now();
    std::fs::rename(at.join("data"), at.join("away")).unwrap();
    let gave = within("status", || store.status().map_err(|error| chain(&error)));
    score(
        "file removed, in use",
        "status",
        format!("{:?}", gave.map(|status| status.pool.unwrap().pressure)),
        begin,
    );
    let gave = within("prepare", || store.prepare(&key("new"), Some(&base)).map_err(|error| chain(&error)));
    score("file removed, in use", "prepare", format!("{gave:?}"), begin);
    assert!(gave.is_err());
    is_whole(&store, "two");
    score("file removed, in use", "what is there: mount, read", "works", begin);
    drop(store);
    let refused = chain(&open(dir.path(), &[]).unwrap_err());
    score("file removed", "start", &refused, begin);
    assert!(refused.contains("devicemapper/data"), "{refused}");
    std::fs::rename(at.join("away"), at.join("data")).unwrap();
    let store = open(dir.path(), &[]).unwrap();
    is_whole(&store, "two");
    score("file removed", "put back, start", "all works", begin);
    drop(store);

    let begin = Instant::now();
    let keep = |name: &str| {
        run(&format!("cp --sparse=always {0}/{name} {0}/{name}.kept", at.display()));
        run(&format!("truncate -s 4M {}/{name}", at.display()));
        let refused = chain(&open(dir.path(), &[]).unwrap_err());
        score("file cut off", &format!("start, of `{name}`"), &refused, begin);
        assert!(refused.contains("made it smaller"), "{refused}");
        run(&format!("mv {0}/{name}.kept {0}/{name}", at.display()));
    };
    keep("data");
    keep("metadata");
    let store = open(dir.path(), &[]).unwrap();
    is_whole(&store, "two");
    score("file cut off", "put back, start", "all works", begin);
    drop(store);

    // No superblock that can be read.
    let begin = Instant::now();
    run(&format!("cp --sparse=always {0}/metadata {0}/kept", at.display()));
    run(&format!("dd if=/dev/urandom of={}/metadata bs=4096 count=1 conv=notrunc status=none", at.display()));
    let refused = chain(&open(dir.path(), &[]).unwrap_err());
    score("metadata overwritten", "start", &refused, begin);
    assert!(refused.contains("thin_repair"), "{refused}");
    run(&format!("mv {0}/kept {0}/metadata", at.display()));

    // Cut off while it is in use: what was in it is gone, and nothing else fails.
    let store = open(dir.path(), &[]).unwrap();
    let mount = mount(&store, &key("two"));
    let begin = Instant::now();
    run(&format!("truncate -s 4M {}/data", at.display()));
    let gave = within("read", || read(&mount, "kept").map(|bytes| bytes == noise(7, 1 << 20)));
    score("file cut off, in use", "read", format!("{gave:?}"), begin);
    let gave = within("status", || store.status().map_err(|error| chain(&error)));
    score(
        "file cut off, in use",
        "status",
        format!("{:?}", gave.map(|status| status.pool.unwrap().pressure)),
        begin,
    );
    score("file cut off, in use", "state", mode(&store), begin);
    assert!(matches!(pressure(&store), Some(Pressure::Failed { .. })), "{:?}", pressure(&store));
    drop(mount);
}

/// The flag that the kernel leaves when a change of the pool's tables has failed. It takes no change before somebody has
/// looked.
#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn root_a_pool_that_wants_a_check_gets_one_at_the_start() {
    const FAULT: &str = "needs_check, pool not in use";
    let dir = tempfile::tempdir().unwrap();
    let (store, base) = used(dir.path());
    drop(store);
    let metadata = dir.path().join("devicemapper/metadata");
    run(&format!(
        "thin_dump {0} -o {0}.xml && sed -i 's/ flags=\"0\"/ flags=\"1\"/' {0}.xml && thin_restore -q -i {0}.xml -o {0}",
        metadata.display()
    ));
    let begin = Instant::now();
    {
        // Where the program is not installed.
        let _hidden = Hidden::new("/usr/sbin/thin_check");
        let store = open(dir.path(), &[]).unwrap();
        score(FAULT, "start, no thin_check here", format!("{} | {}", mode(&store), reason(&store)), begin);
        score(FAULT, "status", pressure(&store).unwrap(), begin);
        assert!(matches!(pressure(&store), Some(Pressure::ReadOnly { .. })));
        let refused = store.prepare(&key("new"), Some(&base)).unwrap_err();
        score(FAULT, "prepare", chain(&refused), begin);
        store.view(&key("view"), Some(&base)).unwrap();
        assert_eq!(read(&mount(&store, &key("view")), "f1").unwrap().len(), 1 << 20);
        store.remove(&key("view")).unwrap();
        store.remove(&key("one")).unwrap();
        score(
            FAULT,
            "view, read; remove",
            format!("all there; pending: {}", detail(&store, "pending removals")),
            begin,
        );
    }
    let begin = Instant::now();
    let store = open(dir.path(), &[]).unwrap();
    score(FAULT, "start, thin_check is there", format!("{} | {}", mode(&store), reason(&store)), begin);
    assert_eq!(pressure(&store), None);
    settled(&store);
    is_whole(&store, "two");
    assert_eq!(detail(&store, "thin devices"), "3", "what was removed meanwhile is removed");
    store.prepare(&key("new"), Some(&base)).unwrap();
}

/// Nobody in this thread's mount namespace finds the program; what this process starts is in it too.
struct Hidden(&'static str);

impl Hidden {
    fn new(path: &'static str) -> Self {
        use rustix::mount::{MountPropagationFlags, mount_change};
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        rustix::mount::mount_bind("/dev/null", path).unwrap();
        Self(path)
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH);
    }
}
