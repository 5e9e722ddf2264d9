//! The OCI command line with real containers: what it does and leaves, and what the process inside sees.

mod common;
mod oci;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use oci::{Bundle, hook};
use serde_json::json;

#[test]
fn root_a_container_goes_through_its_states_and_leaves_nothing() {
    let b = Bundle::new(&["wait"]);
    b.ok(&["create", "--bundle", b.path(), "--pid-file", &b.file("pid"), b.id()]);
    let state = b.state();
    assert_eq!((&state["status"], &state["bundle"]), (&json!("created"), &json!(b.path())));
    assert_eq!(fs::read_to_string(b.file("pid")).unwrap(), state["pid"].to_string());
    assert_eq!(fs::metadata(b.root()).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(b.err(&["create", "--bundle", b.path(), b.id()]).contains("exists already"));
    assert!(b.err(&["delete", b.id()]).contains("is created; kill it first"));

    b.ok(&["start", b.id()]);
    assert_eq!(b.state()["status"], "running");
    assert!(b.err(&["start", b.id()]).contains("only one that is created can be started"));
    assert!(b.err(&["delete", b.id()]).contains("is running"));
    assert_eq!(b.state()["status"], "running", "a refused command changes nothing");

    b.ok(&["kill", b.id(), "KILL"]);
    b.until_stopped();
    assert!(b.err(&["kill", b.id(), "KILL"]).contains("container not running"));
    assert!(b.err(&["start", b.id()]).contains("is stopped"));
    b.ok(&["delete", b.id()]);
    assert!(b.err(&["state", b.id()]).contains("container does not exist"));
    b.assert_nothing_left();
}

#[test]
fn root_a_failed_create_leaves_nothing_and_says_why() {
    for (change, problem) in [
        (json!({ "/ociVersion": "2.0.0" }), "ociVersion: not supported"),
        (json!({ "/ociVersion": "next" }), "`next` is no version"),
        (json!({ "/process/args": [] }), "there is no command"),
        (json!({ "/process/cwd": "/bin/probe" }), "/bin/probe is not a directory"),
        (json!({ "/linux/intelRdt": { "closID": "x" } }), "linux.intelRdt: not supported"),
        (json!({ "/linux/cgroupsPath": "/a/../b" }), "has `..` in it"),
        (json!({ "/process/apparmorProfile": "x" }), "runs without AppArmor"),
        (json!({ "/process/selinuxLabel": "x" }), "runs without SELinux"),
        (json!({ "/linux/mountLabel": "x" }), "runs without SELinux"),
        (json!({ "/linux/timeOffsets": { "boottime": { "secs": 1 } } }), "needs a new time namespace"),
        (json!({ "/linux/resources": { "unified": { "../x": "1" } } }), "cannot be a name"),
    ] {
        let mut b = Bundle::new(&["wait"]);
        for (pointer, value) in change.as_object().unwrap() {
            b.set(pointer, value.clone());
        }
        let said = b.err(&["create", "--bundle", b.path(), b.id()]);
        assert!(said.contains(problem), "{problem}: {said}");
        b.assert_nothing_left();
    }
}

#[test]
fn root_a_command_that_is_not_there_fails_the_create_by_its_name() {
    let mut b = Bundle::new(&[]);
    for name in ["nothing-here", "/nothing-here", "./nothing-here"] {
        b.set("/process/args", json!([name]));
        let said = b.err(&["create", "--bundle", b.path(), b.id()]);
        assert!(said.contains(name) && said.contains("executable file not found in $PATH"), "{said}");
        b.assert_nothing_left();
        let run = b.command(&["run", "--bundle", b.path(), b.id()]);
        assert_eq!(run.status.code(), Some(127));
        b.assert_nothing_left();
    }
    // What cannot be executed is told by the start, as the kernel tells it.
    fs::write(b.rootfs().join("plain"), "no program").unwrap();
    b.set("/process/args", json!(["/plain"]));
    b.ok(&["create", "--bundle", b.path(), b.id()]);
    assert!(b.err(&["start", b.id()]).contains("/plain"));
    b.until_stopped();
    b.ok(&["delete", b.id()]);
    b.assert_nothing_left();
}

#[test]
fn root_rootless_use_is_refused_by_name() {
    use std::os::unix::process::CommandExt;
    let b = Bundle::new(&["wait"]);
    let runtime = b.file("runtime");
    fs::copy(env!("CARGO_BIN_EXE_stower-runtime"), &runtime).unwrap();
    let mut command = std::process::Command::new(&runtime);
    command.arg("--root").arg(b.root()).args(["create", "--bundle", b.path(), b.id()]);
    command.uid(65534).gid(65534);
    // Another test's child may have the copy's descriptor for a moment.
    let out = loop {
        match command.output() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
            out => break out.unwrap(),
        }
    };
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains("rootless use is not supported"), "{said}");
}

