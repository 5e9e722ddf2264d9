//! The agent: the only crate that acts.
//!
//! ```text
//!  kube ─► Update ───────┐
//!  source/dir ─► Update ─┤                                       ┌─► effects ─► storage, runtime ─► the machine
//!  api ─► Request ───────┼─► engine ─► controllers::plan ─► Act ─┤                    │
//!  effects ─► Told ──────┘      │                                └─► records, ledger  │
//!      ▲                        └─► node::View ─► api ─► cli                          │
//!      └──────────────────────────────── ends of effects, ends of runs ◄──────────────┘
//! ```
//!
//! `engine` is one task that holds all state; everything else is told or shown. What must outlive the process is in `journal`s;
//! what runs is found again by looking at the machine.

pub mod api;
pub mod args;
pub mod channels;
pub mod cli;
pub mod client;
pub mod config;
pub mod disk;
mod effects;
mod engine;
pub mod events;
pub mod exec;
mod handler;
mod host;
mod journal;
mod kube;
mod memory;
mod metrics;
pub mod node;
mod notify;
mod paths;
mod probe;
mod reload;
pub mod rootfs;
pub mod run;
mod runtimes;
mod source;
pub mod storageinfo;
mod time;
pub mod volumedata;
