//! Hooks (`config.md`, "POSIX-platform Hooks"): programs that get the state on standard input.

use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use oci_spec::runtime::Hook;
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::error::{CompileError, Failure, FailureKind};
use crate::proc;

/// How much of what a hook says goes into the message of its failure, in bytes.
const MAX_OUTPUT: u64 = 4096;

/// Checks that can be made before anything runs.
pub(super) fn check(kind: &str, hooks: &[Hook]) -> Result<(), CompileError> {
    for (i, hook) in hooks.iter().enumerate() {
        let field = format!("hooks.{kind}[{i}]");
        if !hook.path().is_absolute() {
            let problem = format!("{} is not absolute", hook.path().display());
            return Err(CompileError::invalid(format!("{field}.path"), problem));
        }
        if hook.timeout().is_some_and(|t| t <= 0) {
            return Err(CompileError::invalid(format!("{field}.timeout"), "is not above zero"));
        }
    }
    Ok(())
}

/// Runs hooks in their order, until one fails.
pub(super) fn run(kind: &str, hooks: &[Hook], state: &[u8]) -> Result<(), Failure> {
    hooks.iter().try_for_each(|hook| one(kind, hook, state))
}

/// Runs all hooks, and gives what went wrong.
pub(super) fn run_all(kind: &str, hooks: &[Hook], state: &[u8]) -> Vec<Failure> {
    hooks.iter().filter_map(|hook| one(kind, hook, state).err()).collect()
}

fn one(kind: &str, hook: &Hook, state: &[u8]) -> Result<(), Failure> {
    let stage = format!("{kind} hook {}", hook.path().display());
    let failed = |message: String| Failure::new(&*stage, FailureKind::Other, message);
    let io = |what: &str, e: std::io::Error| Failure::errno(&*stage, what, e);
    // Memory and no pipe: a hook may leave something running that holds it, and nobody reads meanwhile.
    let memory = |name: &str| -> Result<std::fs::File, Failure> {
        let fd = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)
            .map_err(|e| io("making memory for its output", e.into()))?;
        Ok(fd.into())
    };
    let mut input = memory("state")?;
    input.write_all(state).and_then(|()| input.rewind()).map_err(|e| io("writing the state", e))?;
    let mut output = memory("output")?;
    let share = |file: &std::fs::File| file.try_clone().map(Stdio::from).map_err(|e| io("its output", e));
    let args = hook.args().as_deref().unwrap_or_default();
    let mut command = Command::new(hook.path());
    if let Some((first, rest)) = args.split_first() {
        command.arg0(first).args(rest);
    }
    command.env_clear();
    for pair in hook.env().iter().flatten() {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        command.env(name, value);
    }
    let mut child = command
        .stdin(Stdio::from(input))
        .stdout(share(&output)?)
        .stderr(share(&output)?)
        .spawn()
        .map_err(|e| io("executing it", e))?;
    let pidfd = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pidfd: OwnedFd = pidfd
        .ok_or(rustix::io::Errno::SRCH)
        .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()))
        .map_err(|e| io("opening its process", e.into()))?;
    let timeout = hook.timeout().and_then(|t| u64::try_from(t).ok()).map(Duration::from_secs);
    let ended = proc::wait(&pidfd, timeout).map_err(|e| io("waiting for it", e))?;
    if !ended {
        let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
    }
    let status = child.wait().map_err(|e| io("waiting for it", e))?;
    if !ended {
        return Err(failed(format!("was killed after its time-out of {:?}", timeout.unwrap_or_default())));
    }
    if status.success() {
        return Ok(());
    }
    let mut said = Vec::new();
    let _ = output.rewind();
    let _ = output.take(MAX_OUTPUT).read_to_end(&mut said);
    let said = String::from_utf8_lossy(&said);
    let said = said.trim();
    let tail = if said.is_empty() { String::new() } else { format!(": {said}") };
    Err(failed(format!("ended with {status}{tail}")))
}
