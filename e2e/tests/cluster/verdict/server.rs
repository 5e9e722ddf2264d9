//! The verdict of the API server.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use stower_crds::Kind;
use stower_e2e::Cluster;

/// What an API server says of an object, and in which namespace it is asked.
pub(super) struct Server<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) namespace: &'a str,
}

/// An answer.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It would store this.
    Accepted(Box<Value>),
    /// It refuses, with a message for each of these paths.
    Refused(BTreeSet<(String, String)>),
    /// It could not even read it, and says so without a path.
    Unreadable(String),
}

impl Server<'_> {
    /// What it says of a new object, or of the change of an `old` one that it has. Nothing is stored.
    pub(super) fn verdict(&self, kind: Kind, object: &Value, old: Option<&Value>) -> Result<Verdict> {
        let mut object = object.clone();
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.insert("namespace".to_owned(), self.namespace.into());
        }
        let (status, answer) = self.send(kind, &object, old, "&dryRun=All")?;
        read(status, answer).with_context(|| format!("of {object}"))
    }

    /// Stores an object, and gives it as it was stored, unless it is refused.
    pub(super) fn create(&self, kind: Kind, object: &Value) -> Result<Option<Value>> {
        let mut object = object.clone();
        object["metadata"]["namespace"] = self.namespace.into();
        let (status, answer) = self.send(kind, &object, None, "")?;
        Ok((status == 201).then_some(answer))
    }

    fn send(&self, kind: Kind, object: &Value, old: Option<&Value>, more: &str) -> Result<(u16, Value)> {
        let top = if kind.is_core() { "api" } else { "apis" };
        let collection =
            format!("/{top}/{}/namespaces/{}/{}", kind.api_version(), self.namespace, kind.plural());
        let (method, path) = match old {
            None => ("POST", collection),
            Some(old) => {
                let name = old["metadata"]["name"].as_str().context("an object without a name")?;
                ("PUT", format!("{collection}/{name}"))
            }
        };
        let path = format!("{path}?fieldValidation=Strict{more}");
        let headers = [("Content-Type", "application/json")];
        let answer = self.cluster.request(method, &path, &headers, object.to_string().as_bytes())?;
        Ok((answer.status, serde_json::from_slice(&answer.body).with_context(|| answer.text())?))
    }
}

fn read(status: u16, answer: Value) -> Result<Verdict> {
    let message = answer["message"].as_str().unwrap_or_default().to_owned();
    match status {
        200 | 201 => Ok(Verdict::Accepted(Box::new(answer))),
        400 => {
            let Some((_, errors)) = message.split_once("strict decoding error: ") else {
                return Ok(Verdict::Unreadable(message));
            };
            let mut found = BTreeSet::new();
            for error in errors.split(", ") {
                let path = error
                    .strip_prefix("unknown field \"")
                    .and_then(|rest| rest.strip_suffix('"'))
                    .with_context(|| format!("another strict error: {message}"))?;
                found.insert((path.to_owned(), "unknown field".to_owned()));
            }
            Ok(Verdict::Refused(found))
        }
        422 => {
            let causes = answer["details"]["causes"].as_array().cloned().unwrap_or_default();
            ensure!(!causes.is_empty(), "refused without a cause: {message}");
            let mut found = BTreeSet::new();
            for cause in &causes {
                let text = |name: &str| cause[name].as_str().unwrap_or_default().to_owned();
                let (mut field, message) = (text("field"), text("message"));
                // Of a number that its format cannot hold it tells the path in the text alone.
                if field == "<nil>"
                    && let Some((_, path)) = message.rsplit_once(" in ")
                {
                    path.clone_into(&mut field);
                }
                // It says that rules were not asked; that is no fault of the document.
                if !message.contains("some validation rules were not checked") {
                    found.insert((field, message));
                }
            }
            Ok(Verdict::Refused(found))
        }
        other => bail!("the server answered {other}: {message}"),
    }
}
