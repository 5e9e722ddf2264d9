//! Under a service manager: the unit, and what it is told.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use stower_e2e::{TestNode, cargo, node, process};

use crate::support::idle;

#[test]
fn the_unit_is_one_that_systemd_takes_and_leaves_containers_alone() -> Result<()> {
    let unit = fs::read_to_string(cargo::checkout().join("agent/systemd/stower.service"))?;
    for line in
        ["KillMode=process", "Type=notify", "Slice=stower.slice", "Delegate=yes", "OOMScoreAdjust=-999"]
    {
        ensure!(unit.lines().any(|it| it == line), "the unit has no {line}");
    }
    // systemd removes such a directory at the unit's end, and with it what containers that go on need.
    ensure!(!unit.lines().any(|it| it.starts_with("RuntimeDirectory=")), "{unit}");
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("stower.service");
    let program = "/usr/local/bin/stower";
    ensure!(unit.contains(program), "{unit}");
    fs::write(&path, unit.replace(program, &node::binary()?.to_string_lossy()))?;
    let mut verify = std::process::Command::new("systemd-analyze");
    let said = process::output(verify.args(["verify", "--man=no"]).arg(&path))?;
    // What it does not know it passes over with a warning.
    ensure!(said.status.success() && said.stderr.is_empty(), "{}", String::from_utf8_lossy(&said.stderr));
    Ok(())
}

#[test]
fn a_service_manager_is_told_of_the_start_of_life_and_of_the_end() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(Duration::from_secs(120)))?;
    let told = || -> Result<String> {
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).context("nothing is told")?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    let node = TestNode::builder()
        .env("NOTIFY_SOCKET", &path.to_string_lossy())
        .env("WATCHDOG_USEC", "600000")
        .start()?;
    ensure!(told()?.lines().any(|line| line == "READY=1"));
    for _ in 0..3 {
        ensure!(told()? == "WATCHDOG=1");
    }
    node.write("stays.yaml", &idle("stays", "")?)?;
    let pid = node.wait_running("stays")?;
    let environment = fs::read(format!("/proc/{pid}/environ"))?;
    ensure!(
        !environment.windows(13).any(|part| part == b"NOTIFY_SOCKET"),
        "a container has the agent's socket"
    );
    ensure!(node.terminate_agent()? == 0);
    let mut last = told()?;
    while last == "WATCHDOG=1" {
        last = told()?;
    }
    ensure!(last.lines().any(|line| line == "STOPPING=1"), "{last}");
    ensure!(process::alive(pid), "the container ended with the agent");
    node.start_agent()?;
    ensure!(node.wait_running("stays")? == pid);
    Ok(())
}
