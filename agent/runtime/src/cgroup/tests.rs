use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder,
};

use super::*;

const V1: &str = "\
28 20 0:25 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
29 28 0:26 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
30 28 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
31 28 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
32 28 0:27 /some/group /mnt/memory rw - cgroup cgroup rw,memory
33 28 0:29 / /mnt/with\\040blank rw - cgroup cgroup rw,pids
34 28 0:30 / /nowhere/unified rw - cgroup2 cgroup2 rw
";

#[test]
fn hierarchies_are_read_from_the_table_of_mounts() {
    let groups = Cgroups::from_mountinfo(V1, "abc", Some(Path::new("/a/b"))).unwrap();
    let seen: Vec<_> = groups
        .hierarchies()
        .iter()
        .map(|h| (h.mount.to_str().unwrap(), h.v2, h.controllers.join("+")))
        .collect();
    assert_eq!(
        seen,
        [
            ("/sys/fs/cgroup/cpu,cpuacct", false, "cpu+cpuacct".to_owned()),
            ("/sys/fs/cgroup/memory", false, "memory".to_owned()),
            ("/sys/fs/cgroup/systemd", false, String::new()),
            ("/mnt/with blank", false, "pids".to_owned()),
            ("/nowhere/unified", true, String::new()),
        ]
    );
    let group = groups.group(&groups.hierarchies()[1], "u1");
    assert_eq!(group.to_str(), Some("/sys/fs/cgroup/memory/a/b/stower-abc/c/u1"));
}

#[test]
fn names_that_could_leave_our_groups_are_refused() {
    let groups = Cgroups::from_mountinfo(V1, "abc", None).unwrap();
    for name in ["", ".", "..", "../x", "a/b", "a\nb", ".hidden", &"x".repeat(201)] {
        assert!(matches!(groups.create(name, &Limits::default()), Err(CgroupError::BadName(_))), "{name:?}");
        assert!(matches!(groups.remove(name), Err(CgroupError::BadName(_))), "{name:?}");
        assert!(matches!(groups.kill(name), Err(CgroupError::BadName(_))), "{name:?}");
        assert_eq!(groups.populated(name), None);
    }
    assert!(matches!(
        Cgroups::from_mountinfo(V1, "a", Some(Path::new("../x"))),
        Err(CgroupError::BadName(_))
    ));
    assert!(matches!(Cgroups::from_mountinfo("", "a", None), Err(CgroupError::None)));
}

#[test]
fn a_limit_without_its_controller_is_refused_before_anything_is_made() {
    let groups = Cgroups::from_mountinfo(V1.lines().nth(1).unwrap(), "abc", None).unwrap();
    let e = groups.create("u", &Limits { memory_bytes: Some(1), ..Limits::default() }).unwrap_err();
    assert!(e.to_string().contains("controller `memory`"), "{e}");
}

#[test]
fn weights_follow_shares() {
    assert_eq!([2, 512, 1024, 262_144, u64::MAX].map(limits::weight), [1, 20, 39, 10_000, 10_000]);
}

#[test]
fn limits_come_from_a_specification_and_unknown_ones_are_refused() {
    let empty = || {
        let mut r = LinuxResources::default();
        r.set_devices(None);
        r
    };
    assert_eq!(Limits::from_oci(&empty()).unwrap(), Limits::default());
    let mut r = empty();
    r.set_memory(Some(LinuxMemoryBuilder::default().limit(100i64).swap(-1i64).build().unwrap()))
        .set_cpu(Some(LinuxCpuBuilder::default().shares(5u64).quota(7i64).build().unwrap()))
        .set_pids(Some(LinuxPidsBuilder::default().limit(9).build().unwrap()));
    let limits = Limits::from_oci(&r).unwrap();
    assert_eq!((limits.memory_bytes, limits.memory_swap_bytes), (Some(100), None));
    assert_eq!((limits.cpu_shares, limits.cpu_quota_us, limits.pids), (Some(5), Some(7), Some(9)));
    let mut r = empty();
    r.set_cpu(Some(LinuxCpuBuilder::default().cpus("0").build().unwrap()));
    assert!(Limits::from_oci(&r).unwrap_err().to_string().starts_with("linux.resources.cpu.cpus"));
    let r = LinuxResourcesBuilder::default().unified([("a".to_owned(), "b".to_owned())]).build().unwrap();
    assert!(Limits::from_oci(&r).unwrap_err().to_string().starts_with("linux.resources.unified"));
}

