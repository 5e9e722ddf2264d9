//! What a container may write to its root filesystem: `resources.limits.ephemeral-storage`. What all together may use:
//! `containers.limits`.

use std::fs;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stower_e2e::{TestNode, node::condition};

use crate::support::{container, idle, inside, loops, mounted_on_host, shell};

const MIB: u64 = 1 << 20;

fn limit(size: &str) -> String {
    format!("  resources: {{limits: {{ephemeral-storage: {size}}}}}\n")
}

/// Writes to a file in a container until there is no room, and says how many MiB went in; all beyond `most` is not tried.
fn fill(pid: u32, path: &str, most: u64) -> Result<u64> {
    let file = fs::File::create(inside(pid, path))?;
    let piece = vec![0x5a; 1 << 20];
    for at in 0..most {
        match file.write_all_at(&piece, at * MIB).and_then(|()| file.sync_data()) {
            Ok(()) => {}
            Err(error) => {
                ensure!(error.kind() == std::io::ErrorKind::StorageFull, "{error:?} after {at} MiB");
                return Ok(at);
            }
        }
    }
    Ok(most)
}

/// The limit that the status tells, as text.
fn told(item: &Value) -> Option<&str> {
    item["status"]["resources"]["limits"]["ephemeral-storage"].as_str()
}

/// Whether the kernel lets the agent enlarge an ext4 that is mounted (fs/ext4/resize.c, `ext4_resize_begin`).
fn can_grow_mounted() -> Result<bool> {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).context("no capabilities")?;
    Ok(u64::from_str_radix(line.trim(), 16)? >> CAP_SYS_RESOURCE & 1 == 1)
}

/// A writer past the limit gets ENOSPC, and nobody else does; a program in the container does too.
#[test]
fn a_container_that_writes_past_its_limit_finds_no_room() -> Result<()> {
    let node = TestNode::builder().args(&["--storage-driver", "overlay"]).start()?;
    let script = "dd if=/dev/zero of=/big bs=1M count=64 2>&1; rm /big; echo again > /small; cat /small";
    node.write("dd.yaml", &shell("dd", script, &format!("  restartPolicy: Never\n{}", limit("32Mi")))?)?;
    node.write("a.yaml", &idle("a", &limit("32Mi"))?)?;
    node.write("b.yaml", &idle("b", &limit("32Mi"))?)?;
    node.write("free.yaml", &idle("free", "")?)?;
    let (a, b, free) = (node.wait_running("a")?, node.wait_running("b")?, node.wait_running("free")?);
    let written = fill(a, "/big", 64)?;
    ensure!((20..32).contains(&written), "{written} MiB within 32");
    ensure!(fill(b, "/fits", 16)? == 16 && fill(free, "/fits", 40)? == 40);
    // The host sees nothing of it, and one device for each.
    mounted_on_host(&node, &[])?;
    node.wait_container("dd", "at its end", |item| item["status"]["state"]["terminated"].is_object())?;
    let said = node.ok(["logs", "dd"])?;
    ensure!(said.contains("No space left on device") && said.ends_with("again\n"), "{said}");
    node.wait("a device for each that runs", || Ok((loops(&node)?.len() == 2).then_some(())))?;
    // What is removed leaves room, and what was written stays over a restart.
    fs::remove_file(inside(a, "/big"))?;
    fs::write(inside(a, "/kept"), "kept")?;
    ensure!(fill(a, "/again", 10)? == 10);
    node.ok(["restart", "a"])?;
    let again = node.wait_restarted("a", a)?;
    ensure!(fs::read_to_string(inside(again, "/kept"))? == "kept");
    ensure!(fill(again, "/more", 64)? < 22, "the limit holds after a restart");
    // `diff`, `export` and `commit` see what was written, and a layer of it is one like any other.
    ensure!(node.ok(["diff", "a"])?.lines().any(|line| line == "A /kept"));
    fs::remove_file(inside(again, "/more"))?;
    fs::remove_file(inside(again, "/again"))?;
    let image = node.ok(["commit", "a", "example.org/kept:1"])?;
    ensure!(!image.is_empty());
    node.write(
        "c.yaml",
        &container(
            "c",
            "example.org/kept:1",
            &format!(
                "  args: [stay]\n  terminationGracePeriodSeconds: 1\n  imagePullPolicy: Never\n{}",
                limit("16Mi")
            ),
        ),
    )?;
    let committed = node.wait_running("c")?;
    ensure!(fs::read_to_string(inside(committed, "/kept"))? == "kept");
    for name in ["a", "b", "c", "dd", "free"] {
        node.remove(&format!("{name}.yaml"))?;
        node.wait_gone(name)?;
    }
    node.wait("no device to be left", || Ok(loops(&node)?.is_empty().then_some(())))
}

