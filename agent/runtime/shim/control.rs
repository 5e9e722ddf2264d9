//! The socket: stop requests and questions, from whoever may enter the run directory.

use crate::frame::{
    HEADER_LEN, Header, MAX_REPLY, MAX_REQUEST, State, Stop, StopLater, VERSION, error_code, kind,
};
use crate::sys;

/// Connections at one time; a further one takes the place of the oldest.
pub const CONNECTIONS: usize = 4;

#[derive(Clone, Copy)]
struct Connection {
    fd: i32,
    have: usize,
    buf: [u8; HEADER_LEN + MAX_REQUEST],
}

/// What the shim does for a request.
pub trait Requests {
    fn stop(&mut self, stop: Stop);
    fn stop_later(&mut self, stop: StopLater);
    fn state(&self) -> State;
}

pub struct Control {
    listener: i32,
    connections: [Connection; CONNECTIONS],
    oldest: usize,
}

impl Control {
    pub fn new(listener: i32) -> Self {
        let _ = sys::set_nonblocking(listener);
        let none = Connection { fd: -1, have: 0, buf: [0; HEADER_LEN + MAX_REQUEST] };
        Self { listener, connections: [none; CONNECTIONS], oldest: 0 }
    }

    /// The descriptors to wait for; -1 where there is none.
    pub fn wants(&self) -> [i32; CONNECTIONS + 1] {
        let mut fds = [self.listener; CONNECTIONS + 1];
        for (fd, connection) in fds.iter_mut().skip(1).zip(&self.connections) {
            *fd = connection.fd;
        }
        fds
    }

    /// The descriptor of this place has something.
    pub fn ready(&mut self, place: usize, shim: &mut impl Requests) {
        if place == 0 {
            self.accept();
        } else if let Some(connection) = self.connections.get_mut(place - 1)
            && connection.fd >= 0
            && !connection.receive(shim)
        {
            sys::close(connection.fd);
            connection.fd = -1;
        }
    }

    fn accept(&mut self) {
        let Ok(fd) = sys::accept(self.listener) else { return };
        let place = match self.connections.iter().position(|c| c.fd < 0) {
            Some(free) => free,
            None => {
                let place = self.oldest;
                self.oldest = (place + 1) % CONNECTIONS;
                sys::close(self.connections[place].fd);
                place
            }
        };
        self.connections[place].fd = fd;
        self.connections[place].have = 0;
    }
}

impl Connection {
    /// Takes what has come and answers whole requests; `false` when the connection is to be closed.
    fn receive(&mut self, shim: &mut impl Requests) -> bool {
        loop {
            let want = if self.have < HEADER_LEN { HEADER_LEN } else { HEADER_LEN + self.payload_len() };
            if self.have < want {
                match sys::read(self.fd, &mut self.buf[self.have..want]) {
                    Ok(0) => return false,
                    Ok(n) => self.have += n,
                    Err(sys::EINTR) => {}
                    Err(e) => return e == sys::EAGAIN,
                }
                continue;
            }
            let header = self.header();
            if header.len as usize > MAX_REQUEST {
                self.error(error_code::TOO_LONG, b"the request is too long");
                return false;
            }
            if self.have == HEADER_LEN + header.len as usize {
                self.have = 0;
                if !self.answer(header, shim) {
                    return false;
                }
            }
        }
    }

    fn header(&self) -> Header {
        let mut head = [0; HEADER_LEN];
        head.copy_from_slice(&self.buf[..HEADER_LEN]);
        Header::decode(head)
    }

    fn payload_len(&self) -> usize {
        (self.header().len as usize).min(MAX_REQUEST)
    }

    fn answer(&mut self, header: Header, shim: &mut impl Requests) -> bool {
        if header.version != VERSION {
            return self.error(error_code::VERSION, b"the version is not spoken");
        }
        let payload = &self.buf[HEADER_LEN..HEADER_LEN + header.len as usize];
        let done = match header.kind {
            kind::STOP => Stop::decode(payload).map(|stop| shim.stop(stop)),
            kind::STOP_LATER => StopLater::decode(payload).map(|stop| shim.stop_later(stop)),
            kind::PING => Some(()),
            _ => return self.error(error_code::TYPE, b"the type is unknown"),
        };
        if done.is_none() {
            return self.error(error_code::PAYLOAD, b"the request makes no sense");
        }
        self.reply(kind::STATE, &[&shim.state().encode()])
    }

    fn error(&mut self, code: u32, text: &[u8]) -> bool {
        self.reply(kind::ERROR, &[&code.to_le_bytes(), text])
    }

    /// Sends a frame; the kernel's buffer takes it whole, or the peer does not read and is left.
    fn reply(&mut self, kind: u16, parts: &[&[u8]]) -> bool {
        let mut frame = [0; HEADER_LEN + MAX_REPLY];
        let mut len = HEADER_LEN;
        for part in parts {
            frame[len..len + part.len()].copy_from_slice(part);
            len += part.len();
        }
        let header = Header { version: VERSION, kind, len: (len - HEADER_LEN) as u32 };
        frame[..HEADER_LEN].copy_from_slice(&header.encode());
        sys::write(self.fd, &frame[..len]) == Ok(len)
    }
}
