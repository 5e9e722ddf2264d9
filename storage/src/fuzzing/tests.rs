//! The kept corpus, without cargo-fuzz: `cargo test -p stower-storage --features fuzzing --lib fuzzing`.

use std::path::PathBuf;

fn each(target: &str, run: fn(&[u8])) {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!(!inputs.is_empty());
    for input in inputs {
        println!("{}", input.display());
        run(&std::fs::read(input).unwrap());
    }
}

#[test]
fn root_layer() {
    each("layer", super::layer);
}

#[test]
fn image_config_and_manifest() {
    each("image_config_and_manifest", super::image_config_and_manifest);
}

#[test]
fn dm_status() {
    each("dm_status", super::dm_status);
}

#[test]
fn driver_metadata() {
    each("driver_metadata", super::driver_metadata);
}
