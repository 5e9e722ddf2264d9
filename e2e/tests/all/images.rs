//! Images on the machine: pulled, imported, listed, removed.

use anyhow::{Context, Result, ensure};
use stower_e2e::{Catalog, Registry, TestNode, cache, catalog, process};

use crate::support::{container, idle};

#[test]
fn pull_list_and_remove() -> Result<()> {
    let node = TestNode::start()?;
    let image = Catalog::get()?.reference(catalog::busybox)?;
    let digest = catalog::busybox()?.digest;
    ensure!(node.ok(["pull", "-q", &image])?.contains(&digest), "pull tells another digest");
    let list = node.ok(["images", "--no-trunc"])?;
    ensure!(list.contains("busybox") && list.contains(&digest), "{list}");
    node.ok(["rmi", &image])?;
    ensure!(node.ok(["images", "-q"])?.trim().is_empty());
    let said = node.refused(["rmi", &image])?;
    ensure!(said.contains("busybox"), "{said}");
    Ok(())
}

#[test]
fn an_image_in_use_is_not_removed() -> Result<()> {
    let node = TestNode::start()?;
    node.write("a.yaml", &idle("a", "")?)?;
    let pid = node.wait_running("a")?;
    let image = Catalog::get()?.reference(catalog::payload)?;
    let said = node.refused(["rmi", &image])?;
    ensure!(said.contains('a') && said.contains("use"), "{said}");
    process::kill9(pid)?;
    node.wait_restarted("a", pid)?;
    Ok(())
}

#[test]
fn layouts_and_archives_are_imported_and_run() -> Result<()> {
    let node = TestNode::start()?;
    let image = catalog::busybox()?;
    let oci = node.folder().join("image.oci.tar");
    let docker = node.folder().join("image.docker.tar");
    image.write_oci_archive(&oci)?;
    image.write_docker_archive("example.org/saved:1", &docker)?;
    for (path, name) in [
        (&image.layout, "example.org/layout:1"),
        (&oci, "example.org/archive:1"),
        (&docker, "example.org/saved:1"),
    ] {
        let path = path.to_str().context("odd path")?;
        if name.contains("saved") {
            node.ok(["image", "import", path])?;
        } else {
            node.ok(["image", "import", path, name])?;
        }
        let short = name.split(['/', ':']).nth(1).context("odd name")?;
        let body = "  imagePullPolicy: Never\n  command: [sh, -c, 'echo $GREETING; exec sleep 1000000']\n  terminationGracePeriodSeconds: 1\n";
        node.write(&format!("{short}.yaml"), &container(short, name, body))?;
        node.wait_running(short)?;
        node.wait("the image's variable", || {
            Ok(node.ok(["logs", short])?.contains("hello from the image").then_some(()))
        })?;
    }
    Ok(())
}

#[test]
fn a_layout_keeps_the_name_it_brings() -> Result<()> {
    let node = TestNode::start()?;
    let image = catalog::payload()?;
    node.ok(["image", "import", image.layout.to_str().context("odd path")?])?;
    node.write("a.yaml", &container("a", "localhost/payload:latest", "  imagePullPolicy: Never\n"))?;
    node.wait_running("a")?;
    Ok(())
}

#[test]
fn an_index_gives_this_machines_image() -> Result<()> {
    let catalog = Catalog::get()?;
    let (foreign, right) = (catalog::busybox_foreign()?, catalog::payload()?);
    let reference = {
        let _lock = cache::lock()?;
        catalog.registry.push_index(&[&foreign, &right], "many")?
    };
    let node = TestNode::start()?;
    node.write("a.yaml", &container("a", &reference, ""))?;
    let item = node.wait_container("a", "running", |item| item["status"]["phase"] == "Running")?;
    ensure!(
        item["status"]["image"].as_str().is_some_and(|image| image.contains("@sha256:")),
        "{}",
        item["status"]
    );
    Ok(())
}

#[test]
fn a_digest_reference_runs_exactly_that() -> Result<()> {
    let catalog = Catalog::get()?;
    let reference = catalog.reference(catalog::payload)?;
    let digest = catalog::payload()?.digest;
    let by_digest = reference.replace(":latest", &format!("@{digest}"));
    let node = TestNode::start()?;
    node.write("a.yaml", &container("a", &by_digest, ""))?;
    let item = node.wait_container("a", "running", |item| item["status"]["phase"] == "Running")?;
    ensure!(
        item["status"]["image"].as_str().is_some_and(|image| image.contains(&digest)),
        "{}",
        item["status"]
    );
    Ok(())
}

#[test]
fn a_restart_keeps_the_digest_when_the_tag_moves() -> Result<()> {
    let catalog = Catalog::get()?;
    let storage = tempfile::tempdir()?;
    let registry = Registry::start(&catalog.tools, &storage.path().join("data"))?;
    let reference = registry.push(&catalog::busybox()?, "moving")?;
    let node = TestNode::builder().args(&["--insecure-registry", &registry.address]).start()?;
    let body = "  imagePullPolicy: Always\n  command: [sh, -c, 'echo $GREETING; exec sleep 1000000']\n  terminationGracePeriodSeconds: 1\n";
    node.write("a.yaml", &container("a", &reference, body))?;
    let pid = node.wait_running("a")?;
    let mut moved = catalog::busybox_edited()?;
    moved.name = "busybox".to_owned();
    registry.push(&moved, "moving")?;
    process::kill9(pid)?;
    let second = node.wait_restarted("a", pid)?;
    node.wait("the former image's variable", || {
        Ok(node.ok(["logs", "a"])?.contains("hello from the image").then_some(()))
    })?;
    // A changed spec asks the registry anew.
    node.write("a.yaml", &container("a", &reference, &format!("{body}  env: [{{name: A, value: b}}]\n")))?;
    node.wait_restarted("a", second)?;
    node.wait("the moved tag's variable", || Ok(node.ok(["logs", "a"])?.contains("edited").then_some(())))
}

#[test]
fn layers_are_shared_and_unpacked_once() -> Result<()> {
    let node = TestNode::start()?;
    let catalog = Catalog::get()?;
    node.ok(["pull", &catalog.reference(catalog::busybox)?])?;
    let snapshots =
        |node: &TestNode| node.footprint().paths.iter().filter(|path| path.contains("/snapshots/")).count();
    let bytes = node.metric("stower_image_pull_bytes_total")?;
    let before = snapshots(&node);
    node.ok(["pull", &catalog.reference(catalog::busybox_edited)?])?;
    let more = node.metric("stower_image_pull_bytes_total")? - bytes;
    ensure!(more < 100_000.0, "the shared layer was fetched again: {more} bytes");
    ensure!(snapshots(&node) <= before + 2, "the shared layer was unpacked again");
    Ok(())
}
