//! What touches the machine. An effect is told exactly what to do and decides nothing; each has a deadline, and a hung one
//! holds up nobody but its own object.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use stower_controllers::{
    Act, Action, ActionKind, CgroupState, Exit, FailureReason, ImageDigest, LayerLimit, LimitChange,
    ProbeEvent, ProbeFacts, ProcessState, PullFailure, Run, Stopping, StoreFacts, WrittenFiles,
};
use stower_crds::{Generation, Uid};
pub(crate) use stower_runtime::failpoint;
use stower_runtime::{ShimHandle, cgroup::Cgroups, job::Programs, seccomp::Filter, start::Runtime};
use stower_storage::{DriverError, Reference, SnapshotError, SnapshotKey, Storage, Volumes};
use tokio::sync::mpsc;

use crate::{config::Settings, disk::Keeper, handler::Handlers, metrics::Metrics, paths::Paths};

mod devices;
pub(crate) mod files;
mod hook;
mod message;
pub(crate) mod observe;
mod outside;
mod pull;
mod spec;
mod start;
mod stop;
mod stores;
mod values;
mod volumes;

pub(crate) use start::limits_of_all;

/// The longest a start may take once its image is there.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// The longest that a cgroup is waited for to become empty after it was killed.
const KILL_DEADLINE: Duration = Duration::from_secs(30);
/// The longest that a teardown may take.
const TEARDOWN_DEADLINE: Duration = Duration::from_secs(120);
/// The longest that making and filling stores may take.
const FILL_DEADLINE: Duration = Duration::from_secs(30 * 60);
/// The longest pull; what arrived is kept and the next one goes on from there.
const PULL_DEADLINE: Duration = Duration::from_secs(30 * 60);

/// How an effect ended.
#[derive(Debug)]
pub(crate) enum Done {
    /// The image is here, unpacked; its digest, and the volumes that it asks for.
    Pulled { digest: ImageDigest, volumes: Vec<String> },
    /// The image could not be had.
    PullFailed { reason: PullFailure, message: String },
    /// The process runs.
    Started { run: Run, process: ProcessState, files: WrittenFiles, limit: Option<LayerLimit> },
    /// The shim was told to end the process, which may take until then.
    Stopping { run: Run, stopping: Stopping },
    /// A `postStart` hook ended.
    Hooked { run: Run, outcome: Result<(), String> },
    /// The cgroup is as it says.
    Killed { cgroup: CgroupState },
    /// The limits are set, as far as they can be; that of the writable layer is this.
    Updated { limit: Option<LayerLimit> },
    /// Files are as they should be.
    Refreshed { files: WrittenFiles },
    /// The stores are there.
    Made { generation: Generation, stores: Vec<StoreFacts> },
    /// The stores are gone.
    StoresRemoved,
    /// Nothing of it is left.
    TornDown,
    /// It did not work; what it had begun is undone.
    Failed { run: Option<Run>, reason: FailureReason, message: String, cgroup: CgroupState },
}

/// What effects tell the loop.
#[derive(Debug)]
pub(crate) enum Told {
    /// An effect ended.
    Done { uid: Uid, action: ActionKind, took: Duration, done: Done },
    /// A `preStop` hook failed; the stop goes on.
    PreStopFailed { uid: Uid, run: Run, message: String },
    /// A shim ended: its run is over, one way or another.
    Ended { uid: Uid, run: Run, process: ProcessState, cgroup: CgroupState },
    /// What the probes of a run say has changed, or people should hear of it.
    Probed { uid: Uid, run: Run, facts: ProbeFacts, events: Vec<ProbeEvent> },
}

/// All that effects share.
#[derive(Debug)]
pub(crate) struct Effects {
    pub(crate) storage: Storage,
    pub(crate) volumes: Arc<Volumes>,
    pub(crate) cgroups: Cgroups,
    pub(crate) runtime: Runtime,
    pub(crate) programs: Programs,
    filters: Mutex<HashMap<u64, Filter>>,
    starting: Mutex<HashSet<Uid>>,
    /// Runs whose `preStop` hook is under way.
    hooks: Mutex<HashSet<(Uid, Run)>>,
    pub(crate) paths: Paths,
    pub(crate) settings: Settings,
    pub(crate) metrics: Metrics,
    pub(crate) disk: Arc<Keeper>,
    pub(crate) handlers: Handlers,
    shims: Mutex<HashMap<Uid, Arc<ShimHandle>>>,
    told: mpsc::UnboundedSender<Told>,
}

