//! A container's own streams, which its shim holds, and a client's channels, until one of the two ends.
//!
//! The shim cuts off who does not read, so that the container never waits: here are a few frames of room, and what the kernel
//! has between the two.

use std::{io, time::Duration};

use stower_runtime::{
    ShimHandle,
    adopt::Ended,
    shim::frame::{HEADER_LEN, Header, MAX_OUTPUT, MAX_REQUEST, VERSION, kind},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
};

use super::{
    Attachment,
    session::{LOOK, has_ended, write_frames},
};
use crate::{
    channels::{self, CLOSE, DETACH, Frame, Reader},
    effects::chain,
};

/// Frames that wait for the client before the shim's own room is used up.
const WAITING: usize = 16;
/// After the end of the shim's stream its own end is waited for so long.
const END: Duration = Duration::from_secs(5);
/// How long a client may take for the last of it.
const LAST_WORDS: Duration = Duration::from_secs(30);

impl Attachment {
    /// Serves a client until the container ends or the client goes; the container goes on then.
    pub(crate) async fn serve(self, stream: UnixStream, read: &[u8]) {
        if let Err(error) = self.try_serve(stream, read).await {
            tracing::debug!(%error, "a client that was attached broke off");
        }
    }

    async fn try_serve(self, stream: UnixStream, read: &[u8]) -> io::Result<()> {
        let Self { container, shim, options, once, _slot } = self;
        shim.set_nonblocking(true)?;
        let (shim_from, mut shim_to) = UnixStream::from_std(shim)?.into_split();
        let (from, to) = stream.into_split();
        let (frames, waiting) = mpsc::channel(WAITING);
        if let Some((rows, columns)) = options.tty.filter(|size| *size != (0, 0)) {
            let size = [rows.to_le_bytes(), columns.to_le_bytes()].concat();
            shim_to.write_all(&frame(kind::RESIZE, &size)).await?;
        }
        let written = write_frames(waiting, to);
        let output = output(shim_from, &frames);
        let input = input(Reader::new(from, read), shim_to, Input { stdin: options.stdin, once });
        tokio::pin!(written, output, input);
        tokio::select! {
            // The container has ended, or this client was too slow.
            _ = &mut output => {}
            () = &mut input => return Ok(()),
            result = &mut written => return result,
        }
        let status = end_of(container).await.map_or_else(|why| channels::failure(&why), channels::status);
        let last = async {
            let send = frames.send((channels::STATUS, status.to_string().into_bytes()));
            let (_, result) = tokio::join!(send, &mut written);
            result
        };
        tokio::time::timeout(LAST_WORDS, last).await?
    }
}

/// The exit code of a container whose shim says no more.
async fn end_of(container: ShimHandle) -> Result<i32, String> {
    let wait = move || {
        let ended =
            stower_runtime::proc::wait(container.shim_pidfd(), Some(END)).map_err(|e| e.to_string())?;
        if !ended {
            return Err("cut off: the container writes faster than this client reads; it goes on".to_owned());
        }
        match container.ended() {
            Ok(Some(Ended::Exited(exit))) => Ok(exit.exit_code),
            Ok(Some(Ended::Lost { exit_code: Some(code) })) => Ok(code),
            Ok(_) => Err("the container's shim has ended; how the container did is not known".to_owned()),
            Err(error) => Err(chain(&error)),
        }
    };
    tokio::task::spawn_blocking(wait).await.map_err(|error| error.to_string())?
}

/// Hands on what the container writes.
async fn output(mut from: OwnedReadHalf, frames: &mpsc::Sender<(u8, Vec<u8>)>) -> io::Result<()> {
    let mut head = [0; HEADER_LEN];
    loop {
        from.read_exact(&mut head).await?;
        let Header { kind, len, .. } = Header::decode(head);
        let len = usize::try_from(len).ok().filter(|len| (4..=MAX_OUTPUT + 4).contains(len));
        let mut payload = vec![0; len.ok_or(io::ErrorKind::InvalidData)?];
        from.read_exact(&mut payload).await?;
        if kind != kind::OUTPUT {
            continue;
        }
        let channel = if payload[0] == 0 { channels::STDOUT } else { channels::STDERR };
        if frames.send((channel, payload.split_off(4))).await.is_err() {
            return Ok(());
        }
    }
}

/// What a client may do with the container's input.
#[derive(Debug, Clone, Copy)]
struct Input {
    /// It sends some.
    stdin: bool,
    /// The end of it is the end of the container's (`stdinOnce`); otherwise the container never sees one, as in Kubernetes.
    once: bool,
}

/// Does what the client says, until it goes.
async fn input(mut from: Reader<OwnedReadHalf>, mut shim: OwnedWriteHalf, allowed: Input) {
    while let Ok(Some(Frame { channel, payload })) = from.next().await {
        let frames = match channel {
            channels::STDIN if allowed.stdin => input_frames(&payload),
            CLOSE if payload == [channels::STDIN] && allowed.stdin && allowed.once => {
                frame(kind::CLOSE_STDIN, &[])
            }
            channels::RESIZE => match channels::size(&payload) {
                Some((rows, columns)) => {
                    frame(kind::RESIZE, &[rows.to_le_bytes(), columns.to_le_bytes()].concat())
                }
                None => continue,
            },
            DETACH => break,
            _ => continue,
        };
        let send = shim.write_all(&frames);
        tokio::pin!(send);
        let sent = loop {
            tokio::select! {
                sent = &mut send => break sent,
                // A container that reads nothing holds this up, and nobody else does.
                () = tokio::time::sleep(LOOK) => if has_ended(from.get_ref()) { return },
            }
        };
        if sent.is_err() {
            // The shim's end is told by its output.
            return std::future::pending().await;
        }
    }
    if allowed.stdin && allowed.once {
        let _ = shim.write_all(&frame(kind::CLOSE_STDIN, &[])).await;
    }
}

fn frame(kind: u16, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap_or(0);
    [&Header { version: VERSION, kind, len }.encode()[..], payload].concat()
}

/// Many small frames in one write: a shim takes few bytes in each.
fn input_frames(bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(MAX_REQUEST).flat_map(|piece| frame(kind::INPUT, piece)).collect()
}
