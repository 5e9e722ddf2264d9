//! `cargo xtask test`: every check and every test, and what they need.

use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Result, bail};
use stower_e2e::cluster::programs;
use stower_e2e::{process, requires, vm};

use crate::build::{cargo, install, show};

/// Programs that the tests call, with their Debian packages. What the tests only read, images and the registry, they
/// unpack into the cache themselves.
const PROGRAMS: [(&str, &str); 20] = [
    ("cc", "gcc"),
    ("c++", "g++"),
    ("zstd", "zstd"),
    ("tar", "tar"),
    ("gzip", "gzip"),
    ("setpriv", "util-linux"),
    ("ld", "binutils"),
    ("mkfs.xfs", "xfsprogs"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("docker-registry", "docker-registry"),
    ("htpasswd", "apache2-utils"),
    ("systemd-analyze", "systemd"),
    ("runc", "runc"),
    ("crun", "crun"),
    ("openssl", "openssl"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("containerd", "containerd"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    (vm::PROGRAM, vm::PACKAGE),
];

/// The step that needs Kubernetes.
const CLUSTER: &str = "tests on Kubernetes";
/// Steps with hundreds of processes that wait for each other. One that fails has a second attempt, and what failed at the first is
/// told in the end.
const UNSTEADY: [&str; 4] = [CRATES, BLACK_BOX, MACHINES, CLUSTER];
const CRATES: &str = "tests of each crate";
const BLACK_BOX: &str = "black-box tests";
const MACHINES: &str = "tests in virtual machines";

/// Runs all steps, the later ones after a failure too, and fails if one did. Of the tests in virtual machines these are the essential
/// ones; `cargo xtask vm` has all.
pub(crate) fn run() -> Result<()> {
    requires::root()?;
    install(&PROGRAMS)?;
    if process::run("cargo-deny", ["--version"]).is_err() {
        show(cargo().args(["install", "cargo-deny", "--locked"]))?;
    }
    let threads = std::env::var("STOWER_E2E_THREADS").unwrap_or_else(|_| "4".to_owned());
    // Kubernetes takes ten minutes the first time; it is built behind everything else, and its tests come last.
    let kubernetes = std::thread::spawn(programs::prepare);
    let steps: [(&str, &[&str]); 9] = [
        ("format", &["fmt", "--all", "--check"]),
        ("lints", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
        // The advisories are a git repository of their own: `cargo deny check advisories` where it can be reached.
        (
            "dependencies",
            &[
                "deny",
                "--config",
                ".deny.toml",
                "check",
                "--hide-inclusion-graph",
                "bans",
                "licenses",
                "sources",
            ],
        ),
        (CRATES, &["test", "--workspace", "--exclude", "stower-e2e", "--no-fail-fast"]),
        ("the program under test", &["build", "-p", "stower", "-p", "stower-runtime"]),
        (BLACK_BOX, &["test", "-p", "stower-e2e", "--", "--test-threads", &threads]),
        ("hostile bytes", &["xtask", "fuzz", "--repeatable"]),
        (MACHINES, &["xtask", "vm", "--essential"]),
        (CLUSTER, &["test", "-p", "stower-e2e", "--test", "cluster", "--", "--test-threads", &threads]),
    ];
    let mut kubernetes = Some(kubernetes);
    let (mut failed, mut unsteady) = (Vec::new(), Vec::new());
    for (name, args) in steps {
        println!("== {name}: cargo {}", args.join(" "));
        let start = Instant::now();
        let built = if name == CLUSTER { kubernetes.take().map_or(Ok(()), wait_for_build) } else { Ok(()) };
        let mut done = built.and_then(|()| show(cargo().args(args)));
        if done.is_err() && UNSTEADY.contains(&name) {
            println!(
                "== {name}: FAILED; once more, since a busy machine makes waits run out: cargo {}",
                args.join(" ")
            );
            done = show(cargo().args(args));
            unsteady.extend(done.is_ok().then_some(name));
        }
        println!(
            "== {name}: {} after {} s",
            if done.is_ok() { "done" } else { "FAILED" },
            start.elapsed().as_secs()
        );
        failed.extend(done.is_err().then_some(name));
    }
    for name in unsteady {
        println!("== {name}: passed at the second attempt alone: look at what failed at the first");
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

fn wait_for_build(build: JoinHandle<Result<()>>) -> Result<()> {
    let built = build.join().unwrap_or_else(|_| bail!("the build of Kubernetes panicked"));
    if let Err(error) = &built {
        println!("{error:#}");
    }
    built
}
