//! A terminal with a program in it, as a person has one.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use rustix::pty::OpenptFlags;
use rustix::termios::{Termios, Winsize};

use crate::wait_for;

/// A terminal with a program in it.
#[derive(Debug)]
pub struct Pty {
    master: File,
    slave: OwnedFd,
    /// The program.
    pub child: Child,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Pty {
    /// Starts a program in a new terminal of this size.
    pub fn start(command: &mut Command, rows: u16, columns: u16) -> Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).context("open a terminal")?;
        rustix::pty::unlockpt(&master)?;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
        let end = || slave.try_clone().map(Stdio::from);
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&master, size)?;
        let child = command.stdin(end()?).stdout(end()?).stderr(end()?).spawn()?;
        let master = File::from(master);
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut from, into) = (master.try_clone()?, Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(len @ 1..) = from.read(&mut piece) {
                into.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&piece[..len]);
            }
        });
        Ok(Self { master, slave, child, shown })
    }

    /// What the screen has shown so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Types.
    pub fn type_in(&self, keys: &str) -> Result<()> {
        (&self.master).write_all(keys.as_bytes()).context("type")
    }

    /// Waits until the screen shows something.
    pub fn wait_for(&self, text: &str) -> Result<()> {
        wait_for(format!("{text:?} on the terminal"), || Ok(self.text().contains(text).then_some(())))
            .with_context(|| format!("the terminal shows:\n{}", self.text()))
    }

    /// Makes the screen another size, and tells the program as a terminal does.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&self.master, size)?;
        crate::process::signal(self.child.id(), rustix::process::Signal::WINCH)
    }

    /// How the terminal is set.
    pub fn modes(&self) -> Result<Termios> {
        Ok(rustix::termios::tcgetattr(&self.slave)?)
    }

    /// Whether keys come one by one and unseen.
    pub fn is_raw(&self) -> Result<bool> {
        use rustix::termios::LocalModes;
        Ok(!self.modes()?.local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO))
    }

    /// Waits for the program's end; its exit code, -1 for a signal.
    pub fn wait(&mut self) -> Result<i32> {
        let child = &mut self.child;
        let status = wait_for("the program in the terminal to end", || Ok(child.try_wait()?))?;
        Ok(status.code().unwrap_or(-1))
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
