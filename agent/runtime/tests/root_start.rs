//! Real containers: what the process inside sees, and what the host does.

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use common::{Case, chain};
use oci_spec::runtime::{LinuxNamespaceType, PosixRlimitBuilder, PosixRlimitType};
use stower_runtime::cgroup::Limits;
use stower_runtime::error::{FailureKind, StartError};
use stower_runtime::job::{RootFs, VolumeMount};
use stower_runtime::seccomp::Filter;
use stower_runtime::{caps, defaults};

fn failure(case: &mut Case) -> (FailureKind, String) {
    match case.try_start() {
        Ok(()) => panic!("it started"),
        Err(StartError::Failed(f)) => (f.kind, f.to_string()),
        Err(e) => panic!("another error: {}", chain(&e)),
    }
}

fn namespace(pid: u32, kind: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string()
}

#[test]
fn root_every_namespace_is_its_own_unless_left_out() {
    let mut case = Case::new(&["pid", "wait"]);
    case.start();
    let own = std::process::id();
    for kind in ["pid", "mnt", "ipc", "uts", "cgroup", "net"] {
        assert_ne!(namespace(case.init_pid(), kind), namespace(own, kind), "{kind}");
    }
    let mut case = Case::new(&["pid", "wait"]);
    for kind in [LinuxNamespaceType::Network, LinuxNamespaceType::Pid, LinuxNamespaceType::Ipc] {
        case.drop_namespace(kind);
    }
    case.start();
    for kind in ["pid", "ipc", "net"] {
        assert_eq!(namespace(case.init_pid(), kind), namespace(own, kind), "{kind}");
    }
    assert_ne!(namespace(case.init_pid(), "mnt"), namespace(own, "mnt"));
}

#[test]
fn root_a_namespace_of_another_container_is_joined() {
    let mut first = Case::new(&["wait"]);
    first.start();
    let mut second = Case::new(&["wait"]);
    let pid = first.init_pid();
    for ns in second.linux().namespaces_mut().as_mut().unwrap() {
        let kind = match ns.typ() {
            LinuxNamespaceType::Network => "net",
            LinuxNamespaceType::Ipc => "ipc",
            _ => continue,
        };
        ns.set_path(Some(format!("/proc/{pid}/ns/{kind}").into()));
    }
    second.start();
    for kind in ["net", "ipc"] {
        assert_eq!(namespace(second.init_pid(), kind), namespace(pid, kind));
    }
    assert_ne!(namespace(second.init_pid(), "pid"), namespace(pid, "pid"));
}

#[test]
fn root_the_mount_table_inside_is_the_usual_one() {
    let mut case = Case::new(&[
        "pid",
        "cat:/proc/self/mountinfo",
        "ls:/dev",
        "link:/dev/fd",
        "stat:/dev/null",
        "stat:/dev/shm",
    ]);
    let a = case.run();
    assert_eq!(a.one("pid"), "1");
    for (place, fstype, options) in [
        ("/", "overlay", "rw"),
        ("/proc", "proc", "rw,nosuid,nodev,noexec"),
        ("/dev", "tmpfs", "rw,nosuid"),
        ("/dev/pts", "devpts", "rw,nosuid,noexec"),
        ("/dev/mqueue", "mqueue", "rw,nosuid,nodev,noexec"),
        ("/dev/shm", "tmpfs", "rw,nosuid,nodev,noexec"),
        ("/sys", "sysfs", "ro,nosuid,nodev,noexec"),
        ("/proc/sys", "proc", "ro,nosuid,nodev,noexec"),
    ] {
        let (seen, kind) = a.mount(place).unwrap_or_else(|| panic!("nothing at {place}"));
        assert_eq!(kind, fstype, "{place}");
        assert!(seen.starts_with(options), "{place}: {seen}");
    }
    let (cgroup, _) = a.mount("/sys/fs/cgroup").unwrap();
    assert!(cgroup.starts_with("ro"), "{cgroup}");
    // Nothing of the host's tree is left, and no group above the container's.
    let lines = a.lines("cat:/proc/self/mountinfo");
    assert!(!lines.iter().any(|l| l.contains("/stower-")), "{lines:#?}");
    assert_eq!(
        a.one("ls:/dev"),
        "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    );
    assert_eq!(a.one("link:/dev/fd"), "/proc/self/fd");
    assert_eq!(a.one("stat:/dev/null"), "20666 0:0 rdev 1:3");
    assert!(a.one("stat:/dev/shm").starts_with("41777"));
}

#[test]
fn root_only_standard_descriptors_are_open() {
    let mut case = Case::new(&["stdin", "wait"]);
    // Something that the agent forgot to close at exec must not arrive.
    let leak = fs::File::open("/").unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    case.start();
    // Until it has answered, the program itself may have a file open.
    case.wait_for("/dev/null");
    let dir = format!("/proc/{}/fd", case.init_pid());
    let mut open: Vec<String> =
        fs::read_dir(&dir).unwrap().flatten().map(|e| e.file_name().into_string().unwrap()).collect();
    open.sort();
    assert_eq!(open, ["0", "1", "2"]);
    assert_eq!(fs::read_link(format!("{dir}/0")).unwrap().to_str(), Some("/dev/null"));
    // The shim holds nothing of the agent's either.
    let shim = format!("/proc/{}/fd", case.started().record.shim_pid);
    let links: Vec<String> = fs::read_dir(shim)
        .unwrap()
        .flatten()
        .filter_map(|e| Some(fs::read_link(e.path()).ok()?.display().to_string()))
        .collect();
    assert!(!links.contains(&"/".to_owned()), "{links:?}");
}

#[test]
fn root_capabilities_are_those_asked_for() {
    let mut case = Case::new(&["cat:/proc/self/status"]);
    let a = case.run();
    for field in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(a.status(field), "00000000a80425fb", "{field}");
    }
    assert_eq!(a.status("CapInh"), "0000000000000000");
    assert_eq!(a.status("NoNewPrivs"), "0");

    let mut case = Case::new(&["cat:/proc/self/status"]);
    let mask = caps::from_names(["NET_BIND_SERVICE", "KILL"]).unwrap();
    let mut sets = defaults::capabilities(mask);
    sets.set_inheritable(Some(caps::to_oci(1 << 10))).set_ambient(Some(caps::to_oci(1 << 10)));
    case.process().set_capabilities(Some(sets)).set_no_new_privileges(Some(true));
    case.request.user = Some("1000".to_owned());
    let a = case.run();
    assert_eq!(a.status("CapBnd"), "0000000000000420");
    assert_eq!(
        a.status("CapEff"),
        "0000000000000400",
        "only the ambient one passes the exec of another user"
    );
    assert_eq!(a.status("CapAmb"), "0000000000000400");
    assert_eq!(a.status("NoNewPrivs"), "1");
}

