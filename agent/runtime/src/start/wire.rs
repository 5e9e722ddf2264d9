//! The two messages between the agent and the starter of the same build.

use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::{Deserialize, Serialize};

use crate::error::Failure;
use crate::exec::{ExecExit, ExecJob};
use crate::job::{CgroupJoin, Job};
use crate::proc;
use crate::record::ShimRecord;

/// No message is longer, in bytes: arguments and environment of one exec are at most 2 MiB.
const MAX_LEN: usize = 16 << 20;

/// What the starter is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Start a container and become its shim.
    Start(Box<Job>),
    /// Start one more process in a container and keep it.
    Exec(Box<ExecJob>),
}

impl Order {
    /// The shims' groups are for whoever carries it out.
    pub(crate) fn cgroup(&self) -> &CgroupJoin {
        match self {
            Self::Start(job) => &job.cgroup,
            Self::Exec(job) => &job.cgroup,
        }
    }

    fn filter_len(&self) -> usize {
        match self {
            Self::Start(job) => job.seccomp_len,
            Self::Exec(job) => job.filter_len,
        }
    }
}

/// What the starter says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The starter goes on as another process, a child of the agent too, whose pidfd comes along. The first one ends.
    Moved,
    /// The command is executing; the pidfd of its process comes along.
    Started(ShimRecord),
    /// One more process of a container is executing its command; the other end of its terminal comes along, if it has one.
    Executing(u32),
    /// It has ended.
    Exited(ExecExit),
    /// Nothing is left of the attempt.
    Failed(Failure),
}

/// `[u32 length][JSON][filter]`.
pub(crate) fn message(order: &Order, filter: &[u8]) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, order)?;
    let len = u32::try_from(bytes.len() - 4).map_err(|_| too_long())?;
    if bytes.len() > MAX_LEN {
        return Err(too_long());
    }
    bytes[..4].copy_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(filter);
    Ok(bytes)
}

/// An order, its filter, and the descriptors that came along.
pub(super) fn read_order(agent: &OwnedFd) -> io::Result<(Order, Vec<u8>, Vec<OwnedFd>)> {
    let mut stream = std::fs::File::from(agent.try_clone()?);
    let (bytes, fds) = read_part(agent, &mut stream)?;
    let order: Order = serde_json::from_slice(&bytes)?;
    if order.filter_len() > MAX_LEN {
        return Err(too_long());
    }
    let mut filter = vec![0; order.filter_len()];
    stream.read_exact(&mut filter)?;
    Ok((order, filter, fds))
}

/// Sends an order, with descriptors.
pub(super) fn send(mut stream: &UnixStream, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let sent = send_with(stream.as_fd(), message, fds)?;
    stream.write_all(&message[sent..])
}

/// `[u32 length][JSON]`, with descriptors.
pub(crate) fn write_answer(agent: &OwnedFd, answer: &Answer, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, answer)?;
    let len = u32::try_from(bytes.len() - 4).map_err(|_| too_long())?;
    bytes[..4].copy_from_slice(&len.to_le_bytes());
    send_with(agent.as_fd(), &bytes, fds).map(drop)
}

/// Most descriptors of a message.
const MAX_FDS: usize = 4;

fn send_with(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(rustix::net::sendmsg(socket, &[io::IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

/// Reads one answer; the end of the stream without one is an error.
pub(super) fn read_answer(mut stream: &UnixStream) -> io::Result<(Answer, Vec<OwnedFd>)> {
    let (bytes, fds) = read_part(stream, &mut stream)?;
    Ok((serde_json::from_slice(&bytes)?, fds))
}

/// The next answer; `None` when the time is over.
pub(crate) fn answer_within(
    stream: &UnixStream,
    until: Instant,
) -> io::Result<Option<(Answer, Vec<OwnedFd>)>> {
    let left = until.saturating_duration_since(Instant::now());
    if proc::wait(stream, Some(left))? { read_answer(stream).map(Some) } else { Ok(None) }
}

/// `[u32 length][bytes]`, with the descriptors that came along.
fn read_part(socket: impl AsFd, mut stream: impl Read) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut len = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let parts = &mut [io::IoSliceMut::new(&mut len)];
        match rustix::net::recvmsg(&socket, parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?.bytes,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            fds.extend(more);
        }
    }
    if received == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    stream.read_exact(&mut len[received..])?;
    let len = usize::try_from(u32::from_le_bytes(len)).map_err(|_| too_long())?;
    if len > MAX_LEN {
        return Err(too_long());
    }
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes)?;
    Ok((bytes, fds))
}

/// What a keeper is told while its process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// Send the process a signal.
    Signal(i32),
    /// Let it go on when the socket ends.
    Detach,
}

const DETACH: u32 = 1;
const SIGNAL: u32 = 2;

/// `[u32 word][u32 value]`.
pub(crate) fn write_word(stream: &UnixStream, word: Word) -> io::Result<()> {
    let (number, value) = match word {
        Word::Detach => (DETACH, 0),
        Word::Signal(signal) => (SIGNAL, signal),
    };
    let bytes = [number.to_le_bytes(), value.to_le_bytes()].concat();
    rustix::net::send(stream, &bytes, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next word; `None` at the end, or for what is none.
pub(crate) fn read_word(agent: &OwnedFd) -> Option<Word> {
    let mut stream = std::fs::File::from(agent.try_clone().ok()?);
    let (mut number, mut value) = ([0; 4], [0; 4]);
    stream.read_exact(&mut number).and_then(|()| stream.read_exact(&mut value)).ok()?;
    match u32::from_le_bytes(number) {
        DETACH => Some(Word::Detach),
        SIGNAL => Some(Word::Signal(i32::from_le_bytes(value))),
        _ => None,
    }
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a message above {MAX_LEN} bytes"))
}
