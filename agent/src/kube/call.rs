//! Calls to the API server: made by whoever wants something of it, within bounds of time and size, and counted.

use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::http::{self, Method, Request, Response, StatusCode, header};
use jiff::Timestamp;
use kube::client::Body;
use serde_json::Value;

use super::{Cluster, client::ConnectError};

/// How long a server may take to answer; its own bound is 60 s.
const ANSWER: Duration = Duration::from_secs(65);
/// The longest refusal that is read, in bytes.
const MAX_STATUS: usize = 64 << 10;
/// The longest time that a server is believed to need before it can be asked again.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// There is nothing to call with.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The server did not answer, or the answer broke off.
    #[error("cannot reach the API server {server}")]
    Unreachable {
        /// The server.
        server: String,
        #[source]
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It took too long.
    #[error("the API server {server} did not answer within {} s", .after.as_secs())]
    Timeout {
        /// The server.
        server: String,
        /// How long it had.
        after: Duration,
    },
    /// The server answered, and it is a refusal.
    #[error("the API server {server} refused to {what}: {refusal}")]
    Refused {
        /// The server.
        server: String,
        /// Method and path.
        what: String,
        /// What it said.
        refusal: Box<Refusal>,
    },
    /// What it answered is longer than what is read.
    #[error("the answer of the API server {server} is longer than {most} bytes")]
    TooLong {
        /// The server.
        server: String,
        /// The most.
        most: usize,
    },
    /// It is the server of another cluster.
    #[error(
        "the API server {server} is that of another cluster ({found}) than the objects of this node were accepted from ({known}): \
         name the right one, or end the agent and remove ledger/kube.journal in its data root to give those objects up"
    )]
    OtherCluster {
        /// The server.
        server: String,
        /// The cluster that it is of.
        found: String,
        /// The one that was expected.
        known: String,
    },
    /// What it answered is none.
    #[error("the API server {server} answered what is no {what}")]
    Malformed {
        /// The server.
        server: String,
        /// What was expected.
        what: &'static str,
    },
}

/// A `Status` of the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The HTTP status.
    pub code: u16,
    /// The word for programs, such as `Forbidden`.
    pub reason: String,
    /// For people.
    pub message: String,
    /// The object that it is about.
    pub name: Option<String>,
    /// When to ask again.
    pub retry_after: Option<Duration>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): {}", self.reason, self.code, self.message)
    }
}

impl Refusal {
    /// From the body of an answer or of an `ERROR` of a watch.
    pub(super) fn of(code: u16, status: &Value) -> Self {
        let text = |name: &str| status[name].as_str().unwrap_or_default();
        let code = status["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(code);
        let reason = match text("reason") {
            "" => {
                StatusCode::from_u16(code).ok().and_then(|code| code.canonical_reason()).unwrap_or("Unknown")
            }
            reason => reason,
        };
        let seconds = status["details"]["retryAfterSeconds"].as_u64().filter(|seconds| *seconds > 0);
        Self {
            code,
            reason: clip(reason, 64),
            message: clip(text("message"), 1024),
            name: status["details"]["name"].as_str().map(|name| clip(name, 253)),
            retry_after: seconds.map(Duration::from_secs).map(|after| after.min(MAX_RETRY_AFTER)),
        }
    }
}

/// The beginning of a text that somebody else wrote, without control characters.
fn clip(text: &str, most: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(most).collect()
}

impl CallError {
    /// What the server said, if it said anything.
    pub(crate) fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal),
            _ => None,
        }
    }

    /// The server says that there is no such object. That it knows no such path, or that somebody in between knows no such
    /// server, is something else: neither names an object.
    pub(crate) fn is_not_found(&self) -> bool {
        let says =
            |refusal: &Refusal| refusal.code == 404 && refusal.reason == "NotFound" && refusal.name.is_some();
        self.refusal().is_some_and(says)
    }

    /// What was asked to go on from is forgotten: only a list tells what is there.
    pub(crate) fn is_expired(&self) -> bool {
        self.refusal().is_some_and(|refusal| refusal.code == 410)
    }
}

impl Cluster {
    /// Asks the server, and gives its answer once it begins. A refusal is an error.
    ///
    /// # Errors
    /// When there is no client, no answer, or a refusal.
    pub(crate) async fn send(
        &self,
        verb: &'static str,
        request: Request<Vec<u8>>,
    ) -> Result<Response<Body>, CallError> {
        let result = self.try_send(verb, request).await;
        self.note(result.as_ref().err());
        result
    }

