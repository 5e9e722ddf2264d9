//! A changed configuration takes effect while the agent runs: all of it is checked, then all of it is swapped in at once.
//!
//! ```text
//! SIGHUP, `config reload`, a changed file ─► read ─► Sources::with_file ─► Config ─► what differs ─┬─► storage, log level
//!                                                        │ wrong: nothing changes                  ├─► Settings
//!                                                        └─► ConfigReloadFailed                    └─► loop, disk: look again
//! ```
//!
//! What is in effect after it is what runs, never what was asked for: fields that need a restart keep their values, and are told
//! as waiting for one.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use serde_json::{Value, json};
use stower_storage::Storage;
use tokio::sync::{mpsc, oneshot};
use tracing_subscriber::EnvFilter;

use crate::{
    config::{Change, Config, ConfigError, Reload, Settings, Sources},
    effects::chain,
    events::EventType,
    node::{ApiError, Node, Request},
    runtimes,
};

mod watch;

use self::watch::Watch;

/// The longest message of an event, in bytes, as in Kubernetes.
const MAX_MESSAGE: usize = 1024;
/// How long a person waits for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sets what the agent logs.
pub(crate) struct LogLevel(Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>);

impl LogLevel {
    pub(crate) fn new(set: impl Fn(EnvFilter) -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self(Box::new(set))
    }
}

impl std::fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogLevel")
    }
}

/// The configuration that an agent begins with, and what can change it.
#[derive(Debug)]
pub struct Start {
    pub(crate) sources: Sources,
    pub(crate) config: Config,
    /// The file as it was read.
    pub(crate) file: Vec<u8>,
    pub(crate) log_level: LogLevel,
}

/// How the last reload went.
#[derive(Debug, Clone, Default)]
pub(crate) struct LastReload {
    at: Option<Timestamp>,
    problem: Option<String>,
    /// What the file has, and the agent only after a restart.
    waiting: Vec<Change>,
}

/// What is asked of the reloader.
#[derive(Debug)]
pub(crate) enum Ask {
    /// A signal.
    Hangup,
    /// A person.
    Person { reply: oneshot::Sender<Result<Value, ApiError>> },
}

/// The configuration as the node shows it. Cheap to clone; all clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Configured {
    pub(crate) settings: Settings,
    sources: Arc<Sources>,
    asks: mpsc::Sender<Ask>,
    last: Arc<ArcSwap<LastReload>>,
    runtimes: Arc<ArcSwap<Vec<Value>>>,
}

impl Configured {
    /// Asks for a reload, as SIGHUP does.
    pub(crate) async fn hang_up(&self) {
        let _ = self.asks.send(Ask::Hangup).await;
    }

    /// Asks for a reload and waits for its result.
    pub(crate) async fn reload(&self) -> Result<Value, ApiError> {
        let stopping = |_| ApiError::unavailable("the agent is stopping");
        let asked = async {
            let (reply, answer) = oneshot::channel();
            self.asks.send(Ask::Person { reply }).await.map_err(|error| stopping(error.to_string()))?;
            answer.await.map_err(|error| stopping(error.to_string()))?
        };
        tokio::time::timeout(PATIENCE, asked).await.map_err(|_| {
            let file = self.sources.file.display();
            ApiError::unavailable(format!(
                "{file} was not read within {} s; it is tried on",
                PATIENCE.as_secs()
            ))
        })?
    }

    /// What the agent runs with, where each value comes from, and what waits for a restart.
    pub(crate) fn view(&self) -> Value {
        let last = self.last.load();
        let mut view = json!({
            "kind": "AgentConfig",
            "file": self.sources.file,
            "fields": self.settings.get().show(&self.sources),
            "needsRestart": last.waiting.iter().map(Change::to_json).collect::<Vec<_>>(),
        });
        if let Some(at) = last.at {
            view["lastReload"] = json!({"time": at, "successful": last.problem.is_none()});
            if let Some(problem) = &last.problem {
                view["lastReload"]["message"] = problem.clone().into();
            }
        }
        view
    }

