//! The agent dies at every point where something of a volume or a start is half done, and the next one ends up where an
//! undisturbed one does: all volumes or none, whole, one process, nothing left behind.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use stower_e2e::node::pid_of;
use stower_e2e::{Catalog, TestNode, catalog};

use crate::exec::OF_COMMANDS;
use crate::support::{data, gone, inside, loops, mount_table, mounted_on_host, object, shell_of, volume};
use crate::volumes_taken::is_foo;

/// Counts its starts in every volume, and stays.
const COUNT: &str = "for at in /foo /bar /mem /anon; do echo run >> $at/runs; done; exec sleep 1000000";

/// What kills the agent.
enum Doom {
    /// It comes to a point once.
    At(&'static str),
    /// It is killed after so many looks at the state, each time anew.
    After(Vec<usize>),
}

/// One node on its way through the life of a consumer and its sources.
struct Story {
    node: TestNode,
    doom: Doom,
    deaths: usize,
    looks: usize,
}

impl Story {
    fn begin(doom: Doom) -> Result<Self> {
        let node = TestNode::builder().build()?;
        // A directory that lost all of its files at once is not believed.
        node.write("stays.yaml", &volume("stays", "{driver: hostPath, hostPath: {path: /var}}"))?;
        match &doom {
            Doom::At(failpoint) => node.spawn_doomed(failpoint)?,
            Doom::After(_) => node.start_agent()?,
        }
        Ok(Self { node, doom, deaths: 0, looks: 0 })
    }

    /// Waits for a state. An agent that dies meanwhile is started again, as whole as ever.
    fn until<T>(&mut self, what: &str, mut look: impl FnMut(&TestNode) -> Result<Option<T>>) -> Result<T> {
        let Self { node, doom, deaths, looks } = self;
        node.wait(what, || {
            *looks += 1;
            if let Doom::After(times) = doom
                && times.first().is_some_and(|after| *looks >= *after)
            {
                times.remove(0);
                *looks = 0;
                *deaths += 1;
                node.restart_agent()?;
            }
            if node.has_died()? {
                *deaths += 1;
                node.start_agent()?;
            }
            look(node)
        })
    }

    fn until_running(&mut self, before: Option<u32>) -> Result<u32> {
        self.until("the consumer to run", |node| {
            Ok(node.container("consumer")?.as_ref().and_then(pid_of).filter(|pid| Some(*pid) != before))
        })
    }

    fn until_ready(&mut self, plural: &str, name: &str, capacity: Option<&str>) -> Result<()> {
        self.until(&format!("{plural} {name} to be ready"), |node| {
            let Some(object) = object(node, plural, name)? else { return Ok(None) };
            let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let is_ready = conditions.iter().any(|it| it["type"] == "Ready" && it["status"] == "True")
                && object["status"]["observedGeneration"] == object["metadata"]["generation"];
            let is_so = capacity.is_none_or(|wanted| object["status"]["capacity"] == wanted);
            Ok((is_ready && is_so).then_some(()))
        })
    }

