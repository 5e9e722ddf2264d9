//! The two messages between the agent and the starter of the same build.

use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::{Deserialize, Serialize};

use crate::error::Failure;
use crate::job::Job;
use crate::record::ShimRecord;

/// No message is longer, in bytes: arguments and environment of one exec are at most 2 MiB.
const MAX_LEN: usize = 16 << 20;

/// What the starter says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The starter goes on as another process, a child of the agent too, whose pidfd comes along. The first one ends.
    Moved,
    /// The command is executing; the pidfd of its process comes along.
    Started(ShimRecord),
    /// Nothing is left of the attempt.
    Failed(Failure),
}

/// `[u32 length][JSON][filter]`.
pub(super) fn job_message(job: &Job, filter: &[u8]) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, job)?;
    let len = u32::try_from(bytes.len() - 4).map_err(|_| too_long())?;
    if bytes.len() > MAX_LEN {
        return Err(too_long());
    }
    bytes[..4].copy_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(filter);
    Ok(bytes)
}

pub(super) fn read_job(agent: &OwnedFd) -> io::Result<(Job, Vec<u8>)> {
    let mut stream = std::fs::File::from(agent.try_clone()?);
    let mut len = [0; 4];
    stream.read_exact(&mut len)?;
    let len = usize::try_from(u32::from_le_bytes(len)).map_err(|_| too_long())?;
    if len > MAX_LEN {
        return Err(too_long());
    }
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes)?;
    let job: Job = serde_json::from_slice(&bytes)?;
    if job.seccomp_len > MAX_LEN {
        return Err(too_long());
    }
    let mut filter = vec![0; job.seccomp_len];
    stream.read_exact(&mut filter)?;
    Ok((job, filter))
}

pub(super) fn send_job(stream: &mut UnixStream, message: &[u8]) -> io::Result<()> {
    stream.write_all(message)
}

/// `[u32 length][JSON]`, with the pidfd if there is one.
pub(super) fn write_answer(agent: &OwnedFd, answer: &Answer, pidfd: Option<&OwnedFd>) -> io::Result<()> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, answer)?;
    let len = u32::try_from(bytes.len() - 4).map_err(|_| too_long())?;
    bytes[..4].copy_from_slice(&len.to_le_bytes());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = pidfd.map(|fd| [fd.as_fd()]);
    if let Some(fds) = &fds {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    rustix::net::sendmsg(agent, &[io::IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Reads one answer; the end of the stream without one is an error.
pub(super) fn read_answer(mut stream: &UnixStream) -> io::Result<(Answer, Option<OwnedFd>)> {
    let mut len = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let parts = &mut [io::IoSliceMut::new(&mut len)];
        match rustix::net::recvmsg(stream, parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?.bytes,
        }
    };
    let mut pidfd = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            pidfd = fds.last().or(pidfd);
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
    Ok((serde_json::from_slice(&bytes)?, pidfd))
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a message above {MAX_LEN} bytes"))
}
