//! The log of a run: two pipes in, numbered files out.
//!
//! Everything that touches the log's filesystem is done by a *writer*, a process that shares memory with the shim and
//! lives for one batch of records. A disk that hangs then holds the writer, never the shim: stops, exits and reaping go
//! on. While a batch is being written the pipes are not read, so a slow disk slows the container down; after one
//! second of that (unless told to block) lines are read, dropped and counted, until the batch is through.

use crate::args::Parsed;
use crate::cri::{Lines, Records, Step, Stream, Tag, file_name, rotate};
use crate::sys::{self, Pages};
use crate::time::{TIME_LEN, rfc3339};
use core::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering::Relaxed};

const LOG_DIR: i32 = 4;
const SECOND: u64 = 1_000_000_000;
/// How long a log may hold the container up.
const PATIENCE: u64 = SECOND;
/// Between two tries after an error of the filesystem.
const RETRY: u64 = SECOND / 10;
/// Names that are tried when something stands where a log file is to be made.
const NAMES: u64 = 64;

const IN: usize = 32 * 1024;
const OUT: usize = 64 * 1024;
const STACK: usize = 16 * 1024;

static INPUT: [Pages<IN>; 2] = [const { Pages::new() }; 2];
static OUTPUT: Pages<OUT> = Pages::new();
static WRITER_STACK: Pages<STACK> = Pages::new();

/// What the writer works on. The shim writes it only while no writer lives, and looks at it again when the writer is
/// reaped; the system calls between the two order the accesses. It is on the shim's stack, which has pages already.
pub struct Job {
    run: u64,
    max_bytes: u64,
    max_files: u64,
    /// The open file or -1.
    fd: AtomicI32,
    /// Number of the open file, or of the next to be made.
    seq: AtomicU64,
    /// Bytes in the open file.
    size: AtomicU64,
    /// Bytes of records in `OUTPUT`.
    len: AtomicUsize,
    /// Result: bytes of whole records that are written.
    written: AtomicUsize,
    /// Result: 0, or the errno that ended the batch.
    error: AtomicI32,
}

impl Job {
    pub fn new(args: &Parsed<'_>) -> Self {
        Self {
            run: args.run,
            max_bytes: args.log_max_bytes,
            max_files: args.log_max_files,
            fd: AtomicI32::new(-1),
            seq: AtomicU64::new(0),
            size: AtomicU64::new(0),
            len: AtomicUsize::new(0),
            written: AtomicUsize::new(0),
            error: AtomicI32::new(0),
        }
    }
}

/// The writer's whole life.
extern "C" fn writer(job: &Job) -> ! {
    write_batch(job);
    sys::exit(0);
}

fn write_batch(job: &Job) {
    // SAFETY: the shim leaves the buffer alone while a writer lives.
    let out = unsafe { OUTPUT.get() };
    let out = &out[..job.len.load(Relaxed)];
    let mut done = 0;
    let result = loop {
        if job.fd.load(Relaxed) < 0
            && let Err(e) = next_file(job)
        {
            break e;
        }
        if done == out.len() {
            break 0;
        }
        let size = job.size.load(Relaxed);
        match rotate(&out[done..], size, job.max_bytes) {
            Step::NextFile => {
                sys::close(job.fd.swap(-1, Relaxed));
                job.seq.fetch_add(1, Relaxed);
            }
            Step::Write(n) => {
                let (n, error) = write_records(job, &out[done..done + n], size);
                done += n;
                job.size.fetch_add(n as u64, Relaxed);
                if error != 0 {
                    break error;
                }
            }
        }
    };
    job.written.store(done, Relaxed);
    job.error.store(result, Relaxed);
}

/// Writes records; on an error the file ends with the last whole one.
fn write_records(job: &Job, records: &[u8], size: u64) -> (usize, i32) {
    let fd = job.fd.load(Relaxed);
    let mut done = 0;
    while done < records.len() {
        match sys::write(fd, &records[done..]) {
            Ok(0) => return cut(fd, records, done, size, sys::EIO),
            Ok(n) => done += n,
            Err(sys::EINTR) => {}
            Err(e) => return cut(fd, records, done, size, e),
        }
    }
    (done, 0)
}

fn cut(fd: i32, records: &[u8], done: usize, size: u64, error: i32) -> (usize, i32) {
    let whole = records[..done].iter().rposition(|&c| c == b'\n').map_or(0, |end| end + 1);
    // The file is opened for appending, so the next write begins at the new end. Should this fail, a reader finds one
    // torn record.
    let _ = sys::ftruncate(fd, size + whole as u64);
    (whole, error)
}

