//! The container's first process, from its clone to the exec of the command.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use super::sys::{self, ExecVector};
use super::{pass, starter, terminal};
use crate::error::{Failure, FailureKind};
use crate::job::{Job, NamespaceKind, Process};
use crate::user::Identity;
use crate::{caps, mounts, rlimit, user};

/// Where a command is looked for when the environment has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What differs from caller to caller on the way of a first process. The order, and all that confines it, is one and the
/// same: [`run`].
pub(crate) trait Steps: Finish {
    /// Namespaces to join, besides the pid namespace.
    fn join(&self) -> &[(NamespaceKind, OwnedFd)];

    /// Makes the root with all its mounts; attached, but not entered.
    fn root(&mut self, job: &Job) -> Result<mounts::Root, Failure>;

    /// What has to look at the finished root while the host's tree is still in reach.
    fn prepare(&mut self, root: &mounts::Root, job: &Job) -> Result<(), Failure>;

    /// Makes the root this process's own.
    fn enter(&mut self, root: &mounts::Root, job: &Job) -> Result<(), Failure> {
        root.pivot(job)
    }
}

/// The part of it that comes inside the container: [`become_process`].
pub(crate) trait Finish {
    /// Puts the standard descriptors in place; all above are closed by the exec, but for those that are meant to stay.
    fn stdio(&mut self, identity: &Identity) -> Result<(), Failure>;

    /// Attributes that need the capabilities of the runtime.
    fn attributes(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// With the user's ids, but not yet confined.
    fn before_confinement(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// Loads the filter.
    fn load(&mut self, filter: &[u8]) -> Result<(), Failure> {
        if filter.is_empty() {
            return Ok(());
        }
        sys::seccomp(filter, 0).map(drop).map_err(|e| Failure::errno("seccomp", "loading the filter", e))
    }

    /// The last thing before the exec.
    fn confined(&mut self, process: &Process) -> Result<(), Failure>;
}

/// What the starter hands over.
pub(super) struct Ends<'a> {
    /// Go byte in, failure out; closed by the exec.
    pub(super) control: &'a OwnedFd,
    /// Becomes stdin, if there is one.
    pub(super) stdin: Option<&'a OwnedFd>,
    /// Becomes stdout.
    pub(super) stdout: &'a OwnedFd,
    /// Becomes stderr.
    pub(super) stderr: &'a OwnedFd,
    /// Namespaces to join, besides the pid namespace.
    pub(super) join: &'a [(NamespaceKind, OwnedFd)],
}

/// The steps of a container of the agent.
pub(super) struct Agent<'a> {
    pub(super) ends: Ends<'a>,
    pub(super) blocks: mounts::Blocks,
    /// Becomes stdin where there is none.
    pub(super) null: Option<OwnedFd>,
    /// The terminal, which becomes all three.
    pub(super) slave: Option<OwnedFd>,
}

impl Steps for Agent<'_> {
    fn join(&self) -> &[(NamespaceKind, OwnedFd)] {
        self.ends.join
    }

    fn root(&mut self, job: &Job) -> Result<mounts::Root, Failure> {
        let mut sources = mounts::open_following(job)?;
        mounts::isolate()?;
        mounts::open_others(job, &mut self.blocks, &mut sources)?;
        let root = mounts::Root::attach(job, &mut self.blocks)?;
        mounts::attach_all(&root, job, sources)?;
        Ok(root)
    }

    fn prepare(&mut self, root: &mounts::Root, job: &Job) -> Result<(), Failure> {
        if let Some(size) = job.terminal {
            let (master, slave) = terminal::open(root.fd(), size)?;
            terminal::attach(root.fd(), &slave)?;
            pass::send_fd(self.ends.control, starter::TERMINAL, master.as_fd())
                .map_err(|e| Failure::errno("terminal", "handing it over", e))?;
            self.slave = Some(slave);
        } else if self.ends.stdin.is_none() {
            self.null = Some(open_null(root.fd())?);
        }
        Ok(())
    }
}

