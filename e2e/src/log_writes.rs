//! The log that device-mapper's `log-writes` target keeps of all writes to a disk
//! (Documentation/admin-guide/device-mapper/log-writes.rst; the format is in drivers/md/dm-log-writes.c), and its replay.
//!
//! A super block, then for each entry one block with its head, and the data of a write. A write is in the log once a flush has
//! made it durable, before that flush; so whatever part of the log is replayed, the disk is as a power cut could have left it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use rustix::fs::FallocateFlags;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
/// What `sector` and `end_sector` of the target count in.
const SECTOR: u64 = 512;
/// Bytes of an entry's head; a mark's text follows it in the same block.
const HEAD: usize = 32;
/// What is copied at once, in bytes.
const PIECE: u64 = 1 << 20;

/// Flags of an entry (`LOG_*_FLAG`).
pub mod flag {
    /// All that is before it had reached the disk.
    pub const FLUSH: u64 = 1 << 0;
    /// It went past the disk's cache.
    pub const FUA: u64 = 1 << 1;
    /// The blocks' content is not needed any more.
    pub const DISCARD: u64 = 1 << 2;
    /// A text that was put into the log.
    pub const MARK: u64 = 1 << 3;
    /// A write of a filesystem's own tables.
    pub const METADATA: u64 = 1 << 4;
}

/// One entry: a write, a discard, a flush, or a mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// See [`flag`].
    pub flags: u64,
    /// Where on the disk, in blocks of the log.
    pub sector: u64,
    /// How many.
    pub sectors: u64,
    /// What a mark says.
    pub mark: Option<String>,
    /// Where in the log its data are, in bytes.
    data: u64,
}

impl Entry {
    /// One without data, to choose by.
    #[cfg(test)]
    pub(crate) fn new(flags: u64, sector: u64, sectors: u64, mark: Option<String>) -> Self {
        Self { flags, sector, sectors, mark, data: 0 }
    }

    /// Whether it has any of these flags.
    #[must_use]
    pub fn has(&self, flags: u64) -> bool {
        self.flags & flags != 0
    }
}

/// A log that is complete: its target has been removed.
#[derive(Debug)]
pub struct Log {
    file: File,
    block: u64,
    /// All entries, in order.
    pub entries: Vec<Entry>,
}

impl Log {
    /// Reads the heads of all entries.
    ///
    /// # Errors
    /// When it is not a log, or goes on where there is no entry.
    pub fn open(file: File) -> Result<Self> {
        let mut head = [0; HEAD];
        file.read_exact_at(&mut head, 0).context("read the log's super block")?;
        let [magic, version, count, block] = numbers(&head);
        ensure!(magic == MAGIC, "no log of dm-log-writes: it begins with {magic:#x}");
        ensure!(version == VERSION, "a log of version {version}; only {VERSION} is known");
        // The field has four bytes.
        let block = block & u64::from(u32::MAX);
        ensure!(block.is_power_of_two() && (SECTOR..=65536).contains(&block), "an odd block size: {block}");
        let mut log = Self { file, block, entries: Vec::new() };
        let mut at = block;
        for number in 0..count {
            let entry = log.entry(at).with_context(|| format!("entry {number} of {count}, at byte {at}"))?;
            let length = if entry.has(flag::DISCARD) { 0 } else { entry.sectors };
            at = length
                .checked_mul(block)
                .and_then(|length| entry.data.checked_add(length))
                .context("too long")?;
            log.entries.push(entry);
        }
        Ok(log)
    }

    fn entry(&self, at: u64) -> Result<Entry> {
        let mut block = vec![0; usize::try_from(self.block)?];
        self.file.read_exact_at(&mut block, at)?;
        let (head, rest) = block.split_first_chunk::<HEAD>().context("a block without room")?;
        let [sector, sectors, flags, length] = numbers(head);
        ensure!(flags < flag::METADATA << 1, "unknown flags: {flags:#x}");
        let mark = if flags & flag::MARK == 0 {
            None
        } else {
            let text = usize::try_from(length).ok().and_then(|length| rest.get(..length));
            Some(String::from_utf8(text.context("a mark that is longer than its block")?.to_vec())?)
        };
        Ok(Entry { flags, sector, sectors, mark, data: at + self.block })
    }

    /// Does to `disk` what an entry did. A discard leaves zeros, the worst that a disk may make of it.
    ///
    /// # Errors
    /// When the log ends, or the disk does not take it.
    pub fn replay(&self, entry: &Entry, disk: &File) -> Result<()> {
        let (mut at, mut left) = (entry.sector * self.block, entry.sectors * self.block);
        if left == 0 || entry.has(flag::MARK) {
            return Ok(());
        }
        if entry.has(flag::DISCARD) {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            return rustix::fs::fallocate(disk, flags, at, left).context("discard blocks of the disk");
        }
        let (mut from, mut bytes) = (entry.data, Vec::new());
        while left > 0 {
            let piece = left.min(PIECE);
            bytes.resize(usize::try_from(piece)?, 0);
            self.file.read_exact_at(&mut bytes, from).context("read the log")?;
            disk.write_all_at(&bytes, at).with_context(|| format!("write to the disk at byte {at}"))?;
            (at, from, left) = (at + piece, from + piece, left - piece);
        }
        Ok(())
    }
}

/// The four little-endian numbers that both kinds of head begin with.
fn numbers(head: &[u8; HEAD]) -> [u64; 4] {
    let mut numbers = [0; 4];
    for (number, bytes) in numbers.iter_mut().zip(head.as_chunks::<8>().0) {
        *number = u64::from_le_bytes(*bytes);
    }
    numbers
}

#[cfg(test)]
mod tests;
