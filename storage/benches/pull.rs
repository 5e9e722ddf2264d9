//! A cold pull of an image of about 250 MB (the files of this machine's `/usr`) from a registry on loopback, and what
//! `curl` with `gzip` and `tar` need for the same. Prints a table. Needs root, curl and the package docker-registry.
//! `cargo bench -p stower-storage --bench pull`

#[path = "../tests/support/mod.rs"]
mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use stower_storage::{Digest, PullRequest};
use support::{Flavour, Registry, image, storage_in};

const LAYERS: usize = 6;
const LAYER_BYTES: usize = 42 << 20;
const RUNS: usize = 3;

/// Real files, as `tar` writes them, about `LAYER_BYTES` a layer.
fn layers() -> Vec<Vec<u8>> {
    let list =
        "find /usr/lib /usr/share /usr/bin -xdev -type f -size -4096k 2>/dev/null | sort | head -n 120000";
    let names = Command::new("bash").args(["-c", list]).output().unwrap().stdout;
    let names: Vec<String> =
        String::from_utf8_lossy(&names).lines().map(|line| line.trim_start_matches('/').to_owned()).collect();
    let mut layers = Vec::new();
    let mut at = 0;
    while layers.len() < LAYERS {
        let (begin, mut bytes) = (at, 0usize);
        while at < names.len() && bytes < LAYER_BYTES {
            let size = std::fs::metadata(format!("/{}", names[at])).map_or(0, |meta| meta.len());
            bytes += usize::try_from(size).unwrap() + 1024;
            at += 1;
        }
        assert!(at > begin, "this machine has too few files for the benchmark");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), names[begin..at].join("\n")).unwrap();
        let tar = Command::new("tar")
            .args(["-C", "/", "-cf", "-", "--ignore-failed-read", "-T"])
            .arg(file.path())
            .output()
            .unwrap();
        layers.push(tar.stdout);
    }
    layers
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

fn shell(script: &str) -> Duration {
    let begin = Instant::now();
    assert!(Command::new("bash").args(["-c", script]).status().unwrap().success());
    begin.elapsed()
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let registry = Registry::start();
    let layers = layers();
    let plain: usize = layers.iter().map(Vec::len).sum();
    for (name, flavour, unpack) in
        [("gzip", Flavour::OciGzip, "gzip -dc"), ("zstd", Flavour::OciZstd, "zstd -dcq")]
    {
        let built = image("linux/amd64", &layers, flavour);
        let packed: usize = built.blobs.iter().map(Vec::len).sum();
        runtime.block_on(registry.push("bench", name, &built));
        println!(
            "{name}: {LAYERS} layers, {} MB unpacked, {} MB transferred; median of {RUNS}, seconds",
            plain >> 20,
            packed >> 20
        );
        let pull = || {
            let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            let storage = storage_in(dir.path(), &[&registry.host]);
            let reference = registry.name(&format!("bench:{name}")).parse().unwrap();
            let begin = Instant::now();
            runtime.block_on(storage.pull(&reference, PullRequest::default())).unwrap();
            begin.elapsed()
        };
        println!("  pull (verified, synced)        {:.2}", median((0..RUNS).map(|_| pull()).collect()));
        let each = |one: &str| -> Vec<String> {
            let blobs = &built.blobs[..LAYERS];
            let line = |(at, blob): (usize, &Vec<u8>)| {
                let url = format!("http://{}/v2/bench/blobs/{}", registry.host, Digest::of(blob));
                format!("mkdir {at}; curl -sS {url} | {one} | tar -C {at} -x")
            };
            blobs.iter().enumerate().map(line).collect()
        };
        let have = Command::new("bash")
            .args(["-c", &format!("command -v {}", unpack.split(' ').next().unwrap())])
            .output()
            .unwrap();
        if !have.status.success() {
            continue;
        }
        let floor = |join: &str, end: &str| {
            let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            let lines =
                each(unpack).into_iter().map(|line| format!("({line}){join}")).collect::<Vec<_>>().join("\n");
            shell(&format!("set -e; cd {}; {lines}\n{end}", dir.path().display()))
        };
        println!(
            "  curl|{unpack}|tar, one by one  {:.2}",
            median((0..RUNS).map(|_| floor("", ":")).collect())
        );
        println!(
            "  curl|{unpack}|tar, all at once {:.2}",
            median((0..RUNS).map(|_| floor(" &", "wait")).collect())
        );
        println!(
            "  the same and syncfs            {:.2}",
            median((0..RUNS).map(|_| floor(" &", "wait; sync -f .")).collect())
        );
    }
}