impl Finish for Agent<'_> {
    fn stdio(&mut self, identity: &Identity) -> Result<(), Failure> {
        if self.slave.is_some() {
            return terminal::stdio(self.slave.take(), identity, 0);
        }
        let stdin = self.ends.stdin.or(self.null.as_ref()).into_iter().map(|fd| (fd, 0));
        for (fd, number) in stdin.chain([(self.ends.stdout, 1), (self.ends.stderr, 2)]) {
            sys::dup_to(fd.as_fd(), number)
                .map_err(|e| Failure::errno("stdio", format_args!("descriptor {number}"), e))?;
        }
        // Whatever else is open, known or not, ends with the exec.
        terminal::stdio(None, identity, 0)
    }

    fn confined(&mut self, _: &Process) -> Result<(), Failure> {
        wait_for_go(self.ends.control)
    }
}

/// Runs the container's side. Returns only what went wrong.
pub(crate) fn run<S: Steps>(job: &Job, filter: &[u8], steps: &mut S) -> Failure {
    match prepare(job, filter, steps) {
        Ok(never) => match never {},
        Err(failure) => failure,
    }
}

pub(crate) enum Never {}

fn prepare<S: Steps>(job: &Job, filter: &[u8], steps: &mut S) -> Result<Never, Failure> {
    rustix::process::umask(Mode::empty());
    set_oom_score(&job.process)?;
    enter_namespaces(job, steps.join())?;

    let root = steps.root(job)?;
    mounts::protect(root.fd(), job)?;
    write_sysctls(job)?;
    steps.prepare(&root, job)?;
    let identity = user::resolve(root.fd(), &job.process.user)?;
    let cwd = open_cwd(root.fd(), &job.process)?;
    // As late as the groups can be reached: the work until here does not wait for the container's share of a busy
    // processor, which may be next to nothing.
    join_groups(job)?;
    steps.enter(&root, job)?;
    // Only ours is left to see, but a descriptor of it would let the container keep a directory outside its root busy.
    drop(root);
    become_process(&job.process, &identity, filter, &cwd, steps)
}

/// From a process inside the container's namespaces and root to the command.
pub(crate) fn become_process<S: Finish>(
    process: &Process,
    identity: &Identity,
    filter: &[u8],
    cwd: &OwnedFd,
    steps: &mut S,
) -> Result<Never, Failure> {
    if let Some(domain) = process.personality {
        sys::personality(domain).map_err(|e| Failure::errno("personality", "setting it", e))?;
    }
    rlimit::apply(&process.rlimits)?;
    new_session()?;
    let args = ExecVector::new(&process.args);
    let env = environment(process, identity);
    steps.stdio(identity)?;
    rustix::process::umask(Mode::from_raw_mode(process.umask));
    steps.attributes()?;

    drop_privileges(process, identity, filter, cwd, steps)?;
    steps.confined(process)?;
    Err(exec(process, &args, &env))
}

/// By the host's `/proc`, which knows this process as itself whatever its namespace.
pub(crate) fn set_oom_score(process: &Process) -> Result<(), Failure> {
    let Some(score) = process.oom_score_adj else { return Ok(()) };
    match std::fs::write("/proc/self/oom_score_adj", score.value.to_string()) {
        Ok(()) => Ok(()),
        Err(_) if !score.required => Ok(()),
        Err(e) if e.raw_os_error() == Some(libc::EACCES) => Err(Failure {
            stage: "oom score".to_owned(),
            message: format!(
                "{} is below the agent's own; the agent lacks CAP_SYS_RESOURCE to lower it, so ask for a higher one",
                score.value
            ),
            errno: libc::EACCES,
            kind: FailureKind::MissingCapability,
        }),
        Err(e) => Err(Failure::errno("oom score", format_args!("setting {}", score.value), e)),
    }
}

/// A process that writes itself into `tasks` waits for no grace period; one that is written into `cgroup.procs` does.
pub(crate) fn join_groups(job: &Job) -> Result<(), Failure> {
    for group in &job.cgroup.v1 {
        write_existing(&group.dir.join("tasks"), "0")
            .map_err(|e| Failure::errno("cgroup", format_args!("joining {}", group.dir.display()), e))?;
    }
    if job.namespaces.iter().any(|n| n.kind == NamespaceKind::Cgroup && n.path.is_none()) {
        // Only now: its root is the group that this process is in.
        sys::unshare_cgroup()
            .map_err(|e| Failure::errno("namespaces", "unsharing the cgroup namespace", e))?;
    }
    Ok(())
}

