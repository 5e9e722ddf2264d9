//! Who we are to a registry, and to whom that is told.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};
use serde::Deserialize;

/// What proves who we are to one registry.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Credential {
    /// A name and a password.
    Basic {
        /// The name.
        username: String,
        /// The password or an access key.
        password: String,
    },
    /// A refresh token, exchanged for access tokens (`identitytoken`).
    Identity(String),
    /// A token that goes to the registry as it is (`registrytoken`).
    Bearer(String),
}

// Secrets are in no log and no dump.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { username, .. } => write!(f, "Basic({username:?}, <redacted>)"),
            Self::Identity(_) => f.write_str("Identity(<redacted>)"),
            Self::Bearer(_) => f.write_str("Bearer(<redacted>)"),
        }
    }
}

/// Credentials for several registries, as in Docker's `config.json` and in secrets of type
/// `kubernetes.io/dockerconfigjson`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Credentials {
    by_registry: BTreeMap<String, Credential>,
}

/// Not Docker's `config.json`. The text tells nothing of the content, which is secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseCredentialsError {
    /// Longer than 1 MiB.
    #[error("registry credentials are larger than 1 MiB")]
    TooLarge,
    /// Not the JSON that it should be.
    #[error("registry credentials are not valid JSON of the form {{\"auths\": {{\"<registry>\": {{...}}}}}}")]
    Malformed,
    /// The `auth` of a registry is not base64 of `user:password`.
    #[error("registry credentials for {0:?}: auth is not base64 of user:password")]
    Auth(String),
}

#[derive(Deserialize)]
struct ConfigFile {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl Credentials {
    /// Nobody in particular.
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// The same, and `credential` for `registry` (`host` or `host:port`).
    pub fn with(mut self, registry: &str, credential: Credential) -> Self {
        self.by_registry.insert(normalise(registry), credential);
        self
    }

    /// Reads Docker's `config.json`. Credential helpers are programs and are not run.
    pub fn from_docker_config(json: &[u8]) -> Result<Self, ParseCredentialsError> {
        if json.len() > 1 << 20 {
            return Err(ParseCredentialsError::TooLarge);
        }
        let file: ConfigFile = serde_json::from_slice(json).map_err(|_| ParseCredentialsError::Malformed)?;
        let mut out = Self::default();
        for (registry, entry) in file.auths {
            let bad = || ParseCredentialsError::Auth(crate::image::manifest::clip(&registry));
            let credential = if !entry.registrytoken.is_empty() {
                Credential::Bearer(entry.registrytoken)
            } else if !entry.identitytoken.is_empty() {
                Credential::Identity(entry.identitytoken)
            } else if !entry.auth.is_empty() {
                let text = STANDARD.decode(entry.auth.trim()).map_err(|_| bad())?;
                let text = String::from_utf8(text).map_err(|_| bad())?;
                let (username, password) = text.split_once(':').ok_or_else(bad)?;
                let password = password.trim_end_matches('\0');
                Credential::Basic { username: username.to_owned(), password: password.to_owned() }
            } else if !entry.username.is_empty() {
                Credential::Basic { username: entry.username, password: entry.password }
            } else {
                continue;
            };
            out.by_registry.insert(normalise(&registry), credential);
        }
        Ok(out)
    }

    /// The one for a registry.
    pub fn get(&self, registry: &str) -> Option<&Credential> {
        self.by_registry.get(&normalise(registry))
    }
}

/// Docker wrote whole addresses there once: `https://index.docker.io/v1/`.
fn normalise(registry: &str) -> String {
    let rest =
        registry.strip_prefix("https://").or_else(|| registry.strip_prefix("http://")).unwrap_or(registry);
    let host = rest.split('/').next().unwrap_or(rest).to_ascii_lowercase();
    match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        _ => host,
    }
}

/// What a registry asks for with 401.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: Url, service: Option<String>, scope: Option<String> },
}

/// The challenges of an answer that can be met, the better first.
pub(super) fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    let mut found: Vec<Challenge> = values.flat_map(parse_challenges).collect();
    found.sort_by_key(|challenge| matches!(challenge, Challenge::Basic));
    found
}

/// `scheme key="value", key=value, scheme ...` (RFC 9110, 11.6.1).
fn parse_challenges(mut text: &str) -> Vec<Challenge> {
    let mut out = Vec::new();
    let mut scheme = String::new();
    let mut parameters: BTreeMap<String, String> = BTreeMap::new();
    let mut finish = |scheme: &str, parameters: &mut BTreeMap<String, String>| {
        let all = std::mem::take(parameters);
        if scheme.eq_ignore_ascii_case("basic") {
            out.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = all.get("realm").and_then(|realm| Url::parse(realm).ok())
        {
            out.push(Challenge::Bearer {
                realm,
                service: all.get("service").cloned(),
                scope: all.get("scope").cloned(),
            });
        }
    };
    loop {
        text = text.trim_start_matches([' ', '\t', ',']);
        let word_end = text.find([' ', '\t', ',', '=']).unwrap_or(text.len());
        if word_end == 0 {
            break;
        }
        let word = &text[..word_end];
        let rest = text[word_end..].trim_start_matches([' ', '\t']);
        if let Some(value) = rest.strip_prefix('=').filter(|_| !scheme.is_empty()) {
            let (value, after) = parameter_value(value.trim_start_matches([' ', '\t']));
            parameters.entry(word.to_ascii_lowercase()).or_insert(value);
            text = after;
        } else {
            finish(&scheme, &mut parameters);
            scheme = word.to_owned();
            text = rest.trim_start_matches('=');
        }
    }
    finish(&scheme, &mut parameters);
    out
}

fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut escaped = false;
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return (value, &quoted[at + 1..]),
            _ => value.push(c),
        }
    }
    (value, "")
}

/// Token servers of registries whose host is another one, by those registries' own documentation.
const WELL_KNOWN: &[(&str, &str)] = &[("docker.io", "auth.docker.io"), ("registry.gitlab.com", "gitlab.com")];

/// Whether `realm` may get the credentials of `registry`: over TLS, and on the registry's own host, or configured,
/// or well known. Plain HTTP only to the very host and port that is configured for plain HTTP.
pub(super) fn may_have_credentials(
    realm: &Url,
    registry: &Url,
    name: &str,
    configured: &[(String, String)],
) -> bool {
    let Some(host) = realm.host_str() else { return false };
    if realm.scheme() != "https" {
        return realm.scheme() == registry.scheme()
            && realm.host_str() == registry.host_str()
            && realm.port_or_known_default() == registry.port_or_known_default();
    }
    let listed = |(of, server): (&str, &str)| of == name && server.eq_ignore_ascii_case(host);
    registry.host_str() == Some(host)
        || WELL_KNOWN.iter().copied().any(listed)
        || configured.iter().any(|(of, server)| listed((of.as_str(), server.as_str())))
}

#[cfg(test)]
mod tests;
