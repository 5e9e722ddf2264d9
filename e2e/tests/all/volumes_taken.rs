//! `volumesFrom` in all its forms, and the volumes that images ask for: what Docker's own tests name, each as one here.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;
use stower_e2e::node::uid_of;
use stower_e2e::{Catalog, TestNode, catalog, process};

use crate::support::{
    data, data_container, idle, inside, is_read_only, mount_table, mounted_on_host, mounts_of_volumes,
    mounts_told, ready, shell, shell_of, volume,
};

/// An `emptyDir` at a path.
fn empty_dir(path: &str, more: &str) -> String {
    format!(
        "  volumes: [{{name: own, emptyDir: {{}}}}]\n  volumeMounts: [{{name: own, mountPath: {path}{more}}}]\n"
    )
}

fn takes(name: &str, more: &str) -> String {
    format!("  volumesFrom: [{{kind: Container, name: {name}{more}}}]\n")
}

fn errno(error: &std::io::Error) -> Option<Errno> {
    Errno::from_io_error(error)
}

/// Where the only volume of a DataContainer is on the host.
fn place(node: &TestNode, name: &str) -> Result<String> {
    let status = ready(node, "datacontainers", name)?;
    Ok(status["volumes"][0]["path"].as_str().context("no path")?.to_owned())
}

#[test]
fn an_exited_container_still_gives_its_volumes() -> Result<()> {
    let node = TestNode::start()?;
    let body = format!("{}  restartPolicy: Never\n", empty_dir("/shared", ""));
    node.write("source.yaml", &shell("source", "echo from the source > /shared/file", &body)?)?;
    node.wait_container("source", "at its end", |item| item["status"]["phase"] == "Succeeded")?;
    node.write("taker.yaml", &idle("taker", &takes("source", ""))?)?;
    let pid = node.wait_running("taker")?;
    ensure!(fs::read_to_string(inside(pid, "/shared/file"))? == "from the source\n");
    // And it takes them again when it starts again, the source as dead as before.
    node.ok(["restart", "taker"])?;
    let pid = node.wait_restarted("taker", pid)?;
    ensure!(fs::read_to_string(inside(pid, "/shared/file"))? == "from the source\n");
    Ok(())
}

#[test]
fn taken_read_only_they_cannot_be_written_and_the_source_still_can() -> Result<()> {
    let node = TestNode::start()?;
    node.write("source.yaml", &idle("source", &empty_dir("/shared", ""))?)?;
    node.write("reader.yaml", &idle("reader", &takes("source", ", readOnly: true"))?)?;
    node.write("writer.yaml", &idle("writer", &takes("source", ""))?)?;
    let (source, reader, writer) =
        (node.wait_running("source")?, node.wait_running("reader")?, node.wait_running("writer")?);
    fs::write(inside(source, "/shared/a"), "a")?;
    fs::write(inside(writer, "/shared/b"), "b")?;
    let refused = fs::write(inside(reader, "/shared/c"), "c").err().context("the reader can write")?;
    ensure!(errno(&refused) == Some(Errno::ROFS), "{refused}");
    ensure!(fs::read_to_string(inside(reader, "/shared/a"))? == "a");
    ensure!(fs::read_to_string(inside(reader, "/shared/b"))? == "b");
    ensure!(is_read_only(reader, "/shared")? && !is_read_only(writer, "/shared")?);
    let told = mounts_told(&node.container("reader")?.context("gone")?);
    ensure!(told == [("/shared".to_owned(), Some("Container default/source".to_owned()), true)], "{told:?}");
    Ok(())
}

