//! The files that a container finds in `/etc` as in a Pod, and the programs that it is started with.

use std::{
    fs::OpenOptions,
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};
use stower_runtime::job::Programs;

/// No sane resolver configuration is longer, in bytes.
const MAX_RESOLV: u64 = 64 << 10;

/// The starter, as it was built together with this agent.
static STARTER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/stower-starter"));

/// Writes `resolv.conf`, `hosts` and `hostname` for one container.
pub(super) fn write_etc(dir: &Path, host_name: &str, host_network: bool) -> io::Result<()> {
    let host_file = |path: &str| -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        match OpenOptions::new().read(true).open(path) {
            Ok(file) => file.take(MAX_RESOLV).read_to_end(&mut bytes).map(|_| bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(bytes),
            Err(error) => Err(error),
        }
    };
    write(&dir.join("resolv.conf"), &host_file("/etc/resolv.conf")?)?;
    let hosts = if host_network {
        host_file("/etc/hosts")?
    } else {
        format!(
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
             ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n127.0.1.1\t{host_name}\n"
        )
        .into_bytes()
    };
    write(&dir.join("hosts"), &hosts)?;
    write(&dir.join("hostname"), format!("{host_name}\n").as_bytes())
}

/// Makes the directory that is to hold `path`, for root alone.
pub(super) fn private_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), super::super::paths::private_dir)
}

/// Boot-scoped, so written in place of the last without fsync; readable in the container by everyone.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(path)?;
    file.write_all(bytes)
}

/// Writes the starter and the shim of this release under their digests, where they stay as long as a container that was
/// started with them runs.
pub(crate) fn install_programs(bin: &Path) -> io::Result<Programs> {
    let (starter, _) = install(bin, "stower-starter", STARTER)?;
    let (shim, shim_digest) = install(bin, "stower-shim", stower_runtime::SHIM)?;
    Ok(Programs { starter, shim, shim_digest: format!("sha256:{shim_digest}") })
}

fn install(bin: &Path, name: &str, bytes: &[u8]) -> io::Result<(PathBuf, String)> {
    let digest: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    let dir = bin.join(&digest);
    let path = dir.join(name);
    // A file that a power cut left short, or that rotted, must not be executed: what is there is compared, not believed.
    if std::fs::read(&path).is_ok_and(|there| there == bytes) {
        return Ok((path, digest));
    }
    super::super::paths::private_dir(&dir)?;
    let tmp = dir.join(format!("{name}.{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o700).open(&tmp)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    std::fs::rename(&tmp, &path)?;
    Ok((path, digest))
}

/// Removes programs of earlier releases that no container was started with; `used` are shim digests.
pub(crate) fn remove_stale_programs(bin: &Path, current: &Programs, used: &[String]) -> io::Result<()> {
    let keep = |name: &str| {
        used.iter().any(|digest| digest.strip_prefix("sha256:") == Some(name))
            || [&current.starter, &current.shim].iter().any(|path| path.parent() == Some(&bin.join(name)))
    };
    for entry in std::fs::read_dir(bin)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| !keep(name)) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}
