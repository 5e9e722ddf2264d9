use std::os::unix::fs::{FileExt, MetadataExt};

use super::*;

#[test]
fn a_copy_has_the_same_bytes_and_the_same_holes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("from");
    let from = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    from.set_len(64 << 20).unwrap();
    from.write_all_at(&[7; 5000], 4096).unwrap();
    from.write_all_at(b"end", (48 << 20) + 1).unwrap();
    let to = dir.path().join("to");
    copy_to(&from, &to).unwrap();
    assert!(fs::read(&path).unwrap() == fs::read(&to).unwrap());
    assert!(fs::metadata(&to).unwrap().blocks() * 512 < 1 << 20, "holes are filled");
}
