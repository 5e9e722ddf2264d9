//! The containers' groups, on version 1, version 2 and both beside each other.
//!
//! ```text
//! <hierarchy>[/<parent>]/stower-<instance>/c/<uid>   one group a container, with its limits
//! <hierarchy>[/<parent>]/stower-<instance>/shims     the shims, in no container's limits
//! ```
//!
//! Only groups under `stower-<instance>` are ever written or removed.

mod detect;
mod device_program;
mod freeze;
mod inner;
mod kill;
mod limits;
mod quota;
mod resources;
mod stats;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use thiserror::Error;

pub use detect::Hierarchy;
pub(crate) use inner::{Inner, kill_session, oom_kills_of};
pub(crate) use kill::kill_join;
pub use limits::{DeviceRule, Limits, UNLIMITED};
pub use resources::{File, Setting};
pub use stats::Stats;

use crate::job::{CgroupJoin, V1Group};

/// Why something about a group could not be done.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// The id could not be a directory's name.
    #[error("`{0}` cannot be a group's name; use letters, digits, `-`, `_` and `.`")]
    BadName(String),
    /// No hierarchy is mounted, or the table of mounts cannot be read.
    #[error("no usable cgroup hierarchy is mounted; mount cgroup2 at /sys/fs/cgroup")]
    None,
    /// A limit needs a controller that this machine does not offer.
    #[error("limit on {what} needs the cgroup controller `{controller}`, which this machine does not offer")]
    NoController {
        /// What is limited.
        what: &'static str,
        /// The controller.
        controller: &'static str,
    },
    /// A setting that the version of cgroups here does not have, or whose controller is not there.
    #[error("{field}: this machine's cgroups have no such setting (controller `{controller}`); leave it out")]
    NoSetting {
        /// The field of the specification.
        field: String,
        /// The controller.
        controller: String,
    },
    /// A file or directory of the hierarchy.
    #[error("cgroup {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Access to devices could not be limited.
    #[error(
        "the device program of cgroup {} cannot be attached; the agent needs CAP_BPF or CAP_SYS_ADMIN, and the kernel \
         CONFIG_CGROUP_BPF",
        path.display()
    )]
    DeviceProgram {
        /// The group.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Neither cgroup2 nor the controller of version 1 is there.
    #[error(
        "no container can be frozen: this machine mounts neither cgroup2 nor the cgroup controller `freezer`"
    )]
    NoFreezer,
    /// The group did not stop in time; it was let go on.
    #[error(
        "cgroup {} cannot be frozen now: a process waits in the kernel; look for a slow disk or network filesystem",
        path.display()
    )]
    NotFrozen {
        /// The group.
        path: PathBuf,
    },
    /// The group still has processes; kill them, wait for `populated` to fall, and remove again.
    #[error("cgroup {} still has processes", path.display())]
    Busy {
        /// The group.
        path: PathBuf,
    },
}

impl CgroupError {
    pub(crate) fn io(path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { path: path.to_owned(), source: source.into() }
    }
}

/// All groups of one agent.
#[derive(Debug, Clone)]
pub struct Cgroups {
    hierarchies: Vec<Hierarchy>,
    /// Path of our own top group under each mount point.
    base: PathBuf,
    /// `base` is the one container's group itself, at a place of the caller's choice.
    exact: bool,
}

impl Cgroups {
    /// Finds the mounted hierarchies. `instance` is the agent's own random id; `parent` a group under the top that
    /// all is made in, such as `system.slice/stower.slice`.
    ///
    /// # Errors
    /// [`CgroupError::None`] and names that cannot be.
    pub fn detect(instance: &str, parent: Option<&Path>) -> Result<Self, CgroupError> {
        check_name(instance)?;
        let text = std::fs::read_to_string("/proc/self/mountinfo")
            .map_err(|e| CgroupError::io(Path::new("/proc/self/mountinfo"), e))?;
        Self::from_mountinfo(&text, instance, parent)
    }

    pub(crate) fn from_mountinfo(
        text: &str,
        instance: &str,
        parent: Option<&Path>,
    ) -> Result<Self, CgroupError> {
        let hierarchies = detect::parse(text);
        if hierarchies.is_empty() {
            return Err(CgroupError::None);
        }
        let mut base = PathBuf::new();
        for part in parent.into_iter().flat_map(Path::components) {
            match part {
                std::path::Component::Normal(name) => base.push(name),
                std::path::Component::RootDir => {}
                _ => return Err(CgroupError::BadName(parent.unwrap_or(Path::new("")).display().to_string())),
            }
        }
        base.push(format!("stower-{instance}"));
        Ok(Self { hierarchies, base, exact: false })
    }

