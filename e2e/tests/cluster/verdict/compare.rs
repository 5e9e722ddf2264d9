//! Two verdicts: equal, meant to differ, or not.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use stower_crds::{AdmitContext, FieldError, Kind, Object, admit};

use super::server::Verdict;

/// The messages of all CEL rules.
pub(super) struct Rules(BTreeSet<String>);

impl Rules {
    pub(super) fn of_all_kinds() -> Self {
        fn collect(node: &Value, found: &mut BTreeSet<String>) {
            for rule in node["x-kubernetes-validations"].as_array().into_iter().flatten() {
                found.extend(rule["message"].as_str().map(str::to_owned));
            }
            for child in node["properties"].as_object().into_iter().flatten().map(|(_, child)| child) {
                collect(child, found);
            }
            if node["items"].is_object() {
                collect(&node["items"], found);
            }
        }
        let mut found = BTreeSet::new();
        for kind in Kind::CUSTOM {
            let crd = stower_crds::crd(*kind);
            collect(&crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"], &mut found);
        }
        Self(found)
    }

    /// The rule that a message tells of.
    fn of(&self, message: &str) -> Option<&str> {
        let own = self.0.get(message).map(String::as_str);
        own.or_else(|| {
            // A server puts the kind of value before it (`Invalid value: "object": …`), both why it could not be asked.
            self.0.iter().map(String::as_str).find(|rule| message.ends_with(&format!(": {rule}")))
        })
    }
}

/// What the agent says of a text that no process can be given; a server keeps it.
const NUL: &str = "must not contain a NUL character";

type Ours = Result<Object, Vec<FieldError>>;

/// Why two verdicts are meant to differ, where they are.
pub(super) fn excused(ours: &Ours, theirs: &Verdict) -> Option<&'static str> {
    let Err(errors) = ours else {
        // Its rules cannot read what its schema takes. Clients make `80` of `80.0` before they send it.
        let words =
            ["expected XIntOrString value to be either a string or integer", "expected int, got float64"];
        let is_float = |message: &str| words.iter().any(|part| message.contains(part));
        return match theirs {
            Verdict::Refused(found) if found.iter().all(|(_, message)| is_float(message)) => {
                Some("a whole number with a fraction, which a rule compares")
            }
            _ => None,
        };
    };
    let all = |holds: &dyn Fn(&FieldError) -> bool| errors.iter().all(holds);
    match theirs {
        // The agent takes such an object from the server and says in its status that it cannot run it.
        Verdict::Accepted(_) if all(&|it| it.message.ends_with("not supported by this version")) => {
            Some("not supported by this version")
        }
        // Nothing here has so much; a server keeps any number.
        _ if errors.iter().any(|it| it.message.contains("quantity is too large")) => {
            Some("an amount of 2^63 or more")
        }
        // No path, argument or variable of a process can have one.
        Verdict::Accepted(_) if all(&|it| it.message == NUL) => Some("a NUL character"),
        // The server reads `metadata`, and all of a Secret, before all else, and tells only of the first that it cannot.
        Verdict::Unreadable(_)
            if all(&|it| {
                ["metadata", "data"].iter().any(|part| it.path.starts_with(part)) || it.path.is_empty()
            }) =>
        {
            Some("what the server cannot even read")
        }
        _ => None,
    }
}

/// That two verdicts are the same.
pub(super) fn equal(rules: &Rules, ours: &Ours, theirs: &Verdict) -> Result<()> {
    match (ours, theirs) {
        (Ok(object), Verdict::Accepted(stored)) => same_object(object, stored),
        (Err(errors), Verdict::Refused(found)) => same_errors(rules, errors, found),
        (Ok(_), Verdict::Refused(found)) => bail!("the server alone refuses: {found:?}"),
        (Err(errors), Verdict::Accepted(_)) => bail!("the agent alone refuses: {}", texts(errors)),
        (_, Verdict::Unreadable(message)) => {
            bail!("the server cannot read it: {message}, the agent: {ours:?}")
        }
    }
}

fn same_errors(rules: &Rules, errors: &[FieldError], found: &BTreeSet<(String, String)>) -> Result<()> {
    let ours: BTreeSet<String> =
        errors.iter().filter(|it| it.message != NUL).map(|it| plain(&it.path)).collect();
    let theirs: BTreeSet<String> = found.iter().map(|(path, _)| plain(path)).collect();
    ensure!(ours == theirs, "the agent says {}, the server {found:?}", texts(errors));
    let own: BTreeSet<(&str, &str)> =
        errors.iter().filter_map(|it| Some((it.path.as_str(), rules.of(&it.message)?))).collect();
    let others: BTreeSet<(&str, &str)> =
        found.iter().filter_map(|(path, message)| Some((path.as_str(), rules.of(message)?))).collect();
    ensure!(own == others, "the agent's rules say {own:?}, the server's {others:?}");
    Ok(())
}

/// A path in one spelling. In `metadata` the agent names the entry that is meant, where the server names the map.
fn plain(path: &str) -> String {
    for map in ["metadata.labels", "metadata.annotations"] {
        if path.starts_with(map) {
            return map.to_owned();
        }
    }
    match path.strip_prefix("data[").and_then(|rest| rest.strip_suffix(']')) {
        Some(key) => format!("data.{key}"),
        None => path.to_owned(),
    }
}

/// That the agent has the same object from the document and from what the server made of it.
fn same_object(object: &Object, stored: &Value) -> Result<()> {
    let read = admit(stored.clone(), &AdmitContext::default());
    let read = read.map_err(|errors| anyhow::anyhow!("{}", texts(&errors)));
    let read = read.context("the agent refuses what the server made of what both accept")?;
    let spec = |object: &Object| {
        let mut value = object.to_value();
        value.as_object_mut().map(|map| map.remove("metadata"));
        value
    };
    ensure!(
        spec(object) == spec(&read),
        "the agent has {} of the document, and {} of what the server made of it",
        spec(object),
        spec(&read)
    );
    Ok(())
}

fn texts(errors: &[FieldError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
