//! What a container says when it ends, and what is done after its start and before its stop.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stower_e2e::node::restarts_of;
use stower_e2e::{Catalog, TestNode, catalog};

use crate::support::{container, shell};

/// The end that a status tells: of the run that is over, or of the one before.
fn end_of(item: &Value) -> &Value {
    let state = &item["status"]["state"]["terminated"];
    if state.is_object() { state } else { &item["status"]["lastState"]["terminated"] }
}

fn message_of(item: &Value) -> &str {
    end_of(item)["message"].as_str().unwrap_or_default()
}

/// Runs scripts once to their ends, each with more of its spec, and gives the objects in the same order.
fn ends(node: &TestNode, cases: &[(&str, &str, &str)]) -> Result<Vec<Value>> {
    for (name, script, body) in cases {
        let body = format!("  restartPolicy: Never\n{body}");
        node.write(&format!("{name}.yaml"), &shell(name, script, &body)?)?;
    }
    cases
        .iter()
        .map(|(name, ..)| {
            node.wait_container(name, "at its end", |item| item["status"]["state"]["terminated"].is_object())
        })
        .collect()
}

#[test]
fn the_last_message_is_told_as_in_a_pod() -> Result<()> {
    let node = TestNode::start()?;
    let elsewhere = "  terminationMessagePath: /a/new/place/last-words\n";
    let items = ends(
        &node,
        &[
            ("plain", "echo 'no such table' > /dev/termination-log; exit 3", ""),
            ("good", "echo done > /dev/termination-log", ""),
            ("elsewhere", "echo here > /a/new/place/last-words; exit 1", elsewhere),
            (
                "nobody",
                "id -u > /dev/termination-log; exit 1",
                "  securityContext: {runAsUser: 1234, readOnlyRootFilesystem: true}\n",
            ),
            (
                "long",
                "head -c 9000 /dev/zero | tr '\\0' x > /dev/termination-log; echo end >> /dev/termination-log",
                "",
            ),
            ("silent", "echo to the log; exit 1", ""),
        ],
    )?;
    let said: Vec<&str> = items.iter().map(message_of).collect();
    ensure!(said[..4] == ["no such table\n", "done\n", "here\n", "1234\n"], "{said:?}");
    ensure!(said[4].len() == 4096 && said[4].ends_with("xend\n"), "{} bytes", said[4].len());
    ensure!(said[5].is_empty(), "the log was told: {:?}", said[5]);
    let described = node.ok(["describe", "container", "plain"])?;
    ensure!(described.contains("no such table"), "{described}");
    // The next agent has it too.
    node.restart_agent()?;
    let item = node.wait_container("plain", "Failed", |item| item["status"]["phase"] == "Failed")?;
    ensure!(message_of(&item) == "no such table\n", "{}", item["status"]);
    Ok(())
}

#[test]
fn the_log_is_the_last_message_when_nothing_else_is() -> Result<()> {
    let node = TestNode::start()?;
    let falls = "  terminationMessagePolicy: FallbackToLogsOnError\n";
    let items = ends(
        &node,
        &[
            ("log", "echo first; echo last >&2; exit 1", falls),
            ("file", "echo log; echo file > /dev/termination-log; exit 1", falls),
            ("good", "echo fine", falls),
            ("lines", "i=0; while [ $i -lt 200 ]; do echo $i; i=$((i+1)); done; exit 1", falls),
            ("bytes", "head -c 100000 /dev/zero | tr '\\0' y; echo end; exit 1", falls),
        ],
    )?;
    let said: Vec<&str> = items.iter().map(message_of).collect();
    ensure!(said[..3] == ["first\nlast\n", "file\n", ""], "{said:?}");
    let lines: Vec<&str> = said[3].lines().collect();
    ensure!(lines.len() == 80 && lines.first() == Some(&"120") && lines.last() == Some(&"199"), "{lines:?}");
    ensure!(said[4].len() == 2048 && said[4].ends_with("yend\n"), "{} bytes", said[4].len());
    Ok(())
}

/// What one run has said is not the next one's, and what a program does to its file harms nobody.
#[test]
fn each_run_has_a_message_of_its_own_and_a_hostile_one_is_harmless() -> Result<()> {
    let node = TestNode::start()?;
    let script = "if [ -e /ran ]; then exit 4; fi; touch /ran; echo once > /dev/termination-log; exit 3";
    let body = "  restart: {backoff: {initial: 10ms, max: 1h, factor: 100, jitter: 0}}\n";
    node.write("twice.yaml", &shell("twice", script, body)?)?;
    let item = node.wait_container("twice", "at the end of its second run", |item| {
        end_of(item)["exitCode"] == 4 && restarts_of(item) >= 1
    })?;
    ensure!(message_of(&item).is_empty(), "{}", item["status"]);

    let hostile = "cd /dev; rm -f termination-log; mv termination-log other; ln -sf /etc/passwd termination-log; \
                   mkdir termination-log/x; dd if=/dev/zero of=termination-log bs=1 count=1 seek=1099511627775; \
                   printf '\\377\\033[2Jend' >> termination-log; exit 1";
    let items = ends(&node, &[("hostile", hostile, "")])?;
    let said = message_of(&items[0]);
    ensure!(
        said.len() <= 4096 && said.ends_with("end"),
        "{} bytes: {:?}",
        said.len(),
        &said[said.len().saturating_sub(20)..]
    );
    let shown = node.ok(["describe", "container", "hostile"])?;
    ensure!(!shown.contains('\u{1b}'), "control characters reach the terminal");
    // Gone with its container.
    let uid = items[0]["metadata"]["uid"].as_str().context("no uid")?.to_owned();
    node.remove("hostile.yaml")?;
    node.wait_gone("hostile")?;
    ensure!(!node.data.join("containers").join(uid).exists(), "the file was left");
    Ok(())
}

#[test]
fn a_message_file_where_a_volume_is_mounted_is_refused() -> Result<()> {
    let node = TestNode::start()?;
    let image = Catalog::get()?.reference(catalog::payload)?;
    let body = "  args: [stay]\n  terminationMessagePath: /v\n  volumes: [{name: v, emptyDir: {}}]\n  volumeMounts: [{name: v, mountPath: /v}]\n";
    node.write("both.yaml", &container("both", &image, body))?;
    let message = node.wait_waiting("both", &["CreateContainerConfigError"])?;
    ensure!(message.contains("spec.terminationMessagePath") && message.contains("/v"), "{message}");
    Ok(())
}
