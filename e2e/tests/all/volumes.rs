//! The kind Volume: what each driver promises, who keeps one from being removed, and what a disk that is full does.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stower_e2e::{Catalog, TestNode, catalog, http, process};

use crate::support::{
    data, gone, idle, inside, loops, mount_table, mounted_on_host, mounts_of_volumes, not_ready, object,
    ready, shell, shell_of, volume,
};

/// Declares a Volume anew, waits until it is ready as it is declared now, and gives its status.
fn redeclare(node: &TestNode, name: &str, file: &str, text: &str) -> Result<Value> {
    let generation = |object: &Value| object["metadata"]["generation"].as_u64().unwrap_or(0);
    let before = object(node, "volumes", name)?.as_ref().map_or(0, generation);
    node.write(file, text)?;
    settled(node, name, before)
}

/// Waits until a Volume of a later generation is ready.
fn settled(node: &TestNode, name: &str, before: u64) -> Result<Value> {
    node.wait(&format!("volume {name} to be as it is declared last"), || {
        let Some(object) = object(node, "volumes", name)? else { return Ok(None) };
        let generation = object["metadata"]["generation"].as_u64().unwrap_or(0);
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let is_ready = conditions.iter().any(|it| it["type"] == "Ready" && it["status"] == "True");
        let same = generation > before && object["status"]["observedGeneration"] == generation;
        Ok((same && is_ready).then(|| object["status"].clone()))
    })
}

/// Where a Volume's data are on the host.
fn place(node: &TestNode, name: &str) -> Result<PathBuf> {
    let status = ready(node, "volumes", name)?;
    Ok(status["path"].as_str().with_context(|| format!("no path: {status}"))?.into())
}

/// Removes a container's file, and waits until it is gone.
fn end(node: &TestNode, name: &str) -> Result<()> {
    node.remove(&format!("{name}.yaml"))?;
    node.wait_gone(name)
}

/// The size that a filesystem says it has, in bytes.
fn size(path: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_blocks * stat.f_frsize)
}

#[test]
fn retained_bytes_are_found_again_by_name_and_never_overwritten() -> Result<()> {
    let node = TestNode::start()?;
    // One of each that keeps its bytes on the disk.
    let manifests = [("dir", "{}"), ("img", "{capacity: 16Mi}")];
    for (name, spec) in manifests {
        node.write(&format!("v-{name}.yaml"), &volume(name, spec))?;
    }
    node.write("a.yaml", &idle("a", &mounts_of_volumes(&["dir", "img"]))?)?;
    let pid = node.wait_running("a")?;
    for (name, _) in manifests {
        fs::write(inside(pid, name).join("file"), name)?;
        let status = ready(&node, "volumes", name)?;
        ensure!(status["capacityEnforced"].as_bool().unwrap_or(false) == (name == "img"), "{status}");
    }
    let uid = object(&node, "volumes", "dir")?.context("gone")?["metadata"]["uid"].clone();
    end(&node, "a")?;
    for (name, _) in manifests {
        node.remove(&format!("v-{name}.yaml"))?;
        gone(&node, "volumes", name)?;
    }
    node.restart_agent()?;
    node.write("a.yaml", &idle("a", &mounts_of_volumes(&["dir", "img"]))?)?;
    let message = node.wait_waiting("a", &["DependencyMissing"])?;
    ensure!(
        message.contains("Volume default/dir is not there") && message.contains("Volume default/img"),
        "{message}"
    );
    for (name, spec) in manifests {
        node.write(&format!("v-{name}.yaml"), &volume(name, spec))?;
    }
    let pid = node.wait_running("a")?;
    for (name, _) in manifests {
        ensure!(fs::read_to_string(inside(pid, name).join("file"))? == name, "{name} lost its bytes");
    }
    ensure!(
        object(&node, "volumes", "dir")?.context("gone")?["metadata"]["uid"] != uid,
        "it is the same object"
    );
    Ok(())
}

