//! `manifests/examples/`: each is valid, each does what its comments say.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use stower_e2e::node::pid_of;
use stower_e2e::{Catalog, TestNode, catalog, process, registry};

use crate::support::{inside, is_read_only, ready};

/// What the examples call the image of the demo.
const IMAGE: &str = "localhost/stower-demo:1";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/examples")
}

/// The files of a folder with their text, by name.
fn files(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder)?.flatten() {
        if entry.file_type()?.is_file() {
            let name = entry.file_name().to_string_lossy().into_owned();
            found.insert(name, fs::read_to_string(entry.path())?);
        }
    }
    Ok(found)
}

fn example(name: &str) -> Result<String> {
    fs::read_to_string(folder().join(name)).with_context(|| format!("read the example {name}"))
}

/// A node that has the demo's image.
fn node_with_image() -> Result<TestNode> {
    let node = TestNode::start()?;
    let layout = node.folder().join("image");
    fs::create_dir(&layout)?;
    Catalog::get()?;
    catalog::payload_builder("stower-demo")?.0.write(&layout)?;
    node.ok(["image", "import", &layout.to_string_lossy(), IMAGE])?;
    Ok(node)
}

fn wait_log(node: &TestNode, name: &str, wanted: &str) -> Result<()> {
    node.wait(&format!("{name} to say {wanted:?}"), || {
        Ok(node.ok(["logs", name])?.contains(wanted).then_some(()))
    })
}

#[test]
fn every_example_is_valid() -> Result<()> {
    let node = TestNode::builder().build()?;
    let mut seen = 0;
    for folder in [folder(), folder().join("services")] {
        for name in files(&folder)?.keys() {
            let output = node.cli(["validate", "-f", &folder.join(name).to_string_lossy()])?;
            ensure!(output.code == 0, "{name}: {}{}", output.stdout, output.stderr);
            seen += 1;
        }
    }
    ensure!(seen >= 7, "only {seen} examples were found");
    Ok(())
}

#[test]
fn the_examples_run_as_they_stand() -> Result<()> {
    let node = node_with_image()?;
    let port = registry::free_port()?;
    let mut declared = 0;
    for (name, text) in files(&folder())? {
        declared += text.lines().filter(|line| *line == "kind: Container").count();
        // What others on this machine may use is this test's own.
        let shared = node.folder().join("shared").to_string_lossy().into_owned();
        let text =
            text.replace("127.0.0.1:8088", &format!("127.0.0.1:{port}")).replace("/tmp/stower-demo", &shared);
        node.write(&name, &text)?;
    }
    node.wait("all of them to run", || {
        let ran = |item: &&serde_json::Value| {
            pid_of(item).is_some() || item["status"]["lastState"]["terminated"].is_object()
        };
        Ok((node.containers()?.iter().filter(ran).count() == declared).then_some(()))
    })?;
    wait_log(&node, "hello", "hello number 1")?;
    wait_log(&node, "backup", "/journal cannot be written to, as it should be")?;
    wait_log(&node, "backup", "copied /journal/lines")?;
    for line in [
        "GREETING: good morning",
        "NAME: settings",
        "PART: demo",
        "/settings/motd: Mind the cranes.",
        "PASSWORD has 9 characters",
        "/secret/password has 9 characters",
    ] {
        wait_log(&node, "settings", line)?;
    }
    ensure!(!node.ok(["logs", "settings"])?.contains("change-me"), "a secret is in a log");
    let page = Catalog::get()?.curl(&format!("http://127.0.0.1:{port}/runs"))?;
    ensure!(page.trim() == "1", "{page}");
    Ok(())
}

#[test]
fn the_story_of_the_missing_data_container_is_true() -> Result<()> {
    let node = node_with_image()?;
    let whole = example("data-containers.yaml")?;
    let documents: Vec<&str> = whole.split("---\n").collect();
    ensure!(documents.len() == 3 && documents[1].contains("name: data-bar"), "the example has changed");
    node.write("data-containers.yaml", &format!("{}---\n{}", documents[0], documents[2]))?;
    for _ in 0..3 {
        let message = node.wait_waiting("consumer", &["DependencyMissing"])?;
        ensure!(message.contains("DataContainer default/data-bar"), "{message}");
        ensure!(node.ok(["describe", "container", "consumer"])?.contains("DataContainer default/data-bar"));
        ensure!(node.footprint().mounts.is_empty());
        node.ok(["start", "consumer"])?;
    }
    node.write("data-containers.yaml", &whole)?;
    let mut pid = node.wait_running("consumer")?;
    for run in 1..=3 {
        for path in ["/foo/runs", "/bar/runs"] {
            wait_log(&node, "consumer", &format!("{path}: this is run {run}\n"))?;
        }
        process::kill9(pid)?;
        pid = node.wait_restarted("consumer", pid)?;
    }
    Ok(())
}

