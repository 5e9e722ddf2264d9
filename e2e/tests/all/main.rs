//! Black-box tests, one behaviour each. Run one by its name: `cargo test -p stower-e2e -- holds::stop_holds`.
//!
//! `../../README.md` has the rules for a new one.

mod agent_image;
mod attach;
mod bad_input;
mod bad_volumes;
mod command_line;
mod commit;
mod configuration;
mod cp;
mod crashes;
mod crowds;
mod directory;
mod disk;
mod drivers;
mod examples;
mod exec;
mod harness;
mod holds;
mod host_run;
mod images;
mod inline;
mod isolation;
mod kills;
mod kinds;
mod lifecycle;
mod limits;
mod live;
mod logs;
mod logs_attacked;
mod observability;
mod probes;
mod releases;
mod resize;
mod restarts;
mod runtimes;
mod service;
mod services;
mod steady;
mod support;
mod survival;
mod values;
mod volumes;
mod volumes_from;
mod volumes_taken;
