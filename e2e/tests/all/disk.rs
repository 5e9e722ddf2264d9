//! A disk that fills: the data root lies on a small filesystem of its own, which is filled for real.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stower_e2e::{Catalog, Compression, ImageBuilder, TestNode, cache, catalog, http, process};

use crate::support::{container, idle};

/// Bytes of the filesystem.
const SIZE: u64 = 256 << 20;
/// Bytes of a large image's only layer, which does not compress.
const LARGE: usize = 20 << 20;

/// A node whose data root is on an ext4 of its own. It is unmounted with the node.
fn small(config: &str, inodes: u64) -> Result<TestNode> {
    let node = TestNode::builder().config(config).build()?;
    let image = node.folder().join("disk.img");
    File::create_new(&image)?.set_len(SIZE)?;
    let (image, inodes) = (image.to_str().context("an odd path")?, inodes.to_string());
    // Nothing is kept for root: what is full is full for the agent too.
    process::run("mkfs.ext4", ["-q", "-F", "-m", "0", "-N", &inodes, image])?;
    fs::create_dir(&node.data)?;
    process::run("mount", ["-o", "loop", image, node.data.to_str().context("an odd path")?])?;
    node.start_agent()?;
    Ok(node)
}

/// An image of [`LARGE`] bytes that no other image has, in the shared registry.
fn large(name: &str) -> Result<String> {
    let _lock = cache::lock()?;
    let folder = cache::once("layers", &format!("noise-{name}-1"), |staging| {
        let mut state =
            name.bytes().fold(1_u64, |sum, byte| sum.wrapping_mul(257).wrapping_add(u64::from(byte)));
        let mut noise = Vec::with_capacity(LARGE);
        while noise.len() < LARGE {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            noise.extend(state.to_le_bytes());
        }
        Ok(fs::write(staging.join("noise"), noise)?)
    })?;
    let image = ImageBuilder::new(name).layer(&folder, Compression::Gzip).config(json!({"Cmd": ["/noise"]}));
    Catalog::get()?.registry.push(&image.build(&format!("noise-{name}-1"))?, "latest")
}

/// Bytes or inodes that are taken and that there are, as the agent measures them now.
fn fill(node: &TestNode, inodes: bool) -> Result<(u64, u64)> {
    let view: Value = serde_json::from_str(&http::unix(&node.socket, "GET", "/v1/node")?.text())?;
    let room = &view["status"]["filesystem"][if inodes { "inodes" } else { "bytes" }];
    let (available, total) = (room["available"].as_u64(), room["total"].as_u64());
    let (available, total) = available.zip(total).context("no filesystem is told")?;
    Ok((total - available, total))
}

/// What fills the disk.
fn filler(node: &TestNode) -> PathBuf {
    node.data.join("filler")
}

/// Fills the disk to so many percent, with one file or with many.
fn fill_to(node: &TestNode, percent: u64, inodes: bool) -> Result<()> {
    let (used, total) = fill(node, inodes)?;
    let more = (total * percent / 100).checked_sub(used).context("it is fuller already")?;
    if inodes {
        fs::create_dir(filler(node))?;
        for n in 1..more {
            File::create_new(filler(node).join(n.to_string()))?;
        }
    } else {
        let file = File::create_new(filler(node))?;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, more)?;
    }
    fill(node, inodes)?;
    Ok(())
}

/// Fills the disk until it takes not one more block, but for so many bytes.
fn fill_all_but(node: &TestNode, bytes: u64) -> Result<()> {
    let mut file = File::create_new(filler(node))?;
    let (used, total) = fill(node, false)?;
    // The filesystem needs some for itself.
    let more = (total - used).saturating_sub(bytes.max(2 << 20));
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, more)?;
    if bytes == 0 {
        file.seek(SeekFrom::End(0))?;
        for piece in [64 << 10, 512] {
            while file.write_all(&vec![7; piece]).is_ok() {}
        }
        // What cannot be written down was not taken.
        let _ = file.sync_all();
        while file.write_all(&[7; 512]).is_ok() {}
    }
    Ok(())
}

