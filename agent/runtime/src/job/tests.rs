use std::time::Duration;

use oci_spec::runtime::{
    Hook, Hooks, LinuxIntelRdt, LinuxNamespace, LinuxNamespaceType, LinuxPersonality, LinuxSeccomp, Mount,
    Spec,
};

use super::*;
use crate::defaults;
use crate::error::CompileError;
use crate::mounts::options;

fn request() -> StartRequest {
    let mut spec = defaults::spec();
    spec.process_mut().as_mut().unwrap().set_args(Some(vec!["/bin/true".to_owned()]));
    StartRequest {
        uid: "u".to_owned(),
        name: "default/x".to_owned(),
        run: 3,
        run_dir: "/run/x".into(),
        log_dir: "/log/x".into(),
        spec,
        root: RootFs::Bind { path: "/rootfs".into(), readonly: false },
        volumes: Vec::new(),
        user: None,
        cgroup: CgroupJoin::default(),
        seccomp: None,
        default_rlimits: Vec::new(),
        default_oom_score_adj: None,
        programs: Programs { starter: "/s".into(), shim: "/h".into(), shim_digest: "sha256:0".to_owned() },
        logs: LogLimits::default(),
        deadline: Duration::from_secs(1),
        stdin: false,
        legacy_overlay: false,
        outside: None,
    }
}

fn process(spec: &mut Spec) -> &mut oci_spec::runtime::Process {
    spec.process_mut().as_mut().unwrap()
}

fn linux(spec: &mut Spec) -> &mut oci_spec::runtime::Linux {
    spec.linux_mut().as_mut().unwrap()
}

fn error(change: impl FnOnce(&mut StartRequest)) -> CompileError {
    let mut request = request();
    change(&mut request);
    compile(&request, "boot").expect_err("it must be refused")
}

#[test]
fn the_defaults_make_a_job_and_the_same_one_twice() {
    let job = compile(&request(), "boot").unwrap();
    assert_eq!(job, compile(&request(), "boot").unwrap());
    assert_eq!((job.run, job.boot_id.as_str()), (3, "boot"));
    assert!(job.loopback && job.populate_dev);
    assert_eq!(job.devices.len(), 6);
    assert_eq!(
        job.mounts.iter().map(|m| m.destination.as_str()).collect::<Vec<_>>(),
        ["/proc", "/dev", "/dev/pts", "/dev/mqueue", "/dev/shm", "/sys", "/sys/fs/cgroup"]
    );
    assert_eq!(job.process.umask, 0o022);
    // It crosses a socket unchanged.
    let text = serde_json::to_vec(&job).unwrap();
    assert_eq!(serde_json::from_slice::<Job>(&text).unwrap(), job);
}

type Change = fn(&mut StartRequest);

