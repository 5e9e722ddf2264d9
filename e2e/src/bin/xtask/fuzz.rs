//! `cargo xtask fuzz`: hostile bytes for the storage, a while for each target, beginning with those that are kept.

use std::path::PathBuf;

use anyhow::{Context, Result};
use stower_e2e::cargo::checkout;
use stower_e2e::{process, requires};

use crate::build::{cargo, show};

/// Those of `storage/fuzz`.
const TARGETS: [&str; 4] = ["layer", "image_config_and_manifest", "dm_status", "driver_metadata"];

/// Runs each target for so many seconds. What is found new is kept beside the built files, so that the next run begins
/// there; what breaks something is in `storage/fuzz/artifacts`.
pub(crate) fn run(seconds: u32) -> Result<()> {
    requires::root()?;
    if process::run("cargo-fuzz", ["--version"]).is_err() {
        show(cargo().args(["install", "cargo-fuzz", "--locked"]))?;
    }
    let place = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => checkout().join("target"),
    }
    .join("fuzz");
    for target in TARGETS {
        let (kept, found) =
            (checkout().join("storage/fuzz/corpus").join(target), place.join("corpus").join(target));
        std::fs::create_dir_all(&found).with_context(|| format!("cannot make {}", found.display()))?;
        println!("== fuzzing {target} for {seconds} s");
        let mut command = cargo();
        // Instrumentation is asked of the compiler by flags that the stable one takes only so. The sanitizers look for
        // what safe Rust cannot do, and need a compiler of their own.
        command.env("RUSTC_BOOTSTRAP", "1");
        command.args(["fuzz", "run", "--dev", "--sanitizer", "none", "--fuzz-dir", "storage/fuzz"]);
        command.arg("--target-dir").arg(&place).arg(target).args([found, kept]);
        command.arg("--").arg(format!("-max_total_time={seconds}"));
        command.args(["-timeout=20", "-rss_limit_mb=1024", "-max_len=16384", "-print_final_stats=1"]);
        show(&mut command)?;
    }
    Ok(())
}