    /// That all four volumes are mounted with all that belongs in them, and that one process has them.
    fn is_whole(&mut self, pid: u32, runs: usize, anonymous_runs: usize) -> Result<()> {
        self.until("the runs to be counted in every volume", |_| {
            for (path, expected) in
                [("/foo", runs), ("/bar", runs), ("/mem", runs), ("/anon", anonymous_runs)]
            {
                let text = fs::read_to_string(inside(pid, path).join("runs"))?;
                let found = text.lines().count();
                ensure!(found == expected, "{path} has counted {found} runs, not {expected}");
            }
            Ok(Some(()))
        })?;
        let targets: Vec<String> = mount_table(pid)?.into_iter().map(|(path, ..)| path).collect();
        for path in ["/foo", "/bar", "/mem", "/anon"] {
            let times = targets.iter().filter(|target| *target == path).count();
            ensure!(times == 1, "{path} is mounted {times} times: {targets:?}");
        }
        is_foo(&inside(pid, "/foo"), &["runs"])?;
        ensure!(fs::read_to_string(inside(pid, "/bar/seed"))? == "a seed\n", "/bar was not filled");
        // Its shell may still have a child.
        self.until("one process and its shim", |node| {
            let found = node.footprint();
            ensure!(found.processes.len() == 2, "{found:?}");
            Ok(Some(()))
        })?;
        mounted_on_host(&self.node, &["mem"])?;
        ensure!(loops(&self.node)?.len() == 1, "not one loop device: {:?}", loops(&self.node)?);
        Ok(())
    }
}

/// From nothing to running, grown, restarted, replaced and removed: every failpoint is on this way.
fn story(doom: Doom) -> Result<usize> {
    let image = Catalog::get()?.reference(catalog::filled)?;
    let anonymous = Catalog::get()?.reference(catalog::filled_volumes)?;
    let mut story = Story::begin(doom)?;
    let write = |story: &Story, name: &str, text: &str| story.node.write(name, text);
    let consumer = |value: &str| {
        let body = format!(
            "  env: [{{name: V, value: '{value}'}}]\n  volumesFrom: [{{name: data-foo}}, {{name: data-bar}}]\n  \
             lifecycle: {{postStart: {{sleep: {{seconds: 0}}}}, preStop: {{sleep: {{seconds: 0}}}}}}\n"
        );
        shell_of(&anonymous, "consumer", COUNT, &body)
    };
    let img = |capacity: &str| volume("img", &format!("{{capacity: {capacity}, reclaimPolicy: Delete}}"));

    let first = format!("{{image: '{image}', reclaimPolicy: Delete, volumes: [{{mountPath: /foo}}]}}");
    write(&story, "foo.yaml", &data("data-foo", &first))?;
    write(&story, "consumer.yaml", &consumer("one")?)?;
    story.until("the consumer to wait for data-bar", |node| {
        let item = node.container("consumer")?.context("not there yet")?;
        ensure!(pid_of(&item).is_none(), "it runs without data-bar");
        let message = item["status"]["state"]["waiting"]["message"].as_str().unwrap_or_default().to_owned();
        Ok((message.contains("data-bar is not there") && !message.contains("data-foo")).then_some(()))
    })?;
    ensure!(story.node.footprint().processes.is_empty(), "{:?}", story.node.footprint());
    mounted_on_host(&story.node, &[])?;

    write(&story, "img.yaml", &img("8Mi"))?;
    write(&story, "mem.yaml", &volume("mem", "{driver: tmpfs, capacity: 1Mi, reclaimPolicy: Delete}"))?;
    let second = format!(
        "{{image: '{image}', volumes: [{{mountPath: /bar, volume: img}}, {{mountPath: /mem, volume: mem}}]}}"
    );
    write(&story, "bar.yaml", &data("data-bar", &second))?;
    let pid = story.until_running(None)?;
    story.is_whole(pid, 1, 1)?;

    // The agent may die of it before it has answered, or of its hook just before it is asked.
    story.until("the consumer to stop", |node| {
        let item = node.container("consumer")?.context("it is gone")?;
        let conditions = item["status"]["conditions"].as_array().into_iter().flatten();
        if !conditions.into_iter().any(|it| it["type"] == "Held" && it["status"] == "True") {
            node.cli(["stop", "consumer", "--wait=false"])?;
        }
        Ok(pid_of(&item).is_none().then_some(()))
    })?;
    write(&story, "img.yaml", &img("16Mi"))?;
    story.until_ready("volumes", "img", Some("16Mi"))?;
    story.node.ok(["start", "consumer"])?;
    let pid = story.until_running(Some(pid))?;
    story.is_whole(pid, 2, 2)?;

    // Another process is another container, with anonymous volumes of its own.
    write(&story, "consumer.yaml", &consumer("two")?)?;
    let pid = story.until_running(Some(pid))?;
    story.is_whole(pid, 3, 1)?;

    for name in ["consumer", "bar", "foo", "mem", "img"] {
        story.node.remove(&format!("{name}.yaml"))?;
    }
    story.until("everything to be gone", |node| {
        let mut left = Vec::new();
        for (plural, name) in [
            ("containers", "consumer"),
            ("datacontainers", "data-bar"),
            ("datacontainers", "data-foo"),
            ("volumes", "img"),
            ("volumes", "mem"),
        ] {
            left.extend(object(node, plural, name)?.map(|_| name));
        }
        Ok(left.is_empty().then_some(()))
    })?;
    let found = story.node.footprint();
    ensure!(found.processes.is_empty() && found.mounts.is_empty(), "{found:?}");
    ensure!(loops(&story.node)?.is_empty(), "{:?}", loops(&story.node)?);
    let left = files_below(&story.node.data.join("volumes"));
    ensure!(left.is_empty(), "volumes were left: {left:?}");
    let uids: Vec<_> =
        found.paths.iter().filter(|path| path.contains("/containers/") || path.contains("/run/c/")).collect();
    ensure!(uids.is_empty(), "state of containers was left: {uids:?}");
    Ok(story.deaths)
}

/// Every file below a folder.
fn files_below(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.append(&mut files_below(&entry.path()));
        } else {
            found.insert(entry.path().display().to_string());
        }
    }
    found
}

