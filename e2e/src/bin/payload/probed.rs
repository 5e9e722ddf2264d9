//! A server to be probed: HTTP/1.1, HTTP/2 without TLS and gRPC's health service on one port. What it answers is the word in the
//! file `/tmp/word`, which a test may change at any time: a code of HTTP, or `hang`.

use std::fs;
use std::io::{Error, Read, Write};
use std::net::{TcpListener, TcpStream};

const WORD: &str = "/tmp/word";
/// How a client of HTTP/2 begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) fn serve(address: &str, word: &str) -> std::io::Result<()> {
    // The word outlives a restart.
    if fs::metadata(WORD).is_err() {
        fs::write(WORD, word)?;
    }
    let listener = TcpListener::bind(address)?;
    println!("listening on {address}");
    for stream in listener.incoming() {
        let stream = stream?;
        std::thread::spawn(move || {
            if let Err(error) = answer(stream) {
                println!("broken off: {error}");
            }
        });
    }
    Ok(())
}

/// Succeeds while the word is this one; `hang` does not come back.
pub(crate) fn is(word: &str) -> std::io::Result<()> {
    let have = fs::read_to_string(WORD)?;
    if have.trim() == "hang" {
        loop {
            std::thread::park();
        }
    }
    println!("asked for {word:?}, and the word is {:?}", have.trim());
    if have.trim() == word { Ok(()) } else { Err(Error::other("another word")) }
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut begun = Vec::new();
    while !begun.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte)? == 0 {
            return Ok(());
        }
        begun.push(byte[0]);
    }
    let is_http2 = PREFACE.starts_with(&begun);
    println!(
        "{}",
        if is_http2 { "HTTP/2".into() } else { String::from_utf8_lossy(&begun).replace("\r\n", " | ") }
    );
    let word = fs::read_to_string(WORD)?;
    let code: u16 = match word.trim() {
        "hang" => loop {
            std::thread::park();
        },
        word => word.parse().map_err(Error::other)?,
    };
    if is_http2 { http2(&mut stream, code) } else { http1(&mut stream, code) }
}

fn http1(stream: &mut TcpStream, code: u16) -> std::io::Result<()> {
    let location = if (300..400).contains(&code) { "Location: http://elsewhere.example/\r\n" } else { "" };
    stream.write_all(format!("HTTP/1.1 {code} Word\r\n{location}Content-Length: 2\r\n\r\nok").as_bytes())
}

/// As little of RFC 9113 as a question and its answer take: what is asked is not read.
fn http2(stream: &mut TcpStream, code: u16) -> std::io::Result<()> {
    stream.read_exact(&mut vec![0; PREFACE.len() - b"PRI * HTTP/2.0\r\n\r\n".len()])?;
    let frame = |stream: &mut TcpStream, kind: u8, flags: u8, id: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
        let head = [&length[1..], &[kind, flags], &id.to_be_bytes()[..]].concat();
        stream.write_all(&[&head, payload].concat())
    };
    let literal = |name: &str, value: &str| {
        let text = |text: &str| [&[u8::try_from(text.len()).unwrap_or(0)], text.as_bytes()].concat();
        [&[0][..], &text(name), &text(value)].concat()
    };
    frame(stream, 4, 0, 0, &[])?;
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            return Ok(());
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; usize::try_from(length).map_err(Error::other)?];
        stream.read_exact(&mut payload)?;
        match (head[3], head[4] & 1) {
            // Its settings.
            (4, 0) => frame(stream, 4, 1, 0, &[])?,
            // The end of a question: headers alone, or with a message behind them.
            (0 | 1, 1) => {
                // One of gRPC ends with a message, one of HTTP with its headers.
                let status = if head[3] == 0 { "200".to_owned() } else { code.to_string() };
                let status = literal(":status", &status);
                frame(stream, 1, 4, id, &[status, literal("content-type", "application/grpc")].concat())?;
                let serving = if code == 200 { 1 } else { 2 };
                frame(stream, 0, 0, id, &[0, 0, 0, 0, 2, 8, serving])?;
                frame(stream, 1, 5, id, &literal("grpc-status", "0"))?;
            }
            _ => {}
        }
    }
}
