//! One more process in a container: its confinement is the container's, and nothing of it is left.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use common::{Case, chain};
use oci_spec::runtime::{LinuxNamespaceType, PosixRlimitBuilder, PosixRlimitType};
use stower_runtime::cgroup::Limits;
use stower_runtime::error::FailureKind;
use stower_runtime::exec::TerminalSize;
use stower_runtime::seccomp::Filter;
use stower_runtime::start::Runtime;
use stower_runtime::{ExecError, ExecExit, caps};

const WELL: ExecExit = ExecExit { code: 0, signal: 0, oom_killed: false, timed_out: false };

/// What a process tells of its own confinement.
const CONFINEMENT: [&str; 12] = [
    "cat:/proc/self/limits",
    "cat:/proc/self/oom_score_adj",
    "cat:/proc/self/cgroup",
    "link:/proc/self/ns/mnt",
    "link:/proc/self/ns/pid",
    "link:/proc/self/ns/net",
    "link:/proc/self/ns/ipc",
    "link:/proc/self/ns/uts",
    "link:/proc/self/ns/cgroup",
    "id",
    "cwd",
    "env",
];

#[test]
fn root_an_execd_process_has_the_whole_confinement_of_the_container() {
    let mut questions = CONFINEMENT.to_vec();
    questions.extend(["cat:/proc/self/status", "umask", "call:keyctl", "wait"]);
    let mut case = Case::new(&questions);
    case.request.seccomp = Some(Filter::default_for(caps::DEFAULT));
    let limit =
        |kind, soft, hard| PosixRlimitBuilder::default().typ(kind).soft(soft).hard(hard).build().unwrap();
    case.process()
        .set_rlimits(Some(vec![limit(PosixRlimitType::RlimitNofile, 100u64, 200u64)]))
        .set_oom_score_adj(Some(321))
        .set_no_new_privileges(Some(true))
        .set_env(Some(vec!["A=1".to_owned(), "B=2".to_owned()]));
    case.process()
        .user_mut()
        .set_uid(1000)
        .set_gid(1001)
        .set_additional_gids(Some(vec![7]))
        .set_umask(Some(0o027));
    case.start();
    case.wait_for("== wait");
    let own = case.log();

    let mut request = case.ask(&questions[..questions.len() - 1]);
    request.args.extend(["ls:/proc/self/fd".to_owned(), "stdin".to_owned()]);
    let (exit, seen) = case.exec(request);
    assert_eq!(exit, WELL);
    for question in CONFINEMENT {
        let lines = own.lines().skip_while(|l| *l != format!("== {question}")).skip(1);
        let lines: Vec<_> = lines.take_while(|l| !l.starts_with("== ")).collect();
        if question == "cat:/proc/self/cgroup" {
            // In cgroup2 it has a group of its own below the container's; in all others the container's own.
            let seen = seen.lines(question);
            assert!(seen.iter().any(|l| l.starts_with("0::/exec-")), "{seen:?}");
            let others = |l: &&&str| !l.starts_with("0::");
            assert!(seen.iter().filter(others).eq(lines.iter().filter(others)), "{seen:?}, not {lines:?}");
            continue;
        }
        assert_eq!(seen.lines(question), lines, "{question}");
    }
    for field in [
        "Uid",
        "Gid",
        "Groups",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Seccomp_filters",
    ] {
        let line = own.lines().find_map(|l| l.strip_prefix(&format!("{field}:"))).unwrap().trim();
        assert_eq!(seen.status(field), line, "{field}");
    }
    assert_eq!(seen.status("Seccomp"), "2");
    assert_eq!(seen.one("umask"), "27");
    assert_eq!(seen.one("call:keyctl"), "1", "the filter refuses it");
    // 3 is the directory that is listed.
    assert_eq!(seen.one("ls:/proc/self/fd"), "0 1 2 3");
    assert_eq!(seen.one("stdin"), "/dev/null");
    case.wait_for_processes(1);
}

