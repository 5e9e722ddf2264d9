//! The tar reader, and unpacking in both ways.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stower_storage::fuzzing::layer(data));
