//! A command's streams and a client's channels, until one of the two ends.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use stower_runtime::{ExecExit, Executing, exec::TerminalSize, failpoint};
use tokio::{
    io::{AsyncWriteExt, Interest, unix::AsyncFd},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    time::Instant,
};

use super::Session;
use crate::{
    channels::{self, CLOSE, DETACH, Frame, Reader},
    effects::chain,
};

/// After the command's end others may hold its streams; they are read for so long.
const AFTER_EXIT: Duration = Duration::from_secs(1);
/// How long a client may take for the last of it.
const LAST_WORDS: Duration = Duration::from_secs(30);
/// Frames that wait for the client before the command does.
const WAITING: usize = 4;
/// How often a client is looked for whose input nobody takes.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// Frames to the client.
type Frames = mpsc::Sender<(u8, Vec<u8>)>;

/// Why a client sends nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// The connection has ended, or speaks something else.
    Gone,
    /// It has said goodbye.
    Detached,
}

impl Session {
    /// Serves a client until the command ends or the client goes; `read` is what was read of the connection already.
    ///
    /// A client that goes without a word takes the command with it.
    pub(crate) async fn serve(self, stream: UnixStream, read: &[u8]) {
        if let Err(error) = self.try_serve(stream, read).await {
            tracing::debug!(%error, "a session of a command broke off");
        }
    }

    async fn try_serve(self, stream: UnixStream, read: &[u8]) -> io::Result<()> {
        let Self { mut process, stdin, stdout, stderr, terminal, _slot } = self;
        failpoint("exec.serving");
        let socket = watched(process.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
        let (from, to) = stream.into_split();
        let (frames, waiting) = mpsc::channel(WAITING);
        let stdout = stdout.map(|fd| watched(fd, Interest::READABLE)).transpose()?;
        let stderr = stderr.map(|fd| watched(fd, Interest::READABLE)).transpose()?;
        let size_of =
            if terminal { stdout.as_ref().map(|t| t.get_ref().try_clone()).transpose()? } else { None };
        let stdin = stdin.map(|fd| watched(fd, Interest::WRITABLE)).transpose()?;

        let mut left = None;
        {
            let output = async {
                tokio::join!(
                    pump(stdout.as_ref(), channels::STDOUT, &frames),
                    pump(stderr.as_ref(), channels::STDERR, &frames)
                );
            };
            let input = input(Reader::new(from, read), stdin, size_of);
            let written = write_frames(waiting, to);
            let ended = ended(&mut process, &socket);
            tokio::pin!(output, input, written, ended);
            let (mut drained, mut exit) = (false, None);
            let mut until = Instant::now();
            while !(drained && exit.is_some()) {
                tokio::select! {
                    end = &mut ended, if exit.is_none() => {
                        exit = Some(end);
                        until = Instant::now() + AFTER_EXIT;
                    }
                    () = &mut output, if !drained => drained = true,
                    how = &mut input, if left.is_none() => {
                        left = Some(how);
                        if how == Left::Detached || exit.is_none() {
                            break;
                        }
                    }
                    result = &mut written => return result,
                    () = tokio::time::sleep_until(until), if exit.is_some() => break,
                }
            }
            if let Some(exit) = exit {
                failpoint("exec.ended");
                let status =
                    exit.map_or_else(|why| channels::failure(&why), |exit| channels::status(exit.code));
                let last = async {
                    // Frames that wait go before it; `written` ends with it.
                    let send = frames.send((channels::STATUS, status.to_string().into_bytes()));
                    let (_, result) = tokio::join!(send, &mut written);
                    result
                };
                return tokio::time::timeout(LAST_WORDS, last).await?;
            }
        }
        if left == Some(Left::Detached) {
            process.detach()?;
            failpoint("exec.detached");
            // Its keeper goes on; nobody waits for the end here.
        }
        Ok(())
    }
}

/// A descriptor that tokio waits for.
#[expect(deprecated, reason = "its follower is unsafe for the sake of types that are no owned descriptor")]
fn watched(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, interest)
}

async fn ended(process: &mut Executing, socket: &AsyncFd<OwnedFd>) -> Result<ExecExit, String> {
    loop {
        let mut ready = socket.readable().await.map_err(|error| error.to_string())?;
        match process.try_wait() {
            Ok(Some(exit)) => return Ok(exit),
            Ok(None) => ready.clear_ready(),
            Err(error) => return Err(chain(&error)),
        }
    }
}

/// What a stream of the command gives, as frames; ends with the stream, or with the client.
async fn pump(from: Option<&AsyncFd<OwnedFd>>, channel: u8, frames: &Frames) {
    let Some(from) = from else { return };
    let mut piece = vec![0; 32 << 10];
    loop {
        // The last end of a terminal's other side is an error.
        let Ok(len) = from.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut piece)?)).await
        else {
            return;
        };
        if len == 0 || frames.send((channel, piece[..len].to_vec())).await.is_err() {
            return;
        }
        failpoint("exec.read");
    }
}

/// Writes frames; the status is the last.
pub(super) async fn write_frames(
    mut frames: mpsc::Receiver<(u8, Vec<u8>)>,
    mut to: OwnedWriteHalf,
) -> io::Result<()> {
    while let Some((channel, payload)) = frames.recv().await {
        channels::write(&mut to, channel, &payload).await?;
        if channel == channels::STATUS {
            break;
        }
    }
    to.shutdown().await
}

/// Does what the client says.
async fn input(
    mut from: Reader<OwnedReadHalf>,
    mut stdin: Option<AsyncFd<OwnedFd>>,
    terminal: Option<OwnedFd>,
) -> Left {
    loop {
        let Ok(Some(Frame { channel, payload })) = from.next().await else { return Left::Gone };
        match channel {
            channels::STDIN => {
                let Some(to) = &stdin else { continue };
                let written = {
                    let write = write_all(to, &payload);
                    tokio::pin!(write);
                    loop {
                        tokio::select! {
                            written = &mut write => break written,
                            () = tokio::time::sleep(LOOK) => if has_ended(from.get_ref()) { return Left::Gone },
                        }
                    }
                };
                if written.is_err() {
                    // It reads no more; what comes is dropped, as by a pipe without a reader.
                    stdin = None;
                }
            }
            CLOSE if payload == [channels::STDIN] && terminal.is_none() => stdin = None,
            CLOSE if payload == [channels::STDIN] => {
                // A terminal has no end; this is what says so to whoever reads a line of it.
                if let Some(to) = &stdin {
                    let _ = write_all(to, &[4]).await;
                }
            }
            channels::RESIZE => {
                if let (Some(terminal), Some((rows, columns))) = (&terminal, channels::size(&payload)) {
                    let _ = stower_runtime::exec::resize(terminal.as_fd(), TerminalSize { rows, columns });
                }
            }
            DETACH => return Left::Detached,
            CLOSE => {}
            _ => return Left::Gone,
        }
    }
}

/// Whether the client is gone, although not all that it sent was read.
pub(super) fn has_ended(from: &OwnedReadHalf) -> bool {
    let stream: &UnixStream = from.as_ref();
    let mut fds = [rustix::event::PollFd::from_borrowed_fd(stream.as_fd(), rustix::event::PollFlags::RDHUP)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}

async fn write_all(to: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let len = to.async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, bytes)?)).await?;
        bytes = bytes.get(len..).unwrap_or_default();
    }
    Ok(())
}