#[test]
fn root_exec_ends_as_its_command_ends() {
    let mut case = Case::new(&["wait"]);
    case.start();
    assert_eq!(case.exec(case.ask(&["exit:7"])).0, ExecExit { code: 7, ..WELL });
    assert_eq!(case.exec(case.ask(&["raise:15"])).0, ExecExit { code: 143, signal: 15, ..WELL });
    let mut request = case.ask(&[]);
    request.args = vec!["nowhere".to_owned()];
    let ExecError::Failed(failure) = case.no_exec(request) else { panic!() };
    assert_eq!(failure.kind, FailureKind::CommandNotFound);
    let mut request = case.ask(&[]);
    request.args = vec!["/etc".to_owned()];
    let ExecError::Failed(failure) = case.no_exec(request) else { panic!() };
    assert_eq!(failure.kind, FailureKind::PermissionDenied, "{failure}");
    let mut request = case.ask(&[]);
    request.cwd = Some("/nowhere".to_owned());
    let e = case.no_exec(request);
    assert_eq!(e.to_string(), "working directory: /nowhere is not in the container");
    assert!(!case.path("upper/nowhere").exists());
    case.wait_for_processes(1);
}

#[test]
fn root_exec_takes_environment_directory_and_user_of_the_request() {
    let mut case = Case::new(&["wait"]);
    fs::write(
        case.path("lower/etc/passwd"),
        "root:x:0:0::/root:\n1:x:0:0:a trap:/:\napp:x:1000:1000::/srv:\n",
    )
    .unwrap();
    fs::write(case.path("lower/etc/group"), "app:x:1000:\nwheel:x:10:app\n").unwrap();
    case.process().set_env(Some(vec!["A=1".to_owned(), "PATH=/bin".to_owned()]));
    case.start();
    let mut request = case.ask(&["id", "env", "cwd"]);
    request.args[0] = "probe".to_owned();
    request.env = vec!["A=2".to_owned(), "C=".to_owned()];
    request.cwd = Some("/tmp".to_owned());
    request.user = Some("app".to_owned());
    let (_, seen) = case.exec(request);
    assert_eq!(seen.one("id"), "1000 1000 10,1000");
    assert_eq!(seen.lines("env"), ["PATH=/bin", "A=2", "C=", "HOME=/srv"]);
    assert_eq!(seen.one("cwd"), "/tmp");
    let as_user = |user: &str| {
        let mut request = case.ask(&["id"]);
        request.user = Some(user.to_owned());
        request
    };
    assert_eq!(case.exec(as_user("1")).1.one("id"), "1 0 0", "digits are a number, whoever is named so");
    assert_eq!(case.exec(as_user("5:6")).1.one("id"), "5 6 6");
    for user in ["4294967296", "-1", "0\n", "nobody", "app:nogroup", ":", " 0"] {
        let ExecError::Failed(failure) = case.no_exec(as_user(user)) else { panic!("{user}") };
        assert_eq!(failure.kind, FailureKind::NoSuchUser, "{user}: {failure}");
    }
    assert!(matches!(case.no_exec(as_user("")), ExecError::Refused(_)));
}

#[test]
fn root_a_passwd_that_leads_out_or_is_no_file_is_not_read() {
    let mut case = Case::new(&["wait"]);
    case.start();
    let passwd = format!("/proc/{}/root/etc/passwd", case.init_pid());
    let ask = || {
        let mut request = case.ask(&["id"]);
        request.user = Some("root".to_owned());
        request
    };
    // Inside the root it is a link to itself.
    std::os::unix::fs::symlink("../../../../../../../../../../etc/passwd", &passwd).unwrap();
    let e = case.no_exec(ask());
    assert!(e.to_string().contains("leads through a loop"), "{e}");
    fs::remove_file(&passwd).unwrap();
    // Nobody ever writes to it.
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, &passwd, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let e = case.no_exec(ask());
    assert!(e.to_string().contains("is not a regular file"), "{e}");
}

