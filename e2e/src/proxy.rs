//! A bad line between the agent and a registry: connections that end in the middle of an answer, or never answer.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Result;

/// Passes connections on to a server; big answers are cut while cuts are left.
#[derive(Debug)]
pub struct CuttingProxy {
    /// `127.0.0.1:PORT`, where it listens.
    pub address: String,
    cuts: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl CuttingProxy {
    /// Listens, and cuts the next `cuts` answers that are longer than `keep` bytes after so many bytes.
    pub fn start(server: &str, keep: usize, cuts: usize) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let proxy = Self { address, cuts: Arc::new(cuts.into()), stop: Arc::default() };
        let (left, stop, server) = (proxy.cuts.clone(), proxy.stop.clone(), server.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(upstream) = TcpStream::connect(&server) else { continue };
                let left = left.clone();
                std::thread::spawn(move || pass(&client, &upstream, keep, &left));
            }
        });
        Ok(proxy)
    }

    /// How many answers it is still going to cut.
    pub fn cuts_left(&self) -> usize {
        self.cuts.load(Ordering::Relaxed)
    }
}

impl Drop for CuttingProxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the listening thread, which then sees the flag.
        let _ = TcpStream::connect(&self.address);
    }
}

fn pass(client: &TcpStream, server: &TcpStream, keep: usize, left: &AtomicUsize) {
    let (Ok(mut from), Ok(mut to)) = (client.try_clone(), server.try_clone()) else { return };
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let (mut from, mut to) = (server, client);
    let mut buffer = [0; 16 * 1024];
    let mut passed = 0;
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        passed += n;
        let cut = passed > keep
            && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |cuts| cuts.checked_sub(1)).is_ok();
        if cut || to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
}