/// Writes to a file that the kernel made; never creates one.
pub(crate) fn write_existing(path: &std::path::Path, value: &str) -> Result<(), Errno> {
    let fd = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&fd, value.as_bytes())?;
    Ok(())
}

fn enter_namespaces(job: &Job, join: &[(NamespaceKind, OwnedFd)]) -> Result<(), Failure> {
    for (kind, fd) in join {
        rustix::thread::move_into_link_name_space(fd.as_fd(), None)
            .map_err(|e| Failure::errno("namespaces", format_args!("joining the {kind:?} namespace"), e))?;
    }
    if job.loopback {
        sys::loopback_up().map_err(|e| Failure::errno("network", "bringing lo up", e))?;
    }
    if let Some(name) = &job.hostname {
        rustix::system::sethostname(name.as_bytes())
            .map_err(|e| Failure::errno("hostname", format_args!("setting `{name}`"), e))?;
    }
    if let Some(name) = &job.domainname {
        rustix::system::setdomainname(name.as_bytes())
            .map_err(|e| Failure::errno("domainname", format_args!("setting `{name}`"), e))?;
    }
    Ok(())
}

/// Through a procfs of our own that nothing can cover, and beneath its `sys` only.
fn write_sysctls(job: &Job) -> Result<(), Failure> {
    if job.sysctls.is_empty() {
        return Ok(());
    }
    let proc = mounts::private_proc("sysctl")?;
    for (path, value) in &job.sysctls {
        let fail = |e| Failure::errno("sysctl", path.replace('/', "."), e);
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat2(&proc, format!("sys/{path}"), flags, Mode::empty(), resolve).map_err(fail)?;
        rustix::io::write(&file, value.as_bytes()).map_err(fail)?;
    }
    Ok(())
}

/// The container's own null device, if it is one; else the machine's, which is still in reach before the pivot.
pub(crate) fn open_null(root: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY;
    match mounts::open_inside(root, "/dev/null", flags, ResolveFlags::NO_SYMLINKS) {
        Ok(fd) if crate::device::is_null(&fd) => Ok(fd),
        _ => crate::device::open_null(),
    }
}

/// Opened inside the root before the pivot, so it cannot be a directory outside.
pub(crate) fn open_cwd(root: BorrowedFd<'_>, process: &Process) -> Result<OwnedFd, Failure> {
    mounts::open_dir_making(root, &process.cwd).map_err(|e| no_cwd(&process.cwd, e))
}

/// The same for one more process: what a container has and has not is not changed by looking at it.
pub(crate) fn open_cwd_as_it_is(root: BorrowedFd<'_>, process: &Process) -> Result<OwnedFd, Failure> {
    mounts::open_inside(root, &process.cwd, OFlags::PATH | OFlags::DIRECTORY, ResolveFlags::empty())
        .map_err(|e| no_cwd(&process.cwd, e))
}

fn no_cwd(path: &str, e: Errno) -> Failure {
    let text = match e {
        Errno::NOENT => format!("{path} is not in the container"),
        Errno::NOTDIR => format!("{path} is not a directory in the image"),
        Errno::LOOP => format!("{path} leads through a loop of links, or a link of /proc"),
        Errno::ROFS => {
            format!("{path} is not in the image, and cannot be made on a read-only filesystem")
        }
        e => format!("{path}: {}", std::io::Error::from(e)),
    };
    Failure { errno: e.raw_os_error(), ..Failure::new("working directory", FailureKind::BadCwd, text) }
}

fn new_session() -> Result<(), Failure> {
    match rustix::process::setsid() {
        Ok(_) | Err(Errno::PERM) => Ok(()),
        Err(e) => Err(Failure::errno("session", "setsid", e)),
    }
}

/// The environment, with `HOME` from the user's entry when it is not given.
fn environment(process: &Process, identity: &Identity) -> ExecVector {
    let mut env: Vec<&str> = process.env.iter().map(String::as_str).collect();
    let home = format!("HOME={}", identity.home.as_deref().unwrap_or("/"));
    if !env.iter().any(|e| e.starts_with("HOME=")) {
        env.push(&home);
    }
    ExecVector::new(env)
}

