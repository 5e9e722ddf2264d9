//! From a request to a running process.
//!
//! ```text
//! agent: compile ─► spawn ─► Job ──socket──► starter ─► clone3 ─► init: mounts, user, capabilities, filter
//!                                               │   shim.json ─ go ─────────────► execve(command)
//!        Started ◄────────── answer ────────────┤
//!                                               └─► execve(stower-shim)
//! ```

pub(crate) mod enter;
pub(crate) mod init;
pub(crate) use init::write_existing;
mod outside;
pub(crate) mod pass;
pub mod starter;
pub(crate) mod sys;
pub(crate) mod terminal;
pub(crate) mod wire;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};

use crate::error::StartError;
use crate::failpoint::failpoint;
use crate::job::{StartRequest, compile};
use crate::proc::{self, ProcError};
use crate::record::ShimRecord;
use wire::{Answer, Order};

/// The built-in runtime.
#[derive(Debug, Clone)]
pub struct Runtime {
    boot_id: String,
}

/// A container whose command is executing under its shim.
#[derive(Debug)]
pub struct Started {
    /// Who the shim and the first process are, as in the run directory.
    pub record: ShimRecord,
    /// The shim: readable when it has ended. It is a child of this process: [`Started::reap_shim`].
    pub shim_pidfd: OwnedFd,
    /// The container's first process.
    pub init_pidfd: OwnedFd,
}

impl Started {
    /// Takes the ended shim off the process table, so that no zombie stays.
    pub fn reap_shim(pidfd: impl AsFd) {
        Starter::reap(pidfd);
    }
}

impl Runtime {
    /// A runtime for this boot of the machine.
    ///
    /// # Errors
    /// When `/proc` does not tell the boot id.
    pub fn new() -> Result<Self, ProcError> {
        Ok(Self { boot_id: proc::boot_id()? })
    }

    /// The boot id that records are written with.
    #[must_use]
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// Starts one run; blocks until the command is executing or it has failed.
    ///
    /// # Errors
    /// See [`StartError`]. After an error no process of the attempt is left, and neither record nor socket; the
    /// groups are the caller's to remove.
    pub fn start(&self, request: &StartRequest) -> Result<Started, StartError> {
        let job = compile(request, &self.boot_id)?;
        let filter = request.seccomp.as_ref().map_or(&[][..], |f| f.bytes());
        let spawn_error = |source| StartError::Spawn { path: request.programs.starter.clone(), source };
        let message = wire::message(&Order::Start(Box::new(job)), filter).map_err(spawn_error)?;
        let mut starter = Starter::spawn(&request.programs.starter, request.deadline).map_err(spawn_error)?;
        failpoint("start.spawned");
        let error = match starter.ask(&message, &[], || failpoint("start.told")) {
            Ok(Some((Answer::Started(record), mut fds))) if !fds.is_empty() => {
                let (_, shim_pidfd) = starter.into_parts();
                return Ok(Started { record, shim_pidfd, init_pidfd: fds.remove(0) });
            }
            Ok(Some((Answer::Failed(failure), _))) => StartError::Failed(failure),
            Ok(Some(_)) => StartError::StarterLost(io::ErrorKind::InvalidData.into()),
            Ok(None) => StartError::Timeout(request.deadline),
            Err(e) => StartError::StarterLost(e),
        };
        let (_, pidfd) = starter.into_parts();
        let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
        if proc::wait(&pidfd, None).is_ok() {
            Starter::reap(&pidfd);
        }
        if !matches!(error, StartError::Failed(_)) {
            // The first process ends by itself without its starter, unless it was told to go.
            crate::cgroup::kill_join(&request.cgroup);
            for file in ["s", crate::record::SHIM_FILE, crate::exec::EXEC_FILE] {
                let _ = std::fs::remove_file(request.run_dir.join(file));
            }
        }
        Err(error)
    }
}

/// A starter at work, as whoever gave it its order sees it.
pub(crate) struct Starter {
    socket: UnixStream,
    /// The process that it goes on as.
    pidfd: OwnedFd,
    until: Instant,
}

impl Starter {
    /// Starts the program, which is to be done before the time is over.
    pub(crate) fn spawn(program: &Path, limit: Duration) -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        socket.set_write_timeout(Some(limit.max(Duration::from_millis(1))))?;
        // By a mount that nobody can write through: processes of the container are clones of the starter.
        let sealed = crate::mounts::sealed_program(program)?;
        let mut child = Command::new(crate::mounts::fd_path(&sealed))
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()?;
        match pidfd_of(&child) {
            Ok(pidfd) => Ok(Self { socket, pidfd, until: Instant::now() + limit }),
            Err(e) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(e)
            }
        }
    }

    /// Gives the order, does what is to be done once it is given, and waits for the answer; `None` when the time is over.
    pub(crate) fn ask(
        &mut self,
        message: &[u8],
        fds: &[BorrowedFd<'_>],
        given: impl FnOnce(),
    ) -> io::Result<Option<(Answer, Vec<OwnedFd>)>> {
        wire::send(&self.socket, message, fds)?;
        given();
        match wire::answer_within(&self.socket, self.until)? {
            Some((Answer::Moved, fds)) => {
                let moved = fds.into_iter().next().ok_or(io::ErrorKind::InvalidData)?;
                let first = std::mem::replace(&mut self.pidfd, moved);
                // It ends at once; its end is not waited for by anything but this.
                proc::wait(&first, None)?;
                Self::reap(&first);
                wire::answer_within(&self.socket, self.until)
            }
            other => Ok(other),
        }
    }

    /// The socket, and the process.
    pub(crate) fn into_parts(self) -> (UnixStream, OwnedFd) {
        (self.socket, self.pidfd)
    }

    /// Takes an ended child off the process table, so that no zombie stays.
    pub(crate) fn reap(pidfd: impl AsFd) {
        use rustix::process::{WaitId, WaitIdOptions, waitid};
        // One that another agent started is not our child, and needs nothing.
        let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}

pub(crate) fn pidfd_of(child: &Child) -> io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    // Not reaped yet, so the number cannot be another process's.
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}
