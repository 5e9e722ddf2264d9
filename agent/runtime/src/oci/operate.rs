//! The commands on a container that is there.

use std::path::Path;
use std::time::Duration;

use rustix::net::{SendFlags, SocketAddrUnix};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::error::{OciError, Result};
use super::log::Log;
use super::plan::Hooks;
use super::state::{self, Container, State, Status, Store, state_json};
use super::steps::GO;
use super::{create, hooks};
use crate::proc;

/// How long a killed container may take to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a group without events is asked whether it is empty.
const INTERVAL: Duration = Duration::from_millis(5);

/// `start`.
pub(super) fn start(container: &Container, log: &Log) -> Result<()> {
    container.lock()?;
    let state = container.state()?;
    let status = container.status(&state)?;
    if status != Status::Created {
        return Err(OciError::Usage(format!(
            "container `{}` is {}; only one that is created can be started",
            state.id,
            status.as_str()
        )));
    }
    let hooks = Hooks::of(&container.config()?)?;
    knock(container)?;
    let json = state_json(&state, "running", state.init.map_or(0, |(pid, _)| pid)).to_string();
    for failure in hooks::run_all("poststart", &hooks.poststart, json.as_bytes()) {
        log.warn(&failure.to_string());
    }
    Ok(())
}

/// Tells the first process to go on, and waits for its exec.
fn knock(container: &Container) -> Result<()> {
    let fail = |e| OciError::io("reaching the first process", e);
    let path = format!("{}/s", crate::mounts::fd_path(&container.dir));
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .map_err(fail)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).map_err(fail)?).map_err(fail)?;
    rustix::net::send(&socket, GO, SendFlags::NOSIGNAL).map_err(fail)?;
    let mut bytes = Vec::new();
    loop {
        match super::io::receive(&socket) {
            Ok((part, _)) if part.is_empty() => break,
            Ok((part, _)) => bytes.extend(part),
            Err(e) => return Err(fail(e)),
        }
    }
    if bytes.is_empty() { Ok(()) } else { Err(create::failure_of(&bytes).into()) }
}

/// `state`.
pub(super) fn show(container: &Container) -> Result<Value> {
    let state = container.state()?;
    let status = container.status(&state)?;
    let pid = match status {
        Status::Stopped => 0,
        _ => state.init.map_or(0, |(pid, _)| pid),
    };
    Ok(state_json(&state, status.as_str(), pid))
}

/// `kill`.
pub(super) fn kill(container: &Container, signal: &str, all: bool) -> Result<()> {
    let state = container.state()?;
    let signal = parse_signal(signal)?;
    if all {
        if container.init(&state)?.is_none() && state::groups(&state)?.populated("c") == Some(false) {
            return Ok(());
        }
        return Ok(state::groups(&state)?.signal("c", signal)?);
    }
    let status = container.status(&state)?;
    if status == Status::Stopped {
        return Err(OciError::Usage(format!("container not running: `{}` is {}", state.id, status.as_str())));
    }
    // Not there any more is as good: it ran when it was asked about.
    if let Some((_, pidfd)) = container.init(&state)? {
        proc::signal(std::os::fd::AsFd::as_fd(&pidfd), signal)?;
    }
    if signal == Signal::KILL && status == Status::Paused {
        // A process of version 1 that is frozen dies when it is thawed.
        state::groups(&state)?.thaw("c")?;
    }
    Ok(())
}

