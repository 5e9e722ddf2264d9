//! `stower volume`: the data of volumes, also of those that no object declares any more.

use std::io::Write;

use serde_json::{Value, json};
use stower_crds::Quantity;

use super::{
    age,
    context::{Context, note, print, println, to_data},
    error::{CliError, Failures},
    row::{amount, text},
    table::Table,
    target::{Resource, Target, items, single_of},
};
use crate::{
    args::{DataOutput, VolumeArgs, VolumeCommand, VolumeInspectArgs, VolumeLsArgs, VolumePruneArgs},
    client::Url,
};

const BASE: &[&str] = &["apis", "stower.dev", "v1alpha1"];

pub(super) async fn run(context: &Context, args: &VolumeArgs) -> Result<(), CliError> {
    match &args.command {
        VolumeCommand::Ls(args) => ls(context, args).await,
        VolumeCommand::Inspect(args) => inspect(context, args).await,
        VolumeCommand::Rm(args) => {
            let mut failures = Failures::default();
            for word in &args.names {
                let target = single_of(context, word, Resource::named("Volume"))?;
                remove(context, &target, &mut failures).await?;
            }
            failures.end()
        }
        VolumeCommand::Prune(args) => prune(context, args).await,
    }
}

/// All data in the namespace asked for. Data of a container that is gone has none.
async fn all(context: &Context) -> Result<Vec<Value>, CliError> {
    let mut segments = BASE.to_vec();
    segments.push("volumedata");
    let mut list = context.client.get(Url::new(&segments).as_str()).await?;
    let Value::Array(mut items) = list["items"].take() else { return Ok(Vec::new()) };
    if let Some(namespace) = context.scope() {
        items.retain(|item| item["namespace"] == namespace);
    }
    Ok(items)
}

async fn ls(context: &Context, args: &VolumeLsArgs) -> Result<(), CliError> {
    let mut data = all(context).await?;
    // A path of the host has no data of ours, and is a volume all the same.
    let mut list = context.client.get(Resource::named("Volume").list(context.scope()).as_str()).await?;
    for object in items(&mut list) {
        let metadata = &object["metadata"];
        let is_there = |item: &Value| {
            item["kind"] == "Volume"
                && (&item["namespace"], &item["name"]) == (&metadata["namespace"], &metadata["name"])
        };
        if !data.iter().any(is_there) {
            let path = match &object["spec"]["hostPath"]["path"] {
                Value::Null => &object["status"]["path"],
                path => path,
            };
            data.push(json!({
                "kind": "Volume", "namespace": metadata["namespace"], "name": metadata["name"], "declared": true,
                "driver": object["spec"]["driver"], "users": object["status"]["users"], "path": path,
            }));
        }
    }
    data.sort_by_key(|item| {
        ["namespace", "kind", "name", "mountPath"]
            .map(|field| item[field].as_str().unwrap_or_default().to_owned())
    });
    if args.retained {
        data.retain(is_retained);
    }
    if let Some(output) = args.output {
        return print(to_data(&json!({"kind": "VolumeDataList", "items": data}), output)?);
    }
    if data.is_empty() {
        note("No volumes found.");
        return Ok(());
    }
    let mut headings = vec!["NAME", "STATE", "DRIVER", "USED", "FILES", "CAPACITY", "USERS"];
    if context.all_namespaces {
        headings.insert(0, "NAMESPACE");
    }
    let mut table = Table::new(&headings, !args.no_headers);
    for item in &data {
        let usage = &item["usage"];
        let mut cells = vec![
            title(item),
            state(item).to_owned(),
            text(&item["driver"]),
            usage["bytes"].as_u64().map_or_else(|| "<unknown>".to_owned(), age::bytes),
            amount(&usage["inodes"]),
            // As it is declared: 16Mi.
            item["capacity"]
                .as_u64()
                .map_or_else(|| "<none>".to_owned(), |bytes| Quantity::from_bytes(bytes).to_string()),
            users(item),
        ];
        if context.all_namespaces {
            cells.insert(0, text(&item["namespace"]));
        }
        table.row(cells);
    }
    print(table.render_rows())
}

/// `volume/pg`, `datacontainer/data:/var/lib`.
fn title(item: &Value) -> String {
    let kind = Resource::named(item["kind"].as_str().unwrap_or_default()).singular;
    let path = item["mountPath"].as_str().map_or(String::new(), |path| format!(":{path}"));
    format!("{kind}/{}{path}", text(&item["name"]))
}

