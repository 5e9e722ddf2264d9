//! This side of a command's streams: standard input and output, a terminal in raw mode, its size, and the keys that leave.

use std::{
    io::{IsTerminal, Read, Write},
    os::fd::AsFd,
};

use rustix::termios::{OptionalActions, Termios};
use tokio::{
    net::UnixStream,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::error::CliError;
use crate::channels::{self, Frame, Reader};

/// Refuses a terminal where there is none, and tells the size of ours.
pub(super) fn check(tty: bool, stdin: bool) -> Result<Option<(u16, u16)>, CliError> {
    if !tty {
        return Ok(None);
    }
    if stdin && !std::io::stdin().is_terminal() {
        return Err(CliError::Message(
            "the input device is not a TTY: leave out -t, or run this from a terminal".to_owned(),
        ));
    }
    Ok(Some(size().unwrap_or((0, 0))))
}

/// `(rows, columns)` of the terminal that we write to, or read from.
pub(super) fn size() -> Option<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout())
        .or_else(|_| rustix::termios::tcgetwinsize(std::io::stdin()))
        .ok()?;
    Some((size.ws_row, size.ws_col))
}

/// Reads keys as Docker has them: `ctrl-p,ctrl-q`, `a`, `ctrl-@`.
pub(super) fn keys(text: &str) -> Result<Vec<u8>, CliError> {
    let key = |word: &str| match word.as_bytes() {
        [one] => Some(*one),
        [b'c', b't', b'r', b'l', b'-', one @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => {
            Some(one.to_ascii_uppercase() & 0x1f)
        }
        _ => None,
    };
    text.split(',').map(key).collect::<Option<Vec<u8>>>().filter(|keys| !keys.is_empty()).ok_or_else(|| {
        CliError::Message(format!(
            "--detach-keys: {text:?} are none: give letters or ctrl- with a letter or one of @[\\]^_, separated by commas"
        ))
    })
}

/// Our terminal in raw mode, until this is dropped.
#[derive(Debug)]
struct Raw(Termios);

impl Raw {
    fn new() -> Option<Self> {
        let stdin = std::io::stdin();
        let former = rustix::termios::tcgetattr(&stdin).ok()?;
        let mut raw = former.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(&stdin, OptionalActions::Now, &raw).ok()?;
        Some(Self(former))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Finds the keys that leave in what is typed. A beginning of them is held back until it is known to be no more than that.
#[derive(Debug)]
struct Keys {
    keys: Vec<u8>,
    held: usize,
}

impl Keys {
    /// What to send on, and whether the keys were typed.
    fn take(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(typed.len());
        for byte in typed {
            if self.keys.get(self.held) == Some(byte) {
                self.held += 1;
                if self.held == self.keys.len() {
                    return (out, true);
                }
                continue;
            }
            out.extend_from_slice(&self.keys[..self.held]);
            self.held = usize::from(self.keys.first() == Some(byte));
            if self.held == 0 {
                out.push(*byte);
            }
        }
        (out, false)
    }
}

/// A conversation with a command.
#[derive(Debug)]
pub(super) struct Talk {
    /// It has a terminal.
    pub(super) tty: bool,
    /// It gets our standard input.
    pub(super) stdin: bool,
    /// The keys that leave it.
    pub(super) keys: Vec<u8>,
}

impl Talk {
    /// Talks to the end; the error says the command's exit code.
    pub(super) async fn over(self, (stream, read): (UnixStream, Vec<u8>)) -> Result<(), CliError> {
        let raw = if self.tty && self.stdin { Raw::new() } else { None };
        let result = self.talk(stream, &read).await;
        drop(raw);
        match result? {
            End::Code(0) | End::Detached => Ok(()),
            End::Code(code) => {
                super::context::note(format!("command terminated with exit code {code}"));
                Err(CliError::Told(u8::try_from(code).unwrap_or(255)))
            }
            End::Signal(number) => Err(CliError::Told(u8::try_from(128 + number).unwrap_or(255))),
        }
    }

    async fn talk(self, stream: UnixStream, read: &[u8]) -> Result<End, CliError> {
        let broken =
            |what: String| CliError::Message(format!("the connection to the agent broke off: {what}"));
        let (from, mut to) = stream.into_split();
        let mut frames = Reader::new(from, read);
        let mut typed = typed(self.stdin);
        let mut keys = Keys { keys: self.keys, held: 0 };
        let of = |kind| signal(kind).map_err(|e| CliError::Message(format!("cannot take signals: {e}")));
        let mut resized = of(SignalKind::window_change())?;
        let (mut term, mut int) = (of(SignalKind::terminate())?, of(SignalKind::interrupt())?);
        let (mut hup, mut quit) = (of(SignalKind::hangup())?, of(SignalKind::quit())?);
        let mut open = self.stdin;
        loop {
            let sent = tokio::select! {
                frame = frames.next() => match frame {
                    Ok(Some(Frame { channel, payload })) => {
                        if let Some(end) = show(channel, &payload)? {
                            return Ok(end);
                        }
                        continue;
                    }
                    Ok(None) => return Err(broken("the agent has ended, and the command with it".to_owned())),
                    Err(error) => return Err(broken(error.to_string())),
                },
                bytes = typed.recv(), if open => match bytes {
                    Some(bytes) if self.tty => {
                        let (bytes, leave) = keys.take(&bytes);
                        if !bytes.is_empty() {
                            // Whether it was taken, the next frame tells.
                            let _ = channels::write(&mut to, channels::STDIN, &bytes).await;
                        }
                        if leave {
                            let _ = channels::write(&mut to, channels::DETACH, &[]).await;
                            super::context::note("\rread escape sequence\r");
                            return Ok(End::Detached);
                        }
                        continue;
                    }
                    Some(bytes) => channels::write(&mut to, channels::STDIN, &bytes).await,
                    None => {
                        open = false;
                        channels::write(&mut to, channels::CLOSE, &[channels::STDIN]).await
                    }
                },
                _ = resized.recv(), if self.tty => match size() {
                    Some((rows, columns)) => {
                        channels::write(&mut to, channels::RESIZE, &channels::resize(rows, columns)).await
                    }
                    None => continue,
                },
                _ = term.recv() => return Ok(End::Signal(15)),
                _ = int.recv() => return Ok(End::Signal(2)),
                _ = hup.recv() => return Ok(End::Signal(1)),
                _ = quit.recv() => return Ok(End::Signal(3)),
            };
            if sent.is_err() {
                // The agent reads no more; what it says last is still to come.
                open = false;
            }
        }
    }
}

/// How a conversation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Code(i32),
    Detached,
    /// We were told to end.
    Signal(i32),
}

fn show(channel: u8, payload: &[u8]) -> Result<Option<End>, CliError> {
    match channel {
        channels::STDOUT => super::context::print(payload).map(|()| None),
        channels::STDERR => {
            let mut err = std::io::stderr().lock();
            // Nobody is left to tell when standard error is closed.
            let _ = err.write_all(payload).and_then(|()| err.flush());
            Ok(None)
        }
        channels::STATUS => {
            let status = serde_json::from_slice(payload).unwrap_or_default();
            channels::exit_code(&status).map(|code| Some(End::Code(code))).map_err(CliError::Message)
        }
        _ => Ok(None),
    }
}

/// Standard input in pieces, by a thread of its own: a read of it cannot be taken back, and the process does not wait for it.
fn typed(wanted: bool) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(2);
    if wanted {
        std::thread::spawn(move || {
            let mut stdin = std::fs::File::from(match std::io::stdin().as_fd().try_clone_to_owned() {
                Ok(fd) => fd,
                Err(_) => return,
            });
            let mut piece = vec![0; 16 << 10];
            loop {
                match stdin.read(&mut piece) {
                    Ok(0) => return,
                    Ok(len) => {
                        if sender.blocking_send(piece[..len].to_vec()).is_err() {
                            return;
                        }
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(_) => return,
                }
            }
        });
    }
    receiver
}

#[cfg(test)]
mod tests;
