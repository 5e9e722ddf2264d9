//! The far end of `stower_e2e::vm`: runs in the guest, and does what is asked over the serial port.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal};
use stower_e2e::vm::frame::{self, Kind, PORT};

/// How much of a file or of output goes into one frame.
const PART: usize = 64 << 10;

fn main() -> Result<()> {
    let mut port = port()?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    frame::write(&mut port, Kind::Hello, release.trim().as_bytes())?;
    loop {
        let (kind, content) = frame::read(&mut port)?;
        match kind {
            Kind::Run => run(&mut port, &content)?,
            Kind::Put => {
                let done = put(&mut port, &content)?;
                answer(&mut port, done)?;
            }
            Kind::Get => {
                let done = get(&mut port, &content);
                answer(&mut port, done)?;
            }
            _ => bail!("out of step: the host sent {kind:?}"),
        }
    }
}

fn answer(port: &mut File, done: Result<()>) -> io::Result<()> {
    match done {
        Ok(()) => frame::write(port, Kind::End, b""),
        Err(error) => frame::write(port, Kind::Refused, format!("{error:#}").as_bytes()),
    }
}

/// The serial port: no udev gives it a name here.
fn port() -> Result<File> {
    for entry in fs::read_dir("/sys/class/virtio-ports").context("the kernel has no virtio serial ports")? {
        let entry = entry?;
        if fs::read_to_string(entry.path().join("name"))?.trim() == PORT {
            let path = Path::new("/dev").join(entry.file_name());
            return File::options().read(true).write(true).open(&path).context("open the serial port");
        }
    }
    bail!("no serial port is named {PORT}")
}

fn run(port: &mut File, content: &[u8]) -> Result<()> {
    let (seconds, arguments) = frame::number(content)?;
    let mut arguments = arguments.split(|byte| *byte == 0).map(std::ffi::OsStr::from_bytes);
    let program = arguments.next().context("no command")?;
    let mut arguments: Vec<_> = arguments.collect();
    // After the last zero byte.
    arguments.pop();
    let (mut output, writer) = io::pipe()?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    command.process_group(0).current_dir("/root");
    let started = command.spawn();
    // The command holds the writing end too; only its descendants may.
    drop(command);
    let child = match started {
        Ok(child) => child,
        Err(error) => {
            let text = format!("cannot run {}: {error}\n", program.display());
            frame::write(port, Kind::Output, text.as_bytes())?;
            return Ok(frame::write(port, Kind::Exit, &127_i32.to_le_bytes())?);
        }
    };
    follow(port, child, &mut output, Duration::from_secs(seconds.into()))
}

/// Passes output on until the command itself ends. What it left in the background may go on and keep the pipe.
fn follow(port: &mut File, mut child: Child, output: &mut io::PipeReader, limit: Duration) -> Result<()> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process without a number")?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    rustix::fs::fcntl_setfl(output.as_fd(), rustix::fs::OFlags::NONBLOCK)?;
    let end = Instant::now() + limit;
    let mut closed = false;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let wait = rustix::event::Timespec { tv_sec: i64::try_from(left.as_secs())?, tv_nsec: 1_000_000 };
        let mut polled = vec![PollFd::new(&pidfd, PollFlags::IN)];
        if !closed {
            polled.push(PollFd::new(&*output, PollFlags::IN));
        }
        match poll(&mut polled, Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for the command"),
        }
        let ended = !polled[0].revents().is_empty();
        drop(polled);
        if !closed {
            closed = pass(port, output)?;
        }
        if ended {
            let status = child.wait()?;
            let code = status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(-1);
            return Ok(frame::write(port, Kind::Exit, &code.to_le_bytes())?);
        }
        if left.is_zero() {
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
            child.wait()?;
            return Ok(frame::write(port, Kind::TimedOut, b"")?);
        }
    }
}

/// Sends what is there to read; whether it was all there will be.
fn pass(port: &mut File, output: &mut io::PipeReader) -> Result<bool> {
    let mut part = vec![0; PART];
    loop {
        match output.read(&mut part) {
            Ok(0) => return Ok(true),
            Ok(length) => frame::write(port, Kind::Output, &part[..length])?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The outer result is the port's, the inner one the file's: all frames of a file are read, whatever becomes of it.
fn put(port: &mut File, content: &[u8]) -> Result<Result<()>> {
    let (mode, path) = frame::number(content)?;
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    let mut file = create(path, mode);
    loop {
        let (kind, part) = frame::read(port)?;
        match kind {
            Kind::Data => {
                if let Ok(open) = &mut file
                    && let Err(error) = open.write_all(&part)
                {
                    file = Err(error).with_context(|| format!("write {}", path.display()));
                }
            }
            Kind::End => return Ok(file.map(drop)),
            _ => bail!("out of step: the host sent {kind:?} in a file"),
        }
    }
}

fn create(path: &Path, mode: u32) -> Result<File> {
    fs::create_dir_all(path.parent().context("no file's path")?)?;
    let mut options = File::options();
    let file = options.write(true).create(true).truncate(true).mode(mode).open(path);
    let file = file.with_context(|| format!("make {}", path.display()))?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    Ok(file)
}

fn get(port: &mut File, path: &[u8]) -> Result<()> {
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut part = vec![0; PART];
    loop {
        match file.read(&mut part)? {
            0 => return Ok(()),
            length => frame::write(port, Kind::Data, &part[..length])?,
        }
    }
}
