//! Manifests and small looks that several tests share.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stower_e2e::{Catalog, TestNode, catalog, http, process, teardown};

/// A Container manifest; `body` is more of the spec, two spaces deep.
pub(crate) fn container(name: &str, image: &str, body: &str) -> String {
    format!(
        "apiVersion: stower.dev/v1alpha1\nkind: Container\nmetadata: {{name: {name}}}\nspec:\n  image: {image}\n{body}"
    )
}

/// A container that runs a busybox shell script. It is stopped after a grace of one second, since a shell that is
/// the first process does not end on SIGTERM.
pub(crate) fn shell(name: &str, script: &str, body: &str) -> Result<String> {
    shell_of(&Catalog::get()?.reference(catalog::busybox)?, name, script, body)
}

/// [`shell`] of another image that has one.
pub(crate) fn shell_of(image: &str, name: &str, script: &str, body: &str) -> Result<String> {
    let script = serde_json::to_string(script)?;
    let body = format!("  command: [sh, -c, {script}]\n  terminationGracePeriodSeconds: 1\n{body}");
    Ok(container(name, image, &body))
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
pub(crate) fn object(node: &TestNode, plural: &str, name: &str) -> Result<Option<Value>> {
    let path = format!("/apis/stower.dev/v1alpha1/namespaces/default/{plural}/{name}");
    let answer = http::unix(&node.socket, "GET", &path)?;
    if answer.status != 200 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_str(&answer.text())?))
}

/// Waits until a Volume (`volumes`) or DataContainer (`datacontainers`) is ready, and gives its status.
pub(crate) fn ready(node: &TestNode, plural: &str, name: &str) -> Result<Value> {
    node.wait(&format!("{plural} {name} to be ready"), || {
        let Some(mut object) = object(node, plural, name)? else { return Ok(None) };
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let is_ready =
            conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
        Ok(is_ready.then(|| object["status"].take()))
    })
}

/// A Volume manifest; `spec` is a flow mapping.
pub(crate) fn volume(name: &str, spec: &str) -> String {
    format!("apiVersion: stower.dev/v1alpha1\nkind: Volume\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

/// A DataContainer manifest; `spec` is a flow mapping.
pub(crate) fn data(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: stower.dev/v1alpha1\nkind: DataContainer\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

/// The lines of a container that mounts Volumes of these names at `/NAME`.
pub(crate) fn mounts_of_volumes(names: &[&str]) -> String {
    let volumes: Vec<String> =
        names.iter().map(|name| format!("{{name: {name}, volume: {{name: {name}}}}}")).collect();
    let mounts: Vec<String> =
        names.iter().map(|name| format!("{{name: {name}, mountPath: /{name}}}")).collect();
    format!("  volumes: [{}]\n  volumeMounts: [{}]\n", volumes.join(", "), mounts.join(", "))
}

/// A path in a container, as its process sees it.
pub(crate) fn inside(pid: u32, path: &str) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join("root").join(path.trim_start_matches('/'))
}

/// The mount points of a process, with the kind of filesystem and the mount's own options.
pub(crate) fn mount_table(pid: u32) -> Result<Vec<(String, String, String)>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
    text.lines()
        .map(|line| {
            let (mount, filesystem) = line.split_once(" - ").context("an odd line in mountinfo")?;
            let mount: Vec<&str> = mount.split(' ').collect();
            let kind = filesystem.split(' ').next().unwrap_or_default();
            Ok((mount[4].to_owned(), kind.to_owned(), mount[5].to_owned()))
        })
        .collect()
}

/// Whether a mount of a process is read-only.
pub(crate) fn is_read_only(pid: u32, target: &str) -> Result<bool> {
    let table = mount_table(pid)?;
    let (_, _, options) = table
        .iter()
        .find(|(path, ..)| path == target)
        .with_context(|| format!("{target} is no mount: {table:?}"))?;
    Ok(options.split(',').any(|option| option == "ro"))
}

/// The `mountPath`, `from` and `readOnly` of every mount that a container's status tells.
pub(crate) fn mounts_told(item: &Value) -> Vec<(String, Option<String>, bool)> {
    let mounts = item["status"]["mounts"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    mounts
        .iter()
        .map(|mount| {
            let path = text(&mount["mountPath"]).unwrap_or_default();
            (path, text(&mount["from"]), mount["readOnly"] == true)
        })
        .collect()
}

/// Loop devices whose file is in the node's folder.
pub(crate) fn loops(node: &TestNode) -> Result<Vec<String>> {
    let folder = node.folder().to_string_lossy().into_owned();
    let text = process::run("losetup", ["--list", "--noheadings", "--output", "NAME,BACK-FILE"])?;
    Ok(text.lines().filter(|line| line.contains(&folder)).map(str::to_owned).collect())
}

/// That nothing of the node's storage is mounted on the host but what `expected` ends with, in any order.
pub(crate) fn mounted_on_host(node: &TestNode, expected: &[&str]) -> Result<()> {
    let mounts = teardown::mounts_below(node.folder());
    let right = mounts.len() == expected.len()
        && expected.iter().all(|end| mounts.iter().any(|mount| mount.ends_with(end)));
    ensure!(right, "mounted on the host: {mounts:?}, and expected was {expected:?}");
    Ok(())
}

/// Waits until an object of these is gone.
pub(crate) fn gone(node: &TestNode, plural: &str, name: &str) -> Result<()> {
    node.wait(&format!("{plural} {name} to be gone"), || {
        Ok(object(node, plural, name)?.is_none().then_some(()))
    })
}

/// Waits until the condition `Ready` of an object is false and its message has all of `parts`, and gives the message.
pub(crate) fn not_ready(node: &TestNode, plural: &str, name: &str, parts: &[&str]) -> Result<String> {
    node.wait(&format!("{plural} {name} to tell {parts:?}"), || {
        let Some(object) = object(node, plural, name)? else { return Ok(None) };
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let told = conditions.iter().find(|it| it["type"] == "Ready" && it["status"] == "False");
        let message = told.and_then(|it| it["message"].as_str()).unwrap_or_default();
        ensure!(parts.iter().all(|part| message.contains(part)), "it says {message:?}: {}", object["status"]);
        Ok(Some(message.to_owned()))
    })
}
