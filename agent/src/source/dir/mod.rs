//! The directory source: which files there are, when one is complete, and what is in it.
//!
//! A file is taken as soon as it is renamed into place or closed after writing. Anything that could be half of
//! a change (a file that is gone, that does not parse, that declares less than before, that was made but not closed)
//! is looked at again after [`SETTLE`], and believed if it still stands so. An overflow of the kernel's queue, a switched
//! `..data` link of a mounted ConfigMap and a timer cause a full rescan. What cannot be read is said to be unreadable, never empty.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::mpsc,
    time::{Duration, Instant},
};

use notify::{
    EventKind, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind, RenameMode},
};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};

mod parse;
#[cfg(test)]
mod tests;

pub(crate) use parse::{Content, Declared, Problem};

/// How long something that may be half a change must stand before it is believed.
pub(crate) const SETTLE: Duration = Duration::from_millis(250);
/// How often the whole directory is compared when nothing is heard.
pub(crate) const RESCAN: Duration = Duration::from_secs(60);
/// How soon a directory that is not believed is read again.
const DOUBT: Duration = Duration::from_secs(2);
/// How often an unreadable directory is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// The longest file that is read, in bytes; a larger one is refused unread.
pub(crate) const MAX_FILE: u64 = 4 << 20;
/// The most files that one directory may hold.
const MAX_FILES: usize = 100_000;

/// What the directory says now.
#[derive(Debug)]
pub(crate) enum Update {
    /// It cannot be read; nothing is known of what it declares.
    Unreadable {
        /// Why, for a person.
        why: String,
    },
    /// What changed since the last update.
    Changes {
        /// Identifies the filesystem it lies on.
        filesystem: String,
        /// The files that changed or are gone.
        files: Vec<(String, FileUpdate)>,
        /// `files` holds every file that is there, changed or not.
        whole: bool,
    },
}

/// What one file says now.
#[derive(Debug)]
pub(crate) enum FileUpdate {
    /// Its objects.
    Good(Vec<Declared>),
    /// It is there, and cannot be taken.
    Bad(Problem),
    /// It is gone.
    Gone,
}

/// What tells that a file is still the one that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    dev: u64,
    ino: u64,
    size: i64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl From<&Stat> for Stamp {
    fn from(stat: &Stat) -> Self {
        #[allow(
            clippy::unnecessary_cast,
            clippy::cast_possible_wrap,
            reason = "field types differ by architecture"
        )]
        Self {
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            size: stat.st_size as i64,
            mtime: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            ctime: (stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }
}

#[derive(Debug)]
struct Known {
    stamp: Option<Stamp>,
    keys: Vec<String>,
}

/// A look at a file that is due.
#[derive(Debug, Clone, Copy)]
struct Due {
    at: Instant,
    /// It has stood unchanged for [`SETTLE`]: what it says now is believed.
    settled: bool,
}

/// The source's own state.
#[derive(Debug)]
pub(crate) struct DirSource {
    dir: PathBuf,
    known: BTreeMap<OsString, Known>,
    due: BTreeMap<OsString, Due>,
    rescan_at: Instant,
    unreadable: bool,
    /// The next scan reads every file, known or not.
    whole: bool,
    /// Device and inode of the directory that is watched.
    watched: Option<(u64, u64)>,
}

/// What wakes the thread.
enum Wake {
    Fs(notify::Result<notify::Event>),
    Rescan,
    Reread,
    Doubt,
}

/// Asks the source's thread for things.
#[derive(Debug, Clone)]
pub(crate) struct Handle(mpsc::Sender<Wake>);

impl Handle {
    /// Looks at the whole directory now.
    pub(crate) fn rescan(&self) {
        let _ = self.0.send(Wake::Rescan);
    }

    /// Reads every file again soon: what was told last is not believed, and may be mended by something unheard, such as
    /// a mount.
    pub(crate) fn doubt(&self) {
        let _ = self.0.send(Wake::Doubt);
    }

    /// Reads every file again, now, and tells of them all.
    pub(crate) fn reread(&self) {
        let _ = self.0.send(Wake::Reread);
    }
}

