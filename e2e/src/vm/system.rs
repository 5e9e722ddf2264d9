//! The guest's root filesystem: a few Debian packages, a start script, and nothing that runs by itself.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::kernel::Kernel;
use crate::debian::Tree;
use crate::{cache, process};

/// busybox is the start and what no other package brings; the others are what a node has.
const PACKAGES: [&str; 13] = [
    "busybox-static",
    "bash",
    "btrfs-progs",
    "coreutils",
    "dash",
    "dmsetup",
    "e2fsprogs",
    "kmod",
    "mount",
    "tar",
    "thin-provisioning-tools",
    "util-linux",
    "xfsprogs",
];
/// The root disk's size, in bytes. Its file is sparse.
const SIZE: u64 = 6 << 30;
/// Raise it when the way the root is made changes, so that older ones are not used.
const FORMAT: &str = "3";
const LEFT_OUT: [&str; 5] =
    ["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian"];

const INITTAB: &str = "::sysinit:/etc/vm/boot\n::respawn:/run/vm-guest\n::shutdown:/etc/vm/stop\n";

/// Mounts as systemd has them: cgroup2 alone, and `/` shared.
const BOOT: &str = "#!/bin/sh
mount --make-rshared /
mkdir -p /dev/pts /dev/shm /dev/disk/by-id
mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for n in 0 1 2; do ln -sf /proc/self/fd/$n /dev/$(echo stdin stdout stderr | cut -d' ' -f$((n + 1))); done
ln -sf /proc/self/fd /dev/fd
for disk in /sys/block/vd*; do
  serial=$(cat $disk/serial); [ -z \"$serial\" ] || ln -sf /dev/${disk##*/} /dev/disk/by-id/$serial
done
hostname stower-vm
/usr/bin/busybox ip link set lo up
modprobe -a loop dm-mod
for start in /etc/vm/start.d/*; do [ -x $start ] && $start </dev/null >/var/log/${start##*/}.log 2>&1 & done
";

/// Everything has ended by now.
const STOP: &str = "#!/bin/sh
sync
mount -o remount,ro /
";

/// The packages of the root.
pub(super) fn tree() -> Result<Tree> {
    Tree::of(&PACKAGES, &[])
}

/// The root disk to copy from, made at its first use. The caller holds the cache's lock.
pub(super) fn prepare(tree: &Tree, kernel: &Kernel) -> Result<PathBuf> {
    let made_of = format!("{FORMAT}{INITTAB}{BOOT}{STOP}{SIZE}{}{}", tree.key, kernel.key);
    let key = format!("root-{}", &cache::sha256(made_of.as_bytes())[..16]);
    let folder = cache::once("vm", &key, |staging| {
        let root = staging.join("root");
        fs::create_dir(&root)?;
        fill(tree, kernel, &root)?;
        make_disk(tree, &root, &staging.join("root.ext4"), SIZE)?;
        Ok(fs::remove_dir_all(&root)?)
    })
    .context("prepare the guest's root disk")?;
    Ok(folder.join("root.ext4"))
}

fn fill(tree: &Tree, kernel: &Kernel, root: &Path) -> Result<()> {
    let mut copy = Command::new("tar");
    copy.arg("-C").arg(&tree.path).arg("-c");
    for folder in LEFT_OUT {
        copy.arg(format!("--exclude=./{folder}"));
    }
    let script = "set -e; \"$@\" . | tar -x --numeric-owner -C \"$0\"";
    let mut pipe = Command::new("bash");
    pipe.args(["-o", "pipefail", "-c", script]).arg(root).arg(copy.get_program()).args(copy.get_args());
    process::run_command(&mut pipe)?;
    for folder in ["dev", "proc", "sys", "run", "root", "var/log", "var/lib", "etc/vm/start.d", "mnt"] {
        fs::create_dir_all(root.join(folder))?;
    }
    for (folder, mode) in [("tmp", 0o1777), ("var/tmp", 0o1777), ("root", 0o700)] {
        fs::create_dir_all(root.join(folder))?;
        fs::set_permissions(root.join(folder), fs::Permissions::from_mode(mode))?;
    }
    symlink("../run", root.join("var/run")).or_else(there_already)?;
    symlink("/proc/self/mounts", root.join("etc/mtab")).or_else(there_already)?;
    let passwd =
        "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n";
    fs::write(root.join("etc/passwd"), passwd)?;
    fs::write(root.join("etc/group"), "root:x:0:\ndaemon:x:1:\ntty:x:5:\nnogroup:x:65534:\n")?;
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost stower-vm\n::1 localhost\n")?;
    fs::write(root.join("etc/resolv.conf"), "")?;
    fs::write(root.join("etc/inittab"), INITTAB)?;
    for (path, text) in [("etc/vm/boot", BOOT), ("etc/vm/stop", STOP)] {
        fs::write(root.join(path), text)?;
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(0o755))?;
    }
    let names = process::run(root.join("usr/bin/busybox"), ["--list-full"])?;
    for name in names.lines().map(|name| Path::new("usr/bin").join(name.rsplit('/').next().unwrap_or(name))) {
        let other = Path::new("usr/sbin").join(name.file_name().unwrap_or_default());
        if root.join(&name).symlink_metadata().is_err() && root.join(other).symlink_metadata().is_err() {
            symlink("busybox", root.join(name))?;
        }
    }
    let modules = root.join("usr/lib/modules");
    let args = [Path::new("-a"), &kernel.modules, &modules];
    process::run("cp", args).map(drop)
}

fn there_already(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
}

/// Makes a sparse file with an ext4 that has the content of `folder`. Nothing is mounted for it.
pub(super) fn make_disk(tree: &Tree, folder: &Path, disk: &Path, size: u64) -> Result<()> {
    fs::File::create(disk)?.set_len(size).with_context(|| format!("make {}", disk.display()))?;
    let mut mkfs = tree.command("usr/sbin/mke2fs")?;
    mkfs.args(["-q", "-F", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=1", "-d"]);
    mkfs.env("MKE2FS_CONFIG", tree.path.join("etc/mke2fs.conf"));
    process::run_command(mkfs.arg(folder).arg(disk)).map(drop)
}
