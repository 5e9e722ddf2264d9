//! Builds the starter, so that the agent's one file carries it: `include_bytes!(concat!(env!("OUT_DIR"), "/stower-starter"))`.
//!
//! A cargo of its own does it, because the starter is built for size whatever the agent's profile, and because a
//! binary of another package cannot be a dependency. It works in a target directory of its own below `OUT_DIR`, so it
//! never waits for the lock that the outer cargo holds.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Flags that `.cargo/config.toml` gives to everything for the target; set again, because the environment wins over it.
const RUSTFLAGS: &str = "-Ctarget-feature=+crt-static\u{1f}-Crelocation-model=static";

fn main() {
    let variable =
        |name: &str| std::env::var_os(name).unwrap_or_else(|| fail(&format!("cargo has not set {name}")));
    let runtime = PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("runtime");
    let out = PathBuf::from(variable("OUT_DIR"));
    let target = std::env::var("TARGET").unwrap_or_else(|_| fail("cargo has not set TARGET"));
    for source in ["src", "shim", "build.rs", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", runtime.join(source).display());
    }
    println!("cargo::rerun-if-changed=build.rs");

    let target_dir = out.join("starter");
    let status = Command::new(variable("CARGO"))
        .args([
            "build",
            "--quiet",
            "--locked",
            "--release",
            "--no-default-features",
            "--bin",
            "stower-starter",
            "--target",
            &target,
        ])
        .arg("--manifest-path")
        .arg(runtime.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS)
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_LTO", "fat")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
        // What the outer cargo was called with is not meant for this one: a lint driver, instrumentation.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("CARGO_BUILD_TARGET_DIR")
        .env_remove("CARGO_BUILD_BUILD_DIR")
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("building the starter ended with {status}")),
        Err(e) => fail(&format!("cargo could not be started: {e}")),
    }
    copy(&target_dir.join(&target).join("release/stower-starter"), &out.join("stower-starter"));
}

fn copy(from: &Path, to: &Path) {
    if let Err(e) = std::fs::copy(from, to) {
        fail(&format!("copying {}: {e}", from.display()));
    }
}

fn fail(why: &str) -> ! {
    println!("cargo::error={why}");
    std::process::exit(1);
}
