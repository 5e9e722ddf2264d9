//! A start: everything that it needs is resolved anew, and either the process runs or nothing of the attempt is left.

use std::{
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    sync::{Arc, PoisonError},
    time::Instant,
};

use stower_controllers::{FailureReason, ImageDigest, ProcessState, Resolved, Run, StorageMode};
use stower_crds::{ContainerSpec, Quantity, Uid};
use stower_runtime::{
    ShimHandle,
    cgroup::{DeviceRule, Limits},
    job::{LogLimits, RootFs, StartRequest, VolumeMount},
    start::Started,
};
use stower_storage::{DriverError, Ext4Error, Image, Mount, PrepareError, SnapshotKey};

use super::{Done, Effects, START_DEADLINE, chain, devices, failpoint, files, message, spec, volumes};
use crate::{config::ContainersLimits, paths::private_dir};

/// What is to run.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) uid: Uid,
    pub(super) name: String,
    pub(super) run: Run,
    pub(super) image: ImageDigest,
    pub(super) spec: Arc<ContainerSpec>,
    pub(super) storage: StorageMode,
    pub(super) resolved: Arc<Resolved>,
}

/// Why it does not run.
pub(super) struct Failed(pub(super) FailureReason, pub(super) String);

/// That a start of this container is under way; ends with the value.
struct StartClaim {
    effects: Arc<Effects>,
    uid: Uid,
}

impl Drop for StartClaim {
    fn drop(&mut self) {
        self.effects.starting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.uid);
    }
}

/// The cgroup's limits, from what the spec asks for. A limit without a request asks for that much, as in a Pod.
pub(super) fn limits(spec: &ContainerSpec) -> Limits {
    let (limits, requests) = (&spec.resources.limits, &spec.resources.requests);
    let memory = limits.memory.as_ref().and_then(Quantity::units);
    let cpu = limits.cpu.as_ref().and_then(Quantity::millis);
    let share = requests.cpu.as_ref().and_then(Quantity::millis).or(cpu);
    Limits {
        memory_bytes: memory,
        // As in a Pod, a limit on memory is one on swap too.
        memory_swap_bytes: memory,
        cpu_shares: share.map(|millis| (millis.saturating_mul(1024) / 1000).clamp(2, 262_144)),
        // The kernel takes no less than a millisecond in a period (sched-bwc.rst).
        cpu_quota_us: cpu.map(|millis| millis.saturating_mul(CPU_PERIOD_US / 1000).max(1000)),
        cpu_period_us: cpu.map(|_| CPU_PERIOD_US),
        pids: limits.pids.as_ref().and_then(Quantity::units),
        devices: Vec::new(),
        settings: Vec::new(),
    }
}

/// The limits of all containers together.
pub(crate) fn limits_of_all(limits: &ContainersLimits) -> Limits {
    Limits {
        memory_bytes: limits.memory,
        cpu_quota_us: limits.cpu_millis.map(|millis| millis.saturating_mul(CPU_PERIOD_US / 1000).max(1000)),
        pids: limits.pid,
        ..Limits::default()
    }
}

/// The most that may be written to the root filesystem, in bytes.
pub(super) fn layer_limit(spec: &ContainerSpec) -> Option<u64> {
    spec.resources.limits.ephemeral_storage.as_ref().and_then(Quantity::units)
}

/// The period in which a limit on processor time counts, in microseconds.
const CPU_PERIOD_US: u64 = 100_000;

/// What the devices of a spec add to the usual ones.
fn device_rules(spec: &ContainerSpec, declared: &[oci_spec::runtime::LinuxDevice]) -> Vec<DeviceRule> {
    if spec.security_context.privileged == Some(true) {
        return vec![DeviceRule { allow: true, rule: "a *:* rwm".to_owned() }];
    }
    let rules = declared.iter().zip(&spec.devices).map(|(device, wanted)| DeviceRule {
        allow: true,
        rule: format!(
            "{} {}:{} {}",
            device.typ().as_str(),
            device.major(),
            device.minor(),
            wanted.permissions
        ),
    });
    rules.collect()
}

impl Effects {
    pub(super) fn start(self: &Arc<Self>, wanted: &Wanted) -> Done {
        // An attempt that was given up as hung may still be at it; there is never a second one beside it.
        let begun = Instant::now();
        let started = match self.claim_start(&wanted.uid) {
            Some(_claim) => self.try_start(wanted, begun),
            None => Err(Failed(
                FailureReason::DeadlineExceeded,
                "an earlier attempt still hangs; look at the storage and the volumes behind its mounts"
                    .to_owned(),
            )),
        };
        match started {
            Ok(process) => {
                let files = wanted.resolved.files();
                let limit = self.limit(&wanted.uid);
                Done::Started { run: wanted.run, process, files, limit }
            }
            Err(Failed(reason, message)) => {
                self.release(&wanted.uid);
                let cgroup = self.cgroup(&wanted.uid);
                Done::Failed { run: Some(wanted.run), reason, message, cgroup }
            }
        }
    }

