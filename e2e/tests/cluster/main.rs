//! Tests on a real Kubernetes, one behaviour each: `cargo test -p stower-e2e --test cluster -- harness::`.
//!
//! The first use builds Kubernetes; `../../README.md` has what that takes.

mod agents;
mod charts;
mod daemon_set;
mod harness;
mod kinds;
mod kinds_released;
mod outages;
mod policies;
mod says;
mod source;
mod support;
mod verdict;