/// By an edit of the file, with the same process; a smaller one is told, and comes with a new layer.
#[test]
fn a_limit_grows_in_place_and_a_smaller_one_is_told() -> Result<()> {
    let node = TestNode::builder().args(&["--storage-driver", "overlay"]).start()?;
    node.write("a.yaml", &idle("a", &limit("16Mi"))?)?;
    let pid = node.wait_running("a")?;
    let before = fill(pid, "/big", 64)?;
    ensure!(before < 16, "{before} MiB within 16");
    node.wait_container("a", "with its limit told", |item| told(item) == Some("16Mi"))?;
    node.write("a.yaml", &idle("a", &limit("48Mi"))?)?;
    let pid = if can_grow_mounted()? {
        node.wait_container("a", "with a larger limit", |item| told(item) == Some("48Mi"))?;
        ensure!(node.wait_running("a")? == pid, "the process stays");
        pid
    } else {
        let item = node.wait_container("a", "told why it cannot grow", |item| {
            condition(item, "ResizePending").is_some()
        })?;
        ensure!(condition(&item, "ResizePending").map(|it| it.0) == Some("True"), "{item}");
        ensure!(item["status"].to_string().contains("CAP_SYS_RESOURCE"), "{item}");
        ensure!(told(&item) == Some("16Mi") && node.wait_running("a")? == pid, "{item}");
        // When nothing uses it, it grows.
        node.ok(["restart", "a"])?;
        node.wait_restarted("a", pid)?
    };
    node.wait_container("a", "with nothing pending", |item| {
        told(item) == Some("48Mi") && condition(item, "ResizePending").is_none()
    })?;
    ensure!(inside(pid, "/big").metadata()?.len() >= before * MIB, "what was written is kept");
    ensure!(fill(pid, "/more", 24)? == 24, "there is more room");

    // Smaller: the plan and the status tell, and it runs on with what is there.
    node.write("a.yaml", &idle("a", &limit("24Mi"))?)?;
    let item = node.wait_container("a", "told that it cannot shrink", |item| {
        condition(item, "ResizePending").is_some()
    })?;
    let text = item["status"].to_string();
    ensure!(
        text.contains("CannotShrink") && text.contains("limited to 48Mi and cannot shrink: 24Mi"),
        "{text}"
    );
    ensure!(told(&item) == Some("48Mi") && node.wait_running("a")? == pid, "{text}");
    let plan = node.ok(["plan"])?;
    ensure!(plan.contains("cannot shrink: 24Mi takes effect with a new layer"), "{plan}");
    // It is remembered by an agent that finds it running.
    node.kill_agent()?;
    node.start_agent()?;
    node.wait_container("a", "told as before", |item| {
        condition(item, "ResizePending").is_some() && told(item) == Some("48Mi")
    })?;
    ensure!(node.wait_running("a")? == pid);
    // A replacement has a new layer.
    let fresh = format!("  env: [{{name: NEW, value: layer}}]\n{}", limit("24Mi"));
    node.write("a.yaml", &idle("a", &fresh)?)?;
    node.wait_container("a", "with a new layer", |item| {
        told(item) == Some("24Mi") && condition(item, "ResizePending").is_none()
    })?;
    let pid = node.wait_running("a")?;
    ensure!(fill(pid, "/big", 64)? < 24);
    node.remove("a.yaml")?;
    node.wait_gone("a")?;
    node.wait("no device to be left", || Ok(loops(&node)?.is_empty().then_some(())))
}

/// A limit that comes later is told, and takes effect with a new layer.
#[test]
fn a_limit_that_is_added_comes_with_a_new_layer() -> Result<()> {
    let node = TestNode::builder().args(&["--storage-driver", "overlay"]).start()?;
    let fresh = "  restart: {rootfs: Fresh}\n";
    node.write("a.yaml", &idle("a", fresh)?)?;
    let pid = node.wait_running("a")?;
    node.write("a.yaml", &idle("a", &format!("{fresh}{}", limit("16Mi")))?)?;
    let item =
        node.wait_container("a", "told that it waits", |item| condition(item, "ResizePending").is_some())?;
    let text = item["status"].to_string();
    ensure!(text.contains("Deferred") && text.contains("has no limit: 16Mi takes effect"), "{text}");
    ensure!(told(&item).is_none() && node.wait_running("a")? == pid, "{text}");
    node.ok(["restart", "a"])?;
    let pid = node.wait_restarted("a", pid)?;
    ensure!(fill(pid, "/big", 64)? < 16);
    node.wait_container("a", "with its limit", |item| {
        told(item) == Some("16Mi") && condition(item, "ResizePending").is_none()
    })?;
    Ok(())
}

