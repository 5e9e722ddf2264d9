//! What is mounted: trees of the host and volumes, opened before the root is attached, which would cover what lies in the
//! run directory and become a part of every copy around it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, UnmountFlags};

use super::attach::{mount_legacy, move_to, set_attrs};
use super::below;
use super::options::RDONLY;
use super::tree::{self, Tree};
use crate::error::{Failure, FailureKind};
use crate::job::{Job, MountJob, MountSource, RootFs};

/// One place for each mount of a job; `None` where there is nothing to open before.
pub(crate) type Sources = Vec<Option<OwnedFd>>;

/// Filesystems on block devices, detached. They are made by the starter: in the container's version 2 group, which its first
/// process is in from the beginning, the program that guards devices lets nobody open one.
#[derive(Default)]
pub(crate) struct Blocks {
    /// The root's, if it has one.
    pub(super) root: Option<OwnedFd>,
    /// One place for each mount of the job.
    mounts: Sources,
}

impl Blocks {
    /// Makes those of the job.
    pub(crate) fn open(job: &Job) -> Result<Self, Failure> {
        let open = |stage: &str, tree: &RootFs| {
            let tree = match tree {
                RootFs::OverlayOn { block, .. } => block,
                other => other,
            };
            match tree {
                RootFs::Block { device, fstype, options } => {
                    tree::block(stage, device, fstype, options).map(Some)
                }
                RootFs::Bind { .. } | RootFs::Overlay { .. } | RootFs::OverlayOn { .. } => Ok(None),
            }
        };
        let volume = |mount: &MountJob| match &mount.source {
            MountSource::Tree { tree, .. } => open(&format!("mount {}", mount.destination), tree),
            _ => Ok(None),
        };
        let mounts = job.mounts.iter().map(volume).collect::<Result<_, _>>()?;
        Ok(Self { root: open("root", &job.root)?, mounts })
    }
}

/// Copies of the trees that follow the host's later mounts. They are taken while this namespace still hears of those.
pub(crate) fn open_following(job: &Job) -> Result<Sources, Failure> {
    let open =
        |mount: &MountJob| if mount.follows_host() { source(job, mount, None, true) } else { Ok(None) };
    job.mounts.iter().map(open).collect()
}

/// All the others, once this namespace is cut off.
pub(crate) fn open_others(job: &Job, blocks: &mut Blocks, sources: &mut Sources) -> Result<(), Failure> {
    for ((mount, block), place) in job.mounts.iter().zip(&mut blocks.mounts).zip(sources) {
        if place.is_none() {
            *place = source(job, mount, block.take(), true)?;
        }
    }
    Ok(())
}

/// The volumes alone, in the namespace of the caller, which others still mount in; the rest is the work of another runtime.
pub(crate) fn open_volumes(job: &Job, blocks: &mut Blocks) -> Result<Sources, Failure> {
    let open = |(mount, block): (&MountJob, &mut Option<OwnedFd>)| {
        if !matches!(mount.source, MountSource::Tree { .. }) {
            return Ok(None);
        }
        let fd = source(job, mount, block.take(), true)?;
        if let Some(fd) = fd.as_ref().filter(|_| !mount.follows_host()) {
            set_attrs(&format!("mount {}", mount.destination), fd.as_fd(), true, 0, 0, libc::MS_PRIVATE)?;
        }
        Ok(fd)
    };
    job.mounts.iter().zip(&mut blocks.mounts).map(open).collect()
}

/// All at once, in the namespace of the caller, which others still mount in: each tree is cut off as it asks to be.
#[cfg(feature = "cli")]
pub(crate) fn open_all(job: &Job) -> Result<Sources, Failure> {
    let open = |mount: &MountJob| {
        let fd = source(job, mount, None, false)?;
        if let Some(fd) = &fd {
            let stage = format!("mount {}", mount.destination);
            if !mount.follows_host() {
                set_attrs(&stage, fd.as_fd(), true, 0, 0, libc::MS_PRIVATE)?;
            }
            if mount.is_shared() {
                // Where the host's mount has no peers, it becomes the first of a group.
                set_attrs(&stage, fd.as_fd(), mount.attrs.rec_propagation, 0, 0, libc::MS_SHARED)?;
            }
        }
        Ok(fd)
    };
    job.mounts.iter().map(open).collect()
}

/// `strict` holds a bind mount of the specification to what it asks for; other runtimes take it as it is.
fn source(
    job: &Job,
    mount: &MountJob,
    block: Option<OwnedFd>,
    strict: bool,
) -> Result<Option<OwnedFd>, Failure> {
    let stage = format!("mount {}", mount.destination);
    let stage = stage.as_str();
    match &mount.source {
        MountSource::Fs { .. } | MountSource::Cgroup => Ok(None),
        MountSource::Bind { path, recursive } => {
            let place = place(stage, path)?;
            copy(stage, mount, path, place.as_fd(), *recursive, strict).map(Some)
        }
        MountSource::Tree { tree, inside, sub_path } => {
            let part = |top: OwnedFd| -> Result<OwnedFd, Failure> {
                let volume = match inside {
                    Some(inside) => below::volume(stage, top.as_fd(), inside)?,
                    None => top,
                };
                match sub_path {
                    Some(sub) => below::sub_path(stage, volume.as_fd(), sub),
                    None => Ok(volume),
                }
            };
            if let RootFs::Bind { path, readonly } = tree {
                let part = part(place(stage, path)?)?;
                let fd = copy(stage, mount, path, part.as_fd(), true, strict)?;
                if *readonly {
                    set_attrs(stage, fd.as_fd(), true, RDONLY, 0, 0)?;
                }
                return Ok(Some(fd));
            }
            match tree::from_rootfs(stage, tree, block, job)? {
                Tree::Detached(fd) if inside.is_none() && sub_path.is_none() => Ok(Some(fd)),
                tree => for_a_moment(stage, job, tree, part).map(Some),
            }
        }
    }
}

