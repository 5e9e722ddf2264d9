//! `stower describe node`: the node itself, with its disk.

use serde_json::Value;

use super::{
    super::{
        age,
        context::{Context, now, print},
        error::CliError,
        events::object_selector,
        row::amount,
        target::items,
    },
    conditions, event_table, str_of,
    tree::Tree,
};
use crate::client::Url;

pub(super) async fn run(context: &Context) -> Result<(), CliError> {
    let node = context.client.get("/v1/node").await?;
    let selector = object_selector("Node", node["metadata"]["name"].as_str().unwrap_or_default());
    let url = Url::new(&["api", "v1", "events"]).query("fieldSelector", &selector);
    let mut list = context.client.get(url.as_str()).await?;
    print(text(&node, &items(&mut list)))
}

fn text(node: &Value, events: &[Value]) -> String {
    let status = &node["status"];
    let mut tree = Tree::default();
    tree.field("Name", str_of(&node["metadata"]["name"]));
    tree.maybe("Agent Version", status["nodeInfo"]["agentVersion"].as_str());
    let filesystem = &status["filesystem"];
    let mut inner = Tree::default();
    inner.field("Bytes", room(&filesystem["bytes"], age::bytes));
    if filesystem["inodes"].is_object() {
        inner.field("Inodes", room(&filesystem["inodes"], |count| count.to_string()));
    }
    tree.headed("Filesystem", str_of(&filesystem["path"]), inner);
    let pool = &status["pool"];
    if pool.is_object() {
        let mut inner = Tree::default();
        inner.field("Data", room(&pool["data"], age::bytes));
        inner.field("Metadata", room(&pool["metadata"], age::bytes));
        tree.headed("Pool", str_of(&pool["name"]), inner);
    }
    let kube = &status["kube"];
    if kube.is_object() {
        let mut inner = Tree::default();
        inner.field("Connected", if kube["connected"] == true { "yes" } else { "no" });
        inner.maybe("Last Contact", kube["lastContact"].as_str());
        inner.maybe("Trouble Since", kube["troubleSince"].as_str());
        inner.maybe("Message", kube["message"].as_str());
        for (kind, why) in kube["notRead"].as_object().into_iter().flatten() {
            inner.field(&format!("Not Read: {kind}"), str_of(why));
        }
        inner.maybe("Not Followed", kube["notFollowed"].as_str());
        tree.headed("API Server", str_of(&kube["server"]), inner);
    }
    let mut runtimes = Tree::default();
    for runtime in status["runtimes"].as_array().into_iter().flatten() {
        runtimes.field(&str_of(&runtime["name"]), self::runtime(runtime));
    }
    if !runtimes.is_empty() {
        tree.group("Runtimes", runtimes);
    }
    let mut out = tree.render();
    conditions(&mut out, &status["conditions"], now());
    event_table(&mut out, events);
    out
}

/// `/usr/bin/crun (OCI 1.0.0 to 1.0.2-dev)`
fn runtime(runtime: &Value) -> String {
    if runtime["builtIn"] == true {
        return "built in".to_owned();
    }
    let mut text = str_of(&runtime["path"]).to_owned();
    for arg in runtime["args"].as_array().into_iter().flatten() {
        text = format!("{text} {}", str_of(arg));
    }
    if let Some(problem) = runtime["problem"].as_str() {
        return format!("{text} (not usable: {problem})");
    }
    match (runtime["features"]["ociVersionMin"].as_str(), runtime["features"]["ociVersionMax"].as_str()) {
        (Some(least), Some(most)) => format!("{text} (OCI {least} to {most})"),
        _ => format!("{text} (does not tell its features)"),
    }
}

fn room(room: &Value, unit: impl Fn(u64) -> String) -> String {
    let value = |field: &str| unit(room[field].as_u64().unwrap_or(0));
    format!(
        "{} available of {} ({} % in use)",
        value("available"),
        value("total"),
        amount(&room["usedPercent"])
    )
}
