//! A machine of its own for what the host's kernel cannot show: Debian's kernel with device-mapper, cgroup v2 alone, all
//! capabilities, reboots and power cuts.
//!
//! ```text
//!  Debian packages ──► kernel, modules, initial tree (kernel) ──┐
//!        └───────────► root disk to copy from (system) ─────────┴─► qemu ──► init ──► vm-guest
//!                                                                              ▲         │
//!  test ──► Vm: run, push, pull, disks, reboot, kill ◄──── frames (frame) ─────┴─ virtio serial port
//! ```
//!
//! The root disk of a machine is a copy of its own and lasts over reboots; all files of it go with the [`Vm`].

pub mod frame;
mod kernel;
mod mirror;
mod qemu;
mod system;

use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use self::frame::Kind;
use self::kernel::Kernel;
pub use self::mirror::{Mirror, Tests, compile};
use self::qemu::{Disk, Machine, Qemu};
pub use self::qemu::{PACKAGE, PROGRAM};
use crate::debian::Tree;
use crate::{cache, catalog, process};

/// The kernel's console, no cgroup v1, and a panic or an oops is the end. A host that is busy lets the check of the timer fail.
const APPEND: &str = "console=ttyS0 loglevel=5 panic=-1 oops=panic cgroup_no_v1=all random.trust_cpu=on \
                      mitigations=off audit=0 no_timer_check quiet";
/// How long a boot, a file transfer or an orderly end may take.
const PATIENCE: Duration = Duration::from_secs(180);
/// How much longer than the guest's own limit the host waits for an answer.
const GRACE: Duration = Duration::from_secs(30);
/// Names how many seconds a machine may be there in all; without it there is no such end.
pub const DEADLINE: &str = "STOWER_VM_DEADLINE";
/// What is kept of a command's output, in bytes; the rest is an error.
const MOST_OUTPUT: usize = 64 << 20;

/// What a machine is to be like.
#[derive(Clone, Debug)]
pub struct VmOptions {
    /// MiB of memory.
    pub memory: u32,
    /// Processors.
    pub cores: u32,
    /// Empty disks: the name below `/dev/disk/by-id`, and the size in bytes. Their files are sparse.
    pub disks: Vec<(String, u64)>,
    /// Folders of the host that the guest finds, read-only and as they are now, at `/host/NAME`.
    pub folders: Vec<(String, PathBuf)>,
    /// More for the kernel's command line.
    pub append: String,
    /// Whether the output of commands is shown as it comes.
    pub show: bool,
}

impl Default for VmOptions {
    fn default() -> Self {
        Self {
            memory: 1024,
            cores: 2,
            disks: Vec::new(),
            folders: Vec::new(),
            append: String::new(),
            show: false,
        }
    }
}

/// What a command in the guest did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The exit code; 128 and the signal's number after a signal.
    pub code: i32,
    /// Standard output and error, in the order they were written.
    pub text: String,
}

/// A running machine. It ends, with all its files, when this value does.
#[derive(Debug)]
pub struct Vm {
    options: VmOptions,
    kernel: Kernel,
    append: String,
    disks: Vec<Disk>,
    running: Option<(Qemu, UnixStream)>,
    /// The release of the guest's kernel.
    pub release: String,
    /// From the emulator's start until the guest took commands, at the last boot.
    pub boot_time: Duration,
    /// When the machine has been there long enough, whatever it does.
    deadline: Option<Instant>,
    folder: TempDir,
}

impl Vm {
    /// Prepares what is missing in the cache, and boots.
    pub fn boot(options: VmOptions) -> Result<Self> {
        let program = catalog::own_program("vm-guest")?;
        let (tree, kernel, root) = {
            let _lock = cache::lock()?;
            let tree = system::tree()?;
            let kernel = Kernel::prepare(&tree)?;
            let root = system::prepare(&tree, &kernel)?;
            (tree, kernel, root)
        };
        let folder = tempfile::Builder::new().prefix("stower-vm-").tempdir_in("/var/tmp")?;
        let mut initial = fs::read(&kernel.initial)?;
        let stripped = folder.path().join("vm-guest");
        strip(&program, &stripped)?;
        initial.extend(kernel::guest_archive(&fs::read(stripped)?));
        fs::write(folder.path().join("initial"), initial)?;
        let disks = make_disks(&options, &tree, &root, folder.path())?;
        let append = format!("{APPEND} {}", options.append);
        let mut vm = Self {
            options,
            kernel,
            append,
            disks,
            running: None,
            release: String::new(),
            boot_time: Duration::ZERO,
            deadline: deadline()?,
            folder,
        };
        vm.power_on()?;
        Ok(vm)
    }

