//! `create`, and the first half of `run`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

use super::error::{OciError, Result};
use super::log::Log;
use super::plan::{self, Options, Plan, UserNamespace};
use super::state::{self, Container, State, Store};
use super::steps::{GO, HOOKS, Init, READY, Told, process_state};
use super::{hooks, idmap, io};
use crate::cgroup::Cgroups;
use crate::error::{CompileError, Failure, FailureKind};
use crate::job::{Job, NamespaceKind};
use crate::mounts;
use crate::proc;
use crate::start::sys::{self, Cloned, SignalMask};
use crate::start::{enter, init, starter};

/// What a caller gives beside the configuration.
#[derive(Debug, Clone, Default)]
pub(super) struct Request {
    pub(super) options: Options,
    pub(super) console_socket: Option<PathBuf>,
    pub(super) pid_file: Option<PathBuf>,
}

/// A container whose first process waits for `start`.
pub(super) struct Created {
    pub(super) container: Container,
    /// Our child.
    pub(super) pidfd: OwnedFd,
}

/// Creates a container. Nothing of it is left after an error.
pub(super) fn create(
    store: &Store,
    request: &Request,
    console: Option<OwnedFd>,
    log: &Log,
) -> Result<Created> {
    let boot_id = proc::boot_id()?;
    let mut plan = plan::make(&request.options, &boot_id)?;
    let console = match (&plan.terminal, &request.console_socket, console) {
        (Some(_), _, Some(ours)) => Some(ours),
        (Some(_), Some(path), None) => Some(io::connect(path)?),
        (Some(_), None, None) => {
            return Err(OciError::Usage("process.terminal needs --console-socket".to_owned()));
        }
        (None, Some(_), _) => {
            return Err(OciError::Usage("--console-socket needs process.terminal".to_owned()));
        }
        (None, None, _) => None,
    };
    // Before anything is ours, and so would be taken down after a failure.
    if store.find(&request.options.id).is_err() {
        refuse_taken(&plan.cgroup)?;
    }
    let container = store.create(&request.options.id)?;
    let mut state = first_state(&plan, &container, boot_id);
    let result = (|| {
        container.write_config(&plan.spec)?;
        container.write_state(&state)?;
        start_first(&mut plan, &container, &mut state, console, log)
    })();
    let pidfd = match result {
        Ok(pidfd) => pidfd,
        Err(e) => {
            undo(&container, &state, &plan, log);
            return Err(e);
        }
    };
    let done = (|| {
        if let Some(path) = &request.pid_file {
            write_pid(path, state.init.map_or(0, |(pid, _)| pid))?;
        }
        state.ready = true;
        container.write_state(&state)
    })();
    if let Err(e) = done {
        starter::kill(&pidfd);
        undo(&container, &state, &plan, log);
        return Err(e);
    }
    Ok(Created { container, pidfd })
}

fn first_state(plan: &Plan, container: &Container, boot_id: String) -> State {
    State {
        version: 1,
        id: container.id(),
        oci_version: state::OCI_VERSION.to_owned(),
        bundle: plan.bundle.clone(),
        rootfs: plan.rootfs.clone(),
        boot_id,
        created: starter::rfc3339_now(),
        annotations: plan.spec.annotations().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(),
        cgroup: plan.cgroup.clone(),
        init: None,
        ready: false,
        owner: rustix::process::geteuid().as_raw(),
        mounted: !plan.own_mounts && !plan.has(NamespaceKind::Mount),
    }
}

/// After a failure: what is left of it goes, in the order in which it would go with `delete`.
fn undo(container: &Container, state: &State, plan: &Plan, log: &Log) {
    if let Err(e) = super::operate::tear_down(container, state) {
        log.error(&e);
    }
    let json = state::state_json(state, "stopped", 0).to_string();
    for failure in hooks::run_all("poststop", &plan.hooks.poststop, json.as_bytes()) {
        log.warn(&failure.to_string());
    }
}

