//! What a start needs beside its image: every mount and every variable, resolved anew from what is declared and seen
//! now. All of it, or a list of everything that is missing.

mod values;

pub use values::{File, Files, Variable};

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use stower_crds::{
    ContainerSpec, DataContainerSpec, HostPathType, Kind, MountPropagation, MountStatus, Name, ObjectKey,
    PullPolicy, Reason, StorageMedium, Uid, VolumePhase, VolumeSourceKind, VolumesFrom, VolumesFromKind,
};

use crate::{
    desired::{AnyDeclared, Declared, Desired, SourceId},
    observed::{ImageDigest, ImageState, Observed, WrittenFiles},
    pod_security::{self, PodSecurityLevel, violates},
    store::{
        StoreId, StoreMedium, StoreState, bytes, data_problems, data_wants, fill_policy, filled, named,
        volume_ready, volume_want,
    },
};

/// How many containers may follow each other by `volumesFrom`.
const MAX_DEPTH: usize = 32;
/// How many mounts a container may have.
const MAX_MOUNTS: usize = 1024;

/// Everything that a start needs beside its image.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Resolved {
    /// The mounts, outer before inner.
    pub mounts: Vec<ResolvedMount>,
    /// The variables of `envFrom` and `env`, in their order.
    pub env: Vec<Variable>,
    /// The objects whose storage is mounted.
    pub uses: BTreeSet<Uid>,
}

impl Resolved {
    /// The volumes of files, by their directories' names.
    pub fn files(&self) -> WrittenFiles {
        let files = self.mounts.iter().filter_map(|mount| match &mount.what {
            MountWhat::Files { name, files } => Some((name.clone(), Arc::clone(files))),
            _ => None,
        });
        files.collect()
    }
}

/// One mount.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedMount {
    /// Where in the container: absolute, without `.`, `..` and doubled slashes.
    pub path: String,
    /// What.
    pub what: MountWhat,
    /// It cannot be written to.
    pub read_only: bool,
    /// A relative path in it that is mounted instead of its top.
    pub sub_path: Option<String>,
    /// Whether later mounts are seen.
    pub propagation: MountPropagation,
    /// Name of the volume, where it has one.
    pub name: Option<String>,
    /// The object that it was taken from by `volumesFrom`.
    pub from: Option<ObjectKey>,
}

impl ResolvedMount {
    /// As `status.mounts` has it.
    pub fn status(&self) -> MountStatus {
        MountStatus {
            mount_path: self.path.clone(),
            name: self.name.clone(),
            from: self.from.as_ref().map(ToString::to_string),
            read_only: self.read_only,
        }
    }
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq)]
pub enum MountWhat {
    /// A path of the host.
    HostPath {
        /// The path.
        path: String,
        /// What must be there.
        type_: HostPathType,
    },
    /// A directory of a container that lives as long as its object.
    EmptyDir {
        /// Whose.
        owner: Uid,
        /// The volume's name.
        name: String,
        /// What it is made of.
        medium: StorageMedium,
        /// The most it may hold, in bytes.
        size: Option<u64>,
    },
    /// The store of a Volume or DataContainer.
    Store(StoreId),
    /// A volume that an image asks for, filled from it while it is new.
    Anonymous {
        /// Whose.
        owner: Uid,
        /// Where it is in the image, and in its owner.
        path: String,
        /// The image.
        image: ImageDigest,
    },
    /// Files with values.
    Files {
        /// Names the directory among the container's own.
        name: String,
        /// The files.
        files: Arc<Files>,
    },
}

/// Something that a start needs and does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which kind of problem.
    pub kind: ProblemKind,
    /// What, and what to do.
    pub message: String,
}

/// A kind of problem, the gravest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProblemKind {
    /// It is not there, or not ready. It is waited for.
    Missing,
    /// Whether a ConfigMap is there cannot be told. It is asked for again.
    ConfigMapUnavailable,
    /// The same of a Secret.
    SecretUnavailable,
    /// It is there, but of another source or node.
    Elsewhere,
    /// It is there, and the namespace does not allow that it is taken.
    PodSecurity,
    /// It cannot be as it is declared, whatever comes.
    Invalid,
}

impl ProblemKind {
    /// Whether it may be there all the same.
    pub(crate) fn is_unavailable(self) -> bool {
        matches!(self, Self::ConfigMapUnavailable | Self::SecretUnavailable)
    }

