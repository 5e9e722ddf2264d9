//! Storage drivers: which one is used, and what the agent tells of it.

use anyhow::{Result, ensure};
use serde_json::Value;
use stower_e2e::{TestNode, http};

use crate::support::idle;

/// `stower storage info -o json`.
fn info(node: &TestNode) -> Result<Value> {
    Ok(serde_json::from_str(&node.ok(["storage", "info", "-o", "json"])?)?)
}

/// Why a driver is not the one.
fn why_not<'a>(info: &'a Value, driver: &str) -> &'a str {
    let others = info["passedOver"].as_array().into_iter().flatten();
    let other = others.into_iter().find(|other| other["driver"] == driver);
    other.and_then(|other| other["reason"].as_str()).unwrap_or("it is not told")
}

#[test]
fn storage_info_tells_the_driver_and_why_no_other() -> Result<()> {
    let node = TestNode::builder().args(&["--storage-driver", "native"]).start()?;
    node.write("a.yaml", &idle("a", "")?)?;
    node.wait_running("a")?;
    let said = info(&node)?;
    ensure!(
        said["kind"] == "StorageInfo" && said["driver"] == "native" && said["chosen"] == "Named",
        "{said}"
    );
    ensure!(said["dataRoot"] == node.data.to_str().unwrap_or_default() && said["limits"] == false, "{said}");
    ensure!(said["backingFilesystem"].as_str().is_some_and(|name| !name.is_empty()), "{said}");
    ensure!(why_not(&said, "overlay") == "native was asked for", "{said}");
    let text = node.ok(["storage", "info"])?;
    ensure!(text.contains("native (asked for by name)") && text.contains("Passed Over:\n  "), "{text}");
    ensure!(node.ok(["storage", "info", "-o", "yaml"])?.contains("driver: native"));
    let metrics = http::unix(&node.socket, "GET", "/metrics")?.text();
    ensure!(metrics.contains("stower_storage_pressure{reason=\"DataLow\"} 0"), "{metrics}");
    ensure!(!metrics.contains("stower_storage_pool_data_size_bytes{"), "a pool that is not there: {metrics}");
    Ok(())
}