#[test]
fn what_is_read_only_in_the_source_stays_so_for_all_who_take_it() -> Result<()> {
    let node = TestNode::start()?;
    node.write("data.yaml", &data("data", "{volumes: [{mountPath: /data, readOnly: true}]}"))?;
    node.write("source.yaml", &idle("source", &empty_dir("/own", ", readOnly: true"))?)?;
    // A chain: each takes from the one before, none asks for read-only.
    let first = "  volumesFrom: [{name: data}, {kind: Container, name: source}]\n";
    node.write("first.yaml", &idle("first", first)?)?;
    node.write("second.yaml", &idle("second", &takes("first", ", readOnly: false"))?)?;
    for name in ["first", "second"] {
        let pid = node.wait_running(name)?;
        for path in ["/data", "/own"] {
            let refused = fs::write(inside(pid, path).join("x"), "")
                .err()
                .with_context(|| format!("{name} writes {path}"))?;
            ensure!(errno(&refused) == Some(Errno::ROFS), "{name} {path}: {refused}");
        }
    }
    Ok(())
}

#[test]
fn a_read_only_taker_gives_on_what_is_read_only() -> Result<()> {
    let node = TestNode::start()?;
    node.write("data.yaml", &data_container("data", "/data", ""))?;
    node.write("first.yaml", &idle("first", "  volumesFrom: [{name: data, readOnly: true}]\n")?)?;
    node.write("second.yaml", &idle("second", &takes("first", ""))?)?;
    let pid = node.wait_running("second")?;
    ensure!(is_read_only(pid, "/data")?, "a container gave on more than it has");
    Ok(())
}

#[test]
fn a_mount_of_its_own_wins_over_a_taken_one() -> Result<()> {
    let node = TestNode::start()?;
    node.write("data.yaml", &data("data", "{volumes: [{mountPath: /data}, {mountPath: /more}]}"))?;
    fs::write(format!("{}/taken", place(&node, "data")?), "")?;
    let body = format!("{}  volumesFrom: [{{name: data}}]\n", empty_dir("/data", ""));
    node.write("taker.yaml", &idle("taker", &body)?)?;
    let pid = node.wait_running("taker")?;
    ensure!(!inside(pid, "/data/taken").exists(), "the taken volume hides the own one");
    let told = mounts_told(&node.container("taker")?.context("gone")?);
    let more = ("/more".to_owned(), Some("DataContainer default/data".to_owned()), false);
    ensure!(told == [("/data".to_owned(), None, false), more], "{told:?}");
    Ok(())
}

#[test]
fn many_sources_give_all_their_volumes() -> Result<()> {
    let node = TestNode::start()?;
    node.write("a.yaml", &data("a", "{volumes: [{mountPath: /a/one}, {mountPath: /a}]}"))?;
    node.write("b.yaml", &data_container("b", "/b", ""))?;
    node.write("c.yaml", &idle("c", &empty_dir("/c/deep/down", ""))?)?;
    let from = "  volumesFrom: [{name: b}, {kind: Container, name: c}, {name: a}]\n";
    node.write("taker.yaml", &idle("taker", from)?)?;
    let pid = node.wait_running("taker")?;
    for path in ["/b", "/c/deep/down"] {
        fs::write(inside(pid, path).join("file"), path)?;
    }
    // The inner one is mounted after the outer one, whatever the order of the source.
    let targets: Vec<String> = mount_table(pid)?.into_iter().map(|(path, ..)| path).collect();
    let at = |path: &str| {
        targets.iter().position(|it| it == path).with_context(|| format!("{path} is not mounted"))
    };
    ensure!(at("/a")? < at("/a/one")?, "{targets:?}");
    let told = mounts_told(&node.container("taker")?.context("gone")?);
    let expected = [
        ("/a", "DataContainer default/a", false),
        ("/a/one", "DataContainer default/a", false),
        ("/b", "DataContainer default/b", false),
        ("/c/deep/down", "Container default/c", false),
    ];
    let expected: BTreeSet<_> =
        expected.map(|(path, from, only)| (path.to_owned(), Some(from.to_owned()), only)).into();
    ensure!(told.iter().cloned().collect::<BTreeSet<_>>() == expected && told.len() == 4, "{told:?}");
    ensure!(fs::read_to_string(format!("{}/file", place(&node, "b")?))? == "/b");
    Ok(())
}