fn clear(node: &TestNode) -> Result<()> {
    let path = filler(node);
    if path.is_dir() {
        fs::remove_dir_all(path)?;
    } else {
        fs::remove_file(path)?;
    }
    Ok(())
}

/// Names of images that are here.
fn images(node: &TestNode) -> Result<Vec<String>> {
    Ok(node.ok(["images", "-o", "name"])?.lines().map(str::to_owned).collect())
}

/// The condition `DiskPressure` of the node: its status and message.
fn pressure(node: &TestNode) -> Result<(String, String)> {
    let view: Value = serde_json::from_str(&http::unix(&node.socket, "GET", "/v1/node")?.text())?;
    let conditions = view["status"]["conditions"].as_array().context("no conditions")?;
    let found = conditions.iter().find(|it| it["type"] == "DiskPressure").context("no DiskPressure")?;
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    Ok((text("status"), text("message")))
}

fn wait_pressure(node: &TestNode, status: &str) -> Result<String> {
    node.wait(&format!("DiskPressure to be {status}"), || {
        let (found, message) = pressure(node)?;
        Ok((found == status).then_some(message))
    })
}

#[test]
fn above_its_mark_the_least_recently_used_images_go() -> Result<()> {
    let node = small(
        "images: {gc: {highThresholdPercent: 72, lowThresholdPercent: 62, minAge: 1ms}}\nstorage: {minFree: {}}\n",
        30_000,
    )?;
    node.write("runs.yaml", &idle("runs", "")?)?;
    let pid = node.wait_running("runs")?;
    let (one, two, three) = (large("one")?, large("two")?, large("three")?);
    // It never ran, and is held: its image stays all the same.
    node.ok(["pull", "-q", &three])?;
    node.write("held.yaml", &container("held", &three, "  imagePullPolicy: IfNotPresent\n"))?;
    node.wait_container("held", "listed", |_| true)?;
    node.ok(["stop", "held"])?;
    node.ok(["pull", "-q", &one])?;
    node.ok(["pull", "-q", &two])?;
    // Once more: it is the younger one now.
    node.ok(["pull", "-q", &one])?;
    ensure!(images(&node)?.len() == 4);
    fill_to(&node, 75, false)?;
    node.wait("the oldest image to be gone", || Ok((!images(&node)?.contains(&two)).then_some(())))?;
    node.wait("the disk to be below its mark", || {
        let (used, total) = fill(&node, false)?;
        Ok((used * 100 / total < 63).then_some(()))
    })?;
    let left = images(&node)?;
    ensure!(
        left.len() == 3 && left.contains(&one) && left.contains(&three),
        "more went than had to: {left:?}"
    );
    let events = node.ok(["events"])?;
    ensure!(events.contains("ImageGC") && events.contains(&two) && events.contains("bytes"), "{events}");
    ensure!(node.metric("stower_image_gc_removed_images_total")? == 1.0);
    ensure!(node.metric("stower_image_gc_freed_bytes_total")? >= 2.0 * LARGE as f64);
    // Again, with more than can be had: what is needed stays, and it is said that it was not enough.
    clear(&node)?;
    fill_to(&node, 95, false)?;
    node.wait("the second image to be gone", || Ok((!images(&node)?.contains(&one)).then_some(())))?;
    node.wait("the agent to say that it is not enough", || {
        Ok(node.ok(["events"])?.contains("FreeDiskSpaceFailed").then_some(()))
    })?;
    ensure!(images(&node)?.len() == 2 && images(&node)?.contains(&three));
    ensure!(node.wait_running("runs")? == pid);
    process::kill9(pid)?;
    node.wait_restarted("runs", pid)?;
    Ok(())
}

