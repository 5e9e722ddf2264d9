//! stower-runtime.

pub mod caps;
pub mod cgroup;
pub mod defaults;
mod device;
pub mod error;
pub mod job;
mod mounts;
mod rlimit;
pub mod seccomp;
pub mod start;
mod user;
pub mod proc;
pub mod record;
pub mod shim;

pub use record::{ExitRecord, RecordError, ShimRecord};
pub use shim::{SHIM, ShimArgs};
