//! Attaching trees at places inside the root.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MoveMountFlags};

use super::options::{NODEV, NOEXEC, NOSUID, RDONLY};
use super::path::{Make, open_making};
use super::source::{Blocks, Sources};
use super::tree::{self, Tree};
use crate::error::{Failure, FailureKind};
use crate::job::{Job, MountAttrs, MountJob, MountSource};

/// The container's root, attached in this namespace but not yet pivoted to.
pub(crate) struct Root {
    fd: OwnedFd,
}

impl Root {
    /// Makes the root's tree and attaches it at the run directory, in this mount namespace only.
    pub(crate) fn attach(job: &Job, blocks: &mut Blocks) -> Result<Self, Failure> {
        const STAGE: &str = "root";
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = || {
            rustix::fs::open(&job.run_dir, flags, Mode::empty()).map_err(|e| {
                Failure::errno(STAGE, format_args!("run directory {}", job.run_dir.display()), e)
            })
        };
        let target = open()?;
        match tree::from_rootfs(STAGE, &job.root, blocks.root.take(), job)? {
            Tree::Detached(fd) => {
                move_to(&fd, target.as_fd()).map_err(|e| Failure::errno(STAGE, "attaching the root", e))?;
                Ok(Self { fd })
            }
            legacy @ Tree::Legacy { .. } => {
                mount_legacy(STAGE, &legacy, &target)?;
                // Opened anew, the path leads to what is now mounted there.
                Ok(Self { fd: open()? })
            }
        }
    }

    /// Attaches a tree that is there already.
    #[cfg(feature = "cli")]
    pub(crate) fn of(job: &Job, fd: OwnedFd) -> Result<Self, Failure> {
        const STAGE: &str = "root";
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let target = rustix::fs::open(&job.run_dir, flags, Mode::empty())
            .map_err(|e| Failure::errno(STAGE, job.run_dir.display(), e))?;
        move_to(&fd, target.as_fd()).map_err(|e| Failure::errno(STAGE, "attaching the root", e))?;
        Ok(Self { fd })
    }

    /// Makes it the root of this process alone, in a mount namespace that others use too.
    #[cfg(feature = "cli")]
    pub(crate) fn chroot(&self, job: &Job) -> Result<(), Failure> {
        const STAGE: &str = "root";
        if job.root_readonly {
            set_attrs(STAGE, self.fd(), false, RDONLY, 0, 0)?;
        }
        rustix::process::fchdir(&self.fd).map_err(|e| Failure::errno(STAGE, "entering the root", e))?;
        rustix::process::chroot(".").map_err(|e| Failure::errno(STAGE, "chroot", e))
    }

    /// The root directory.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Makes the root read-only if asked, then the root of this process; the host's tree is gone after it.
    pub(crate) fn pivot(&self, job: &Job) -> Result<(), Failure> {
        const STAGE: &str = "root";
        if job.root_readonly {
            set_attrs(STAGE, self.fd(), false, RDONLY, 0, 0)?;
        }
        rustix::process::fchdir(&self.fd).map_err(|e| Failure::errno(STAGE, "entering the root", e))?;
        rustix::process::pivot_root(".", ".").map_err(|e| Failure::errno(STAGE, "pivot_root", e))?;
        rustix::mount::unmount(".", rustix::mount::UnmountFlags::DETACH)
            .map_err(|e| Failure::errno(STAGE, "detaching the host's root", e))?;
        rustix::process::chdir("/").map_err(|e| Failure::errno(STAGE, "entering the root", e))?;
        if let Some(propagation) = job.root_propagation {
            set_attrs(STAGE, self.fd(), true, 0, 0, propagation)?;
        }
        Ok(())
    }
}

/// Attaches every mount of the job in order.
pub(crate) fn attach_all(root: &Root, job: &Job, sources: Sources) -> Result<(), Failure> {
    for (mount, source) in job.mounts.iter().zip(sources) {
        let stage = format!("mount {}", mount.destination);
        attach(root.fd(), job, mount, source, &stage)?;
    }
    Ok(())
}

