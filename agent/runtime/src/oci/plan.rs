//! From a bundle to all that `create` does: the job of the first process, and what the agent's containers do without.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::{Hook, LinuxNamespaceType, Spec};

use super::error::{OciError, Result};
use super::idmap::{self, Map};
use super::process::{self, Attributes};
use super::{hooks, state};
use crate::cgroup::Limits;
use crate::error::CompileError;
use crate::job::{
    self, CgroupJoin, Job, LogLimits, MountSource, NamespaceKind, Programs, RootFs, Scope, StartRequest,
};
use crate::seccomp::spec::SpecFilter;
use crate::start::terminal::TerminalSize;

/// What callers choose beside the configuration.
#[derive(Debug, Clone, Default)]
pub(super) struct Options {
    pub(super) id: String,
    pub(super) bundle: PathBuf,
    pub(super) preserve_fds: u32,
    pub(super) no_new_keyring: bool,
}

/// Everything that `create` does, checked.
pub(super) struct Plan {
    pub(super) spec: Spec,
    pub(super) job: Job,
    pub(super) bundle: PathBuf,
    pub(super) rootfs: PathBuf,
    pub(super) cgroup: PathBuf,
    pub(super) limits: Limits,
    pub(super) filter: Option<SpecFilter>,
    pub(super) attributes: Attributes,
    pub(super) user: UserNamespace,
    /// `(monotonic or boottime, seconds, nanoseconds)` of a new time namespace.
    pub(super) time: Option<Vec<(String, i64, u32)>>,
    /// The container has a mount namespace of its own.
    pub(super) own_mounts: bool,
    pub(super) terminal: Option<TerminalSize>,
    pub(super) hooks: Hooks,
    pub(super) keyring: bool,
    pub(super) preserve_fds: u32,
}

/// The user namespace of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum UserNamespace {
    /// That of the runtime.
    None,
    /// A new one.
    New { uids: Vec<Map>, gids: Vec<Map> },
    /// An existing one.
    Join(PathBuf),
}

/// The hooks, each kind in its order.
#[derive(Debug, Clone, Default)]
pub(super) struct Hooks {
    pub(super) prestart: Vec<Hook>,
    pub(super) create_runtime: Vec<Hook>,
    pub(super) create_container: Vec<Hook>,
    pub(super) start_container: Vec<Hook>,
    pub(super) poststart: Vec<Hook>,
    pub(super) poststop: Vec<Hook>,
}

impl Hooks {
    pub(super) fn of(spec: &Spec) -> Result<Self> {
        let Some(hooks) = spec.hooks() else { return Ok(Self::default()) };
        let list = |kind: &str, list: &Option<Vec<Hook>>| -> Result<Vec<Hook>> {
            let list = list.clone().unwrap_or_default();
            hooks::check(kind, &list)?;
            Ok(list)
        };
        #[allow(deprecated, reason = "callers still use it")]
        let prestart = list("prestart", hooks.prestart())?;
        Ok(Self {
            prestart,
            create_runtime: list("createRuntime", hooks.create_runtime())?,
            create_container: list("createContainer", hooks.create_container())?,
            start_container: list("startContainer", hooks.start_container())?,
            poststart: list("poststart", hooks.poststart())?,
            poststop: list("poststop", hooks.poststop())?,
        })
    }
}

