//! Manifests and small looks that several tests share.

use anyhow::Result;
use stower_e2e::{Catalog, TestNode, catalog, wait_for};

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

/// The status of a DataContainer.
pub(crate) fn data_status(node: &TestNode, name: &str) -> Result<serde_json::Value> {
    let object: serde_json::Value =
        serde_json::from_str(&node.ok(["get", "datacontainer", name, "-o", "json"])?)?;
    Ok(object["status"].clone())
}

/// Waits until an object such as `volume/db` is ready.
pub(crate) fn ready(node: &TestNode, what: &str) -> Result<()> {
    wait_for(format!("{what} to be ready"), || {
        let output = node.cli(["get", what, "-o", "json"])?;
        let object: serde_json::Value = serde_json::from_str(&output.stdout).unwrap_or_default();
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let is_ready =
            conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
        Ok(is_ready.then_some(()))
    })
}
