//! The last words of a run, for whoever has no more room than a status.

use std::io::Read;
use std::io::Seek;

use super::parse::{HEAD, head};
use super::{LogDir, LogError, name};
use crate::shim::cri::Tag;

/// So much of the end of a log is looked at: a line of the limit's length with its heads fits many times.
const LOOKED_AT: u64 = 64 * 1024;

/// The end of a run's log: at most so many lines, and of those at most the last `bytes` bytes.
pub(super) fn last(dir: &LogDir, run: u64, lines: usize, bytes: usize) -> Result<Vec<u8>, LogError> {
    let mut end: Vec<u8> = Vec::new();
    let mut left = LOOKED_AT;
    for seq in dir.files_of(run)?.into_iter().rev() {
        let Some(mut file) = dir.file(run, seq)? else { continue };
        let failed = |source| LogError::Read { file: name(run, seq), source };
        let size = file.metadata().map_err(failed)?.len();
        let from = size.saturating_sub(left);
        file.seek(std::io::SeekFrom::Start(from)).map_err(failed)?;
        let mut part = Vec::new();
        // The file may still grow; what was there is enough.
        let read = file.take(size - from).read_to_end(&mut part).map_err(failed)?;
        part.append(&mut end);
        end = part;
        left = left.saturating_sub(u64::try_from(read).unwrap_or(left));
        if left == 0 {
            break;
        }
    }
    Ok(words(&end, lines, bytes))
}

/// The text of the last lines among records, of which the first may be cut.
fn words(records: &[u8], lines: usize, bytes: usize) -> Vec<u8> {
    let mut pieces: Vec<(&[u8], bool)> = Vec::new();
    let (mut ends, mut length) = (0, 0);
    let whole = records.strip_suffix(b"\n").unwrap_or(records);
    for record in whole.split(|byte| *byte == b'\n').rev() {
        let Some((_, _, tag)) = head(record) else { continue };
        let is_end = tag == Tag::Full;
        // A line that never ended counts as one.
        ends += usize::from(is_end || pieces.is_empty());
        if ends > lines || length >= bytes {
            break;
        }
        let text = &record[HEAD..];
        length += text.len() + usize::from(is_end);
        pieces.push((text, is_end));
    }
    let mut text = Vec::with_capacity(length);
    for (piece, is_end) in pieces.into_iter().rev() {
        text.extend_from_slice(piece);
        text.extend(is_end.then_some(b'\n'));
    }
    text.split_off(text.len().saturating_sub(bytes))
}