/// A signal by number, or by name with or without `SIG`.
fn parse_signal(text: &str) -> Result<Signal> {
    const NAMES: [(&str, i32); 34] = [
        ("HUP", libc::SIGHUP),
        ("INT", libc::SIGINT),
        ("QUIT", libc::SIGQUIT),
        ("ILL", libc::SIGILL),
        ("TRAP", libc::SIGTRAP),
        ("ABRT", libc::SIGABRT),
        ("IOT", libc::SIGABRT),
        ("BUS", libc::SIGBUS),
        ("FPE", libc::SIGFPE),
        ("KILL", libc::SIGKILL),
        ("USR1", libc::SIGUSR1),
        ("SEGV", libc::SIGSEGV),
        ("USR2", libc::SIGUSR2),
        ("PIPE", libc::SIGPIPE),
        ("ALRM", libc::SIGALRM),
        ("TERM", libc::SIGTERM),
        ("STKFLT", libc::SIGSTKFLT),
        ("CHLD", libc::SIGCHLD),
        ("CLD", libc::SIGCHLD),
        ("CONT", libc::SIGCONT),
        ("STOP", libc::SIGSTOP),
        ("TSTP", libc::SIGTSTP),
        ("TTIN", libc::SIGTTIN),
        ("TTOU", libc::SIGTTOU),
        ("URG", libc::SIGURG),
        ("XCPU", libc::SIGXCPU),
        ("XFSZ", libc::SIGXFSZ),
        ("VTALRM", libc::SIGVTALRM),
        ("PROF", libc::SIGPROF),
        ("WINCH", libc::SIGWINCH),
        ("IO", libc::SIGIO),
        ("POLL", libc::SIGIO),
        ("PWR", libc::SIGPWR),
        ("SYS", libc::SIGSYS),
    ];
    // `SIGRTMIN` and `SIGRTMAX` as C libraries have them, which keep the two below for themselves.
    const REAL_TIME: (i32, i32) = (34, 64);
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |rest: &str| if rest.is_empty() { Some(0) } else { rest.parse::<i32>().ok() };
    let number = if let Ok(number) = name.parse::<i32>() {
        Some(number)
    } else if let Some(rest) = name.strip_prefix("RTMIN") {
        offset(rest).and_then(|n| REAL_TIME.0.checked_add(n)).filter(|n| *n >= REAL_TIME.0)
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        offset(rest).and_then(|n| REAL_TIME.1.checked_add(n)).filter(|n| *n >= REAL_TIME.0)
    } else {
        NAMES.iter().find(|(n, _)| *n == name).map(|(_, number)| *number)
    };
    number
        .filter(|n| (1..=REAL_TIME.1).contains(n))
        // SAFETY: the number is one of the kernel's signals; it is only sent, and never handled here.
        .map(|n| unsafe { Signal::from_raw_unchecked(n) })
        .ok_or_else(|| OciError::Usage(format!("unknown signal `{text}`")))
}

/// `delete`.
pub(super) fn delete(store: &Store, id: &str, force: bool, log: &Log) -> Result<()> {
    let container = match store.find(id) {
        Err(OciError::NoContainer(_)) if force => return Ok(()),
        other => other?,
    };
    if force
        && let Ok(state) = container.state()
        && let Some((_, pidfd)) = container.init(&state)?
    {
        // A `start` that waits for the container, as for a hook that hangs, comes to its end by this.
        proc::signal(std::os::fd::AsFd::as_fd(&pidfd), Signal::KILL)?;
        if state::groups(&state)?.exists("c") {
            state::groups(&state)?.kill("c")?;
        }
    }
    // Not before a `create` or `start` under way is done; those of a dead one hold nothing.
    container.lock()?;
    let state = match container.state() {
        Ok(state) => state,
        Err(e) if force => {
            // A `create` that died before it had written anything: nothing else of it can be.
            log.warn(&format!("removing `{id}`, whose state cannot be read: {e}"));
            return container.remove();
        }
        Err(e) => return Err(e),
    };
    let status = container.status(&state)?;
    if status != Status::Stopped && !force {
        return Err(OciError::Usage(format!(
            "container `{id}` is {}; kill it first, or use --force",
            status.as_str()
        )));
    }
    let hooks = container.config().and_then(|spec| Hooks::of(&spec)).unwrap_or_default();
    tear_down(&container, &state)?;
    let json = state_json(&state, "stopped", 0).to_string();
    for failure in hooks::run_all("poststop", &hooks.poststop, json.as_bytes()) {
        log.warn(&failure.to_string());
    }
    Ok(())
}

