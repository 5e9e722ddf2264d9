//! User namespaces: those that a container gets, and those that map the ids of a mount.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_spec::runtime::LinuxIdMapping;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Signal, WaitId, WaitIdOptions};

use crate::error::{CompileError, Failure};
use crate::start::sys::{self, Cloned};

/// `(inside, outside, how many)`.
pub(super) type Map = (u32, u32, u32);

/// The kernel's own limit (`user_namespaces(7)`).
const MAX_LINES: usize = 340;

pub(super) fn list(field: &str, maps: Option<&Vec<LinuxIdMapping>>) -> Result<Vec<Map>, CompileError> {
    let maps: Vec<Map> =
        maps.into_iter().flatten().map(|m| (m.container_id(), m.host_id(), m.size())).collect();
    if maps.len() > MAX_LINES {
        return Err(CompileError::invalid(field, format!("has more than {MAX_LINES} lines")));
    }
    if let Some((inside, ..)) = maps.iter().find(|(.., size)| *size == 0) {
        return Err(CompileError::invalid(field, format!("the mapping of {inside} has the size 0")));
    }
    Ok(maps)
}

/// A user namespace with these mappings and no process in it: made by a child that lives until it is opened.
pub(super) fn user_namespace(uids: &[Map], gids: &[Map]) -> Result<OwnedFd, Failure> {
    let fail = |what: &'static str| move |e: std::io::Error| Failure::errno("user namespace", what, e);
    let (pid, pidfd) = match sys::clone3(libc::CLONE_NEWUSER, libc::SIGCHLD, None)
        .map_err(fail("making one; look at user.max_user_namespaces and kernel.unprivileged_userns_clone"))?
    {
        Cloned::Parent(pid, pidfd) => (pid, pidfd),
        Cloned::Child => loop {
            let _ = rustix::thread::nanosleep(&rustix::time::Timespec { tv_sec: 3600, tv_nsec: 0 });
        },
    };
    let made = (|| {
        let path = format!("/proc/{pid}/ns/user");
        write(&format!("/proc/{pid}/gid_map"), gids).map_err(fail("mapping groups"))?;
        write(&format!("/proc/{pid}/uid_map"), uids).map_err(fail("mapping users"))?;
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| fail("opening it")(e.into()))
    })();
    let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
    let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
    made
}

/// One write: the kernel takes the map whole or not at all.
fn write(path: &str, maps: &[Map]) -> std::io::Result<()> {
    let text: String = maps.iter().map(|(i, o, n)| format!("{i} {o} {n}\n")).collect();
    std::fs::OpenOptions::new().write(true).open(path).and_then(|mut f| {
        use std::io::Write;
        f.write_all(text.as_bytes())
    })
}

/// Gives a detached tree the ids of a user namespace.
pub(super) fn apply(
    stage: &str,
    tree: BorrowedFd<'_>,
    namespace: BorrowedFd<'_>,
    recursive: bool,
) -> Result<(), Failure> {
    sys::mount_idmap(tree, namespace, recursive).map_err(|e| {
        Failure::errno(stage, "mapping its ids (does its filesystem support that, and on this kernel?)", e)
    })
}
