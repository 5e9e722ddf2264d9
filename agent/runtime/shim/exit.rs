//! The exit record as text. Pure.

use super::time::{TIME_LEN, decimal};

/// The version of the record.
const VERSION: u64 = 1;
/// Longest record, in bytes.
pub const MAX_LEN: usize = 512;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Exit code, 128 + signal for a death by signal.
    pub code: u32,
    /// The signal, or 0.
    pub signal: u32,
}

impl Ended {
    /// From the status of `wait(2)`.
    pub const fn from_status(status: u32) -> Self {
        let signal = status & 0x7f;
        if signal == 0 {
            Self { code: (status >> 8) & 0xff, signal: 0 }
        } else {
            Self { code: 128 + signal, signal }
        }
    }
}

/// What an exit record says.
#[derive(Debug)]
pub struct Exit<'a> {
    /// The kernel's boot id.
    pub boot_id: &'a [u8],
    /// Number of the run.
    pub run: u64,
    /// How it ended.
    pub ended: Ended,
    /// When it began.
    pub started_at: &'a [u8],
    /// When it was reaped.
    pub finished_at: &'a [u8; TIME_LEN],
    /// Milliseconds that it ran, by a clock that nobody sets.
    pub ran_ms: u64,
    /// Lines missing in the log.
    pub dropped_lines: u64,
}

impl Exit<'_> {
    /// The record as JSON, written to `out`; its length.
    pub fn write(&self, out: &mut [u8; MAX_LEN]) -> usize {
        let mut text = Text { out, len: 0 };
        text.number(b"{\"version\":", VERSION);
        text.string(b",\"bootId\":", self.boot_id);
        text.number(b",\"run\":", self.run);
        text.number(b",\"exitCode\":", u64::from(self.ended.code));
        text.number(b",\"signal\":", u64::from(self.ended.signal));
        text.string(b",\"startedAt\":", self.started_at);
        text.string(b",\"finishedAt\":", self.finished_at);
        text.number(b",\"droppedLines\":", self.dropped_lines);
        text.number(b",\"ranMs\":", self.ran_ms);
        text.put(b"}\n");
        text.len
    }
}

struct Text<'a> {
    out: &'a mut [u8; MAX_LEN],
    len: usize,
}

impl Text<'_> {
    fn put(&mut self, bytes: &[u8]) {
        for &b in bytes {
            if let Some(to) = self.out.get_mut(self.len) {
                *to = b;
                self.len += 1;
            }
        }
    }

    fn number(&mut self, key: &[u8], n: u64) {
        self.put(key);
        self.put(decimal(n, &mut [0; 20]));
    }

    /// Only characters that need no escape, and no more than an id or a time has; the values are our own.
    fn string(&mut self, key: &[u8], value: &[u8]) {
        self.put(key);
        self.put(b"\"");
        for &c in value.iter().take(64) {
            if c.is_ascii_alphanumeric() || matches!(c, b'-' | b':' | b'.' | b'+') {
                self.put(&[c]);
            }
        }
        self.put(b"\"");
    }
}
