//! The command line's way to the agent: HTTP/1.1 over the unix socket, one connection a request.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::args::SOCKET_ENV;

/// How long the agent may take to begin its answer. Longer than the agent's own deadline for its reconcile loop.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);
/// The most that is read of an answer that is not streamed.
const MAX_ANSWER: usize = 256 << 20;
/// The longest line of a stream.
const MAX_LINE: usize = 16 << 20;

/// Why a request got no answer, or a refusal.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "the agent does not answer on {}: is it running? start it with `stower agent`, or name its socket with --socket or {SOCKET_ENV}",
        socket.display()
    )]
    NoAgent {
        /// The socket.
        socket: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The socket is not for this user.
    #[error("permission denied on {}: run this as root (sudo), or as a member of the socket's group", socket.display())]
    Denied {
        /// The socket.
        socket: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The agent went away in the middle, or speaks something else.
    #[error("the connection to the agent on {} broke off: {what}", socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// What happened.
        what: String,
    },
    /// The agent answered with a refusal.
    #[error("Error from server ({}): {}", .0.reason, .0.message)]
    Status(Status),
}

/// A Kubernetes `Status` that says no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The HTTP status.
    pub code: u16,
    /// The word for programs, such as `NotFound`.
    pub reason: String,
    /// For a person.
    pub message: String,
}

impl Status {
    /// Reads an answer that is not a success, whoever wrote it.
    #[must_use]
    pub fn read(code: u16, body: &[u8]) -> Self {
        let value: Value = serde_json::from_slice(body).unwrap_or_default();
        Self::of(&value, code).unwrap_or_else(|| Self {
            code,
            reason: StatusCode::from_u16(code)
                .ok()
                .and_then(|code| code.canonical_reason())
                .unwrap_or("Unknown")
                .replace(' ', ""),
            message: String::from_utf8_lossy(body).trim().to_owned(),
        })
    }

    /// Takes a `Status` object as one; `None` for anything else.
    #[must_use]
    pub fn of(value: &Value, code: u16) -> Option<Self> {
        (value["kind"] == "Status").then(|| Self {
            code: value["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(code),
            reason: value["reason"].as_str().unwrap_or("Unknown").to_owned(),
            message: value["message"].as_str().unwrap_or_default().to_owned(),
        })
    }
}

impl ClientError {
    /// Whether the agent said that the thing is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Status(status) if status.code == 404)
    }

    /// Whether a watch must begin anew with a list.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Status(status) if status.code == 410)
    }
}

/// A body to send, with its media type.
#[derive(Debug, Clone)]
pub struct Content {
    /// The media type.
    pub media_type: &'static str,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Content {
    /// JSON.
    #[must_use]
    pub fn json(value: &Value) -> Self {
        Self { media_type: "application/json", bytes: value.to_string().into_bytes() }
    }

    /// An object to apply.
    #[must_use]
    pub fn apply(value: &Value) -> Self {
        Self { media_type: "application/apply-patch+yaml", bytes: value.to_string().into_bytes() }
    }
}

