//! What the filesystem's own trees tell: which subvolumes are in another, what is new in a snapshot, and what the quota
//! accounts say (kernel documentation, filesystems/btrfs.rst, and <https://btrfs.readthedocs.io>, on-disk format).

use std::collections::HashSet;
use std::os::fd::AsFd;

use rustix::io::Errno;

use super::ioctl::{Found, Key};
use crate::driver::Usage;

// linux/btrfs_tree.h.
const ROOT_TREE: u64 = 1;
const QUOTA_TREE: u64 = 8;
const LAST_OBJECT: u64 = u64::MAX - 255;
const INODE_ITEM: u32 = 1;
const EXTENT_DATA: u32 = 108;
const ROOT_ITEM: u32 = 132;
const ROOT_REF: u32 = 156;
const QGROUP_STATUS: u32 = 240;
const QGROUP_INFO: u32 = 242;
const QGROUP_LIMIT: u32 = 244;
const STATUS_ON: u64 = 1;
const STATUS_INCONSISTENT: u64 = 1 << 2;
const STATUS_SIMPLE: u64 = 1 << 3;
const EXTENT_INLINE: u8 = 0;

/// One item of a tree.
struct Item<'a> {
    object: u64,
    offset: u64,
    kind: u32,
    data: &'a [u8],
}

impl Item<'_> {
    /// A little-endian number of the item, where it is long enough.
    fn number(&self, at: usize) -> Option<u64> {
        self.data.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
    }
}

/// Calls `with` for each item that is found.
fn each(any: &impl AsFd, mut key: Key, mut with: impl FnMut(&Item<'_>)) -> Result<(), Errno> {
    let mut room = Found::new();
    key.max_transid = u64::MAX;
    loop {
        key.items = u32::MAX;
        let found = room.search(any, &mut key)?;
        let mut rest = found;
        let mut last = None;
        for _ in 0..key.items {
            let (Some(head), Some(body)) = (rest.get(..32), rest.get(32..)) else { return Err(Errno::IO) };
            let number = |at: usize| u64::from_ne_bytes(std::array::from_fn(|n| head[at + n]));
            let short = |at: usize| u32::from_ne_bytes(std::array::from_fn(|n| head[at + n]));
            // struct btrfs_ioctl_search_header: transid, object, offset, kind, length.
            let (object, offset, kind) = (number(8), number(16), short(24));
            let length = usize::try_from(short(28)).unwrap_or(usize::MAX);
            let Some(data) = body.get(..length) else { return Err(Errno::IO) };
            with(&Item { object, offset, kind, data });
            last = Some((object, kind, offset));
            rest = &body[length..];
        }
        // On from the next key.
        let Some((object, kind, offset)) = last else { return Ok(()) };
        (key.min_object, key.min_kind, key.min_offset) = match (offset.checked_add(1), kind.checked_add(1)) {
            (Some(offset), _) => (object, kind, offset),
            (None, Some(kind)) if kind <= 255 => (object, kind, 0),
            _ => (object + 1, 0, 0),
        };
        if (key.min_object, key.min_kind, key.min_offset) > (key.max_object, key.max_kind, key.max_offset) {
            return Ok(());
        }
    }
}

/// The subvolume `id` and all that are in it, each before those in it.
pub(super) fn with_inner(any: &impl AsFd, id: u64) -> Result<Vec<u64>, Errno> {
    let mut all = vec![id];
    let mut next = 0;
    while let Some(id) = all.get(next).copied() {
        let key = Key {
            tree: ROOT_TREE,
            min_object: id,
            max_object: id,
            min_kind: ROOT_REF,
            max_kind: ROOT_REF,
            max_offset: u64::MAX,
            ..Key::default()
        };
        each(any, key, |item| {
            if item.kind == ROOT_REF && item.object == id {
                all.push(item.offset);
            }
        })?;
        next += 1;
    }
    Ok(all)
}

/// The transaction that the subvolume `id` was made in, where it is a snapshot; 0 for one that began empty.
fn made_in(any: &impl AsFd, id: u64) -> Result<u64, Errno> {
    let mut made = 0;
    let key = Key {
        tree: ROOT_TREE,
        min_object: id,
        max_object: id,
        min_kind: ROOT_ITEM,
        max_kind: ROOT_ITEM,
        max_offset: u64::MAX,
        ..Key::default()
    };
    each(any, key, |item| {
        // struct btrfs_root_item: the parent's UUID at 263, otransid at 303.
        let is_snapshot = item.data.get(263..279).is_some_and(|uuid| uuid.iter().any(|byte| *byte != 0));
        if is_snapshot && item.kind == ROOT_ITEM && item.object == id {
            made = item.number(303).unwrap_or(0);
        }
    })?;
    Ok(made)
}

/// What was written to the subvolume `id` since it was made. It costs as much as there is of it, and is as of the last commit
/// of the filesystem. What was cloned from files of the parent counts.
pub(super) fn written(any: &impl AsFd, id: u64) -> Result<Usage, Errno> {
    let mut usage = Usage::default();
    let before = made_in(any, id)?;
    let mut extents = HashSet::new();
    let key = Key {
        tree: id,
        max_object: LAST_OBJECT,
        max_offset: u64::MAX,
        min_transid: before.saturating_add(u64::from(before > 0)),
        min_kind: INODE_ITEM,
        max_kind: EXTENT_DATA,
        ..Key::default()
    };
    each(any, key, |item| match item.kind {
        // struct btrfs_inode_item: transid at 8.
        INODE_ITEM if item.number(8).is_some_and(|changed| changed > before) => usage.inodes += 1,
        // struct btrfs_file_extent_item: generation, ram_bytes, compression, encryption, other_encoding (2), type, then the data
        // or disk_bytenr and disk_num_bytes.
        EXTENT_DATA if item.number(0).is_some_and(|made| made > before) => {
            if item.data.get(20) == Some(&EXTENT_INLINE) {
                usage.bytes += item.data.len().saturating_sub(21) as u64;
            } else if let (Some(place @ 1..), Some(size)) = (item.number(21), item.number(29))
                && extents.insert(place)
            {
                usage.bytes += size;
            }
        }
        _ => {}
    })?;
    Ok(usage)
}

/// Whether the filesystem keeps accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quotas {
    /// It does not.
    Off,
    /// By who shares what.
    On,
    /// By who wrote what (Linux 6.7).
    Simple,
    /// It does, and they are wrong until they are made anew.
    Inconsistent,
}

