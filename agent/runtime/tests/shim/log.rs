//! What the shim writes, and what it does when it cannot.

use std::path::{Path, PathBuf};

use crate::support::{LONG, Options, Shim, wait_for_change};
use stower_runtime::proc;
use stower_runtime::shim::cri::MAX_TEXT;

/// The texts of one stream, pieces joined.
fn texts(log: &str, stream: &str) -> String {
    let mut all = String::new();
    for record in log.lines() {
        let mut parts = record.splitn(4, ' ');
        let (time, of, tag, text) =
            (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
        assert_eq!(time.len(), 30, "{record}");
        if of == stream {
            all.push_str(text);
            all.push_str(if tag == "F" { "\n" } else { "" });
        }
    }
    all
}

#[test]
fn a_flood_without_line_ends_is_cut_and_kept() {
    let script = "head -c 5000001 /dev/zero | tr '\\0' x";
    let mut shim = Shim::start(script, &Options::default());
    assert_eq!(shim.ended().unwrap().exit_code, 0);
    let log = shim.log();
    assert!(log.lines().all(|l| l.len() <= MAX_TEXT + 40));
    let text = texts(&log, "stdout");
    assert_eq!(text.len(), 5_000_001);
    assert!(text.bytes().all(|c| c == b'x'));
}

#[test]
fn a_flood_of_lines_loses_none() {
    let script = "seq 1 1000000; seq 1 1000 >&2";
    let options = Options { log_max_bytes: 1 << 30, ..Options::default() };
    let mut shim = Shim::start(script, &options);
    assert_eq!(shim.ended().unwrap().dropped_lines, 0);
    let log = shim.log();
    let numbers = |n: u32| (1..=n).map(|i| format!("{i}\n")).collect::<String>();
    assert!(texts(&log, "stdout") == numbers(1_000_000));
    assert!(texts(&log, "stderr") == numbers(1000));
}

#[test]
fn empty_and_whole_lines_survive() {
    let mut shim = Shim::start(r"printf 'a\n\n\nb'; printf ''", &Options::default());
    shim.ended().unwrap();
    assert_eq!(texts(&shim.log(), "stdout"), "a\n\n\nb");
    assert!(shim.log().ends_with(" stdout P b\n"));
}

#[test]
fn files_rotate_and_the_oldest_go() {
    let options = Options { log_max_bytes: 4096, log_max_files: 3, run: 9, ..Options::default() };
    let mut shim = Shim::start("seq 1 5000", &options);
    shim.ended().unwrap();
    let mut seqs: Vec<u64> = Vec::new();
    for entry in std::fs::read_dir(&shim.logs).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        seqs.push(name.strip_prefix("9-").unwrap().strip_suffix(".log").unwrap().parse().unwrap());
        assert!(entry.metadata().unwrap().len() <= 4096);
        let bytes = std::fs::read(entry.path()).unwrap();
        assert_eq!(bytes.last(), Some(&b'\n'), "records are whole in one file");
    }
    seqs.sort_unstable();
    assert_eq!(seqs.len(), 3);
    assert_eq!(seqs[2] - seqs[0], 2);
    assert!(texts(&shim.log(), "stdout").ends_with("4999\n5000\n"));
}

#[test]
fn a_planted_symlink_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let logs = dir.path().join("logs");
    std::fs::create_dir(&logs).unwrap();
    let victim = dir.path().join("victim");
    std::fs::write(&victim, "untouched").unwrap();
    std::os::unix::fs::symlink(&victim, logs.join("1-0.log")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("made"), logs.join("1-1.log")).unwrap();
    std::fs::create_dir(logs.join("1-2.log")).unwrap();
    let mut shim = Shim::start("echo hi", &Options { log_dir: Some(logs.clone()), ..Options::default() });
    assert_eq!(shim.ended().unwrap().exit_code, 0);
    assert_eq!(std::fs::read_to_string(victim).unwrap(), "untouched");
    assert!(!dir.path().join("made").exists());
    assert!(std::fs::read_to_string(logs.join("1-3.log")).unwrap().ends_with(" stdout F hi\n"));
}

