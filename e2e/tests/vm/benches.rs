//! What devicemapper takes beside other drivers, and beside the same by external commands: the figures of the storage crate's README.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use stower_e2e::vm::Mirror;
use stower_e2e::{Vm, VmOptions, cargo, process};

const LIMIT: Duration = Duration::from_secs(1200);

#[test]
#[ignore = "it measures: cargo test -p stower-e2e --test vm benches -- --ignored --nocapture"]
fn drivers_are_measured_beside_external_commands() -> Result<()> {
    let args =
        ["build", "--release", "-p", "stower-storage", "--features", "testing", "--example", "drivers_bench"];
    let messages = cargo::messages(&args)?;
    let program =
        messages.iter().find_map(|message| message["executable"].as_str()).context("nothing was built")?;
    let mirror = Mirror::new()?;
    mirror.add_program_as(Path::new(program), "/usr/local/bin/drivers_bench")?;
    let folders = vec![("mirror".to_owned(), mirror.path().to_owned())];
    let mut vm = Vm::boot(VmOptions { folders, memory: 2048, show: true, ..VmOptions::default() })?;
    let subjects = "native overlay devicemapper_ext4 dmsetup";
    let script = format!(
        "mkdir -p /var/lib/bench && BENCH_DIR=/var/lib/bench exec /host/mirror/usr/local/bin/drivers_bench {subjects}"
    );
    let output = vm.run(&["sh", "-c", &script], LIMIT)?;
    ensure!(output.code == 0, "{}", process::tail(&output.text, 40));
    println!("{}", output.text);
    Ok(())
}
