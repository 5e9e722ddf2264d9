//! Volumes that a container declares itself: `emptyDir`, `hostPath`, a named Volume, and how they are mounted.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use stower_e2e::node::uid_of;
use stower_e2e::{TestNode, process};

use crate::support::{idle, inside, loops, object, output_of, ready, shell, volume};

/// The spec's part with volumes and their mounts, each in YAML's flow style.
fn mounted(volumes: &[&str], mounts: &[&str]) -> String {
    let list = |items: &[&str]| items.iter().map(|item| format!("  - {item}\n")).collect::<String>();
    format!("  volumes:\n{}  volumeMounts:\n{}", list(volumes), list(mounts))
}

/// Writes more than `bytes` at a path of a container; gives the kind of the error that ends it.
fn overfill(pid: u32, path: &str, bytes: usize) -> Result<Option<ErrorKind>> {
    let mut file = fs::File::create(inside(pid, path))?;
    let block = vec![1; 1 << 20];
    for _ in 0..=(bytes >> 20) {
        if let Err(error) = file.write_all(&block).and_then(|()| file.sync_data()) {
            return Ok(Some(error.kind()));
        }
    }
    Ok(None)
}

/// The filesystem type of what is mounted at a path of a process's mount namespace.
fn filesystem(pid: u32, path: &str) -> Result<String> {
    let table = fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
    let line = table.lines().rfind(|line| line.split(' ').nth(4) == Some(path));
    let line = line.with_context(|| format!("nothing is mounted at {path}:\n{table}"))?;
    let kind = line.split(" - ").nth(1).and_then(|rest| rest.split(' ').next());
    Ok(kind.context("a line without a type")?.to_owned())
}

fn read_only(done: &std::io::Result<()>) -> bool {
    done.as_ref().is_err_and(|error| error.kind() == ErrorKind::ReadOnlyFilesystem)
}

