//! Finding a container again that this or an earlier agent started, and speaking to its shim.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Signal;

use crate::proc::{self, ProcError, ProcessId};
use crate::record::{ExitRecord, RecordError, ShimRecord};
use crate::shim::frame::{HEADER_LEN, Header, MAX_REPLY, State, Stop, StopLater, VERSION, kind};

#[cfg(test)]
mod tests;

/// A shim answers at once; one that does not for so long is taken for stuck.
const ANSWER: Duration = Duration::from_secs(5);

/// What is known of a container by its run directory.
#[derive(Debug)]
pub enum Adoption {
    /// The shim lives, and so does what it holds.
    Running(ShimHandle),
    /// The shim has ended and said how the run ended.
    Exited(ExitRecord),
    /// The shim has ended without a word. Its cgroup has to be killed and proven empty before anything starts.
    Lost(ShimRecord),
    /// There is no record: nothing was started in this directory.
    None,
    /// The record is of another boot; nothing of it runs.
    OtherBoot(ShimRecord),
    /// It cannot be told. Never to be taken for absence.
    Unknown(AdoptError),
}

/// Why it cannot be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdoptError {
    /// The run directory cannot be opened.
    #[error("opening run directory {path}")]
    Open {
        /// The directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A record cannot be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A process cannot be looked at.
    #[error(transparent)]
    Process(#[from] ProcError),
}

/// How a run ended, once its shim is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The shim recorded it.
    Exited(ExitRecord),
    /// The shim died before it could.
    Lost {
        /// Exit code of the first process, 128 + signal for a death by signal, where it has ended and the kernel
        /// still knows (Linux 6.15 and later, after the process is reaped).
        exit_code: Option<i32>,
    },
}

/// Why a shim could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShimError {
    /// Nobody listens: the shim has ended.
    #[error("the shim has ended")]
    Gone,
    /// The shim does not answer in time or the connection broke.
    #[error("the shim with pid {pid} does not answer")]
    NoAnswer {
        /// Pid of the shim.
        pid: u32,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The shim refuses the request.
    #[error("the shim refuses the request: {message} (code {code})")]
    Refused {
        /// One of [`error_code`](crate::shim::frame::error_code), or a newer one.
        code: u32,
        /// What the shim says.
        message: String,
    },
    /// The answer is not of the contract.
    #[error("the shim with pid {pid} gives an answer that is not of its contract")]
    Answer {
        /// Pid of the shim.
        pid: u32,
    },
    /// The signal to the first process failed.
    #[error(transparent)]
    Process(#[from] ProcError),
}

/// A live shim, held by pidfd.
#[derive(Debug)]
pub struct ShimHandle {
    record: ShimRecord,
    run_dir: OwnedFd,
    shim: OwnedFd,
    init: Option<OwnedFd>,
}

/// Looks what became of the container of a run directory. `boot_id` is the kernel's now.
#[must_use]
pub fn adopt(run_dir: &Path, boot_id: &str) -> Adoption {
    try_adopt(run_dir, boot_id).unwrap_or_else(Adoption::Unknown)
}

fn try_adopt(run_dir: &Path, boot_id: &str) -> Result<Adoption, AdoptError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = match rustix::fs::open(run_dir, flags, Mode::empty()) {
        Ok(dir) => dir,
        Err(rustix::io::Errno::NOENT) => return Ok(Adoption::None),
        Err(e) => return Err(AdoptError::Open { path: run_dir.to_owned(), source: e.into() }),
    };
    let Some(record) = ShimRecord::read(&dir)? else { return Ok(Adoption::None) };
    if record.boot_id != boot_id {
        return Ok(Adoption::OtherBoot(record));
    }
    // The process first and the exit record after: a shim that ends between the two has written it.
    match ShimHandle::open(dir.try_clone().map_err(|source| open_failed(run_dir, source))?, record.clone())? {
        Some(handle) => Ok(Adoption::Running(handle)),
        None => Ok(match exit_of(&dir, &record)? {
            Some(exit) => Adoption::Exited(exit),
            None => Adoption::Lost(record),
        }),
    }
}