/// A filesystem mounted for one test.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(at: &Path, size: &str) -> Self {
        let at = at.join("mnt");
        std::fs::create_dir(&at).unwrap();
        command("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs", at.to_str().unwrap()]);
        Self(at)
    }

    fn ext4(dir: &Path) -> Self {
        let (at, image) = (dir.join("mnt"), dir.join("image"));
        std::fs::create_dir(&at).unwrap();
        std::fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
        command("mkfs.ext4", &["-q", image.to_str().unwrap()]);
        command("mount", &["-o", "loop", image.to_str().unwrap(), at.to_str().unwrap()]);
        Self(at)
    }

    fn resize(&self, size: &str) {
        command("mount", &["-o", &format!("remount,size={size}"), self.0.to_str().unwrap()]);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn command(program: &str, args: &[&str]) {
    let status = std::process::Command::new(program).args(args).status().unwrap();
    assert!(status.success(), "{program} {args:?}");
}

#[test]
fn root_a_full_disk_drops_whole_lines_and_counts_them() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Mounted::tmpfs(dir.path(), "64k");
    let fifo = dir.path().join("go");
    command("mkfifo", &[fifo.to_str().unwrap()]);
    // More than the disk, both pipes and all buffers hold.
    let script = format!("seq 1 100000; read x < {}; echo after; exit 3", fifo.display());
    let options = Options { log_dir: Some(disk.0.clone()), ..Options::default() };
    let mut shim = Shim::start(&script, &options);
    // Opening the fifo means that the container came through the flood.
    let mut go = std::fs::OpenOptions::new().write(true).open(&fifo).unwrap();
    disk.resize("64m");
    // The next try writes what was kept, then the count.
    wait_for_change(&disk.0, || shim.log().contains("dropped log lines: "));
    std::io::Write::write_all(&mut go, b"\n").unwrap();
    let exit = shim.ended().unwrap();
    assert_eq!(exit.exit_code, 3);
    assert!(exit.dropped_lines > 0);
    let out = texts(&shim.log(), "stdout");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.last(), Some(&"after"));
    let kept = lines.len() - 1;
    for (i, line) in lines[..kept].iter().enumerate() {
        assert_eq!(*line, (i + 1).to_string(), "the kept lines are whole and the first ones");
    }
    assert_eq!(u64::try_from(kept).unwrap() + exit.dropped_lines, 100_000);
    let notice = texts(&shim.log(), "stderr");
    assert_eq!(notice, format!("stower: dropped log lines: {}\n", exit.dropped_lines));
}

#[test]
fn root_blocking_mode_drops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Mounted::tmpfs(dir.path(), "64k");
    let options = Options { log_dir: Some(disk.0.clone()), log_block: true, ..Options::default() };
    let mut shim = Shim::start("seq 1 100000", &options);
    // Well past the second after which lines would be dropped; nothing can be observed while all waits.
    let init = proc::ProcessId { pid: shim.record.init_pid, start: shim.record.init_start };
    let init = proc::open(init).unwrap().unwrap();
    assert!(!proc::wait(&init, Some(std::time::Duration::from_millis(1500))).unwrap());
    disk.resize("64m");
    assert_eq!(shim.ended().unwrap().dropped_lines, 0);
    assert_eq!(texts(&shim.log(), "stdout").lines().count(), 100_000);
}

/// Freezes a filesystem: every write to it then hangs in the kernel.
struct Frozen(PathBuf);

impl Frozen {
    fn new(at: &Path) -> Self {
        command("fsfreeze", &["-f", at.to_str().unwrap()]);
        Self(at.to_owned())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = std::process::Command::new("fsfreeze").arg("-u").arg(&self.0).status();
    }
}

#[test]
fn root_a_hung_disk_holds_neither_the_container_nor_its_exit() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Mounted::ext4(dir.path());
    let frozen = Frozen::new(&disk.0);
    let options = Options { log_dir: Some(disk.0.clone()), ..Options::default() };
    let mut shim = Shim::start("seq 1 100000; exit 4", &options);
    let exit = shim.ended().unwrap();
    assert_eq!(exit.exit_code, 4);
    assert!(exit.dropped_lines > 0);
    drop(frozen);
}

#[test]
fn root_a_hung_disk_does_not_hold_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Mounted::ext4(dir.path());
    let options = Options { log_dir: Some(disk.0.clone()), ..Options::default() };
    let mut shim = Shim::start("trap '' TERM; echo up; while :; do echo y; done", &options);
    wait_for_change(&disk.0, || shim.log().contains(" F up\n"));
    let frozen = Frozen::new(&disk.0);
    shim.stop(15, std::time::Duration::from_millis(10));
    let init = proc::ProcessId { pid: shim.record.init_pid, start: shim.record.init_start };
    if let Some(init) = proc::open(init).unwrap() {
        assert!(proc::wait(&init, Some(LONG)).unwrap());
    }
    assert_eq!(shim.ended().unwrap().signal, 9);
    drop(frozen);
}

#[test]
fn root_a_deadline_kills_the_whole_cgroup() {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let mount = mounts.lines().find(|l| l.split(' ').nth(2) == Some("cgroup2")).unwrap();
    let group = Path::new(mount.split(' ').nth(1).unwrap()).join(format!("shim-test-{}", std::process::id()));
    std::fs::create_dir(&group).unwrap();
    // The second process is in the group, in another session, and no child of the first.
    let script = format!(
        "echo $$ > {}/cgroup.procs; trap '' TERM; setsid sleep 1000 > /dev/null 2>&1 & echo other $!; exec sleep 1000",
        group.display()
    );
    let mut shim = Shim::start(&script, &Options { cgroup: Some(group.clone()), ..Options::default() });
    wait_for_change(&shim.logs, || shim.log().contains("other "));
    let log = shim.log();
    let other: u32 = log.split("other ").nth(1).unwrap().trim().parse().unwrap();
    let start = proc::start_time(other).unwrap().unwrap();
    let other = proc::open(proc::ProcessId { pid: other, start }).unwrap().unwrap();
    shim.stop(15, std::time::Duration::from_millis(20));
    assert_eq!(shim.ended().unwrap().signal, 9);
    assert!(proc::wait(&other, Some(LONG)).unwrap(), "the other process of the group lives");
    let removed = std::time::Instant::now() + LONG;
    while std::fs::remove_dir(&group).is_err() {
        assert!(std::time::Instant::now() < removed, "the group is not empty");
        std::thread::yield_now();
    }
}
