//! The system calls of the shim, and nothing else that is unsafe to call.
//!
//! Numbers and structures are those of the kernel's uapi headers. A call gives the kernel's answer or its errno.
//! All unsafe code of the shim is here and in `mem.rs`.

use core::arch::asm;
use core::cell::UnsafeCell;

/// A system call's answer: not negative, or the errno.
pub type Answer = Result<usize, i32>;

pub const EINTR: i32 = 4;
pub const EIO: i32 = 5;
pub const EAGAIN: i32 = 11;
pub const EEXIST: i32 = 17;

pub const O_WRONLY: usize = 0o1;
pub const O_CREAT: usize = 0o100;
pub const O_EXCL: usize = 0o200;
pub const O_CLOEXEC: usize = 0o2_000_000;
#[cfg(target_arch = "x86_64")]
pub const O_NOFOLLOW: usize = 0o400_000;
#[cfg(target_arch = "aarch64")]
pub const O_NOFOLLOW: usize = 0o100_000;

pub const CLOCK_REALTIME: usize = 0;
pub const CLOCK_BOOTTIME: usize = 7;
pub const SIGKILL: u32 = 9;
pub const SIGCHLD: u32 = 17;

#[cfg(target_arch = "x86_64")]
mod nr {
    pub const READ: usize = 0;
    pub const WRITE: usize = 1;
    pub const CLOSE: usize = 3;
    pub const IOCTL: usize = 16;
    pub const WRITEV: usize = 20;
    pub const SETSOCKOPT: usize = 54;
    pub const RT_SIGACTION: usize = 13;
    pub const RT_SIGPROCMASK: usize = 14;
    pub const MADVISE: usize = 28;
    pub const CLONE: usize = 56;
    pub const WAIT4: usize = 61;
    pub const FCNTL: usize = 72;
    pub const FTRUNCATE: usize = 77;
    pub const PRCTL: usize = 157;
    pub const CLOCK_GETTIME: usize = 228;
    pub const EXIT_GROUP: usize = 231;
    pub const OPENAT: usize = 257;
    pub const UNLINKAT: usize = 263;
    pub const PPOLL: usize = 271;
    pub const TIMERFD_CREATE: usize = 283;
    pub const TIMERFD_SETTIME: usize = 286;
    pub const ACCEPT4: usize = 288;
    pub const SIGNALFD4: usize = 289;
    pub const RENAMEAT2: usize = 316;
    pub const PIDFD_SEND_SIGNAL: usize = 424;
}

#[cfg(target_arch = "aarch64")]
mod nr {
    pub const READ: usize = 63;
    pub const WRITE: usize = 64;
    pub const CLOSE: usize = 57;
    pub const IOCTL: usize = 29;
    pub const WRITEV: usize = 66;
    pub const SETSOCKOPT: usize = 208;
    pub const RT_SIGACTION: usize = 134;
    pub const RT_SIGPROCMASK: usize = 135;
    pub const MADVISE: usize = 233;
    pub const CLONE: usize = 220;
    pub const WAIT4: usize = 260;
    pub const FCNTL: usize = 25;
    pub const FTRUNCATE: usize = 46;
    pub const PRCTL: usize = 167;
    pub const CLOCK_GETTIME: usize = 113;
    pub const EXIT_GROUP: usize = 94;
    pub const OPENAT: usize = 56;
    pub const UNLINKAT: usize = 35;
    pub const PPOLL: usize = 73;
    pub const TIMERFD_CREATE: usize = 85;
    pub const TIMERFD_SETTIME: usize = 86;
    pub const ACCEPT4: usize = 242;
    pub const SIGNALFD4: usize = 74;
    pub const RENAMEAT2: usize = 276;
    pub const PIDFD_SEND_SIGNAL: usize = 424;
}

