//! The shim as it is built, with real processes.

mod adopt;
#[cfg(target_arch = "x86_64")]
mod former;
mod log;
mod support;

use std::time::Duration;

use stower_runtime::proc;
use stower_runtime::shim::frame::{MAX_REQUEST, Phase, State, VERSION, error_code, kind};
use support::{LONG, Options, Shim, ask};

#[test]
fn an_exit_code_is_recorded() {
    let mut shim = Shim::start("echo hello; echo oops >&2; exit 7", &Options::default());
    let exit = shim.ended().unwrap();
    assert_eq!((exit.exit_code, exit.signal, exit.run), (7, 0, 1));
    assert_eq!(exit.boot_id, proc::boot_id().unwrap());
    assert_eq!(exit.started_at, "2026-01-02T03:04:05.000000006Z");
    // That time is of the test's own making: how long it ran is told by another clock.
    assert!(exit.ran_ms.unwrap() < 600_000, "{exit:?}");
    assert!(exit.finished_at > exit.started_at);
    let log = shim.log();
    assert!(log.contains("Z stdout F hello\n"), "{log}");
    assert!(log.contains("Z stderr F oops\n"), "{log}");
}

#[test]
fn a_death_by_signal_is_recorded() {
    let mut shim = Shim::start("kill -SEGV $$", &Options::default());
    let exit = shim.ended().unwrap();
    assert_eq!((exit.exit_code, exit.signal), (128 + 11, 11));
}

#[test]
fn a_silent_run_has_an_empty_log() {
    let mut shim = Shim::start("exit 0", &Options { run: 12, ..Options::default() });
    assert_eq!(shim.ended().unwrap().exit_code, 0);
    assert_eq!(std::fs::read(shim.logs.join("12-0.log")).unwrap(), b"");
}

#[test]
fn a_stop_that_is_obeyed_needs_no_kill() {
    // A shell that waits in `read` may begin to do so after a signal, and then its trap waits for ever.
    let mut shim =
        Shim::start("trap 'echo bye; exit 3' TERM; echo up; while :; do :; done", &Options::default());
    shim.wait_for_line("up");
    let state = shim.stop(15, Duration::from_secs(3600));
    assert_eq!(state.run, 1);
    assert_eq!(state.init_pid, shim.record.init_pid);
    let exit = shim.ended().unwrap();
    assert_eq!((exit.exit_code, exit.signal), (3, 0));
    assert!(shim.log().contains(" F bye\n"));
}

#[test]
fn a_stop_that_is_ignored_ends_in_a_kill() {
    let mut shim = Shim::start("trap '' TERM; echo up; exec sleep 1000", &Options::default());
    shim.wait_for_line("up");
    let state = shim.stop(15, Duration::from_millis(50));
    assert_eq!(state.phase, Phase::Stopping);
    let exit = shim.ended().unwrap();
    assert_eq!((exit.exit_code, exit.signal), (137, 9));
}

#[test]
fn a_repeated_stop_only_shortens() {
    let mut shim = Shim::start("trap '' TERM; echo up; exec sleep 1000", &Options::default());
    shim.wait_for_line("up");
    let first = shim.stop(15, Duration::from_secs(1000));
    let longer = shim.stop(15, Duration::from_secs(5000));
    assert!(first.stop_ms <= 1_000_000 && longer.stop_ms <= first.stop_ms, "{first:?} {longer:?}");
    let shorter = shim.stop(15, Duration::from_secs(500));
    assert!(shorter.stop_ms <= 500_000, "{shorter:?}");
    shim.stop(9, Duration::ZERO);
    assert_eq!(shim.ended().unwrap().signal, 9);
}

#[test]
fn a_deadline_is_kept_without_anyone_connected() {
    let mut shim = Shim::start("trap '' TERM; echo up; exec sleep 1000", &Options::default());
    shim.wait_for_line("up");
    // The asker is gone at once, as an agent that dies.
    let _ = shim.stop(15, Duration::from_millis(100));
    assert_eq!(shim.ended().unwrap().signal, 9);
}

const POLITE: &str = "trap 'echo bye; exit 3' TERM; echo up; while :; do :; done";

#[test]
fn a_signal_that_waits_is_sent_in_time_by_nobody_but_the_shim() {
    let mut shim = Shim::start(POLITE, &Options::default());
    shim.wait_for_line("up");
    let state = shim.stop_later(15, Duration::from_millis(50), Duration::from_secs(3600));
    assert_eq!(state.phase, Phase::Stopping);
    assert!((1..=50).contains(&state.signal_ms) && state.stop_ms > 3_000_000, "{state:?}");
    assert_eq!(shim.ended().unwrap().exit_code, 3);
}

#[test]
fn a_signal_that_waits_is_sent_at_once_when_told() {
    let mut shim = Shim::start(POLITE, &Options::default());
    shim.wait_for_line("up");
    let hour = Duration::from_secs(3600);
    let state = shim.stop_later(15, hour, hour * 2);
    assert!(state.signal_ms > 3_000_000, "{state:?}");
    // Both only come nearer.
    let later = shim.stop_later(15, hour * 5, hour * 5);
    assert!(later.signal_ms <= state.signal_ms && later.stop_ms <= state.stop_ms, "{later:?}");
    let sooner = shim.stop_later(15, hour / 2, hour);
    assert!(sooner.signal_ms <= 1_800_000 && sooner.stop_ms <= 3_600_000, "{sooner:?}");
    assert_eq!(shim.stop(15, hour).signal_ms, 0);
    assert_eq!(shim.ended().unwrap().exit_code, 3);
}

