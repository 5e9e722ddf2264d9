//! Limits of what containers write, where a filesystem may grow while it is mounted (`CAP_SYS_RESOURCE`).

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::guest::{Guest, PATIENCE};

/// Fills its layer, waits to be told to go on, and writes more.
const FILLER: &str = "dd if=/dev/zero of=/one bs=1M count=64 conv=fsync 2>/dev/null; echo first $(stat -c %s /one); \
                      while ! test -e /go; do sleep 1; done; \
                      dd if=/dev/zero of=/two bs=1M count=24 conv=fsync 2>/dev/null; echo second $(stat -c %s /two); \
                      while :; do sleep 60; done";
/// Its first process; the brackets keep the question from finding itself.
const PROCESS: &str = "grep -ls '[o]f=/one' /proc/[0-9]*/cmdline | cut -d/ -f3";

#[test]
fn a_limit_on_overlay_grows_while_its_container_runs() -> Result<()> {
    let mut guest = Guest::boot("true", "--storage-driver overlay", &[])?;
    let limit = |size: &str| format!("  resources: {{limits: {{ephemeral-storage: {size}}}}}\n");
    guest.declare_with("filler", FILLER, &limit("16Mi"))?;
    guest.wait("stower logs filler", "first ")?;
    let first = guest.said("filler")?;
    println!("limited to 16 MiB: {first}");
    let written: u64 = first.split(' ').nth(1).and_then(|size| size.parse().ok()).unwrap_or(0);
    ensure!((8 << 20..16 << 20).contains(&written), "{first}");
    let process = guest.ask(PROCESS)?;

    guest.declare_with("filler", FILLER, &limit("48Mi"))?;
    let begin = Instant::now();
    loop {
        let item = guest.item("filler")?;
        if item["status"]["resources"]["limits"]["ephemeral-storage"] == "48Mi" {
            break;
        }
        ensure!(begin.elapsed() < PATIENCE, "it does not grow: {item}");
    }
    println!("grown after {:.0} s", begin.elapsed().as_secs_f64());
    guest.ask(&format!("touch /proc/{}/root/go", process.lines().next().unwrap_or_default()))?;
    guest.wait("stower logs filler", "second ")?;
    let second = guest.said("filler")?;
    println!("limited to 48 MiB: {second}");
    ensure!(second == format!("second {}", 24 << 20), "{second}");
    ensure!(guest.ask(PROCESS)? == process, "another process runs");
    let item = guest.item("filler")?;
    let text = item["status"].to_string();
    ensure!(
        item["status"]["restartCount"].as_u64().unwrap_or(0) == 0 && !text.contains("ResizePending"),
        "{text}"
    );
    guest.withdraw("filler")?;
    guest.wait("stower get containers -o name | grep -c filler || true", "0")?;
    // Its device goes with it.
    guest.wait("losetup --all | grep -c stower || true", "0").map(drop)
}
