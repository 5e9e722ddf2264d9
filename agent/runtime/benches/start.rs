//! How long from `Runtime::start` to the container's first instruction, beside a hand-written floor in the same run.
//!
//! `cargo bench -p stower-runtime --bench start -- [rounds] [floor program]`. The floor program is called as
//! `floor ID ROOTFS OPTIONS COMMAND`, does the same namespaces, mounts, groups, capabilities and filter with nothing
//! around them, and has no supervisor. runc and crun, where they are installed, and `stower-runtime` run a bundle of the
//! same container, without the filter and on a plain directory, as the floor does. Needs root. Not a test: it asserts
//! nothing.

#[path = "../tests/common/mod.rs"]
mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::Case;
use oci_spec::runtime::LinuxNamespaceType;
use stower_runtime::caps;
use stower_runtime::cgroup::{Cgroups, Limits};
use stower_runtime::seccomp::Filter;
use stower_runtime::start::{Runtime, Started};

fn now() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(t.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(t.tv_nsec).unwrap()
}

fn stamp() -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stamp");
    let status = Command::new("rustc")
        .args([
            "--edition",
            "2024",
            "-C",
            "opt-level=s",
            "-C",
            "panic=abort",
            "-C",
            "relocation-model=static",
        ])
        .args(["-C", "link-args=-nostartfiles -nostdlib -static -no-pie", "-o"])
        .arg(&path)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/start/stamp.rs"))
        .status()
        .unwrap();
    assert!(status.success());
    path
}

/// Milliseconds of each round, and of the processor in all children.
#[derive(Default)]
struct Series {
    name: String,
    first: Vec<f64>,
    returned: Vec<f64>,
    cpu: Vec<f64>,
    groups: Vec<f64>,
}

fn children_cpu() -> f64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the structure lives through the call, and all-zero bytes are a valid one.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr());
        usage.assume_init()
    };
    let ms = |t: libc::timeval| t.tv_sec as f64 * 1e3 + t.tv_usec as f64 / 1e3;
    ms(usage.ru_utime) + ms(usage.ru_stime)
}

fn case(stamp: &Path, host_network: bool) -> Case {
    let mut case = Case::new(&[]);
    fs::copy(stamp, case.path("lower/bin/stamp")).unwrap();
    for dir in ["proc", "sys", "dev"] {
        fs::create_dir(case.path("lower").join(dir)).unwrap();
    }
    for file in ["hosts", "resolv.conf"] {
        fs::write(case.path("lower/etc").join(file), "").unwrap();
        case.add_mount(&format!("/etc/{file}"), "bind", &Path::new("/etc").join(file), &["rbind", "ro"]);
    }
    case.process().set_args(Some(vec!["/bin/stamp".to_owned()])).set_no_new_privileges(Some(true));
    case.request.seccomp = Some(Filter::default_for(caps::DEFAULT));
    if host_network {
        case.drop_namespace(LinuxNamespaceType::Network);
    }
    case
}

fn ours(stamp: &Path, host_network: bool, cgroups: &Cgroups, series: &mut Series) {
    let mut case = case(stamp, host_network);
    case.cgroups = cgroups.clone();
    let runtime = Runtime::new().unwrap();
    std::thread::sleep(Duration::from_millis(80));
    let cpu = children_cpu();
    let begin = now();
    case.request.cgroup = case
        .cgroups
        .create(
            &case.uid,
            &Limits {
                memory_bytes: Some(256 << 20),
                pids: Some(128),
                cpu_shares: Some(512),
                cpu_quota_us: Some(50_000),
                ..Limits::default()
            },
        )
        .unwrap();
    series.groups.push((now() - begin) as f64 / 1e6);
    let started = runtime.start(&case.request).unwrap();
    let returned = now();
    case.started = Some(started);
    let (_, log) = case.finish();
    Started::reap_shim(&case.started().shim_pidfd);
    let first = u64::from_str_radix(log.trim(), 16).unwrap();
    series.first.push((first - begin) as f64 / 1e6);
    series.returned.push((returned - begin) as f64 / 1e6);
    series.cpu.push(children_cpu() - cpu);
}

fn floor(program: &Path, options: &str, case: &Case, series: &mut Series) {
    let filter = case.path("filter");
    fs::write(&filter, Filter::default_for(caps::DEFAULT).bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(80));
    let cpu = children_cpu();
    let begin = now();
    let output = Command::new(program)
        .args(["bench", case.path("lower").to_str().unwrap(), options, "/bin/stamp"])
        .env("SECCOMP_BPF", &filter)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let Ok(first) = u64::from_str_radix(text.trim(), 16) else {
        panic!("the floor failed: {}", String::from_utf8_lossy(&output.stderr));
    };
    series.first.push((first - begin) as f64 / 1e6);
    series.returned.push((now() - begin) as f64 / 1e6);
    series.cpu.push(children_cpu() - cpu);
}

/// An OCI runtime's command line, and the mount namespace it is called in.
struct Peer {
    program: PathBuf,
    namespace: Option<fs::File>,
}

/// A mount namespace without cgroup2: crun makes no container with limits where groups of both versions have controllers.
/// It goes with the process that this returns.
fn version_1_alone() -> (std::process::Child, fs::File) {
    let script = "umount /sys/fs/cgroup/unified 2>/dev/null; echo; exec sleep 3600";
    let mut child = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", script])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
    let namespace = fs::File::open(format!("/proc/{}/ns/mnt", child.id())).unwrap();
    (child, namespace)
}