    /// As `status` has it.
    pub fn reason(self) -> Reason {
        match self {
            Self::Missing => Reason::DependencyMissing,
            Self::ConfigMapUnavailable => Reason::ConfigMapUnavailable,
            Self::SecretUnavailable => Reason::SecretUnavailable,
            Self::Elsewhere => Reason::DependencyOnOtherNode,
            Self::PodSecurity => Reason::PodSecurity,
            Self::Invalid => Reason::CreateContainerConfigError,
        }
    }
}

impl Problem {
    pub(crate) fn missing(key: &ObjectKey) -> Self {
        Self { kind: ProblemKind::Missing, message: format!("{key} is not there") }
    }

    pub(crate) fn unavailable(key: &ObjectKey, why: &str) -> Self {
        let kind = match key.kind {
            Kind::ConfigMap => ProblemKind::ConfigMapUnavailable,
            _ => ProblemKind::SecretUnavailable,
        };
        Self { kind, message: format!("{key} cannot be read: {why}") }
    }

    pub(crate) fn not_ready(key: &ObjectKey, why: &str) -> Self {
        Self { kind: ProblemKind::Missing, message: format!("{key} is not ready: {why}") }
    }

    pub(crate) fn invalid(message: String) -> Self {
        Self { kind: ProblemKind::Invalid, message }
    }

    /// What holds for a reference to any object that is there.
    pub(crate) fn check(
        key: &ObjectKey,
        terminating: bool,
        source: &SourceId,
        of: &SourceId,
    ) -> Result<(), Self> {
        if source != of {
            let message = format!(
                "{key} comes from the {source} and this object from the {of}; declare both in one of them"
            );
            return Err(Self { kind: ProblemKind::Elsewhere, message });
        }
        if terminating {
            return Err(Self { kind: ProblemKind::Missing, message: format!("{key} is being removed") });
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// All problems in one sentence.
pub(crate) fn sentence(problems: &[Problem]) -> String {
    problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>().join("; ")
}

/// What a container's start needs, or everything that is missing, in the order of the spec.
///
/// # Errors
/// With every problem, not only the first.
pub fn resolve(
    declared: &Declared,
    desired: &Desired,
    observed: &Observed,
) -> Result<Resolved, Vec<Problem>> {
    let mut resolver = Resolver::new(declared, desired, observed);
    let mounts = resolver.mounts(declared);
    let env = values::environment(declared, desired, &mut resolver.problems);
    let mut problems = resolver.problems;
    if mounts.len() > MAX_MOUNTS {
        let message = format!("it has {} mounts; at most {MAX_MOUNTS} are possible", mounts.len());
        problems.push(Problem::invalid(message));
    }
    if let Some(level) = desired.level(declared).filter(|level| *level < PodSecurityLevel::Privileged) {
        let violations = pod_security::mounts(mounts.iter().map(|(mount, _)| mount));
        if !violations.is_empty() {
            let (kind, message) = (ProblemKind::PodSecurity, violates(level, &violations));
            problems.push(Problem { kind, message });
        }
    }
    let mut seen = BTreeSet::new();
    problems.retain(|problem| seen.insert(problem.message.clone()));
    if !problems.is_empty() {
        return Err(problems);
    }
    let uses =
        mounts.iter().flat_map(|(_, uses)| uses.iter().cloned()).filter(|uid| *uid != declared.uid).collect();
    let mut mounts: Vec<ResolvedMount> = mounts.into_iter().map(|(mount, _)| mount).collect();
    mounts.sort_by(|a, b| (depth(&a.path), &a.path).cmp(&(depth(&b.path), &b.path)));
    Ok(Resolved { mounts, env, uses })
}

/// The volumes of files that can be resolved now, whatever else is missing: what is gone concerns the next start, and keeps
/// no other file of a running container from being refreshed.
pub(crate) fn resolve_files(declared: &Declared, desired: &Desired, observed: &Observed) -> WrittenFiles {
    let mounts = Resolver::new(declared, desired, observed).mounts(declared);
    Resolved { mounts: mounts.into_iter().map(|(mount, _)| mount).collect(), ..Resolved::default() }.files()
}

fn depth(path: &str) -> usize {
    path.split('/').count()
}

/// A path as it is compared and mounted; `None` for `/`, for one that is not absolute, and for one with `..`.
pub(crate) fn normal(path: &str) -> Option<String> {
    if !path.starts_with('/') || path.contains('\0') {
        return None;
    }
    let mut clean = String::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => return None,
            part => {
                clean.push('/');
                clean.push_str(part);
            }
        }
    }
    Some(clean).filter(|clean| !clean.is_empty())
}

/// A mount, and the objects whose storage it is.
type Found = (ResolvedMount, Vec<Uid>);

struct Resolver<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    top: &'a Declared,
    /// What each container that was taken from has, so that no chain is walked twice.
    memo: BTreeMap<ObjectKey, Vec<Found>>,
    stack: Vec<ObjectKey>,
    problems: Vec<Problem>,
    /// How many containers were looked at.
    #[cfg(test)]
    steps: usize,
}