    /// Boots again after [`Vm::kill`] or [`Vm::power_off`], with the disks as they are.
    pub fn power_on(&mut self) -> Result<()> {
        ensure!(self.running.is_none(), "the machine runs already");
        let start = Instant::now();
        let machine = Machine {
            kernel: &self.kernel.image,
            initial: &self.folder.path().join("initial"),
            append: self.append.trim(),
            memory: self.options.memory,
            cores: self.options.cores,
            disks: &self.disks,
            folder: self.folder.path(),
        };
        self.running = Some(Qemu::start(&machine)?);
        let (kind, content) = self.receive(start + PATIENCE).context("wait for the guest to boot")?;
        ensure!(kind == Kind::Hello, "out of step: the guest began with {kind:?}");
        self.release = String::from_utf8(content)?;
        self.boot_time = start.elapsed();
        for (name, _) in self.options.folders.clone() {
            let mount = format!("mkdir -p /host/{name} && mount -o ro /dev/disk/by-id/{name} /host/{name}");
            self.ok(&mount)?;
        }
        Ok(())
    }

    /// Runs a command as root, without a standard input, in `/root`. When `limit` is over, it and its process group are
    /// killed, and that is an error. What it leaves in the background goes on.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&mut self, command: &[S], limit: Duration) -> Result<Output> {
        let mut content = u32::try_from(limit.as_secs().max(1))?.to_le_bytes().to_vec();
        for argument in command {
            content.extend(argument.as_ref().as_bytes());
            content.push(0);
        }
        let told = command.iter().map(|part| part.as_ref().to_string_lossy()).collect::<Vec<_>>().join(" ");
        self.send(Kind::Run, &content)?;
        let mut text = Vec::new();
        let end = Instant::now() + limit + GRACE;
        loop {
            let said = |text: &[u8]| process::tail(&String::from_utf8_lossy(text), 40);
            let (kind, content) = self
                .receive(end)
                .with_context(|| format!("run `{told}` in the guest; it printed:\n{}", said(&text)))?;
            match kind {
                Kind::Output => {
                    if self.options.show {
                        eprint!("{}", String::from_utf8_lossy(&content));
                    }
                    ensure!(text.len() + content.len() <= MOST_OUTPUT, "`{told}` prints without end");
                    text.extend(content);
                }
                Kind::Exit => {
                    let code = i32::from_le_bytes(content.as_slice().try_into().context("an odd exit code")?);
                    return Ok(Output { code, text: String::from_utf8_lossy(&text).into_owned() });
                }
                Kind::TimedOut => {
                    bail!(
                        "`{told}` took longer than {} s in the guest; it printed:\n{}",
                        limit.as_secs(),
                        said(&text)
                    )
                }
                _ => bail!("out of step: the guest sent {kind:?} while `{told}` ran"),
            }
        }
    }

    /// Runs a shell script that must succeed within a minute, and gives what it printed.
    pub fn ok(&mut self, script: &str) -> Result<String> {
        let output = self.run(&["sh", "-c", script], Duration::from_secs(60))?;
        ensure!(
            output.code == 0,
            "`{script}` ended with {} in the guest:\n{}",
            output.code,
            process::tail(&output.text, 40)
        );
        Ok(output.text)
    }

    /// Copies a file of the host, with its mode, into the guest. Folders on the way are made.
    pub fn push(&mut self, host: &Path, guest: &str) -> Result<()> {
        let file = fs::File::open(host).with_context(|| format!("open {}", host.display()))?;
        let mode = file.metadata()?.permissions().mode() & 0o7777;
        self.put(file, mode, guest)
    }

    /// Writes a file in the guest. Folders on the way are made.
    pub fn write(&mut self, guest: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.put(content, mode, guest)
    }

    fn put(&mut self, mut from: impl Read, mode: u32, guest: &str) -> Result<()> {
        let head = [&mode.to_le_bytes()[..], guest.as_bytes()].concat();
        self.send(Kind::Put, &head)?;
        let mut part = vec![0; 256 << 10];
        loop {
            match from.read(&mut part)? {
                0 => break,
                length => self.send(Kind::Data, &part[..length])?,
            }
        }
        self.send(Kind::End, b"")?;
        self.ended(guest, |_| bail!("out of step: data where none was asked for"))
    }

    /// Reads a file of the guest.
    pub fn pull(&mut self, guest: &str) -> Result<Vec<u8>> {
        self.send(Kind::Get, guest.as_bytes())?;
        let mut content = Vec::new();
        self.ended(guest, |part| {
            content.extend(part);
            Ok(())
        })?;
        Ok(content)
    }

    fn ended(&mut self, guest: &str, mut data: impl FnMut(Vec<u8>) -> Result<()>) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let (kind, content) = self.receive(end).with_context(|| format!("transfer {guest}"))?;
            match kind {
                Kind::Data => data(content)?,
                Kind::End => return Ok(()),
                Kind::Refused => bail!("transfer {guest}: {}", String::from_utf8_lossy(&content)),
                _ => bail!("out of step: the guest sent {kind:?} in a transfer"),
            }
        }
    }

    /// The file of a disk. What the guest has synced is in it.
    pub fn disk(&self, name: &str) -> Option<PathBuf> {
        self.disks.iter().find(|disk| disk.name == name).map(|disk| disk.file.clone())
    }

    /// Cuts the power. What the guest's kernel had not written to a disk is lost.
    pub fn kill(&mut self) {
        // Its process ends with it.
        self.running = None;
    }

    /// Ends all processes in order, and the machine.
    pub fn power_off(&mut self) -> Result<()> {
        self.run(&["/usr/bin/busybox", "poweroff"], GRACE)?;
        let (mut qemu, _port) = self.running.take().context("the machine does not run")?;
        qemu.wait(PATIENCE)
    }

    /// An orderly reboot.
    pub fn reboot(&mut self) -> Result<()> {
        self.power_off()?;
        self.power_on()
    }

    /// Everything on the console since the last boot.
    pub fn console(&self) -> String {
        self.running.as_ref().map(|(qemu, _)| qemu.console()).unwrap_or_default()
    }

    fn send(&mut self, kind: Kind, content: &[u8]) -> Result<()> {
        let (qemu, port) = self.running.as_mut().context("the machine does not run")?;
        port.set_write_timeout(Some(PATIENCE))?;
        frame::write(port, kind, content)
            .with_context(|| format!("the guest takes nothing: {}", qemu.story()))
    }

    /// The next frame, or what became of the guest.
    fn receive(&mut self, end: Instant) -> Result<(Kind, Vec<u8>)> {
        let (qemu, port) = self.running.as_mut().context("the machine does not run")?;
        // One that talks without end is over too.
        let over = self.deadline.filter(|deadline| *deadline < end);
        let end = over.unwrap_or(end);
        ensure!(Instant::now() < end, "the machine's time is over: {}", qemu.story());
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        port.set_read_timeout(Some(left))?;
        match frame::read(port) {
            Ok(frame) => Ok(frame),
            Err(error) => {
                let story = match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut if over.is_some() => {
                        "the machine's time is over"
                    }
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => "the guest gave no answer in time",
                    ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset => "the guest has gone down",
                    _ => "the guest's answer cannot be read",
                };
                Err(error).with_context(|| format!("{story}: {}", qemu.story()))
            }
        }
    }
}

