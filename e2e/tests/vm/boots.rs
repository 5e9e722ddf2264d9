//! The machine itself.

use std::time::Duration;

use anyhow::{Result, ensure};
use stower_e2e::{Vm, VmOptions};

/// What the tests of drivers need, beside what is built in.
const TARGETS: [&str; 4] = ["thin-pool", "thin", "flakey", "log-writes"];
const FILESYSTEMS: [&str; 4] = ["ext4", "xfs", "btrfs", "overlay"];

#[test]
fn the_machine_boots_with_all_that_tests_need() -> Result<()> {
    let mut vm = Vm::boot(VmOptions { disks: vec![("spare".to_owned(), 1 << 30)], ..VmOptions::default() })?;
    println!("kernel {}, booted in {:.1} s", vm.release, vm.boot_time.as_secs_f64());
    ensure!(vm.release.starts_with("6."), "an odd kernel: {}", vm.release);

    // cgroup v2 alone.
    let cgroups = vm.ok("grep cgroup /proc/self/mountinfo; cat /sys/fs/cgroup/cgroup.controllers")?;
    ensure!(cgroups.matches(" - cgroup2 ").count() == 1 && !cgroups.contains(" - cgroup "), "{cgroups}");
    for controller in ["cpu", "memory", "io", "pids"] {
        ensure!(cgroups.split_whitespace().any(|word| word == controller), "no {controller} in: {cgroups}");
    }
    let all = vm.ok("grep CapEff /proc/self/status")?;
    ensure!(all.contains("000001ffffffffff"), "not all capabilities: {all}");

    vm.ok("modprobe -a dm-thin-pool dm-flakey dm-log-writes xfs btrfs overlay loop")?;
    let targets = vm.ok("dmsetup targets")?;
    for target in TARGETS {
        ensure!(
            targets.lines().any(|line| line.split(' ').next() == Some(target)),
            "no {target} in {targets}"
        );
    }
    let known = vm.ok("cat /proc/filesystems")?;
    for name in FILESYSTEMS {
        ensure!(known.split_whitespace().any(|word| word == name), "no {name} in {known}");
    }
    for mkfs in ["mkfs.ext4 -q -F", "mkfs.xfs -q -f", "mkfs.btrfs -q -f"] {
        vm.ok(&format!(
            "{mkfs} /dev/disk/by-id/spare && mount /dev/disk/by-id/spare /mnt && df -T /mnt && umount /mnt"
        ))?;
    }
    Ok(())
}

#[test]
fn commands_files_reboots_power_cuts_and_panics_are_told_apart() -> Result<()> {
    let mut vm = Vm::boot(VmOptions { memory: 512, ..VmOptions::default() })?;
    let second = Duration::from_secs(60);
    let output = vm.run(&["sh", "-c", "echo out; echo err >&2; exit 7"], second)?;
    ensure!(output.code == 7 && output.text == "out\nerr\n", "{output:?}");
    ensure!(vm.run(&["sh", "-c", "kill -9 $$"], second)?.code == 137);
    ensure!(vm.run(&["/no/such/program"], second)?.code == 127);
    // What it leaves behind keeps the pipe, and does not keep the answer back.
    ensure!(vm.run(&["sh", "-c", "sleep 1000 & echo started"], second)?.text == "started\n");
    let late = vm.run(&["sh", "-c", "echo begun; sleep 1000"], Duration::from_secs(2));
    let late = format!("{:#}", late.err().unwrap_or_else(|| anyhow::anyhow!("it ended")));
    ensure!(late.contains("took longer than 2 s") && late.contains("begun"), "{late}");

    let content: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    vm.write("/var/lib/deep/file", 0o640, &content)?;
    ensure!(vm.pull("/var/lib/deep/file")? == content, "the file came back changed");
    ensure!(vm.ok("stat -c %a /var/lib/deep/file")? == "640\n");
    let refused = format!("{:#}", vm.pull("/no/file").err().unwrap_or_else(|| anyhow::anyhow!("there")));
    ensure!(refused.contains("No such file"), "{refused}");
    let refused = vm.write("/proc/version/file", 0o600, &content);
    ensure!(refused.is_err(), "a file was written in /proc/version");

    // An orderly reboot keeps everything, a power cut what was synced.
    let boot = vm.ok("cat /proc/sys/kernel/random/boot_id")?;
    vm.reboot()?;
    ensure!(vm.ok("cat /proc/sys/kernel/random/boot_id")? != boot, "it has not rebooted");
    ensure!(vm.pull("/var/lib/deep/file")? == content, "the reboot lost the file");
    vm.ok("echo kept > /root/synced && sync && echo lost > /root/late")?;
    vm.kill();
    vm.power_on()?;
    ensure!(vm.ok("cat /root/synced; cat /root/late 2>/dev/null || true")? == "kept\n", "the cut was none");

    let end = vm.run(&["sh", "-c", "echo c > /proc/sysrq-trigger"], second);
    let end = format!("{:#}", end.err().unwrap_or_else(|| anyhow::anyhow!("it lived")));
    ensure!(end.contains("gone down") && end.contains("Kernel panic - not syncing: sysrq"), "{end}");
    Ok(())
}
