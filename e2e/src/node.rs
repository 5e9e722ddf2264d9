//! One agent with directories of its own, driven as a person would: files, the command line, signals.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::footprint::{self, Footprint};
use crate::{Catalog, http, process, requires, teardown, wait_for};

/// What a command printed.
#[derive(Debug)]
pub struct Output {
    /// The exit code; -1 after a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl From<std::process::Output> for Output {
    fn from(output: std::process::Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The program under test: `$STOWER_BIN`, or what was built beside the running one.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("STOWER_BIN") {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "STOWER_BIN={} is no file", path.display());
        return Ok(path);
    }
    crate::catalog::own_program("stower")
        .context("the program under test is not built: cargo build -p stower (or name one in STOWER_BIN)")
}

/// What an agent is told unless a test says more: how full this machine's disk is must not decide what tests see.
const CONFIG: &str = "images: {gc: {enabled: false}}\nstorage: {minFree: {}, minFreeInodes: {}}\n";

/// How an agent is started.
#[derive(Debug, Default)]
pub struct NodeBuilder {
    args: Vec<String>,
    env: Vec<(String, String)>,
    through: Vec<String>,
    config: Option<String>,
    no_registry: bool,
}

impl NodeBuilder {
    /// Adds arguments to `stower agent`.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    /// Sets a variable of the agent's environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts the agent by a program that becomes it, with `words` before the agent's own command line.
    pub fn through(mut self, words: &[&str]) -> Self {
        self.through = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// The agent's configuration file, in place of one that makes nothing of a full disk.
    pub fn config(mut self, text: &str) -> Self {
        self.config = Some(text.to_owned());
        self
    }

    /// Does not name the shared registry as one for plain HTTP.
    pub fn no_registry(mut self) -> Self {
        self.no_registry = true;
        self
    }

    /// Makes the directories, without an agent yet.
    pub fn build(mut self) -> Result<TestNode> {
        requires::root()?;
        if !self.no_registry {
            self.args.extend(["--insecure-registry".to_owned(), Catalog::get()?.registry.address.clone()]);
        }
        let folder = tempfile::Builder::new()
            .prefix(&teardown::prefix(std::process::id()))
            .tempdir_in(teardown::PLACE)?;
        let node = TestNode {
            manifests: folder.path().join("manifests"),
            data: folder.path().join("data"),
            run: folder.path().join("run"),
            socket: folder.path().join("run/stower.sock"),
            log: folder.path().join("agent.log"),
            config: folder.path().join("config.yaml"),
            binary: Mutex::new(binary()?),
            args: self.args,
            env: self.env,
            through: self.through,
            agent: Mutex::new(None),
            folder,
        };
        fs::create_dir(&node.manifests)?;
        fs::write(&node.config, self.config.as_deref().unwrap_or(CONFIG))?;
        Ok(node)
    }

    /// Makes the directories and starts the agent.
    pub fn start(self) -> Result<TestNode> {
        let node = self.build()?;
        node.start_agent()?;
        Ok(node)
    }
}

/// An agent and its directories. Everything it started ends with this value.
#[derive(Debug)]
pub struct TestNode {
    /// Its manifests directory.
    pub manifests: PathBuf,
    /// Its data root.
    pub data: PathBuf,
    /// Its run root.
    pub run: PathBuf,
    /// Its socket.
    pub socket: PathBuf,
    /// What the agent wrote.
    pub log: PathBuf,
    /// Its configuration file.
    pub config: PathBuf,
    binary: Mutex<PathBuf>,
    args: Vec<String>,
    env: Vec<(String, String)>,
    through: Vec<String>,
    agent: Mutex<Option<Child>>,
    folder: TempDir,
}

impl TestNode {
    /// An agent with defaults, which may pull from the shared registry.
    pub fn start() -> Result<Self> {
        Self::builder().start()
    }

    /// An agent to be told more.
    pub fn builder() -> NodeBuilder {
        NodeBuilder::default()
    }

