//! The terminal of a container: of its own devpts, and its other end sent to whoever holds the console socket.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, ResolveFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::plan::Terminal;
use crate::error::{Failure, FailureKind};
use crate::mounts::{Make, bind_fd, move_to, open_inside, open_making};

const STAGE: &str = "terminal";

/// A new terminal: `(master, slave)`. Both come by descriptor, no path of the image takes part (CVE-2025-52565).
pub(super) fn open(root: BorrowedFd<'_>, size: Terminal) -> Result<(OwnedFd, OwnedFd), Failure> {
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
        let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&slave, size).map_err(fail("setting its size"))?;
    }
    Ok((master, slave))
}

/// linux/magic.h
const DEVPTS_SUPER_MAGIC: libc::c_long = 0x1cd1;

/// Mounts the terminal at `/dev/console` (`config.md`, "process").
pub(super) fn attach(root: BorrowedFd<'_>, slave: &OwnedFd) -> Result<(), Failure> {
    let fail = |what: &'static str| move |e: rustix::io::Errno| Failure::errno(STAGE, what, e);
    let copy = bind_fd(slave.as_fd(), false).map_err(fail("copying it for /dev/console"))?;
    let place = open_making(root, "/dev/console", Make::File, ResolveFlags::NO_SYMLINKS)
        .map_err(fail("/dev/console of the image"))?;
    move_to(&copy, place.as_fd()).map_err(fail("attaching it at /dev/console"))
}

/// Sends the master to the console socket, as runc does it: one message whose text is a name.
pub(super) fn send(socket: &OwnedFd, master: BorrowedFd<'_>) -> Result<(), Failure> {
    super::io::send_fd(socket, b"/dev/ptmx", master)
        .map_err(|e| Failure::errno(STAGE, "sending it to the console socket", e))
}
