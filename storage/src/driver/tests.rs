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
