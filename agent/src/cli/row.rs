//! An object as one line of a table: what matters of it, and of its status in a word.

use jiff::Timestamp;
use serde_json::Value;

use super::{age, target::Resource};

/// How much a row says.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Columns {
    /// The namespace, first.
    pub(super) namespaced: bool,
    /// All that there is.
    pub(super) wide: bool,
    /// The labels, last.
    pub(super) labels: bool,
    /// The kind before the name, where a command shows several.
    pub(super) kinds: bool,
}

/// The headings of the table of a kind: those of its definition's `additionalPrinterColumns`, and what only an agent
/// knows.
pub(super) fn headings(resource: &Resource, columns: Columns) -> Vec<&'static str> {
    let (usual, wide): (&[_], &[_]) = match resource.kind {
        "Volume" => {
            (&["READY", "DRIVER", "CAPACITY", "RECLAIM", "AGE"], &["NODE", "USERS", "PATH", "SOURCE"])
        }
        "DataContainer" => (&["READY", "PATHS", "RECLAIM", "AGE"], &["NODE", "IMAGE", "USERS", "SOURCE"]),
        "ConfigMap" => (&["DATA", "AGE"], &["SOURCE"]),
        "Secret" => (&["TYPE", "DATA", "AGE"], &["SOURCE"]),
        _ => (&["STATUS", "READY", "RESTARTS", "AGE", "IMAGE"], &["IMAGE ID", "PID", "NODE", "SOURCE"]),
    };
    let mut headings = Vec::new();
    if columns.namespaced {
        headings.push("NAMESPACE");
    }
    headings.push("NAME");
    headings.extend(usual);
    if columns.wide {
        headings.extend(wide);
    }
    if columns.labels {
        headings.push("LABELS");
    }
    headings
}

/// The row of one object.
pub(super) fn cells(resource: &Resource, object: &Value, columns: Columns, now: Timestamp) -> Vec<String> {
    let (metadata, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
    let mut cells = Vec::new();
    if columns.namespaced {
        cells.push(text(&metadata["namespace"]));
    }
    let name = text(&metadata["name"]);
    cells.push(if columns.kinds { format!("{}/{name}", resource.singular) } else { name });
    let age = age::since(&metadata["creationTimestamp"], now);
    let node = text(&spec["nodeName"]);
    let source = text(&metadata["annotations"][crate::api::SOURCE_ANNOTATION]);
    let reclaim = text(&spec["reclaimPolicy"]);
    let (usual, wide) = match resource.kind {
        "Volume" => (
            vec![ready(object), text(&spec["driver"]), capacity(object), reclaim, age],
            vec![node, users(status), text(&status["path"]), source],
        ),
        "DataContainer" => (
            vec![ready(object), paths(spec), reclaim, age],
            vec![node, text(&spec["image"]), users(status), source],
        ),
        "ConfigMap" => {
            (vec![(entries(object, "data") + entries(object, "binaryData")).to_string(), age], vec![source])
        }
        "Secret" => (vec![text(&object["type"]), entries(object, "data").to_string(), age], vec![source]),
        _ => (
            vec![
                word(object),
                condition(object, "Ready")
                    .and_then(|ready| ready["status"].as_str())
                    .unwrap_or("False")
                    .to_owned(),
                restarts(status, now),
                age,
                text(&spec["image"]),
            ],
            vec![
                short_digest(&status["image"]),
                or_none(number(&status["state"]["running"]["pid"])),
                node,
                source,
            ],
        ),
    };
    cells.extend(usual);
    if columns.wide {
        cells.extend(wide);
    }
    if columns.labels {
        cells.push(pairs(&metadata["labels"]));
    }
    cells
}

/// Whether a Volume or DataContainer can be mounted, or the word for why that is not asked.
fn ready(object: &Value) -> String {
    if object["metadata"]["deletionTimestamp"].is_string() {
        return "Terminating".to_owned();
    }
    if let Some(refused) = condition(object, "Accepted").filter(|accepted| accepted["status"] == "False") {
        return refused["reason"].as_str().unwrap_or("NotAccepted").to_owned();
    }
    condition(object, "Ready").and_then(|ready| ready["status"].as_str()).unwrap_or("False").to_owned()
}

/// An amount as it was written: a text or a number.
pub(super) fn amount(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        other => text(other),
    }
}

/// What is declared, or what there is where nothing is.
fn capacity(object: &Value) -> String {
    let declared = &object["spec"]["capacity"];
    amount(if declared.is_null() { &object["status"]["capacity"] } else { declared })
}

