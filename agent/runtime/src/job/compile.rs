//! From a request to a [`Job`]: pure, and strict. A field whose behaviour is not built is refused by its name.

use oci_spec::runtime::{
    Linux, LinuxNamespaceType, LinuxPersonalityDomain, Mount, Process as OciProcess, Spec,
};

use super::request::{RootFs, StartRequest, SubPath, VolumeMount};
use super::{IdMap, Job, MountJob, MountSource, Namespace, NamespaceKind, OomScore, Process, UserJob};
use crate::error::CompileError;
use crate::exec::TerminalSize;
use crate::mounts::options;
use crate::{caps, device, rlimit};

/// overlayfs takes at most 500 layers; a page of `mount(2)` options holds 128 by descriptor.
const MAX_LOWER: usize = 128;
/// No path of the kernel is longer.
const PATH_MAX: usize = 4096;

/// Checks a request and lays out all that the starter does.
///
/// # Errors
/// The first field that is wrong or that this version does not do.
pub fn compile(request: &StartRequest, boot_id: &str) -> Result<Job, CompileError> {
    compile_in(request, boot_id, &Scope::Agent)
}

/// Who asks, and so how much of the specification is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope<'a> {
    /// The agent.
    Agent,
    /// The OCI command line: it brings the steps that the agent does without.
    #[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "the agent's side alone"))]
    CommandLine {
        /// What relative sources are relative to.
        bundle: &'a std::path::Path,
    },
}

