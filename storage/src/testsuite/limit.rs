//! Limits of what a snapshot takes: kept where the driver says that it can, refused by name where not.

use std::io::{ErrorKind, Write};

use super::{Bench, Check, Files, close};
use crate::driver::{DriverError, SnapshotKey};
use crate::snapshots::{PrepareError, SnapshotError};

pub(super) const CHECKS: &[Check] = &[
    ("quota", quota),
    ("quota_grows", quota_grows),
    ("quota_is_of_one", quota_is_of_one),
    ("quota_refused", quota_refused),
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
    bench.store().resize(&key, Some(2 * limit)).unwrap();
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