    /// The runtimes that containers may ask for, with what they say of themselves.
    pub(crate) fn runtimes(&self) -> Arc<Vec<Value>> {
        self.runtimes.load_full()
    }

    /// What a file with this text would change, without doing it.
    pub(crate) fn check(&self, text: &str) -> Result<Value, ApiError> {
        let wanted = self.sources.with_file(text.as_bytes()).map_err(|error| refused(&error))?;
        let problems = runtimes::problems(&wanted);
        if !problems.is_empty() {
            return Err(ApiError::invalid(problems.join("; ")));
        }
        Ok(outcome(&self.settings.get().changes(&wanted)))
    }
}

fn refused(error: &ConfigError) -> ApiError {
    ApiError::invalid(chain(error))
}

fn outcome(changes: &[Change]) -> Value {
    let of = |reload| changes.iter().filter(move |it| it.reload == reload).map(Change::to_json);
    json!({
        "kind": "ConfigChanges",
        "changes": of(Reload::Live).collect::<Vec<_>>(),
        "needsRestart": of(Reload::Restart).collect::<Vec<_>>(),
    })
}

/// The one who reloads: one at a time, in a task of its own.
#[derive(Debug)]
pub(crate) struct Reloader {
    configured: Configured,
    asked: mpsc::Receiver<Ask>,
    storage: Storage,
    log_level: LogLevel,
    /// The file as it was looked at last, whatever came of it.
    seen: Option<Vec<u8>>,
    /// Whether what is in effect comes from a file.
    has_file: bool,
}

impl Reloader {
    /// Makes the handle and the task behind it.
    pub(crate) fn new(start: Start, storage: Storage) -> (Configured, Self) {
        let (asks, asked) = mpsc::channel(8);
        let Start { sources, config, file, log_level } = start;
        let configured = Configured {
            settings: Settings::new(config),
            sources: Arc::new(sources),
            asks,
            last: Arc::default(),
            runtimes: Arc::default(),
        };
        let has_file = !is_blank(&file);
        (configured.clone(), Self { configured, asked, storage, log_level, seen: Some(file), has_file })
    }

    /// Reloads whenever there is reason to, until the agent ends.
    pub(crate) async fn run(mut self, node: Arc<Node>) {
        node.metrics.config_successful.set(1);
        node.metrics.config_success_time.set(now());
        self.survey();
        let mut watch = Watch::new(self.configured.sources.file.clone());
        loop {
            let ask = tokio::select! {
                ask = self.asked.recv() => match ask {
                    Some(ask) => Some(ask),
                    None => return,
                },
                () = watch.changed() => None,
            };
            let done = self.reload(&node, ask.is_some()).await;
            if let Some(Ask::Person { reply }) = ask {
                let _ = reply.send(done);
            }
        }
    }

    /// Reads the file and goes by it. Without `asked` only when it is another one than was seen last.
    async fn reload(&mut self, node: &Arc<Node>, asked: bool) -> Result<Value, ApiError> {
        let sources = Arc::clone(&self.configured.sources);
        let read = tokio::task::spawn_blocking(move || sources.read()).await;
        let read = read.map_err(|error| ApiError::internal(error.to_string()))?;
        let file = self.configured.sources.file.display().to_string();
        let bytes = match read {
            Ok(Some(bytes)) => bytes,
            // It was never there.
            Ok(None) if !self.has_file => return Ok(outcome(&[])),
            Ok(None) => return self.failed(node, asked, None, format!("{file} is gone")),
            Err(error) => return self.failed(node, asked, None, chain(&error)),
        };
        if !asked && self.seen.as_ref() == Some(&bytes) {
            return Ok(outcome(&[]));
        }
        // Somebody who truncates a file in order to write it may die in between.
        if is_blank(&bytes) && self.has_file {
            let message = format!("{file} is empty; to have the defaults, write {{}} into it");
            return self.failed(node, asked, Some(bytes), message);
        }
        match self.configured.sources.with_file(&bytes) {
            Ok(wanted) => match runtimes::problems(&wanted) {
                problems if problems.is_empty() => Ok(self.succeed(node, bytes, wanted).await),
                problems => {
                    let problem = format!("{file}: {}", problems.join("; "));
                    self.failed(node, asked, Some(bytes), problem)
                }
            },
            Err(error) => self.failed(node, asked, Some(bytes), chain(&error)),
        }
    }

