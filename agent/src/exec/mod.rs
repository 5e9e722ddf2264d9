//! Commands that people and tools run in a container.
//!
//! ```text
//! api/exec ─► Node::exec ─► adopt, Runtime::exec ─► Session ─► session::run ◄─ channels ─► the client
//! ```

mod attach;
mod copy;
mod look;
mod session;

pub(crate) use copy::FromFrames;
pub use copy::{CopyFrom, CopyTo};
pub use look::{ProcessView, StatsView};

use std::{os::fd::OwnedFd, path::PathBuf, sync::Arc};

use rustix::fs::OFlags;
use stower_crds::{Kind, ObjectKey};
use stower_runtime::{
    Adoption, ExecError, ExecRequest, Executing, ShimHandle, adopt::ShimError, error::FailureKind,
    exec::TerminalSize, failpoint, shim::frame::error_code, start::Runtime,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    effects::chain,
    node::{ApiError, Node, resource},
};

/// Sessions at one time.
const SESSIONS: usize = 512;

/// What it takes to run one more process in a container.
#[derive(Debug, Clone)]
pub(crate) struct Execs {
    runtime: Runtime,
    starter: PathBuf,
    slots: Arc<Semaphore>,
}

/// A command, as a client asks for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOptions {
    /// Command and arguments.
    pub command: Vec<String>,
    /// `NAME=value`, beside the container's own.
    pub env: Vec<String>,
    /// Working directory.
    pub working_dir: Option<String>,
    /// `user[:group]`.
    pub user: Option<String>,
    /// With a terminal of this size, `(rows, columns)`.
    pub tty: Option<(u16, u16)>,
    /// Which of the three standard streams the client wants.
    pub streams: [bool; 3],
}

/// What a client wants of a container's streams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AttachOptions {
    /// The size of the client's terminal, `(rows, columns)`, if it has one.
    pub tty: Option<(u16, u16)>,
    /// It sends standard input.
    pub stdin: bool,
}

/// A container that is attached to.
#[derive(Debug)]
pub struct Attachment {
    container: ShimHandle,
    shim: std::os::unix::net::UnixStream,
    options: AttachOptions,
    once: bool,
    _slot: OwnedSemaphorePermit,
}

/// A command that runs, and our ends of its streams.
#[derive(Debug)]
pub struct Session {
    process: Executing,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    terminal: bool,
    _slot: OwnedSemaphorePermit,
}

impl Execs {
    pub(crate) fn new(runtime: Runtime, starter: PathBuf) -> Self {
        Self { runtime, starter, slots: Arc::new(Semaphore::new(SESSIONS)) }
    }
}

/// A running container and its uid.
pub(crate) fn running(node: &Node, key: &ObjectKey) -> Result<(ShimHandle, String), ApiError> {
    let view = node.view();
    let object = view.objects.get(key).filter(|_| key.kind == Kind::Container);
    let object = object.ok_or_else(|| ApiError::not_found(key))?;
    let uid = object.object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    match stower_runtime::adopt(&node.paths.container_run(&uid), node.execs.runtime.boot_id()) {
        Adoption::Running(handle) => Ok((handle, uid)),
        Adoption::Unknown(error) => Err(ApiError::internal(format!(
            "whether {} runs cannot be told: {}",
            resource(key),
            chain(&error)
        ))),
        _ => {
            let phase = object.object["status"]["phase"].as_str().unwrap_or("Pending");
            Err(ApiError::conflict(format!("{} is not running; its phase is {phase}", resource(key))))
        }
    }
}

impl Node {
    /// Runs a command in a container.
    ///
    /// # Errors
    /// When the container does not run, or the command cannot be started: with the reason `CommandNotFound` where a shell
    /// would exit with 127, and `CommandNotExecutable` for 126.
    pub async fn exec(&self, key: &ObjectKey, options: ExecOptions) -> Result<Session, ApiError> {
        let slot = Arc::clone(&self.execs.slots).try_acquire_owned();
        let slot = slot.map_err(|_| {
            ApiError::unavailable(format!("{SESSIONS} commands run already: end some, then try again"))
        })?;
        let (container, _) = running(self, key)?;
        failpoint("exec.asked");
        let Execs { runtime, starter, .. } = self.execs.clone();
        let begun =
            tokio::task::spawn_blocking(move || begin(&runtime, &container, starter, options, slot)).await;
        begun
            .map_err(|error| ApiError::internal(format!("starting the command failed: {error}")))?
            .map_err(|error| refusal(key, &error))
    }