    /// One container's group at this path under every mount point: the same for whatever id is given. Those above are made
    /// where they are missing, and stay.
    ///
    /// # Errors
    /// As [`Cgroups::detect`].
    pub fn at(path: &Path) -> Result<Self, CgroupError> {
        let text = std::fs::read_to_string("/proc/self/mountinfo")
            .map_err(|e| CgroupError::io(Path::new("/proc/self/mountinfo"), e))?;
        let hierarchies = detect::parse(&text);
        if hierarchies.is_empty() {
            return Err(CgroupError::None);
        }
        let mut base = PathBuf::new();
        for part in path.components() {
            match part {
                std::path::Component::Normal(name) => base.push(name),
                std::path::Component::RootDir | std::path::Component::CurDir => {}
                _ => return Err(CgroupError::BadName(path.display().to_string())),
            }
        }
        if base.as_os_str().is_empty() {
            return Err(CgroupError::BadName(path.display().to_string()));
        }
        Ok(Self { hierarchies, base, exact: true })
    }

    /// The mounted hierarchies, cgroup2 last.
    #[must_use]
    pub fn hierarchies(&self) -> &[Hierarchy] {
        &self.hierarchies
    }

    fn top(&self, h: &Hierarchy) -> PathBuf {
        h.mount.join(&self.base)
    }

    fn group(&self, h: &Hierarchy, uid: &str) -> PathBuf {
        if self.exact { self.top(h) } else { self.top(h).join("c").join(uid) }
    }

