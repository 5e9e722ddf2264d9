//! The chart of the kinds from release to release, and an agent of one of them through all of it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stower_e2e::Cluster;
use stower_e2e::cluster::helm::{Helm, chart};
use stower_e2e::node::{condition, uid_of};

use crate::support::{Agent, container, undisturbed, wait_object, wait_running};

/// A field of the status that the agent writes, and one of the spec with a default, which a release before this one did not have.
const NEW_IN_THIS: [(&str, &str); 2] = [("status", "phase"), ("spec", "terminationMessagePolicy")];

/// The chart of another release: a copy with another version, whose Container was changed.
fn other(folder: &Path, version: &str, change: impl Fn(String) -> Result<String>) -> Result<PathBuf> {
    let (from, to) = (chart("stower-crds"), folder.join(version));
    fs::create_dir_all(to.join("templates"))?;
    for name in ["values.yaml", "values.schema.json"] {
        fs::copy(from.join(name), to.join(name))?;
    }
    for entry in fs::read_dir(from.join("templates"))? {
        let entry = entry?;
        fs::copy(entry.path(), to.join("templates").join(entry.file_name()))?;
    }
    let own = format!("version: {}", env!("CARGO_PKG_VERSION"));
    let about = fs::read_to_string(from.join("Chart.yaml"))?;
    ensure!(about.contains(&own), "the chart is of another version than this test");
    fs::write(to.join("Chart.yaml"), about.replace(&own, &format!("version: {version}")))?;
    let kind = to.join("templates/containers.stower.dev.yaml");
    fs::write(&kind, change(fs::read_to_string(&kind)?)?)?;
    Ok(to)
}

/// Where the properties of the spec or the status begin.
fn properties(text: &str, part: &str) -> Result<usize> {
    let begin = text.find(&format!("\n          {part}:\n")).with_context(|| format!("no {part}"))?;
    let line = "\n            properties:\n";
    let at = text[begin..].find(line).with_context(|| format!("{part} has no properties"))?;
    Ok(begin + at + line.len())
}

fn without(text: &str, part: &str, field: &str) -> Result<String> {
    let from = properties(text, part)?;
    let name = format!("              {field}:\n");
    let start = from + text[from..].find(&name).with_context(|| format!("no {part}.{field}"))?;
    let rest = &text[start + name.len()..];
    let below = rest
        .split_inclusive('\n')
        .take_while(|line| line.starts_with("               ") || line.trim().is_empty());
    let length: usize = below.map(str::len).sum();
    Ok(format!("{}{}", &text[..start], &rest[length..]))
}

fn with(text: &str, part: &str, field: &str) -> Result<String> {
    let at = properties(text, part)?;
    let new = format!("              {field}:\n                maxLength: 9\n                type: string\n");
    Ok(format!("{}{new}{}", &text[..at], &text[at..]))
}

/// A command of Helm about the release `stower-crds`.
fn helm(helm: &Helm, words: &[&str], chart: Option<&Path>) -> Result<String> {
    let words = words.iter().map(AsRef::as_ref).chain(chart.map(Path::as_os_str));
    helm.ok(words.chain(["--wait".as_ref()]))
}

fn declared(cluster: &Cluster, part: &str, field: &str) -> Result<bool> {
    let definition =
        cluster.object("crd", "default", "containers.stower.dev")?.context("the kind is gone")?;
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    Ok(!schema["properties"][part]["properties"][field].is_null())
}

fn accepted(object: &Value, status: &str) -> bool {
    condition(object, "Accepted").is_some_and(|(is, _)| is == status)
}