/// A bundle on a shared mount, as all are where systemd runs; seen to fail with the root's tree left a peer of the host's.
#[test]
fn root_a_shared_root_shows_the_host_no_mount_of_the_container() {
    use rustix::mount::{MountPropagationFlags, mount_change};
    let apart = || {
        // SAFETY: a mount namespace, and with it the current directory, of this thread alone; no descriptor is closed.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.unwrap();
        mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).unwrap();
        mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::SHARED).unwrap();
        let table = || fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        for propagation in ["shared", "slave", "private"] {
            let mut b = Bundle::new(&["wait"]);
            b.set("/linux/rootfsPropagation", json!(propagation));
            let before = table();
            b.ok(&["create", "--bundle", b.path(), b.id()]);
            assert_eq!(table(), before, "{propagation}");
            b.ok(&["start", b.id()]);
            let inside = fs::read_to_string(format!("/proc/{}/mountinfo", b.state()["pid"])).unwrap();
            let root = inside.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
            let word =
                [("shared", "shared:"), ("slave", "master:")].into_iter().find(|(it, _)| *it == propagation);
            assert!(word.is_none_or(|(_, word)| root.contains(word)), "{propagation}: {root}");
            b.ok(&["kill", b.id(), "KILL"]);
            b.until_stopped();
            b.ok(&["delete", b.id()]);
            assert_eq!(table(), before, "{propagation}");
            b.assert_nothing_left();
        }
    };
    std::thread::scope(|scope| scope.spawn(apart).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

#[test]
fn root_run_gives_the_exit_code_and_deletes() {
    let b = Bundle::new(&["exit:7"]);
    assert_eq!(b.command(&["run", "--bundle", b.path(), b.id()]).status.code(), Some(7));
    b.assert_nothing_left();
    let b = Bundle::new(&["raise:9"]);
    let code = b.command(&["run", "--bundle", b.path(), b.id()]).status.code();
    assert!(code == Some(137) || code == Some(0), "the first process of a namespace may ignore it: {code:?}");
}

#[test]
fn root_hooks_run_in_order_and_get_the_state() {
    let mut b = Bundle::new(&["mkdir:/ran"]);
    let log = b.file("hooks");
    let kinds = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
    for kind in kinds {
        b.set(&format!("/hooks/{kind}"), json!([hook(&format!("printf '{kind} '; cat; echo"), &log)]));
    }
    b.ok(&["create", "--bundle", b.path(), b.id()]);
    let pid = b.state()["pid"].clone();
    assert!(!b.rootfs().join("ran").exists());
    b.ok(&["start", b.id()]);
    b.until_stopped();
    b.ok(&["delete", b.id()]);
    let text = fs::read_to_string(&log).unwrap();
    let seen: Vec<(&str, serde_json::Value)> = text
        .lines()
        .map(|l| l.split_once(' ').unwrap())
        .map(|(kind, state)| (kind, serde_json::from_str(state).unwrap()))
        .collect();
    assert_eq!(seen.iter().map(|(k, _)| *k).collect::<Vec<_>>(), kinds);
    let statuses: Vec<_> = seen.iter().map(|(_, s)| s["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["created", "creating", "creating", "running", "stopped"]);
    for (kind, state) in &seen {
        let expected = if *kind == "poststop" { json!(0) } else { pid.clone() };
        assert_eq!((&state["id"], &state["pid"]), (&json!(b.id()), &expected), "{kind}");
    }
    b.assert_nothing_left();
}

#[test]
fn root_a_hook_that_fails_or_hangs_fails_the_create() {
    for (script, timeout, problem) in
        [("echo no luck; exit 3", 60, "no luck"), ("exec sleep 600", 1, "time-out")]
    {
        let mut b = Bundle::new(&["wait"]);
        let mut bad = hook(script, "/dev/stdout");
        bad["timeout"] = json!(timeout);
        b.set("/hooks/createRuntime", json!([bad]));
        let said = b.err(&["create", "--bundle", b.path(), b.id()]);
        assert!(said.contains("createRuntime hook") && said.contains(problem), "{said}");
        b.assert_nothing_left();
    }
}

#[test]
fn root_user_namespaces_map_the_container_and_mounts_map_their_own_ids() {
    let mut b =
        Bundle::new(&["cat:/proc/self/uid_map", "id", "stat:/dev/null", "write:/dev/null", "stat:/mnt/f"]);
    b.with_user_namespace(100_000);
    // Whoever is root in there makes the places of the mounts.
    std::os::unix::fs::chown(b.rootfs(), Some(100_000), Some(100_000)).unwrap();
    let shared = b.dir().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("f"), "x").unwrap();
    b.push(
        "/mounts",
        json!({
            "destination": "/mnt", "type": "bind", "source": shared, "options": ["rbind", "ro", "idmap"],
        }),
    );
    let a = b.run();
    assert_eq!(
        a.one("cat:/proc/self/uid_map").split_whitespace().collect::<Vec<_>>(),
        ["0", "100000", "65536"]
    );
    assert_eq!(a.one("id"), "0 0 0");
    assert!(a.one("stat:/dev/null").ends_with("rdev 1:3"), "{}", a.one("stat:/dev/null"));
    assert_eq!(a.one("write:/dev/null"), "ok");
    assert!(a.one("stat:/mnt/f").contains(" 0:0 "), "root's file, mapped: {}", a.one("stat:/mnt/f"));
    b.assert_nothing_left();
}

#[test]
fn root_time_offsets_move_the_clock_of_the_container_alone() {
    let mut b = Bundle::new(&["cat:/proc/uptime"]);
    b.push("/linux/namespaces", json!({ "type": "time" }));
    b.set("/linux/timeOffsets", json!({ "boottime": { "secs": 100_000_000, "nanosecs": 5 } }));
    let a = b.run();
    let seconds: f64 = a.one("cat:/proc/uptime").split(' ').next().unwrap().parse().unwrap();
    assert!(seconds > 100_000_000.0, "{seconds}");
}

#[test]
fn root_a_filter_of_the_specification_is_loaded_for_run_and_exec() {
    for no_new_privileges in [false, true] {
        let mut b = Bundle::new(&["wait"]);
        b.set("/process/noNewPrivileges", json!(no_new_privileges));
        b.set(
            "/linux/seccomp",
            json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
                "syscalls": [
                    { "names": ["unshare"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95 },
                    { "names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 93,
                      "args": [{ "index": 0, "value": 2, "op": "SCMP_CMP_EQ" }] },
                ],
            }),
        );
        b.ok(&["create", "--bundle", b.path(), b.id()]);
        b.ok(&["start", b.id()]);
        let a = b.exec(&[], &["call:unshare_files", "call:af_inet", "call:af_unix", "cat:/proc/self/status"]);
        assert_eq!(a.one("call:unshare_files"), "95");
        assert_eq!((a.one("call:af_inet"), a.one("call:af_unix")), ("93", "ok"));
        let status = a.all("cat:/proc/self/status");
        assert!(
            status.contains("Seccomp:\t2")
                && status.contains(&format!("NoNewPrivs:\t{}", u8::from(no_new_privileges)))
        );
        b.ok(&["delete", "--force", b.id()]);
        b.assert_nothing_left();
    }
}

#[test]
fn root_an_executed_process_has_the_containers_whole_confinement() {
    let mut b = Bundle::new(&["wait"]);
    b.set("/process/oomScoreAdj", json!(321));
    b.set("/process/rlimits", json!([{ "type": "RLIMIT_NOFILE", "soft": 77, "hard": 77 }]));
    b.ok(&["create", "--bundle", b.path(), b.id()]);
    b.ok(&["start", b.id()]);
    let a = b.exec(
        &["--user", "1000:1001", "--env", "A=b", "--cwd", "/bin"],
        &[
            "id",
            "env",
            "cwd",
            "cat:/proc/self/status",
            "cat:/proc/self/oom_score_adj",
            "cat:/proc/self/limits",
            "ls:/proc/self/fd",
            "cat:/proc/self/cgroup",
            "call:newuser",
        ],
    );
    assert_eq!(a.one("id"), "1000 1001 1001");
    assert!(a.all("env").contains("A=b"));
    assert_eq!(a.one("cwd"), "/bin");
    assert!(a.all("cat:/proc/self/status").contains("CapBnd:\t00000000a80425fb"));
    assert!(a.all("cat:/proc/self/status").contains("CapEff:\t0000000000000000"));
    assert_eq!(a.one("cat:/proc/self/oom_score_adj"), "321");
    assert!(
        a.all("cat:/proc/self/limits").lines().any(|l| l.starts_with("Max open files") && l.contains("77"))
    );
    assert_eq!(a.one("ls:/proc/self/fd"), "0 1 2 3", "the last is the directory itself");
    assert!(
        a.all("cat:/proc/self/cgroup").lines().all(|l| l.ends_with(":/")),
        "{}",
        a.all("cat:/proc/self/cgroup")
    );
    assert!(b.err(&["exec", "--user", "1x", b.id(), "/bin/probe"]).contains("no user id"));
    assert!(b.err(&["exec", "--user", "4294967296", b.id(), "/bin/probe"]).contains("no user id"));
    assert_eq!(b.command(&["exec", b.id(), "/bin/probe", "exit:9"]).status.code(), Some(9));
    b.ok(&["pause", b.id()]);
    assert_eq!(b.state()["status"], "paused");
    assert!(b.err(&["exec", b.id(), "/bin/probe"]).contains("which is paused"));
    b.ok(&["resume", b.id()]);
    b.ok(&["kill", b.id(), "SIGKILL"]);
    b.until_stopped();
    assert!(b.err(&["exec", b.id(), "/bin/probe"]).contains("which is stopped"));
    b.ok(&["delete", b.id()]);
    b.assert_nothing_left();
}

/// One message with its descriptor.
fn receive(listener: &std::os::unix::net::UnixListener) -> (Vec<u8>, std::os::fd::OwnedFd) {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
    let (stream, _) = listener.accept().unwrap();
    let mut bytes = vec![0u8; 64 << 10];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let parts = &mut [std::io::IoSliceMut::new(&mut bytes)];
    let len = rustix::net::recvmsg(&stream, parts, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap().bytes;
    let fd = control.drain().find_map(|m| match m {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    bytes.truncate(len);
    (bytes, fd.expect("a descriptor comes along"))
}

#[test]
fn root_a_terminal_is_sent_to_the_console_socket_and_is_the_containers_own() {
    use std::io::Read;
    let mut b = Bundle::new(&["link:/proc/self/fd/0", "link:/proc/self/fd/2", "stat:/dev/console"]);
    b.set("/process/terminal", json!(true));
    b.set("/process/consoleSize", json!({ "height": 33, "width": 99 }));
    assert!(b.err(&["create", "--bundle", b.path(), b.id()]).contains("needs --console-socket"));
    let socket = b.file("tty");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    b.ok(&["create", "--bundle", b.path(), "--console-socket", &socket, b.id()]);
    let (name, master) = receive(&listener);
    assert_eq!(name, b"/dev/ptmx");
    let size = rustix::termios::tcgetwinsize(&master).unwrap();
    assert_eq!((size.ws_row, size.ws_col), (33, 99));
    b.ok(&["start", b.id()]);
    let (mut master, mut said) = (fs::File::from(master), String::new());
    // The end of the last process that has it is an error for a terminal.
    let mut piece = [0u8; 4096];
    while let Ok(len @ 1..) = master.read(&mut piece) {
        said.push_str(&String::from_utf8_lossy(&piece[..len]));
    }
    for question in ["link:/proc/self/fd/0", "link:/proc/self/fd/2"] {
        assert!(said.contains(&format!("== {question}\r\n/dev/pts/0\r\n")), "{said}");
    }
    assert!(said.contains("rdev 136:0"), "{said}");
    b.until_stopped();
    b.ok(&["delete", b.id()]);
    b.assert_nothing_left();
}

#[test]
fn root_a_notifying_filter_gives_its_listener_with_the_state() {
    let mut b = Bundle::new(&["mkdir:/made"]);
    let socket = b.file("listener");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    b.set(
        "/linux/seccomp",
        json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": socket,
            "listenerMetadata": "for me",
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY" }],
        }),
    );
    b.ok(&["create", "--bundle", b.path(), b.id()]);
    let pid = b.state()["pid"].clone();
    b.ok(&["start", b.id()]);
    let (bytes, _held) = receive(&listener);
    let told: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(
        (&told["pid"], &told["metadata"], &told["fds"]),
        (&pid, &json!("for me"), &json!(["seccompFd"]))
    );
    assert_eq!((&told["state"]["id"], &told["state"]["pid"]), (&json!(b.id()), &pid));
    assert_eq!(b.state()["status"], "running", "it waits for an answer");
    assert!(!b.rootfs().join("made").exists());
    b.ok(&["delete", "--force", b.id()]);
    b.assert_nothing_left();
}

#[test]
fn root_limits_are_set_and_changed() {
    let mut b = Bundle::new(&["wait"]);
    b.set("/linux/resources", json!({ "pids": { "limit": 77 }, "memory": { "limit": 104_857_600 } }));
    b.ok(&["create", "--bundle", b.path(), b.id()]);
    b.ok(&["start", b.id()]);
    let value = |controller: &str, v1: &str, v2: &str| {
        let old = format!("/sys/fs/cgroup/{controller}/{}/{v1}", b.id());
        let new = format!("/sys/fs/cgroup/{}/{v2}", b.id());
        fs::read_to_string(old).or_else(|_| fs::read_to_string(new)).unwrap().trim().to_owned()
    };
    let pids = || value("pids", "pids.max", "pids.max");
    let memory = || value("memory", "memory.limit_in_bytes", "memory.max");
    assert_eq!((pids(), memory()), ("77".to_owned(), "104857600".to_owned()));
    b.ok(&["update", "--pids-limit", "55", b.id()]);
    assert_eq!((pids(), memory()), ("55".to_owned(), "104857600".to_owned()), "the other stays");
    let listed: Vec<i64> = serde_json::from_str(&b.ok(&["ps", "--format", "json", b.id()])).unwrap();
    assert_eq!(json!(listed), json!([b.state()["pid"]]));
    let stats: serde_json::Value = serde_json::from_str(&b.ok(&["events", "--stats", b.id()])).unwrap();
    assert_eq!((&stats["type"], &stats["data"]["pids"]["current"]), (&json!("stats"), &json!(1)));
    assert_eq!(b.ok(&["list", "--quiet"]).trim(), b.id());
    b.ok(&["delete", "--force", b.id()]);
    b.assert_nothing_left();
}
