//! Device-mapper, by its ioctls alone: no library, no program, no udev, and no harm where udev runs.
//!
//! ```text
//! Control ─► ioctl (the one call)      status: what thin pools and thin devices say of themselves, as types
//!                                      metadata: which thin devices a pool has, read from its metadata
//! ```
//!
//! The interface is that of linux/dm-ioctl.h and of the kernel's documentation, admin-guide/device-mapper.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode};
use rustix::io::Errno;

pub(crate) mod ioctl;
pub(crate) mod metadata;
pub(crate) mod status;
#[cfg(test)]
mod tests;

/// Bytes of a sector, device-mapper's unit.
pub(crate) const SECTOR: u64 = 512;

const CONTROL: &str = "/dev/mapper/control";
const NAME_LENGTH: usize = 128;
/// What one answer may take; a longer one is asked for again with more room, up to this.
const MOST: usize = 16 << 20;

/// The interface's version that this was written for; the kernel's may have a higher minor number.
const VERSION: [u32; 3] = [4, 27, 0];

// The commands, by their numbers.
const LIST_DEVICES: u8 = 2;
const DEV_CREATE: u8 = 3;
const DEV_REMOVE: u8 = 4;
const DEV_SUSPEND: u8 = 6;
const DEV_STATUS: u8 = 7;
const TABLE_LOAD: u8 = 9;
const TABLE_STATUS: u8 = 12;
const TARGET_MESSAGE: u8 = 14;
const ARM_POLL: u8 = 16;
const TARGET_VERSION: u8 = 17;

/// How often a device is asked for that is just going away.
const GOING_TRIES: u32 = 500;
const GOING_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

// Flags.
const READ_ONLY: u32 = 1 << 0;
const SUSPEND: u32 = 1 << 1;
const STATUS_TABLE: u32 = 1 << 4;
const ACTIVE_PRESENT: u32 = 1 << 5;
const BUFFER_FULL: u32 = 1 << 8;
const SKIP_LOCKFS: u32 = 1 << 10;
const NO_FLUSH: u32 = 1 << 11;
const DEFERRED_REMOVE: u32 = 1 << 17;

/// Why device-mapper did not do something.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the device-mapper device {device}")]
pub(crate) struct DmError {
    action: &'static str,
    device: String,
    /// The kernel's answer.
    #[source]
    pub(crate) errno: Errno,
}

impl DmError {
    /// What was tried, with which device, and the kernel's answer.
    pub(crate) fn parts(self) -> (&'static str, String, Errno) {
        (self.action, self.device, self.errno)
    }
}

/// What a device is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Info {
    /// Its number: `/dev/dm-<minor>`.
    pub(crate) number: Number,
    /// How often it is open, mounts counted.
    pub(crate) open: u32,
    /// Whether it has a table, so that it can be read and written.
    pub(crate) active: bool,
    /// Whether all requests to it wait.
    pub(crate) suspended: bool,
}

/// A block device's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Number {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

impl Number {
    pub(crate) fn of(device: u64) -> Self {
        Self { major: rustix::fs::major(device), minor: rustix::fs::minor(device) }
    }

    /// Of a device's node.
    pub(crate) fn of_node(path: &Path) -> io::Result<Self> {
        let stat = std::fs::metadata(path)?;
        if FileType::from_raw_mode(stat.mode()) != FileType::BlockDevice {
            return Err(io::Error::other("it is no block device"));
        }
        Ok(Self::of(stat.rdev()))
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// One line of a table, or of what targets say of themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// Where it begins, in sectors.
    pub(crate) start: u64,
    /// How long it is, in sectors.
    pub(crate) length: u64,
    /// Its kind, such as `thin`.
    pub(crate) kind: String,
    /// The rest of the line.
    pub(crate) line: String,
}

/// How a device is held still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suspend {
    /// The filesystem on it is frozen, so that what is on the device is a whole one.
    Frozen,
    /// What is under way waits with the rest, and filesystems notice nothing.
    NoFlush,
}

/// The connection to device-mapper. Calls may come from several threads.
#[derive(Debug)]
pub(crate) struct Control {
    file: File,
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Control {
    /// Opens it, which loads the kernel's module where there is one.
    pub(crate) fn open() -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(CONTROL)?;
        Ok(Self { file })
    }

