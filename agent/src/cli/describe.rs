//! `stower describe`: one object in full, in the shape that kubectl gives a pod.
//!
//! What this version knows has its place and wording; every other field of the spec follows as it is, so nothing that
//! was declared is left out.

mod container;
mod node;
mod storage;
mod tree;
mod values;

use jiff::Timestamp;
use serde_json::Value;

pub(super) use self::tree::Tree;
use self::tree::{generic, title};
use super::{
    age,
    context::{Context, note, now, print},
    error::{CliError, Failures},
    events::{last_seen, object_selector},
    node_verbs::is_node,
    row,
    table::{Table, printable},
    target::{Target, Wanted, items, refuse_all_namespaces, wanted},
};
use crate::{
    args::DescribeArgs,
    client::{ClientError, Url},
};

pub(super) async fn run(context: &Context, args: &DescribeArgs) -> Result<(), CliError> {
    if matches!(args.targets.as_slice(), [only] if is_node(only)) {
        return node::run(context).await;
    }
    let mut failures = Failures::default();
    let mut objects = Vec::new();
    match wanted(&args.targets)? {
        Wanted::Kinds(kinds) => {
            for resource in kinds {
                let url = resource.list(context.scope()).maybe("labelSelector", args.selector.as_deref());
                let mut list = context.client.get(url.as_str()).await?;
                for object in items(&mut list) {
                    objects.push((Target::of(&object, context.namespace())?, object));
                }
            }
        }
        Wanted::Names(names) => {
            refuse_all_namespaces(context)?;
            for (resource, name) in names {
                let target = Target { resource, namespace: context.namespace().to_owned(), name };
                match context.client.get(target.url().as_str()).await {
                    Ok(object) => objects.push((target, object)),
                    Err(error) => failures.add(error.into())?,
                }
            }
        }
    }
    for (n, (target, object)) in objects.iter().enumerate() {
        let selector = object_selector(target.resource.kind, &target.name);
        let url = Url::new(&["api", "v1", "namespaces", &target.namespace, "events"])
            .query("fieldSelector", &selector);
        let mut list = match context.client.get(url.as_str()).await {
            // Who may see an object need not be one who may see events.
            Err(ClientError::Status(status)) if status.code == 403 => {
                note(status.message);
                Value::Null
            }
            list => list?,
        };
        let gap = if n == 0 { "" } else { "\n\n" };
        print(format!("{gap}{}", text(object, &items(&mut list), now())))?;
    }
    failures.end()
}

/// The whole description.
fn text(object: &Value, events: &[Value], now: Timestamp) -> String {
    let mut tree = head(object, now);
    let mut out = match object["kind"].as_str() {
        Some("Volume") => {
            storage::volume(&mut tree, object);
            tree.render()
        }
        Some("DataContainer") => {
            storage::data_container(&mut tree, object);
            tree.render()
        }
        Some("ConfigMap") => tree.render() + &values::config_map(object),
        Some("Secret") => tree.render() + &values::secret(object),
        _ => {
            container::body(&mut tree, object, now);
            tree.render()
        }
    };
    conditions(&mut out, &object["status"]["conditions"], now);
    event_table(&mut out, events);
    out
}

/// What every object has.
fn head(object: &Value, now: Timestamp) -> Tree {
    let (metadata, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
    let mut tree = Tree::default();
    tree.field("Name", str_of(&metadata["name"]));
    tree.field("Namespace", str_of(&metadata["namespace"]));
    tree.field("UID", str_of(&metadata["uid"]));
    tree.lines("Labels", map_lines(&metadata["labels"]));
    let mut annotations = metadata["annotations"].clone();
    if let Some(map) = annotations.as_object_mut() {
        map.remove(crate::api::SOURCE_ANNOTATION);
    }
    tree.lines("Annotations", map_lines(&annotations));
    tree.maybe("Source", metadata["annotations"][crate::api::SOURCE_ANNOTATION].as_str());
    tree.maybe("Node", spec["nodeName"].as_str());
    tree.field("Created", age::full(&metadata["creationTimestamp"], now));
    if metadata["deletionTimestamp"].is_string() {
        tree.field("Terminating", format!("since {}", age::full(&metadata["deletionTimestamp"], now)));
    }
    if spec.is_object() {
        tree.field("Generation", generation(metadata, status));
    }
    tree
}

/// The fields of a spec that have no place of their own, as they are.
fn rest(tree: &mut Tree, spec: &Value, placed: &[&str]) {
    let mut rest = Tree::default();
    for (key, value) in spec.as_object().into_iter().flatten() {
        if !placed.contains(&key.as_str()) {
            generic(&mut rest, &title(key), value);
        }
    }
    if !rest.is_empty() {
        tree.group("Settings", rest);
    }
}

fn list(tree: &mut Tree, name: &str, values: &Value, line: impl Fn(&Value) -> String) {
    if let Some(values) = values.as_array().filter(|values| !values.is_empty()) {
        tree.block(name, values.iter().map(line).collect());
    }
}

fn str_of(value: &Value) -> String {
    row::text(value)
}

fn map_lines(map: &Value) -> Vec<String> {
    map.as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect()
}

fn generation(metadata: &Value, status: &Value) -> String {
    let generation = metadata["generation"].as_i64().unwrap_or(0);
    match status["observedGeneration"].as_i64() {
        Some(observed) if observed == generation => generation.to_string(),
        Some(observed) => format!("{generation} (the status is of {observed})"),
        None => format!("{generation} (not yet seen to)"),
    }
}

fn conditions(out: &mut String, conditions: &Value, now: Timestamp) {
    let Some(conditions) = conditions.as_array().filter(|conditions| !conditions.is_empty()) else { return };
    let mut table = Table::new(&["Type", "Status", "Since", "Reason", "Message"], true);
    for condition in conditions {
        let cell = |name: &str| condition[name].as_str().unwrap_or_default().to_owned();
        let since = match &condition["lastTransitionTime"] {
            Value::Null => String::new(),
            time => age::since(time, now),
        };
        table.row(vec![cell("type"), cell("status"), since, cell("reason"), cell("message")]);
    }
    section(out, "Conditions", &table.render_rows());
}

fn event_table(out: &mut String, events: &[Value]) {
    if events.is_empty() {
        out.push_str("Events:  <none>\n");
        return;
    }
    let mut table = Table::new(&["Type", "Reason", "Age", "Message"], true);
    for event in events {
        let cell = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        table.row(vec![
            cell("type"),
            cell("reason"),
            last_seen(event),
            printable(event["message"].as_str().unwrap_or_default()).into_owned(),
        ]);
    }
    section(out, "Events", &table.render_rows());
}

fn section(out: &mut String, name: &str, table: &str) {
    out.push_str(name);
    out.push_str(":\n");
    for line in table.lines() {
        out.push_str("  ");
        out.push_str(line);
        out.push('\n');
    }
}

#[cfg(test)]
mod tests;