    /// The folder that all others are in, also a place for a test's own files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The program that is started next, as the agent and for commands.
    pub fn program(&self) -> PathBuf {
        self.binary.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has another program be started from now on.
    pub fn use_program(&self, path: &Path) {
        path.clone_into(&mut self.binary.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The command that starts the agent.
    pub fn agent_command(&self) -> Command {
        let mut command = match self.through.split_first() {
            None => Command::new(self.program()),
            Some((program, words)) => {
                let mut command = Command::new(program);
                command.args(words).arg(self.program());
                command
            }
        };
        process::without_settings(&mut command);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.arg("agent").arg("--manifests").arg(&self.manifests).arg("--data-root").arg(&self.data);
        command.arg("--run-root").arg(&self.run).arg("--socket").arg(&self.socket);
        command.arg("--config").arg(&self.config).args(&self.args).stdin(Stdio::null());
        command
    }

    /// Starts the agent, which is to die by itself when it comes to a failpoint. Debug builds alone have those.
    pub fn spawn_doomed(&self, failpoint: &str) -> Result<()> {
        self.spawn(self.agent_command().env("STOWER_FAILPOINT", failpoint)).map(drop)
    }

    /// Whether the agent has ended by itself since it was started. Its end is told once.
    pub fn has_died(&self) -> Result<bool> {
        let mut agent = self.lock();
        let Some(child) = agent.as_mut() else { return Ok(false) };
        if child.try_wait()?.is_none() {
            return Ok(false);
        }
        *agent = None;
        Ok(true)
    }

    /// Starts the agent and waits for nothing.
    pub fn spawn_agent(&self) -> Result<()> {
        self.spawn(&mut self.agent_command()).map(drop)
    }

    fn spawn(&self, command: &mut Command) -> Result<u32> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = command.stdout(log.try_clone()?).stderr(log).spawn().context("start the agent")?;
        let pid = child.id();
        *self.lock() = Some(child);
        Ok(pid)
    }

    /// Starts the agent and waits until it says it is ready.
    pub fn start_agent(&self) -> Result<()> {
        let pid = self.spawn(&mut self.agent_command())?;
        self.wait("the agent to be ready", || {
            if let Some(child) = self.lock().as_mut()
                && let Some(status) = child.try_wait()?
            {
                // Ends the wait: the agent will not come back.
                return Ok(Some(Err(status)));
            }
            Ok((http::unix(&self.socket, "GET", "/readyz")?.status == 200).then_some(Ok(())))
        })?
        .or_else(|status| bail!("the agent (pid {pid}) ended with {status}:\n{}", self.log_tail()))
    }

    /// Starts an agent that will not be ready, and waits until it answers.
    pub fn start_agent_that_waits(&self) -> Result<()> {
        self.spawn(&mut self.agent_command())?;
        self.wait("the agent to answer", || {
            Ok((http::unix(&self.socket, "GET", "/livez")?.status == 200).then_some(()))
        })
    }

    /// The agent's process id.
    pub fn agent_pid(&self) -> Result<u32> {
        Ok(self.lock().as_ref().context("the agent does not run")?.id())
    }

    /// Ends the agent with SIGKILL; containers go on.
    pub fn kill_agent(&self) -> Result<()> {
        let mut child = self.lock().take().context("the agent does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Asks the agent to end, as a service manager does, and gives its exit code.
    pub fn terminate_agent(&self) -> Result<i32> {
        let mut child = self.lock().take().context("the agent does not run")?;
        process::signal(child.id(), Signal::TERM)?;
        let status = wait_for("the agent to end on SIGTERM", || Ok(child.try_wait()?))?;
        Ok(status.code().unwrap_or(-1))
    }

    /// SIGKILL, then a new agent.
    pub fn restart_agent(&self) -> Result<()> {
        self.kill_agent()?;
        self.start_agent()
    }

    /// Writes a manifest under another name and renames it into place.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let temporary = self.manifests.join(format!(".{name}.tmp"));
        fs::write(&temporary, text)?;
        fs::rename(temporary, self.manifests.join(name)).with_context(|| format!("rename {name} into place"))
    }

    /// Writes another configuration file and renames it into place.
    pub fn write_config(&self, text: &str) -> Result<()> {
        let temporary = self.config.with_extension("new");
        fs::write(&temporary, text)?;
        fs::rename(temporary, &self.config).context("rename the configuration into place")
    }

    /// What the agent has of a field of its configuration.
    pub fn setting(&self, field: &str) -> Result<Value> {
        let shown: Value = serde_json::from_str(&self.ok(["config", "show", "-o", "json"])?)?;
        let fields = shown["fields"].as_array().context("a configuration without fields")?;
        let found =
            fields.iter().find(|it| it["field"] == field).with_context(|| format!("no field {field}"))?;
        Ok(found["value"].clone())
    }

    /// Removes a manifest.
    pub fn remove(&self, name: &str) -> Result<()> {
        fs::remove_file(self.manifests.join(name)).with_context(|| format!("remove {name}"))
    }

    /// A command of the program under test with this agent's socket.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(self.program());
        command.args(args).env("STOWER_SOCKET", &self.socket).env_remove("RUST_LOG");
        command
    }

    /// Runs a command of the program, whatever it answers.
    pub fn cli<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Output> {
        Ok(process::output(&mut self.command(args))?.into())
    }

    /// Runs a command that must succeed, and gives its standard output.
    pub fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        process::run_command(&mut self.command(args))
    }

    /// Runs a command that must fail, and gives what it said on standard error.
    pub fn refused<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        let output = self.cli(args)?;
        ensure!(output.code > 0, "the command was to fail, and ended with {}: {output:?}", output.code);
        ensure!(!output.stderr.trim().is_empty(), "the command failed without a word: {output:?}");
        Ok(output.stderr)
    }