#[test]
fn counts_survive_missing_files() {
    assert_eq!(stats::oom_kills(Path::new("/nowhere"), true), 0);
    assert_eq!(stats::oom_kills(Path::new("/nowhere"), false), 0);
    assert_eq!(stats::read(None, None, Some(("/nowhere".into(), true)), None), Stats::default());
    assert_eq!(kill::populated_v2(Path::new("/nowhere")), Some(false));
    assert_eq!(kill::populated_v1(Path::new("/nowhere")), Some(false));
}

/// As the kernel has them: version 1 counts where the process was, version 2 there and in all groups above.
#[test]
fn kills_for_want_of_memory_count_in_groups_below_too() {
    let top = tempfile::tempdir().unwrap();
    let below = top.path().join("a/b");
    std::fs::create_dir_all(&below).unwrap();
    let count = |dir: &Path, file: &str, n: u32| {
        std::fs::write(dir.join(file), format!("low 7\noom 9\noom_kill_disable 0\noom_kill {n}\n")).unwrap();
    };
    count(top.path(), "memory.oom_control", 1);
    count(&below, "memory.oom_control", 2);
    assert_eq!(stats::oom_kills(top.path(), false), 3);
    count(top.path(), "memory.events", 3);
    count(&below, "memory.events", 2);
    assert_eq!(stats::oom_kills(top.path(), true), 3);
}

/// Version 1 alone, as on a machine without cgroup2: processes are frozen and killed one by one.
#[test]
fn root_a_group_is_killed_without_cgroup_kill() {
    let Ok(text) = std::fs::read_to_string("/proc/self/mountinfo") else { panic!("no mountinfo") };
    let v1: String = text.lines().filter(|l| !l.contains(" - cgroup2 ")).map(|l| format!("{l}\n")).collect();
    let Ok(groups) = Cgroups::from_mountinfo(&v1, &format!("k{}", std::process::id()), None) else {
        // A machine with version 2 alone has nothing of this to test.
        return;
    };
    let join = groups.create("u", &Limits::default()).unwrap();
    let dir = &join.v1.iter().find(|g| g.name == "freezer").unwrap_or(&join.v1[0]).dir;
    std::fs::create_dir(dir.join("below")).unwrap();
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    std::fs::write(dir.join("below/cgroup.procs"), child.id().to_string()).unwrap();
    let first = groups.hierarchies().first().unwrap();
    std::fs::write(groups.group(first, "u").join("cgroup.procs"), child.id().to_string()).unwrap();
    assert_eq!(groups.populated("u"), Some(true));
    assert!(matches!(groups.remove("u"), Err(CgroupError::Busy { .. })));
    groups.kill("u").unwrap();
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert_eq!(groups.populated("u"), Some(false));
    groups.remove("u").unwrap();
    groups.remove_root().unwrap();
    assert!(!dir.exists());
}

#[test]
fn device_rules_are_taken_apart_or_refused() {
    let rule = |text: &str| device_program::Rule::parse(&DeviceRule { allow: true, rule: text.to_owned() });
    for good in ["a", "c *:* m", "b 7:0 rwm", "c 136:* rw"] {
        assert!(rule(good).is_some(), "{good}");
    }
    for bad in ["", "x 1:3 r", "c", "c 1 r", "c 1:3", "c 1:x r", "c 1:3 rx", "b"] {
        assert!(rule(bad).is_none(), "{bad}");
    }
}

/// What is mounted as cgroup2 here, without any version 1 hierarchy: as on a machine that has only version 2.
fn only_v2(instance: &str) -> Cgroups {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let v2: String = text.lines().filter(|l| l.contains(" - cgroup2 ")).map(|l| format!("{l}\n")).collect();
    Cgroups::from_mountinfo(&v2, instance, None).expect("cgroup2 is mounted")
}