/// Makes the next file, under the next free name: what is planted there is neither followed nor replaced.
fn next_file(job: &Job) -> Result<(), i32> {
    const O_APPEND: usize = 0o2000;
    let flags = sys::O_WRONLY | sys::O_CREAT | sys::O_EXCL | O_APPEND | sys::O_NOFOLLOW | sys::O_CLOEXEC;
    let run = job.run;
    let first = job.seq.load(Relaxed);
    let mut seq = first;
    let fd = loop {
        match sys::openat(LOG_DIR, &file_name(run, seq), flags, 0o600) {
            Ok(fd) => break fd,
            Err(sys::EEXIST) if seq - first < NAMES => seq += 1,
            Err(e) => return Err(e),
        }
    };
    job.fd.store(fd, Relaxed);
    job.size.store(0, Relaxed);
    job.seq.store(seq, Relaxed);
    let keep = job.max_files;
    for old in first.saturating_sub(keep)..(seq + 1).saturating_sub(keep) {
        let _ = sys::unlinkat(LOG_DIR, &file_name(run, old));
    }
    Ok(())
}

/// One pipe.
struct Input {
    stream: Stream,
    /// The descriptor, -1 after its end.
    fd: i32,
    lines: Lines,
}

/// The log, as the shim's loop sees it.
pub struct Log<'a> {
    job: &'a Job,
    inputs: [Input; 2],
    records: Records,
    /// Pid of the writer, or 0.
    writer: i32,
    /// A batch is due even without records: the first file is made at once, so that a run shows.
    first: bool,
    /// When the batch began that is not through yet.
    since: Option<u64>,
    /// When to try again after an error.
    retry: Option<u64>,
    dropping: bool,
    block: bool,
    /// Pages of the buffers are in use.
    warm: bool,
}

impl<'a> Log<'a> {
    pub fn new(args: &Parsed<'_>, job: &'a Job, stdout: i32, stderr: i32) -> Self {
        Self {
            job,
            inputs: [
                Input { stream: Stream::Stdout, fd: stdout, lines: Lines::new() },
                Input { stream: Stream::Stderr, fd: stderr, lines: Lines::new() },
            ],
            records: Records::new(),
            writer: 0,
            first: true,
            since: None,
            retry: None,
            dropping: false,
            block: args.log_block,
            warm: false,
        }
    }

    /// The pipes to wait for now; -1 where there is none.
    pub fn wants(&self) -> [i32; 2] {
        let listen = self.dropping || (self.writer == 0 && self.records.is_empty());
        [0, 1].map(|i| if listen { self.inputs[i].fd } else { -1 })
    }

