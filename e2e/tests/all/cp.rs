//! Files into and out of running containers.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use anyhow::{Result, ensure};
use stower_e2e::TestNode;

use crate::support::shell;

#[test]
fn files_and_directories_go_both_ways() -> Result<()> {
    let node = TestNode::start()?;
    let body = "  volumes: [{name: v, emptyDir: {}}]\n  volumeMounts: [{name: v, mountPath: /data}]\n";
    node.write("web.yaml", &shell("web", "exec sleep 1000000", body)?)?;
    node.wait_running("web")?;
    let here = node.folder().join("here");
    fs::create_dir_all(here.join("site/css"))?;
    fs::write(here.join("site/index.html"), "<html>")?;
    fs::write(here.join("site/css/a.css"), "x".repeat(3_000_000))?;
    symlink("index.html", here.join("site/link"))?;
    std::os::unix::fs::chown(here.join("site/index.html"), Some(1234), Some(1234))?;
    fs::set_permissions(here.join("site/index.html"), fs::Permissions::from_mode(0o4640))?;
    let at = |path: &str| here.join(path).display().to_string();
    let inside = |script: &str| node.ok(["exec", "web", "sh", "-c", script]);

    // Into a directory that is there, also one of a volume; as one that is not; the content alone.
    node.ok(["cp", &at("site"), "web:/data"])?;
    ensure!(
        inside("cat /data/site/index.html; wc -c < /data/site/css/a.css; readlink /data/site/link")?
            == "<html>3000000\nindex.html\n"
    );
    ensure!(inside("stat -c '%u %g %a' /data/site/index.html")? == "0 0 640\n");
    node.ok(["cp", &at("site"), "web:/data/new"])?;
    node.ok(["cp", &at("site/."), "web:/data"])?;
    ensure!(inside("ls /data/new /data")?.contains("index.html"));
    ensure!(inside("cat /data/index.html")? == "<html>");
    node.ok(["cp", "--archive", &at("site/index.html"), "web:/data/kept"])?;
    ensure!(inside("stat -c '%u %g %a' /data/kept")? == "1234 1234 4640\n");
    node.ok(["cp", &at("site/index.html"), "web:/data/index.html"])?;

    fs::create_dir(here.join("out"))?;
    node.ok(["cp", "web:/data/site", &at("out")])?;
    ensure!(fs::read_to_string(here.join("out/site/index.html"))? == "<html>");
    ensure!(fs::metadata(here.join("out/site/css/a.css"))?.len() == 3_000_000);
    node.ok(["cp", "web:/data/kept", &at("out/file")])?;
    let meta = fs::metadata(here.join("out/file"))?;
    ensure!(meta.uid() == 0 && meta.mode() & 0o7777 == 0o640, "{:o} of {}", meta.mode(), meta.uid());
    node.ok(["cp", "web:/data/site/.", &at("out")])?;
    ensure!(here.join("out/index.html").exists());

    for (args, part) in [
        ([at("nothing"), "web:/data".to_owned()], "No such file"),
        (["web:/nothing".to_owned(), at("out")], "no such file or directory"),
        ([at("site"), "web:/no/such/place".to_owned()], "no such file or directory"),
        ([at("site"), "web:/data/kept".to_owned()], "does not take the place"),
        (["web:/data/kept".to_owned(), at("out/site/none/x")], "No such file"),
        (["web:/data/kept/.".to_owned(), at("out")], "not a directory"),
        (["web:/a".to_owned(), "web:/b".to_owned()], "between containers"),
        ([at("a"), at("b")], "one of the two"),
    ] {
        let text = node.refused(["cp", &args[0], &args[1]])?;
        ensure!(text.contains(part), "{args:?}: {text}");
    }
    Ok(())
}

#[test]
fn links_of_a_container_lead_nowhere_else() -> Result<()> {
    let node = TestNode::start()?;
    node.write("web.yaml", &shell("web", "exec sleep 1000000", "")?)?;
    node.wait_running("web")?;
    let outside = node.folder().join("outside");
    fs::create_dir(&outside)?;
    fs::write(outside.join("secret"), "of the machine")?;
    let place = outside.display().to_string();
    // The container makes links to what it may not reach, on the way and at the end.
    let script = format!(
        "mkdir -p /tmp/a; ln -s {place} /tmp/dir; ln -s {place}/secret /tmp/a/file; ln -s /proc/1/root /tmp/proc; ln -s ../../../../../../../..{place} /tmp/up"
    );
    node.ok(["exec", "web", "sh", "-c", &script])?;
    let out = node.folder().join("out");
    fs::create_dir(&out)?;
    let to = out.display().to_string();
    for from in ["/tmp/dir/secret", "/tmp/up/secret", "/tmp/dir/.", "/tmp/proc/etc/."] {
        let text = node.refused(["cp", &format!("web:{from}"), &to])?;
        ensure!(text.contains("no such file or directory") || text.contains("link"), "{from}: {text}");
    }
    // A link is copied as one, and not followed here either.
    node.ok(["cp", "web:/tmp/a", &to])?;
    ensure!(fs::symlink_metadata(out.join("a/file"))?.is_symlink());
    let mine = node.folder().join("mine");
    fs::write(&mine, "mine")?;
    let mine = mine.display().to_string();
    for to in ["/tmp/dir/new", "/tmp/up/new"] {
        ensure!(node.cli(["cp", &mine, &format!("web:{to}")])?.code != 0, "{to} is taken");
    }
    node.ok(["cp", &mine, "web:/tmp/a/file"])?;
    ensure!(fs::read_to_string(outside.join("secret"))? == "of the machine");
    ensure!(fs::read_dir(&outside)?.count() == 1);
    // What is here already is a link: a file takes its place, and is not written through it.
    let target = out.join("kept");
    fs::write(&target, "kept")?;
    symlink(&target, out.join("trap"))?;
    node.ok(["exec", "web", "sh", "-c", "echo changed > /tmp/trap"])?;
    node.ok(["cp", "web:/tmp/trap", &to])?;
    ensure!(fs::read_to_string(&target)? == "kept");
    Ok(())
}
