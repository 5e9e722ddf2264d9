//! From a request and the container as it was started to all that the keeper does: pure.

use serde::{Deserialize, Serialize};

use super::{ExecRecord, ExecRequest};
use crate::error::CompileError;
use crate::job::{CgroupJoin, Process};
use crate::start::terminal::TerminalSize;

/// Everything that the keeper needs, but descriptors. It crosses one socket between two programs of one build.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ExecJob {
    /// The new process.
    pub(crate) process: Process,
    /// The groups to join.
    pub(crate) cgroup: CgroupJoin,
    /// Pid of the container's first process, whose pidfd comes along.
    pub(crate) init_pid: u32,
    /// A terminal is made for it.
    pub(crate) terminal: Option<TerminalSize>,
    /// Which of the three standard descriptors come along; the others are `/dev/null`.
    pub(crate) stdio: [bool; 3],
    /// Milliseconds from receipt to its end.
    pub(crate) deadline_ms: Option<u64>,
    /// Length of the filter behind the message, in bytes.
    pub(crate) filter_len: usize,
}

/// Lays out one more process.
///
/// # Errors
/// The first field of the request that makes no sense.
pub(crate) fn compile(
    record: &ExecRecord,
    init_pid: u32,
    request: &ExecRequest,
) -> Result<ExecJob, CompileError> {
    let mut process = record.process.clone();
    if request.args.first().is_none_or(String::is_empty) {
        return Err(CompileError::invalid("args", "there is no command; give one"));
    }
    for (field, list) in [("args", &request.args), ("env", &request.env)] {
        if list.iter().any(|s| s.contains('\0')) {
            return Err(CompileError::invalid(field, "holds a zero byte"));
        }
    }
    process.args.clone_from(&request.args);
    if request.terminal.is_some() {
        // What a program draws for; as Docker and the runtimes of Kubernetes have it.
        set(&mut process.env, "TERM=xterm", true);
    }
    for pair in &request.env {
        match pair.split_once('=') {
            Some((name, _)) if !name.is_empty() => set(&mut process.env, pair, false),
            _ => {
                let name = pair.split('=').next().unwrap_or_default();
                return Err(CompileError::invalid("env", format!("`{name}` is not of the form NAME=value")));
            }
        }
    }
    if let Some(cwd) = &request.cwd {
        if !cwd.starts_with('/') || cwd.contains('\0') {
            return Err(CompileError::invalid("cwd", format!("`{cwd}` is not an absolute path")));
        }
        process.cwd.clone_from(cwd);
    }
    if let Some(user) = &request.user {
        if user.is_empty() {
            return Err(CompileError::invalid("user", "is empty; give a name or number, or leave it out"));
        }
        process.user.lookup = Some(user.clone());
    }
    if request.terminal.is_some()
        && (request.stdin.is_some() || request.stdout.is_some() || request.stderr.is_some())
    {
        return Err(CompileError::invalid(
            "terminal",
            "is all three standard descriptors; give none beside it",
        ));
    }
    let deadline_ms = request.deadline.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
    Ok(ExecJob {
        process,
        cgroup: record.cgroup.clone(),
        init_pid,
        terminal: request.terminal,
        stdio: [request.stdin.is_some(), request.stdout.is_some(), request.stderr.is_some()],
        deadline_ms,
        filter_len: record.filter.len() * 8,
    })
}

/// Sets a variable in the place of the same name, or only where there is none.
fn set(env: &mut Vec<String>, pair: &str, keep: bool) {
    let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
    let wanted = name(pair);
    if keep && env.iter().any(|e| name(e) == wanted) {
        return;
    }
    env.retain(|e| name(e) != wanted);
    env.push(pair.to_owned());
}
