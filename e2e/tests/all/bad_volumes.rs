//! Volumes that cannot be: each gets a message that names what is wrong, nothing is half done, and nothing of an image or
//! a volume reaches the host.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::{Value, json};
use stower_e2e::{Catalog, Compression, TestNode, catalog};

use crate::support::{
    container, data, data_container, idle, inside, mount_table, mounted_on_host, mounts_told, ready, shell,
    shell_of, volume,
};

/// That nothing was made for a container that waits.
fn nothing_made(node: &TestNode, name: &str) -> Result<()> {
    let uid = node.container(name)?.context("it is not listed")?["metadata"]["uid"].clone();
    let uid = uid.as_str().context("no UID")?;
    for place in ["data/containers", "data/logs", "data/volumes/c", "run/c"] {
        let path = node.folder().join(place).join(uid);
        ensure!(!path.exists(), "{} was made", path.display());
    }
    mounted_on_host(node, &[])
}

#[test]
fn manifests_with_impossible_paths_are_refused_by_name() -> Result<()> {
    let node = TestNode::builder().no_registry().build()?;
    let mounted = |mount: &str| {
        container(
            "a",
            "busybox",
            &format!("  volumes: [{{name: v, emptyDir: {{}}}}]\n  volumeMounts: [{mount}]\n"),
        )
    };
    let cases = [
        (mounted("{name: v, mountPath: relative}"), "spec.volumeMounts[0].mountPath"),
        (mounted("{name: v, mountPath: /}"), "spec.volumeMounts[0].mountPath"),
        (mounted("{name: v, mountPath: /./}"), "other than '/'"),
        (mounted("{name: v, mountPath: /a/../b}"), "must not contain '..'"),
        (mounted("{name: v, mountPath: /a}, {name: v, mountPath: /a}"), "is there twice"),
        (
            mounted("{name: v, mountPath: /a, subPath: ../b}"),
            "subPath must be relative and must not contain '..'",
        ),
        (
            mounted("{name: v, mountPath: /a, subPath: b/../../c}"),
            "subPath must be relative and must not contain '..'",
        ),
        (mounted("{name: v, mountPath: /a, subPath: /b}"), "subPath must be relative"),
        (mounted("{name: other, mountPath: /a}"), "must name one of volumes"),
        (data("d", "{volumes: [{mountPath: relative}]}"), "spec.volumes[0].mountPath"),
        (data("d", "{volumes: [{mountPath: /}]}"), "spec.volumes[0].mountPath"),
        (data("d", "{volumes: [{mountPath: /a/../../b}]}"), "must not contain '..'"),
        (data("d", "{volumes: [{mountPath: /a}, {mountPath: /a}]}"), "is there twice"),
        (volume("v", "{driver: hostPath, hostPath: {path: /a/../b}}"), "must not contain '..'"),
        (volume("v", "{driver: hostPath}"), "hostPath must be set"),
        (volume("v", "{capacity: -1}"), "capacity"),
        (volume("v", "{driver: zfs}"), "zfs"),
    ];
    let file = node.folder().join("bad.yaml");
    for (text, words) in cases {
        fs::write(&file, &text)?;
        let output = node.cli(["validate", "-f", file.to_str().context("an odd path")?])?;
        let said = format!("{}{}", output.stdout, output.stderr);
        ensure!(
            output.code > 0 && said.contains(words) && said.contains("bad.yaml:"),
            "{words:?} is not in:\n{said}\nfor:\n{text}"
        );
    }
    Ok(())
}

#[test]
fn circles_are_told_with_everyone_in_them() -> Result<()> {
    let node = TestNode::start()?;
    let from = |name: &str| format!("  volumesFrom: [{{kind: Container, name: {name}}}]\n");
    node.write("self.yaml", &idle("self", &from("self"))?)?;
    for (name, next) in [("a", "b"), ("b", "c"), ("c", "a"), ("outside", "a")] {
        node.write(&format!("{name}.yaml"), &idle(name, &from(next))?)?;
    }
    for (name, words) in [
        ("self", "self → self"),
        ("a", "a → b → c → a"),
        ("b", "b → c → a → b"),
        ("outside", "a → b → c → a"),
    ] {
        let message = node.wait_waiting(name, &["CreateContainerConfigError"])?;
        ensure!(message.contains("circle") && message.contains(words), "{name}: {message}");
        nothing_made(&node, name)?;
    }
    // One who leaves it frees all.
    node.write("c.yaml", &idle("c", "")?)?;
    for name in ["a", "b", "c", "outside"] {
        node.wait_running(name)?;
    }
    Ok(())
}