#[test]
fn root_the_default_filter_refuses_and_lets_pass() {
    for (no_new_privs, user) in [(true, None), (false, None), (false, Some("1000")), (true, Some("1000"))] {
        let questions = [
            "call:mount",
            "call:keyctl",
            "call:bpf",
            "call:af_alg",
            "call:af_vsock",
            "call:newuser",
            "call:clone_newuser",
            "call:clone3",
            "call:personality_bad",
            "call:io_uring",
            "call:x32_getpid",
            "call:unknown",
            "call:af_inet",
            "call:af_unix",
            "call:unshare_files",
            "call:personality_ok",
            "fork",
            "cat:/proc/self/status",
        ];
        let mut case = Case::new(&questions);
        case.request.seccomp = Some(Filter::default_for(caps::DEFAULT));
        case.process().set_no_new_privileges(Some(no_new_privs));
        case.request.user = user.map(str::to_owned);
        let a = case.run();
        assert_eq!(a.status("Seccomp"), "2");
        for call in [
            "mount",
            "keyctl",
            "bpf",
            "af_alg",
            "af_vsock",
            "newuser",
            "clone_newuser",
            "personality_bad",
            "io_uring",
        ] {
            assert_eq!(a.one(&format!("call:{call}")), "1", "{call} as {user:?}");
        }
        for call in ["clone3", "x32_getpid", "unknown"] {
            assert_eq!(a.one(&format!("call:{call}")), "38", "{call}");
        }
        for call in ["af_inet", "af_unix", "unshare_files", "personality_ok"] {
            assert_eq!(a.one(&format!("call:{call}")), "ok", "{call}");
        }
    }
    // Without the filter the same calls get further, so it is the filter that refused.
    let mut case = Case::new(&["call:af_alg", "call:newuser", "call:personality_bad"]);
    let a = case.run();
    assert_eq!(a.one("call:personality_bad"), "ok");
    assert_eq!(a.one("call:newuser"), "ok");
}

#[test]
fn root_users_come_from_the_images_own_files() {
    let passwd = "root:x:0:0::/root:\napp:x:1000:1001::/srv/app:\n1:x:0:0::/:\n";
    let group = "staff:x:50:app\napp:x:1001:\n";
    for (user, id, home) in [
        ("app", "1000 1001 50,1001", "HOME=/srv/app"),
        ("app:staff", "1000 50 50", "HOME=/srv/app"),
        ("1000:7", "1000 7 7,50", "HOME=/srv/app"),
        ("1", "1 0 0", "HOME=/"),
        ("4242", "4242 0 0", "HOME=/"),
    ] {
        let mut case = Case::new(&["id", "env", "cat:/proc/self/status"]);
        fs::write(case.path("lower/etc/passwd"), passwd).unwrap();
        fs::write(case.path("lower/etc/group"), group).unwrap();
        case.request.user = Some(user.to_owned());
        let a = case.run();
        assert_eq!(a.one("id"), id, "{user}");
        assert!(a.lines("env").contains(&home), "{user}: {:?}", a.lines("env"));
        if id.starts_with("0 ") {
            continue;
        }
        assert_eq!(a.status("CapEff"), "0000000000000000", "{user}");
    }
}

