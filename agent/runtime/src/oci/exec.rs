//! `exec`: one more process in a container, with the container's whole confinement.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use oci_spec::runtime::{Process as OciProcess, Spec};
use rustix::fs::OFlags;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

use super::console;
use super::create::{self, failure_of};
use super::error::{OciError, Result};
use super::io;
use super::plan;
use super::process::Attributes;
use super::state::{self, Container, State, Status};
use super::steps::{self, process_state};
use crate::error::{CompileError, Failure};
use crate::job::{self, CgroupJoin, Process};
use crate::seccomp::spec::SpecFilter;
use crate::start::enter::{self, Entry, Guest};
use crate::start::init::Finish;
use crate::start::pass;
use crate::start::starter;
use crate::start::sys::{self, Cloned, SignalMask};
use crate::start::terminal::{self, TerminalSize};
use crate::user::Identity;

/// What is asked for; what is not comes from the container's own process.
#[derive(Debug, Clone, Default)]
pub(super) struct Request {
    /// A file with a whole `process`; then nothing else is looked at.
    pub(super) process: Option<PathBuf>,
    pub(super) args: Vec<String>,
    pub(super) tty: bool,
    /// `uid[:gid]`.
    pub(super) user: Option<String>,
    pub(super) additional_gids: Vec<u32>,
    pub(super) cwd: Option<PathBuf>,
    pub(super) env: Vec<String>,
    pub(super) caps: Vec<String>,
    pub(super) no_new_privs: bool,
    pub(super) apparmor: Option<String>,
    pub(super) process_label: Option<String>,
    pub(super) pid_file: Option<PathBuf>,
    pub(super) console_socket: Option<PathBuf>,
    pub(super) preserve_fds: u32,
    pub(super) ignore_paused: bool,
}

/// The process is executing; our child.
pub(super) struct Executing {
    pub(super) pidfd: OwnedFd,
}

/// All that the clone needs.
struct Order {
    process: Process,
    filter: Option<SpecFilter>,
    attributes: Attributes,
    terminal: Option<TerminalSize>,
    preserve_fds: u32,
    groups: CgroupJoin,
    /// Flags of the namespaces that the container does not share with us.
    namespaces: i32,
}

/// Starts a process. `console` is our own end of a terminal's socket, for a caller in the foreground.
pub(super) fn exec(container: &Container, request: &Request, console: Option<OwnedFd>) -> Result<Executing> {
    let state = container.state()?;
    let status = container.status(&state)?;
    match status {
        Status::Created | Status::Running => {}
        Status::Paused if request.ignore_paused => {}
        Status::Paused | Status::Creating | Status::Stopped => {
            let problem = format!("cannot exec in container `{}`, which is {}", state.id, status.as_str());
            return Err(OciError::Usage(problem));
        }
    }
    let Some((init_pid, init_fd)) = container.init(&state)? else {
        return Err(OciError::Usage(format!("container not running: `{}` is stopped", state.id)));
    };
    let spec = container.config()?;
    let process = process(&spec, request)?;
    let console = match (process.terminal() == Some(true), &request.console_socket, console) {
        (true, _, Some(ours)) => Some(ours),
        (true, Some(path), None) => Some(io::connect(path)?),
        (true, None, None) => return Err(OciError::Usage("a terminal needs --console-socket".to_owned())),
        (false, Some(_), _) => {
            return Err(OciError::Usage("--console-socket needs a terminal (--tty)".to_owned()));
        }
        (false, None, _) => None,
    };
    let order = order(&state, spec, &process, request, init_pid)?;
    let notify = match (&order.filter, container.config()?.linux()) {
        (Some(filter), Some(linux)) if filter.listens() => {
            let path = linux.seccomp().as_ref().and_then(|s| s.listener_path().clone());
            let metadata = linux.seccomp().as_ref().and_then(|s| s.listener_metadata().clone());
            path.map(|p| io::connect(&p)).transpose()?.map(|s| (s, metadata.unwrap_or_default()))
        }
        _ => None,
    };
    launch(&state, &order, request, &init_fd, console, notify, (init_pid, status))
}

