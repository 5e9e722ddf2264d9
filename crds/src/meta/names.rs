//! Kinds, names, namespaces, UIDs and the key made of them.

use std::{borrow::Borrow, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::text::string_serde;

/// The namespace of an object that names none, in a directory and in the local API.
const DEFAULT_NAMESPACE: &str = "default";
/// The longest name of an object (RFC 1123 subdomain, as Kubernetes bounds it), in bytes.
const MAX_NAME: usize = 253;
/// The longest namespace (RFC 1123 label), in bytes.
const MAX_LABEL: usize = 63;
/// The longest UID, in bytes. A UUID has 36; other servers may write other forms.
const MAX_UID: usize = 128;

/// Why a name, namespace or UID is refused. Texts are those of the Kubernetes API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing is there.
    #[error("must not be empty")]
    Empty,
    /// More than the allowed bytes.
    #[error("must be no more than {0} bytes")]
    TooLong(usize),
    /// Not an RFC 1123 subdomain.
    #[error(
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
    )]
    NotSubdomain,
    /// Not an RFC 1123 label.
    #[error(
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
    )]
    NotLabel,
    /// Not usable as a file name, which a UID must be.
    #[error("must consist of letters, digits, '-', '_' or '.', and must start with a letter or digit")]
    NotUid,
}

/// A kind that this release knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Kind {
    /// One process tree from one image.
    Container,
    /// A named set of volumes that no process runs in.
    DataContainer,
    /// Named storage that outlives containers.
    Volume,
    /// Values for environments and files (`core/v1`).
    ConfigMap,
    /// The same, for what not everybody may read (`core/v1`).
    Secret,
}

impl Kind {
    /// Every kind, in the order in which they are listed.
    pub const ALL: &'static [Kind] =
        &[Kind::Container, Kind::DataContainer, Kind::Volume, Kind::ConfigMap, Kind::Secret];
    /// The kinds of the group `stower.dev`, which have a CustomResourceDefinition, a `spec` and a `status`.
    pub const CUSTOM: &'static [Kind] = &[Kind::Container, Kind::DataContainer, Kind::Volume];

    /// The kind as documents name it: `Container`.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Container => "Container",
            Kind::DataContainer => "DataContainer",
            Kind::Volume => "Volume",
            Kind::ConfigMap => "ConfigMap",
            Kind::Secret => "Secret",
        }
    }

    /// The name in request paths: `containers`.
    pub fn plural(self) -> &'static str {
        match self {
            Kind::Container => "containers",
            Kind::DataContainer => "datacontainers",
            Kind::Volume => "volumes",
            Kind::ConfigMap => "configmaps",
            Kind::Secret => "secrets",
        }
    }

    /// The name of one, as a command line takes it: `container`.
    pub fn singular(self) -> &'static str {
        match self {
            Kind::Container => "container",
            Kind::DataContainer => "datacontainer",
            Kind::Volume => "volume",
            Kind::ConfigMap => "configmap",
            Kind::Secret => "secret",
        }
    }

    /// The names that a command line takes for short.
    pub fn short_names(self) -> &'static [&'static str] {
        match self {
            Kind::Container => &["sctr"],
            Kind::DataContainer => &["sdc"],
            Kind::Volume => &["svol"],
            Kind::ConfigMap => &["cm"],
            Kind::Secret => &[],
        }
    }

    /// Group and version, as `apiVersion` in documents.
    pub fn api_version(self) -> &'static str {
        if self.is_core() { "v1" } else { crate::API_VERSION }
    }

    /// Whether it is of `core/v1`: plain values, without `spec` and `status`.
    pub fn is_core(self) -> bool {
        matches!(self, Kind::ConfigMap | Kind::Secret)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// No kind by that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no kind \"{0}\"; there are Container, DataContainer, Volume, ConfigMap and Secret")]
pub struct ParseKindError(String);

impl FromStr for Kind {
    type Err = ParseKindError;

    /// Reads what a command line takes: kind, plural, singular or short name, with the group or without.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower = text.to_ascii_lowercase();
        let (bare, custom) = match lower.strip_suffix(".stower.dev") {
            Some(bare) => (bare, true),
            None => (lower.as_str(), false),
        };
        Kind::ALL
            .iter()
            .copied()
            .filter(|kind| !(custom && kind.is_core()))
            .find(|kind| {
                bare == kind.singular() || bare == kind.plural() || kind.short_names().contains(&bare)
            })
            .ok_or_else(|| ParseKindError(text.to_owned()))
    }
}

fn check_label(text: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    match text.as_bytes() {
        [] => false,
        [first, .., last] if !alnum(*first) || !alnum(*last) => false,
        [only] => alnum(*only),
        bytes => bytes.iter().all(|b| alnum(*b) || *b == b'-'),
    }
}

macro_rules! checked_string {
    ($(#[$meta:meta])* $name:ident, $check:expr) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks `text`.
            ///
            /// # Errors
            /// What is wrong with it, to be shown after the field's path.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                let check: fn(&str) -> Result<(), NameError> = $check;
                check(&text)?;
                Ok(Self(text.into_boxed_str()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        string_serde!($name);
    };
}

checked_string!(
    /// The name of an object: an RFC 1123 subdomain of at most 253 bytes.
    Name,
    |text| match text {
        "" => Err(NameError::Empty),
        _ if text.len() > MAX_NAME => Err(NameError::TooLong(MAX_NAME)),
        _ if text.split('.').all(check_label) => Ok(()),
        _ => Err(NameError::NotSubdomain),
    }
);

checked_string!(
    /// The namespace of an object: an RFC 1123 label of at most 63 bytes.
    Namespace,
    |text| match text {
        "" => Err(NameError::Empty),
        _ if text.len() > MAX_LABEL => Err(NameError::TooLong(MAX_LABEL)),
        _ if check_label(text) => Ok(()),
        _ => Err(NameError::NotLabel),
    }
);

checked_string!(
    /// The identity of an object: from the API server its own, else a random UUID. It names directories and
    /// cgroups, so it is always a plain file name.
    Uid,
    |text| match text.as_bytes() {
        [] => Err(NameError::Empty),
        bytes if bytes.len() > MAX_UID => Err(NameError::TooLong(MAX_UID)),
        [first, rest @ ..]
            if first.is_ascii_alphanumeric()
                && rest.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b)) =>
            Ok(()),
        _ => Err(NameError::NotUid),
    }
);

impl Default for Namespace {
    fn default() -> Self {
        Namespace(DEFAULT_NAMESPACE.into())
    }
}

/// What names an object: kind, namespace and name. The identity is the [`Uid`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    /// The kind.
    pub kind: Kind,
    /// The namespace.
    pub namespace: Namespace,
    /// The name.
    pub name: Name,
}

impl ObjectKey {
    /// A key of its parts.
    pub fn new(kind: Kind, namespace: Namespace, name: Name) -> Self {
        Self { kind, namespace, name }
    }

    /// The key of a Container.
    ///
    /// # Errors
    /// When the namespace or the name is not one.
    pub fn container(namespace: &str, name: &str) -> Result<Self, NameError> {
        Ok(Self::new(Kind::Container, Namespace::new(namespace)?, Name::new(name)?))
    }
}

impl fmt::Display for ObjectKey {
    /// As people read it: `Container default/web`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}
