//! Stores: what Volumes and DataContainers keep their data in, how each comes to be, and who uses it.
//!
//! A Volume is one store; a DataContainer has one for each path, of which some may be Volumes. Making one sure that it
//! is there is an action that may be repeated at any time, so nothing about it is remembered here.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use stower_crds::{
    ContainerSpec, DataContainerSpec, Generation, HostPathType, Kind, Name, Namespace, ObjectKey, Owner,
    PullPolicy, Quantity, ReclaimPolicy, Uid, VolumeDriver, VolumeSpec,
};

use crate::{
    action::{Act, Action, ActionKind, Why},
    container::Decision,
    desired::{Declared, Desired, SourceId},
    image::{ImageNeed, image_need},
    observed::{CgroupState, Failure, FailureReason, ImageDigest, Observed, ObservedImage, ProcessState},
    plan::Note,
    record::{Record, RecordState, Records},
    resolve::{Problem, normal, sentence},
    restart::retry_delay,
    time::Now,
};

/// Names a store. Retained data is found again by it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StoreId {
    /// The store of a Volume.
    Volume {
        /// Its namespace.
        namespace: Namespace,
        /// Its name.
        name: Name,
    },
    /// A DataContainer's own.
    Data {
        /// Its namespace.
        namespace: Namespace,
        /// Its name.
        name: Name,
        /// The mount path.
        path: String,
    },
    /// A container's own, which goes with it.
    Private {
        /// Whose.
        owner: Uid,
        /// An `emptyDir` volume's name, or the path of an anonymous volume.
        name: String,
    },
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume { namespace, name } => write!(f, "Volume {namespace}/{name}"),
            Self::Data { namespace, name, path } => write!(f, "DataContainer {namespace}/{name} {path}"),
            Self::Private { owner, name } => write!(f, "volume {name} of {owner}"),
        }
    }
}

/// What a store is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreWant {
    /// Which.
    pub id: StoreId,
    /// What it is made of.
    pub medium: StoreMedium,
    /// What is put into it while it is new.
    pub content: StoreContent,
}

/// What a store is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreMedium {
    /// A directory of the node; with a capacity in bytes a filesystem of its own.
    Local {
        /// The most it may hold.
        capacity: Option<u64>,
        /// Owner of the top directory.
        owner: Owner,
        /// Its mode.
        mode: Option<u32>,
    },
    /// Memory.
    Tmpfs {
        /// The most it may hold, in bytes.
        capacity: Option<u64>,
        /// Owner of the top directory.
        owner: Owner,
        /// Its mode.
        mode: Option<u32>,
    },
    /// A path of the host.
    HostPath {
        /// The path.
        path: String,
        /// What must be there.
        type_: HostPathType,
    },
    /// It is a Volume, which is made by itself.
    Made,
}

/// What is put into a store while it is new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreContent {
    /// It is left without data, until something fills or uses it.
    Later,
    /// Nothing: it begins empty.
    Empty,
    /// What an image has at this path, once an image is given.
    Image {
        /// The path.
        path: String,
    },
}

/// What was seen of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreFacts {
    /// Which.
    pub id: StoreId,
    /// Where it is on the node.
    pub path: String,
    /// It has data, if only an empty directory.
    pub has_data: bool,
    /// The image that it was filled from.
    pub filled_from: Option<ImageDigest>,
    /// The most it may hold, in bytes.
    pub capacity: Option<u64>,
    /// Something keeps it from holding more.
    pub capacity_enforced: bool,
}

/// What was seen of a Volume or DataContainer. The default is that nothing is known.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ObservedStores {
    /// The image that a DataContainer is filled from.
    pub image: ObservedImage,
    /// Its stores.
    pub state: StoreState,
    /// The effect that the agent is running for it now, pulls excepted.
    pub in_flight: Option<ActionKind>,
    /// How the last effect for it failed; `None` once one of the same kind succeeded.
    pub failure: Option<Failure>,
}

/// Whether stores are there.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum StoreState {
    /// This agent has not looked yet.
    #[default]
    Unknown,
    /// They are there, as this generation wants them.
    Made {
        /// The generation.
        generation: Generation,
        /// One for each path, in the order of the spec.
        stores: Vec<StoreFacts>,
    },
    /// Nothing that was to be removed is left.
    Gone,
}

