//! Reading forward.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use super::parse::{HEAD, Timestamp, head};
use super::tail::{Start, tail};
use super::{LogDir, LogError, LogEvent, LogLine, MAX_LINE, ReadOptions, Stream, name};
use crate::shim::cri::{MAX_RECORD, Tag};

/// Bytes read at once; several records fit for certain.
const CHUNK: usize = 4 * MAX_RECORD;

/// Reads one run's log, without waiting. Holds at most two lines of [`MAX_LINE`](super::MAX_LINE) and one chunk.
#[derive(Debug)]
pub struct LogReader {
    dir: LogDir,
    run: u64,
    /// The open file and its number.
    file: Option<(File, u64)>,
    buf: Vec<u8>,
    /// Bytes of the buffer before this are read.
    at: usize,
    /// In the middle of something that is no record.
    damaged: u64,
    pieces: [Option<Pieces>; 2],
    since: Option<Timestamp>,
    /// Lines still to be passed over.
    skip: usize,
    /// Streams whose begun line is not wanted, unless it is ended after all.
    unwanted_end: [bool; 2],
    found: VecDeque<LogEvent>,
}

/// The begin of a line.
#[derive(Debug)]
struct Pieces {
    time: Timestamp,
    text: Vec<u8>,
}

impl LogReader {
    pub(super) fn new(dir: LogDir, run: u64, options: &ReadOptions) -> Result<Self, LogError> {
        let since = options.since.map(Timestamp::from);
        let start = match (options.tail, since) {
            (Some(lines), _) => tail(&dir, run, lines)?,
            (None, Some(since)) => first_file_since(&dir, run, since)?,
            (None, None) => None,
        };
        let mut reader = Self {
            dir,
            run,
            file: None,
            buf: Vec::new(),
            at: 0,
            damaged: 0,
            pieces: [None, None],
            since,
            skip: 0,
            unwanted_end: [false; 2],
            found: VecDeque::new(),
        };
        if let Some(Start { mut file, seq, offset, skip, unwanted_end }) = start {
            file.seek(SeekFrom::Start(offset))
                .map_err(|source| LogError::Read { file: name(run, seq), source })?;
            reader.file = Some((file, seq));
            reader.skip = skip;
            reader.unwanted_end = unwanted_end;
        }
        Ok(reader)
    }

    /// The next event; `None` at the end of what is written by now.
    ///
    /// # Errors
    /// When a file cannot be read.
    #[allow(clippy::should_implement_trait)] // it is no iterator: after the end there may be more
    pub fn next(&mut self) -> Result<Option<LogEvent>, LogError> {
        loop {
            if let Some(event) = self.found.pop_front() {
                return Ok(Some(event));
            }
            let Some(end) = self.buf[self.at..].iter().position(|&c| c == b'\n') else {
                if self.buf.len() - self.at > MAX_RECORD {
                    self.damaged += u64::try_from(self.buf.len() - self.at).unwrap_or(u64::MAX);
                    self.at = self.buf.len();
                }
                if !self.fill()? && self.found.is_empty() {
                    return Ok(None);
                }
                continue;
            };
            let from = self.at;
            self.at += end + 1;
            self.record(from, from + end);
        }
    }

    /// The begins of lines whose end is not written. Ask when the run has ended, or when no more is to be read.
    pub fn finish(&mut self) -> Vec<LogEvent> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let begun = self.pieces[stream as usize].take();
            if let Some(Pieces { time, text }) = begun.filter(|_| !self.unwanted_end[stream as usize]) {
                self.line(LogLine { time, stream, text, complete: false }, true);
            }
        }
        self.found.drain(..).collect()
    }

    fn record(&mut self, from: usize, to: usize) {
        let record = &self.buf[from..to];
        let parsed = if self.damaged == 0 { head(record) } else { None };
        let Some((time, stream, tag)) = parsed else {
            let bytes = self.damaged + u64::try_from(record.len()).unwrap_or(u64::MAX) + 1;
            self.damaged = 0;
            self.found.push_back(LogEvent::Damaged { bytes });
            return;
        };
        let mut line =
            self.pieces[stream as usize].take().unwrap_or_else(|| Pieces { time, text: Vec::new() });
        line.text.extend_from_slice(&record[HEAD..]);
        let complete = tag == Tag::Full;
        if complete || line.text.len() >= MAX_LINE {
            let Pieces { time, text } = line;
            self.line(LogLine { time, stream, text, complete }, complete);
        } else {
            self.pieces[stream as usize] = Some(line);
        }
    }

    fn line(&mut self, line: LogLine, last_piece: bool) {
        if self.skip > 0 {
            self.skip -= usize::from(last_piece);
        } else if self.since.is_none_or(|since| line.time >= since) {
            self.unwanted_end[line.stream as usize] &= !line.complete;
            self.found.push_back(LogEvent::Line(line));
        }
    }

    /// Reads on, in this file or the next; `false` when there is no more by now.
    fn fill(&mut self) -> Result<bool, LogError> {
        if self.read()? {
            return Ok(true);
        }
        loop {
            let current = self.file.as_ref().map(|(_, seq)| *seq);
            let files = self.dir.files_of(self.run)?;
            let mut next = None;
            for seq in files.into_iter().filter(|&seq| current.is_none_or(|current| seq > current)) {
                if let Some(file) = self.dir.file(self.run, seq)? {
                    next = Some((file, seq));
                    break;
                }
            }
            let Some((file, seq)) = next else { return Ok(false) };
            // What was written between the end and the next file's making.
            if self.read()? {
                return Ok(true);
            }
            let torn = self.damaged + u64::try_from(self.buf.len() - self.at).unwrap_or(u64::MAX);
            if torn > 0 {
                self.found.push_back(LogEvent::Damaged { bytes: torn });
            }
            self.damaged = 0;
            self.buf.clear();
            self.at = 0;
            if let Some(files) = current.map(|current| seq - current - 1).filter(|&files| files > 0) {
                // The halves of a line that went with the files must not be joined.
                let before = self.finish();
                self.found.extend(before);
                self.found.push_back(LogEvent::Gap { files });
            }
            self.file = Some((file, seq));
            if self.read()? {
                return Ok(true);
            }
        }
    }

    fn read(&mut self) -> Result<bool, LogError> {
        let Some((file, seq)) = &mut self.file else { return Ok(false) };
        self.buf.drain(..self.at);
        self.at = 0;
        let before = self.buf.len();
        let room = u64::try_from(CHUNK.saturating_sub(before)).unwrap_or(0);
        file.take(room)
            .read_to_end(&mut self.buf)
            .map_err(|source| LogError::Read { file: name(self.run, *seq), source })?;
        Ok(self.buf.len() > before)
    }
}

/// The last file that begins before the time, as all earlier ones then end before it.
fn first_file_since(dir: &LogDir, run: u64, since: Timestamp) -> Result<Option<Start>, LogError> {
    for seq in dir.files_of(run)?.into_iter().rev() {
        let Some(mut file) = dir.file(run, seq)? else { continue };
        let mut begin = [0; HEAD];
        match file.read_exact(&mut begin) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => continue,
            Err(source) => return Err(LogError::Read { file: name(run, seq), source }),
        }
        if head(&begin).is_some_and(|(time, ..)| time < since) {
            return Ok(Some(Start { file, seq, offset: 0, skip: 0, unwanted_end: [false; 2] }));
        }
    }
    Ok(None)
}