/// Starts the thread. `send` gets the updates, and ends the thread by returning false.
///
/// # Errors
/// When no thread can be made.
pub(crate) fn start(dir: PathBuf, send: impl Fn(Update) -> bool + Send + 'static) -> io::Result<Handle> {
    let (wake, wakes) = mpsc::channel();
    let handle = Handle(wake.clone());
    std::thread::Builder::new().name("manifests".into()).spawn(move || run(dir, &wake, &wakes, &send))?;
    Ok(handle)
}

fn run(dir: PathBuf, wake: &mpsc::Sender<Wake>, wakes: &mpsc::Receiver<Wake>, send: &dyn Fn(Update) -> bool) {
    let mut source = DirSource::new(dir, Instant::now());
    let mut watch = None;
    loop {
        let now = Instant::now();
        // Another directory at the path, by a mount or a rename, is not heard of through the old one's watch.
        if now >= source.rescan_at && source.identity() != source.watched {
            watch = None;
        }
        if watch.is_none() && now >= source.rescan_at {
            source.watched = source.identity();
            watch = source.watch(wake.clone());
        }
        for update in source.step(now) {
            // A directory that came back is another inode: the old watch hears nothing.
            if matches!(update, Update::Unreadable { .. }) {
                watch = None;
            }
            if !send(update) {
                return;
            }
        }
        let wait = source.next(watch.is_some()).saturating_duration_since(Instant::now());
        let mut next = wakes.recv_timeout(wait);
        loop {
            match next {
                Ok(Wake::Fs(event)) => source.heard(event, Instant::now()),
                Ok(Wake::Rescan) => source.rescan_at = Instant::now(),
                Ok(Wake::Reread) => source.reread(Instant::now()),
                Ok(Wake::Doubt) => source.reread(Instant::now() + DOUBT),
                Err(mpsc::RecvTimeoutError::Timeout) => break,
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            next = wakes.recv_timeout(Duration::ZERO);
        }
    }
}

impl DirSource {
    /// A source that has seen nothing yet and is due for a scan at `now`.
    #[must_use]
    pub(crate) fn new(dir: PathBuf, now: Instant) -> Self {
        Self {
            dir,
            known: BTreeMap::new(),
            due: BTreeMap::new(),
            rescan_at: now,
            unreadable: false,
            whole: true,
            watched: None,
        }
    }

    fn identity(&self) -> Option<(u64, u64)> {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(&self.dir).ok().map(|meta| (meta.dev(), meta.ino()))
    }

    /// Makes a scan at `now` that reads every file.
    pub(crate) fn reread(&mut self, now: Instant) {
        self.whole = true;
        self.rescan_at = now;
    }

    fn watch(&self, wake: mpsc::Sender<Wake>) -> Option<notify::RecommendedWatcher> {
        let mut watcher = notify::recommended_watcher(move |event| {
            let _ = wake.send(Wake::Fs(event));
        })
        .map_err(|error| tracing::warn!(%error, "cannot watch files; changes are seen by rescans only"))
        .ok()?;
        match watcher.watch(&self.dir, RecursiveMode::NonRecursive) {
            Ok(()) => Some(watcher),
            Err(error) => {
                tracing::debug!(%error, dir = %self.dir.display(), "cannot watch the manifests directory");
                None
            }
        }
    }

    fn next(&self, watched: bool) -> Instant {
        let scan = if watched || self.unreadable {
            self.rescan_at
        } else {
            self.rescan_at.min(Instant::now() + RETRY)
        };
        self.due.values().map(|due| due.at).min().map_or(scan, |at| at.min(scan))
    }

    /// Takes in what the kernel said.
    fn heard(&mut self, event: notify::Result<notify::Event>, now: Instant) {
        let Ok(event) = event else {
            self.rescan_at = now;
            return;
        };
        if event.need_rescan() {
            self.rescan_at = now;
            return;
        }
        let complete = |last: bool| match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(true),
            EventKind::Access(_) => None,
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Some(true),
            EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => Some(last),
            _ => Some(false),
        };
        let count = event.paths.len();
        for (at, path) in event.paths.iter().enumerate() {
            let Some(complete) = complete(at + 1 == count) else { continue };
            if path == &self.dir {
                self.rescan_at = now;
                continue;
            }
            let Some(name) = path.file_name() else { continue };
            if name == "..data" {
                self.rescan_at = now;
            } else if is_manifest(name) {
                let due = Due { at: if complete { now } else { now + SETTLE }, settled: !complete };
                self.due.insert(name.to_owned(), due);
            }
        }
    }

    /// Does what is due at `now`.
    pub(crate) fn step(&mut self, now: Instant) -> Vec<Update> {
        let scan = now >= self.rescan_at;
        if !scan && self.due.values().all(|due| due.at > now) {
            return Vec::new();
        }
        let read = self.open().and_then(|(dir, filesystem)| {
            let whole = scan && self.whole;
            let files = if scan { self.scan(&dir, now)? } else { self.look_at_due(&dir, now) };
            Ok(Update::Changes { filesystem, files, whole })
        });
        match read {
            Ok(update) => {
                if scan {
                    self.rescan_at = now + RESCAN;
                }
                self.unreadable = false;
                self.whole &= !scan;
                match &update {
                    Update::Changes { files, whole: false, .. } if files.is_empty() => Vec::new(),
                    _ => vec![update],
                }
            }
            Err(error) => {
                self.rescan_at = now + RETRY;
                self.due.clear();
                // After a gap nothing that was seen before it counts as seen.
                self.whole = true;
                if std::mem::replace(&mut self.unreadable, true) {
                    return Vec::new();
                }
                vec![Update::Unreadable { why: format!("cannot read {}: {error}", self.dir.display()) }]
            }
        }
    }

    fn open(&self) -> io::Result<(OwnedFd, String)> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&self.dir, flags, Mode::empty())?;
        // The kernel's own id of a filesystem, which unlike a device number mostly survives a reboot (statfs(2), f_fsid).
        let kind = rustix::fs::fstatfs(&dir)?.f_type;
        let id = format!("{kind:x}-{:x}", rustix::fs::fstatvfs(&dir)?.f_fsid);
        Ok((dir, id))
    }

    fn scan(&mut self, dir: &OwnedFd, now: Instant) -> io::Result<Vec<(String, FileUpdate)>> {
        let mut names: Vec<OsString> = Vec::new();
        for entry in Dir::read_from(dir)? {
            let entry = entry?;
            let Ok(name) = std::str::from_utf8(entry.file_name().to_bytes()) else { continue };
            if is_manifest(OsStr::new(name)) {
                names.push(name.into());
            }
            if names.len() > MAX_FILES {
                return Err(io::Error::other(format!("it holds more than {MAX_FILES} files")));
            }
        }
        names.sort();
        let mut updates = Vec::new();
        if self.whole {
            // All of it counts as settled: what is not told of now would count as gone.
            self.due.clear();
            self.known.retain(|name, _| names.binary_search(name).is_ok());
            self.known.values_mut().for_each(|known| known.stamp = None);
            for name in &names {
                self.look(dir, name, Due { at: now, settled: true }, now, &mut updates);
            }
            return Ok(updates);
        }
        // Waiting looks keep their time; the scan does not cut a settling short.
        let gone = self.known.keys().filter(|name| names.binary_search(name).is_err()).cloned();
        for name in gone.chain(names.iter().cloned()).collect::<Vec<_>>() {
            if !self.due.contains_key(&name) {
                self.look(dir, &name, Due { at: now, settled: false }, now, &mut updates);
            }
        }
        Ok(updates)
    }

    fn look_at_due(&mut self, dir: &OwnedFd, now: Instant) -> Vec<(String, FileUpdate)> {
        let names: Vec<_> =
            self.due.iter().filter(|(_, due)| due.at <= now).map(|(n, d)| (n.clone(), *d)).collect();
        let mut updates = Vec::new();
        for (name, due) in names {
            self.due.remove(&name);
            self.look(dir, &name, due, now, &mut updates);
        }
        updates
    }

    /// Looks at one file, and says what it is or asks for a second look.
    fn look(
        &mut self,
        dir: &OwnedFd,
        name: &OsStr,
        due: Due,
        now: Instant,
        updates: &mut Vec<(String, FileUpdate)>,
    ) {
        let known = self.known.get(name);
        let again = Due { at: now + SETTLE, settled: true };
        let (stamp, content) = match read(dir, name, known.and_then(|known| known.stamp)) {
            Look::Same => return,
            Look::Gone => {
                if self.whole || known.is_none() {
                    return;
                }
                if due.settled {
                    self.known.remove(name);
                    updates.push((text(name), FileUpdate::Gone));
                } else {
                    self.due.insert(name.to_owned(), again);
                }
                return;
            }
            Look::Moving => {
                self.due.insert(name.to_owned(), Due { at: now + SETTLE, settled: false });
                if self.whole {
                    updates.push((text(name), FileUpdate::Bad(Problem::new("is being written".into()))));
                }
                return;
            }
            Look::Bytes(stamp, bytes) => (Some(stamp), parse::parse(&bytes)),
            Look::Refused(stamp, problem) => (stamp, Content::Bad(problem)),
        };
        let less = match (&content, known) {
            (Content::Good(objects), Some(known)) => {
                known.keys.iter().any(|key| !objects.iter().any(|object| object.key() == *key))
            }
            (Content::Good(objects), None) => objects.is_empty(),
            (Content::Bad(_), _) => true,
        };
        if less && !due.settled {
            self.due.insert(name.to_owned(), again);
            return;
        }
        let entry = self.known.entry(name.to_owned()).or_insert(Known { stamp: None, keys: Vec::new() });
        entry.stamp = stamp;
        let update = match content {
            Content::Good(objects) => {
                entry.keys = objects.iter().map(Declared::key).collect();
                FileUpdate::Good(objects)
            }
            Content::Bad(problem) => FileUpdate::Bad(problem),
        };
        updates.push((text(name), update));
    }
}