#[test]
fn root_users_that_are_not_there_are_named() {
    for (user, text) in [
        ("ghost", "no user `ghost` in the image's /etc/passwd"),
        ("0:ghosts", "no group `ghosts` in the image's /etc/group"),
        ("4294967296", "is above 2147483647"),
    ] {
        let mut case = Case::new(&["id"]);
        case.request.user = Some(user.to_owned());
        let (kind, message) = failure(&mut case);
        assert_eq!(kind, FailureKind::NoSuchUser);
        assert!(message.contains(text), "{message}");
    }
}

#[test]
fn root_a_user_file_that_is_a_trap_is_refused() {
    // A link to the host's file would be the image's own /etc/shadow: links stay inside.
    let mut case = Case::new(&["id"]);
    symlink("/etc/hidden", case.path("lower/etc/passwd")).unwrap();
    fs::write(case.path("lower/etc/hidden"), "inside:x:77:78::/:\n").unwrap();
    case.request.user = Some("inside".to_owned());
    assert_eq!(case.run().one("id"), "77 78 78");

    let outside = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
    fs::write(outside.path(), "evil:x:0:0::/:\n").unwrap();
    let mut case = Case::new(&["id"]);
    symlink(format!("../../../../..{}", outside.path().display()), case.path("lower/etc/passwd")).unwrap();
    case.request.user = Some("evil".to_owned());
    assert_eq!(failure(&mut case).0, FailureKind::NoSuchUser);

    for (what, expected) in
        [("fifo", "is not a regular file"), ("dir", "is not a regular file"), ("big", "is longer than")]
    {
        let mut case = Case::new(&["id"]);
        let path = case.path("lower/etc/passwd");
        match what {
            "fifo" => rustix::fs::mknodat(
                rustix::fs::CWD,
                &path,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::from_raw_mode(0o644),
                0,
            )
            .unwrap(),
            "dir" => fs::create_dir(&path).unwrap(),
            _ => fs::File::create(&path).unwrap().set_len((10 << 20) + 1).unwrap(),
        }
        case.request.user = Some("root".to_owned());
        let (kind, message) = failure(&mut case);
        assert_eq!(kind, FailureKind::UnsafePath, "{message}");
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn root_limits_are_in_the_groups_and_hold() {
    let limits = Limits {
        memory_bytes: Some(64 << 20),
        memory_swap_bytes: Some(64 << 20),
        cpu_shares: Some(512),
        cpu_quota_us: Some(50_000),
        pids: Some(32),
        ..Limits::default()
    };
    let mut case = Case::new(&["cat:/proc/self/cgroup", "eat:200"]);
    case.try_start_limited(&limits).unwrap();
    let (code, log) = case.finish();
    assert_eq!(code, 137, "{log}");
    assert!(
        log.lines().any(|l| l.ends_with(":/")),
        "the group namespace begins at the container's group: {log}"
    );
    assert!(!log.contains("stower-"), "{log}");
    assert_eq!(case.cgroups.oom_kills(&case.uid), 1);
    assert_eq!(case.cgroups.populated(&case.uid), Some(false));
    let stats = case.cgroups.stats(&case.uid);
    assert!(stats.memory_bytes.is_some() && stats.pids == Some(0), "{stats:?}");
    assert!(stats.cpu_nanos.unwrap() > 0);
    for (controller, v1, v2, value1, value2) in [
        ("memory", "memory.limit_in_bytes", "memory.max", "67108864", "67108864"),
        ("pids", "pids.max", "pids.max", "32", "32"),
        ("cpu", "cpu.shares", "cpu.weight", "512", "20"),
        ("cpu", "cpu.cfs_quota_us", "cpu.max", "50000", "50000 100000"),
    ] {
        let h = case
            .cgroups
            .hierarchies()
            .iter()
            .find(|h| h.controllers.iter().any(|c| c == controller))
            .unwrap();
        let (file, value) = if h.v2 { (v2, value2) } else { (v1, value1) };
        let dir = if h.v2 {
            case.request.cgroup.v2.clone().unwrap()
        } else {
            case.request.cgroup.v1.iter().find(|g| g.name == h.name).unwrap().dir.clone()
        };
        assert_eq!(fs::read_to_string(dir.join(file)).unwrap().trim(), value, "{file}");
    }
    case.cgroups
        .update(
            &case.uid,
            &Limits {
                memory_bytes: Some(128 << 20),
                memory_swap_bytes: Some(128 << 20),
                ..Limits::default()
            },
        )
        .unwrap();
    case.cgroups
        .update(
            &case.uid,
            &Limits { memory_bytes: Some(32 << 20), memory_swap_bytes: Some(32 << 20), ..Limits::default() },
        )
        .unwrap();
    assert_eq!(case.cgroups.list().unwrap(), [case.uid.clone()]);
    case.cgroups.remove(&case.uid).unwrap();
    case.cgroups.remove(&case.uid).unwrap();
    assert!(case.cgroups.list().unwrap().is_empty());
}

#[test]
fn root_the_groups_of_a_running_container_are_killed_whole() {
    let mut case = Case::new(&["wait"]);
    case.start();
    assert_eq!(case.cgroups.populated(&case.uid), Some(true));
    let remove = case.cgroups.remove(&case.uid);
    assert!(remove.unwrap_err().to_string().contains("still has processes"));
    case.cgroups.kill(&case.uid).unwrap();
    let (code, _) = case.finish();
    assert_eq!(code, 137);
    assert_eq!(case.cgroups.populated(&case.uid), Some(false));
    // The shim stood in no container's group.
    assert!(case.cgroups.list().unwrap().contains(&case.uid));
}

#[test]
fn root_devices_of_the_host_cannot_be_opened() {
    // The kernel's log and the loop control: made, because CAP_MKNOD is usual, but not opened.
    let mut case = Case::new(&["node:/dev/kmsg2=1=11", "node:/tmp/loop=10=237", "node:/tmp/null=1=3"]);
    let a = case.run();
    assert_eq!(a.one("node:/dev/kmsg2=1=11"), "ok 1");
    assert_eq!(a.one("node:/tmp/loop=10=237"), "ok 1");
    assert_eq!(a.one("node:/tmp/null=1=3"), "ok ok");
}

#[test]
fn root_masked_and_read_only_paths_hold() {
    let mut case = Case::new(&[
        "ls:/proc/acpi",
        "cat:/proc/keys",
        "cat:/proc/timer_list",
        "ls:/sys/firmware",
        "write:/proc/sys/kernel/hostname",
        "write:/proc/sysrq-trigger",
        "write:/sys/x",
        "write:/sys/fs/cgroup/x",
        "cat:/opaque/secret",
        "ls:/opaque",
        "write:/frozen/x",
        "write:/fine",
    ]);
    for dir in ["lower/opaque", "lower/frozen"] {
        fs::create_dir(case.path(dir)).unwrap();
    }
    fs::write(case.path("lower/opaque/secret"), "secret").unwrap();
    case.linux().masked_paths_mut().as_mut().unwrap().push("/opaque".to_owned());
    case.linux().readonly_paths_mut().as_mut().unwrap().push("/frozen".to_owned());
    let a = case.run();
    for empty in ["ls:/proc/acpi", "ls:/sys/firmware", "ls:/opaque"] {
        assert!(matches!(a.one(empty), "" | "error 2"), "{empty}: {}", a.one(empty));
    }
    for empty in ["cat:/proc/keys", "cat:/proc/timer_list"] {
        assert_eq!(a.lines(empty).join(""), "", "{empty}");
    }
    assert_eq!(a.one("cat:/opaque/secret"), "error 2");
    for rofs in ["write:/proc/sys/kernel/hostname", "write:/sys/fs/cgroup/x", "write:/frozen/x"] {
        assert_eq!(a.one(rofs), "30", "{rofs}");
    }
    assert_ne!(a.one("write:/sys/x"), "ok");
    assert_eq!(a.one("write:/fine"), "ok");
}

#[test]
fn root_a_masked_path_through_a_link_is_refused() {
    for target in ["/etc", "/proc/self/fd"] {
        let mut case = Case::new(&["pid"]);
        symlink(target, case.path("lower/hidden")).unwrap();
        case.linux().masked_paths_mut().as_mut().unwrap().push("/hidden".to_owned());
        let (kind, message) = failure(&mut case);
        assert_eq!(kind, FailureKind::UnsafePath, "{message}");
    }
}

#[test]
fn root_a_read_only_root_can_still_be_mounted_into() {
    let mut case = Case::new(&["write:/x", "write:/data/x", "mkdir:/new", "write:/dev/shm/x"]);
    let mut root = oci_spec::runtime::Root::default();
    root.set_readonly(Some(true));
    case.spec().set_root(Some(root));
    fs::create_dir(case.path("volume")).unwrap();
    let volume = case.path("volume");
    case.add_mount("/data", "bind", &volume, &["rbind", "rw"]);
    let a = case.run();
    assert_eq!(a.one("write:/x"), "30");
    assert_eq!(a.one("mkdir:/new"), "30");
    assert_eq!(a.one("write:/data/x"), "ok");
    assert_eq!(a.one("write:/dev/shm/x"), "ok");
    assert_eq!(fs::read(case.path("volume/x")).unwrap(), b"x");
}

#[test]
fn root_files_and_volumes_are_mounted_where_nothing_was() {
    let mut case = Case::new(&[
        "cat:/etc/hosts",
        "cat:/deep/er/file",
        "write:/ro/x",
        "cat:/tree/inner",
        "cat:/proc/self/mountinfo",
    ]);
    fs::write(case.path("hosts"), "127.0.0.1 localhost\n").unwrap();
    let hosts = case.path("hosts");
    case.add_mount("/etc/hosts", "bind", &hosts, &["rbind", "ro"]);
    case.add_mount("/deep/er/file", "bind", &hosts, &["rbind", "ro", "nosuid", "nodev", "noexec"]);
    for dir in ["a", "b", "r"] {
        fs::create_dir(case.path(dir)).unwrap();
    }
    fs::write(case.path("a/inner"), "upper one").unwrap();
    fs::write(case.path("b/inner"), "lower one").unwrap();
    let lower = vec![case.path("a"), case.path("b")];
    let readonly = case.path("r");
    case.request.volumes = vec![
        VolumeMount {
            destination: "/tree".to_owned(),
            tree: RootFs::Overlay { lower, upper: None, work: None, options: Vec::new() },
            inside: None,
            sub_path: None,
            options: Vec::new(),
        },
        VolumeMount {
            destination: "/ro".to_owned(),
            tree: RootFs::Bind { path: readonly, readonly: true },
            inside: None,
            sub_path: None,
            options: vec!["nodev".to_owned()],
        },
    ];
    let a = case.run();
    assert_eq!(a.one("cat:/etc/hosts"), "127.0.0.1 localhost");
    assert_eq!(a.one("cat:/deep/er/file"), "127.0.0.1 localhost");
    assert_eq!(a.one("write:/ro/x"), "30");
    assert_eq!(a.one("cat:/tree/inner"), "upper one");
    assert!(a.mount("/deep/er/file").unwrap().0.starts_with("ro,nosuid,nodev,noexec"));
    assert!(a.mount("/ro").unwrap().0.starts_with("ro,nodev"));
}

#[test]
fn root_layers_up_to_the_limit_work_in_both_ways() {
    for legacy in [false, true] {
        let mut case =
            Case::new(&["cat:/top", "cat:/bottom", "cat:/layer64", "write:/new", "cat:/volume/top"]);
        // Long names, so that the options fit a page only by descriptor.
        let long = "l".repeat(200);
        let mut lower = Vec::new();
        for i in 0..127 {
            let dir = case.path(&format!("layers/{long}/{i}"));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("top"), format!("{i}")).unwrap();
            fs::write(dir.join(format!("layer{i}")), "there").unwrap();
            lower.push(dir);
        }
        lower.push(case.path("lower"));
        fs::write(case.path("lower/bottom"), "bottom").unwrap();
        let (upper, work) = (Some(case.path("upper")), Some(case.path("work")));
        let volume =
            RootFs::Overlay { lower: lower[1..3].to_vec(), upper: None, work: None, options: Vec::new() };
        case.request.volumes = vec![VolumeMount {
            destination: "/volume".to_owned(),
            tree: volume,
            inside: None,
            sub_path: None,
            options: vec!["ro".to_owned()],
        }];
        case.request.root = RootFs::Overlay { lower, upper, work, options: Vec::new() };
        case.request.legacy_overlay = legacy;
        let a = case.run();
        assert_eq!(a.one("cat:/top"), "0", "legacy {legacy}");
        assert_eq!(a.one("cat:/bottom"), "bottom");
        assert_eq!(a.one("cat:/layer64"), "there");
        assert_eq!(a.one("write:/new"), "ok");
        assert_eq!(a.one("cat:/volume/top"), "1");
        assert!(case.path("upper/new").exists());
    }
}

#[test]
fn root_links_at_the_runtimes_own_places_are_refused() {
    for place in ["proc", "sys", "dev"] {
        for target in ["/etc", "..", "/nowhere", "/proc/self/fd"] {
            let mut case = Case::new(&["pid"]);
            symlink(target, case.path(&format!("lower/{place}"))).unwrap();
            let (kind, message) = failure(&mut case);
            assert_eq!(kind, FailureKind::UnsafePath, "{place} -> {target}: {message}");
            assert!(message.contains(&format!("/{place}")), "{message}");
        }
        let mut case = Case::new(&["pid"]);
        fs::write(case.path(&format!("lower/{place}")), "").unwrap();
        assert_eq!(failure(&mut case).0, FailureKind::UnsafePath, "{place} is a file");
    }
}

#[test]
fn root_a_volume_target_that_is_a_link_stays_inside() {
    let outside = tempfile::tempdir_in("/var/tmp").unwrap();
    for target in
        [outside.path().display().to_string(), format!("../../../../../../..{}", outside.path().display())]
    {
        let mut case = Case::new(&["cat:/data/here", "ls:/"]);
        symlink(&target, case.path("lower/data")).unwrap();
        fs::create_dir(case.path("volume")).unwrap();
        fs::write(case.path("volume/here"), "volume").unwrap();
        let volume = case.path("volume");
        case.add_mount("/data", "bind", &volume, &["rbind"]);
        let a = case.run();
        assert_eq!(a.one("cat:/data/here"), "volume");
        assert!(case.path("upper").join(outside.path().strip_prefix("/").unwrap()).is_dir(), "made inside");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0, "nothing made outside");
    }
    // A directory on the way is a link.
    let mut case = Case::new(&["cat:/var/run/data/here", "cat:/run/data/here"]);
    fs::create_dir(case.path("lower/var")).unwrap();
    symlink("/run", case.path("lower/var/run")).unwrap();
    fs::create_dir(case.path("volume")).unwrap();
    fs::write(case.path("volume/here"), "volume").unwrap();
    let volume = case.path("volume");
    case.add_mount("/var/run/data", "bind", &volume, &["rbind"]);
    let a = case.run();
    assert_eq!(a.one("cat:/var/run/data/here"), "volume");
    assert_eq!(a.one("cat:/run/data/here"), "volume");
}