pub(crate) fn compile_in(
    request: &StartRequest,
    boot_id: &str,
    scope: &Scope<'_>,
) -> Result<Job, CompileError> {
    let spec = &request.spec;
    let agent = *scope == Scope::Agent;
    refuse_top(spec, agent)?;
    let empty = Linux::default();
    let linux = spec.linux().as_ref().unwrap_or(&empty);
    refuse_linux(linux, agent)?;
    let no_process = OciProcess::default();
    let process = match spec.process() {
        Some(process) => process,
        None if agent => return Err(CompileError::invalid("process", "is missing")),
        None => &no_process,
    };
    refuse_process(process, agent)?;

    let namespaces = namespaces(linux, agent)?;
    let has_new = |kind| namespaces.iter().any(|n: &Namespace| n.kind == kind && n.path.is_none());
    if agent && !has_new(NamespaceKind::Mount) {
        return Err(CompileError::unsupported(
            "linux.namespaces",
            "a new mount namespace is needed; without one the mounts would be made on the host",
        ));
    }
    let uts = namespaces.iter().any(|n| n.kind == NamespaceKind::Uts);
    for (field, set) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        if set.is_some() && !uts {
            return Err(CompileError::invalid(field, "needs a uts namespace, or it would rename the host"));
        }
    }

    let mut mounts = Vec::new();
    for (i, mount) in spec.mounts().iter().flatten().enumerate() {
        mounts.push(compile_mount(&format!("mounts[{i}]"), mount, scope)?);
    }
    for (i, volume) in request.volumes.iter().enumerate() {
        mounts.push(compile_volume(&format!("volumes[{i}]"), volume)?);
    }
    let root_propagation = root_propagation(linux.rootfs_propagation().as_deref())?;
    if let Some(shared) = mounts.iter().find(|m| m.is_shared())
        && root_propagation.is_some_and(|p| p != libc::MS_SHARED)
    {
        let problem = format!("would cut off {}, which asks for rshared", shared.destination);
        return Err(CompileError::invalid("linux.rootfsPropagation", problem));
    }
    check_root("root", &request.root)?;

    let dev = mounts.iter().rev().find(|m| m.destination == "/dev");
    let own_dev = dev.is_some_and(
        |m| matches!(&m.source, MountSource::Fs { fstype, .. } if fstype == "tmpfs" || fstype == "devtmpfs"),
    );
    // Nobody makes nodes in a user namespace: the command line mounts the host's.
    let populate_dev = own_dev && !namespaces.iter().any(|n| n.kind == NamespaceKind::User);
    let asked_devices = linux.devices().as_deref().unwrap_or_default();
    if agent && !populate_dev && !asked_devices.is_empty() {
        return Err(CompileError::unsupported("linux.devices", "they need a tmpfs mounted at /dev"));
    }
    let devices = if populate_dev || (!agent && (own_dev || dev.is_none())) {
        device::compile(asked_devices)?
    } else {
        Vec::new()
    };

    let paths = |field: &str, list: Option<&Vec<String>>| -> Result<Vec<String>, CompileError> {
        list.into_iter().flatten().map(|p| destination(field, p)).collect()
    };
    let sysctls = linux
        .sysctl()
        .iter()
        .flatten()
        .map(|(k, v)| sysctl(k, v, &namespaces, spec.hostname().is_some()))
        .collect::<Result<Vec<_>, _>>()?;

    let mut compiled = compile_process(request, process, linux, spec.process().is_some())?;
    let terminal = terminal_size(process);
    if agent && terminal.is_some() && !compiled.env.iter().any(|e| e.starts_with("TERM=")) {
        // What a program draws for; as Docker and the runtimes of Kubernetes have it.
        compiled.env.push("TERM=xterm".to_owned());
    }

    Ok(Job {
        uid: request.uid.clone(),
        run: request.run,
        run_dir: request.run_dir.clone(),
        log_dir: request.log_dir.clone(),
        shim: request.programs.shim.clone(),
        shim_digest: request.programs.shim_digest.clone(),
        boot_id: boot_id.to_owned(),
        logs: request.logs,
        cgroup: request.cgroup.clone(),
        root_propagation,
        root: request.root.clone(),
        root_readonly: spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly).unwrap_or(false),
        mounts,
        devices,
        populate_dev,
        masked_paths: paths("linux.maskedPaths", linux.masked_paths().as_ref())?,
        readonly_paths: paths("linux.readonlyPaths", linux.readonly_paths().as_ref())?,
        hostname: spec.hostname().clone(),
        domainname: spec.domainname().clone(),
        sysctls,
        loopback: has_new(NamespaceKind::Network),
        process: compiled,
        // The command line's is made by its own steps.
        terminal: terminal.filter(|_| agent),
        stdin: request.stdin,
        seccomp_len: request.seccomp.as_ref().map_or(0, |f| f.bytes().len()),
        namespaces,
        legacy_overlay: request.legacy_overlay,
        outside: request
            .outside
            .as_ref()
            .map(|outside| super::outside::compile(request, outside).map(Box::new))
            .transpose()?,
    })
}

fn refuse_top(spec: &Spec, agent: bool) -> Result<(), CompileError> {
    if let Some(hooks) = spec.hooks()
        && agent
        && serde_json::to_value(hooks).is_ok_and(|v| v.as_object().is_some_and(|o| !o.is_empty()))
    {
        return Err(CompileError::unsupported("hooks", "leave them out"));
    }
    refuse(&[
        ("solaris", spec.solaris().is_some()),
        ("windows", spec.windows().is_some()),
        ("vm", spec.vm().is_some()),
        ("zos", spec.zos().is_some()),
        ("uidMappings", spec.uid_mappings().is_some()),
        ("gidMappings", spec.gid_mappings().is_some()),
    ])
}

fn refuse_linux(linux: &Linux, agent: bool) -> Result<(), CompileError> {
    let some = |list: Option<usize>| list.is_some_and(|n| n > 0);
    refuse(&[
        ("linux.netDevices", some(linux.net_devices().as_ref().map(std::collections::HashMap::len))),
        ("linux.intelRdt", linux.intel_rdt().is_some()),
        ("linux.memoryPolicy", linux.memory_policy().is_some()),
    ])?;
    if !agent {
        return Ok(());
    }
    refuse(&[
        ("linux.uidMappings", some(linux.uid_mappings().as_ref().map(Vec::len))),
        ("linux.gidMappings", some(linux.gid_mappings().as_ref().map(Vec::len))),
        ("linux.mountLabel", some(linux.mount_label().as_ref().map(String::len))),
        ("linux.timeOffsets", some(linux.time_offsets().as_ref().map(std::collections::HashMap::len))),
    ])?;
    if linux.seccomp().is_some() {
        return Err(CompileError::unsupported(
            "linux.seccomp",
            "compile it and give it as the request's filter",
        ));
    }
    Ok(())
}

