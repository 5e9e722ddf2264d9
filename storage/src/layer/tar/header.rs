//! One header block.

/// A header whose checksum is right and whose format is one we know.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) raw: [u8; 512],
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// Before any standard: no magic.
    V7,
    /// POSIX: the name has a prefix.
    Ustar,
    /// GNU: what POSIX uses for the prefix means other things.
    Gnu,
}

impl Block {
    pub(super) fn parse(raw: [u8; 512]) -> Result<Self, &'static str> {
        let format = match &raw[257..265] {
            b"ustar\x0000" => Format::Ustar,
            b"ustar  \0" => Format::Gnu,
            // Readers differ over whether such a header has a prefix.
            magic if magic.starts_with(b"ustar") => return Err("an unknown version of ustar"),
            _ => Format::V7,
        };
        let block = Self { raw, format };
        let expected = block.number(148..156)?;
        let mut unsigned = 0i64;
        let mut signed = 0i64;
        for (at, byte) in block.raw.iter().enumerate() {
            let byte = if (148..156).contains(&at) { b' ' } else { *byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        // Some writers of old summed signed bytes.
        if expected == unsigned || expected == signed { Ok(block) } else { Err("the checksum is wrong") }
    }

    pub(super) fn kind(&self) -> u8 {
        self.raw[156]
    }

    pub(super) fn is_gnu(&self) -> bool {
        self.format == Format::Gnu
    }

    pub(super) fn name(&self) -> Vec<u8> {
        let name = text(&self.raw[0..100]);
        let prefix = if self.format == Format::Ustar { text(&self.raw[345..500]) } else { &[] };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn linkname(&self) -> Vec<u8> {
        text(&self.raw[157..257]).to_vec()
    }

    pub(super) fn size(&self) -> Result<u64, &'static str> {
        u64::try_from(self.number(124..136)?).map_err(|_| "a negative size")
    }

    pub(super) fn mode(&self) -> Result<u32, &'static str> {
        u32::try_from(self.number(100..108)?).map_err(|_| "a mode out of range")
    }

    pub(super) fn uid(&self) -> Result<u64, &'static str> {
        u64::try_from(self.number(108..116)?).map_err(|_| "a negative owner")
    }

    pub(super) fn gid(&self) -> Result<u64, &'static str> {
        u64::try_from(self.number(116..124)?).map_err(|_| "a negative group")
    }

    pub(super) fn mtime(&self) -> Result<i64, &'static str> {
        self.number(136..148)
    }

    /// Major and minor, within what Linux can express (12 and 20 bits).
    pub(super) fn device(&self) -> Result<(u32, u32), &'static str> {
        const WRONG: &str = "a device number out of range";
        let major = u32::try_from(self.number(329..337)?).map_err(|_| WRONG)?;
        let minor = u32::try_from(self.number(337..345)?).map_err(|_| WRONG)?;
        if major >= 1 << 12 || minor >= 1 << 20 { Err(WRONG) } else { Ok((major, minor)) }
    }

    pub(super) fn number(&self, range: std::ops::Range<usize>) -> Result<i64, &'static str> {
        number(&self.raw[range])
    }
}

/// Up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    &field[..end]
}

/// Octal digits with spaces before and spaces or NULs after them, or GNU's base 256.
pub(super) fn number(field: &[u8]) -> Result<i64, &'static str> {
    const WRONG: &str = "a malformed number";
    match field.first() {
        Some(0x80) | Some(0xff) => {
            let negative = field[0] == 0xff;
            let mut value: i128 = if negative { -1 } else { 0 };
            for byte in &field[1..] {
                value = value.checked_mul(256).ok_or(WRONG)? + i128::from(*byte);
            }
            return i64::try_from(value).map_err(|_| "a number out of range");
        }
        Some(first) if *first & 0x80 != 0 => return Err(WRONG),
        _ => {}
    }
    let start = field.iter().position(|b| *b != b' ').unwrap_or(field.len());
    let rest = &field[start..];
    let digits = rest.iter().position(|b| !(b'0'..=b'7').contains(b)).unwrap_or(rest.len());
    if rest[digits..].iter().any(|b| !matches!(b, 0 | b' ')) {
        return Err(WRONG);
    }
    let mut value = 0i64;
    for digit in &rest[..digits] {
        value = value.checked_mul(8).ok_or(WRONG)? + i64::from(*digit - b'0');
    }
    Ok(value)
}

/// What a header says of its data's size, for a fuzz target that makes headers right.
#[cfg(feature = "fuzzing")]
pub(crate) fn octal_size(head: &[u8]) -> Option<u64> {
    u64::try_from(number(&head[124..136]).ok()?).ok()
}
