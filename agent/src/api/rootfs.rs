//! A container's root filesystem: `diff`, `export`, `commit`; and images as an archive.

use std::{
    io::{self, BufWriter, Write},
    sync::Arc,
};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::HeaderMap,
    response::Response,
};
use futures_util::stream;
use serde::Deserialize;
use serde_json::json;
use stower_crds::Kind;
use tokio::sync::mpsc;

use super::{
    Api, body,
    objects::find,
    place::One,
    query::Params,
    status::{Refusal, ok, text},
};
use crate::{node::ApiError, rootfs::CommitOptions};

/// The media type of archives.
const TAR: &str = "application/x-tar";
/// Bytes of a piece of a stream, and how many of them wait for a slow reader before the disk does.
const PIECE: usize = 256 << 10;
const PIECES: usize = 4;

pub(super) async fn commit(
    State(api): State<Api>,
    one: One,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let key = one.with("commit", &[Kind::Container])?;
    params.only(&[])?;
    let options: CommitOptions = body::request(&headers, body).await?;
    let object = find(&api, &key)?;
    // Given up with the connection: then the container goes on, and nothing is left.
    Ok(ok(&json!(api.backend.commit(&object.key, options).await?)))
}

pub(super) async fn diff(State(api): State<Api>, one: One, params: Params) -> Result<Response, Refusal> {
    let key = one.with("diff", &[Kind::Container])?;
    params.only(&[])?;
    let object = find(&api, &key)?;
    let backend = Arc::clone(&api.backend);
    let changes = tokio::task::spawn_blocking(move || backend.changes(&object.key))
        .await
        .map_err(|error| ApiError::internal(format!("looking for changes failed: {error}")))??;
    Ok(ok(&json!({"kind": "ChangeList", "items": changes})))
}

pub(super) async fn export(State(api): State<Api>, one: One, params: Params) -> Result<Response, Refusal> {
    let key = one.with("export", &[Kind::Container])?;
    params.only(&[])?;
    let object = find(&api, &key)?;
    let backend = Arc::clone(&api.backend);
    archive(move |out| backend.export(&object.key, out)).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SaveRequest {
    references: Vec<String>,
}

pub(super) async fn save(
    State(api): State<Api>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    params.only(&[])?;
    let SaveRequest { references } = body::request(&headers, body).await?;
    if references.is_empty() {
        return Err(Refusal::bad_request("references: required: the images to save"));
    }
    let backend = Arc::clone(&api.backend);
    archive(move |out| backend.save(&references, out)).await
}

/// What `write` writes, as it comes. A refusal before the first byte is an answer; one after it breaks the connection off,
/// so that nobody takes half an archive for a whole one.
async fn archive(
    write: impl FnOnce(&mut dyn Write) -> Result<(), ApiError> + Send + 'static,
) -> Result<Response, Refusal> {
    let (sender, mut pieces) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        let mut out = BufWriter::with_capacity(PIECE, Pieces(sender.clone()));
        let result = write(&mut out);
        // What is left of a failed one must not be sent by the buffer's end.
        let (_, rest) = out.into_parts();
        let last = match (result, rest) {
            (Ok(()), Ok(rest)) if !rest.is_empty() => Ok(Bytes::from(rest)),
            (Ok(()), _) => return,
            (Err(error), _) => Err(error),
        };
        // A reader that has gone needs no more.
        let _ = sender.blocking_send(last);
    });
    let first = match pieces.recv().await {
        Some(Err(error)) => return Err(error.into()),
        first => first,
    };
    let rest = stream::unfold((first, pieces), |(first, mut pieces)| async move {
        let piece = match first {
            Some(piece) => Some(piece),
            None => pieces.recv().await,
        }?;
        let piece = piece.map_err(|error| {
            tracing::warn!(error = error.message, "an archive could not be written to its end");
            io::Error::other(error.message)
        });
        Some((piece, (None, pieces)))
    });
    Ok(text(TAR, Body::from_stream(rest)))
}

/// Hands pieces to a stream; waits while the stream has enough of them, and fails when nobody reads it.
struct Pieces(mpsc::Sender<Result<Bytes, ApiError>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .blocking_send(Ok(Bytes::copy_from_slice(bytes)))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the client has gone"))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
