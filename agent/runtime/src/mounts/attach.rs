//! Attaching trees at places inside the root.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MoveMountFlags};

use super::options::{NODEV, NOEXEC, NOSUID, RDONLY};
use super::path::{Make, open_making};
use super::tree::{self, Tree};
use crate::error::{Failure, FailureKind};
use crate::job::{Job, MountAttrs, MountJob, MountSource};

/// The container's root, attached in this namespace but not yet pivoted to.
pub(crate) struct Root {
    fd: OwnedFd,
}

impl Root {
    /// Makes the root's tree and attaches it at the run directory, in this mount namespace only.
    pub(crate) fn attach(job: &Job) -> Result<Self, Failure> {
        const STAGE: &str = "root";
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = || {
            rustix::fs::open(&job.run_dir, flags, Mode::empty()).map_err(|e| {
                Failure::errno(STAGE, format_args!("run directory {}", job.run_dir.display()), e)
            })
        };
        let target = open()?;
        match tree::from_rootfs(STAGE, &job.root, job.legacy_overlay)? {
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

/// Copies of the host's trees that are to be mounted, one place for each mount of the job. They are taken before
/// the root is attached, which would cover what lies in the run directory and become a part of every copy around it.
pub(crate) fn open_binds(job: &Job) -> Result<Vec<Option<OwnedFd>>, Failure> {
    let open = |mount: &MountJob| match &mount.source {
        MountSource::Bind { path, recursive } => {
            tree::bind(&format!("mount {}", mount.destination), path, *recursive).map(Some)
        }
        _ => Ok(None),
    };
    job.mounts.iter().map(open).collect()
}

/// Attaches every mount of the job in order.
pub(crate) fn attach_all(root: &Root, job: &Job, binds: Vec<Option<OwnedFd>>) -> Result<(), Failure> {
    for (mount, bind) in job.mounts.iter().zip(binds) {
        let stage = format!("mount {}", mount.destination);
        attach(root.fd(), job, mount, bind, &stage)?;
    }
    Ok(())
}

fn attach(
    root: BorrowedFd<'_>,
    job: &Job,
    mount: &MountJob,
    bind: Option<OwnedFd>,
    stage: &str,
) -> Result<(), Failure> {
    let attrs = &mount.attrs;
    let tree = match &mount.source {
        MountSource::Fs { fstype, source, data } => {
            // A new filesystem takes its attributes while it is made; nobody sees it without them.
            let own_dev = mount.destination == "/dev" && job.populate_dev;
            let late = if own_dev { RDONLY } else { 0 };
            let fd = tree::filesystem(stage, fstype, source, data, attrs.set & !late)?;
            if own_dev {
                crate::device::populate(fd.as_fd(), &job.devices)?;
            }
            if attrs.set & late != 0 {
                set_attrs(stage, fd.as_fd(), false, late, 0, 0)?;
            }
            Tree::Detached(fd)
        }
        MountSource::Bind { path, recursive } => {
            Tree::Detached(bind.map_or_else(|| tree::bind(stage, path, *recursive), Ok)?)
        }
        MountSource::Tree(rootfs) => tree::from_rootfs(stage, rootfs, job.legacy_overlay)?,
        MountSource::Cgroup => return super::protect::cgroup(root, job, mount, stage),
    };
    let kernel = matches!(&mount.source, MountSource::Fs { fstype, .. } if is_kernel_fs(fstype));
    let target = target(root, mount, kernel, &tree, stage)?;
    let fd = match tree {
        Tree::Detached(fd) => {
            if !matches!(mount.source, MountSource::Fs { .. }) {
                apply(stage, fd.as_fd(), attrs)?;
            } else if attrs.propagation != 0 {
                set_attrs(stage, fd.as_fd(), false, 0, 0, attrs.propagation)?;
            }
            move_to(&fd, target.as_fd()).map_err(|e| Failure::errno(stage, "attaching", e))?;
            return Ok(());
        }
        legacy @ Tree::Legacy { .. } => {
            mount_legacy(stage, &legacy, &target)?;
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            super::path::open_inside(root, &mount.destination, flags, ResolveFlags::empty())
                .map_err(|e| Failure::errno(stage, "opening what was mounted", e))?
        }
    };
    apply(stage, fd.as_fd(), attrs)
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
    mount: &MountJob,
    kernel: bool,
    tree: &Tree,
    stage: &str,
) -> Result<OwnedFd, Failure> {
    let make = match tree {
        Tree::Detached(fd) => {
            let kind =
                rustix::fs::fstat(fd).map_err(|e| Failure::errno(stage, "looking at the source", e))?;
            if kind.st_mode & libc::S_IFMT == libc::S_IFDIR { Make::Dir } else { Make::File }
        }
        Tree::Legacy { .. } => Make::Dir,
    };
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
    Ok(target)
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
    if attrs.set | attrs.clear != 0 || (attrs.propagation != 0 && !attrs.rec_propagation) {
        let propagation = if attrs.rec_propagation { 0 } else { attrs.propagation };
        set_attrs(
            stage,
            fd,
            false,
            attrs.set,
            attrs.clear & !attrs.set | field_clear(attrs.set),
            propagation,
        )?;
    }
    if attrs.rec_propagation && attrs.propagation != 0 && attrs.propagation != libc::MS_PRIVATE {
        set_attrs(stage, fd, true, 0, 0, attrs.propagation)?;
    }
    Ok(())
}

/// The access time field is cleared as a whole when one of its values is set (`mount_setattr(2)`).
fn field_clear(set: u64) -> u64 {
    if set & 0x70 != 0 { 0x70 } else { 0 }
}

pub(super) fn set_attrs(
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

pub(super) fn move_to(tree: &OwnedFd, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(tree, "", target, "", flags)
}

fn mount_legacy(stage: &str, tree: &Tree, target: &OwnedFd) -> Result<(), Failure> {
    let Tree::Legacy { options, read_only, .. } = tree else { return Ok(()) };
    let flags = if *read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    let data = std::ffi::CString::new(options.as_str())
        .map_err(|_| Failure::new(stage, FailureKind::Other, "an overlay option holds a zero byte"))?;
    rustix::mount::mount("overlay", tree::fd_path(target), "overlay", flags, Some(data.as_c_str()))
        .map_err(|e| Failure::errno(stage, "mounting the overlay", e))
}

/// Cuts this namespace off the host's: nothing that is mounted here is seen there.
pub(crate) fn isolate(slave: bool) -> Result<(), Failure> {
    let fd = rustix::fs::openat(CWD, Path::new("/"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Failure::errno("namespaces", "opening the host's root", e))?;
    set_attrs("namespaces", fd.as_fd(), true, 0, 0, if slave { libc::MS_SLAVE } else { libc::MS_PRIVATE })
}

/// Attributes of what only shows the kernel.
pub(super) const INERT: u64 = NOSUID | NODEV | NOEXEC;