#[test]
fn root_a_deadline_kills_the_process_and_all_that_it_started_and_not_the_container() {
    let mut case = Case::new(&["wait"]);
    case.start();
    let mut request = case.ask(&["leave", "wait"]);
    // Long enough for its start on a busy machine.
    request.deadline = Some(Duration::from_secs(5));
    let (exit, seen) = case.exec(request);
    assert_eq!(seen.lines("leave"), ["ok", "ok"]);
    assert_eq!(exit, ExecExit { code: 137, signal: 9, timed_out: true, oom_killed: false });
    // At once: the keeper has waited for its group.
    assert_eq!(case.cgroups.processes(&case.uid).unwrap().len(), 1);
    case.wait_for_processes(1);
    assert_eq!(case.exec(case.ask(&["pid"])).0, WELL, "the container runs on");
}

#[test]
fn root_what_a_process_leaves_behind_stays_in_the_container() {
    let mut case = Case::new(&["wait"]);
    case.start();
    // Its child holds the pipe, and is not waited for.
    let (exit, seen) = case.exec(case.ask(&["leave"]));
    assert_eq!(exit, WELL);
    assert_eq!(seen.lines("leave"), ["ok", "ok"]);
    case.wait_for_processes(3);
    case.cgroups.kill(&case.uid).unwrap();
    case.finish();
}

#[test]
fn root_the_end_of_the_caller_is_the_end_of_the_process() {
    let mut case = Case::new(&["wait"]);
    case.start();
    let process = Runtime::new().unwrap().exec(&case.handle(), case.ask(&["leave", "wait"])).unwrap();
    assert!(process.pid > 0);
    drop(process);
    case.wait_for_processes(1);
    let process = Runtime::new().unwrap().exec(&case.handle(), case.ask(&["wait"])).unwrap();
    process.detach().unwrap();
    let pid = process.pid;
    drop(process);
    // It is let go on; its keeper is there to reap it.
    case.wait_for("");
    let again = case.exec(case.ask(&["pid"]));
    assert_eq!(again.0, WELL);
    let pids = case.cgroups.processes(&case.uid).unwrap();
    assert!(pids.contains(&i32::try_from(pid).unwrap()), "{pid} is not in {pids:?}");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    case.wait_for_processes(1);
}

#[test]
fn root_a_terminal_is_of_the_container_and_has_its_size() {
    let mut case = Case::new(&["wait"]);
    case.process().user_mut().set_uid(1000).set_gid(1000);
    case.start();
    let mut request =
        case.ask(&["link:/proc/self/fd/0", "stat:/dev/pts/0", "size", "env", "write:/dev/tty", "echo"]);
    request.terminal = Some(TerminalSize { rows: 11, columns: 222 });
    let mut process = Runtime::new().unwrap().exec(&case.handle(), request).unwrap();
    let mut terminal = fs::File::from(process.terminal.take().unwrap());
    let mut text = String::new();
    let mut typed = false;
    // The end of a terminal is an error.
    let mut bytes = [0; 4096];
    while let Ok(len) = terminal.read(&mut bytes) {
        if len == 0 {
            break;
        }
        text.push_str(&String::from_utf8_lossy(&bytes[..len]));
        // What is typed before that is shown in the middle of an answer.
        if !typed && text.contains("== echo\r\n") {
            terminal.write_all(b"hello\n").unwrap();
            typed = true;
        }
    }
    assert_eq!(process.wait().unwrap(), WELL);
    let text = text.replace("\r\n", "\n");
    for wanted in [
        "== link:/proc/self/fd/0\n/dev/pts/0\n",
        "20620 1000:",
        "== size\nok 11x222\n",
        "TERM=xterm\n",
        "== write:/dev/tty\nxok\n",
        "\nok\nread hello\n",
    ] {
        assert!(text.contains(wanted), "no {wanted:?} in {text}");
    }
    case.wait_for_processes(1);
}

#[test]
fn root_a_hung_up_terminal_ends_its_process() {
    let mut case = Case::new(&["wait"]);
    case.start();
    let mut request = case.ask(&["wait"]);
    request.terminal = Some(TerminalSize::default());
    let mut process = Runtime::new().unwrap().exec(&case.handle(), request).unwrap();
    process.signal(rustix::process::Signal::HUP).unwrap();
    assert_eq!(process.wait().unwrap(), ExecExit { code: 129, signal: 1, ..WELL });
}

