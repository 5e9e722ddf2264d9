//! Extended headers: records of `length key=value\n`.

use super::Time;
use crate::layer::UnpackLimits;

/// What an extended header says about the entry after it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Extended {
    pub(super) path: Option<Vec<u8>>,
    pub(super) linkpath: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Time>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Sparse,
}

/// GNU's records of sparse files, in its versions 0.0, 0.1 and 1.0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sparse {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) realsize: Option<u64>,
    /// Offset, length, offset, length...
    pub(super) map: Vec<u64>,
    pub(super) blocks: Option<u64>,
}

impl Extended {
    pub(super) fn parse(mut body: &[u8], limits: &UnpackLimits) -> Result<Self, &'static str> {
        const WRONG: &str = "a malformed extended header";
        let mut out = Self::default();
        let mut seen = std::collections::HashSet::new();
        while !body.is_empty() {
            let space = body.iter().take(20).position(|b| *b == b' ').ok_or(WRONG)?;
            let length = usize::try_from(decimal(&body[..space])?).map_err(|_| WRONG)?;
            if length <= space + 1 || length > body.len() {
                return Err("an extended header record that runs past its end");
            }
            let (record, rest) = body.split_at(length);
            body = rest;
            let record =
                record[space + 1..].strip_suffix(b"\n").ok_or("an unterminated extended header record")?;
            let equals = record.iter().position(|b| *b == b'=').ok_or(WRONG)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            if key.is_empty() || key.contains(&0) {
                return Err(WRONG);
            }
            // Version 0.0 of GNU's sparse files is the one thing that repeats a key; for all others readers differ over
            // which one counts.
            let repeats = matches!(key, b"GNU.sparse.offset" | b"GNU.sparse.numbytes");
            if !repeats && !seen.insert(key) {
                return Err("an extended header with a key twice");
            }
            out.record(key, value, limits)?;
        }
        Ok(out)
    }

    fn record(&mut self, key: &[u8], value: &[u8], limits: &UnpackLimits) -> Result<(), &'static str> {
        let name = |value: &[u8]| match value {
            // POSIX lets an empty value undo a global record; for a name, readers differ.
            b"" => Err("an extended header with an empty name"),
            _ if value.contains(&0) => Err("an extended header with a NUL byte in a name"),
            _ if value.len() > limits.max_path => Err("an extended header with a name that is too long"),
            _ => Ok(value.to_vec()),
        };
        match key {
            b"path" => self.path = Some(name(value)?),
            b"linkpath" => self.linkpath = Some(name(value)?),
            b"size" => self.size = Some(decimal(value)?),
            b"uid" => self.uid = Some(decimal(value)?),
            b"gid" => self.gid = Some(decimal(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            b"GNU.sparse.major" => self.sparse.major = Some(decimal(value)?),
            b"GNU.sparse.minor" => self.sparse.minor = Some(decimal(value)?),
            b"GNU.sparse.name" => self.sparse.name = Some(name(value)?),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                if self.sparse.realsize.replace(decimal(value)?).is_some() {
                    return Err("a sparse file with two sizes");
                }
            }
            b"GNU.sparse.numblocks" => self.sparse.blocks = Some(decimal(value)?),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                let offset = key == b"GNU.sparse.offset";
                if offset != self.sparse.map.len().is_multiple_of(2) {
                    return Err("a sparse file whose map is out of order");
                }
                self.push(value, limits)?;
            }
            b"GNU.sparse.map" => {
                if !self.sparse.map.is_empty() {
                    return Err("a sparse file with two maps");
                }
                for number in value.split(|b| *b == b',') {
                    self.push(number, limits)?;
                }
            }
            _ => {
                if let Some(attribute) = key.strip_prefix(b"SCHILY.xattr.") {
                    if attribute.is_empty() || attribute.len() > 255 || value.len() > 64 << 10 {
                        return Err("an extended attribute the kernel cannot hold");
                    }
                    self.xattrs.push((attribute.to_vec(), value.to_vec()));
                }
                // Comments, names of owners and what other programs keep for themselves change nothing.
            }
        }
        Ok(())
    }

    fn push(&mut self, number: &[u8], limits: &UnpackLimits) -> Result<(), &'static str> {
        if self.sparse.map.len() >= limits.max_sparse.saturating_mul(2) {
            return Err("a sparse file of too many pieces");
        }
        self.sparse.map.push(decimal(number)?);
        Ok(())
    }
}

/// Decimal digits only; at most what a file's size can be.
pub(super) fn decimal(text: &[u8]) -> Result<u64, &'static str> {
    const WRONG: &str = "a malformed decimal number";
    if text.is_empty() || text.len() > 19 || !text.iter().all(u8::is_ascii_digit) {
        return Err(WRONG);
    }
    let value = text.iter().fold(0u64, |value, digit| value * 10 + u64::from(digit - b'0'));
    if i64::try_from(value).is_err() { Err(WRONG) } else { Ok(value) }
}

/// Seconds with a fraction, maybe negative.
pub(super) fn time(text: &[u8]) -> Result<Time, &'static str> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let mut halves = text.splitn(2, |b| *b == b'.');
    let seconds = decimal(halves.next().unwrap_or_default())?;
    let seconds = i64::try_from(seconds).map_err(|_| "a time out of range")?;
    let fraction = halves.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err("a malformed time");
    }
    let mut nanos = 0u32;
    for at in 0..9 {
        nanos = nanos * 10 + fraction.get(at).map_or(0, |digit| u32::from(digit - b'0'));
    }
    Ok(match (negative, nanos) {
        (false, _) => Time { seconds, nanos },
        (true, 0) => Time { seconds: -seconds, nanos },
        // The fraction counts forward.
        (true, _) => Time { seconds: -seconds - 1, nanos: 1_000_000_000 - nanos },
    })
}
