//! Reading from registries (OCI distribution specification 1.1).
//!
//! A thin client, because of what it must not do: credentials and tokens go to the registry itself, and to a token
//! server only when that is the registry's own (CVE-2026-33540); a redirect never carries them to another host and
//! never leaves TLS; plain HTTP is spoken only to registries that are configured so; every answer is bounded.

mod auth;
mod blob;
mod dns;
mod error;
mod transport;

use std::time::Duration;

pub use auth::{Credential, Credentials, ParseCredentialsError};
pub(crate) use blob::blocking;
pub use error::RegistryError;
pub(crate) use transport::Session;

use crate::digest::Digest;
use crate::image::media;
use crate::reference::Reference;

/// How registries are reached.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// Registries (`host` or `host:port`) that are spoken to in plain HTTP.
    pub insecure: Vec<String>,
    /// Token servers on other hosts that may get a registry's credentials: (registry, host of the token server).
    /// Those of well-known registries need not be here.
    pub token_servers: Vec<(String, String)>,
    /// For a connection to be made.
    pub connect_timeout: Duration,
    /// For the next bytes of an answer to come.
    pub read_timeout: Duration,
    /// Tries of a request, and tries in a row of a transfer that bring no new bytes.
    pub attempts: u32,
    /// Before the second try; doubled for each further one.
    pub backoff: Duration,
    /// The longest wait between tries, also where the registry asks for more.
    pub backoff_max: Duration,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            insecure: Vec::new(),
            token_servers: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            attempts: 5,
            backoff: Duration::from_millis(200),
            backoff_max: Duration::from_secs(20),
        }
    }
}

/// The registries of the world, as this machine reaches them.
#[derive(Debug)]
pub(crate) struct Client {
    options: RegistryOptions,
    /// As the options have it, until told otherwise. A session goes by what counted when it began.
    insecure: std::sync::Mutex<std::sync::Arc<[String]>>,
    plain: std::sync::OnceLock<reqwest::Client>,
    secure: std::sync::OnceLock<reqwest::Client>,
    resolver: std::sync::Arc<dns::Resolver>,
}

/// A manifest as a registry gave it.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
    pub(crate) media_type: Option<String>,
}

impl Client {
    /// A client that has opened nothing yet.
    pub(crate) fn new(options: RegistryOptions) -> Self {
        let (plain, secure) = Default::default();
        let insecure = std::sync::Mutex::new(options.insecure.as_slice().into());
        Self { options, insecure, plain, secure, resolver: std::sync::Arc::default() }
    }

    /// From now on these registries are spoken to in plain HTTP, and no others.
    pub(crate) fn set_insecure(&self, registries: &[String]) {
        *crate::content::lock(&self.insecure) = registries.into();
    }

    /// The manifest or index that `what` (a tag or a digest) names.
    pub(crate) async fn manifest(
        &self,
        session: &Session,
        what: &Reference,
        max: u64,
    ) -> Result<Served, RegistryError> {
        let wanted = match (what.digest(), what.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        };
        let path = format!("manifests/{wanted}");
        let mut wrong = None;
        // A damaged answer is as good as none: once more.
        for _ in 0..2 {
            let (bytes, headers) = self.get_small(session, &path, media::ACCEPT, max).await?;
            let digest = Digest::of(&bytes);
            let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
            let promised = what.digest().or_else(|| header("docker-content-digest")?.parse().ok());
            if let Some(expected) = promised
                && expected != digest
            {
                wrong = Some(RegistryError::WrongDigest {
                    registry: session.registry().to_owned(),
                    expected,
                    found: digest,
                });
                continue;
            }
            let media_type = header("content-type").map(str::to_owned);
            return Ok(Served { bytes, digest, media_type });
        }
        Err(wrong.unwrap_or_else(|| session.protocol("no answer")))
    }
}