    async fn try_send(
        &self,
        verb: &'static str,
        request: Request<Vec<u8>>,
    ) -> Result<Response<Body>, CallError> {
        let count = |code: &str| self.metrics.requests.with_label_values(&[verb, code]).inc();
        let (client, server) = self.connection().await.inspect_err(|_| count("<error>"))?;
        let what = format!("{verb} {}", request.uri().path());
        let sent = tokio::time::timeout(ANSWER, client.send(request.map(Body::from))).await;
        let response = match sent {
            Ok(Ok(response)) => response,
            Ok(Err(source)) => {
                count("<error>");
                // What it was made of may have been renewed in a way that cannot be seen.
                self.distrust().await;
                return Err(CallError::Unreachable { server, source: Box::new(source) });
            }
            Err(_) => {
                count("<error>");
                self.distrust().await;
                return Err(CallError::Timeout { server, after: ANSWER });
            }
        };
        let status = response.status();
        count(status.as_str());
        if status.is_success() {
            return Ok(response);
        }
        if status == StatusCode::UNAUTHORIZED {
            self.distrust().await;
        }
        let header = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        let header = header.and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let body = read(response.into_body(), MAX_STATUS, &server).await.unwrap_or_default();
        let said = serde_json::from_slice::<Value>(&body).unwrap_or_else(|_| {
            // A proxy in between does not speak as the server does.
            serde_json::json!({"message": String::from_utf8_lossy(&body)})
        });
        let mut refusal = Refusal::of(status.as_u16(), &said);
        refusal.code = status.as_u16();
        refusal.retry_after = header.map(|after| after.min(MAX_RETRY_AFTER)).or(refusal.retry_after);
        Err(CallError::Refused { server, what, refusal: Box::new(refusal) })
    }

    /// Asks for JSON of at most `most` bytes.
    ///
    /// # Errors
    /// As [`Cluster::send`], and when the answer is too long or no JSON.
    pub(crate) async fn json(
        &self,
        verb: &'static str,
        request: Request<Vec<u8>>,
        most: usize,
    ) -> Result<Value, CallError> {
        let server = self.server();
        let response = self.send(verb, request).await?;
        let body = read(response.into_body(), most, &server).await?;
        serde_json::from_slice(&body).map_err(|_| CallError::Malformed { server, what: "JSON" })
    }

    /// Keeps what a call says of the connection.
    pub(super) fn note(&self, error: Option<&CallError>) {
        let now = Timestamp::now();
        let trouble = error.filter(|error| match error.refusal() {
            // An answer to the question; the server is well and knows the agent.
            Some(refusal) => refusal.code == 401 || refusal.code == 429 || refusal.code >= 500,
            None => true,
        });
        match trouble {
            None => self.heard(now),
            Some(error) => self.failed(now, error),
        }
    }
}

/// Reads a body to its end, if that comes soon enough.
pub(super) async fn read(body: Body, most: usize, server: &str) -> Result<Vec<u8>, CallError> {
    let limited = Limited::new(body, most).collect();
    match tokio::time::timeout(ANSWER, limited).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes().to_vec()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err(CallError::TooLong { server: server.to_owned(), most })
        }
        Ok(Err(source)) => Err(CallError::Unreachable { server: server.to_owned(), source }),
        Err(_) => Err(CallError::Timeout { server: server.to_owned(), after: ANSWER }),
    }
}

/// A request without a body.
pub(crate) fn get(path_and_query: &str) -> Request<Vec<u8>> {
    request(Method::GET, path_and_query, None, Vec::new())
}

/// A request. The path is made of checked names, so it is one.
pub(crate) fn request(
    method: Method,
    path_and_query: &str,
    content_type: Option<&'static str>,
    body: Vec<u8>,
) -> Request<Vec<u8>> {
    let mut builder = Request::builder().method(method).uri(path_and_query);
    builder = builder.header(header::ACCEPT, "application/json");
    // For the server's audit log, and its rules of priority and fairness.
    builder = builder.header(header::USER_AGENT, concat!("stower-agent/", env!("CARGO_PKG_VERSION")));
    if let Some(content_type) = content_type {
        builder = builder.header(header::CONTENT_TYPE, content_type);
    }
    builder.body(body).unwrap_or_else(|error: http::Error| {
        unreachable!("a path of checked names is one: {path_and_query}: {error}")
    })
}