    /// When to be called again without an event, in nanoseconds since boot.
    pub fn wake_at(&self) -> Option<u64> {
        let patience = match self.since {
            Some(since) if !self.dropping && !self.block => Some(since + PATIENCE),
            _ => None,
        };
        match (patience, self.retry) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    pub const fn dropped_lines(&self) -> u64 {
        self.records.total_dropped()
    }

    /// The pipe of this number has something, or its end. `tap` gets what came, as it came.
    pub fn read(&mut self, which: usize, tap: impl FnOnce(Stream, &[u8])) {
        let input = &mut self.inputs[which];
        // SAFETY: nobody else uses this stream's buffer; the reference ends here.
        let buf = unsafe { INPUT[which].get() };
        self.warm = true;
        let space = input.lines.space(buf);
        match sys::read(input.fd, space) {
            // A terminal does not block, for what is written to it goes through the same file.
            Err(sys::EAGAIN | sys::EINTR) => {}
            Ok(0) | Err(_) => self.end(which),
            Ok(n) => {
                tap(input.stream, &space[..n]);
                input.lines.filled(n);
            }
        }
    }

    /// No more is read from this pipe.
    fn end(&mut self, which: usize) {
        sys::close(self.inputs[which].fd);
        self.inputs[which].fd = -1;
    }

    /// No more is read at all.
    pub fn end_all(&mut self) {
        for which in 0..2 {
            if self.inputs[which].fd >= 0 {
                self.end(which);
            }
        }
    }

    /// A child was reaped; whether it was the writer.
    pub fn reaped(&mut self, pid: i32, now: u64) -> bool {
        if pid != self.writer {
            return false;
        }
        self.writer = 0;
        self.batch_done(now);
        true
    }

    fn batch_done(&mut self, now: u64) {
        // SAFETY: no writer lives.
        let out = unsafe { OUTPUT.get() };
        self.records.written(out, self.job.written.load(Relaxed));
        if self.job.error.load(Relaxed) == 0 {
            self.since = None;
            self.retry = None;
            self.dropping = false;
            self.first = false;
        } else {
            self.retry = Some(now + if self.dropping { SECOND } else { RETRY });
        }
    }

    /// Moves on as far as it goes without waiting.
    pub fn pump(&mut self, now: u64) {
        if let Some(since) = self.since
            && now >= since + PATIENCE
            && !self.block
        {
            self.dropping = true;
        }
        if self.dropping {
            self.frame(true);
        }
        if self.writer != 0 {
            return;
        }
        loop {
            if self.records.is_empty() && !self.dropping {
                if self.records.wants_notice() {
                    // SAFETY: no writer lives.
                    let out = unsafe { OUTPUT.get() };
                    self.warm = true;
                    self.records.push_notice(out, &wall_clock());
                }
                self.frame(false);
            }
            let due = self.retry.is_none_or(|at| now >= at);
            let wanted = !self.records.is_empty() || self.first;
            // Once done without a writer, what is left follows at once: no event would ask for it.
            if !due || !wanted || !self.submit(now) || self.retry.is_some() {
                return;
            }
        }
    }

    /// Takes the lines out of the buffers, as records or only to count them.
    fn frame(&mut self, drop: bool) {
        let mut time: Option<[u8; TIME_LEN]> = None;
        for (which, input) in self.inputs.iter_mut().enumerate() {
            if input.lines.is_empty() {
                continue;
            }
            // SAFETY: nobody else uses this stream's buffer.
            let buf = unsafe { INPUT[which].get() };
            loop {
                if !drop && !self.records.has_room(OUT) {
                    return;
                }
                let next = match input.lines.next(buf) {
                    None if input.fd < 0 => input.lines.rest(buf),
                    next => next,
                };
                let Some((tag, text)) = next else { break };
                if drop {
                    // The end of a stream without a line end is a line too.
                    let tag = if input.fd < 0 && input.lines.is_empty() { Tag::Full } else { tag };
                    self.records.drop_text(input.stream, tag);
                } else {
                    // SAFETY: no writer lives; the shim submits only behind this.
                    let out = unsafe { OUTPUT.get() };
                    self.records.push(out, time.get_or_insert_with(wall_clock), input.stream, tag, text);
                }
            }
        }
    }

    /// Has the batch written; whether that is done already.
    fn submit(&mut self, now: u64) -> bool {
        self.since.get_or_insert(now);
        self.retry = None;
        self.warm = true;
        self.job.len.store(self.records.len(), Relaxed);
        // Should it be killed: nothing is known to be written.
        self.job.written.store(0, Relaxed);
        self.job.error.store(sys::EIO, Relaxed);
        // SAFETY: the former writer is reaped, so the stack is free; it uses its job and `OUTPUT` by their rule.
        match unsafe { sys::spawn(&WRITER_STACK, writer, self.job) } {
            Ok(pid) => {
                self.writer = pid;
                false
            }
            // Out of processes: better slow than never.
            Err(_) => {
                write_batch(self.job);
                self.batch_done(now);
                true
            }
        }
    }

    /// Whether all that was said is in the log, and nothing can come any more.
    pub fn is_done(&self) -> bool {
        self.inputs.iter().all(|i| i.fd < 0 && i.lines.is_empty())
            && self.writer == 0
            && self.records.is_empty()
            && !self.records.wants_notice()
            && !self.first
    }

    /// Gives up what cannot be written.
    pub fn abandon(&mut self) {
        self.frame(true);
        // SAFETY: a writer may still be in the kernel with this buffer, and both only read.
        let out = unsafe { OUTPUT.get() };
        self.records.abandon(out);
    }

    /// Whether pages could be given back by [`release`](Self::release).
    pub fn is_idle_and_warm(&self) -> bool {
        self.warm && self.writer == 0 && self.records.is_empty()
    }

    /// Gives the buffers' pages back. A stream keeps its own while a line of it is not complete.
    pub fn release(&mut self) {
        for (which, input) in self.inputs.iter().enumerate() {
            if input.lines.is_empty() {
                // SAFETY: the buffer holds nothing.
                unsafe { INPUT[which].release() };
            }
        }
        // SAFETY: nothing is collected and no writer lives.
        unsafe {
            OUTPUT.release();
            WRITER_STACK.release();
        }
        self.warm = false;
    }
}

fn wall_clock() -> [u8; TIME_LEN] {
    let now = sys::clock(sys::CLOCK_REALTIME);
    rfc3339(now.sec as u64, now.nsec as u32)
}
