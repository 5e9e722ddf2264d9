//! Detached mount trees from data: layers, block devices, host paths, kernel filesystems.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, UnmountFlags};

use crate::error::{Failure, FailureKind};
use crate::job::{Job, RootFs};

/// `fsconfig(2)` takes no longer string, in bytes without the end.
const MAX_STRING: usize = 255;

/// How a tree came to be.
pub(crate) enum Tree {
    /// Nowhere yet: `move_mount` puts it where it belongs.
    Detached(OwnedFd),
    /// An overlay for a kernel without `lowerdir+`: `mount(2)` with these options at the place itself. The descriptors
    /// are named in the options.
    Legacy { options: String, read_only: bool, _layers: Vec<OwnedFd> },
}

/// Makes the tree of a root or a volume of `job`; the filesystem on its block device is `block`, where that was made before.
pub(crate) fn from_rootfs(
    stage: &str,
    root: &RootFs,
    block: Option<OwnedFd>,
    job: &Job,
) -> Result<Tree, Failure> {
    let legacy = job.legacy_overlay;
    match root {
        RootFs::Bind { path, readonly } => {
            let tree = bind(stage, path, true)?;
            if *readonly {
                super::attach::set_attrs(stage, tree.as_fd(), true, super::options::RDONLY, 0, 0)?;
            }
            Ok(Tree::Detached(tree))
        }
        RootFs::Block { device, fstype, options } => match block {
            Some(made) => Ok(Tree::Detached(made)),
            None => self::block(stage, device, fstype, options).map(Tree::Detached),
        },
        RootFs::Overlay { lower, upper, work, options } => {
            if !legacy
                && let Some(tree) = overlay_new(stage, lower, upper.as_deref(), work.as_deref(), options)?
            {
                return Ok(Tree::Detached(tree));
            }
            overlay_legacy(stage, lower, upper.as_deref(), work.as_deref(), options)
        }
        RootFs::OverlayOn { block: on, lower, upper, work, options } => {
            let block = match block {
                Some(made) => made,
                None => on_block(stage, on)?,
            };
            let overlay = OverlayOn { lower, upper, work, options };
            overlay_on(stage, job, &block, &overlay).map(Tree::Detached)
        }
    }
}

/// The overlay of [`RootFs::OverlayOn`], with paths within its filesystem.
struct OverlayOn<'a> {
    lower: &'a [PathBuf],
    upper: &'a Path,
    work: &'a Path,
    options: &'a [String],
}

/// An overlay that writes to a filesystem which is attached nowhere. Before 6.15 the kernel takes no layers from such a one, so
/// it is attached at the run directory, in this namespace alone, and taken off again; the overlay keeps it.
fn overlay_on(stage: &str, job: &Job, block: &OwnedFd, overlay: &OverlayOn<'_>) -> Result<OwnedFd, Failure> {
    let open = || {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&job.run_dir, flags, Mode::empty())
            .map_err(|e| Failure::errno(stage, format_args!("run directory {}", job.run_dir.display()), e))
    };
    let detach = |what: &OwnedFd| {
        rustix::mount::unmount(fd_path(what), UnmountFlags::DETACH)
            .map_err(|e| Failure::errno(stage, "taking what was attached for a moment off again", e))
    };
    let place = open()?;
    super::attach::move_to(block, place.as_fd())
        .map_err(|e| Failure::errno(stage, "attaching for a moment", e))?;
    let make = || {
        let inside = |path: &Path| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            rustix::fs::openat2(block, path, flags, Mode::empty(), resolve)
                .map_err(|e| Failure::errno(stage, format_args!("{} in the filesystem", path.display()), e))
        };
        // They live until the overlay is made.
        let held = (inside(overlay.upper)?, inside(overlay.work)?);
        let (upper, work) = (fd_path(&held.0), fd_path(&held.1));
        let (upper, work) = (Some(Path::new(&upper)), Some(Path::new(&work)));
        if !job.legacy_overlay
            && let Some(tree) = overlay_new(stage, overlay.lower, upper, work, overlay.options)?
        {
            return Ok(tree);
        }
        let legacy = overlay_legacy(stage, overlay.lower, upper, work, overlay.options)?;
        super::attach::mount_legacy(stage, &legacy, &place)?;
        // Opened anew, the path leads to what is now mounted there.
        let top = open()?;
        let copy = bind_fd(top.as_fd(), false).map_err(|e| Failure::errno(stage, "copying the overlay", e));
        detach(&top)?;
        copy
    };
    let made = make();
    detach(block)?;
    made
}

