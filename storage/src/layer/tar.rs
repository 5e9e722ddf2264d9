//! A strict reader of tar streams as layers have them: POSIX ustar and pax, GNU, and plain version 7.
//!
//! Where readers in the field differ over what a header means, the header is refused: an image must not be one tree
//! to whoever scans it and another to whoever runs it. So there is one place for a name (a pax `path` and a GNU long
//! name together are refused), pax sizes count (RUSTSEC-2026-0068), a lone zero block ends nothing, and so on; the tests
//! name each. Sources: POSIX.1-2024 `pax`, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format".

use std::io::BufRead;

use super::stream::Stream;
use super::{LayerError, UnpackLimits};

mod header;
mod pax;
mod sparse;
#[cfg(test)]
mod tests;

use header::Block;
#[cfg(feature = "fuzzing")]
pub(crate) use header::octal_size;
use pax::Extended;

/// Seconds and nanoseconds since 1970 began; the nanoseconds count forward from the seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanos: u32,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Regular,
    Hardlink(Vec<u8>),
    Symlink(Vec<u8>),
    Char(u32, u32),
    Block(u32, u32),
    Directory,
    Fifo,
}

/// A piece of data of a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// One entry. Its data follows by [`Reader::data`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    /// Of the file, holes included.
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the data goes, when the file has holes.
    pub(crate) sparse: Option<Vec<Segment>>,
}

/// What a tar stream is read from.
pub(crate) trait Source: BufRead {
    /// The reason behind an error that reading gave.
    fn reason(&mut self, error: std::io::Error) -> LayerError {
        LayerError::Read(error)
    }
}

impl Source for Stream {
    fn reason(&mut self, error: std::io::Error) -> LayerError {
        self.explain(error)
    }
}

impl Source for &[u8] {}

/// Reads entries from a tar stream.
#[derive(Debug)]
pub(crate) struct Reader<'a, S> {
    source: &'a mut S,
    limits: &'a UnpackLimits,
    /// Bytes of the stream that were taken.
    at: u64,
    /// Bytes of the current entry's data still to come.
    left: u64,
    /// Bytes of padding after them.
    padding: u64,
    ended: bool,
}

impl<'a, S: Source> Reader<'a, S> {
    pub(crate) fn new(source: &'a mut S, limits: &'a UnpackLimits) -> Self {
        Self { source, limits, at: 0, left: 0, padding: 0, ended: false }
    }

    fn bad(&self, what: &'static str) -> LayerError {
        LayerError::Header { at: self.at, what }
    }

