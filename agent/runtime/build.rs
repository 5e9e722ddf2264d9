//! Builds the shim: a program without the standard library, by one call of the compiler.
//!
//! It is not a cargo target, because its link flags would fit no other target of this package, and a build script of
//! another package could not hand over its bytes.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let manifest = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("set by cargo"));
    let target = std::env::var("TARGET").expect("set by cargo");
    let rustc = std::env::var_os("RUSTC").expect("set by cargo");
    println!("cargo::rerun-if-changed=shim");
    println!("cargo::rerun-if-changed=build.rs");

    let shim = out.join("stower-shim");
    let mut script = std::ffi::OsString::from("link-arg=-Wl,-T,");
    script.push(manifest.join("shim/link.ld"));
    let status = Command::new(rustc)
        .args([
            "--edition",
            "2024",
            "--crate-name",
            "stower_shim",
            "--crate-type",
            "bin",
            "--target",
            &target,
        ])
        .args(["-C", "opt-level=s", "-C", "panic=abort", "-C", "lto=fat", "-C", "codegen-units=1"])
        .args(["-C", "strip=symbols", "-C", "debuginfo=0", "-C", "overflow-checks=off"])
        // Non-PIE and without start files: no relocations and no pages of a C library. `relro-level=off` lets calls be
        // direct; the linker script makes two segments.
        .args(["-C", "relocation-model=static", "-C", "target-feature=+crt-static", "-C", "relro-level=off"])
        .args(["-C", "link-args=-nostartfiles -nostdlib -static -no-pie"])
        .args(["-C", "link-args=-Wl,--build-id=none,-z,norelro,--no-eh-frame-hdr"])
        .arg("-C")
        .arg(script)
        .arg("-o")
        .arg(&shim)
        .arg(manifest.join("shim/main.rs"))
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&shim, &format!("the compiler ended with {status}")),
        Err(e) => fail(&shim, &format!("the compiler could not be started: {e}")),
    }
}

fn fail(shim: &Path, why: &str) -> ! {
    println!("cargo::error=building {}: {why}", shim.display());
    std::process::exit(1);
}
