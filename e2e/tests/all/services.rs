//! redis, nginx, PostgreSQL and busybox, declared in one directory and used from the host.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use stower_e2e::node::{restarts_of, uid_of};
use stower_e2e::{Catalog, TestNode, catalog, process, registry};

use crate::support::container;

const NAMES: [&str; 4] = ["redis", "nginx", "postgres", "busybox"];

struct Four {
    node: TestNode,
    catalog: &'static Catalog,
    ports: BTreeMap<&'static str, u16>,
}

impl Four {
    fn start() -> Result<Self> {
        let catalog = Catalog::get()?;
        let node = TestNode::start()?;
        let mut ports = BTreeMap::new();
        for name in NAMES {
            ports.insert(name, registry::free_port()?);
        }
        let four = Self { node, catalog, ports };
        for name in NAMES {
            four.declare(name, "")?;
        }
        for name in NAMES {
            four.wait_serving(name)?;
        }
        Ok(four)
    }

    fn manifest(&self, name: &str, more: &str) -> Result<String> {
        let port = self.ports[name];
        let (image, body) = match name {
            "redis" => (self.catalog.reference(catalog::redis)?, String::new()),
            "nginx" => (self.catalog.reference(catalog::nginx)?, String::new()),
            "postgres" => {
                (self.catalog.reference(catalog::postgres)?, "  restartPolicy: OnFailure\n".to_owned())
            }
            _ => {
                let script = format!(
                    "mkdir -p /srv; echo from busybox > /srv/index.html; exec httpd -f -p 127.0.0.1:{port} -h /srv"
                );
                let body = format!("  command: [sh, -c, '{script}']\n  restartPolicy: UnlessStopped\n");
                (self.catalog.reference(catalog::busybox)?, body)
            }
        };
        let common = format!("  hostNetwork: true\n  env: [{{name: PORT, value: '{port}'}}]\n");
        Ok(container(name, &image, &format!("{common}{body}{more}")))
    }

    fn declare(&self, name: &str, more: &str) -> Result<()> {
        self.node.write(&format!("{name}.yaml"), &self.manifest(name, more)?)
    }

    /// Asks the service what only it can answer.
    fn ask(&self, name: &str) -> Result<String> {
        let port = self.ports[name];
        match name {
            "redis" => self.catalog.redis_cli(port, &["ping"]),
            "postgres" => self.catalog.psql(port, "select 6 * 7"),
            _ => self.catalog.curl(&format!("http://127.0.0.1:{port}/")),
        }
    }

    fn wait_serving(&self, name: &str) -> Result<()> {
        let wanted = match name {
            "redis" => "PONG",
            "postgres" => "42",
            "nginx" => "served by nginx",
            _ => "from busybox",
        };
        self.node.wait(&format!("{name} to answer {wanted}"), || {
            Ok(self.ask(name)?.contains(wanted).then_some(()))
        })
    }

    fn pids(&self) -> Result<BTreeMap<&'static str, u32>> {
        NAMES.iter().map(|name| Ok((*name, self.node.wait_running(name)?))).collect()
    }
}

#[test]
fn four_services_come_up_and_answer() -> Result<()> {
    let four = Four::start()?;
    four.catalog.redis_cli(four.ports["redis"], &["set", "cargo", "tea"])?;
    ensure!(four.catalog.redis_cli(four.ports["redis"], &["get", "cargo"])?.trim() == "tea");
    four.catalog.psql(four.ports["postgres"], "create table crate(id int); insert into crate values (7)")?;
    ensure!(four.catalog.psql(four.ports["postgres"], "select id from crate")?.trim() == "7");
    for name in NAMES {
        let item = four.node.container(name)?.context("not there")?;
        ensure!(item["status"]["phase"] == "Running", "{name}: {}", item["status"]);
        ensure!(restarts_of(&item) == 0, "{name} was restarted: {}", item["status"]);
        let image = item["status"]["image"].as_str().unwrap_or_default();
        ensure!(image.contains("@sha256:"), "{name} runs the image {image:?}, which names no digest");
    }
    Ok(())
}

