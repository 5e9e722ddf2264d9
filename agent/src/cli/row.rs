//! A container as one line of a table: what matters of its status, in a word.

use jiff::Timestamp;
use serde_json::Value;

use super::age;

/// The headings of the table.
pub(super) fn headings(namespaced: bool, wide: bool, labels: bool) -> Vec<&'static str> {
    let mut headings = Vec::new();
    if namespaced {
        headings.push("NAMESPACE");
    }
    headings.extend(["NAME", "STATUS", "READY", "RESTARTS", "AGE", "IMAGE"]);
    if wide {
        headings.extend(["IMAGE ID", "PID", "NODE", "SOURCE"]);
    }
    if labels {
        headings.push("LABELS");
    }
    headings
}

/// The row of one object.
pub(super) fn cells(
    object: &Value,
    namespaced: bool,
    wide: bool,
    labels: bool,
    now: Timestamp,
) -> Vec<String> {
    let metadata = &object["metadata"];
    let status = &object["status"];
    let mut cells = Vec::new();
    if namespaced {
        cells.push(text(&metadata["namespace"]));
    }
    cells.extend([
        text(&metadata["name"]),
        word(object),
        condition(object, "Ready").and_then(|ready| ready["status"].as_str()).unwrap_or("False").to_owned(),
        restarts(status, now),
        age::since(&metadata["creationTimestamp"], now),
        text(&object["spec"]["image"]),
    ]);
    if wide {
        cells.extend([
            short_digest(&status["image"]),
            or_none(number(&status["state"]["running"]["pid"])),
            text(&object["spec"]["nodeName"]),
            text(&metadata["annotations"][crate::api::SOURCE_ANNOTATION]),
        ]);
    }
    if labels {
        cells.push(pairs(&metadata["labels"]));
    }
    cells
}

/// What a container is up to, in a word: as kubectl derives a pod's STATUS.
pub(super) fn word(object: &Value) -> String {
    let status = &object["status"];
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
