//! Files into and out of a running container: by descriptor inside its root, whose links lead nowhere else.

use std::{
    ffi::OsStr,
    io::{self, BufReader, BufWriter, Read, Write},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
};
use stower_crds::ObjectKey;
use stower_storage::copy::{self, UnpackOptions};
use tokio::{io::AsyncWriteExt, net::UnixStream, sync::mpsc};

use super::{running, session::write_frames};
use crate::{
    channels::{self, CLOSE, Frame, Reader},
    effects::chain,
    node::{ApiError, Node, resource},
};

/// Pieces that wait for who is slower.
const WAITING: usize = 4;
/// Bytes of a piece.
const PIECE: usize = channels::MAX;

/// Something in a container that is to be read.
#[derive(Debug)]
pub struct CopyFrom {
    dir: OwnedFd,
    name: Vec<u8>,
}

/// A place in a container that is to be written to.
#[derive(Debug)]
pub struct CopyTo {
    dir: OwnedFd,
    options: UnpackOptions,
}

impl Node {
    /// Finds what is to be copied out of a container. Blocks on its filesystems.
    ///
    /// # Errors
    /// When it does not run, or has no such thing.
    pub fn copy_from(&self, key: &ObjectKey, path: &str) -> Result<CopyFrom, ApiError> {
        let root = self.root_of(key)?;
        let whole = |path: &str| open_dir(&root, path).map(|dir| CopyFrom { dir, name: Vec::new() });
        let found = match split(path) {
            None => whole(path),
            Some((above, name)) => open_dir(&root, above).and_then(|dir| {
                rustix::fs::statat(&dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
                Ok(CopyFrom { dir, name: name.as_bytes().to_vec() })
            }),
        };
        found.map_err(|error| not_there(key, path, error))
    }

    /// Finds the place that files are to be copied to: into the directory `path` under `name` (or, without one, their content
    /// into it), or as `path` where no directory is. Blocks on its filesystems.
    ///
    /// # Errors
    /// When the container does not run, or has no such place.
    pub fn copy_to(
        &self,
        key: &ObjectKey,
        path: &str,
        name: Option<&str>,
        keep: bool,
    ) -> Result<CopyTo, ApiError> {
        let root = self.root_of(key)?;
        // As in Docker: what comes in belongs to root, unless it is to be kept as it is.
        let owner = (!keep).then_some((0, 0));
        let of = |dir, name: Option<&str>| CopyTo {
            dir,
            options: UnpackOptions { name: name.map(|name| name.as_bytes().to_vec()), owner },
        };
        match open_dir(&root, path) {
            Ok(dir) => Ok(of(dir, name)),
            Err(error @ (Errno::NOENT | Errno::NOTDIR)) => {
                let (above, last) = split(path).ok_or_else(|| not_there(key, path, error))?;
                let dir = open_dir(&root, above).map_err(|error| not_there(key, above, error))?;
                Ok(of(dir, Some(last)))
            }
            Err(error) => Err(not_there(key, path, error)),
        }
    }

    /// The root of a running container, as its first process has it.
    fn root_of(&self, key: &ObjectKey) -> Result<OwnedFd, ApiError> {
        let (container, _) = running(self, key)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = format!("/proc/{}/root", container.record().init_pid);
        let root = rustix::fs::open(path, flags, Mode::empty());
        // What was just opened by its number was the container's: it still runs, so it did then.
        let ended =
            container.init_pidfd().is_none_or(|fd| stower_runtime::proc::has_ended(fd).unwrap_or(true));
        if ended {
            return Err(ApiError::conflict(format!("{} has just ended", resource(key))));
        }
        root.map_err(|error| {
            ApiError::internal(format!("cannot open the root of {}: {error}", resource(key)))
        })
    }
}

/// The directory of a path and the name in it; `None` where the path itself names a directory.
fn split(path: &str) -> Option<(&str, &str)> {
    let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
    let above = if above.is_empty() { "/" } else { above };
    (!matches!(name, "" | "." | "..")).then_some((above, name))
}

/// Links are followed with the container's root as `/`; those of `/proc` never.
fn open_dir(root: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root, OsStr::from_bytes(path.as_bytes()), flags, Mode::empty(), resolve) {
            // The kernel asks to be asked again when a rename ran beside it.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

fn not_there(key: &ObjectKey, path: &str, error: Errno) -> ApiError {
    let what = match error {
        Errno::NOENT => "no such file or directory".to_owned(),
        Errno::NOTDIR => "not a directory".to_owned(),
        Errno::LOOP => "its links lead in a circle, or through a link of /proc".to_owned(),
        error => io::Error::from(error).to_string(),
    };
    ApiError { code: 404, reason: "NotFound", message: format!("{path} in {}: {what}", resource(key)) }
}

impl CopyFrom {
    /// Sends it to a client as frames of standard output.
    pub(crate) async fn serve(self, stream: UnixStream) {
        let (frames, waiting) = mpsc::channel(WAITING);
        let packing = tokio::task::spawn_blocking(move || {
            let mut out = BufWriter::with_capacity(PIECE, ToFrames(frames.clone()));
            let packed = copy::pack(&self.dir, &self.name, &mut out);
            let packed =
                packed.map_err(|error| chain(&error)).and_then(|()| out.flush().map_err(|e| e.to_string()));
            // What is left of a failed one must not be sent by the buffer's end.
            let _ = out.into_parts();
            let status = packed.map_or_else(|why| channels::failure(&why), |()| channels::status(0));
            let _ = frames.blocking_send((channels::STATUS, status.to_string().into_bytes()));
        });
        let (_, to) = stream.into_split();
        let written = write_frames(waiting, to).await;
        if let Err(error) = packing.await.map_err(io::Error::other).and(written) {
            tracing::debug!(%error, "a copy out of a container broke off");
        }
    }
}

impl CopyTo {
    /// Takes it from a client, as frames of standard input.
    pub(crate) async fn serve(self, stream: UnixStream, read: &[u8]) {
        let (pieces, waiting) = mpsc::channel(WAITING);
        let (from, mut to) = stream.into_split();
        let unpacking = tokio::task::spawn_blocking(move || {
            let from = BufReader::with_capacity(PIECE, FromFrames::new(waiting));
            copy::unpack(&self.dir, from, &self.options).map_err(|error| chain(&error))
        });
        receive(Reader::new(from, read), channels::STDIN, pieces).await;
        let done = unpacking.await.map_err(|error| error.to_string()).and_then(|done| done);
        let status = done.map_or_else(|why| channels::failure(&why), |()| channels::status(0));
        let _ = channels::write(&mut to, channels::STATUS, status.to_string().as_bytes()).await;
        let _ = to.shutdown().await;
    }
}

/// Hands the frames of one channel on until it is closed. An end before that is an error, so that nobody takes a part for the
/// whole.
async fn receive<R: tokio::io::AsyncRead + Unpin>(
    mut from: Reader<R>,
    channel: u8,
    pieces: mpsc::Sender<io::Result<Vec<u8>>>,
) {
    loop {
        let piece = match from.next().await {
            Ok(Some(Frame { channel: of, payload })) if of == channel => Ok(payload),
            Ok(Some(Frame { channel: CLOSE, payload })) if payload == [channel] => return,
            Ok(Some(_)) => continue,
            Ok(None) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => Err(error),
        };
        let last = piece.is_err();
        if pieces.send(piece).await.is_err() || last {
            return;
        }
    }
}

/// Bytes as frames of standard output, for who writes and waits.
struct ToFrames(mpsc::Sender<(u8, Vec<u8>)>);

impl Write for ToFrames {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(PIECE)];
        let sent = self.0.blocking_send((channels::STDOUT, piece.to_vec()));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the client has gone"))?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Pieces as a stream of bytes, for who reads and waits.
#[derive(Debug)]
pub(crate) struct FromFrames {
    pieces: mpsc::Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    at: usize,
}

impl FromFrames {
    pub(crate) fn new(pieces: mpsc::Receiver<io::Result<Vec<u8>>>) -> Self {
        Self { pieces, piece: Vec::new(), at: 0 }
    }
}

impl Read for FromFrames {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            match self.pieces.blocking_recv() {
                None => return Ok(0),
                Some(piece) => (self.piece, self.at) = (piece?, 0),
            }
        }
        let len = buf.len().min(self.piece.len() - self.at);
        buf[..len].copy_from_slice(&self.piece[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}