/// Groups, user, working directory, capabilities, and the filter as late as it can be loaded.
fn drop_privileges<S: Finish>(
    process: &Process,
    identity: &Identity,
    filter: &[u8],
    cwd: &OwnedFd,
    steps: &mut S,
) -> Result<(), Failure> {
    // Until the exec, nothing in the container looks into this process, which has the runtime's program and descriptors.
    sys::set_undumpable().map_err(|e| Failure::errno("user", "hiding the runtime's process", e))?;
    caps::drop_bounding(process.caps.bounding)?;
    let fail = |what: &'static str| move |e: Errno| Failure::errno("user", what, e);
    let keep = identity.uid != 0;
    if keep {
        rustix::thread::set_keep_capabilities(true).map_err(fail("keeping capabilities"))?;
    }
    let groups: Vec<Gid> = identity.groups.iter().map(|g| Gid::from_raw(*g)).collect();
    rustix::thread::set_thread_groups(&groups).map_err(fail("setting supplementary groups"))?;
    let gid = Gid::from_raw(identity.gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(fail("setting the group"))?;
    let uid = Uid::from_raw(identity.uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(fail("setting the user"))?;
    if keep {
        rustix::thread::set_keep_capabilities(false).map_err(fail("keeping capabilities"))?;
        caps::raise_effective().map_err(|e| Failure::errno("user", "raising capabilities", e))?;
    }
    // With the capabilities of the runtime, so that a directory of another user can be entered, as with runc.
    rustix::process::fchdir(cwd).map_err(|e| {
        let text = format!("{}: {}", process.cwd, std::io::Error::from(e));
        Failure { errno: e.raw_os_error(), ..Failure::new("working directory", FailureKind::BadCwd, text) }
    })?;
    steps.before_confinement()?;
    if process.no_new_privileges {
        caps::apply(&process.caps)?;
        rustix::thread::set_no_new_privs(true)
            .map_err(|e| Failure::errno("no_new_privs", "setting it", e))?;
        steps.load(filter)
    } else {
        // Without no_new_privs the filter needs CAP_SYS_ADMIN, which goes right after.
        steps.load(filter)?;
        caps::apply(&process.caps)
    }
}

/// The starter has written down who this is, and says go; when it is gone, so is this.
pub(crate) fn wait_for_go(control: &OwnedFd) -> Result<(), Failure> {
    let mut byte = [0u8; 1];
    loop {
        match rustix::io::read(control, &mut byte) {
            Ok(1) => return Ok(()),
            Ok(_) => sys::exit_now(255),
            Err(Errno::INTR) => {}
            Err(e) => return Err(Failure::errno("start", "waiting for the starter", e)),
        }
    }
}

/// Looks the command up as `execvp(3)` does, inside the root and as the container's user.
fn exec(process: &Process, args: &ExecVector, env: &ExecVector) -> Failure {
    let Some(command) = args.first() else {
        return Failure::new("exec", FailureKind::CommandNotFound, "there is no command");
    };
    let name = command.to_string_lossy().into_owned();
    if name.contains('/') {
        let e = sys::execve(command, args, env);
        return explain(&name, &name, &e);
    }
    let path = search_path(process);
    let mut denied: Option<Failure> = None;
    for candidate in candidates(path, &name) {
        let Ok(file) = CString::new(candidate.as_str()) else { continue };
        let e = sys::execve(&file, args, env);
        match e.raw_os_error() {
            Some(libc::ENOENT) if !exists(&candidate) => {}
            Some(libc::ENOTDIR | libc::ENAMETOOLONG) => {}
            Some(libc::EACCES) => {
                denied.get_or_insert_with(|| explain(&name, &candidate, &e));
            }
            _ => return explain(&name, &candidate, &e),
        }
    }
    denied.unwrap_or_else(|| in_none_of(path, &name))
}

fn search_path(process: &Process) -> &str {
    process.env.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH)
}

fn candidates(path: &str, name: &str) -> impl Iterator<Item = String> {
    path.split(':').map(move |dir| if dir.is_empty() { format!("./{name}") } else { format!("{dir}/{name}") })
}

fn in_none_of(path: &str, name: &str) -> Failure {
    let message = format!("command not found: `{name}` is in none of {path} of the image");
    Failure { errno: libc::ENOENT, ..Failure::new("exec", FailureKind::CommandNotFound, message) }
}

/// Fails where the command is certainly not there, for who has to tell before the exec. All else the exec tells.
#[cfg(feature = "cli")]
pub(crate) fn find_command(process: &Process) -> Result<(), Failure> {
    // Who may not look does not know.
    let missing = |path: &str| {
        let found = rustix::fs::statat(CWD, path, rustix::fs::AtFlags::empty());
        matches!(found, Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG))
    };
    let Some(name) = process.args.first() else { return Ok(()) };
    if name.contains('/') {
        return if missing(name) { Err(explain(name, name, &Errno::NOENT.into())) } else { Ok(()) };
    }
    let path = search_path(process);
    if candidates(path, name).all(|it| missing(&it)) { Err(in_none_of(path, name)) } else { Ok(()) }
}

