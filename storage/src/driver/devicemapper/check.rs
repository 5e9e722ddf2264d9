//! A look at the pool's metadata before the kernel has it: whether data are there for all of it, and what the kernel wants
//! checked.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use super::backing::Backing;
use super::config::Config;
use super::filesystem::program;
use super::pool::{Direct, refused};
use crate::dm::SECTOR;
use crate::dm::metadata::{self, BLOCK};
use crate::driver::DriverError;

const PROGRAM: &str = "thin_check";

/// An error where the kernel would make no pool of it, or one that is not the one that was there. A check that the kernel
/// asks for is made, as far as there is a program for it; without it the pool is read-only.
pub(super) fn before_use(root: &Path, backing: &Backing, config: &Config) -> Result<(), DriverError> {
    let path = &backing.metadata;
    let there = bytes_of(path).map_err(DriverError::io("measure", path))?;
    if there < BLOCK as u64 {
        return Err(refused(path, "it has no room for a pool's metadata"));
    }
    let mut blocks = Direct::open(path).map_err(DriverError::io("open", path))?;
    let superblock = match metadata::superblock(&mut blocks) {
        Ok(Some(superblock)) => superblock,
        Ok(None) => return Ok(()),
        Err(error) => {
            let why = format!(
                "the pool's metadata cannot be used ({error}): mend it with `thin_repair`, or put back what was there"
            );
            return Err(refused(path, why));
        }
    };
    let block = config.block_size;
    let sizes = [
        (
            "data",
            superblock.data_blocks.saturating_mul(block),
            backing.size().data_sectors * SECTOR / block * block,
        ),
        ("metadata", superblock.metadata_blocks.saturating_mul(BLOCK as u64), there),
    ];
    for (what, known, there) in sizes {
        if known > there {
            let why = format!(
                "its pool has {known} bytes of {what}, and {there} are there, since somebody made it smaller: put back what was \
                 there, or remove the directory to begin anew"
            );
            return Err(refused(root, why));
        }
    }
    if superblock.needs_check {
        match check(path) {
            Ok(()) => {
                tracing::warn!(device = %path.display(), "checked the pool's metadata, which are in order");
            }
            Err(why) => {
                tracing::error!(device = %path.display(), why, "the pool is read-only until its metadata are checked");
            }
        }
    }
    Ok(())
}

/// Checks, and says so to the kernel.
fn check(device: &Path) -> Result<(), String> {
    let Some(program) = program(PROGRAM) else {
        return Err(format!("{PROGRAM} is not installed; it comes with thin-provisioning-tools"));
    };
    let mut command = Command::new(program);
    command.arg("--clear-needs-check-flag").arg(device).stdin(Stdio::null()).env("LC_ALL", "C");
    let out = command.output().map_err(|error| format!("cannot run {PROGRAM}: {error}"))?;
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&out.stderr).trim().replace('\n', "; ");
    Err(format!("{PROGRAM} says: {said}; `thin_repair` may mend it"))
}

fn bytes_of(device: &Path) -> io::Result<u64> {
    io::Seek::seek(&mut std::fs::File::open(device)?, io::SeekFrom::End(0))
}