#[test]
fn with_delete_the_bytes_go_when_the_volume_does() -> Result<()> {
    let node = TestNode::start()?;
    let specs = [
        ("dir", "{reclaimPolicy: Delete}"),
        ("img", "{reclaimPolicy: Delete, capacity: 16Mi}"),
        ("mem", "{reclaimPolicy: Delete, driver: tmpfs}"),
    ];
    let names = specs.map(|(name, _)| name);
    let write = || {
        specs.iter().try_for_each(|(name, spec)| node.write(&format!("v-{name}.yaml"), &volume(name, spec)))
    };
    write()?;
    node.write("a.yaml", &idle("a", &mounts_of_volumes(&names))?)?;
    let pid = node.wait_running("a")?;
    let mut places = Vec::new();
    for name in names {
        fs::write(inside(pid, name).join("file"), name)?;
        places.push(place(&node, name)?);
    }
    end(&node, "a")?;
    for name in names {
        node.remove(&format!("v-{name}.yaml"))?;
        gone(&node, "volumes", name)?;
    }
    let left: Vec<_> = places.iter().filter(|path| path.exists()).collect();
    ensure!(left.is_empty(), "left on the disk: {left:?}");
    mounted_on_host(&node, &[])?;
    ensure!(loops(&node)?.is_empty());
    write()?;
    node.write("a.yaml", &idle("a", &mounts_of_volumes(&names))?)?;
    let pid = node.wait_running("a")?;
    for name in names {
        let found: Vec<_> =
            fs::read_dir(inside(pid, name))?.flatten().map(|entry| entry.file_name()).collect();
        ensure!(found.is_empty(), "{name} has {found:?}");
    }
    Ok(())
}

#[test]
fn a_volume_in_use_stays_until_its_last_user_stops() -> Result<()> {
    let node = TestNode::start()?;
    node.write("v.yaml", &volume("vol", "{reclaimPolicy: Delete}"))?;
    for name in ["a", "b"] {
        node.write(&format!("{name}.yaml"), &idle(name, &mounts_of_volumes(&["vol"]))?)?;
    }
    let (a, b) = (node.wait_running("a")?, node.wait_running("b")?);
    fs::write(inside(a, "/vol/file"), "bytes")?;
    let place = place(&node, "vol")?;
    node.remove("v.yaml")?;
    let users = |expected: &[&str]| {
        node.wait(&format!("the users to be {expected:?}"), || {
            let object = object(&node, "volumes", "vol")?.context("it is gone")?;
            ensure!(object["metadata"]["deletionTimestamp"].is_string(), "it is not terminating: {object}");
            let users = object["status"]["users"].as_array().cloned().unwrap_or_default();
            Ok((users.iter().filter_map(Value::as_str).eq(expected.iter().copied())).then_some(()))
        })
    };
    users(&["Container default/a", "Container default/b"])?;
    // Over a crash of the agent too.
    node.restart_agent()?;
    users(&["Container default/a", "Container default/b"])?;
    let plan = node.ok(["plan"])?;
    ensure!(plan.contains("in use by Container default/a, Container default/b"), "{plan}");
    ensure!(process::alive(a) && process::alive(b), "its users were disturbed");
    node.ok(["stop", "a"])?;
    users(&["Container default/b"])?;
    ensure!(fs::read_to_string(inside(b, "/vol/file"))? == "bytes");
    // Who stopped does not get it again.
    node.ok(["start", "a"])?;
    let message = node.wait_waiting("a", &["DependencyMissing"])?;
    ensure!(message.contains("Volume default/vol is being removed"), "{message}");
    node.ok(["stop", "b"])?;
    gone(&node, "volumes", "vol")?;
    ensure!(!place.exists(), "{} was left", place.display());
    Ok(())
}

#[test]
fn a_data_container_keeps_its_volume_from_being_removed() -> Result<()> {
    let node = TestNode::start()?;
    node.write("v.yaml", &volume("vol", "{reclaimPolicy: Delete}"))?;
    node.write("d.yaml", &data("dat", "{volumes: [{mountPath: /dat, volume: vol}]}"))?;
    ready(&node, "datacontainers", "dat")?;
    node.remove("v.yaml")?;
    node.wait("the user to be told", || {
        let volume = object(&node, "volumes", "vol")?.context("it is gone")?;
        let terminating = volume["metadata"]["deletionTimestamp"].is_string();
        Ok((terminating && volume["status"]["users"][0] == "DataContainer default/dat").then_some(()))
    })?;
    node.remove("d.yaml")?;
    gone(&node, "datacontainers", "dat")?;
    gone(&node, "volumes", "vol")
}