#[test]
fn root_a_volume_cannot_cover_the_kernels_files_or_the_root() {
    for (link, text) in
        [("/proc", "leads into /proc"), ("/", "leads to the root itself"), ("/proc/self/fd", "")]
    {
        let mut case = Case::new(&["pid"]);
        symlink(link, case.path("lower/data")).unwrap();
        fs::create_dir(case.path("volume")).unwrap();
        let volume = case.path("volume");
        case.add_mount("/data", "bind", &volume, &["rbind"]);
        let (kind, message) = failure(&mut case);
        assert_eq!(kind, FailureKind::UnsafePath, "{link}: {message}");
        assert!(message.contains(text), "{message}");
    }
}

#[test]
fn root_the_working_directory_is_made_and_stays_inside() {
    let mut case = Case::new(&["cwd"]);
    case.process().set_cwd("/made/here".into());
    assert_eq!(case.run().one("cwd"), "/made/here");

    let outside = tempfile::tempdir_in("/var/tmp").unwrap();
    let mut case = Case::new(&["cwd"]);
    symlink(outside.path(), case.path("lower/work")).unwrap();
    case.process().set_cwd("/work".into());
    assert_eq!(case.run().one("cwd"), outside.path().to_str().unwrap(), "of that name, inside");
    assert!(case.path("upper").join(outside.path().strip_prefix("/").unwrap()).is_dir());

    for (cwd, text) in [
        ("/proc/self/fd/3", "a link of /proc"),
        ("/proc/self/cwd", "a link of /proc"),
        ("/bin/probe", "not a directory"),
    ] {
        let mut case = Case::new(&["cwd"]);
        case.process().set_cwd(cwd.into());
        let (kind, message) = failure(&mut case);
        assert_eq!(kind, FailureKind::BadCwd, "{message}");
        assert!(message.contains(text), "{message}");
    }
}

