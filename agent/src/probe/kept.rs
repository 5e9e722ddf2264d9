//! `probes.json` in a container's run directory: boot-scoped, written by write and rename, without fsync.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use serde::{Deserialize, Serialize};
use stower_controllers::{BootId, KeptProbes};

const FILE: &str = "probes.json";
/// The version that this release writes; fields are only added.
const VERSION: u32 = 1;
/// No such file is longer, in bytes.
const MAX_LEN: u64 = 4096;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    version: u32,
    boot_id: BootId,
    #[serde(flatten)]
    probes: KeptProbes,
}

/// What was kept in this boot. What cannot be read was not: the probes are asked anew then.
pub(crate) fn read(dir: &Path, boot_id: &BootId) -> Option<KeptProbes> {
    let mut bytes = Vec::new();
    File::open(dir.join(FILE)).ok()?.take(MAX_LEN).read_to_end(&mut bytes).ok()?;
    let kept: Kept = serde_json::from_slice(&bytes).ok()?;
    (kept.version <= VERSION && kept.boot_id == *boot_id).then_some(kept.probes)
}

pub(super) fn write(dir: &Path, boot_id: &BootId, probes: KeptProbes) -> io::Result<()> {
    let kept = Kept { version: VERSION, boot_id: boot_id.clone(), probes };
    let new = dir.join("probes.json.new");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&serde_json::to_vec(&kept)?)?;
    drop(file);
    std::fs::rename(&new, dir.join(FILE))
}