#[test]
fn two_data_containers_share_one_volume() -> Result<()> {
    let node = TestNode::start()?;
    node.write("v.yaml", &volume("vol", "{}"))?;
    node.write("one.yaml", &data("one", "{volumes: [{mountPath: /one, volume: vol}]}"))?;
    node.write("two.yaml", &data("two", "{volumes: [{mountPath: /two, volume: vol, readOnly: true}]}"))?;
    node.write("a.yaml", &idle("a", "  volumesFrom: [{name: one}, {name: two}]\n")?)?;
    let pid = node.wait_running("a")?;
    fs::write(inside(pid, "/one/file"), "shared")?;
    ensure!(fs::read_to_string(inside(pid, "/two/file"))? == "shared");
    ensure!(fs::write(inside(pid, "/two/file"), "").is_err(), "what is read-only was written");
    Ok(())
}

#[test]
fn a_capacity_is_kept_to_grows_and_never_shrinks() -> Result<()> {
    let node = TestNode::start()?;
    node.write("v.yaml", &volume("vol", "{capacity: 16Mi}"))?;
    let full = "dd if=/dev/zero of=/vol/big bs=1M count=64 2>&1; ls -ln /vol; exec sleep 1000000";
    node.write("a.yaml", &shell("a", full, &mounts_of_volumes(&["vol"]))?)?;
    let pid = node.wait_running("a")?;
    let said = node.wait("the volume to be full", || {
        let said = node.ok(["logs", "a"])?;
        Ok(said.contains("No space left on device").then_some(said))
    })?;
    ensure!(!said.contains("lost+found"), "the filesystem's own folder is in the volume:\n{said}");
    let before = fs::metadata(inside(pid, "/vol/big"))?.len();
    ensure!(before > 4 << 20 && before < 16 << 20, "it took {before} bytes");
    let status = ready(&node, "volumes", "vol")?;
    ensure!(status["capacity"] == "16Mi" && status["capacityEnforced"] == true, "{status}");

    // Whether a mounted filesystem may grow is the machine's to say (CAP_SYS_RESOURCE).
    node.write("v.yaml", &volume("vol", "{capacity: 32Mi}"))?;
    let told = node.wait("the volume to grow, or to say why not", || {
        let status = object(&node, "volumes", "vol")?.context("it is gone")?["status"].take();
        let refused = status["phase"] == "Failed";
        Ok((status["capacity"] == "32Mi" || refused).then_some(status))
    })?;
    if told["phase"] == "Failed" {
        let message =
            not_ready(&node, "volumes", "vol", &["in use", "CAP_SYS_RESOURCE", "when nothing uses it"])?;
        ensure!(node.wait_running("a")? == pid, "it was disturbed: {message}");
        node.ok(["stop", "a"])?;
        node.write("a.yaml", &shell("a", "exec sleep 1000000", &mounts_of_volumes(&["vol"]))?)?;
        node.ok(["start", "a"])?;
    }
    let status = settled(&node, "vol", 1)?;
    ensure!(status["capacity"] == "32Mi", "{status}");
    let pid = node.wait_running("a")?;
    ensure!(size(&inside(pid, "/vol"))? > 20 << 20, "the filesystem did not grow");
    ensure!(fs::metadata(inside(pid, "/vol/big"))?.len() == before, "its data changed");
    fs::write(inside(pid, "/vol/more"), vec![1; 8 << 20])?;

    node.write("v.yaml", &volume("vol", "{capacity: 8Mi}"))?;
    let refused = "its capacity is 32Mi and cannot shrink to 8Mi";
    node.wait("the refusal to be told", || {
        let status = object(&node, "volumes", "vol")?.context("it is gone")?["status"].take();
        Ok((status["capacity"] == "32Mi"
            && status["phase"] == "Ready"
            && status.to_string().contains(refused))
        .then_some(()))
    })?;
    ensure!(node.wait_running("a")? == pid && size(&inside(pid, "/vol"))? > 20 << 20);
    // The refusal stands in nobody's way: the container can start again on what is there.
    node.ok(["restart", "a"])?;
    let pid = node.wait_restarted("a", pid)?;
    ensure!(fs::metadata(inside(pid, "/vol/more"))?.len() == 8 << 20);
    Ok(())
}

