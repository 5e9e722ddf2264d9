//! stower-shim: the parent and reaper of one container's processes.
//!
//! It keeps the container's output, writes its log, owns the deadline of a stop and records the exit. It is executed by
//! the starter, with the descriptors and arguments of the contract in the crate's README, and lives until the
//! container has ended. It has no C library, no heap and no threads, and blocks in one `ppoll`; idle it never wakes.
//!
//! `sys` and `mem` hold what is unsafe; `args`, `cri`, `exit`, `frame` and `time` are pure, and tested with the library.
#![no_std]
#![no_main]
#![deny(unsafe_op_in_unsafe_fn)]

mod args;
mod control;
mod cri;
mod exit;
#[allow(dead_code)] // the library's side is in it too
mod frame;
mod log;
mod mem;
mod sys;
#[allow(dead_code)] // as above
mod time;

use args::Parsed;
use control::{CONNECTIONS, Control, Requests};
use exit::{Ended, Exit};
use frame::{Phase, State, Stop, StopLater};
use log::{Job, Log};
use sys::{POLLIN, POLLOUT, PollFd};

const RUN_DIR: i32 = 3;
const SOCKET: i32 = 5;
const INIT_PIDFD: i32 = 6;
const STDOUT: i32 = 7;
const STDERR: i32 = 8;
const CGROUP: i32 = 9;
const STDIN: i32 = 10;

const SECOND: u64 = 1_000_000_000;
/// After the first process's end, others may hold its pipes for so long.
const PIPES_AFTER_EXIT: u64 = SECOND;
/// After the first process's end, the log may take so long.
const LOG_AFTER_EXIT: u64 = 2 * SECOND;

/// Wrong arguments.
const EXIT_USAGE: i32 = 64;
/// A defect of the shim.
const EXIT_PANIC: i32 = 70;
/// The kernel refused what the shim cannot do without.
const EXIT_OS: i32 = 71;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    sys::exit(EXIT_PANIC)
}

/// The container's first process, and what is to happen to it.
struct Init<'a> {
    args: Parsed<'a>,
    /// When the shim began, in nanoseconds since boot: the process had just been started.
    began: u64,
    timer: i32,
    /// When the whole cgroup is killed, in nanoseconds since boot; it only comes nearer.
    deadline: Option<u64>,
    /// When which signal is sent, as the deadline; `None` once it was.
    signal: Option<(u64, u32)>,
    /// The last thing that the timer is for is done.
    killed: bool,
    /// How and when it ended: nanoseconds since boot, and the wall clock.
    ended: Option<(Ended, u64, sys::Timespec)>,
    dropped_lines: u64,
    /// Where input goes, or -1.
    stdin: i32,
}

impl Init<'_> {
    fn reaped(&mut self, status: u32) {
        self.ended = Some((Ended::from_status(status), sys::boottime(), sys::clock(sys::CLOCK_REALTIME)));
    }

    /// What the clock asks for now, and the timer for what it asks for next.
    fn on_time(&mut self) {
        let now = sys::boottime();
        if let Some((at, signal)) = self.signal
            && at <= now
        {
            self.send(signal);
        }
        let Some(deadline) = self.deadline else { return };
        let next = self.signal.map_or(deadline, |(at, _)| at.min(deadline));
        if deadline <= now || self.timer < 0 || sys::set_timer(self.timer, next).is_err() {
            self.kill();
        }
    }

    fn send(&mut self, signal: u32) {
        self.signal = None;
        let _ = sys::pidfd_send_signal(INIT_PIDFD, signal);
    }

    /// Brings the deadline nearer.
    fn hasten(&mut self, grace_ms: u64) {
        let at = after(grace_ms);
        self.deadline = Some(self.deadline.map_or(at, |former| former.min(at)));
    }

    /// Kills the container's cgroup, or where that cannot be at least its first process, and so its pid namespace.
    fn kill(&mut self) {
        self.killed = true;
        if self.args.cgroup_kill
            && let Ok(fd) = sys::openat(CGROUP, b"cgroup.kill\0", sys::O_WRONLY | sys::O_CLOEXEC, 0)
        {
            let _ = sys::write(fd, b"1");
            sys::close(fd);
        }
        if self.ended.is_none() {
            let _ = sys::pidfd_send_signal(INIT_PIDFD, sys::SIGKILL);
        }
    }
}

