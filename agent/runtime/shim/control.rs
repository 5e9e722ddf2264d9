//! The socket: stop requests and questions, from whoever may enter the run directory.

use crate::cri::Stream;
use crate::frame::{
    HEADER_LEN, Header, MAX_REPLY, MAX_REQUEST, State, Stop, StopLater, VERSION, error_code, kind,
};
use crate::sys::{self, POLLIN};

/// Connections at one time; a further one takes the place of the oldest that is not attached.
pub const CONNECTIONS: usize = 8;
/// How many of them may be attached.
const ATTACHED: usize = 6;
/// Output that may wait for one who is attached, in bytes as the kernel counts them.
const WAITING: u32 = 1 << 20;

#[derive(Clone, Copy)]
struct Connection {
    fd: i32,
    have: usize,
    /// Gets the output.
    attached: bool,
    /// Bytes of the input in the buffer that standard input has taken; `None` when none waits.
    taken: Option<usize>,
    buf: [u8; HEADER_LEN + MAX_REQUEST],
}

/// What the shim does for a request.
pub trait Requests {
    fn stop(&mut self, stop: Stop);
    fn stop_later(&mut self, stop: StopLater);
    fn state(&self) -> State;
    /// How much of it was taken; `None` when there is no room now. What nobody will read is taken.
    fn input(&mut self, bytes: &[u8]) -> Option<usize>;
    fn resize(&mut self, rows: u16, columns: u16);
    fn close_stdin(&mut self);
}

pub struct Control {
    listener: i32,
    connections: [Connection; CONNECTIONS],
    oldest: usize,
}

impl Control {
    pub fn new(listener: i32) -> Self {
        let _ = sys::set_nonblocking(listener);
        let none =
            Connection { fd: -1, have: 0, attached: false, taken: None, buf: [0; HEADER_LEN + MAX_REQUEST] };
        Self { listener, connections: [none; CONNECTIONS], oldest: 0 }
    }

    /// The descriptors to wait for, -1 where there is none, and what for: nothing but its end where input waits.
    pub fn wants(&self) -> [(i32, i16); CONNECTIONS + 1] {
        let mut fds = [(self.listener, POLLIN); CONNECTIONS + 1];
        for (fd, connection) in fds.iter_mut().skip(1).zip(&self.connections) {
            *fd = (connection.fd, if connection.taken.is_some() { 0 } else { POLLIN });
        }
        fds
    }

    /// Whether input waits for room.
    pub fn has_input(&self) -> bool {
        self.connections.iter().any(|c| c.taken.is_some())
    }

    /// Standard input has room again.
    pub fn input(&mut self, shim: &mut impl Requests) {
        for place in 0..CONNECTIONS {
            if self.connections[place].taken.is_some() {
                self.go_on(place, shim);
            }
        }
    }

    /// Gives output to all who are attached. Who has no room for it is left: the container waits for nobody.
    pub fn output(&mut self, stream: Stream, bytes: &[u8]) {
        let header = Header { version: VERSION, kind: kind::OUTPUT, len: bytes.len() as u32 + 4 }.encode();
        let mut head = [0; HEADER_LEN + 4];
        head[..HEADER_LEN].copy_from_slice(&header);
        head[HEADER_LEN..].copy_from_slice(&(stream as u32).to_le_bytes());
        for connection in self.connections.iter_mut().filter(|c| c.attached) {
            if sys::write_two(connection.fd, &head, bytes) != Ok(head.len() + bytes.len()) {
                connection.close();
            }
        }
    }

    /// The descriptor of this place has something.
    pub fn ready(&mut self, place: usize, shim: &mut impl Requests) {
        if place == 0 {
            self.accept();
        } else if self.connections.get(place - 1).is_some_and(|c| c.fd >= 0) {
            if self.connections[place - 1].taken.is_some() {
                // Only its end is waited for.
                self.connections[place - 1].close();
            } else {
                self.go_on(place - 1, shim);
            }
        }
    }

    fn go_on(&mut self, place: usize, shim: &mut impl Requests) {
        let room = self.connections.iter().filter(|c| c.attached).count() < ATTACHED;
        if !self.connections[place].receive(shim, room) {
            self.connections[place].close();
        }
    }

    fn accept(&mut self) {
        let Ok(fd) = sys::accept(self.listener) else { return };
        let places = (0..CONNECTIONS).map(|n| (self.oldest + n) % CONNECTIONS);
        let place = match self.connections.iter().position(|c| c.fd < 0) {
            Some(free) => free,
            None => match places.into_iter().find(|place| !self.connections[*place].attached) {
                Some(place) => {
                    self.oldest = (place + 1) % CONNECTIONS;
                    self.connections[place].close();
                    place
                }
                None => return sys::close(fd),
            },
        };
        self.connections[place].fd = fd;
    }
}

impl Connection {
    fn close(&mut self) {
        sys::close(self.fd);
        (self.fd, self.have, self.attached, self.taken) = (-1, 0, false, None);
    }

    /// Takes what has come and answers whole requests; `false` when the connection is to be closed. One more may be attached
    /// if there is `room`.
    fn receive(&mut self, shim: &mut impl Requests, room: bool) -> bool {
        loop {
            if let Some(taken) = self.taken {
                let len = HEADER_LEN + self.payload_len();
                match shim.input(&self.buf[HEADER_LEN + taken..len]) {
                    None => return true,
                    Some(more) if HEADER_LEN + taken + more < len => {
                        self.taken = Some(taken + more);
                        continue;
                    }
                    Some(_) => (self.taken, self.have) = (None, 0),
                }
            }
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
                if self.attached && header.version == VERSION && header.kind == kind::INPUT {
                    self.taken = Some(0);
                    continue;
                }
                self.have = 0;
                if !self.answer(header, shim, room) {
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

    fn answer(&mut self, header: Header, shim: &mut impl Requests, room: bool) -> bool {
        if header.version != VERSION {
            return self.error(error_code::VERSION, b"the version is not spoken");
        }
        let payload = &self.buf[HEADER_LEN..HEADER_LEN + header.len as usize];
        let done = match header.kind {
            kind::RESIZE if self.attached => {
                if let &[a, b, c, d, ..] = payload {
                    shim.resize(u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
                }
                return true;
            }
            kind::CLOSE_STDIN if self.attached => {
                shim.close_stdin();
                return true;
            }
            kind::ATTACH if !room => return self.error(error_code::BUSY, b"too many are attached"),
            kind::ATTACH => {
                self.attached = true;
                // Where it cannot be, the usual room is what there is.
                let _ = sys::set_send_buffer(self.fd, WAITING);
                Some(())
            }
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
