//! Stores with options of their own, and what was left over by them.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use stower_storage::testsuite::{Bench, Item, Subject, blob, tar};
use stower_storage::{ChainId, Compression, OpenError, SnapshotKey, Snapshots, UnpackLimits};

/// Small enough for an emulator.
pub(crate) const SMALL: &[(&str, &str)] =
    &[("dm.loopdatasize", "2G"), ("dm.loopmetadatasize", "32M"), ("dm.basesize", "256M")];

pub(crate) fn bench(options: &'static [(&'static str, &'static str)]) -> Bench {
    Bench::on(Subject { options, ..Subject::find("devicemapper_ext4") })
}

/// With options that are made up as the test goes.
pub(crate) fn open(at: &Path, options: &[(&str, &str)]) -> Result<Snapshots, OpenError> {
    assert!(rustix::process::geteuid().is_root(), "this test needs root");
    let options: Vec<_> =
        options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Snapshots::open(at, Some("devicemapper"), &options)
}

/// An error with what caused it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

pub(crate) fn key(name: &str) -> SnapshotKey {
    SnapshotKey::new(name).unwrap()
}

/// An image of files with content that nothing makes smaller.
pub(crate) fn image(store: &Snapshots, files: usize, bytes: usize) -> ChainId {
    let items: Vec<Item> = (0..files).map(|n| Item::file(format!("f{n}"), noise(n, bytes))).collect();
    store.unpack_image(vec![blob(tar::archive(&items), Compression::None)], &UnpackLimits::default()).unwrap()
}

pub(crate) fn noise(seed: usize, bytes: usize) -> Vec<u8> {
    let mut state = u64::try_from(seed).unwrap().wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    std::iter::repeat_with(next).flat_map(u64::to_le_bytes).take(bytes).collect()
}

/// What the driver says of itself under `name`.
pub(crate) fn detail(store: &Snapshots, name: &str) -> String {
    let details = store.status().unwrap().details;
    details.into_iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("no {name}")).1
}

/// Until nothing is being removed any more.
pub(crate) fn settled(store: &Snapshots) {
    until("all removals are done", || detail(store, "pending removals") == "0");
}

pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !is_so() {
        assert!(Instant::now() < end, "not in two minutes: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a program that must succeed, and gives what it printed.
pub(crate) fn run(command: &str) -> String {
    let out = Command::new("sh").args(["-ec", command]).output().unwrap();
    let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).trim().to_owned();
    assert!(out.status.success(), "{command}: {said}");
    said
}

/// A loop device over a new sparse file.
pub(crate) struct LoopDevice {
    pub(crate) path: String,
    _file: tempfile::NamedTempFile,
}

impl LoopDevice {
    pub(crate) fn new(bytes: u64) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(bytes).unwrap();
        let path = run(&format!("losetup --find --show {}", file.path().display()));
        Self { path, _file: file }
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.path]).output();
    }
}
