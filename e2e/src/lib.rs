//! The black box: a built `stower` binary, driven from outside as a person or a script would.
//!
//! ```text
//!  Debian packages ──► trees ──► OCI images ──► docker-registry on loopback
//!   (debian)            (cache)    (image, catalog)   (registry, proxy)
//!                                                          │ pull
//!  test ──► TestNode ──► manifests/*.yaml ──► stower agent ┘──► containers
//!            (node)      stower get -o json ◄── socket            │
//!              │                                                  │
//!              └── Footprint: mounts, cgroups, processes, files ◄─┘
//!                    (footprint)            (teardown ends what is left)
//! ```
//!
//! Nothing here links a crate of the agent: what the tests know, a user can know. What a test needs and the machine
//! does not offer makes it fail with what to do ([`requires`]); it is never skipped.

pub mod agent_image;
pub mod cache;
pub mod cargo;
pub mod catalog;
pub mod cluster;
pub mod debian;
pub mod dm;
pub mod footprint;
pub mod http;
pub mod image;
pub mod kills;
pub mod log_writes;
pub mod netns;
pub mod node;
pub mod powercut;
pub mod process;
pub mod proxy;
pub mod pty;
pub mod registry;
pub mod release;
pub mod requires;
pub mod teardown;
pub mod vm;
pub mod wait;

pub use catalog::Catalog;
pub use cluster::Cluster;
pub use footprint::Footprint;
pub use image::{Compression, Image, ImageBuilder};
pub use netns::NetworkNamespace;
pub use node::{NodeBuilder, Output, TestNode};
pub use pty::Pty;
pub use registry::Registry;
pub use vm::{Vm, VmOptions};
pub use wait::{wait_for, wait_long_for};