#[test]
fn a_restart_waits_for_a_source_that_was_removed_until_it_is_back() -> Result<()> {
    let node = TestNode::start()?;
    node.write("source.yaml", &idle("source", &empty_dir("/shared", ""))?)?;
    node.write("taker.yaml", &idle("taker", &takes("source", ""))?)?;
    let (source, pid) = (node.wait_running("source")?, node.wait_running("taker")?);
    fs::write(inside(pid, "/shared/file"), "kept while in use")?;
    node.remove("source.yaml")?;
    // Its storage is in use: it ends, and its files stay until the taker has stopped.
    node.wait("the source's process to end", || Ok((!process::alive(source)).then_some(())))?;
    ensure!(node.wait_running("taker")? == pid && inside(pid, "/shared/file").exists());
    process::kill9(pid)?;
    let message = node.wait_waiting("taker", &["DependencyMissing"])?;
    ensure!(message.contains("Container default/source is"), "{message}");
    node.wait_gone("source")?;
    node.ok(["start", "taker"])?;
    let message = node.wait_waiting("taker", &["DependencyMissing"])?;
    ensure!(message.contains("Container default/source is not there"), "{message}");
    ensure!(node.footprint().processes.is_empty(), "{:?}", node.footprint());

    node.write("source.yaml", &idle("source", &empty_dir("/shared", ""))?)?;
    let pid = node.wait_running("taker")?;
    ensure!(
        !inside(pid, "/shared/file").exists(),
        "another source has the files of the one that was removed"
    );
    Ok(())
}

/// That a folder has what the image `filled` has at `/foo`, and `more`, which is named.
pub(crate) fn is_foo(folder: &std::path::Path, more: &[&str]) -> Result<()> {
    let own = |path: &str| -> Result<(u32, u32, u32)> {
        let meta = fs::symlink_metadata(folder.join(path)).with_context(|| format!("look at {path}"))?;
        Ok((meta.uid(), meta.gid(), meta.mode() & 0o7777))
    };
    for (path, expected) in [
        ("", (1000, 1000, 0o750)),
        ("file", (1000, 1001, 0o640)),
        ("deep", (1000, 1000, 0o2770)),
        ("deep/inner/secret", (1, 70, 0o600)),
        ("program", (0, 0, 0o4755)),
    ] {
        let found = own(path)?;
        ensure!(found == expected, "{path} is of {found:?}, not of {expected:?}");
    }
    ensure!(fs::read_to_string(folder.join("file"))? == "the content of foo\n");
    ensure!(fs::read(folder.join("big"))? == vec![b'x'; 2 << 20]);
    let inode = |path: &str| fs::symlink_metadata(folder.join(path)).map(|meta| (meta.ino(), meta.nlink()));
    ensure!(inode("file")? == inode("hard")? && inode("file")?.1 == 2, "the hard link became a copy");
    ensure!(fs::read_link(folder.join("link"))?.as_os_str() == "file");
    ensure!(fs::read_link(folder.join("out"))?.as_os_str() == "/etc/passwd");
    let mut value = [0_u8; 16];
    let length = rustix::fs::getxattr(folder.join("file"), "user.note", &mut value)?;
    ensure!(&value[..length] == b"kept", "the attribute was not kept");
    let names: BTreeSet<String> = fs::read_dir(folder)?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let expected: BTreeSet<String> = ["big", "deep", "file", "hard", "link", "out", "program"]
        .iter()
        .chain(more)
        .map(|name| (*name).to_owned())
        .collect();
    ensure!(names == expected, "{names:?}");
    Ok(())
}