    fn claim_start(self: &Arc<Self>, uid: &Uid) -> Option<StartClaim> {
        let mut starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        starting.insert(uid.clone()).then(|| StartClaim { effects: Arc::clone(self), uid: uid.clone() })
    }

    fn try_start(self: &Arc<Self>, wanted: &Wanted, begun: Instant) -> Result<ProcessState, Failed> {
        let config = |message| Failed(FailureReason::CreateContainerConfigError, message);
        let create = |message| Failed(FailureReason::CreateContainerError, message);
        let uid = wanted.uid.as_str();
        let settings = self.settings.get();

        let chosen = self.choose(wanted, &settings)?;
        let snapshot = Self::snapshot(&wanted.uid);
        self.check_room(wanted, &snapshot)?;
        // Resolve: nothing is made before all of it is known to be there. The image is kept before it is looked for, and by
        // its container's storage afterwards.
        let digest = wanted.image.as_str().parse();
        let digest = digest.map_err(|error| create(format!("image digest {}: {error}", wanted.image)))?;
        let mut lease = self.storage.lease(&digest);
        let image = self.image(&wanted.image).map_err(create)?;
        // It went since this was decided: that is no failure, it is fetched again.
        let image = image.filter(|image| self.storage.is_unpacked(image));
        let image = image.ok_or_else(|| config(format!("image {} is not on this machine", wanted.image)))?;
        lease.hold(&image);
        self.storage.used(&digest, std::time::SystemTime::now());
        failpoint("start.leased");
        let own = self.paths.container_data(uid);
        let declared_devices = devices::declared(&wanted.spec).map_err(config)?;
        self.check_volumes(&wanted.resolved).map_err(|error| config(error.to_string()))?;
        self.check_layer(wanted).map_err(config)?;
        failpoint("start.checked");
        self.clear_outside(&wanted.uid).map_err(create)?;
        if wanted.storage == StorageMode::New {
            remove_tree(&own).map_err(create)?;
            let private = volumes::private_prefix(&wanted.uid).map_err(create)?;
            self.volumes.remove_all(&private).map_err(|error| create(chain(&error)))?;
        }
        if wanted.storage != StorageMode::Keep {
            self.storage.snapshots().remove(&snapshot).map_err(|error| create(chain(&error)))?;
        }
        failpoint("start.cleared");
        let mut volumes =
            self.prepare_volumes(&wanted.uid, &wanted.resolved).map_err(|error| config(error.to_string()))?;
        failpoint("start.volumes");

        let run_dir = self.run_dir(&wanted.uid);
        let log_dir = self.paths.logs(uid);
        for dir in [&run_dir, &log_dir] {
            private_dir(dir).map_err(|error| create(format!("cannot make {}: {error}", dir.display())))?;
        }
        let mut limits = limits(&wanted.spec);
        limits.devices = device_rules(&wanted.spec, &declared_devices);
        let built = self.specify(wanted, &image, declared_devices, &run_dir)?;

        let snapshots = self.storage.snapshots();
        let made = match layer_limit(&wanted.spec) {
            None => snapshots.prepare(&snapshot, Some(&image.chain_id)),
            Some(limit) => snapshots.prepare_limited(&snapshot, Some(&image.chain_id), limit),
        };
        match made {
            // One that is there and cannot have it is run as it is; the status tells.
            Ok(()) | Err(PrepareError::Driver(_, DriverError::LimitKept { .. })) => {}
            Err(
                error @ PrepareError::Driver(
                    _,
                    DriverError::NoLimit { .. }
                    | DriverError::LimitTooSmall { .. }
                    | DriverError::Ext4(Ext4Error::TooLarge { .. }),
                ),
            ) => {
                return Err(config(format!("resources.limits.ephemeral-storage: {}", chain(&error))));
            }
            Err(error) => return Err(create(chain(&error))),
        }
        let mounts = snapshots.activate(&snapshot).map_err(|error| create(chain(&error)))?;
        let root = root(&mounts.0).map_err(create)?;
        failpoint("start.rootfs");
        // Each run has groups of its own: their counters begin at nothing, that a former one is gone is one more proof
        // that no process of it is left, and the kernel ends at once what is cloned into a group that was ever killed
        // (seen with 6.18: `cgroup.kill` counts, and the count is compared with that of the parent's group).
        self.cgroups.remove(uid).map_err(|error| create(chain(&error)))?;
        let cgroup = self.cgroups.create(uid, &limits).map_err(|error| create(chain(&error)))?;
        failpoint("start.cgroup");

        volumes.mounts.extend(self.message_file(wanted)?);
        let outside = chosen.map(|chosen| self.outside(wanted, chosen, &built));
        let request = StartRequest {
            uid: uid.to_owned(),
            name: wanted.name.clone(),
            run: wanted.run.0,
            run_dir,
            log_dir,
            spec: built.spec,
            root,
            volumes: volumes.mounts,
            user: built.user,
            cgroup,
            seccomp: built.seccomp.map(|caps| self.filter(caps)),
            default_rlimits: Vec::new(),
            // Not the agent's own, which is spared by who runs it.
            default_oom_score_adj: Some(0),
            programs: self.programs.clone(),
            logs: LogLimits {
                max_bytes: settings.logging.max_size,
                max_files: settings.logging.max_files,
                block: settings.logging.block,
            },
            deadline: START_DEADLINE,
            stdin: wanted.spec.stdin,
            legacy_overlay: false,
            outside,
        };
        self.remove_old_logs(&request);
        // A silent run is one too: without its file, `logs --previous` would tell of the run before it.
        let first = request.log_dir.join(format!("{}-0.log", wanted.run));
        let made = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc_nofollow())
            .open(&first);
        match made {
            Ok(_) => {}
            // The shim takes the next number, and leaves alone whatever this is.
            Err(error) if std::fs::symlink_metadata(&first).is_ok() => {
                tracing::warn!(uid, %error, path = %first.display(), "something else stands where a log would be");
            }
            Err(error) => return Err(create(format!("cannot make {}: {error}", first.display()))),
        }
        if begun.elapsed() > START_DEADLINE {
            let message = format!("its storage was not ready within {} s", START_DEADLINE.as_secs());
            return Err(Failed(FailureReason::DeadlineExceeded, message));
        }
        let started = self
            .runtime
            .start(&request)
            .map_err(|error| Failed(FailureReason::RunContainerError, chain(&error)))?;
        drop(volumes.holds);
        failpoint("start.started");
        let process = ProcessState::Running {
            run: wanted.run,
            pid: started.record.init_pid,
            started_at: started.record.started_at.parse().unwrap_or_else(|_| jiff::Timestamp::now()),
            stopping: None,
        };
        self.follow(wanted, started);
        Ok(process)
    }

    /// The file for its last message, to be mounted over everything else.
    fn message_file(&self, wanted: &Wanted) -> Result<Option<VolumeMount>, Failed> {
        let at = wanted.spec.termination_message_path.as_str();
        if at.is_empty() {
            return Ok(None);
        }
        if let Some(mount) = wanted.resolved.mounts.iter().find(|mount| mount.path == at) {
            let message = format!(
                "spec.terminationMessagePath: a volume{} is mounted at {at} too; choose another file",
                mount.name.as_ref().map_or_else(String::new, |name| format!(" ({name})"))
            );
            return Err(Failed(FailureReason::CreateContainerConfigError, message));
        }
        message::prepare(&self.paths, &wanted.uid, at).map(Some).map_err(|error| {
            let message = format!("cannot make the file for its last message: {error}");
            Failed(FailureReason::CreateContainerError, message)
        })
    }

    /// Whether there is room for a start that makes anything new.
    fn check_room(&self, wanted: &Wanted, snapshot: &SnapshotKey) -> Result<(), Failed> {
        let pressure = &self.disk.measure().pressure;
        let has_layer = || self.storage.snapshots().list().iter().any(|it| it.key == *snapshot);
        if pressure.is_on() && !(wanted.storage == StorageMode::Keep && has_layer()) {
            return Err(Failed(FailureReason::DiskPressure, pressure.message.clone()));
        }
        Ok(())
    }

    /// Whether a writable layer can be had as it is asked for, before the one that is there goes.
    fn check_layer(&self, wanted: &Wanted) -> Result<(), String> {
        let snapshots = self.storage.snapshots();
        if layer_limit(&wanted.spec).is_some() {
            let status = snapshots.status();
            let status = status.map_err(|error| format!("cannot look at the storage: {}", chain(&error)))?;
            if !status.limits {
                return Err(format!(
                    "resources.limits.ephemeral-storage: the storage driver {} cannot limit what a container writes on \
                     this node: use overlay with loop devices and e2fsprogs, devicemapper or btrfs with quotas, or take the \
                     limit away",
                    snapshots.driver()
                ));
            }
        }
        let Some(request) = wanted.spec.resources.requests.ephemeral_storage.as_ref() else { return Ok(()) };
        let key = Self::snapshot(&wanted.uid);
        let is_new = wanted.storage != StorageMode::Keep || snapshots.list().iter().all(|it| it.key != key);
        let stat = rustix::fs::statvfs(&self.paths.data)
            .map_err(|error| format!("cannot measure {}: {error}", self.paths.data.display()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if is_new && request.units().is_some_and(|bytes| bytes > free) {
            return Err(format!(
                "resources.requests.ephemeral-storage: {request} are asked for, and {} has {} free: free some, or ask for \
                 less",
                self.paths.data.display(),
                Quantity::from_bytes(free)
            ));
        }
        Ok(())
    }

    fn follow(self: &Arc<Self>, wanted: &Wanted, started: Started) {
        let (uid, run) = (wanted.uid.clone(), wanted.run);
        let run_dir = std::fs::File::open(self.run_dir(&uid)).map(OwnedFd::from);
        let handle = run_dir
            .map_err(|error| error.to_string())
            .and_then(|dir| ShimHandle::open(dir, started.record).map_err(|error| chain(&error)));
        match handle {
            Ok(Some(shim)) => self.watch(uid, run, Arc::new(shim)),
            // A short run may be over by now.
            Ok(None) => {
                Started::reap_shim(&started.shim_pidfd);
                self.tell_end(&uid, run);
            }
            Err(error) => {
                tracing::error!(%uid, error, "cannot watch a shim");
                self.tell_end(&uid, run);
            }
        }
    }

    fn specify(
        &self,
        wanted: &Wanted,
        image: &Image,
        declared_devices: Vec<oci_spec::runtime::LinuxDevice>,
        run_dir: &std::path::Path,
    ) -> Result<spec::Built, Failed> {
        let privileged = wanted.spec.security_context.privileged == Some(true);
        let node = rustix::system::uname();
        let input = spec::Input {
            spec: &wanted.spec,
            name: &wanted.name,
            image: &image.config,
            mounts: &wanted.resolved.mounts,
            env: &wanted.resolved.env,
            files: run_dir,
            host_devices: if privileged { devices::all() } else { Vec::new() },
            devices: declared_devices,
            own_caps: stower_runtime::caps::own(),
            host_name: &node.nodename().to_string_lossy(),
        };
        let built = spec::build(&input)
            .map_err(|error| Failed(FailureReason::CreateContainerConfigError, chain(&error)))?;
        let host_name = built.spec.hostname().clone().unwrap_or_default();
        files::write_etc(run_dir, &host_name, wanted.spec.host_network).map_err(|error| {
            Failed(FailureReason::CreateContainerError, format!("{}: {error}", run_dir.display()))
        })?;
        Ok(built)
    }

    /// Of earlier runs only the last one's logs stay beside the new one's.
    fn remove_old_logs(&self, request: &StartRequest) {
        let old = |name: &str| {
            let run = name.strip_suffix(".log")?.split_once('-')?.0.parse::<u64>().ok()?;
            (run.saturating_add(1) < request.run).then_some(())
        };
        let Ok(entries) = std::fs::read_dir(&request.log_dir) else { return };
        for entry in entries.flatten() {
            if entry.file_name().to_str().and_then(old).is_some()
                && let Err(error) = std::fs::remove_file(entry.path())
            {
                tracing::warn!(uid = request.uid, %error, "cannot remove an old log file");
            }
        }
    }
}

/// Through no link, and waiting for nobody at a fifo.
fn libc_nofollow() -> i32 {
    i32::try_from((rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits())
        .expect("open flags fit an int")
}

fn remove_tree(path: &std::path::Path) -> Result<(), String> {
    match std::fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("cannot remove {}: {error}", path.display())),
    }
}

/// The driver's mounts as the runtime has them. Every driver of this version gives exactly one.
fn root(mounts: &[Mount]) -> Result<RootFs, String> {
    let [mount] = mounts else {
        return Err(format!("the storage driver gave {} mounts for one root filesystem", mounts.len()));
    };
    Ok(tree(mount.clone()))
}

/// One mount as the runtime has it.
pub(super) fn tree(mount: Mount) -> RootFs {
    match mount {
        Mount::Overlay { lower, upper: Some(upper), work: Some(work), options, on: Some(on) } => {
            RootFs::OverlayOn { block: Box::new(tree(*on)), lower, upper, work, options }
        }
        Mount::Overlay { lower, upper, work, options, .. } => RootFs::Overlay { lower, upper, work, options },
        Mount::Bind { source, readonly } => RootFs::Bind { path: source, readonly },
        Mount::Block { device, fstype, options } => RootFs::Block { device, fstype, options },
    }
}