/// By the driver's name, before anything is made, and with what to do; and what no disk holds.
#[test]
fn a_driver_without_limits_and_impossible_ones_are_refused() -> Result<()> {
    let node = TestNode::builder().args(&["--storage-driver", "native"]).start()?;
    node.write("a.yaml", &idle("a", &limit("64Mi"))?)?;
    let message = node.wait_waiting("a", &["CreateContainerConfigError"])?;
    ensure!(
        message.contains("resources.limits.ephemeral-storage: the storage driver native cannot limit")
            && message.contains("use overlay"),
        "{message}"
    );
    // One that runs goes on, and is told.
    node.write("b.yaml", &idle("b", "")?)?;
    let pid = node.wait_running("b")?;
    node.write("b.yaml", &idle("b", &limit("64Mi"))?)?;
    let item = node.wait_container("b", "told so", |item| condition(item, "ResizePending").is_some())?;
    ensure!(item["status"].to_string().contains("Infeasible") && node.wait_running("b")? == pid, "{item}");
    // Without it, it starts by itself.
    node.write("a.yaml", &idle("a", "")?)?;
    node.wait_running("a")?;

    let overlay = TestNode::builder().args(&["--storage-driver", "overlay"]).start()?;
    for (name, size, part) in
        [("small", "1Mi", "the least is 8388608"), ("large", "100Ti", "bytes are too many")]
    {
        overlay.write(&format!("{name}.yaml"), &idle(name, &limit(size))?)?;
        let message = overlay.wait_waiting(name, &["CreateContainerConfigError"])?;
        ensure!(message.contains(part), "{message}");
    }
    let request = "  resources: {requests: {ephemeral-storage: 100Ti}}\n";
    overlay.write("asks.yaml", &idle("asks", request)?)?;
    let message = overlay.wait_waiting("asks", &["CreateContainerConfigError"])?;
    ensure!(message.contains("requests.ephemeral-storage: 100Ti are asked for"), "{message}");
    ensure!(loops(&overlay)?.is_empty());
    Ok(())
}

/// The agent dies in the middle of making and of removing one, and the next leaves nothing behind.
#[test]
fn an_agent_that_dies_leaves_no_device() -> Result<()> {
    for point in ["prepare.image_made", "prepare.image_formatted", "start.rootfs", "start.started"] {
        let node = TestNode::builder().args(&["--storage-driver", "overlay"]).build()?;
        node.write("a.yaml", &idle("a", &limit("16Mi"))?)?;
        node.spawn_doomed(point)?;
        node.wait(&format!("the agent to die at {point}"), || Ok(node.has_died()?.then_some(())))?;
        node.start_agent()?;
        let pid = node.wait_running("a")?;
        ensure!(fill(pid, "/big", 64)? < 16, "{point}");
        ensure!(loops(&node)?.len() == 1, "{point}: {:?}", loops(&node)?);
        node.remove("a.yaml")?;
        node.wait_gone("a")?;
        node.wait("no device to be left", || Ok(loops(&node)?.is_empty().then_some(())))?;
    }
    Ok(())
}

/// A container may ask for more than all have together, and all may get less while it runs: the least counts.
#[test]
fn the_processor_time_of_all_bounds_that_of_each() -> Result<()> {
    let config = |cpu: &str| {
        format!(
            "containers: {{limits: {{cpu: {cpu}}}}}\nimages: {{gc: {{enabled: false}}}}\nstorage: {{minFree: {{}}, minFreeInodes: {{}}}}\n"
        )
    };
    let node = TestNode::builder().config(&config("500m")).start()?;
    node.write("a.yaml", &idle("a", "  resources: {limits: {cpu: 2}}\n")?)?;
    let pid = node.wait_running("a")?;
    node.kill_agent()?;
    node.write_config(&config("250m"))?;
    node.start_agent()?;
    ensure!(node.wait_running("a")? == pid, "the process stays");
    ensure!(node.setting("containers.limits")?["cpu"] == "250m", "{}", node.setting("containers.limits")?);
    node.write("b.yaml", &idle("b", "  resources: {limits: {cpu: 1}}\n")?)?;
    node.wait_running("b")?;
    Ok(())
}