/// What is at a path of the host, automounts included.
fn place(stage: &str, path: &std::path::Path) -> Result<OwnedFd, Failure> {
    rustix::mount::open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLOEXEC)
        .map_err(|e| Failure::errno(stage, format_args!("the source {}", path.display()), e))
}

/// A detached copy of what a descriptor names, with the propagation that the mount asks for.
fn copy(
    stage: &str,
    mount: &MountJob,
    path: &std::path::Path,
    place: BorrowedFd<'_>,
    recursive: bool,
    strict: bool,
) -> Result<OwnedFd, Failure> {
    if strict && mount.follows_host() {
        check_follows(stage, mount, path, place)?;
    }
    let fd = tree::bind_fd(place, recursive)
        .map_err(|e| Failure::errno(stage, format_args!("copying the source {}", path.display()), e))?;
    // A copy of a shared mount is its peer; as a slave it hears of the host's mounts and tells of none.
    if mount.follows_host() && !mount.is_shared() {
        set_attrs(stage, fd.as_fd(), true, 0, 0, libc::MS_SLAVE)?;
    }
    Ok(fd)
}

/// A mount that hears of nothing would be a promise silently broken. An OCI mount with `rslave` alone is taken as it is,
/// as other runtimes take it.
fn check_follows(
    stage: &str,
    mount: &MountJob,
    path: &std::path::Path,
    place: BorrowedFd<'_>,
) -> Result<(), Failure> {
    if !mount.is_shared() && matches!(mount.source, MountSource::Bind { .. }) {
        return Ok(());
    }
    let peers = propagation(stage, place)?;
    if peers.shared || (peers.slave && !mount.is_shared()) {
        return Ok(());
    }
    let (path, at) = (path.display(), peers.place);
    let or_slave = if mount.is_shared() { "" } else { " or slave" };
    Err(Failure::new(
        stage,
        FailureKind::Other,
        format!("{path} is not on a shared{or_slave} mount; run mount --make-rshared {at} on the host"),
    ))
}

/// How the mount that holds a place takes part in propagation.
pub(super) struct Peers {
    /// It is in a peer group.
    pub(super) shared: bool,
    /// It receives from one.
    pub(super) slave: bool,
    /// Where it is mounted.
    pub(super) place: String,
}

/// From the table of mounts (`proc_pid_mountinfo(5)`), found by the mount's id.
pub(super) fn propagation(stage: &str, place: BorrowedFd<'_>) -> Result<Peers, Failure> {
    let stat = rustix::fs::statx(place, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
        .map_err(|e| Failure::errno(stage, "looking for the mount", e))?;
    let text = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(|e| Failure::errno(stage, "/proc/self/mountinfo", e))?;
    peers(&text, stat.stx_mnt_id).ok_or_else(|| {
        Failure::errno(stage, format_args!("the mount {} is not in the table", stat.stx_mnt_id), Errno::NOENT)
    })
}

pub(super) fn peers(mountinfo: &str, id: u64) -> Option<Peers> {
    let id = id.to_string();
    let line = mountinfo.lines().find(|l| l.split(' ').next() == Some(&id))?;
    let fields: Vec<&str> = line.split(' ').collect();
    let optional = fields.get(6..)?.iter().take_while(|f| **f != "-");
    let mut peers = Peers { shared: false, slave: false, place: (*fields.get(4)?).to_owned() };
    for field in optional {
        peers.shared |= field.starts_with("shared:");
        peers.slave |= field.starts_with("master:");
    }
    Some(peers)
}

/// A copy of a part of a tree that is mounted nowhere. Before 6.15 the kernel copies only what is attached, so the tree is
/// attached at the run directory, in this namespace alone, and taken off again.
fn for_a_moment(
    stage: &str,
    job: &Job,
    tree: Tree,
    part: impl FnOnce(OwnedFd) -> Result<OwnedFd, Failure>,
) -> Result<OwnedFd, Failure> {
    let open = || {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&job.run_dir, flags, Mode::empty())
            .map_err(|e| Failure::errno(stage, format_args!("run directory {}", job.run_dir.display()), e))
    };
    let place = open()?;
    let top = match tree {
        Tree::Detached(fd) => {
            move_to(&fd, place.as_fd()).map_err(|e| Failure::errno(stage, "attaching for a moment", e))?;
            fd
        }
        legacy @ Tree::Legacy { .. } => {
            mount_legacy(stage, &legacy, &place)?;
            // Opened anew, the path leads to what is now mounted there.
            open()?
        }
    };
    let mounted = tree::fd_path(&top);
    let keep = top.try_clone().map_err(|e| Failure::errno(stage, "holding the mount", e))?;
    let copied = part(keep).and_then(|part| {
        tree::bind_fd(part.as_fd(), true)
            .map_err(|e| Failure::errno(stage, "copying a part of the volume", e))
    });
    rustix::mount::unmount(mounted, UnmountFlags::DETACH)
        .map_err(|e| Failure::errno(stage, "taking the volume off again", e))?;
    copied
}