/// Who has what mounted, found once for a plan and only when it is asked for.
#[derive(Debug)]
pub struct Uses<'a> {
    observed: &'a Observed,
    records: &'a Records,
    found: OnceCell<Found<'a>>,
}

#[derive(Debug, Default)]
struct Found<'a> {
    /// By what is used.
    users: BTreeMap<&'a Uid, BTreeSet<&'a Uid>>,
    /// Those of whom nobody can tell what they use.
    of_anything: BTreeSet<&'a Uid>,
}

impl<'a> Uses<'a> {
    /// Looks when it is asked.
    pub fn new(observed: &'a Observed, records: &'a Records) -> Self {
        Self { observed, records, found: OnceCell::new() }
    }

    /// The other containers that have storage of an object mounted, or may have.
    pub fn of<'s>(&'s self, uid: &'s Uid) -> impl Iterator<Item = &'a Uid> + use<'s, 'a> {
        let found = self.found.get_or_init(|| self.find());
        let users = found.users.get(uid).into_iter().flatten().copied();
        users.chain(found.of_anything.iter().copied().filter(move |user| *user != uid))
    }

    fn find(&self) -> Found<'a> {
        let mut found = Found::default();
        for (user, state) in self.records {
            match state {
                RecordState::Known(Record { launch: Some(launch), .. }) => {
                    if !launch.uses.is_empty() && may_run(self.observed, user) {
                        for used in &launch.uses {
                            found.users.entry(used).or_default().insert(user);
                        }
                    }
                }
                RecordState::Known(_) => {}
                RecordState::Unknown { .. } => {
                    if may_run(self.observed, user) {
                        found.of_anything.insert(user);
                    }
                }
            }
        }
        let unremembered = self.observed.containers.iter().filter(|(user, seen)| {
            matches!(seen.process, ProcessState::Running { .. }) && !self.records.contains_key(*user)
        });
        found.of_anything.extend(unremembered.map(|(user, _)| user));
        found
    }

    /// [`Uses::of`], for people: also those that no source declares any more.
    pub(crate) fn names(&self, uid: &Uid, desired: &Desired) -> BTreeSet<String> {
        let name = |user: &Uid| match (desired.key_of(user), self.records.get(user)) {
            (Some(key), _) => key.to_string(),
            (None, Some(RecordState::Known(record))) => record.key.to_string(),
            (None, _) => format!("the container with UID {user}"),
        };
        self.of(uid).map(name).collect()
    }
}

/// Whether a container may have a process. Only what is proven says that it has none.
fn may_run(observed: &Observed, uid: &Uid) -> bool {
    let Some(seen) = observed.containers.get(uid) else { return true };
    let over = matches!(
        seen.process,
        ProcessState::Absent | ProcessState::Exited { .. } | ProcessState::Lost { .. }
    );
    let empty = matches!(seen.cgroup, CgroupState::Absent | CgroupState::Empty);
    !(over && empty) || seen.in_flight == Some(ActionKind::Start)
}

/// Bytes of a capacity.
pub(crate) fn bytes(capacity: Option<&Quantity>) -> Option<u64> {
    capacity.and_then(Quantity::units)
}

/// The store of a Volume, as its spec wants it.
pub(crate) fn volume_want(key: &ObjectKey, spec: &VolumeSpec) -> StoreWant {
    let (capacity, owner, mode) = (bytes(spec.capacity.as_ref()), spec.owner.unwrap_or_default(), spec.mode);
    let medium = match (spec.driver, &spec.host_path) {
        (VolumeDriver::HostPath, Some(host)) => {
            StoreMedium::HostPath { path: host.path.clone(), type_: host.type_ }
        }
        (VolumeDriver::Tmpfs, _) => StoreMedium::Tmpfs { capacity, owner, mode },
        _ => StoreMedium::Local { capacity, owner, mode },
    };
    StoreWant { id: volume_store(key), medium, content: StoreContent::Later }
}

/// The store of a Volume.
pub(crate) fn volume_store(key: &ObjectKey) -> StoreId {
    StoreId::Volume { namespace: key.namespace.clone(), name: key.name.clone() }
}

