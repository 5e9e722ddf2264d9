//! The system calls that neither rustix nor nix wraps. The only unsafe code of the start path.

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `CLONE_INTO_CGROUP` of `clone3(2)`.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// `CLONE_CLEAR_SIGHAND`: every handled signal gets its default action back.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Where a [`clone3`] returned.
#[derive(Debug)]
pub(crate) enum Cloned {
    /// In the new process.
    Child,
    /// In the caller, with the child's pid and pidfd.
    Parent(u32, OwnedFd),
}

#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Forks with new namespaces, into `cgroup` (a cgroup2 directory) if one is given. `exit_signal` 0 is for
/// `CLONE_PARENT`, where the kernel takes the caller's own.
///
/// The calling process must have one thread.
pub(crate) fn clone3(flags: i32, exit_signal: i32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    let mut pidfd: libc::c_int = -1;
    let mut args = CloneArgs {
        flags: u64::from(flags.cast_unsigned())
            | u64::from(libc::CLONE_PIDFD.cast_unsigned())
            | CLONE_CLEAR_SIGHAND,
        pidfd: (&raw mut pidfd).addr() as u64,
        exit_signal: u64::from(exit_signal.cast_unsigned()),
        ..CloneArgs::default()
    };
    if let Some(fd) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(fd.as_raw_fd().cast_unsigned());
    }
    // SAFETY: the arguments live through the call and have the size given. Without CLONE_VM the child has its own copy
    // of memory, and the caller promises to have one thread, so no lock is held in that copy.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) })?;
    match u32::try_from(pid) {
        Ok(0) | Err(_) => Ok(Cloned::Child),
        // SAFETY: the kernel has stored a new descriptor that nobody else owns.
        Ok(pid) => Ok(Cloned::Parent(pid, unsafe { OwnedFd::from_raw_fd(pidfd) })),
    }
}

/// Changes attributes of the mount (`mount_setattr(2)`) that `fd` is on, or of the whole tree.
pub(crate) fn mount_setattr(
    fd: BorrowedFd<'_>,
    recursive: bool,
    set: u64,
    clear: u64,
    propagation: u64,
) -> io::Result<()> {
    set_attributes(fd, recursive, &MountAttr { attr_set: set, attr_clr: clear, propagation, userns_fd: 0 })
}

/// Gives a detached mount, or all of a tree, the ids of a user namespace.
#[cfg(feature = "cli")]
pub(crate) fn mount_idmap(fd: BorrowedFd<'_>, namespace: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    const IDMAP: u64 = 0x10_0000;
    let userns_fd = u64::from(namespace.as_raw_fd().cast_unsigned());
    set_attributes(fd, recursive, &MountAttr { attr_set: IDMAP, attr_clr: 0, propagation: 0, userns_fd })
}

/// What `mount_setattr(2)` takes.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

fn set_attributes(fd: BorrowedFd<'_>, recursive: bool, attr: &MountAttr) -> io::Result<()> {
    const AT_RECURSIVE: libc::c_int = 0x8000;
    let flags = libc::AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, the structure lives through the call and has the size given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    })?;
    Ok(())
}

/// What `sched_setattr(2)` takes.
#[cfg(feature = "cli")]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SchedAttr {
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
}

/// Sets the scheduling of this thread.
#[cfg(feature = "cli")]
pub(crate) fn sched_setattr(attr: &SchedAttr) -> io::Result<()> {
    // linux/sched/types.h, the first version of the structure.
    #[repr(C)]
    struct Raw {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    let raw = Raw {
        size: 48,
        policy: attr.policy,
        flags: attr.flags,
        nice: attr.nice,
        priority: attr.priority,
        runtime: attr.runtime,
        deadline: attr.deadline,
        period: attr.period,
    };
    // SAFETY: the structure lives through the call and says its own size.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const raw, 0) })?;
    Ok(())
}

/// Sets the I/O priority of this process.
#[cfg(feature = "cli")]
pub(crate) fn ioprio_set(value: i32) -> io::Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    // SAFETY: only numbers are passed.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, value) })?;
    Ok(())
}

/// Gives this process a session keyring of its own, named so in `/proc/keys`. A kernel without keys has nothing to share.
#[cfg(feature = "cli")]
pub(crate) fn new_session_keyring(name: &CStr) -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: the name is a C string that lives through the call.
    match check(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) }) {
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        other => other.map(drop),
    }
}

/// Leaves namespaces for new ones. The caller has one thread.
#[cfg(feature = "cli")]
pub(crate) fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: the callers pass flags of namespaces only, which concern no memory and no descriptors.
    check(libc::c_long::from(unsafe { libc::unshare(flags) }))?;
    Ok(())
}