/// # Safety
/// The arguments must be right for that call, pointers valid for as long and as much as the kernel uses them.
#[cfg(target_arch = "x86_64")]
unsafe fn call(nr: usize, a: [usize; 6]) -> Answer {
    let ret: isize;
    // SAFETY: the kernel's calling convention for x86_64; the caller vouches for the arguments.
    unsafe {
        asm!("syscall", inlateout("rax") nr as isize => ret, in("rdi") a[0], in("rsi") a[1], in("rdx") a[2],
            in("r10") a[3], in("r8") a[4], in("r9") a[5], lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    answer(ret)
}

/// # Safety
/// As for x86_64.
#[cfg(target_arch = "aarch64")]
unsafe fn call(nr: usize, a: [usize; 6]) -> Answer {
    let ret: isize;
    // SAFETY: the kernel's calling convention for aarch64; the caller vouches for the arguments.
    unsafe {
        asm!("svc 0", in("x8") nr, inlateout("x0") a[0] as isize => ret, in("x1") a[1], in("x2") a[2],
            in("x3") a[3], in("x4") a[4], in("x5") a[5], options(nostack));
    }
    answer(ret)
}

fn answer(ret: isize) -> Answer {
    if ret < 0 { Err(-ret as i32) } else { Ok(ret as usize) }
}

pub fn read(fd: i32, buf: &mut [u8]) -> Answer {
    // SAFETY: the kernel writes at most `len` bytes to the slice.
    unsafe { call(nr::READ, [fd as usize, buf.as_mut_ptr() as usize, buf.len(), 0, 0, 0]) }
}

pub fn write(fd: i32, buf: &[u8]) -> Answer {
    // SAFETY: the kernel reads at most `len` bytes of the slice.
    unsafe { call(nr::WRITE, [fd as usize, buf.as_ptr() as usize, buf.len(), 0, 0, 0]) }
}

/// Writes a head and a body in one call.
pub fn write_two(fd: i32, head: &[u8], body: &[u8]) -> Answer {
    // Two `struct iovec`.
    let parts = [head.as_ptr() as usize, head.len(), body.as_ptr() as usize, body.len()];
    // SAFETY: the kernel reads two iovecs, and at most as much of the slices as these say.
    unsafe { call(nr::WRITEV, [fd as usize, parts.as_ptr() as usize, 2, 0, 0, 0]) }
}

/// Lets a socket hold more of what its peer has not read yet, in bytes.
pub fn set_send_buffer(fd: i32, len: u32) -> Answer {
    const SOL_SOCKET: usize = 1;
    const SO_SNDBUFFORCE: usize = 32;
    // SAFETY: the kernel reads one int.
    unsafe { call(nr::SETSOCKOPT, [fd as usize, SOL_SOCKET, SO_SNDBUFFORCE, &raw const len as usize, 4, 0]) }
}

/// Sets the size of a terminal.
pub fn set_window_size(fd: i32, rows: u16, columns: u16) -> Answer {
    const TIOCSWINSZ: usize = 0x5414;
    let size = [rows, columns, 0, 0];
    // SAFETY: the kernel reads one `struct winsize`, which is four numbers of 16 bits.
    unsafe { call(nr::IOCTL, [fd as usize, TIOCSWINSZ, size.as_ptr() as usize, 0, 0, 0]) }
}

pub fn close(fd: i32) {
    // SAFETY: no memory is passed. Every descriptor here is closed by its one owner.
    let _ = unsafe { call(nr::CLOSE, [fd as usize, 0, 0, 0, 0, 0]) };
}

/// `path` has to end with a zero byte; without one nothing is opened.
pub fn openat(dir: i32, path: &[u8], flags: usize, mode: usize) -> Result<i32, i32> {
    let path = c_string(path)?;
    // SAFETY: `path` ends with a zero byte within the slice.
    unsafe { call(nr::OPENAT, [dir as usize, path, flags, mode, 0, 0]) }.map(|fd| fd as i32)
}

pub fn unlinkat(dir: i32, path: &[u8]) -> Answer {
    let path = c_string(path)?;
    // SAFETY: `path` ends with a zero byte within the slice.
    unsafe { call(nr::UNLINKAT, [dir as usize, path, 0, 0, 0, 0]) }
}

pub fn renameat(dir: i32, from: &[u8], to: &[u8]) -> Answer {
    let (from, to) = (c_string(from)?, c_string(to)?);
    // SAFETY: both names end with a zero byte within their slice.
    unsafe { call(nr::RENAMEAT2, [dir as usize, from, dir as usize, to, 0, 0]) }
}

fn c_string(path: &[u8]) -> Result<usize, i32> {
    const EINVAL: i32 = 22;
    if path.contains(&0) { Ok(path.as_ptr() as usize) } else { Err(EINVAL) }
}

pub fn ftruncate(fd: i32, len: u64) -> Answer {
    // SAFETY: no memory is passed.
    unsafe { call(nr::FTRUNCATE, [fd as usize, len as usize, 0, 0, 0, 0]) }
}

pub fn set_nonblocking(fd: i32) -> Answer {
    const F_SETFL: usize = 4;
    const O_NONBLOCK: usize = 0o4000;
    // SAFETY: no memory is passed.
    unsafe { call(nr::FCNTL, [fd as usize, F_SETFL, O_NONBLOCK, 0, 0, 0]) }
}

/// A connection, without blocking.
pub fn accept(fd: i32) -> Result<i32, i32> {
    const NONBLOCK_CLOEXEC: usize = 0o4000 | 0o2_000_000;
    // SAFETY: null for the address is allowed.
    unsafe { call(nr::ACCEPT4, [fd as usize, 0, 0, NONBLOCK_CLOEXEC, 0, 0]) }.map(|fd| fd as i32)
}

/// `struct timespec`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Timespec {
    pub sec: i64,
    pub nsec: i64,
}

impl Timespec {
    pub const fn from_nanos(n: u64) -> Self {
        Self { sec: (n / 1_000_000_000) as i64, nsec: (n % 1_000_000_000) as i64 }
    }
}

pub fn clock(id: usize) -> Timespec {
    let mut now = Timespec { sec: 0, nsec: 0 };
    // SAFETY: the kernel writes one timespec.
    let _ = unsafe { call(nr::CLOCK_GETTIME, [id, &raw mut now as usize, 0, 0, 0, 0]) };
    now
}

/// Nanoseconds since boot, time asleep included.
pub fn boottime() -> u64 {
    let now = clock(CLOCK_BOOTTIME);
    now.sec as u64 * 1_000_000_000 + now.nsec as u64
}

/// `struct pollfd`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PollFd {
    pub fd: i32,
    pub events: i16,
    pub revents: i16,
}

