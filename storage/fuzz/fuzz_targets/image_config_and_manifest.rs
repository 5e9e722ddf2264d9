//! Manifests, indexes, configurations and names.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stower_storage::fuzzing::image_config_and_manifest(data));
