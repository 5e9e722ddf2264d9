//! What probes and hooks do: ask a program in a container by HTTP, TCP or gRPC, or run one there.
//!
//! ```text
//!  HttpGetAction, TcpSocketAction, GrpcAction ─► Handlers ─► Dialer: a socket of the container's network namespace
//!                                                    └─► connect ─► TLS ─► HTTP/1.1 | HTTP/2 ─► answer
//! ```
//!
//! Nothing here but `exec` has a deadline of its own, and nothing goes on once its future is dropped: whoever asks sets a timeout around it.
//! Answers are a program's word, so all that is read of them is bounded.

mod address;
mod dial;
mod exec;
mod grpc;
mod http;
#[cfg(test)]
mod tests;
mod tls;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use stower_crds::{ContainerPort, IntOrString};
use stower_runtime::{ShimHandle, exec::ExecError, start::Runtime};
use tokio::net::TcpStream;

pub(crate) use exec::ExecAnswer;
pub(crate) use grpc::Health;
pub(crate) use http::HttpAnswer;

/// How the agent calls itself to programs that it asks.
const USER_AGENT: &str = concat!("stower-probe/", env!("CARGO_PKG_VERSION"));

/// Why a program could not be asked, or gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandlerError {
    /// The spec has no port of that name (any more).
    #[error("no port is named {0:?}; name it in spec.ports")]
    NoSuchPort(String),
    /// The port is no number of a port.
    #[error("{0} is no port: a number from 1 to 65535 is")]
    NotAPort(i32),
    /// Its first process has ended.
    #[error("the container has ended")]
    Ended,
    /// No socket could be made in its network namespace.
    #[error("cannot make a socket in the container's network namespace")]
    Socket(#[source] std::io::Error),
    /// The name of a host has no address.
    #[error("cannot find the address of {host}: {why}")]
    NoAddress {
        /// The name.
        host: String,
        /// What the resolver says.
        why: String,
    },
    /// Nobody takes the connection.
    #[error("dial tcp {address}: connect")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// TLS failed.
    #[error("TLS handshake")]
    Tls(#[source] std::io::Error),
    /// The request cannot be made of what is declared.
    #[error("the request cannot be made: {0}")]
    Request(String),
    /// HTTP/1.1 failed.
    #[error("HTTP")]
    Http1(#[source] hyper::Error),
    /// HTTP/2 failed.
    #[error("HTTP/2")]
    Http2(#[source] h2::Error),
    /// Where it is sent to leads nowhere.
    #[error("stopped after 10 redirects")]
    Redirects,
}

impl HandlerError {
    /// Whether the program had no part in it, so that it says nothing of the program's health.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(
            self,
            Self::NoSuchPort(_) | Self::NotAPort(_) | Self::Ended | Self::Socket(_) | Self::Request(_)
        )
    }
}

/// Asks programs in containers.
#[derive(Debug, Clone)]
pub(crate) struct Handlers {
    dialer: Arc<dial::Dialer>,
    tls: tls::Unchecked,
    executor: exec::Executor,
}

impl Handlers {
    /// Nothing is begun before somebody asks. `starter` is the program of this release that enters containers.
    pub(crate) fn new(runtime: Runtime, starter: PathBuf) -> Self {
        let executor = exec::Executor::new(runtime, starter);
        Self { dialer: Arc::default(), tls: tls::Unchecked::default(), executor }
    }

    /// Runs a command in the container to its end. At the deadline it is killed with all that it has started.
    ///
    /// # Errors
    /// When it could not be run, so that it says nothing of the program's health.
    pub(crate) async fn exec(
        &self,
        container: &Arc<ShimHandle>,
        command: &[String],
        deadline: Duration,
    ) -> Result<ExecAnswer, ExecError> {
        self.executor.run(container, command, deadline).await
    }

    /// Opens a connection from inside the container's network namespace, to its own loopback unless a host is named.
    ///
    /// # Errors
    /// When nobody takes it; of several addresses, what the first said.
    pub(crate) async fn connect(
        &self,
        container: &Arc<ShimHandle>,
        host: Option<&str>,
        port: u16,
    ) -> Result<TcpStream, HandlerError> {
        let mut first = None;
        for address in address::find(host, port).await? {
            let socket = self.dialer.socket(container, address).await?;
            match socket.connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(source) => drop(first.get_or_insert(HandlerError::Connect { address, source })),
            }
        }
        Err(first.unwrap_or_else(|| HandlerError::NoAddress {
            host: host.unwrap_or("localhost").to_owned(),
            why: "it has none".into(),
        }))
    }
}

/// The number of a port that a handler names.
///
/// # Errors
/// When there is none.
pub(crate) fn port(port: &IntOrString, ports: &[ContainerPort]) -> Result<u16, HandlerError> {
    match port {
        IntOrString::Int(number) => {
            u16::try_from(*number).ok().filter(|number| *number > 0).ok_or(HandlerError::NotAPort(*number))
        }
        IntOrString::String(name) => {
            let named = ports.iter().find(|port| port.name.as_deref() == Some(name));
            // A number in quotes is one all the same.
            let number = || name.parse().ok().filter(|number| *number > 0);
            named
                .map(|port| port.container_port)
                .or_else(number)
                .ok_or_else(|| HandlerError::NoSuchPort(name.clone()))
        }
    }
}

/// What is asked for by HTTP, for people.
pub(crate) fn shown(action: &stower_crds::HttpGetAction) -> String {
    let port = match &action.port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    };
    let scheme = match action.scheme {
        stower_crds::UriScheme::Http => "http",
        stower_crds::UriScheme::Https => "https",
    };
    let slash = if action.path.starts_with('/') { "" } else { "/" };
    format!("{scheme}://{}:{port}{slash}{}", action.host.as_deref().unwrap_or("localhost"), action.path)
}

/// Lets a connection work until a question on it is answered, in one task, so that both end together.
async fn drive<A, C: Future>(connection: C, question: impl Future<Output = A>) -> A {
    let (mut connection, mut question) = (std::pin::pin!(connection), std::pin::pin!(question));
    tokio::select! {
        biased;
        answer = &mut question => answer,
        // What it has taken in before its end is still an answer.
        _ = &mut connection => question.await,
    }
}
