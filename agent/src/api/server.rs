//! Connections: how many, how long they may be silent, and how much they may send.

use std::{io, sync::Arc, time::Duration};

use axum::Router;
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::Semaphore,
    task::JoinSet,
};

use super::{listen::Listener, place::Peer, stall::Stall};

/// The bounds of all connections.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// How many are served at once.
    pub(super) connections: usize,
    /// How long a request's head may take, and how long a connection may be idle between two.
    pub(super) head: Duration,
    /// How long a client may not read what is sent to it.
    pub(super) stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        // A person may look at a page of `logs -f | less` for a while.
        Self { connections: 512, head: Duration::from_secs(30), stall: Duration::from_secs(300) }
    }
}

/// The longest head of a request, in bytes; one that comes in a single read may be up to twice as long.
const MAX_HEAD: usize = 64 << 10;
/// The most header fields of a request.
const MAX_FIELDS: usize = 64;
/// How long to wait before accepting again when the system has no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);
/// How many clients are told at once that they are too many; any more are cut off.
const REFUSALS: usize = 32;
/// How long that may take.
const REFUSAL: Duration = Duration::from_secs(2);
/// What a client is told that is one too many.
const BUSY: &str = r#"{"apiVersion":"v1","kind":"Status","status":"Failure","reason":"ServiceUnavailable","code":503,"message":"the agent serves as many connections as it can: end some watches, then try again"}"#;

/// Accepts and serves for ever.
pub(super) async fn run(listener: Listener, router: Router, limits: Limits) {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let refusals = Arc::new(Semaphore::new(REFUSALS));
    // Dropped with this future, and every connection with it.
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.socket.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                if let Ok(slot) = Arc::clone(&slots).try_acquire_owned() {
                    let router = router.clone();
                    connections.spawn(async move {
                        serve(stream, router, limits).await;
                        drop(slot);
                    });
                } else if let Ok(slot) = Arc::clone(&refusals).try_acquire_owned() {
                    connections.spawn(async move {
                        refuse(stream).await;
                        drop(slot);
                    });
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, socket = %listener.path().display(), "cannot accept a connection of the local API");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// Says no to a client, after it has asked, and takes what it still sends so that it gets to read the answer.
async fn refuse(mut stream: UnixStream) {
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{BUSY}",
        BUSY.len()
    );
    let refusal = async {
        let mut scrap = [0; 4096];
        if stream.read(&mut scrap).await? == 0 {
            return Ok(());
        }
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        while stream.read(&mut scrap).await? > 0 {}
        io::Result::Ok(())
    };
    // Whether the client took it is its own affair.
    let _ = tokio::time::timeout(REFUSAL, refusal).await;
}

async fn serve(stream: UnixStream, router: Router, limits: Limits) {
    let peer = Peer { root: stream.peer_cred().is_ok_and(|peer| peer.uid() == 0) };
    let inner = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        inner.call(request)
    });
    let io = TokioIo::new(Stall::new(stream, limits.stall));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_FIELDS)
        .serve_connection(io, service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection of the local API ended early");
    }
}