#[test]
fn root_commands_that_cannot_run_say_why() {
    let arm = {
        let mut elf = vec![0u8; 64];
        elf[..4].copy_from_slice(b"\x7fELF");
        (elf[4], elf[5], elf[6], elf[16], elf[18]) = (2, 1, 1, 2, 183);
        elf
    };
    let cases: [(&str, &[u8], u32, FailureKind, &str); 7] = [
        ("nosuch", b"", 0, FailureKind::CommandNotFound, "command not found: `nosuch`"),
        ("/bin/nosuch", b"", 0, FailureKind::CommandNotFound, "command not found: `/bin/nosuch`"),
        ("/bin/plain", b"\x7fELF", 0o644, FailureKind::PermissionDenied, "mode 644 has no x bit"),
        ("/etc", b"", 0, FailureKind::PermissionDenied, "it is a directory"),
        (
            "/bin/script",
            b"#!/bin/nosh\n",
            0o755,
            FailureKind::NotExecutable,
            "interpreter or dynamic loader is not in the image (`#!/bin/nosh`)",
        ),
        ("/bin/text", b"hello", 0o755, FailureKind::NotExecutable, "neither a program nor a script"),
        (
            "/bin/arm",
            &arm,
            0o755,
            FailureKind::NotExecutable,
            "a program for aarch64, but this machine is x86_64",
        ),
    ];
    for (command, content, mode, kind, text) in cases {
        let mut case = Case::new(&[]);
        if mode != 0 {
            let path = case.path(&format!("lower{command}"));
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        case.process().set_args(Some(vec![command.to_owned()]));
        let (seen, message) = failure(&mut case);
        assert_eq!(seen, kind, "{command}: {message}");
        assert!(message.contains(text), "{command}: {message}");
    }
    // By PATH, past a directory that has no such file.
    let mut case = Case::new(&["pid"]);
    case.process().set_args(Some(vec!["probe".to_owned(), "pid".to_owned()]));
    assert_eq!(case.run().one("pid"), "1");
}

#[test]
fn root_a_failed_start_leaves_nothing() {
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let fds = || fs::read_dir("/proc/self/fd").unwrap().count();
    let mut case = Case::new(&["pid"]);
    case.process().set_args(Some(vec!["nosuch".to_owned()]));
    let _ = fds();
    let (_, message) = failure(&mut case);
    assert!(message.contains("command not found"), "{message}");
    let left: Vec<_> = fs::read_dir(case.path("run")).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(case.cgroups.populated(&case.uid), Some(false));
    case.cgroups.remove(&case.uid).unwrap();
    assert!(!mounts().contains(case.dir.path().to_str().unwrap()));
}

#[test]
fn root_the_hosts_mount_table_stays_as_it_was() {
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    for legacy in [false, true] {
        let mut case = Case::new(&["wait"]);
        case.request.legacy_overlay = legacy;
        case.start();
        assert!(!mounts().contains(case.dir.path().to_str().unwrap()), "legacy {legacy}");
    }
}

#[test]
fn root_limits_of_resources_are_set_or_refused() {
    let limit =
        |kind, soft, hard| PosixRlimitBuilder::default().typ(kind).soft(soft).hard(hard).build().unwrap();
    let mut case = Case::new(&["cat:/proc/self/limits", "cat:/proc/self/oom_score_adj", "umask"]);
    case.process()
        .set_rlimits(Some(vec![limit(PosixRlimitType::RlimitNofile, 100u64, 200u64)]))
        .set_oom_score_adj(Some(321));
    case.request.default_rlimits = vec![
        limit(PosixRlimitType::RlimitCore, 0u64, 0u64),
        limit(PosixRlimitType::RlimitNofile, 1u64, 1u64),
    ];
    let a = case.run();
    let line = |name: &str| {
        let lines = a.lines("cat:/proc/self/limits");
        let line = lines.iter().find(|l| l.starts_with(name)).unwrap();
        line[name.len()..].split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("Max open files"), "100 200");
    assert_eq!(line("Max core file size"), "0 0");
    assert_eq!(a.one("cat:/proc/self/oom_score_adj"), "321");
    assert_eq!(a.one("umask"), "22");

    // Without CAP_SYS_RESOURCE a hard limit cannot rise: an asked one is an error, a default one is passed over.
    let capable = fs::read_to_string("/proc/self/status").unwrap();
    let eff = capable.lines().find_map(|l| l.strip_prefix("CapEff:")).unwrap().trim().to_owned();
    if u64::from_str_radix(&eff, 16).unwrap() >> 24 & 1 == 1 {
        return;
    }
    let high = limit(PosixRlimitType::RlimitMemlock, u64::MAX, u64::MAX);
    let mut case = Case::new(&["pid"]);
    case.process().set_rlimits(Some(vec![high]));
    let (kind, message) = failure(&mut case);
    assert_eq!(kind, FailureKind::MissingCapability);
    assert!(message.contains("RLIMIT_MEMLOCK") && message.contains("CAP_SYS_RESOURCE"), "{message}");
    let mut case = Case::new(&["pid"]);
    case.request.default_rlimits = vec![high];
    case.request.default_oom_score_adj = Some(-999);
    assert_eq!(case.run().one("pid"), "1");
    let mut case = Case::new(&["pid"]);
    case.process().set_oom_score_adj(Some(-999));
    let (kind, message) = failure(&mut case);
    assert_eq!(kind, FailureKind::MissingCapability);
    assert!(message.contains("CAP_SYS_RESOURCE"), "{message}");
}

#[test]
fn root_names_and_settings_are_the_containers_own() {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let shm = fs::read_to_string("/proc/sys/kernel/shmmni").unwrap();
    let mut case = Case::new(&[
        "cat:/proc/sys/kernel/hostname",
        "cat:/proc/sys/kernel/domainname",
        "cat:/proc/sys/kernel/shmmni",
        "cat:/proc/sys/net/ipv4/ip_unprivileged_port_start",
        "cat:/proc/net/dev",
    ]);
    case.spec().set_hostname(Some("box".to_owned())).set_domainname(Some("inner".to_owned()));
    case.linux().set_sysctl(Some(
        [("kernel.shmmni", "77"), ("net.ipv4.ip_unprivileged_port_start", "0")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
    ));
    let a = case.run();
    assert_eq!(a.one("cat:/proc/sys/kernel/hostname"), "box");
    assert_eq!(a.one("cat:/proc/sys/kernel/domainname"), "inner");
    assert_eq!(a.one("cat:/proc/sys/kernel/shmmni"), "77");
    assert_eq!(a.one("cat:/proc/sys/net/ipv4/ip_unprivileged_port_start"), "0");
    let devices = a.lines("cat:/proc/net/dev");
    assert!(devices.iter().any(|l| l.trim_start().starts_with("lo:")), "{devices:?}");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), host);
    assert_eq!(fs::read_to_string("/proc/sys/kernel/shmmni").unwrap(), shm);
}