/// Enters several namespaces of a process at once (5.8 and later). The caller has one thread.
pub(crate) fn enter_namespaces_of(pidfd: BorrowedFd<'_>, flags: i32) -> io::Result<()> {
    // SAFETY: only numbers are passed; `setns` concerns no memory.
    check(libc::c_long::from(unsafe { libc::setns(pidfd.as_raw_fd(), flags) }))?;
    Ok(())
}

/// Closes every descriptor from `first` on.
pub(crate) fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: only numbers are passed. The callers hold no descriptor from `first` on that they use again.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) })?;
    Ok(())
}

/// Makes every descriptor from `first` on close at the next exec.
pub(crate) fn cloexec_from(first: u32) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: only numbers are passed, and nothing is closed now.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) })?;
    Ok(())
}

/// Sets both limits of a resource for this process.
pub(crate) fn setrlimit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the structure lives through the call; no old value is asked for.
    check(unsafe {
        libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, std::ptr::null::<u8>())
    })?;
    Ok(())
}

/// Loads a filter of classic BPF instructions. Needs `no_new_privs` or `CAP_SYS_ADMIN`. The result is a descriptor if the
/// flags ask for a listener, else 0.
pub(crate) fn seccomp(filter: &[u8], flags: u64) -> io::Result<i32> {
    const SECCOMP_SET_MODE_FILTER: libc::c_int = 1;
    let len = u16::try_from(filter.len() / 8)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the filter has too many instructions"))?;
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut().cast() };
    // SAFETY: the kernel reads `len` instructions of eight bytes and needs no alignment to copy them; it writes nothing.
    let result = check(unsafe {
        libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    })?;
    i32::try_from(result).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Takes this process out of the reach of others with the same ids, until its next exec.
pub(crate) fn set_undumpable() -> io::Result<()> {
    use rustix::process::DumpableBehavior;
    Ok(rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Sets the execution domain.
pub(crate) fn personality(domain: u32) -> io::Result<()> {
    // SAFETY: only a number is passed.
    check(unsafe { libc::syscall(libc::SYS_personality, libc::c_ulong::from(domain)) })?;
    Ok(())
}

/// Loads a program that decides on access to devices, and attaches it to a cgroup2 group.
pub(crate) fn attach_device_program(group: BorrowedFd<'_>, program: &[u64]) -> io::Result<()> {
    // linux/bpf.h; the kernel takes the rest of its structure as zero.
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
    }
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }
    const PROG_LOAD: libc::c_int = 5;
    const PROG_ATTACH: libc::c_int = 8;
    const TYPE_CGROUP_DEVICE: u32 = 15;
    const ATTACH_CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    let load = Load {
        kind: TYPE_CGROUP_DEVICE,
        count: u32::try_from(program.len()).unwrap_or(u32::MAX),
        instructions: program.as_ptr().addr() as u64,
        license: c"Apache-2.0".as_ptr().addr() as u64,
    };
    // SAFETY: the structure, the instructions and the license live through the call, with the sizes given.
    let fd = check(unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<Load>()) })?;
    let fd = i32::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: the kernel has returned a new descriptor that nobody else owns.
    let loaded = unsafe { OwnedFd::from_raw_fd(fd) };
    let attach = Attach {
        target: group.as_raw_fd().cast_unsigned(),
        program: loaded.as_raw_fd().cast_unsigned(),
        kind: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: the structure lives through the call and has the size given.
    check(unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attach, size_of::<Attach>()) })?;
    Ok(())
}

/// Does something so that what it makes in a filesystem belongs to this user and group, with all capabilities kept.
/// Concerns this thread alone.
pub(crate) fn as_owner<T>(uid: u32, gid: u32, act: impl FnOnce() -> T) -> io::Result<T> {
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if (uid, gid) == own {
        return Ok(act());
    }
    let change = |uid: u32, gid: u32| {
        // SAFETY: only numbers are passed; the C library's wrappers are plain system calls for the calling thread.
        unsafe {
            libc::setfsgid(gid);
            libc::setfsuid(uid);
            // They tell the former value only, so whether it was taken is asked with one that is none.
            (libc::setfsuid(u32::MAX).cast_unsigned(), libc::setfsgid(u32::MAX).cast_unsigned()) == (uid, gid)
        }
    };
    let done = if change(uid, gid) {
        // Leaving user 0 took the capabilities over files out of effect.
        crate::caps::raise_effective().map(|()| act())
    } else {
        Err(io::Error::from_raw_os_error(libc::EPERM))
    };
    if !change(own.0, own.1) {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    done
}

/// Gives this process a cgroup namespace with its present groups as root.
pub(crate) fn unshare_cgroup() -> io::Result<()> {
    // SAFETY: this flag concerns no memory and no descriptors.
    check(libc::c_long::from(unsafe { libc::unshare(libc::CLONE_NEWCGROUP) }))?;
    Ok(())
}

/// Brings the interface `lo` of this network namespace up.
pub(crate) fn loopback_up() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or(0);
    // SAFETY: the request lives through the call and is what SIOCSIFFLAGS takes.
    check(libc::c_long::from(unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request)
    }))?;
    Ok(())
}