fn refuse_process(process: &OciProcess, agent: bool) -> Result<(), CompileError> {
    let some = |text: Option<&String>| text.is_some_and(|t| !t.is_empty());
    refuse(&[
        ("process.commandLine", process.command_line().is_some()),
        ("process.user.username", some(process.user().username().as_ref())),
    ])?;
    if !agent {
        return Ok(());
    }
    refuse(&[
        ("process.apparmorProfile", some(process.apparmor_profile().as_ref())),
        ("process.selinuxLabel", some(process.selinux_label().as_ref())),
        ("process.ioPriority", process.io_priority().is_some()),
        ("process.scheduler", process.scheduler().is_some()),
        ("process.execCPUAffinity", process.exec_cpu_affinity().is_some()),
    ])
}

/// The terminal that is asked for, with its size.
pub(crate) fn terminal_size(process: &OciProcess) -> Option<TerminalSize> {
    let size = process.console_size();
    let number = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
    (process.terminal() == Some(true)).then(|| TerminalSize {
        rows: number(size.map_or(0, |s| s.height())),
        columns: number(size.map_or(0, |s| s.width())),
    })
}

fn refuse(fields: &[(&str, bool)]) -> Result<(), CompileError> {
    match fields.iter().find(|(_, set)| *set) {
        Some((field, _)) => Err(CompileError::unsupported(*field, "leave it out")),
        None => Ok(()),
    }
}

fn namespaces(linux: &Linux, agent: bool) -> Result<Vec<Namespace>, CompileError> {
    let mut list: Vec<Namespace> = Vec::new();
    for ns in linux.namespaces().iter().flatten() {
        let kind = match ns.typ() {
            LinuxNamespaceType::Pid => NamespaceKind::Pid,
            LinuxNamespaceType::Mount => NamespaceKind::Mount,
            LinuxNamespaceType::Ipc => NamespaceKind::Ipc,
            LinuxNamespaceType::Uts => NamespaceKind::Uts,
            LinuxNamespaceType::Cgroup => NamespaceKind::Cgroup,
            LinuxNamespaceType::Network => NamespaceKind::Network,
            LinuxNamespaceType::User if !agent => NamespaceKind::User,
            LinuxNamespaceType::Time if !agent => NamespaceKind::Time,
            other @ (LinuxNamespaceType::User | LinuxNamespaceType::Time) => {
                let hint = format!("leave the {other} namespace out");
                return Err(CompileError::unsupported("linux.namespaces", hint));
            }
        };
        if list.iter().any(|n| n.kind == kind) {
            return Err(CompileError::invalid("linux.namespaces", format!("{} is given twice", ns.typ())));
        }
        if let Some(path) = ns.path()
            && !path.is_absolute()
        {
            let problem = format!("the path {} is not absolute", path.display());
            return Err(CompileError::invalid("linux.namespaces", problem));
        }
        list.push(Namespace { kind, path: ns.path().clone() });
    }
    Ok(list)
}

fn root_propagation(value: Option<&str>) -> Result<Option<u64>, CompileError> {
    match value {
        None | Some("" | "private" | "rprivate") => Ok(None),
        Some("slave" | "rslave") => Ok(Some(libc::MS_SLAVE)),
        Some("unbindable" | "runbindable") => Ok(Some(libc::MS_UNBINDABLE)),
        Some("shared" | "rshared") => Ok(Some(libc::MS_SHARED)),
        Some(other) => {
            Err(CompileError::invalid("linux.rootfsPropagation", format!("`{other}` is no propagation")))
        }
    }
}