#[test]
fn an_agent_works_with_the_kinds_of_the_release_before_and_after_its_own() -> Result<()> {
    let cluster = Cluster::start()?;
    cluster.namespace("default", "privileged")?;
    let helm_of = Helm::of(&cluster)?;
    let before = other(cluster.folder(), "0.0.9", |mut text| {
        for (part, field) in NEW_IN_THIS {
            text = without(&text, part, field)?;
        }
        Ok(text)
    })?;
    let after =
        other(cluster.folder(), "0.9.0", |text| with(&with(&text, "spec", "newer")?, "status", "newer"))?;
    helm(&helm_of, &["install", "stower-crds"], Some(&before))?;
    for (part, field) in NEW_IN_THIS {
        ensure!(!declared(&cluster, part, field)?, "the former release has {part}.{field}");
    }

    // Kinds of the release before: all is told but what they have no field for.
    let agent = Agent::start(&cluster, "node-a")?;
    cluster.apply(&container("web", "node-a", &["stay"], &json!({})), &[])?;
    let pid = wait_running(&cluster, "web")?;
    let object = wait_object(&cluster, "sctr", "web", "ready", |object| {
        condition(object, "Ready").is_some_and(|(is, _)| is == "True")
    })?;
    let uid = uid_of(&object)?;
    ensure!(object["status"]["phase"].is_null(), "{object:#}");
    ensure!(agent.node.container("web")?.is_some_and(|item| item["status"]["phase"].is_string()));

    // Its own: the next start tells the rest.
    helm(&helm_of, &["upgrade", "stower-crds"], Some(&chart("stower-crds")))?;
    agent.node.restart_agent()?;
    wait_object(&cluster, "sctr", "web", "told whole", |object| object["status"]["phase"].is_string())?;
    undisturbed(&agent, "web", pid)?;

    // Of the release after: what nobody uses of it is no matter; what is used and unknown is refused by name, and what was accepted goes on.
    helm(&helm_of, &["upgrade", "stower-crds"], Some(&after))?;
    ensure!(declared(&cluster, "spec", "newer")?, "the next release has no spec.newer");
    cluster.apply(&container("plain", "node-a", &["stay"], &json!({})), &[])?;
    wait_running(&cluster, "plain")?;
    cluster.apply(&container("modern", "node-a", &["stay"], &json!({"newer": "a"})), &[])?;
    cluster.ok(["patch", "sctr", "web", "--type=merge", "-p", r#"{"spec": {"newer": "a"}}"#])?;
    for name in ["modern", "web"] {
        let object = wait_object(&cluster, "sctr", name, "refused", |object| accepted(object, "False"))?;
        let told = object["status"]["conditions"].to_string();
        ensure!(told.contains("spec.newer"), "{told}");
    }
    ensure!(agent.node.container("modern")?.is_none_or(|item| item["status"]["state"]["running"].is_null()));
    undisturbed(&agent, "web", pid)?;
    agent.node.restart_agent()?;
    undisturbed(&agent, "web", pid)?;
    cluster.ok([
        "patch",
        "sctr",
        "web",
        "--type=json",
        "-p",
        r#"[{"op": "remove", "path": "/spec/newer"}]"#,
    ])?;
    cluster.ok(["delete", "sctr", "modern", "--timeout=60s"])?;
    wait_object(&cluster, "sctr", "web", "accepted", |object| accepted(object, "True"))?;

    // Back, away, and again: nobody's object goes.
    helm(&helm_of, &["rollback", "stower-crds", "2"], None)?;
    ensure!(!declared(&cluster, "spec", "newer")?, "the rollback left spec.newer");
    let said = helm(&helm_of, &["uninstall", "stower-crds"], None)?;
    ensure!(said.contains("kept"), "{said}");
    let same = |after: &str| -> Result<()> {
        let object =
            cluster.object("sctr", "default", "web")?.with_context(|| format!("gone after {after}"))?;
        ensure!(uid_of(&object)? == uid, "another object after {after}: {object:#}");
        undisturbed(&agent, "web", pid).with_context(|| format!("after {after}"))
    };
    same("helm uninstall")?;
    helm(&helm_of, &["install", "stower-crds"], Some(&chart("stower-crds")))?;
    same("another install")?;
    helm(&helm_of, &["uninstall", "stower-crds"], None)?;
    // By another name it is not its own, until it is told to take it.
    let kinds = chart("stower-crds");
    let words = ["install".as_ref(), "kinds".as_ref(), kinds.as_os_str()];
    let said = helm_of.refused(words)?;
    ensure!(said.contains("stower-crds"), "{said}");
    helm_of.ok(words.into_iter().chain(["--take-ownership".as_ref(), "--wait".as_ref()]))?;
    same("an install by another name")?;
    cluster
        .apply(&container("web", "node-a", &["stay"], &json!({"env": [{"name": "A", "value": "b"}]})), &[])?;
    wait_object(&cluster, "sctr", "web", "changed", |object| {
        accepted(object, "True") && object["status"]["observedGeneration"] == object["metadata"]["generation"]
    })?;
    Ok(())
}