/// The process as the specification has it.
fn process(spec: &Spec, request: &Request) -> Result<OciProcess> {
    if let Some(path) = &request.process {
        return state::read_json(path);
    }
    let mut process = spec
        .process()
        .clone()
        .ok_or_else(|| CompileError::invalid("process", "is not set for the container; give --process"))?;
    process.set_args(Some(request.args.clone())).set_terminal(Some(request.tty)).set_console_size(None);
    if let Some(cwd) = &request.cwd {
        process.set_cwd(cwd.clone());
    }
    let mut env = process.env().clone().unwrap_or_default();
    for pair in &request.env {
        let name = pair.split('=').next().unwrap_or_default();
        env.retain(|e| e.split('=').next() != Some(name));
        env.push(pair.clone());
    }
    process.set_env(Some(env));
    if let Some(text) = &request.user {
        let (uid, gid) = parse_user(text)?;
        let user = process.user_mut();
        user.set_uid(uid);
        if let Some(gid) = gid {
            user.set_gid(gid);
        }
        user.set_additional_gids(None);
    }
    if !request.additional_gids.is_empty() {
        let user = process.user_mut();
        let mut gids = user.additional_gids().clone().unwrap_or_default();
        gids.extend(&request.additional_gids);
        user.set_additional_gids(Some(gids));
    }
    if request.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if request.apparmor.is_some() {
        process.set_apparmor_profile(request.apparmor.clone());
    }
    if request.process_label.is_some() {
        process.set_selinux_label(request.process_label.clone());
    }
    if !request.caps.is_empty() {
        let more = crate::caps::from_names(request.caps.iter().map(String::as_str))
            .map_err(|name| OciError::Usage(format!("--cap: `{name}` is no capability")))?;
        let mut sets = process.capabilities().clone().unwrap_or_else(|| crate::defaults::capabilities(0));
        let with = |set: &Option<oci_spec::runtime::Capabilities>| {
            let mut all = set.clone().unwrap_or_default();
            all.extend(crate::caps::to_oci(more));
            Some(all)
        };
        let (bounding, effective, permitted) =
            (with(sets.bounding()), with(sets.effective()), with(sets.permitted()));
        sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
        process.set_capabilities(Some(sets));
    }
    Ok(process)
}

/// Numbers only, as the kernel takes them; a name would have to come from a file of the container (CVE-2026-30892: `1` was
/// taken for user 0).
fn parse_user(text: &str) -> Result<(u32, Option<u32>)> {
    let number = |what: &str, text: &str| -> Result<u32> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u32>().ok().filter(|n| digits && i32::try_from(*n).is_ok()).ok_or_else(|| {
            OciError::Usage(format!("--user: `{text}` is no {what} id; give numbers, uid[:gid]"))
        })
    };
    match text.split_once(':') {
        Some((uid, gid)) => Ok((number("user", uid)?, Some(number("group", gid)?))),
        None => Ok((number("user", text)?, None)),
    }
}

fn order(state: &State, spec: Spec, process: &OciProcess, request: &Request, init_pid: u32) -> Result<Order> {
    let empty = oci_spec::runtime::Linux::default();
    let linux = spec.linux().clone().unwrap_or(empty);
    let attributes = Attributes::of(process)?;
    let filter = linux.seccomp().as_ref().map(crate::seccomp::spec::compile).transpose()?;
    let request_of = plan::request(&state.id, spec);
    let compiled = job::compile_process(&request_of, process, &linux, true)?;
    Ok(Order {
        process: compiled,
        filter,
        attributes,
        terminal: job::terminal_size(process),
        preserve_fds: request.preserve_fds,
        groups: state::groups(state)?.existing("c"),
        namespaces: enter::namespaces(init_pid).map_err(|e| OciError::io("/proc", e))?,
    })
}

#[allow(clippy::too_many_arguments, reason = "one caller, and each is a thing of its own")]
fn launch(
    state: &State,
    order: &Order,
    request: &Request,
    init_fd: &OwnedFd,
    console: Option<OwnedFd>,
    notify: Option<(OwnedFd, String)>,
    (init_pid, status): (u32, Status),
) -> Result<Executing> {
    let (control, inner) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|e| OciError::io("making a socket", e))?;
    // A container without a mount namespace of its own has its root by chroot.
    let root = create::open(format!("/proc/{init_pid}/root").as_ref(), OFlags::PATH | OFlags::DIRECTORY)?;
    let group = order.groups.v2.as_deref().map(|dir| create::open(dir, OFlags::RDONLY)).transpose()?;
    let cloned = match sys::clone3(0, libc::SIGCHLD, group.as_ref().map(AsFd::as_fd)) {
        // Groups that the container has made below its own: no process may be above them.
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
            let inner = create::open(&group_of(order, init_pid)?, OFlags::RDONLY)?;
            sys::clone3(0, libc::SIGCHLD, Some(inner.as_fd()))
        }
        other => other,
    }
    .map_err(|e| Failure::errno("cgroup", "cloning into it", e))?;
    let first = match cloned {
        Cloned::Parent(_, pidfd) => pidfd,
        Cloned::Child => {
            drop(control);
            let _ = sys::signal_mask(SignalMask::Empty);
            sys::default_signals();
            let mut join = Join {
                order,
                console_socket: console,
                notify_socket: notify.map(|(socket, _)| socket),
                slave: None,
                listener_state: Vec::new(),
            };
            let result = run(&mut join, init_fd, &root, &inner);
            match result {
                Ok(()) => sys::exit_now(255),
                Err(failure) => pass::fail(&inner, &failure),
            }
        }
    };
    drop((inner, console, root));
    let (bytes, pidfd) = io::receive(&control).map_err(|e| OciError::io("hearing from the process", e))?;
    let _ = rustix::process::waitid(
        rustix::process::WaitId::PidFd(first.as_fd()),
        rustix::process::WaitIdOptions::EXITED,
    );
    let (Ok(number), Some(pidfd)) = (<[u8; 4]>::try_from(&bytes[..]), pidfd) else {
        return Err(failure_of(&bytes).into());
    };
    let pid = u32::from_ne_bytes(number);
    let done = (|| {
        let metadata = notify.as_ref().map_or("", |(_, metadata)| metadata);
        let told = process_state(&state::state_json(state, status.as_str(), init_pid), pid, metadata);
        let _ = rustix::net::send(&control, &told, SendFlags::NOSIGNAL);
        let mut said = io::receive(&control);
        if matches!(said, Err(rustix::io::Errno::CONNRESET)) {
            said = io::receive(&control);
        }
        let (bytes, _) = said.map_err(|e| OciError::io("hearing from the process", e))?;
        if !bytes.is_empty() {
            return Err(failure_of(&bytes).into());
        }
        match &request.pid_file {
            Some(path) => create::write_pid(path, pid),
            None => Ok(()),
        }
    })();
    match done {
        Ok(()) => Ok(Executing { pidfd }),
        Err(e) => {
            starter::kill(&pidfd);
            Err(e)
        }
    }
}

