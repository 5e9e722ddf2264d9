//! Requests: where they go, what they carry, when they are tried again.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;

use super::auth::{Challenge, challenges, may_have_credentials};
use super::{Client, Credential, RegistryError, dns};
use crate::content::lock;
use crate::image::manifest::clip;
use crate::reference::Reference;

const REDIRECTS: u32 = 5;
/// Of an error's text or a token.
const SMALL: u64 = 1 << 20;

/// One repository of one registry, and what it has been told of us.
#[derive(Debug)]
pub(crate) struct Session {
    registry: String,
    repository: String,
    base: Url,
    credential: Option<Credential>,
    authorization: Mutex<Option<HeaderValue>>,
    /// Registries that are spoken to in plain HTTP.
    insecure: Arc<[String]>,
}

impl Session {
    pub(crate) fn registry(&self) -> &str {
        &self.registry
    }

    pub(super) fn protocol(&self, what: impl Into<String>) -> RegistryError {
        RegistryError::Protocol { registry: self.registry.clone(), what: what.into() }
    }

    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    fn host(&self) -> String {
        let url = &self.base;
        format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(0))
    }

    fn what(&self, path: &str) -> String {
        let (kind, id) = path.split_once('/').unwrap_or(("", path));
        let (name, id) = (&self.repository, id);
        match kind {
            "manifests" if id.contains(':') => format!("{name}@{id}"),
            "manifests" => format!("{name}:{id}"),
            _ => format!("blob {id} of {name}"),
        }
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

#[derive(Deserialize)]
struct ErrorAnswer {
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    message: String,
}

fn is_insecure(insecure: &[String], registry: &str) -> bool {
    insecure.iter().any(|insecure| insecure.eq_ignore_ascii_case(registry))
}

/// Whether it is worth to try again.
enum Failure {
    Final(RegistryError),
    Again(RegistryError, Option<Duration>),
}

impl Client {
    /// Prepares to speak about the repository of `reference`; nothing is sent yet.
    pub(crate) fn session(
        &self,
        reference: &Reference,
        credential: Option<Credential>,
    ) -> Result<Session, RegistryError> {
        let registry = reference.registry();
        // Docker Hub's registry has another name than its images.
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        let insecure = Arc::clone(&lock(&self.insecure));
        let scheme = if is_insecure(&insecure, registry) { "http" } else { "https" };
        let text = format!("{scheme}://{host}/v2/{}/", reference.repository());
        let base = Url::parse(&text).map_err(|error| RegistryError::Protocol {
            registry: registry.to_owned(),
            what: format!("{host} is no host: {error}"),
        })?;
        Ok(Session {
            registry: registry.to_owned(),
            repository: reference.repository().to_owned(),
            base,
            credential,
            authorization: Mutex::new(None),
            insecure,
        })
    }

    fn http(&self, url: &Url) -> Result<&reqwest::Client, reqwest::Error> {
        let cell = if url.scheme() == "https" { &self.secure } else { &self.plain };
        if let Some(client) = cell.get() {
            return Ok(client);
        }
        let mut roots = rustls::RootCertStore::empty();
        if url.scheme() == "https" {
            let found = rustls_native_certs::load_native_certs();
            let (added, _) = roots.add_parsable_certificates(found.certs);
            if added == 0 {
                tracing::warn!(
                    "no certificate authorities found: set SSL_CERT_FILE, or install ca-certificates"
                );
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has the default protocol versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .dns_resolver(Arc::new(dns::Shared(Arc::clone(&self.resolver))))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(self.options.connect_timeout)
            .read_timeout(self.options.read_timeout)
            .pool_idle_timeout(Duration::from_secs(30))
            .user_agent(concat!("stower/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(cell.get_or_init(|| client))
    }

    /// A small answer as a whole.
    pub(super) async fn get_small(
        &self,
        session: &Session,
        path: &str,
        accept: &str,
        max: u64,
    ) -> Result<(Vec<u8>, HeaderMap), RegistryError> {
        let mut failed = 0;
        loop {
            let response = self.get(session, path, Some(accept), 0).await?;
            let headers = response.headers().clone();
            match read_bounded(response, max).await {
                Ok(Some(bytes)) => return Ok((bytes, headers)),
                Ok(None) => {
                    let (registry, what) = (session.registry.clone(), session.what(path));
                    return Err(RegistryError::TooLarge { registry, what, max });
                }
                Err(error) => {
                    failed += 1;
                    if failed >= self.options.attempts {
                        return Err(unreachable(session, &session.base, error));
                    }
                    self.wait(failed, None).await;
                }
            }
        }
    }

    /// Sends a request until it gets an answer that is worth reading: 200, 206 or 416.
    pub(super) async fn get(
        &self,
        session: &Session,
        path: &str,
        accept: Option<&str>,
        from: u64,
    ) -> Result<Response, RegistryError> {
        let mut failed = 0;
        loop {
            match self.try_get(session, path, accept, from).await {
                Ok(response) => return Ok(response),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again(error, after)) => {
                    failed += 1;
                    if failed >= self.options.attempts {
                        return Err(error);
                    }
                    tracing::debug!(%error, failed, "request to registry failed, trying again");
                    self.wait(failed, after).await;
                }
            }
        }
    }

    /// Waits before try `failed` + 1: exponential, with jitter so that many nodes do not come back at once.
    pub(super) async fn wait(&self, failed: u32, after: Option<Duration>) {
        let doubled = self
            .options
            .backoff
            .saturating_mul(1u32.checked_shl(failed.saturating_sub(1)).unwrap_or(u32::MAX));
        let jitter =
            f64::from(std::collections::hash_map::RandomState::new().random_u32()) / f64::from(u32::MAX);
        let wait = doubled.min(self.options.backoff_max).mul_f64(0.75 + jitter / 2.0);
        tokio::time::sleep(after.unwrap_or(wait).max(wait).min(self.options.backoff_max)).await;
    }

    async fn try_get(
        &self,
        session: &Session,
        path: &str,
        accept: Option<&str>,
        from: u64,
    ) -> Result<Response, Failure> {
        let first =
            session.base.join(path).map_err(|error| Failure::Final(session.protocol(error.to_string())))?;
        let mut url = first.clone();
        let (mut redirects, mut asked) = (0, false);
        loop {
            let client =
                self.http(&url).map_err(|error| Failure::Final(unreachable(session, &url, error)))?;
            let mut request = client.get(url.clone());
            if let Some(accept) = accept {
                request = request.header(ACCEPT, accept);
            }
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            // Another host gets nothing that is the registry's.
            if url.origin() == session.base.origin() {
                let known = lock(&session.authorization).clone();
                if let Some(value) = known {
                    request = request.header(AUTHORIZATION, value);
                }
            }
            let response = request
                .send()
                .await
                .map_err(|error| Failure::Again(unreachable(session, &url, error), None))?;
            let status = response.status();
            match status {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                    return Ok(response);
                }
                StatusCode::UNAUTHORIZED if !asked && url.origin() == session.base.origin() => {
                    asked = true;
                    self.authorize(session, path, response.headers()).await?;
                    url = first.clone();
                }
                _ if status.is_redirection() => {
                    redirects += 1;
                    if redirects > REDIRECTS {
                        return Err(Failure::Final(session.protocol("too many redirects")));
                    }
                    url = self.redirect(session, &url, response.headers()).map_err(Failure::Final)?;
                }
                _ => return Err(self.refused(session, path, response).await),
            }
        }
    }

    fn redirect(&self, session: &Session, from: &Url, headers: &HeaderMap) -> Result<Url, RegistryError> {
        let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
        let to = location.and_then(|location| from.join(location).ok());
        let mut to = to.ok_or_else(|| session.protocol("redirect without a location"))?;
        // A name and a password in an address would be sent as credentials.
        if to.set_username("").is_err() || to.set_password(None).is_err() {
            return Err(session.protocol("redirect to something that is no host"));
        }
        let host = to.host_str().unwrap_or_default().to_owned();
        let named = to.port().map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
        let allowed = match to.scheme() {
            "https" => true,
            // Never from TLS to plain, and plain only to who is configured so.
            "http" => {
                from.scheme() == "http"
                    && (to.origin() == session.base.origin() || is_insecure(&session.insecure, &named))
            }
            _ => false,
        };
        if allowed {
            Ok(to)
        } else {
            let to = format!("{}://{named}", clip(to.scheme()));
            Err(RegistryError::InsecureRedirect { registry: session.registry.clone(), to })
        }
    }

    async fn refused(&self, session: &Session, path: &str, response: Response) -> Failure {
        let status = response.status();
        let (registry, what) = (session.registry.clone(), session.what(path));
        let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let again = status.is_server_error()
            || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
        let with_credentials = session.credential.is_some();
        let error = match status {
            StatusCode::NOT_FOUND => RegistryError::NotFound { registry, what },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                RegistryError::Unauthorized { registry, what, with_credentials }
            }
            _ => {
                let text = read_bounded(response, SMALL).await.ok().flatten().unwrap_or_default();
                let message = serde_json::from_slice::<ErrorAnswer>(&text)
                    .ok()
                    .and_then(|answer| answer.errors.into_iter().next())
                    .map(|error| clip(&error.message));
                RegistryError::Status { registry, status: status.as_u16(), what, message }
            }
        };
        if again { Failure::Again(error, after.map(Duration::from_secs)) } else { Failure::Final(error) }
    }

    /// Meets the challenge of a 401, or says why not.
    async fn authorize(&self, session: &Session, path: &str, headers: &HeaderMap) -> Result<(), Failure> {
        let unauthorized = |with_credentials| {
            let (registry, what) = (session.registry.clone(), session.what(path));
            Failure::Final(RegistryError::Unauthorized { registry, what, with_credentials })
        };
        let value = match (challenges(headers).into_iter().next(), &session.credential) {
            (Some(Challenge::Bearer { .. }), Some(Credential::Bearer(token))) => format!("Bearer {token}"),
            (Some(Challenge::Bearer { realm, service, scope }), credential) => {
                let token = self.token(session, path, realm, service, scope, credential.as_ref()).await?;
                format!("Bearer {token}")
            }
            (Some(Challenge::Basic), Some(Credential::Basic { username, password })) => {
                basic(username, password)
            }
            (_, credential) => return Err(unauthorized(credential.is_some())),
        };
        let mut value =
            HeaderValue::from_str(&value).map_err(|_| unauthorized(session.credential.is_some()))?;
        value.set_sensitive(true);
        *lock(&session.authorization) = Some(value);
        Ok(())
    }

    /// Gets a token that allows to pull (distribution, "Token Authentication Specification").
    async fn token(
        &self,
        session: &Session,
        path: &str,
        mut realm: Url,
        service: Option<String>,
        scope: Option<String>,
        credential: Option<&Credential>,
    ) -> Result<String, Failure> {
        let registry = session.registry.clone();
        let trusted = may_have_credentials(&realm, &session.base, &registry, &self.options.token_servers);
        let shown = format!("{}://{}", clip(realm.scheme()), clip(realm.host_str().unwrap_or_default()));
        if credential.is_some() && !trusted {
            return Err(Failure::Final(RegistryError::ForeignTokenServer { registry, realm: shown }));
        }
        if realm.scheme() != "https" && !trusted {
            return Err(Failure::Final(RegistryError::InsecureRedirect { registry, to: shown }));
        }
        // What the registry asks for, but never more than to pull this.
        let pull = format!("repository:{}:pull", session.repository);
        let scope = scope.filter(|scope| *scope == pull).unwrap_or(pull);
        let mut form =
            Url::parse("form:").map_err(|error| Failure::Final(session.protocol(error.to_string())))?;
        let identity = match credential {
            Some(Credential::Identity(token)) => Some(token),
            _ => None,
        };
        {
            let target = if identity.is_some() { &mut form } else { &mut realm };
            let mut query = target.query_pairs_mut();
            if let Some(token) = identity {
                query.append_pair("grant_type", "refresh_token").append_pair("refresh_token", token);
                query.append_pair("client_id", "stower");
            }
            if let Some(service) = &service {
                query.append_pair("service", service);
            }
            query.append_pair("scope", &scope);
        }
        let failed = |error| Failure::Again(unreachable(session, &realm, error), None);
        let client = self.http(&realm).map_err(failed)?;
        let mut request = match identity {
            None => client.get(realm.clone()),
            Some(_) => client
                .post(realm.clone())
                .header("content-type", "application/x-www-form-urlencoded")
                .body(form.query().unwrap_or_default().to_owned()),
        };
        if let Some(Credential::Basic { username, password }) = credential {
            request = request.header(AUTHORIZATION, basic(username, password));
        }
        let response = request.send().await.map_err(failed)?;
        if !response.status().is_success() {
            let refused = self.refused(session, path, response).await;
            // The token server knows no images: its 404 is not "no such image".
            return Err(match refused {
                Failure::Final(RegistryError::NotFound { registry, what }) => {
                    Failure::Final(RegistryError::Unauthorized {
                        registry,
                        what,
                        with_credentials: credential.is_some(),
                    })
                }
                other => other,
            });
        }
        let bytes = read_bounded(response, SMALL).await.map_err(failed)?;
        let answer = bytes.and_then(|bytes| serde_json::from_slice::<TokenAnswer>(&bytes).ok());
        let token =
            answer.and_then(|answer| answer.token.or(answer.access_token)).filter(|token| !token.is_empty());
        token.ok_or_else(|| Failure::Final(session.protocol(format!("{shown} gives no token"))))
    }
}

trait RandomU32 {
    fn random_u32(&self) -> u32;
}

impl RandomU32 for std::collections::hash_map::RandomState {
    /// The standard library's only source of randomness; jitter needs no better one.
    fn random_u32(&self) -> u32 {
        use std::hash::BuildHasher as _;
        u32::try_from(self.hash_one(0) >> 32).unwrap_or(0)
    }
}

fn basic(username: &str, password: &str) -> String {
    use base64::Engine as _;
    let pair = format!("{username}:{password}");
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}

/// The whole body, or `None` when it is longer than `max` bytes.
async fn read_bounded(mut response: Response, max: u64) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let too_long = |length: usize| u64::try_from(length).is_ok_and(|length| length > max);
    if response.content_length().is_some_and(|length| length > max) {
        return Ok(None);
    }
    let mut out = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if too_long(out.len() + chunk.len()) {
            return Ok(None);
        }
        out.extend_from_slice(&chunk);
    }
    Ok(Some(out))
}

/// Says which host and, where it can be told, what to do.
pub(super) fn unreachable(session: &Session, url: &Url, error: reqwest::Error) -> RegistryError {
    let mut text = String::new();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(error) = cause {
        text.push_str(&error.to_string().to_lowercase());
        text.push('\n');
        cause = error.source();
    }
    let hint = if text.contains("invalidcontenttype") || text.contains("corrupt message") {
        Some("it does not speak TLS; if plain HTTP is meant, name it with --insecure-registry")
    } else if text.contains("certificate") {
        Some("its certificate is not trusted here")
    } else if text.contains("cannot resolve") {
        Some("its name cannot be resolved")
    } else if text.contains("refused") {
        Some("nothing listens there")
    } else if error.is_timeout() {
        Some("it did not answer in time")
    } else {
        None
    };
    let host = match url.host_str() {
        Some(host) => format!("{host}:{}", url.port_or_known_default().unwrap_or(0)),
        None => session.host(),
    };
    let registry = session.registry.clone();
    // Addresses of redirects carry signatures that are secrets.
    let source = Arc::new(error.without_url());
    RegistryError::Unreachable { registry, host, hint: hint.map(str::to_owned), source }
}
