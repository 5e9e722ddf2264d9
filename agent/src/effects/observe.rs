//! What runs already: found by looking at the machine, never from memory.

use std::{collections::BTreeSet, sync::Arc};

use stower_controllers::{CgroupState, FilesState, LayerLimit, ProcessState, RootfsState, Run};
use stower_crds::Uid;
use stower_runtime::{Adoption, adopt};

use super::{Effects, chain, exit};

/// All that was found of one container.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) process: ProcessState,
    pub(crate) cgroup: CgroupState,
    pub(crate) rootfs: RootfsState,
    pub(crate) limit: Option<LayerLimit>,
    pub(crate) files: FilesState,
}

impl Effects {
    /// The containers that have a writable layer.
    pub(crate) fn layered(&self) -> BTreeSet<Uid> {
        let snapshots = self.storage.snapshots().list();
        snapshots.iter().filter_map(|snapshot| Uid::new(snapshot.key.as_str()).ok()).collect()
    }

    /// Every UID that anything on the machine bears, beside those that have a writable layer.
    ///
    /// # Errors
    /// When a place cannot be read, so that nothing may be taken for absent.
    pub(crate) fn uids(&self) -> Result<BTreeSet<Uid>, String> {
        let mut uids = BTreeSet::new();
        let dirs =
            [self.paths.run.join("c"), self.paths.data.join("containers"), self.paths.data.join("logs")];
        for dir in dirs {
            let entries =
                std::fs::read_dir(&dir).map_err(|error| format!("cannot read {}: {error}", dir.display()))?;
            for entry in entries {
                let entry = entry.map_err(|error| format!("cannot read {}: {error}", dir.display()))?;
                uids.extend(entry.file_name().to_str().and_then(|name| Uid::new(name).ok()));
            }
        }
        let stores = self.volumes.list().map_err(|error| chain(&error))?;
        let keys = stores.volumes.iter().map(|it| &it.key).chain(stores.broken.iter().map(|(key, _)| key));
        let private = keys.filter_map(|key| match key.parts() {
            [kind, owner, ..] if kind == "c" => Uid::new(owner.as_str()).ok(),
            _ => None,
        });
        uids.extend(private);
        let groups = self.cgroups.list().map_err(|error| chain(&error))?;
        uids.extend(groups.into_iter().filter_map(|name| Uid::new(name).ok()));
        Ok(uids)
    }

    /// [`Effects::find`] of many, by as many threads as there are processors: it is mostly calls of the kernel.
    pub(crate) fn find_all(
        self: &Arc<Self>,
        uids: &BTreeSet<Uid>,
        layered: &BTreeSet<Uid>,
    ) -> Vec<(Uid, Found)> {
        let runtime = tokio::runtime::Handle::current();
        let uids: Vec<&Uid> = uids.iter().collect();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = uids.len().div_ceil(threads).max(1);
        let part = |part: &[&Uid]| {
            // For the watches.
            let _entered = runtime.enter();
            let one = |uid: &&Uid| (Uid::clone(uid), self.find(uid, layered.contains(*uid)));
            part.iter().map(one).collect::<Vec<_>>()
        };
        std::thread::scope(|scope| {
            let parts: Vec<_> = uids.chunks(share).map(|it| scope.spawn(|| part(it))).collect();
            let join = |it: std::thread::ScopedJoinHandle<'_, _>| {
                it.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            parts.into_iter().flat_map(join).collect()
        })
    }

    /// Everything about one container, and a watch on its shim if it runs. `layered` is whether it has a writable layer.
    pub(crate) fn find(self: &Arc<Self>, uid: &Uid, layered: bool) -> Found {
        let run_dir = self.run_dir(uid);
        let adoption = adopt(&run_dir, self.runtime.boot_id());
        let process = match adoption {
            Adoption::Running(shim) => {
                let run = Run(shim.record().run);
                let process = ProcessState::Running {
                    run,
                    pid: shim.record().init_pid,
                    started_at: shim.record().started_at.parse().unwrap_or(jiff::Timestamp::UNIX_EPOCH),
                    stopping: None,
                };
                self.watch(uid.clone(), run, Arc::new(shim));
                process
            }
            other => self.ended(uid, &other),
        };
        if !matches!(process, ProcessState::Running { .. } | ProcessState::Unknown { .. })
            && matches!(self.cgroup(uid), CgroupState::Empty | CgroupState::Absent)
            && let Err(error) = self.clear_outside(uid)
        {
            tracing::warn!(%uid, error, "cannot remove what another runtime's container left");
        }
        let rootfs = if layered { RootfsState::Present { image: None } } else { RootfsState::Absent };
        let files = [run_dir, self.paths.container_data(uid.as_str()), self.paths.logs(uid.as_str())];
        let files =
            if files.iter().any(|dir| dir.exists()) { FilesState::Present } else { FilesState::Absent };
        let limit = if layered { self.limit(uid) } else { None };
        Found { process, cgroup: self.cgroup(uid), rootfs, limit, files }
    }

    /// A container whose shim is known to have ended.
    pub(super) fn look(&self, uid: &Uid) -> (ProcessState, CgroupState) {
        let adoption = adopt(&self.run_dir(uid), self.runtime.boot_id());
        (self.ended(uid, &adoption), self.cgroup(uid))
    }

    fn ended(&self, uid: &Uid, adoption: &Adoption) -> ProcessState {
        match adoption {
            Adoption::Exited(record) => {
                let oom_killed = record.exit_code != 0 && self.cgroups.oom_kills(uid.as_str()) > 0;
                let last_words = self.last_words(uid, record.run, record.exit_code != 0);
                ProcessState::Exited { run: Run(record.run), exit: exit(record, oom_killed, last_words) }
            }
            Adoption::Lost(record) => ProcessState::Lost {
                run: Run(record.run),
                started_at: record.started_at.parse().ok(),
                exit: None,
            },
            // Nothing of another boot runs; the record in the data root says what ended with the machine.
            Adoption::None | Adoption::OtherBoot(_) => ProcessState::Absent,
            Adoption::Running(_) => ProcessState::Unknown { why: "its shim ended and still runs".into() },
            Adoption::Unknown(error) => ProcessState::Unknown { why: chain(error) },
        }
    }
}
