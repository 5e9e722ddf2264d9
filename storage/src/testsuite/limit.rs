//! Limits of what a snapshot takes: kept where the driver says that it can, refused by name where not.

use std::io::{ErrorKind, Write};

use super::{Bench, Check, Files, close};
use crate::driver::{DriverError, LimitChange, SnapshotKey};
use crate::ext4::Ext4Error;
use crate::snapshots::{PrepareError, SnapshotError};

pub(super) const CHECKS: &[Check] = &[
    ("quota", quota),
    ("quota_grows", quota_grows),
    ("quota_is_of_one", quota_is_of_one),
    ("quota_refused", quota_refused),
    ("quota_is_told", quota_is_told),
    ("quota_changes_nothing_else", quota_changes_nothing_else),
];

/// Writes to a new file until there is no more room, and says how many bytes went in. More than `most` are not tried.
fn fill(files: &Files, name: &str, most: u64) -> u64 {
    let mut file = std::fs::File::create_new(files.path(name)).unwrap();
    let piece = vec![0x5a_u8; 1 << 20];
    let mut written = 0;
    while written < most {
        // Only what is on disk has surely found room.
        match file.write_all(&piece).and_then(|()| file.sync_data()) {
            Ok(()) => written += 1 << 20,
            Err(error) => {
                assert!(
                    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded),
                    "{error:?} after {written} bytes"
                );
                break;
            }
        }
    }
    written
}

/// Whether the kernel lets this process enlarge a mounted ext4 (fs/ext4/resize.c, `ext4_resize_begin`).
fn can_grow_mounted() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap() >> CAP_SYS_RESOURCE & 1 == 1
}

/// A limited snapshot with its mount, where the driver limits; else it has to refuse.
fn limited(bench: &mut Bench) -> Option<(SnapshotKey, std::os::fd::OwnedFd, u64)> {
    if !bench.store().status().unwrap().limits {
        refuses(bench);
        return None;
    }
    let limit = bench.subject().limit;
    let base = bench.commit(None, |files| files.write("foo", "1"));
    let key = bench.key();
    bench.store().prepare_limited(&key, Some(&base), limit).unwrap();
    let mount = bench.mount(&key);
    Some((key, mount, limit))
}

/// A writer gets an error at the limit, what it removes counts no more, and a restart forgets nothing.
fn quota(bench: &mut Bench) {
    let Some((key, mount, limit)) = limited(bench) else { return };
    let files = Files::new(&mount);
    assert_eq!(files.read("foo"), "1");
    let written = fill(&files, "big", 2 * limit);
    assert!(written <= limit, "{written} bytes within {limit}");
    assert!(written >= limit / 2, "only {written} bytes of {limit}");
    files.remove("big");
    rustix::fs::syncfs(crate::driver::overlay::reopen(&mount).unwrap()).unwrap();
    assert_eq!(fill(&files, "again", limit / 4), limit / 4);
    close(mount);
    bench.store().deactivate(&key).unwrap();
    bench.reopen();
    let mount = bench.mount(&key);
    let files = Files::new(&mount);
    let more = fill(&files, "more", 2 * limit);
    assert!(limit / 4 + more <= limit, "{more} bytes more than {} within {limit} after a restart", limit / 4);
    close(mount);
    bench.store().remove(&key).unwrap();
}

/// In use or not; and the same again changes nothing.
fn quota_grows(bench: &mut Bench) {
    let Some((key, mount, limit)) = limited(bench) else { return };
    let files = Files::new(&mount);
    fill(&files, "one", 2 * limit);
    let mount = match bench.store().resize(&key, Some(2 * limit)) {
        Ok(()) => mount,
        Err(error) if !can_grow_mounted() => {
            let SnapshotError::Driver(_, _, DriverError::Ext4(Ext4Error::InUse(_))) = error else {
                panic!("{error:?}");
            };
            // All is as it was.
            assert_eq!(bench.store().limit(&key).unwrap().bytes, Some(limit));
            close(mount);
            bench.store().deactivate(&key).unwrap();
            bench.store().resize(&key, Some(2 * limit)).unwrap();
            bench.mount(&key)
        }
        Err(error) => panic!("{error:?}"),
    };
    let files = Files::new(&mount);
    bench.store().resize(&key, Some(2 * limit)).unwrap();
    let more = fill(&files, "two", 4 * limit);
    assert!(more >= limit / 2, "only {more} bytes more");
    close(mount);
    bench.store().deactivate(&key).unwrap();
    bench.store().resize(&key, Some(3 * limit)).unwrap();
    let mount = bench.mount(&key);
    let still = fill(&Files::new(&mount), "three", 4 * limit);
    assert!(still >= limit / 2, "only {still} bytes more");
    close(mount);
    // Preparing what is there gives it the limit that it is asked for.
    bench.store().deactivate(&key).unwrap();
    let parent = bench.store().list()[0].parent;
    bench.store().prepare_limited(&key, parent.as_ref(), 4 * limit).unwrap();
    let mount = bench.mount(&key);
    let last = fill(&Files::new(&mount), "four", 4 * limit);
    assert!(last >= limit / 2, "only {last} bytes more");
    assert!(bench.store().usage(&key).unwrap().bytes <= 4 * limit + (8 << 20));
}