#[test]
fn another_driver_is_refused_with_the_place_of_the_data() -> Result<()> {
    let node = TestNode::start()?;
    node.write("v.yaml", &volume("vol", "{}"))?;
    node.write("a.yaml", &idle("a", &mounts_of_volumes(&["vol"]))?)?;
    let pid = node.wait_running("a")?;
    fs::write(inside(pid, "/vol/file"), "bytes")?;
    let place = place(&node, "vol")?;
    // Both as a change of what is declared and after a removal, when only the data remember.
    node.write("v.yaml", &volume("vol", "{driver: tmpfs}"))?;
    node.wait("the refusal to be told", || {
        let told =
            format!("{}{}", node.ok(["events"])?, object(&node, "volumes", "vol")?.unwrap_or_default());
        Ok((told.contains("driver") && told.contains(&*place.to_string_lossy())).then_some(()))
    })?;
    ensure!(node.wait_running("a")? == pid && fs::read_to_string(inside(pid, "/vol/file"))? == "bytes");
    end(&node, "a")?;
    node.remove("v.yaml")?;
    gone(&node, "volumes", "vol")?;
    node.write("v.yaml", &volume("vol", "{driver: tmpfs}"))?;
    not_ready(&node, "volumes", "vol", &["is of driver local, not tmpfs", &place.to_string_lossy()])?;
    node.write("a.yaml", &idle("a", &mounts_of_volumes(&["vol"]))?)?;
    let message = node.wait_waiting("a", &["DependencyMissing"])?;
    ensure!(message.contains("is of driver local, not tmpfs"), "{message}");
    ensure!(fs::read_to_string(place.join("file"))? == "bytes", "the data are gone");
    mounted_on_host(&node, &[])?;
    // As it was, it is taken again.
    node.write("v.yaml", &volume("vol", "{}"))?;
    let pid = node.wait_running("a")?;
    ensure!(fs::read_to_string(inside(pid, "/vol/file"))? == "bytes");
    Ok(())
}

#[test]
fn memory_is_shared_limited_and_outlives_containers_and_the_agent() -> Result<()> {
    let node = TestNode::start()?;
    node.write("v.yaml", &volume("mem", "{driver: tmpfs, capacity: 1Mi, reclaimPolicy: Delete}"))?;
    let script = "dd if=/dev/zero of=/mem/big bs=64k count=100 2>&1; rm /mem/big; exec sleep 1000000";
    node.write("a.yaml", &shell("a", script, &mounts_of_volumes(&["mem"]))?)?;
    node.write("b.yaml", &idle("b", &mounts_of_volumes(&["mem"]))?)?;
    let (a, b) = (node.wait_running("a")?, node.wait_running("b")?);
    node.wait("the limit to be met", || {
        Ok(node.ok(["logs", "a"])?.contains("No space left on device").then_some(()))
    })?;
    fs::write(inside(a, "/mem/file"), "shared")?;
    ensure!(fs::read_to_string(inside(b, "/mem/file"))? == "shared");
    ensure!(mount_table(b)?.iter().any(|(path, kind, _)| path == "/mem" && kind == "tmpfs"));
    mounted_on_host(&node, &["mem"])?;
    for name in ["a", "b"] {
        node.ok(["stop", name])?;
    }
    node.restart_agent()?;
    mounted_on_host(&node, &["mem"])?;
    for name in ["a", "b"] {
        node.ok(["start", name])?;
    }
    let (a, b) = (node.wait_running("a")?, node.wait_running("b")?);
    for pid in [a, b] {
        ensure!(fs::read_to_string(inside(pid, "/mem/file"))? == "shared", "lost over a restart");
    }
    redeclare(
        &node,
        "mem",
        "v.yaml",
        &volume("mem", "{driver: tmpfs, capacity: 2Mi, reclaimPolicy: Delete}"),
    )?;
    ensure!(size(&inside(a, "/mem"))? == 2 << 20, "it did not grow where it is mounted");
    ensure!(node.wait_running("a")? == a, "a growing volume disturbed its user");
    end(&node, "a")?;
    end(&node, "b")?;
    node.remove("v.yaml")?;
    gone(&node, "volumes", "mem")?;
    mounted_on_host(&node, &[])
}

