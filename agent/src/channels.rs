//! Channels of an upgraded connection: standard streams, sizes of a terminal and the end of a command over one stream of bytes.
//!
//! A frame is `[u8 channel][u32 length, big endian][payload]`. The numbers and payloads are those of Kubernetes'
//! `v5.channel.k8s.io`, where a message of a WebSocket is what a frame is here; 254 is our own.

use std::io;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What `Upgrade` names in the request and in the answer.
pub const PROTOCOL: &str = "channels.stower.dev/v1";

/// Bytes for the command.
pub const STDIN: u8 = 0;
/// Bytes of the command; of its terminal too.
pub const STDOUT: u8 = 1;
/// Bytes of the command.
pub const STDERR: u8 = 2;
/// The last frame of the agent: a `Status` ([`status`]).
pub const STATUS: u8 = 3;
/// The size of the terminal, `{"Width": 80, "Height": 24}`.
pub const RESIZE: u8 = 4;
/// From the client, without payload: goes away, and the command goes on.
pub const DETACH: u8 = 254;
/// From the client: the channel in the payload's one byte ends.
pub const CLOSE: u8 = 255;

/// The longest payload, in bytes.
pub const MAX: usize = 64 << 10;
const HEAD: usize = 5;

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The channel.
    pub channel: u8,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// Reads frames.
#[derive(Debug)]
pub struct Reader<R> {
    inner: R,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// From a stream of which some was read already.
    pub fn new(inner: R, read: &[u8]) -> Self {
        Self { inner, buffer: read.to_vec() }
    }

    /// The next frame; `None` at the end. Nothing is lost when this is dropped before it is done.
    ///
    /// # Errors
    /// When the stream breaks, or a frame is longer than [`MAX`].
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            if self.inner.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }

    /// The stream.
    pub fn get_ref(&self) -> &R {
        &self.inner
    }

    fn take(&mut self) -> io::Result<Option<Frame>> {
        let Some(&[channel, a, b, c, d]) = self.buffer.first_chunk::<HEAD>() else { return Ok(None) };
        let len = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if len > MAX {
            let text = format!("a frame of channel {channel} is longer than {MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        if self.buffer.len() < HEAD + len {
            return Ok(None);
        }
        let rest = self.buffer.split_off(HEAD + len);
        let mut whole = std::mem::replace(&mut self.buffer, rest);
        whole.drain(..HEAD);
        Ok(Some(Frame { channel, payload: whole }))
    }
}

/// Writes one frame of at most [`MAX`] bytes.
///
/// # Errors
/// When the stream breaks.
pub async fn write<W: AsyncWrite + Unpin>(to: &mut W, channel: u8, payload: &[u8]) -> io::Result<()> {
    let len = u32::try_from(payload.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut bytes = Vec::with_capacity(HEAD + payload.len());
    bytes.push(channel);
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes.extend_from_slice(payload);
    to.write_all(&bytes).await
}

/// How a command ended, as Kubernetes tells it: `Success`, or `Failure` with the exit code as a cause.
#[must_use]
pub fn status(code: i32) -> Value {
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("command terminated with exit code {code}"),
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

/// What went wrong with the connection or the command, when there is no exit code.
#[must_use]
pub fn failure(message: &str) -> Value {
    json!({"metadata": {}, "status": "Failure", "message": message, "reason": "InternalError", "code": 500})
}

/// The exit code of a [`status`], or why there is none.
///
/// # Errors
/// The message of a failure.
pub fn exit_code(status: &Value) -> Result<i32, String> {
    if status["status"] == "Success" {
        return Ok(0);
    }
    let causes = status["details"]["causes"].as_array().into_iter().flatten();
    let code = causes.filter(|c| c["reason"] == "ExitCode").find_map(|c| c["message"].as_str()?.parse().ok());
    code.ok_or_else(|| status["message"].as_str().unwrap_or("the command's end is not known").to_owned())
}

/// A size of a terminal as [`RESIZE`] carries it: `(rows, columns)`.
#[must_use]
pub fn size(payload: &[u8]) -> Option<(u16, u16)> {
    let value: Value = serde_json::from_slice(payload).ok()?;
    let number = |name: &str| u16::try_from(value[name].as_u64()?).ok();
    Some((number("Height")?, number("Width")?))
}

/// The other way round.
#[must_use]
pub fn resize(rows: u16, columns: u16) -> Vec<u8> {
    json!({"Width": columns, "Height": rows}).to_string().into_bytes()
}

#[cfg(test)]
mod tests;
