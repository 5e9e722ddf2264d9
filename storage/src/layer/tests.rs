//! Limits, and the stream.

use std::os::fd::OwnedFd;

use super::*;
use crate::testsuite::{Item, ItemKind, blob, tar};

fn apply(archive: Vec<u8>, compression: Compression, limits: &UnpackLimits) -> Result<(), LayerError> {
    let dir = tempfile::tempdir().unwrap();
    let root: OwnedFd = std::fs::File::open(dir.path()).unwrap().into();
    let stream = Stream::open(&mut blob(archive, compression), limits)?;
    apply_onto(root, true, stream, limits)
}

fn refused(archive: Vec<u8>, limits: &UnpackLimits, what: &str) {
    let text = apply(archive, Compression::None, limits).unwrap_err().to_string();
    assert!(text.contains(what), "{text}");
}

#[test]
fn root_limits_hold() {
    let limits = UnpackLimits {
        max_bytes: 8192,
        max_entries: 3,
        max_path: 100,
        max_depth: 4,
        ..UnpackLimits::default()
    };
    let file = |path: &str| Item::file(path, "x");
    apply(tar::archive(&[file("a"), file("b"), file("c")]), Compression::None, &limits).unwrap();
    refused(tar::archive(&[file("a"), file("b"), file("c"), file("d")]), &limits, "3 entries");
    refused(tar::archive(&[Item::file("a", vec![0; 9000])]), &limits, "8192 bytes");
    refused(tar::archive(&[Item::special("a", ItemKind::Sparse(1 << 40, vec![]))]), &limits, "8192 bytes");
    refused(tar::archive(&[file(&"a".repeat(101))]), &limits, "too long");
    refused(tar::archive(&[file("a/b/c/d/e")]), &limits, "too deep");
    refused(tar::archive(&[file(&"a".repeat(90)), Item::symlink("l", "x".repeat(101))]), &limits, "too long");
}

#[test]
fn root_bombs_are_refused() {
    let limits = UnpackLimits { ratio_from: 1 << 20, max_ratio: 100, ..UnpackLimits::default() };
    let zeros = tar::archive(&[Item::file("zeros", vec![0; 8 << 20])]);
    for compression in [Compression::Gzip, Compression::Zstd] {
        let text = apply(zeros.clone(), compression, &limits).unwrap_err().to_string();
        assert!(text.contains("for a compressed one"), "{text}");
        apply(zeros.clone(), compression, &UnpackLimits::default()).unwrap();
    }
}

#[test]
fn root_damaged_blobs_are_refused() {
    for compression in [Compression::Gzip, Compression::Zstd] {
        let archive = tar::archive(&[Item::file("f", vec![7; 100_000])]);
        let mut damaged = blob(archive, compression);
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut (damaged.open)().unwrap(), &mut bytes).unwrap();
        bytes.truncate(bytes.len() - 12);
        damaged.open = Box::new(move || Ok(Box::new(std::io::Cursor::new(bytes.clone()))));
        let limits = UnpackLimits::default();
        let dir = tempfile::tempdir().unwrap();
        let root: OwnedFd = std::fs::File::open(dir.path()).unwrap().into();
        let stream = Stream::open(&mut damaged, &limits).unwrap();
        assert!(
            matches!(apply_onto(root, true, stream, &limits), Err(LayerError::Read(_))),
            "{compression:?}"
        );
    }
}

/// What comes after the end of the archive belongs to the diff id.
#[test]
fn root_bytes_after_the_end_are_hashed() {
    let mut archive = tar::archive(&[Item::file("f", "x")]);
    archive.extend_from_slice(&[0; 10_240]);
    apply(archive.clone(), Compression::Gzip, &UnpackLimits::default()).unwrap();
    let mut layer = blob(archive, Compression::None);
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut (layer.open)().unwrap(), &mut bytes).unwrap();
    *bytes.last_mut().unwrap() = 1;
    layer.open = Box::new(move || Ok(Box::new(std::io::Cursor::new(bytes.clone()))));
    let dir = tempfile::tempdir().unwrap();
    let root: OwnedFd = std::fs::File::open(dir.path()).unwrap().into();
    let limits = UnpackLimits::default();
    let stream = Stream::open(&mut layer, &limits).unwrap();
    assert!(matches!(apply_onto(root, true, stream, &limits), Err(LayerError::DiffId { .. })));
}