/// Below the floor: nothing new begins, all else goes on, and what waits begins by itself.
fn a_floor(inodes: bool) -> Result<()> {
    let config =
        "images: {gc: {enabled: false}}\nstorage: {minFree: {percent: 20}, minFreeInodes: {percent: 20}}\n";
    let node = small(config, 2000)?;
    let image = Catalog::get()?.reference(catalog::payload)?;
    node.write("a.yaml", &idle("a", "")?)?;
    let pid = node.wait_running("a")?;
    ensure!(pressure(&node)?.0 == "False");
    fill_to(&node, 85, inodes)?;
    let message = wait_pressure(&node, "True")?;
    let what = if inodes { "inodes available" } else { "MiB available" };
    let place = node.data.to_str().context("an odd path")?;
    ensure!(message.contains(what) && message.contains(place) && message.contains("prune"), "{message}");
    let reason = if inodes { "inodes" } else { "bytes" };
    ensure!(node.metric(&format!("stower_disk_pressure{{reason=\"{reason}\"}}"))? == 1.0);
    let described = node.ok(["describe", "node"])?;
    ensure!(described.contains("DiskPressure") && described.contains("kept free"), "{described}");

    let said = node.refused(["pull", &image])?;
    ensure!(said.contains("cannot pull") && said.contains(what), "{said}");
    node.write("b.yaml", &idle("b", "")?)?;
    let message = node.wait_waiting("b", &["DiskPressure"])?;
    ensure!(message.contains(what), "{message}");
    let uid = node.container("b")?.context("b")?["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    ensure!(!node.data.join("containers").join(&uid).exists() && !node.run.join("c").join(&uid).exists());
    let plan = node.ok(["plan"])?;
    ensure!(plan.contains("Container default/b: it waits: DiskPressure"), "{plan}");
    // What runs goes on, and restarts with the layer that it has; it is not ended for what replaces it.
    process::kill9(pid)?;
    let pid = node.wait_restarted("a", pid)?;
    node.write("a.yaml", &idle("a", "  env: [{name: NEW, value: x}]\n")?)?;
    node.wait_container("a", "behind its spec", |item| {
        item["metadata"]["generation"] == 2 && item.to_string().contains("DiskPressure")
    })?;
    ensure!(node.wait_running("a")? == pid);
    // An agent that begins on a full disk is no different.
    node.restart_agent()?;
    node.wait_waiting("b", &["DiskPressure"])?;
    ensure!(node.wait_running("a")? == pid);

    clear(&node)?;
    node.wait_running("b")?;
    node.wait_restarted("a", pid)?;
    wait_pressure(&node, "False")?;
    node.ok(["pull", "-q", &image])?;
    ensure!(node.metric("stower_disk_pressure")? == 0.0);
    let events = node.ok(["events"])?;
    ensure!(events.contains("NodeHasDiskPressure") && events.contains("NodeHasNoDiskPressure"), "{events}");
    Ok(())
}

#[test]
fn below_the_floor_of_bytes_nothing_new_begins() -> Result<()> {
    a_floor(false)
}

#[test]
fn below_the_floor_of_inodes_nothing_new_begins() -> Result<()> {
    a_floor(true)
}

#[test]
fn a_disk_that_is_full_to_the_last_byte_leaves_nothing_half_done() -> Result<()> {
    let node = small("images: {gc: {enabled: false}}\nstorage: {minFree: {}, minFreeInodes: {}}\n", 30_000)?;
    node.write("a.yaml", &idle("a", "")?)?;
    let pid = node.wait_running("a")?;
    let image = large("one")?;
    // Too little for the blob; enough for it and not for its files; nothing at all.
    for room in [8 << 20, 30 << 20, 0] {
        fill_all_but(&node, room)?;
        let said = node.refused(["pull", &image])?;
        ensure!(said.to_lowercase().contains("no space"), "{said}");
        ensure!(images(&node)?.len() == 1);
        let usage: Value = serde_json::from_str(&node.ok(["system", "df", "-o", "json"])?)?;
        ensure!(usage["images"]["total"] == 1, "{usage}");
        clear(&node)?;
        node.ok(["system", "prune", "--force"])?;
    }
    fill_all_but(&node, 0)?;
    // A container that is declared waits for it, and says why.
    node.write("b.yaml", &container("b", &image, "  restartPolicy: Never\n"))?;
    let message = node.wait_waiting("b", &["DiskPressure", "ImagePullBackOff"])?;
    ensure!(message.to_lowercase().contains("no space"), "{message}");
    // The ledger cannot be written: what is declared over the socket is refused, or kept.
    let note = "x".repeat(20_000);
    let apply = |name: &str| -> Result<_> {
        let manifest = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"note": note},
        });
        let file = node.folder().join(format!("{name}.json"));
        fs::write(&file, manifest.to_string())?;
        node.cli(["apply", "-f", file.to_str().context("an odd path")?])
    };
    let first = apply("first")?;
    ensure!(first.code > 0 && first.stderr.contains("ledger cannot be written"), "{first:?}");
    let second = apply("second")?;
    ensure!(second.code > 0 && second.stderr.contains("cannot change ConfigMap"), "{second:?}");
    clear(&node)?;
    node.wait("the ledger to be written again", || Ok((apply("second")?.code == 0).then_some(())))?;
    node.wait_container("b", "over or started", |item| {
        let state = &item["status"]["state"];
        state["terminated"].is_object() || state["waiting"]["reason"] == "RunContainerError"
    })?;
    ensure!(node.wait_running("a")? == pid, "a container was disturbed");
    node.restart_agent()?;
    ensure!(node.wait_running("a")? == pid);
    let maps = node.ok(["get", "configmaps", "-o", "name"])?;
    ensure!(maps.contains("first") && maps.contains("second"), "{maps}");
    ensure!(images(&node)?.contains(&image));
    Ok(())
}