#[test]
fn fields_that_are_not_built_are_refused_by_name() {
    let cases: [(&str, Change); 13] = [
        ("hooks", |r| {
            let mut hooks = Hooks::default();
            hooks.set_poststart(Some(vec![Hook::default()]));
            r.spec.set_hooks(Some(hooks));
        }),
        ("linux.intelRdt", |r| {
            linux(&mut r.spec).set_intel_rdt(Some(LinuxIntelRdt::default()));
        }),
        ("linux.seccomp", |r| {
            linux(&mut r.spec).set_seccomp(Some(LinuxSeccomp::default()));
        }),
        ("linux.mountLabel", |r| {
            linux(&mut r.spec).set_mount_label(Some("x".to_owned()));
        }),
        ("linux.uidMappings", |r| {
            linux(&mut r.spec).set_uid_mappings(Some(vec![Default::default()]));
        }),
        ("linux.timeOffsets", |r| {
            linux(&mut r.spec).set_time_offsets(Some([("boottime".to_owned(), Default::default())].into()));
        }),
        ("linux.personality.flags", |r| {
            let mut p = LinuxPersonality::default();
            p.set_flags(Some(vec!["X".to_owned()]));
            linux(&mut r.spec).set_personality(Some(p));
        }),
        ("process.apparmorProfile", |r| {
            process(&mut r.spec).set_apparmor_profile(Some("x".to_owned()));
        }),
        ("process.selinuxLabel", |r| {
            process(&mut r.spec).set_selinux_label(Some("x".to_owned()));
        }),
        ("process.ioPriority", |r| {
            process(&mut r.spec).set_io_priority(Some(Default::default()));
        }),
        ("process.scheduler", |r| {
            process(&mut r.spec).set_scheduler(Some(Default::default()));
        }),
        ("linux.namespaces", |r| {
            let mut ns = LinuxNamespace::default();
            ns.set_typ(LinuxNamespaceType::User).set_path(None);
            linux(&mut r.spec).namespaces_mut().as_mut().unwrap().push(ns);
        }),
        ("linux.namespaces", |r| {
            linux(&mut r.spec)
                .namespaces_mut()
                .as_mut()
                .unwrap()
                .retain(|n| n.typ() != LinuxNamespaceType::Mount);
        }),
    ];
    for (field, change) in cases {
        match error(change) {
            CompileError::Unsupported { field: seen, .. } => assert_eq!(seen, field),
            other => panic!("{field}: {other}"),
        }
    }
}

#[test]
fn values_that_cannot_be_right_are_refused() {
    let cases: [(&str, Change); 15] = [
        ("process.args: there is no command", |r| {
            process(&mut r.spec).set_args(Some(Vec::new()));
        }),
        ("process.args: holds a zero byte", |r| {
            process(&mut r.spec).set_args(Some(vec!["a\0b".to_owned()]));
        }),
        ("process.env: `NOVALUE` is not of the form", |r| {
            process(&mut r.spec).set_env(Some(vec!["NOVALUE".to_owned()]));
        }),
        ("process.cwd: `rel` is not an absolute path", |r| {
            process(&mut r.spec).set_cwd("rel".into());
        }),
        ("process.oomScoreAdj: 1001", |r| {
            process(&mut r.spec).set_oom_score_adj(Some(1001));
        }),
        ("`/a/../b` has `..` in it", |r| {
            r.spec.mounts_mut().as_mut().unwrap().push(defaults::mount("/a/../b", "tmpfs", "t", &[]));
        }),
        ("`/./` is the root itself", |r| {
            r.spec.mounts_mut().as_mut().unwrap().push(defaults::mount("/./", "tmpfs", "t", &[]));
        }),
        ("`data` is not absolute", |r| {
            r.spec.mounts_mut().as_mut().unwrap().push(defaults::mount("data", "tmpfs", "t", &[]));
        }),
        ("source: is missing", |r| {
            let mut mount = Mount::default();
            mount
                .set_destination("/x".into())
                .set_typ(Some("bind".to_owned()))
                .set_source(None)
                .set_options(None);
            r.spec.mounts_mut().as_mut().unwrap().push(mount);
        }),
        ("`size=1` is no option of a bind mount", |r| {
            r.spec.mounts_mut().as_mut().unwrap().push(defaults::mount(
                "/x",
                "bind",
                "/y",
                &["rbind", "size=1"],
            ));
        }),
        ("linux.sysctl[vm.swappiness]: is not a setting of one", |r| {
            linux(&mut r.spec).set_sysctl(Some([("vm.swappiness".to_owned(), "1".to_owned())].into()));
        }),
        ("is no name of a kernel setting", |r| {
            linux(&mut r.spec)
                .set_sysctl(Some([("net/../kernel/core_pattern".to_owned(), "|x".to_owned())].into()));
        }),
        ("0 layers", |r| {
            r.root = RootFs::Overlay { lower: Vec::new(), upper: None, work: None, options: Vec::new() };
        }),
        ("129 layers", |r| {
            let lower = vec!["/l".into(); 129];
            r.root = RootFs::Overlay { lower, upper: None, work: None, options: Vec::new() };
        }),
        ("go together", |r| {
            let (lower, upper) = (vec!["/l".into()], Some("/u".into()));
            r.root = RootFs::Overlay { lower, upper, work: None, options: Vec::new() };
        }),
    ];
    for (text, change) in cases {
        let message = error(change).to_string();
        assert!(message.contains(text), "{text}: {message}");
    }
}

