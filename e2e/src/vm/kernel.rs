//! Debian's kernel, its modules, and the initial file tree that finds the root disk.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::debian::Tree;
use crate::{cache, process};

/// The kernel of Debian's cloud images: all of device-mapper, a third of the other one's size. It has no 9p.
const PACKAGE: &str = "linux-image-cloud-amd64";
/// What the kernel cannot find its root disk and the host without; loaded before the root is there.
const FIRST: [&str; 3] = ["virtio_pci", "virtio_blk", "virtio_console"];
/// Folders of modules that the guest can load when it asks for them.
const OFFERED: [&str; 7] = [
    "kernel/drivers/md",
    "kernel/drivers/block",
    "kernel/fs",
    "kernel/lib",
    "kernel/crypto",
    "kernel/drivers/virtio",
    "kernel/arch/x86/crypto",
];
/// Raise it when the initial tree changes, so that older ones are not used.
const FORMAT: &str = "1";

/// The first program in the guest. It has the console from the kernel; everything else it makes itself.
const INIT: &str = r#"#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev && exec </dev/console >/dev/console 2>&1
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
for module in /modules/*; do $b insmod $module || echo "init: cannot load $module"; done
tries=0
until [ -b /dev/vda ] || [ $tries = 100 ]; do $b usleep 100000; tries=$((tries + 1)); done
$b mount -t ext4 /dev/vda /root || { echo "init: cannot mount the root disk"; $b poweroff -f; }
for folder in dev proc sys; do $b mount -o move /$folder /root/$folder; done
$b mount -t tmpfs -o mode=755 run /root/run
$b cp /vm-guest /root/run/vm-guest
exec $b switch_root /root /usr/bin/busybox init
"#;

/// A kernel that can be booted.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    /// The compressed kernel.
    pub(super) image: PathBuf,
    /// The initial file tree, without `vm-guest`.
    pub(super) initial: PathBuf,
    /// The folder that `lib/modules` of the root is made of.
    pub(super) modules: PathBuf,
    /// Changes with all of these.
    pub(super) key: String,
}

impl Kernel {
    /// Fetches and prepares it at its first use. The caller holds the cache's lock.
    pub(super) fn prepare(system: &Tree) -> Result<Self> {
        let tree = Tree::of(&[PACKAGE], &["linux-image-6"])?;
        let key =
            format!("kernel-{}", &cache::sha256(format!("{FORMAT}{INIT}{}", tree.key).as_bytes())[..16]);
        let folder = cache::once("vm", &key, |staging| {
            let release = only_entry(&tree.path.join("usr/lib/modules"))?;
            let from = tree.path.join("usr/lib/modules").join(&release);
            fs::copy(tree.path.join("boot").join(format!("vmlinuz-{release}")), staging.join("vmlinuz"))?;
            let mut initial = Archive::default();
            initial.base(&fs::read(system.path.join("usr/bin/busybox"))?);
            for (number, path) in in_order(&from, &FIRST)?.iter().enumerate() {
                let name = path.file_name().context("a module without a name")?.display().to_string();
                initial.add(&format!("modules/{number:02}-{name}"), 0o100_644, &fs::read(path)?);
            }
            fs::write(staging.join("initial"), initial.finish())?;
            let to = staging.join("modules").join(&release);
            for folder in OFFERED {
                copy_folder(&from.join(folder), &to.join(folder))?;
            }
            for list in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
                fs::copy(from.join(list), to.join(list))?;
            }
            // depmod wants the modules where the guest will have them.
            let place = staging.join("depmod/lib");
            fs::create_dir_all(&place)?;
            std::os::unix::fs::symlink("../../modules", place.join("modules"))?;
            // One program has several commands; the name that it is started by tells which.
            let kmod = system.command("usr/bin/kmod")?;
            let mut depmod = Command::new(kmod.get_program());
            depmod.args(["--argv0", "depmod"]).args(kmod.get_args());
            depmod.arg("-b").arg(staging.join("depmod")).arg(&release);
            process::run_command(&mut depmod)?;
            fs::remove_dir_all(staging.join("depmod"))?;
            Ok(())
        })
        .context("prepare the guest's kernel")?;
        Ok(Self {
            image: folder.join("vmlinuz"),
            initial: folder.join("initial"),
            modules: folder.join("modules"),
            key,
        })
    }
}

/// The archive that adds `vm-guest` to the initial tree: the kernel unpacks one after the other.
pub(super) fn guest_archive(program: &[u8]) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.add("vm-guest", 0o100_755, program);
    archive.finish()
}

fn only_entry(folder: &Path) -> Result<String> {
    let mut names = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let name = names.next().with_context(|| format!("{} is empty", folder.display()))??.file_name();
    Ok(name.to_string_lossy().into_owned())
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// The files of `names` and of what they depend on, the depended-on first. What is built in has no file.
fn in_order(modules: &Path, names: &[&str]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    find_modules(&modules.join("kernel"), &mut files)?;
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    for name in names {
        add_module(name, &files, &mut seen, &mut order)?;
    }
    Ok(order)
}

fn find_modules(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find_modules(&path, found)?;
        } else if path.extension().is_some_and(|end| end == "ko") {
            found.push(path);
        }
    }
    Ok(())
}

fn add_module(
    name: &str,
    files: &[PathBuf],
    seen: &mut BTreeSet<String>,
    order: &mut Vec<PathBuf>,
) -> Result<()> {
    // File names have both signs where the kernel's names have one.
    let name = name.replace('-', "_");
    let is_it = |path: &&PathBuf| {
        path.file_stem().is_some_and(|stem| stem.to_string_lossy().replace('-', "_") == name)
    };
    let Some(path) = files.iter().find(is_it).filter(|_| seen.insert(name.clone())) else { return Ok(()) };
    let content = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    for needed in depends(&content).split(',').filter(|needed| !needed.is_empty()) {
        add_module(needed, files, seen, order)?;
    }
    order.push(path.clone());
    Ok(())
}

/// `depends=` of a module's `.modinfo` section, whose strings each follow a zero byte.
fn depends(module: &[u8]) -> String {
    const MARK: &[u8] = b"\0depends=";
    let Some(at) = module.windows(MARK.len()).position(|window| window == MARK) else { return String::new() };
    let text = &module[at + MARK.len()..];
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(0);
    String::from_utf8_lossy(&text[..end]).into_owned()
}

/// A `newc` cpio archive, which the kernel unpacks (Documentation/driver-api/early-userspace/buffer-format.rst).
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    count: usize,
}

impl Archive {
    fn base(&mut self, busybox: &[u8]) {
        for folder in ["bin", "dev", "proc", "sys", "root", "modules"] {
            self.add(folder, 0o040_755, b"");
        }
        self.add("bin/busybox", 0o100_755, busybox);
        self.add("init", 0o100_755, INIT.as_bytes());
    }

    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.count += 1;
        let links = if mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
        // Magic, inode, mode, uid, gid, links, mtime, size, device (2), special device (2), length of the name, checksum.
        let head = format!(
            "070701{:08x}{mode:08x}{:08x}{:08x}{links:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}",
            self.count,
            0,
            0,
            0,
            content.len(),
            0,
            0,
            0,
            0,
            name.len() + 1,
            0
        );
        self.bytes.extend(head.as_bytes());
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, b"");
        self.bytes
    }
}
