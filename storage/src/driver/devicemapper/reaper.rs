//! The threads that work for the pool: one removes thin devices that nothing names any more, as soon as nobody has them
//! mounted; the other makes the pool larger before it is full. Neither keeps anything that a start-up would not find by
//! itself.

use std::collections::{HashSet, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::pool::Pool;
use super::record::Thin;
use crate::driver::DriverError;

/// How often a device is looked at that somebody still has mounted.
const AGAIN: Duration = Duration::from_secs(2);
/// How often the pool is looked at when it tells of nothing.
const LOOK: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

#[derive(Debug, Default)]
struct Queue {
    /// To be removed now.
    now: VecDeque<Thin>,
    /// Not gone at the last look.
    busy: Vec<Thin>,
    stop: bool,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// In the queue, or being removed.
    pending: AtomicUsize,
    stop: AtomicBool,
    wake: OwnedFd,
}

/// See the module. They end with it.
#[derive(Debug)]
pub(super) struct Reaper {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Reaper {
    pub(super) fn start(pool: &Arc<Pool>) -> Result<Self, DriverError> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC).map_err(DriverError::io("make", "an event"))?;
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            changed: Condvar::new(),
            pending: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            wake,
        });
        let it = Self { shared, threads: Mutex::default() };
        for (name, work) in [("dm-remove", remove as fn(&Pool, &Shared)), ("dm-watch", watch)] {
            let (pool, shared) = (Arc::clone(pool), Arc::clone(&it.shared));
            let thread = std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || work(&pool, &shared))
                .map_err(DriverError::io("start the thread", name))?;
            it.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(it)
    }

    /// Has a thin device removed that nothing names any more.
    pub(super) fn add(&self, thin: Thin) {
        self.shared.pending.fetch_add(1, Ordering::Relaxed);
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).now.push_back(thin);
        self.shared.changed.notify_all();
    }

    /// How many are not removed yet.
    pub(super) fn pending(&self) -> usize {
        self.shared.pending.load(Ordering::Relaxed)
    }

    /// Returns when all are removed but those that somebody has mounted, or after this time.
    pub(super) fn settle(&self, most: Duration) {
        let queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let is_at_it = |queue: &mut Queue| self.shared.pending.load(Ordering::Relaxed) > queue.busy.len();
        let waited = self.shared.changed.wait_timeout_while(queue, most, is_at_it);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Ends the threads, once what is to be removed now is removed.
    pub(super) fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
        self.shared.changed.notify_all();
        let _ = rustix::io::write(&self.shared.wake, &1_u64.to_ne_bytes());
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let _ = thread.join();
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What is in the queue now is done also when it is to end; what somebody has mounted is the next start's.
fn remove(pool: &Pool, shared: &Shared) {
    let mut look = Instant::now();
    let mut told = HashSet::new();
    loop {
        let next = {
            let mut queue = shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                if let Some(next) = queue.now.pop_front() {
                    break next;
                }
                if queue.stop {
                    return;
                }
                if queue.busy.is_empty() {
                    queue = shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
                let left = (look + AGAIN).saturating_duration_since(Instant::now());
                if left.is_zero() {
                    look = Instant::now();
                    let busy = std::mem::take(&mut queue.busy);
                    queue.now.extend(busy);
                    continue;
                }
                queue = shared.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        };
        match pool.destroy(next) {
            Ok(true) => {
                // Under the lock, so that who waits for it does not miss it.
                let queue = shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
                shared.pending.fetch_sub(1, Ordering::Relaxed);
                shared.changed.notify_all();
                drop(queue);
                told.remove(&next.id);
                continue;
            }
            Ok(false) => {}
            // A pool that takes no change refuses all of them, every time.
            Err(error) if told.insert(next.id) => {
                tracing::warn!(%error, device = pool.device(next.id), "could not remove a thin device; it is tried again");
            }
            Err(error) => {
                tracing::debug!(%error, device = pool.device(next.id), "could not remove a thin device");
            }
        }
        let mut queue = shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.busy.is_empty() {
            look = Instant::now();
        }
        queue.busy.push(next);
        shared.changed.notify_all();
    }
}

fn watch(pool: &Pool, shared: &Shared) {
    while !shared.stop.load(Ordering::Relaxed) {
        // Armed before the look, so that what happens after it ends the wait.
        let armed = pool.control.arm();
        if let Err(error) = &armed {
            tracing::warn!(%error, pool = pool.name, "cannot be told when the pool is nearly full; it is looked at every minute");
        }
        match pool.extend() {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, pool = pool.name, "could not make the pool larger"),
        }
        if let Err(error) = pool.give_up_retries() {
            tracing::warn!(%error, pool = pool.name, "cannot look after the filesystems of a pool without room");
        }
        let events = if armed.is_ok() { PollFlags::IN } else { PollFlags::empty() };
        let mut fds = [PollFd::new(&pool.control, events), PollFd::new(&shared.wake, PollFlags::IN)];
        let _ = poll(&mut fds, Some(&LOOK));
    }
}
