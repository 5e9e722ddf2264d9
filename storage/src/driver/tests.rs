//! Names of snapshots.

use super::*;

#[test]
fn keys_are_file_names() {
    for good in ["a", "0", "c-1.2_x", "6e1a5f5e-7d5e-4a0e-8f0e-0d6a9a3c9a11", &"k".repeat(128)] {
        assert_eq!(SnapshotKey::new(good).unwrap().as_str(), good);
    }
    for bad in ["", ".", "..", "-a", "a/b", "a b", "\u{e9}", "a\0", &"k".repeat(129)] {
        assert!(SnapshotKey::new(bad).is_err(), "{bad:?}");
    }
}

/// As a container can make it: deeper than there are descriptors, and wider than is read at once.
fn deep_and_wide(at: &std::path::Path) {
    use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut dir = openat(CWD, at, flags, Mode::empty()).unwrap();
    for n in 0..5000 {
        std::fs::write(at.join(format!("f{n}")), "").unwrap();
        mkdirat(&dir, "d", Mode::RWXU).unwrap();
        dir = openat(&dir, "d", flags, Mode::empty()).unwrap();
    }
    for n in 0..300 {
        std::fs::create_dir(at.join(format!("beside{n}"))).unwrap();
    }
}

/// Of use only as a process of its own, which has few descriptors.
#[test]
fn of_few_descriptors() {
    let Some(at) = std::env::var_os("FEW_DESCRIPTORS_AT") else { return };
    let at = std::path::Path::new(&at);
    deep_and_wide(at);
    let usage = store::usage(at).unwrap();
    assert_eq!(usage.inodes, 5000 + 5000 + 300 + 1);
    store::remove_tree(at).unwrap();
    assert!(!at.exists());
}

#[test]
fn root_deep_and_wide_trees_are_measured_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("tree");
    std::fs::create_dir(&at).unwrap();
    let test = std::env::current_exe().unwrap();
    let script = "ulimit -n 32; exec \"$0\" --exact driver::tests::of_few_descriptors --test-threads 1";
    let output = std::process::Command::new("sh")
        .args(["-c", script])
        .arg(&test)
        .env("FEW_DESCRIPTORS_AT", &at)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(!at.exists());
}