/// What uses it, without the namespace, which is its own.
fn users(status: &Value) -> String {
    let users = status["users"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let short = |user: &str| match (user.split_once(' '), user.rsplit_once('/')) {
        (Some((kind, _)), Some((_, name))) => format!("{}/{name}", Resource::named(kind).singular),
        _ => user.to_owned(),
    };
    or_none(users.map(short).collect::<Vec<_>>().join(","))
}

fn paths(spec: &Value) -> String {
    let volumes = spec["volumes"].as_array().into_iter().flatten();
    or_none(volumes.filter_map(|volume| volume["mountPath"].as_str()).collect::<Vec<_>>().join(","))
}

fn entries(object: &Value, field: &str) -> usize {
    object[field].as_object().map_or(0, serde_json::Map::len)
}

/// What an object is up to, in a word: as kubectl derives a pod's STATUS.
pub(super) fn word(object: &Value) -> String {
    let status = &object["status"];
    if object["kind"] == "Volume" || object["kind"] == "DataContainer" {
        return storage_word(object);
    }
    let state = &status["state"];
    if object["metadata"]["deletionTimestamp"].is_string() {
        return "Terminating".to_owned();
    }
    if let Some(refused) = condition(object, "Accepted").filter(|accepted| accepted["status"] == "False") {
        return refused["reason"].as_str().unwrap_or("NotAccepted").to_owned();
    }
    if state["running"].is_object() {
        return if is_held(object) { "Stopping".to_owned() } else { "Running".to_owned() };
    }
    if is_held(object) {
        return "Stopped".to_owned();
    }
    if let Some(reason) = state["waiting"]["reason"].as_str() {
        return reason.to_owned();
    }
    let ended = &state["terminated"];
    if ended.is_object() {
        return match (ended["reason"].as_str(), ended["signal"].as_i64(), ended["exitCode"].as_i64()) {
            (Some(reason), ..) if !reason.is_empty() => reason.to_owned(),
            (_, Some(signal), _) if signal != 0 => format!("Signal:{signal}"),
            (_, _, Some(code)) => format!("ExitCode:{code}"),
            _ => "Terminated".to_owned(),
        };
    }
    status["phase"].as_str().unwrap_or("Pending").to_owned()
}

/// The same of a Volume or DataContainer.
fn storage_word(object: &Value) -> String {
    let ready = ready(object);
    let why = condition(object, "Ready").and_then(|ready| ready["reason"].as_str());
    match ready.as_str() {
        "True" => "Ready".to_owned(),
        "False" | "Unknown" => why
            .or(object["status"]["phase"].as_str())
            .filter(|word| !word.is_empty())
            .unwrap_or("Pending")
            .to_owned(),
        _ => ready,
    }
}

/// Whether a person has stopped it.
pub(super) fn is_held(object: &Value) -> bool {
    condition(object, "Held").is_some_and(|held| held["status"] == "True")
}

/// A condition by its type.
pub(super) fn condition<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == name)
}

/// The restart count, with how long ago the last one was.
fn restarts(status: &Value, now: Timestamp) -> String {
    let count = status["restartCount"].as_u64().unwrap_or(0);
    match age::parse(&status["lastState"]["terminated"]["finishedAt"]) {
        Some(at) if count > 0 => format!("{count} ({} ago)", age::human(now.as_second() - at.as_second())),
        _ => count.to_string(),
    }
}

/// The first twelve digits of a digest, wherever it stands in the text.
pub(super) fn short_digest(value: &Value) -> String {
    let text = value.as_str().unwrap_or_default();
    match text.rsplit_once("sha256:") {
        Some((_, hex)) => hex.chars().take(12).collect(),
        None => or_none(text.to_owned()),
    }
}

/// Labels as `a=b,c=d`.
pub(super) fn pairs(map: &Value) -> String {
    let pairs: Vec<_> = map
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    or_none(pairs.join(","))
}

/// A string of an object, `<none>` when there is none.
pub(super) fn text(value: &Value) -> String {
    or_none(value.as_str().unwrap_or_default().to_owned())
}

fn number(value: &Value) -> String {
    value.as_i64().map(|n| n.to_string()).unwrap_or_default()
}

fn or_none(text: String) -> String {
    if text.is_empty() { "<none>".to_owned() } else { text }
}

#[cfg(test)]
mod tests;
