//! Names of images, as people write them everywhere.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::{Digest, ParseDigestError};

/// The registry of a name that has none, unless configured otherwise.
pub const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
/// The whole name without tag and digest (distribution/reference `NameTotalLengthMax`).
const NAME_MAX: usize = 255;

/// A complete image name: registry, repository, and a tag or a digest or both (then the digest decides).
///
/// The grammar is that of distribution/reference, with Docker's shortcuts: `busybox` is
/// `docker.io/library/busybox:latest`. The first part is a registry when it has a dot, a colon or a capital, or is
/// `localhost`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference(Arc<Parts>);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Parts {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// The text is no image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseReferenceError {
    /// Nothing there.
    #[error("image name is empty")]
    Empty,
    /// Over 255 bytes without tag and digest.
    #[error("image name is longer than {NAME_MAX} bytes")]
    TooLong,
    /// Capitals in the repository.
    #[error("image name {0:?} has upper-case letters in its repository, it must be lower case")]
    UpperCase(String),
    /// Looks like a bare image id.
    #[error("image name {0:?} is 64 hex digits, which is an id and no name: write name@sha256:{0}")]
    BareId(String),
    /// The registry is no `host` or `host:port`.
    #[error("registry {0:?} is not a host name with an optional port")]
    Registry(String),
    /// The repository does not follow the grammar.
    #[error(
        "repository {0:?} is not valid: parts of lower-case letters and digits, joined by '.', '_', '__' or '-', separated by '/'"
    )]
    Repository(String),
    /// The tag does not follow the grammar.
    #[error(
        "tag {0:?} is not valid: at most 128 letters, digits, '_', '.', '-', not starting with '.' or '-'"
    )]
    Tag(String),
    /// What follows `@` is no digest.
    #[error("invalid digest after '@'")]
    Digest(#[source] ParseDigestError),
}

impl Reference {
    /// Reads a name; one without a registry gets `default_registry` (`host` or `host:port`).
    pub fn parse(text: &str, default_registry: &str) -> Result<Self, ParseReferenceError> {
        if text.is_empty() {
            return Err(ParseReferenceError::Empty);
        }
        // Bounds the work on hostile text: name, ':' and tag, '@' and digest.
        if text.len() > NAME_MAX + 1 + 128 + 1 + 256 {
            return Err(ParseReferenceError::TooLong);
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse().map_err(ParseReferenceError::Digest)?)),
            None => (text, None),
        };
        let name_end = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[name_end..].split_once(':') {
            // `host:5000` alone is a name with a tag, as Docker reads it.
            Some((last, tag)) => (&rest[..name_end + last.len()], Some(tag)),
            None => (rest, None),
        };
        let (registry, path) = match name.split_once('/') {
            Some((first, path)) if looks_like_registry(first) => (first, path),
            _ => (default_registry, name),
        };
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        if !valid_registry(registry) {
            return Err(ParseReferenceError::Registry(registry.to_owned()));
        }
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ParseReferenceError::UpperCase(path.to_owned()));
        }
        if path.len() == 64 && Digest::from_hex(path).is_ok() {
            return Err(ParseReferenceError::BareId(path.to_owned()));
        }
        if !path.split('/').all(valid_component) {
            return Err(ParseReferenceError::Repository(path.to_owned()));
        }
        if let Some(tag) = tag
            && !valid_tag(tag)
        {
            return Err(ParseReferenceError::Tag(tag.to_owned()));
        }
        let library = registry == DEFAULT_REGISTRY && !path.contains('/');
        let repository = if library { format!("library/{path}") } else { path.to_owned() };
        if registry.len() + 1 + repository.len() > NAME_MAX {
            return Err(ParseReferenceError::TooLong);
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some(DEFAULT_TAG.to_owned()),
        };
        Ok(Self(Arc::new(Parts { registry: registry.to_owned(), repository, tag, digest })))
    }

    /// `host` or `host:port`, as written; Docker Hub is `docker.io`.
    pub fn registry(&self) -> &str {
        &self.0.registry
    }

    /// The path of the image within its registry.
    pub fn repository(&self) -> &str {
        &self.0.repository
    }

    /// The tag, if one was written, or `latest` where neither tag nor digest was.
    pub fn tag(&self) -> Option<&str> {
        self.0.tag.as_deref()
    }

    /// The digest, if one was written. It decides; the tag beside it is for people.
    pub fn digest(&self) -> Option<Digest> {
        self.0.digest
    }

    /// Registry and repository, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.0.registry, self.0.repository)
    }

    /// The same repository by digest alone.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self(Arc::new(Parts { tag: None, digest: Some(digest), ..(*self.0).clone() }))
    }

    /// How people write it: without Docker Hub's parts that can be left out.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        match full.strip_prefix("docker.io/") {
            Some(rest) => rest.strip_prefix("library/").unwrap_or(rest).to_owned(),
            None => full,
        }
    }
}

/// `host` or `host:port`, with IPv6 addresses in brackets.
pub fn valid_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            return address.parse::<std::net::Ipv6Addr>().is_ok()
                && (rest.is_empty() || rest.strip_prefix(':').is_some_and(valid_port));
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.split('.').all(label) && port.is_none_or(valid_port)
}

fn valid_port(port: &str) -> bool {
    port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// Whether the first part of a name is a registry (distribution/reference, `splitDockerDomain`).
pub(crate) fn looks_like_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':', '[']) || first.bytes().any(|b| b.is_ascii_uppercase())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn valid_component(part: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !alphanumeric(*first) || !alphanumeric(*last) {
        return false;
    }
    bytes
        .split(|b| alphanumeric(*b))
        .all(|gap| matches!(gap, b"" | b"." | b"_" | b"__") || gap.iter().all(|b| *b == b'-'))
}

fn valid_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

impl FromStr for Reference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text, DEFAULT_REGISTRY)
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0.registry, self.0.repository)?;
        if let Some(tag) = &self.0.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.0.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