/// A path inside the root: absolute, normal, not the root itself. What it leads to is decided by descriptor, later.
fn destination(field: &str, path: &str) -> Result<String, CompileError> {
    let invalid = |problem: &str| CompileError::invalid(field, format!("`{path}` {problem}"));
    if path.contains('\0') || path.len() >= PATH_MAX {
        return Err(invalid("is no path"));
    }
    if !path.starts_with('/') {
        return Err(invalid("is not absolute"));
    }
    let parts: Vec<&str> = path.split('/').filter(|c| !c.is_empty() && *c != ".").collect();
    if parts.contains(&"..") {
        return Err(invalid("has `..` in it"));
    }
    if parts.is_empty() {
        return Err(invalid("is the root itself"));
    }
    Ok(format!("/{}", parts.join("/")))
}

fn compile_mount(field: &str, mount: &Mount, scope: &Scope<'_>) -> Result<MountJob, CompileError> {
    let utf8 = |what: &str, path: &std::path::Path| {
        path.to_str()
            .map(str::to_owned)
            .ok_or_else(|| CompileError::invalid(format!("{field}.{what}"), "is not UTF-8"))
    };
    let mut to = utf8("destination", mount.destination())?;
    let parsed = options::parse(field, mount.options().as_deref().unwrap_or_default())?;
    let mut source = mount.source().clone();
    let idmap = match scope {
        Scope::Agent => {
            if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
                let field = format!("{field}.uidMappings");
                return Err(CompileError::unsupported(field, "leave the mappings out"));
            }
            parsed.refuse_special(field)?;
            None
        }
        Scope::CommandLine { bundle } => {
            if !to.starts_with('/') {
                // Deprecated, but still in the specification.
                to.insert(0, '/');
            }
            source = source.map(|s| if is_bind(mount, &parsed) { bundle.join(s) } else { s });
            idmap(field, mount, &parsed)?
        }
    };
    let destination = destination(&format!("{field}.destination"), &to)?;
    let typ = mount.typ().as_deref().unwrap_or("");
    let source = source.as_deref();
    let source = match (typ, parsed.bind) {
        ("bind" | "none" | "", _) | (_, Some(_)) => {
            if typ != "bind" && parsed.bind.is_none() {
                return Err(CompileError::invalid(
                    format!("{field}.type"),
                    "is missing, and no `bind` option is given",
                ));
            }
            let path =
                source.ok_or_else(|| CompileError::invalid(format!("{field}.source"), "is missing"))?;
            if !path.is_absolute() {
                let problem = format!("{} is not absolute", path.display());
                return Err(CompileError::invalid(format!("{field}.source"), problem));
            }
            // As `mount(2)` does it, and so the callers of OCI runtimes expect it, a bind mount has no use for them.
            if let Some(option) = parsed.data.first().filter(|_| *scope == Scope::Agent) {
                let problem = format!("`{option}` is no option of a bind mount");
                return Err(CompileError::invalid(format!("{field}.options"), problem));
            }
            MountSource::Bind { path: path.to_owned(), recursive: parsed.bind.unwrap_or(true) }
        }
        (other, _) if parsed.attrs.propagation == libc::MS_SHARED && *scope == Scope::Agent => {
            return Err(shared_needs_bind(field, &format!("a mount of type {other}")));
        }
        ("cgroup" | "cgroup2", _) => MountSource::Cgroup,
        ("overlay", _) if *scope == Scope::Agent => {
            return Err(CompileError::unsupported(format!("{field}.type"), "give layers as a volume tree"));
        }
        ("overlay", _) => {
            MountSource::Tree { tree: overlay(field, &parsed.data)?, inside: None, sub_path: None }
        }
        (fstype, _) => MountSource::Fs {
            fstype: fstype.to_owned(),
            source: source.map_or_else(|| Ok(fstype.to_owned()), |s| utf8("source", s))?,
            data: parsed.data,
        },
    };
    if parsed.copy_up && !matches!(&source, MountSource::Fs { fstype, .. } if fstype == "tmpfs") {
        return Err(CompileError::invalid(format!("{field}.options"), "`tmpcopyup` is for a tmpfs"));
    }
    if idmap.is_some() && !matches!(source, MountSource::Bind { .. }) {
        return Err(CompileError::unsupported(
            format!("{field}.uidMappings"),
            "only bind mounts are mapped; leave it out",
        ));
    }
    let mut attrs = parsed.attrs;
    if source == MountSource::Cgroup && *scope == Scope::Agent {
        // The agent's containers never write to groups.
        attrs.set |= options::RDONLY;
        attrs.clear &= !options::RDONLY;
    }
    Ok(MountJob { destination, source, attrs, idmap, copy_up: parsed.copy_up })
}