/// The stores of a DataContainer, in the order of its spec.
pub(crate) fn data_wants(declared: &Declared<DataContainerSpec>, desired: &Desired) -> Vec<StoreWant> {
    let ObjectKey { namespace, name, .. } = &declared.key;
    let want = |volume: &stower_crds::DataVolume| {
        let path = normal(&volume.mount_path).unwrap_or_else(|| volume.mount_path.clone());
        let fill = || match &declared.spec.image {
            Some(_) => StoreContent::Image { path: path.clone() },
            None => StoreContent::Empty,
        };
        match named(&declared.key, volume.volume.as_deref()) {
            Some(key) => {
                let volume = desired.volume(&key).map(|it| volume_want(&key, &it.spec));
                match volume {
                    // Somebody else's directory is never filled.
                    Some(want) if matches!(want.medium, StoreMedium::HostPath { .. }) => want,
                    _ => {
                        let id = volume_store(&key);
                        StoreWant { id, medium: StoreMedium::Made, content: fill() }
                    }
                }
            }
            None => StoreWant {
                id: StoreId::Data { namespace: namespace.clone(), name: name.clone(), path: path.clone() },
                medium: StoreMedium::Local {
                    capacity: bytes(volume.capacity.as_ref()),
                    owner: volume.owner.unwrap_or_default(),
                    mode: volume.mode,
                },
                content: fill(),
            },
        }
    };
    declared.spec.volumes.iter().map(want).collect()
}

/// The key of a Volume that an object names.
pub(crate) fn named(of: &ObjectKey, volume: Option<&str>) -> Option<ObjectKey> {
    let name = Name::new(volume?).ok()?;
    Some(ObjectKey::new(Kind::Volume, of.namespace.clone(), name))
}

/// What a plan about stores is made of.
pub(crate) struct Facts<'a> {
    pub(crate) desired: &'a Desired,
    pub(crate) observed: &'a Observed,
    pub(crate) uses: &'a Uses<'a>,
    pub(crate) now: &'a Now,
}

struct Planner<'a, 'f, S> {
    facts: &'a Facts<'f>,
    declared: &'a Declared<S>,
    seen: &'a ObservedStores,
    decision: Decision,
}

/// What a Volume needs next.
pub(crate) fn plan_volume(declared: &Declared<VolumeSpec>, facts: &Facts<'_>) -> Decision {
    let mut planner = Planner::new(declared, facts);
    if declared.terminating {
        let want = volume_want(&declared.key, &declared.spec);
        let keeps = declared.spec.reclaim_policy == ReclaimPolicy::Retain
            || matches!(want.medium, StoreMedium::HostPath { .. });
        let users = users_of(declared, facts.desired, facts.uses);
        planner.remove(&users, if keeps { Vec::new() } else { vec![want.id] });
    } else {
        match (unsupported(&declared.spec), planner.made()) {
            (Some(why), _) => planner.note(format!("it cannot be made: {why}")),
            (None, Some(_)) => {}
            (None, None) => planner.make(vec![volume_want(&declared.key, &declared.spec)], None),
        }
    }
    planner.decision
}

/// What a DataContainer needs next.
pub(crate) fn plan_data(declared: &Declared<DataContainerSpec>, facts: &Facts<'_>) -> Decision {
    let mut planner = Planner::new(declared, facts);
    if declared.terminating {
        let own = |want: StoreWant| Some(want.id).filter(|id| matches!(id, StoreId::Data { .. }));
        let keeps = declared.spec.reclaim_policy == ReclaimPolicy::Retain;
        let stores = if keeps {
            Vec::new()
        } else {
            data_wants(declared, facts.desired).into_iter().filter_map(own).collect()
        };
        let users = users_of(declared, facts.desired, facts.uses);
        planner.remove(&users, stores);
        return planner.decision;
    }
    let missing = data_problems(declared, facts.desired, facts.observed);
    if !missing.is_empty() {
        planner.note(format!("it waits: {}", sentence(&missing)));
        return planner.decision;
    }
    let wants = data_wants(declared, facts.desired);
    match (planner.made(), &declared.spec.image) {
        (Some(stores), _) if filled(&wants, stores) => {}
        (Some(_), Some(reference)) => {
            if let Some(digest) = planner.image(reference, fill_policy(&declared.spec)) {
                planner.make(wants, Some(digest));
            }
        }
        (Some(_) | None, _) => planner.make(wants, None),
    }
    planner.decision
}

