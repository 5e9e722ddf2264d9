//! The storage driver on device-mapper, for which there is a kernel only here: what every driver must do, on both of its
//! filesystems, and what only it does. The pools are sparse files on the machine's ext4.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use stower_e2e::vm::{Mirror, Tests};
use stower_e2e::{Vm, VmOptions, process};

/// For one test program; the emulator is ten times slower than the machine.
const LIMIT: Duration = Duration::from_secs(400);

/// What runs: the test program, its filter, and how many tests that must be at least, since a filter that fits nothing passes
/// too.
const RUNS: [(&str, &str, usize); 6] = [
    ("devicemapper", "", 18),
    ("conformance", "root_devicemapper_ext4", 66),
    ("crash", "root_devicemapper", 1),
    ("diff", "root_ --skip root_export_is --skip random", 9),
    ("equal", "devicemapper --skip xfs", 2),
    // The rest of these fill filesystems that an emulator takes long to fill; the other filesystem has done all of it.
    ("conformance", "root_devicemapper_xfs --skip quota --skip deep_ --skip many_layers", 55),
];

#[test]
fn the_devicemapper_driver_does_what_every_driver_does() -> Result<()> {
    let mut arguments = vec!["-p", "stower-storage"];
    for name in ["conformance", "crash", "devicemapper", "diff", "equal"] {
        arguments.extend(["--test", name]);
    }
    let tests = Tests::build(&arguments)?;
    let mirror = Mirror::new()?;
    tests.add_to(&mirror)?;
    let folders = vec![("mirror".to_owned(), mirror.path().to_owned())];
    let mut vm = Vm::boot(VmOptions { folders, memory: 1536, show: true, ..VmOptions::default() })?;
    let mut failed = Vec::new();
    for (name, filter, least) in RUNS {
        let begin = Instant::now();
        let program = tests.programs.iter().find(|(known, _)| known == name).map(|(_, path)| path);
        let program = program.ok_or_else(|| anyhow::anyhow!("no test program {name}"))?;
        let script = format!(
            "export STOWER_TEST_DRIVERS=devicemapper_ext4,devicemapper_xfs
            exec /host/mirror{} --include-ignored --nocapture --test-threads 4 {filter}",
            program.display()
        );
        let output = vm.run(&["sh", "-c", &script], LIMIT)?;
        let last = output.text.lines().rev().find_map(|line| line.strip_prefix("test result: ok. "));
        let passed = last.and_then(|line| line.split(' ').next()?.parse::<usize>().ok()).unwrap_or(0);
        println!("{name} {filter}: {passed} passed in {:.0} s", begin.elapsed().as_secs_f64());
        if output.code != 0 || passed < least {
            failed.push(format!("{name} {filter}:\n{}", process::tail(&output.text, 60)));
        }
    }
    // Found active, then after a reboot, then after the power was cut.
    let program = tests.programs.iter().find(|(known, _)| known == "devicemapper").map(|(_, path)| path);
    let kept = format!(
        "STOWER_KEPT=/var/lib/kept exec /host/mirror{} --include-ignored --nocapture root_what_was_kept",
        program.map(|path| path.display().to_string()).unwrap_or_default()
    );
    vm.ok(&kept)?;
    for cut in ["", "reboot", "power"] {
        match cut {
            "reboot" => vm.reboot()?,
            "power" => {
                vm.kill();
                vm.power_on()?;
            }
            _ => {}
        }
        let text = vm.ok(&kept)?;
        ensure!(text.contains("found again: /var/lib/kept"), "after {cut:?}: {text}");
    }
    ensure!(failed.is_empty(), "in the guest failed:\n{}", failed.join("\n"));
    let left = vm.ok("dmsetup ls; losetup --all; grep -c ' /dev/dm-' /proc/mounts || true")?;
    println!("left over: {left}");
    ensure!(left.trim() == "No devices found\n0", "something was left over:\n{left}");
    Ok(())
}