fn open_failed(path: &Path, source: std::io::Error) -> AdoptError {
    AdoptError::Open { path: path.to_owned(), source }
}

/// The exit record, if it is of this run.
fn exit_of(dir: impl AsFd, record: &ShimRecord) -> Result<Option<ExitRecord>, RecordError> {
    let exit = ExitRecord::read(dir)?;
    Ok(exit.filter(|exit| exit.run == record.run && exit.boot_id == record.boot_id))
}

impl ShimHandle {
    /// Takes hold of the shim that a record names; `None` when it has ended.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn open(run_dir: OwnedFd, record: ShimRecord) -> Result<Option<Self>, ProcError> {
        let Some(shim) = proc::open(ProcessId { pid: record.shim_pid, start: record.shim_start })? else {
            return Ok(None);
        };
        if proc::has_ended(&shim).map_err(|source| ProcError::Open { pid: record.shim_pid, source })? {
            return Ok(None);
        }
        let init = proc::open(ProcessId { pid: record.init_pid, start: record.init_start })?;
        Ok(Some(Self { record, run_dir, shim, init }))
    }

    /// The record of the shim.
    #[must_use]
    pub fn record(&self) -> &ShimRecord {
        &self.record
    }

    /// The container's run directory.
    pub(crate) fn run_dir(&self) -> BorrowedFd<'_> {
        self.run_dir.as_fd()
    }

    /// Readable once the shim has ended; then [`ended`](Self::ended) says how.
    #[must_use]
    pub fn shim_pidfd(&self) -> BorrowedFd<'_> {
        self.shim.as_fd()
    }

    /// The container's first process; `None` when it had ended already.
    #[must_use]
    pub fn init_pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.init.as_ref().map(AsFd::as_fd)
    }

    /// How the run ended; `None` while the shim lives. Does not wait.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn ended(&self) -> Result<Option<Ended>, AdoptError> {
        let pid = self.record.shim_pid;
        if !proc::has_ended(&self.shim).map_err(|source| ProcError::Open { pid, source })? {
            return Ok(None);
        }
        Ok(Some(match exit_of(&self.run_dir, &self.record)? {
            Some(exit) => Ended::Exited(exit),
            None => Ended::Lost { exit_code: self.init.as_ref().and_then(|fd| proc::exit_code(fd.as_fd())) },
        }))
    }

    /// What the shim says of the container. Blocks at most five seconds.
    ///
    /// # Errors
    /// When the shim does not answer.
    pub fn state(&self) -> Result<State, ShimError> {
        self.ask(kind::PING, &[])
    }

    /// Asks the shim to send `signal` to the first process and to kill the whole cgroup after `grace`, which it then
    /// does whether or not the caller lives. A repeated stop may shorten the grace, never lengthen it. Blocks at most
    /// five seconds; the container has not ended when this returns.
    ///
    /// # Errors
    /// [`ShimError::Gone`] when there is nothing left to ask; otherwise the shim does not answer, and the caller has to
    /// kill the cgroup itself after the grace.
    pub fn stop(&self, signal: u32, grace: Duration) -> Result<State, ShimError> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.ask(kind::STOP, &Stop { signal, grace_ms }.encode())
    }

    /// A [`stop`](Self::stop) whose signal waits: the shim sends it after `signal`, unless a stop comes before, and keeps both
    /// times whether or not the caller lives. Repeated, both may only come nearer. Blocks at most five seconds.
    ///
    /// # Errors
    /// As [`stop`](Self::stop); a shim of an earlier release refuses with
    /// [`error_code::TYPE`](crate::shim::frame::error_code::TYPE).
    pub fn stop_later(&self, signal: u32, after: Duration, grace: Duration) -> Result<State, ShimError> {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let later = StopLater { stop: Stop { signal, grace_ms: ms(grace) }, signal_ms: ms(after) };
        self.ask(kind::STOP_LATER, &later.encode())
    }

    /// A connection on which the shim gives what the container writes from now on, and takes its standard input, by the
    /// frames of [`kind::ATTACH`]. Blocks at most five seconds; the stream does so too, until it is told otherwise.
    ///
    /// # Errors
    /// [`ShimError::Refused`] by a shim of a release that had no such thing, and when too many are attached.
    pub fn attach(&self) -> Result<UnixStream, ShimError> {
        let mut stream = self.connect()?;
        self.exchange(&mut stream, kind::ATTACH, &0u32.to_le_bytes())?;
        Ok(stream)
    }

    /// Kills the container now: through the shim its whole cgroup, or at least its first process where the shim does
    /// not answer.
    ///
    /// # Errors
    /// The system's answer to the signal.
    pub fn kill(&self) -> Result<(), ShimError> {
        let Err(error) = self.stop(9, Duration::ZERO) else { return Ok(()) };
        match &self.init {
            Some(init) => {
                proc::signal(init.as_fd(), Signal::KILL)?;
                Ok(())
            }
            None => Err(error),
        }
    }

    fn ask(&self, kind: u16, payload: &[u8]) -> Result<State, ShimError> {
        let mut stream = self.connect()?;
        self.exchange(&mut stream, kind, payload)
    }

    fn exchange(&self, stream: &mut UnixStream, kind: u16, payload: &[u8]) -> Result<State, ShimError> {
        let pid = self.record.shim_pid;
        let no_answer = |source| ShimError::NoAnswer { pid, source };
        let len = u32::try_from(payload.len()).map_err(|_| ShimError::Answer { pid })?;
        let header = Header { version: VERSION, kind, len };
        stream.write_all(&[&header.encode(), payload].concat()).map_err(no_answer)?;
        let mut head = [0; HEADER_LEN];
        stream.read_exact(&mut head).map_err(no_answer)?;
        let head = Header::decode(head);
        // A newer shim's answer may be longer; far longer it is none.
        let len = usize::try_from(head.len).ok().filter(|&len| len <= 64 * MAX_REPLY);
        let mut reply = vec![0; len.ok_or(ShimError::Answer { pid })?];
        stream.read_exact(&mut reply).map_err(no_answer)?;
        answer(head.kind, &reply).unwrap_or(Err(ShimError::Answer { pid }))
    }

    /// Without waiting: a full queue of connections is that of a shim that is stuck.
    fn connect(&self) -> Result<UnixStream, ShimError> {
        let no_answer = |source| ShimError::NoAnswer { pid: self.record.shim_pid, source };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(|e| no_answer(e.into()))?;
        // A path of the run directory may be longer than the 108 bytes of an address.
        let path = format!("/proc/self/fd/{}/s", self.run_dir.as_raw_fd());
        let address = SocketAddrUnix::new(path).map_err(|e| no_answer(e.into()))?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => {}
            Err(rustix::io::Errno::CONNREFUSED | rustix::io::Errno::NOENT) => return Err(ShimError::Gone),
            Err(e) => return Err(no_answer(e.into())),
        }
        let stream = UnixStream::from(socket);
        stream.set_nonblocking(false).map_err(no_answer)?;
        stream.set_read_timeout(Some(ANSWER)).map_err(no_answer)?;
        stream.set_write_timeout(Some(ANSWER)).map_err(no_answer)?;
        Ok(stream)
    }
}

/// An answer's meaning; `None` when it is not of the contract.
fn answer(answered: u16, payload: &[u8]) -> Option<Result<State, ShimError>> {
    match answered {
        kind::STATE => State::decode(payload).map(Ok),
        kind::ERROR => {
            let code = u32::from_le_bytes(payload.get(..4)?.try_into().ok()?);
            let message = String::from_utf8_lossy(payload.get(4..)?).into_owned();
            Some(Err(ShimError::Refused { code, message }))
        }
        _ => None,
    }
}