#[test]
fn each_killed_process_comes_back_by_its_policy() -> Result<()> {
    let four = Four::start()?;
    four.catalog.psql(four.ports["postgres"], "create table crate(id int); insert into crate values (7)")?;
    let before = four.pids()?;
    for name in NAMES {
        process::kill9(before[name])?;
    }
    for name in NAMES {
        let pid = four.node.wait_restarted(name, before[name])?;
        ensure!(
            !process::alive(before[name]),
            "{name}: the former process {} still runs beside {pid}",
            before[name]
        );
        four.wait_serving(name)?;
        let item = four.node.container(name)?.context("not there")?;
        ensure!(restarts_of(&item) == 1, "{name}: {}", item["status"]);
        let last = &item["status"]["lastState"]["terminated"];
        ensure!(last["exitCode"] == 137 && last["signal"] == 9, "{name}: {last}");
    }
    // A restart by rule keeps the writable layer, and with it the database.
    ensure!(four.catalog.psql(four.ports["postgres"], "select id from crate")?.trim() == "7");
    Ok(())
}

#[test]
fn editing_one_replaces_just_that_one() -> Result<()> {
    let four = Four::start()?;
    let before = four.pids()?;
    let uid = uid_of(&four.node.container("redis")?.context("not there")?)?;
    four.declare("redis", "  args: [--maxclients, '77']\n")?;
    let replaced = four.node.wait_restarted("redis", before["redis"])?;
    four.wait_serving("redis")?;
    ensure!(four.catalog.redis_cli(four.ports["redis"], &["config", "get", "maxclients"])?.contains("77"));
    let item = four.node.container("redis")?.context("not there")?;
    ensure!(uid_of(&item)? == uid, "an edit must keep the identity");
    ensure!(item["metadata"]["generation"] == 2 && item["status"]["observedGeneration"] == 2, "{item}");
    ensure!(restarts_of(&item) == 0, "a replacement is no restart by rule: {}", item["status"]);

    // Another image under the same name: busybox in place of nginx.
    let image = four.catalog.reference(catalog::busybox)?;
    let port = four.ports["nginx"];
    let script = format!("echo edited > /tmp/index.html; exec httpd -f -p 127.0.0.1:{port} -h /tmp");
    let text = container("nginx", &image, &format!("  hostNetwork: true\n  command: [sh, -c, '{script}']\n"));
    four.node.write("nginx.yaml", &text)?;
    four.node.wait("busybox to answer in place of nginx", || {
        Ok(four.ask("nginx")?.contains("edited").then_some(()))
    })?;

    let after = four.pids()?;
    ensure!(after["redis"] == replaced && after["nginx"] != before["nginx"], "{before:?} {after:?}");
    for name in ["postgres", "busybox"] {
        ensure!(after[name] == before[name], "{name} was disturbed: {before:?} {after:?}");
    }
    Ok(())
}

#[test]
fn deleting_a_file_removes_just_that_one_with_all_its_traces() -> Result<()> {
    let four = Four::start()?;
    let before = four.pids()?;
    let item = four.node.container("postgres")?.context("not there")?;
    let uid = uid_of(&item)?;
    let traces = |node: &TestNode| {
        let all = node.footprint();
        let mut found: Vec<String> = all
            .cgroups
            .iter()
            .chain(&all.paths)
            .chain(&all.mounts)
            .filter(|text| text.contains(&uid))
            .cloned()
            .collect();
        found.extend(all.processes.contains(&before["postgres"]).then(|| "its process".to_owned()));
        found
    };
    ensure!(!traces(&four.node).is_empty(), "a running container that leaves no trace cannot be looked for");
    let snapshots =
        |node: &TestNode| node.footprint().paths.iter().filter(|path| path.contains("/snapshots/")).count();
    let snapshots_before = snapshots(&four.node);
    four.node.remove("postgres.yaml")?;
    four.node.wait_gone("postgres")?;
    four.node.wait("every trace of postgres to be gone", || {
        let left = traces(&four.node);
        ensure!(left.is_empty(), "left: {left:#?}");
        Ok(Some(()))
    })?;
    ensure!(!process::alive(before["postgres"]));
    ensure!(four.ask("postgres").is_err(), "PostgreSQL still answers");
    ensure!(snapshots(&four.node) <= snapshots_before, "a removed container left a snapshot");
    for name in ["redis", "nginx", "busybox"] {
        ensure!(four.node.wait_running(name)? == before[name], "{name} was disturbed");
        four.wait_serving(name)?;
    }
    Ok(())
}