impl Effects {
    #[expect(clippy::too_many_arguments, reason = "each is made once, at the start, and named so")]
    pub(crate) fn new(
        storage: Storage,
        volumes: Arc<Volumes>,
        cgroups: Cgroups,
        runtime: Runtime,
        programs: Programs,
        settings: Settings,
        metrics: Metrics,
        disk: Arc<Keeper>,
        told: mpsc::UnboundedSender<Told>,
    ) -> Arc<Self> {
        let paths = settings.get().fixed.paths.clone();
        let handlers = Handlers::new(runtime.clone(), programs.starter.clone());
        let (shims, filters, starting) = (Mutex::default(), Mutex::default(), Mutex::default());
        let hooks = Mutex::default();
        Arc::new(Self {
            storage,
            volumes,
            cgroups,
            runtime,
            programs,
            filters,
            starting,
            hooks,
            paths,
            settings,
            metrics,
            disk,
            handlers,
            shims,
            told,
        })
    }

    fn shims(&self) -> MutexGuard<'_, HashMap<Uid, Arc<ShimHandle>>> {
        self.shims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shim of a container that runs, and with it the container's first process.
    pub(crate) fn shim(&self, uid: &Uid) -> Option<Arc<ShimHandle>> {
        self.shims().get(uid).cloned()
    }

    /// Tells the loop.
    pub(crate) fn report(&self, told: Told) {
        // A loop that has ended wants to hear of nothing.
        let _ = self.told.send(told);
    }

    /// Begins an action. Its end is told to the loop.
    pub(crate) fn begin(self: &Arc<Self>, action: Action) {
        let effects = Arc::clone(self);
        let kind = action.act.kind();
        self.metrics.effects.with_label_values(&[kind.as_str()]).inc();
        self.metrics.effects_in_flight.inc();
        let begun = Instant::now();
        tokio::spawn(async move {
            let (uid, deadline) = (action.uid.clone(), deadline(kind));
            let run = match &action.act {
                Act::Start { run, .. }
                | Act::Stop { run, .. }
                | Act::PostStart { run, .. }
                | Act::Update { run, .. } => Some(*run),
                _ => None,
            };
            let done = match tokio::time::timeout(deadline, Arc::clone(&effects).execute(action)).await {
                Ok(done) => done,
                Err(_) if kind == ActionKind::PullImage => Done::PullFailed {
                    reason: PullFailure::ErrImagePull,
                    message: format!(
                        "not pulled within {} minutes; it goes on from there",
                        deadline.as_secs() / 60
                    ),
                },
                Err(_) => Done::Failed {
                    run,
                    reason: FailureReason::DeadlineExceeded,
                    message: format!("{} did not end within {} s", kind.as_str(), deadline.as_secs()),
                    cgroup: effects.cgroup(&uid),
                },
            };
            if matches!(kind, ActionKind::PullImage | ActionKind::Teardown | ActionKind::RemoveStores) {
                // What came or went may matter to who waits for room, and to what is to go for it.
                effects.disk.measure_aside().await;
            }
            let took = begun.elapsed();
            effects.metrics.effects_in_flight.dec();
            effects.metrics.effect_seconds.with_label_values(&[kind.as_str()]).observe(took.as_secs_f64());
            if matches!(done, Done::Failed { .. } | Done::PullFailed { .. }) {
                effects.metrics.effect_failures.with_label_values(&[kind.as_str()]).inc();
            }
            let _ = effects.told.send(Told::Done { uid, action: kind, took, done });
        });
    }

