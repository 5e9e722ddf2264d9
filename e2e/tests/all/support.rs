//! Manifests and small looks that several tests share.

use std::path::PathBuf;

use anyhow::Result;
use stower_e2e::{Catalog, TestNode, catalog, http};

/// A Container manifest; `body` is more of the spec, two spaces deep.
pub(crate) fn container(name: &str, image: &str, body: &str) -> String {
    format!(
        "apiVersion: stower.dev/v1alpha1\nkind: Container\nmetadata: {{name: {name}}}\nspec:\n  image: {image}\n{body}"
    )
}

/// A container that runs a busybox shell script. It is stopped after a grace of one second, since a shell that is
/// the first process does not end on SIGTERM.
pub(crate) fn shell(name: &str, script: &str, body: &str) -> Result<String> {
    let image = Catalog::get()?.reference(catalog::busybox)?;
    let script = serde_json::to_string(script)?;
    let body = format!("  command: [sh, -c, {script}]\n  terminationGracePeriodSeconds: 1\n{body}");
    Ok(container(name, &image, &body))
}

/// A container that does nothing for ever.
pub(crate) fn idle(name: &str, body: &str) -> Result<String> {
    let image = Catalog::get()?.reference(catalog::payload)?;
    Ok(container(name, &image, &format!("  args: [stay]\n  terminationGracePeriodSeconds: 1\n{body}")))
}

/// Runs a shell script once to its end on a fresh agent, and gives what it wrote.
pub(crate) fn output_of(node: &TestNode, name: &str, script: &str, body: &str) -> Result<String> {
    node.write(&format!("{name}.yaml"), &shell(name, script, &format!("  restartPolicy: Never\n{body}"))?)?;
    node.wait_container(name, "at its end", |item| item["status"]["state"]["terminated"].is_object())?;
    node.ok(["logs", name])
}

/// A DataContainer manifest with one volume of its own; `body` is more of the spec, two spaces deep.
pub(crate) fn data_container(name: &str, path: &str, body: &str) -> String {
    format!(
        "apiVersion: stower.dev/v1alpha1\nkind: DataContainer\nmetadata: {{name: {name}}}\nspec:\n  volumes: [{{mountPath: \
         {path}}}]\n{body}"
    )
}

/// An object as the local API has it: its kind's plural and its name.
pub(crate) fn object(node: &TestNode, plural: &str, name: &str) -> Result<Option<serde_json::Value>> {
    let path = format!("/apis/stower.dev/v1alpha1/namespaces/default/{plural}/{name}");
    let answer = http::unix(&node.socket, "GET", &path)?;
    if answer.status != 200 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_str(&answer.text())?))
}

/// Waits until a Volume (`volumes`) or DataContainer (`datacontainers`) is ready, and gives its status.
pub(crate) fn ready(node: &TestNode, plural: &str, name: &str) -> Result<serde_json::Value> {
    node.wait(&format!("{plural} {name} to be ready"), || {
        let Some(mut object) = object(node, plural, name)? else { return Ok(None) };
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let is_ready =
            conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
        Ok(is_ready.then(|| object["status"].take()))
    })
}

/// A path in a container, as the host sees it through one of its processes.
pub(crate) fn inside(pid: u32, path: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/root{path}"))
}