fn dies_once_at(failpoint: &'static str) -> Result<()> {
    let deaths = story(Doom::At(failpoint))?;
    ensure!(
        deaths == 1,
        "the agent died {deaths} times: it never came to {failpoint}, or the program is a release, which has no such points"
    );
    Ok(())
}

/// A test for each failpoint.
macro_rules! at {
    ($($name:ident: $failpoint:literal,)*) => {
        $(
            #[test]
            fn $name() -> Result<()> {
                dies_once_at($failpoint)
            }
        )*
        /// All that are tested here.
        const TESTED: &[&str] = &[$($failpoint),*];
    };
}

at! {
    start_leased: "start.leased",
    start_checked: "start.checked",
    start_cleared: "start.cleared",
    start_volume: "start.volume",
    start_volumes: "start.volumes",
    start_rootfs: "start.rootfs",
    start_cgroup: "start.cgroup",
    start_spawned: "start.spawned",
    start_told: "start.told",
    start_started: "start.started",
    post_start_begun: "post_start.begun",
    post_start_ended: "post_start.ended",
    stop_decided: "stop.decided",
    stop_told: "stop.told",
    stop_hooked: "stop.hooked",
    teardown_cgroups: "teardown.cgroups",
    teardown_layer: "teardown.layer",
    teardown_volumes: "teardown.volumes",
    teardown_directory: "teardown.directory",
    make_store: "make.store",
    remove_store: "remove.store",
    volume_staged: "volume.staged",
    volume_image_made: "volume.image_made",
    volume_image_formatted: "volume.image_formatted",
    volume_record_written: "volume.record_written",
    volume_record_renamed: "volume.record_renamed",
    volume_placed: "volume.placed",
    volume_tmpfs_mounted: "volume.tmpfs_mounted",
    volume_fill_begun: "volume.fill_begun",
    volume_fill_copied: "volume.fill_copied",
    volume_fill_synced: "volume.fill_synced",
    volume_fill_renamed: "volume.fill_renamed",
    volume_filled: "volume.filled",
    volume_grow_stretched: "volume.grow_stretched",
    volume_grow_resized: "volume.grow_resized",
    volume_unmounted: "volume.unmounted",
    volume_trashed: "volume.trashed",
    stage_made: "stage.made",
    stage_written: "stage.written",
    finish_done: "finish.done",
    finish_renamed: "finish.renamed",
    seal_synced: "seal.synced",
    seal_recorded: "seal.recorded",
    prepare_made: "prepare.made",
    prepare_renamed: "prepare.renamed",
    remove_renamed: "remove.renamed",
}