fn exists(path: &str) -> bool {
    rustix::fs::statat(CWD, path, rustix::fs::AtFlags::empty()).is_ok()
}

/// What a person can do about a failed exec.
fn explain(command: &str, file: &str, e: &std::io::Error) -> Failure {
    let errno = e.raw_os_error().unwrap_or(0);
    let (kind, message) = match errno {
        libc::ENOENT if exists(file) => (
            FailureKind::NotExecutable,
            format!("{file}: its interpreter or dynamic loader is not in the image{}", interpreter(file)),
        ),
        libc::ENOENT | libc::ENOTDIR => {
            (FailureKind::CommandNotFound, format!("command not found: `{command}` is not in the image"))
        }
        libc::EACCES | libc::EPERM => {
            (FailureKind::PermissionDenied, format!("{file}: permission denied{}", why_denied(file)))
        }
        libc::ENOEXEC => (FailureKind::NotExecutable, format!("{file}: {}", what_is(file))),
        libc::E2BIG => {
            (FailureKind::Other, "the arguments and the environment are too long together".to_owned())
        }
        _ => (FailureKind::Other, format!("{file}: {e}")),
    };
    Failure { errno, ..Failure::new("exec", kind, message) }
}

fn head(file: &str) -> Vec<u8> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut bytes = vec![0u8; 256];
    let len = rustix::fs::open(file, flags, Mode::empty())
        .and_then(|fd| rustix::io::read(&fd, &mut bytes))
        .unwrap_or(0);
    bytes.truncate(len);
    bytes
}

fn interpreter(file: &str) -> String {
    let head = head(file);
    let line = head.strip_prefix(b"#!").and_then(|rest| rest.split(|b| *b == b'\n').next());
    line.map_or_else(String::new, |l| format!(" (`#!{}`)", String::from_utf8_lossy(l)))
}

fn why_denied(file: &str) -> String {
    match rustix::fs::statat(CWD, file, rustix::fs::AtFlags::empty()) {
        Ok(s) if s.st_mode & libc::S_IFMT == libc::S_IFDIR => " (it is a directory)".to_owned(),
        Ok(s) if s.st_mode & 0o111 == 0 => format!(" (mode {:o} has no x bit)", s.st_mode & 0o7777),
        _ => String::new(),
    }
}

/// Says what a file is that the kernel would not execute.
fn what_is(file: &str) -> String {
    let head = head(file);
    let Some(elf) = head.strip_prefix(b"\x7fELF").filter(|e| e.len() > 15) else {
        return "not an executable: neither a program nor a script with a `#!` line".to_owned();
    };
    let little = elf[1] == 1;
    let pair = [elf[14], elf[15]];
    let machine = if little { u16::from_le_bytes(pair) } else { u16::from_be_bytes(pair) };
    let name = match machine {
        3 => "i386",
        40 => "arm",
        62 => "x86_64",
        183 => "aarch64",
        243 => "riscv",
        21 => "ppc64",
        22 => "s390x",
        _ => "another architecture",
    };
    format!(
        "a program for {name}, but this machine is {}; use an image for this architecture",
        std::env::consts::ARCH
    )
}
