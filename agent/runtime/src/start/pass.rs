//! Messages with descriptors over sockets of this program's own processes.

use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use super::sys;
use crate::error::Failure;

/// One message with one descriptor.
pub(crate) fn send_fd(socket: &OwnedFd, text: &[u8], fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    rustix::net::sendmsg(socket, &[std::io::IoSlice::new(text)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// In a clone: tells its maker what went wrong, and ends.
pub(crate) fn fail(socket: &OwnedFd, failure: &Failure) -> ! {
    if let Ok(bytes) = serde_json::to_vec(failure) {
        let _ = rustix::net::send(socket, &bytes, SendFlags::NOSIGNAL);
    }
    sys::exit_now(255)
}

/// One message of at most 64 KiB, with a descriptor if one came along. Empty is the end.
///
/// # Errors
/// Also [`Errno::MFILE`] for a descriptor that came along and had no place here.
pub(crate) fn receive(socket: &OwnedFd) -> Result<(Vec<u8>, Option<OwnedFd>), Errno> {
    let mut bytes = vec![0u8; 64 << 10];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let (len, flags) = loop {
        let parts = &mut [std::io::IoSliceMut::new(&mut bytes)];
        match rustix::net::recvmsg(socket, parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            other => {
                let message = other?;
                break (message.bytes, message.flags);
            }
        }
    };
    if flags.contains(ReturnFlags::CTRUNC) {
        return Err(Errno::MFILE);
    }
    let mut fd = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            fd = fds.last().or(fd);
        }
    }
    bytes.truncate(len);
    Ok((bytes, fd))
}
