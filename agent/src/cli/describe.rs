//! `stower describe`: one object in full, in the shape that kubectl gives a pod.
//!
//! What this version knows has its place and wording; every other field of the spec follows as it is, so nothing that
//! was declared is left out.

mod tree;

use jiff::Timestamp;
use serde_json::Value;

use self::tree::{Tree, generic, title};
use super::{
    age,
    context::{Context, now, print},
    error::{CliError, Failures},
    events::{last_seen, object_selector},
    row,
    table::{Table, printable},
    target::{Target, Wanted, items, refuse_all_namespaces, wanted},
};
use crate::{args::DescribeArgs, client::Url};

pub(super) async fn run(context: &Context, args: &DescribeArgs) -> Result<(), CliError> {
    let mut failures = Failures::default();
    let mut objects = Vec::new();
    match wanted(&args.targets)? {
        Wanted::Kind(resource) => {
            let url = resource.list(context.scope()).maybe("labelSelector", args.selector.as_deref());
            let mut list = context.client.get(url.as_str()).await?;
            for object in items(&mut list) {
                objects.push((Target::of(&object, context.namespace())?, object));
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
        let mut list = context.client.get(url.as_str()).await?;
        let gap = if n == 0 { "" } else { "\n\n" };
        print(format!("{gap}{}", text(object, &items(&mut list), now())))?;
    }
    failures.end()
}

/// The fields of a spec that have their own place below.
const PLACED: &[&str] = &[
    "image",
    "command",
    "args",
    "env",
    "resources",
    "volumeMounts",
    "volumes",
    "nodeName",
    "restartPolicy",
    "restart",
    "ports",
];

/// The whole description.
fn text(object: &Value, events: &[Value], now: Timestamp) -> String {
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
    tree.field("Generation", generation(metadata, status));
    let word = row::word(object);
    let phase = status["phase"].as_str().filter(|phase| *phase != word);
    tree.field("Status", word);
    tree.maybe("Phase", phase);
    tree.field("Image", str_of(&spec["image"]));
    tree.maybe("Image ID", status["image"].as_str());
    tree.maybe("Command", command(&spec["command"]).as_deref());
    tree.maybe("Args", command(&spec["args"]).as_deref());
    state(&mut tree, "State", &status["state"], now);
    if status["lastState"].as_object().is_some_and(|state| !state.is_empty()) {
        state(&mut tree, "Last State", &status["lastState"], now);
    }
    let ready = row::condition(object, "Ready").and_then(|ready| ready["status"].as_str());
    tree.field("Ready", ready.unwrap_or("False"));
    tree.field("Restart Count", status["restartCount"].as_u64().unwrap_or(0).to_string());
    if status["nextRestartTime"].is_string() {
        tree.field("Next Restart", age::full(&status["nextRestartTime"], now));
    }
    tree.maybe("Restart Policy", spec["restartPolicy"].as_str());
    group(&mut tree, "Restart", &spec["restart"]);
    group(&mut tree, "Limits", &spec["resources"]["limits"]);
    group(&mut tree, "Requests", &spec["resources"]["requests"]);
    list(&mut tree, "Ports", &spec["ports"], port);
    environment(&mut tree, &spec["env"]);
    list(&mut tree, "Mounts", &spec["volumeMounts"], mount);
    volumes(&mut tree, &spec["volumes"]);
    let mut rest = Tree::default();
    for (key, value) in spec.as_object().into_iter().flatten() {
        if !PLACED.contains(&key.as_str()) {
            generic(&mut rest, &title(key), value);
        }
    }
    if !rest.is_empty() {
        tree.group("Settings", rest);
    }
    let mut out = tree.render();
    conditions(&mut out, &status["conditions"], now);
    event_table(&mut out, events);
    out
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

/// A command as a shell would take it.
fn command(words: &Value) -> Option<String> {
    let words = words.as_array().filter(|words| !words.is_empty())?;
    Some(words.iter().map(|word| quote(word.as_str().unwrap_or_default())).collect::<Vec<_>>().join(" "))
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// `State` and `Last State`, with their fields below as kubectl has them.
fn state(tree: &mut Tree, name: &str, state: &Value, now: Timestamp) {
    let empty = serde_json::Map::new();
    let (word, fields) = ["waiting", "running", "terminated"]
        .iter()
        .find_map(|word| state[*word].as_object().map(|fields| (*word, fields)))
        .unwrap_or(("waiting", &empty));
    let mut inner = Tree::default();
    // Kubernetes' order of the fields, then whatever a newer agent adds.
    let known = ["reason", "message", "pid", "exitCode", "signal", "startedAt", "finishedAt"];
    let rest = fields.keys().map(String::as_str).filter(|key| !known.contains(key));
    for key in known.into_iter().chain(rest) {
        let Some(value) = fields.get(key).filter(|value| !value.is_null()) else { continue };
        match key {
            "startedAt" => inner.field("Started", age::full(value, now)),
            "finishedAt" => inner.field("Finished", age::full(value, now)),
            "pid" => inner.field("PID", value.to_string()),
            "signal" if value == 0 => {}
            _ => generic(&mut inner, &title(key), value),
        }
    }
    tree.headed(name, title(word), inner);
}

fn group(tree: &mut Tree, name: &str, value: &Value) {
    if value.as_object().is_some_and(|map| !map.is_empty()) {
        generic(tree, name, value);
    }
}

fn list(tree: &mut Tree, name: &str, values: &Value, line: impl Fn(&Value) -> String) {
    if let Some(values) = values.as_array().filter(|values| !values.is_empty()) {
        tree.block(name, values.iter().map(line).collect());
    }
}

fn port(port: &Value) -> String {
    let protocol = port["protocol"].as_str().unwrap_or("TCP");
    let name = port["name"].as_str().map_or(String::new(), |name| format!(" ({name})"));
    format!("{}/{protocol}{name}", port["containerPort"])
}

fn mount(mount: &Value) -> String {
    let mode = if mount["readOnly"] == true { "ro" } else { "rw" };
    let path = mount["subPath"].as_str().map_or(String::new(), |path| format!(",path={path:?}"));
    format!("{} from {} ({mode}{path})", str_of(&mount["mountPath"]), str_of(&mount["name"]))
}

fn environment(tree: &mut Tree, env: &Value) {
    let Some(env) = env.as_array().filter(|env| !env.is_empty()) else { return };
    let mut inner = Tree::default();
    for variable in env {
        let name = variable["name"].as_str().unwrap_or_default();
        match variable["value"].as_str() {
            Some(value) => inner.field(name, value),
            None if variable["valueFrom"].is_object() => {
                inner.field(name, format!("<from {}>", variable["valueFrom"]));
            }
            None => inner.field(name, ""),
        }
    }
    tree.group("Environment", inner);
}

fn volumes(tree: &mut Tree, volumes: &Value) {
    let Some(volumes) = volumes.as_array().filter(|volumes| !volumes.is_empty()) else { return };
    let mut all = Tree::default();
    for volume in volumes {
        let mut inner = Tree::default();
        for (key, value) in volume.as_object().into_iter().flatten().filter(|(key, _)| *key != "name") {
            inner.field("Type", title(key).replace(' ', ""));
            for (key, value) in value.as_object().into_iter().flatten() {
                generic(&mut inner, &title(key), value);
            }
        }
        all.group(volume["name"].as_str().unwrap_or_default(), inner);
    }
    tree.group("Volumes", all);
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