#[test]
fn root_output_is_bounded_and_streams_are_separate_descriptors() {
    let mut case = Case::new(&["wait"]);
    case.start();
    let runtime = Runtime::new().unwrap();
    let captured = runtime.exec_captured(&case.handle(), case.ask(&["say:300000"]), 1000).unwrap();
    assert_eq!((captured.exit, captured.output.len(), captured.truncated), (WELL, 1000, true));

    let (input, ours) = std::io::pipe().unwrap();
    let (mut read, output) = std::io::pipe().unwrap();
    let mut request = case.ask(&["echo", "ls:/proc/self/fd"]);
    request.stdin = Some(input.into());
    request.stdout = Some(output.into());
    let mut process = runtime.exec(&case.handle(), request).unwrap();
    (&ours).write_all(b"a line\n").unwrap();
    drop(ours);
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert!(text.contains("read a line\n") && text.contains("0 1 2 3\n"), "{text}");
    assert_eq!(process.wait().unwrap(), WELL);
    assert!(process.try_wait().unwrap().is_some());
}

#[test]
fn root_a_process_that_is_killed_for_memory_says_so() {
    let mut case = Case::new(&["wait"]);
    let limits =
        Limits { memory_bytes: Some(16 << 20), memory_swap_bytes: Some(16 << 20), ..Limits::default() };
    case.try_start_limited(&limits).unwrap();
    let (exit, _) = case.exec(case.ask(&["eat:64"]));
    assert_eq!(exit, ExecExit { code: 137, signal: 9, oom_killed: true, timed_out: false });
    assert_eq!(case.exec(case.ask(&["pid"])).0, WELL, "the container runs on");
}

#[test]
fn root_a_container_in_the_hosts_pid_namespace_is_entered_too() {
    let mut case = Case::new(&["wait"]);
    case.drop_namespace(LinuxNamespaceType::Pid);
    case.start();
    let (exit, seen) = case.exec(case.ask(&["link:/proc/self/ns/mnt"]));
    assert_eq!(exit, WELL);
    let of_container = fs::read_link(format!("/proc/{}/ns/mnt", case.init_pid())).unwrap();
    assert_eq!(seen.one("link:/proc/self/ns/mnt"), of_container.to_str().unwrap());
    case.wait_for_processes(1);
}

#[test]
fn root_no_exec_after_the_end_nor_without_a_record() {
    let mut case = Case::new(&["wait"]);
    case.start();
    let handle = case.handle();
    fs::rename(case.path("run/exec.json"), case.path("run/away")).unwrap();
    assert!(matches!(case.no_exec(case.ask(&["pid"])), ExecError::NoRecord));
    fs::rename(case.path("run/away"), case.path("run/exec.json")).unwrap();
    rustix::process::pidfd_send_signal(handle.init_pidfd().unwrap().as_fd(), rustix::process::Signal::KILL)
        .unwrap();
    case.finish();
    let e = Runtime::new().unwrap().exec(&handle, case.ask(&["pid"])).unwrap_err();
    assert!(matches!(e, ExecError::NotRunning), "{}", chain(&e));
}

#[test]
fn root_a_hundred_at_once_leave_nothing() {
    let mut case = Case::new(&["wait"]);
    case.start();
    std::thread::scope(|scope| {
        for n in 0..100 {
            let case = &case;
            scope.spawn(move || {
                let (exit, _) = case.exec(case.ask(&["pid", &format!("exit:{n}")]));
                assert_eq!(exit.code, n);
            });
        }
    });
    case.wait_for_processes(1);
    let children = fs::read_to_string(format!("/proc/self/task/{}/children", std::process::id())).unwrap();
    for pid in children.split_whitespace() {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(!stat.contains("stower-starter") && !stat.contains(") Z "), "a keeper is left: {stat}");
    }
}
