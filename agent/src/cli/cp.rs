//! `stower cp`: files into or out of a container, as a tar stream that is read and written by descriptor on both sides.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Write},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
};

use stower_storage::copy::{self, UnpackOptions};
use tokio::sync::mpsc;

use super::{context::Context, error::CliError, target};
use crate::{
    args::CpArgs,
    channels::{self, Frame, Reader},
    exec::FromFrames,
};

/// Pieces that wait for who is slower.
const WAITING: usize = 4;

pub(super) async fn run(context: &Context, args: &CpArgs) -> Result<(), CliError> {
    match (remote(&args.source), remote(&args.destination)) {
        (Some((name, path)), None) => {
            out_of(context, name, path, Path::new(&args.destination), args.archive).await
        }
        (None, Some((name, path))) => into(context, Path::new(&args.source), name, path, args.archive).await,
        (Some(_), Some(_)) => {
            Err(message("copying between containers is not supported: copy to here in between"))
        }
        (None, None) => Err(message("one of the two must be NAME:PATH, a path in a container")),
    }
}

fn message(text: impl Into<String>) -> CliError {
    CliError::Message(text.into())
}

/// `NAME:PATH`; a path of here that has a colon begins with `/` or `.`.
fn remote(text: &str) -> Option<(&str, &str)> {
    let (name, path) = text.split_once(':')?;
    (!name.is_empty() && !text.starts_with(['/', '.'])).then_some((name, path))
}

/// The directory of a path of here and the name in it; `None` where the path names a directory by itself.
fn split(path: &Path) -> Option<(&Path, &std::ffi::OsStr)> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.ends_with(b"/") || bytes.ends_with(b"/.") || bytes == b"." {
        return None;
    }
    let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Some((above, path.file_name()?))
}

fn open_dir(path: &Path) -> Result<OwnedFd, CliError> {
    let opened = File::open(path).and_then(|dir| {
        if dir.metadata()?.is_dir() { Ok(dir) } else { Err(io::ErrorKind::NotADirectory.into()) }
    });
    opened.map(OwnedFd::from).map_err(|error| message(format!("{}: {error}", path.display())))
}

async fn out_of(context: &Context, name: &str, path: &str, to: &Path, keep: bool) -> Result<(), CliError> {
    let target = target::single(context, name)?;
    let content_only = path.ends_with("/.") || path == ".";
    let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or("");
    let (dir, new) = if to.is_dir() {
        let new = (!content_only && !matches!(last, "" | "." | "..")).then(|| last.as_bytes().to_vec());
        (open_dir(to)?, new)
    } else {
        let trimmed = Path::new(std::ffi::OsStr::from_bytes(trim(to.as_os_str().as_bytes())));
        let (above, new) =
            split(trimmed).ok_or_else(|| message(format!("{}: not a directory", to.display())))?;
        (open_dir(above)?, Some(new.as_bytes().to_vec()))
    };
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let options = UnpackOptions { name: new, owner: (!keep).then_some(own) };
    let url = target.sub(&["copyfrom"]).query("path", path);
    let (stream, read) = context.client.upgrade(url.as_str()).await?;
    let (pieces, waiting) = mpsc::channel(WAITING);
    let unpacking = tokio::task::spawn_blocking(move || {
        copy::unpack(&dir, BufReader::with_capacity(channels::MAX, FromFrames::new(waiting)), &options)
    });
    let mut frames = Reader::new(stream, &read);
    let told = loop {
        match frames.next().await {
            Ok(Some(Frame { channel: channels::STDOUT, payload })) => {
                if pieces.send(Ok(payload)).await.is_err() {
                    // Why, it says itself.
                    break Ok(());
                }
            }
            Ok(Some(Frame { channel: channels::STATUS, payload })) => {
                let status = serde_json::from_slice(&payload).unwrap_or_default();
                break channels::exit_code(&status).map(drop);
            }
            Ok(Some(_)) => {}
            Ok(None) => break Err("the connection to the agent broke off".to_owned()),
            Err(error) => break Err(format!("the connection to the agent broke off: {error}")),
        }
    };
    if let Err(why) = told {
        // So that a part is not taken for the whole.
        let _ = pieces.send(Err(io::ErrorKind::UnexpectedEof.into())).await;
        let _ = unpacking.await;
        return Err(message(why));
    }
    drop(pieces);
    finish(unpacking.await)
}

