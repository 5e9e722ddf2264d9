//! From a request to a running process.
//!
//! ```text
//! agent: compile ─► spawn ─► Job ──socket──► starter ─► clone3 ─► init: mounts, user, capabilities, filter
//!                                               │   shim.json ─ go ─────────────► execve(command)
//!        Started ◄────────── answer ────────────┤
//!                                               └─► execve(stower-shim)
//! ```

pub(crate) mod init;
pub(crate) use init::write_existing;
pub mod starter;
pub(crate) mod sys;
mod wire;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, PidfdFlags, Signal};

use crate::error::StartError;
use crate::job::{StartRequest, compile};
use crate::proc::{self, ProcError};
use crate::record::ShimRecord;
use wire::Answer;

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
        use rustix::process::{WaitId, WaitIdOptions, waitid};
        // A shim that another agent started is not our child, and needs nothing.
        let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
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
        let message = wire::job_message(&job, filter).map_err(spawn_error)?;
        let (mut ours, theirs) = UnixStream::pair().map_err(spawn_error)?;
        ours.set_write_timeout(Some(request.deadline)).map_err(spawn_error)?;
        // By a mount that nobody can write through: the container's first process is a clone of the starter.
        let sealed = crate::mounts::sealed_program(&request.programs.starter).map_err(spawn_error)?;
        let mut starter = Command::new(crate::mounts::fd_path(&sealed))
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .map_err(spawn_error)?;
        let mut shim_pidfd = match pidfd_of(&starter) {
            Ok(fd) => fd,
            Err(e) => {
                let _ = starter.kill();
                let _ = starter.wait();
                return Err(spawn_error(e));
            }
        };
        let until = Instant::now() + request.deadline;
        let mut answer = wire::send_job(&mut ours, &message).and_then(|()| answer_within(&ours, until));
        if let Ok(Some((Answer::Moved, moved))) = answer {
            // It ends at once; its end is not waited for by anything but this.
            let _ = starter.wait();
            answer = match moved {
                Some(pidfd) => {
                    shim_pidfd = pidfd;
                    answer_within(&ours, until)
                }
                None => Err(io::ErrorKind::InvalidData.into()),
            };
        }
        let error = match answer {
            Ok(Some((Answer::Started(record), Some(init_pidfd)))) => {
                return Ok(Started { record, shim_pidfd, init_pidfd });
            }
            Ok(Some((Answer::Failed(failure), _))) => StartError::Failed(failure),
            Ok(Some((Answer::Started(_) | Answer::Moved, _))) => {
                StartError::StarterLost(io::ErrorKind::InvalidData.into())
            }
            Ok(None) => StartError::Timeout(request.deadline),
            Err(e) => StartError::StarterLost(e),
        };
        let _ = rustix::process::pidfd_send_signal(&shim_pidfd, Signal::KILL);
        if proc::wait(&shim_pidfd, None).is_ok() {
            Started::reap_shim(&shim_pidfd);
        }
        let _ = starter.wait();
        if !matches!(error, StartError::Failed(_)) {
            // The first process ends by itself without its starter, unless it was told to go.
            crate::cgroup::kill_join(&request.cgroup);
            for file in ["s", crate::record::SHIM_FILE] {
                let _ = std::fs::remove_file(request.run_dir.join(file));
            }
        }
        Err(error)
    }
}

fn pidfd_of(child: &Child) -> io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    // Not reaped yet, so the number cannot be another process's.
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// `None` when the time is over.
fn answer_within(stream: &UnixStream, until: Instant) -> io::Result<Option<(Answer, Option<OwnedFd>)>> {
    let left = until.saturating_duration_since(Instant::now());
    if proc::wait(stream, Some(left))? { wire::read_answer(stream).map(Some) } else { Ok(None) }
}