/// Groups, sources, the first process, and all that it has to hear and tell.
fn start_first(
    plan: &mut Plan,
    container: &Container,
    state: &mut State,
    console: Option<OwnedFd>,
    log: &Log,
) -> Result<OwnedFd> {
    plan.job.cgroup = state::groups(state)?.create("c", &plan.limits)?;
    let user = match &plan.user {
        UserNamespace::None => None,
        UserNamespace::New { uids, gids } => Some(idmap::user_namespace(uids, gids)?),
        UserNamespace::Join(path) => Some(open(path, OFlags::RDONLY)?),
    };
    let root = mounts::bind("root", &plan.rootfs, true)?;
    cut_off(plan, &root)?;
    let sources = mounts::open_all(&plan.job)?;
    map_ids(&plan.job, &sources, user.as_ref())?;
    let notify = match plan.filter.as_ref().filter(|f| f.listens()) {
        Some(_) => listener_path(plan).map(|p| io::connect(&p)).transpose()?,
        None => None,
    };
    let locked = state::created_lock(container)?;
    let listener = starter::listen(&container.dir)?;
    let (control, inner) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|e| OciError::io("making a socket", e))?;
    let group = plan.job.cgroup.v2.as_deref().map(|dir| open(dir, OFlags::RDONLY)).transpose()?;

    // To be put back at once: hooks are children of this process too.
    let own_pids = open(Path::new("/proc/self/ns/pid"), OFlags::RDONLY)?;
    let (flags, join) = starter::namespaces(&plan.job)?;
    let flags = flags & !(crate::job::CLONE_NEWTIME | libc::CLONE_NEWUSER);
    let first_flags = if user.is_some() { 0 } else { flags };
    let cloned = sys::clone3(first_flags, libc::SIGCHLD, group.as_ref().map(AsFd::as_fd))
        .map_err(|e| Failure::errno("namespaces", "clone3", e))?;
    let (pid, pidfd) = match cloned {
        Cloned::Parent(pid, pidfd) => (pid, pidfd),
        Cloned::Child => {
            drop(control);
            container.close_in_clone();
            let _ = sys::signal_mask(SignalMask::Empty);
            sys::default_signals();
            let init = Init {
                plan,
                join,
                root: Some(root),
                sources,
                control: inner,
                listener,
                connection: None,
                console_socket: console,
                notify_socket: notify,
                slave: None,
                told: Told::default(),
            };
            let _held = locked;
            child(init, state, user.as_ref(), flags)
        }
    };
    let restored = rustix::thread::move_into_link_name_space(own_pids.as_fd(), None);
    drop((inner, join, root, sources, listener, locked, console, notify));
    let result = (|| {
        restored.map_err(|e| OciError::io("going back to the own pid namespace", e))?;
        let (pid, pidfd) = if user.is_some() {
            second(&control, &pidfd)?
        } else {
            (pid, pidfd.try_clone().map_err(|e| OciError::io("the first process", e))?)
        };
        match follow(plan, container, state, pid, &control, log) {
            Ok(()) => Ok(pidfd),
            Err(e) => {
                starter::kill(&pidfd);
                Err(e)
            }
        }
    })();
    if result.is_err() {
        starter::kill(&pidfd);
    }
    result
}

/// The process in the runtime's own user namespace ends, and has told who came after it.
fn second(control: &OwnedFd, first: &OwnedFd) -> Result<(u32, OwnedFd)> {
    let (bytes, pidfd) =
        io::receive(control).map_err(|e| OciError::io("hearing from the first process", e))?;
    let _ = rustix::process::waitid(
        rustix::process::WaitId::PidFd(first.as_fd()),
        rustix::process::WaitIdOptions::EXITED,
    );
    match (<[u8; 4]>::try_from(&bytes[..]), pidfd) {
        (Ok(number), Some(pidfd)) => Ok((u32::from_ne_bytes(number), pidfd)),
        _ => Err(failure_of(&bytes).into()),
    }
}

/// From the pid to the word that all is ready.
fn follow(
    plan: &Plan,
    container: &Container,
    state: &mut State,
    pid: u32,
    control: &OwnedFd,
    log: &Log,
) -> Result<()> {
    let start = proc::start_time(pid)?.ok_or_else(|| {
        OciError::from(Failure::new("create", FailureKind::Other, "the first process is gone"))
    })?;
    state.init = Some((pid, start));
    container.write_state(state)?;
    let go = || {
        rustix::net::send(control, GO, SendFlags::NOSIGNAL)
            .map(drop)
            .map_err(|e| OciError::io("telling the first process to go on", e))
    };
    // One that has already failed says so by its message.
    let _ = go();
    loop {
        let bytes = match io::receive(control) {
            Ok((bytes, _)) => bytes,
            // It ended with our word unread. This error comes before what it had said.
            Err(rustix::io::Errno::CONNRESET) => continue,
            Err(e) => return Err(OciError::io("hearing from the first process", e)),
        };
        match &bytes[..] {
            READY => return Ok(()),
            HOOKS => {
                log.debug("running prestart and createRuntime hooks");
                // The state is the one that the specification of their time had.
                let json = |status| state::state_json(state, status, pid).to_string();
                hooks::run("prestart", &plan.hooks.prestart, json("created").as_bytes())?;
                hooks::run("createRuntime", &plan.hooks.create_runtime, json("creating").as_bytes())?;
                go()?;
            }
            other => return Err(failure_of(other).into()),
        }
    }
}

pub(super) fn failure_of(bytes: &[u8]) -> Failure {
    if bytes.is_empty() {
        let message =
            "the first process was killed while it was set up; look for a memory limit that is too low";
        return Failure::new("create", FailureKind::Other, message);
    }
    serde_json::from_slice(bytes).unwrap_or_else(|e| {
        Failure::new("create", FailureKind::Other, format!("the first process failed unreadably: {e}"))
    })
}