fn on_block(stage: &str, on: &RootFs) -> Result<OwnedFd, Failure> {
    match on {
        RootFs::Block { device, fstype, options } => block(stage, device, fstype, options),
        _ => Err(Failure::new(stage, FailureKind::Other, "the writable directory is on no block device")),
    }
}

/// The filesystem on a block device.
pub(super) fn block(
    stage: &str,
    device: &Path,
    fstype: &str,
    options: &[String],
) -> Result<OwnedFd, Failure> {
    let read_only = options.iter().any(|o| o == "ro");
    let context = Context::open(stage, fstype)?;
    context.string("source", device.to_str().unwrap_or_default())?;
    if read_only {
        context.flag("ro")?;
    }
    context.options(options.iter().filter(|o| !matches!(o.as_str(), "ro" | "rw")))?;
    context.mount(if read_only { super::options::RDONLY } else { 0 })
}

/// By `lowerdir+`; `None` when the kernel (before 6.7) does not know it. Before 6.5 overlayfs took any option as it came, up to a
/// page of them, and refused the unknown ones when the filesystem was made.
fn overlay_new(
    stage: &str,
    lower: &[PathBuf],
    upper: Option<&Path>,
    work: Option<&Path>,
    options: &[String],
) -> Result<Option<OwnedFd>, Failure> {
    let context = Context::open(stage, "overlay")?;
    context.string("source", "overlay")?;
    // Descriptors of paths that are too long for a string; they live until the mount is made.
    let mut held = Vec::new();
    let mut layer = |key: &str, path: &Path| -> Result<bool, Failure> {
        let long;
        let text = match path.to_str() {
            Some(text) if text.len() <= MAX_STRING => text,
            _ => {
                let fd = open_layer(stage, path)?;
                long = fd_path(&fd);
                held.push(fd);
                &long
            }
        };
        match context.try_string(key, text) {
            Ok(()) => Ok(true),
            Err(Errno::INVAL) => Ok(false),
            Err(e) => Err(Failure::errno(
                stage,
                format_args!("overlay layer {}{}", path.display(), context.log()),
                e,
            )),
        }
    };
    for path in lower {
        if !layer("lowerdir+", path)? {
            return Ok(None);
        }
    }
    for (key, path) in [("upperdir", upper), ("workdir", work)] {
        if let Some(path) = path
            && !layer(key, path)?
        {
            return Ok(None);
        }
    }
    context.options(options.iter())?;
    match rustix::mount::fsconfig_create(context.fd.as_fd()) {
        Ok(()) => context.attach(if upper.is_none() { super::options::RDONLY } else { 0 }).map(Some),
        Err(Errno::INVAL) => Ok(None),
        Err(e) => Err(context.failed("mounting", e)),
    }
}

fn overlay_legacy(
    stage: &str,
    lower: &[PathBuf],
    upper: Option<&Path>,
    work: Option<&Path>,
    options: &[String],
) -> Result<Tree, Failure> {
    let mut layers = Vec::with_capacity(lower.len() + 2);
    let mut text = String::from("lowerdir=");
    for (i, path) in lower.iter().enumerate() {
        let fd = open_layer(stage, path)?;
        if i > 0 {
            text.push(':');
        }
        text.push_str(&fd_path(&fd));
        layers.push(fd);
    }
    for (key, path) in [("upperdir", upper), ("workdir", work)] {
        if let Some(path) = path {
            let fd = open_layer(stage, path)?;
            text.push_str(&format!(",{key}={}", fd_path(&fd)));
            layers.push(fd);
        }
    }
    for option in options {
        text.push(',');
        text.push_str(option);
    }
    Ok(Tree::Legacy { options: text, read_only: upper.is_none(), _layers: layers })
}

fn open_layer(stage: &str, path: &Path) -> Result<OwnedFd, Failure> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Failure::errno(stage, format_args!("layer {}", path.display()), e))
}

