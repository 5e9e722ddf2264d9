//! The keeper: what the starter becomes for one more process of a container. It has one thread.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Signal, WaitId, WaitIdOptions};

use super::{ExecExit, ExecJob};
use crate::cgroup::{self, Inner};
use crate::error::{Failure, FailureKind};
use crate::job::Process;
use crate::proc;
use crate::start::enter::{self, Entry, Guest};
use crate::start::init::Finish;
use crate::start::starter::{TERMINAL, kill};
use crate::start::sys::{self, Cloned, SignalMask};
use crate::start::terminal;
use crate::start::wire::{self, Answer, Word};
use crate::start::{pass, starter};
use crate::user::Identity;

/// From the hang-up to the kill of what its caller has left.
const HANGUP: Duration = Duration::from_secs(2);

/// Runs one more process and keeps it to its end.
pub(crate) fn run(job: &ExecJob, filter: &[u8], fds: Vec<OwnedFd>, agent: &OwnedFd) -> ExitCode {
    let until = job.deadline_ms.map(|ms| Instant::now() + Duration::from_millis(ms));
    let before = cgroup::oom_kills_of(&job.cgroup);
    let (group, started) = match start(job, filter, fds, agent, until) {
        Ok(started) => started,
        Err(failure) => {
            let _ = wire::write_answer(agent, &Answer::Failed(failure), &[]);
            return ExitCode::FAILURE;
        }
    };
    starter::join_shims(&job.cgroup);
    let terminal: Vec<BorrowedFd<'_>> = started.terminal.iter().map(AsFd::as_fd).collect();
    // A caller that is gone is seen by the end of its socket.
    let _ = wire::write_answer(agent, &Answer::Executing(started.pid), &terminal);
    let exit = Keep {
        job,
        group: group.as_ref(),
        agent,
        until,
        started,
        detached: false,
        hung_up: false,
        killed: false,
        timed_out: false,
    }
    .until_it_ends(before);
    if let Some(group) = group {
        group.leave_rest(&job.cgroup);
    }
    let _ = wire::write_answer(agent, &Answer::Exited(exit), &[]);
    ExitCode::SUCCESS
}

struct Started {
    pid: u32,
    pidfd: OwnedFd,
    terminal: Option<OwnedFd>,
}

fn start(
    job: &ExecJob,
    filter: &[u8],
    fds: Vec<OwnedFd>,
    agent: &OwnedFd,
    until: Option<Instant>,
) -> Result<(Option<Inner>, Started), Failure> {
    let mut fds = fds.into_iter();
    let init =
        fds.next().ok_or_else(|| Failure::new("exec", FailureKind::Other, "no container came along"))?;
    let stdio = job.stdio.map(|given| if given { fds.next() } else { None });
    let fail = |e: std::io::Error| Failure::errno("exec", "looking at the container", e);
    let (namespaces, root) = (enter::namespaces(job.init_pid), enter::root_of(job.init_pid));
    // What was just looked at by its number was the container: it still is, so it was then.
    if proc::has_ended(&init).map_err(fail)? {
        return Err(fail(std::io::Error::from_raw_os_error(libc::ESRCH)));
    }
    let (namespaces, root) = (namespaces.map_err(fail)?, root.map_err(|e| fail(e.into()))?);
    let (control, inner) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|e| Failure::errno("exec", "making a socket", e))?;
    let group = Inner::make(&job.cgroup, std::process::id());
    let result = launch(
        job,
        filter,
        (&init, &root, namespaces),
        stdio,
        (control, inner),
        group.as_ref(),
        agent,
        until,
    );
    match result {
        Ok(started) => Ok((group, started)),
        Err(failure) => {
            if let Some(group) = group {
                group.kill_and_remove();
            }
            Err(failure)
        }
    }
}

