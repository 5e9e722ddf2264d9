//! What the kernel says of thin pools and thin devices.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stower_storage::fuzzing::dm_status(data));