impl<'a> Resolver<'a> {
    fn new(top: &'a Declared, desired: &'a Desired, observed: &'a Observed) -> Self {
        Self {
            desired,
            observed,
            top,
            memo: BTreeMap::new(),
            stack: Vec::new(),
            problems: Vec::new(),
            #[cfg(test)]
            steps: 0,
        }
    }

    /// Every mount of a container, its own before those that it takes, and those that its image asks for.
    fn mounts(&mut self, declared: &Declared) -> Vec<Found> {
        #[cfg(test)]
        {
            self.steps += 1;
        }
        self.stack.push(declared.key.clone());
        let mut all: BTreeMap<String, (Found, String)> = BTreeMap::new();
        let mut order = Vec::new();
        for mount in &declared.spec.volume_mounts {
            let Some(path) = normal(&mount.mount_path) else {
                self.problems.push(Problem::invalid(format!(
                    "volumeMounts: mountPath {} is no path below /",
                    mount.mount_path
                )));
                continue;
            };
            let Some((what, read_only, uses)) = self.inline(declared, &mount.name) else { continue };
            let found = ResolvedMount {
                path: path.clone(),
                what,
                read_only: read_only || mount.read_only,
                sub_path: mount.sub_path.clone().filter(|sub| !sub.is_empty()),
                propagation: mount.mount_propagation.unwrap_or_default(),
                name: Some(mount.name.clone()),
                from: None,
            };
            let claim = format!("volumeMounts {:?}", mount.name);
            if let Some((_, other)) = all.get(&path) {
                self.problems.push(Problem::invalid(format!("{other} and {claim} are both at {path}")));
                continue;
            }
            order.push(path.clone());
            all.insert(path, ((found, uses), claim));
        }
        let own: BTreeSet<String> = all.keys().cloned().collect();
        for from in &declared.spec.volumes_from {
            for (mut mount, uses) in self.taken(declared, from) {
                if own.contains(&mount.path) {
                    continue;
                }
                mount.read_only |= from.read_only;
                let claim = format!("{} {}", kind_name(from.kind), from.name);
                if let Some((_, other)) = all.get(&mount.path) {
                    self.problems.push(Problem::invalid(format!(
                        "volumesFrom: {other} and {claim} both have a volume at {}; leave one out, or mount one \
                         of your own there",
                        mount.path
                    )));
                    continue;
                }
                order.push(mount.path.clone());
                all.insert(mount.path.clone(), ((mount, uses), claim));
            }
        }
        for (mount, uses) in self.asked_by_image(declared) {
            if !all.contains_key(&mount.path) {
                order.push(mount.path.clone());
                all.insert(mount.path.clone(), ((mount, uses), String::new()));
            }
        }
        self.stack.pop();
        order.iter().filter_map(|path| all.remove(path).map(|(found, _)| found)).collect()
    }

