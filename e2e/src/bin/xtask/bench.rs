//! `cargo xtask bench`: latencies, CPU and memory of an optimised build, beside a bare clone3 from the same run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use stower_e2e::node::pid_of;
use stower_e2e::{TestNode, catalog, http, process, requires, wait_for};

use crate::build::{cargo, show};
use crate::stats::{Samples, line};

/// How many containers the runs with many have.
const MANY: usize = 100;
/// How many containers have probes, two each.
const PROBED: usize = 100;
/// How long the idle machine is looked at.
const IDLE: Duration = Duration::from_secs(30);
/// Between two starts, so that the kernel's deferred work of the one before does not fall into the next.
const GAP: Duration = Duration::from_millis(80);

pub(crate) fn run(args: &[&str]) -> Result<()> {
    requires::root()?;
    if let ["measure", rest @ ..] = args {
        return measure(rest);
    }
    parse(args)?;
    show(cargo().args(["build", "--release", "-p", "stower", "-p", "stower-e2e", "--bins"]))?;
    // The optimised twin of this program finds the optimised stower and test programs beside itself.
    let exe = std::env::current_exe()?;
    let profiles = exe.ancestors().nth(2).context("an odd target folder")?;
    show(Command::new(profiles.join("release/xtask")).args(["bench", "measure"]).args(args))
}

/// What is measured: everything, in so many rounds, or a crowd of so many containers.
enum Wanted {
    Rounds(usize),
    Crowd(usize),
}

fn parse(args: &[&str]) -> Result<Wanted> {
    match args {
        [] => Ok(Wanted::Rounds(30)),
        ["--n", count] => Ok(Wanted::Crowd(count.parse().context("COUNT is a number")?)),
        [rounds] => Ok(Wanted::Rounds(rounds.parse().context("ROUNDS is a number")?)),
        _ => anyhow::bail!("bench takes ROUNDS or --n COUNT"),
    }
}

struct Bench {
    node: TestNode,
    image: String,
    out: PathBuf,
    root: PathBuf,
}

fn measure(args: &[&str]) -> Result<()> {
    let bench = Bench::new()?;
    println!("kernel {}", process::run("uname", ["-rm"])?.trim());
    let rounds = match parse(args)? {
        Wanted::Rounds(rounds) => rounds,
        Wanted::Crowd(count) => return bench.crowd(count),
    };
    bench.starts(rounds)?;
    bench.restarts(rounds)?;
    bench.probes()?;
    bench.execs(rounds)?;
    bench.many()
}

impl Bench {
    /// Commands in a running container: the client's start → the command's first instruction, and the client's end.
    fn execs(&self, rounds: usize) -> Result<()> {
        self.node.write("exec.yaml", &self.manifest("exec", false))?;
        self.node.wait_running("exec")?;
        let (mut first, mut all) = (Samples::default(), Samples::default());
        for n in 0..=rounds {
            std::thread::sleep(GAP);
            let (start, begun) = (now(), Instant::now());
            self.node.ok(["exec", "exec", "--", "/payload", "stamp", "/out/command"])?;
            let whole = begun.elapsed();
            let stamp = self.wait_stamps("command", n + 1)?;
            if n > 0 {
                first.0.push(ms(stamp - start));
                all.0.push(whole.as_secs_f64() * 1e3);
            }
        }
        line("stower exec -> first instruction of the command", &first, "ms", "");
        line("stower exec -> its exit code", &all, "ms", "");
        self.node.remove("exec.yaml")?;
        self.node.wait_gone("exec")
    }

    fn new() -> Result<Self> {
        let node = TestNode::builder().no_registry().start()?;
        let (builder, _) = catalog::payload_builder("bench")?;
        let layout = node.folder().join("layout");
        fs::create_dir(&layout)?;
        builder.write(&layout)?;
        let image = "localhost/bench:1".to_owned();
        node.ok(["image", "import", &layout.to_string_lossy(), &image])?;
        let (out, root) = (node.folder().join("out"), node.folder().join("root"));
        for folder in ["dev", "proc", "sys", "out", "tmp"] {
            fs::create_dir_all(root.join(folder))?;
        }
        fs::copy(catalog::own_program("payload")?, root.join("payload"))?;
        fs::create_dir(&out)?;
        Ok(Self { node, image, out, root })
    }

