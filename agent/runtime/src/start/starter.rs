//! The starter: one small process between the agent and the shim that it becomes.
//!
//! It has one thread, reads one [`Job`] and needs the agent no more after that.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{PidfdFlags, Signal, WaitIdOptions};

use super::init::{self, Agent, Ends};
use super::pass;
use super::sys::{self, Cloned, ExecVector, SignalMask};
use super::wire::{self, Answer, Order};
use crate::error::Failure;
use crate::exec::{ExecRecord, keeper};
use crate::job::{CgroupJoin, Job, NamespaceKind};
use crate::mounts;
use crate::proc;
use crate::record::{OUTSIDE, ShimRecord};
use crate::shim::{self, ShimArgs};

/// Name of the shim's socket in the run directory.
const SOCKET: &str = "s";

/// Runs the starter on standard input, which is its socket to the agent. Ends in the shim, or exits.
pub fn main() -> std::process::ExitCode {
    // SAFETY: standard input is open, and nothing else in this program uses it.
    let agent = unsafe { sys::adopt_fd(0) };
    // Away from whatever the agent had open or was a part of. Both cannot fail for a fresh child of a sound agent.
    let _ = sys::close_from(3);
    let _ = sys::signal_mask(SignalMask::OnlyChild);
    let (order, filter, fds) = match wire::read_order(&agent) {
        Ok(read) => read,
        Err(e) => {
            answer(&agent, &Answer::Failed(Failure::errno("starter", "reading the order", e)), None);
            return std::process::ExitCode::FAILURE;
        }
    };
    if let Err(e) = move_to_shims(order.cgroup(), &agent) {
        answer(&agent, &Answer::Failed(Failure::errno("cgroup", "entering the shims' group", e)), None);
        return std::process::ExitCode::FAILURE;
    }
    let _ = rustix::process::setsid();
    let job = match order {
        Order::Start(job) => job,
        Order::Exec(job) => return keeper::run(&job, &filter, fds, &agent),
    };
    match start(&job, &filter, &agent) {
        Ok(never) => match never {},
        Err(failure) => {
            answer(&agent, &Answer::Failed(failure), None);
            std::process::ExitCode::FAILURE
        }
    }
}

enum Never {}

/// On version 2, goes on as a clone inside the shims' group. Moving a process there would wait for an RCU grace period
/// while it holds the lock that every other start needs.
fn move_to_shims(groups: &CgroupJoin, agent: &OwnedFd) -> io::Result<()> {
    let Some(group) = &groups.shim_v2 else { return Ok(()) };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let group = rustix::fs::open(group, flags, Mode::empty())?;
    match sys::clone3(libc::CLONE_PARENT, 0, Some(group.as_fd()))? {
        // The clone tells it, so that nothing that it says later can come before.
        Cloned::Child => {
            let own = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
            answer(agent, &Answer::Moved, Some(&own));
            Ok(())
        }
        Cloned::Parent(..) => sys::exit_now(0),
    }
}

fn answer(agent: &OwnedFd, answer: &Answer, init: Option<&OwnedFd>) {
    // The agent may be gone; the container does not depend on it.
    let init: Vec<BorrowedFd<'_>> = init.into_iter().map(AsFd::as_fd).collect();
    let _ = wire::write_answer(agent, answer, &init);
}

/// What is open for the shim before the container's first process exists.
pub(super) struct Prepared {
    pub(super) run_dir: OwnedFd,
    log_dir: OwnedFd,
    socket: OwnedFd,
    cgroup: Option<OwnedFd>,
    pub(super) stdout: (OwnedFd, OwnedFd),
    pub(super) stderr: (OwnedFd, OwnedFd),
    /// Read and write end, where the container has a standard input and no terminal.
    stdin: Option<(OwnedFd, OwnedFd)>,
}

/// A container whose command is executing.
struct Launched {
    record: ShimRecord,
    pidfd: OwnedFd,
    /// The other end of its terminal.
    terminal: Option<OwnedFd>,
}