/// The version 2 group that the first process is in now.
fn group_of(order: &Order, pid: u32) -> Result<PathBuf> {
    let path = format!("/proc/{pid}/cgroup");
    let text = std::fs::read_to_string(&path).map_err(|e| OciError::io(&path, e))?;
    let own = order.groups.v2.clone().unwrap_or_default();
    let below = text.lines().find_map(|l| l.strip_prefix("0::/"));
    // The container's group is a prefix of it, so what comes after belongs to it.
    let tail = below.and_then(|b| {
        let b = PathBuf::from(b);
        own.ancestors().find_map(|top| {
            let base = own.strip_prefix(top).ok()?;
            (!base.as_os_str().is_empty()).then(|| b.strip_prefix(base).ok().map(PathBuf::from))?
        })
    });
    Ok(own.join(tail.unwrap_or_default()))
}

/// In the clone: into the container, and to the command. Returns what went wrong.
fn run(
    join: &mut Join<'_>,
    init_fd: &OwnedFd,
    root: &OwnedFd,
    control: &OwnedFd,
) -> std::result::Result<(), Failure> {
    let order = join.order;
    let entry = Entry { init: init_fd.as_fd(), root, groups: &order.groups, namespaces: order.namespaces };
    enter::enter(&order.process, &entry, control)?;
    let (told, _) =
        io::receive(control).map_err(|e| Failure::errno("exec", "hearing from the runtime", e))?;
    if told.is_empty() {
        sys::exit_now(255);
    }
    join.listener_state = told;
    let filter = order.filter.as_ref().map_or_else(Vec::new, |f| f.filter.bytes().to_vec());
    match enter::become_guest(&order.process, &filter, join) {
        Ok(never) => match never {},
        Err(failure) => Err(failure),
    }
}

/// The end of the way of an exec'd process.
struct Join<'a> {
    order: &'a Order,
    console_socket: Option<OwnedFd>,
    notify_socket: Option<OwnedFd>,
    slave: Option<OwnedFd>,
    listener_state: Vec<u8>,
}

impl Guest for Join<'_> {
    fn terminal(&mut self, root: BorrowedFd<'_>) -> std::result::Result<(), Failure> {
        let Some(size) = self.order.terminal else { return Ok(()) };
        let (master, slave) = console::open(root, size)?;
        if let Some(socket) = self.console_socket.take() {
            console::send(&socket, master.as_fd())?;
        }
        self.slave = Some(slave);
        Ok(())
    }
}

impl Finish for Join<'_> {
    fn stdio(&mut self, identity: &Identity) -> std::result::Result<(), Failure> {
        terminal::stdio(self.slave.take(), identity, self.order.preserve_fds)
    }

    fn attributes(&mut self) -> std::result::Result<(), Failure> {
        self.order.attributes.set()
    }

    fn before_confinement(&mut self) -> std::result::Result<(), Failure> {
        steps::check_capabilities(&self.order.process)
    }

    fn load(&mut self, filter: &[u8]) -> std::result::Result<(), Failure> {
        match &self.order.filter {
            Some(spec) => steps::load(filter, spec.flags, self.notify_socket.as_ref(), &self.listener_state),
            None => Ok(()),
        }
    }

    fn confined(&mut self, _: &Process) -> std::result::Result<(), Failure> {
        Ok(())
    }
}