#[test]
fn a_volume_is_filled_with_all_that_the_image_has() -> Result<()> {
    let node = TestNode::start()?;
    let image = Catalog::get()?.reference(catalog::filled)?;
    let spec = format!(
        "{{image: '{image}', volumes: [{{mountPath: /foo}}, {{mountPath: /foo/none}}, {{mountPath: /bar}}]}}"
    );
    node.write("data.yaml", &data("data", &spec))?;
    node.write("taker.yaml", &idle("taker", "  volumesFrom: [{name: data}]\n")?)?;
    let pid = node.wait_running("taker")?;
    // Under the mount at /foo/none is a directory that was made for it.
    let folder = place(&node, "data")?;
    ensure!(fs::read_to_string(inside(pid, "/foo/file"))? == "the content of foo\n");
    ensure!(fs::read_to_string(inside(pid, "/bar/seed"))? == "a seed\n");
    let none = inside(pid, "/foo/none");
    ensure!(
        none.is_dir() && fs::read_dir(none)?.next().is_none(),
        "a path that the image lacks is an empty volume"
    );
    fs::remove_dir(format!("{folder}/none"))?;
    is_foo(folder.as_ref(), &[])?;
    let status = ready(&node, "datacontainers", "data")?;
    let from = status["volumes"][0]["filledFrom"].as_str().unwrap_or_default();
    ensure!(from.starts_with("sha256:") && status["image"] == from, "{status}");
    mounted_on_host(&node, &[])
}

#[test]
fn a_volume_that_was_filled_is_never_filled_again() -> Result<()> {
    let node = TestNode::start()?;
    let image = Catalog::get()?.reference(catalog::filled)?;
    let manifest = data("data", &format!("{{image: '{image}', volumes: [{{mountPath: /bar}}]}}"));
    node.write("data.yaml", &manifest)?;
    node.write("taker.yaml", &idle("taker", "  volumesFrom: [{name: data}]\n")?)?;
    let pid = node.wait_running("taker")?;
    fs::remove_file(inside(pid, "/bar/seed"))?;
    fs::write(inside(pid, "/bar/mine"), "mine")?;
    // Over a restart of all, and over the end of the DataContainer, whose data are retained.
    node.restart_agent()?;
    node.ok(["restart", "taker"])?;
    let pid = node.wait_restarted("taker", pid)?;
    ensure!(!inside(pid, "/bar/seed").exists() && inside(pid, "/bar/mine").exists());
    node.remove("taker.yaml")?;
    node.wait_gone("taker")?;
    node.remove("data.yaml")?;
    crate::support::gone(&node, "datacontainers", "data")?;
    node.write("data.yaml", &manifest)?;
    node.write("taker.yaml", &idle("taker", "  volumesFrom: [{name: data}]\n")?)?;
    let pid = node.wait_running("taker")?;
    ensure!(!inside(pid, "/bar/seed").exists() && inside(pid, "/bar/mine").exists());
    Ok(())
}

#[test]
fn named_volumes_stay_when_their_container_goes() -> Result<()> {
    let node = TestNode::start()?;
    node.write("v.yaml", &volume("vol", "{reclaimPolicy: Delete}"))?;
    node.write("d.yaml", &data("dat", "{reclaimPolicy: Delete, volumes: [{mountPath: /dat}]}"))?;
    let body = format!("{}  volumesFrom: [{{name: dat}}]\n", mounts_of_volumes(&["vol"]));
    node.write("a.yaml", &idle("a", &body)?)?;
    node.write("b.yaml", &idle("b", &takes("a", ""))?)?;
    let (a, b) = (node.wait_running("a")?, node.wait_running("b")?);
    fs::write(inside(a, "/vol/file"), "vol")?;
    fs::write(inside(b, "/dat/file"), "dat")?;
    for name in ["b", "a"] {
        node.remove(&format!("{name}.yaml"))?;
        node.wait_gone(name)?;
    }
    node.write("c.yaml", &idle("c", &body)?)?;
    let c = node.wait_running("c")?;
    ensure!(fs::read_to_string(inside(c, "/vol/file"))? == "vol");
    ensure!(fs::read_to_string(inside(c, "/dat/file"))? == "dat");
    Ok(())
}

