//! Frames of the shim's socket: `[u16 version][u16 type][u32 length][payload]`, little endian.
//!
//! Pure; the shim and the library include this one file. The contract only grows: a payload may get longer, and
//! who reads it ignores what it does not know.

/// The version that this release speaks.
pub const VERSION: u16 = 1;
/// Bytes of the header.
pub const HEADER_LEN: usize = 8;
/// The longest payload that a shim accepts; a longer one is answered with [`error_code::TOO_LONG`].
pub const MAX_REQUEST: usize = 64;
/// The longest payload that a shim sends.
pub const MAX_REPLY: usize = 128;

/// The longest piece of a container's output in one frame.
pub const MAX_OUTPUT: usize = 64 << 10;

/// Frame types.
pub mod kind {
    /// Request: `signal u32, grace_ms u64`. The signal goes to the container's first process; at the deadline the
    /// whole cgroup is killed. A repeated stop may shorten the deadline, never lengthen it. Answered by [`STATE`].
    pub const STOP: u16 = 1;
    /// Request without payload, answered by [`STATE`].
    pub const PING: u16 = 2;
    /// Request: `signal u32, grace_ms u64, signal_ms u64`. A stop whose signal waits, for a hook: it is sent after
    /// `signal_ms`, or at once by a [`STOP`] that comes before; the whole cgroup is killed after `grace_ms`, whoever is
    /// there by then. A repeated one only shortens. Answered by [`STATE`].
    pub const STOP_LATER: u16 = 3;
    /// Request: `flags u32`, none yet. What the container writes from now on comes as [`OUTPUT`], and the three kinds below
    /// are taken. Answered by [`STATE`]; whoever does not read fast enough is cut off.
    pub const ATTACH: u16 = 16;
    /// Bytes for the container's standard input, from who is attached. Not answered, and waits for the container.
    pub const INPUT: u16 = 17;
    /// `rows u16, columns u16` of the terminal, from who is attached. Not answered.
    pub const RESIZE: u16 = 18;
    /// Standard input ends, from who is attached; a terminal's does not. Not answered.
    pub const CLOSE_STDIN: u16 = 19;
    /// Reply: see [`super::State`].
    pub const STATE: u16 = 0x8001;
    /// Reply: `code u32`, then text.
    pub const ERROR: u16 = 0x8002;
    /// To who is attached: `stream u32` (0 standard output or the terminal, 1 standard error), then at most
    /// [`MAX_OUTPUT`](super::MAX_OUTPUT) bytes.
    pub const OUTPUT: u16 = 0x8003;
}

/// Codes of an error frame.
pub mod error_code {
    /// The frame's version is not spoken here.
    pub const VERSION: u32 = 1;
    /// The frame's type is unknown.
    pub const TYPE: u32 = 2;
    /// The payload is longer than any request.
    pub const TOO_LONG: u32 = 3;
    /// The payload is too short or its values make no sense.
    pub const PAYLOAD: u32 = 4;
    /// As many as can be are attached already.
    pub const BUSY: u32 = 5;
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Contract version of the sender.
    pub version: u16,
    /// One of [`kind`], or a newer one.
    pub kind: u16,
    /// Bytes of payload that follow.
    pub len: u32,
}

impl Header {
    /// The header as bytes.
    pub const fn encode(self) -> [u8; HEADER_LEN] {
        let v = self.version.to_le_bytes();
        let k = self.kind.to_le_bytes();
        let l = self.len.to_le_bytes();
        [v[0], v[1], k[0], k[1], l[0], l[1], l[2], l[3]]
    }

    /// The header from its bytes. Any eight bytes are a header; the receiver judges the values.
    pub const fn decode(b: [u8; HEADER_LEN]) -> Self {
        Self {
            version: u16::from_le_bytes([b[0], b[1]]),
            kind: u16::from_le_bytes([b[2], b[3]]),
            len: u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
        }
    }
}

/// The payload of a stop request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// Signal number, 1 to 64.
    pub signal: u32,
    /// Milliseconds from receipt to the kill of the cgroup.
    pub grace_ms: u64,
}

impl Stop {
    /// Bytes of the payload.
    pub const LEN: usize = 12;

