//! `stower health`: whether the agent lives and is ready, by exit code.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use super::{
    context::{note, println},
    error::CliError,
};
use crate::args::{DEFAULT_SOCKET, GlobalArgs, HealthArgs};

/// The most that is read of an answer.
const MAX_ANSWER: u64 = 64 << 10;

/// Blocking, with two system calls in place of a runtime: kubelet asks every few seconds.
pub(super) fn run(global: GlobalArgs, args: &HealthArgs) -> Result<(), CliError> {
    let socket = global.socket.filter(|path| !path.as_os_str().is_empty());
    let socket = socket.unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET));
    let path = if args.ready { "/readyz" } else { "/healthz" };
    let failed = |error: std::io::Error| {
        CliError::Message(format!("the agent does not answer on {}: {error}", socket.display()))
    };
    let timeout = Some(Duration::from_secs(args.timeout));
    let mut stream = UnixStream::connect(&socket).map_err(failed)?;
    stream.set_read_timeout(timeout).and_then(|()| stream.set_write_timeout(timeout)).map_err(failed)?;
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())
        .map_err(failed)?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).map_err(failed)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.split(' ').nth(1) == Some("200") {
        return println(body.trim_end());
    }
    note(if body.trim().is_empty() { head.lines().next().unwrap_or("no answer") } else { body.trim_end() });
    Err(CliError::Told(1))
}
