//! Where the last lines begin, found from the end.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::parse::{HEAD, head};
use super::{LogDir, LogError, MAX_LINE, name};
use crate::shim::cri::Tag;

const CHUNK: u64 = 64 * 1024;

/// Where to read from.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) file: File,
    pub(super) seq: u64,
    pub(super) offset: u64,
    /// Lines that end behind the place and are not wanted.
    pub(super) skip: usize,
    /// By stream: its last line was never ended and is not wanted.
    pub(super) unwanted_end: [bool; 2],
}

/// The place of the last `lines` lines of a run; `None` when there is no file. Reads only as much as these lines have,
/// and at most one longest line more.
pub(super) fn tail(dir: &LogDir, run: u64, lines: usize) -> Result<Option<Start>, LogError> {
    let mut search = Search::new(lines);
    let mut start: Option<Start> = None;
    for seq in dir.files_of(run)?.into_iter().rev() {
        let Some(file) = dir.file(run, seq)? else { continue };
        let failed = |source| LogError::Read { file: name(run, seq), source };
        let size = file.metadata().map_err(failed)?.len();
        let end = backward(&file, size, |offset, begin| search.record(offset, begin)).map_err(failed)?;
        match (search.take_place(), &start) {
            (Some((offset, skip)), _) => {
                start = Some(Start { file, seq, offset, skip, unwanted_end: [false; 2] });
            }
            // No line is wanted: the end of the last file. What is torn there may be in the making.
            (None, None) => {
                start = Some(Start { file, seq, offset: end, skip: 0, unwanted_end: [false; 2] });
            }
            (None, Some(_)) => {}
        }
        if search.done() {
            break;
        }
    }
    if let Some(start) = &mut start {
        start.unwanted_end = search.unwanted_end;
    }
    Ok(start)
}

/// Gives the begins of a file's records, the last first, until `record` says to stop; the end of the last one.
fn backward(file: &File, size: u64, mut record: impl FnMut(u64, &[u8]) -> bool) -> std::io::Result<u64> {
    let mut end_of_last = None;
    let mut to = size;
    // The bytes behind the chunk that the head of a record may reach into.
    let mut behind: Vec<u8> = Vec::new();
    while to > 0 {
        let from = to.saturating_sub(CHUNK);
        let len = usize::try_from(to - from).expect("at most a chunk");
        let mut chunk = vec![0; len];
        file.read_exact_at(&mut chunk, from)?;
        chunk.extend_from_slice(&behind);
        let mut found = |at: usize| record(from + u64::try_from(at).unwrap_or(0), &chunk[at..]);
        for at in (0..len).rev().filter(|&at| chunk[at] == b'\n') {
            // The first line end from behind ends the last record, each further one begins a later.
            if end_of_last.is_none() {
                end_of_last = Some(from + u64::try_from(at).unwrap_or(0) + 1);
            } else if !found(at + 1) {
                return Ok(end_of_last.unwrap_or(0));
            }
        }
        if from == 0 && end_of_last.is_some() {
            found(0);
        }
        chunk.truncate(HEAD);
        behind = chunk;
        to = from;
    }
    Ok(end_of_last.unwrap_or(0))
}

/// Counts lines by their ends, from the last one back.
struct Search {
    wanted: usize,
    counted: usize,
    /// Line ends found that are not wanted any more.
    unwanted: usize,
    /// As [`Start::unwanted_end`].
    unwanted_end: [bool; 2],
    streams: [State; 2],
    /// Offset of the first wanted record of this file, and the unwanted line ends behind it.
    place: Option<(u64, usize)>,
    /// Bytes seen since all wanted line ends are found.
    beyond: usize,
}

#[derive(Default, Clone, Copy)]
struct State {
    /// A later record of the stream was found.
    seen: bool,
    /// The pieces that come are of a wanted line.
    open: bool,
}

impl Search {
    fn new(wanted: usize) -> Self {
        Self {
            wanted,
            counted: 0,
            unwanted: 0,
            unwanted_end: [false; 2],
            streams: [State::default(); 2],
            place: None,
            beyond: 0,
        }
    }

    fn done(&self) -> bool {
        self.counted >= self.wanted && (!self.streams.iter().any(|s| s.open) || self.beyond > MAX_LINE)
    }

    fn take_place(&mut self) -> Option<(u64, usize)> {
        self.place.take()
    }

    /// The record before the last one; `false` when no more are needed.
    fn record(&mut self, offset: u64, begin: &[u8]) -> bool {
        if self.done() {
            return false;
        }
        if self.counted >= self.wanted {
            self.beyond += begin.iter().position(|&c| c == b'\n').unwrap_or(begin.len());
        }
        let Some((_, stream, tag)) = head(begin) else { return true };
        let State { seen, open } = self.streams[stream as usize];
        let ends_line = tag == Tag::Full || !seen;
        let of_wanted = if ends_line { self.counted < self.wanted } else { open };
        self.streams[stream as usize] = State { seen: true, open: of_wanted };
        if of_wanted {
            self.counted += usize::from(ends_line);
            self.place = Some((offset, self.unwanted));
        } else if tag == Tag::Full {
            self.unwanted += 1;
        } else if ends_line {
            // It has no end that could be counted while reading on.
            self.unwanted_end[stream as usize] = true;
        }
        !self.done()
    }
}
