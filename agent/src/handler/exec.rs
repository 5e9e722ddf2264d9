//! `exec`: a program in the container, with the container's whole confinement, and the beginning of what it writes.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use stower_runtime::{
    ShimHandle,
    exec::{ExecError, ExecExit, ExecRequest},
    start::Runtime,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::Semaphore,
};

/// The most of its output that is kept, in bytes; kubelet's bound.
const MAX_OUTPUT: usize = 10 << 10;
/// How many may be on their way into a container at once. Each holds a thread until its program is executed, and one of a container
/// that stands still does so until its deadline.
const AT_ONCE: usize = 64;

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExecAnswer {
    /// How.
    pub(crate) exit: ExecExit,
    /// The beginning of its output and errors, as they came.
    pub(crate) output: Vec<u8>,
}

/// Runs programs in containers.
#[derive(Debug, Clone)]
pub(super) struct Executor {
    runtime: Runtime,
    starter: PathBuf,
    entering: Arc<Semaphore>,
}

impl Executor {
    pub(super) fn new(runtime: Runtime, starter: PathBuf) -> Self {
        Self { runtime, starter, entering: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Runs a command to its end; at the deadline it and all that it has started are killed, whether or not anybody waits. Dropped,
    /// it is killed as well.
    pub(super) async fn run(
        &self,
        container: &Arc<ShimHandle>,
        command: &[String],
        deadline: Duration,
    ) -> Result<ExecAnswer, ExecError> {
        let permit = Arc::clone(&self.entering).acquire_owned().await;
        let (runtime, container) = (self.runtime.clone(), Arc::clone(container));
        let (args, starter) = (command.to_vec(), self.starter.clone());
        let begun = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let (ours, stdout) = pipe().map_err(ExecError::KeeperLost)?;
            let stderr = stdout.try_clone().map_err(ExecError::KeeperLost)?;
            let (stdout, stderr) = (Some(stdout), Some(stderr));
            let request = ExecRequest {
                args,
                stdout,
                stderr,
                deadline: Some(deadline),
                starter,
                ..ExecRequest::default()
            };
            Ok::<_, ExecError>((runtime.exec(&container, request)?, ours))
        });
        let (mut process, ours) = begun.await.map_err(|error| ExecError::KeeperLost(error.into()))??;
        let ended = watch(process.as_fd().try_clone_to_owned().map_err(ExecError::KeeperLost)?)?;
        let written = watch(ours)?;
        let (mut output, mut open) = (Vec::new(), true);
        loop {
            tokio::select! {
                ready = written.readable(), if open => {
                    ready.map_err(ExecError::KeeperLost)?.clear_ready();
                    open = take(written.get_ref(), &mut output);
                }
                ready = ended.readable() => {
                    ready.map_err(ExecError::KeeperLost)?.retain_ready();
                    break;
                }
            }
        }
        // It has told its end, or its keeper is gone; what it wrote before is in the pipe.
        take(written.get_ref(), &mut output);
        let exit = tokio::task::spawn_blocking(move || process.wait()).await;
        let exit = exit.map_err(|error| ExecError::KeeperLost(error.into()))??;
        Ok(ExecAnswer { exit, output })
    }
}

/// Our end does not wait; the program's is one as it is used to.
fn pipe() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&ours, rustix::fs::OFlags::NONBLOCK)?;
    Ok((ours, theirs))
}

#[expect(deprecated, reason = "its replacement is unsafe, for descriptors that are not owned; this one is")]
fn watch(fd: OwnedFd) -> Result<AsyncFd<OwnedFd>, ExecError> {
    AsyncFd::with_interest(fd, Interest::READABLE).map_err(ExecError::KeeperLost)
}

/// Takes what is there now; false at the end. What is more than is kept is read and dropped, so that nobody who writes waits.
fn take(from: &OwnedFd, output: &mut Vec<u8>) -> bool {
    let mut piece = [0; 4096];
    // Whoever writes without end is read on in the next turn.
    for _ in 0..16 {
        match rustix::io::read(from, &mut piece) {
            Ok(0) => return false,
            Ok(length) => {
                let room = MAX_OUTPUT - output.len();
                output.extend_from_slice(&piece[..length.min(room)]);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return true,
            Err(_) => return false,
        }
    }
    true
}
