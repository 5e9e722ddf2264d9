//! Answers: JSON, and every refusal as a Kubernetes `Status`.

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::node::ApiError;

/// A refusal on its way to the client.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) ApiError);

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl Refusal {
    pub(super) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self(ApiError { code, reason, message: message.into() })
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }
}

/// A refusal as the object that clients read.
pub(super) fn status_of(error: &ApiError) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Status",
        "metadata": {},
        "status": "Failure",
        "message": error.message,
        "reason": error.reason,
        "code": error.code,
    })
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let code = StatusCode::from_u16(self.0.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        with_code(code, &status_of(&self.0))
    }
}

/// JSON with 200.
pub(super) fn ok(value: &Value) -> Response {
    with_code(StatusCode::OK, value)
}

/// JSON with another code.
pub(super) fn with_code(code: StatusCode, value: &Value) -> Response {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Plain text with 200.
pub(super) fn text(media_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// Gives the refusals that the router itself makes (no such path, no such method) a `Status` too.
pub(super) async fn as_status(response: Response) -> Response {
    let code = response.status();
    if !(code.is_client_error() || code.is_server_error()) {
        return response;
    }
    // Health answers are text by custom.
    let ours = |kind: &HeaderValue| kind == "application/json" || kind == HEALTH_TEXT;
    if response.headers().get(header::CONTENT_TYPE).is_some_and(ours) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let said = axum::body::to_bytes(body, 4096).await.unwrap_or_else(|_| Bytes::new());
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    let (reason, message) = match code {
        StatusCode::NOT_FOUND => ("NotFound", "the server could not find the requested resource".to_owned()),
        StatusCode::METHOD_NOT_ALLOWED => {
            ("MethodNotAllowed", "the server does not allow this method on the requested resource".to_owned())
        }
        code if code.is_server_error() => ("InternalError", said),
        _ => ("BadRequest", said),
    };
    let body = status_of(&ApiError { code: code.as_u16(), reason, message }).to_string();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Response::from_parts(parts, Body::from(body))
}

/// The media type of health answers.
pub(super) const HEALTH_TEXT: &str = "text/plain; charset=us-ascii";
