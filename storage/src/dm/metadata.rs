//! Which thin devices a pool has: a reader of its metadata (kernel sources, drivers/md/dm-thin-metadata.c and
//! drivers/md/persistent-data/dm-btree-internal.h), for the one tree that says so.
//!
//! The metadata is on disk and may be damaged or made by somebody else. Every block is checked by its sum and by its own
//! number, no block is visited twice, and as many are read as there can be.

use std::collections::{BTreeMap, HashSet};
use std::io;

#[cfg(test)]
mod tests;

/// Bytes of a block of metadata.
pub(crate) const BLOCK: usize = 4096;
/// Thin devices have 24 bits of number (dm-thin.c, `MAX_DEV_ID`).
pub(crate) const MOST_DEVICES: usize = 1 << 24;

const MAGIC: u64 = 27_022_010;
/// What each kind of block mixes into its sum.
const SUPERBLOCK_XOR: u32 = 160_774;
const TREE_XOR: u32 = 121_107;
const INTERNAL: u32 = 1;
const LEAF: u32 = 2;
const NODE_HEAD: usize = 32;
/// `struct disk_device_details`.
const DETAILS: usize = 24;
/// Far deeper than a tree of all devices is.
const MOST_LEVELS: usize = 12;

/// Gives blocks by number.
pub(crate) trait Blocks {
    /// Reads block `number` into `to`, which is [`BLOCK`] long.
    fn read(&mut self, number: u64, to: &mut [u8]) -> io::Result<()>;
}

/// Why the metadata was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MetadataError {
    /// The disk failed.
    #[error("cannot read block {0} of the metadata")]
    Read(u64, #[source] io::Error),
    /// It is not what it should be.
    #[error("block {0} of the metadata is damaged: {1}")]
    Damaged(u64, &'static str),
}

/// A thin device, as its pool knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Details {
    /// Blocks that it has, shared ones too.
    pub(crate) mapped: u64,
}

/// What is at the beginning of a pool's metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Superblock {
    /// The kernel lets nothing be written before somebody has checked the metadata.
    pub(crate) needs_check: bool,
    /// How many blocks of data the pool has, in its own blocks.
    pub(crate) data_blocks: u64,
    /// How many blocks of metadata, in blocks of [`BLOCK`].
    pub(crate) metadata_blocks: u64,
}

/// The superblock; `None` where there never was a pool.
pub(crate) fn superblock(blocks: &mut dyn Blocks) -> Result<Option<Superblock>, MetadataError> {
    let mut block = vec![0; BLOCK];
    match read(blocks, 0, &mut block, SUPERBLOCK_XOR) {
        Err(MetadataError::Damaged(..)) if block.iter().all(|byte| *byte == 0) => return Ok(None),
        other => other?,
    }
    if number64(&block, 32) != MAGIC {
        return Err(MetadataError::Damaged(0, "no superblock of a thin pool"));
    }
    // `THIN_METADATA_NEEDS_CHECK_FLAG`, and `nr_blocks` of both `disk_sm_root`.
    Ok(Some(Superblock {
        needs_check: number32(&block, 4) & 1 != 0,
        data_blocks: number64(&block, 64),
        metadata_blocks: number64(&block, 192),
    }))
}

/// All thin devices that were there when block `root` was held (`reserve_metadata_snap`), by their numbers.
pub(crate) fn devices(blocks: &mut dyn Blocks, root: u64) -> Result<BTreeMap<u32, Details>, MetadataError> {
    let mut block = vec![0; BLOCK];
    read(blocks, root, &mut block, SUPERBLOCK_XOR)?;
    if number64(&block, 32) != MAGIC {
        return Err(MetadataError::Damaged(root, "no superblock of a thin pool"));
    }
    let mut walk = Walk { blocks, seen: HashSet::from([root]), found: BTreeMap::new() };
    // `device_details_root`.
    walk.tree(number64(&block, 328), 0)?;
    Ok(walk.found)
}

struct Walk<'a> {
    blocks: &'a mut dyn Blocks,
    seen: HashSet<u64>,
    found: BTreeMap<u32, Details>,
}

impl Walk<'_> {
    fn tree(&mut self, at: u64, level: usize) -> Result<(), MetadataError> {
        let damaged = |why| MetadataError::Damaged(at, why);
        if level > MOST_LEVELS || !self.seen.insert(at) {
            return Err(damaged("the tree comes back to it"));
        }
        let mut block = vec![0; BLOCK];
        read(self.blocks, at, &mut block, TREE_XOR)?;
        let flags = number32(&block, 4);
        let place = |at| usize::try_from(number32(&block, at)).unwrap_or(usize::MAX);
        let (entries, most, size) = (place(16), place(20), place(24));
        let wanted = match flags {
            INTERNAL => 8,
            LEAF => DETAILS,
            _ => return Err(damaged("neither a leaf nor an inner node")),
        };
        let fits = most.checked_mul(8 + size).is_some_and(|length| length <= BLOCK - NODE_HEAD);
        if size != wanted || !fits || entries > most {
            return Err(damaged("more entries than fit"));
        }
        let values = NODE_HEAD + most * 8;
        for entry in 0..entries {
            let value = values + entry * size;
            if flags == INTERNAL {
                self.tree(number64(&block, value), level + 1)?;
                continue;
            }
            let id = u32::try_from(number64(&block, NODE_HEAD + entry * 8))
                .ok()
                .filter(|id| usize::try_from(*id).is_ok_and(|id| id < MOST_DEVICES))
                .ok_or_else(|| damaged("a device's number is out of range"))?;
            let details = Details { mapped: number64(&block, value) };
            if self.found.insert(id, details).is_some() {
                return Err(damaged("a device is there twice"));
            }
        }
        Ok(())
    }
}

fn read(blocks: &mut dyn Blocks, at: u64, to: &mut [u8], xor: u32) -> Result<(), MetadataError> {
    blocks.read(at, to).map_err(|source| MetadataError::Read(at, source))?;
    if number32(to, 0) != crc32c(&to[4..]) ^ xor {
        return Err(MetadataError::Damaged(at, "its sum is wrong"));
    }
    if number64(to, 8) != at {
        return Err(MetadataError::Damaged(at, "it belongs elsewhere"));
    }
    Ok(())
}

fn number32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|part| part.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn number64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|part| part.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// CRC-32C as device-mapper has it: all ones first, and not inverted at the end.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |sum, byte| {
        let index = usize::from(sum.to_le_bytes()[0] ^ byte);
        TABLE[index] ^ (sum >> 8)
    })
}

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        #[allow(clippy::cast_possible_truncation)]
        let mut sum = index as u32;
        let mut bit = 0;
        while bit < 8 {
            // The reflected polynomial.
            sum = if sum & 1 == 1 { (sum >> 1) ^ 0x82f6_3b78 } else { sum >> 1 };
            bit += 1;
        }
        table[index] = sum;
        index += 1;
    }
    table
}

/// Gives a block the number and the sum that it should have, for a fuzz target.
#[cfg(feature = "fuzzing")]
pub(crate) fn seal(block: &mut [u8], number: u64, superblock: bool) {
    block[8..16].copy_from_slice(&number.to_le_bytes());
    let sum = crc32c(&block[4..]) ^ if superblock { SUPERBLOCK_XOR } else { TREE_XOR };
    block[..4].copy_from_slice(&sum.to_le_bytes());
}