pub const POLLIN: i16 = 1;
pub const POLLOUT: i16 = 4;

/// Waits for a descriptor, at most `timeout` nanoseconds; `None` waits for ever.
pub fn poll(fds: &mut [PollFd], timeout: Option<u64>) -> Answer {
    let spec = Timespec::from_nanos(timeout.unwrap_or(0));
    let spec = if timeout.is_some() { &raw const spec as usize } else { 0 };
    // SAFETY: the kernel writes `revents` of each entry and reads (and may update) the timespec, which lives on.
    unsafe { call(nr::PPOLL, [fds.as_mut_ptr() as usize, fds.len(), spec, 0, 8, 0]) }
}

/// Blocks every signal that can be blocked; only `signalfd` still sees them.
pub fn block_signals() {
    const SIG_SETMASK: usize = 2;
    let all: u64 = !0;
    // SAFETY: the kernel reads eight bytes.
    let _ = unsafe { call(nr::RT_SIGPROCMASK, [SIG_SETMASK, &raw const all as usize, 0, 8, 0, 0]) };
}

/// The default action for SIGCHLD: an inherited "ignore" would let the kernel reap children unseen.
pub fn default_sigchld() {
    let action = [0_u64; 4]; // handler SIG_DFL, no flags, no restorer, empty mask
    // SAFETY: the kernel reads one `struct kernel_sigaction`, at most 32 bytes; no handler is installed.
    let _ = unsafe { call(nr::RT_SIGACTION, [SIGCHLD as usize, &raw const action as usize, 0, 8, 0, 0]) };
}

pub fn signalfd(signal: u32) -> Result<i32, i32> {
    const NONBLOCK_CLOEXEC: usize = 0o4000 | 0o2_000_000;
    let mask: u64 = 1 << (signal - 1);
    // SAFETY: the kernel reads eight bytes.
    unsafe { call(nr::SIGNALFD4, [usize::MAX, &raw const mask as usize, 8, NONBLOCK_CLOEXEC, 0, 0]) }
        .map(|fd| fd as i32)
}

/// A timer on `CLOCK_BOOTTIME`.
pub fn timer() -> Result<i32, i32> {
    const NONBLOCK_CLOEXEC: usize = 0o4000 | 0o2_000_000;
    // SAFETY: no memory is passed.
    unsafe { call(nr::TIMERFD_CREATE, [CLOCK_BOOTTIME, NONBLOCK_CLOEXEC, 0, 0, 0, 0]) }.map(|fd| fd as i32)
}

/// Lets the timer fire once at `at` nanoseconds since boot (at once when that has passed).
pub fn set_timer(fd: i32, at: u64) -> Answer {
    const TFD_TIMER_ABSTIME: usize = 1;
    // All zero would disarm it.
    let spec = [Timespec { sec: 0, nsec: 0 }, Timespec::from_nanos(if at == 0 { 1 } else { at })];
    // SAFETY: the kernel reads one `struct itimerspec`, which is two timespecs.
    unsafe { call(nr::TIMERFD_SETTIME, [fd as usize, TFD_TIMER_ABSTIME, &raw const spec as usize, 0, 0, 0]) }
}

