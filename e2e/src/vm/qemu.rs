//! The emulator's process. It runs without KVM, which is not to be had everywhere that tests run.

use std::fs;
use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::frame::PORT;
use crate::process;

/// The emulator.
pub const PROGRAM: &str = "qemu-system-x86_64";
/// The Debian package with the emulator.
pub const PACKAGE: &str = "qemu-system-x86";
/// What the kernel prints before it gives up.
const PANIC: &str = "Kernel panic - not syncing";

/// A disk: what it is called in `/dev/disk/by-id`, and its file.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) name: String,
    pub(super) file: PathBuf,
    pub(super) read_only: bool,
}

/// What the emulator is started with.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    pub(super) kernel: &'a Path,
    pub(super) initial: &'a Path,
    pub(super) append: &'a str,
    /// MiB.
    pub(super) memory: u32,
    pub(super) cores: u32,
    pub(super) disks: &'a [Disk],
    /// A folder for the console's text and the socket.
    pub(super) folder: &'a Path,
}

/// A running emulator; it ends with this value, and with this program.
#[derive(Debug)]
pub(super) struct Qemu {
    child: Child,
    folder: PathBuf,
}

impl Qemu {
    /// Starts it, and gives the guest's serial port.
    pub(super) fn start(machine: &Machine<'_>) -> Result<(Self, UnixStream)> {
        let socket = machine.folder.join("port");
        if socket.exists() {
            fs::remove_file(&socket)?;
        }
        let listener = UnixListener::bind(&socket).context("make the socket of the serial port")?;
        listener.set_nonblocking(true)?;
        let mut command = process::dies_with_us(&command(machine, &socket));
        let said = fs::File::create(machine.folder.join("qemu.log"))?;
        command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said);
        let child = process::spawn_from_lasting_thread(command)?;
        let mut qemu = Self { child, folder: machine.folder.to_owned() };
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            match listener.accept() {
                Ok((port, _)) => {
                    port.set_nonblocking(false)?;
                    return Ok((qemu, port));
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("wait for the emulator"),
            }
            if let Some(status) = qemu.child.try_wait()? {
                bail!("{PROGRAM} (apt-get install {PACKAGE}) ended with {status}:\n{}", qemu.said());
            }
            if Instant::now() > end {
                bail!("{PROGRAM} did not open the serial port in 30 s:\n{}", qemu.said());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it at once, as if the power had failed. What the guest had not written to its disks is gone.
    pub(super) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until the guest has switched itself off.
    pub(super) fn wait(&mut self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > end {
                bail!("the guest has not gone down in {} s; {}", limit.as_secs(), self.story());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// What the console says of the end: a panic, or its last lines.
    pub(super) fn story(&self) -> String {
        let console = self.console();
        let what = match console.find(PANIC) {
            Some(at) => console[at..].lines().next().unwrap_or(PANIC),
            None => "no kernel panic",
        };
        format!("{what}; the console's last lines:\n{}{}", process::tail(&console, 25), self.said())
    }

    /// Everything on the console since the start.
    pub(super) fn console(&self) -> String {
        text(&self.folder.join("console"))
    }

    fn said(&self) -> String {
        text(&self.folder.join("qemu.log"))
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The file's last mebibyte.
fn text(path: &Path) -> String {
    use std::io::{Seek, SeekFrom};
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(1 << 20)))?;
        let mut bytes = Vec::new();
        file.take(1 << 20).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).replace('\r', "")
}

fn command(machine: &Machine<'_>, socket: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-machine", "pc"]);
    command.args(["-smp", &machine.cores.to_string(), "-m", &machine.memory.to_string()]);
    // A panic reboots, and a reboot ends the emulator.
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.arg("-kernel").arg(machine.kernel).arg("-initrd").arg(machine.initial);
    command.arg("-append").arg(machine.append);
    command.arg("-serial").arg(format!("file:{}", machine.folder.join("console").display()));
    command.args(["-device", "virtio-serial-pci", "-device"]);
    command.arg(format!("virtserialport,chardev=port,name={PORT}"));
    command.arg("-chardev").arg(format!("socket,id=port,path={}", socket.display()));
    for (number, disk) in machine.disks.iter().enumerate() {
        let read_only = if disk.read_only { "on" } else { "off" };
        // The guest's flushes need not reach the host's disk: the host does not lose its power here.
        command.arg("-drive").arg(format!(
            "if=none,id=d{number},format=raw,cache=unsafe,discard=unmap,read-only={read_only},file={}",
            disk.file.display()
        ));
        command.arg("-device").arg(format!("virtio-blk-pci,drive=d{number},serial={}", disk.name));
    }
    command
}
