//! Blobs: streamed to disk, verified, continued where they broke off.

use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};
use tokio::sync::mpsc;

use super::transport::{Session, unreachable};
use super::{Client, RegistryError};
use crate::content::{ContentError, ContentStore, Ingest, Verified};
use crate::digest::WrongContent;
use crate::image::Descriptor;
use crate::pull::Meter;

/// However often a server drops a transfer after a few bytes, this ends it.
const TRANSFERS: u32 = 64;
/// Pieces that may wait for the disk.
const QUEUE: usize = 32;

impl Client {
    /// Gets a blob into `store`, verified and not yet committed. The caller holds the blob's fetch lock.
    pub(crate) async fn blob(
        &self,
        session: &Session,
        blob: &Descriptor,
        store: &std::sync::Arc<ContentStore>,
        meter: &Meter,
    ) -> Result<Verified, RegistryError> {
        let stored = |source| RegistryError::Content {
            registry: session.registry().to_owned(),
            source: Box::new(source),
        };
        let (digest, size) = (blob.digest, blob.size);
        let path = format!("blobs/{digest}");
        let opener = std::sync::Arc::clone(store);
        let mut ingest = blocking(move || Ingest::resume(&opener, digest, size)).await.map_err(stored)?;
        meter.resumed(ingest.written());
        let (mut failed, mut wrong) = (0, 0);
        for _ in 0..TRANSFERS {
            let before = ingest.written();
            if before < size || size == 0 {
                let response = self.get(session, &path, None, before).await?;
                check_answer(session, blob, &response, before)?;
                if response.status() != StatusCode::PARTIAL_CONTENT && before > 0 {
                    ingest.restart().map_err(stored)?;
                    meter.restarted();
                    if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
                        continue;
                    }
                }
                let transfer;
                (ingest, transfer) = receive(ingest, response, meter).await.map_err(stored)?;
                if let Err(error) = transfer {
                    failed = if ingest.written() > before { 1 } else { failed + 1 };
                    if failed >= self.options.attempts {
                        return Err(unreachable(session, session.base(), error));
                    }
                    tracing::debug!(%digest, written = ingest.written(), "transfer broke off, continuing");
                    meter.retried();
                    self.wait(failed, None).await;
                    continue;
                }
            }
            match blocking(move || ingest.verify()).await {
                Ok(verified) => return Ok(verified),
                Err(ContentError::Corrupt { source: WrongContent::Digest { expected, found }, .. }) => {
                    wrong += 1;
                    if wrong >= 2 {
                        let registry = session.registry().to_owned();
                        return Err(RegistryError::WrongDigest { registry, expected, found });
                    }
                }
                // The whole answer came and was too short.
                Err(ContentError::Corrupt {
                    source: WrongContent::Truncated { expected, found }, ..
                }) => {
                    wrong += 1;
                    if wrong >= 2 {
                        let registry = session.registry().to_owned();
                        return Err(RegistryError::WrongSize { registry, digest, expected, found });
                    }
                }
                Err(error) => return Err(stored(error)),
            }
            // Once more, from the beginning or from where it ended.
            let opener = std::sync::Arc::clone(store);
            ingest = blocking(move || Ingest::resume(&opener, digest, size)).await.map_err(stored)?;
            meter.restarted();
        }
        Err(session.protocol(format!("the transfer of blob {digest} broke off {TRANSFERS} times")))
    }
}

/// Whether the answer is about the bytes that were asked for.
fn check_answer(
    session: &Session,
    blob: &Descriptor,
    response: &Response,
    from: u64,
) -> Result<(), RegistryError> {
    let total = match response.status() {
        StatusCode::PARTIAL_CONTENT => {
            let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
            let (start, total) =
                range.and_then(content_range).ok_or_else(|| session.protocol("no content-range"))?;
            if start != from {
                return Err(session.protocol("it sends another range than was asked for"));
            }
            total
        }
        StatusCode::OK => response.content_length(),
        _ => None,
    };
    match total {
        Some(found) if found != blob.size => {
            let (registry, digest, expected) = (session.registry().to_owned(), blob.digest, blob.size);
            Err(RegistryError::WrongSize { registry, digest, expected, found })
        }
        _ => Ok(()),
    }
}

/// First byte and total of `bytes 5-9/10`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let start = range.split_once('-')?.0.trim().parse().ok()?;
    Some((start, total.trim().parse().ok()))
}

/// Writes an answer's body, on a thread that may block. Gives back how the transfer went; a failing disk is the
/// outer error.
async fn receive(
    mut ingest: Ingest,
    mut response: Response,
    meter: &Meter,
) -> Result<(Ingest, Result<(), reqwest::Error>), ContentError> {
    let (to, mut from) = mpsc::channel::<bytes::Bytes>(QUEUE);
    let writer = tokio::task::spawn_blocking(move || {
        while let Some(chunk) = from.blocking_recv() {
            ingest.write(&chunk)?;
        }
        Ok::<_, ContentError>(ingest)
    });
    let transfer = loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                let length = u64::try_from(chunk.len()).unwrap_or(0);
                // A closed channel is a writer that failed, which says so itself.
                if to.send(chunk).await.is_err() {
                    break Ok(());
                }
                meter.received(length);
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    drop(to);
    let ingest = join(writer.await)?;
    Ok((ingest, transfer))
}

pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    join(tokio::task::spawn_blocking(work).await)
}

/// A blocking task is never cancelled here; its panic is the caller's.
fn join<T>(result: Result<T, tokio::task::JoinError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => std::panic::panic_any(format!("the runtime is shutting down: {error}")),
    }
}