    /// All containers of all namespaces.
    pub fn containers(&self) -> Result<Vec<Value>> {
        let list: Value = serde_json::from_str(&self.ok(["get", "containers", "-A", "-o", "json"])?)?;
        Ok(list["items"].as_array().context("a list without items")?.clone())
    }

    /// One container of the default namespace, if it is there.
    pub fn container(&self, name: &str) -> Result<Option<Value>> {
        Ok(self.containers()?.into_iter().find(|item| {
            item["metadata"]["name"] == name
                && item["metadata"]["namespace"].as_str().unwrap_or("default") == "default"
        }))
    }

    /// Waits until a container is as wanted.
    pub fn wait_container(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        self.wait(&format!("container {name} to be {what}"), || {
            Ok(self.container(name)?.filter(|item| wanted(item)))
        })
    }

    /// Waits until a container runs, and gives its process id.
    pub fn wait_running(&self, name: &str) -> Result<u32> {
        let item = self.wait_container(name, "running", |item| pid_of(item).is_some())?;
        pid_of(&item).context("no process id")
    }

    /// Waits until a container runs as another process than `before`.
    pub fn wait_restarted(&self, name: &str, before: u32) -> Result<u32> {
        let item =
            self.wait_container(name, "running anew", |item| pid_of(item).is_some_and(|pid| pid != before))?;
        pid_of(&item).context("no process id")
    }

    /// Waits until a container is not there any more.
    pub fn wait_gone(&self, name: &str) -> Result<()> {
        self.wait(&format!("container {name} to be gone"), || {
            Ok(self.container(name)?.is_none().then_some(()))
        })
    }

    /// Waits until a container waits for one of these reasons, and gives the message.
    pub fn wait_waiting(&self, name: &str, reasons: &[&str]) -> Result<String> {
        let item = self.wait_container(name, &format!("waiting for one of {reasons:?}"), |item| {
            item["status"]["state"]["waiting"]["reason"]
                .as_str()
                .is_some_and(|reason| reasons.contains(&reason))
        })?;
        Ok(item["status"]["state"]["waiting"]["message"].as_str().unwrap_or_default().to_owned())
    }

    /// The sum of all series of a metric.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let text = http::unix(&self.socket, "GET", "/metrics")?.text();
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            if !rest.starts_with([' ', '{']) {
                return None;
            }
            rest.rsplit(' ').next()?.parse::<f64>().ok()
        });
        Ok(values.sum())
    }

    /// Everything that this agent holds on the machine.
    pub fn footprint(&self) -> Footprint {
        Footprint::of(&self.data, &self.run, self.folder.path())
    }

    /// Open descriptors and threads of the agent.
    pub fn agent_descriptors_and_threads(&self) -> Result<(usize, usize)> {
        Ok(footprint::descriptors_and_threads(self.agent_pid()?))
    }

    /// [`wait_for`], with all that is known of the agent when it fails.
    pub fn wait<T>(&self, what: &str, look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        wait_for(what, look).with_context(|| self.report())
    }

    /// The last lines that the agent wrote.
    pub fn log_tail(&self) -> String {
        process::tail(&fs::read_to_string(&self.log).unwrap_or_default(), 60)
    }

    fn report(&self) -> String {
        let show = |args: &[&str]| match self.cli(args) {
            Ok(output) => format!("$ stower {}\n{}{}", args.join(" "), output.stdout, output.stderr),
            Err(error) => format!("$ stower {}\n{error:#}\n", args.join(" ")),
        };
        format!(
            "\n{}\n{}\n--- the agent's log\n{}---",
            show(&["get", "containers", "-A", "-o", "yaml"]),
            show(&["events", "-A"]),
            self.log_tail()
        )
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.report());
        }
        let _ = self.kill_agent();
        if let Err(error) = teardown::end(&self.data, self.folder.path()) {
            eprintln!("cannot clean up after {}: {error:#}", self.folder.path().display());
        }
    }
}

/// The process id of a running container.
pub fn pid_of(item: &Value) -> Option<u32> {
    item["status"]["state"]["running"]["pid"]
        .as_u64()
        .and_then(|pid| pid.try_into().ok())
        .filter(|pid| *pid > 0)
}

/// The UID of an object.
pub fn uid_of(item: &Value) -> Result<String> {
    Ok(item["metadata"]["uid"].as_str().context("an object without uid")?.to_owned())
}

/// How often a container was restarted.
pub fn restarts_of(item: &Value) -> u64 {
    item["status"]["restartCount"].as_u64().unwrap_or(0)
}

/// The status (`True`, `False`, `Unknown`) and reason of a condition.
pub fn condition<'a>(item: &'a Value, kind: &str) -> Option<(&'a str, &'a str)> {
    let all = item["status"]["conditions"].as_array()?;
    let found = all.iter().find(|condition| condition["type"] == kind)?;
    Some((found["status"].as_str()?, found["reason"].as_str().unwrap_or_default()))
}
