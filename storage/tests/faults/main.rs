//! What the driver on device-mapper gives when something below it fails. All of it needs a kernel that has device-mapper:
//! `cargo xtask vm --test faults`, which prints the lines of the scoreboard in the crate's README.

mod data;
mod error;
mod files;
mod metadata;
mod still;
#[path = "../devicemapper/support.rs"]
mod support;
mod tools;
