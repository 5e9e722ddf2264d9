//! A writer of tar streams whose bytes depend on nothing but the entries: POSIX ustar, and pax records only for what
//! ustar cannot hold (POSIX.1-2024 `pax`, "ustar Interchange Format").
//!
//! What a reader could understand in two ways is not written: one extended header an entry, no key twice, numbers in
//! octal with a NUL at their end, no names of owners. A value that has a pax record is zero in the header.

use std::io::{self, Write};

use super::tar::{Entry, Kind, Time};

/// The largest number of seven octal digits, which is what the fields of owners have room for.
const OCTAL_7: u64 = 0o7_777_777;
/// The same for sizes and times, of eleven.
const OCTAL_11: u64 = 0o77_777_777_777;

/// Writes entries to `out`.
#[derive(Debug)]
pub(crate) struct Writer<W> {
    out: W,
    /// Bytes of the current entry's data still to come.
    left: u64,
    padding: usize,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, left: 0, padding: 0 }
    }

    /// Begins an entry. A regular file's `size` bytes follow by [`Writer::data`]. `sparse` is not looked at: holes are
    /// written as zeros.
    pub(crate) fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        debug_assert_eq!(self.left, 0, "the entry before has all its data");
        let mut pax = Vec::new();
        let mut head = [0u8; 512];
        let mut path = entry.path.clone();
        if entry.kind == Kind::Directory && path.last() != Some(&b'/') {
            path.push(b'/');
        }
        // Text that is not ASCII has an encoding, and only a pax record says which; bytes that are no text have none.
        let text = |name: &[u8]| name.is_ascii() || std::str::from_utf8(name).is_err();
        match split(&path).filter(|_| text(&path)) {
            Some((prefix, name)) => {
                head[..name.len()].copy_from_slice(name);
                head[345..345 + prefix.len()].copy_from_slice(prefix);
            }
            None => record(&mut pax, b"path", &path),
        }
        let (kind, link, device) = match &entry.kind {
            Kind::Regular => (b'0', &[][..], None),
            Kind::Hardlink(to) => (b'1', to.as_slice(), None),
            Kind::Symlink(to) => (b'2', to.as_slice(), None),
            Kind::Char(major, minor) => (b'3', &[][..], Some((*major, *minor))),
            Kind::Block(major, minor) => (b'4', &[][..], Some((*major, *minor))),
            Kind::Directory => (b'5', &[][..], None),
            Kind::Fifo => (b'6', &[][..], None),
        };
        if link.len() <= 100 && text(link) {
            head[157..157 + link.len()].copy_from_slice(link);
        } else {
            record(&mut pax, b"linkpath", link);
        }
        let size = if entry.kind == Kind::Regular { entry.size } else { 0 };
        octal(&mut head[100..108], u64::from(entry.mode & 0o7777));
        for (key, field, value, max) in [
            (&b"uid"[..], 108..116, u64::from(entry.uid), OCTAL_7),
            (b"gid", 116..124, u64::from(entry.gid), OCTAL_7),
            (b"size", 124..136, size, OCTAL_11),
        ] {
            if value > max {
                record(&mut pax, key, value.to_string().as_bytes());
            }
            octal(&mut head[field], if value > max { 0 } else { value });
        }
        let seconds = u64::try_from(entry.mtime.seconds).ok().filter(|seconds| *seconds <= OCTAL_11);
        if seconds.is_none() || entry.mtime.nanos != 0 {
            record(&mut pax, b"mtime", time(entry.mtime).as_bytes());
        }
        octal(&mut head[136..148], seconds.unwrap_or(0));
        let (major, minor) = device.unwrap_or((0, 0));
        octal(&mut head[329..337], major.into());
        octal(&mut head[337..345], minor.into());
        let mut xattrs: Vec<_> = entry.xattrs.iter().collect();
        xattrs.sort();
        for (name, value) in xattrs {
            record(&mut pax, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        if !pax.is_empty() {
            let mut extended = [0u8; 512];
            extended[..14].copy_from_slice(b"././@PaxHeader");
            for (field, value) in [(100..108, 0o644), (108..116, 0), (116..124, 0), (136..148, 0)] {
                octal(&mut extended[field], value);
            }
            let length = u64::try_from(pax.len()).unwrap_or(u64::MAX);
            octal(&mut extended[124..136], length);
            self.header(extended, b'x')?;
            self.out.write_all(&pax)?;
            self.out.write_all(&ZEROS[..padding(length)])?;
        }
        self.header(head, kind)?;
        (self.left, self.padding) = (size, padding(size));
        Ok(())
    }

    fn header(&mut self, mut head: [u8; 512], kind: u8) -> io::Result<()> {
        head[156] = kind;
        head[257..265].copy_from_slice(b"ustar\x0000");
        head[148..156].fill(b' ');
        let sum: u64 = head.iter().map(|byte| u64::from(*byte)).sum();
        // Six digits, a NUL and a space, as every tar has written it.
        octal(&mut head[148..155], sum);
        self.out.write_all(&head)
    }

    /// Bytes of data that the entry still lacks.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// Data of the entry; what is more than its size is left out. The last piece brings the padding.
    pub(crate) fn data(&mut self, piece: &[u8]) -> io::Result<()> {
        let take = usize::try_from(self.left).map_or(piece.len(), |left| left.min(piece.len()));
        self.out.write_all(&piece[..take])?;
        self.left -= u64::try_from(take).unwrap_or(self.left);
        if self.left == 0 {
            self.out.write_all(&ZEROS[..std::mem::take(&mut self.padding)])?;
        }
        Ok(())
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&ZEROS)?;
        self.out.write_all(&ZEROS)?;
        Ok(self.out)
    }
}

static ZEROS: [u8; 512] = [0; 512];

fn padding(size: u64) -> usize {
    usize::try_from(size.wrapping_neg() % 512).unwrap_or(0)
}

/// The name as ustar has it: up to 100 bytes, and up to 155 of the directories before them.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= 100 {
        return Some((&[], path));
    }
    // The slash itself is in neither; the name must not be empty, so a directory's last slash does not count.
    let end = path.len().checked_sub(2)?;
    let slash = path[..end.min(156)].iter().rposition(|byte| *byte == b'/')?;
    let (prefix, name) = (&path[..slash], &path[slash + 1..]);
    (!prefix.is_empty() && name.len() <= 100).then_some((prefix, name))
}

/// Seconds with as many digits after the point as there are.
fn time(time: Time) -> String {
    let (sign, seconds, nanos) = match (time.seconds < 0, time.nanos) {
        // The fraction counts backward in the text.
        (true, 1..) => ("-", (time.seconds + 1).unsigned_abs(), 1_000_000_000 - time.nanos),
        (negative, nanos) => (if negative { "-" } else { "" }, time.seconds.unsigned_abs(), nanos),
    };
    match nanos {
        0 => format!("{sign}{seconds}"),
        _ => format!("{sign}{seconds}.{}", format!("{nanos:09}").trim_end_matches('0')),
    }
}

/// A pax record: its own length in decimal, a space, `key=value`, a newline.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let body = key.len() + value.len() + 3;
    let mut length = body + 1;
    while body + digits(length) != length {
        length = body + digits(length);
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn digits(number: usize) -> usize {
    number.to_string().len()
}

/// All digits that fit, and a NUL.
fn octal(field: &mut [u8], value: u64) {
    let width = field.len() - 1;
    field[..width].copy_from_slice(format!("{value:0width$o}").as_bytes());
    field[width] = 0;
}

#[cfg(test)]
mod tests;