#[test]
fn df_shows_what_takes_room_and_prune_removes_what_nothing_needs() -> Result<()> {
    let node = TestNode::start()?;
    node.write("a.yaml", &idle("a", "")?)?;
    node.wait_running("a")?;
    let (one, two) = (large("one")?, large("two")?);
    node.ok(["pull", "-q", &one])?;
    node.ok(["pull", "-q", &two])?;
    let usage = || -> Result<Value> { Ok(serde_json::from_str(&node.ok(["system", "df", "-o", "json"])?)?) };
    let found = usage()?;
    let images_used = &found["images"];
    ensure!(images_used["total"] == 3 && images_used["active"] == 1, "{found}");
    let free = images_used["reclaimableBytes"].as_u64().unwrap_or(0);
    // Each is there twice: as a blob and unpacked.
    ensure!((4 * LARGE as u64..5 * LARGE as u64).contains(&free), "{found}");
    ensure!(
        found["containers"]["total"] == 1 && found["containers"]["items"][0]["name"] == "default/a",
        "{found}"
    );
    let table = node.ok(["system", "df"])?;
    ensure!(
        table.contains("RECLAIMABLE") && table.contains("Images") && table.contains("Local Volumes"),
        "{table}"
    );
    let table = node.ok(["system", "df", "-v"])?;
    ensure!(table.contains(&one) && table.contains("default/a"), "{table}");

    // Nobody there to ask is a no. Without --all, images with a name stay.
    let mut asks = node.command(["system", "prune", "--all"]);
    let output = process::output(asks.stdin(Stdio::null()))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        !output.status.success() && said.contains(&one) && said.contains("nothing was removed"),
        "{said}"
    );
    let said = node.ok(["system", "prune", "--force"])?;
    ensure!(said.contains("Total reclaimed space: 0B") && images(&node)?.len() == 3, "{said}");
    let said = node.ok(["system", "prune", "--all", "--force"])?;
    ensure!(
        said.contains(&format!("removed image {one}")) && said.contains(&format!("removed image {two}")),
        "{said}"
    );
    ensure!(images(&node)? == [Catalog::get()?.reference(catalog::payload)?]);
    let left = usage()?;
    ensure!(left["images"]["reclaimableBytes"] == 0 && left["leftovers"]["bytes"] == 0, "{left}");
    Ok(())
}