#[test]
fn root_version_2_alone_holds_devices_by_a_program() {
    let groups = only_v2(&format!("d{}", std::process::id()));
    let rule = |allow, rule: &str| DeviceRule { allow, rule: rule.to_owned() };
    // Zero may not be written, full may be made but not opened, the loop control is allowed beside the usual.
    let devices = vec![rule(false, "c 1:5 w"), rule(false, "c 1:7 rw"), rule(true, "c 10:237 rw")];
    let join = groups.create("u", &Limits { devices, ..Limits::default() }).unwrap();
    let dir = join.v2.unwrap();
    let script = "exec 2>/dev/null; echo $$ > GROUP/cgroup.procs
        t() { if eval \"$2\"; then echo $1 yes; else echo $1 no; fi; }
        t null-write 'echo x > /dev/null'; t zero-read 'true < /dev/zero'; t zero-write 'echo x > /dev/zero'
        t full-read 'true < /dev/full'; t kmsg-read 'true < /dev/kmsg'
        t make 'mknod GROUP.node c 1 7'; t loop-read 'true < /dev/loop-control'; rm -f GROUP.node";
    let scratch = tempfile::tempdir().unwrap();
    let script = script
        .replace("GROUP.node", scratch.path().join("node").to_str().unwrap())
        .replace("GROUP", dir.to_str().unwrap());
    let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    groups.remove("u").unwrap();
    groups.remove_root().unwrap();
    for line in [
        "null-write yes",
        "zero-read yes",
        "zero-write no",
        "full-read no",
        "kmsg-read no",
        "make yes",
        "loop-read yes",
    ] {
        assert!(said.lines().any(|l| l == line), "{line}: {said}");
    }
}

/// What is mounted here of version 1 alone; `None` on a machine that has only version 2.
fn only_v1(instance: &str) -> Option<Cgroups> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let v1: String = text.lines().filter(|l| !l.contains(" - cgroup2 ")).map(|l| format!("{l}\n")).collect();
    Cgroups::from_mountinfo(&v1, instance, None).ok()
}

/// Both ways to freeze that this machine has.
fn freezers(name: &str) -> Vec<Cgroups> {
    let instance = format!("{name}{}", std::process::id());
    let mut all = vec![only_v2(&instance)];
    all.extend(only_v1(&instance).filter(|g| g.with("freezer").is_some()));
    all
}

/// A process in the group `u`, which goes with it whatever a test finds.
struct Member<'a>(&'a Cgroups, std::process::Child);

impl<'a> Member<'a> {
    /// Runs a script once it is in the group, so that all that it forks is too.
    fn new(groups: &'a Cgroups, script: &str) -> Self {
        use std::io::Write;
        use std::process::{Command, Stdio};
        let script = format!("read go; {script}");
        let child = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (dir, _) = groups.freezer("u").unwrap();
        std::fs::write(dir.join("cgroup.procs"), child.id().to_string()).unwrap();
        // Where members of version 1 are looked for.
        let first = groups.hierarchies().first().unwrap();
        std::fs::write(groups.group(first, "u").join("cgroup.procs"), child.id().to_string()).unwrap();
        let mut member = Self(groups, child);
        member.1.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        member
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        let killed = self.0.kill("u");
        if killed.is_err() {
            let _ = self.0.thaw("u");
            let _ = self.1.kill();
        }
        let _ = self.1.wait();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while matches!(self.0.remove("u"), Err(CgroupError::Busy { .. })) && std::time::Instant::now() < until
        {
            std::thread::yield_now();
        }
        let _ = self.0.remove_root();
        if !std::thread::panicking() {
            killed.unwrap();
            assert!(!self.0.exists("u"), "something outlived the kill");
        }
    }
}

