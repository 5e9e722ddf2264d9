//! The programs in a virtual machine: cgroup v2 alone, Linux 6.1, all capabilities.

use std::path::Path;

use anyhow::{Context, Result};
use stower_e2e::debian::Tree;
use stower_e2e::vm::Mirror;
use stower_e2e::{Vm, VmOptions, cache};

use super::suite::{BESIDE, DEADLINE, Outcome, Suite};

/// Where the guest has the runtime of this checkout.
const RUNTIME: &str = "/usr/local/bin/stower-runtime";

/// A machine with the programs and the runtimes.
pub(super) struct Guest {
    pub(super) vm: Vm,
    /// The suite's folder in it.
    suite: String,
}

impl Guest {
    /// Boots it.
    pub(super) fn boot(suite: &Suite, runtime: &Path) -> Result<Self> {
        let others = {
            let _lock = cache::lock()?;
            Tree::of(&["runc", "crun"], &[])?
        };
        let mirror = Mirror::new()?;
        mirror.add_program_as(runtime, RUNTIME)?;
        mirror.add(&suite.dir)?;
        mirror.add(&others.path)?;
        let folders = vec![("mirror".to_owned(), mirror.path().to_owned())];
        let mut vm = Vm::boot(VmOptions { folders, memory: 1536, ..VmOptions::default() })?;
        // Of one release, so what is there already is the same.
        vm.ok(&format!(
            "cp -an /host/mirror{}/usr/. /usr/; cp -a /host/mirror/usr/. /usr/",
            others.path.display()
        ))?;
        Ok(Self { vm, suite: format!("/host/mirror{}", suite.dir.display()) })
    }

    /// The runtimes' names and paths.
    pub(super) fn runtimes(&mut self) -> Result<Vec<(String, String)>> {
        let mut all = vec![("stower-runtime".to_owned(), RUNTIME.to_owned())];
        for name in ["runc", "crun"] {
            let path = self.vm.ok(&format!("command -v {name}")).with_context(|| format!("find {name}"))?;
            println!("{}", self.vm.ok(&format!("{name} --version"))?.lines().next().unwrap_or(name));
            all.push((name.to_owned(), path.trim().to_owned()));
        }
        Ok(all)
    }

    /// Runs one program in a folder of its own; gives what it said too.
    pub(super) fn one(&mut self, program: &str, runtime: &str) -> Result<(Outcome, String)> {
        let suite = &self.suite;
        let beside = BESIDE.map(|name| format!("{suite}/{name}")).join(" ");
        let seconds = DEADLINE.as_secs();
        // Some map root to a user of the machine's, who has to come through to the bundle.
        // 124 is what `timeout` says of a program that it has ended.
        let script = format!(
            "d=$(mktemp -d) && chmod 711 $d && cp {beside} $d && cd $d && \
             RUNTIME={runtime} TMPDIR=$d timeout -k 5 {seconds} {suite}/bin/{program}; code=$?; cd / && rm -rf $d; exit $code"
        );
        let output = self.vm.run(&["sh", "-c", &script], DEADLINE * 2)?;
        let succeeded = (!matches!(output.code, 124 | 137)).then_some(output.code == 0);
        Ok((Outcome::of(&output.text, succeeded), output.text))
    }
}