#[test]
fn a_host_path_has_to_be_what_its_type_says() -> Result<()> {
    let node = TestNode::start()?;
    let host = node.folder().join("host");
    fs::create_dir(&host)?;
    fs::write(host.join("file"), "a file")?;
    let _socket = UnixListener::bind(host.join("socket"))?;
    let spec = |path: &Path, kind: &str| {
        volume("vol", &format!("{{driver: hostPath, hostPath: {{path: {}, type: {kind}}}}}", path.display()))
    };
    for (name, kind, words) in [
        ("missing", "Directory", "does not exist"),
        ("missing", "File", "does not exist"),
        ("file", "Directory", "is not a directory"),
        ("file", "DirectoryOrCreate", "is not a directory"),
        ("file", "Socket", "is not a socket"),
        ("file", "CharDevice", "is not a character device"),
        ("file", "BlockDevice", "is not a block device"),
        ("socket", "File", "is not a regular file"),
    ] {
        node.write("v.yaml", &spec(&host.join(name), kind))?;
        not_ready(&node, "volumes", "vol", &[words, &host.join(name).to_string_lossy()])
            .with_context(|| format!("{name} as {kind}"))?;
    }
    ensure!(!host.join("missing").exists(), "it was made though its type does not say so");
    node.write("a.yaml", &idle("a", &mounts_of_volumes(&["vol"]))?)?;
    let message = node.wait_waiting("a", &["DependencyMissing"])?;
    ensure!(message.contains("is not a regular file"), "{message}");
    // Each that is right runs by itself.
    for (name, kind) in
        [("made", "DirectoryOrCreate"), ("file", "File"), ("made-file", "FileOrCreate"), ("socket", "Socket")]
    {
        end(&node, "a")?;
        redeclare(&node, "vol", "v.yaml", &spec(&host.join(name), kind))?;
        node.write("a.yaml", &idle("a", &mounts_of_volumes(&["vol"]))?)?;
        let pid = node.wait_running("a")?;
        let same = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
        ensure!(same(&inside(pid, "/vol"))? == same(&host.join(name))?, "{name} as {kind} is another one");
    }
    end(&node, "a")?;
    node.remove("v.yaml")?;
    gone(&node, "volumes", "vol")?;
    ensure!(host.join("file").exists() && host.join("made").is_dir(), "somebody else's files were removed");
    Ok(())
}

#[test]
fn owner_and_mode_are_as_declared_and_change_with_the_spec() -> Result<()> {
    let node = TestNode::start()?;
    let image = Catalog::get()?.reference(catalog::filled)?;
    let names = ["dir", "img", "mem"];
    let spec = |name: &str, owner: &str| {
        let more = match name {
            "img" => "capacity: 16Mi, ",
            "mem" => "driver: tmpfs, ",
            _ => "",
        };
        volume(name, &format!("{{{more}{owner}}}"))
    };
    for name in names {
        node.write(&format!("v-{name}.yaml"), &spec(name, "owner: {uid: 1000, gid: 1001}, mode: 1472"))?;
    }
    node.write("a.yaml", &idle("a", &mounts_of_volumes(&names))?)?;
    let own = |pid: u32, path: &str| -> Result<(u32, u32, u32)> {
        let meta = fs::metadata(inside(pid, path))?;
        Ok((meta.uid(), meta.gid(), meta.mode() & 0o7777))
    };
    let pid = node.wait_running("a")?;
    for name in names {
        ensure!(own(pid, name)? == (1000, 1001, 0o2700), "{name}: {:?}", own(pid, name)?);
    }
    for name in names {
        redeclare(&node, name, &format!("v-{name}.yaml"), &spec(name, "owner: {uid: 70}, mode: 504"))?;
        let found = own(pid, name)?;
        ensure!((found.0, found.2) == (70, 0o770), "{name}: {found:?}");
    }
    // What the image says counts where nothing is declared, and what is declared where it is.
    let volumes = "volumes: [{mountPath: /foo}, {mountPath: /bar, owner: {uid: 5}, mode: 448}]";
    node.write("d.yaml", &data("dat", &format!("{{image: '{image}', {volumes}}}")))?;
    node.write("b.yaml", &idle("b", "  volumesFrom: [{name: dat}]\n")?)?;
    let pid = node.wait_running("b")?;
    ensure!(own(pid, "/foo")? == (1000, 1000, 0o750), "{:?}", own(pid, "/foo")?);
    ensure!(own(pid, "/bar")? == (5, 0, 0o700), "{:?}", own(pid, "/bar")?);
    ensure!(fs::metadata(inside(pid, "/bar/seed"))?.uid() == 0, "only the topmost directory is given away");
    Ok(())
}