    /// An inline volume: what it is, whether it is read-only, and whose storage it is.
    fn inline(&mut self, declared: &Declared, name: &str) -> Option<(MountWhat, bool, Vec<Uid>)> {
        let Some(volume) = declared.spec.volumes.iter().find(|volume| volume.name == name) else {
            self.problems.push(Problem::invalid(format!("volume {name:?} is not declared in spec.volumes")));
            return None;
        };
        let mine = declared.uid == self.top.uid;
        // Files are written for each container that mounts them; their directories must not meet.
        let files_name = |name: &str| {
            if mine { name.to_owned() } else { format!("{}@{name}", declared.uid) }
        };
        let Some(source) = volume.source() else {
            self.problems.push(Problem::invalid(format!("volume {name:?} names nothing that it is made of")));
            return None;
        };
        let what = match source {
            VolumeSourceKind::HostPath(source) => {
                MountWhat::HostPath { path: source.path.clone(), type_: source.type_ }
            }
            VolumeSourceKind::EmptyDir(source) => {
                let what = MountWhat::EmptyDir {
                    owner: declared.uid.clone(),
                    name: name.to_owned(),
                    medium: source.medium,
                    size: bytes(source.size_limit.as_ref()),
                };
                return Some((what, false, vec![declared.uid.clone()]));
            }
            VolumeSourceKind::Named(source) => {
                let Some(key) = named(&declared.key, Some(&source.name)) else {
                    self.problems.push(Problem::invalid(format!("{:?} is no name of a Volume", source.name)));
                    return None;
                };
                let (what, uid) = self.volume(&key, &declared.source)?;
                return Some((what, source.read_only, vec![uid]));
            }
            VolumeSourceKind::ConfigMap(source) => {
                let files = values::config_map(declared, source, self.desired, &mut self.problems)?;
                MountWhat::Files { name: files_name(name), files: Arc::new(files) }
            }
            VolumeSourceKind::Secret(source) => {
                let files = values::secret(declared, source, self.desired, &mut self.problems)?;
                MountWhat::Files { name: files_name(name), files: Arc::new(files) }
            }
            _ => {
                self.problems.push(Problem::invalid(format!("volume {name:?} is of no kind that is known")));
                return None;
            }
        };
        let read_only = matches!(what, MountWhat::Files { .. });
        Some((what, read_only, Vec::new()))
    }

    /// A Volume that is ready.
    fn volume(&mut self, key: &ObjectKey, of: &SourceId) -> Option<(MountWhat, Uid)> {
        match volume_ready(key, of, self.desired, self.observed) {
            Ok(facts) => {
                let volume = self.desired.volume(key)?;
                let what = match volume_want(key, &volume.spec).medium {
                    StoreMedium::HostPath { path, type_ } => MountWhat::HostPath { path, type_ },
                    _ => MountWhat::Store(facts.id.clone()),
                };
                Some((what, volume.uid.clone()))
            }
            Err(problem) => {
                self.problems.push(problem);
                None
            }
        }
    }

    /// What a container takes from another object.
    fn taken(&mut self, declared: &Declared, from: &VolumesFrom) -> Vec<Found> {
        let kind = match from.kind {
            VolumesFromKind::DataContainer => Kind::DataContainer,
            VolumesFromKind::Container => Kind::Container,
        };
        let Ok(name) = Name::new(from.name.as_str()) else {
            self.problems.push(Problem::invalid(format!("{:?} is no name of a {kind}", from.name)));
            return Vec::new();
        };
        let key = ObjectKey::new(kind, declared.key.namespace.clone(), name);
        let mut found = match from.kind {
            VolumesFromKind::DataContainer => self.data(&key, &declared.source),
            VolumesFromKind::Container => self.container(&key, &declared.source),
        };
        for (mount, _) in &mut found {
            mount.from = Some(key.clone());
            // What takes cannot show more to the host than it may by itself.
            if mount.propagation == MountPropagation::Bidirectional && !declared.spec.privileged() {
                mount.propagation = MountPropagation::HostToContainer;
            }
        }
        found
    }

    fn data(&mut self, key: &ObjectKey, of: &SourceId) -> Vec<Found> {
        let Some(data) = self.desired.data_container(key) else {
            self.problems.push(Problem::missing(key));
            return Vec::new();
        };
        if let Err(problem) = Problem::check(key, data.terminating, &data.source, of) {
            self.problems.push(problem);
            return Vec::new();
        }
        if let Err(why) = data_ready(data, self.desired, self.observed) {
            self.problems.push(Problem::not_ready(key, &why.message));
            return Vec::new();
        }
        let wants = data_wants(data, self.desired);
        let mut found = Vec::new();
        for (volume, want) in data.spec.volumes.iter().zip(wants) {
            let Some(path) = normal(&volume.mount_path) else { continue };
            let mut uses = vec![data.uid.clone()];
            if let Some(volume) =
                named(key, volume.volume.as_deref()).and_then(|key| self.desired.volume(&key))
            {
                uses.push(volume.uid.clone());
            }
            let what = match want.medium {
                StoreMedium::HostPath { path, type_ } => MountWhat::HostPath { path, type_ },
                _ => MountWhat::Store(want.id),
            };
            let mount = ResolvedMount {
                path,
                what,
                read_only: volume.read_only,
                sub_path: None,
                propagation: MountPropagation::None,
                name: volume.volume.clone(),
                from: None,
            };
            found.push((mount, uses));
        }
        found
    }

