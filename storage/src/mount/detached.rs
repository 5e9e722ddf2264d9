//! A mount that is attached nowhere: it is reached by its descriptor alone, is in no one's mount table, and is gone
//! with the last descriptor, also when the process dies (mount(2), fsopen(2), open_tree(2)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount,
    mount_change, move_mount, open_tree,
};

use super::Mount;

/// Why there is no mount.
#[derive(Debug, thiserror::Error)]
#[error("cannot mount {what}: {step} failed")]
pub struct MountError {
    what: &'static str,
    step: &'static str,
    #[source]
    source: io::Error,
}

fn failed(what: &'static str, step: &'static str) -> impl Fn(Errno) -> MountError {
    move |error| MountError { what, step, source: error.into() }
}

/// How layers are handed to overlayfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverlayWay {
    /// One by one on a filesystem context (`lowerdir+`, Linux 6.7 and later).
    Each,
    /// In one option of mount(2), in a mount namespace of a thread that lives only for this.
    Page,
}

/// Mounts `it` and gives the descriptor of its root.
pub fn open(it: &Mount) -> Result<OwnedFd, MountError> {
    match it {
        Mount::Overlay { .. } => match open_overlay(it, OverlayWay::Each) {
            Err(error) if has_no_lowerdir(&error) => open_overlay(it, OverlayWay::Page),
            other => other,
        },
        Mount::Bind { source, readonly } => bind(source, *readonly),
        Mount::Block { device, fstype, options } => block(device, fstype, options),
    }
}

/// Whether the kernel may not know `lowerdir+`. Before Linux 6.5 overlayfs took any option, and refused the unknown ones when
/// the filesystem was made.
fn has_no_lowerdir(error: &MountError) -> bool {
    match error.step {
        "adding a lower layer" | "making a filesystem context" => true,
        "making the filesystem" => error.source.kind() == io::ErrorKind::InvalidInput,
        _ => false,
    }
}

/// Mounts `it` for reading only, and gives the descriptor of its root: nothing is written through it, no device in it
/// is opened, and no time of access changes.
pub fn open_to_read(it: &Mount) -> Result<OwnedFd, MountError> {
    let tree = open(it)?;
    let set = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOATIME;
    set_attributes(&tree, set, libc::MOUNT_ATTR__ATIME).map_err(failed("a tree", "making it read-only"))?;
    Ok(tree)
}

/// Mounts an overlay in a way that is chosen.
pub fn open_overlay(it: &Mount, way: OverlayWay) -> Result<OwnedFd, MountError> {
    let Mount::Overlay { lower, upper, work, options, on } = it else { return open(it) };
    match (way, on) {
        (OverlayWay::Each, None) => each(lower, upper.as_deref(), work.as_deref(), options),
        // Before Linux 6.15, a layer can be nothing that is attached nowhere.
        (OverlayWay::Each | OverlayWay::Page, on) => {
            page(lower, upper.as_deref(), work.as_deref(), options, on.as_deref())
        }
    }
}

fn each(
    lower: &[PathBuf],
    upper: Option<&Path>,
    work: Option<&Path>,
    options: &[String],
) -> Result<OwnedFd, MountError> {
    const WHAT: &str = "an overlay";
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(failed(WHAT, "making a filesystem context"))?;
    fsconfig_set_string(&fs, "source", "overlay").map_err(failed(WHAT, "naming the source"))?;
    for layer in lower {
        fsconfig_set_string(&fs, "lowerdir+", layer).map_err(failed(WHAT, "adding a lower layer"))?;
    }
    for (key, value) in [("upperdir", upper), ("workdir", work)] {
        if let Some(value) = value {
            fsconfig_set_string(&fs, key, value).map_err(failed(WHAT, "adding the upper layer"))?;
        }
    }
    configure(&fs, options).map_err(failed(WHAT, "setting an option"))?;
    fsconfig_create(&fs).map_err(failed(WHAT, "making the filesystem"))?;
    let attributes =
        if upper.is_none() { MountAttrFlags::MOUNT_ATTR_RDONLY } else { MountAttrFlags::empty() };
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(failed(WHAT, "making the mount"))
}

fn configure(fs: &OwnedFd, options: &[String]) -> Result<(), Errno> {
    for option in options {
        match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(fs, key, value)?,
            None => fsconfig_set_flag(fs, option.as_str())?,
        }
    }
    Ok(())
}

