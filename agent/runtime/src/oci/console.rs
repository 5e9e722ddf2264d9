//! The terminal of a container, whose other end is sent to whoever holds the console socket.

use std::os::fd::{BorrowedFd, OwnedFd};

pub(super) use crate::start::terminal::{attach, open};

use crate::error::Failure;

/// Sends the master to the console socket, as runc does it: one message whose text is a name.
pub(super) fn send(socket: &OwnedFd, master: BorrowedFd<'_>) -> Result<(), Failure> {
    super::io::send_fd(socket, b"/dev/ptmx", master)
        .map_err(|e| Failure::errno("terminal", "sending it to the console socket", e))
}
