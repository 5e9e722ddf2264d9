//! What was asked of the API server, by its own audit log.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use super::Cluster;

/// Who asked what, without bodies. A watch is logged when it begins and when it ends.
pub(super) const POLICY: &str = r#"{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [{"level": "Metadata"}]}"#;

/// Where the log is.
pub(super) fn log(folder: &Path) -> PathBuf {
    folder.join("audit.log")
}

/// A moment in the log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark(u64);

/// A request that the API server has begun to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The user's name.
    pub user: String,
    /// What the client calls itself.
    pub agent: String,
    /// `get`, `list`, `watch`, `patch`, …
    pub verb: String,
    /// Path and query.
    pub uri: String,
    /// The status code.
    pub code: u16,
}

impl Cluster {
    /// Now, for [`Cluster::requests_since`].
    pub fn mark(&self) -> Result<Mark> {
        Ok(Mark(fs::metadata(log(self.folder())).context("look at the audit log")?.len()))
    }

    /// The requests since a moment in the order of their answers, each once.
    pub fn requests_since(&self, mark: Mark) -> Result<Vec<Request>> {
        let mut file = fs::File::open(log(self.folder())).context("open the audit log")?;
        file.seek(SeekFrom::Start(mark.0))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let mut seen = BTreeSet::new();
        let mut requests = Vec::new();
        for line in text.lines() {
            // The last line may be on its way.
            let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
            let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            if !seen.insert(word(&event["auditID"])) {
                continue;
            }
            requests.push(Request {
                user: word(&event["user"]["username"]),
                agent: word(&event["userAgent"]),
                verb: word(&event["verb"]),
                uri: word(&event["requestURI"]),
                code: event["responseStatus"]["code"].as_u64().and_then(|it| it.try_into().ok()).unwrap_or(0),
            });
        }
        Ok(requests)
    }
}

/// How many there are of each verb and kind of path (`patch containers/status`), for a test to print.
pub fn counted(requests: &[Request]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for request in requests {
        *counts.entry(format!("{} {}", request.verb, resource(&request.uri))).or_default() += 1;
    }
    counts
}

/// The resource of a path, with its subresource: `/apis/GROUP/VERSION[/namespaces/NS]/RESOURCE[/NAME[/SUB]]`.
fn resource(uri: &str) -> String {
    let path = uri.split('?').next().unwrap_or_default();
    let mut parts = path.trim_matches('/').split('/');
    match parts.next() {
        Some("apis") => drop(parts.nth(1)),
        Some("api") => drop(parts.next()),
        _ => return path.to_owned(),
    }
    let mut rest: Vec<&str> = parts.collect();
    if rest.len() > 2 && rest[0] == "namespaces" {
        rest.drain(..2);
    }
    match rest[..] {
        [resource, _, sub, ..] => format!("{resource}/{sub}"),
        [resource, ..] => resource.to_owned(),
        [] => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_path_is_told_by_its_resource() {
        let cases = [
            ("/apis/stower.dev/v1alpha1/containers?watch=true", "containers"),
            ("/apis/stower.dev/v1alpha1/namespaces/a/containers/web/status", "containers/status"),
            ("/api/v1/namespaces/a", "namespaces"),
            ("/api/v1/namespaces/a/secrets/b", "secrets"),
            ("/readyz", "/readyz"),
        ];
        for (uri, expected) in cases {
            assert_eq!(super::resource(uri), expected, "{uri}");
        }
    }
}