#[allow(clippy::too_many_arguments, reason = "one caller, and each is a thing of its own")]
fn launch(
    job: &ExecJob,
    filter: &[u8],
    (init, root, namespaces): (&OwnedFd, &OwnedFd, i32),
    stdio: [Option<OwnedFd>; 3],
    (control, inner): (OwnedFd, OwnedFd),
    group: Option<&Inner>,
    agent: &OwnedFd,
    until: Option<Instant>,
) -> Result<Started, Failure> {
    let dir = group.map(|g| g.dir().to_owned()).or_else(|| job.cgroup.v2.clone());
    let open = |dir: PathBuf| {
        rustix::fs::open(&dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| Failure::errno("cgroup", dir.display(), e))
    };
    let dir = dir.map(open).transpose()?;
    let cloned = sys::clone3(0, libc::SIGCHLD, dir.as_ref().map(AsFd::as_fd))
        .map_err(|e| Failure::errno("cgroup", "cloning into that of the container", e))?;
    let first = match cloned {
        Cloned::Parent(_, pidfd) => pidfd,
        Cloned::Child => {
            drop(control);
            let _ = sys::signal_mask(SignalMask::Empty);
            sys::default_signals();
            let mut guest = Process1 { job, control: &inner, stdio, slave: None };
            let entry = Entry { init: init.as_fd(), root, groups: &job.cgroup, namespaces };
            let result = enter::enter(&job.process, &entry, &inner)
                .and_then(|()| enter::become_guest(&job.process, filter, &mut guest));
            match result {
                Ok(never) => match never {},
                Err(failure) => pass::fail(&inner, &failure),
            }
        }
    };
    drop((inner, stdio));
    let (mut second, mut terminal) = (None, None);
    let done = loop {
        match hear(&control, agent, until) {
            // The end of the socket without a failure is the exec, or a kill before it, which its end will tell.
            Ok((bytes, _)) if bytes.is_empty() && second.is_some() => break Ok(()),
            Ok((bytes, Some(fd))) if bytes == TERMINAL => terminal = Some(fd),
            // The first of the two tells of the second, which runs already: its terminal may come before that.
            Ok((bytes, Some(pidfd))) if second.is_none() && bytes.len() == size_of::<u32>() => {
                second = bytes.try_into().ok().map(|number| (u32::from_ne_bytes(number), pidfd));
            }
            Ok((bytes, _)) => break Err(failure_of(&bytes)),
            Err(failure) => break Err(failure),
        }
    };
    match (done, second) {
        (Ok(()), Some((pid, pidfd))) => {
            let _ = rustix::process::waitid(WaitId::PidFd(first.as_fd()), WaitIdOptions::EXITED);
            Ok(Started { pid, pidfd, terminal })
        }
        (done, second) => {
            kill(&first);
            if let Some((_, pidfd)) = second {
                kill(&pidfd);
            }
            Err(done.err().unwrap_or_else(|| failure_of(&[])))
        }
    }
}

/// The next word of the process that is being made, unless the agent goes away or the time is over.
fn hear(
    control: &OwnedFd,
    agent: &OwnedFd,
    until: Option<Instant>,
) -> Result<(Vec<u8>, Option<OwnedFd>), Failure> {
    let fail = |e: rustix::io::Errno| Failure::errno("exec", "hearing from the process", e);
    loop {
        let left = left(until);
        let mut fds = [PollFd::new(control, PollFlags::IN), PollFd::new(agent, PollFlags::RDHUP)];
        match rustix::event::poll(&mut fds, left.as_ref()) {
            Ok(0) => return Err(Failure::new("exec", FailureKind::Other, "the time is over")),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(fail(e)),
        }
        if !fds[0].revents().is_empty() {
            return pass::receive(control).map_err(fail);
        }
        return Err(Failure::new("exec", FailureKind::Other, "the caller is gone"));
    }
}

fn left(until: Option<Instant>) -> Option<Timespec> {
    let left = until?.saturating_duration_since(Instant::now());
    Some(Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(left.subsec_nanos()),
    })
}

fn failure_of(bytes: &[u8]) -> Failure {
    if bytes.is_empty() {
        let message =
            "the process was killed while it was set up; look for a memory limit that is too low, or a stop";
        return Failure::new("exec", FailureKind::Other, message);
    }
    serde_json::from_slice(bytes).unwrap_or_else(|e| {
        Failure::new("exec", FailureKind::Other, format!("the process failed unreadably: {e}"))
    })
}

/// The process that is being made, inside the container.
struct Process1<'a> {
    job: &'a ExecJob,
    control: &'a OwnedFd,
    stdio: [Option<OwnedFd>; 3],
    slave: Option<OwnedFd>,
}

impl Guest for Process1<'_> {
    fn terminal(&mut self, root: BorrowedFd<'_>) -> Result<(), Failure> {
        if let Some(size) = self.job.terminal {
            let (master, slave) = terminal::open(root, size)?;
            pass::send_fd(self.control, TERMINAL, master.as_fd())
                .map_err(|e| Failure::errno("terminal", "handing it over", e))?;
            self.slave = Some(slave);
            return Ok(());
        }
        for fd in &mut self.stdio {
            if fd.is_none() {
                *fd = Some(crate::start::init::open_null(root)?);
            }
        }
        Ok(())
    }
}