#[test]
fn every_missing_source_is_named_at_once() -> Result<()> {
    let node = TestNode::start()?;
    let body = "  volumesFrom: [{name: one}, {kind: Container, name: two}, {name: here}]\n  volumes: [{name: three, volume: {name: \
                three}}, {name: four, configMap: {name: four}}, {name: five, secret: {secretName: five}}]\n  volumeMounts: [{name: \
                three, mountPath: /three}, {name: four, mountPath: /four}, {name: five, mountPath: /five}]\n";
    node.write("here.yaml", &data_container("here", "/here", ""))?;
    ready(&node, "datacontainers", "here")?;
    node.write("a.yaml", &idle("a", body)?)?;
    let message = node.wait_waiting("a", &["DependencyMissing"])?;
    for missing in [
        "DataContainer default/one",
        "Container default/two",
        "Volume default/three",
        "ConfigMap default/four",
        "Secret default/five",
    ] {
        ensure!(message.contains(&format!("{missing} is not there")), "{missing} is not named: {message}");
    }
    ensure!(!message.contains("default/here"), "{message}");
    nothing_made(&node, "a")
}

#[test]
fn two_sources_of_one_path_are_both_named() -> Result<()> {
    let node = TestNode::start()?;
    node.write("one.yaml", &data("one", "{volumes: [{mountPath: /same}, {mountPath: /one}]}"))?;
    node.write("two.yaml", &data("two", "{volumes: [{mountPath: /same}, {mountPath: /two}]}"))?;
    let from = "  volumesFrom: [{name: one}, {name: two}]\n";
    node.write("a.yaml", &idle("a", from)?)?;
    let message = node.wait_waiting("a", &["CreateContainerConfigError"])?;
    for word in ["DataContainer one", "DataContainer two", "/same"] {
        ensure!(message.contains(word), "{word} is not in: {message}");
    }
    nothing_made(&node, "a")?;
    // A mount of its own there settles it.
    let own = "  volumes: [{name: own, emptyDir: {}}]\n  volumeMounts: [{name: own, mountPath: /same}]\n";
    node.write("a.yaml", &idle("a", &format!("{from}{own}"))?)?;
    node.wait_running("a")?;
    let told: Vec<String> =
        mounts_told(&node.container("a")?.context("gone")?).into_iter().map(|(path, ..)| path).collect();
    ensure!(told == ["/one", "/same", "/two"], "{told:?}");
    Ok(())
}

