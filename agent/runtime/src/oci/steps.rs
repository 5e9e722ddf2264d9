//! What a first process of the command line does beside, or in place of, the agent's.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::SendFlags;

use super::console;
use super::hooks;
use super::plan::Plan;
use crate::error::{Failure, FailureKind};
use crate::job::{Job, NamespaceKind, Process};
use crate::mounts;
use crate::start::init::{Finish, Steps, find_command, wait_for_go};
use crate::start::{sys, terminal};
use crate::user::Identity;

/// Bytes on the socket between `create` and the first process.
pub(super) const HOOKS: &[u8] = b"h";
pub(super) const READY: &[u8] = b"r";
pub(super) const GO: &[u8] = b"g";

/// The first process of a container.
pub(super) struct Init<'a> {
    pub(super) plan: &'a Plan,
    pub(super) join: Vec<(NamespaceKind, OwnedFd)>,
    /// The root's tree, detached.
    pub(super) root: Option<OwnedFd>,
    pub(super) sources: mounts::Sources,
    /// To `create`.
    pub(super) control: OwnedFd,
    /// Where `start` knocks.
    pub(super) listener: OwnedFd,
    /// From `start`: failures go here once it is there.
    pub(super) connection: Option<OwnedFd>,
    pub(super) console_socket: Option<OwnedFd>,
    pub(super) notify_socket: Option<OwnedFd>,
    pub(super) slave: Option<OwnedFd>,
    pub(super) told: Told,
}

/// What others are told of the container from inside.
#[derive(Default)]
pub(super) struct Told {
    /// Hooks, while it is being created.
    pub(super) creating: Vec<u8>,
    /// Hooks, once it is.
    pub(super) created: Vec<u8>,
    /// The receiver of the filter's listener.
    pub(super) listener: Vec<u8>,
}

impl Init<'_> {
    /// Where a failure is told.
    pub(super) fn tell(&self, failure: &Failure) {
        let to = self.connection.as_ref().unwrap_or(&self.control);
        if let Ok(bytes) = serde_json::to_vec(failure) {
            let _ = rustix::net::send(to, &bytes, SendFlags::NOSIGNAL);
        }
    }
}

impl Steps for Init<'_> {
    fn join(&self) -> &[(NamespaceKind, OwnedFd)] {
        &self.join
    }

    fn root(&mut self, job: &Job) -> Result<mounts::Root, Failure> {
        if self.plan.keyring {
            new_keyring(&job.uid)?;
        }
        if let Some(offsets) = &self.plan.time {
            enter_time(offsets)?;
        }
        if self.plan.own_mounts {
            mounts::isolate()?;
        }
        let tree = self.root.take().ok_or_else(|| Failure::new("root", FailureKind::Other, "no tree"))?;
        let root = mounts::Root::of(job, tree)?;
        mounts::attach_all(&root, job, std::mem::take(&mut self.sources))?;
        if !job.devices.is_empty() && !job.populate_dev {
            crate::device::provide(root.fd(), &job.devices, self.plan.has(NamespaceKind::User))?;
        }
        Ok(root)
    }

    fn prepare(&mut self, root: &mounts::Root, _: &Job) -> Result<(), Failure> {
        // Written down who this is; without `create` there is nobody to go on for.
        wait_for_go(&self.control)?;
        if let Some(terminal) = &self.plan.terminal {
            let (master, slave) = console::open(root.fd(), *terminal)?;
            console::attach(root.fd(), &slave)?;
            if let Some(socket) = self.console_socket.take() {
                console::send(&socket, master.as_fd())?;
            }
            self.slave = Some(slave);
        }
        let hooks = &self.plan.hooks;
        if !hooks.prestart.is_empty() || !hooks.create_runtime.is_empty() {
            rustix::net::send(&self.control, HOOKS, SendFlags::NOSIGNAL)
                .map_err(|e| Failure::errno("hooks", "asking for those of the runtime", e))?;
            wait_for_go(&self.control)?;
        }
        hooks::run("createContainer", &hooks.create_container, &self.told.creating)
    }

    fn enter(&mut self, root: &mounts::Root, job: &Job) -> Result<(), Failure> {
        if self.plan.own_mounts { root.pivot(job) } else { root.chroot(job) }
    }
}