#[test]
fn settings_need_the_namespace_they_belong_to() {
    for (key, kind) in [
        ("net.ipv4.ip_forward", LinuxNamespaceType::Network),
        ("kernel.shmmax", LinuxNamespaceType::Ipc),
        ("fs.mqueue.msg_max", LinuxNamespaceType::Ipc),
        ("kernel.domainname", LinuxNamespaceType::Uts),
    ] {
        let set = |r: &mut StartRequest| {
            linux(&mut r.spec).set_sysctl(Some([(key.to_owned(), "1".to_owned())].into()));
        };
        let mut with = request();
        set(&mut with);
        assert_eq!(compile(&with, "b").unwrap().sysctls, [(key.replace('.', "/"), "1".to_owned())]);
        let e = error(|r| {
            set(r);
            linux(&mut r.spec).namespaces_mut().as_mut().unwrap().retain(|n| n.typ() != kind);
        });
        assert!(e.to_string().contains(key), "{e}");
    }
    // An interface's name may hold a dot.
    let mut r = request();
    linux(&mut r.spec)
        .set_sysctl(Some([("net/ipv4/conf/eth0.1/forwarding".to_owned(), "1".to_owned())].into()));
    assert_eq!(compile(&r, "b").unwrap().sysctls[0].0, "net/ipv4/conf/eth0.1/forwarding");
    let mut r = request();
    linux(&mut r.spec)
        .set_sysctl(Some([("net.ipv4.conf.eth0/1.forwarding".to_owned(), "1".to_owned())].into()));
    assert_eq!(compile(&r, "b").unwrap().sysctls[0].0, "net/ipv4/conf/eth0.1/forwarding");
}

#[test]
fn a_host_name_needs_a_namespace_of_its_own() {
    let e = error(|r| {
        r.spec.set_hostname(Some("x".to_owned()));
        linux(&mut r.spec).namespaces_mut().as_mut().unwrap().retain(|n| n.typ() != LinuxNamespaceType::Uts);
    });
    assert!(e.to_string().contains("it would rename the host"), "{e}");
}

#[test]
fn dev_is_populated_only_when_it_is_the_containers_own() {
    let mut r = request();
    for mount in r.spec.mounts_mut().as_mut().unwrap() {
        if mount.destination().to_str() == Some("/dev") {
            *mount = defaults::mount("/dev", "bind", "/dev", &["rbind"]);
        }
    }
    let job = compile(&r, "b").unwrap();
    assert!(!job.populate_dev && job.devices.is_empty());
}

fn volume(tree: RootFs) -> VolumeMount {
    VolumeMount { destination: "/data".to_owned(), tree, inside: None, sub_path: None, options: Vec::new() }
}

fn host(path: &str) -> RootFs {
    RootFs::Bind { path: path.into(), readonly: false }
}

#[test]
fn volumes_come_last_in_their_order_with_normal_paths() {
    let mut r = request();
    let mut second = volume(host("/v/b"));
    second.destination = "/data//in/./ner/".to_owned();
    second.inside = Some("./data/".to_owned());
    second.sub_path = Some(SubPath { path: "a//./b/".to_owned(), create: true });
    second.options = vec!["rro".to_owned(), "nosuid".to_owned(), "rslave".to_owned()];
    let mut third = volume(host("/v/c"));
    third.sub_path = Some(SubPath { path: ".".to_owned(), create: true });
    r.volumes = vec![volume(host("/v/a")), second, third];
    let job = compile(&r, "b").unwrap();
    let [a, b, c] = &job.mounts[job.mounts.len() - 3..] else { panic!("three") };
    let plain = |path| MountSource::Tree { tree: host(path), inside: None, sub_path: None };
    assert_eq!((&a.source, &c.source), (&plain("/v/a"), &plain("/v/c")));
    assert_eq!(
        b.source,
        MountSource::Tree {
            tree: host("/v/b"),
            inside: Some("data".to_owned()),
            sub_path: Some(SubPath { path: "a/b".to_owned(), create: true }),
        }
    );
    assert_eq!(b.destination, "/data/in/ner");
    assert_eq!((b.attrs.rec_set, b.attrs.set), (options::RDONLY, options::NOSUID));
    assert!(b.follows_host() && !b.is_shared() && !a.follows_host());
}

