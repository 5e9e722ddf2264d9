//! Processes: commands run to their end, and what `/proc` tells of others.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError, mpsc};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, PidfdFlags, Signal};

/// Runs a command to its end and gives its standard output; a failure tells the command and what it said.
pub fn run<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: impl IntoIterator<Item = S>) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args);
    run_command(&mut command)
}

/// [`run`] of a prepared command.
pub fn run_command(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}\n{}{}", output.status, tail(&stdout, 20), tail(&stderr, 40));
    }
    Ok(stdout)
}

/// Runs a command with nothing on its standard input.
pub fn output(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().with_context(|| format!("run {:?}", command.get_program()))
}

/// The last `lines` lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].iter().fold(String::new(), |text, line| text + line + "\n")
}

/// Sends a signal through a pidfd, so that it never meets another process that got the number since.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    let raw =
        i32::try_from(pid).ok().and_then(Pid::from_raw).with_context(|| format!("{pid} is no process id"))?;
    let fd = rustix::process::pidfd_open(raw, PidfdFlags::empty())
        .with_context(|| format!("find process {pid}"))?;
    rustix::process::pidfd_send_signal(&fd, signal).with_context(|| format!("signal process {pid}"))
}

/// Ends a process at once.
pub fn kill9(pid: u32) -> Result<()> {
    signal(pid, Signal::KILL)
}

/// Whether the process exists and is not a zombie.
pub fn alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| {
            stat.rsplit_once(") ").map(|(_, rest)| !rest.starts_with('Z') && !rest.starts_with('X'))
        })
        .unwrap_or(false)
}

/// The parent's process id.
pub fn parent(pid: u32) -> Result<u32> {
    let stat =
        fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("look at process {pid}"))?;
    let rest = stat.rsplit_once(") ").map(|(_, rest)| rest).context("a /proc stat line without a name")?;
    rest.split(' ').nth(1).and_then(|text| text.parse().ok()).context("a /proc stat line without a parent")
}

/// One field of `/proc/PID/status`, for example `CapEff`.
pub fn status_field(pid: u32, field: &str) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("look at process {pid}"))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .map(|value| value.trim().to_owned())
        .with_context(|| format!("/proc/{pid}/status has no {field}"))
}

/// Proportional set size in kB.
pub fn pss_kb(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .with_context(|| format!("look at the memory of process {pid}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.parse().ok())
        .context("smaps_rollup without Pss")
}

/// User and system time used so far, in ticks of 10 ms.
pub fn cpu_ticks(pid: u32) -> Result<u64> {
    let stat =
        fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("look at process {pid}"))?;
    let rest = stat.rsplit_once(") ").map(|(_, rest)| rest).context("a /proc stat line without a name")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    Ok([11, 12].iter().filter_map(|&i| fields.get(i)?.parse::<u64>().ok()).sum())
}

/// All processes whose executable lies below `folder`.
pub fn running_from(folder: &Path) -> Vec<u32> {
    all().into_iter().filter(|pid| executable(*pid).is_some_and(|exe| exe.starts_with(folder))).collect()
}

/// The executable of a process, as the kernel names it.
pub fn executable(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// All process ids.
pub fn all() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The same command, ended by the kernel when the thread that started it ends.
pub(crate) fn dies_with_us(command: &Command) -> Command {
    let mut wrapped = Command::new("setpriv");
    wrapped.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    wrapped
}

/// The kernel ties the death signal to the starting thread, and a test's thread ends long before the process:
/// so one thread that lasts as long as the process starts all that end with it.
pub(crate) fn spawn_from_lasting_thread(command: Command) -> Result<Child> {
    type Job = (Command, mpsc::Sender<std::io::Result<Child>>);
    static JOBS: LazyLock<Mutex<mpsc::Sender<Job>>> = LazyLock::new(|| {
        let (send, receive) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in receive {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(send)
    });
    let (send, receive) = mpsc::channel();
    let program = command.get_program().to_owned();
    JOBS.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, send))
        .context("the starter is gone")?;
    receive.recv().context("the starter is gone")?.with_context(|| format!("start {}", program.display()))
}

/// Takes the variables off a command that this program's own caller has set for tests: an agent refuses what it does not know.
pub fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("STOWER_")) {
            command.env_remove(name);
        }
    }
}