    async fn execute(self: Arc<Self>, action: Action) -> Done {
        let Action { uid, key, act, .. } = action;
        match act {
            Act::PullImage { reference, digest, .. } => pull::pull(&self, &reference, digest.as_ref()).await,
            Act::Stop { run, signal, grace, pre_stop } => {
                let stop = stop::Stop { uid, run, signal, grace, pre_stop };
                blocking(move || self.stop(&stop)).await
            }
            Act::PostStart { run, spec } => self.post_start(&uid, run, &spec).await,
            Act::Kill => blocking(move || self.kill(&uid)).await,
            Act::Update { run, spec, .. } => blocking(move || self.update(&uid, run, &spec)).await,
            Act::Refresh { files, .. } => blocking(move || self.refresh(&uid, files)).await,
            Act::MakeStores { generation, stores, image } => {
                blocking(move || self.make_stores(generation, &stores, image.as_ref())).await
            }
            Act::RemoveStores { stores } => blocking(move || self.remove_stores(&stores)).await,
            Act::Teardown => blocking(move || self.tear_down(&uid)).await,
            Act::Start { run, image, spec, storage, resolved, .. } => {
                let Some(key) = key else { unreachable!("only what is declared is started") };
                let effects = Arc::clone(&self);
                let name = key.name.to_string();
                let wanted = start::Wanted { uid, name, run, image, spec, storage, resolved };
                blocking(move || effects.start(&wanted)).await
            }
            // The loop alone keeps the ledger; nothing on the machine is touched.
            _ => Done::TornDown,
        }
    }

    fn snapshot(uid: &Uid) -> SnapshotKey {
        SnapshotKey::new(uid.as_str()).expect("a UID is a valid snapshot key")
    }

    /// The usual seccomp filter for a set of capabilities, compiled once.
    fn filter(&self, caps: u64) -> Filter {
        let mut filters = self.filters.lock().unwrap_or_else(PoisonError::into_inner);
        filters.entry(caps).or_insert_with(|| Filter::default_for(caps)).clone()
    }

