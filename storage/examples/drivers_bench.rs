//! What each storage driver takes for what a start and an end of a container ask of it, in one run:
//! `cargo run --release -p stower-storage --features testing --example drivers_bench [-- SUBJECT…]` (root; `BENCH_DIR=/path`
//! chooses the filesystem). Subjects are those of the test suite; `dmsetup` is the same on a thin pool by external commands, as
//! snapshotters do it that run them.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use stower_storage::detached;
use stower_storage::testsuite::{Bench, Files, Item, SUBJECTS, Subject, close};

const STEPS: [&str; 6] = ["unpack", "prepare", "mount", "commit", "remove", "100 at once"];
const USUAL: [&str; 4] = ["native", "overlay", "overlay_limited", "btrfs"];
const EACH: usize = 15;
const AT_ONCE: usize = 100;
const THREADS: usize = 8;

type Row = [Option<Duration>; STEPS.len()];

fn main() {
    let named: Vec<String> = std::env::args().skip(1).collect();
    let named: Vec<&str> =
        if named.is_empty() { USUAL.to_vec() } else { named.iter().map(String::as_str).collect() };
    println!("| | {} |\n|---|{}", STEPS.join(" | "), "---|".repeat(STEPS.len()));
    let mut first: Option<Row> = None;
    for name in named {
        // A subject's ground is a mount in its thread's own namespace.
        let row = std::thread::spawn({
            let name = name.to_owned();
            move || if name == "dmsetup" { external() } else { measure(*subject(&name)) }
        });
        let row = row.join().unwrap();
        let base = *first.get_or_insert(row);
        let cells = row.iter().zip(base).map(|(it, base)| match (it, base) {
            (Some(it), Some(base)) => {
                format!("{:.2} ({:.2})", it.as_secs_f64() * 1e3, it.as_secs_f64() / base.as_secs_f64())
            }
            (Some(it), None) => format!("{:.2}", it.as_secs_f64() * 1e3),
            (None, _) => "–".to_owned(),
        });
        println!("| {name} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
}

fn subject(name: &str) -> &'static Subject {
    SUBJECTS.iter().find(|known| known.name == name).unwrap_or_else(|| panic!("no subject {name}"))
}

fn median(mut all: Vec<Duration>) -> Option<Duration> {
    all.sort_unstable();
    all.get(all.len() / 2).copied()
}

fn timed<T>(all: &mut Vec<Duration>, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let done = work();
    all.push(begun.elapsed());
    done
}

/// 4 layers, 800 files, 8 MB; others in each round.
fn image(round: usize) -> Vec<Vec<Item>> {
    let layer = |number: usize| {
        let file = |at: usize| {
            let size = if at.is_multiple_of(20) { 100_000 } else { 5_000 };
            Item::file(format!("l{number}/d{}/f{at}", at / 16), format!("{round} {at} ").repeat(size / 8))
        };
        (0..200).map(file).collect()
    };
    (0..4).map(layer).collect()
}

fn measure(subject: Subject) -> Row {
    let mut bench = Bench::on(subject);
    let mut all: [Vec<Duration>; STEPS.len()] = Default::default();
    let mut top = None;
    for round in 0..3 {
        let layers = image(round);
        top = Some(timed(&mut all[0], || bench.unpack(&layers)));
    }
    let mut keys = Vec::new();
    for _ in 0..EACH {
        let key = bench.key();
        timed(&mut all[1], || bench.store().prepare(&key, top.as_ref()).unwrap());
        // What makes the filesystem is in it; its end is not.
        let mount = timed(&mut all[2], || {
            let mounts = bench.store().activate(&key).unwrap();
            detached::open(&mounts[0]).unwrap()
        });
        let files = Files::new(&mount);
        for at in 0..10 {
            files.write(&format!("written-{at}"), &"x".repeat(64 << 10));
        }
        close(mount);
        bench.store().deactivate(&key).unwrap();
        keys.push(key);
    }
    for key in &keys[..EACH / 2] {
        let diff_id = bench.diff_id();
        timed(&mut all[3], || bench.store().commit(key, &diff_id).unwrap());
    }
    for key in &keys[EACH / 2..] {
        timed(&mut all[4], || bench.store().remove(key).unwrap());
    }
    let keys: Vec<_> = (0..AT_ONCE).map(|_| bench.key()).collect();
    let at_once = |at: usize| {
        bench.store().prepare(&keys[at], top.as_ref()).unwrap();
        let mounts = bench.store().activate(&keys[at]).unwrap();
        detached::open(&mounts[0]).unwrap()
    };
    let mounts = timed(&mut all[5], || spread(&at_once));
    drop(mounts);
    for key in &keys {
        bench.store().deactivate(key).unwrap();
        bench.store().remove(key).unwrap();
    }
    all.map(median)
}

/// Does it with each number below [`AT_ONCE`], on [`THREADS`] threads of this one's namespace.
fn spread<T: Send>(work: &(impl Fn(usize) -> T + Sync)) -> Vec<T> {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let one = || {
            let mut done = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= AT_ONCE {
                    return done;
                }
                done.push(work(at));
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(one)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

fn run(program: &str, args: &[&str]) -> String {
    // Where no udev answers, dmsetup makes names itself and waits for nobody.
    let mut command = Command::new(program);
    command.args(args).env("DM_DISABLE_UDEV", "1");
    let out = command.output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

const POOL: &str = "stower-bench";
/// Beyond those that others have.
const MINOR: usize = 5000;
/// 64 MiB, as the suite's base device has.
const SECTORS: &str = "131072";

/// A thin pool on files, and one program a step.
fn external() -> Row {
    let dir = tempfile::tempdir().unwrap();
    let device = |name: &str, bytes: u64| {
        let path = dir.path().join(name);
        std::fs::File::create(&path).unwrap().set_len(bytes).unwrap();
        run("losetup", &["--find", "--show", path.to_str().unwrap()])
    };
    let (data, metadata) = (device("data", 4 << 30), device("metadata", 64 << 20));
    let major = std::fs::read_to_string("/proc/devices").unwrap();
    let major = major.lines().find_map(|line| line.trim().strip_suffix(" device-mapper")).unwrap();
    // Numbers of our own choice give names below /dev without udev, and without one more program.
    let create = |name: &str, minor: usize, table: &str| {
        run("dmsetup", &["create", name, "--major", major, "--minor", &minor.to_string(), "--table", table]);
        format!("/dev/dm-{minor}")
    };
    let table = format!("0 8388608 thin-pool {metadata} {data} 128 32768 1 skip_block_zeroing");
    let pool = create(POOL, MINOR, &table);
    let message = |text: &str| run("dmsetup", &["message", POOL, "0", text]);
    let name = |at: usize| format!("{POOL}-{at}");
    let open = |at: usize| create(&name(at), MINOR + 1 + at, &format!("0 {SECTORS} thin {pool} {at}"));
    message("create_thin 0");
    let base = open(0);
    run("mkfs.ext4", &["-q", "-E", "nodiscard", &base]);
    run("dmsetup", &["remove", &name(0)]);
    let prepare = |at: usize| {
        message(&format!("create_snap {at} 0"));
        open(at)
    };
    let place = |at: usize| {
        let place = dir.path().join(at.to_string());
        std::fs::create_dir(&place).unwrap();
        place.to_str().unwrap().to_owned()
    };
    let mut all: [Vec<Duration>; STEPS.len()] = Default::default();
    for at in 1..=EACH {
        let place = place(at);
        let node = timed(&mut all[1], || prepare(at));
        timed(&mut all[2], || run("mount", &[&node, &place]));
        for file in 0..10 {
            std::fs::write(Path::new(&place).join(format!("written-{file}")), [b'x'; 64 << 10]).unwrap();
        }
        run("umount", &[&place]);
        timed(&mut all[4], || {
            run("dmsetup", &["remove", &name(at)]);
            message(&format!("delete {at}"));
        });
    }
    let numbers = EACH + 1..=EACH + AT_ONCE;
    let places: Vec<_> = numbers.clone().map(place).collect();
    timed(&mut all[5], || {
        spread(&|at| {
            let node = prepare(EACH + 1 + at);
            run("mount", &[&node, &places[at]]);
        })
    });
    for (at, place) in numbers.zip(&places) {
        run("umount", &[place]);
        run("dmsetup", &["remove", &name(at)]);
    }
    run("dmsetup", &["remove", POOL]);
    run("losetup", &["--detach", &data]);
    run("losetup", &["--detach", &metadata]);
    all.map(median)
}