#[test]
fn an_empty_dir_is_kept_over_restarts_and_new_with_a_replacement() -> Result<()> {
    let node = TestNode::start()?;
    let body = mounted(&["{name: e, emptyDir: {}}"], &["{name: e, mountPath: /e}"]);
    node.write("a.yaml", &idle("a", &body)?)?;
    let pid = node.wait_running("a")?;
    let mode = fs::metadata(inside(pid, "/e"))?.permissions().mode() & 0o7777;
    ensure!(mode == 0o777, "as in Kubernetes everybody may write, but the mode is {mode:o}");
    fs::write(inside(pid, "/e/kept"), "yes")?;
    process::kill9(pid)?;
    let pid = node.wait_restarted("a", pid)?;
    ensure!(inside(pid, "/e/kept").exists(), "a restart by rule emptied it");
    node.ok(["restart", "a"])?;
    let pid = node.wait_restarted("a", pid)?;
    ensure!(inside(pid, "/e/kept").exists(), "a restart by hand emptied it");
    // Another process is a replacement, which begins anew.
    node.write("a.yaml", &idle("a", &format!("{body}  env: [{{name: NEW, value: 'yes'}}]\n"))?)?;
    let pid = node.wait_restarted("a", pid)?;
    ensure!(!inside(pid, "/e/kept").exists(), "a replacement kept it");
    let uid = uid_of(&node.container("a")?.context("not there")?)?;
    node.remove("a.yaml")?;
    node.wait_gone("a")?;
    let left: Vec<_> = node.footprint().paths.into_iter().filter(|path| path.contains(&uid)).collect();
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

#[test]
fn an_empty_dir_in_memory_is_limited_kept_and_unmounted() -> Result<()> {
    let node = TestNode::start()?;
    let volume = "{name: m, emptyDir: {medium: Memory, sizeLimit: 2Mi}}";
    let body = mounted(&[volume], &["{name: m, mountPath: /m}"]);
    node.write("a.yaml", &idle("a", &body)?)?;
    let pid = node.wait_running("a")?;
    ensure!(filesystem(pid, "/m")? == "tmpfs", "{}", filesystem(pid, "/m")?);
    fs::write(inside(pid, "/m/kept"), "yes")?;
    let end = overfill(pid, "/m/big", 4 << 20)?;
    ensure!(end == Some(ErrorKind::StorageFull), "{end:?}");
    fs::remove_file(inside(pid, "/m/big"))?;
    process::kill9(pid)?;
    let pid = node.wait_restarted("a", pid)?;
    ensure!(inside(pid, "/m/kept").exists(), "a restart emptied it");
    node.kill_agent()?;
    process::kill9(pid)?;
    node.start_agent()?;
    let pid = node.wait_restarted("a", pid)?;
    ensure!(inside(pid, "/m/kept").exists(), "a restart of the agent emptied it");
    node.remove("a.yaml")?;
    node.wait_gone("a")?;
    ensure!(node.footprint().mounts.is_empty(), "{:?}", node.footprint().mounts);
    Ok(())
}

#[test]
fn an_empty_dir_on_disk_has_a_limit() -> Result<()> {
    let node = TestNode::start()?;
    let body = mounted(&["{name: d, emptyDir: {sizeLimit: 16Mi}}"], &["{name: d, mountPath: /d}"]);
    node.write("a.yaml", &idle("a", &body)?)?;
    let pid = node.wait_running("a")?;
    ensure!(!loops(&node)?.is_empty(), "the test looks for what is not there");
    fs::write(inside(pid, "/d/kept"), "yes")?;
    let end = overfill(pid, "/d/big", 32 << 20)?;
    ensure!(end == Some(ErrorKind::StorageFull), "{end:?}");
    process::kill9(pid)?;
    let pid = node.wait_restarted("a", pid)?;
    ensure!(fs::read_to_string(inside(pid, "/d/kept"))? == "yes", "a restart emptied it");
    ensure!(loops(&node)?.len() == 1, "{:?}", loops(&node)?);
    node.remove("a.yaml")?;
    node.wait_gone("a")?;
    node.wait("its loop device to be gone", || Ok(loops(&node)?.is_empty().then_some(())))?;
    ensure!(node.footprint().mounts.is_empty(), "{:?}", node.footprint().mounts);
    Ok(())
}

/// One of each kind that a `hostPath` may ask for.
fn one_of_each(folder: &Path) -> Result<UnixListener> {
    fs::create_dir(folder)?;
    fs::create_dir(folder.join("Directory"))?;
    fs::write(folder.join("File"), "a file")?;
    let mode = Mode::RUSR | Mode::WUSR;
    mknodat(CWD, folder.join("CharDevice"), FileType::CharacterDevice, mode, makedev(1, 3))?;
    mknodat(CWD, folder.join("BlockDevice"), FileType::BlockDevice, mode, makedev(7, 0))?;
    Ok(UnixListener::bind(folder.join("Socket"))?)
}

const HOST_PATH_TYPES: [&str; 5] = ["Directory", "File", "Socket", "CharDevice", "BlockDevice"];

#[test]
fn host_paths_of_the_right_type_are_mounted() -> Result<()> {
    let node = TestNode::start()?;
    let host = node.folder().join("host");
    let _socket = one_of_each(&host)?;
    let mut volumes = Vec::new();
    let mut mounts = Vec::new();
    for kind in HOST_PATH_TYPES {
        let name = kind.to_lowercase();
        volumes
            .push(format!("{{name: {name}, hostPath: {{path: {}/{kind}, type: {kind}}}}}", host.display()));
        volumes.push(format!("{{name: any-{name}, hostPath: {{path: {}/{kind}}}}}", host.display()));
        mounts.push(format!("{{name: {name}, mountPath: /h/{kind}}}"));
        mounts.push(format!("{{name: any-{name}, mountPath: /any/{kind}}}"));
    }
    for kind in ["DirectoryOrCreate", "FileOrCreate"] {
        let name = kind.to_lowercase();
        volumes
            .push(format!("{{name: {name}, hostPath: {{path: {}/{kind}, type: {kind}}}}}", host.display()));
        mounts.push(format!("{{name: {name}, mountPath: /h/{kind}}}"));
    }
    let text = |items: &[String]| items.iter().map(|item| format!("  - {item}\n")).collect::<String>();
    let body = format!("  volumes:\n{}  volumeMounts:\n{}", text(&volumes), text(&mounts));
    node.write("a.yaml", &idle("a", &body)?)?;
    let pid = node.wait_running("a")?;
    for kind in HOST_PATH_TYPES {
        for folder in ["h", "any"] {
            let found = fs::metadata(inside(pid, &format!("/{folder}/{kind}")))?.file_type();
            let host = fs::metadata(host.join(kind))?.file_type();
            ensure!(found == host, "/{folder}/{kind} is {found:?}, and {host:?} is right");
        }
    }
    let made = |name: &str| fs::metadata(host.join(name));
    let mode = |name: &str| Ok::<_, std::io::Error>(made(name)?.permissions().mode() & 0o7777);
    ensure!(made("DirectoryOrCreate")?.is_dir() && mode("DirectoryOrCreate")? == 0o755);
    ensure!(made("FileOrCreate")?.is_file() && mode("FileOrCreate")? == 0o644);
    fs::write(inside(pid, "/h/DirectoryOrCreate/x"), "from the container")?;
    fs::write(inside(pid, "/h/FileOrCreate"), "from the container")?;
    ensure!(fs::read_to_string(host.join("FileOrCreate"))? == "from the container");
    ensure!(host.join("DirectoryOrCreate/x").exists());
    Ok(())
}

#[test]
fn host_paths_of_another_type_are_refused_all_at_once() -> Result<()> {
    let node = TestNode::start()?;
    let host = node.folder().join("host");
    let _socket = one_of_each(&host)?;
    let mut body = "  volumes:\n".to_owned();
    let mut mounts = String::new();
    for kind in HOST_PATH_TYPES {
        let other = if kind == "Directory" { "File" } else { "Directory" };
        let name = kind.to_lowercase();
        body +=
            &format!("  - {{name: {name}, hostPath: {{path: {}/{other}, type: {kind}}}}}\n", host.display());
        mounts += &format!("  - {{name: {name}, mountPath: /h/{kind}}}\n");
    }
    let made = format!("{}/made", host.display());
    body += &format!("  - {{name: none, hostPath: {{path: {made}/none, type: Directory}}}}\n");
    body += &format!("  - {{name: made, hostPath: {{path: {made}, type: DirectoryOrCreate}}}}\n");
    body += &format!(
        "  volumeMounts:\n{mounts}  - {{name: made, mountPath: /made}}\n  - {{name: none, mountPath: /none}}\n"
    );
    node.write("a.yaml", &idle("a", &body)?)?;
    let message = node.wait_waiting("a", &["CreateContainerConfigError"])?;
    for part in [
        "is not a directory",
        "is not a regular file",
        "is not a socket",
        "is not a character device",
        "is not a block device",
        "does not exist",
    ] {
        ensure!(message.contains(part), "no {part:?} in: {message}");
    }
    ensure!(message.contains("volume \"socket\" at /h/Socket"), "the volume is not named: {message}");
    ensure!(!Path::new(&made).exists(), "one was made although others are missing");
    Ok(())
}

#[test]
fn a_named_volume_can_be_read_only() -> Result<()> {
    let node = TestNode::start()?;
    node.write("v.yaml", &volume("crate", "{}"))?;
    let writer = mounted(&["{name: v, volume: {name: crate}}"], &["{name: v, mountPath: /v}"]);
    let reader = mounted(
        &["{name: v, volume: {name: crate, readOnly: true}}", "{name: w, volume: {name: crate}}"],
        &[
            "{name: v, mountPath: /v}",
            "{name: w, mountPath: /w, readOnly: true}",
            "{name: w, mountPath: /rw}",
        ],
    );
    node.write("writer.yaml", &idle("writer", &writer)?)?;
    node.write("reader.yaml", &idle("reader", &reader)?)?;
    let (writer, reader) = (node.wait_running("writer")?, node.wait_running("reader")?);
    fs::write(inside(writer, "/v/tea"), "7 chests")?;
    for path in ["/v", "/w", "/rw"] {
        ensure!(fs::read_to_string(inside(reader, &format!("{path}/tea")))? == "7 chests", "{path}");
    }
    for path in ["/v/new", "/w/new"] {
        let done = fs::write(inside(reader, path), "x");
        ensure!(read_only(&done), "{path}: {done:?}");
    }
    fs::write(inside(reader, "/rw/new"), "x")?;
    let item = node.container("reader")?.context("not there")?;
    let flags: Vec<bool> = item["status"]["mounts"]
        .as_array()
        .context("no mounts")?
        .iter()
        .map(|mount| mount["readOnly"].as_bool().unwrap_or(false))
        .collect();
    ensure!(flags == [false, true, true], "of /rw, /v and /w: {flags:?}");
    let data = ready(&node, "volumes", "crate")?["path"].as_str().context("no path")?.to_owned();
    ensure!(Path::new(&data).join("new").exists(), "{data} does not hold what was written");
    // It outlives its users.
    for name in ["writer", "reader"] {
        node.remove(&format!("{name}.yaml"))?;
        node.wait_gone(name)?;
    }
    ensure!(Path::new(&data).join("tea").exists() && object(&node, "volumes", "crate")?.is_some());
    Ok(())
}

#[test]
fn a_sub_path_is_a_part_of_a_volume() -> Result<()> {
    let node = TestNode::start()?;
    node.write("v.yaml", &volume("crate", "{}"))?;
    let host = node.folder().join("host");
    fs::create_dir(&host)?;
    fs::write(host.join("one-file"), "from the host")?;
    let path = format!("{{name: h, hostPath: {{path: {}}}}}", host.display());
    let body = mounted(
        &["{name: e, emptyDir: {}}", "{name: v, volume: {name: crate}}", &path],
        &[
            "{name: e, mountPath: /e}",
            "{name: e, mountPath: /part, subPath: a/b}",
            "{name: v, mountPath: /v}",
            "{name: v, mountPath: /v-part, subPath: deep/er}",
            "{name: h, mountPath: /etc/one-file, subPath: one-file}",
        ],
    );
    node.write("a.yaml", &idle("a", &body)?)?;
    let pid = node.wait_running("a")?;
    fs::write(inside(pid, "/part/x"), "part")?;
    fs::write(inside(pid, "/v-part/x"), "part")?;
    ensure!(fs::read_to_string(inside(pid, "/e/a/b/x"))? == "part");
    ensure!(fs::read_to_string(inside(pid, "/v/deep/er/x"))? == "part");
    ensure!(fs::read_to_string(inside(pid, "/etc/one-file"))? == "from the host");
    ensure!(fs::metadata(inside(pid, "/etc/one-file"))?.is_file());

    // Read-only, it is not made.
    let body = mounted(
        &["{name: v, volume: {name: crate}}"],
        &["{name: v, mountPath: /none, subPath: not-there, readOnly: true}"],
    );
    node.write("b.yaml", &idle("b", &body)?)?;
    let reasons =
        ["RunContainerError", "CreateContainerError", "CreateContainerConfigError", "CrashLoopBackOff"];
    let message = node.wait_waiting("b", &reasons)?;
    ensure!(message.contains("not-there"), "{message}");
    ensure!(!inside(pid, "/v/not-there").exists());
    fs::create_dir(inside(pid, "/v/not-there"))?;
    node.wait_running("b")?;
    Ok(())
}

#[test]
fn a_link_in_a_volume_leads_no_sub_path_out_of_it() -> Result<()> {
    let node = TestNode::start()?;
    let host = node.folder().join("host");
    let secret = node.folder().join("secret");
    fs::create_dir(&host)?;
    fs::create_dir(&secret)?;
    fs::write(secret.join("x"), "not for containers")?;
    std::os::unix::fs::symlink(&secret, host.join("out"))?;
    std::os::unix::fs::symlink("../secret", host.join("up"))?;
    let path = format!("{{name: h, hostPath: {{path: {}}}}}", host.display());
    for link in ["out", "up"] {
        let mount = format!("{{name: h, mountPath: /h, subPath: {link}}}");
        node.write(&format!("{link}.yaml"), &idle(link, &mounted(&[&path], &[&mount]))?)?;
    }
    for link in ["out", "up"] {
        let item = node.wait_container(link, "running or refused", |item| {
            let state = &item["status"]["state"];
            state["running"].is_object()
                || state["waiting"]["message"].as_str().is_some_and(|text| text.contains(link))
        })?;
        if let Some(pid) = stower_e2e::node::pid_of(&item) {
            ensure!(!inside(pid, "/h/x").exists(), "{link} led out of the volume");
        }
    }
    Ok(())
}

#[test]
fn read_only_goes_down_to_what_is_mounted_below() -> Result<()> {
    let node = TestNode::start()?;
    let host = node.folder().join("host");
    fs::create_dir_all(host.join("inner"))?;
    process::run("mount", ["-t", "tmpfs", "inner", &host.join("inner").to_string_lossy()])?;
    fs::write(host.join("inner/seen"), "yes")?;
    let path = format!("{{name: h, hostPath: {{path: {}}}}}", host.display());
    let body = mounted(&[&path], &["{name: h, mountPath: /ro, readOnly: true}", "{name: h, mountPath: /rw}"]);
    node.write("a.yaml", &idle("a", &body)?)?;
    let pid = node.wait_running("a")?;
    ensure!(inside(pid, "/ro/inner/seen").exists(), "the mount below is not there");
    for path in ["/ro/x", "/ro/inner/x"] {
        let done = fs::write(inside(pid, path), "x");
        ensure!(read_only(&done), "{path}: {done:?}");
    }
    fs::write(inside(pid, "/rw/x"), "x")?;
    fs::write(inside(pid, "/rw/inner/x"), "x")?;
    Ok(())
}

#[test]
fn inner_mounts_lie_in_outer_ones_whatever_their_order() -> Result<()> {
    let node = TestNode::start()?;
    node.write("v.yaml", &volume("crate", "{}"))?;
    let body = mounted(
        &[
            "{name: outer, emptyDir: {}}",
            "{name: inner, emptyDir: {medium: Memory}}",
            "{name: v, volume: {name: crate}}",
        ],
        &["{name: inner, mountPath: /a/b/c/d}", "{name: v, mountPath: /a/b}", "{name: outer, mountPath: /a}"],
    );
    let script = "echo o > /a/o; echo v > /a/b/v; echo i > /a/b/c/d/i; cut -d' ' -f5 /proc/self/mountinfo | grep ^/a; ls /a /a/b /a/b/c /a/b/c/d";
    let said = output_of(&node, "a", script, &body)?;
    let words: Vec<&str> = said.split_whitespace().collect();
    let wanted =
        ["/a", "/a/b", "/a/b/c/d", "/a:", "b", "o", "/a/b:", "c", "v", "/a/b/c:", "d", "/a/b/c/d:", "i"];
    ensure!(words == wanted, "{said}");
    Ok(())
}

/// A node whose agent has a mount namespace of its own, in which `shared` is a shared mount.
fn node_with_shared() -> Result<(TestNode, tempfile::TempDir)> {
    let place = tempfile::Builder::new().prefix("shared-").tempdir_in(stower_e2e::teardown::PLACE)?;
    let script = "mount -t tmpfs shared \"$0\" && mount --make-shared \"$0\" && exec \"$@\"";
    let words = ["unshare", "-m", "--propagation", "private", "sh", "-c", script];
    let mut words: Vec<&str> = words.to_vec();
    let text = place.path().to_string_lossy().into_owned();
    words.push(&text);
    let node = TestNode::builder().through(&words).start()?;
    Ok((node, place))
}

/// A command in the agent's mount namespace.
fn beside_agent(node: &TestNode, args: &[&str]) -> Result<String> {
    let mut command = Command::new("nsenter");
    command.args(["-m", "-t", &node.agent_pid()?.to_string()]).args(args);
    process::run_command(&mut command)
}

/// The mount points of a process's namespace.
fn mount_points(pid: u32) -> Result<Vec<String>> {
    let table = fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
    Ok(table.lines().filter_map(|line| line.split(' ').nth(4)).map(str::to_owned).collect())
}

#[test]
fn mounts_of_the_host_are_seen_where_asked_for() -> Result<()> {
    let (node, shared) = node_with_shared()?;
    let volume = format!("{{name: h, hostPath: {{path: {}}}}}", shared.path().display());
    let body = mounted(
        &[&volume],
        &["{name: h, mountPath: /none}", "{name: h, mountPath: /slave, mountPropagation: HostToContainer}"],
    );
    let script = "mkdir -p /slave/own && mount -t tmpfs own /slave/own && echo mounted; sleep 1000";
    let body = format!("{body}  securityContext: {{privileged: true}}\n");
    node.write("a.yaml", &shell("a", script, &body)?)?;
    let pid = node.wait_running("a")?;
    node.wait("the container's own mount", || {
        Ok(mount_points(pid)?.contains(&"/slave/own".to_owned()).then_some(()))
    })?;
    let place = shared.path().join("later");
    beside_agent(&node, &["mkdir", &place.to_string_lossy()])?;
    beside_agent(&node, &["mount", "-t", "tmpfs", "later", &place.to_string_lossy()])?;
    node.wait("the host's mount to be seen", || {
        Ok(mount_points(pid)?.contains(&"/slave/later".to_owned()).then_some(()))
    })?;
    let seen = mount_points(pid)?;
    ensure!(!seen.contains(&"/none/later".to_owned()), "it is seen without being asked for: {seen:?}");
    let own = shared.path().join("own").to_string_lossy().into_owned();
    let host = mount_points(node.agent_pid()?)?;
    ensure!(!host.contains(&own), "the container's mount came to the host: {host:?}");
    Ok(())
}

#[test]
fn mounts_go_both_ways_where_asked_for() -> Result<()> {
    let (node, shared) = node_with_shared()?;
    let volume = format!("{{name: h, hostPath: {{path: {}}}}}", shared.path().display());
    let body = mounted(&[&volume], &["{name: h, mountPath: /both, mountPropagation: Bidirectional}"]);
    let script = "mkdir -p /both/own && mount -t tmpfs own /both/own; sleep 1000";
    node.write("a.yaml", &shell("a", script, &format!("{body}  securityContext: {{privileged: true}}\n"))?)?;
    let pid = node.wait_running("a")?;
    let own = shared.path().join("own").to_string_lossy().into_owned();
    node.wait("the container's mount to be seen on the host", || {
        Ok(mount_points(node.agent_pid()?)?.contains(&own).then_some(()))
    })?;
    let place = shared.path().join("later");
    beside_agent(&node, &["mkdir", &place.to_string_lossy()])?;
    beside_agent(&node, &["mount", "-t", "tmpfs", "later", &place.to_string_lossy()])?;
    node.wait("the host's mount to be seen in the container", || {
        Ok(mount_points(pid)?.contains(&"/both/later".to_owned()).then_some(()))
    })?;
    Ok(())
}

#[test]
fn propagation_that_cannot_be_is_refused() -> Result<()> {
    // Without being privileged, by validation.
    let node = TestNode::builder().through(&["unshare", "-m", "--propagation", "private"]).start()?;
    let host = node.folder().join("host");
    fs::create_dir(&host)?;
    let volume = format!("{{name: h, hostPath: {{path: {}}}}}", host.display());
    let both = mounted(&[&volume], &["{name: h, mountPath: /h, mountPropagation: Bidirectional}"]);
    let path = node.folder().join("a.yaml");
    fs::write(&path, idle("a", &both)?)?;
    let said = node.cli(["validate", "-f", &path.to_string_lossy()])?;
    let said = format!("{}{}", said.stdout, said.stderr);
    ensure!(said.contains("mountPropagation Bidirectional needs securityContext.privileged"), "{said}");

    // From what is not shared, by the runtime: a mount that hears of nothing is not what was asked for.
    let privileged = "  securityContext: {privileged: true}\n";
    let slave = mounted(&[&volume], &["{name: h, mountPath: /h, mountPropagation: HostToContainer}"]);
    node.write("both.yaml", &idle("both", &format!("{both}{privileged}"))?)?;
    node.write("slave.yaml", &idle("slave", &slave)?)?;
    for (name, wanted) in
        [("both", "is not on a shared mount"), ("slave", "is not on a shared or slave mount")]
    {
        let message = node.wait_waiting(name, &["RunContainerError", "CrashLoopBackOff"])?;
        ensure!(message.contains(wanted) && message.contains("mount --make-rshared"), "{message}");
    }
    Ok(())
}
