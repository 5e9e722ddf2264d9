//! The way of a log under attack: floods, a full disk, links where a log would be. Memory and disk stay bounded, the container goes
//! on, and others do not feel it.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use stower_e2e::node::{pid_of, restarts_of, uid_of};
use stower_e2e::{TestNode, process};

use crate::support::shell;

const USUAL: &str = "images: {gc: {enabled: false}}\nstorage: {minFree: {}, minFreeInodes: {}}\n";

/// A node whose data root is on a filesystem of its own of 64 MiB, unmounted with the node.
fn small(config: &str) -> Result<TestNode> {
    let node = TestNode::builder().config(config).build()?;
    let image = node.folder().join("disk.img");
    File::create_new(&image)?.set_len(64 << 20)?;
    let image = image.to_str().context("an odd path")?;
    process::run("mkfs.ext4", ["-q", "-F", "-m", "0", image])?;
    fs::create_dir(&node.data)?;
    process::run("mount", ["-o", "loop", image, node.data.to_str().context("an odd path")?])?;
    node.start_agent()?;
    Ok(node)
}

fn logs_of(node: &TestNode, name: &str) -> Result<PathBuf> {
    Ok(node.data.join("logs").join(uid_of(&node.container(name)?.context("it is gone")?)?))
}

/// Bytes of all files of a directory, whatever goes meanwhile.
fn size_of(dir: &Path) -> u64 {
    let sizes = fs::read_dir(dir).into_iter().flatten().flatten();
    sizes.filter_map(|entry| Some(entry.path().symlink_metadata().ok()?.len())).sum()
}

/// A number of a file below `/proc`, in lines of `NAME: NUMBER`.
fn number(path: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let words = line.and_then(|line| line.split_whitespace().next());
    words.and_then(|word| word.parse().ok()).with_context(|| format!("no {name} in {path}"))
}

/// Bytes that a process has written to its pipes and files.
fn written(pid: u32) -> Result<u64> {
    number(&format!("/proc/{pid}/io"), "wchar")
}

fn parent(pid: u32) -> Result<u32> {
    Ok(number(&format!("/proc/{pid}/status"), "PPid")?.try_into()?)
}

/// KiB of memory that a process has for itself.
fn pss(pid: u32) -> Result<u64> {
    number(&format!("/proc/{pid}/smaps_rollup"), "Pss")
}

/// Waits until a process has written so many bytes more.
fn wait_written(node: &TestNode, pid: u32, more: u64, mut look: impl FnMut() -> Result<()>) -> Result<()> {
    let begun = written(pid)?;
    node.wait(&format!("{more} bytes more to be written"), || {
        look()?;
        Ok((written(pid)? > begun + more).then_some(()))
    })
}

/// How long a container takes from its manifest to its end; it writes 2000 lines.
fn work_of_another(node: &TestNode, name: &str) -> Result<f64> {
    let script = "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done";
    let begun = Instant::now();
    node.write(&format!("{name}.yaml"), &shell(name, script, "  restartPolicy: Never\n")?)?;
    node.wait_container(name, "at its end", |item| item["status"]["state"]["terminated"].is_object())?;
    let took = begun.elapsed().as_secs_f64();
    let lines = node.ok(["logs", name])?.lines().count();
    ensure!(lines == 2000, "{name} wrote 2000 lines, and {lines} are kept");
    Ok(took)
}

#[test]
fn a_flood_without_a_line_end_is_bounded_and_others_go_on() -> Result<()> {
    const MAX: u64 = 1 << 20;
    let node =
        TestNode::builder().config(&format!("{USUAL}logging: {{maxSize: 1Mi, maxFiles: 3}}\n")).start()?;
    let agent = node.agent_pid()?;
    // The image is fetched before anything is measured.
    work_of_another(&node, "first")?;
    let alone: f64 =
        (0..3).map(|n| work_of_another(&node, &format!("alone-{n}"))).sum::<Result<f64>>()? / 3.0;
    let before = pss(agent)?;
    // Not one byte of it ends a line.
    node.write("flood.yaml", &shell("flood", "exec cat /dev/zero", "")?)?;
    let pid = node.wait_running("flood")?;
    let (dir, shim) = (logs_of(&node, "flood")?, parent(pid)?);
    // More than a pipe holds: who reads it is the shim, and no longer the starter that becomes it.
    wait_written(&node, pid, 1 << 20, || Ok(()))?;
    let (mut most_disk, mut most_shim) = (0, 0);
    let mut look = || {
        most_disk = most_disk.max(size_of(&dir));
        most_shim = most_shim.max(pss(shim)?);
        Ok(())
    };
    wait_written(&node, pid, 300 << 20, &mut look)?;
    let begun = (Instant::now(), written(pid)?);
    let beside: f64 =
        (0..3).map(|n| work_of_another(&node, &format!("beside-{n}"))).sum::<Result<f64>>()? / 3.0;
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let speed = (written(pid)? - begun.1) as f64 / begun.0.elapsed().as_secs_f64() / f64::from(1 << 20);
    look()?;
    let after = pss(agent)?;
    println!(
        "a flood of {speed:.0} MiB/s: another's work takes {:.2} times as long ({alone:.2} s, {beside:.2} s); the shim has at most \
         {most_shim} KiB, the log {most_disk} bytes, the agent {before} and {after} KiB",
        beside / alone
    );
    // One file more is there while the oldest goes.
    ensure!(most_disk <= 4 * MAX, "the log took {most_disk} bytes");
    ensure!(most_shim <= 1024, "the shim took {most_shim} KiB");
    ensure!(after <= before + (32 << 10), "the agent grew from {before} to {after} KiB");
    let item = node.container("flood")?.context("it is gone")?;
    ensure!(pid_of(&item) == Some(pid) && restarts_of(&item) == 0, "{}", item["status"]);
    // What is left of it can be read, and ends.
    let tail = node.ok(["logs", "flood", "--limit-bytes", "100000"])?;
    ensure!(!tail.is_empty() && tail.len() <= 100_001, "{} bytes", tail.len());
    ensure!(written(pid)? > 0 && node.wait_running("flood")? == pid);
    Ok(())
}

