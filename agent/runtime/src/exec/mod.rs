//! One more process in a container that runs, with the container's whole confinement.
//!
//! ```text
//! agent    exec.json, request ─► compile ─► spawn stower-starter ─► job, pidfd of the container, stdio over a socketpair
//! keeper   (the starter) a group of its own below the container's ─► clone3 into it ─► namespaces, clone ─► user, caps, filter ─► exec
//!            │◄── signals, "detach", the end of the socket ── agent
//!            └─ reaps it, owns its deadline ─► Exited ─► removes the group
//! ```
//!
//! The keeper is the process's parent and only reaper, and lives as long as it. It outlives the agent for a moment: the end of
//! its socket is the end of the process and of all that this has started, unless it was told to let it go on. Nothing of it is
//! left then: no process, no group, no descriptor.
//!
//! What a process started and left behind when it ended by itself stays in the container, in the container's own group.

mod job;
pub(crate) mod keeper;
mod record;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;
use thiserror::Error;

pub(crate) use job::ExecJob;
pub use record::{EXEC_FILE, ExecRecord};

use crate::adopt::ShimHandle;
use crate::error::{CompileError, Failure};
use crate::failpoint::failpoint;
use crate::proc;
use crate::record::RecordError;
pub use crate::start::terminal::{TerminalSize, resize};
use crate::start::wire::{self, Answer, Order};
use crate::start::{Runtime, Starter};

/// How long a process may take from the request to its exec; longer only in a container that stands still.
const SETUP: Duration = Duration::from_secs(30);

/// One more process of a container. What is not given is as for the container's own process when that was started.
#[derive(Debug, Default)]
pub struct ExecRequest {
    /// Command and arguments; looked up in the `PATH` of the environment, inside the container.
    pub args: Vec<String>,
    /// `NAME=value`, beside the container's own, or in the place of the same name.
    pub env: Vec<String>,
    /// Working directory, absolute; it must be there.
    pub cwd: Option<String>,
    /// `user[:group]`, by name or number, looked up in the container's own `/etc/passwd` and `/etc/group`.
    pub user: Option<String>,
    /// Make a terminal for it, of this size. [`Executing::terminal`] is the other end, and the three below stay unset.
    pub terminal: Option<TerminalSize>,
    /// Standard input; `/dev/null` without one.
    pub stdin: Option<OwnedFd>,
    /// Standard output, likewise.
    pub stdout: Option<OwnedFd>,
    /// Standard error, likewise.
    pub stderr: Option<OwnedFd>,
    /// At its end the process and everything it has started are killed, by the keeper, whether or not the caller lives.
    pub deadline: Option<Duration>,
    /// The program of this release that does the work ([`crate::job::Programs::starter`]).
    pub starter: PathBuf,
}

/// How an exec'd process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ExecExit {
    /// Exit code, 128 + signal for a death by signal.
    pub code: i32,
    /// The signal that ended it, 0 for none.
    pub signal: i32,
    /// It was killed, and the kernel has killed something in the container for want of memory meanwhile.
    pub oom_killed: bool,
    /// It was killed at its deadline.
    pub timed_out: bool,
}

/// Output of [`Runtime::exec_captured`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// How it ended.
    pub exit: ExecExit,
    /// Standard output and error as they came, at most as much as was asked for.
    pub output: Vec<u8>,
    /// There was more.
    pub truncated: bool,
}