fn trim(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|b| *b != b'/').map_or(1, |at| at + 1);
    &path[..end.min(path.len())]
}

fn finish(done: Result<Result<(), copy::CopyError>, tokio::task::JoinError>) -> Result<(), CliError> {
    match done {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(message(crate::effects::chain(&error))),
        Err(error) => Err(message(format!("copying failed: {error}"))),
    }
}

async fn into(context: &Context, from: &Path, name: &str, path: &str, keep: bool) -> Result<(), CliError> {
    let target = target::single(context, name)?;
    let bytes = from.as_os_str().as_bytes();
    let content_only = bytes.ends_with(b"/.") || bytes == b".";
    let (dir, what, new) = match split(Path::new(std::ffi::OsStr::from_bytes(trim(bytes)))) {
        Some((above, name)) if !content_only => {
            let dir = open_dir(above)?;
            rustix::fs::statat(&dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| message(format!("{}: {error}", from.display())))?;
            let new =
                name.to_str().ok_or_else(|| message(format!("{}: its name is no text", from.display())))?;
            (dir, name.as_bytes().to_vec(), Some(new.to_owned()))
        }
        _ => (open_dir(from)?, Vec::new(), None),
    };
    let url = target
        .sub(&["copyto"])
        .query("path", if path.is_empty() { "/" } else { path })
        .maybe("name", new.as_deref())
        .maybe("archive", keep.then_some("true"));
    let (stream, read) = context.client.upgrade(url.as_str()).await?;
    let (pieces, mut waiting) = mpsc::channel::<Vec<u8>>(WAITING);
    let packing = tokio::task::spawn_blocking(move || {
        let mut out = BufWriter::with_capacity(channels::MAX, Pieces(pieces));
        let packed = copy::pack(&dir, &what, &mut out);
        let flushed = packed.is_ok() && out.flush().is_ok();
        let _ = out.into_parts();
        (packed, flushed)
    });
    let (from_agent, mut to) = stream.into_split();
    let mut frames = Reader::new(from_agent, &read);
    let mut status = None;
    while status.is_none() {
        tokio::select! {
            piece = waiting.recv() => match piece {
                Some(piece) => {
                    // Should the agent have given up, it has said why.
                    let _ = channels::write(&mut to, channels::STDIN, &piece).await;
                }
                None => break,
            },
            frame = frames.next() => status = Some(frame),
        }
    }
    drop(waiting);
    let (packed, flushed) = packing.await.map_err(|error| message(format!("copying failed: {error}")))?;
    if status.is_none() {
        // Without this word the agent takes what came for a part.
        finish(Ok(packed))?;
        if flushed {
            let _ = channels::write(&mut to, channels::CLOSE, &[channels::STDIN]).await;
        }
        status = Some(frames.next().await);
    }
    match status {
        Some(Ok(Some(Frame { channel: channels::STATUS, payload }))) => {
            let status = serde_json::from_slice(&payload).unwrap_or_default();
            channels::exit_code(&status).map(drop).map_err(CliError::Message)
        }
        _ => Err(message("the connection to the agent broke off")),
    }
}

struct Pieces(mpsc::Sender<Vec<u8>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(channels::MAX)];
        self.0.blocking_send(piece.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_containers_are_told_from_those_of_here() {
        assert_eq!(remote("web:/etc"), Some(("web", "/etc")));
        assert_eq!(remote("web:"), Some(("web", "")));
        for here in ["./web:/etc", "/web:/etc", "file", "../a:b", ":x"] {
            assert_eq!(remote(here), None, "{here}");
        }
    }

    #[test]
    fn a_path_of_here_is_split_unless_it_names_a_directory() {
        assert_eq!(split(Path::new("a/b")), Some((Path::new("a"), std::ffi::OsStr::new("b"))));
        assert_eq!(split(Path::new("b")), Some((Path::new("."), std::ffi::OsStr::new("b"))));
        for whole in ["a/", "a/.", ".", "/", ".."] {
            assert_eq!(split(Path::new(whole)), None, "{whole}");
        }
        assert_eq!(trim(b"a//"), b"a");
        assert_eq!(trim(b"/"), b"/");
    }
}