fn start(job: &Job, filter: &[u8], agent: &OwnedFd) -> Result<Never, Failure> {
    rustix::fs::access(&job.shim, rustix::fs::Access::EXEC_OK)
        .map_err(|e| Failure::errno("shim", job.shim.display(), e))?;
    let prepared = prepare(job)?;
    // Before there is a process of the container, so that each orphan of it, also without a pid namespace, comes to the shim that
    // this becomes, and what another runtime makes is handed down to it.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|e| Failure::errno("starter", "becoming a subreaper", e))?;
    let result =
        match &job.outside {
            None => launch(job, filter, &prepared),
            Some(outside) => super::outside::launch(job, outside, &prepared)
                .map(|(record, pidfd)| Launched { record, pidfd, terminal: None }),
        };
    let Launched { record, pidfd, terminal } = match result {
        Ok(launched) => launched,
        Err(failure) => {
            for file in [SOCKET, crate::record::SHIM_FILE, crate::exec::EXEC_FILE] {
                let _ = rustix::fs::unlinkat(&prepared.run_dir, file, rustix::fs::AtFlags::empty());
            }
            return Err(failure);
        }
    };
    let (init_pid, started_at) = (record.init_pid, record.started_at.clone());
    join_shims(&job.cgroup);
    answer(agent, &Answer::Started(record), Some(&pidfd));
    let failure = become_shim(job, prepared, init_pid, &pidfd, terminal.as_ref(), started_at);
    // No shim, no container: its output has no reader and its exit no reaper.
    kill(&pidfd);
    Err(failure)
}

/// Out of the agent's groups of version 1, so that whoever ends those leaves the shim alone. The container runs already,
/// and a shim in the wrong group is better than none. A process that writes itself into `tasks` waits for no grace period.
pub(crate) fn join_shims(groups: &CgroupJoin) {
    for group in &groups.shim_v1 {
        let _ = init::write_existing(&group.join("tasks"), "0");
    }
}

fn prepare(job: &Job) -> Result<Prepared, Failure> {
    let dir = |path: &std::path::Path| {
        rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| Failure::errno("starter", path.display(), e))
    };
    let run_dir = dir(&job.run_dir)?;
    let pipe = || {
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|e| Failure::errno("starter", "making a pipe", e))
    };
    let cgroup = job.cgroup.v2.as_deref().map(dir).transpose()?;
    let socket = listen(&run_dir)?;
    let stdin = (job.stdin && job.terminal.is_none()).then(pipe).transpose()?;
    Ok(Prepared {
        log_dir: dir(&job.log_dir)?,
        socket,
        cgroup,
        stdout: pipe()?,
        stderr: pipe()?,
        stdin,
        run_dir,
    })
}

/// A socket's address holds 108 bytes; the path through the descriptor is always short enough.
pub(crate) fn listen(run_dir: &OwnedFd) -> Result<OwnedFd, Failure> {
    let fail = |e: rustix::io::Errno| Failure::errno("starter", "making the shim's socket", e);
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(fail)?;
    match rustix::fs::unlinkat(run_dir, SOCKET, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(e) => return Err(fail(e)),
    }
    let path = format!("{}/{SOCKET}", mounts::fd_path(run_dir));
    let address = SocketAddrUnix::new(path).map_err(fail)?;
    let former = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = rustix::net::bind(&socket, &address);
    rustix::process::umask(former);
    bound.map_err(fail)?;
    rustix::net::listen(&socket, 16).map_err(fail)?;
    Ok(socket)
}

