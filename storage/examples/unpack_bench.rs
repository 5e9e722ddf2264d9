//! Unpacks an image of the shape of a Debian with packages, about a quarter of its size, and compares with what shell
//! tools take for the same bytes in the same run. `cargo run --release -p stower-storage --features testing --example unpack_bench`
//! (root; `ROUNDS=n`; `BENCH_DIR=/path` chooses the filesystem).

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use stower_storage::testsuite::{Item, tar};
use stower_storage::{Compression, DiffId, Digest, LayerBlob, SnapshotKey, Snapshots, UnpackLimits};

/// A small generator, so that every run has the same bytes.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> usize {
        usize::try_from(self.next() % bound).unwrap()
    }
}

/// Text that packs to a bit more than a third, as the real image does.
fn content(random: &mut Random, words: &[Vec<u8>], size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(size + 16);
    while out.len() < size {
        out.extend_from_slice(&words[random.below(1 << 12)]);
    }
    out.truncate(size);
    out
}

fn layer(random: &mut Random, words: &[Vec<u8>], number: usize, files: usize) -> Vec<Item> {
    let mut items = Vec::new();
    for at in 0..files {
        let dir = format!("usr/share/p{number}/d{}", at / 16);
        if at % 16 == 0 {
            items.push(Item::dir(&dir));
        }
        // Mostly small, some big: 20 KB in the mean.
        let size = match random.below(100) {
            0 => 400_000 + random.below(800_000),
            1..=20 => 10_000 + random.below(80_000),
            _ => random.below(8_000),
        };
        let path = format!("{dir}/file-{at}");
        match random.below(20) {
            0 => items.push(Item::symlink(&path, "file-0")),
            1 => items.push(Item::file(&path, content(random, words, size)).owner(33, 33)),
            _ => items.push(Item::file(&path, content(random, words, size))),
        }
    }
    items
}

struct Packed {
    diff_id: DiffId,
    gzip: PathBuf,
    zstd: PathBuf,
}

fn make(at: &Path) -> (Vec<Packed>, [u64; 3], usize) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let words: Vec<Vec<u8>> = (0..1 << 12)
        .map(|_| {
            let length = 3 + random.below(8);
            (0..length).map(|_| u8::try_from(32 + random.below(90)).unwrap()).collect()
        })
        .collect();
    let counts = [2600, 900, 900, 150, 900, 500, 800, 40, 700];
    let mut sizes = [0u64; 3];
    let layers = counts
        .iter()
        .enumerate()
        .map(|(number, files)| {
            let archive = tar::archive(&layer(&mut random, &words, number, *files));
            let gzip = at.join(format!("{number}.gz"));
            let zstd = at.join(format!("{number}.zst"));
            let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            packer.write_all(&archive).unwrap();
            let packed = packer.finish().unwrap();
            std::fs::write(&gzip, &packed).unwrap();
            let squeezed = zstd::encode_all(&archive[..], 3).unwrap();
            std::fs::write(&zstd, &squeezed).unwrap();
            for (sum, bytes) in sizes.iter_mut().zip([&archive, &packed, &squeezed]) {
                *sum += u64::try_from(bytes.len()).unwrap();
            }
            Packed { diff_id: DiffId(Digest::of(&archive)), gzip, zstd }
        })
        .collect();
    (layers, sizes, counts.iter().sum())
}

fn shell(command: &str) -> Duration {
    let begun = Instant::now();
    assert!(Command::new("sh").args(["-ec", command]).status().unwrap().success());
    begun.elapsed()
}

fn unpack(root: &Path, driver: &str, layers: &[Packed], zstd: bool) -> Duration {
    let store = Snapshots::open(root, Some(driver), &[]).unwrap();
    let blobs = layers
        .iter()
        .map(|layer| {
            let path = if zstd { layer.zstd.clone() } else { layer.gzip.clone() };
            let size = std::fs::metadata(&path).unwrap().len();
            let open = move || Ok(Box::new(std::fs::File::open(&path)?) as Box<dyn Read + Send>);
            let compression = if zstd { Compression::Zstd } else { Compression::Gzip };
            LayerBlob { diff_id: layer.diff_id, compression, size, open: Box::new(open) }
        })
        .collect();
    let begun = Instant::now();
    let top = store.unpack_image(blobs, &UnpackLimits::default()).unwrap();
    let took = begun.elapsed();
    if driver == "overlay" && !zstd {
        let begun = Instant::now();
        for n in 0..100 {
            let key = SnapshotKey::new(format!("k{n}")).unwrap();
            store.prepare(&key, Some(&top)).unwrap();
            store.activate(&key).unwrap();
        }
        let made = begun.elapsed();
        let begun = Instant::now();
        for n in 0..100 {
            store.remove(&SnapshotKey::new(format!("k{n}")).unwrap()).unwrap();
        }
        println!("  100 x prepare + activate {made:?}, 100 x remove {:?}", begun.elapsed());
    }
    took
}

/// Seconds of CPU of this process and of those it waited for (proc_pid_stat(5), in units of 10 ms on Linux).
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after = stat.rsplit_once(')').unwrap().1;
    let ticks: f64 =
        after.split_whitespace().skip(11).take(4).map(|field| field.parse::<f64>().unwrap()).sum();
    ticks / 100.0
}

fn main() {
    let base = std::env::var_os("BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let rounds = std::env::var("ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    let dir = tempfile::Builder::new().prefix("unpack-bench").tempdir_in(base).unwrap();
    let at = dir.path();
    let (layers, [plain, gzip, zstd], files) = make(at);
    println!(
        "{} layers, {files} entries, {} MB plain, {} MB gzip, {} MB zstd",
        layers.len(),
        plain >> 20,
        gzip >> 20,
        zstd >> 20
    );
    let only = std::env::var("ONLY").ok();
    // Nothing is removed before the end: ext4 without a journal makes files slowly for a minute after many were removed.
    let w = at.display();
    let tar = "tar -x --xattrs --xattrs-include='*' --numeric-owner";
    for round in 0..rounds {
        println!("round {}", round + 1);
        let step = |name: &str, run: &mut dyn FnMut() -> Duration| {
            if only.as_ref().is_none_or(|only| name.contains(only)) {
                let _ = Command::new("sync").status();
                let before = cpu();
                let took = run().as_secs_f64();
                println!("  {name:<34} {took:>6.2} s {:>6.2} s of CPU", cpu() - before);
            }
        };
        step("gzip | tar x, a layer at a time", &mut || {
            shell(&format!("for i in {w}/*.gz; do mkdir $i.{round}; gzip -dc $i | {tar} -C $i.{round}; done"))
        });
        step("gzip | tar x, two layers at once", &mut || {
            shell(&format!(
                "for i in {w}/*.gz; do mkdir $i.{round}p; echo $i; done | xargs -P2 -I@ sh -c \"gzip -dc @ | {tar} -C @.{round}p\""
            ))
        });
        step("overlay, gzip, on disk", &mut || {
            unpack(&at.join(format!("s{round}o")), "overlay", &layers, false)
        });
        step("overlay, zstd, on disk", &mut || {
            unpack(&at.join(format!("s{round}z")), "overlay", &layers, true)
        });
        step("native, gzip, on disk", &mut || {
            unpack(&at.join(format!("s{round}n")), "native", &layers, false)
        });
    }
}
