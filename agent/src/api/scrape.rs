//! Metrics and health over TCP, where they are asked for: for a Prometheus that reaches the node by its address. Nothing else is
//! served there, and nobody is asked who he is.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};

use super::Backend;

/// How many connections are served at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 32;
/// How long a request's head may take, and a connection be idle.
const HEAD: Duration = Duration::from_secs(30);
/// How long one connection may last in all, so that who does not read holds no place for ever.
const LONGEST: Duration = Duration::from_secs(600);
/// How long to wait before accepting again when the system has no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// Listens on `address` and serves for ever.
///
/// # Errors
/// When the address cannot be had.
pub async fn serve_metrics<B: Backend>(backend: Arc<B>, address: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    // Dropped with this future, and every connection with it.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return Ok(()) };
        match listener.accept().await {
            Ok((stream, _)) => {
                let backend: Arc<dyn Backend> = backend.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| {
                        let backend = Arc::clone(&backend);
                        async move { Ok::<_, Infallible>(answer(&*backend, &request).await) }
                    });
                    let mut builder = http1::Builder::new();
                    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(16 << 10);
                    let served = builder.serve_connection(TokioIo::new(stream), service);
                    if let Ok(Err(error)) = tokio::time::timeout(LONGEST, served).await {
                        tracing::debug!(%error, "a connection for metrics ended early");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, %address, "cannot accept a connection for metrics");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn answer(backend: &dyn Backend, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n".to_owned());
    }
    match request.uri().path() {
        "/metrics" => text(StatusCode::OK, backend.metrics_text().await),
        "/healthz" | "/livez" => match backend.ping().await {
            Ok(()) => text(StatusCode::OK, "ok".to_owned()),
            Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ok: {}\n", error.message)),
        },
        "/readyz" => match backend.ready() {
            Ok(()) => text(StatusCode::OK, "ok".to_owned()),
            Err(reasons) => text(StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n"),
        },
        _ => text(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n".to_owned()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