/// Clones the container's first process and sees it through its exec.
fn launch(job: &Job, filter: &[u8], prepared: &Prepared) -> Result<Launched, Failure> {
    let blocks = mounts::Blocks::open(job)?;
    let (flags, join) = namespaces(job)?;
    let (control, inner) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|e| Failure::errno("starter", "making a socket", e))?;
    let cloned = sys::clone3(flags, libc::SIGCHLD, prepared.cgroup.as_ref().map(AsFd::as_fd))
        .map_err(|e| Failure::errno("namespaces", "clone3", e))?;
    let (pid, pidfd) = match cloned {
        Cloned::Parent(pid, pidfd) => (pid, pidfd),
        Cloned::Child => {
            drop(control);
            let _ = sys::signal_mask(SignalMask::Empty);
            sys::default_signals();
            let ends = Ends {
                control: &inner,
                stdin: prepared.stdin.as_ref().map(|(read, _)| read),
                stdout: &prepared.stdout.1,
                stderr: &prepared.stderr.1,
                join: &join,
            };
            let failure = init::run(job, filter, &mut Agent { ends, blocks, null: None, slave: None });
            pass::fail(&inner, &failure)
        }
    };
    drop(inner);
    drop(join);
    // The first process has them; a shim that held them would keep the devices.
    drop(blocks);
    let started_at = rfc3339_now();
    let done = write_record(job, filter, pid, &started_at, &prepared.run_dir).and_then(|record| {
        // A first process that has already failed says so by its message, not by this send.
        let _ = rustix::net::send(&control, b"g", SendFlags::NOSIGNAL);
        outcome(&control).map(|terminal| (record, terminal))
    });
    match done {
        Ok((record, terminal)) => Ok(Launched { record, pidfd, terminal }),
        Err(failure) => {
            kill(&pidfd);
            Err(failure)
        }
    }
}

/// The flags of the clone, and the namespaces to join after it. A pid namespace is entered by the clone itself.
pub(crate) fn namespaces(job: &Job) -> Result<(i32, Vec<(NamespaceKind, OwnedFd)>), Failure> {
    let mut flags = 0;
    let mut join = Vec::new();
    for namespace in &job.namespaces {
        match (&namespace.path, namespace.kind) {
            // Made by the first process, once it is in its groups.
            (None, NamespaceKind::Cgroup) => {}
            (None, kind) => flags |= kind.clone_flag(),
            (Some(path), kind) => {
                let fail = |e| Failure::errno("namespaces", path.display(), e);
                let fd =
                    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(fail)?;
                if kind == NamespaceKind::Pid {
                    rustix::thread::move_into_link_name_space(fd.as_fd(), None).map_err(fail)?;
                } else {
                    join.push((kind, fd));
                }
            }
        }
    }
    Ok((flags, join))
}

pub(super) fn write_record(
    job: &Job,
    filter: &[u8],
    init_pid: u32,
    started_at: &str,
    run_dir: &OwnedFd,
) -> Result<ShimRecord, Failure> {
    let start_of = |pid: u32| match proc::start_time(pid) {
        Ok(Some(start)) => Ok(start),
        Ok(None) => {
            Err(Failure::errno("record", "the process is gone", io::Error::from_raw_os_error(libc::ESRCH)))
        }
        Err(e) => Err(Failure::errno("record", e, io::Error::other("see above"))),
    };
    let shim_pid = std::process::id();
    let record = ShimRecord {
        version: crate::record::VERSION,
        boot_id: job.boot_id.clone(),
        shim_pid,
        shim_start: start_of(shim_pid)?,
        init_pid,
        init_start: start_of(init_pid)?,
        run: job.run,
        started_at: started_at.to_owned(),
        shim: job.shim_digest.clone(),
        contract: shim::CONTRACT,
        extra: job.outside.iter().map(|it| (OUTSIDE.to_owned(), it.name.clone().into())).collect(),
    };
    // What it was started as comes first: whoever finds the container by its record finds that too.
    let exec = match &job.outside {
        None => ExecRecord::of(job, filter).write(run_dir),
        Some(_) => Ok(()),
    };
    exec.and_then(|()| record.write(run_dir)).map_err(|e| {
        use std::error::Error;
        let cause = e.source().map_or_else(String::new, |s| format!(": {s}"));
        Failure::new("record", crate::error::FailureKind::Other, format!("{e}{cause}"))
    })?;
    Ok(record)
}

/// Comes with the other end of a terminal, before the exec.
pub(crate) const TERMINAL: &[u8] = b"t";

