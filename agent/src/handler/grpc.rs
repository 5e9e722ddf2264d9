//! The standard health service of gRPC (`grpc.health.v1.Health/Check`). Its two messages have one field each, so they are written
//! and read here by hand.

use std::sync::Arc;

use hyper::{HeaderMap, Request, body::Bytes};
use stower_crds::{GrpcAction, GrpcMode};
use stower_runtime::ShimHandle;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    HandlerError, Handlers, USER_AGENT, drive,
    http::{handshake, read},
};

/// The longest answer, in bytes: a number has two.
const MAX_ANSWER: usize = 1 << 10;
/// The codes of gRPC, by number.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
/// The code of a server that does not know the service.
const UNIMPLEMENTED: usize = 12;

/// What a program says of its health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Health {
    /// `SERVING`.
    Serving,
    /// Anything else: the status's name, or its number.
    Not(String),
    /// It has no such service; what it says.
    Unimplemented(String),
    /// The call failed; code and message.
    Failed(String),
}

impl Handlers {
    /// Asks the health service on the container's loopback.
    ///
    /// # Errors
    /// When there is no answer.
    pub(crate) async fn health(
        &self,
        container: &Arc<ShimHandle>,
        action: &GrpcAction,
    ) -> Result<Health, HandlerError> {
        let stream = self.connect(container, None, action.port).await?;
        let service = action.service.as_deref().unwrap_or_default();
        match action.mode.unwrap_or_default() {
            GrpcMode::Plaintext => check(stream, "http", action.port, service).await,
            GrpcMode::Tls => {
                let stream = self.tls.over(stream, "localhost", true).await?;
                check(stream, "https", action.port, service).await
            }
        }
    }
}

pub(super) async fn check(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    scheme: &str,
    port: u16,
    service: &str,
) -> Result<Health, HandlerError> {
    let request = Request::post(format!("{scheme}://localhost:{port}/grpc.health.v1.Health/Check"))
        .version(hyper::Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", USER_AGENT)
        .body(())
        .map_err(|error| HandlerError::Request(error.to_string()))?;
    let message = framed(&question(service));
    let (sender, connection) = handshake(stream).await?;
    drive(connection, async move {
        let mut sender = sender.ready().await.map_err(HandlerError::Http2)?;
        let (response, mut body) = sender.send_request(request, false).map_err(HandlerError::Http2)?;
        // A server may refuse without reading it.
        let sent = body.send_data(message, true);
        let (head, mut rest) = response.await.map_err(HandlerError::Http2)?.into_parts();
        if head.status.as_u16() != 200 {
            return Ok(Health::Failed(format!("the server answers by HTTP with {}", head.status)));
        }
        if let Some(failed) = status(&head.headers) {
            return Ok(failed);
        }
        sent.map_err(HandlerError::Http2)?;
        let answer = read(&mut rest, MAX_ANSWER).await?;
        let trailers = rest.trailers().await.map_err(HandlerError::Http2)?;
        if let Some(failed) = trailers.as_ref().and_then(status) {
            return Ok(failed);
        }
        Ok(match unframed(&answer).and_then(serving) {
            Some(1) => Health::Serving,
            Some(0) => Health::Not("UNKNOWN".into()),
            Some(2) => Health::Not("NOT_SERVING".into()),
            Some(3) => Health::Not("SERVICE_UNKNOWN".into()),
            Some(number) => Health::Not(number.to_string()),
            None => Health::Failed("the answer is no HealthCheckResponse".into()),
        })
    })
    .await
}

/// What `grpc-status` says, unless all is well.
fn status(headers: &HeaderMap) -> Option<Health> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let code: usize = match text("grpc-status")?.parse() {
        Ok(0) => return None,
        Ok(code) => code,
        Err(_) => 2,
    };
    let name = CODES.get(code).copied().unwrap_or("Unknown");
    let said = format!("code = {name} desc = {}", text("grpc-message").unwrap_or_default());
    Some(if code == UNIMPLEMENTED { Health::Unimplemented(said) } else { Health::Failed(said) })
}

/// `HealthCheckRequest`: field 1 is the service's name.
pub(super) fn question(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(1 << 3 | 2);
        let mut left = service.len();
        while left >= 0x80 {
            message.push(u8::try_from(left & 0x7f).unwrap_or(0) | 0x80);
            left >>= 7;
        }
        message.push(u8::try_from(left).unwrap_or(0));
        message.extend_from_slice(service.as_bytes());
    }
    message
}

/// A message as gRPC sends it: not compressed, and its length before it.
fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], &length.to_be_bytes()[..], message].concat().into()
}

/// The one message of an answer.
pub(super) fn unframed(answer: &[u8]) -> Option<&[u8]> {
    let (head, rest) = answer.split_at_checked(5)?;
    let length = u32::from_be_bytes(head.get(1..)?.try_into().ok()?);
    (head[0] == 0).then_some(())?;
    rest.get(..usize::try_from(length).ok()?)
}

/// `HealthCheckResponse`: field 1 is the status. Other fields are passed over.
pub(super) fn serving(mut message: &[u8]) -> Option<u64> {
    let mut status = 0;
    while !message.is_empty() {
        let key = number(&mut message)?;
        match key & 7 {
            0 => {
                let value = number(&mut message)?;
                if key >> 3 == 1 {
                    status = value;
                }
            }
            1 => message = message.get(8..)?,
            2 => {
                let length = usize::try_from(number(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            5 => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

/// A number in pieces of seven bits.
fn number(message: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