/// When the registry is asked for what fills.
pub(crate) fn fill_policy(spec: &DataContainerSpec) -> PullPolicy {
    spec.image_pull_policy.unwrap_or(PullPolicy::IfNotPresent)
}

/// What a DataContainer waits for before its stores can be made.
pub(crate) fn data_problems(
    declared: &Declared<DataContainerSpec>,
    desired: &Desired,
    observed: &Observed,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for name in declared.spec.volumes.iter().filter_map(|volume| volume.volume.as_deref()) {
        let Some(key) = named(&declared.key, Some(name)) else {
            problems.push(Problem::invalid(format!("{name:?} is no name of a Volume")));
            continue;
        };
        if let Err(problem) = volume_ready(&key, &declared.source, desired, observed) {
            problems.push(problem);
        }
    }
    let mut paths = BTreeMap::new();
    for volume in &declared.spec.volumes {
        let path = normal(&volume.mount_path);
        match path {
            None => {
                problems
                    .push(Problem::invalid(format!("mountPath {} is no path below /", volume.mount_path)));
            }
            Some(path) => {
                if let Some(other) = paths.insert(path, &volume.mount_path) {
                    problems.push(Problem::invalid(format!(
                        "two volumes are at one path: {other} and {}; give each a path of its own",
                        volume.mount_path
                    )));
                }
            }
        }
    }
    problems
}

/// Whether a Volume can be mounted; otherwise what to wait for.
pub(crate) fn volume_ready<'a>(
    key: &ObjectKey,
    source: &SourceId,
    desired: &Desired,
    observed: &'a Observed,
) -> Result<&'a StoreFacts, Problem> {
    let Some(volume) = desired.volume(key) else { return Err(Problem::missing(key)) };
    Problem::check(key, volume.terminating, &volume.source, source)?;
    if let Some(why) = unsupported(&volume.spec) {
        return Err(Problem::invalid(format!("{key} cannot be made: {why}")));
    }
    let seen = observed.stores.get(&volume.uid);
    match seen.map(|seen| (&seen.state, &seen.failure)) {
        Some((StoreState::Made { generation, stores }, _)) if *generation == volume.generation => {
            stores.first().ok_or_else(|| Problem::not_ready(key, "it is being made"))
        }
        Some((_, Some(failure))) => Err(Problem::not_ready(key, &failure.message)),
        _ => Err(Problem::not_ready(key, "it is being made")),
    }
}

/// Who keeps an object from being removed: containers that have it mounted, and DataContainers that name it.
pub(crate) fn users_of<S>(declared: &Declared<S>, desired: &Desired, uses: &Uses<'_>) -> BTreeSet<String> {
    let mut users = uses.names(&declared.uid, desired);
    if declared.key.kind == Kind::Volume {
        let data = desired.users(&declared.key).filter_map(|uid| desired.key_of(uid));
        users.extend(data.filter(|key| key.kind == Kind::DataContainer).map(ToString::to_string));
    }
    users
}

