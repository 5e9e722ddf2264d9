//! From an OCI spec to a running process, and the shim that supervises it.
//!
//! ```text
//! StartRequest ─► job ─► Job ─► starter (start) ─► init: mounts, caps, rlimit, user, seccomp ─► execve
//!                          cgroup ┘     │ writes ShimRecord, then execve(SHIM)
//!                                       ▼
//!            container ──stdio──► shim ─► log files ─► logs::LogReader
//!                                   ├─ socket ◄── ShimHandle::{stop, state, kill}
//!                                   └─ ExitRecord ─► adopt ─► Adoption
//! ```
//!
//! The agent may end at any time: shim and container go on, and [`adopt()`] finds them again.

pub mod adopt;
pub mod caps;
pub mod cgroup;
pub mod defaults;
mod device;
pub mod error;
pub mod exec;
mod failpoint;
pub mod job;
pub mod logs;
mod mounts;
#[cfg(feature = "cli")]
pub mod oci;
pub mod outside;
pub mod proc;
pub mod record;
mod rlimit;
pub mod seccomp;
pub mod shim;
pub mod start;
mod user;

pub use adopt::{Adoption, ShimHandle, adopt};
pub use exec::{Captured, ExecError, ExecExit, ExecRequest, Executing};
pub use failpoint::failpoint;
pub use logs::{LogDir, LogEvent, LogLine, LogReader};
pub use record::{ExitRecord, RecordError, ShimRecord};
pub use shim::{SHIM, ShimArgs};
