//! The log's form, pure: bytes of a pipe become records `<time> <stream> <tag> <text>\n` of the CRI log format, and
//! records find their file. The tag is `F` for a line or the end of one, `P` for a piece that goes on.

use super::time::{TIME_LEN, decimal};

/// Longest text of a record, in bytes; a longer line is split into pieces.
pub const MAX_TEXT: usize = 16 * 1024;
/// Longest record: time, stream, tag, text, three spaces and the line end.
pub const MAX_RECORD: usize = TIME_LEN + 6 + 1 + MAX_TEXT + 4;
/// How a notice of dropped lines begins, as a record of stderr; the number follows.
pub const NOTICE: &[u8] = b"stower: dropped log lines: ";

/// Where a text comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// The container's standard output.
    Stdout = 0,
    /// The container's standard error.
    Stderr = 1,
}

impl Stream {
    /// The name in a record.
    pub const fn name(self) -> &'static [u8] {
        match self {
            Self::Stdout => b"stdout",
            Self::Stderr => b"stderr",
        }
    }
}

/// Whether a record ends its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// `F`
    Full,
    /// `P`
    Partial,
}

/// Cuts the bytes of one pipe into lines. The bytes are in a buffer of the caller's that must be longer than
/// [`MAX_TEXT`] and always the same; this holds only positions.
#[derive(Debug, Default)]
pub struct Lines {
    start: usize,
    end: usize,
    /// No line end is before this position.
    seen: usize,
}

impl Lines {
    /// No bytes yet.
    pub const fn new() -> Self {
        Self { start: 0, end: 0, seen: 0 }
    }

    /// Whether no byte is kept.
    pub const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Room for more bytes; say with [`filled`](Self::filled) how many were put there. It is never empty once
    /// [`next`](Self::next) has given everything it can.
    pub fn space<'b>(&mut self, buf: &'b mut [u8]) -> &'b mut [u8] {
        buf.copy_within(self.start..self.end, 0);
        self.seen -= self.start;
        self.end -= self.start;
        self.start = 0;
        &mut buf[self.end..]
    }

    /// `n` bytes were put at the begin of the room.
    pub fn filled(&mut self, n: usize) {
        self.end += n;
    }

    /// The next line, or piece of a longer one; `None` when more bytes are needed.
    pub fn next<'b>(&mut self, buf: &'b [u8]) -> Option<(Tag, &'b [u8])> {
        // A line of just MAX_TEXT bytes is whole, so its line end may be one behind.
        let limit = if self.end - self.start > MAX_TEXT { self.start + MAX_TEXT + 1 } else { self.end };
        let start = self.start;
        if let Some(at) = buf[self.seen..limit].iter().position(|&c| c == b'\n') {
            let end = self.seen + at;
            self.start = end + 1;
            self.seen = self.start;
            return Some((Tag::Full, &buf[start..end]));
        }
        if limit - start > MAX_TEXT {
            self.start = start + MAX_TEXT;
            self.seen = self.start;
            return Some((Tag::Partial, &buf[start..self.start]));
        }
        self.seen = limit;
        None
    }

    /// What is left when no more bytes come: the begin of a line without an end.
    pub fn rest<'b>(&mut self, buf: &'b [u8]) -> Option<(Tag, &'b [u8])> {
        if self.is_empty() {
            return None;
        }
        let text = &buf[self.start..self.end];
        *self = Self::new();
        Some((Tag::Partial, text))
    }
}

/// Collects records to be written, in a buffer of the caller's that holds at least one [`MAX_RECORD`], and keeps count
/// of the lines that are dropped instead. A line is dropped whole from the piece on at which dropping begins; the
/// pieces that are written already are ended, so that a reader never joins halves of two lines.
#[derive(Debug, Default)]
pub struct Records {
    len: usize,
    /// The stream's last record was a piece.
    open: [bool; 2],
    /// The rest of the stream's line is dropped too.
    skip: [bool; 2],
    /// The stream's written pieces want an end.
    unended: [bool; 2],
    dropped: u64,
    total: u64,
}

impl Records {
    /// Nothing collected.
    pub const fn new() -> Self {
        Self { len: 0, open: [false; 2], skip: [false; 2], unended: [false; 2], dropped: 0, total: 0 }
    }