fn attach(
    root: BorrowedFd<'_>,
    job: &Job,
    mount: &MountJob,
    source: Option<OwnedFd>,
    stage: &str,
) -> Result<(), Failure> {
    let attrs = &mount.attrs;
    let (fd, kernel) = match (&mount.source, source) {
        (MountSource::Fs { fstype, source, data }, _) => {
            // A new filesystem takes its attributes while it is made; nobody sees it without them.
            let own_dev = mount.destination == "/dev" && job.populate_dev;
            let late = if own_dev || mount.copy_up { RDONLY } else { 0 };
            let fd = tree::filesystem(stage, fstype, source, data, attrs.set & !late)?;
            if own_dev {
                crate::device::populate(fd.as_fd(), &job.devices)?;
            }
            #[cfg(feature = "cli")]
            if mount.copy_up {
                super::copy_up::copy(root, &mount.destination, fd.as_fd(), data, stage)?;
            }
            if attrs.set & late != 0 {
                set_attrs(stage, fd.as_fd(), false, late, 0, 0)?;
            }
            if attrs.propagation != 0 {
                set_attrs(stage, fd.as_fd(), false, 0, 0, attrs.propagation)?;
            }
            (fd, is_kernel_fs(fstype))
        }
        (MountSource::Bind { .. } | MountSource::Tree { .. }, Some(fd)) => {
            apply(stage, fd.as_fd(), attrs)?;
            (fd, false)
        }
        (MountSource::Bind { .. } | MountSource::Tree { .. }, None) => {
            return Err(Failure::new(stage, FailureKind::Other, "its source was not opened"));
        }
        (MountSource::Cgroup, _) => return super::protect::cgroup(root, job, mount, stage),
    };
    let target = target(root, job, mount, kernel, fd.as_fd(), stage)?;
    move_to(&fd, target.as_fd()).map_err(|e| Failure::errno(stage, "attaching", e))
}

/// Filesystems that show the kernel: an image must not choose where they appear, nor cover their parts.
fn is_kernel_fs(fstype: &str) -> bool {
    matches!(fstype, "proc" | "sysfs" | "cgroup" | "cgroup2" | "devpts" | "mqueue" | "devtmpfs")
}