/// Files that are read: `*.yaml`, `*.yml` and `*.json` that do not begin with a dot.
fn is_manifest(name: &OsStr) -> bool {
    let path = Path::new(name);
    name.to_str().is_some_and(|name| !name.starts_with('.'))
        && path.extension().is_some_and(|ext| ["yaml", "yml", "json"].iter().any(|known| ext == *known))
}

fn text(name: &OsStr) -> String {
    name.to_string_lossy().into_owned()
}

enum Look {
    /// As it was when it was read last.
    Same,
    /// Not there.
    Gone,
    /// It changed while it was read.
    Moving,
    /// Its bytes.
    Bytes(Stamp, Vec<u8>),
    /// There, and not to be read.
    Refused(Option<Stamp>, Problem),
}

fn read(dir: &OwnedFd, name: &OsStr, last: Option<Stamp>) -> Look {
    match rustix::fs::statat(dir, name, AtFlags::empty()) {
        Ok(stat) if last == Some(Stamp::from(&stat)) => return Look::Same,
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile => {
            return Look::Refused(Some((&stat).into()), Problem::new("is not a regular file".into()));
        }
        Ok(_) | Err(_) => {}
    }
    // A named pipe that is put in the file's place must not stop the thread.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => {
            // A link that points nowhere is there; what it declares is not known.
            return match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => {
                    Look::Refused(None, Problem::new("is a symbolic link that points to nothing".into()))
                }
                Err(_) => Look::Gone,
            };
        }
        Err(error) => return Look::Refused(None, Problem::new(format!("cannot be opened: {error}"))),
    };
    let before = match rustix::fs::fstat(&file) {
        Ok(stat) => stat,
        Err(error) => return Look::Refused(None, Problem::new(format!("cannot be read: {error}"))),
    };
    let stamp = Stamp::from(&before);
    if FileType::from_raw_mode(before.st_mode) != FileType::RegularFile {
        return Look::Refused(Some(stamp), Problem::new("is not a regular file".into()));
    }
    let too_long =
        || Problem::new(format!("is longer than {} MiB; split it into several files", MAX_FILE >> 20));
    if u64::try_from(before.st_size).unwrap_or(u64::MAX) > MAX_FILE {
        return Look::Refused(Some(stamp), too_long());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(before.st_size).unwrap_or(0) + 1);
    if let Err(error) = (&file).take(MAX_FILE + 1).read_to_end(&mut bytes) {
        return Look::Refused(None, Problem::new(format!("cannot be read: {error}")));
    }
    if bytes.len() as u64 > MAX_FILE {
        return Look::Refused(None, too_long());
    }
    match rustix::fs::fstat(&file) {
        Ok(after) if Stamp::from(&after) == stamp => Look::Bytes(stamp, bytes),
        _ => Look::Moving,
    }
}