/// The path by which the kernel reaches a descriptor of this process.
pub(crate) fn fd_path(fd: &impl AsFd) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// A detached copy of what is mounted at a host path.
pub(crate) fn bind(stage: &str, path: &Path, recursive: bool) -> Result<OwnedFd, Failure> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(CWD, path, flags)
        .map_err(|e| Failure::errno(stage, format_args!("the source {}", path.display()), e))
}

/// A program through a mount of its own that is read-only and attached nowhere: whoever gets hold of the running program
/// by `/proc/PID/exe` cannot write to its file that way (CVE-2019-5736), whatever the user and the capabilities. The mount
/// lasts as long as something uses it.
pub(crate) fn sealed_program(path: &Path) -> std::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let fd = rustix::mount::open_tree(CWD, path, flags)?;
    crate::start::sys::mount_setattr(fd.as_fd(), false, super::options::RDONLY, 0, 0)?;
    Ok(fd)
}

/// A detached copy of what a descriptor names.
pub(crate) fn bind_fd(fd: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(fd, "", flags)
}

/// A new instance of a kernel filesystem, with these mount attributes.
pub(crate) fn filesystem(
    stage: &str,
    fstype: &str,
    source: &str,
    data: &[String],
    attrs: u64,
) -> Result<OwnedFd, Failure> {
    let context = Context::open(stage, fstype)?;
    context.string("source", source)?;
    context.options(data.iter())?;
    context.mount(attrs)
}

/// A filesystem being configured.
struct Context<'a> {
    stage: &'a str,
    fstype: &'a str,
    fd: OwnedFd,
}

impl<'a> Context<'a> {
    fn open(stage: &'a str, fstype: &'a str) -> Result<Self, Failure> {
        let fd = rustix::mount::fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| {
            let failure = Failure::errno(stage, format_args!("filesystem type {fstype}"), e);
            if e == Errno::PERM { failure.kind(FailureKind::MissingCapability) } else { failure }
        })?;
        Ok(Self { stage, fstype, fd })
    }

    fn try_string(&self, key: &str, value: &str) -> Result<(), Errno> {
        rustix::mount::fsconfig_set_string(self.fd.as_fd(), key, value)
    }

    fn string(&self, key: &str, value: &str) -> Result<(), Failure> {
        self.try_string(key, value).map_err(|e| self.failed(&format!("option {key}={value}"), e))
    }

    fn flag(&self, key: &str) -> Result<(), Failure> {
        rustix::mount::fsconfig_set_flag(self.fd.as_fd(), key)
            .map_err(|e| self.failed(&format!("option {key}"), e))
    }

    fn options<'o>(&self, options: impl Iterator<Item = &'o String>) -> Result<(), Failure> {
        for option in options {
            match option.split_once('=') {
                Some((key, value)) => self.string(key, value)?,
                None => self.flag(option)?,
            }
        }
        Ok(())
    }

    fn mount(&self, attrs: u64) -> Result<OwnedFd, Failure> {
        rustix::mount::fsconfig_create(self.fd.as_fd()).map_err(|e| self.failed("mounting", e))?;
        self.attach(attrs)
    }

    /// The mount of a filesystem that is made.
    fn attach(&self, attrs: u64) -> Result<OwnedFd, Failure> {
        let attrs = MountAttrFlags::from_bits_retain(u32::try_from(attrs).unwrap_or(0));
        rustix::mount::fsmount(self.fd.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attrs)
            .map_err(|e| self.failed("mounting", e))
    }

    fn failed(&self, what: &str, e: Errno) -> Failure {
        let failure = Failure::errno(self.stage, format_args!("{}: {what}{}", self.fstype, self.log()), e);
        if e == Errno::PERM { failure.kind(FailureKind::MissingCapability) } else { failure }
    }

    /// What the filesystem itself says about the failure, in brackets.
    fn log(&self) -> String {
        let mut text = String::new();
        let mut buffer = [0u8; 512];
        while let Ok(n @ 1..) = rustix::io::read(&self.fd, &mut buffer) {
            let line = String::from_utf8_lossy(&buffer[..n]);
            let line = line.trim_end();
            text.push_str(if text.is_empty() { " (" } else { "; " });
            // The first two characters say how grave the line is.
            text.push_str(line.get(2..).unwrap_or(line));
            if text.len() > 2000 {
                break;
            }
        }
        if !text.is_empty() {
            text.push(')');
        }
        text
    }
}