/// The bundle of `case`.
fn bundle(case: &Case) -> PathBuf {
    let mut spec = case.request.spec.clone();
    let mut root = oci_spec::runtime::Root::default();
    root.set_path(case.path("lower"));
    spec.set_root(Some(root));
    let mut spec = serde_json::to_value(&spec).unwrap();
    spec["linux"]["resources"] = serde_json::json!({
        "memory": {"limit": 256 << 20}, "pids": {"limit": 128}, "cpu": {"shares": 512, "quota": 50_000},
    });
    spec["linux"].as_object_mut().unwrap().remove("cgroupsPath");
    let dir = case.path("bundle");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("config.json"), spec.to_string()).unwrap();
    dir
}

fn peer(peer: &Peer, bundle: &Path, state: &Path, series: &mut Series) {
    use std::os::unix::process::CommandExt;
    std::thread::sleep(Duration::from_millis(80));
    let mut command = Command::new(&peer.program);
    command.arg("--root").arg(state).arg("run").arg("--bundle").arg(bundle).arg("bench-start");
    if let Some(namespace) = &peer.namespace {
        let namespace = namespace.try_clone().unwrap();
        let enter = move || {
            rustix::thread::move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&namespace),
                Some(rustix::thread::LinkNameSpaceType::Mount),
            )
            .map_err(std::io::Error::from)
        };
        // SAFETY: setns(2) is all that it calls.
        unsafe { command.pre_exec(enter) };
    }
    let cpu = children_cpu();
    let begin = now();
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let Ok(first) = u64::from_str_radix(text.trim(), 16) else {
        panic!("{} failed: {}", peer.program.display(), String::from_utf8_lossy(&output.stderr));
    };
    series.first.push((first - begin) as f64 / 1e6);
    series.returned.push((now() - begin) as f64 / 1e6);
    series.cpu.push(children_cpu() - cpu);
}

/// Where a program is installed.
fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.exists())
}

/// The value below which `percent` of the list lie.
fn percentile(list: &[f64], percent: usize) -> f64 {
    let mut list = list.to_vec();
    list.sort_by(f64::total_cmp);
    list[(list.len() - 1) * percent / 100]
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let rounds: usize = args.first().and_then(|a| a.parse().ok()).unwrap_or(30);
    let program = args.get(1).map(PathBuf::from);
    let stamp = stamp();
    let name = |name: &str| Series { name: name.to_owned(), ..Series::default() };
    let mut all = vec![
        name("floor, own network"),
        name("floor, host network"),
        name("stower, own network"),
        name("stower, host network"),
    ];
    let base = case(&stamp, false);
    let (mut holder, namespace) = version_1_alone();
    let mut peers = vec![Peer { program: env!("CARGO_BIN_EXE_stower-runtime").into(), namespace: None }];
    for program in ["runc", "crun"].into_iter().filter_map(installed) {
        peers.push(Peer { program, namespace: Some(namespace.try_clone().unwrap()) });
    }
    all.extend(
        peers.iter().map(|peer| name(&format!("{} run", peer.program.file_name().unwrap().display()))),
    );
    let (bundle, state) = (bundle(&base), base.path("state"));
    fs::create_dir(&state).unwrap();
    // The agent's own top groups are there since its first container.
    let cgroups = Cgroups::detect(&format!("bench{}", std::process::id()), None).unwrap();
    cgroups.create("first", &Limits::default()).unwrap();
    for round in 0..rounds + 2 {
        if let Some(program) = &program {
            floor(program, "nctsd", &base, &mut all[0]);
            floor(program, "ctsd", &base, &mut all[1]);
        }
        ours(&stamp, false, &cgroups, &mut all[2]);
        ours(&stamp, true, &cgroups, &mut all[3]);
        for (it, series) in peers.iter().zip(&mut all[4..]) {
            let state = state.join(it.program.file_name().unwrap());
            peer(it, &bundle, &state, series);
        }
        if round == 1 {
            // Two rounds to warm up.
            all.iter_mut().for_each(|s| *s = Series { name: s.name.clone(), ..Series::default() });
        }
    }
    holder.kill().and_then(|()| holder.wait()).unwrap();
    cgroups.remove("first").and_then(|()| cgroups.remove_root()).unwrap();
    println!(
        "{:<22} {:>9} {:>7} {:>7} {:>9} {:>7} {:>6}",
        "ms", "first ins", "p95", "min", "returned", "cpu", "ratio"
    );
    for (i, s) in all.iter().enumerate().filter(|(_, s)| !s.first.is_empty()) {
        let floor = &all[if i < 4 { i % 2 } else { 0 }].first;
        let ratio =
            if floor.is_empty() { f64::NAN } else { percentile(&s.first, 50) / percentile(floor, 50) };
        println!(
            "{:<22} {:>9.2} {:>7.2} {:>7.2} {:>9.2} {:>7.2} {:>6.2}",
            s.name,
            percentile(&s.first, 50),
            percentile(&s.first, 95),
            percentile(&s.first, 0),
            percentile(&s.returned, 50),
            percentile(&s.cpu, 50),
            ratio
        );
        if !s.groups.is_empty() {
            println!("{:<22} {:>9.2}", "  making the groups", percentile(&s.groups, 50));
        }
    }
}