impl Requests for Init<'_> {
    fn stop(&mut self, stop: Stop) {
        if self.ended.is_some() {
            return;
        }
        self.hasten(stop.grace_ms);
        self.send(stop.signal);
        self.on_time();
    }

    fn stop_later(&mut self, later: StopLater) {
        if self.ended.is_some() {
            return;
        }
        let is_sent = self.deadline.is_some() && self.signal.is_none();
        self.hasten(later.stop.grace_ms);
        if !is_sent {
            let at = after(later.signal_ms);
            let at = self.signal.map_or(at, |(former, _)| former.min(at));
            self.signal = Some((at, later.stop.signal));
        }
        self.on_time();
    }

    fn input(&mut self, bytes: &[u8]) -> Option<usize> {
        if self.stdin < 0 {
            return Some(bytes.len());
        }
        match sys::write(self.stdin, bytes) {
            Ok(n) => Some(n),
            Err(sys::EINTR) => Some(0),
            Err(sys::EAGAIN) => None,
            Err(_) => {
                self.end_stdin();
                Some(bytes.len())
            }
        }
    }

    fn resize(&mut self, rows: u16, columns: u16) {
        if self.args.stdin == TERMINAL && self.stdin >= 0 {
            let _ = sys::set_window_size(self.stdin, rows, columns);
        }
    }

    fn close_stdin(&mut self) {
        if self.args.stdin != TERMINAL {
            self.end_stdin();
        }
    }

    fn state(&self) -> State {
        let now = sys::boottime();
        let left = self.deadline.map_or(0, |at| at.saturating_sub(now));
        State {
            run: self.args.run,
            init_pid: self.args.init_pid,
            phase: match (&self.ended, self.deadline) {
                (Some(_), _) => Phase::Exited,
                (None, Some(_)) => Phase::Stopping,
                (None, None) => Phase::Running,
            },
            exit_code: self.ended.map_or(0, |(ended, ..)| ended.code),
            stop_ms: left / 1_000_000,
            dropped_lines: self.dropped_lines,
            signal_ms: self.signal.map_or(0, |(at, _)| (at.saturating_sub(now) / 1_000_000).max(1)),
        }
    }
}

/// The time so many milliseconds from now, in nanoseconds since boot.
fn after(ms: u64) -> u64 {
    sys::boottime().saturating_add(ms.saturating_mul(1_000_000)).min(i64::MAX as u64)
}

impl Init<'_> {
    fn end_stdin(&mut self) {
        if self.stdin >= 0 {
            sys::close(self.stdin);
            self.stdin = -1;
        }
    }
}

/// The argument `stdin` for a terminal.
const TERMINAL: u64 = 2;

/// The program.
fn run(argv: mem::Argv) -> ! {
    let began = sys::boottime();
    sys::block_signals();
    sys::default_sigchld();
    sys::become_subreaper();
    let mut at = 0;
    let arguments = core::iter::from_fn(|| {
        at += 1;
        argv.get(at)
    });
    let Some(args) = args::parse(arguments) else { sys::exit(EXIT_USAGE) };
    let Ok(children) = sys::signalfd(sys::SIGCHLD) else { sys::exit(EXIT_OS) };
    let timer = sys::timer().unwrap_or(-1);
    let job = Job::new(&args);
    let log = Log::new(&args, &job, STDOUT, STDERR);
    let stdin = if args.stdin == 0 { -1 } else { STDIN };
    if stdin >= 0 {
        let _ = sys::set_nonblocking(stdin);
    }
    let init = Init {
        args,
        stdin,
        began,
        timer,
        deadline: None,
        signal: None,
        killed: false,
        ended: None,
        dropped_lines: 0,
    };
    supervise(init, log, Control::new(SOCKET), children)
}