/// An image of the content of `filled` and some links, which asks for volumes.
fn hostile_image(name: &str, links: &[(&str, &str)], volumes: &[String]) -> Result<String> {
    let catalog = Catalog::get()?;
    let (builder, key) = catalog::filled_builder(name)?;
    let folder = tempfile::tempdir()?;
    for (link, target) in links {
        symlink(target, folder.path().join(link))?;
    }
    let volumes: Value =
        volumes.iter().map(|path| (path.clone(), json!({}))).collect::<serde_json::Map<_, _>>().into();
    let config =
        json!({"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["/bin/sh"], "Volumes": volumes});
    let key = format!("{key}-{links:?}");
    let image = builder.layer(folder.path(), Compression::Gzip).config(config).build(&key)?;
    catalog.registry.push(&image, "latest")
}

#[test]
fn volumes_of_an_image_that_lead_out_of_it_are_refused() -> Result<()> {
    let node = TestNode::start()?;
    for (number, path) in
        ["/", "/..", "/../etc", "/etc/../../etc", "/a/..", ".", "/null\0byte"].into_iter().enumerate()
    {
        let name = format!("hostile-{number}");
        let image = hostile_image(&name, &[], &[path.to_owned(), "/right".to_owned()])?;
        node.write(&format!("{name}.yaml"), &shell_of(&image, &name, "exec sleep 1000000", "")?)?;
        let message = node.wait_waiting(&name, &["CreateContainerConfigError"])?;
        ensure!(message.contains("VOLUME") && message.contains("use another image"), "{path:?}: {message}");
        nothing_made(&node, &name)?;
    }
    Ok(())
}

#[test]
fn an_image_cannot_ask_for_volumes_without_end() -> Result<()> {
    let node = TestNode::start()?;
    let many: Vec<String> = (0..2000).map(|n| format!("/v/{n}")).collect();
    let image = hostile_image("hostile-many", &[], &many)?;
    node.write("a.yaml", &shell_of(&image, "a", "exec sleep 1000000", "")?)?;
    let message = node.wait_waiting("a", &["CreateContainerConfigError", "ErrImagePull", "InvalidImage"])?;
    ensure!(message.contains("2000") || message.contains("at most"), "{message}");
    nothing_made(&node, "a")
}

#[test]
fn links_of_an_image_lead_no_volume_to_the_host() -> Result<()> {
    let node = TestNode::start()?;
    let escape = PathBuf::from(format!("/var/tmp/stower-escape-{}", std::process::id()));
    fs::create_dir(&escape)?;
    fs::write(escape.join("loot"), "the host's")?;
    let ended = try_links(&node, &escape);
    let found: BTreeSet<String> = fs::read_dir(&escape)?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    fs::remove_dir_all(&escape)?;
    ended?;
    ensure!(found.iter().eq(["loot"]), "made on the host: {found:?}");
    Ok(())
}

fn try_links(node: &TestNode, escape: &Path) -> Result<()> {
    let up = format!("../../../../../../../..{}", escape.display());
    let absolute = escape.display().to_string();
    let links = [("up", up.as_str()), ("absolute", absolute.as_str()), ("etc-link", "/etc")];
    let volumes = ["/up/volume", "/absolute/volume", "/etc-link", "/up"].map(str::to_owned);
    let image = hostile_image("hostile-links", &links, &volumes)?;
    // The image's links and a mount and a taken volume at the end of them.
    node.write(
        "d.yaml",
        &data(
            "dat",
            &format!(
                "{{image: '{image}', volumes: [{{mountPath: /absolute/taken}}, {{mountPath: /up/taken}}]}}"
            ),
        ),
    )?;
    let body = "  volumesFrom: [{name: dat}]\n  volumes: [{name: own, emptyDir: {}}]\n  volumeMounts: [{name: own, mountPath: \
                /up/own}]\n";
    node.write(
        "a.yaml",
        &shell_of(
            &image,
            "a",
            "cat /etc-link/passwd; ls -a /up/ /absolute/ /absolute/taken; exec sleep 1000000",
            body,
        )?,
    )?;
    let pid = node.wait_running("a")?;
    let said = node.wait("the container's word", || {
        Ok(Some(node.ok(["logs", "a"])?).filter(|said| said.contains("/absolute/taken:")))
    })?;
    ensure!(said.contains("postgres:x:70:70"), "it was not filled from the image's own file: {said}");
    for (target, ..) in mount_table(pid)? {
        ensure!(!target.contains("stower-e2e"), "a path of the host is in the container: {target}");
    }
    ensure!(
        !inside(pid, "/absolute/loot").exists() || fs::read_link(inside(pid, "/absolute"))?.is_absolute()
    );
    ensure!(!said.contains("loot"), "the host's file is in the container:\n{said}");
    mounted_on_host(node, &[])
}

#[test]
fn an_image_cannot_cover_the_kernels_own_filesystems() -> Result<()> {
    let node = TestNode::start()?;
    for (name, path) in [("proc", "/proc"), ("proc-self", "/proc/self/attr"), ("linked", "/sneaky/1")] {
        let image = hostile_image(&format!("hostile-{name}"), &[("sneaky", "proc")], &[path.to_owned()])?;
        node.write(&format!("{name}.yaml"), &shell_of(&image, name, "exec sleep 1000000", "")?)?;
        let message = node
            .wait_waiting(name, &["RunContainerError", "CreateContainerConfigError", "CrashLoopBackOff"])?;
        ensure!(message.contains("/proc"), "{path}: {message}");
    }
    // The next attempt may be under way.
    node.wait("no process", || Ok(node.footprint().processes.is_empty().then_some(())))?;
    mounted_on_host(&node, &[])
}

#[test]
fn a_link_swapped_for_a_sub_path_never_leads_out_of_its_volume() -> Result<()> {
    const STARTS: usize = 40;
    let node = TestNode::start()?;
    let (shared, outside, out) =
        (node.folder().join("shared"), node.folder().join("outside"), node.folder().join("out"));
    for folder in [&shared, &outside, &out, &shared.join("sub")] {
        fs::create_dir(folder)?;
    }
    fs::write(shared.join("sub/good"), "")?;
    fs::write(outside.join("loot"), "")?;
    symlink(&outside, shared.join("evil"))?;
    let body = format!(
        "  restart: {{backoff: {{initial: 10ms, max: 10ms}}}}\n  volumes: [{{name: shared, hostPath: {{path: {}}}}}, {{name: out, \
         hostPath: {{path: {}}}}}]\n  volumeMounts: [{{name: shared, mountPath: /sub, subPath: sub}}, {{name: out, mountPath: /out}}]\n",
        shared.display(),
        out.display()
    );
    node.write(
        "a.yaml",
        &shell("a", "touch /sub/mark; ls /sub >> /out/seen; echo run >> /out/seen", &body)?,
    )?;
    let over = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // Both names are there at every instant, one for the other.
                let _ =
                    renameat_with(CWD, shared.join("sub"), CWD, shared.join("evil"), RenameFlags::EXCHANGE);
                std::thread::yield_now();
            }
        });
        let seen = node.wait("the starts", || {
            let seen = fs::read_to_string(out.join("seen")).unwrap_or_default();
            Ok((seen.matches("run\n").count() >= STARTS).then_some(seen))
        });
        over.store(true, Ordering::Relaxed);
        seen
    })?;
    ensure!(!seen.contains("loot"), "a start saw what is outside of its volume:\n{seen}");
    ensure!(seen.contains("good"), "no start saw the folder:\n{seen}");
    let found: Vec<_> = fs::read_dir(&outside)?.flatten().map(|entry| entry.file_name()).collect();
    ensure!(found == ["loot"], "written outside of the volume: {found:?}");
    node.remove("a.yaml")?;
    node.wait_gone("a")?;
    mounted_on_host(&node, &[])
}