fn deadline() -> Result<Option<Instant>> {
    let Some(text) = std::env::var_os(DEADLINE) else { return Ok(None) };
    let seconds = text.to_str().and_then(|text| text.parse().ok());
    let seconds =
        seconds.with_context(|| format!("{DEADLINE}: {} is no number of seconds", text.display()))?;
    Ok(Some(Instant::now() + Duration::from_secs(seconds)))
}

fn make_disks(options: &VmOptions, tree: &Tree, root: &Path, folder: &Path) -> Result<Vec<Disk>> {
    let own = folder.join("root.ext4");
    process::run("cp", [Path::new("--sparse=always"), root, &own])?;
    let mut disks = vec![Disk { name: "root".to_owned(), file: own, read_only: false }];
    for (name, size) in &options.disks {
        let file = folder.join(format!("{name}.disk"));
        fs::File::create(&file)?.set_len(*size)?;
        disks.push(Disk { name: name.clone(), file, read_only: false });
    }
    for (name, from) in &options.folders {
        let file = folder.join(format!("{name}.disk"));
        let text = process::run("du", [Path::new("-sm"), Path::new("--apparent-size"), from])?;
        let size: u64 = text.split_whitespace().next().and_then(|size| size.parse().ok()).unwrap_or(0);
        // Room for the filesystem's own tables.
        system::make_disk(tree, from, &file, (size + size / 8 + 32) << 20)?;
        disks.push(Disk { name: name.clone(), file, read_only: true });
    }
    Ok(disks)
}

/// A copy of a program without its debug information, which is the most of it.
pub fn strip(program: &Path, to: &Path) -> Result<()> {
    process::run("strip", [Path::new("--strip-debug"), Path::new("-o"), to, program]).map(drop)
}