#[test]
fn the_backup_sees_what_is_written_and_cannot_write_it() -> Result<()> {
    let node = node_with_image()?;
    node.write("backup.yaml", &example("backup.yaml")?)?;
    let (backup, writer) = (node.wait_running("backup")?, node.wait_running("journal-writer")?);
    ensure!(is_read_only(backup, "/journal")? && !is_read_only(writer, "/journal")?);
    ensure!(!is_read_only(backup, "/backups")?);
    fs::write(inside(writer, "/journal/more"), "of the journal")?;
    ensure!(fs::read_to_string(inside(backup, "/journal/more"))? == "of the journal");
    let data = ready(&node, "volumes", "backups")?["path"].as_str().context("no path")?.to_owned();
    node.wait("the copy", || {
        Ok((fs::read_to_string(format!("{data}/more"))? == "of the journal").then_some(()))
    })?;
    ensure!(!inside(backup, "/journal/by-the-backup").exists());
    Ok(())
}

#[test]
fn a_changed_setting_is_shown_by_the_running_program() -> Result<()> {
    let node = node_with_image()?;
    let text = example("settings.yaml")?;
    node.write("settings.yaml", &text)?;
    wait_log(&node, "settings", "/settings/motd: Mind the cranes.")?;
    let pid = node.wait_running("settings")?;
    let changed = text.replace("Mind the cranes.", "Mind the gap.").replace("good morning", "good evening");
    ensure!(changed != text, "the example has changed");
    node.write("settings.yaml", &changed)?;
    wait_log(&node, "settings", "/settings/motd: Mind the gap.")?;
    ensure!(
        node.wait_running("settings")? == pid && !node.ok(["logs", "settings"])?.contains("good evening")
    );
    node.ok(["restart", "settings"])?;
    node.wait_restarted("settings", pid)?;
    wait_log(&node, "settings", "GREETING: good evening")
}

/// The example with this machine's PostgreSQL in place of the registry's.
struct Postgres {
    node: TestNode,
    catalog: &'static Catalog,
    port: u16,
}

impl Postgres {
    fn declare(&self, of_data: &str, of_container: &str) -> Result<()> {
        let text = example("services/postgres.yaml")?.replace("port=5432", &format!("port={}", self.port));
        let from = "docker.io/library/postgres:17";
        ensure!(text.matches(from).count() == 2 && text.contains("port="), "the example has changed");
        let text = text.replacen(from, of_data, 1).replacen(from, of_container, 1);
        self.node.write("postgres.yaml", &text)
    }

    fn ask(&self, statement: &str) -> Result<String> {
        self.node.wait(&format!("an answer to {statement:?}"), || {
            Ok(Some(self.catalog.psql(self.port, statement)?.trim().to_owned()))
        })
    }
}

#[test]
fn postgres_keeps_its_data_over_an_upgrade_of_its_image() -> Result<()> {
    let catalog = Catalog::get()?;
    let (first, second) =
        (catalog.reference(catalog::postgres)?, catalog.reference(catalog::postgres_upgraded)?);
    let postgres = Postgres { node: TestNode::start()?, catalog, port: registry::free_port()? };
    let node = &postgres.node;
    postgres.declare(&first, &first)?;
    postgres.ask("select 1")?;
    let pid = node.wait_running("postgres")?;
    postgres.ask("create table crate(id int)")?;
    postgres.ask("insert into crate select generate_series(1, 1000)")?;
    let system = "select system_identifier from pg_control_system()";
    let identity = postgres.ask(system)?;
    let image = node.container("postgres")?.context("not there")?["status"]["image"].clone();
    let place = ready(node, "datacontainers", "postgres-data")?["volumes"][0]["path"].clone();
    ensure!(place.as_str().is_some_and(|path| Path::new(path).join("PG_VERSION").exists()), "{place}");

    postgres.declare(&first, &second)?;
    let upgraded = node.wait_restarted("postgres", pid)?;
    ensure!(postgres.ask("select count(*), sum(id) from crate")? == "1000|500500");
    ensure!(postgres.ask(system)? == identity, "it is another database");
    let now = node.container("postgres")?.context("not there")?["status"]["image"].clone();
    ensure!(now != image && now.as_str().is_some_and(|image| image.contains("upgraded@sha256:")), "{now}");
    ensure!(ready(node, "datacontainers", "postgres-data")?["volumes"][0]["path"] == place, "the data moved");
    // The old server was stopped in order: the new one had nothing to recover.
    let log = node.ok(["logs", "postgres"])?;
    ensure!(!log.contains("not properly shut down"), "{log}");

    // Back again, after a crash this time, and without the data's object in between.
    process::kill9(upgraded)?;
    node.wait_restarted("postgres", upgraded)?;
    ensure!(postgres.ask("select count(*) from crate")? == "1000");
    node.remove("postgres.yaml")?;
    node.wait_gone("postgres")?;
    node.wait("the data container to be gone", || {
        Ok(crate::support::object(node, "datacontainers", "postgres-data")?.is_none().then_some(()))
    })?;
    postgres.declare(&second, &first)?;
    ensure!(postgres.ask("select count(*) from crate")? == "1000", "retained data was not found again");
    Ok(())
}