impl Finish for Init<'_> {
    fn stdio(&mut self, identity: &Identity) -> Result<(), Failure> {
        terminal::stdio(self.slave.take(), identity, self.plan.preserve_fds)
    }

    fn attributes(&mut self) -> Result<(), Failure> {
        self.plan.attributes.set()
    }

    fn before_confinement(&mut self) -> Result<(), Failure> {
        check_capabilities(&self.plan.job.process)?;
        find_command(&self.plan.job.process)?;
        rustix::net::send(&self.control, READY, SendFlags::NOSIGNAL)
            .map_err(|e| Failure::errno("create", "saying that all is ready", e))?;
        self.connection = Some(accept_start(&self.listener)?);
        Ok(())
    }

    fn load(&mut self, filter: &[u8]) -> Result<(), Failure> {
        let Some(spec) = &self.plan.filter else { return Ok(()) };
        load(filter, spec.flags, self.notify_socket.as_ref(), &self.told.listener)
    }

    fn confined(&mut self, process: &Process) -> Result<(), Failure> {
        if process.args.is_empty() {
            return Err(Failure::new(
                "start",
                FailureKind::Other,
                "`process` is not set, so there is nothing to run",
            ));
        }
        hooks::run("startContainer", &self.plan.hooks.start_container, &self.told.created)
    }
}

/// Waits for a `start` that means it; one that goes away again was none.
fn accept_start(listener: &OwnedFd) -> Result<OwnedFd, Failure> {
    loop {
        let fail = |e| Failure::errno("create", "waiting for start", e);
        let connection = match rustix::net::accept_with(listener, rustix::net::SocketFlags::CLOEXEC) {
            Ok(connection) => connection,
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(fail(e)),
        };
        let mut byte = [0u8; 1];
        match rustix::io::read(&connection, &mut byte) {
            Ok(1) => return Ok(connection),
            Ok(_) | Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNRESET) => {}
            Err(e) => return Err(fail(e)),
        }
    }
}

/// Before `create` says that all is well: later nobody would hear of it.
pub(super) fn check_capabilities(process: &Process) -> Result<(), Failure> {
    let missing = process.caps.permitted & !crate::caps::own();
    if missing == 0 {
        return Ok(());
    }
    let names = crate::caps::names(missing).join(", ");
    Err(Failure::new(
        "capabilities",
        FailureKind::MissingCapability,
        format!("the runtime itself lacks {names}; leave it out, or give it to the runtime"),
    ))
}

pub(super) fn new_keyring(id: &str) -> Result<(), Failure> {
    let name = CString::new(format!("_ses.{id}")).unwrap_or_default();
    sys::new_session_keyring(&name)
        .map_err(|e| Failure::errno("keyring", "making a session keyring (--no-new-keyring does without)", e))
}

/// Offsets can be set as long as nobody is in the namespace (`time_namespaces(7)`).
fn enter_time(offsets: &[(String, i64, u32)]) -> Result<(), Failure> {
    let fail = |what: &'static str| move |e: std::io::Error| Failure::errno("time namespace", what, e);
    sys::unshare(crate::job::CLONE_NEWTIME).map_err(fail("making one"))?;
    if !offsets.is_empty() {
        let text: String = offsets.iter().map(|(c, s, n)| format!("{c} {s} {n}\n")).collect();
        crate::start::write_existing(std::path::Path::new("/proc/self/timens_offsets"), &text)
            .map_err(|e| fail("setting linux.timeOffsets")(e.into()))?;
    }
    let file = std::fs::File::open("/proc/self/ns/time_for_children").map_err(fail("opening it"))?;
    rustix::thread::move_into_link_name_space(file.as_fd(), None).map_err(|e| fail("entering it")(e.into()))
}

/// Loads a filter of the specification; who answers its calls gets the descriptor and the state.
pub(super) fn load(filter: &[u8], flags: u64, notify: Option<&OwnedFd>, state: &[u8]) -> Result<(), Failure> {
    let fail = |what: &'static str, e: std::io::Error| Failure::errno("seccomp", what, e);
    let number = sys::seccomp(filter, flags).map_err(|e| fail("loading the filter", e))?;
    let Some(socket) = notify else { return Ok(()) };
    // SAFETY: with a listener asked for, the kernel has returned a new descriptor that nobody else owns.
    let listener = unsafe { sys::adopt_fd(number) };
    super::io::send_fd(socket, state, listener.as_fd())
        .map_err(|e| fail("sending the listener to linux.seccomp.listenerPath", e.into()))
}

/// What a receiver of the listener is told (`config-linux.md`, "The Container Process State").
pub(super) fn process_state(state: &serde_json::Value, pid: u32, metadata: &str) -> Vec<u8> {
    let value = serde_json::json!({
        "ociVersion": state["ociVersion"],
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": metadata,
        "state": state,
    });
    value.to_string().into_bytes()
}
