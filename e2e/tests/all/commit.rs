//! What containers change in their root filesystems: shown, exported, kept as images, carried elsewhere.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use stower_e2e::{Catalog, TestNode, catalog, process};

use crate::support::{container, shell};

/// Changes with times that are fixed, so that two nodes have the same ones.
const CHANGES: &str = "mkdir /data; echo one > /data/one; echo two >> /etc/greeting; ln /data/one /data/also; rm /usr/bin/vi; \
                       touch -d '2026-01-02 03:04:05' /data/one /data /etc/greeting /etc /usr/bin /; \
                       echo ready; exec sleep 1000000";

/// A container that has made its changes.
fn changed(node: &TestNode, name: &str) -> Result<u32> {
    node.write(&format!("{name}.yaml"), &shell(name, CHANGES, "")?)?;
    let pid = node.wait_running(name)?;
    node.wait("its changes", || Ok(node.ok(["logs", name])?.contains("ready").then_some(())))?;
    Ok(pid)
}

/// The names in an archive, as GNU tar lists them.
fn listed(archive: &Path) -> Result<Vec<String>> {
    let text = process::run("tar", ["--list".as_ref(), "-f".as_ref(), archive.as_os_str()])?;
    Ok(text.lines().map(str::to_owned).collect())
}

#[test]
fn diff_lists_exactly_what_changed() -> Result<()> {
    let node = TestNode::start()?;
    changed(&node, "a")?;
    let expected = [
        "A /data",
        "A /data/also",
        "A /data/one",
        "C /etc",
        "A /etc/greeting",
        "C /usr",
        "C /usr/bin",
        "D /usr/bin/vi",
    ];
    let told = node.ok(["diff", "a"])?;
    ensure!(told.lines().collect::<Vec<_>>() == expected, "{told}");
    // Stopped, it is the same.
    node.ok(["stop", "a"])?;
    ensure!(node.ok(["diff", "container/a"])? == told);
    let said = node.refused(["diff", "b"])?;
    ensure!(said.contains("NotFound"), "{said}");
    Ok(())
}

#[test]
fn a_committed_image_runs_with_the_changes() -> Result<()> {
    let node = TestNode::start()?;
    let pid = changed(&node, "a")?;
    let script = "CMD [\"sh\", \"-c\", \"echo $GREETING; cat /data/also /etc/greeting; ls /usr/bin/vi; exec sleep 1000000\"]";
    let digest = node.ok([
        "commit",
        "a",
        "example.org/kept:1",
        "-a",
        "Jo <jo@example.org>",
        "-m",
        "kept",
        "-c",
        script,
        "-c",
        "ENV GREETING=changed",
    ])?;
    ensure!(node.ok(["images", "--no-trunc"])?.contains(digest.trim()));
    ensure!(process::alive(pid), "the container does not go on");
    let body = "  imagePullPolicy: Never\n  terminationGracePeriodSeconds: 1\n";
    node.write("b.yaml", &container("b", "example.org/kept:1", body))?;
    node.wait_running("b")?;
    let log = node.wait("the new image's output", || {
        let log = node.ok(["logs", "b"])?;
        Ok(log.contains("No such file").then_some(log))
    })?;
    ensure!(log.starts_with("changed\none\ntwo\n"), "{log}");
    ensure!(node.ok(["diff", "b"])?.is_empty(), "a fresh container has changed nothing");
    // A new image's base may go, and the image stays.
    node.remove("a.yaml")?;
    node.wait_gone("a")?;
    node.ok(["rmi", &Catalog::get()?.reference(catalog::busybox)?])?;
    node.write("c.yaml", &container("c", "example.org/kept:1", body))?;
    node.wait_running("c")?;
    Ok(())
}

/// Whatever becomes of a commit, its container goes on.
#[test]
fn a_paused_container_goes_on() -> Result<()> {
    let node = TestNode::start()?;
    let script = "while :; do date +%s%N > /now; done";
    node.write("a.yaml", &shell("a", script, "")?)?;
    let pid = node.wait_running("a")?;
    let root = Path::new("/proc").join(pid.to_string()).join("root/now");
    let goes_on = || -> Result<()> {
        let before = fs::read_to_string(&root)?;
        node.wait("the container to go on", || Ok((fs::read_to_string(&root)? != before).then_some(())))
    };
    node.ok(["commit", "a", "example.org/busy:1"])?;
    goes_on()?;
    let said = node.refused(["commit", "a", "-c", "USER $NOBODY"])?;
    ensure!(said.contains("USER"), "{said}");
    goes_on()?;
    node.ok(["commit", "--pause=false", "a", "example.org/busy:2"])?;
    goes_on()?;
    // The agent died in the middle: the next one finds it standing still.
    node.kill_agent()?;
    let uid_dir = frozen_by_hand(pid)?;
    ensure!(!uid_dir.is_empty());
    node.start_agent()?;
    node.wait_running("a")?;
    goes_on()?;
    Ok(())
}

