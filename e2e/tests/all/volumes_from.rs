//! The case that this program exists for: a container takes volumes from two data containers, of which one is missing.
//! It never runs with some of them.

use anyhow::{Result, ensure};
use stower_e2e::{TestNode, wait_for};

use crate::support::{data_container, object, ready, shell};

const FROM_BOTH: &str = "  volumesFrom: [{name: data-foo}, {name: data-bar}]\n";
/// Counts its starts in both volumes, and stays.
const COUNT: &str = "echo run >> /foo/runs; echo run >> /bar/runs; ls -d /foo /bar; sleep 1000";

fn consumer() -> Result<String> {
    shell("consumer", COUNT, FROM_BOTH)
}

/// That it waits with `data-bar` named, and that nothing at all was made for it.
fn refused(node: &TestNode) -> Result<()> {
    // After its start the agent looks at what is there first, and may say so.
    node.wait_container("consumer", "waiting for data-bar alone", |item| {
        let waiting = &item["status"]["state"]["waiting"];
        let message = waiting["message"].as_str().unwrap_or_default();
        waiting["reason"] == "DependencyMissing"
            && message.contains("DataContainer default/data-bar is not there")
            && !message.contains("data-foo")
    })?;
    let plan = node.ok(["plan"])?;
    ensure!(plan.contains("Container default/consumer: it waits: DataContainer default/data-bar"), "{plan}");
    let uid = node.container("consumer")?.expect("it is listed")["metadata"]["uid"].clone();
    let uid = uid.as_str().expect("a UID");
    for place in ["data/containers", "data/logs", "data/volumes/c", "run/c"] {
        let path = node.folder().join(place).join(uid);
        ensure!(!path.exists(), "{} was made", path.display());
    }
    ensure!(node.footprint().mounts.is_empty(), "something is mounted: {:?}", node.footprint());
    Ok(())
}

/// That it runs with both, and that each has counted `runs` starts.
fn runs_with_both(node: &TestNode, runs: usize) -> Result<()> {
    node.wait_running("consumer")?;
    for path in ["/foo", "/bar"] {
        let name = if path == "/foo" { "data-foo" } else { "data-bar" };
        let data = ready(node, "datacontainers", name)?["volumes"][0]["path"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        wait_for("the runs to be counted", || {
            let lines = std::fs::read_to_string(format!("{data}/runs")).unwrap_or_default();
            Ok((lines.lines().count() == runs).then_some(()))
        })?;
    }
    let item = node.container("consumer")?.expect("it is listed");
    let mounts = item["status"]["mounts"].as_array().cloned().unwrap_or_default();
    let paths: Vec<&str> = mounts.iter().filter_map(|mount| mount["mountPath"].as_str()).collect();
    ensure!(paths == ["/bar", "/foo"], "{paths:?}");
    ensure!(mounts[0]["from"] == "DataContainer default/data-bar", "{mounts:?}");
    Ok(())
}

#[test]
fn a_missing_source_keeps_a_container_from_running_with_the_other_alone() -> Result<()> {
    let node = TestNode::start()?;
    node.write("foo.yaml", &data_container("data-foo", "/foo", ""))?;
    ready(&node, "datacontainers", "data-foo")?;
    node.write("consumer.yaml", &consumer()?)?;
    refused(&node)?;

    // The second start is what once went wrong.
    for again in [["start", "consumer"], ["restart", "consumer"]] {
        node.ok(again)?;
        refused(&node)?;
    }
    node.restart_agent()?;
    refused(&node)?;

    node.write("bar.yaml", &data_container("data-bar", "/bar", ""))?;
    runs_with_both(&node, 1)?;

    // A source that is gone and back is taken again at the next start, with what was in it.
    node.remove("foo.yaml")?;
    let pid = node.wait_running("consumer")?;
    node.write("foo.yaml", &data_container("data-foo", "/foo", ""))?;
    ensure!(node.wait_running("consumer")? == pid, "a running container was disturbed");
    node.ok(["restart", "consumer"])?;
    node.wait_restarted("consumer", pid)?;
    runs_with_both(&node, 2)
}

#[test]
fn the_same_by_the_command_line() -> Result<()> {
    let node = TestNode::start()?;
    let apply = |name: &str, text: &str| -> Result<()> {
        let path = node.folder().join(name);
        std::fs::write(&path, text)?;
        node.ok(["apply", "-f", &path.to_string_lossy()])?;
        Ok(())
    };
    apply("foo.yaml", &data_container("data-foo", "/foo", ""))?;
    ready(&node, "datacontainers", "data-foo")?;
    apply("consumer.yaml", &consumer()?)?;
    refused(&node)?;
    node.ok(["start", "consumer"])?;
    refused(&node)?;
    apply("bar.yaml", &data_container("data-bar", "/bar", ""))?;
    runs_with_both(&node, 1)?;
    let pid = node.wait_running("consumer")?;

    // In use, it stays until its last user is gone.
    node.ok(["delete", "datacontainer", "data-foo", "--wait=false"])?;
    let found = object(&node, "datacontainers", "data-foo")?.unwrap_or_default();
    ensure!(found["status"]["users"][0] == "Container default/consumer", "{found}");
    ensure!(node.wait_running("consumer")? == pid, "a running container was disturbed");
    node.ok(["stop", "consumer"])?;
    wait_for("data-foo to be gone", || {
        Ok(object(&node, "datacontainers", "data-foo")?.is_none().then_some(()))
    })?;
    node.ok(["start", "consumer"])?;
    let message = node.wait_waiting("consumer", &["DependencyMissing"])?;
    ensure!(message.contains("DataContainer default/data-foo is not there"), "{message}");
    apply("foo.yaml", &data_container("data-foo", "/foo", ""))?;
    runs_with_both(&node, 2)
}
