//! Into a container that runs: its groups, namespaces and root. Shared by all that start one more process in it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use rustix::fs::{Mode, OFlags};

use super::init::{self, Finish, Never};
use super::sys::{self, Cloned};
use super::{pass, write_existing};
use crate::error::Failure;
use crate::job::{self, CgroupJoin, Process};
use crate::user;

/// The container as it is entered.
pub(crate) struct Entry<'a> {
    /// Its first process.
    pub(crate) init: BorrowedFd<'a>,
    /// Its root, as its first process has it: one without a mount namespace of its own is there by chroot.
    pub(crate) root: &'a OwnedFd,
    /// Its groups of version 1; that of version 2 the clone is in already.
    pub(crate) groups: &'a CgroupJoin,
    /// Flags of the namespaces that it does not share with us.
    pub(crate) namespaces: i32,
}

/// What differs from caller to caller once inside.
pub(crate) trait Guest: Finish {
    /// Makes the terminal, if one is wanted.
    fn terminal(&mut self, root: BorrowedFd<'_>) -> Result<(), Failure>;
}

/// Flags of the namespaces in which a process is not where we are. Whether the number still is that process, the caller
/// has to look at afterwards, by its pidfd.
pub(crate) fn namespaces(pid: u32) -> io::Result<i32> {
    let all = [
        ("user", libc::CLONE_NEWUSER),
        ("mnt", libc::CLONE_NEWNS),
        ("pid", libc::CLONE_NEWPID),
        ("ipc", libc::CLONE_NEWIPC),
        ("uts", libc::CLONE_NEWUTS),
        ("cgroup", libc::CLONE_NEWCGROUP),
        ("net", libc::CLONE_NEWNET),
        ("time", job::CLONE_NEWTIME),
    ];
    let mut flags = 0;
    for (name, flag) in all {
        let inode = |of: &str| match std::fs::metadata(format!("/proc/{of}/ns/{name}")) {
            Ok(meta) => Ok(Some((meta.dev(), meta.ino()))),
            // A kernel without this kind.
            Err(e) if e.kind() == io::ErrorKind::NotFound && of == "self" => Ok(None),
            Err(e) => Err(io::Error::new(e.kind(), format!("the {name} namespace of the container: {e}"))),
        };
        let Some(own) = inode("self")? else { continue };
        if inode(&pid.to_string())? != Some(own) {
            flags |= flag;
        }
    }
    Ok(flags)
}

/// The root of a process, as a place.
pub(crate) fn root_of(pid: u32) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(format!("/proc/{pid}/root"), flags, Mode::empty())
}

/// In a clone: into the groups and namespaces, then on as a clone in the container's pid namespace, which returns. The
/// caller's parent is told of it through `control`, and is its parent too.
pub(crate) fn enter(process: &Process, entry: &Entry<'_>, control: &OwnedFd) -> Result<(), Failure> {
    init::set_oom_score(process)?;
    for group in &entry.groups.v1 {
        write_existing(&group.dir.join("tasks"), "0")
            .map_err(|e| Failure::errno("cgroup", format_args!("joining {}", group.dir.display()), e))?;
    }
    // Processes of the container see this one from here on; they are not to look into it.
    sys::set_undumpable().map_err(|e| Failure::errno("exec", "hiding the runtime's process", e))?;
    let flags = entry.namespaces;
    if flags != 0 {
        sys::enter_namespaces_of(entry.init, flags)
            .map_err(|e| Failure::errno("namespaces", "joining those of the container", e))?;
    }
    if flags & libc::CLONE_NEWUSER != 0 {
        become_root()?;
    }
    if flags & libc::CLONE_NEWNS == 0 {
        rustix::process::fchdir(entry.root)
            .and_then(|()| rustix::process::chroot("."))
            .map_err(|e| Failure::errno("root", "entering the container's", e))?;
    }
    if !become_clone(control, 0)? {
        sys::exit_now(0);
    }
    Ok(())
}

/// From inside the container to the command.
pub(crate) fn become_guest<S: Guest>(
    process: &Process,
    filter: &[u8],
    guest: &mut S,
) -> Result<Never, Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty())
        .map_err(|e| Failure::errno("root", "opening the container's", e))?;
    guest.terminal(root.as_fd())?;
    let identity = user::resolve(root.as_fd(), &process.user)?;
    let cwd = init::open_cwd_as_it_is(root.as_fd(), process)?;
    drop(root);
    init::become_process(process, &identity, filter, &cwd, guest)
}

/// User 0 of the user namespace that was entered.
pub(crate) fn become_root() -> Result<(), Failure> {
    let fail = |what: &'static str| {
        move |e| Failure::errno("user namespace", format_args!("{what}, which linux.*Mappings must hold"), e)
    };
    let (uid, gid) = (rustix::fs::Uid::ROOT, rustix::fs::Gid::ROOT);
    rustix::thread::set_thread_groups(&[]).map_err(fail("dropping groups"))?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(fail("becoming group 0"))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(fail("becoming user 0"))
}

/// A sibling with new namespaces goes on; its pid and pidfd are told through `control` to our parent, whose child it is
/// too. `true` in the sibling.
pub(crate) fn become_clone(control: &OwnedFd, flags: i32) -> Result<bool, Failure> {
    match sys::clone3(flags | libc::CLONE_PARENT, 0, None)
        .map_err(|e| Failure::errno("namespaces", "clone3", e))?
    {
        Cloned::Child => Ok(true),
        Cloned::Parent(pid, pidfd) => {
            pass::send_fd(control, &pid.to_ne_bytes(), pidfd.as_fd())
                .map_err(|e| Failure::errno("namespaces", "telling of the clone", e))?;
            Ok(false)
        }
    }
}