/// A snapshot that is full is no other one's matter, and what was limited can be committed and read.
fn quota_is_of_one(bench: &mut Bench) {
    let Some((key, mount, limit)) = limited(bench) else { return };
    let parent = bench.store().list()[0].parent;
    fill(&Files::new(&mount), "big", 2 * limit);
    let other = bench.key();
    bench.store().prepare_limited(&other, parent.as_ref(), limit).unwrap();
    let beside = bench.mount(&other);
    assert_eq!(fill(&Files::new(&beside), "fits", limit / 2), limit / 2);
    assert!(matches!(fill(&Files::new(&beside), "rest", 2 * limit), rest if rest < limit));
    close(beside);
    Files::new(&mount).remove("big");
    Files::new(&mount).write("small", "kept");
    let told = bench.store().changes(&key, &[]).unwrap();
    assert_eq!(told.len(), 1, "{told:?}");
    close(mount);
    let diff_id = bench.diff_id();
    let chain = bench.store().commit(&key, &diff_id).unwrap();
    assert_eq!(bench.view(&chain).keys().collect::<Vec<_>>(), ["", "foo", "small"]);
    bench.store().remove(&other).unwrap();
}

/// A limit makes nothing possible that is not without one; who cannot limit says so.
fn quota_refused(bench: &mut Bench) {
    let limit = bench.subject().limit;
    let nowhere = crate::digest::ChainId::base(bench.diff_id());
    let key = bench.key();
    assert!(matches!(
        bench.store().prepare_limited(&key, Some(&nowhere), limit),
        Err(PrepareError::NoParent(_))
    ));
    assert!(matches!(bench.store().resize(&key, Some(limit)), Err(SnapshotError::NotFound(_))));
    assert_eq!((bench.entries("staging"), bench.entries("snapshots")), (0, 0));
    if !bench.store().status().unwrap().limits {
        refuses(bench);
    }
}

/// By name, before anything is made.
fn refuses(bench: &mut Bench) {
    let name = bench.store().driver();
    let by_name = |error: &DriverError| matches!(error, DriverError::NoLimit { driver, why } if *driver == name && !why.is_empty());
    let key = bench.key();
    let refused = bench.store().prepare_limited(&key, None, 64 << 20).unwrap_err();
    assert!(matches!(&refused, PrepareError::Driver(_, source) if by_name(source)), "{refused:?}");
    assert_eq!(bench.store().list(), []);
    assert_eq!((bench.entries("staging"), bench.entries("snapshots")), (0, 0));
    bench.store().prepare(&key, None).unwrap();
    let refused = bench.store().resize(&key, Some(64 << 20)).unwrap_err();
    assert!(matches!(&refused, SnapshotError::Driver(_, _, source) if by_name(source)), "{refused:?}");
    bench.store().resize(&key, None).unwrap();
    close(bench.mount(&key));
}

