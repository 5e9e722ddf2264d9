//! Thin devices as block devices: made, shown, mounted, held still, and put away again.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

use super::filesystem;
use super::pool::Pool;
use super::record::Thin;
use crate::dm::status;
use crate::dm::{SECTOR, Suspend, Target, ioctl};
use crate::driver::DriverError;
use crate::failpoint::failpoint;
use crate::mount::Mount;

/// How long a device is waited for that we have just let go of: until a child of another thread executes its program, it has
/// a copy of each descriptor, and udev looks at each device once.
const FREE_TRIES: u32 = 200;
const FREE_PAUSE: Duration = Duration::from_millis(10);

/// What keeps calls for the same device apart, and lets all others go on, also where one of them hangs with the device.
#[derive(Debug, Default)]
pub(super) struct Locks {
    held: Mutex<HashSet<u32>>,
    freed: Condvar,
}

/// Nobody else works on that device.
pub(super) struct Alone<'a> {
    of: &'a Locks,
    id: u32,
}

impl Locks {
    pub(super) fn of(&self, id: u32) -> Alone<'_> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        while !held.insert(id) {
            held = self.freed.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        Alone { of: self, id }
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.of.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        self.of.freed.notify_all();
    }
}

/// Numbers of devices that are only looked at.
static READERS: AtomicU64 = AtomicU64::new(0);

impl Pool {
    /// The name of the device that a thin device is written through.
    pub(super) fn device(&self, id: u32) -> String {
        format!("{}{id}", self.config.prefix())
    }

    /// The number in the name of one of our devices, and whether it is only for reading; `None` for what is no thin device.
    pub(super) fn parse_device(&self, name: &str) -> Option<(u32, bool)> {
        let rest = name.strip_prefix(&self.config.prefix())?;
        match rest.split_once('r') {
            Some((id, _)) => Some((id.parse().ok()?, true)),
            None => Some((rest.parse().ok()?, false)),
        }
    }

    fn line(&self, thin: Thin) -> [Target; 1] {
        let line = format!("{} {}", self.number, thin.id);
        [Target { start: 0, length: thin.sectors, kind: "thin".to_owned(), line }]
    }

    /// Shows a thin device; its node.
    pub(super) fn activate(&self, thin: Thin) -> Result<PathBuf, DriverError> {
        self.answers()?;
        let info = {
            let _going = self.going();
            let shown = self.control.ensure(&self.device(thin.id), &self.line(thin), false);
            shown.map_err(|error| self.explain_activation(error))?
        };
        // One that was there may be from before it was made larger.
        self.stretch(thin)?;
        self.node(info.number)
    }

    /// Shows a thin device that is going to be written to. A filesystem in it that saw errors is mended first.
    pub(super) fn activate_to_write(&self, thin: Thin) -> Result<PathBuf, DriverError> {
        let node = self.activate(thin)?;
        let name = self.device(thin.id);
        if self.control.info(&name)?.is_some_and(|info| info.open == 0)
            && let Err(error) = self.config.fs.mend(&node)
        {
            self.let_go(&name)?;
            return Err(error);
        }
        Ok(node)
    }

    /// Shows it once more, for reading only; the name, and the node.
    pub(super) fn activate_reader(&self, thin: Thin) -> Result<(String, PathBuf), DriverError> {
        self.answers()?;
        loop {
            let number = READERS.fetch_add(1, Ordering::Relaxed);
            let name = format!("{}r{}-{number}", self.device(thin.id), std::process::id());
            let _going = self.going();
            match self.control.create(&name) {
                Ok(_) => {}
                // Of a process that died and had our number.
                Err(error) if error.errno == Errno::BUSY => continue,
                Err(error) => return Err(error.into()),
            }
            let shown =
                self.control.load(&name, &self.line(thin), true).and_then(|()| self.control.resume(&name));
            let node = match shown {
                Ok(info) => self.node(info.number),
                Err(error) => Err(self.explain_activation(error)),
            };
            return match node {
                Ok(node) => Ok((name, node)),
                Err(error) => {
                    let _ = self.control.remove(&name, false);
                    Err(error)
                }
            };
        }
    }

    fn explain_activation(&self, error: crate::dm::DmError) -> DriverError {
        match self.status().map(|status| status.pressure) {
            Ok(Some(failed @ crate::driver::Pressure::Failed { .. })) => failed.into(),
            _ => error.into(),
        }
    }

