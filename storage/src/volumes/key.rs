//! What volumes are called.

use std::path::PathBuf;

/// The longest key, in components.
const MAX_PARTS: usize = 4;
/// The longest component, in bytes (`NAME_MAX` of Linux' filesystems).
const MAX_PART: usize = 255;

/// A volume's name: 1 to 4 components, each a safe file name of 1 to 255 letters, digits, `.`, `_`, `-`, `@` or `+`, the
/// first of them a letter, a digit or `@`. Shown with `/` between them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeKey(Vec<String>);

/// The components are no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a volume key: {0:?} (1 to 4 names, each of 1 to 255 letters, digits, '.', '_', '-', '@' or '+', the first a letter, \
     digit or '@')"
)]
pub struct ParseVolumeKeyError(String);

impl VolumeKey {
    /// Checks and takes the components.
    pub fn new<I>(parts: I) -> Result<Self, ParseVolumeKeyError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let parts: Vec<String> =
            parts.into_iter().take(MAX_PARTS + 1).map(|part| part.as_ref().to_owned()).collect();
        if (1..=MAX_PARTS).contains(&parts.len()) && parts.iter().all(|part| is_part(part)) {
            Ok(Self(parts))
        } else {
            Err(ParseVolumeKeyError(parts.join("/")))
        }
    }

    /// The components.
    pub fn parts(&self) -> &[String] {
        &self.0
    }

    /// Whether `self` is `prefix`, or below it.
    pub fn starts_with(&self, prefix: &Self) -> bool {
        self.0.starts_with(&prefix.0)
    }

    /// The keys above this one, the shortest first.
    pub(super) fn above(&self) -> impl Iterator<Item = Self> + '_ {
        (1..self.0.len()).map(|length| Self(self.0[..length].to_vec()))
    }

    /// As a relative path.
    pub(super) fn path(&self) -> PathBuf {
        self.0.iter().collect()
    }

    /// `name` below this key, if it can be one.
    pub(super) fn below(prefix: Option<&Self>, name: &str) -> Option<Self> {
        let parts = prefix.map_or(&[][..], Self::parts).iter().map(String::as_str);
        Self::new(parts.chain([name])).ok()
    }

    /// Whether there can be keys below.
    pub(super) fn is_deepest(&self) -> bool {
        self.0.len() == MAX_PARTS
    }
}

fn is_part(part: &str) -> bool {
    let first = part.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'@');
    let rest =
        part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'@' | b'+'));
    first && rest && part.len() <= MAX_PART
}

impl std::fmt::Display for VolumeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("/"))
    }
}

impl std::str::FromStr for VolumeKey {
    type Err = ParseVolumeKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text.split('/'))
    }
}
