//! A small durable map: an append-only file of checked lines, read whole at start-up.
//!
//! * `put` and `remove` reach the kernel before they return, so a crash of the process loses nothing; one background thread
//!   syncs all journals' writes together, at most [`SYNC_EVERY`] later, so a power cut loses at most that much.
//! * Each line is `crc32 SPACE json LF` with `json = {"v": version, "k": key, "d": value | absent}`. A line that does not check
//!   costs that line; a torn last line is what a crash leaves, and is dropped silently.
//! * A line of a newer version is kept as it is and reported as [`Loaded::newer`], never dropped and never taken as absent.
//! * The file is rewritten (temporary file, fsync, rename, fsync of the directory) once it is mostly garbage.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};

#[cfg(test)]
mod tests;

/// The longest time between a write and its fsync.
pub(crate) const SYNC_EVERY: Duration = Duration::from_millis(100);
/// The longest line that is read back; an object is far smaller (admission bounds it).
const MAX_LINE: u64 = 8 << 20;
/// The version of the lines that this release writes.
const VERSION: u32 = 1;
/// Rewriting starts above this many dead lines, and above as many dead as live.
const MIN_GARBAGE: usize = 1024;

/// Why a journal cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    /// The file cannot be opened or made.
    #[error("cannot open journal {path}")]
    Open {
        /// The journal's file.
        path: PathBuf,
        #[source]
        /// What the kernel said.
        source: io::Error,
    },
    /// The file cannot be written, often for a full disk.
    #[error("cannot write journal {path}; its contents go on in memory until it can")]
    Write {
        /// The journal's file.
        path: PathBuf,
        #[source]
        /// What the kernel said.
        source: io::Error,
    },
}

/// What was found in the file.
#[derive(Debug)]
pub(crate) struct Loaded<V> {
    /// The entries, by key.
    pub entries: BTreeMap<String, V>,
    /// Keys whose newest line was written by a newer release: known to exist, not understood.
    pub newer: Vec<String>,
    /// Lines that did not check and were passed over.
    pub corrupt: usize,
}

#[derive(Serialize, serde::Deserialize)]
struct Line<V> {
    v: u32,
    k: String,
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    d: Option<V>,
}

/// One durable map. Cheap calls; not shared between threads.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: Arc<File>,
    /// Live lines as they stand in the file, for rewriting without the values at hand.
    live: BTreeMap<String, Vec<u8>>,
    garbage: usize,
    syncer: Syncer,
    /// A write failed; the file is rewritten from memory before the next one.
    broken: bool,
}

fn encode<V: Serialize>(key: &str, value: Option<&V>) -> Vec<u8> {
    let body = serde_json::to_string(&Line { v: VERSION, k: key.to_owned(), d: value })
        .expect("maps with string keys always serialize");
    format!("{:08x} {body}\n", crc32fast::hash(body.as_bytes())).into_bytes()
}

fn check(line: &[u8]) -> Option<&[u8]> {
    let body = line.strip_suffix(b"\n")?;
    let (sum, body) = (body.get(..8)?, body.get(9..)?);
    let sum = u32::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()?;
    (crc32fast::hash(body) == sum).then_some(body)
}

