//! Sleeping until a directory changes, without a thread and without a timer.

use std::{io, os::fd::OwnedFd, path::Path};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

/// An inotify instance on one directory.
#[derive(Debug)]
pub(super) struct Wake(AsyncFd<OwnedFd>);

impl Wake {
    /// Needs a tokio runtime with I/O.
    pub(super) fn new(directory: &Path) -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let what = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        inotify::add_watch(&fd, directory, what)?;
        // SAFETY: an `OwnedFd` names the same open descriptor for as long as it lives, and lives in the `AsyncFd`.
        Ok(Self(unsafe { AsyncFd::register(fd) }?))
    }

    /// Returns when something has changed since the last time.
    pub(super) async fn wait(&mut self) -> io::Result<()> {
        let mut scrap = [0_u8; 4096];
        let mut seen = false;
        loop {
            let mut ready = self.0.readable().await?;
            loop {
                match rustix::io::read(self.0.get_ref(), &mut scrap) {
                    Ok(_) => seen = true,
                    Err(rustix::io::Errno::INTR) => {}
                    Err(rustix::io::Errno::AGAIN) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            ready.clear_ready();
            if seen {
                return Ok(());
            }
        }
    }
}
