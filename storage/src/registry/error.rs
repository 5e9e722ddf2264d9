use std::sync::Arc;

use crate::content::ContentError;
use crate::digest::Digest;

/// Why something could not be had from a registry.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// No connection, or it broke each time.
    #[error("registry {registry} cannot be reached at {host}{}", hint.as_deref().map(|hint| format!(": {hint}")).unwrap_or_default())]
    Unreachable {
        /// As the reference names it.
        registry: String,
        /// The host and port that were tried.
        host: String,
        /// What a person could do.
        hint: Option<String>,
        /// The last failure.
        source: Arc<reqwest::Error>,
    },
    /// The registry has no such thing.
    #[error("{what} is not in registry {registry}: check the name and the tag")]
    NotFound {
        /// Its name.
        registry: String,
        /// What was asked for.
        what: String,
    },
    /// Credentials are needed, or wrong.
    #[error(
        "registry {registry} refuses {what}: {}",
        if *with_credentials { "the credentials are wrong or do not allow it" } else { "it does not exist, or credentials are needed" }
    )]
    Unauthorized {
        /// Its name.
        registry: String,
        /// What was asked for.
        what: String,
        /// Whether credentials were sent.
        with_credentials: bool,
    },
    /// The registry wants its credentials sent to somebody else.
    #[error(
        "registry {registry} asks to send its credentials to {realm:?}, which is not its own token server: not sent"
    )]
    ForeignTokenServer {
        /// Its name.
        registry: String,
        /// The token server.
        realm: String,
    },
    /// Any other answer.
    #[error("registry {registry} answers {status} for {what}{}", message.as_deref().map(|text| format!(": {text}")).unwrap_or_default())]
    Status {
        /// Its name.
        registry: String,
        /// HTTP status.
        status: u16,
        /// What was asked for.
        what: String,
        /// What the registry says.
        message: Option<String>,
    },
    /// An answer that breaks the protocol.
    #[error("registry {registry} does not speak the protocol: {what}")]
    Protocol {
        /// Its name.
        registry: String,
        /// How.
        what: String,
    },
    /// A redirect that would leave TLS or the registries that are configured for plain HTTP.
    #[error("registry {registry} redirects to {to:?}, which is not secure: not followed")]
    InsecureRedirect {
        /// Its name.
        registry: String,
        /// Scheme and host.
        to: String,
    },
    /// The bytes are not what their name says, twice.
    #[error("registry {registry} serves wrong content: digest is {found}, not {expected}")]
    WrongDigest {
        /// Its name.
        registry: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// The registry has another number of bytes than the manifest says.
    #[error(
        "registry {registry} serves blob {digest} with {found} bytes, but the manifest says {expected}: the blob is truncated or damaged there"
    )]
    WrongSize {
        /// Its name.
        registry: String,
        /// Which blob.
        digest: Digest,
        /// From the manifest.
        expected: u64,
        /// From the registry.
        found: u64,
    },
    /// An answer longer than allowed.
    #[error("registry {registry} answers with more than {max} bytes for {what}")]
    TooLarge {
        /// Its name.
        registry: String,
        /// What was asked for.
        what: String,
        /// Bytes allowed.
        max: u64,
    },
    /// The blob could not be stored.
    #[error("cannot store what registry {registry} sent")]
    Content {
        /// Its name.
        registry: String,
        /// Why.
        source: Box<ContentError>,
    },
}