#[test]
fn every_failpoint_of_the_program_is_tested() -> Result<()> {
    // On no way of a container here: they belong to commits, to the collection of images, and to XFS with quota.
    let elsewhere = [
        "commit.copied",
        "commit.noted",
        "commit.placed",
        "commit.recorded",
        "commit.renamed",
        "remove_layer.renamed",
        "volume.project_chosen",
        "volume.project_grown",
        "volume.project_limited",
    ];
    // Those of one driver alone, or of limits, are gone through by the storage crate's tests, on each driver.
    let of_drivers = ["driver/btrfs", "driver/devicemapper/", "driver/overlay/"];
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no parent")?;
    let mut found = BTreeSet::new();
    for folder in ["agent/src", "agent/runtime/src", "storage/src"] {
        for file in sources(&top.join(folder)) {
            if of_drivers.iter().any(|part| file.to_string_lossy().contains(part)) {
                continue;
            }
            let text = fs::read_to_string(&file)?;
            for call in ["failpoint(\"", "failpoint!(\""] {
                found.extend(
                    text.split(call).skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())),
                );
            }
        }
    }
    ensure!(found.len() >= TESTED.len(), "the sources were not found: {found:?}");
    let missing: Vec<&String> = found
        .iter()
        .filter(|name| {
            let name = name.as_str();
            !TESTED.contains(&name) && !OF_COMMANDS.contains(&name) && !elsewhere.contains(&name)
        })
        .collect();
    ensure!(missing.is_empty(), "failpoints without a test: {missing:?}");
    Ok(())
}

fn sources(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.append(&mut sources(&path));
        } else if path.extension().is_some_and(|it| it == "rs") {
            found.push(path);
        }
    }
    found
}

/// A sequence of numbers below 40, the same for the same seed (xorshift).
fn times(seed: u64) -> Vec<usize> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % 40).unwrap_or_default()
    };
    (0..8).map(|_| next()).collect()
}

#[test]
fn killed_at_any_time_it_ends_the_same() -> Result<()> {
    for seed in [1, 2, 3, 5, 8, 13] {
        let deaths = story(Doom::After(times(seed))).with_context(|| format!("seed {seed}"))?;
        ensure!(deaths >= 3, "with seed {seed} the agent was killed {deaths} times, which shows nothing");
    }
    Ok(())
}

#[test]
fn a_source_that_goes_and_comes_while_agents_die_is_taken_whole() -> Result<()> {
    let image = Catalog::get()?.reference(catalog::filled)?;
    let mut story = Story::begin(Doom::After(times(21)))?;
    let manifest = |name: &str, path: &str| {
        data(name, &format!("{{image: '{image}', reclaimPolicy: Delete, volumes: [{{mountPath: {path}}}]}}"))
    };
    let consumer = shell_of(
        &image,
        "consumer",
        "exec sleep 1000000",
        "  volumesFrom: [{name: data-foo}, {name: data-bar}]\n",
    )?;
    story.node.write("foo.yaml", &manifest("data-foo", "/foo"))?;
    story.node.write("bar.yaml", &manifest("data-bar", "/bar"))?;
    for round in 0..4 {
        story.node.write("consumer.yaml", &consumer)?;
        let pid = story.until_running(None)?;
        is_foo(&inside(pid, "/foo"), &[])?;
        ensure!(fs::read_to_string(inside(pid, "/bar/seed"))? == "a seed\n", "round {round}");
        story.node.remove("consumer.yaml")?;
        story.node.remove("bar.yaml")?;
        story.until("data-bar to be gone", |node| {
            let left = object(node, "datacontainers", "data-bar")?.is_some()
                || node.container("consumer")?.is_some();
            Ok((!left).then_some(()))
        })?;
        story.node.write("bar.yaml", &manifest("data-bar", "/bar"))?;
    }
    story.node.remove("foo.yaml")?;
    story.node.remove("bar.yaml")?;
    for name in ["data-foo", "data-bar"] {
        gone(&story.node, "datacontainers", name)?;
    }
    let left = files_below(&story.node.data.join("volumes"));
    ensure!(left.is_empty(), "volumes were left: {left:?}");
    Ok(())
}
