//! Starts shims and prints what each costs: `cargo run -p stower-runtime --example shim_memory [COUNT]`.
//!
//! Each has a container that sleeps, two pipes, a log file and a socket. Measured before and after 64 KiB of output, and
//! over ten idle seconds.

#[path = "../tests/shim/support.rs"]
#[allow(dead_code)]
mod support;

use std::time::Duration;

use support::{Options, Shim};

/// A field of a file of `/proc/<pid>` in kB.
fn field(pid: u32, file: &str, name: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).expect("the shim lives");
    let line = text.lines().find(|l| l.starts_with(name)).expect("a field of the kernel");
    line.split_ascii_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}

fn mean(shims: &[Shim], file: &str, name: &str) -> f64 {
    let count = f64::from(u32::try_from(shims.len()).expect("few"));
    shims.iter().map(|s| field(s.record.shim_pid, file, name)).sum::<f64>() / count
}

/// Ticks of the processor and changes of context of all.
fn work(shims: &[Shim]) -> (u64, f64) {
    let ticks = shims.iter().map(|s| {
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", s.record.shim_pid)).expect("the shim lives");
        let rest = stat.rsplit_once(')').expect("the kernel's form").1.to_owned();
        let fields: Vec<u64> = rest.split_ascii_whitespace().map(|f| f.parse().unwrap_or(0)).collect();
        fields[11] + fields[12]
    });
    (ticks.sum(), shims.iter().map(|s| field(s.record.shim_pid, "status", "voluntary_ctxt")).sum())
}

fn main() {
    let count: usize = std::env::args().nth(1).map_or(100, |n| n.parse().expect("COUNT is a number"));
    let dir = tempfile::tempdir().expect("a directory");
    let fifo = dir.path().join("go");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .expect("a fifo");
    let script =
        format!("read x < {}; head -c 65536 /dev/zero | tr '\\0' x; echo; exec sleep 1000", fifo.display());
    let shims: Vec<Shim> = (0..count).map(|_| Shim::start(&script, &Options::default())).collect();
    for shim in &shims {
        support::wait_for_change(&shim.logs, || shim.logs.join("1-0.log").exists());
    }
    print(&shims, "idle");
    for shim in &shims {
        std::fs::write(&fifo, "\n").expect("a reader");
        let _ = shim;
    }
    for shim in &shims {
        support::wait_for_change(&shim.logs, || {
            std::fs::metadata(shim.logs.join("1-0.log")).is_ok_and(|m| m.len() > 65_536)
        });
    }
    std::thread::sleep(Duration::from_millis(200));
    print(&shims, "after 64 KiB of output");
    let before = work(&shims);
    std::thread::sleep(Duration::from_secs(10));
    let after = work(&shims);
    println!("ten idle seconds: {} ticks, {} wakeups, all together", after.0 - before.0, after.1 - before.1);
}

fn print(shims: &[Shim], when: &str) {
    println!(
        "{when}: {} shims, each {:.1} kB PSS ({:.1} anonymous), {:.1} kB page tables",
        shims.len(),
        mean(shims, "smaps_rollup", "Pss:"),
        mean(shims, "smaps_rollup", "Pss_Anon:"),
        mean(shims, "status", "VmPTE:"),
    );
}