/// Whether the filesystem keeps accounts.
pub(super) fn quotas(any: &impl AsFd) -> Result<Quotas, Errno> {
    let mut flags = 0;
    let key = Key { tree: QUOTA_TREE, min_kind: QGROUP_STATUS, max_kind: QGROUP_STATUS, ..Key::default() };
    let found = each(any, key, |item| {
        if item.kind == QGROUP_STATUS {
            // struct btrfs_qgroup_status_item: version, generation, flags.
            flags = item.number(16).unwrap_or(0);
        }
    });
    match found {
        // There is no such tree.
        Err(Errno::NOENT) => Ok(Quotas::Off),
        Err(error) => Err(error),
        Ok(()) if flags & STATUS_ON == 0 => Ok(Quotas::Off),
        Ok(()) if flags & STATUS_SIMPLE != 0 => Ok(Quotas::Simple),
        Ok(()) if flags & STATUS_INCONSISTENT != 0 => Ok(Quotas::Inconsistent),
        Ok(()) => Ok(Quotas::On),
    }
}

/// The most bytes that the subvolume `id` may have for itself alone, where there is a limit.
pub(super) fn max_exclusive(any: &impl AsFd, id: u64) -> Result<Option<u64>, Errno> {
    let mut bytes = None;
    let key = Key {
        tree: QUOTA_TREE,
        min_kind: QGROUP_LIMIT,
        max_kind: QGROUP_LIMIT,
        min_offset: id,
        max_offset: id,
        ..Key::default()
    };
    let found = each(any, key, |item| {
        // struct btrfs_qgroup_limit_item: flags, referenced, exclusive.
        if item.kind == QGROUP_LIMIT
            && item.offset == id
            && item.number(0).unwrap_or(0) & super::ioctl::LIMIT_MAX_EXCL != 0
        {
            bytes = item.number(16);
        }
    });
    match found {
        Err(Errno::NOENT) => Ok(None),
        other => other.map(|()| bytes),
    }
}

/// The bytes that the subvolume `id` has for itself alone, where there is an account of it.
pub(super) fn exclusive(any: &impl AsFd, id: u64) -> Result<Option<u64>, Errno> {
    let mut bytes = None;
    let key = Key {
        tree: QUOTA_TREE,
        min_kind: QGROUP_INFO,
        max_kind: QGROUP_INFO,
        min_offset: id,
        max_offset: id,
        ..Key::default()
    };
    each(any, key, |item| {
        if item.kind == QGROUP_INFO && item.offset == id {
            // struct btrfs_qgroup_info_item: generation, referenced (2), exclusive.
            bytes = item.number(24);
        }
    })?;
    Ok(bytes)
}