    fn container(&mut self, key: &ObjectKey, of: &SourceId) -> Vec<Found> {
        if self.stack.contains(key) {
            let mut names: Vec<&str> = self.stack.iter().map(|key| key.name.as_str()).collect();
            names.push(key.name.as_str());
            let message = format!("volumesFrom goes in a circle: Container {}", names.join(" → "));
            self.problems.push(Problem::invalid(message));
            return Vec::new();
        }
        if self.stack.len() >= MAX_DEPTH {
            let message = format!("volumesFrom goes through more than {MAX_DEPTH} containers");
            self.problems.push(Problem::invalid(message));
            return Vec::new();
        }
        let Some(container) = self.desired.get(key).cloned() else {
            self.problems.push(Problem::missing(key));
            return Vec::new();
        };
        if let Err(problem) = Problem::check(key, container.terminating, &container.source, of) {
            self.problems.push(problem);
            return Vec::new();
        }
        if let Some(found) = self.memo.get(key) {
            return found.clone();
        }
        let found = self.mounts(&container);
        self.memo.insert(key.clone(), found.clone());
        found
    }

    /// Anonymous volumes for the paths that a container's image names.
    fn asked_by_image(&mut self, declared: &Declared) -> Vec<Found> {
        let seen = self.observed.containers.get(&declared.uid).map(|seen| &seen.image);
        let (digest, volumes) = match seen {
            Some(image) if image.reference == declared.spec.image => match &image.state {
                ImageState::Present { digest, .. } => (digest, &image.volumes),
                _ => return self.no_image(declared),
            },
            _ => return self.no_image(declared),
        };
        let mut found = Vec::new();
        for path in volumes.iter() {
            let Some(normal) = normal(&if path.starts_with('/') { path.clone() } else { format!("/{path}") })
            else {
                let message = format!(
                    "image {}: its VOLUME {path:?} is no path below /; use another image",
                    declared.spec.image
                );
                self.problems.push(Problem::invalid(message));
                continue;
            };
            let owner = declared.uid.clone();
            let mount = ResolvedMount {
                path: normal.clone(),
                what: MountWhat::Anonymous { owner: owner.clone(), path: normal, image: digest.clone() },
                read_only: false,
                sub_path: None,
                propagation: MountPropagation::None,
                name: None,
                from: None,
            };
            found.push((mount, vec![owner]));
        }
        found
    }

    /// A container's own image is waited for elsewhere; that of another one whose volumes are taken is waited for here.
    fn no_image(&mut self, declared: &Declared) -> Vec<Found> {
        if declared.uid != self.top.uid {
            let why = format!("its image {} is not on this machine", declared.spec.image);
            self.problems.push(Problem::not_ready(&declared.key, &why));
        }
        Vec::new()
    }
}

