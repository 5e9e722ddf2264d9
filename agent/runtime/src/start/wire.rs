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

/// What the starter says at the end.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
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

/// One message of JSON, with the pidfd if there is one.
pub(super) fn write_answer(agent: &OwnedFd, answer: &Answer, pidfd: Option<&OwnedFd>) -> io::Result<()> {
    let bytes = serde_json::to_vec(answer)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = pidfd.map(|fd| [fd.as_fd()]);
    if let Some(fds) = &fds {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    rustix::net::sendmsg(agent, &[io::IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Reads the answer; the end of the stream without one is an error.
pub(super) fn read_answer(stream: &UnixStream) -> io::Result<(Answer, Option<OwnedFd>)> {
    let mut bytes = Vec::new();
    let mut pidfd = None;
    let mut chunk = vec![0u8; 16 << 10];
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = match rustix::net::recvmsg(
            stream,
            &mut [io::IoSliceMut::new(&mut chunk)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Ok(received) => received,
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                pidfd = fds.last().or(pidfd);
            }
        }
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&chunk[..received.bytes]);
        match serde_json::from_slice(&bytes) {
            Ok(answer) => return Ok((answer, pidfd)),
            Err(e) if e.is_eof() && bytes.len() < MAX_LEN => {}
            Err(e) => return Err(e.into()),
        }
    }
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a message above {MAX_LEN} bytes"))
}
