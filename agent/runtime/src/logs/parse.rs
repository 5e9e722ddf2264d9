//! Records of the CRI log format.

use std::time::{Duration, SystemTime};

use super::Stream;
use crate::shim::cri::Tag;
use crate::shim::time::{TIME_LEN, parse_rfc3339, rfc3339};

/// Bytes before the text: time, stream (both names have six letters), tag and three spaces.
pub(super) const HEAD: usize = TIME_LEN + 1 + 6 + 1 + 1 + 1;

/// The time of a record: RFC 3339 in UTC with nine digits, so that text order is time order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp([u8; TIME_LEN]);

impl Timestamp {
    /// The time as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("made only from checked ASCII")
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<SystemTime> for Timestamp {
    /// Times before 1970 become its begin.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self(rfc3339(since.as_secs(), since.subsec_nanos()))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        let (secs, nanos) = parse_rfc3339(&time.0).expect("checked when it was made");
        Self::UNIX_EPOCH + Duration::new(secs, nanos)
    }
}

/// What stands before the text of a record; `None` when it is no record.
pub(super) fn head(record: &[u8]) -> Option<(Timestamp, Stream, Tag)> {
    let (time, rest) = record.get(..HEAD)?.split_at(TIME_LEN);
    parse_rfc3339(time)?;
    let stream = match &rest[..8] {
        b" stdout " => Stream::Stdout,
        b" stderr " => Stream::Stderr,
        _ => return None,
    };
    let tag = match &rest[8..] {
        b"F " => Tag::Full,
        b"P " => Tag::Partial,
        _ => return None,
    };
    Some((Timestamp(time.try_into().ok()?), stream, tag))
}