#[test]
fn root_a_frozen_group_stands_still_until_it_is_thawed() {
    use std::io::{Read, Write};
    for groups in freezers("f") {
        assert_eq!(groups.frozen("u"), Some(false), "not there");
        groups.thaw("u").unwrap();
        assert!(groups.freeze("u").is_err(), "not there");
        groups.create("u", &Limits::default()).unwrap();
        let mut member = Member::new(&groups, "exec cat");
        let (mut to, mut from) = (member.1.stdin.take().unwrap(), member.1.stdout.take().unwrap());
        let mut byte = [0u8];
        let answers = |from: &std::process::ChildStdout, ms: i64| {
            let wait = rustix::event::Timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 };
            let mut fds = [rustix::event::PollFd::new(from, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut fds, Some(&wait)).unwrap() == 1
        };
        for _ in 0..3 {
            groups.freeze("u").unwrap();
            groups.freeze("u").unwrap();
            assert_eq!(groups.frozen("u"), Some(true));
            to.write_all(b"x").unwrap();
            assert!(!answers(&from, 100), "it went on");
            groups.thaw("u").unwrap();
            groups.thaw("u").unwrap();
            assert!(answers(&from, 10_000), "it stood still");
            from.read_exact(&mut byte).unwrap();
            assert_eq!(groups.frozen("u"), Some(false));
        }
    }
}

#[test]
fn root_a_group_that_forks_all_the_time_is_frozen_and_killed_so() {
    for groups in freezers("g") {
        groups.create("u", &Limits::default()).unwrap();
        let _member = Member::new(&groups, "f() { while :; do (:); done; }; f & f & f");
        for _ in 0..20 {
            groups.freeze("u").unwrap();
            assert_eq!(groups.frozen("u"), Some(true));
            groups.thaw("u").unwrap();
        }
        // And is killed, frozen, at the end.
        groups.freeze("u").unwrap();
    }
}

/// Whatever froze the last run of a container does not freeze the next one.
#[test]
fn root_a_group_that_is_taken_over_is_not_frozen() {
    for groups in freezers("h") {
        groups.create("u", &Limits::default()).unwrap();
        groups.freeze("u").unwrap();
        assert_eq!(groups.frozen("u"), Some(true));
        groups.create("u", &Limits::default()).unwrap();
        assert_eq!(groups.frozen("u"), Some(false));
        let mut member = Member::new(&groups, "exit 7");
        assert_eq!(member.1.wait().unwrap().code(), Some(7));
    }
}

/// A group that does not stop in time is let go on.
#[test]
fn root_a_group_that_cannot_be_frozen_in_time_goes_on() {
    for groups in freezers("i") {
        groups.create("u", &Limits::default()).unwrap();
        let _member = Member::new(&groups, "while :; do :; done");
        let (dir, v2) = groups.freezer("u").unwrap();
        // A busy process needs a moment; once in so many times at least it is not there yet.
        let late = (0..10_000).find_map(|_| {
            let late = freeze::freeze(&dir, v2, std::time::Duration::ZERO).err();
            if late.is_none() {
                freeze::thaw(&dir, v2).unwrap();
            }
            late
        });
        let asked = dir.join(if v2 { "cgroup.freeze" } else { "freezer.self_freezing" });
        assert_eq!(std::fs::read_to_string(asked).unwrap().trim(), "0");
        assert!(matches!(late, Some(CgroupError::NotFrozen { .. })), "{late:?}");
        assert_eq!(groups.frozen("u"), Some(false));
    }
}

