//! Storage drivers: which one is used, and what the agent tells of it.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::Value;
use stower_e2e::{TestNode, http, process};

use crate::support::{idle, inside, mounted_on_host, shell};

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

/// A node whose data root is a btrfs of its own, with quotas. It goes with the node's folder.
fn btrfs_node() -> Result<TestNode> {
    let node = TestNode::builder().args(&["--storage-driver", "btrfs"]).build()?;
    let file = node.folder().join("disk");
    fs::File::create(&file)?.set_len(1 << 30)?;
    process::run("mkfs.btrfs", ["-q", "-R", "quota", &file.to_string_lossy()])?;
    fs::create_dir(&node.data)?;
    process::run("mount", ["-o", "loop", &file.to_string_lossy(), &node.data.to_string_lossy()])?;
    node.start_agent()?;
    Ok(node)
}

/// How many subvolumes there are.
fn subvolumes(node: &TestNode) -> Result<usize> {
    Ok(process::run("btrfs", ["subvolume", "list", &node.data.to_string_lossy()])?.lines().count())
}

#[test]
fn a_container_lives_in_a_subvolume() -> Result<()> {
    let node = btrfs_node()?;
    let said = info(&node)?;
    ensure!(said["driver"] == "btrfs" && said["backingFilesystem"] == "btrfs", "{said}");
    ensure!(said["limits"] == true, "{said}");
    let empty = subvolumes(&node)?;
    node.write("a.yaml", &shell("a", "echo kept > /kept; rm /bin/vi; exec sleep 1000000", "")?)?;
    let pid = node.wait_running("a")?;
    node.wait("what it wrote", || Ok(fs::read_to_string(inside(pid, "/kept")).ok()))?;
    ensure!(subvolumes(&node)? > empty + 1, "no subvolumes");
    node.wait("its changes", || {
        let changes = node.ok(["diff", "a"])?;
        Ok((changes.contains("A /kept") && changes.contains("vi")).then_some(()))
    })?;
    // The only mount that the host sees is the data root itself.
    mounted_on_host(&node, &["data"])?;
    // What an agent that dies leaves is taken up by the next.
    node.restart_agent()?;
    ensure!(node.wait_running("a")? == pid);
    node.ok(["commit", "a", "example.org/changed:1"])?;
    let image = "  image: example.org/changed:1\n  imagePullPolicy: Never\n";
    let manifest = shell("b", "cat /kept; test -e /bin/vi || echo gone; exec sleep 1000000", "")?;
    let other = manifest.lines().filter(|line| !line.starts_with("  image:")).collect::<Vec<_>>().join("\n");
    node.write("b.yaml", &format!("{other}\n{image}"))?;
    node.wait_running("b")?;
    node.wait("what the image has of the other", || {
        Ok((node.ok(["logs", "b"])? == "kept\ngone\n").then_some(()))
    })?;
    // And all of it goes.
    for name in ["a", "b"] {
        node.remove(&format!("{name}.yaml"))?;
        node.wait_gone(name)?;
    }
    let images: Value = serde_json::from_str(&node.ok(["images", "-o", "json"])?)?;
    for image in images["items"].as_array().into_iter().flatten() {
        node.ok(["rmi", image["digest"].as_str().unwrap_or_default()])?;
    }
    node.wait("its subvolumes to be gone", || Ok((subvolumes(&node)? == empty).then_some(())))
}

/// By the quota of its subvolume; grown in place, in the same process.
#[test]
fn a_container_on_btrfs_keeps_within_its_limit() -> Result<()> {
    let node = btrfs_node()?;
    let limited =
        |size: &str| idle("a", &format!("  resources: {{limits: {{ephemeral-storage: {size}}}}}\n"));
    let fill = |pid: u32, name: &str| -> Result<(u64, std::io::Error)> {
        let mut file = fs::File::create(inside(pid, name))?;
        for written in 0..128 {
            let piece = std::io::Write::write_all(&mut file, &[0x5a; 1 << 20]);
            if let Err(error) = piece.and_then(|()| file.sync_data()) {
                return Ok((written, error));
            }
        }
        anyhow::bail!("128 MiB went in")
    };
    node.write("a.yaml", &limited("16Mi")?)?;
    let pid = node.wait_running("a")?;
    let (written, why) = fill(pid, "/one")?;
    ensure!((8..16).contains(&written), "{written} MiB within 16");
    ensure!(why.kind() == std::io::ErrorKind::QuotaExceeded, "{why:?}");
    node.write("a.yaml", &limited("32Mi")?)?;
    let (more, _) = node.wait("more room", || {
        let (more, why) = fill(pid, "/two")?;
        Ok((more >= 8).then_some((more, why)))
    })?;
    ensure!(written + more < 32, "{written} and {more} MiB within 32");
    ensure!(node.wait_running("a")? == pid);
    Ok(())
}