    /// Watches a shim until it ends, and then tells the loop how its run went.
    pub(crate) fn watch(self: &Arc<Self>, uid: Uid, run: Run, shim: Arc<ShimHandle>) {
        self.shims().insert(uid.clone(), Arc::clone(&shim));
        let effects = Arc::clone(self);
        tokio::spawn(async move {
            let waited = async {
                let fd = shim.shim_pidfd().try_clone_to_owned()?;
                #[expect(
                    deprecated,
                    reason = "its replacement is unsafe, for descriptors that are not owned; this one is"
                )]
                let fd = tokio::io::unix::AsyncFd::with_interest(fd, tokio::io::Interest::READABLE)?;
                fd.readable().await.map(|_| ())
            };
            if let Err(error) = waited.await {
                tracing::error!(%uid, %error, "cannot watch a shim; it is looked at again with the next rescan");
                return;
            }
            let told = blocking_any(move || {
                stower_runtime::start::Started::reap_shim(shim.shim_pidfd());
                effects.shims().remove(&uid);
                drop(shim);
                effects.tell_end(&uid, run);
            });
            told.await;
        });
    }

    /// A shim that ended cannot run: what is found is an exit record or the lack of one.
    fn tell_end(&self, uid: &Uid, run: Run) {
        let (process, cgroup) = self.look(uid);
        // Before the next run can begin, and after the groups have told of lack of memory: another runtime removes them.
        self.release(uid);
        let _ = self.told.send(Told::Ended { uid: uid.clone(), run, process, cgroup });
    }

    fn cgroup(&self, uid: &Uid) -> CgroupState {
        match self.cgroups.populated(uid.as_str()) {
            Some(true) => CgroupState::Populated,
            Some(false) if self.cgroups.exists(uid.as_str()) => CgroupState::Empty,
            Some(false) => CgroupState::Absent,
            None => CgroupState::Unknown,
        }
    }

    fn kill(&self, uid: &Uid) -> Done {
        let failed = |message| Done::Failed {
            run: None,
            reason: FailureReason::KillContainerError,
            message,
            cgroup: self.cgroup(uid),
        };
        if let Err(error) = self.cgroups.kill(uid.as_str()) {
            return failed(chain(&error));
        }
        match self.wait_empty(uid) {
            Ok(()) => Done::Killed { cgroup: self.cgroup(uid) },
            Err(message) => failed(message),
        }
    }

    /// Waits for the kernel to say that no process is left.
    fn wait_empty(&self, uid: &Uid) -> Result<(), String> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let begun = Instant::now();
        let events = self.cgroups.events_file(uid.as_str()).and_then(|path| std::fs::File::open(path).ok());
        loop {
            match self.cgroups.populated(uid.as_str()) {
                Some(false) => return Ok(()),
                None => return Err("whether its processes are gone cannot be told".into()),
                Some(true) => {}
            }
            let left = KILL_DEADLINE.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(format!(
                    "its processes are still there {} s after SIGKILL",
                    KILL_DEADLINE.as_secs()
                ));
            }
            // Version 1 has no such event: there the group is looked at again every 10 ms.
            let wait = if events.is_some() { left } else { Duration::from_millis(10) };
            let mut fds: Vec<_> = events.iter().map(|file| PollFd::new(file, PollFlags::PRI)).collect();
            let wait = Timespec::try_from(wait).map_err(|error| error.to_string())?;
            poll(&mut fds, Some(&wait)).map_err(|error| format!("cannot wait for its processes: {error}"))?;
        }
    }

    fn update(&self, uid: &Uid, run: Run, spec: &stower_crds::ContainerSpec) -> Done {
        let limits = start::limits(spec);
        let updated = self
            .check_memory(uid, limits.memory_bytes)
            .and_then(|()| self.cgroups.replace(uid.as_str(), &limits).map_err(|error| chain(&error)));
        match updated.and_then(|()| self.resize(uid, start::layer_limit(spec))) {
            Ok(()) => Done::Updated { limit: self.limit(uid) },
            Err(message) => Done::Failed {
                run: Some(run),
                reason: FailureReason::UpdateContainerError,
                message,
                cgroup: self.cgroup(uid),
            },
        }
    }

    /// Whether memory may be limited to so much. Below what is in use, version 2 of cgroups would have the kernel kill.
    fn check_memory(&self, uid: &Uid, limit: Option<u64>) -> Result<(), String> {
        let used = self.cgroups.stats(uid.as_str()).memory_working_set_bytes;
        match (limit, used) {
            (Some(limit), Some(used)) if limit < used => Err(format!(
                "resources.limits.memory: {} is less than the {} in use; it is tried again, or restart the container (`stower \
                 restart`) to begin with it",
                stower_crds::Quantity::from_bytes(limit),
                stower_crds::Quantity::from_bytes(used)
            )),
            _ => Ok(()),
        }
    }

    /// Gives the writable layer another limit, as far as its driver can: what is kept is told by [`limit`](Self::limit).
    fn resize(&self, uid: &Uid, want: Option<u64>) -> Result<(), String> {
        match self.storage.snapshots().resize(&Self::snapshot(uid), want) {
            Ok(())
            | Err(SnapshotError::Driver(_, _, DriverError::LimitKept { .. } | DriverError::NoLimit { .. })) => {
                Ok(())
            }
            Err(error) => Err(chain(&error)),
        }
    }

    /// The limit of the writable layer; `None` when there is none, or it cannot be told.
    fn limit(&self, uid: &Uid) -> Option<LayerLimit> {
        let limit = self.storage.snapshots().limit(&Self::snapshot(uid));
        let limit = limit.inspect_err(|error| match error {
            SnapshotError::NotFound(_) => {}
            error => tracing::warn!(%uid, error = %chain(error), "cannot tell the limit of a writable layer"),
        });
        limit.ok().map(|limit| LayerLimit {
            bytes: limit.bytes,
            without: limit.without,
            block: limit.block,
            change: match limit.change {
                stower_storage::LimitChange::Any => LimitChange::Any,
                stower_storage::LimitChange::Grow => LimitChange::Grow,
                stower_storage::LimitChange::Fresh => LimitChange::Fresh,
                stower_storage::LimitChange::Never => LimitChange::Never,
            },
        })
    }

    /// Lets go of what the root filesystem of a run took, once that has ended or has not come to be.
    fn release(&self, uid: &Uid) {
        if let Err(error) = self.clear_outside(uid) {
            tracing::warn!(%uid, error, "cannot remove what another runtime's container left");
            return;
        }
        if let Err(error) = self.storage.snapshots().deactivate(&Self::snapshot(uid)) {
            tracing::warn!(%uid, error = %chain(&error), "cannot let go of a root filesystem");
        }
    }

    /// Brings the files of a running container in line.
    fn refresh(&self, uid: &Uid, files: WrittenFiles) -> Done {
        for (name, wanted) in &files {
            if let Err(error) = values::write(&self.files_dir(uid, name), wanted) {
                return Done::Failed {
                    run: None,
                    reason: FailureReason::UpdateContainerError,
                    message: format!("cannot write the files of volume {name:?}: {error}"),
                    cgroup: self.cgroup(uid),
                };
            }
        }
        Done::Refreshed { files }
    }

    fn tear_down(&self, uid: &Uid) -> Done {
        let failed = |message: String| Done::Failed {
            run: None,
            reason: FailureReason::RemoveContainerError,
            message,
            cgroup: self.cgroup(uid),
        };
        // First of all: nothing that is still mounted in its directories may be removed with them.
        if let Err(error) = self.clear_outside(uid) {
            return failed(error);
        }
        if let Err(error) = self.cgroups.remove(uid.as_str()) {
            return failed(chain(&error));
        }
        failpoint("teardown.cgroups");
        if let Err(error) = self.storage.snapshots().remove(&Self::snapshot(uid)) {
            return failed(chain(&error));
        }
        failpoint("teardown.layer");
        let private = volumes::private_prefix(uid);
        if let Err(error) = private.and_then(|key| self.volumes.remove_all(&key).map_err(|e| chain(&e))) {
            return failed(error);
        }
        failpoint("teardown.volumes");
        let dirs = [
            self.paths.container_run(uid.as_str()),
            self.paths.container_data(uid.as_str()),
            self.paths.logs(uid.as_str()),
        ];
        for dir in dirs {
            match std::fs::remove_dir_all(&dir) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return failed(format!("cannot remove {}: {error}", dir.display())),
            }
            failpoint("teardown.directory");
        }
        Done::TornDown
    }

    /// The image that a digest names, from memory or from disk.
    fn image(&self, digest: &ImageDigest) -> Result<Option<stower_storage::Image>, String> {
        let digest = digest.as_str().parse().map_err(|error| format!("image digest {digest}: {error}"))?;
        self.storage.image_by_digest(&digest).map_err(|error| chain(&error))
    }

    /// Parses a reference as users write it.
    pub(crate) fn reference(&self, text: &str) -> Result<Reference, String> {
        self.storage.reference(text).map_err(|error| chain(&error))
    }

    /// The digests of the shims that running containers were started with.
    pub(crate) fn shim_digests(&self) -> Vec<String> {
        self.shims().values().map(|shim| shim.record().shim.clone()).collect()
    }

    /// The directory for one container's boot-scoped files.
    pub(crate) fn run_dir(&self, uid: &Uid) -> PathBuf {
        self.paths.container_run(uid.as_str())
    }
}