fn page(
    lower: &[PathBuf],
    upper: Option<&Path>,
    work: Option<&Path>,
    options: &[String],
    on: Option<&Mount>,
) -> Result<OwnedFd, MountError> {
    const WHAT: &str = "an overlay";
    // Somewhere to mount that is surely there; it is covered in the thread's own namespace only.
    let target = lower.iter().find(|path| path.is_absolute());
    let target = target.ok_or_else(|| failed(WHAT, "finding a lower layer")(Errno::INVAL))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let readonly = upper.is_none();
    std::thread::scope(|scope| {
        let made = scope.spawn(move || -> Result<OwnedFd, MountError> {
            use nix::sched::{CloneFlags, unshare};
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).map_err(|error| {
                failed(WHAT, "making a mount namespace")(Errno::from_raw_os_error(error as i32))
            })?;
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
                .map_err(failed(WHAT, "making the namespace private"))?;
            // Only what was opened in this namespace can be a layer in it. What is on the host comes first: the filesystem is
            // attached over a part of it.
            let dir = |from: BorrowedFd<'_>, path: &Path| {
                rustix::fs::openat(from, path, flags, Mode::empty()).map_err(failed(WHAT, "opening a layer"))
            };
            let host = |path: &PathBuf| path.is_absolute().then(|| dir(CWD, path)).transpose();
            let early = lower.iter().map(host).collect::<Result<Vec<_>, _>>()?;
            let block = on.map(open).transpose()?;
            if let Some(block) = &block {
                move_mount(block, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
                    .map_err(failed(WHAT, "attaching its filesystem"))?;
            }
            let top = block.as_ref().map_or(CWD, AsFd::as_fd);
            let opened = early.into_iter().zip(lower).map(|(fd, path)| fd.map_or_else(|| dir(top, path), Ok));
            let lower = opened.collect::<Result<Vec<_>, _>>()?;
            let upper = upper.map(|path| dir(top, path)).transpose()?;
            let work = work.map(|path| dir(top, path)).transpose()?;
            let number = |fd: &OwnedFd| format!("/proc/thread-self/fd/{}", fd.as_raw_fd());
            // Short names: all options have to fit a page.
            let short = |fd: &OwnedFd| fd.as_raw_fd().to_string();
            let mut data = format!("lowerdir={}", lower.iter().map(short).collect::<Vec<_>>().join(":"));
            if let (Some(upper), Some(work)) = (&upper, &work) {
                data += &format!(",upperdir={},workdir={}", number(upper), number(work));
            }
            for option in options {
                data += ",";
                data += option;
            }
            rustix::process::chdir("/proc/thread-self/fd")
                .map_err(failed(WHAT, "going to the descriptors"))?;
            let flags = if readonly { MountFlags::RDONLY } else { MountFlags::empty() };
            let data = std::ffi::CString::new(data)
                .map_err(|_| failed(WHAT, "writing the options")(Errno::INVAL))?;
            mount("overlay", target, "overlay", flags, data.as_c_str())
                .map_err(failed(WHAT, "making the filesystem"))?;
            open_tree(CWD, target, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
                .map_err(failed(WHAT, "taking the mount"))
        });
        made.join().unwrap_or_else(|_| Err(failed(WHAT, "the helping thread")(Errno::CANCELED)))
    })
}

fn bind(source: &Path, readonly: bool) -> Result<OwnedFd, MountError> {
    const WHAT: &str = "a directory";
    let tree = open_tree(CWD, source, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
        .map_err(failed(WHAT, "taking it"))?;
    if readonly {
        set_attributes(&tree, libc::MOUNT_ATTR_RDONLY, 0).map_err(failed(WHAT, "making it read-only"))?;
    }
    Ok(tree)
}

fn block(device: &Path, fstype: &str, options: &[String]) -> Result<OwnedFd, MountError> {
    const WHAT: &str = "a block device";
    let fs =
        fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed(WHAT, "making a filesystem context"))?;
    fsconfig_set_string(&fs, "source", device).map_err(failed(WHAT, "naming the source"))?;
    configure(&fs, options).map_err(failed(WHAT, "setting an option"))?;
    fsconfig_create(&fs).map_err(failed(WHAT, "making the filesystem"))?;
    let readonly = options.iter().any(|option| option == "ro");
    let attributes = if readonly { MountAttrFlags::MOUNT_ATTR_RDONLY } else { MountAttrFlags::empty() };
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(failed(WHAT, "making the mount"))
}

/// mount_setattr(2), which neither nix nor rustix has.
fn set_attributes(tree: &impl AsFd, set: u64, clear: u64) -> Result<(), Errno> {
    let attributes = libc::mount_attr { attr_set: set, attr_clr: clear, propagation: 0, userns_fd: 0 };
    // SAFETY: the descriptor lives as long as the borrow, the path is a C string, and the structure is one that the
    // kernel only reads and whose size is given.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
    }
}