#[test]
fn no_mount_is_there_twice_and_none_is_the_hosts() -> Result<()> {
    let node = TestNode::start()?;
    node.write("v.yaml", &volume("img", "{capacity: 16Mi}"))?;
    node.write("t.yaml", &volume("mem", "{driver: tmpfs, capacity: 1Mi}"))?;
    node.write("d.yaml", &data("dat", "{volumes: [{mountPath: /dat}, {mountPath: /dat/img, volume: img}]}"))?;
    // The same data container by two ways, and a container that has it too: each path once.
    let body = format!("{}  volumesFrom: [{{name: dat}}]\n", mounts_of_volumes(&["mem"]));
    node.write("a.yaml", &idle("a", &body)?)?;
    node.write("b.yaml", &idle("b", &format!("{}{}", mounts_of_volumes(&["mem"]), takes("a", "")))?)?;
    for name in ["a", "b"] {
        let mut pid = node.wait_running(name)?;
        for _ in 0..3 {
            let targets: Vec<String> = mount_table(pid)?.into_iter().map(|(path, ..)| path).collect();
            let once: BTreeSet<&String> = targets.iter().collect();
            ensure!(once.len() == targets.len(), "a mount is there twice in {name}: {targets:?}");
            for path in ["/dat", "/dat/img", "/mem"] {
                ensure!(once.contains(&path.to_owned()), "{path} is not mounted in {name}: {targets:?}");
            }
            let told = mounts_told(&node.container(name)?.context("gone")?);
            ensure!(told.len() == 3, "{told:?}");
            let folder = node.folder().to_string_lossy().into_owned();
            ensure!(
                !targets.iter().any(|path| path.contains(&folder)),
                "the host's paths are in {name}: {targets:?}"
            );
            mounted_on_host(&node, &["mem"])?;
            node.ok(["restart", name])?;
            pid = node.wait_restarted(name, pid)?;
        }
    }
    for name in ["a", "b"] {
        node.remove(&format!("{name}.yaml"))?;
    }
    node.wait_gone("a")?;
    node.wait_gone("b")?;
    node.wait("the loop device to go", || Ok(crate::support::loops(&node)?.is_empty().then_some(())))
}

#[test]
fn volumes_that_an_image_asks_for_go_with_their_container() -> Result<()> {
    let node = TestNode::start()?;
    let image = Catalog::get()?.reference(catalog::filled_volumes)?;
    let manifest = |body: &str| shell_of(&image, "app", "exec sleep 1000000", body);
    node.write("app.yaml", &manifest("")?)?;
    let pid = node.wait_running("app")?;
    is_foo(&inside(pid, "/foo"), &[])?;
    let table = mount_table(pid)?;
    for path in ["/foo", "/anon"] {
        ensure!(table.iter().any(|(target, ..)| target == path), "{path} is no volume: {table:?}");
    }
    let told = mounts_told(&node.container("app")?.context("gone")?);
    ensure!(told == [("/anon".to_owned(), None, false), ("/foo".to_owned(), None, false)], "{told:?}");
    fs::write(inside(pid, "/anon/mine"), "mine")?;
    fs::write(inside(pid, "/foo/mine"), "mine")?;
    // Kept over a restart by rule and one by hand, and taken by others.
    process::kill9(pid)?;
    let pid = node.wait_restarted("app", pid)?;
    node.ok(["restart", "app"])?;
    let pid = node.wait_restarted("app", pid)?;
    ensure!(inside(pid, "/anon/mine").exists() && inside(pid, "/foo/mine").exists(), "lost by a restart");
    node.write("taker.yaml", &idle("taker", &takes("app", ""))?)?;
    let taker = node.wait_running("taker")?;
    ensure!(inside(taker, "/anon/mine").exists() && inside(taker, "/foo/mine").exists(), "not taken");
    node.remove("taker.yaml")?;
    node.wait_gone("taker")?;
    // A mount of one's own covers what the image asks for, in a container that is replaced by this change.
    let own = "  volumes: [{name: own, emptyDir: {}}]\n  volumeMounts: [{name: own, mountPath: /foo/}]\n";
    node.write("app.yaml", &manifest(own)?)?;
    let pid = node.wait_restarted("app", pid)?;
    ensure!(fs::read_dir(inside(pid, "/foo"))?.next().is_none(), "the image's volume hides the own one");
    ensure!(!inside(pid, "/anon/mine").exists(), "a replacement kept the former one's volume");

    let uid = uid_of(&node.container("app")?.context("gone")?)?;
    let place = node.data.join("volumes/c").join(uid);
    ensure!(place.is_dir(), "{} is not there", place.display());
    node.remove("app.yaml")?;
    node.wait_gone("app")?;
    ensure!(!place.exists(), "{} was left", place.display());
    Ok(())
}