    /// Bytes collected.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is collected.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether another record fits for certain.
    pub const fn has_room(&self, capacity: usize) -> bool {
        capacity - self.len >= MAX_RECORD
    }

    /// Lines dropped since the begin.
    pub const fn total_dropped(&self) -> u64 {
        self.total
    }

    /// Adds a record; it must fit.
    pub fn push(&mut self, buf: &mut [u8], time: &[u8; TIME_LEN], stream: Stream, tag: Tag, text: &[u8]) {
        if self.skip[stream as usize] {
            self.drop_text(stream, tag);
            return;
        }
        self.open[stream as usize] = tag == Tag::Partial;
        self.put(buf, time);
        self.put(buf, b" ");
        self.put(buf, stream.name());
        self.put(buf, if tag == Tag::Full { b" F " } else { b" P " });
        self.put(buf, text);
        self.put(buf, b"\n");
    }

    /// Counts a line instead of adding it.
    pub fn drop_text(&mut self, stream: Stream, tag: Tag) {
        let s = stream as usize;
        if self.open[s] {
            self.open[s] = false;
            self.unended[s] = true;
        }
        self.skip[s] = tag == Tag::Partial;
        if tag == Tag::Full {
            self.dropped += 1;
            self.total += 1;
        }
    }

    /// Whether lines were dropped that the log does not know of yet.
    pub const fn wants_notice(&self) -> bool {
        self.dropped > 0
    }

    /// Says in the log what was dropped. The buffer must be empty.
    pub fn push_notice(&mut self, buf: &mut [u8], time: &[u8; TIME_LEN]) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if self.unended[stream as usize] {
                self.unended[stream as usize] = false;
                let skip = core::mem::replace(&mut self.skip[stream as usize], false);
                self.push(buf, time, stream, Tag::Full, b"");
                self.skip[stream as usize] = skip;
            }
        }
        self.put(buf, time);
        self.put(buf, b" stderr F ");
        self.put(buf, NOTICE);
        let mut digits = [0; 20];
        let dropped = core::mem::take(&mut self.dropped);
        self.put(buf, decimal(dropped, &mut digits));
        self.put(buf, b"\n");
    }

    /// The first `n` bytes, whole records, are written.
    pub fn written(&mut self, buf: &mut [u8], n: usize) {
        buf.copy_within(n..self.len, 0);
        self.len -= n;
    }

    /// Gives up what is collected: its lines count as dropped.
    pub fn abandon(&mut self, buf: &[u8]) {
        for record in buf[..self.len].split(|&c| c == b'\n') {
            // "time stream F"; the tag is at a fixed place, as both streams' names have six letters.
            if record.get(TIME_LEN + 8) == Some(&b'F') {
                self.dropped += 1;
                self.total += 1;
            }
        }
        self.len = 0;
    }

    fn put(&mut self, buf: &mut [u8], bytes: &[u8]) {
        buf[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

/// What to do with records that wait.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Write so many bytes of them to the file.
    Write(usize),
    /// Begin the next file.
    NextFile,
}

/// The rule of rotation: records are whole in one file, and a file grows beyond `max` bytes only when its one record
/// does. `pending` are whole records, not empty; `size` is what the file has.
pub fn rotate(pending: &[u8], size: u64, max: u64) -> Step {
    let room = usize::try_from(max.saturating_sub(size)).unwrap_or(usize::MAX);
    if pending.len() <= room {
        return Step::Write(pending.len());
    }
    if let Some(end) = pending[..room].iter().rposition(|&c| c == b'\n') {
        return Step::Write(end + 1);
    }
    if size > 0 {
        return Step::NextFile;
    }
    Step::Write(pending.iter().position(|&c| c == b'\n').map_or(pending.len(), |end| end + 1))
}

/// Bytes of a log file's name with its zero byte.
pub const NAME_LEN: usize = 20 + 1 + 20 + 4 + 1;

/// `<run>-<seq>.log` and a zero byte, then more zero bytes.
pub fn file_name(run: u64, seq: u64) -> [u8; NAME_LEN] {
    let mut name = [0; NAME_LEN];
    let mut len = 0;
    let mut digits = [0; 20];
    let mut put = |bytes: &[u8]| {
        name[len..len + bytes.len()].copy_from_slice(bytes);
        len += bytes.len();
    };
    put(decimal(run, &mut digits));
    put(b"-");
    put(decimal(seq, &mut digits));
    put(b".log");
    name
}