    /// Whether the kernel has targets of that kind, or can load them.
    pub(crate) fn has_target(&self, kind: &str) -> Result<bool, DmError> {
        let mut request = Request::new(kind, 0);
        match self.send("ask for targets of", kind, TARGET_VERSION, &mut request) {
            Ok(()) => Ok(true),
            // Before Linux 5.3 only a table that is loaded tells.
            Err(DmError { errno: Errno::NOTTY, .. }) => Ok(true),
            Err(DmError { errno: Errno::INVAL, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes a device without a table. `EBUSY` when the name is taken.
    pub(crate) fn create(&self, name: &str) -> Result<Info, DmError> {
        let mut request = Request::new(name, 0);
        self.send("make", name, DEV_CREATE, &mut request)?;
        Ok(request.info())
    }

    /// Removes a device: `EBUSY` when it is open, or, if `deferred`, as soon as it is not any more.
    pub(crate) fn remove(&self, name: &str, deferred: bool) -> Result<(), DmError> {
        let mut request = Request::new(name, if deferred { DEFERRED_REMOVE } else { 0 });
        self.send("remove", name, DEV_REMOVE, &mut request)
    }

    /// Loads a table, which counts once the device is resumed.
    pub(crate) fn load(&self, name: &str, table: &[Target], readonly: bool) -> Result<(), DmError> {
        let mut request = Request::new(name, if readonly { READ_ONLY } else { 0 });
        for target in table {
            request.push_target(target);
        }
        self.send("load the table of", name, TABLE_LOAD, &mut request)
    }

    /// Lets a device go on, with the table that was loaded last.
    pub(crate) fn resume(&self, name: &str) -> Result<Info, DmError> {
        let mut request = Request::new(name, 0);
        self.send("resume", name, DEV_SUSPEND, &mut request)?;
        Ok(request.info())
    }

    /// Holds a device still. Who dies before it is resumed leaves it so.
    pub(crate) fn suspend(&self, name: &str, how: Suspend) -> Result<(), DmError> {
        let flags = match how {
            Suspend::Frozen => SUSPEND,
            Suspend::NoFlush => SUSPEND | NO_FLUSH | SKIP_LOCKFS,
        };
        self.send("suspend", name, DEV_SUSPEND, &mut Request::new(name, flags))
    }

    /// What the device is like; `None` when there is none.
    pub(crate) fn info(&self, name: &str) -> Result<Option<Info>, DmError> {
        let mut request = Request::new(name, 0);
        match self.send("look at", name, DEV_STATUS, &mut request) {
            Ok(()) => Ok(Some(request.info())),
            Err(DmError { errno: Errno::NXIO, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The table that counts.
    pub(crate) fn table(&self, name: &str) -> Result<Vec<Target>, DmError> {
        self.targets("read the table of", name, STATUS_TABLE)
    }

    /// What the targets say of themselves. It waits for nothing: what they count may be a second old.
    pub(crate) fn status(&self, name: &str) -> Result<Vec<Target>, DmError> {
        self.targets("read the status of", name, NO_FLUSH)
    }

    fn targets(&self, action: &'static str, name: &str, flags: u32) -> Result<Vec<Target>, DmError> {
        let mut room = 4096;
        loop {
            let mut request = Request::new(name, flags);
            request.reserve(room);
            self.send(action, name, TABLE_STATUS, &mut request)?;
            if request.flags() & BUFFER_FULL == 0 {
                return Ok(request.targets());
            }
            room *= 4;
            if room > MOST {
                return Err(DmError { action, device: name.to_owned(), errno: Errno::NOBUFS });
            }
        }
    }

    /// Tells the first target something, or with `@` the device itself.
    pub(crate) fn message(&self, name: &str, text: &str) -> Result<(), DmError> {
        let mut request = Request::new(name, 0);
        request.data.extend(0_u64.to_ne_bytes());
        request.data.extend(text.as_bytes());
        request.data.push(0);
        self.send("send a message to", name, TARGET_MESSAGE, &mut request)
    }

    /// Makes a device stay that was to be removed once nobody has it open. `EBUSY` when that is happening.
    pub(crate) fn keep(&self, name: &str) -> Result<(), DmError> {
        self.message(name, "@cancel_deferred_remove")
    }

    /// All devices whose names begin with `prefix`.
    pub(crate) fn list(&self, prefix: &str) -> Result<Vec<String>, DmError> {
        let mut room = 16 << 10;
        loop {
            let mut request = Request::new("", 0);
            request.reserve(room);
            self.send("list", prefix, LIST_DEVICES, &mut request)?;
            if request.flags() & BUFFER_FULL == 0 {
                return Ok(request.names().into_iter().filter(|name| name.starts_with(prefix)).collect());
            }
            room *= 4;
            if room > MOST {
                return Err(DmError { action: "list", device: prefix.to_owned(), errno: Errno::NOBUFS });
            }
        }
    }

    /// The device of that name, working: a new one with `table`, or the one that is there, with the table that it has. It
    /// stays, also where it was to go once nobody has it open.
    pub(crate) fn ensure(&self, name: &str, table: &[Target], readonly: bool) -> Result<Info, DmError> {
        let mut left = GOING_TRIES;
        loop {
            match self.create(name) {
                Ok(_) => {
                    let made = self.load(name, table, readonly).and_then(|()| self.resume(name));
                    if made.is_err() {
                        let _ = self.remove(name, false);
                    }
                    return made;
                }
                Err(error) if error.errno == Errno::BUSY && left > 0 => {}
                Err(error) => return Err(error),
            }
            left -= 1;
            match self.keep(name) {
                Ok(()) => {}
                Err(error) if error.errno == Errno::NXIO => continue,
                Err(error) if error.errno == Errno::BUSY => {
                    std::thread::sleep(GOING_PAUSE);
                    continue;
                }
                Err(error) => return Err(error),
            }
            let Some(info) = self.info(name)? else { continue };
            if info.active && !info.suspended {
                return Ok(info);
            }
            if !info.active {
                self.load(name, table, readonly)?;
            }
            return self.resume(name);
        }
    }

    /// From now on poll(2) of this descriptor tells of events of any device.
    pub(crate) fn arm(&self) -> Result<(), DmError> {
        self.send("wait for events of", "all", ARM_POLL, &mut Request::new("", 0))
    }

    fn send(
        &self,
        action: &'static str,
        device: &str,
        command: u8,
        request: &mut Request,
    ) -> Result<(), DmError> {
        let failed = |errno| DmError { action, device: device.to_owned(), errno };
        if device.len() >= NAME_LENGTH {
            return Err(failed(Errno::NAMETOOLONG));
        }
        ioctl::call(&self.file, command, request.seal()).map_err(failed)
    }
}

/// The node of a block device: that of the kernel's own filesystem, else one that is made in `private`.
pub(crate) fn node(number: Number, private: &Path) -> io::Result<PathBuf> {
    let told = std::fs::read_to_string(format!("/sys/dev/block/{number}/uevent")).unwrap_or_default();
    let name = told.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    if let Some(path) = name.map(|name| Path::new("/dev").join(name))
        && Number::of_node(&path).is_ok_and(|there| there == number)
    {
        return Ok(path);
    }
    match rustix::fs::mkdirat(CWD, private, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let path = private.join(format!("{}-{}", number.major, number.minor));
    let device = rustix::fs::makedev(number.major, number.minor);
    match rustix::fs::mknodat(CWD, &path, FileType::BlockDevice, Mode::RUSR | Mode::WUSR, device) {
        Ok(()) | Err(Errno::EXIST) => Ok(path),
        Err(error) => Err(error.into()),
    }
}

/// A request: the head (`struct dm_ioctl`), then what belongs to the command.
struct Request {
    head: Vec<u8>,
    data: Vec<u8>,
    targets: u32,
    sent: Vec<u8>,
}

// Where fields of the head are.
const DATA_SIZE: usize = 12;
const DATA_START: usize = 16;
const TARGET_COUNT: usize = 20;
const OPEN_COUNT: usize = 24;
const FLAGS: usize = 28;
const DEVICE: usize = 40;
const NAME: usize = 48;
/// `sizeof(struct dm_target_spec)`, whose last 16 bytes are the kind.
const SPEC: usize = 40;

fn number32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|part| part.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn number64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|part| part.try_into().ok()).map_or(0, u64::from_ne_bytes)
}

fn place(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Text up to the first zero byte.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

impl Request {
    fn new(name: &str, flags: u32) -> Self {
        let mut head = vec![0; ioctl::HEAD];
        for (number, at) in VERSION.into_iter().zip([0, 4, 8]) {
            head[at..at + 4].copy_from_slice(&number.to_ne_bytes());
        }
        let start = u32::try_from(ioctl::HEAD).unwrap_or(u32::MAX);
        head[DATA_START..DATA_START + 4].copy_from_slice(&start.to_ne_bytes());
        head[FLAGS..FLAGS + 4].copy_from_slice(&flags.to_ne_bytes());
        let length = name.len().min(NAME_LENGTH - 1);
        head[NAME..NAME + length].copy_from_slice(&name.as_bytes()[..length]);
        Self { head, data: Vec::new(), targets: 0, sent: Vec::new() }
    }

    fn push_target(&mut self, target: &Target) {
        let length = (SPEC + target.line.len() + 1).next_multiple_of(8);
        let mut spec = Vec::with_capacity(length);
        spec.extend(target.start.to_ne_bytes());
        spec.extend(target.length.to_ne_bytes());
        spec.extend(0_i32.to_ne_bytes());
        spec.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
        spec.extend(target.kind.bytes().take(15));
        spec.resize(SPEC, 0);
        spec.extend(target.line.as_bytes());
        spec.resize(length, 0);
        self.data.extend(spec);
        self.targets += 1;
    }

    /// Room for an answer, in bytes.
    fn reserve(&mut self, room: usize) {
        self.data.resize(room, 0);
    }

    /// As it is sent.
    fn seal(&mut self) -> &mut [u8] {
        let mut buffer = self.head.clone();
        buffer.extend(&self.data);
        let size = u32::try_from(buffer.len()).unwrap_or(0);
        buffer[DATA_SIZE..DATA_SIZE + 4].copy_from_slice(&size.to_ne_bytes());
        buffer[TARGET_COUNT..TARGET_COUNT + 4].copy_from_slice(&self.targets.to_ne_bytes());
        self.sent = buffer;
        &mut self.sent
    }

    fn flags(&self) -> u32 {
        number32(&self.sent, FLAGS)
    }

    fn info(&self) -> Info {
        Info {
            number: Number::of(number64(&self.sent, DEVICE)),
            open: number32(&self.sent, OPEN_COUNT),
            active: self.flags() & ACTIVE_PRESENT != 0,
            suspended: self.flags() & SUSPEND != 0,
        }
    }

    /// What the kernel wrote after the head.
    fn answer(&self) -> &[u8] {
        let end = place(number32(&self.sent, DATA_SIZE)).min(self.sent.len());
        self.sent.get(place(number32(&self.sent, DATA_START))..end).unwrap_or_default()
    }

    fn targets(&self) -> Vec<Target> {
        let answer = self.answer();
        let mut targets = Vec::new();
        let mut at = 0;
        // `next` counts from the beginning of the first one.
        for _ in 0..number32(&self.sent, TARGET_COUNT) {
            let Some(spec) = answer.get(at..).filter(|rest| rest.len() > SPEC) else { break };
            targets.push(Target {
                start: number64(spec, 0),
                length: number64(spec, 8),
                kind: text(&spec[24..SPEC]),
                line: text(&spec[SPEC..]).trim_end().to_owned(),
            });
            let next = place(number32(spec, 20));
            if next <= at {
                break;
            }
            at = next;
        }
        targets
    }

    fn names(&self) -> Vec<String> {
        let answer = self.answer();
        let mut names = Vec::new();
        let mut at = 0;
        // `next` counts from the beginning of this one; an entry of no device ends an empty list.
        while let Some(entry) = answer.get(at..).filter(|rest| rest.len() > 12) {
            if number64(entry, 0) == 0 {
                break;
            }
            names.push(text(&entry[12..]));
            match place(number32(entry, 8)) {
                0 => break,
                next => at += next,
            }
        }
        names
    }
}
