//! `cargo xtask fuzz`: hostile bytes for the storage, a while for each target, beginning with those that are kept.

use std::path::PathBuf;

use anyhow::{Context, Result};
use stower_e2e::cargo::checkout;
use stower_e2e::{process, requires};

use crate::build::{cargo, show};

/// Those of `storage/fuzz`.
const TARGETS: [&str; 4] = ["layer", "image_config_and_manifest", "dm_status", "driver_metadata"];

/// How long to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Search {
    /// So many seconds for each target, by chance. What is found new is kept beside the built files, so that the next
    /// run begins there.
    Seconds(u32),
    /// So many inputs for each target, from a fixed seed and the kept corpus alone: a check that a change does not
    /// fail by another's chance.
    Repeatable(u32),
}

/// Runs each target. What breaks something is in `storage/fuzz/artifacts`.
pub(crate) fn run(search: Search) -> Result<()> {
    requires::root()?;
    if process::run("cargo-fuzz", ["--version"]).is_err() {
        show(cargo().args(["install", "cargo-fuzz", "--locked"]))?;
    }
    let place = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => checkout().join("target"),
    }
    .join("fuzz");
    let mut scratches = Vec::new();
    for target in TARGETS {
        let (kept, found) =
            (checkout().join("storage/fuzz/corpus").join(target), place.join("corpus").join(target));
        println!("== fuzzing {target}: {search:?}");
        let mut command = cargo();
        // Instrumentation is asked of the compiler by flags that the stable one takes only so. The sanitizers look for
        // what safe Rust cannot do, and need a compiler of their own.
        command.env("RUSTC_BOOTSTRAP", "1");
        command.args(["fuzz", "run", "--dev", "--sanitizer", "none", "--fuzz-dir", "storage/fuzz"]);
        command.arg("--target-dir").arg(&place).arg(target);
        match search {
            Search::Seconds(seconds) => {
                std::fs::create_dir_all(&found)
                    .with_context(|| format!("cannot make {}", found.display()))?;
                command.args([found, kept]).arg("--").arg(format!("-max_total_time={seconds}"));
            }
            Search::Repeatable(inputs) => {
                let scratch = tempfile::tempdir().context("cannot make a directory for what is found")?;
                command
                    .args([scratch.path(), &kept])
                    .arg("--")
                    .args(["-seed=1".to_owned(), format!("-runs={inputs}")]);
                scratches.push(scratch);
            }
        }
        command.args(["-timeout=20", "-rss_limit_mb=1024", "-max_len=16384", "-print_final_stats=1"]);
        show(&mut command)?;
    }
    Ok(())
}