/// End of file is the exec; a message is the terminal, or a failure before it.
fn outcome(control: &OwnedFd) -> Result<Option<OwnedFd>, Failure> {
    let (mut reset, mut terminal) = (false, None);
    let bytes = loop {
        match pass::receive(control) {
            Ok((bytes, Some(fd))) if bytes == TERMINAL => terminal = Some(fd),
            Ok((bytes, _)) => break bytes,
            // It ended with our go byte unread. This error comes before what it had said, so read on.
            Err(rustix::io::Errno::CONNRESET) if !reset => reset = true,
            Err(e) => return Err(Failure::errno("start", "hearing from the first process", e)),
        }
    };
    if bytes.is_empty() && reset {
        let message =
            "the first process was killed while it was set up; look for a memory limit that is too low";
        return Err(Failure::new("start", crate::error::FailureKind::Other, message));
    }
    if bytes.is_empty() {
        return Ok(terminal);
    }
    Err(serde_json::from_slice(&bytes).unwrap_or_else(|e| {
        Failure::new(
            "start",
            crate::error::FailureKind::Other,
            format!("the first process failed unreadably: {e}"),
        )
    }))
}

pub(crate) fn kill(pidfd: &OwnedFd) {
    let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
    let _ = rustix::process::waitid(rustix::process::WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
}

/// Puts the descriptors where the shim expects them and executes it. Returns only what went wrong.
fn become_shim(
    job: &Job,
    prepared: Prepared,
    init_pid: u32,
    pidfd: &OwnedFd,
    terminal: Option<&OwnedFd>,
    started_at: String,
) -> Failure {
    let Prepared { run_dir, log_dir, socket, cgroup, stdout, stderr, stdin } = prepared;
    let arrange = || -> io::Result<()> {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        // First all above the fixed numbers, or one could overwrite another.
        let mut wanted = vec![
            (&run_dir, shim::fd::RUN_DIR),
            (&log_dir, shim::fd::LOG_DIR),
            (&socket, shim::fd::SOCKET),
            (pidfd, shim::fd::INIT_PIDFD),
            // A terminal is all three.
            (terminal.unwrap_or(&stdout.0), shim::fd::STDOUT),
            (if terminal.is_some() { &null } else { &stderr.0 }, shim::fd::STDERR),
        ];
        let input = terminal.or(stdin.as_ref().map(|(_, write)| write));
        wanted.extend(input.map(|fd| (fd, shim::fd::STDIN)));
        wanted.extend(cgroup.as_ref().map(|fd| (fd, shim::fd::CGROUP)));
        wanted.extend([(&null, 0), (&null, 1), (&null, 2)]);
        let high = wanted
            .iter()
            .map(|(fd, to)| Ok((sys::dup_above(fd.as_fd(), 64)?, *to)))
            .collect::<io::Result<Vec<_>>>()?;
        sys::cloexec_from(3)?;
        for (fd, to) in &high {
            sys::dup_to(fd.as_fd(), *to)?;
        }
        // The owners of the low numbers must not close what is there now.
        #[allow(clippy::mem_forget, reason = "the numbers are the shim's now")]
        std::mem::forget(high);
        Ok(())
    };
    if let Err(e) = arrange() {
        return Failure::errno("shim", "arranging descriptors", e);
    }
    let args = ShimArgs {
        init_pid,
        run: job.run,
        boot_id: job.boot_id.clone(),
        started_at,
        log_max_bytes: job.logs.max_bytes,
        log_max_files: job.logs.max_files,
        log_block: job.logs.block,
        cgroup_kill: cgroup.is_some(),
        stdin: match (terminal, &stdin) {
            (Some(_), _) => shim::Stdin::Terminal,
            (None, Some(_)) => shim::Stdin::Pipe,
            (None, None) => shim::Stdin::None,
        },
    };
    use std::os::unix::ffi::OsStrExt;
    let argv = args.to_argv();
    let argv = ExecVector::new(argv.iter().map(|a| a.as_bytes()));
    let env = ExecVector::new(std::iter::empty::<&[u8]>());
    let error = match std::ffi::CString::new(job.shim.as_os_str().as_bytes()) {
        Ok(path) => sys::execve(&path, &argv, &env),
        Err(_) => io::Error::from_raw_os_error(libc::EINVAL),
    };
    Failure::errno("shim", job.shim.display(), error)
}

/// The time for people, with nanoseconds.
pub(crate) fn rfc3339_now() -> String {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let secs = u64::try_from(now.tv_sec).unwrap_or(0);
    let text = shim::time::rfc3339(secs, u32::try_from(now.tv_nsec).unwrap_or(0));
    String::from_utf8_lossy(&text).into_owned()
}
