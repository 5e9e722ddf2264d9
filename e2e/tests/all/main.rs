//! Black-box tests. One behaviour each; run one by its name: `cargo test -p stower-e2e -- hold::stop_survives`.
mod harness;
