//! What a container may see and do, and what it gets from the machine.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};
use stower_e2e::{Catalog, TestNode, catalog, process};

use crate::support::{container, idle, output_of, shell};

#[test]
fn namespaces_are_its_own() -> Result<()> {
    let node = TestNode::start()?;
    node.write("own.yaml", &idle("own", "")?)?;
    node.write("host.yaml", &idle("host", "  hostNetwork: true\n")?)?;
    let (own, host) = (node.wait_running("own")?, node.wait_running("host")?);
    let namespace = |pid: &str, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}"));
    for kind in ["pid", "mnt", "ipc", "uts", "cgroup", "net"] {
        ensure!(
            namespace(&own.to_string(), kind)? != namespace("self", kind)?,
            "the {kind} namespace is the host's"
        );
    }
    ensure!(
        namespace(&host.to_string(), "net")? == namespace("self", "net")?,
        "hostNetwork has another network"
    );
    ensure!(
        process::status_field(own, "NSpid")?.ends_with("\t1"),
        "it is not the first process of its namespace"
    );
    Ok(())
}

#[test]
fn privileges_are_the_usual_few() -> Result<()> {
    let node = TestNode::start()?;
    node.write("a.yaml", &idle("a", "")?)?;
    node.write(
        "b.yaml",
        &idle("b", "  securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}\n")?,
    )?;
    let (a, b) = (node.wait_running("a")?, node.wait_running("b")?);
    ensure!(
        process::status_field(a, "CapEff")? == "00000000a80425fb",
        "{}",
        process::status_field(a, "CapEff")?
    );
    ensure!(process::status_field(a, "CapBnd")? == "00000000a80425fb");
    ensure!(process::status_field(a, "Seccomp")? == "2", "no system call filter");
    ensure!(process::status_field(b, "CapEff")? == "0000000000000000");
    ensure!(process::status_field(b, "NoNewPrivs")? == "1");
    let fds: Vec<_> =
        fs::read_dir(format!("/proc/{a}/fd"))?.flatten().map(|entry| entry.file_name()).collect();
    ensure!(fds.len() == 3, "descriptors beside the three usual ones: {fds:?}");
    Ok(())
}

#[test]
fn users_and_groups_come_from_the_spec_and_the_image() -> Result<()> {
    let node = TestNode::start()?;
    let script = "id -u; id -g; id -G; touch /tmp/mine && stat -c %u /tmp/mine";
    let own = output_of(
        &node,
        "own",
        script,
        "  securityContext: {runAsUser: 1000, runAsGroup: 2000, supplementalGroups: [3000]}\n",
    )?;
    ensure!(own.split_whitespace().collect::<Vec<_>>() == ["1000", "2000", "2000", "3000", "1000"], "{own}");
    // uid 1 is in the image's group "extra".
    let from_image = output_of(&node, "image", script, "  securityContext: {runAsUser: 1}\n")?;
    ensure!(from_image.lines().next() == Some("1") && from_image.contains("1234"), "{from_image}");
    Ok(())
}

#[test]
fn a_read_only_root_is_read_only() -> Result<()> {
    let node = TestNode::start()?;
    let body = "  securityContext: {readOnlyRootFilesystem: true}\n  volumes: [{name: w, emptyDir: {}}]\n  volumeMounts: [{name: w, mountPath: /work}]\n";
    let said = output_of(&node, "ro", "touch /x 2>&1; touch /work/x && echo volume is writable", body)?;
    ensure!(said.contains("Read-only file system") && said.contains("volume is writable"), "{said}");
    Ok(())
}

#[test]
fn the_kernels_own_files_are_masked() -> Result<()> {
    let node = TestNode::start()?;
    let script = "wc -c < /proc/keys; ls /sys/firmware | wc -l; (echo 1 > /proc/sys/kernel/panic) 2>&1; mount -t tmpfs t /tmp 2>&1; true";
    let said = output_of(&node, "masked", script, "")?;
    ensure!(said.starts_with("0\n0\n"), "{said}");
    ensure!(
        said.contains("Read-only") && (said.contains("denied") || said.contains("not permitted")),
        "{said}"
    );
    Ok(())
}

#[test]
fn names_and_resolver_are_as_in_a_pod() -> Result<()> {
    let node = TestNode::start()?;
    let script = "hostname; cat /etc/hostname /etc/hosts /etc/resolv.conf; df -k /dev/shm | tail -1; ls -l /dev/fd; cat /proc/1/comm";
    let said = output_of(&node, "pod-like", script, "")?;
    ensure!(said.starts_with("pod-like\npod-like\n"), "{said}");
    ensure!(said.contains("127.0.0.1") && said.contains("localhost"), "{said}");
    ensure!(said.contains("65536"), "/dev/shm is not 64 MiB: {said}");
    Ok(())
}

