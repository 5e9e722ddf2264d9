//! Query parameters: those that are known are read strictly, any other is refused by name.

use axum::{
    extract::{FromRequestParts, Query},
    http::request::Parts,
};

use super::status::Refusal;

/// Parameters that clients send by habit and that change nothing here.
const HARMLESS: &[&str] =
    &["pretty", "fieldManager", "fieldValidation", "force", "limit", "timeout", "resourceVersionMatch"];

/// The parameters of a request.
#[derive(Debug, Default)]
pub(super) struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let Query(pairs) = Query::<Vec<(String, String)>>::from_request_parts(parts, state)
            .await
            .map_err(|error| Refusal::bad_request(format!("the query cannot be read: {error}")))?;
        Ok(Self(pairs))
    }
}

impl Params {
    /// Refuses any parameter but these.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), Refusal> {
        let is_known = |name: &str| known.contains(&name) || HARMLESS.contains(&name);
        match self.0.iter().find(|(name, _)| !is_known(name)) {
            None => Ok(()),
            Some((name, _)) => {
                Err(Refusal::bad_request(format!("the query parameter {name:?} is not supported here")))
            }
        }
    }

    /// A parameter; an empty one counts as not given, as in Kubernetes.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// All values of a parameter that may be repeated, in their order; empty ones too.
    pub(super) fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
    }

    /// A parameter that is on or off.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Refusal> {
        match self.get(name) {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(other) => {
                Err(Refusal::bad_request(format!("{name}: invalid value {other:?}: must be true or false")))
            }
        }
    }

    /// A parameter that is a number.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        self.get(name)
            .map(|text| {
                text.parse().map_err(|_| {
                    Refusal::bad_request(format!(
                        "{name}: invalid value {text:?}: must be a whole number, 0 or more"
                    ))
                })
            })
            .transpose()
    }

    /// Whether nothing is to be changed.
    pub(super) fn dry_run(&self) -> Result<bool, Refusal> {
        match self.get("dryRun") {
            None => Ok(false),
            Some("All") => Ok(true),
            Some(other) => Err(Refusal::bad_request(format!(
                "dryRun: Unsupported value: {other:?}: supported values: \"All\""
            ))),
        }
    }
}
