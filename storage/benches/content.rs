//! What verifying and committing blobs costs. `cargo bench -p stower-storage --bench content`

use std::io::Read;

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use stower_storage::{ContentStore, Digest, VerifyReader};

fn main() {
    divan::main();
}

#[divan::bench(args = [4 << 10, 1 << 20, 64 << 20])]
fn digest(bencher: Bencher<'_, '_>, size: usize) {
    let bytes = vec![7u8; size];
    bencher.counter(BytesCount::new(size)).bench_local(|| Digest::of(black_box(&bytes)));
}

#[divan::bench(args = [1 << 20, 64 << 20])]
fn verify_reader(bencher: Bencher<'_, '_>, size: usize) {
    let bytes = vec![7u8; size];
    let digest = Digest::of(&bytes);
    let mut buffer = vec![0u8; 256 << 10];
    bencher.counter(BytesCount::new(size)).bench_local(|| {
        let mut reader = VerifyReader::new(bytes.as_slice(), digest, None);
        while reader.read(&mut buffer).unwrap() != 0 {}
    });
}

/// Write, verify, fsync and rename of one blob.
#[divan::bench(args = [1 << 10, 1 << 20, 16 << 20], sample_count = 20)]
fn commit(bencher: Bencher<'_, '_>, size: usize) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = ContentStore::open(dir.path()).unwrap();
    let mut number = 0u64;
    let mut bytes = vec![7u8; size];
    bencher.counter(BytesCount::new(size)).bench_local(|| {
        number += 1;
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        store.put(&bytes).unwrap()
    });
}
