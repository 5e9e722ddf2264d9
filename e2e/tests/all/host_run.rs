//! `stower host-run`: from a pod's namespaces to the host's.
//!
//! The host is a process 1 in namespaces of its own, so that what is entered is known; the pod is namespaces beside it.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use stower_e2e::{node, process, requires, wait_for};

const MANIFEST: &str = "apiVersion: stower.dev/v1alpha1\nkind: Container\nmetadata: {name: NAME}\nspec: {image: example.org/a:1}\n";

struct Host {
    holder: Child,
    first: u32,
    folder: tempfile::TempDir,
}

impl Host {
    fn start() -> Result<Self> {
        requires::root()?;
        let folder = tempfile::tempdir()?;
        fs::create_dir(folder.path().join("covered"))?;
        fs::create_dir(folder.path().join("pod"))?;
        fs::write(folder.path().join("covered/m.yaml"), MANIFEST.replace("NAME", "of-the-host"))?;
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child=KILL",
            "--mount-proc",
            "sleep",
            "infinity",
        ]);
        let holder = command.spawn()?;
        let first = wait_for("the host's first process", || {
            Ok(process::all()
                .into_iter()
                .find(|pid| process::parent(*pid).is_ok_and(|parent| parent == holder.id())))
        })?;
        Ok(Self { holder, first, folder })
    }

    /// A shell script in a pod, where a directory of the host is covered and another one is the pod's alone. `$stower` is the program.
    fn in_pod(&self, script: &str) -> Result<Command> {
        let folder = self.folder.path().display();
        let manifest = MANIFEST.replace("NAME", "of-the-pod");
        let script = format!(
            "set -e\nmount -t tmpfs tmpfs {folder}/covered\nmount -t tmpfs tmpfs {folder}/pod\n\
             printf %s '{manifest}' > {folder}/pod/m.yaml\nstower={}\n{script}",
            node::binary()?.display()
        );
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.first.to_string()).args(["--mount", "--pid", "--"]);
        command.args(["unshare", "--mount", "--uts", "--ipc", "sh", "-c", &script]);
        process::without_settings(&mut command);
        Ok(command)
    }

    fn run(&self, script: &str) -> Result<Output> {
        process::output(&mut self.in_pod(script)?)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = process::kill9(self.first);
        let _ = self.holder.wait();
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_command_sees_the_hosts_files_and_what_it_carries_of_the_pods() -> Result<()> {
    let host = Host::start()?;
    let folder = host.folder.path().display();
    let done = host.run(&format!("$stower validate -f {folder}/covered/m.yaml"))?;
    ensure!(!done.status.success(), "the pod sees the host's file without host-run: {}", said(&done));
    let done = host.run(&format!("$stower host-run -- validate -f {folder}/covered/m.yaml"))?;
    ensure!(done.status.success() && said(&done).contains("of-the-host"), "{}", said(&done));
    // Not carried, the pod's file is not to be found there.
    let done = host.run(&format!("$stower host-run -- validate -f {folder}/pod/m.yaml"))?;
    ensure!(!done.status.success(), "{}", said(&done));
    let done =
        host.run(&format!("$stower host-run --carry {folder}/pod -- validate -f {folder}/pod/m.yaml"))?;
    ensure!(done.status.success() && said(&done).contains("of-the-pod"), "{}", said(&done));
    Ok(())
}

#[test]
fn its_exit_code_is_the_commands_and_what_is_wrong_is_told() -> Result<()> {
    let host = Host::start()?;
    for (script, code, part) in [
        ("$stower host-run -- version --client", 0, "Client Version"),
        ("$stower host-run -- no-such-verb", 2, "no-such-verb"),
        ("$stower host-run", 2, "COMMAND"),
        ("$stower host-run --carry /nowhere -- version --client", 1, "mount it into the container"),
        ("$stower host-run -- host-run -- version --client", 1, "without host-run"),
        (
            "KUBERNETES_SERVICE_HOST= $stower host-run --service-account /tmp -- agent",
            1,
            "KUBERNETES_SERVICE_HOST is not set",
        ),
    ] {
        let done = host.run(script)?;
        ensure!(done.status.code() == Some(code) && said(&done).contains(part), "{script}: {done:?}");
    }
    // On the host itself there is nothing to enter, and in a pod without hostPID neither.
    let script = format!("{} host-run -- version --client", node::binary()?.display());
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", &script]);
    let done = process::output(&mut command)?;
    ensure!(!done.status.success() && said(&done).contains("give the pod hostPID: true"), "{done:?}");
    Ok(())
}

/// The processes whose command line has `part`.
fn with(part: &str) -> Vec<u32> {
    let line =
        |pid: &u32| fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")).unwrap_or_default();
    process::all()
        .into_iter()
        .filter(|pid| String::from_utf8_lossy(&line(pid)).replace('\0', " ").contains(part))
        .collect()
}

#[test]
fn the_command_gets_signals_and_ends_with_who_stays_in_the_pod() -> Result<()> {
    let host = Host::start()?;
    for (number, code) in [(Signal::TERM, Some(0)), (Signal::KILL, None)] {
        let name = format!("{}/data-{}", host.folder.path().display(), number.as_raw());
        let mut command = host.in_pod(&format!(
            "exec $stower host-run -- agent --data-root {name} --run-root {name}-run --manifests {name}-manifests"
        ))?;
        let mut child = command.spawn()?;
        let socket = format!("{name}-run/stower.sock");
        wait_for("the agent on the host to answer", || {
            Ok(process::run(node::binary()?, ["health", "--socket", &socket]).ok())
        })?;
        let stays = with(&format!("host-run -- agent --data-root {name} "));
        let stays: Vec<u32> = stays
            .into_iter()
            .filter(|pid| process::executable(*pid).is_some_and(|exe| exe.ends_with("stower")))
            .collect();
        ensure!(stays.len() == 1, "{stays:?}");
        process::signal(stays[0], number).context("tell who stays")?;
        let status = wait_for("host-run to end", || Ok(child.try_wait()?))?;
        ensure!(code.is_none() || status.code() == code, "{status}");
        wait_for("the agent to end too", || {
            Ok(with(&format!("agent --data-root {name} ")).is_empty().then_some(()))
        })?;
    }
    Ok(())
}
