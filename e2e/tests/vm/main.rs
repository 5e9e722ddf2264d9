//! Tests in a machine of its own: `cargo xtask vm`, or one by its name: `cargo xtask vm --test boots`.

mod benches;
mod boots;
mod btrfs;
mod crates;
mod devicemapper;
mod faults;
mod guest;
mod limits;
mod powercut;
mod services;