/// Reads and checks a bundle.
pub(super) fn make(options: &Options, boot_id: &str) -> Result<Plan> {
    let bundle = options.bundle.canonicalize().map_err(|e| OciError::io(options.bundle.display(), e))?;
    let mut spec: Spec = state::read_json(&bundle.join("config.json"))?;
    check_version(spec.version())?;
    let root = spec.root().as_ref().ok_or_else(|| CompileError::invalid("root", "is missing"))?;
    let rootfs = bundle.join(root.path());
    let rootfs =
        rootfs.canonicalize().map_err(|e| OciError::io(format!("root.path {}", rootfs.display()), e))?;
    if !rootfs.is_dir() || rootfs == Path::new("/") {
        let problem = format!("{} is no directory below the root of this machine", rootfs.display());
        return Err(CompileError::invalid("root.path", problem).into());
    }
    drop_own_namespaces(&mut spec)?;

    let empty = oci_spec::runtime::Linux::default();
    let linux = spec.linux().as_ref().unwrap_or(&empty);
    let filter = linux.seccomp().as_ref().map(crate::seccomp::spec::compile).transpose()?;
    let attributes = spec.process().as_ref().map(Attributes::of).transpose()?.unwrap_or_default();
    let limits = match linux.resources() {
        Some(resources) if spec.linux().is_some() => Limits::from_oci_whole(resources)?,
        _ => Limits::default(),
    };
    let user = user_namespace(&spec)?;
    let time = time_offsets(&spec)?;
    let cgroup = cgroup_path(linux.cgroups_path().as_deref(), &options.id)?;
    let own_mounts = linux
        .namespaces()
        .iter()
        .flatten()
        .any(|n| n.typ() == LinuxNamespaceType::Mount && n.path().is_none());

    let request = StartRequest {
        run_dir: rootfs.clone(),
        root: RootFs::Bind { path: rootfs.clone(), readonly: false },
        seccomp: filter.as_ref().map(|f| f.filter.clone()),
        ..request(&options.id, spec.clone())
    };
    let mut job = job::compile_in(&request, boot_id, &Scope::CommandLine { bundle: &bundle })?;
    label_mounts(&mut job, linux.mount_label().as_deref())?;
    let terminal = spec.process().as_ref().and_then(job::terminal_size);
    let hooks = Hooks::of(&spec)?;
    Ok(Plan {
        job,
        bundle,
        rootfs,
        cgroup,
        limits,
        filter,
        attributes,
        user,
        time,
        own_mounts,
        terminal,
        hooks,
        keyring: !options.no_new_keyring,
        preserve_fds: options.preserve_fds,
        spec,
    })
}

/// A request with nothing but the specification; what it says of shim and logs is for the agent alone.
pub(super) fn request(id: &str, spec: Spec) -> StartRequest {
    StartRequest {
        uid: id.to_owned(),
        name: id.to_owned(),
        run: 1,
        run_dir: PathBuf::new(),
        log_dir: PathBuf::new(),
        spec,
        root: RootFs::Bind { path: "/".into(), readonly: false },
        volumes: Vec::new(),
        user: None,
        cgroup: CgroupJoin::default(),
        seccomp: None,
        default_rlimits: Vec::new(),
        default_oom_score_adj: None,
        programs: Programs { starter: PathBuf::new(), shim: PathBuf::new(), shim_digest: String::new() },
        logs: LogLimits::default(),
        deadline: Duration::ZERO,
        stdin: false,
        legacy_overlay: false,
        outside: None,
    }
}

/// `config.md`, "Specification version": semantic versioning, so any minor version of the first major one.
fn check_version(version: &str) -> Result<()> {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<Option<u32>> = core.split('.').map(|n| n.parse().ok()).collect();
    match numbers[..] {
        [Some(1), Some(_), Some(_)] => Ok(()),
        [Some(_), Some(_), Some(_)] => {
            Err(CompileError::unsupported("ociVersion", format!("`{version}` is not of version 1")).into())
        }
        _ => Err(CompileError::invalid("ociVersion", format!("`{version}` is no version")).into()),
    }
}

/// Joining the namespace that one is in is no namespace of the container's own: nothing may be changed in it.
fn drop_own_namespaces(spec: &mut Spec) -> Result<()> {
    let Some(linux) = spec.linux_mut() else { return Ok(()) };
    let Some(list) = linux.namespaces_mut() else { return Ok(()) };
    let mut kept = Vec::with_capacity(list.len());
    for ns in list.drain(..) {
        let Some(path) = ns.path() else {
            kept.push(ns);
            continue;
        };
        let field = || format!("linux.namespaces: {}", path.display());
        let there = std::fs::metadata(path).map_err(|e| OciError::io(field(), e))?;
        let name = namespace_file(ns.typ());
        let kind =
            std::fs::read_link(format!("/proc/self/ns/{name}")).map_err(|e| OciError::io(field(), e))?;
        let own = std::fs::metadata(format!("/proc/self/ns/{name}")).map_err(|e| OciError::io(field(), e))?;
        check_kind(path, name, &kind)?;
        if (there.dev(), there.ino()) != (own.dev(), own.ino()) {
            kept.push(ns);
        }
    }
    *list = kept;
    Ok(())
}

/// A file of another kind of namespace is refused here, where it can be said.
fn check_kind(path: &Path, name: &str, own: &Path) -> Result<()> {
    let fd = std::fs::File::open(path).map_err(|e| OciError::io(path.display(), e))?;
    let link =
        std::fs::read_link(crate::mounts::fd_path(&fd)).map_err(|e| OciError::io(path.display(), e))?;
    let kind = |link: &Path| link.to_string_lossy().split(':').next().unwrap_or_default().to_owned();
    // A namespace that is mounted at a path is shown by that path; then the kernel decides.
    if link.to_string_lossy().contains(":[") && kind(&link) != kind(own) {
        let problem = format!("{} is no {name} namespace", path.display());
        return Err(CompileError::invalid("linux.namespaces", problem).into());
    }
    Ok(())
}

