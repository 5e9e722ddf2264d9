//! Request bodies: of a known media type, of bounded length, within a deadline.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::status::Refusal;

/// The longest body, in bytes; as in the Kubernetes API server.
pub(super) const MAX_BODY: usize = 3 << 20;
/// How long a client may take to send it.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// The media type of server-side apply.
pub(super) const APPLY: &str = "application/apply-patch+yaml";
/// The media type of RFC 7386.
pub(super) const MERGE: &str = "application/merge-patch+json";
/// JSON.
pub(super) const JSON: &str = "application/json";
/// YAML (RFC 9512).
pub(super) const YAML: &str = "application/yaml";

/// The body, whole.
pub(super) async fn bytes(body: Body) -> Result<axum::body::Bytes, Refusal> {
    let too_long = || {
        Refusal::new(
            413,
            "RequestEntityTooLarge",
            format!("the request is longer than {} MiB", MAX_BODY >> 20),
        )
    };
    match tokio::time::timeout(BODY_DEADLINE, Limited::new(body, MAX_BODY).collect()).await {
        Err(_) => Err(Refusal::new(
            408,
            "Timeout",
            format!("the request did not come whole within {} s", BODY_DEADLINE.as_secs()),
        )),
        Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => Err(too_long()),
        Ok(Err(error)) => Err(Refusal::bad_request(format!("the request broke off: {error}"))),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
    }
}

/// The media type of the body, one of those accepted here.
pub(super) fn media_type(headers: &HeaderMap, accepted: &[&'static str]) -> Result<&'static str, Refusal> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    accepted.iter().copied().find(|one| *one == essence).ok_or_else(|| {
        Refusal::new(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format ({given:?}): accepted media types include: {}",
                accepted.join(", ")
            ),
        )
    })
}

/// An object, from JSON or YAML.
pub(super) fn object(bytes: &[u8]) -> Result<Value, Refusal> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        Refusal::bad_request(format!("the body is not text: byte {} is no UTF-8", error.valid_up_to()))
    })?;
    let value: Value = if text.trim_start().starts_with('{') {
        serde_json::from_str(text)
            .map_err(|error| Refusal::bad_request(format!("the body is not JSON: {error}")))?
    } else {
        serde_yaml::from_str(text).map_err(|error| {
            Refusal::bad_request(format!("the body is not YAML: {}", error.without_snippet()))
        })?
    };
    if value.is_object() { Ok(value) } else { Err(Refusal::bad_request("the body must be an object")) }
}

/// A small request of our own, strictly.
pub(super) async fn request<T: DeserializeOwned>(headers: &HeaderMap, body: Body) -> Result<T, Refusal> {
    media_type(headers, &[JSON])?;
    let bytes = bytes(body).await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Refusal::bad_request(format!("the body is not what is asked here: {error}")))
}