    /// Lets a device go once nobody has it open any more.
    pub(super) fn let_go(&self, name: &str) -> Result<(), DriverError> {
        match self.control.remove(name, true) {
            Ok(()) => Ok(()),
            Err(error) if error.errno == Errno::NXIO => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a device that nobody should have open any more. Whether it is gone.
    pub(super) fn put_away(&self, name: &str, tries: u32) -> Result<bool, DriverError> {
        for left in (0..=tries).rev() {
            match self.control.remove(name, false) {
                Ok(()) => return Ok(true),
                Err(error) if error.errno == Errno::NXIO => return Ok(true),
                Err(error) if error.errno != Errno::BUSY => return Err(error.into()),
                Err(_) if left > 0 => std::thread::sleep(FREE_PAUSE),
                Err(_) => {}
            }
        }
        Ok(false)
    }

    /// How it is mounted, from its node.
    pub(super) fn mount(&self, node: PathBuf, readonly: bool) -> Mount {
        self.config.fs.mount(node, readonly, self.discards(), &self.options.mount_options)
    }

    /// Shows and mounts it, for us alone. The device goes with the mount.
    pub(super) fn mounted(&self, thin: Thin) -> Result<OwnedFd, DriverError> {
        let node = self.activate_to_write(thin)?;
        let root = filesystem::open(&self.mount(node, false));
        self.let_go(&self.device(thin.id))?;
        root
    }

    /// Mounts it for reading only, as a device of its own, which goes with the mount.
    pub(super) fn open_reader(&self, thin: Thin) -> Result<OwnedFd, DriverError> {
        let (name, node) = self.activate_reader(thin)?;
        let root = crate::mount::detached::open_to_read(&self.mount(node, true));
        self.let_go(&name)?;
        Ok(root?)
    }

    /// What is in it as it is now, whole, as a new thin device. It may be written to meanwhile.
    pub(super) fn snapshot(&self, origin: Thin) -> Result<u32, DriverError> {
        let name = self.device(origin.id);
        if self.control.info(&name)?.is_none_or(|info| info.suspended || !info.active) {
            return self.create_snapshot(origin.id);
        }
        self.answers()?;
        match self.control.suspend(&name, Suspend::Frozen) {
            Ok(()) => {}
            // It has just gone.
            Err(error) if error.errno == Errno::NXIO => return self.create_snapshot(origin.id),
            Err(error) => return Err(error.into()),
        }
        let made = self.create_snapshot(origin.id);
        match self.control.resume(&name) {
            Ok(_) => {}
            Err(error) if error.errno == Errno::NXIO => {}
            Err(error) => return Err(error.into()),
        }
        made
    }

    /// Puts a device away whose filesystem is complete, and gives the thin device that has it: the same, or a new one where
    /// somebody else still has that one mounted, who then keeps what nobody names any more.
    pub(super) fn settle(&self, thin: Thin) -> Result<Thin, DriverError> {
        if self.put_away(&self.device(thin.id), FREE_TRIES)? {
            return Ok(thin);
        }
        let copy = Thin { id: self.snapshot(thin)?, ..thin };
        // A filesystem that was held still may have something left to do at its next mount; those of layers are only read.
        let root = self.mounted(copy)?;
        rustix::fs::syncfs(&root).map_err(DriverError::io("sync", self.device(copy.id)))?;
        drop(root);
        if self.put_away(&self.device(copy.id), FREE_TRIES)? {
            return Ok(copy);
        }
        Err(DriverError::io("remove", self.device(copy.id))(Errno::BUSY))
    }

    /// Gives a device that is shown the size that is recorded.
    pub(super) fn stretch(&self, thin: Thin) -> Result<(), DriverError> {
        let name = self.device(thin.id);
        let _going = self.going();
        if self.control.info(&name)?.is_none_or(|info| !info.active) {
            return Ok(());
        }
        if self.control.table(&name)?.iter().map(|target| target.length).sum::<u64>() >= thin.sectors {
            return Ok(());
        }
        self.control.load(&name, &self.line(thin), false)?;
        self.control.suspend(&name, Suspend::NoFlush)?;
        self.control.resume(&name)?;
        Ok(())
    }

    /// Sectors that have a block, whoever shares it.
    pub(super) fn mapped(&self, thin: Thin) -> Result<u64, DriverError> {
        let name = self.device(thin.id);
        let there = self.control.info(&name)?.is_some_and(|info| info.active);
        let name = if there { name } else { self.activate_reader(thin)?.0 };
        let line = self.control.status(&name).map(|targets| targets.into_iter().next());
        if !there {
            self.let_go(&name)?;
        }
        let line = line?.map(|target| target.line).unwrap_or_default();
        match line.parse() {
            Ok(status::Thin::Works { mapped, .. }) => Ok(mapped),
            _ => Err(super::pressure::failed(&self.name).into()),
        }
    }

    /// Whether what is not used any more goes back below the pool.
    pub(super) fn discards(&self) -> bool {
        self.options.discard.unwrap_or(self.is_sparse())
    }

    /// Gives all blocks that are its alone back, then deletes it. Whether it is gone: somebody may have it mounted.
    pub(super) fn destroy(&self, thin: Thin) -> Result<bool, DriverError> {
        let name = self.device(thin.id);
        if !self.put_away(&name, 0)? {
            self.let_go(&name)?;
            return Ok(false);
        }
        if self.discards() && thin.sectors > 0 {
            let node = match self.activate(thin) {
                Ok(node) => node,
                // Not in the pool any more.
                Err(DriverError::Io { ref source, .. })
                    if matches!(source.raw_os_error(), Some(libc::ENODATA | libc::EINVAL)) =>
                {
                    return self.delete_it(thin.id);
                }
                Err(error) => return Err(error),
            };
            let discarded = std::fs::OpenOptions::new()
                .write(true)
                .open(&node)
                .and_then(|file| Ok(ioctl::discard(&file, thin.sectors * SECTOR)?));
            if let Err(error) = discarded {
                tracing::debug!(%error, device = name, "could not discard what it had");
            }
            failpoint!("remove.discarded");
            if !self.put_away(&name, FREE_TRIES)? {
                self.let_go(&name)?;
                return Ok(false);
            }
        }
        self.delete_it(thin.id)
    }

    fn delete_it(&self, id: u32) -> Result<bool, DriverError> {
        match self.delete(id) {
            Ok(()) => {
                failpoint!("remove.deleted");
                Ok(true)
            }
            Err(error) if error.errno == Errno::BUSY => Ok(false),
            Err(error) => Err(self.explain(error)),
        }
    }
}