impl Finish for Process1<'_> {
    fn stdio(&mut self, identity: &Identity) -> Result<(), Failure> {
        // First all above the fixed numbers, or one could overwrite another.
        let fail = |e| Failure::errno("stdio", "arranging descriptors", e);
        let high = self
            .stdio
            .iter()
            .map(|fd| fd.as_ref().map(|fd| sys::dup_above(fd.as_fd(), 3)).transpose())
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(fail)?;
        for (fd, number) in high.iter().zip(0..) {
            if let Some(fd) = fd {
                sys::dup_to(fd.as_fd(), number).map_err(fail)?;
            }
        }
        terminal::stdio(self.slave.take(), identity, 0)
    }

    fn confined(&mut self, _: &Process) -> Result<(), Failure> {
        Ok(())
    }
}

/// A process that runs.
struct Keep<'a> {
    job: &'a ExecJob,
    group: Option<&'a Inner>,
    agent: &'a OwnedFd,
    until: Option<Instant>,
    started: Started,
    detached: bool,
    /// Whoever wanted it is gone.
    hung_up: bool,
    killed: bool,
    timed_out: bool,
}

impl Keep<'_> {
    fn until_it_ends(mut self, oom_before: u64) -> ExecExit {
        let mut listen = true;
        loop {
            // The pidfd, the agent, and the terminal once nobody else reads it; in place of what is not watched, the pidfd.
            let pidfd = &self.started.pidfd;
            let unread = self.started.terminal.as_ref().filter(|_| self.detached);
            let mut fds = [
                PollFd::new(pidfd, PollFlags::IN),
                PollFd::new(if listen { self.agent } else { pidfd }, PollFlags::IN),
                PollFd::new(unread.unwrap_or(pidfd), PollFlags::IN),
            ];
            let time = if self.killed { None } else { left(self.until) };
            let polled = rustix::event::poll(&mut fds, time.as_ref());
            let [ended, told, output] = fds.map(|fd| !fd.revents().is_empty());
            if ended {
                break;
            }
            if matches!(polled, Ok(0)) {
                self.timed_out = listen;
                self.kill();
                continue;
            }
            if told {
                listen = self.heed();
            }
            if output {
                self.drain();
            }
        }
        let status =
            rustix::process::waitid(WaitId::PidFd(self.started.pidfd.as_fd()), WaitIdOptions::EXITED);
        let status = status.ok().flatten();
        let signal = status.as_ref().and_then(rustix::process::WaitIdStatus::terminating_signal).unwrap_or(0);
        let code = status.as_ref().and_then(rustix::process::WaitIdStatus::exit_status);
        if (self.killed || self.hung_up)
            && let Some(group) = self.group
        {
            // What it has started goes with it, and is to be gone when this is told.
            group.kill();
            group.wait_empty();
        }
        ExecExit {
            code: code.unwrap_or(128 + signal),
            signal,
            oom_killed: signal == libc::SIGKILL
                && !self.killed
                && cgroup::oom_kills_of(&self.job.cgroup) > oom_before,
            timed_out: self.timed_out,
        }
    }

    /// Does what the agent asks for; `false` once it asks for nothing more.
    fn heed(&mut self) -> bool {
        match wire::read_word(self.agent) {
            Some(Word::Signal(number)) => {
                if let Some(signal) = Signal::from_named_raw(number) {
                    let _ = rustix::process::pidfd_send_signal(&self.started.pidfd, signal);
                }
                true
            }
            Some(Word::Detach) => {
                self.detached = true;
                true
            }
            None if self.detached => false,
            None => {
                // As when a terminal's line is cut.
                self.hung_up = true;
                self.started.terminal = None;
                for signal in [Signal::HUP, Signal::CONT] {
                    let _ = rustix::process::pidfd_send_signal(&self.started.pidfd, signal);
                }
                let end = Instant::now() + HANGUP;
                self.until = Some(self.until.map_or(end, |until| until.min(end)));
                false
            }
        }
    }

    fn kill(&mut self) {
        self.killed = true;
        match self.group {
            Some(group) => group.kill(),
            None => cgroup::kill_session(&self.job.cgroup, self.started.pid),
        }
        let _ = rustix::process::pidfd_send_signal(&self.started.pidfd, Signal::KILL);
    }

    fn drain(&mut self) {
        let mut scrap = [0u8; 4096];
        if let Some(terminal) = &self.started.terminal
            && matches!(rustix::io::read(terminal, &mut scrap), Ok(0) | Err(rustix::io::Errno::IO))
        {
            self.started.terminal = None;
        }
    }
}