    /// The payload as bytes.
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        put(&mut out, 0, &self.signal.to_le_bytes());
        put(&mut out, 4, &self.grace_ms.to_le_bytes());
        out
    }

    /// Reads a payload; bytes behind the known ones are of a newer sender and ignored. `None` when it is too short
    /// or the signal is none.
    pub fn decode(b: &[u8]) -> Option<Self> {
        let stop = Self { signal: u32_at(b, 0)?, grace_ms: u64_at(b, 4)? };
        if stop.signal == 0 || stop.signal > 64 { None } else { Some(stop) }
    }
}

/// The payload of a stop whose signal waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopLater {
    /// The signal, and the time to the kill.
    pub stop: Stop,
    /// Milliseconds from receipt to the signal.
    pub signal_ms: u64,
}

impl StopLater {
    /// Bytes of the payload.
    pub const LEN: usize = Stop::LEN + 8;

    /// The payload as bytes.
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        put(&mut out, 0, &self.stop.encode());
        put(&mut out, Stop::LEN, &self.signal_ms.to_le_bytes());
        out
    }

    /// Reads a payload, as [`Stop::decode`] does.
    pub fn decode(b: &[u8]) -> Option<Self> {
        Some(Self { stop: Stop::decode(b)?, signal_ms: u64_at(b, Stop::LEN)? })
    }
}

/// What the container is doing, as its shim sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// The first process runs.
    Running = 0,
    /// A stop was asked for and its deadline runs.
    Stopping = 1,
    /// The first process has ended; the rest of its output is being written.
    Exited = 2,
}

/// The payload of a state reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// The number of the run that the shim was started for.
    pub run: u64,
    /// Pid of the container's first process, as the shim sees it.
    pub init_pid: u32,
    /// What the container is doing.
    pub phase: Phase,
    /// Exit code once [`Phase::Exited`], 128 + signal for a death by signal.
    pub exit_code: u32,
    /// Milliseconds to the deadline of the stop in progress; 0 without one or when it has passed.
    pub stop_ms: u64,
    /// Log lines that were dropped in this run, because the log could not be written.
    pub dropped_lines: u64,
    /// Milliseconds, from 1, until the signal of the stop in progress is sent; 0 once it was, and without a stop.
    pub signal_ms: u64,
}

impl State {
    /// Bytes of the payload.
    pub const LEN: usize = 44;

    /// The payload as bytes.
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        put(&mut out, 0, &self.run.to_le_bytes());
        put(&mut out, 8, &self.init_pid.to_le_bytes());
        put(&mut out, 12, &(self.phase as u32).to_le_bytes());
        put(&mut out, 16, &self.exit_code.to_le_bytes());
        put(&mut out, 20, &self.stop_ms.to_le_bytes());
        put(&mut out, 28, &self.dropped_lines.to_le_bytes());
        put(&mut out, 36, &self.signal_ms.to_le_bytes());
        out
    }

    /// Reads a payload; bytes behind the known ones are ignored, and those that a release added
    /// may be missing. `None` when it is too short or the phase is unknown.
    pub fn decode(b: &[u8]) -> Option<Self> {
        let phase = match u32_at(b, 12)? {
            0 => Phase::Running,
            1 => Phase::Stopping,
            2 => Phase::Exited,
            _ => return None,
        };
        Some(Self {
            run: u64_at(b, 0)?,
            init_pid: u32_at(b, 8)?,
            phase,
            exit_code: u32_at(b, 16)?,
            stop_ms: u64_at(b, 20)?,
            dropped_lines: u64_at(b, 28)?,
            // A shim of the first release sends signals at once.
            signal_ms: u64_at(b, 36).unwrap_or(0),
        })
    }
}

/// Copies `bytes` to `at` in `out`; both are constants of this file, so it fits.
fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    for (to, from) in out.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}

fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    let s = b.get(at..at + 4)?;
    Some(u32::from_le_bytes([s[0], s[1], s[2], s[3]]))
}

fn u64_at(b: &[u8], at: usize) -> Option<u64> {
    let lo = u32_at(b, at)?;
    let hi = u32_at(b, at + 4)?;
    Some(u64::from(lo) | u64::from(hi) << 32)
}
