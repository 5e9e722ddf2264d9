//! Bundles that attack the command line: what it must not do, whatever an image holds and whoever changes it meanwhile.

mod common;
mod oci;

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use oci::Bundle;
use rustix::fs::{CWD, RenameFlags};
use serde_json::json;

/// What there must be no less of for a race to count.
const SWAPS: u64 = 100_000;

/// Everything in a directory of the host: names, kinds, modes, content.
fn digest(dir: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let meta = entry.metadata().unwrap();
        let content = if meta.is_file() { fs::read(entry.path()).unwrap() } else { Vec::new() };
        all.push(format!(
            "{:?} {:o} {}:{} {content:?}",
            entry.file_name(),
            meta.mode(),
            meta.uid(),
            meta.gid()
        ));
        if meta.is_dir() {
            all.extend(digest(&entry.path()).into_iter().map(|l| format!("{:?}/{l}", entry.file_name())));
        }
    }
    all.sort();
    all
}

/// A directory of the host that an attacker would like to be changed.
fn victim(b: &Bundle) -> std::path::PathBuf {
    let victim = b.dir().join("victim");
    for sub in ["", "mask", "ro", "pts", "sys", "sys/net", "sys/net/ipv4"] {
        fs::create_dir(victim.join(sub)).unwrap();
    }
    for file in ["sys/net/ipv4/ip_forward", "console", "null", "sysrq-trigger"] {
        fs::write(victim.join(file), "untouched").unwrap();
    }
    victim
}

/// Swaps paths with others until it is dropped.
struct Swapper {
    state: std::sync::Arc<Swaps>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Swaps {
    stop: AtomicBool,
    pause: AtomicBool,
    paused: AtomicBool,
    count: AtomicU64,
}

impl Swapper {
    fn new(pairs: Vec<(std::path::PathBuf, std::path::PathBuf)>) -> Self {
        let state = std::sync::Arc::new(Swaps::default());
        let shared = state.clone();
        let thread = std::thread::spawn(move || {
            let swap = |(a, b): &(std::path::PathBuf, std::path::PathBuf)| {
                while rustix::fs::renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).is_err() {
                    if shared.stop.load(Ordering::SeqCst) {
                        return;
                    }
                }
                shared.count.fetch_add(1, Ordering::SeqCst);
            };
            while !shared.stop.load(Ordering::SeqCst) {
                for pair in &pairs {
                    // There and back, so that all is in its place whenever it pauses.
                    swap(pair);
                    swap(pair);
                }
                shared.paused.store(shared.pause.load(Ordering::SeqCst), Ordering::SeqCst);
                while shared.pause.load(Ordering::SeqCst) && !shared.stop.load(Ordering::SeqCst) {
                    shared.paused.store(true, Ordering::SeqCst);
                    std::thread::yield_now();
                }
            }
        });
        Self { state, thread: Some(thread) }
    }

    fn count(&self) -> u64 {
        self.state.count.load(Ordering::SeqCst)
    }

    /// Everything is in its place and stays there until [`Swapper::resume`].
    fn pause(&self) {
        self.state.paused.store(false, Ordering::SeqCst);
        self.state.pause.store(true, Ordering::SeqCst);
        while !self.state.paused.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
    }