/// The clone, in the end the container's first process.
fn child(mut init: Init<'_>, state: &State, user: Option<&OwnedFd>, flags: i32) -> ! {
    if let Some(user) = user {
        match descend(&init, user, flags) {
            Ok(true) => {}
            Ok(false) => sys::exit_now(0),
            Err(failure) => {
                init.tell(&failure);
                sys::exit_now(255);
            }
        }
    }
    let pid = own_pid();
    let json = |status: &str| state::state_json(state, status, pid);
    init.told = Told {
        creating: json("creating").to_string().into_bytes(),
        created: json("created").to_string().into_bytes(),
        listener: process_state(&json("created"), pid, &listener_metadata(init.plan)),
    };
    let mut job = init.plan.job.clone();
    if user.is_some() {
        // Done before, with the rights of the runtime.
        job.cgroup.v1.clear();
        job.process.oom_score_adj = None;
        init.join.clear();
    }
    let filter = init.plan.filter.as_ref().map_or_else(Vec::new, |f| f.filter.bytes().to_vec());
    let failure = init::run(&job, &filter, &mut init);
    init.tell(&failure);
    sys::exit_now(255)
}

/// Into the user namespace, and there to a clone with all the other namespaces: they belong to it then. `true` in the clone.
fn descend(init: &Init<'_>, user: &OwnedFd, flags: i32) -> std::result::Result<bool, Failure> {
    let job = &init.plan.job;
    init::set_oom_score(&job.process)?;
    for group in &job.cgroup.v1 {
        crate::start::write_existing(&group.dir.join("tasks"), "0")
            .map_err(|e| Failure::errno("cgroup", format_args!("joining {}", group.dir.display()), e))?;
    }
    enter_user(user)?;
    for (kind, fd) in init.join.iter().filter(|(kind, _)| *kind != NamespaceKind::User) {
        rustix::thread::move_into_link_name_space(fd.as_fd(), None)
            .map_err(|e| Failure::errno("namespaces", format_args!("joining the {kind:?} namespace"), e))?;
    }
    enter::become_clone(&init.control, flags)
}

/// Joins a user namespace as its root.
pub(super) fn enter_user(user: &OwnedFd) -> std::result::Result<(), Failure> {
    rustix::thread::move_into_link_name_space(user.as_fd(), None)
        .map_err(|e| Failure::errno("user namespace", "joining it", e))?;
    enter::become_root()
}

/// A group that others are in is not taken over: what is done to the container would be done to them.
fn refuse_taken(cgroup: &Path) -> Result<()> {
    let groups = Cgroups::at(cgroup)?;
    if groups.exists("c") && groups.populated("c") != Some(false) {
        return Err(OciError::Usage(format!(
            "cgroup {} has processes already; give another linux.cgroupsPath",
            cgroup.display()
        )));
    }
    Ok(())
}

/// The root may hear of the host's mounts, as `linux.rootfsPropagation` has it, but tells the host of none: those of the
/// container would appear in the bundle. A shared root is made so for the container's own, once it is finished.
fn cut_off(plan: &Plan, root: &OwnedFd) -> Result<()> {
    let propagation = match plan.job.root_propagation {
        Some(libc::MS_SLAVE) => libc::MS_SLAVE,
        _ => libc::MS_PRIVATE,
    };
    mounts::set_attrs("root", root.as_fd(), true, 0, 0, propagation)?;
    Ok(())
}

/// Mounts with ids of their own, or those of the container's user namespace.
fn map_ids(job: &Job, sources: &[Option<OwnedFd>], user: Option<&OwnedFd>) -> Result<()> {
    for (mount, source) in job.mounts.iter().zip(sources) {
        let (Some(map), Some(tree)) = (&mount.idmap, source) else { continue };
        let stage = format!("mount {}", mount.destination);
        let made;
        let namespace = if map.uids.is_empty() {
            user.ok_or_else(|| {
                CompileError::invalid(
                    "mounts",
                    format!("{}: idmap without mappings needs a user namespace", mount.destination),
                )
            })?
        } else {
            made = idmap::user_namespace(&map.uids, &map.gids)?;
            &made
        };
        idmap::apply(&stage, tree.as_fd(), namespace.as_fd(), map.recursive)?;
    }
    Ok(())
}

pub(super) fn open(path: &Path, flags: OFlags) -> Result<OwnedFd> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| OciError::io(path.display(), e))
}

fn own_pid() -> u32 {
    // The pid in the runtime's namespace, which the mounted procfs still shows; `getpid` knows the container's only.
    std::fs::read_link("/proc/self").ok().and_then(|p| p.to_str()?.parse().ok()).unwrap_or(0)
}

fn listener_path(plan: &Plan) -> Option<PathBuf> {
    plan.spec.linux().as_ref()?.seccomp().as_ref()?.listener_path().clone()
}

fn listener_metadata(plan: &Plan) -> String {
    let metadata = plan.spec.linux().as_ref().and_then(|l| l.seccomp().as_ref()?.listener_metadata().clone());
    metadata.unwrap_or_default()
}

/// Written whole, as whoever waits for it reads it at once.
pub(super) fn write_pid(path: &Path, pid: u32) -> Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}", std::process::id()));
    let new = PathBuf::from(new);
    std::fs::write(&new, pid.to_string())
        .and_then(|()| std::fs::rename(&new, path))
        .map_err(|e| OciError::io(format!("the pid file {}", path.display()), e))
}