#[test]
fn on_a_full_disk_lines_are_dropped_and_counted() -> Result<()> {
    let node = small(&format!("{USUAL}logging: {{maxSize: 64Mi}}\n"))?;
    node.write("flood.yaml", &shell("flood", "while :; do echo 012345678901234567890123456789; done", "")?)?;
    let pid = node.wait_running("flood")?;
    let fill = node.data.join("filler");
    let mut file = File::create_new(&fill)?;
    while std::io::Write::write_all(&mut file, &[7; 64 << 10]).is_ok() {}
    // It goes on, whatever becomes of its words; so does the rest.
    wait_written(&node, pid, 2 << 20, || Ok(()))?;
    let shim = parent(pid)?;
    ensure!(pss(shim)? <= 1024, "the shim took {} KiB", pss(shim)?);
    drop(file);
    fs::remove_file(fill)?;
    node.wait("the log to tell what was dropped", || {
        Ok(node
            .ok(["logs", "flood", "--tail", "200000"])?
            .contains("stower: dropped log lines: ")
            .then_some(()))
    })?;
    let item = node.container("flood")?.context("it is gone")?;
    ensure!(pid_of(&item) == Some(pid) && restarts_of(&item) == 0, "{}", item["status"]);
    Ok(())
}

#[test]
fn in_mode_block_a_container_waits_and_nothing_is_lost() -> Result<()> {
    let node = small(&format!("{USUAL}logging: {{maxSize: 64Mi, mode: block}}\n"))?;
    let gate = node.folder().join("gate");
    fs::create_dir(&gate)?;
    let body = format!(
        "  restartPolicy: Never\n  volumes: [{{name: g, hostPath: {{path: {}}}}}]\n  volumeMounts: [{{name: g, mountPath: \
         /gate}}]\n",
        gate.display()
    );
    let script = "while [ ! -e /gate/go ]; do sleep 0.05; done; i=0; while [ $i -lt 20000 ]; do echo line $i \
                  0123456789012345678901234567890123456789; i=$((i+1)); done";
    node.write("a.yaml", &shell("a", script, &body)?)?;
    let pid = node.wait_running("a")?;
    let fill = node.data.join("filler");
    let mut file = File::create_new(&fill)?;
    while std::io::Write::write_all(&mut file, &[7; 64 << 10]).is_ok() {}
    fs::write(gate.join("go"), "")?;
    // Pipe and buffers are full, and it stands still: the same figure again and again.
    let mut last = (0, 0);
    node.wait("the container to stand still", || {
        let now = written(pid)?;
        last = if now == last.0 && now > 64 << 10 { (now, last.1 + 1) } else { (now, 0) };
        Ok((last.1 > 20).then_some(()))
    })?;
    ensure!(last.0 < 800 << 10, "it wrote {} bytes to a log that cannot be written", last.0);
    drop(file);
    fs::remove_file(fill)?;
    node.wait_container("a", "at its end", |item| item["status"]["state"]["terminated"].is_object())?;
    let text = node.ok(["logs", "a"])?;
    ensure!(text.lines().count() == 20_000 && !text.contains("dropped"), "{} lines", text.lines().count());
    Ok(())
}

#[test]
fn a_link_where_a_log_would_be_is_left_alone() -> Result<()> {
    let node =
        TestNode::builder().config(&format!("{USUAL}logging: {{maxSize: 64Ki, maxFiles: 3}}\n")).start()?;
    let victim = node.folder().join("victim");
    fs::write(&victim, "untouched")?;
    let script = "while :; do echo 012345678901234567890123456789012345678901234567890123456789; done";
    node.write("a.yaml", &shell("a", script, "")?)?;
    let pid = node.wait_running("a")?;
    let dir = logs_of(&node, "a")?;
    // The names to come of this run and the next, where they are not taken yet; a shim tries 64 in a row.
    for run in 1..=2 {
        for number in 0..50 {
            let _ = symlink(&victim, dir.join(format!("{run}-{number}.log")));
        }
    }
    wait_written(&node, pid, 2 << 20, || Ok(()))?;
    process::kill9(pid)?;
    let next = node.wait_restarted("a", pid)?;
    let item = node.container("a")?.context("it is gone")?;
    ensure!(restarts_of(&item) == 1, "a start failed for it: {}", item["status"]);
    wait_written(&node, next, 1 << 20, || Ok(()))?;
    ensure!(fs::read_to_string(&victim)? == "untouched", "what the link leads to was written");
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&victim)?);
    ensure!(mode & 0o777 == 0o644, "what the link leads to has mode {mode:o}");
    // Reading follows no link either.
    let text = node.ok(["logs", "a", "--tail", "50"])?;
    ensure!(text.contains("0123456789") && !text.contains("untouched"), "{text}");
    Ok(())
}