/// Reaps one child of any kind; its pid and wait status, `None` when none has ended.
pub fn reap() -> Option<(i32, u32)> {
    const WNOHANG: usize = 1;
    const WALL: usize = 0x4000_0000;
    let mut status: u32 = 0;
    // SAFETY: the kernel writes one int.
    match unsafe { call(nr::WAIT4, [usize::MAX, &raw mut status as usize, WNOHANG | WALL, 0, 0, 0]) } {
        Ok(pid) if pid > 0 => Some((pid as i32, status)),
        _ => None,
    }
}

/// Orphans below this process become its children, so that it reaps them also without a pid namespace.
pub fn become_subreaper() {
    const PR_SET_CHILD_SUBREAPER: usize = 36;
    // SAFETY: no memory is passed.
    let _ = unsafe { call(nr::PRCTL, [PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0, 0]) };
}

pub fn pidfd_send_signal(pidfd: i32, signal: u32) -> Answer {
    // SAFETY: null for the siginfo is allowed.
    unsafe { call(nr::PIDFD_SEND_SIGNAL, [pidfd as usize, signal as usize, 0, 0, 0, 0]) }
}

pub fn exit(code: i32) -> ! {
    loop {
        // SAFETY: no memory is passed; the call does not return.
        let _ = unsafe { call(nr::EXIT_GROUP, [code as usize, 0, 0, 0, 0, 0]) };
    }
}

/// Page-aligned memory with a fixed place, for the buffers. It is zero and costs nothing until it is written.
#[repr(C, align(4096))]
pub struct Pages<const N: usize>(UnsafeCell<[u8; N]>);

// SAFETY: there is one thread; the writer shares a buffer only by the protocol described at `log::Writer`.
unsafe impl<const N: usize> Sync for Pages<N> {}

impl<const N: usize> Pages<N> {
    pub const fn new() -> Self {
        Self(UnsafeCell::new([0; N]))
    }

    /// The memory.
    ///
    /// # Safety
    /// No other reference to it may be in use.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn get(&self) -> &mut [u8; N] {
        // SAFETY: the caller vouches for being the only one.
        unsafe { &mut *self.0.get() }
    }

    /// Gives the pages back to the kernel; they are zero when next touched.
    ///
    /// # Safety
    /// Nobody may still want what is in them.
    pub unsafe fn release(&self) {
        const MADV_DONTNEED: usize = 4;
        // SAFETY: the range is this static's own pages: aligned to a page, and N is a multiple of one (of 4 KiB;
        // with larger pages the kernel refuses and nothing is given back).
        let _ = unsafe { call(nr::MADVISE, [self.0.get() as usize, N, MADV_DONTNEED, 0, 0, 0]) };
    }
}

/// Starts `entry` in a new process that shares memory and descriptors with this one, on the given stack. It is not a
/// thread: it has its own exit, so that one that hangs in the kernel does not hold this process's end back.
///
/// # Safety
/// `stack` must be used by nobody else, and `of` must live, until the process is reaped or the program ends; `entry` must keep to its part of the memory.
pub unsafe fn spawn<const N: usize, T: Sync>(
    stack: &Pages<N>,
    entry: extern "C" fn(&T) -> !,
    of: &T,
) -> Result<i32, i32> {
    const CLONE_VM: usize = 0x100;
    const CLONE_FS: usize = 0x200;
    const CLONE_FILES: usize = 0x400;
    let flags = CLONE_VM | CLONE_FS | CLONE_FILES | SIGCHLD as usize;
    let top = stack.0.get() as usize + N;
    let ret: isize;
    // SAFETY: the child never returns to this frame: it begins on its own stack, aligned as the calling convention
    // wants, and calls `entry`, which does not return. The parent goes on as after any call.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r9",
            "ud2",
            "2:",
            inlateout("rax") nr::CLONE as isize => ret, in("rdi") flags, in("rsi") top, in("rdx") 0, in("r10") 0,
            in("r8") 0, in("r9") entry, in("r12") of, lateout("rcx") _, lateout("r11") _,
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x10",
            "blr x9",
            "brk 1",
            "2:",
            in("x8") nr::CLONE, inlateout("x0") flags as isize => ret, in("x1") top, in("x2") 0, in("x3") 0,
            in("x4") 0, in("x9") entry, in("x10") of,
        );
    }
    answer(ret).map(|pid| pid as i32)
}
