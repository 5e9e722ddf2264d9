//! One process of a cluster: its command line, its log, its end.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::{process, wait_for};

/// What the Go runtime collects garbage to stay below: a cluster is a small one here.
const MEMORY: &str = "600MiB";

/// A process that can be ended and started again with the same command line. It ends with this value.
#[derive(Debug)]
pub(super) struct Component {
    name: &'static str,
    program: PathBuf,
    args: Vec<String>,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Component {
    pub(super) fn new(name: &'static str, program: &Path, args: Vec<String>, folder: &Path) -> Self {
        Self {
            name,
            program: program.to_owned(),
            args,
            log: folder.join(format!("{name}.log")),
            child: Mutex::default(),
        }
    }

    /// Starts it and waits until `ready` tells so.
    pub(super) fn start(&self, ready: impl Fn() -> Result<bool>) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.program);
        command.args(&self.args);
        let mut command = process::dies_with_us(&command);
        command.env("GOMEMLIMIT", MEMORY).env("HOME", "/nonexistent").process_group(0);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        *self.lock() = Some(process::spawn_from_lasting_thread(command)?);
        wait_for(format!("{} to be ready", self.name), || {
            if let Some(child) = self.lock().as_mut()
                && let Some(status) = child.try_wait()?
            {
                // Ends the wait: it will not come back.
                return Ok(Some(Err(status)));
            }
            Ok(ready()?.then_some(Ok(())))
        })
        .and_then(|ended| match ended {
            Ok(()) => Ok(()),
            Err(status) => bail!("{} ended with {status}", self.name),
        })
        .with_context(|| format!("{}\n--- {}\n{}---", self.program.display(), self.name, self.log_tail()))
    }

    /// The process id, while it runs.
    pub(super) fn pid(&self) -> Result<u32> {
        Ok(self.lock().as_ref().with_context(|| format!("{} does not run", self.name))?.id())
    }

    /// Asks it to end and waits until it has.
    pub(super) fn stop(&self) -> Result<()> {
        let mut child = self.lock().take().with_context(|| format!("{} does not run", self.name))?;
        process::signal(child.id(), Signal::TERM)?;
        let ended = wait_for(format!("{} to end on SIGTERM", self.name), || Ok(child.try_wait()?));
        if ended.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        ended.map(drop)
    }

    /// Ends it at once, with all that it has started.
    pub(super) fn kill(&self) {
        let Some(mut child) = self.lock().take() else { return };
        if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
        let _ = child.wait();
    }

    pub(super) fn log_tail(&self) -> String {
        process::tail(&std::fs::read_to_string(&self.log).unwrap_or_default(), 30)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Component {
    fn drop(&mut self) {
        self.kill();
    }
}