/// A node whose data root is a small filesystem of its own. It goes with the node's folder.
fn small_node(mebibytes: u64) -> Result<TestNode> {
    let node = TestNode::builder().build()?;
    let file = node.folder().join("disk");
    fs::File::create(&file)?.set_len(mebibytes << 20)?;
    process::run(
        "mkfs.ext4",
        ["-q", "-m", "0", "-E", "lazy_itable_init=0,nodiscard", &file.to_string_lossy()],
    )?;
    fs::create_dir(&node.data)?;
    process::run("mount", ["-o", "loop", &file.to_string_lossy(), &node.data.to_string_lossy()])?;
    node.start_agent()?;
    Ok(node)
}

/// Takes the disk's room until only so much is left.
fn fill_disk(node: &TestNode, left: u64) -> Result<PathBuf> {
    let path = node.data.join("filler");
    let stat = rustix::fs::statvfs(&node.data)?;
    let free = stat.f_bavail * stat.f_frsize;
    let length = free.checked_sub(left).with_context(|| format!("only {free} bytes are free"))?;
    let file = fs::File::create(&path)?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, length)?;
    Ok(path)
}

#[test]
fn a_capacity_that_the_disk_cannot_hold_is_refused() -> Result<()> {
    let node = small_node(64)?;
    node.write("v.yaml", &volume("vol", "{capacity: 1Gi}"))?;
    let message = not_ready(&node, "volumes", "vol", &["1073741824 bytes", "at most"])?;
    ensure!(message.contains(&*node.data.to_string_lossy()), "it does not say where: {message}");
    node.write("a.yaml", &idle("a", &mounts_of_volumes(&["vol"]))?)?;
    let message = node.wait_waiting("a", &["DependencyMissing"])?;
    ensure!(message.contains("at most"), "{message}");
    ensure!(!node.data.join("volumes/v").exists(), "something was made for it");
    ensure!(fs::read_dir(node.data.join("volumes/.new"))?.next().is_none(), "something half made was left");
    node.write("v.yaml", &volume("vol", "{capacity: 16Mi}"))?;
    node.wait_running("a")?;
    // Neither can it grow to that.
    node.ok(["stop", "a"])?;
    node.write("v.yaml", &volume("vol", "{capacity: 2Gi}"))?;
    not_ready(&node, "volumes", "vol", &["2147483648 bytes", "at most"])?;
    node.write("v.yaml", &volume("vol", "{capacity: 16Mi}"))?;
    node.ok(["start", "a"])?;
    node.wait_running("a").map(drop)
}

#[test]
fn a_disk_that_is_full_while_filling_leaves_nothing_half_done() -> Result<()> {
    let node = small_node(96)?;
    let image = Catalog::get()?.reference(catalog::filled)?;
    node.ok(["pull", &image])?;
    let filler = fill_disk(&node, 1 << 20)?;
    let spec = format!(
        "{{image: '{image}', imagePullPolicy: Never, volumes: [{{mountPath: /foo}}, {{mountPath: /bar}}]}}"
    );
    node.write("d.yaml", &data("dat", &spec))?;
    node.write(
        "a.yaml",
        &shell_of(
            &image,
            "a",
            "exec sleep 1000000",
            "  volumesFrom: [{name: dat}]\n  imagePullPolicy: Never\n",
        )?,
    )?;
    let message = not_ready(&node, "datacontainers", "dat", &["is full", "free some"])?;
    ensure!(message.contains(&*node.data.to_string_lossy()), "it does not say what is full: {message}");
    let message = node.wait_waiting("a", &["DependencyMissing"])?;
    ensure!(message.contains("DataContainer default/dat") && message.contains("is full"), "{message}");
    let volumes = node.data.join("volumes/d/default/dat");
    for volume in fs::read_dir(&volumes)?.flatten() {
        ensure!(!volume.path().join("data.new").exists(), "half a volume was left");
        if volume.path().join("data").exists() {
            ensure!(volume.path().join("data/seed").exists(), "a volume counts as filled that is not");
        }
    }
    ensure!(node.footprint().processes.is_empty());
    // An agent that starts on a full disk says the same.
    node.restart_agent()?;
    not_ready(&node, "datacontainers", "dat", &["is full"])?;
    fs::remove_file(filler)?;
    let pid = node.wait_running("a")?;
    crate::volumes_taken::is_foo(&inside(pid, "/foo"), &[])?;
    ensure!(fs::read_to_string(inside(pid, "/bar/seed"))? == "a seed\n");
    Ok(())
}