fn is_bind(mount: &Mount, parsed: &options::Parsed) -> bool {
    parsed.bind.is_some() || matches!(mount.typ().as_deref(), Some("bind" | "none" | "") | None)
}

/// `config.md`, "Mounts": mappings of the mount's own, or with `idmap` alone those of the container.
fn idmap(field: &str, mount: &Mount, parsed: &options::Parsed) -> Result<Option<Box<IdMap>>, CompileError> {
    let list = |maps: &Option<Vec<oci_spec::runtime::LinuxIdMapping>>| -> Vec<(u32, u32, u32)> {
        maps.iter().flatten().map(|m| (m.container_id(), m.host_id(), m.size())).collect()
    };
    let (uids, gids) = (list(mount.uid_mappings()), list(mount.gid_mappings()));
    if uids.is_empty() != gids.is_empty() {
        return Err(CompileError::invalid(
            format!("{field}.uidMappings"),
            "uidMappings and gidMappings go together",
        ));
    }
    if uids.is_empty() && parsed.idmap.is_none() {
        return Ok(None);
    }
    Ok(Some(Box::new(IdMap { uids, gids, recursive: parsed.idmap == Some(true) })))
}

/// The options of an overlay as a tree.
fn overlay(field: &str, data: &[String]) -> Result<RootFs, CompileError> {
    let (mut layers, mut upper, mut work, mut options) = (Vec::new(), None, None, Vec::new());
    for option in data {
        match option.split_once('=') {
            Some(("lowerdir", list)) => layers = list.split(':').map(Into::into).collect(),
            Some(("upperdir", dir)) => upper = Some(dir.into()),
            Some(("workdir", dir)) => work = Some(dir.into()),
            _ => options.push(option.clone()),
        }
    }
    let tree = RootFs::Overlay { lower: layers, upper, work, options };
    check_root(&format!("{field}.options"), &tree)?;
    Ok(tree)
}

/// A mount of one of the request's own trees.
fn compile_volume(field: &str, volume: &VolumeMount) -> Result<MountJob, CompileError> {
    check_root(field, &volume.tree)?;
    let parsed = options::parse(field, &volume.options)?;
    parsed.refuse_special(field)?;
    if let Some(option) = parsed.data.first() {
        let problem = format!("`{option}` is no mount attribute");
        return Err(CompileError::invalid(format!("{field}.options"), problem));
    }
    let mut attrs = parsed.attrs;
    if matches!(volume.tree, RootFs::Bind { readonly: true, .. }) {
        // An option of one mount narrows what the tree allows, and never widens it.
        attrs.clear &= !options::RDONLY;
        attrs.rec_clear &= !options::RDONLY;
        attrs.rec_set |= options::RDONLY;
    }
    if matches!(attrs.propagation, libc::MS_SHARED | libc::MS_SLAVE)
        && !matches!(volume.tree, RootFs::Bind { .. })
    {
        return Err(shared_needs_bind(field, "a filesystem that only the container has"));
    }
    let destination = destination(field, &volume.destination)?;
    let relative = |what: &str, path: &str| {
        relative(path).map_err(|problem| {
            CompileError::invalid(
                format!("{field}.{what}"),
                format!("`{path}` {problem} (for {destination})"),
            )
        })
    };
    let inside = volume.inside.as_deref().map(|p| relative("inside", p)).transpose()?.flatten();
    let sub_path = match &volume.sub_path {
        Some(sub) => relative("subPath", &sub.path)?.map(|path| SubPath { path, create: sub.create }),
        None => None,
    };
    let source = MountSource::Tree { tree: volume.tree.clone(), inside, sub_path };
    Ok(MountJob { destination, source, attrs, idmap: None, copy_up: false })
}

