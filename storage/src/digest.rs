//! Digests, and reading that does not end well unless the bytes are the promised ones.
//!
//! Only SHA-256 is spoken: it is what every registry serves, and one algorithm means that two blobs are the same
//! exactly when their digests are.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// A SHA-256 digest, written `sha256:<64 lower-case hex digits>` (OCI image specification, descriptor.md).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// The text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseDigestError {
    /// Another algorithm than SHA-256.
    #[error("digest algorithm {0:?} is not supported, only sha256 is")]
    Algorithm(String),
    /// Not `sha256:` and 64 lower-case hex digits.
    #[error("not a digest: expected sha256: and 64 lower-case hex digits, found {0:?}")]
    Malformed(String),
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 64 hex digits, without the algorithm: the name of the blob's file.
    pub fn hex(&self) -> String {
        hex(&self.0)
    }

    /// From 64 lower-case hex digits without the algorithm.
    pub fn from_hex(text: &str) -> Result<Self, ParseDigestError> {
        let malformed = || ParseDigestError::Malformed(clip(text));
        let bytes = text.as_bytes();
        if bytes.len() != 64 {
            return Err(malformed());
        }
        let mut out = [0u8; 32];
        for (to, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
            let (high, low) = (nibble(pair[0]), nibble(pair[1]));
            *to = match (high, low) {
                (Some(high), Some(low)) => high << 4 | low,
                _ => return Err(malformed()),
            };
        }
        Ok(Self(out))
    }

    /// The raw 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Hostile text goes into messages only in part.
fn clip(text: &str) -> String {
    text.chars().take(96).collect()
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        // Upper case is refused, as the specification does: two spellings would be two file names.
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]])
        .map(char::from)
        .collect()
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("sha256", digits)) => {
                Self::from_hex(digits).map_err(|_| ParseDigestError::Malformed(clip(text)))
            }
            Some((other, _)) if !other.is_empty() && other.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                Err(ParseDigestError::Algorithm(clip(other)))
            }
            _ => Err(ParseDigestError::Malformed(clip(text))),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Digest);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseDigestError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

id! {
    /// The digest of a layer's uncompressed tar stream (OCI image specification, config.md, "Layer DiffID").
    DiffId
}

id! {
    /// The identity of a stack of layers (OCI image specification, config.md, "Layer ChainID").
    ChainId
}

impl ChainId {
    /// The stack of one layer.
    pub fn base(diff: DiffId) -> Self {
        Self(diff.0)
    }

    /// This stack with one more layer on top: `SHA256(chain + " " + diff)`.
    pub fn extend(self, diff: DiffId) -> Self {
        Self(Digest::of(format!("{self} {diff}").as_bytes()))
    }

    /// The stack of `parent` (or nothing) and one more layer.
    pub fn on(parent: Option<Self>, diff: DiffId) -> Self {
        parent.map_or_else(|| Self::base(diff), |parent| parent.extend(diff))
    }

    /// The chain ids of all stacks from the lowest layer up, one for each layer.
    pub fn all(layers: &[DiffId]) -> Vec<Self> {
        let mut below = None;
        layers
            .iter()
            .map(|diff| {
                let chain = Self::on(below, *diff);
                below = Some(chain);
                chain
            })
            .collect()
    }
}

/// A digest that is still being made.
#[derive(Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Nothing hashed yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes that were added.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

/// The bytes are not the promised ones. Readers here give it inside an [`io::Error`] of kind `InvalidData`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrongContent {
    /// The digest differs.
    #[error("content has digest {found}, not {expected}")]
    Digest {
        /// What was promised.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// The stream ended early.
    #[error("content is truncated: {found} of {expected} bytes")]
    Truncated {
        /// Bytes promised.
        expected: u64,
        /// Bytes that came.
        found: u64,
    },
    /// The stream goes on after the promised size.
    #[error("content is longer than the {expected} bytes that were promised")]
    TooLong {
        /// Bytes promised.
        expected: u64,
    },
}

impl WrongContent {
    /// The one inside `error`, if that is what it is about.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref().and_then(|inner| inner.downcast_ref())
    }
}

impl From<WrongContent> for io::Error {
    fn from(wrong: WrongContent) -> Self {
        Self::new(io::ErrorKind::InvalidData, wrong)
    }
}

/// Reads from another reader and says at its end (an error instead of `Ok(0)`) whether size and digest were the
/// promised ones. A reader that was not read to its end has proven nothing; [`VerifyReader::finish`] reads the rest.
#[derive(Debug)]
pub struct VerifyReader<R> {
    inner: R,
    hasher: Option<Hasher>,
    expected: Digest,
    size: Option<u64>,
    seen: u64,
    verdict: Option<Result<(), WrongContent>>,
}

impl<R: Read> VerifyReader<R> {
    /// Reads `inner`, which should have digest `expected` and, if given, be `size` bytes long.
    pub fn new(inner: R, expected: Digest, size: Option<u64>) -> Self {
        Self { inner, hasher: Some(Hasher::new()), expected, size, seen: 0, verdict: None }
    }

    /// Bytes read so far.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Reads what is left and gives the verdict. A promised size bounds what is read.
    pub fn finish(mut self) -> io::Result<u64> {
        let mut buffer = vec![0u8; 64 << 10];
        while self.read(&mut buffer)? != 0 {}
        Ok(self.seen)
    }

    fn judge(&mut self) -> Result<(), WrongContent> {
        if let Some(expected) = self.size
            && self.seen < expected
        {
            return Err(WrongContent::Truncated { expected, found: self.seen });
        }
        let found = self.hasher.take().map_or(self.expected, Hasher::finish);
        if found != self.expected {
            return Err(WrongContent::Digest { expected: self.expected, found });
        }
        Ok(())
    }
}

impl<R: Read> Read for VerifyReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(verdict) = &self.verdict {
            return verdict.clone().map(|()| 0).map_err(io::Error::from);
        }
        if buffer.is_empty() {
            return Ok(0);
        }
        let read = self.inner.read(buffer)?;
        if read == 0 {
            let verdict = self.judge();
            self.verdict = Some(verdict.clone());
            return verdict.map(|()| 0).map_err(io::Error::from);
        }
        // usize is at most 64 bits here.
        self.seen = self.seen.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        if let Some(expected) = self.size
            && self.seen > expected
        {
            let wrong = WrongContent::TooLong { expected };
            self.verdict = Some(Err(wrong.clone()));
            return Err(wrong.into());
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..read]);
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
