//! Standard input and terminals of containers, and who is attached to them.

mod common;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use common::Case;
use stower_runtime::adopt::ShimError;
use stower_runtime::shim::frame::{HEADER_LEN, Header, VERSION, error_code, kind};

/// A client that is attached.
struct Client {
    stream: UnixStream,
    seen: String,
}

impl Client {
    fn of(case: &Case) -> Self {
        let stream = case.handle().attach().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self { stream, seen: String::new() }
    }

    fn send(&mut self, kind: u16, payload: &[u8]) {
        let header = Header { version: VERSION, kind, len: u32::try_from(payload.len()).unwrap() };
        self.stream.write_all(&[&header.encode(), payload].concat()).unwrap();
    }

    fn type_in(&mut self, text: &str) {
        for piece in text.as_bytes().chunks(64) {
            self.send(kind::INPUT, piece);
        }
    }

    /// The next frame's text; `None` at the end of the connection.
    fn next(&mut self) -> Option<String> {
        let mut head = [0; HEADER_LEN];
        match self.stream.read_exact(&mut head) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                return None;
            }
            Err(e) => panic!("{e}; seen {}", self.seen),
        }
        let head = Header::decode(head);
        assert_eq!(head.kind, kind::OUTPUT);
        let mut payload = vec![0; usize::try_from(head.len).unwrap()];
        self.stream.read_exact(&mut payload).ok()?;
        Some(String::from_utf8_lossy(&payload[4..]).into_owned())
    }

    fn wait_for(&mut self, text: &str) {
        while !self.seen.contains(text) {
            let Some(more) = self.next() else { panic!("no {text:?} in {}", self.seen) };
            self.seen.push_str(&more);
        }
    }
}

#[test]
fn root_standard_input_is_held_open_and_fed_by_who_is_attached() {
    let mut case = Case::new(&["stdin", "echo", "echo", "echo"]);
    case.request.stdin = true;
    case.start();
    case.wait_for("== echo");
    let mut first = Client::of(&case);
    first.type_in("one\n");
    first.wait_for("read one");
    // Another one sees what comes from now on, and the first still does.
    let mut second = Client::of(&case);
    second.type_in(&format!("{}\n", "x".repeat(3000)));
    let line = format!("read {}\n", "x".repeat(3000));
    first.wait_for(&line);
    second.wait_for(&line);
    drop(first);
    second.send(kind::CLOSE_STDIN, &[]);
    second.wait_for("== end");
    assert_eq!(second.next(), None);
    let (code, log) = case.finish();
    assert_eq!(code, 0);
    assert!(log.contains("pipe:["), "{log}");
    assert!(log.contains("read one"), "the log has what clients saw: {log}");
}

#[test]
fn root_a_terminal_is_the_shims_and_keeps_its_size_over_clients() {
    let mut case =
        Case::new(&["link:/proc/self/fd/1", "stat:/dev/console", "env", "size", "echo", "size", "echo"]);
    case.process().set_terminal(Some(true));
    case.process().user_mut().set_uid(1000).set_gid(1000);
    case.start();
    case.wait_for("== echo");
    let mut client = Client::of(&case);
    client.send(kind::RESIZE, &[40, 0, 100, 0]);
    client.type_in("typed\n");
    client.wait_for("read typed");
    client.wait_for("ok 40x100");
    drop(client);
    // The agent may go and come again: the handle is opened anew for each.
    let mut client = Client::of(&case);
    client.type_in("again\n");
    client.wait_for("read again");
    client.wait_for("== end");
    let (code, log) = case.finish();
    assert_eq!(code, 0);
    for wanted in ["/dev/pts/0", "20620 1000:", "TERM=xterm", "ok 0x0", "read typed"] {
        assert!(log.contains(wanted), "no {wanted} in {log}");
    }
}

#[test]
fn root_a_client_that_does_not_read_is_cut_off_and_holds_nobody_up() {
    let mut case = Case::new(&["say:20000000", "echo"]);
    case.request.stdin = true;
    case.start();
    // It may have been written before; only then is this client not too slow.
    let mut client = Client::of(&case);
    let begun = Instant::now();
    case.wait_for("== echo");
    assert!(begun.elapsed() < Duration::from_secs(30));
    // It finds an end after what the kernel held, although the container runs on: no gap is hidden.
    client.stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut seen = 0;
    while let Some(text) = client.next() {
        seen += text.len();
    }
    assert!(seen < 20_000_000, "the kernel held {seen} bytes");
    let mut other = Client::of(&case);
    other.type_in("on\n");
    other.wait_for("read on");
    case.finish();
}

#[test]
fn root_input_that_nobody_reads_waits_without_a_cost_for_others() {
    let mut case = Case::new(&["wait"]);
    case.request.stdin = true;
    case.start();
    let mut client = Client::of(&case);
    client.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let piece = Header { version: VERSION, kind: kind::INPUT, len: 64 };
    let piece = [&piece.encode()[..], &[b'x'; 64]].concat();
    // More than a pipe and a socket hold.
    while client.stream.write_all(&piece.repeat(64)).is_ok() {}
    let ticks = |case: &Case| {
        let stat = fs::read_to_string(format!("/proc/{}/stat", case.started().record.shim_pid)).unwrap();
        let rest = stat.rsplit_once(')').unwrap().1.to_owned();
        let fields: Vec<u64> = rest.split_whitespace().map(|f| f.parse().unwrap_or(0)).collect();
        fields[11] + fields[12]
    };
    let before = ticks(&case);
    assert!(case.handle().state().is_ok());
    std::thread::sleep(Duration::from_secs(1));
    assert!(ticks(&case) - before < 20, "the shim spins");
    client.stream.set_nonblocking(true).unwrap();
    // What was written since it came is before that.
    let waits = loop {
        match client.stream.read(&mut [0; 4096]) {
            Ok(0) => panic!("whose input waits was cut off"),
            Ok(_) => {}
            Err(e) => break e,
        }
    };
    assert_eq!(waits.kind(), ErrorKind::WouldBlock, "whose input waits is still attached");
    // Its end frees its place.
    drop(client);
    let clients: Vec<_> = (0..6).map(|_| Client::of(&case)).collect();
    let e = case.handle().attach().unwrap_err();
    assert!(matches!(e, ShimError::Refused { code: error_code::BUSY, .. }), "{e}");
    for _ in 0..20 {
        // Who asks goes on to be answered, and takes nobody's place.
        assert!(case.handle().state().is_ok());
    }
    for mut client in clients {
        client.send(kind::RESIZE, &[1, 0, 1, 0]);
        client.stream.set_nonblocking(true).unwrap();
        let mut byte = [0];
        assert_eq!(client.stream.read(&mut byte).unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}