#[test]
fn root_a_missing_source_and_a_bad_option_are_named() {
    let mut case = Case::new(&["pid"]);
    case.add_mount("/data", "bind", std::path::Path::new("/var/tmp/no-such-source"), &["rbind"]);
    let (_, message) = failure(&mut case);
    assert!(message.contains("mount /data") && message.contains("/var/tmp/no-such-source"), "{message}");
    let mut case = Case::new(&["pid"]);
    case.add_mount("/data", "tmpfs", std::path::Path::new("tmpfs"), &["flavour=sweet"]);
    let (_, message) = failure(&mut case);
    assert!(message.contains("flavour") && message.contains("tmpfs"), "{message}");
}

#[test]
fn root_exit_codes_and_signals_are_recorded() {
    let mut case = Case::new(&["exit:7"]);
    case.start();
    assert_eq!(case.finish().0, 7);
    let mut case = Case::new(&["wait"]);
    case.start();
    rustix::process::pidfd_send_signal(&case.started().init_pidfd, rustix::process::Signal::KILL).unwrap();
    assert_eq!(case.finish().0, 137);
}

#[test]
fn root_a_starter_that_cannot_run_is_named() {
    let mut case = Case::new(&["pid"]);
    case.request.programs.starter = "/var/tmp/no-such-starter".into();
    let error = case.try_start().unwrap_err();
    assert!(error.to_string().contains("/var/tmp/no-such-starter"), "{error}");
    let mut case = Case::new(&["pid"]);
    case.request.programs.shim = "/var/tmp/no-such-shim".into();
    let (_, message) = failure(&mut case);
    assert!(message.contains("/var/tmp/no-such-shim"), "{message}");
    let mut case = Case::new(&["pid"]);
    case.request.programs.starter = "/bin/true".into();
    assert!(matches!(case.try_start(), Err(StartError::StarterLost(_))));
}