/// Why a process was not started, or its end is not known.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ExecError {
    /// The container's first process has ended.
    #[error("the container is not running")]
    NotRunning,
    /// There is no record of how it was started.
    #[error(
        "the container was started by a release that knew of no exec; restart it (`stower restart`) to be able to"
    )]
    NoRecord,
    /// Another runtime made it.
    #[error(
        "the container was made by the runtime `{0}`, in whose containers no further process is started yet"
    )]
    Outside(String),
    /// The record cannot be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The request makes no sense.
    #[error(transparent)]
    Refused(#[from] CompileError),
    /// The starter program could not be run.
    #[error("cannot run the starter {}", path.display())]
    Spawn {
        /// The program.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The keeper ended or spoke nonsense before it answered.
    #[error("the keeper of the process ended before it answered")]
    KeeperLost(#[source] io::Error),
    /// The process did not get to its command in time; nothing of it is left.
    #[error("the command did not start within {0:?}; is the container paused, or its storage slow?")]
    Timeout(Duration),
    /// It could not be started, and nothing of it is left. [`Failure::kind`] tells what a shell would say by 126 and 127.
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// A process that executes its command in a container.
///
/// Readable ([`AsFd`]) once there is something to [`try_wait`](Self::try_wait) for. Dropped, its terminal hangs up, and two
/// seconds later it is killed with all that it has started.
#[derive(Debug)]
pub struct Executing {
    /// Its pid as this process sees it.
    pub pid: u32,
    /// The other end of its terminal, if one was asked for.
    pub terminal: Option<OwnedFd>,
    socket: UnixStream,
    keeper: Option<OwnedFd>,
    ended: Option<ExecExit>,
}

impl Runtime {
    /// Starts one more process in a running container and returns once it executes its command.
    ///
    /// It gets the container's namespaces, groups, capability sets, filter, `no_new_privs`, OOM score, limits and umask as they
    /// were when the container was started; no other descriptor than its three standard ones is open in it. Blocks for as long
    /// as an exec takes (some milliseconds; 30 s in a container that stands still).
    ///
    /// # Errors
    /// See [`ExecError`]. After an error nothing of the attempt is left.
    pub fn exec(&self, container: &ShimHandle, request: ExecRequest) -> Result<Executing, ExecError> {
        if let Some(runtime) = container.record().outside() {
            return Err(ExecError::Outside(runtime.to_owned()));
        }
        let record = ExecRecord::read(container.run_dir())?.ok_or(ExecError::NoRecord)?;
        let init = container.init_pidfd().ok_or(ExecError::NotRunning)?;
        let of_this_run = record.run == container.record().run && record.boot_id == self.boot_id();
        // The record of a later run: this one is over.
        if !of_this_run || proc::has_ended(init).map_err(ExecError::KeeperLost)? {
            return Err(ExecError::NotRunning);
        }
        let job = job::compile(&record, container.record().init_pid, &request)?;
        let spawn_error = |source| ExecError::Spawn { path: request.starter.clone(), source };
        let message =
            wire::message(&Order::Exec(Box::new(job)), &record.filter_bytes()).map_err(spawn_error)?;
        let stdio = [&request.stdin, &request.stdout, &request.stderr];
        let fds: Vec<BorrowedFd<'_>> =
            std::iter::once(init).chain(stdio.into_iter().flatten().map(AsFd::as_fd)).collect();
        let limit = request.deadline.map_or(SETUP, |d| d.min(SETUP));
        let mut starter = Starter::spawn(&request.starter, limit).map_err(spawn_error)?;
        failpoint("exec.spawned");
        let answer = starter.ask(&message, &fds, || failpoint("exec.told"));
        failpoint("exec.answered");
        // The pipes' other ends are the process's alone now.
        drop(request);
        let error = match answer {
            Ok(Some((Answer::Executing(pid), fds))) => {
                let (socket, keeper) = starter.into_parts();
                let terminal = fds.into_iter().next();
                return Ok(Executing { pid, terminal, socket, keeper: Some(keeper), ended: None });
            }
            Ok(Some((Answer::Failed(failure), _))) if failure.errno == libc::ESRCH => ExecError::NotRunning,
            Ok(Some((Answer::Failed(failure), _))) => ExecError::Failed(failure),
            Ok(Some(_)) => ExecError::KeeperLost(io::ErrorKind::InvalidData.into()),
            Ok(None) => ExecError::Timeout(limit),
            Err(e) => ExecError::KeeperLost(e),
        };
        // The end of the socket ends whatever it had begun.
        let (socket, keeper) = starter.into_parts();
        drop(socket);
        reap(keeper);
        Err(error)
    }

    /// Runs a command to its end and takes what it writes, both streams as one; `limit` bytes at most are kept, the rest is
    /// read and dropped. Blocks until then, so give a deadline. The request's descriptors are replaced.
    ///
    /// What the command has left behind in the container may hold the pipe: it is read no further then.
    ///
    /// # Errors
    /// See [`ExecError`].
    pub fn exec_captured(
        &self,
        container: &ShimHandle,
        mut request: ExecRequest,
        limit: usize,
    ) -> Result<Captured, ExecError> {
        let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
        let pipe = || {
            let (ours, theirs) = rustix::pipe::pipe_with(flags)?;
            // Only our end: who writes is used to waiting.
            rustix::fs::fcntl_setfl(&theirs, rustix::fs::OFlags::empty())?;
            Ok::<_, rustix::io::Errno>((ours, theirs.try_clone(), theirs))
        };
        let lost = |e: io::Error| ExecError::KeeperLost(e);
        let (ours, second, first) = pipe().map_err(|e| lost(e.into()))?;
        request.stdout = Some(first);
        request.stderr = Some(second.map_err(lost)?);
        let mut process = self.exec(container, request)?;
        let mut capture = Capture { limit, output: Vec::new(), truncated: false, open: true };
        loop {
            let mut fds = [
                PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(ours.as_fd(), PollFlags::IN),
            ];
            let watched = if capture.open { &mut fds[..] } else { &mut fds[..1] };
            match rustix::event::poll(watched, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(lost(e.into())),
            }
            let (ended, ready) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
            if ready || ended {
                capture.take(&ours);
            }
            if ended && let Some(exit) = process.try_wait()? {
                capture.take(&ours);
                return Ok(Captured { exit, output: capture.output, truncated: capture.truncated });
            }
        }
    }
}

struct Capture {
    limit: usize,
    output: Vec<u8>,
    truncated: bool,
    open: bool,
}

impl Capture {
    /// Takes what is there now.
    fn take(&mut self, from: &OwnedFd) {
        let mut piece = [0u8; 8192];
        // A pipe holds 64 KiB; whoever goes on writing waits for the next turn.
        for _ in 0..8 {
            match rustix::io::read(from, &mut piece) {
                Ok(0) => self.open = false,
                Ok(len) => {
                    let room = self.limit - self.output.len();
                    self.truncated |= len > room;
                    self.output.extend_from_slice(&piece[..len.min(room)]);
                    continue;
                }
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::AGAIN) => {}
                Err(_) => self.open = false,
            }
            return;
        }
    }
}

impl AsFd for Executing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Executing {
    /// How it ended; `None` while it runs. Does not wait for it.
    ///
    /// # Errors
    /// When its keeper was killed, so that nobody knows.
    pub fn try_wait(&mut self) -> Result<Option<ExecExit>, ExecError> {
        if self.ended.is_some() {
            return Ok(self.ended);
        }
        match wire::answer_within(&self.socket, Instant::now()) {
            Ok(None) => Ok(None),
            Ok(Some((Answer::Exited(exit), _))) => {
                self.ended = Some(exit);
                if let Some(keeper) = self.keeper.take() {
                    // It has nothing left to do.
                    let _ = proc::wait(&keeper, Some(Duration::from_secs(1)));
                    Starter::reap(&keeper);
                }
                Ok(self.ended)
            }
            Ok(Some(_)) => Err(ExecError::KeeperLost(io::ErrorKind::InvalidData.into())),
            Err(e) => Err(ExecError::KeeperLost(e)),
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When its keeper was killed, so that nobody knows.
    pub fn wait(&mut self) -> Result<ExecExit, ExecError> {
        loop {
            if let Some(exit) = self.try_wait()? {
                return Ok(exit);
            }
            proc::wait(&self.socket, None).map_err(ExecError::KeeperLost)?;
        }
    }

    /// Sends it a signal. One that has ended is left alone.
    ///
    /// # Errors
    /// When its keeper is gone.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        wire::write_word(&self.socket, wire::Word::Signal(signal.as_raw()))
    }

    /// Lets it go on without this process: its keeper stays until it ends, and takes what it writes to its terminal.
    ///
    /// # Errors
    /// When its keeper is gone.
    pub fn detach(&self) -> io::Result<()> {
        wire::write_word(&self.socket, wire::Word::Detach)
    }
}

impl Drop for Executing {
    fn drop(&mut self) {
        let Some(keeper) = self.keeper.take() else { return };
        // The end of the socket is what it acts on.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        reap(keeper);
    }
}

/// Takes a keeper off the process table once it has ended, without waiting for it here.
fn reap(keeper: OwnedFd) {
    let wait = move || {
        let _ = proc::wait(&keeper, None);
        Starter::reap(&keeper);
    };
    if let Err(e) = std::thread::Builder::new().name("exec-reaper".to_owned()).spawn(wait) {
        tracing::warn!(error = &e as &dyn std::error::Error, "a keeper stays a zombie");
    }
}
