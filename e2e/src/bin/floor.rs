//! What the kernel alone takes to start a container: one process with the same namespaces, cgroups, mounts, devices,
//! capabilities and a filter, everything fixed beforehand. The benchmarks give stower's time as a ratio to this.
//!
//! `floor ID ROOTFS OUT PROGRAM [ARG]...` runs PROGRAM in ROOTFS with OUT mounted on `/out`, and returns at its end.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use rustix::fs::{CWD, FileType, Mode, makedev};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change, unmount,
};
use rustix::process::pivot_root;

/// The version 1 hierarchies that limits are set in.
const CONTROLLERS: [(&str, &str, &str); 3] = [
    ("memory", "memory.limit_in_bytes", "268435456"),
    ("pids", "pids.max", "128"),
    ("cpu", "cpu.shares", "512"),
];
/// From linux/sched.h; libc's constant is of a type that is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// The capabilities that containers usually keep.
const KEPT: u64 = 0xa804_25fb;

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("floor: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<u8> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [id, root, out, program, rest @ ..] = args.as_slice() else {
        bail!("usage: floor ID ROOTFS OUT PROGRAM [ARG]...");
    };
    let groups = make_cgroups(id)?;
    let unified = unified()?.join(format!("floor-{id}"));
    fs::create_dir_all(&unified)?;
    let unified_fd = File::open(&unified)?;
    let pid = clone_into(&unified_fd)?;
    if pid == 0 {
        let error = child(&groups, root, out, program, rest);
        eprintln!("floor: in the container: {error:#}");
        std::process::exit(127);
    }
    let mut status = 0;
    // SAFETY: `status` is a valid place for the answer, and `pid` is a child that nothing else waits for.
    if unsafe { libc::waitpid(pid, &raw mut status, 0) } != pid {
        bail!("waiting for the child: {}", std::io::Error::last_os_error());
    }
    for group in groups.iter().chain([&unified]) {
        fs::remove_dir(group).with_context(|| format!("remove {}", group.display()))?;
    }
    Ok(if libc::WIFEXITED(status) { u8::try_from(libc::WEXITSTATUS(status)).unwrap_or(255) } else { 255 })
}

/// Groups in the hierarchies of version 1, where there are any.
fn make_cgroups(id: &str) -> Result<Vec<PathBuf>> {
    let mut groups = Vec::new();
    for (controller, file, value) in CONTROLLERS {
        let top = Path::new("/sys/fs/cgroup").join(controller);
        if top.is_dir() {
            let group = top.join(format!("floor-{id}"));
            fs::create_dir_all(&group)?;
            fs::write(group.join(file), value).with_context(|| format!("set {file}"))?;
            groups.push(group);
        }
    }
    Ok(groups)
}

fn unified() -> Result<PathBuf> {
    ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .iter()
        .map(PathBuf::from)
        .find(|path| path.join("cgroup.controllers").exists())
        .context("cgroup2 is not mounted")
}

/// clone3 into new namespaces and a cgroup; returns 0 in the child, as fork does.
fn clone_into(cgroup: &File) -> Result<i32> {
    let namespaces =
        (libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS) as u64;
    // SAFETY: all-zero bytes are a valid `clone_args`.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = namespaces | CLONE_INTO_CGROUP;
    args.exit_signal = u64::try_from(libc::SIGCHLD)?;
    args.cgroup = u64::try_from(cgroup.as_raw_fd())?;
    // SAFETY: no stack and no CLONE_VM are asked for, so this is a fork; the process has one thread, so the child may
    // go on as if it were the parent.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    if pid < 0 {
        bail!("clone3: {}", std::io::Error::last_os_error());
    }
    Ok(i32::try_from(pid)?)
}

/// Builds the container around this process and becomes the program; returns only on failure.
fn child(groups: &[PathBuf], root: &str, out: &str, program: &str, args: &[String]) -> anyhow::Error {
    let prepared = || -> Result<()> {
        for group in groups {
            fs::write(group.join("tasks"), "0").context("join a cgroup")?;
        }
        rustix::system::sethostname(b"floor")?;
        mounts(Path::new(root), out)?;
        confine()
    };
    match prepared() {
        Err(error) => error,
        Ok(()) => Command::new(program).args(args).env_clear().env("PATH", "/bin").exec().into(),
    }
}

fn mounts(root: &Path, out: &str) -> Result<()> {
    let quiet = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    let put = |kind: &str, at: &str, flags: MountFlags, data: &str| {
        let data = CString::new(data)?;
        let target = root.join(at);
        mount(kind, &target, kind, flags, Some(data.as_c_str()))
            .with_context(|| format!("mount {}", target.display()))
    };
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    mount_bind_recursive(root, root)?;
    put("proc", "proc", quiet, "")?;
    put("tmpfs", "dev", MountFlags::NOSUID, "mode=755,size=65536k")?;
    for folder in ["pts", "shm", "mqueue"] {
        fs::create_dir(root.join("dev").join(folder))?;
    }
    put("devpts", "dev/pts", MountFlags::NOSUID | MountFlags::NOEXEC, "newinstance,ptmxmode=0666,mode=0620")?;
    put("tmpfs", "dev/shm", quiet, "mode=1777,size=65536k")?;
    put("mqueue", "dev/mqueue", quiet, "")?;
    put("sysfs", "sys", quiet | MountFlags::RDONLY, "")?;
    for (name, major, minor) in
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)]
    {
        let at = root.join("dev").join(name);
        rustix::fs::mknodat(
            CWD,
            &at,
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            makedev(major, minor),
        )?;
    }
    mount_bind_recursive(out, root.join("out")).context("mount /out")?;
    rustix::process::chdir(root)?;
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    for at in ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"] {
        mount_bind_recursive(at, at)?;
        rustix::mount::mount_remount(at, MountFlags::BIND | MountFlags::RDONLY | quiet, "")?;
    }
    mount_bind_recursive("/dev/null", "/proc/keys")?;
    mount_bind_recursive("/dev/null", "/proc/timer_list")?;
    Ok(())
}

/// Drops capabilities, forbids new ones and sets a filter that allows everything: what it costs to have one at all.
fn confine() -> Result<()> {
    for number in (0..=40_u32).filter(|number| KEPT >> number & 1 == 0) {
        // SAFETY: the call takes numbers only.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
    }
    rustix::thread::set_no_new_privs(true)?;
    let allow = libc::sock_filter { code: 6, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW };
    let program = libc::sock_fprog { len: 1, filter: (&raw const allow).cast_mut() };
    // SAFETY: the program is one valid instruction, and the kernel copies it during the call.
    let done =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if done != 0 {
        bail!("seccomp: {}", std::io::Error::last_os_error());
    }
    Ok(())
}