#[test]
fn its_own_network_has_loopback_up_and_nothing_else() -> Result<()> {
    let node = TestNode::start()?;
    let script =
        "ls /sys/class/net; (echo pong | nc -l -p 5000 &) ; sleep 0.2; nc 127.0.0.1 5000 < /dev/null";
    let said = output_of(&node, "net", script, "")?;
    ensure!(said.starts_with("lo\n") && said.contains("pong"), "{said}");
    Ok(())
}

#[test]
fn too_much_memory_is_oom_killed_and_said_so() -> Result<()> {
    let node = TestNode::start()?;
    let image = Catalog::get()?.reference(catalog::payload)?;
    let body = "  args: [eat, '512']\n  restartPolicy: Never\n  resources: {limits: {memory: 32Mi}}\n";
    node.write("eater.yaml", &container("eater", &image, body))?;
    let item = node.wait_container("eater", "Failed", |item| item["status"]["phase"] == "Failed")?;
    let end = &item["status"]["state"]["terminated"];
    ensure!(end["reason"] == "OOMKilled" && end["exitCode"] == 137, "{end}");
    Ok(())
}

#[test]
fn pids_are_limited() -> Result<()> {
    let node = TestNode::start()?;
    let script = "for n in $(seq 60); do sleep 1000 & done; echo all were started";
    let file = shell("forks", script, "  restartPolicy: Never\n  resources: {limits: {pids: 20}}\n")?;
    let path = node.folder().join("forks.yaml");
    fs::write(&path, &file)?;
    let checked = node.cli(["validate", "-f", path.to_str().context("odd path")?])?;
    ensure!(checked.code == 0, "resources.limits.pids: {}{}", checked.stdout, checked.stderr);
    node.write("forks.yaml", &file)?;
    node.wait_container("forks", "at its end", |item| item["status"]["state"]["terminated"].is_object())?;
    let said = node.ok(["logs", "forks"])?;
    ensure!(said.contains("fork") && !said.contains("all were started"), "{said}");
    Ok(())
}

#[test]
fn host_paths_and_empty_directories_hold_data() -> Result<()> {
    let node = TestNode::start()?;
    let host = node.folder().join("host");
    fs::create_dir(&host)?;
    fs::write(host.join("from-host"), "aboard\n")?;
    let body = format!(
        "  volumes:\n  - {{name: h, hostPath: {{path: {0}, type: Directory}}}}\n  - {{name: e, emptyDir: {{}}}}\n  \
           volumeMounts:\n  - {{name: h, mountPath: /h}}\n  - {{name: h, mountPath: /ro, readOnly: true}}\n  - {{name: e, mountPath: /e}}\n",
        host.display()
    );
    let script = "cat /h/from-host; echo y > /h/from-container; (echo z > /ro/no) 2>&1; echo x >> /e/count; wc -l < /e/count; echo all read; exec sleep 1000000";
    node.write("a.yaml", &shell("a", script, &body)?)?;
    let pid = node.wait_running("a")?;
    let said = node
        .wait("the mounts", || Ok(Some(node.ok(["logs", "a"])?).filter(|text| text.contains("all read"))))?;
    ensure!(said.contains("aboard") && said.contains("Read-only"), "{said}");
    ensure!(fs::read_to_string(host.join("from-container"))? == "y\n");
    // A restart keeps an emptyDir.
    process::kill9(pid)?;
    node.wait_restarted("a", pid)?;
    node.wait("the second run's count", || {
        Ok(node.ok(["logs", "a"])?.lines().any(|line| line == "2").then_some(()))
    })?;
    // Nothing of it appears in the host's mounts.
    ensure!(node.footprint().mounts.is_empty(), "{:?}", node.footprint().mounts);
    node.remove("a.yaml")?;
    node.wait_gone("a")?;
    ensure!(host.join("from-host").exists(), "a hostPath was removed with its container");
    Ok(())
}

#[test]
fn state_directories_are_closed_to_others() -> Result<()> {
    let node = TestNode::start()?;
    for (path, mode) in [(&node.data, 0o700), (&node.run, 0o700), (&node.socket, 0o660)] {
        let found = fs::metadata(path)?.mode() & 0o777;
        ensure!(found == mode, "{} has mode {found:o}, and {mode:o} is right", path.display());
    }
    Ok(())
}

#[test]
fn environment_is_the_images_with_the_specs_above() -> Result<()> {
    let node = TestNode::start()?;
    let body = "  env: [{name: GREETING, value: mine}, {name: BOTH, value: '$(GREETING) and $$HOME'}]\n  workingDir: /var/made\n";
    let said = output_of(&node, "env", "env; pwd", body)?;
    let variables: BTreeMap<&str, &str> = said.lines().filter_map(|line| line.split_once('=')).collect();
    ensure!(variables["GREETING"] == "mine" && variables["BOTH"] == "mine and $HOME", "{said}");
    ensure!(variables["PATH"].contains("/usr/bin") && said.contains("/var/made"), "{said}");
    Ok(())
}
