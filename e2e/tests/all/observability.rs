//! What the agent tells about itself.

use anyhow::{Result, ensure};
use rustix::process::Signal;
use stower_e2e::{TestNode, http, process};

use crate::support::idle;

#[test]
fn the_socket_answers_probes_and_metrics() -> Result<()> {
    let node = TestNode::start()?;
    for path in ["/ping", "/healthz", "/readyz", "/metrics"] {
        let answer = http::unix(&node.socket, "GET", path)?;
        ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.text());
    }
    ensure!(http::unix(&node.socket, "GET", "/nothing")?.status == 404);
    node.write("a.yaml", &idle("a", "")?)?;
    node.wait_running("a")?;
    let text = http::unix(&node.socket, "GET", "/metrics")?.text();
    for name in ["stower_effects_total", "stower_reconcile_total", "stower_containers", "stower_source_files"]
    {
        ensure!(
            text.lines().any(|line| line.starts_with(&format!("# HELP {name} "))),
            "no {name} in:\n{text}"
        );
    }
    ensure!(!text.contains("\"a\""), "the name of an object is a label");
    Ok(())
}

#[test]
fn the_api_is_kubernetes_like() -> Result<()> {
    let node = TestNode::start()?;
    node.write("a.yaml", &idle("a", "")?)?;
    node.wait_running("a")?;
    let at = "/apis/stower.dev/v1alpha1/namespaces/default/containers";
    let list: serde_json::Value = serde_json::from_slice(&http::unix(&node.socket, "GET", at)?.body)?;
    ensure!(list["kind"] == "ContainerList" && list["items"][0]["metadata"]["name"] == "a", "{list}");
    let missing = http::unix(&node.socket, "GET", &format!("{at}/ghost"))?;
    let status: serde_json::Value = serde_json::from_slice(&missing.body)?;
    ensure!(
        missing.status == 404 && status["kind"] == "Status" && status["reason"] == "NotFound",
        "{status}"
    );
    Ok(())
}

#[test]
fn sigusr1_dumps_what_is_going_on() -> Result<()> {
    let node = TestNode::start()?;
    node.write("a.yaml", &idle("a", "")?)?;
    let pid = node.wait_running("a")?;
    process::signal(node.agent_pid()?, Signal::USR1)?;
    node.wait("the dump, in the log or in a file that the log names", || {
        let mut text = node.log_tail();
        for folder in [&node.run, &node.data] {
            for entry in std::fs::read_dir(folder)?.flatten() {
                if entry.file_name().to_string_lossy().contains("dump") {
                    text.push_str(&std::fs::read_to_string(entry.path())?);
                }
            }
        }
        Ok((text.contains("default/a") && text.contains(&pid.to_string())).then_some(()))
    })?;
    node.ok(["get", "containers"])?;
    Ok(())
}