    fn manifest(&self, name: &str, restart: bool) -> String {
        let rule = if restart { "Always\n  restart: {backoff: {initial: 0s}}" } else { "Never" };
        format!(
            "---\napiVersion: stower.dev/v1alpha1\nkind: Container\nmetadata: {{name: {name}}}\nspec:\n  image: {}\n  \
             imagePullPolicy: IfNotPresent\n  hostNetwork: true\n  args: [stamp, /out/{name}, stay]\n  restartPolicy: {rule}\n  \
             terminationGracePeriodSeconds: 0\n  volumes: [{{name: o, hostPath: {{path: {}, type: Directory}}}}]\n  \
             volumeMounts: [{{name: o, mountPath: /out}}]\n",
            self.image,
            self.out.display()
        )
    }

    /// The times at which processes of this container had their first instruction, in ns since the epoch.
    fn stamps(&self, name: &str) -> Vec<u128> {
        let text = fs::read_to_string(self.out.join(name)).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    fn wait_stamps(&self, name: &str, count: usize) -> Result<u128> {
        wait_for(format!("stamp {count} of {name}"), || {
            let stamps = self.stamps(name);
            Ok((stamps.len() >= count).then(|| stamps.last().copied()).flatten())
        })
    }

    /// One container at a time: file renamed into place → first instruction, interleaved with the bare clone3.
    fn starts(&self, rounds: usize) -> Result<()> {
        let (mut first, mut floor, mut cpu, mut gone) =
            (Samples::default(), Samples::default(), Samples::default(), Samples::default());
        for n in 0..=rounds {
            // The first round warms caches and is not counted.
            let name = format!("one{n}");
            std::thread::sleep(GAP);
            let temporary = self.node.manifests.join(".one.tmp");
            fs::write(&temporary, self.manifest(&name, false))?;
            let used = cpu_ns(self.node.agent_pid()?)?;
            let start = now();
            fs::rename(&temporary, self.node.manifests.join("one.yaml"))?;
            let stamp = self.wait_stamps(&name, 1)?;
            let pid = self.node.wait_running(&name)?;
            let spent =
                cpu_ns(self.node.agent_pid()?)? - used + cpu_ns(pid)? + cpu_ns(process::parent(pid)?)?;
            let removed = Instant::now();
            self.node.remove("one.yaml")?;
            self.node.wait_gone(&name)?;
            let removed = removed.elapsed();

            std::thread::sleep(GAP);
            let bare = format!("floor{n}");
            let begin = now();
            let mut command = Command::new(catalog::own_program("floor")?);
            command.arg(&bare).arg(&self.root).arg(&self.out).args([
                "/payload",
                "stamp",
                &format!("/out/{bare}"),
            ]);
            process::run_command(&mut command)?;
            let at = self.wait_stamps(&bare, 1)?;
            if n > 0 {
                first.0.push(ms(stamp - start));
                floor.0.push(ms(at - begin));
                cpu.0.push(ms(spent.into()));
                gone.0.push(removed.as_secs_f64() * 1e3);
            }
        }
        line("file renamed into place -> first instruction", &first, "ms", "goal: 15");
        line("  a bare clone3 with the same namespaces", &floor, "ms", "");
        println!("  ratio {:.2}", first.median() / floor.median());
        line("CPU of one start (agent + starter and shim + first process)", &cpu, "ms", "goal: 10");
        line("file removed -> object gone", &gone, "ms", "");
        Ok(())
    }

    fn restarts(&self, rounds: usize) -> Result<()> {
        let mut latency = Samples::default();
        self.node.write("again.yaml", &self.manifest("again", true))?;
        self.wait_stamps("again", 1)?;
        let mut pid = self.node.wait_running("again")?;
        for n in 0..rounds {
            std::thread::sleep(GAP);
            let start = now();
            process::kill9(pid)?;
            latency.0.push(ms(self.wait_stamps("again", n + 2)? - start));
            pid = self.node.wait_restarted("again", pid)?;
        }
        self.node.remove("again.yaml")?;
        self.node.wait_gone("again")?;
        line("killed -> the next process's first instruction (backoff 0)", &latency, "ms", "");
        Ok(())
    }

    fn many(&self) -> Result<()> {
        let mut last = Samples::default();
        for round in 0..3 {
            let names: Vec<String> = (0..MANY).map(|n| format!("m{round}x{n}")).collect();
            let text: String = names.iter().map(|name| self.manifest(name, false)).collect();
            let temporary = self.node.manifests.join(".many.tmp");
            fs::write(&temporary, text)?;
            let start = now();
            fs::rename(&temporary, self.node.manifests.join("many.yaml"))?;
            let stamps = names.iter().map(|name| self.wait_stamps(name, 1)).collect::<Result<Vec<_>>>()?;
            let end = stamps.iter().max().copied().context("no stamps")?;
            last.0.push(ms(end - start) / 1e3);
            wait_for("all to be shown as running", || Ok((self.pids()?.len() == MANY).then_some(())))?;
            if round == 2 {
                self.memory(MANY)?;
                self.idle()?;
                self.adoption(MANY)?;
            }
            self.node.remove("many.yaml")?;
            // An empty directory is not believed at once: the objects are asked for by their absence.
            self.node.write("none.yaml", &self.manifest(&format!("none{round}"), false))?;
            wait_for("all to be gone", || Ok((self.node.containers()?.len() <= 1).then_some(())))?;
        }
        line(&format!("{MANY} containers from one file"), &last, "s", "goal: 0.8");
        Ok(())
    }

    fn pids(&self) -> Result<Vec<u32>> {
        Ok(self
            .node
            .containers()?
            .iter()
            .filter(|item| item["metadata"]["name"].as_str().is_some_and(|name| name.starts_with('m')))
            .filter_map(pid_of)
            .collect())
    }

    /// What it costs the agent to ask probes: two a second of each of many containers.
    fn probes(&self) -> Result<()> {
        let body = "  args: [probed, '127.0.0.1:8080', '200']\n  terminationGracePeriodSeconds: 0\n";
        let handlers = [
            ("httpGet", "httpGet: {path: /, port: 8080}"),
            ("tcpSocket", "tcpSocket: {port: 8080}"),
            ("grpc", "grpc: {port: 8080}"),
            ("exec", "exec: {command: [/payload, is, '200']}"),
        ];
        for (name, handler) in handlers {
            let one = |n: usize| {
                let probe = format!("{{{handler}, periodSeconds: 1}}");
                format!(
                    "apiVersion: stower.dev/v1alpha1\nkind: Container\nmetadata: {{name: p{n}}}\nspec:\n  image: {}\n{body}  \
                     livenessProbe: {probe}\n  readinessProbe: {probe}\n",
                    self.image
                )
            };
            // A program a probe is more than one machine has time for.
            let many = if name == "exec" { PROBED / 10 } else { PROBED };
            self.node.write("probed.yaml", &(0..many).map(one).collect::<Vec<_>>().join("---\n"))?;
            self.node.wait("all to be ready", || {
                let items = self.node.containers()?;
                let ready = items.iter().filter(|item| is_probed(item) && item["status"]["ready"] == true);
                Ok((ready.count() == many).then_some(()))
            })?;
            let agent = self.node.agent_pid()?;
            let look = || -> Result<(f64, u64)> {
                Ok((self.node.metric("stower_prober_probe_total")?, process::cpu_ticks(agent)?))
            };
            let before = look()?;
            std::thread::sleep(IDLE / 3);
            let after = look()?;
            let asked = after.0 - before.0;
            #[expect(clippy::cast_precision_loss, reason = "ticks of some seconds")]
            let used = (after.1 - before.1) as f64 * 10.0;
            let each = Samples(vec![used / asked * 1000.0]);
            line(&format!("CPU of the agent for 1,000 probes by {name}"), &each, "ms", "");
            let (_, threads) = self.node.agent_descriptors_and_threads()?;
            #[expect(clippy::cast_precision_loss, reason = "some threads")]
            line(
                &format!("threads of the agent with {many} containers so probed"),
                &Samples(vec![threads as f64]),
                "",
                "",
            );
            self.node.remove("probed.yaml")?;
            self.node.wait("all to be gone", || {
                Ok((!self.node.containers()?.iter().any(is_probed)).then_some(()))
            })?;
        }
        Ok(())
    }

    fn memory(&self, count: usize) -> Result<()> {
        // The agent gives the memory of a burst back once it has rested for two seconds.
        std::thread::sleep(Duration::from_secs(5));
        let mut shims = Samples::default();
        for pid in self.pids()? {
            #[expect(clippy::cast_precision_loss, reason = "kilobytes of one process")]
            shims.0.push(process::pss_kb(process::parent(pid)?)? as f64);
        }
        line(&format!("PSS of a shim at {count}"), &shims, "kB", "goal: 30");
        #[expect(clippy::cast_precision_loss, reason = "kilobytes of one process")]
        let agent = process::pss_kb(self.node.agent_pid()?)? as f64 / 1024.0;
        line(&format!("PSS of the agent with {count} containers"), &Samples(vec![agent]), "MiB", "goal: 20");
        Ok(())
    }

    fn idle(&self) -> Result<()> {
        let agent = self.node.agent_pid()?;
        let shims = self.pids()?.into_iter().map(process::parent).collect::<Result<Vec<_>>>()?;
        let used = || -> Result<(u64, u64)> {
            // Of the whole process, threads that ended meanwhile included; in ticks of 10 ms.
            let ticks = process::cpu_ticks(agent)?.saturating_mul(10_000_000);
            Ok((ticks, shims.iter().map(|pid| cpu_ns(*pid)).sum::<Result<u64>>()?))
        };
        // What a start leaves to do later is not idleness.
        std::thread::sleep(Duration::from_secs(5));
        let before = used()?;
        std::thread::sleep(IDLE);
        let after = used()?;
        let per_minute = |ns: u64| ms(ns.into()) * 60.0 / IDLE.as_secs_f64();
        line(
            "CPU a minute of the idle agent",
            &Samples(vec![per_minute(after.0 - before.0)]),
            "ms",
            "goal: 0",
        );
        line(
            "CPU a minute of all idle shims",
            &Samples(vec![per_minute(after.1 - before.1)]),
            "ms",
            "goal: 0",
        );
        Ok(())
    }

    /// From the start of the program to a list that has them all.
    fn adoption(&self, count: usize) -> Result<()> {
        let before = self.pids()?;
        let mut ready = Samples::default();
        for _ in 0..7 {
            self.node.kill_agent()?;
            let start = Instant::now();
            self.node.spawn_agent()?;
            while self.running().unwrap_or(0) != count {
                ensure!(
                    start.elapsed() < Duration::from_secs(60),
                    "not all were adopted: {:?}",
                    self.running()
                );
                std::thread::sleep(Duration::from_micros(500));
            }
            ready.0.push(start.elapsed().as_secs_f64() * 1e3);
            wait_for("the agent to be ready", || {
                Ok((http::unix(&self.node.socket, "GET", "/readyz")?.status == 200).then_some(()))
            })?;
        }
        ensure!(self.pids()? == before, "a new agent disturbed containers");
        let goal = if count == MANY { "goal: 50" } else { "" };
        line(&format!("agent started -> {count} containers adopted and listed"), &ready, "ms", goal);
        Ok(())
    }

    /// How many of the many the local API lists as running.
    fn running(&self) -> Result<usize> {
        let answer = http::unix(&self.node.socket, "GET", "/apis/stower.dev/v1alpha1/containers")?;
        let list: serde_json::Value = serde_json::from_str(&answer.text())?;
        let items = list["items"].as_array().context("no items")?;
        let is_one = |item: &&serde_json::Value| {
            item["metadata"]["name"].as_str().is_some_and(|name| name.starts_with('m'))
                && pid_of(item).is_some()
        };
        Ok(items.iter().filter(is_one).count())
    }

    /// Many containers on one agent: how fast they start, what they cost at rest, and what one more change costs then.
    fn crowd(&self, count: usize) -> Result<()> {
        let names: Vec<String> = (0..count).map(|n| format!("m{n}")).collect();
        let text: String = names.iter().map(|name| self.manifest(name, false)).collect();
        let temporary = self.node.manifests.join(".many.tmp");
        fs::write(&temporary, text)?;
        let used = process::cpu_ticks(self.node.agent_pid()?)?;
        let begun = Instant::now();
        fs::rename(&temporary, self.node.manifests.join("many.yaml"))?;
        stower_e2e::wait_long_for("all to run", Duration::from_secs(600), || {
            Ok((self.running()? == count).then_some(()))
        })?;
        let took = begun.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
        let rate = count as f64 / took;
        line(&format!("{count} containers from one file: starts a second"), &Samples(vec![rate]), "", "");
        #[expect(clippy::cast_precision_loss, reason = "ticks of 10 ms")]
        let spent = (process::cpu_ticks(self.node.agent_pid()?)? - used) as f64 * 10.0 / count as f64;
        line("  CPU of the agent a container", &Samples(vec![spent]), "ms", "");
        self.memory(count)?;
        self.idle()?;
        self.changes(count)?;
        self.adoption(count)?;
        std::thread::sleep(Duration::from_secs(5));
        self.memory(count)
    }

    /// What the loop spends on one change among many: an edit that needs no new process.
    fn changes(&self, count: usize) -> Result<()> {
        let mut turn = Samples::default();
        for round in 0..20 {
            let name = format!("edited{round}");
            self.node.write(&format!("{name}.yaml"), &self.manifest(&name, false))?;
            self.node.wait_running(&name)?;
            let loops = |node: &TestNode| -> Result<(f64, f64)> {
                Ok((
                    node.metric("stower_reconcile_seconds_sum")?,
                    node.metric("stower_reconcile_seconds_count")?,
                ))
            };
            let before = loops(&self.node)?;
            let text = self
                .manifest(&name, false)
                .replace("terminationGracePeriodSeconds: 0", "terminationGracePeriodSeconds: 1");
            self.node.write(&format!("{name}.yaml"), &text)?;
            wait_for("the edit to be taken", || {
                let item = self.node.container(&name)?.context("gone")?;
                Ok((item["status"]["observedGeneration"] == 2).then_some(()))
            })?;
            let after = loops(&self.node)?;
            turn.0.push((after.0 - before.0) / (after.1 - before.1).max(1.0) * 1e3);
            self.node.remove(&format!("{name}.yaml"))?;
            self.node.wait_gone(&name)?;
        }
        line(&format!("a turn of the loop for one edit among {count}"), &turn, "ms", "");
        Ok(())
    }
}

/// Whether a container is one of those with probes.
fn is_probed(item: &serde_json::Value) -> bool {
    item["spec"]["readinessProbe"].is_object()
}

fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()
}

#[expect(clippy::cast_precision_loss, reason = "differences of times, far below 2^52 ns")]
fn ms(ns: u128) -> f64 {
    ns as f64 / 1e6
}

/// Time that all threads of a process were on a CPU, in ns.
fn cpu_ns(pid: u32) -> Result<u64> {
    let tasks = PathBuf::from(format!("/proc/{pid}/task"));
    let read =
        |task: &Path| fs::read_to_string(task.join("schedstat")).ok()?.split(' ').next()?.parse::<u64>().ok();
    let entries = fs::read_dir(&tasks).with_context(|| format!("look at process {pid}"))?;
    Ok(entries.flatten().filter_map(|task| read(&task.path())).sum())
}
