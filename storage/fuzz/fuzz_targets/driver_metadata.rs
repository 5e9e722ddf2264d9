//! Records of drivers and volumes, and the metadata of a thin pool.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stower_storage::fuzzing::driver_metadata(data));