#[test]
fn a_volume_that_is_too_small_for_the_image_says_so_and_grows() -> Result<()> {
    let node = TestNode::start()?;
    let image = Catalog::get()?.reference(catalog::filled)?;
    let manifest = |capacity: &str| {
        data("dat", &format!("{{image: '{image}', volumes: [{{mountPath: /large, capacity: {capacity}}}]}}"))
    };
    node.write("d.yaml", &manifest("8Mi"))?;
    node.write("a.yaml", &idle("a", "  volumesFrom: [{name: dat}]\n")?)?;
    let message = not_ready(&node, "datacontainers", "dat", &["is full", "raise the capacity"])?;
    let waits = node.wait_waiting("a", &["DependencyMissing"])?;
    ensure!(waits.contains("is full"), "{message} and {waits}");
    node.write("d.yaml", &manifest("32Mi"))?;
    let pid = node.wait_running("a")?;
    ensure!(fs::read(inside(pid, "/large/file"))? == vec![b'y'; 12 << 20]);
    ensure!(size(&inside(pid, "/large"))? < 32 << 20);
    Ok(())
}

#[test]
fn volumes_are_listed_with_their_status() -> Result<()> {
    let node = TestNode::start()?;
    for (name, spec) in [("a", "{}"), ("b", "{driver: tmpfs}")] {
        node.write(&format!("{name}.yaml"), &volume(name, spec))?;
        ready(&node, "volumes", name)?;
    }
    let answer = http::unix(&node.socket, "GET", "/apis/stower.dev/v1alpha1/namespaces/default/volumes")?;
    let list: Value = serde_json::from_str(&answer.text())?;
    let names: Vec<_> = list["items"]
        .as_array()
        .context("no items")?
        .iter()
        .map(|it| it["metadata"]["name"].clone())
        .collect();
    ensure!(names == ["a", "b"], "{list}");
    ensure!(
        list["items"].as_array().is_some_and(|items| items.iter().all(|it| it["status"]["phase"] == "Ready")),
        "{list}"
    );
    Ok(())
}

#[test]
fn declared_again_while_it_ends_a_volume_begins_anew_with_what_was_retained() -> Result<()> {
    for (policy, kept) in [("Delete", false), ("Retain", true)] {
        let node = TestNode::start()?;
        let manifest = volume("vol", &format!("{{reclaimPolicy: {policy}}}"));
        node.write("v.yaml", &manifest)?;
        node.write("a.yaml", &idle("a", &mounts_of_volumes(&["vol"]))?)?;
        let pid = node.wait_running("a")?;
        fs::write(inside(pid, "/vol/file"), "bytes")?;
        let uid = |object: &Value| object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let before = uid(&object(&node, "volumes", "vol")?.context("gone")?);
        node.remove("v.yaml")?;
        node.wait("it to end", || {
            let object = object(&node, "volumes", "vol")?.context("it is gone")?;
            Ok(object["metadata"]["deletionTimestamp"].is_string().then_some(()))
        })?;
        node.write("v.yaml", &manifest)?;
        // Another file is taken later, so that one was.
        node.write("later.yaml", &volume("later", "{}"))?;
        ready(&node, "volumes", "later")?;
        ensure!(
            node.wait_running("a")? == pid && inside(pid, "/vol/file").exists(),
            "{policy}: it was disturbed"
        );
        process::kill9(pid)?;
        let pid = node.wait_restarted("a", pid)?;
        let now = object(&node, "volumes", "vol")?.context("gone")?;
        ensure!(uid(&now) != before, "{policy}: the one that was removed came back: {now}");
        ensure!(inside(pid, "/vol/file").exists() == kept, "{policy}: kept is not {kept}");
    }
    Ok(())
}

