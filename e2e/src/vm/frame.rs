//! What goes over the serial port between the host and `vm-guest`: frames of one byte that says what it is, four bytes
//! of length (little endian) and the content. One request at a time; each has one final answer.
//!
//! ```text
//!  host                         guest
//!                               Hello "6.1.0-…"        once, when it is up
//!  Run seconds, argv, \0  ──►   Output …, Exit code | TimedOut
//!  Put mode, path; Data…; End ► End | Refused text
//!  Get path               ──►   Data …, End | Refused text
//! ```

use std::io::{self, ErrorKind, Read, Write};

/// The name of the port in the guest, in `/sys/class/virtio-ports/*/name`.
pub const PORT: &str = "stower.e2e";

/// The longest content that a frame may have, in bytes. A longer one means that both sides are out of step.
pub const LONGEST: usize = 1 << 20;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The guest is up; the release of its kernel.
    Hello = b'h',
    /// Seconds (four bytes), then the arguments, each ended by a zero byte.
    Run = b'r',
    /// Standard output and error of the command, in the order they were written.
    Output = b'o',
    /// The command's exit code (four bytes); 128 and the signal's number after a signal.
    Exit = b'x',
    /// The command was killed because its time was up.
    TimedOut = b't',
    /// A file is to be written: mode (four bytes), path.
    Put = b'p',
    /// A file is to be read: path.
    Get = b'g',
    /// A part of a file.
    Data = b'd',
    /// The file is complete.
    End = b'e',
    /// It could not be done; why.
    Refused = b'n',
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        use Kind::{Data, End, Exit, Get, Hello, Output, Put, Refused, Run, TimedOut};
        [Hello, Run, Output, Exit, TimedOut, Put, Get, Data, End, Refused]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// Writes one frame.
pub fn write(to: &mut impl Write, kind: Kind, content: &[u8]) -> io::Result<()> {
    let length = u32::try_from(content.len()).ok().filter(|_| content.len() <= LONGEST);
    let length = length.ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "the frame is too long"))?;
    let mut frame = Vec::with_capacity(content.len() + 5);
    frame.push(kind as u8);
    frame.extend(length.to_le_bytes());
    frame.extend(content);
    to.write_all(&frame)
}

/// Reads one frame.
pub fn read(from: &mut impl Read) -> io::Result<(Kind, Vec<u8>)> {
    let mut head = [0; 5];
    from.read_exact(&mut head)?;
    let odd = || io::Error::new(ErrorKind::InvalidData, format!("no frame begins with {head:?}"));
    let kind = Kind::of(head[0]).ok_or_else(odd)?;
    let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
    let length = usize::try_from(length).ok().filter(|length| *length <= LONGEST).ok_or_else(odd)?;
    let mut content = vec![0; length];
    from.read_exact(&mut content)?;
    Ok((kind, content))
}

/// The four bytes that some contents begin with, and the rest.
pub fn number(content: &[u8]) -> io::Result<(u32, &[u8])> {
    let (number, rest) = content
        .split_first_chunk::<4>()
        .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "a frame without its number"))?;
    Ok((u32::from_le_bytes(*number), rest))
}

#[cfg(test)]
mod tests;
