//! `cargo xtask demo`: the agent on `manifests/examples/`, with an image made of this project's own static program.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use stower_e2e::{catalog, http, process, requires, teardown, wait_for};

use crate::build::{cargo, checkout, show};

/// What the examples call the image.
const IMAGE: &str = "localhost/stower-demo:1";
/// How many containers they declare.
const EXAMPLES: usize = 9;

pub(crate) fn run(once: bool) -> Result<()> {
    requires::root()?;
    show(cargo().args(["build", "-p", "stower", "-p", "stower-e2e", "--bins"]))?;
    catch_interrupts();
    let folder = tempfile::Builder::new().prefix("stower-demo-").tempdir_in("/var/tmp")?;
    let demo = Demo::start(folder.path())?;
    demo.show()?;
    if !once {
        demo.until_interrupted()?;
    }
    println!("\nstopping the containers and the agent");
    Ok(())
}

struct Demo<'a> {
    folder: &'a Path,
    agent: Child,
    program: std::path::PathBuf,
}

impl<'a> Demo<'a> {
    fn start(folder: &'a Path) -> Result<Self> {
        let program = catalog::own_program("stower")?;
        let log = fs::File::create(folder.join("agent.log"))?;
        let mut command = Command::new(&program);
        process::without_settings(&mut command);
        command.arg("agent").arg("--manifests").arg(checkout().join("manifests/examples"));
        command.arg("--data-root").arg(folder.join("data")).arg("--run-root").arg(folder.join("run"));
        command.arg("--socket").arg(folder.join("run/stower.sock")).args(["--config", "/dev/null"]);
        // Out of the terminal's process group: Ctrl-C is for this program, which stops the agent in order.
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let demo = Self { folder, agent: command.spawn().context("start the agent")?, program };
        wait_for("the agent to be ready", || {
            Ok((http::unix(&demo.folder.join("run/stower.sock"), "GET", "/readyz")?.status == 200)
                .then_some(()))
        })
        .with_context(|| demo.log_tail())?;
        // The examples wait for their image until it is imported, and then start by themselves.
        let layout = folder.join("image");
        fs::create_dir(&layout)?;
        let (image, _) = catalog::payload_builder("stower-demo")?;
        image.write(&layout)?;
        demo.stower(&["image", "import", &layout.to_string_lossy(), IMAGE])?;
        Ok(demo)
    }

    fn stower(&self, args: &[&str]) -> Result<String> {
        process::run_command(
            Command::new(&self.program).args(args).env("STOWER_SOCKET", self.folder.join("run/stower.sock")),
        )
    }

    fn show(&self) -> Result<()> {
        wait_for("the examples to run", || {
            let list: serde_json::Value =
                serde_json::from_str(&self.stower(&["get", "containers", "-o", "json"])?)?;
            let empty = Vec::new();
            let items = list["items"].as_array().unwrap_or(&empty);
            // One of them fails again and again, so that it may just not run.
            let ran = |item: &&serde_json::Value| {
                let status = &item["status"];
                status["state"]["running"].is_object() || status["lastState"]["terminated"].is_object()
            };
            Ok((items.iter().filter(ran).count() == EXAMPLES).then_some(()))
        })
        .with_context(|| self.log_tail())?;
        self.print(&["get", "containers", "-o", "wide"])?;
        self.print(&["get", "datacontainers,volumes"])?;
        for name in ["hello", "consumer", "backup", "settings"] {
            wait_for(format!("the first line of {name}"), || {
                Ok(Some(self.stower(&["logs", name])?).filter(|text| !text.is_empty()))
            })?;
            self.print(&["logs", name])?;
        }
        self.print(&["plan"])
    }

    /// Runs a command and prints it with what it says.
    fn print(&self, args: &[&str]) -> Result<()> {
        println!("\n$ stower {}\n{}", args.join(" "), self.stower(args)?.trim_end());
        Ok(())
    }

    fn until_interrupted(&self) -> Result<()> {
        println!("It runs until Ctrl-C. In another root shell:\n");
        println!("  export STOWER_SOCKET={}", self.folder.join("run/stower.sock").display());
        println!("  alias stower={}", self.program.display());
        println!("  stower get containers -w      # kill one of the processes and watch it come back");
        println!("  stower logs -f hello");
        println!("  curl http://127.0.0.1:8088/runs");
        println!("  stower describe datacontainer journal     # who uses it, and where its data is");
        println!(
            "  stower describe container consumer        # {}/manifests/examples/data-containers.yaml tells its story",
            checkout().display()
        );
        println!("  edit {}/manifests/examples/hello.yaml", checkout().display());
        wait_until(|| INTERRUPTED.load(Ordering::Relaxed) || !process::alive(self.agent.id()));
        ensure!(process::alive(self.agent.id()), "the agent has ended:\n{}", self.log_tail());
        Ok(())
    }

    fn log_tail(&self) -> String {
        process::tail(&fs::read_to_string(self.folder.join("agent.log")).unwrap_or_default(), 30)
    }

    /// Stops all containers as their manifests ask for it, then the agent.
    fn stop(&mut self) -> Result<()> {
        self.stower(&["stop", "-A", "--all", "--timeout", "30s"])?;
        process::signal(self.agent.id(), Signal::TERM)?;
        wait_for("the agent to end", || Ok(self.agent.try_wait()?))?;
        Ok(())
    }
}

impl Drop for Demo<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("{error:#}");
            let _ = self.agent.kill();
            let _ = self.agent.wait();
        }
        // What is left over goes by force: cgroups, and after a failure processes too.
        if let Err(error) = teardown::end(&self.folder.join("data"), self.folder) {
            eprintln!("{error:#}");
        }
    }
}

/// Set by the first Ctrl-C.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupted(_: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Takes Ctrl-C and SIGTERM as the word to clean up.
fn catch_interrupts() {
    let handler = interrupted as extern "C" fn(libc::c_int);
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler does nothing but store to an atomic, which is allowed at any point.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

fn wait_until(done: impl Fn() -> bool) {
    while !done() {
        std::thread::sleep(Duration::from_millis(100));
    }
}