#[test]
fn root_the_shim_stands_outside_of_the_agent_and_the_container() {
    let mut case = Case::new(&["wait"]);
    case.start();
    let shim = case.started().record.shim_pid;
    let groups = fs::read_to_string(format!("/proc/{shim}/cgroup")).unwrap();
    assert!(groups.lines().all(|l| l.ends_with("/shims")), "{groups}");
    let stat = fs::read_to_string(format!("/proc/{shim}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    assert_eq!(
        fields[1],
        std::process::id().to_string(),
        "a child of this process, so that it can be reaped"
    );
    assert_eq!(fields[3], shim.to_string(), "the leader of a session of its own");
    let init = fs::read_to_string(format!("/proc/{}/cgroup", case.init_pid())).unwrap();
    assert!(init.lines().all(|l| l.ends_with(&format!("/c/{}", case.uid))), "{init}");
}

#[test]
fn root_a_start_that_takes_too_long_is_ended() {
    let mut case = Case::new(&["pid"]);
    // Reads the job and says nothing.
    case.request.programs.starter = "/bin/cat".into();
    case.request.deadline = std::time::Duration::from_millis(50);
    let error = case.try_start().unwrap_err();
    assert!(matches!(error, StartError::Timeout(_)), "{}", chain(&error));
    let children =
        fs::read_to_string(format!("/proc/self/task/{}/children", rustix::thread::gettid().as_raw_nonzero()));
    assert_eq!(children.unwrap_or_default(), "", "it is killed and reaped");
}