/// What a snapshot has, and what can become of it, is told before; what cannot be is refused and changes nothing.
fn quota_is_told(bench: &mut Bench) {
    let Some((key, mount, limit)) = limited(bench) else {
        let key = bench.key();
        bench.store().prepare(&key, None).unwrap();
        let told = bench.store().limit(&key).unwrap();
        assert_eq!((told.bytes, told.change), (None, LimitChange::Never));
        return;
    };
    assert_eq!(bench.store().limit(&key).unwrap().bytes, Some(limit));
    Files::new(&mount).write("bar", "2");
    close(mount);
    bench.store().deactivate(&key).unwrap();
    let parent = bench.store().list()[0].parent;
    let plain = bench.key();
    bench.store().prepare(&plain, parent.as_ref()).unwrap();
    for (key, want) in [(&key, Some(limit / 2)), (&key, None), (&plain, Some(limit)), (&plain, None)] {
        let told = bench.store().limit(key).unwrap();
        let done = bench.store().resize(key, want);
        let after = bench.store().limit(key).unwrap();
        if told.can_become(want) {
            done.unwrap();
            assert!(after.is(want), "{key} to {want:?}: {told:?}, then {after:?}");
        } else {
            let error = done.unwrap_err();
            let SnapshotError::Driver(_, _, DriverError::LimitKept { have, want: asked }) = &error else {
                panic!("{key} to {want:?}: {error:?}");
            };
            assert_eq!((*have, *asked), (told.bytes, want));
            assert_eq!(after, told, "{key}");
        }
    }
    let seen = bench.mount(&key);
    assert_eq!(Files::new(&seen).read("bar"), "2");
    close(seen);
    let nobody = bench.key();
    assert!(matches!(bench.store().limit(&nobody), Err(SnapshotError::NotFound(_))));
}

/// Removals, replaced directories and links in a limited snapshot are the same changes, and the same layer, as in one
/// without a limit.
fn quota_changes_nothing_else(bench: &mut Bench) {
    if !bench.store().status().unwrap().limits {
        return refuses(bench);
    }
    let base = bench.commit(None, |files| {
        for dir in ["gone", "new", "kept"] {
            files.mkdir(dir);
            files.write(&format!("{dir}/inner"), dir);
        }
        files.write("file", "1");
    });
    let edit = |files: &Files| {
        files.remove("gone");
        files.remove("new");
        files.mkdir("new");
        files.write("new/other", "2");
        files.remove("file");
        files.chmod("kept/inner", 0o640);
        std::fs::hard_link(files.path("new/other"), files.path("kept/link")).unwrap();
        // Times are content.
        let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_700_000_000, 7);
        for path in ["new/other", "new", "kept", ""] {
            std::fs::File::open(files.path(path)).unwrap().set_modified(time).unwrap();
        }
    };
    let plain = bench.key();
    bench.store().prepare(&plain, Some(&base)).unwrap();
    let limited = bench.key();
    bench.store().prepare_limited(&limited, Some(&base), bench.subject().limit).unwrap();
    for key in [&plain, &limited] {
        let mount = bench.mount(key);
        edit(&Files::new(&mount));
        close(mount);
    }
    let trees: Vec<_> = [&plain, &limited].map(|key| super::tree(&bench.mount(key))).into();
    assert_eq!(super::difference(&trees[0], &trees[1]), Vec::<String>::new());
    for key in [&plain, &limited] {
        bench.store().deactivate(key).unwrap();
    }
    let changes: Vec<_> = [&plain, &limited].map(|key| bench.store().changes(key, &[]).unwrap()).into();
    assert_eq!(changes[0], changes[1]);
    assert!(changes[0].len() >= 5, "{:?}", changes[0]);
    let usage = bench.store().usage(&limited).unwrap();
    // On a filesystem of its own, what was removed is no entry any more, and makes up for what was added.
    let least = if bench.subject().driver == "devicemapper" { 0 } else { 4 };
    assert!(usage.inodes >= least && usage.bytes < bench.subject().limit, "{usage:?}");
    bench.reopen();
    let layers: Vec<_> = [&plain, &limited]
        .map(|key| {
            let diff_id = bench.diff_id();
            bench.store().commit(key, &diff_id).unwrap()
        })
        .into();
    let views: Vec<_> = layers.iter().map(|chain| bench.view(chain)).collect();
    assert_eq!(super::difference(&views[0], &views[1]), Vec::<String>::new());
    assert_eq!(super::difference(&trees[0], &views[1]), Vec::<String>::new());
    assert_eq!(bench.store().list(), []);
    // And it is a layer like any other, also for the next process.
    bench.reopen();
    let again = bench.view(&layers[1]);
    assert_eq!(super::difference(&views[1], &again), Vec::<String>::new());
}