fn shared_needs_bind(field: &str, what: &str) -> CompileError {
    CompileError::invalid(
        format!("{field}.options"),
        format!("rshared and rslave need a directory of the host, but this is {what}; use rprivate"),
    )
}

/// A path below a volume, normal; `None` for the volume itself.
fn relative(path: &str) -> Result<Option<String>, &'static str> {
    if path.contains('\0') || path.len() >= PATH_MAX {
        return Err("is no path");
    }
    if path.starts_with('/') {
        return Err("is not relative");
    }
    let parts: Vec<&str> = path.split('/').filter(|c| !c.is_empty() && *c != ".").collect();
    if parts.contains(&"..") {
        return Err("has `..` in it");
    }
    Ok((!parts.is_empty()).then(|| parts.join("/")))
}

fn check_root(field: &str, root: &RootFs) -> Result<(), CompileError> {
    let absolute = |path: &std::path::Path| {
        if path.is_absolute() {
            return Ok(());
        }
        Err(CompileError::invalid(field, format!("{} is not absolute", path.display())))
    };
    let count = |lower: &[std::path::PathBuf]| match lower.len() {
        1..=MAX_LOWER => Ok(()),
        n => {
            let problem = format!("{n} layers, but from 1 to {MAX_LOWER} are possible");
            Err(CompileError::invalid(field, problem))
        }
    };
    match root {
        RootFs::OverlayOn { block, lower, upper, work, .. } => {
            count(lower)?;
            let RootFs::Block { .. } = **block else {
                return Err(CompileError::invalid(field, "the writable directory is on no block device"));
            };
            for path in [upper, work] {
                let plain = |part: std::path::Component<'_>| matches!(part, std::path::Component::Normal(_));
                if path.as_os_str().is_empty() || !path.components().all(plain) {
                    let problem = format!("{} is no path within the filesystem", path.display());
                    return Err(CompileError::invalid(field, problem));
                }
            }
            lower.iter().try_for_each(|p| absolute(p))?;
            check_root(field, block)
        }
        RootFs::Overlay { lower, upper, work, .. } => {
            count(lower)?;
            if upper.is_some() != work.is_some() {
                return Err(CompileError::invalid(field, "the upper and the work directory go together"));
            }
            lower.iter().chain(upper).chain(work).try_for_each(|p| absolute(p))
        }
        RootFs::Bind { path, .. } => absolute(path),
        RootFs::Block { device, fstype, .. } => {
            if fstype.is_empty() {
                return Err(CompileError::invalid(field, "the filesystem's type is missing"));
            }
            absolute(device)
        }
    }
}