#[test]
fn a_path_that_is_added_to_a_data_container_is_there_at_the_next_start() -> Result<()> {
    let node = TestNode::start()?;
    let image = Catalog::get()?.reference(catalog::filled)?;
    let manifest = |volumes: &str| data("dat", &format!("{{image: '{image}', volumes: [{volumes}]}}"));
    node.write("d.yaml", &manifest("{mountPath: /bar}"))?;
    node.write("a.yaml", &idle("a", "  volumesFrom: [{name: dat}]\n")?)?;
    let pid = node.wait_running("a")?;
    fs::remove_file(inside(pid, "/bar/seed"))?;
    fs::write(inside(pid, "/bar/mine"), "mine")?;
    node.write("d.yaml", &manifest("{mountPath: /foo}, {mountPath: /bar}"))?;
    node.wait("both to be told", || {
        let status = ready(&node, "datacontainers", "dat")?;
        let volumes = status["volumes"].as_array().cloned().unwrap_or_default();
        Ok((volumes.len() == 2 && volumes.iter().all(|it| it["path"].is_string())).then_some(()))
    })?;
    ensure!(
        node.wait_running("a")? == pid && !inside(pid, "/foo").exists(),
        "a running container was disturbed"
    );
    node.ok(["restart", "a"])?;
    let pid = node.wait_restarted("a", pid)?;
    crate::volumes_taken::is_foo(&inside(pid, "/foo"), &[])?;
    ensure!(
        inside(pid, "/bar/mine").exists() && !inside(pid, "/bar/seed").exists(),
        "what was filled was filled again"
    );
    // What is taken away from it is not mounted any more, and not lost.
    node.write("d.yaml", &manifest("{mountPath: /foo}"))?;
    node.wait("one to be told", || {
        let status = ready(&node, "datacontainers", "dat")?;
        Ok((status["volumes"].as_array().map(Vec::len) == Some(1)).then_some(()))
    })?;
    node.ok(["restart", "a"])?;
    let pid = node.wait_restarted("a", pid)?;
    ensure!(!inside(pid, "/bar/mine").exists(), "it is still mounted");
    node.write("d.yaml", &manifest("{mountPath: /bar}"))?;
    node.wait("the other to be told", || {
        let status = ready(&node, "datacontainers", "dat")?;
        Ok((status["volumes"][0]["mountPath"] == "/bar").then_some(()))
    })?;
    node.ok(["restart", "a"])?;
    let pid = node.wait_restarted("a", pid)?;
    ensure!(fs::read_to_string(inside(pid, "/bar/mine"))? == "mine");
    Ok(())
}

#[test]
fn data_that_somebody_took_away_are_missed_and_taken_again_when_they_are_back() -> Result<()> {
    let node = TestNode::start()?;
    node.write("v.yaml", &volume("vol", "{}"))?;
    node.write("a.yaml", &idle("a", &mounts_of_volumes(&["vol"]))?)?;
    let pid = node.wait_running("a")?;
    fs::write(inside(pid, "/vol/file"), "bytes")?;
    let folder = place(&node, "vol")?.parent().context("no parent")?.to_owned();
    let away = node.folder().join("away");
    node.ok(["stop", "a"])?;
    node.wait_container("a", "stopped", |item| !item["status"]["state"]["running"].is_object())?;
    fs::rename(&folder, &away)?;
    node.ok(["start", "a"])?;
    let item = node.wait_container("a", "waiting for its data", |item| {
        item["status"]["state"]["waiting"]["message"]
            .as_str()
            .is_some_and(|it| it.contains("Volume default/vol is gone; put it back"))
    })?;
    ensure!(!folder.join("data").exists(), "an empty volume took its place: {}", item["status"]);
    fs::rename(&away, &folder)?;
    let pid = node.wait_running("a")?;
    ensure!(fs::read_to_string(inside(pid, "/vol/file"))? == "bytes");
    Ok(())
}