/// Blocks or unblocks every signal, or blocks only `SIGCHLD`.
pub(crate) fn signal_mask(mask: SignalMask) -> io::Result<()> {
    // SAFETY: the set is initialised by sigemptyset before it is read; sigprocmask reads it only.
    let result = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        if matches!(mask, SignalMask::OnlyChild) {
            libc::sigaddset(&raw mut set, libc::SIGCHLD);
        }
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut())
    };
    check(libc::c_long::from(result))?;
    Ok(())
}

/// Blocks every signal that can be blocked, and gives them as a descriptor.
#[cfg(feature = "cli")]
pub(crate) fn signal_fd() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigfillset before it is read; the calls read it only.
    let fd = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        check(libc::c_long::from(libc::sigprocmask(
            libc::SIG_SETMASK,
            &raw const set,
            std::ptr::null_mut(),
        )))?;
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC)
    };
    check(libc::c_long::from(fd))?;
    // SAFETY: the kernel has returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Which signals are blocked.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SignalMask {
    /// None.
    Empty,
    /// `SIGCHLD`.
    OnlyChild,
}

/// Gives every signal its default action back, those too that the C library keeps for itself: whatever started the
/// agent may have had them ignored.
pub(crate) fn default_signals() {
    // handler, flags, restorer, mask, in the kernel's form: all zero is SIG_DFL.
    let action = [0u64; 4];
    for signal in 1..=64 {
        // SAFETY: setting the default action runs no code of ours; the structure lives through the call. SIGKILL and
        // SIGSTOP just fail.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, &raw const action, std::ptr::null::<u8>(), 8)
        };
    }
}

/// Arguments of an exec, laid out beforehand.
pub(crate) struct ExecVector {
    strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl ExecVector {
    /// From strings without zero bytes; one that has some is cut there, which the compile step has excluded.
    pub(crate) fn new<S: AsRef<[u8]>>(strings: impl IntoIterator<Item = S>) -> Self {
        let strings: Vec<CString> = strings
            .into_iter()
            .map(|s| {
                let bytes = s.as_ref().split(|b| *b == 0).next().unwrap_or_default();
                CString::new(bytes).unwrap_or_default()
            })
            .collect();
        let mut pointers: Vec<*const c_char> = strings.iter().map(|s| s.as_ptr()).collect();
        pointers.push(std::ptr::null());
        Self { strings, pointers }
    }

    /// The first string.
    pub(crate) fn first(&self) -> Option<&CStr> {
        self.strings.first().map(CString::as_c_str)
    }
}

/// Executes a file; returns only the error.
pub(crate) fn execve(path: &CStr, args: &ExecVector, env: &ExecVector) -> io::Error {
    // SAFETY: both vectors end with a null pointer and point into strings that they own.
    unsafe { libc::execve(path.as_ptr(), args.pointers.as_ptr(), env.pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// Takes a descriptor that was inherited under this number.
///
/// # Safety
/// The number is open and nothing else owns it.
pub(crate) unsafe fn adopt_fd(number: i32) -> OwnedFd {
    // SAFETY: the caller's promise.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Duplicates `fd` to the fixed number `to`, which stays open over an exec.
pub(crate) fn dup_to(fd: BorrowedFd<'_>, to: i32) -> io::Result<()> {
    // SAFETY: only numbers are passed; the callers own whatever was open at `to`, or nothing was.
    check(libc::c_long::from(unsafe { libc::dup2(fd.as_raw_fd(), to) }))?;
    Ok(())
}

/// Duplicates `fd` to a number of at least `floor`, closed at exec.
pub(crate) fn dup_above(fd: BorrowedFd<'_>, floor: i32) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, floor)?)
}

/// Ends this process at once, without running anything more.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` takes a number and does not return.
    unsafe { libc::_exit(code) }
}