fn supervise(mut init: Init<'_>, mut log: Log<'_>, mut control: Control, children: i32) -> ! {
    // A SIGCHLD from before the signalfd is pending and shows there; looking once costs little and is certain.
    let mut child_ended = true;
    loop {
        let mut now = sys::boottime();
        while child_ended {
            let Some((pid, status)) = sys::reap() else { break };
            if !log.reaped(pid, now) && pid as u32 == init.args.init_pid {
                init.reaped(status);
            }
        }
        now = sys::boottime();
        let mut wake_at = None;
        if let Some((ended, since, wall)) = init.ended {
            if now >= since + PIPES_AFTER_EXIT {
                log.end_all();
            } else {
                wake_at = Some(since + PIPES_AFTER_EXIT);
            }
            log.pump(now);
            let late = !init.args.log_block && now >= since + LOG_AFTER_EXIT;
            if late {
                log.abandon();
            }
            if late || log.is_done() {
                let ran_ms = since.saturating_sub(init.began) / 1_000_000;
                finish(&init.args, ended, wall, ran_ms, log.dropped_lines());
            }
            if wake_at.is_none() && !init.args.log_block {
                wake_at = Some(since + LOG_AFTER_EXIT);
            }
        } else {
            log.pump(now);
        }
        init.dropped_lines = log.dropped_lines();
        wake_at = match (wake_at, log.wake_at()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };

        let pipes = log.wants();
        let timer = if init.deadline.is_some() && !init.killed { init.timer } else { -1 };
        let mut fds = [PollFd { fd: -1, events: POLLIN, revents: 0 }; 5 + CONNECTIONS + 1];
        let stdin = if control.has_input() { init.stdin } else { -1 };
        let first = [children, timer, pipes[0], pipes[1]].map(|fd| (fd, POLLIN));
        let wants = first.into_iter().chain([(stdin, POLLOUT)]).chain(control.wants());
        for (entry, (fd, events)) in fds.iter_mut().zip(wants) {
            (entry.fd, entry.events) = (fd, events);
        }
        let mut timeout = wake_at.map(|at| at.saturating_sub(now));
        if log.is_idle_and_warm() {
            // Only when nothing waits: a container that keeps talking keeps its pages.
            if sys::poll(&mut fds, Some(0)) == Ok(0) {
                log.release();
            } else {
                timeout = Some(0);
            }
        }
        if sys::poll(&mut fds, timeout).is_err() {
            continue;
        }
        child_ended = fds[0].revents != 0;
        if child_ended {
            let _ = sys::read(children, &mut [0; 128]);
        }
        if fds[1].revents != 0 {
            init.on_time();
        }
        for which in 0..2 {
            if fds[2 + which].revents != 0 {
                log.read(which, |stream, bytes| control.output(stream, bytes));
            }
        }
        if fds[4].revents != 0 || (stdin < 0 && control.has_input()) {
            control.input(&mut init);
        }
        for place in 0..=CONNECTIONS {
            if fds[5 + place].revents != 0 {
                control.ready(place, &mut init);
            }
        }
    }
}

/// Writes the exit record and ends. Without a record the agent takes the shim for lost, which is what is left then.
fn finish(args: &Parsed<'_>, ended: Ended, wall: sys::Timespec, ran_ms: u64, dropped_lines: u64) -> ! {
    let finished_at = time::rfc3339(wall.sec as u64, wall.nsec as u32);
    let exit = Exit {
        boot_id: args.boot_id,
        run: args.run,
        ended,
        started_at: args.started_at,
        finished_at: &finished_at,
        ran_ms,
        dropped_lines,
    };
    let mut text = [0; exit::MAX_LEN];
    let len = exit.write(&mut text);
    for _ in 0..20 {
        if write_record(&text[..len]) {
            sys::exit(0);
        }
        let _ = sys::poll(&mut [], Some(SECOND / 20));
    }
    sys::exit(EXIT_OS)
}

fn write_record(text: &[u8]) -> bool {
    const NEW: &[u8] = b"exit.json.new\0";
    let flags = sys::O_WRONLY | sys::O_CREAT | sys::O_EXCL | sys::O_NOFOLLOW | sys::O_CLOEXEC;
    let _ = sys::unlinkat(RUN_DIR, NEW);
    let Ok(fd) = sys::openat(RUN_DIR, NEW, flags, 0o600) else { return false };
    let whole = sys::write(fd, text) == Ok(text.len());
    sys::close(fd);
    whole && sys::renameat(RUN_DIR, NEW, b"exit.json\0").is_ok()
}
