//! Another release of the program under test, without another build: the same code with another version, another starter and another
//! shim.
//!
//! What tells releases apart is the version that they say and the digests of the programs that they carry. Both are changed
//! in a copy: the version in place, and in each carried program a byte of the ELF identification that no kernel reads
//! (`EI_PAD`, elf(5)). So everything that hangs on digests (which programs are written out, kept, used for adoption, and
//! removed) is as between two builds.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

const ELF: &[u8] = b"\x7fELF\x02\x01\x01";
/// The last byte of the identification.
const PAD: usize = 15;

/// Writes another release of `program` into a folder. The version has as many characters as the program's own.
pub fn other(program: &Path, folder: &Path, own: &str, version: &str) -> Result<PathBuf> {
    ensure!(own.len() == version.len(), "{version} is not as long as {own}");
    let mut bytes = fs::read(program).with_context(|| format!("read {}", program.display()))?;
    let carried: Vec<usize> = places(&bytes, ELF).into_iter().filter(|at| *at > 0).collect();
    ensure!(carried.len() >= 2, "the program carries no starter and shim");
    for at in carried {
        bytes[at + PAD] ^= 1;
    }
    let (own, version) = (format!("v{own}"), format!("v{version}"));
    let said = places(&bytes, own.as_bytes());
    ensure!(!said.is_empty(), "the program does not say its version {own}");
    for at in said {
        bytes[at..at + own.len()].copy_from_slice(version.as_bytes());
    }
    let path = folder.join(format!("stower-{version}"));
    fs::write(&path, bytes)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

fn places(bytes: &[u8], part: &[u8]) -> Vec<usize> {
    // The first byte is looked for first: a program has tens of megabytes.
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == part[0]) {
        let at = from + at;
        if bytes[at..].starts_with(part) {
            found.push(at);
        }
        from = at + 1;
    }
    found
}