fn deadline(kind: ActionKind) -> Duration {
    match kind {
        ActionKind::PullImage => PULL_DEADLINE,
        ActionKind::Start => START_DEADLINE + Duration::from_secs(10),
        ActionKind::Kill => KILL_DEADLINE + Duration::from_secs(5),
        ActionKind::Teardown | ActionKind::RemoveStores => TEARDOWN_DEADLINE,
        ActionKind::MakeStores => FILL_DEADLINE,
        ActionKind::PostStart => hook::POST_START_DEADLINE + Duration::from_secs(10),
        _ => Duration::from_secs(30),
    }
}

/// An error with all its causes, for people.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

async fn blocking(work: impl FnOnce() -> Done + Send + 'static) -> Done {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Done::Failed {
            run: None,
            reason: FailureReason::CreateContainerError,
            message: format!("the agent failed while doing it: {error}"),
            cgroup: CgroupState::Unknown,
        },
    }
}

async fn blocking_any(work: impl FnOnce() + Send + 'static) {
    if let Err(error) = tokio::task::spawn_blocking(work).await {
        tracing::error!(%error, "the agent failed while looking at the end of a run");
    }
}

/// How a run ended, from the shim's record and the cgroup's counter.
pub(crate) fn exit(
    record: &stower_runtime::ExitRecord,
    oom_killed: bool,
    last_words: stower_controllers::LastWords,
) -> Exit {
    let started_at = record.started_at.parse().unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let finished_at: jiff::Timestamp = record.finished_at.parse().unwrap_or(started_at);
    Exit {
        code: record.exit_code,
        signal: Some(record.signal).filter(|signal| *signal != 0),
        oom_killed,
        started_at,
        finished_at,
        // The wall clock may have been set while it ran.
        ran_for: record
            .ran_ms
            .map(Duration::from_millis)
            .or_else(|| Duration::try_from(finished_at.duration_since(started_at)).ok()),
        last_words,
    }
}