    fn v2(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|h| h.v2)
    }

    /// The hierarchy that has a controller.
    fn with(&self, controller: &str) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|h| h.controllers.iter().any(|c| c == controller))
    }

    /// Makes a container's group in every hierarchy and sets its limits. An existing one is taken over.
    ///
    /// # Errors
    /// Limits that this machine cannot set; nothing new is left then.
    pub fn create(&self, uid: &str, limits: &Limits) -> Result<CgroupJoin, CgroupError> {
        check_name(uid)?;
        limits::check(self, limits)?;
        let mut join = CgroupJoin::default();
        for h in &self.hierarchies {
            let (top, group) = (self.top(h), self.group(h, uid));
            // The usual case is one call: all above exists since the first container.
            let new = match make_dir(&group) {
                Err(CgroupError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    self.make_top(h, &top, &limits.settings)?;
                    make_dir(&group)?
                }
                other => other?,
            };
            if !new && (h.v2 || h.controllers.iter().any(|c| c == "freezer")) {
                // Whatever froze the last run, the next one is to run.
                freeze::thaw(&group, h.v2)?;
            }
            if self.exact {
                // Groups of others above: their controllers and processors may not have been passed down.
                self.make_top(h, &top, &limits.settings)?;
                if !h.v2 && h.controllers.iter().any(|c| c == "cpuset") {
                    limits::inherit_cpuset(&group)?;
                }
            }
            let shims = (!self.exact).then(|| top.join("shims"));
            if h.v2 {
                join.v2 = Some(group);
                join.shim_v2 = shims;
            } else {
                join.v1.push(V1Group { name: h.name.clone(), dir: group });
                join.shim_v1.extend(shims);
            }
        }
        match limits::apply(self, uid, limits, true) {
            Ok(()) => Ok(join),
            Err(e) => {
                // Report why it failed, not how tidying up went.
                let _ = self.remove(uid);
                Err(e)
            }
        }
    }

    /// Our top groups of one hierarchy, with the controllers passed down on version 2.
    fn make_top(&self, h: &Hierarchy, top: &Path, settings: &[Setting]) -> Result<(), CgroupError> {
        let more = resources::controllers(settings);
        let mut at = h.mount.clone();
        let below = match self.base.parent() {
            Some(above) if self.exact => above.to_owned(),
            _ => self.base.join("c"),
        };
        for part in below.components() {
            if h.v2 {
                limits::enable_controllers(&at, h, &more)?;
            }
            at.push(part);
            make_dir(&at)?;
            if h.name == "cpuset" || h.controllers.iter().any(|c| c == "cpuset") && !h.v2 {
                // Groups made below copy cpus and memory nodes from above; without them nobody can join.
                limits::inherit_cpuset(&at)?;
            }
        }
        if h.v2 {
            limits::enable_controllers(&at, h, &more)?;
        }
        if self.exact {
            return Ok(());
        }
        make_dir(&top.join("shims")).map(|_| ())
    }

    /// Gives all containers together just these limits: those that are not given are lifted. Their group is made where there is
    /// anything to limit.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub fn limit_all(&self, limits: &Limits) -> Result<(), CgroupError> {
        limits::check(self, limits)?;
        let missing = |h: &Hierarchy| !self.group(h, "").is_dir();
        if *limits == Limits::default() && self.hierarchies.iter().any(missing) {
            return Ok(());
        }
        for h in &self.hierarchies {
            self.make_top(h, &self.top(h), &[])?;
        }
        limits::apply(self, "", &limits.clone().whole(), false)
    }

    /// Changes the limits of a running container. Those that are not given stay as they are.
    ///
    /// # Errors
    /// Limits that this machine cannot set, or that are below what the container uses now.
    pub fn update(&self, uid: &str, limits: &Limits) -> Result<(), CgroupError> {
        check_name(uid)?;
        limits::check(self, limits)?;
        limits::apply(self, uid, limits, false)
    }

    /// Gives a running container just these limits: those that are not given are lifted.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub fn replace(&self, uid: &str, limits: &Limits) -> Result<(), CgroupError> {
        check_name(uid)?;
        limits::check(self, limits)?;
        limits::apply(self, uid, &limits.clone().whole(), false)
    }

    /// The path of a container's group below the mount point of each hierarchy, as `linux.cgroupsPath` has it.
    #[must_use]
    pub fn path_of(&self, uid: &str) -> String {
        let path = if self.exact { self.base.clone() } else { self.base.join("c").join(uid) };
        Path::new("/").join(path).display().to_string()
    }

    /// The container's groups as they are, for one more process of it.
    #[must_use]
    pub fn existing(&self, uid: &str) -> CgroupJoin {
        let mut join = CgroupJoin::default();
        for h in &self.hierarchies {
            let dir = self.group(h, uid);
            match (dir.exists(), h.v2) {
                (false, _) => {}
                (true, true) => join.v2 = Some(dir),
                (true, false) => join.v1.push(V1Group { name: h.name.clone(), dir }),
            }
        }
        join
    }

    /// Every process of the container.
    ///
    /// # Errors
    /// When the group cannot be read.
    pub fn processes(&self, uid: &str) -> Result<Vec<i32>, CgroupError> {
        check_name(uid)?;
        let Some(h) = self.with("pids").or(self.hierarchies.first()) else { return Ok(Vec::new()) };
        let dir = self.group(h, uid);
        if !dir.exists() {
            return Ok(Vec::new());
        }
        Ok(kill::pids(&dir, 0)?.into_iter().collect())
    }

    /// Sends a signal to every process of the container.
    ///
    /// # Errors
    /// When processes cannot be found or signalled.
    pub fn signal(&self, uid: &str, signal: rustix::process::Signal) -> Result<(), CgroupError> {
        check_name(uid)?;
        let Some(h) = self.with("pids").or(self.hierarchies.first()) else { return Ok(()) };
        let dir = self.group(h, uid);
        for pid in self.processes(uid)? {
            kill::signal_member(&dir, pid, signal)?;
        }
        Ok(())
    }

    /// Whether the container has processes; `None` when that cannot be told. A group that is not there has none.
    #[must_use]
    pub fn populated(&self, uid: &str) -> Option<bool> {
        check_name(uid).ok()?;
        if let Some(h) = self.v2() {
            return kill::populated_v2(&self.group(h, uid));
        }
        kill::populated_v1(&self.group(self.hierarchies.first()?, uid))
    }

    /// Whether any hierarchy has a group of the container.
    #[must_use]
    pub fn exists(&self, uid: &str) -> bool {
        check_name(uid).is_ok() && self.hierarchies.iter().any(|h| self.group(h, uid).exists())
    }

    /// `cgroup.events` of the container, for a caller that waits for `populated` by `inotify` or `POLLPRI`; only where
    /// cgroup2 is mounted.
    #[must_use]
    pub fn events_file(&self, uid: &str) -> Option<PathBuf> {
        check_name(uid).ok()?;
        self.v2().map(|h| self.group(h, uid).join("cgroup.events"))
    }

    /// Kills every process of the container, those included that are being forked. Returns at once; the group is
    /// empty a moment later ([`Cgroups::populated`]).
    ///
    /// # Errors
    /// When processes cannot be found or killed.
    pub fn kill(&self, uid: &str) -> Result<(), CgroupError> {
        check_name(uid)?;
        if let Some(h) = self.v2() {
            return kill::kill_v2(&self.group(h, uid));
        }
        let Some(h) = self.with("freezer").or(self.hierarchies.first()) else {
            return Err(CgroupError::None);
        };
        kill::kill_v1(&self.group(h, uid), h.controllers.iter().any(|c| c == "freezer"))
    }

    /// The directory that is frozen, and whether it is of cgroup2, which is taken wherever it is mounted.
    fn freezer(&self, uid: &str) -> Result<(PathBuf, bool), CgroupError> {
        check_name(uid)?;
        let h = self.v2().or_else(|| self.with("freezer")).ok_or(CgroupError::NoFreezer)?;
        Ok((self.group(h, uid), h.v2))
    }

    /// Stops every process of the container where it is, and waits until all stand still: 10 s at most. They do not
    /// notice; what is forked or moved there meanwhile stands still too. A frozen container can be killed.
    ///
    /// # Errors
    /// [`CgroupError::NotFrozen`] when a process waits in the kernel: the container goes on then. A group that is not
    /// there is an error.
    pub fn freeze(&self, uid: &str) -> Result<(), CgroupError> {
        let (dir, v2) = self.freezer(uid)?;
        freeze::freeze(&dir, v2, freeze::PATIENCE)
    }

    /// Lets the container go on. Not frozen, or not there, is done.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn thaw(&self, uid: &str) -> Result<(), CgroupError> {
        let (dir, v2) = self.freezer(uid)?;
        freeze::thaw(&dir, v2)
    }

    /// Whether every process of the container stands still; `None` when that cannot be told. A group that is not there
    /// does not.
    #[must_use]
    pub fn frozen(&self, uid: &str) -> Option<bool> {
        let (dir, v2) = self.freezer(uid).ok()?;
        freeze::frozen(&dir, v2)
    }

    /// Removes the container's groups. Not there is done.
    ///
    /// # Errors
    /// [`CgroupError::Busy`] while there are processes: wait for the event and call again.
    pub fn remove(&self, uid: &str) -> Result<(), CgroupError> {
        check_name(uid)?;
        self.hierarchies.iter().try_for_each(|h| kill::remove_tree(&self.group(h, uid), 0))
    }

    /// Removes our own top groups when no container is left in them.
    ///
    /// # Errors
    /// [`CgroupError::Busy`] while shims are in them.
    pub fn remove_root(&self) -> Result<(), CgroupError> {
        for h in &self.hierarchies {
            let top = self.top(h);
            for dir in [top.join("c"), top.join("shims"), top] {
                kill::remove_dir(&dir)?;
            }
        }
        Ok(())
    }

    /// Ids that have a group in any hierarchy.
    ///
    /// # Errors
    /// When a hierarchy cannot be read.
    pub fn list(&self) -> Result<Vec<String>, CgroupError> {
        let mut ids = std::collections::BTreeSet::new();
        for h in &self.hierarchies {
            let dir = self.top(h).join("c");
            match std::fs::read_dir(&dir) {
                Ok(entries) => {
                    for entry in entries {
                        let entry = entry.map_err(|e| CgroupError::io(&dir, e))?;
                        if entry.file_type().is_ok_and(|t| t.is_dir())
                            && let Ok(name) = entry.file_name().into_string()
                        {
                            ids.insert(name);
                        }
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(CgroupError::io(&dir, e)),
            }
        }
        Ok(ids.into_iter().collect())
    }

    /// How many processes of the container the kernel has killed for want of memory; 0 when nothing counts them.
    #[must_use]
    pub fn oom_kills(&self, uid: &str) -> u64 {
        match (check_name(uid), self.with("memory")) {
            (Ok(()), Some(h)) => stats::oom_kills(&self.group(h, uid), h.v2),
            _ => 0,
        }
    }

    /// What the container uses now.
    #[must_use]
    pub fn stats(&self, uid: &str) -> Stats {
        if check_name(uid).is_err() {
            return Stats::default();
        }
        let dir = |controller: &str| self.with(controller).map(|h| (self.group(h, uid), h.v2));
        let io = dir("io").or_else(|| dir("blkio"));
        stats::read(dir("memory"), dir("cpuacct").or_else(|| dir("cpu")), dir("pids"), io)
    }
}

/// One plain component.
fn check_name(name: &str) -> Result<(), CgroupError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > 200 || name.starts_with('.') || !name.bytes().all(plain) {
        return Err(CgroupError::BadName(name.to_owned()));
    }
    Ok(())
}

/// Whether it is new.
fn make_dir(path: &Path) -> Result<bool, CgroupError> {
    match rustix::fs::mkdir(path, rustix::fs::Mode::from_raw_mode(0o755)) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(e) => Err(CgroupError::io(path, e)),
    }
}

/// Writes to a file that the kernel made; never creates one.
fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    crate::start::write_existing(path, value).map_err(|e| CgroupError::io(path, e))
}