    /// Asks the runtimes what they are, beside everything else: they are programs of others.
    fn survey(&self) {
        let (config, runtimes) = (self.configured.settings.get(), Arc::clone(&self.configured.runtimes));
        tokio::task::spawn_blocking(move || runtimes.store(Arc::new(runtimes::survey(&config))));
    }

    /// Nothing changes, and it is told; the same thing once, unless somebody asks again.
    fn failed(
        &mut self,
        node: &Node,
        asked: bool,
        bytes: Option<Vec<u8>>,
        problem: String,
    ) -> Result<Value, ApiError> {
        node.metrics.config_successful.set(0);
        let last = self.configured.last.load_full();
        if asked || last.problem.as_ref() != Some(&problem) {
            tracing::error!(
                problem,
                "the configuration was not reloaded; what was read last stays in effect"
            );
            let message = format!("{problem}; what was read last stays in effect");
            node.tell(EventType::Warning, "ConfigReloadFailed", clip(message));
        }
        self.seen = bytes;
        let at = Some(Timestamp::now());
        let last = LastReload { at, problem: Some(problem.clone()), waiting: last.waiting.clone() };
        self.configured.last.store(Arc::new(last));
        Err(ApiError::invalid(problem))
    }

    /// All of it is right: it is swapped in, and whoever sleeps by the old one looks again.
    async fn succeed(&mut self, node: &Node, bytes: Vec<u8>, wanted: Config) -> Value {
        let settings = &self.configured.settings;
        let current = settings.get();
        let changes = current.changes(&wanted);
        let (live, waiting): (Vec<_>, Vec<_>) =
            changes.iter().cloned().partition(|it| it.reload == Reload::Live);
        let next = current.succeeded_by(wanted);
        self.storage.reconfigure(&next.insecure_registries, next.unpack_limits.clone());
        if next.log_level != current.log_level
            && let Err(error) = EnvFilter::try_new(&next.log_level)
                .map_err(|error| error.to_string())
                .and_then(&self.log_level.0)
        {
            tracing::error!(error, "cannot set the log level");
        }
        let other_runtimes = next.runtimes != current.runtimes;
        settings.replace(next);
        if other_runtimes {
            self.survey();
        }
        self.has_file = !is_blank(&bytes);
        self.seen = Some(bytes);
        node.metrics.config_successful.set(1);
        node.metrics.config_success_time.set(now());
        tracing::info!(
            changes = list(&live),
            needs_restart = list(&waiting),
            "the configuration was reloaded"
        );
        let last = LastReload { at: Some(Timestamp::now()), problem: None, waiting: waiting.clone() };
        let last = self.configured.last.swap(Arc::new(last));
        if !live.is_empty() {
            node.tell(EventType::Normal, "ConfigReloaded", clip(list(&live)));
            node.disk.look_after();
            let _ = node.requests.send(Request::Configured).await;
        }
        if !waiting.is_empty() && waiting != last.waiting {
            let message = format!("takes effect with the agent's next start: {}", list(&waiting));
            node.tell(EventType::Warning, "ConfigNeedsRestart", clip(message));
        }
        outcome(&changes)
    }
}

fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(u8::is_ascii_whitespace)
}

fn now() -> f64 {
    Timestamp::now().as_second() as f64
}

fn list(changes: &[Change]) -> String {
    changes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What an event's message holds of it.
fn clip(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE - '…'.len_utf8()));
        message.push('…');
    }
    message
}