pub(super) fn namespace_file(typ: LinuxNamespaceType) -> &'static str {
    match typ {
        LinuxNamespaceType::Mount => "mnt",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Network => "net",
        LinuxNamespaceType::Time => "time",
    }
}

fn user_namespace(spec: &Spec) -> Result<UserNamespace> {
    let Some(linux) = spec.linux() else { return Ok(UserNamespace::None) };
    let uids = idmap::list("linux.uidMappings", linux.uid_mappings().as_ref())?;
    let gids = idmap::list("linux.gidMappings", linux.gid_mappings().as_ref())?;
    let namespace = linux.namespaces().iter().flatten().find(|n| n.typ() == LinuxNamespaceType::User);
    match namespace.map(|n| n.path().clone()) {
        None if uids.is_empty() && gids.is_empty() => Ok(UserNamespace::None),
        None => Err(CompileError::invalid("linux.uidMappings", "needs a user namespace").into()),
        Some(Some(path)) => Ok(UserNamespace::Join(path)),
        Some(None) if uids.is_empty() || gids.is_empty() => {
            Err(CompileError::invalid("linux.uidMappings", "and gidMappings go with a user namespace").into())
        }
        Some(None) => Ok(UserNamespace::New { uids, gids }),
    }
}

fn time_offsets(spec: &Spec) -> Result<Option<Vec<(String, i64, u32)>>> {
    let Some(linux) = spec.linux() else { return Ok(None) };
    let new = linux
        .namespaces()
        .iter()
        .flatten()
        .any(|n| n.typ() == LinuxNamespaceType::Time && n.path().is_none());
    let mut offsets = Vec::new();
    for (clock, offset) in linux.time_offsets().iter().flatten() {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            let problem = format!("`{clock}` is neither monotonic nor boottime");
            return Err(CompileError::invalid("linux.timeOffsets", problem).into());
        }
        offsets.push((clock.clone(), offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0)));
    }
    offsets.sort();
    if !new && !offsets.is_empty() {
        return Err(CompileError::invalid("linux.timeOffsets", "needs a new time namespace").into());
    }
    Ok(new.then_some(offsets))
}

/// An absolute path is one under each hierarchy's top, and so is a relative one: nothing else is the same place on both
/// versions. Without one, the container's id.
fn cgroup_path(path: Option<&Path>, id: &str) -> Result<PathBuf> {
    let Some(path) = path.filter(|p| !p.as_os_str().is_empty()) else {
        return Ok(PathBuf::from("/").join(id));
    };
    let normal = |c| !matches!(c, std::path::Component::ParentDir | std::path::Component::Prefix(_));
    let named = path.components().any(|c| matches!(c, std::path::Component::Normal(_)));
    if !path.components().all(normal) || !named {
        let problem = format!("`{}` has `..` in it, or names no group", path.display());
        return Err(CompileError::invalid("linux.cgroupsPath", problem).into());
    }
    if path.to_string_lossy().contains(':') && !path.to_string_lossy().contains('/') {
        let hint = "`slice:prefix:name` is for --systemd-cgroup; give a path";
        return Err(CompileError::unsupported("linux.cgroupsPath", hint).into());
    }
    Ok(Path::new("/").join(path))
}

/// `linux.mountLabel`: the context of filesystems that the container has for itself.
fn label_mounts(job: &mut Job, label: Option<&str>) -> Result<()> {
    let Some(label) = label.filter(|l| !l.is_empty()) else { return Ok(()) };
    if !process::has_module("selinux") {
        return Err(CompileError::invalid(
            "linux.mountLabel",
            format!("asks for `{label}`, but this kernel runs without SELinux; leave it out"),
        )
        .into());
    }
    for mount in &mut job.mounts {
        if let MountSource::Fs { fstype, data, .. } = &mut mount.source
            && matches!(fstype.as_str(), "tmpfs" | "devpts" | "mqueue")
        {
            data.push(format!("context={label}"));
        }
    }
    Ok(())
}

impl Plan {
    /// The kinds of the container's new or joined namespaces.
    pub(super) fn has(&self, kind: NamespaceKind) -> bool {
        self.job.namespaces.iter().any(|n| n.kind == kind)
    }
}