#[test]
fn a_signal_that_was_sent_does_not_wait_again() {
    let mut shim = Shim::start("trap 'echo term' TERM; echo up; while :; do :; done", &Options::default());
    shim.wait_for_line("up");
    let hour = Duration::from_secs(3600);
    shim.stop(15, hour);
    shim.wait_for_line("term");
    assert_eq!(shim.stop_later(15, hour, hour).signal_ms, 0);
    // The kill does not wait for the signal either.
    shim.stop_later(15, hour, Duration::from_millis(20));
    assert_eq!(shim.ended().unwrap().signal, 9);
}

#[test]
fn the_deadline_of_a_stop_is_kept_while_its_signal_waits() {
    let mut shim = Shim::start("trap '' TERM; echo up; exec sleep 1000", &Options::default());
    shim.wait_for_line("up");
    shim.stop_later(15, Duration::from_millis(20), Duration::from_millis(60));
    assert_eq!(shim.ended().unwrap().signal, 9);
}

#[test]
fn orphans_are_reaped() {
    // A double fork: the orphan's new parent is the shim, as there is no pid namespace here.
    let script = "( (read x < /dev/null; echo orphan $(exec sh -c 'echo $PPID'); exec sleep 1000) & ) ; exec sleep 1000";
    let shim = Shim::start(script, &Options::default());
    support::wait_for_change(&shim.logs, || shim.log().contains("orphan "));
    let log = shim.log();
    let orphan: u32 = log.split("orphan ").nth(1).unwrap().trim().parse().unwrap();
    let parent = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let rest = stat.rsplit_once(')').unwrap().1.to_owned();
        rest.split_ascii_whitespace().nth(1).unwrap().parse::<u32>().unwrap()
    };
    assert_eq!(parent(orphan), shim.record.shim_pid);
    let id = proc::ProcessId { pid: orphan, start: proc::start_time(orphan).unwrap().unwrap() };
    let pidfd = proc::open(id).unwrap().unwrap();
    proc::signal(std::os::fd::AsFd::as_fd(&pidfd), rustix::process::Signal::KILL).unwrap();
    assert!(proc::wait(&pidfd, Some(LONG)).unwrap());
    // Reaped before the next request is answered: the answer comes from the same loop, later.
    let mut stream = shim.connect();
    let until = std::time::Instant::now() + LONG;
    while proc::start_time(orphan).unwrap() == Some(id.start) {
        ask(&mut stream, VERSION, kind::PING, &[]);
        assert!(std::time::Instant::now() < until, "the orphan stays a zombie");
    }
}

#[test]
fn a_pipe_held_by_another_does_not_hold_the_exit() {
    let mut shim = Shim::start("sleep 1000 & echo $!; exit 5", &Options::default());
    let exit = shim.ended().unwrap();
    assert_eq!(exit.exit_code, 5);
    let log = shim.log();
    let sleeper: u32 = log.trim().rsplit(' ').next().unwrap().parse().unwrap();
    let start = proc::start_time(sleeper).unwrap().expect("it outlives the shim");
    let pidfd = proc::open(proc::ProcessId { pid: sleeper, start }).unwrap().unwrap();
    proc::signal(std::os::fd::AsFd::as_fd(&pidfd), rustix::process::Signal::KILL).unwrap();
}

#[test]
fn a_killed_shim_leaves_no_exit_record() {
    let mut shim = Shim::start("exec sleep 1000", &Options::default());
    shim.child.kill().unwrap();
    assert_eq!(shim.ended(), None);
}

#[test]
fn frames_are_answered_or_refused() {
    let shim = Shim::start("exec sleep 1000", &Options { run: 77, ..Options::default() });
    let mut stream = shim.connect();
    let (kind_, state) = ask(&mut stream, VERSION, kind::PING, &[]);
    assert_eq!(kind_, kind::STATE);
    let state = State::decode(&state).unwrap();
    assert_eq!((state.run, state.phase, state.init_pid), (77, Phase::Running, shim.record.init_pid));

    let refusal = |(kind_, payload): (u16, Vec<u8>)| {
        assert_eq!(kind_, kind::ERROR);
        u32::from_le_bytes(payload[..4].try_into().unwrap())
    };
    assert_eq!(refusal(ask(&mut stream, VERSION, 999, b"new")), error_code::TYPE);
    assert_eq!(refusal(ask(&mut stream, 2, kind::PING, &[])), error_code::VERSION);
    assert_eq!(refusal(ask(&mut stream, VERSION, kind::STOP, b"short")), error_code::PAYLOAD);
    assert_eq!(refusal(ask(&mut stream, VERSION, kind::STOP, &[0; 12])), error_code::PAYLOAD);
    assert_eq!(refusal(ask(&mut stream, VERSION, kind::STOP_LATER, &[1; 12])), error_code::PAYLOAD);
    // The same connection goes on, and a newer, longer payload is understood.
    assert_eq!(ask(&mut stream, VERSION, kind::PING, b"field of a newer release").0, kind::STATE);
    let long = vec![0; MAX_REQUEST + 1];
    assert_eq!(refusal(ask(&mut stream, VERSION, kind::PING, &long)), error_code::TOO_LONG);
    // More connections than the shim keeps: the newest one is answered.
    let held: Vec<_> = (0..12).map(|_| shim.connect()).collect();
    assert_eq!(ask(&mut shim.connect(), VERSION, kind::PING, &[]).0, kind::STATE);
    drop(held);
}

#[test]
fn wrong_arguments_are_refused() {
    for args in [&["2", "run=1"][..], &["1"], &[], &["1", "run=x"]] {
        let status = std::process::Command::new(support::SHIM).args(args).status().unwrap();
        assert_eq!(status.code(), Some(64), "{args:?}");
    }
}
