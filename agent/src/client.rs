//! The command line's way to an agent (HTTP/1.1 over its unix socket, one connection a request), or to the API server of a cluster.
//! Both speak the same REST.

mod cluster;
mod stream;
mod url;

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{Method, Request, Response, StatusCode, body::Bytes, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

pub use self::{
    cluster::{Cluster, ClusterError},
    stream::Stream,
    url::Url,
};
use crate::args::SOCKET_ENV;

/// How long the agent may take to begin its answer. Longer than the agent's own deadline for its reconcile loop.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);
/// The most that is read of an answer that is not streamed.
const MAX_ANSWER: usize = 256 << 20;

/// An answer's body, whoever it comes from.
type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

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
    /// The API server is not to be reached.
    #[error("the API server at {server} does not answer: {what}")]
    NoServer {
        /// Its address.
        server: String,
        /// What happened.
        what: String,
    },
    /// Whoever answers went away in the middle, or speaks something else.
    #[error("the connection to {peer} broke off: {what}")]
    Broken {
        /// Who it is.
        peer: String,
        /// What happened.
        what: String,
    },
    /// The answer is a refusal.
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

    /// Whether the thing is not as it was thought to be.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Status(status) if status.code == 409)
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

    /// What to change of an object: fields that are null go (RFC 7386).
    #[must_use]
    pub fn merge(value: &Value) -> Self {
        Self { media_type: "application/merge-patch+json", bytes: value.to_string().into_bytes() }
    }

    /// An object to apply.
    #[must_use]
    pub fn apply(value: &Value) -> Self {
        Self { media_type: "application/apply-patch+yaml", bytes: value.to_string().into_bytes() }
    }
}

/// Talks to one agent, or to one API server.
#[derive(Debug, Clone)]
pub struct Client(Peer);

#[derive(Debug, Clone)]
enum Peer {
    Agent(PathBuf),
    Server(Cluster),
}

impl Client {
    /// A client for the agent on this socket; connects with each request.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self(Peer::Agent(socket.into()))
    }

    /// A client for the API server of a cluster.
    #[must_use]
    pub fn of_cluster(cluster: Cluster) -> Self {
        Self(Peer::Server(cluster))
    }

    /// Whether it talks to an API server, and not to an agent.
    #[must_use]
    pub fn is_cluster(&self) -> bool {
        matches!(self.0, Peer::Server(_))
    }

    /// The client of the API server that it talks to.
    #[must_use]
    pub fn of_kube(&self) -> Option<&kube::Client> {
        match &self.0 {
            Peer::Agent(_) => None,
            Peer::Server(cluster) => Some(cluster.kube()),
        }
    }

    /// Who answers, for people.
    #[must_use]
    pub fn peer(&self) -> String {
        match &self.0 {
            Peer::Agent(socket) => format!("the agent on {}", socket.display()),
            Peer::Server(cluster) => format!("the API server at {}", cluster.server()),
        }
    }

    /// Asks for JSON.
    ///
    /// # Errors
    /// When nobody answers, or it is refused.
    pub async fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.json(Method::GET, path, None).await
    }

    /// Sends a request and reads its JSON answer.
    ///
    /// # Errors
    /// When nobody answers, or it is refused.
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
    /// When nobody answers, or it is refused.
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
    /// When nobody answers, or it is refused.
    pub async fn text(&self, path: &str) -> Result<String, ClientError> {
        let response = self.send(Method::GET, path, None, Some(ANSWER_DEADLINE)).await?;
        let bytes = self.read(response).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Sends a request whose answer comes piece by piece, or late.
    ///
    /// # Errors
    /// When nobody answers, or it is refused.
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
    /// When nobody answers, or it is refused.
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
        let upgraded = hyper::upgrade::on(response).await.map_err(|error| self.broken(chain(&error)))?;
        let parts = upgraded
            .downcast::<TokioIo<UnixStream>>()
            .map_err(|_| self.broken("the connection cannot be taken over".to_owned()))?;
        Ok((parts.io.into_inner(), parts.read_buf.to_vec()))
    }

    async fn read(&self, response: Response<Body>) -> Result<Bytes, ClientError> {
        let body = http_body_util::Limited::new(response.into_body(), MAX_ANSWER);
        Ok(body.collect().await.map_err(|error| self.broken(chain(&*error)))?.to_bytes())
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        content: Option<Content>,
        deadline: Option<Duration>,
    ) -> Result<Response<Body>, ClientError> {
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
    ) -> Result<Response<Body>, ClientError> {
        let socket = match &self.0 {
            Peer::Agent(socket) => socket,
            Peer::Server(cluster) => return cluster.send(method, path, content).await,
        };
        let stream = connect(socket).await.map_err(|source| {
            let socket = socket.clone();
            if source.kind() == io::ErrorKind::PermissionDenied {
                ClientError::Denied { socket, source }
            } else {
                ClientError::NoAgent { socket, source }
            }
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(chain(&error)))?;
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
        let response = sender.send_request(request).await.map_err(|error| self.broken(chain(&error)))?;
        Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()))
    }

    /// The error of a connection that broke off.
    pub(crate) fn broken(&self, what: impl Into<String>) -> ClientError {
        ClientError::Broken { peer: self.peer(), what: what.into() }
    }
}

/// An error's own words, and what is behind them, each once.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let more = inner.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
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

#[cfg(test)]
mod tests;