/// Talks to one agent.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client for the agent on this socket; connects with each request.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The socket it talks to.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks for JSON.
    ///
    /// # Errors
    /// When the agent does not answer, or refuses.
    pub async fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.json(Method::GET, path, None).await
    }

    /// Sends a request and reads its JSON answer.
    ///
    /// # Errors
    /// When the agent does not answer, or refuses.
    pub async fn json(
        &self,
        method: Method,
        path: &str,
        content: Option<Content>,
    ) -> Result<Value, ClientError> {
        let response = self.send(method, path, content, Some(ANSWER_DEADLINE)).await?;
        let bytes = self.read(response).await?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes)
            .map_err(|error| self.broken(format!("its answer is not JSON: {error}")))
    }

    /// Applies an object and tells what that changed: `created`, `configured` or `unchanged`.
    ///
    /// # Errors
    /// When the agent does not answer, or refuses.
    pub async fn apply(&self, path: &str, object: &Value) -> Result<(Value, String), ClientError> {
        let response =
            self.send(Method::PATCH, path, Some(Content::apply(object)), Some(ANSWER_DEADLINE)).await?;
        let outcome =
            response.headers().get(crate::api::OUTCOME_HEADER).and_then(|outcome| outcome.to_str().ok());
        let outcome = outcome.unwrap_or("applied").to_owned();
        let bytes = self.read(response).await?;
        let object = serde_json::from_slice(&bytes)
            .map_err(|error| self.broken(format!("its answer is not JSON: {error}")))?;
        Ok((object, outcome))
    }

    /// Asks for text.
    ///
    /// # Errors
    /// When the agent does not answer, or refuses.
    pub async fn text(&self, path: &str) -> Result<String, ClientError> {
        let response = self.send(Method::GET, path, None, Some(ANSWER_DEADLINE)).await?;
        let bytes = self.read(response).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Sends a request whose answer comes piece by piece, or late.
    ///
    /// # Errors
    /// When the agent does not answer, or refuses.
    pub async fn stream(
        &self,
        method: Method,
        path: &str,
        content: Option<Content>,
    ) -> Result<Stream, ClientError> {
        let response = self.send(method, path, content, None).await?;
        Ok(Stream { body: response.into_body(), buffer: Vec::new(), client: self.clone() })
    }

    /// Asks for something that is talked over channels ([`crate::channels`]): the bare connection, and what was read of it
    /// already.
    ///
    /// # Errors
    /// When the agent does not answer, or refuses.
    pub async fn upgrade(&self, path: &str) -> Result<(UnixStream, Vec<u8>), ClientError> {
        let response = self.exchange(Method::POST, path, None, true);
        let response = tokio::time::timeout(ANSWER_DEADLINE, response)
            .await
            .map_err(|_| self.broken(format!("no answer within {} s", ANSWER_DEADLINE.as_secs())))??;
        let code = response.status();
        if code != StatusCode::SWITCHING_PROTOCOLS {
            let bytes = self.read(response).await?;
            return Err(ClientError::Status(Status::read(code.as_u16(), &bytes)));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|error| self.broken(describe(&error)))?;
        let parts = upgraded
            .downcast::<TokioIo<UnixStream>>()
            .map_err(|_| self.broken("the connection cannot be taken over".to_owned()))?;
        Ok((parts.io.into_inner(), parts.read_buf.to_vec()))
    }

    async fn read(&self, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        let body = http_body_util::Limited::new(response.into_body(), MAX_ANSWER);
        Ok(body.collect().await.map_err(|error| self.broken(error.to_string()))?.to_bytes())
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        content: Option<Content>,
        deadline: Option<Duration>,
    ) -> Result<Response<Incoming>, ClientError> {
        let answer = self.exchange(method, path, content, false);
        let response = match deadline {
            None => answer.await?,
            Some(limit) => tokio::time::timeout(limit, answer)
                .await
                .map_err(|_| self.broken(format!("no answer within {} s", limit.as_secs())))??,
        };
        let code = response.status();
        if code.is_success() {
            return Ok(response);
        }
        let bytes = self.read(response).await?;
        Err(ClientError::Status(Status::read(code.as_u16(), &bytes)))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        content: Option<Content>,
        upgrade: bool,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = connect(&self.socket).await.map_err(|source| {
            let socket = self.socket.clone();
            if source.kind() == io::ErrorKind::PermissionDenied {
                ClientError::Denied { socket, source }
            } else {
                ClientError::NoAgent { socket, source }
            }
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(describe(&error)))?;
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "stower")
            .header(header::ACCEPT, "application/json, text/plain, */*")
            .header(header::USER_AGENT, concat!("stower/", env!("CARGO_PKG_VERSION")));
        if upgrade {
            request = request
                .header(header::CONNECTION, "Upgrade")
                .header(header::UPGRADE, crate::channels::PROTOCOL);
        }
        let body = content.map_or_else(Bytes::new, |content| {
            if let Some(headers) = request.headers_mut() {
                headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content.media_type));
            }
            content.bytes.into()
        });
        let request = request.body(Full::new(body)).map_err(|error| self.broken(error.to_string()))?;
        sender.send_request(request).await.map_err(|error| self.broken(describe(&error)))
    }

    fn broken(&self, what: String) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), what }
    }
}

/// hyper's own words, and the system's behind them.
fn describe(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

/// Connects to a socket, also to one whose path is longer than an address may be (108 bytes, unix(7)).
async fn connect(path: &Path) -> io::Result<UnixStream> {
    use std::os::fd::AsRawFd;
    if path.as_os_str().len() < 108 {
        return UnixStream::connect(path).await;
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let parent = std::fs::File::open(parent)?;
    UnixStream::connect(PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name)).await
}

/// An answer that comes piece by piece.
#[derive(Debug)]
pub struct Stream {
    body: Incoming,
    buffer: Vec<u8>,
    client: Client,
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
                Some(Err(error)) => return Err(self.client.broken(describe(&error))),
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

/// Builds a path with a query: each value is percent-encoded (RFC 3986).
#[derive(Debug, Clone)]
pub struct Url(String, bool);

impl Url {
    /// A path of segments, each encoded.
    #[must_use]
    pub fn new(segments: &[&str]) -> Self {
        let mut path = String::new();
        for segment in segments {
            path.push('/');
            encode(segment, &mut path);
        }
        Self(path, false)
    }

    /// Adds a query parameter.
    #[must_use]
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.0.push(if self.1 { '&' } else { '?' });
        self.1 = true;
        encode(name, &mut self.0);
        self.0.push('=');
        encode(value, &mut self.0);
        self
    }

    /// Adds a query parameter when there is a value.
    #[must_use]
    pub fn maybe(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    /// The path and query.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn encode(text: &str, out: &mut String) {
    use std::fmt::Write;
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests;