/// Whether every store of a DataContainer has its data; otherwise why not.
pub(crate) fn data_ready(
    data: &Declared<DataContainerSpec>,
    desired: &Desired,
    observed: &Observed,
) -> Result<(), Trouble> {
    let problems = data_problems(data, desired, observed);
    if let Some(gravest) = problems.iter().map(|problem| problem.kind).max() {
        let phase = if gravest == ProblemKind::Invalid { VolumePhase::Failed } else { VolumePhase::Pending };
        return Err(Trouble { phase, reason: gravest.reason(), message: sentence(&problems) });
    }
    let pending = |reason: &str, message: String| Trouble {
        phase: VolumePhase::Pending,
        reason: Reason::from(reason),
        message,
    };
    let making = || pending("Making", "it is being made".to_owned());
    let Some(seen) = observed.stores.get(&data.uid) else { return Err(making()) };
    let made = match &seen.state {
        StoreState::Made { generation, stores } if *generation == data.generation => Some(stores),
        _ => None,
    };
    if made.is_some_and(|stores| filled(&data_wants(data, desired), stores)) {
        return Ok(());
    }
    if let Some(failure) = &seen.failure {
        let (reason, message) = (failure.reason.as_str().into(), failure.message.clone());
        return Err(Trouble { phase: VolumePhase::Failed, reason, message });
    }
    let (Some(_), Some(image)) = (made, &data.spec.image) else { return Err(making()) };
    if observed.pressure.is_on() && seen.in_flight.is_none() && seen.image.state != ImageState::Pulling {
        return Err(pending(Reason::DiskPressure.as_str(), observed.pressure.message.clone()));
    }
    Err(match &seen.image.state {
        _ if seen.image.reference != *image => pending("Filling", "it is being filled".to_owned()),
        ImageState::Present { .. } => pending("Filling", "it is being filled".to_owned()),
        _ if fill_policy(&data.spec) == PullPolicy::Never => Trouble {
            phase: VolumePhase::Failed,
            reason: Reason::ErrImageNeverPull,
            message: format!("image {image} is not on this machine and imagePullPolicy is Never"),
        },
        ImageState::Failed { reason, message, .. } => pending(reason.as_str(), message.clone()),
        ImageState::Pulling | ImageState::Absent => pending("Filling", format!("pulling image {image}")),
        ImageState::Unknown => {
            pending("Filling", format!("whether image {image} is here cannot be told yet"))
        }
    })
}

/// Why a DataContainer cannot be taken from yet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Trouble {
    pub(crate) phase: VolumePhase,
    pub(crate) reason: Reason,
    pub(crate) message: String,
}

fn kind_name(kind: VolumesFromKind) -> &'static str {
    match kind {
        VolumesFromKind::DataContainer => "DataContainer",
        VolumesFromKind::Container => "Container",
    }
}

/// Every object that a container names.
pub(crate) fn references(declared: &Declared) -> BTreeSet<ObjectKey> {
    let spec: &ContainerSpec = &declared.spec;
    let mut names: Vec<(Kind, &str)> = Vec::new();
    for volume in &spec.volumes {
        names.extend(match volume.source() {
            Some(VolumeSourceKind::Named(source)) => Some((Kind::Volume, source.name.as_str())),
            Some(VolumeSourceKind::ConfigMap(source)) => Some((Kind::ConfigMap, source.name.as_str())),
            Some(VolumeSourceKind::Secret(source)) => Some((Kind::Secret, source.secret_name.as_str())),
            _ => None,
        });
    }
    for from in &spec.volumes_from {
        let kind = match from.kind {
            VolumesFromKind::DataContainer => Kind::DataContainer,
            VolumesFromKind::Container => Kind::Container,
        };
        names.push((kind, from.name.as_str()));
    }
    names.extend(values::references(spec));
    let namespace = &declared.key.namespace;
    names
        .into_iter()
        .filter_map(|(kind, name)| Some(ObjectKey::new(kind, namespace.clone(), Name::new(name).ok()?)))
        .collect()
}

/// Every object whose storage a container has if it runs as declared, by name alone.
pub(crate) fn reachable(declared: &Declared, desired: &Desired) -> BTreeSet<Uid> {
    let mut found = BTreeSet::new();
    let mut todo: Vec<ObjectKey> = references(declared).into_iter().collect();
    while let Some(key) = todo.pop() {
        let (uid, more) = match desired.get_any(&key) {
            Some(AnyDeclared::Container(it)) => (it.uid.clone(), references(&it)),
            Some(AnyDeclared::Data(it)) => (it.uid.clone(), data_references(&it)),
            Some(AnyDeclared::Volume(it)) => (it.uid.clone(), BTreeSet::new()),
            Some(AnyDeclared::Values(_)) | None => continue,
        };
        if uid != declared.uid && found.insert(uid) {
            todo.extend(more);
        }
    }
    found
}

/// Every object that a DataContainer names.
pub(crate) fn data_references(declared: &Declared<DataContainerSpec>) -> BTreeSet<ObjectKey> {
    declared.spec.volumes.iter().filter_map(|volume| named(&declared.key, volume.volume.as_deref())).collect()
}

#[cfg(test)]
mod tests;