impl Journal {
    /// Opens or makes the journal at `path` and reads all that is in it.
    ///
    /// # Errors
    /// When the file cannot be opened, read or made.
    pub(crate) fn open<V: DeserializeOwned>(
        path: &Path,
        syncer: Syncer,
    ) -> Result<(Self, Loaded<V>), JournalError> {
        let open_err = |source| JournalError::Open { path: path.to_owned(), source };
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc_nofollow())
            .open(path)
            .map_err(open_err)?;
        let mut reader = BufReader::with_capacity(1 << 16, &file);
        let mut loaded = Loaded { entries: BTreeMap::new(), newer: Vec::new(), corrupt: 0 };
        let mut live: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let (mut lines, mut torn) = (0usize, false);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line).map_err(open_err)?;
            if read == 0 {
                break;
            }
            lines += 1;
            torn = line.last() != Some(&b'\n');
            let Some(body) = check(&line) else {
                loaded.corrupt += usize::from(!torn);
                continue;
            };
            #[derive(serde::Deserialize)]
            struct Head {
                v: u32,
                k: String,
            }
            let Ok(head) = serde_json::from_slice::<Head>(body) else {
                loaded.corrupt += 1;
                continue;
            };
            if head.v > VERSION {
                loaded.entries.remove(&head.k);
                loaded.newer.push(head.k.clone());
                live.insert(head.k, line.clone());
                continue;
            }
            match serde_json::from_slice::<Line<V>>(body) {
                Ok(Line { k, d: Some(value), .. }) => {
                    loaded.newer.retain(|key| *key != k);
                    loaded.entries.insert(k.clone(), value);
                    live.insert(k, line.clone());
                }
                Ok(Line { k, d: None, .. }) => {
                    loaded.newer.retain(|key| *key != k);
                    loaded.entries.remove(&k);
                    live.remove(&k);
                }
                Err(_) => loaded.corrupt += 1,
            }
        }
        drop(reader);
        let garbage = lines - live.len().min(lines);
        // A torn tail would swallow the next line that is appended behind it.
        let mut journal =
            Self { path: path.to_owned(), file: Arc::new(file), live, garbage, syncer, broken: torn };
        if torn || journal.is_mostly_garbage() {
            journal.rewrite()?;
        }
        Ok((journal, loaded))
    }

    /// Stores `value` under `key`. It survives a crash of the process at once, and a power cut after [`SYNC_EVERY`].
    ///
    /// # Errors
    /// When it cannot be written; the value is kept in memory and written with the next call that can.
    pub(crate) fn put<V: Serialize>(&mut self, key: &str, value: &V) -> Result<(), JournalError> {
        let line = encode(key, Some(value));
        if self.live.get(key) == Some(&line) && !self.broken {
            return Ok(());
        }
        if self.live.insert(key.to_owned(), line.clone()).is_some() {
            self.garbage += 1;
        }
        self.append(&line)
    }

    /// Removes what stands under `key`, if anything does.
    ///
    /// # Errors
    /// As [`Journal::put`].
    pub(crate) fn remove(&mut self, key: &str) -> Result<(), JournalError> {
        if self.live.remove(key).is_none() {
            return Ok(());
        }
        self.garbage += 2;
        self.append(&encode::<()>(key, None))
    }

    /// Writes what an earlier call could not; nothing when there is none.
    ///
    /// # Errors
    /// When it still cannot be written.
    pub(crate) fn mend(&mut self) -> Result<(), JournalError> {
        if self.broken { self.rewrite() } else { Ok(()) }
    }

    /// Leaves nothing in the file of what was replaced or removed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn purge(&mut self) -> Result<(), JournalError> {
        if self.garbage > 0 || self.broken { self.rewrite() } else { Ok(()) }
    }

    /// Whether something is in memory alone.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    fn is_mostly_garbage(&self) -> bool {
        self.garbage > MIN_GARBAGE && self.garbage > self.live.len()
    }

    fn append(&mut self, line: &[u8]) -> Result<(), JournalError> {
        if self.broken || self.is_mostly_garbage() {
            return self.rewrite();
        }
        if let Err(source) = (&*self.file).write_all(line) {
            self.broken = true;
            return Err(JournalError::Write { path: self.path.clone(), source });
        }
        self.syncer.written(&self.file);
        Ok(())
    }

    fn rewrite(&mut self) -> Result<(), JournalError> {
        let write_err = |source| JournalError::Write { path: self.path.clone(), source };
        let tmp = self.path.with_extension("new");
        let written = (|| {
            let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&tmp)?;
            let mut out = io::BufWriter::new(&file);
            for line in self.live.values() {
                out.write_all(line)?;
            }
            out.flush()?;
            drop(out);
            file.sync_data()?;
            std::fs::rename(&tmp, &self.path)?;
            if let Some(dir) = self.path.parent() {
                File::open(dir)?.sync_all()?;
            }
            OpenOptions::new().append(true).open(&self.path)
        })();
        match written {
            Ok(file) => {
                self.file = Arc::new(file);
                self.garbage = 0;
                self.broken = false;
                Ok(())
            }
            Err(source) => {
                self.broken = true;
                let _ = std::fs::remove_file(&tmp);
                Err(write_err(source))
            }
        }
    }
}

fn libc_nofollow() -> i32 {
    i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).expect("open flags fit an int")
}

/// Whether a test leaves a sync out, by `STOWER_FAILPOINT`, to see that a power cut finds it; never in a release.
pub(crate) fn left_out(name: &str) -> bool {
    cfg!(debug_assertions) && std::env::var_os("STOWER_FAILPOINT").is_some_and(|wanted| wanted == name)
}

/// The one thread that makes writes durable, for all journals together.
#[derive(Debug, Clone)]
pub(crate) struct Syncer {
    queue: mpsc::Sender<Message>,
    pending: Arc<Mutex<Vec<Arc<File>>>>,
    scheduled: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Message {
    Work,
    Flush(mpsc::Sender<()>),
}

impl Syncer {
    /// Starts the thread. It ends with its last handle.
    ///
    /// # Errors
    /// When no thread can be made.
    pub(crate) fn start() -> io::Result<Self> {
        let (queue, work) = mpsc::channel();
        let pending = Arc::new(Mutex::new(Vec::<Arc<File>>::new()));
        let scheduled = Arc::new(AtomicBool::new(false));
        let (files, flag) = (Arc::clone(&pending), Arc::clone(&scheduled));
        std::thread::Builder::new().name("sync".into()).spawn(move || {
            while let Ok(first) = work.recv() {
                let mut waiting = Vec::new();
                match first {
                    // Writes that come close together share one fsync; whoever waits for a flush ends the wait.
                    Message::Work => match work.recv_timeout(SYNC_EVERY / 2) {
                        Ok(Message::Flush(done)) => waiting.push(done),
                        Ok(Message::Work) | Err(_) => {}
                    },
                    Message::Flush(done) => waiting.push(done),
                }
                flag.store(false, Ordering::SeqCst);
                let batch =
                    std::mem::take(&mut *files.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
                for file in batch {
                    if left_out("skip.sync.journal") {
                        continue;
                    }
                    if let Err(error) = file.sync_data() {
                        tracing::error!(%error, "cannot sync a journal to disk");
                    }
                }
                for done in waiting {
                    let _ = done.send(());
                }
            }
        })?;
        Ok(Self { queue, pending, scheduled })
    }

    fn written(&self, file: &Arc<File>) {
        let mut pending = self.pending.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !pending.iter().any(|known| Arc::ptr_eq(known, file)) {
            pending.push(Arc::clone(file));
        }
        drop(pending);
        if !self.scheduled.swap(true, Ordering::SeqCst) {
            let _ = self.queue.send(Message::Work);
        }
    }

    /// Waits until all that was written before this call is on disk.
    pub(crate) fn flush(&self) {
        let (done, wait) = mpsc::channel();
        if self.queue.send(Message::Flush(done)).is_ok() {
            let _ = wait.recv();
        }
    }
}