/// Some names, for people.
pub(crate) fn list(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// Why a Volume cannot be made by this release, whatever comes.
pub(crate) fn unsupported(spec: &VolumeSpec) -> Option<String> {
    let known = match spec.driver {
        VolumeDriver::Local | VolumeDriver::Tmpfs => true,
        VolumeDriver::HostPath => spec.host_path.is_some(),
        VolumeDriver::DeviceMapper => false,
    };
    let name = spec.driver.as_str();
    (!known).then(|| format!("driver {name} is not supported; use local, tmpfs or hostPath"))
}

/// Whether every store that is to have data has it. Somebody else's directory is as it is.
pub(crate) fn filled(wants: &[StoreWant], stores: &[StoreFacts]) -> bool {
    wants.len() == stores.len()
        && wants.iter().zip(stores).all(|(want, facts)| want.content == StoreContent::Later || facts.has_data)
}

impl<'a, 'f, S> Planner<'a, 'f, S> {
    fn new(declared: &'a Declared<S>, facts: &'a Facts<'f>) -> Self {
        const NOTHING: &ObservedStores = &ObservedStores {
            image: ObservedImage::unknown(),
            state: StoreState::Unknown,
            in_flight: None,
            failure: None,
        };
        let seen = facts.observed.stores.get(&declared.uid).unwrap_or(NOTHING);
        Self { facts, declared, seen, decision: Decision::default() }
    }

    fn note(&mut self, message: String) {
        let (uid, key) = (self.declared.uid.clone(), Some(self.declared.key.clone()));
        self.decision.note = Some(Note { uid, key, message });
    }

    fn act(&mut self, act: Act, why: Why) {
        let (uid, key) = (self.declared.uid.clone(), Some(self.declared.key.clone()));
        self.decision.action = Some(Action { uid, key, act, why });
    }

    fn backs_off(&mut self, kind: ActionKind) -> bool {
        let failed = self.seen.failure.as_ref().filter(|failure| failure.action == kind);
        let again = failed.map(|failure| failure.at.plus(retry_delay(failure.attempts)));
        match again {
            Some(again) if self.facts.now.mono < again => {
                self.decision.wake_at = Some(again);
                true
            }
            _ => false,
        }
    }

    fn remove(&mut self, users: &BTreeSet<String>, stores: Vec<StoreId>) {
        if self.seen.in_flight.is_some() {
            return;
        }
        let why = Why::Removed { source: self.declared.source.to_string() };
        if !users.is_empty() {
            self.note(format!("it is in use by {} and is removed when they have stopped", list(users)));
        } else if stores.is_empty() || self.seen.state == StoreState::Gone || self.was_refused() {
            self.act(Act::Forget, why);
        } else if !self.backs_off(ActionKind::RemoveStores) {
            self.act(Act::RemoveStores { stores }, why);
        }
    }

    /// Its stores could not be made: what is there by their names is not its own, as with another driver.
    fn was_refused(&self) -> bool {
        let refused = self.seen.failure.as_ref().is_some_and(|it| {
            it.action == ActionKind::MakeStores && it.reason == FailureReason::CreateContainerConfigError
        });
        refused && !matches!(self.seen.state, StoreState::Made { .. })
    }

    /// The stores, where they are as this generation wants them.
    fn made(&self) -> Option<&[StoreFacts]> {
        match &self.seen.state {
            StoreState::Made { generation, stores } if *generation == self.declared.generation => {
                Some(stores)
            }
            _ => None,
        }
    }

    /// Whether the disk takes no new work; a note then says so.
    fn is_full(&mut self) -> bool {
        let pressure = &self.facts.observed.pressure;
        if pressure.is_on() {
            self.note(format!("it waits: DiskPressure: {}", pressure.message));
        }
        pressure.is_on()
    }

    fn make(&mut self, wants: Vec<StoreWant>, image: Option<ImageDigest>) {
        // To look for what is there needs no room.
        if image.is_some() && self.is_full() {
            return;
        }
        if self.seen.in_flight.is_some() || self.backs_off(ActionKind::MakeStores) {
            return;
        }
        let failure = self.seen.failure.as_ref().filter(|failure| failure.action == ActionKind::MakeStores);
        let attempts = failure.map_or(0, |failure| failure.attempts);
        let why = if attempts > 0 { Why::Retry { attempts } } else { Why::New };
        let generation = self.declared.generation;
        self.act(Act::MakeStores { generation, stores: wants, image }, why);
    }

    /// The image to fill from, once it is here; otherwise what is to be done for it.
    fn image(&mut self, reference: &str, policy: PullPolicy) -> Option<ImageDigest> {
        let mut spec = ContainerSpec::new(reference);
        spec.image_pull_policy = Some(policy);
        let record = Record::new(self.declared.uid.clone(), self.declared.key.clone());
        let generation = self.declared.generation;
        match image_need(&spec, generation, true, &record, &self.seen.image, self.facts.now) {
            ImageNeed::Ready(image) => return Some(image.digest),
            ImageNeed::Pull { digest, why } => {
                if !self.is_full() {
                    self.act(Act::PullImage { reference: reference.to_owned(), digest, generation }, why);
                }
            }
            ImageNeed::Failed { retry_at: Some(at) } => self.decision.wake_at = Some(at),
            ImageNeed::NeverPull => {
                self.note(format!("image {reference} is not on this machine and imagePullPolicy is Never"));
            }
            ImageNeed::Failed { retry_at: None } | ImageNeed::Unknown | ImageNeed::Pulling => {}
        }
        None
    }
}

#[cfg(test)]
mod tests;
