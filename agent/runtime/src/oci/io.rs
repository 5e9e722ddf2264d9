//! Descriptors over sockets, and the life of a container in the foreground.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Signal, WaitId, WaitIdOptions};

use super::error::{OciError, Result};
pub(super) use crate::start::pass::{receive, send_fd};

/// Connects to a socket at a path of any length.
pub(super) fn connect(path: &Path) -> Result<OwnedFd> {
    let fail = |e: Errno| OciError::io(format!("the socket {}", path.display()), e);
    // An address holds 108 bytes.
    let place = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(fail)?;
    let address = SocketAddrUnix::new(crate::mounts::fd_path(&place)).map_err(fail)?;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(fail)?;
    rustix::net::connect(&socket, &address).map_err(fail)?;
    Ok(socket)
}

/// A terminal of our own that shows the container's: raw while it lives.
pub(super) struct Relay {
    master: OwnedFd,
    /// What the terminal was like before.
    former: Option<rustix::termios::Termios>,
}

impl Relay {
    /// Takes the container's terminal from our end of a console socket.
    pub(super) fn new(socket: &OwnedFd) -> Result<Self> {
        let (_, fd) = receive(socket).map_err(|e| OciError::io("receiving the terminal", e))?;
        let master = fd.ok_or_else(|| OciError::Usage("no terminal came from the container".to_owned()))?;
        let stdin = std::io::stdin();
        let former = rustix::termios::tcgetattr(&stdin).ok();
        if let Some(former) = &former {
            let mut raw = former.clone();
            raw.make_raw();
            let _ = rustix::termios::tcsetattr(&stdin, rustix::termios::OptionalActions::Now, &raw);
        }
        let relay = Self { master, former };
        relay.resize();
        Ok(relay)
    }

    fn resize(&self) {
        if let Ok(size) = rustix::termios::tcgetwinsize(std::io::stdin()) {
            let _ = rustix::termios::tcsetwinsize(&self.master, size);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(former) = &self.former {
            let stdin = std::io::stdin();
            let _ = rustix::termios::tcsetattr(&stdin, rustix::termios::OptionalActions::Now, former);
        }
    }
}

/// Signals of this process as a descriptor, so that none is lost: the container gets them.
pub(super) struct Signals(OwnedFd);

impl Signals {
    /// Blocks every signal that can be; before the container's process is made, which unblocks them for itself.
    pub(super) fn block() -> Result<Self> {
        crate::start::sys::signal_fd().map(Self).map_err(|e| OciError::io("taking signals", e))
    }
}

/// Waits for a child in the foreground; gives its exit code, 128 + signal for one that was killed.
pub(super) fn wait(child: &OwnedFd, signals: &Signals, relay: Option<&Relay>) -> Result<u8> {
    let fail = |e: Errno| OciError::io("waiting for the container", e);
    let stdin = std::io::stdin();
    let (mut input_open, mut output_open) = (relay.is_some(), relay.is_some());
    loop {
        let mut fds = vec![PollFd::new(child, PollFlags::IN), PollFd::new(&signals.0, PollFlags::IN)];
        if let Some(relay) = relay.filter(|_| output_open) {
            fds.push(PollFd::new(&relay.master, PollFlags::IN));
            if input_open {
                fds.push(PollFd::new(&stdin, PollFlags::IN));
            }
        }
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(fail(e)),
        }
        let ready: Vec<bool> = fds.iter().map(|f| !f.revents().is_empty()).collect();
        drop(fds);
        if ready.get(2) == Some(&true)
            && let Some(relay) = relay
        {
            output_open = copy(relay.master.as_fd(), std::io::stdout().as_fd());
        }
        if ready.get(3) == Some(&true)
            && let Some(relay) = relay
        {
            input_open = copy(stdin.as_fd(), relay.master.as_fd());
        }
        if ready[1] {
            forward(&signals.0, child, relay);
        }
        // What it has still written comes first.
        if ready[0] && ready.get(2) != Some(&true) {
            break;
        }
    }
    let status =
        rustix::process::waitid(WaitId::PidFd(child.as_fd()), WaitIdOptions::EXITED).map_err(fail)?;
    let code = status
        .as_ref()
        .map_or(255, |s| s.exit_status().or_else(|| s.terminating_signal().map(|n| 128 + n)).unwrap_or(255));
    Ok(u8::try_from(code).unwrap_or(255))
}

/// One piece; `false` when there will be no more.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    let mut buffer = [0u8; 8192];
    match rustix::io::read(from, &mut buffer) {
        Ok(0) => false,
        Ok(len) => {
            let mut rest = &buffer[..len];
            while !rest.is_empty() {
                match rustix::io::write(to, rest) {
                    Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                    Err(Errno::INTR) => {}
                    Err(_) => return false,
                }
            }
            true
        }
        Err(Errno::INTR | Errno::AGAIN) => true,
        // The last process with the other end is gone.
        Err(_) => false,
    }
}

fn forward(signals: &OwnedFd, child: &OwnedFd, relay: Option<&Relay>) {
    // signalfd_siginfo is 128 bytes and begins with the number.
    let mut info = [0u8; 128];
    let Ok(128) = rustix::io::read(signals, &mut info) else { return };
    let number = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
    match (number, relay) {
        (libc::SIGCHLD, _) => {}
        (libc::SIGWINCH, Some(relay)) => relay.resize(),
        _ => {
            if let Some(signal) = Signal::from_named_raw(number) {
                let _ = rustix::process::pidfd_send_signal(child, signal);
            }
        }
    }
}