/// `/proc`, `/sys` and `/dev` and all below them are the runtime's own: their paths hold no links.
fn is_reserved(destination: &str) -> bool {
    ["/proc", "/sys", "/dev"]
        .iter()
        .any(|own| destination.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// The place of a mount, made if it is missing, verified by its descriptor.
pub(super) fn target(
    root: BorrowedFd<'_>,
    job: &Job,
    mount: &MountJob,
    kernel: bool,
    tree: BorrowedFd<'_>,
    stage: &str,
) -> Result<OwnedFd, Failure> {
    let kind = rustix::fs::fstat(tree).map_err(|e| Failure::errno(stage, "looking at the source", e))?;
    let make = if kind.st_mode & libc::S_IFMT == libc::S_IFDIR { Make::Dir } else { Make::File };
    let strict = kernel || is_reserved(&mount.destination);
    let resolve = if strict { ResolveFlags::NO_SYMLINKS } else { ResolveFlags::empty() };
    let target = open_making(root, &mount.destination, make, resolve).map_err(|e| match e {
        Errno::LOOP if strict => Failure::new(
            stage,
            FailureKind::UnsafePath,
            format!(
                "{} of the image leads through a symbolic link; it must be a real directory",
                mount.destination
            ),
        ),
        Errno::LOOP => Failure::new(
            stage,
            FailureKind::UnsafePath,
            format!("{} of the image leads through a loop of links, or a link of /proc", mount.destination),
        ),
        Errno::NOTDIR => Failure::new(
            stage,
            FailureKind::UnsafePath,
            format!(
                "{} is not a directory in the image, but a directory is to be mounted there",
                mount.destination
            ),
        ),
        e => Failure::errno(stage, format_args!("the target {}", mount.destination), e),
    })?;
    verify_target(root, mount, make, &target, stage)?;
    if !strict {
        verify_unreserved(root, mount, &target, stage)?;
    }
    refuse_shared(job, target.as_fd(), stage)?;
    Ok(target)
}

/// A mount below one that is shared with the host would be made on the host as well.
pub(super) fn refuse_shared(job: &Job, place: BorrowedFd<'_>, stage: &str) -> Result<(), Failure> {
    if !job.mounts.iter().any(MountJob::is_shared) || !super::source::propagation(stage, place)?.shared {
        return Ok(());
    }
    let message = "the place lies in a volume that is shared with the host (rshared), so the host would see this mount \
                   too; mount it elsewhere";
    Err(Failure::new(stage, FailureKind::UnsafePath, message))
}

/// A link of the image must not lead a mount into the runtime's own places, nor out of the root, by any way that was not
/// thought of.
fn verify_unreserved(
    root: BorrowedFd<'_>,
    mount: &MountJob,
    target: &OwnedFd,
    stage: &str,
) -> Result<(), Failure> {
    let path = |fd: &dyn AsFd| {
        rustix::fs::readlinkat(CWD, tree::fd_path(&fd.as_fd()), Vec::new()).map_err(|e| {
            Failure::errno(stage, format_args!("looking at the target {}", mount.destination), e)
        })
    };
    let (top, place) = (path(&root)?, path(target)?);
    let inside = place.to_bytes().strip_prefix(top.to_bytes()).map(String::from_utf8_lossy);
    let message = match inside {
        Some(inside) if !is_reserved(&inside) => return Ok(()),
        Some(inside) => format!(
            "{} of the image leads to {inside}, where nothing may be mounted under another name",
            mount.destination
        ),
        None => format!("{} of the image leads out of the root", mount.destination),
    };
    Err(Failure::new(stage, FailureKind::UnsafePath, message))
}

fn verify_target(
    root: BorrowedFd<'_>,
    mount: &MountJob,
    make: Make,
    target: &OwnedFd,
    stage: &str,
) -> Result<(), Failure> {
    // What runc lets be covered in /proc, because lxcfs and its like give these files a container's view.
    const PROC_FILES: [&str; 11] = [
        "/proc/cpuinfo",
        "/proc/diskstats",
        "/proc/meminfo",
        "/proc/stat",
        "/proc/swaps",
        "/proc/uptime",
        "/proc/loadavg",
        "/proc/slabinfo",
        "/proc/net/dev",
        "/proc/sys/kernel/ns_last_pid",
        "/proc/sys/crypto/fips_enabled",
    ];
    let fail = |e| Failure::errno(stage, format_args!("looking at the target {}", mount.destination), e);
    let place = rustix::fs::fstat(target).map_err(fail)?;
    let is_dir = place.st_mode & libc::S_IFMT == libc::S_IFDIR;
    if is_dir != (make == Make::Dir) {
        let (is, needed) = if is_dir { ("directory", "file") } else { ("file", "directory") };
        let message =
            format!("{} is a {is} in the image, but a {needed} is to be mounted there", mount.destination);
        return Err(Failure::new(stage, FailureKind::UnsafePath, message));
    }
    let top = rustix::fs::fstat(root).map_err(fail)?;
    if (place.st_dev, place.st_ino) == (top.st_dev, top.st_ino) {
        let message = format!("{} of the image leads to the root itself", mount.destination);
        return Err(Failure::new(stage, FailureKind::UnsafePath, message));
    }
    let kind = rustix::fs::fstatfs(target).map_err(fail)?.f_type;
    if kind == libc::PROC_SUPER_MAGIC && !PROC_FILES.contains(&mount.destination.as_str()) {
        let message = format!("{} leads into /proc, where nothing may be mounted", mount.destination);
        return Err(Failure::new(stage, FailureKind::UnsafePath, message));
    }
    Ok(())
}

/// Sets the attributes of a tree that nobody uses yet.
pub(super) fn apply(stage: &str, fd: BorrowedFd<'_>, attrs: &MountAttrs) -> Result<(), Failure> {
    if attrs.rec_set | attrs.rec_clear != 0 {
        set_attrs(stage, fd, true, attrs.rec_set, attrs.rec_clear & !attrs.rec_set, 0)?;
    }
    if attrs.set | attrs.clear != 0 {
        let clear = attrs.clear & !attrs.set | field_clear(attrs.set);
        set_attrs(stage, fd, false, attrs.set, clear, 0)?;
    }
    // Slaves and peers became so when they were copied, all others are private.
    if attrs.propagation == libc::MS_UNBINDABLE {
        set_attrs(stage, fd, attrs.rec_propagation, 0, 0, attrs.propagation)?;
    }
    Ok(())
}

/// The access time field is cleared as a whole when one of its values is set (`mount_setattr(2)`).
fn field_clear(set: u64) -> u64 {
    if set & 0x70 != 0 { 0x70 } else { 0 }
}

pub(crate) fn set_attrs(
    stage: &str,
    fd: BorrowedFd<'_>,
    recursive: bool,
    set: u64,
    clear: u64,
    propagation: u64,
) -> Result<(), Failure> {
    crate::start::sys::mount_setattr(fd, recursive, set, clear, propagation)
        .map_err(|e| Failure::errno(stage, "setting mount attributes", e))
}

pub(crate) fn move_to(tree: &OwnedFd, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(tree, "", target, "", flags)
}

pub(super) fn mount_legacy(stage: &str, tree: &Tree, target: &OwnedFd) -> Result<(), Failure> {
    let Tree::Legacy { options, read_only, .. } = tree else { return Ok(()) };
    let flags = if *read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    let data = std::ffi::CString::new(options.as_str())
        .map_err(|_| Failure::new(stage, FailureKind::Other, "an overlay option holds a zero byte"))?;
    rustix::mount::mount("overlay", tree::fd_path(target), "overlay", flags, Some(data.as_c_str()))
        .map_err(|e| Failure::errno(stage, "mounting the overlay", e))
}

/// Cuts this namespace off the host's: nothing that is mounted in either is seen in the other.
pub(crate) fn isolate() -> Result<(), Failure> {
    let fd = rustix::fs::openat(CWD, Path::new("/"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Failure::errno("namespaces", "opening the host's root", e))?;
    set_attrs("namespaces", fd.as_fd(), true, 0, 0, libc::MS_PRIVATE)
}

/// Attributes of what only shows the kernel.
pub(super) const INERT: u64 = NOSUID | NODEV | NOEXEC;