    fn resume(&self) {
        self.state.pause.store(false, Ordering::SeqCst);
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

#[test]
fn root_swapped_places_of_the_runtime_lead_nowhere() {
    let mut b = Bundle::new(&[
        "cat:/proc/self/mountinfo",
        "write:/proc/sys/kernel/domainname",
        "ls:/swap/mask",
        "write:/swap/ro/x",
    ]);
    let victim = victim(&b);
    fs::write(victim.join("mask/secret"), "").unwrap();
    let before = digest(&victim);
    let rootfs = b.rootfs();
    let mut pairs = Vec::new();
    for place in ["proc", "sys", "dev", "swap"] {
        fs::create_dir(rootfs.join(place)).unwrap();
        let other = rootfs.join(format!("{place}.link"));
        symlink(&victim, &other).unwrap();
        pairs.push((rootfs.join(place), other));
    }
    for sub in ["mask", "ro"] {
        fs::create_dir(rootfs.join("swap").join(sub)).unwrap();
        fs::write(rootfs.join("swap").join(sub).join("secret"), "").unwrap();
    }
    b.push("/linux/maskedPaths", json!("/swap/mask"));
    b.push("/linux/readonlyPaths", json!("/swap/ro"));
    b.set("/process/cwd", json!("/swap/made/by/the/runtime"));
    b.push(
        "/mounts",
        json!({ "destination": "/swap/mount/a", "type": "tmpfs", "source": "tmpfs", "options": [] }),
    );
    let swapper = Swapper::new(pairs);
    let (mut started, mut refused) = (0, 0);
    while swapper.count() < SWAPS || started + refused < 60 {
        let created = b.command(&["create", "--bundle", b.path(), b.id()]);
        swapper.pause();
        if created.status.success() {
            started += 1;
            b.ok(&["start", b.id()]);
            b.until_stopped();
            // `create` had the files of the standard descriptors last.
            let said = fs::read_to_string(b.file("out.create")).unwrap();
            b.ok(&["delete", b.id()]);
            for place in ["/proc", "/dev", "/sys"] {
                assert!(said.lines().any(|l| l.split(' ').nth(4) == Some(place)), "{place}: {said}");
            }
            for (question, answer) in [
                ("write:/proc/sys/kernel/domainname", "30"),
                ("ls:/swap/mask", ""),
                ("write:/swap/ro/x", "30"),
            ] {
                assert!(said.contains(&format!("== {question}\n{answer}\n")), "{question}: {said}");
            }
        } else {
            refused += 1;
            b.assert_nothing_left();
        }
        assert_eq!(digest(&victim), before, "the host was changed");
        swapper.resume();
    }
    println!("{} swaps, {started} started, {refused} refused", swapper.count());
    assert!(started > 0 && refused > 0, "{started} started, {refused} refused");
    drop(swapper);
    b.assert_nothing_left();
}

#[test]
fn root_links_at_the_runtimes_places_are_refused() {
    for (place, what) in [("proc", "/proc"), ("sys", "/sys"), ("dev", "/dev")] {
        let b = Bundle::new(&["wait"]);
        let victim = victim(&b);
        let before = digest(&victim);
        symlink(&victim, b.rootfs().join(place)).unwrap();
        let said = b.err(&["create", "--bundle", b.path(), b.id()]);
        assert!(said.contains(what) && said.contains("symbolic link"), "{said}");
        assert_eq!(digest(&victim), before);
        b.assert_nothing_left();
    }
}

#[test]
fn root_no_descriptor_of_the_runtime_is_a_way_out() {
    // Numbers that the runtime itself has open while it sets a container up (CVE-2024-21626).
    for number in 3..20 {
        for cwd in [format!("/proc/self/fd/{number}"), format!("/proc/1/fd/{number}/.")] {
            let mut b = Bundle::new(&["cwd", "ls:."]);
            b.set("/process/cwd", json!(cwd));
            let output = b.command(&["run", "--bundle", b.path(), b.id()]);
            assert!(!output.status.success(), "{cwd}: {}", String::from_utf8_lossy(&output.stdout));
        }
    }
    let b = Bundle::new(&["ls:/proc/self/fd", "wait"]);
    b.ok(&["create", "--bundle", b.path(), b.id()]);
    b.ok(&["start", b.id()]);
    for number in 3..20 {
        let cwd = format!("/proc/self/fd/{number}");
        let said = b.err(&["exec", "--cwd", &cwd, b.id(), "/bin/probe", "cwd"]);
        assert!(said.contains("working directory"), "{cwd}: {said}");
    }
    let pid = b.state()["pid"].to_string();
    let mut open: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    open.sort();
    assert_eq!(open, ["0", "1", "2"]);
}

#[test]
fn root_only_descriptors_that_are_to_be_preserved_are_seen() {
    let b = Bundle::new(&["ls:/proc/self/fd"]);
    let kept = fs::File::open("/dev/zero").unwrap();
    let script = format!(
        "exec {exe} --root {root} run --preserve-fds 1 --bundle {bundle} {id} 3<&{fd} 4<&{fd} >{out}",
        exe = env!("CARGO_BIN_EXE_stower-runtime"),
        root = b.root().display(),
        bundle = b.path(),
        id = b.id(),
        fd = 0,
        out = b.file("out"),
    );
    let status = Command::new("bash").args(["-c", &script]).stdin(kept).status().unwrap();
    assert!(status.success());
    let said = fs::read_to_string(b.file("out")).unwrap();
    assert!(said.contains("== ls:/proc/self/fd\n0 1 2 3 4\n"), "the last is the directory: {said}");
}

#[test]
fn root_the_runtimes_program_cannot_be_written_through_a_process() {
    let b = Bundle::new(&["wait"]);
    // A copy: without the defence this test would write to it.
    let program = b.dir().join("runtime");
    // By another process: a child of another test that had our descriptor for writing would keep it from being executed.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_stower-runtime")).arg(&program).status().unwrap();
    assert!(copied.success());
    let run = |args: &[&str]| {
        let out = fs::File::create(b.file("out")).unwrap();
        Command::new(&program).arg("--root").arg(b.root()).args(args).stdout(out).status().unwrap()
    };
    assert!(run(&["create", "--bundle", b.path(), b.id()]).success());
    let pid = b.state()["pid"].to_string();
    // What the first process of another container, or an exec'd one, could get hold of (CVE-2019-5736).
    let flags = libc::O_PATH;
    let held =
        fs::OpenOptions::new().read(true).custom_flags(flags).open(format!("/proc/{pid}/exe")).unwrap();
    assert!(run(&["delete", "--force", b.id()]).success());
    let error = fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/self/fd/{}", held.as_raw_fd()))
        .expect_err("the runtime's program is open for writing");
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
}

#[test]
fn root_a_first_process_does_not_let_itself_be_looked_into_before_its_exec() {
    let mut b = Bundle::new(&["wait"]);
    // It waits for this hook with the container's own capabilities, and still is the runtime's program.
    b.set("/hooks/startContainer", json!([{ "path": "/bin/probe", "args": ["probe", "wait"] }]));
    b.ok(&["create", "--bundle", b.path(), b.id()]);
    let pid = b.state()["pid"].to_string();
    std::thread::scope(|scope| {
        // It ends with the container.
        scope.spawn(|| b.start_elsewhere());
        let confined = || {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            status.contains("CapPrm:\t00000000a80425fb")
        };
        while !confined() {
            std::thread::yield_now();
        }
        // The same user with more capabilities, but not the one to look into others.
        let seen: Vec<&str> = ["exe", "root", "fd/0"]
            .into_iter()
            .filter(|link| {
                let link = format!("/proc/{pid}/{link}");
                let command = ["--bounding-set=-sys_ptrace", "--inh-caps=-all", "readlink", &link];
                Command::new("setpriv").args(command).output().unwrap().status.success()
            })
            .collect();
        b.ok(&["delete", "--force", b.id()]);
        assert!(seen.is_empty(), "without CAP_SYS_PTRACE can be looked at: {seen:?}");
    });
    b.assert_nothing_left();
}

#[test]
fn root_a_console_of_the_image_is_not_followed() {
    let mut b = Bundle::new(&["wait"]);
    let victim = victim(&b);
    let before = digest(&victim);
    b.set("/process/terminal", json!(true));
    // No /dev of the container's own: the image's stands, with what it holds.
    let mounts: Vec<_> = b
        .get("/mounts")
        .as_array()
        .unwrap()
        .iter()
        .filter(|m| !matches!(m["destination"].as_str(), Some("/dev" | "/dev/shm" | "/dev/mqueue")))
        .cloned()
        .collect();
    b.set("/mounts", json!(mounts));
    fs::create_dir_all(b.rootfs().join("dev/pts")).unwrap();
    symlink(victim.join("console"), b.rootfs().join("dev/console")).unwrap();
    let socket = b.file("tty");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let said = b.err(&["create", "--bundle", b.path(), "--console-socket", &socket, b.id()]);
    assert!(said.contains("/dev/console of the image"), "{said}");
    drop(listener);
    assert_eq!(digest(&victim), before);
    b.assert_nothing_left();
}

#[test]
fn root_settings_are_written_to_the_kernel_whatever_stands_at_proc() {
    // /proc of the container is a directory that its author has filled (CVE-2025-52881, -2019-16884).
    let mut b = Bundle::new(&["cat:/proc/sys/net/ipv4/ip_forward"]);
    let victim = victim(&b);
    let before = digest(&victim);
    let mounts: Vec<_> = b
        .get("/mounts")
        .as_array()
        .unwrap()
        .iter()
        .filter(|m| m["destination"] != "/proc")
        .cloned()
        .chain([json!({ "destination": "/proc", "type": "bind", "source": victim, "options": ["bind"] })])
        .collect();
    b.set("/mounts", json!(mounts));
    b.set("/linux/maskedPaths", json!([]));
    b.set("/linux/readonlyPaths", json!([]));
    b.set("/linux/sysctl", json!({ "net.ipv4.ip_forward": "1" }));
    let a = b.run();
    assert_eq!(a.one("cat:/proc/sys/net/ipv4/ip_forward"), "untouched");
    assert_eq!(digest(&victim), before);
    for (name, problem) in [
        ("kernel.core_pattern", "own namespaces"),
        ("kernel.sysrq", "own namespaces"),
        ("net/../../kernel/core_pattern", "no name of a kernel setting"),
    ] {
        b.set("/linux/sysctl", json!({ name: "1" }));
        let said = b.err(&["create", "--bundle", b.path(), b.id()]);
        assert!(said.contains(problem), "{name}: {said}");
    }
    // The network of the host is none of the container's own, by whatever path it is joined.
    let own = json!([{ "type": "mount" }, { "type": "network", "path": "/proc/self/ns/net" }]);
    b.set("/linux/namespaces", own);
    b.set("/linux/sysctl", json!({ "net.ipv4.ip_forward": "1" }));
    b.set("/hostname", serde_json::Value::Null);
    let said = b.err(&["create", "--bundle", b.path(), b.id()]);
    assert!(said.contains("own namespaces"), "{said}");
}

#[test]
fn root_ids_of_users_are_numbers_and_a_file_of_the_image_decides_home_only() {
    let b = Bundle::new(&["wait"]);
    fs::write(b.rootfs().join("etc/passwd"), "1:x:0:0::/trap:\nok:x:7:7::/home/ok\n").unwrap();
    b.ok(&["create", "--bundle", b.path(), b.id()]);
    b.ok(&["start", b.id()]);
    assert_eq!(b.exec(&["--user", "1"], &["id"]).one("id"), "1 0 0", "the user named 1 has the id 0");
    assert!(b.exec(&["--user", "7:7"], &["env"]).all("env").contains("HOME=/home/ok"));
    for text in ["ok", "-1", "+1", "1:", ":1", "2147483648", "1\n2", "0x1", ""] {
        let said = b.err(&["exec", &format!("--user={text}"), b.id(), "/bin/probe", "id"]);
        assert!(said.contains("--user"), "{text:?}: {said}");
    }
    fs::remove_file(b.rootfs().join("etc/passwd")).unwrap();
    symlink("/etc/shadow", b.rootfs().join("etc/passwd")).unwrap();
    assert_eq!(b.exec(&[], &["id"]).one("id"), "0 0 0", "a link to nothing inside");
}

#[test]
fn root_groups_above_and_beside_cannot_be_written() {
    let mut b = Bundle::new(&[
        "ls:/sys/fs/cgroup",
        "write:/sys/fs/cgroup/cgroup.procs",
        "write:/sys/fs/cgroup/memory/cgroup.procs",
        "write:/sys/fs/cgroup/memory/release_agent",
        "cat:/proc/self/cgroup",
    ]);
    b.set("/linux/cgroupsPath", json!(format!("/{}", b.id())));
    let a = b.run();
    for question in ["write:/sys/fs/cgroup/cgroup.procs", "write:/sys/fs/cgroup/memory/cgroup.procs"] {
        assert!(matches!(a.one(question), "30" | "2"), "{question}: {}", a.one(question));
    }
    assert!(matches!(a.one("write:/sys/fs/cgroup/memory/release_agent"), "30" | "2" | "13"));
    assert!(a.all("cat:/proc/self/cgroup").lines().all(|l| l.ends_with(":/")));
    for path in ["/../escape", "a/../../b", "/"] {
        b.set("/linux/cgroupsPath", json!(path));
        assert!(b.err(&["create", "--bundle", b.path(), b.id()]).contains("group"), "{path}");
    }
    // A group in which others live is not taken over, nor ended with the container.
    b.set("/linux/cgroupsPath", json!(format!("/{}", b.id())));
    let args = b.get("/process/args");
    b.set("/process/args", json!(["/bin/probe", "wait"]));
    b.ok(&["create", "--bundle", b.path(), b.id()]);
    let second = format!("{}-second", b.id());
    assert!(b.err(&["create", "--bundle", b.path(), &second]).contains("has processes already"));
    assert_eq!(b.state()["status"], "created");
    b.set("/process/args", args);
}
