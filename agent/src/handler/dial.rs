//! Sockets in the network namespaces of containers.
//!
//! A socket belongs for ever to the namespace that it was made in. So one thread enters a namespace, makes a socket, and returns;
//! the agent's runtime does the rest with the open socket. A thread that cannot return makes no more: it ends, and the next
//! question begins another one. It is never one of the runtime's own threads, and nothing that it does there waits.

use std::{
    fs::File,
    net::{SocketAddr, TcpStream},
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError, mpsc},
};

use rustix::{
    net::{AddressFamily, SocketFlags, SocketType},
    thread::{
        LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces,
    },
};
use stower_runtime::ShimHandle;
use tokio::{net::TcpSocket, sync::oneshot};

use super::HandlerError;

/// How often a question is put again when the thread ended before it.
const TRIES: usize = 3;

/// A question for the thread.
struct Ask {
    container: Arc<ShimHandle>,
    family: AddressFamily,
    answer: oneshot::Sender<Result<OwnedFd, HandlerError>>,
}

/// Asks the thread, which begins with the first question.
#[derive(Debug, Default)]
pub(super) struct Dialer {
    asks: Mutex<Option<mpsc::Sender<Ask>>>,
}

impl Dialer {
    /// A socket of the container's network namespace, for an address of that kind.
    pub(super) async fn socket(
        &self,
        container: &Arc<ShimHandle>,
        address: SocketAddr,
    ) -> Result<TcpSocket, HandlerError> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        for _ in 0..TRIES {
            let (answer, answered) = oneshot::channel();
            self.ask(Ask { container: Arc::clone(container), family, answer })?;
            // No answer: the thread ended with an earlier question.
            if let Ok(made) = answered.await {
                return Ok(TcpSocket::from_std_stream(TcpStream::from(made?)));
            }
        }
        Err(HandlerError::Socket(std::io::Error::other("the thread that makes sockets ends again and again")))
    }

    fn ask(&self, ask: Ask) -> Result<(), HandlerError> {
        let mut asks = self.asks.lock().unwrap_or_else(PoisonError::into_inner);
        let ask = match asks.as_ref() {
            Some(thread) => match thread.send(ask) {
                Ok(()) => return Ok(()),
                Err(mpsc::SendError(ask)) => ask,
            },
            None => ask,
        };
        let (thread, asked) = mpsc::channel();
        std::thread::Builder::new()
            .name("netns".into())
            .stack_size(128 << 10)
            .spawn(move || serve(&asked))
            .map_err(HandlerError::Socket)?;
        // The channel's other end is in the thread.
        let _ = thread.send(ask);
        *asks = Some(thread);
        Ok(())
    }
}

/// The thread. It ends with the dialer, or when it cannot return.
fn serve(asks: &mpsc::Receiver<Ask>) {
    let own = match File::open("/proc/thread-self/ns/net") {
        Ok(own) => own,
        Err(error) => {
            tracing::error!(%error, "cannot open /proc/thread-self/ns/net; network probes cannot be asked");
            return;
        }
    };
    for ask in asks {
        // Whoever has given up needs no socket.
        if ask.answer.is_closed() {
            continue;
        }
        let made = make(&ask);
        let back = move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Network));
        // Whoever asked may have given up.
        let _ = ask.answer.send(made);
        if let Err(error) = back {
            tracing::error!(%error, "cannot leave a container's network namespace; the thread that is in it ends");
            return;
        }
    }
}

/// Enters the namespace of a process that its descriptor proves, and makes a socket in it.
fn make(ask: &Ask) -> Result<OwnedFd, HandlerError> {
    let init = ask.container.init_pidfd().ok_or(HandlerError::Ended)?;
    match move_into_thread_name_spaces(init, ThreadNameSpaceType::NETWORK) {
        Ok(()) => {}
        Err(rustix::io::Errno::SRCH) => return Err(HandlerError::Ended),
        Err(error) => return Err(HandlerError::Socket(error.into())),
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(ask.family, SocketType::STREAM, flags, None)
        .map_err(|error| HandlerError::Socket(error.into()))
}
