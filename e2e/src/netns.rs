//! A network of its own for an agent: loopback, with some ports of the host's loopback in it.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, anyhow};

use crate::process;

/// A network namespace; it goes with this value and the last process in it.
#[derive(Debug)]
pub struct NetworkNamespace {
    file: File,
    stop: Arc<AtomicBool>,
}

impl NetworkNamespace {
    /// A new one. A connection to one of `ports` on its loopback ends at the same port of the host's.
    pub fn with_ports(ports: &[u16]) -> Result<Self> {
        let wanted = ports.to_owned();
        // The namespace is that of one thread, whose listening sockets stay in it wherever they are used.
        let (file, listeners) = std::thread::spawn(move || open(&wanted))
            .join()
            .map_err(|_| anyhow!("the thread panicked"))??;
        let stop = Arc::new(AtomicBool::new(false));
        for listener in listeners {
            let stop = stop.clone();
            let port = listener.local_addr()?.port();
            listener.set_nonblocking(true)?;
            std::thread::spawn(move || serve(&listener, port, &stop));
        }
        Ok(Self { file, stop })
    }

    /// The words that start a program in it: for [`crate::NodeBuilder::through`].
    pub fn enter(&self) -> [String; 2] {
        let net = format!("--net=/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd());
        ["nsenter".to_owned(), net]
    }
}

impl Drop for NetworkNamespace {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn open(ports: &[u16]) -> Result<(File, Vec<TcpListener>)> {
    // SAFETY: only this thread's network changes, and it ends with this function: nobody else sees that.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
        .context("make a network namespace")?;
    process::run("ip", ["link", "set", "lo", "up"]).context("needs ip: apt-get install iproute2")?;
    let listeners = ports
        .iter()
        .map(|&port| {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port))
                .with_context(|| format!("listen on {port} in a new network"))
        })
        .collect::<Result<_>>()?;
    Ok((File::open("/proc/thread-self/ns/net")?, listeners))
}

fn serve(listener: &TcpListener, port: u16, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((client, _)) => {
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { continue };
                let _ = client.set_nonblocking(false);
                pass(client, server);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut ready = [rustix::event::PollFd::new(listener, rustix::event::PollFlags::IN)];
                let turn = rustix::event::Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
                let _ = rustix::event::poll(&mut ready, Some(&turn));
            }
            Err(_) => return,
        }
    }
}

/// Both directions, each until its end.
fn pass(client: TcpStream, server: TcpStream) {
    let (Ok(client_again), Ok(server_again)) = (client.try_clone(), server.try_clone()) else { return };
    for (mut from, mut to) in [(client, server), (server_again, client_again)] {
        std::thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
}