#[test]
fn a_taken_volume_covers_what_the_image_asks_for() -> Result<()> {
    let node = TestNode::start()?;
    let image = Catalog::get()?.reference(catalog::filled_volumes)?;
    node.write("data.yaml", &data_container("data", "/anon", ""))?;
    fs::write(format!("{}/taken", place(&node, "data")?), "")?;
    node.write(
        "app.yaml",
        &shell_of(&image, "app", "exec sleep 1000000", "  volumesFrom: [{name: data}]\n")?,
    )?;
    let pid = node.wait_running("app")?;
    ensure!(inside(pid, "/anon/taken").exists(), "the image's volume hides the taken one");
    is_foo(&inside(pid, "/foo"), &[])
}

#[test]
fn status_and_events_tell_where_each_mount_is_from() -> Result<()> {
    let node = TestNode::start()?;
    let image = Catalog::get()?.reference(catalog::filled_volumes)?;
    node.write("v.yaml", &volume("vol", "{}"))?;
    node.write(
        "d.yaml",
        &data(
            "dat",
            "{volumes: [{mountPath: /dat/one}, {mountPath: /dat/two, volume: vol, readOnly: true}]}",
        ),
    )?;
    let body = format!(
        "{}  volumesFrom: [{{name: dat}}, {{name: late}}]\n",
        "  volumes: [{name: scratch, emptyDir: {medium: Memory}}]\n  volumeMounts: [{name: scratch, mountPath: /tmp, readOnly: true}]\n"
    );
    node.write("app.yaml", &shell_of(&image, "app", "exec sleep 1000000", &body)?)?;
    node.wait_waiting("app", &["DependencyMissing"])?;
    let item = node.container("app")?.context("gone")?;
    ensure!(
        mounts_told(&item).is_empty(),
        "mounts are told of a container that never ran: {}",
        item["status"]
    );
    node.wait("an event to tell what is missing", || {
        let events = node.ok(["events"])?;
        Ok((events.contains("DependencyMissing")
            && events.contains("DataContainer default/late is not there"))
        .then_some(()))
    })?;
    node.write("late.yaml", &data_container("late", "/late", ""))?;
    node.wait_running("app")?;
    let item = node.container("app")?.context("gone")?;
    let told: Vec<_> = item["status"]["mounts"].as_array().cloned().unwrap_or_default();
    let row = |mount: &serde_json::Value| {
        let text = |name: &str| mount[name].as_str().unwrap_or("-").to_owned();
        format!("{} {} {} {}", text("mountPath"), text("name"), text("from"), mount["readOnly"] == true)
    };
    let rows: BTreeSet<String> = told.iter().map(row).collect();
    let expected = [
        "/anon - - false",
        "/dat/one - DataContainer default/dat false",
        "/dat/two vol DataContainer default/dat true",
        "/foo - - false",
        "/late - DataContainer default/late false",
        "/tmp scratch - true",
    ];
    ensure!(rows.iter().map(String::as_str).eq(expected) && told.len() == 6, "{rows:?}");
    for (plural, name, user) in [
        ("datacontainers", "dat", "Container default/app"),
        ("datacontainers", "late", "Container default/app"),
        ("volumes", "vol", "Container default/app"),
        ("volumes", "vol", "DataContainer default/dat"),
    ] {
        let status = ready(&node, plural, name)?;
        let users = status["users"].as_array().cloned().unwrap_or_default();
        ensure!(users.iter().any(|it| it == user), "{name} does not name {user}: {status}");
    }
    Ok(())
}