/// Kernel settings that belong to one of the container's own namespaces; all others are the host's.
fn sysctl(
    key: &str,
    value: &str,
    namespaces: &[Namespace],
    has_hostname: bool,
) -> Result<(String, String), CompileError> {
    const IPC: [&str; 8] =
        ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];
    let field = format!("linux.sysctl[{key}]");
    // As sysctl(8): the first separator decides which of `.` and `/` separates.
    let path = if key.find('/').is_some_and(|s| key.find('.').is_none_or(|d| s < d)) {
        key.to_owned()
    } else {
        key.chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect()
    };
    if path.split('/').any(|c| matches!(c, "" | "." | "..")) || path.contains('\0') {
        return Err(CompileError::invalid(field, "is no name of a kernel setting"));
    }
    let own = |kind| namespaces.iter().any(|n| n.kind == kind);
    let allowed = match path.split_once('/') {
        Some(("net", _)) => own(NamespaceKind::Network),
        Some(("fs", rest)) if rest.starts_with("mqueue/") => own(NamespaceKind::Ipc),
        Some(("kernel", rest)) if IPC.contains(&rest) => own(NamespaceKind::Ipc),
        Some(("kernel", "domainname")) => own(NamespaceKind::Uts),
        Some(("kernel", "hostname")) => own(NamespaceKind::Uts) && !has_hostname,
        _ => false,
    };
    if !allowed {
        return Err(CompileError::invalid(
            field,
            "is not a setting of one of the container's own namespaces",
        ));
    }
    Ok((path, value.to_owned()))
}

/// `given` is false where there is no process yet, so that there need be no command.
pub(crate) fn compile_process(
    request: &StartRequest,
    process: &OciProcess,
    linux: &Linux,
    given: bool,
) -> Result<Process, CompileError> {
    let args = if given { process.args().clone().unwrap_or_default() } else { Vec::new() };
    if given && args.first().is_none_or(String::is_empty) {
        return Err(CompileError::invalid(
            "process.args",
            "there is no command; give one, or use an image that has one",
        ));
    }
    let env = process.env().clone().unwrap_or_default();
    for (field, list) in [("process.args", &args), ("process.env", &env)] {
        if list.iter().any(|s| s.contains('\0')) {
            return Err(CompileError::invalid(field, "holds a zero byte"));
        }
    }
    if let Some(bad) = env.iter().find(|e| !e.contains('=') || e.starts_with('=')) {
        let name = bad.split('=').next().unwrap_or_default();
        return Err(CompileError::invalid("process.env", format!("`{name}` is not of the form NAME=value")));
    }
    let cwd = process.cwd().to_str().ok_or_else(|| CompileError::invalid("process.cwd", "is not UTF-8"))?;
    if !cwd.starts_with('/') || cwd.contains('\0') {
        return Err(CompileError::invalid("process.cwd", format!("`{cwd}` is not an absolute path")));
    }
    let user = process.user();
    let oom = |value, required| {
        if (-1000..=1000).contains(&value) {
            return Ok(OomScore { value, required });
        }
        Err(CompileError::invalid("process.oomScoreAdj", format!("{value} is not within -1000 and 1000")))
    };
    let oom_score_adj = match (process.oom_score_adj(), request.default_oom_score_adj) {
        (Some(value), _) => Some(oom(value, true)?),
        (None, Some(value)) => Some(oom(value, false)?),
        (None, None) => None,
    };
    let personality = match linux.personality() {
        None => None,
        Some(p) if p.flags().as_ref().is_some_and(|f| !f.is_empty()) => {
            return Err(CompileError::unsupported("linux.personality.flags", "leave them out"));
        }
        Some(p) => match p.domain() {
            LinuxPersonalityDomain::PerLinux => Some(0),
            LinuxPersonalityDomain::PerLinux32 => Some(8),
        },
    };
    Ok(Process {
        args,
        env,
        cwd: cwd.to_owned(),
        user: UserJob {
            lookup: request.user.clone().filter(|u| !u.is_empty()),
            uid: user.uid(),
            gid: user.gid(),
            additional_gids: user.additional_gids().clone().unwrap_or_default(),
        },
        umask: user.umask().unwrap_or(0o022) & 0o777,
        caps: caps::compile(process.capabilities().as_ref())?,
        rlimits: rlimit::compile(&request.default_rlimits, process.rlimits().as_deref().unwrap_or_default())?,
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        oom_score_adj,
        personality,
    })
}