/// Freezes the container of `pid` as an agent does; gives its group.
fn frozen_by_hand(pid: u32) -> Result<String> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let group =
        groups.lines().find_map(|line| line.strip_prefix("0::")).context("not in cgroup2")?.to_owned();
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mount = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1).filter(|_| line.split(' ').nth(2) == Some("cgroup2")))
        .next()
        .context("no cgroup2")?;
    fs::write(format!("{mount}{group}/cgroup.freeze"), "1")?;
    Ok(group)
}

#[test]
fn two_nodes_make_the_same_layer() -> Result<()> {
    let mut diff_ids = Vec::new();
    for driver in ["overlay", "native"] {
        let node = TestNode::builder().args(&["--storage-driver", driver]).start()?;
        changed(&node, "a")?;
        node.ok(["commit", "a", "example.org/same:1"])?;
        let archive = node.folder().join("same.tar");
        node.ok(["image", "save", "example.org/same:1", "-o", archive.to_str().context("odd path")?])?;
        let member = |name: &str| process::run("tar", ["-xOf".as_ref(), archive.as_os_str(), name.as_ref()]);
        let list: serde_json::Value = serde_json::from_str(&member("manifest.json")?)?;
        let config: serde_json::Value =
            serde_json::from_str(&member(list[0]["Config"].as_str().context("no configuration")?)?)?;
        diff_ids.push(config["rootfs"]["diff_ids"].as_array().context("no layers")?.clone());
        ensure!(list[0]["RepoTags"][0] == "example.org/same:1", "{list}");
    }
    ensure!(diff_ids[0] == diff_ids[1], "{diff_ids:?}");
    Ok(())
}

#[test]
fn a_saved_image_runs_on_another_node() -> Result<()> {
    let (one, two) = (TestNode::start()?, TestNode::builder().no_registry().start()?);
    changed(&one, "a")?;
    let digest =
        one.ok(["commit", "a", "example.org/moved:1", "-c", "CMD cat /data/one; exec sleep 1000000"])?;
    let archive = two.folder().join("moved.tar");
    let path = archive.to_str().context("odd path")?;
    one.ok(["image", "save", "example.org/moved:1", "-o", path])?;
    ensure!(two.ok(["image", "import", path])?.contains(digest.trim()), "it has another digest there");
    let body = "  imagePullPolicy: Never\n  terminationGracePeriodSeconds: 1\n";
    two.write("b.yaml", &container("b", "example.org/moved:1", body))?;
    two.wait("the file of the other node", || {
        Ok(two.cli(["logs", "b"])?.stdout.starts_with("one\n").then_some(()))
    })?;
    let said = one.refused(["image", "save", "example.org/none:1", "-o", path])?;
    ensure!(said.contains("example.org/none:1") && said.contains("not here"), "{said}");
    Ok(())
}

#[test]
fn export_is_the_whole_tree() -> Result<()> {
    let node = TestNode::start()?;
    changed(&node, "a")?;
    let archive = node.folder().join("a.tar");
    node.ok(["export", "a", "-o", archive.to_str().context("odd path")?])?;
    let names = listed(&archive)?;
    for (name, there) in [
        ("usr/bin/busybox", true),
        ("data/", true),
        ("data/one", true),
        ("data/also", true),
        ("usr/bin/vi", false),
    ] {
        ensure!(names.iter().any(|found| found == name) == there, "{name}: {names:?}");
    }
    let folder = node.folder().join("unpacked");
    fs::create_dir(&folder)?;
    process::run("tar", ["-xf".as_ref(), archive.as_os_str(), "-C".as_ref(), folder.as_os_str()])?;
    ensure!(fs::read_to_string(folder.join("data/also"))? == "one\n");
    // A terminal gets no archive: `script` gives one.
    let inner =
        format!("{} --socket {} export a", stower_e2e::node::binary()?.display(), node.socket.display());
    let out = process::output(Command::new("script").args(["-qec", &inner, "/dev/null"]))?;
    ensure!(!out.status.success() && String::from_utf8_lossy(&out.stdout).contains("terminal"));
    Ok(())
}

/// A container that never ran has no root filesystem, and that is said.
#[test]
fn what_never_ran_is_told_so() -> Result<()> {
    let node = TestNode::start()?;
    node.write("a.yaml", &container("a", "localhost:1/none:1", ""))?;
    node.wait_waiting("a", &["ErrImagePull", "ImagePullBackOff"])?;
    for verb in ["diff", "export", "commit"] {
        let said = if verb == "export" {
            node.refused([verb, "a", "-o", "/dev/null"])?
        } else {
            node.refused([verb, "a"])?
        };
        ensure!(said.contains("never started"), "{verb}: {said}");
    }
    let said = node.refused(["commit", "a", "-c", "RUN ls"])?;
    ensure!(said.contains("CMD, ENTRYPOINT, ENV"), "{said}");
    Ok(())
}