/// Ends every process of a container and removes all that is there because of it.
pub(super) fn tear_down(container: &Container, state: &State) -> Result<()> {
    let groups = state::groups(state)?;
    if let Some((_, pidfd)) = container.init(state)? {
        proc::signal(std::os::fd::AsFd::as_fd(&pidfd), Signal::KILL)?;
    }
    if groups.exists("c") {
        groups.kill("c")?;
        let until = std::time::Instant::now() + PATIENCE;
        loop {
            match groups.remove("c") {
                Ok(()) => break,
                Err(crate::cgroup::CgroupError::Busy { .. }) if std::time::Instant::now() < until => {
                    // What forked meanwhile, and where nothing kills whole groups.
                    groups.kill("c")?;
                    std::thread::sleep(INTERVAL);
                }
                Err(e) => return Err(e.into()),
            }
        }
    }
    if state.mounted {
        unmount_all(&state.rootfs)?;
    }
    container.remove()
}

/// What a container without a mount namespace of its own has left at its root.
fn unmount_all(rootfs: &Path) -> Result<()> {
    loop {
        match rustix::mount::unmount(
            rootfs,
            rustix::mount::UnmountFlags::DETACH | rustix::mount::UnmountFlags::NOFOLLOW,
        ) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            Err(e) => return Err(OciError::io(rootfs.display(), e)),
        }
    }
}

/// `list`: `(id, pid, status, bundle, created, owner)` as values.
pub(super) fn list(store: &Store, log: &Log) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for id in store.ids()? {
        match store.find(&id).and_then(|c| show(&c)) {
            Ok(value) => all.push(value),
            // It went meanwhile.
            Err(OciError::NoContainer(_)) => {}
            Err(e) => log.warn(&format!("`{id}`: {e}")),
        }
    }
    Ok(all)
}

/// `ps`: the pids of a container.
pub(super) fn processes(container: &Container) -> Result<Vec<i32>> {
    let state = container.state()?;
    Ok(state::groups(&state)?.processes("c")?)
}

/// `pause` and `resume`.
pub(super) fn pause(container: &Container, on: bool) -> Result<()> {
    container.lock()?;
    let state = container.state()?;
    let status = container.status(&state)?;
    let (wanted, word) = if on { (Status::Running, "running") } else { (Status::Paused, "paused") };
    if status != wanted && !(on && status == Status::Created) {
        let problem = format!("container `{}` is {}, not {word}", state.id, status.as_str());
        return Err(OciError::Usage(problem));
    }
    let groups = state::groups(&state)?;
    if on { groups.freeze("c") } else { groups.thaw("c") }.map_err(OciError::from)
}

/// One line of `events`.
pub(super) fn stats(container: &Container) -> Result<Value> {
    let state = container.state()?;
    if container.status(&state)? == Status::Stopped {
        return Err(OciError::Usage(format!("container not running: `{}` is stopped", state.id)));
    }
    let groups = state::groups(&state)?;
    let stats = groups.stats("c");
    Ok(json!({
        "type": "stats",
        "id": state.id,
        "data": {
            "cpu": { "usage": { "total": stats.cpu_nanos.unwrap_or(0) } },
            "memory": {
                "usage": { "usage": stats.memory_bytes.unwrap_or(0) },
                "workingSet": stats.memory_working_set_bytes.unwrap_or(0),
            },
            "pids": { "current": stats.pids.unwrap_or(0) },
        },
    }))
}

/// How often the kernel has killed a process of it for want of memory.
pub(super) fn oom_kills(container: &Container) -> Result<u64> {
    Ok(state::groups(&container.state()?)?.oom_kills("c"))
}

/// Whether its first process has ended.
pub(super) fn has_stopped(container: &Container) -> Result<bool> {
    let state = container.state()?;
    Ok(container.init(&state)?.is_none())
}
