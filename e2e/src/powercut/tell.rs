//! A client of the agent that marks what it was told as soon as it was told: between the answer and the mark there is no
//! process to start, which in the emulator takes longer than a sync may be away.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::http;

const CONTAINERS: &str = "/apis/stower.dev/v1alpha1/namespaces/default/containers";

/// Declares so many containers (0: until it is killed), stops each, starts every third again, and deletes every fourth.
///
/// # Errors
/// When the agent does not do it, or `mark` fails.
pub fn tell(socket: &Path, count: u64, mark: &dyn Fn(&str) -> Result<()>) -> Result<()> {
    let there = ask(socket, "GET", CONTAINERS, None)?;
    let names = there["items"].as_array().context("no list")?.iter();
    let numbers = names.filter_map(|item| item["metadata"]["name"].as_str()?.strip_prefix('c')?.parse().ok());
    let first = numbers.max().map_or(1, |last: u64| last + 1);
    for n in (first..).take_while(|n| count == 0 || n - first < count) {
        let one = format!("{CONTAINERS}/c{n}");
        // No image is there, so no container runs.
        let object = json!({
            "apiVersion": "stower.dev/v1alpha1", "kind": "Container",
            "metadata": {"name": format!("c{n}"), "namespace": "default"},
            "spec": {"image": "localhost/none:1", "imagePullPolicy": "Never", "restartPolicy": "Never"},
        });
        let made = ask(socket, "POST", CONTAINERS, Some(&object))?;
        let uid = made["metadata"]["uid"].as_str().context("no UID")?.to_owned();
        mark(&format!("+container:c{n}={uid}"))?;
        let hold =
            |action: &str| ask(socket, "POST", &format!("{one}/hold"), Some(&json!({"action": action})));
        hold("stop")?;
        mark(&format!("+hold:c{n}"))?;
        if n % 3 == 0 {
            mark(&format!("-hold:c{n}"))?;
            hold("start")?;
            mark(&format!("+free:c{n}"))?;
        }
        if n % 4 == 0 {
            for what in [format!("-container:c{n}={uid}"), format!("-hold:c{n}"), format!("-free:c{n}")] {
                mark(&what)?;
            }
            ask(socket, "DELETE", &one, None)?;
            mark(&format!("+gone:c{n}={uid}"))?;
        }
    }
    Ok(())
}

/// What is wrong of what an agent had confirmed, a line each: `container:NAME=UID`, `hold:NAME`, `free:NAME`, `gone:NAME=UID`.
///
/// # Errors
/// When the agent does not answer.
pub fn told(socket: &Path, must: &str) -> Result<Vec<String>> {
    let list = ask(socket, "GET", CONTAINERS, None)?;
    let items = list["items"].as_array().context("no list")?;
    let has = |name: &str, uid: Option<&str>| {
        items.iter().find(|item| {
            let meta = &item["metadata"];
            meta["name"] == name && uid.is_none_or(|uid| meta["uid"] == uid)
        })
    };
    let held = |item: &Value| {
        let conditions = item["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|it| it["type"] == "Held" && it["status"] == "True")
    };
    let mut wrong = Vec::new();
    for what in must.split_whitespace() {
        let Some((kind, rest)) = what.split_once(':') else { continue };
        let (name, uid) = rest.split_once('=').map_or((rest, None), |(name, uid)| (name, Some(uid)));
        let found = has(name, uid);
        let holds = match kind {
            "container" => found.is_some(),
            "hold" => found.is_some_and(held),
            "free" => found.is_some_and(|item| !held(item)),
            // What is left of it may be taken down only now.
            "gone" => found.is_none_or(|item| item["metadata"]["deletionTimestamp"].is_string()),
            _ => continue,
        };
        if !holds {
            wrong.push(format!("{what} had been promised, and is not so"));
        }
    }
    println!("{}containers={}", super::replay::FIGURES, items.len());
    Ok(wrong)
}

/// Asks until the agent is not too busy: on a machine that is emulated, and whose disks all are at work, it has no answer for many
/// seconds at times. What it was busy with may have been done all the same.
fn ask(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
    let bytes = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
    let headers: &[_] = if body.is_some() { &[("content-type", "application/json")] } else { &[] };
    let mut again = false;
    let answer = loop {
        let answer = http::unix_with(socket, method, path, headers, &bytes)?;
        match (method, answer.status) {
            (_, 503) => again = true,
            ("POST", 409) if again => {
                let name = body.and_then(|body| body["metadata"]["name"].as_str()).context("no name")?;
                return ask(socket, "GET", &format!("{path}/{name}"), None);
            }
            ("DELETE", 404) if again => return Ok(Value::Null),
            _ => break answer,
        }
        std::thread::sleep(Duration::from_secs(1));
    };
    ensure!((200..300).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.text());
    serde_json::from_slice(&answer.body).with_context(|| format!("{method} {path}: {}", answer.text()))
}
