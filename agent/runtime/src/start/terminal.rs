//! A terminal of a container's own devpts, and the standard descriptors of a process.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, ResolveFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use serde::{Deserialize, Serialize};

use super::sys;
use crate::error::{Failure, FailureKind};
use crate::mounts::{Make, bind_fd, move_to, open_inside, open_making};
use crate::user::Identity;

const STAGE: &str = "terminal";

/// linux/magic.h
const DEVPTS_SUPER_MAGIC: libc::c_long = 0x1cd1;

/// Size of a terminal in characters; zeros leave it as the kernel makes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters of a line.
    pub columns: u16,
}

/// A new terminal: `(master, slave)`. Both come by descriptor, no path of the image takes part (CVE-2025-52565).
pub(crate) fn open(root: BorrowedFd<'_>, size: TerminalSize) -> Result<(OwnedFd, OwnedFd), Failure> {
    let fail = |what: &'static str| move |e: rustix::io::Errno| Failure::errno(STAGE, what, e);
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let master = open_inside(root, "/dev/pts/ptmx", flags, ResolveFlags::NO_SYMLINKS)
        .map_err(fail("/dev/pts/ptmx of the container; mount a devpts at /dev/pts"))?;
    // config-linux.md: 5:2 is ptmx, of devpts only.
    let stat = rustix::fs::fstat(&master).map_err(fail("looking at /dev/pts/ptmx"))?;
    let kind = rustix::fs::fstatfs(&master).map_err(fail("looking at /dev/pts/ptmx"))?.f_type;
    if stat.st_rdev != rustix::fs::makedev(5, 2) || kind != DEVPTS_SUPER_MAGIC {
        let message = "/dev/pts/ptmx of the container is not that of a devpts";
        return Err(Failure::new(STAGE, FailureKind::UnsafePath, message));
    }
    rustix::pty::unlockpt(&master).map_err(fail("unlocking it"))?;
    let slave = rustix::pty::ioctl_tiocgptpeer(
        &master,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )
    .map_err(fail("opening its other end"))?;
    if (size.rows, size.columns) != (0, 0) {
        resize(slave.as_fd(), size).map_err(fail("setting its size"))?;
    }
    Ok((master, slave))
}

/// Tells a terminal, by either end, how large the screen is that shows it.
///
/// # Errors
/// When it is no terminal.
pub fn resize(terminal: BorrowedFd<'_>, size: TerminalSize) -> rustix::io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size)
}

/// Mounts the terminal at `/dev/console` (`config.md`, "process").
pub(crate) fn attach(root: BorrowedFd<'_>, slave: &OwnedFd) -> Result<(), Failure> {
    let fail = |what: &'static str| move |e: rustix::io::Errno| Failure::errno(STAGE, what, e);
    let copy = bind_fd(slave.as_fd(), false).map_err(fail("copying it for /dev/console"))?;
    let place = open_making(root, "/dev/console", Make::File, ResolveFlags::NO_SYMLINKS)
        .map_err(fail("/dev/console of the image"))?;
    move_to(&copy, place.as_fd()).map_err(fail("attaching it at /dev/console"))
}

/// Makes a terminal the controlling one and all three standard descriptors, if one is given; then closes all but those and
/// `preserve` more at the exec.
pub(crate) fn stdio(slave: Option<OwnedFd>, identity: &Identity, preserve: u32) -> Result<(), Failure> {
    if let Some(slave) = slave {
        rustix::process::ioctl_tiocsctty(&slave)
            .map_err(|e| Failure::errno("terminal", "making it the controlling one", e))?;
        for number in 0..3 {
            sys::dup_to(slave.as_fd(), number)
                .map_err(|e| Failure::errno("stdio", format_args!("descriptor {number}"), e))?;
        }
    }
    give_stdio(identity.uid);
    sys::cloexec_from(3 + preserve).map_err(|e| Failure::errno("stdio", "closing at exec", e))
}

/// Pipes and terminals belong to the user, or `/dev/stdout` could not be opened again. Files and devices of the host stay
/// whose they are.
fn give_stdio(uid: u32) {
    for number in 0..3 {
        // SAFETY: the number is only looked at; whether something is open there, the calls find out.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        let Ok(stat) = rustix::fs::fstat(fd) else { continue };
        let kind = stat.st_mode & libc::S_IFMT;
        if stat.st_uid == uid || !(kind == libc::S_IFIFO || rustix::termios::isatty(fd)) {
            continue;
        }
        // Not possible for all, as for ids outside of the user namespace; then it is as the caller gave it.
        let _ = rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(uid)), None);
    }
}