    /// Attaches to a container's own streams.
    ///
    /// # Errors
    /// When it does not run, has no standard input or terminal that is asked for, or was started by a release that knew of
    /// no such thing.
    pub async fn attach(&self, key: &ObjectKey, options: AttachOptions) -> Result<Attachment, ApiError> {
        let slot = Arc::clone(&self.execs.slots).try_acquire_owned();
        let slot = slot.map_err(|_| {
            ApiError::unavailable(format!("{SESSIONS} sessions are open already: end some, then try again"))
        })?;
        let (container, uid) = running(self, key)?;
        let view = self.view();
        let spec =
            view.objects.get(key).map_or(serde_json::Value::Null, |object| object.object["spec"].clone());
        let [has_tty, has_stdin, once] = ["tty", "stdin", "stdinOnce"].map(|field| spec[field] == true);
        if options.tty.is_some() && !has_tty {
            return Err(ApiError::conflict(format!(
                "{} has no terminal: set spec.tty, or attach without one",
                resource(key)
            )));
        }
        if options.stdin && !has_stdin && !has_tty {
            return Err(ApiError::conflict(format!(
                "{} has no standard input: set spec.stdin, or attach without it",
                resource(key)
            )));
        }
        let attached =
            tokio::task::spawn_blocking(move || container.attach().map(|stream| (container, stream)));
        let attached =
            attached.await.map_err(|error| ApiError::internal(format!("attaching failed: {error}")))?;
        let (container, shim) = attached.map_err(|error| match error {
            ShimError::Refused { code: error_code::TYPE, .. } => ApiError::conflict(format!(
                "{} was started by a release that knew of no attach; restart it (`stower restart`) to be able to",
                resource(key)
            )),
            ShimError::Refused { code: error_code::BUSY, .. } => {
                ApiError::unavailable(format!("as many as can be are attached to {} already", resource(key)))
            }
            ShimError::Gone => ApiError::conflict(format!("{} has just ended", resource(key))),
            error => ApiError::internal(chain(&error)),
        })?;
        tracing::debug!(%uid, "a client attaches");
        Ok(Attachment { container, shim, options, once, _slot: slot })
    }
}

fn begin(
    runtime: &Runtime,
    container: &ShimHandle,
    starter: PathBuf,
    options: ExecOptions,
    slot: OwnedSemaphorePermit,
) -> Result<Session, ExecError> {
    let mut request = ExecRequest {
        args: options.command,
        env: options.env,
        cwd: options.working_dir,
        user: options.user,
        terminal: options.tty.map(|(rows, columns)| TerminalSize { rows, columns }),
        starter,
        ..ExecRequest::default()
    };
    let failed = |error: rustix::io::Errno| ExecError::KeeperLost(error.into());
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let (mut stdin, mut stdout, mut stderr) = (None, None, None);
    if request.terminal.is_none() {
        let [input, output, error] = options.streams;
        if input {
            let (theirs, ours) = pipe().map_err(failed)?;
            (request.stdin, stdin) = (Some(theirs), Some(ours));
        }
        if output {
            let (ours, theirs) = pipe().map_err(failed)?;
            (request.stdout, stdout) = (Some(theirs), Some(ours));
        }
        if error {
            let (ours, theirs) = pipe().map_err(failed)?;
            (request.stderr, stderr) = (Some(theirs), Some(ours));
        }
    }
    let mut process = runtime.exec(container, request)?;
    let terminal = process.terminal.take();
    let is_terminal = terminal.is_some();
    if let Some(terminal) = terminal {
        stdin =
            options.streams[0].then(|| terminal.try_clone()).transpose().map_err(ExecError::KeeperLost)?;
        stdout = Some(terminal);
    }
    for ours in [&stdin, &stdout, &stderr].into_iter().flatten() {
        // Of these ends alone: those of the command are used to waiting.
        rustix::fs::fcntl_setfl(ours, OFlags::NONBLOCK).map_err(failed)?;
    }
    Ok(Session { process, stdin, stdout, stderr, terminal: is_terminal, _slot: slot })
}

fn refusal(key: &ObjectKey, error: &ExecError) -> ApiError {
    let message = chain(error);
    let not_started = |reason| ApiError { code: 400, reason, message: message.clone() };
    match error {
        ExecError::NotRunning | ExecError::NoRecord | ExecError::Outside(_) => {
            ApiError::conflict(format!("{}: {message}", resource(key)))
        }
        ExecError::Refused(_) => ApiError::invalid(message),
        ExecError::Failed(failure) if failure.kind == FailureKind::CommandNotFound => {
            not_started("CommandNotFound")
        }
        ExecError::Failed(_) => not_started("CommandNotExecutable"),
        ExecError::Timeout(_) => ApiError { code: 504, reason: "Timeout", message },
        _ => ApiError::internal(message),
    }
}