    /// The next entry; what is left of the one before is passed over.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, LayerError> {
        self.skip_body()?;
        let mut extended: Option<Extended> = None;
        let mut long_name: Option<Vec<u8>> = None;
        let mut long_link: Option<Vec<u8>> = None;
        loop {
            let pending = extended.is_some() || long_name.is_some() || long_link.is_some();
            let Some(block) = self.block(pending)? else { return Ok(None) };
            match block.kind() {
                b'x' => {
                    if extended.is_some() {
                        return Err(self.bad("two extended headers for one entry"));
                    }
                    let body = self.meta(&block, self.limits.max_pax, "bytes of an extended header")?;
                    extended = Some(Extended::parse(&body, self.limits).map_err(|what| self.bad(what))?);
                }
                b'g' => {
                    if pending {
                        return Err(self.bad("a global header between an entry and its extension"));
                    }
                    let body = self.meta(&block, self.limits.max_pax, "bytes of an extended header")?;
                    let global = Extended::parse(&body, self.limits).map_err(|what| self.bad(what))?;
                    if global != Extended::default() {
                        return Err(self.bad("a global header that would change entries"));
                    }
                }
                kind @ (b'L' | b'K') => {
                    let limit = u64::try_from(self.limits.max_path).unwrap_or(u64::MAX).saturating_add(1);
                    let mut name = self.meta(&block, limit, "bytes of a path")?;
                    if name.last() == Some(&0) {
                        name.pop();
                    }
                    if name.is_empty() || name.contains(&0) {
                        return Err(self.bad("a GNU long name with a NUL byte in it, or empty"));
                    }
                    let slot = if kind == b'L' { &mut long_name } else { &mut long_link };
                    if slot.replace(name).is_some() {
                        return Err(self.bad("two GNU long names for one entry"));
                    }
                }
                _ => {
                    let extended = extended.unwrap_or_default();
                    return self.entry(&block, extended, long_name, long_link).map(Some);
                }
            }
        }
    }

    /// The next piece of the entry's data; empty at its end. Whoever used it calls [`Reader::used`].
    pub(crate) fn data(&mut self) -> Result<&[u8], LayerError> {
        if self.left == 0 {
            return Ok(&[]);
        }
        // Asked twice because the borrow checker does not let a conditional borrow end.
        let have = match self.source.fill_buf() {
            Ok(piece) => piece.len(),
            Err(error) => return Err(self.source.reason(error)),
        };
        if have == 0 {
            return Err(LayerError::Truncated { at: self.at });
        }
        let take = usize::try_from(self.left).map_or(have, |left| left.min(have));
        let piece = self.source.fill_buf().map_err(LayerError::Read)?;
        Ok(&piece[..take])
    }

    /// `amount` bytes of the last piece were used.
    pub(crate) fn used(&mut self, amount: usize) {
        self.source.consume(amount);
        let amount = u64::try_from(amount).unwrap_or(u64::MAX);
        self.left -= amount;
        self.at += amount;
    }

    fn skip_body(&mut self) -> Result<(), LayerError> {
        self.left = self.left.checked_add(self.padding).ok_or_else(|| self.bad("size is too large"))?;
        self.padding = 0;
        while self.left > 0 {
            let piece = self.data()?.len();
            self.used(piece);
        }
        Ok(())
    }

    /// One block, or `None` at the end of the stream, which is allowed only before a block.
    fn raw(&mut self) -> Result<Option<[u8; 512]>, LayerError> {
        let mut out = [0u8; 512];
        let mut filled = 0;
        while filled < out.len() {
            let piece = match self.source.fill_buf() {
                Ok(piece) => piece,
                Err(error) => return Err(self.source.reason(error)),
            };
            if piece.is_empty() {
                return if filled == 0 { Ok(None) } else { Err(LayerError::Truncated { at: self.at }) };
            }
            let take = piece.len().min(out.len() - filled);
            out[filled..filled + take].copy_from_slice(&piece[..take]);
            self.source.consume(take);
            self.at += u64::try_from(take).unwrap_or(u64::MAX);
            filled += take;
        }
        Ok(Some(out))
    }

    /// The next header. Two zero blocks, or the end of the stream, end the archive.
    fn block(&mut self, pending: bool) -> Result<Option<Block>, LayerError> {
        if self.ended {
            return Ok(None);
        }
        let end = |reader: &Self| match pending {
            true => Err(reader.bad("an extension that no entry follows")),
            false => Ok(None),
        };
        let Some(raw) = self.raw()? else {
            self.ended = true;
            return end(self);
        };
        if raw.iter().all(|b| *b == 0) {
            self.ended = true;
            return match self.raw()? {
                Some(second) if second.iter().any(|b| *b != 0) => Err(self.bad("a lone zero block")),
                _ => end(self),
            };
        }
        Block::parse(raw).map(Some).map_err(|what| self.bad(what))
    }

    /// The body of an entry that describes another one.
    fn meta(&mut self, block: &Block, limit: u64, what: &'static str) -> Result<Vec<u8>, LayerError> {
        let size = block.size().map_err(|what| self.bad(what))?;
        if size > limit {
            return Err(LayerError::Limit { what, limit });
        }
        self.body(size);
        let mut out = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        loop {
            let piece = self.data()?;
            if piece.is_empty() {
                break;
            }
            let taken = piece.len();
            out.extend_from_slice(piece);
            self.used(taken);
        }
        self.skip_body()?;
        Ok(out)
    }

    fn body(&mut self, size: u64) {
        self.left = size;
        self.padding = size.wrapping_neg() % 512;
    }

    fn entry(
        &mut self,
        block: &Block,
        extended: Extended,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, LayerError> {
        let bad = |what| self.bad(what);
        if extended.path.is_some() && long_name.is_some()
            || extended.linkpath.is_some() && long_link.is_some()
        {
            return Err(bad("a pax and a GNU name for one entry"));
        }
        let named_sparse = extended.sparse.name.clone();
        let path = named_sparse.or(extended.path).or(long_name).unwrap_or_else(|| block.name());
        let target = extended.linkpath.or(long_link).unwrap_or_else(|| block.linkname());
        let stored = match extended.size {
            Some(size) => size,
            None => block.size().map_err(bad)?,
        };
        if path.is_empty() {
            return Err(bad("an entry without a name"));
        }
        let type_byte = block.kind();
        let kind = match type_byte {
            // Version 7 has no type for directories; it writes a slash.
            0 if path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::Regular,
            b'1' => Kind::Hardlink(target),
            b'2' => Kind::Symlink(target),
            b'3' | b'4' => {
                let (major, minor) = block.device().map_err(bad)?;
                if type_byte == b'3' { Kind::Char(major, minor) } else { Kind::Block(major, minor) }
            }
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            _ => return Err(LayerError::refused(&path, "its type is not known to this version")),
        };
        if kind != Kind::Regular && stored != 0 {
            return Err(LayerError::refused(&path, "only a regular file has data"));
        }
        if let Kind::Hardlink(target) | Kind::Symlink(target) = &kind {
            if target.is_empty() {
                return Err(LayerError::refused(&path, "a link to nothing"));
            }
            if target.len() > self.limits.max_path {
                return Err(LayerError::refused(&path, "its link target is too long"));
            }
        }
        let id = |extended: Option<u64>, field: Result<u64, &'static str>| -> Result<u32, LayerError> {
            let value = match extended {
                Some(value) => value,
                None => field.map_err(bad)?,
            };
            // The highest id means "leave it" to chown(2).
            u32::try_from(value)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| LayerError::refused(&path, "its owner is out of range"))
        };
        let uid = id(extended.uid, block.uid())?;
        let gid = id(extended.gid, block.gid())?;
        let mtime = match extended.mtime {
            Some(time) => time,
            None => Time { seconds: block.mtime().map_err(bad)?, nanos: 0 },
        };
        let mode = block.mode().map_err(bad)? & 0o7777;
        self.body(stored);
        let (size, sparse) = self.sparse(block, &extended.sparse, kind == Kind::Regular, stored)?;
        if size > self.limits.max_bytes {
            return Err(LayerError::Limit { what: "bytes in one file", limit: self.limits.max_bytes });
        }
        Ok(Entry { path, kind, size, mode, uid, gid, mtime, xattrs: extended.xattrs, sparse })
    }
}
