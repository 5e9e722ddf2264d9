//! stower-runtime.

pub mod proc;
pub mod record;
pub mod shim;

pub use record::{ExitRecord, RecordError, ShimRecord};
pub use shim::{SHIM, ShimArgs};