/// Whether it was left behind. What belongs to a container goes with it, and is never left for anybody.
fn is_retained(item: &Value) -> bool {
    item["declared"] == false && item["kind"] != "Container"
}

fn state(item: &Value) -> &'static str {
    let used = item["users"].as_array().is_some_and(|users| !users.is_empty());
    match (item["declared"] == true, item["problem"].is_string()) {
        (_, true) => "Broken",
        (true, _) if used => "InUse",
        (true, _) => "Unused",
        (false, _) if is_retained(item) => "Retained",
        (false, _) => "Leaving",
    }
}

fn users(item: &Value) -> String {
    let users: Vec<_> = item["users"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if users.is_empty() { "<none>".to_owned() } else { users.join(",") }
}

async fn inspect(context: &Context, args: &VolumeInspectArgs) -> Result<(), CliError> {
    let mut failures = Failures::default();
    for word in &args.names {
        let target = single_of(context, word, Resource::named("Volume"))?;
        let mut object = match context.client.get(target.url().as_str()).await {
            Ok(object) => object,
            Err(error) if error.is_not_found() => {
                let mut left = all(context).await?;
                left.retain(|item| {
                    item["kind"] == target.resource.kind && item["name"] == target.name.as_str()
                });
                if left.is_empty() {
                    failures.add(error.into())?;
                } else {
                    print(to_data(&json!({"data": left}), args.output)?)?;
                }
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        match context.client.get(target.sub(&["usage"]).as_str()).await {
            Ok(mut usage) => object["data"] = usage["items"].take(),
            Err(error) => failures.add(error.into())?,
        }
        if args.output == DataOutput::Yaml {
            print("---\n")?;
        }
        print(to_data(&object, args.output)?)?;
    }
    failures.end()
}

async fn remove(context: &Context, target: &Target, failures: &mut Failures) -> Result<bool, CliError> {
    let mut segments = BASE.to_vec();
    segments.extend(["namespaces", &target.namespace, "volumedata", &target.name]);
    let url = Url::new(&segments).query("kind", target.resource.kind);
    match context.client.json(hyper::Method::DELETE, url.as_str(), None).await {
        Ok(_) => {
            println(format!("data of {}/{} removed", target.resource.singular, target.name))?;
            Ok(true)
        }
        Err(error) => {
            failures.add(error.into())?;
            Ok(false)
        }
    }
}

async fn prune(context: &Context, args: &VolumePruneArgs) -> Result<(), CliError> {
    let mut left = all(context).await?;
    left.retain(is_retained);
    // The parts of a data container go together.
    let mut targets: Vec<(Target, u64)> = Vec::new();
    for item in &left {
        let target = Target {
            resource: Resource::named(item["kind"].as_str().unwrap_or_default()),
            namespace: item["namespace"].as_str().unwrap_or_default().to_owned(),
            name: item["name"].as_str().unwrap_or_default().to_owned(),
        };
        let bytes = item["usage"]["bytes"].as_u64().unwrap_or(0);
        match targets.iter_mut().find(|(known, _)| *known == target) {
            Some((_, sum)) => *sum = sum.saturating_add(bytes),
            None => targets.push((target, bytes)),
        }
    }
    if targets.is_empty() {
        note("No retained data found.");
        return Ok(());
    }
    if !args.force && !agreed(&targets)? {
        return Err(CliError::Message("nothing was removed".to_owned()));
    }
    let mut failures = Failures::default();
    let mut freed = 0u64;
    for (target, bytes) in &targets {
        if remove(context, target, &mut failures).await? {
            freed = freed.saturating_add(*bytes);
        }
    }
    println(format!("Total reclaimed space: {}", age::bytes(freed)))?;
    failures.end()
}

/// Says what goes, and asks.
fn agreed(targets: &[(Target, u64)]) -> Result<bool, CliError> {
    note("This removes for ever the data of:");
    for (target, bytes) in targets {
        let Target { resource, namespace, name } = target;
        note(format!("  {}/{name} in {namespace} ({})", resource.singular, age::bytes(*bytes)));
    }
    confirmed()
}

/// Asks a person; nobody there is a no.
pub(super) fn confirmed() -> Result<bool, CliError> {
    let mut err = std::io::stderr();
    // Nobody is left to ask when standard error is closed; the answer is read all the same.
    let _ = write!(err, "Go on? [y/N] ").and_then(|()| err.flush());
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|error| CliError::Message(format!("cannot read the answer: {error}; -f asks nothing")))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests;
