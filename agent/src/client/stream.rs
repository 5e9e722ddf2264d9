//! Answers that come piece by piece.

use http_body_util::BodyExt;
use hyper::body::Bytes;
use serde_json::Value;

use super::{Body, Client, ClientError, Status, chain};

/// The longest line of a stream.
const MAX_LINE: usize = 16 << 20;

/// An answer that comes piece by piece.
#[derive(Debug)]
pub struct Stream {
    pub(super) body: Body,
    pub(super) buffer: Vec<u8>,
    pub(super) client: Client,
}

impl Stream {
    /// The next bytes as they come; `None` at the end.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        if !self.buffer.is_empty() {
            return Ok(Some(std::mem::take(&mut self.buffer).into()));
        }
        self.more().await
    }

    async fn more(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(self.client.broken(chain(&*error))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// The next line without its end; `None` after the last.
    ///
    /// # Errors
    /// When the connection breaks, or a line is longer than 16 MiB.
    pub async fn line(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        let mut seen = 0;
        loop {
            if let Some(at) = self.buffer[seen..].iter().position(|&b| b == b'\n') {
                let mut line: Vec<u8> = self.buffer.drain(..=seen + at).collect();
                line.pop();
                return Ok(Some(line));
            }
            seen = self.buffer.len();
            if seen > MAX_LINE {
                return Err(self.client.broken("a line of its answer is too long".to_owned()));
            }
            match self.more().await? {
                Some(data) => self.buffer.extend_from_slice(&data),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Ok(Some(std::mem::take(&mut self.buffer))),
            }
        }
    }

    /// The next line as JSON; `None` after the last.
    ///
    /// # Errors
    /// When the connection breaks, the line is not JSON, or it is a `Status` that says no.
    pub async fn event(&mut self) -> Result<Option<Value>, ClientError> {
        let Some(line) = self.line().await? else { return Ok(None) };
        let value: Value = serde_json::from_slice(&line)
            .map_err(|error| self.client.broken(format!("a line of its answer is not JSON: {error}")))?;
        let object = if value["type"] == "ERROR" { &value["object"] } else { &value };
        match Status::of(object, 500) {
            Some(status) => Err(ClientError::Status(status)),
            None => Ok(Some(value)),
        }
    }
}
