//! An agent in the machine, and what is asked of it.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::Value;
use stower_e2e::vm::Mirror;
use stower_e2e::{Catalog, Vm, VmOptions, catalog, node};

use crate::services::words;

/// For the agent to do something.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A machine in which an agent runs, with busybox as the image `localhost/busybox:1`.
pub(crate) struct Guest {
    pub(crate) vm: Vm,
    curl: String,
}

impl Guest {
    /// Boots it with these empty disks, runs `prepare`, and starts an agent with `options`.
    pub(crate) fn boot(prepare: &str, options: &str, disks: &[(&str, u64)]) -> Result<Self> {
        let catalog = Catalog::get()?;
        let image = catalog::busybox()?;
        let mirror = Mirror::new()?;
        mirror.add_program_as(&node::binary()?, "/usr/bin/stower")?;
        mirror.add(&catalog.tools.path)?;
        mirror.add(&image.layout)?;
        let folders = vec![("mirror".to_owned(), mirror.path().to_owned())];
        let disks = disks.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect();
        let mut vm = Vm::boot(VmOptions { folders, disks, memory: 1536, ..VmOptions::default() })?;
        let mut curl = catalog.tools.command("usr/bin/curl")?;
        curl.args(["-sS", "--max-time", "20", "--unix-socket", "/run/stower/stower.sock"]);
        vm.ok("cp -a /host/mirror/. /")?;
        vm.ok(&format!(
            "mkdir -p /data /etc/stower/manifests; {prepare}; stower agent --data-root /data/stower {options} \
             >>/var/log/stower.log 2>&1 </dev/null & echo $! > /run/agent.pid"
        ))?;
        let mut guest = Self { vm, curl: words(&curl)? };
        guest.wait("stower get containers", "")?;
        guest.vm.ok(&format!("stower image import {} localhost/busybox:1", image.layout.display()))?;
        Ok(guest)
    }

    /// A container that runs `script`.
    pub(crate) fn declare(&mut self, name: &str, script: &str) -> Result<()> {
        self.declare_with(name, script, "")
    }

    /// With more of its spec, in lines of two spaces.
    pub(crate) fn declare_with(&mut self, name: &str, script: &str, more: &str) -> Result<()> {
        let text = format!(
            "apiVersion: stower.dev/v1alpha1\nkind: Container\nmetadata: {{name: {name}}}\nspec:\n  image: \
             localhost/busybox:1\n  command: [sh, -c, {script:?}]\n  terminationGracePeriodSeconds: 1\n{more}"
        );
        self.vm.write(&format!("/etc/stower/manifests/{name}.yaml"), 0o644, text.as_bytes())
    }

    /// Takes its file away.
    pub(crate) fn withdraw(&mut self, name: &str) -> Result<()> {
        self.vm.ok(&format!("rm /etc/stower/manifests/{name}.yaml")).map(drop)
    }

    /// What a command says that must answer soon, whatever hangs below.
    pub(crate) fn ask(&mut self, command: &str) -> Result<String> {
        let output = self.vm.run(&["sh", "-c", command], Duration::from_secs(30))?;
        ensure!(output.code == 0, "`{command}` ended with {}: {}", output.code, output.text);
        Ok(output.text.trim().to_owned())
    }

    /// Runs a command until it succeeds and says what is wanted; how long that took.
    pub(crate) fn wait(&mut self, command: &str, wanted: &str) -> Result<Duration> {
        let begin = Instant::now();
        loop {
            let output = self.vm.run(&["sh", "-c", command], PATIENCE)?;
            if output.code == 0 && output.text.contains(wanted) {
                return Ok(begin.elapsed());
            }
            if begin.elapsed() > PATIENCE {
                let told = "stower get containers -o yaml; stower events; tail -40 /var/log/stower.log; dmesg | tail -20";
                let story = self.vm.run(&["sh", "-c", told], PATIENCE)?.text;
                bail!("`{command}` does not say {wanted:?} but {:?}\n{story}", output.text);
            }
        }
    }

    /// The last line of a container's log.
    pub(crate) fn said(&mut self, name: &str) -> Result<String> {
        self.ask(&format!("stower logs {name} | tail -1"))
    }

    /// Waits for another last line.
    pub(crate) fn goes_on(&mut self, name: &str) -> Result<()> {
        let before = self.said(name)?;
        let begin = Instant::now();
        while self.said(name)? == before {
            ensure!(begin.elapsed() < PATIENCE, "{name} stays at {before:?}");
        }
        Ok(())
    }

    /// The lines of the metric that are 1.
    pub(crate) fn pressure(&mut self) -> Result<String> {
        let command =
            format!("{} http://stower/metrics | grep '^stower_storage_pressure.* 1$' || true", self.curl);
        self.ask(&command)
    }

    /// The container as the agent has it.
    pub(crate) fn item(&mut self, name: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.ask(&format!("stower get container {name} -o json"))?)?)
    }

    /// Why a container waits.
    pub(crate) fn waits(&mut self, name: &str) -> Result<String> {
        let item = self.item(name)?;
        let waiting = &item["status"]["state"]["waiting"];
        Ok(format!(
            "{}: {}",
            waiting["reason"].as_str().unwrap_or("-"),
            waiting["message"].as_str().unwrap_or("-")
        ))
    }
}
