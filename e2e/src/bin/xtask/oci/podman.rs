//! `cargo xtask oci --podman`: redis and nginx under Debian's podman, with `stower-runtime` as its runtime.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use stower_e2e::{Image, catalog, http, process, requires, wait_for};

use crate::build::install;

/// Runs both, and fails where podman does not see what it sees of any other runtime.
pub(crate) fn run() -> Result<()> {
    requires::root()?;
    install(&[("podman", "podman"), ("conmon", "conmon")])?;
    let podman = Podman::new()?;
    println!("{}", process::run("podman", ["--version"])?.trim());
    podman.redis()?;
    podman.nginx()?;
    podman.failures()?;
    podman.clean()
}

/// podman with a storage of its own.
struct Podman {
    folder: tempfile::TempDir,
    runtime: std::path::PathBuf,
    /// Less than podman asks for by itself, where the machine cannot give that: it fails with every runtime.
    limits: Vec<String>,
}

impl Podman {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let limits = ["--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096"].map(str::to_owned).to_vec();
        Ok(Self { folder, runtime: super::built()?, limits })
    }

    fn command(&self, args: &[&str]) -> Command {
        let at = |name: &str| self.folder.path().join(name);
        let mut command = Command::new("podman");
        command
            .arg("--root")
            .arg(at("root"))
            .arg("--runroot")
            .arg(at("run"))
            .arg("--runtime")
            .arg(&self.runtime);
        command.args(["--cgroup-manager=cgroupfs", "--storage-driver=vfs", "--events-backend=none"]);
        command.arg("--tmpdir").arg(at("tmp")).args(args);
        command
    }

    fn ok(&self, args: &[&str]) -> Result<String> {
        println!("   podman {}", args.join(" "));
        process::run_command(&mut self.command(args))
    }

    /// Brings an image in; gives what podman calls it.
    fn image(&self, image: &Image) -> Result<String> {
        let source = format!("oci:{}", image.layout.display());
        Ok(self.ok(&["pull", "-q", &source])?.trim().to_owned())
    }

    fn begin(&self, name: &str, image: &str, port: u16) -> Result<()> {
        let limits: Vec<&str> = self.limits.iter().map(String::as_str).collect();
        let port = format!("PORT={port}");
        let args =
            [&["run", "-d", "--network=host", "--name", name, "-e", &port], &limits[..], &[image]].concat();
        self.ok(&args).map(drop)
    }

    fn state(&self, name: &str) -> Result<String> {
        Ok(self.ok(&["inspect", "-f", "{{.State.Status}}", name])?.trim().to_owned())
    }

    fn redis(&self) -> Result<()> {
        let (port, image) = (free_port()?, self.image(&catalog::redis()?)?);
        self.begin("redis", &image, port)?;
        let number = port.to_string();
        let ask = |args: &[&str]| {
            process::run_command(
                &mut self.command(&[&["exec", "redis", "redis-cli", "-p", &number], args].concat()),
            )
        };
        let pong = || Ok(ask(&["ping"]).ok().filter(|said| said.trim() == "PONG"));
        wait_for("redis to answer", pong)?;
        ensure!(ask(&["set", "kept", "yes"])?.trim() == "OK");
        ensure!(self.ok(&["exec", "-t", "redis", "tty"])?.trim().starts_with("/dev/pts/"));
        ensure!(self.ok(&["exec", "redis", "id", "-un"])?.trim() == "daemon", "exec takes the image's user");
        ensure!(self.ok(&["top", "redis", "comm"])?.contains("redis-server"));
        ensure!(
            self.ok(&["stats", "--no-stream", "--format", "{{.PIDs}}", "redis"])?.trim().parse::<u32>()? > 0
        );
        ensure!(self.ok(&["logs", "redis"])?.contains("Ready to accept connections"));
        self.ok(&["pause", "redis"])?;
        ensure!(self.state("redis")? == "paused");
        self.ok(&["unpause", "redis"])?;
        ensure!(ask(&["get", "kept"])?.trim() == "yes", "it goes on where it was");
        self.ok(&["stop", "-t", "10", "redis"])?;
        ensure!(self.state("redis")? == "exited");
        self.ok(&["start", "redis"])?;
        wait_for("redis to answer again", pong)?;
        self.ok(&["kill", "redis"])?;
        ensure!(self.ok(&["wait", "redis"])?.trim() == "137");
        self.ok(&["rm", "redis"]).map(drop)
    }

    fn nginx(&self) -> Result<()> {
        let (port, image) = (free_port()?, self.image(&catalog::nginx()?)?);
        self.begin("nginx", &image, port)?;
        let host = format!("127.0.0.1:{port}");
        let page = || {
            let answer = http::tcp(&host, "GET", "/", &[], &[]).ok();
            Ok(answer.filter(|answer| answer.text().contains("served by nginx")))
        };
        wait_for("nginx to answer", page)?;
        let workers = self.ok(&["top", "nginx", "user", "comm"])?;
        ensure!(
            workers.lines().any(|line| line.starts_with("daemon")),
            "its worker is another user:\n{workers}"
        );
        ensure!(self.ok(&["exec", "nginx", "nginx", "-v"]).is_ok());
        self.ok(&["restart", "-t", "10", "nginx"])?;
        wait_for("nginx to answer again", page)?;
        // The image's own signal ends it in order.
        self.ok(&["stop", "-t", "10", "nginx"])?;
        ensure!(self.ok(&["inspect", "-f", "{{.State.ExitCode}}", "nginx"])?.trim() == "0");
        self.ok(&["rm", "nginx"]).map(drop)
    }

    /// podman has codes of its own for a command that is not there, and one that cannot be executed.
    fn failures(&self) -> Result<()> {
        let image = self.image(&catalog::busybox()?)?;
        let limits: Vec<&str> = self.limits.iter().map(String::as_str).collect();
        for (program, code) in [("/missing", 127), ("/etc/passwd", 126), ("true", 0)] {
            let args = [&["run", "--rm", "--network=none"], &limits[..], &[&image, program]].concat();
            println!("   podman {}", args.join(" "));
            let output = process::output(&mut self.command(&args))?;
            ensure!(
                output.status.code() == Some(code),
                "{program} ends with {}, not {code}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }

    /// Nothing is left.
    fn clean(&self) -> Result<()> {
        ensure!(self.ok(&["ps", "-aq"])?.trim().is_empty());
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        let left =
            |path: &Path| mounts.lines().filter(|line| line.contains(&*path.to_string_lossy())).count();
        // podman's own, which `system reset` takes off too.
        self.ok(&["system", "reset", "-f"])?;
        println!("mounts of podman itself before the end: {}", left(self.folder.path()));
        Ok(())
    }
}

/// A port that nobody has at this moment.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