#[test]
fn a_read_only_tree_stays_so_whatever_its_mount_asks_for() {
    for option in ["rw", "rrw"] {
        let mut r = request();
        r.volumes = vec![volume(RootFs::Bind { path: "/v".into(), readonly: true })];
        r.volumes[0].options = vec![option.to_owned()];
        let job = compile(&r, "b").unwrap();
        let attrs = job.mounts.last().unwrap().attrs;
        assert_eq!((attrs.rec_set, attrs.clear, attrs.rec_clear), (options::RDONLY, 0, 0), "{option}");
    }
}

#[test]
fn volumes_that_cannot_be_right_are_refused() {
    let block = || RootFs::Block { device: "/dev/x".into(), fstype: "ext4".to_owned(), options: Vec::new() };
    let sub = |path: &str| Some(SubPath { path: path.to_owned(), create: false });
    let with = |change: &dyn Fn(&mut VolumeMount)| {
        let mut volume = volume(host("/v"));
        change(&mut volume);
        error(|r| r.volumes = vec![volume]).to_string()
    };
    for (text, change) in [
        (
            "volumes[0].subPath: `a/../b` has `..` in it (for /data)",
            &(|v: &mut VolumeMount| v.sub_path = sub("a/../b")) as &dyn Fn(&mut VolumeMount),
        ),
        ("volumes[0].subPath: `..` has `..`", &|v| v.sub_path = sub("..")),
        ("volumes[0].subPath: `/etc` is not relative", &|v| v.sub_path = sub("/etc")),
        ("is no path", &|v| v.sub_path = sub("a\0b")),
        ("volumes[0].inside: `../x` has `..`", &|v| v.inside = Some("../x".to_owned())),
        ("`size=1` is no mount attribute", &|v| v.options = vec!["size=1".to_owned()]),
        ("is the root itself", &|v| v.destination = "/./".to_owned()),
        ("is not absolute", &|v| v.destination = "data".to_owned()),
        ("need a directory of the host", &|v| {
            v.tree = block();
            v.options = vec!["rshared".to_owned()];
        }),
        ("need a directory of the host", &|v| {
            v.tree = block();
            v.options = vec!["rslave".to_owned()];
        }),
    ] {
        let message = with(change);
        assert!(message.contains(text), "{text}: {message}");
    }
}

#[test]
fn a_root_that_hears_only_cannot_hold_a_shared_volume() {
    for (root, right) in
        [(None, true), (Some("rprivate"), true), (Some("rshared"), true), (Some("rslave"), false)]
    {
        let mut r = request();
        linux(&mut r.spec).set_rootfs_propagation(root.map(str::to_owned));
        r.volumes = vec![volume(host("/v"))];
        r.volumes[0].options = vec!["rshared".to_owned()];
        let result = compile(&r, "b");
        assert_eq!(result.is_ok(), right, "{root:?}");
        if let Err(e) = result {
            assert!(e.to_string().contains("would cut off /data"), "{e}");
        }
    }
    let e = error(|r| {
        let mount = defaults::mount("/x", "tmpfs", "tmpfs", &["rshared"]);
        r.spec.mounts_mut().as_mut().unwrap().push(mount);
    });
    assert!(e.to_string().contains("a mount of type tmpfs"), "{e}");
}