/// Every field becomes a file of each version, or of the one that has it.
#[test]
fn resources_of_a_specification_become_files() {
    let resources = serde_json::from_value(serde_json::json!({
        "memory": { "limit": -1, "reservation": 4096, "swappiness": 10 },
        "cpu": { "quota": 0, "burst": 7, "cpus": "0-1" },
        "pids": { "limit": 0 },
        "blockIO": { "weight": 1000, "throttleReadBpsDevice": [{ "major": 8, "minor": 0, "rate": 99 }] },
        "hugepageLimits": [{ "pageSize": "2MB", "limit": 5 }],
        "unified": { "cgroup.max.depth": "3", "memory.high": "1" },
    }))
    .unwrap();
    let limits = Limits::from_oci_whole(&resources).unwrap();
    let text = |f: &Option<File>| f.as_ref().map(|f| format!("{}={}", f.names.join("|"), f.value));
    let seen: Vec<_> = limits
        .settings
        .iter()
        .map(|s| (s.field.trim_start_matches("linux.resources."), text(&s.v1), text(&s.v2)))
        .collect();
    let some = |t: &str| Some(t.to_owned());
    assert_eq!(
        seen,
        [
            ("memory.limit", some("memory.limit_in_bytes=-1"), some("memory.max=max")),
            ("memory.reservation", some("memory.soft_limit_in_bytes=4096"), some("memory.low=4096")),
            ("memory.swappiness", some("memory.swappiness=10"), None),
            ("cpu.quota", some("cpu.cfs_quota_us=-1"), some("cpu.max=max")),
            ("cpu.burst", some("cpu.cfs_burst_us=7"), some("cpu.max.burst=7")),
            ("cpu.cpus", some("cpuset.cpus=0-1"), some("cpuset.cpus=0-1")),
            ("pids.limit", some("pids.max=max"), some("pids.max=max")),
            ("blockIO.weight", some("blkio.weight|blkio.bfq.weight=1000"), some("io.weight=default 10000")),
            (
                "blockIO.throttleReadBpsDevice",
                some("blkio.throttle.read_bps_device=8:0 99"),
                some("io.max=8:0 rbps=99")
            ),
            ("hugepageLimits[2MB]", some("hugetlb.2MB.limit_in_bytes=5"), some("hugetlb.2MB.max=5")),
            (
                "hugepageLimits[2MB]",
                some("hugetlb.2MB.rsvd.limit_in_bytes=5"),
                some("hugetlb.2MB.rsvd.max=5")
            ),
            ("unified[cgroup.max.depth]", None, some("cgroup.max.depth=3")),
            ("unified[memory.high]", None, some("memory.high=1")),
        ]
    );
    assert_eq!((limits.memory_bytes, limits.cpu_quota_us, limits.pids), (None, None, None));
    for (key, value) in [("../x", "1"), ("nodot", "1"), ("a/b.c", "1")] {
        let resources = serde_json::from_value(serde_json::json!({ "unified": { key: value } })).unwrap();
        assert!(Limits::from_oci_whole(&resources).is_err(), "{key}");
    }
}

/// A container without a mount namespace of its own has copies of the groups in the same table.
#[test]
fn a_copy_of_a_hierarchy_without_controllers_is_no_other_one() {
    let text = "1 0 0:1 / /cg/systemd rw - cgroup cgroup rw,name=systemd\n\
                2 0 0:1 /c /root/cg/systemd rw - cgroup cgroup rw,name=systemd\n";
    let seen = detect::parse(text);
    assert_eq!(seen.iter().map(|h| h.mount.display().to_string()).collect::<Vec<_>>(), ["/cg/systemd"]);
}

#[test]
fn block_io_is_summed_over_devices() {
    let v1 = "8:0 Read 10\n8:0 Write 20\n8:0 Sync 99\n8:0 Total 30\n8:16 Read 5\n8:16 Write 1\nTotal 36\n";
    assert_eq!(stats::io_v1(v1), (Some(15), Some(21)));
    let v2 = "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n8:16 rbytes=5 wbytes=1 rios=1\n";
    assert_eq!(stats::io_v2(v2), (Some(15), Some(21)));
    assert_eq!(stats::io_v1(""), (Some(0), Some(0)));
}

#[test]
fn root_all_containers_together_have_limits_that_go_when_they_are_taken_back() {
    let groups = Cgroups::detect(&format!("all-{}", std::process::id()), None).unwrap();
    let said = |controller: &str, v1: &str, v2: &str| {
        let h = groups.with(controller).unwrap();
        let file = groups.top(h).join("c").join(if h.v2 { v2 } else { v1 });
        std::fs::read_to_string(file).unwrap().trim().to_owned()
    };
    // Where there is nothing to limit, nothing is made.
    groups.limit_all(&Limits::default()).unwrap();
    assert!(groups.hierarchies().iter().all(|h| !groups.top(h).exists()));
    let limits = Limits { memory_bytes: Some(64 << 20), pids: Some(50), ..Limits::default() };
    groups.limit_all(&limits).unwrap();
    assert_eq!(said("memory", "memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
    assert_eq!(said("pids", "pids.max", "pids.max"), "50");
    groups.limit_all(&Limits::default()).unwrap();
    assert_eq!(said("pids", "pids.max", "pids.max"), "max");
    assert_ne!(said("memory", "memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
    groups.remove_root().unwrap();
}
