//! Faults, and what is said of them.

use std::fmt::Display;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use stower_storage::testsuite::Files;
use stower_storage::{PoolStatus, Pressure, SnapshotKey, Snapshots, detached};

use crate::support::{LoopDevice, noise as any_noise, open, run, until};

/// A line of the scoreboard.
pub(crate) fn score(fault: &str, call: &str, gave: impl Display, begin: Instant) {
    println!("SCORE {fault} | {call} | {gave} | {:.1} s", begin.elapsed().as_secs_f64());
}

/// Does it on a thread of its own: a call that hangs is told, and not waited for.
pub(crate) fn within<T: Send>(what: &str, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let (done, wait) = channel();
        scope.spawn(move || done.send(work()));
        match wait.recv_timeout(Duration::from_secs(60)) {
            Ok(result) => result,
            // A thread that hangs in the kernel is never joined; the emulator's end is that of all.
            Err(RecvTimeoutError::Timeout) => {
                eprintln!("hangs: {what}");
                std::process::abort();
            }
            Err(RecvTimeoutError::Disconnected) => panic!("{what}"),
        }
    })
}

/// As many bytes of one page as are wanted: an emulator makes it in no time.
pub(crate) fn noise(seed: usize, bytes: usize) -> Vec<u8> {
    let mut all = any_noise(seed, 4096).repeat(bytes.div_ceil(4096));
    all.truncate(bytes);
    all
}

pub(crate) fn pool(store: &Snapshots) -> PoolStatus {
    store.status().unwrap().pool.unwrap()
}

pub(crate) fn pressure(store: &Snapshots) -> Option<Pressure> {
    pool(store).pressure
}

/// Starts until the pool is as before, as its message says to do once nothing uses it. What this process has closed may be open for a
/// moment still in another test's child that has not become its program yet; a pool that is in use stays as it is.
pub(crate) fn started_unused(at: &std::path::Path) -> Snapshots {
    let mut store = None;
    until("a start finds the pool unused", || {
        drop(store.take());
        store = Some(open(at, &[]).unwrap());
        store.as_ref().and_then(pressure).is_none()
    });
    store.unwrap()
}

/// A word for it.
pub(crate) fn reason(store: &Snapshots) -> &'static str {
    pressure(store).as_ref().map_or("none", Pressure::reason)
}

/// How the kernel has the pool: `rw`, `ro`, `out_of_data_space`, with `needs_check`.
pub(crate) fn mode(store: &Snapshots) -> String {
    let line = run(&format!("dmsetup status --noflush {}", pool(store).name));
    let words = ["rw", "ro", "out_of_data_space", "needs_check", "Fail", "Error"];
    line.split(' ').filter(|word| words.contains(word)).collect::<Vec<_>>().join(" ")
}

pub(crate) fn mount(store: &Snapshots, key: &SnapshotKey) -> OwnedFd {
    detached::open(&store.activate(key).unwrap()[0]).unwrap()
}

/// Writes a file, and has it on the disk.
pub(crate) fn put(mount: &OwnedFd, name: &str, seed: usize, bytes: usize) -> std::io::Result<()> {
    let mut file = std::fs::File::create(Files::new(mount).path(name))?;
    file.write_all(&noise(seed, bytes))?;
    file.sync_all()
}

/// Writes until it is refused; why, and how many files came first.
pub(crate) fn until_refused(mount: &OwnedFd, prefix: &str) -> (std::io::Error, usize) {
    (0..200)
        .find_map(|n| Some((put(mount, &format!("{prefix}{n}"), n, 4 << 20).err()?, n)))
        .expect("everything was written")
}

/// Reads it from the disk, not from memory.
pub(crate) fn read(mount: &OwnedFd, name: &str) -> std::io::Result<Vec<u8>> {
    let path = Files::new(mount).path(name);
    let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path)?;
    let length = usize::try_from(file.metadata()?.len()).unwrap();
    let mut buffer = vec![0_u8; length.next_multiple_of(4096) + 4096];
    let start = buffer.as_ptr().align_offset(4096);
    let end = buffer.len() / 4096 * 4096 - 4096 + start;
    let mut read = 0;
    while read < length {
        match std::os::unix::fs::FileExt::read_at(&file, &mut buffer[start + read..end], read as u64)? {
            0 => break,
            more => read += more,
        }
    }
    Ok(buffer[start..start + read].to_vec())
}

pub(crate) fn parameter(name: &str, value: &str) {
    run("modprobe dm-thin-pool");
    std::fs::write(format!("/sys/module/dm_thin_pool/parameters/{name}"), value).unwrap();
}

/// A disk that can be made to fail in part.
pub(crate) struct Disk {
    name: String,
    sectors: u64,
    under: LoopDevice,
}

impl Disk {
    pub(crate) fn new(name: &str, bytes: u64) -> Self {
        let under = LoopDevice::new(bytes);
        let sectors = bytes / 512;
        run(&format!(
            "dmsetup create --noudevsync {name} --table '0 {sectors} linear {} 0' && dmsetup mknodes {name}",
            under.path
        ));
        Self { name: name.to_owned(), sectors, under }
    }

    pub(crate) fn path(&self) -> String {
        format!("/dev/mapper/{}", self.name)
    }

    fn table(&self, table: &str) {
        let load = format!(
            "printf '%s\\n' {table} | dmsetup load {0} && dmsetup suspend --noflush --nolockfs {0} && \
             dmsetup resume --noudevsync {0}",
            self.name
        );
        run(&load);
    }

    /// From `from` (in bytes) on, each request fails.
    pub(crate) fn fails_from(&self, from: u64) {
        let (from, all) = (from / 512, self.sectors);
        let works =
            if from == 0 { String::new() } else { format!("'0 {from} linear {} 0' ", self.under.path) };
        self.table(&format!("{works}'{from} {} error'", all - from));
    }

    pub(crate) fn works(&self) {
        self.table(&format!("'0 {} linear {} 0'", self.sectors, self.under.path));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("dmsetup").args(["remove", &self.name]).output();
    }
}
