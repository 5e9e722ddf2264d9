//! Plays the starter: makes the container's first process and becomes its shim.

#![allow(missing_docs, unreachable_pub, reason = "a part of a test program, and of an example")]

use std::ffi::CString;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use stower_runtime::proc::{self, ProcessId};
use stower_runtime::shim::Stdin;
use stower_runtime::shim::frame::{HEADER_LEN, Header, State, Stop, StopLater, VERSION, kind};
use stower_runtime::{ExitRecord, ShimArgs, ShimRecord};

pub const SHIM: &str = concat!(env!("OUT_DIR"), "/stower-shim");
/// Nothing here takes so long; a test that waits so long fails.
pub const LONG: Duration = Duration::from_secs(60);

pub struct Options {
    pub run: u64,
    pub log_max_bytes: u64,
    pub log_max_files: u32,
    pub log_block: bool,
    pub log_dir: Option<PathBuf>,
    pub cgroup: Option<PathBuf>,
    pub shim: &'static str,
}

impl Default for Options {
    fn default() -> Self {
        let log_max_bytes = 10 << 20;
        Self {
            run: 1,
            log_max_bytes,
            log_max_files: 5,
            log_block: false,
            log_dir: None,
            cgroup: None,
            shim: SHIM,
        }
    }
}

pub struct Shim {
    pub child: Child,
    pub pidfd: OwnedFd,
    pub dir: tempfile::TempDir,
    pub logs: PathBuf,
    pub record: ShimRecord,
}

fn c(text: &str) -> CString {
    CString::new(text).unwrap()
}

impl Shim {
    /// Runs `sh -c script` under a shim.
    pub fn start(script: &str, options: &Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = dir.path().join("run");
        std::fs::create_dir(&run_dir).unwrap();
        let logs = options.log_dir.clone().unwrap_or_else(|| dir.path().join("logs"));
        if options.log_dir.is_none() {
            std::fs::create_dir(&logs).unwrap();
        }
        let started_at = "2026-01-02T03:04:05.000000006Z".to_owned();
        let args = ShimArgs {
            init_pid: 0,
            run: options.run,
            boot_id: proc::boot_id().unwrap(),
            started_at: started_at.clone(),
            log_max_bytes: options.log_max_bytes,
            log_max_files: options.log_max_files,
            log_block: options.log_block,
            cgroup_kill: options.cgroup.is_some(),
            stdin: Stdin::None,
        };
        let (child, init_pid) =
            spawn(options.shim, script, &args, &run_dir, &logs, options.cgroup.as_deref());
        let id = ProcessId { pid: child.id(), start: proc::start_time(child.id()).unwrap().unwrap() };
        let record = ShimRecord {
            version: 1,
            boot_id: args.boot_id,
            shim_pid: id.pid,
            shim_start: id.start,
            init_pid,
            init_start: proc::start_time(init_pid).unwrap().unwrap_or(0),
            run: options.run,
            started_at,
            shim: "sha256:0".into(),
            contract: 1,
            extra: serde_json::Map::default(),
        };
        record.write(std::fs::File::open(&run_dir).unwrap()).unwrap();
        let pidfd = proc::open(id).unwrap().expect("the shim is not reaped yet");
        Self { child, pidfd, dir, logs, record }
    }

    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.run_dir().join("s")).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    }

    pub fn stop(&self, signal: u32, grace: Duration) -> State {
        let payload = Stop { signal, grace_ms: u64::try_from(grace.as_millis()).unwrap() }.encode();
        let (reply, payload) = ask(&mut self.connect(), VERSION, kind::STOP, &payload);
        assert_eq!(reply, kind::STATE);
        State::decode(&payload).unwrap()
    }

    pub fn stop_later(&self, signal: u32, after: Duration, grace: Duration) -> State {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap();
        let later = StopLater { stop: Stop { signal, grace_ms: ms(grace) }, signal_ms: ms(after) };
        let (reply, payload) = ask(&mut self.connect(), VERSION, kind::STOP_LATER, &later.encode());
        assert_eq!(reply, kind::STATE);
        State::decode(&payload).unwrap()
    }

    /// Waits for the shim's end and gives the exit record.
    pub fn ended(&mut self) -> Option<ExitRecord> {
        assert!(proc::wait(&self.pidfd, Some(LONG)).unwrap(), "the shim does not end");
        self.child.wait().unwrap();
        ExitRecord::read(std::fs::File::open(self.run_dir()).unwrap()).unwrap()
    }

    /// Waits until the log has a record that ends with this line.
    pub fn wait_for_line(&self, line: &str) {
        let want = format!(" F {line}\n");
        wait_for_change(&self.logs, || self.log().contains(&want));
    }

    /// All log files in order of their numbers.
    pub fn log(&self) -> String {
        let mut files: Vec<(u64, u64, PathBuf)> = Vec::new();
        for entry in std::fs::read_dir(&self.logs).unwrap() {
            let path = entry.unwrap().path();
            let Some(stem) = path.file_name().unwrap().to_str().unwrap().strip_suffix(".log") else {
                continue;
            };
            let (run, seq) = stem.split_once('-').unwrap();
            files.push((run.parse().unwrap(), seq.parse().unwrap(), path));
        }
        files.sort();
        let mut all = Vec::new();
        for (_, _, path) in files {
            // A rotated file may be gone by now.
            if let Ok(mut file) = std::fs::File::open(path) {
                file.read_to_end(&mut all).unwrap();
            }
        }
        String::from_utf8_lossy(&all).into_owned()
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        let id = ProcessId { pid: self.record.init_pid, start: self.record.init_start };
        if let Ok(Some(init)) = proc::open(id) {
            let _ = proc::signal(init.as_fd(), rustix::process::Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Calls `done` at each change in a directory until it says yes.
pub fn wait_for_change(dir: &Path, mut done: impl FnMut() -> bool) {
    use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
    inotify::add_watch(&watch, dir, WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO).unwrap();
    while !done() {
        assert!(proc::wait(&watch, Some(LONG)).unwrap(), "nothing changes in {}", dir.display());
        while rustix::io::read(&watch, &mut [0_u8; 4096]).is_ok() {}
    }
}

pub fn ask(stream: &mut UnixStream, version: u16, kind: u16, payload: &[u8]) -> (u16, Vec<u8>) {
    let header = Header { version, kind, len: u32::try_from(payload.len()).unwrap() };
    stream.write_all(&[&header.encode(), payload].concat()).unwrap();
    let mut head = [0; HEADER_LEN];
    stream.read_exact(&mut head).unwrap();
    let head = Header::decode(head);
    let mut reply = vec![0; usize::try_from(head.len).unwrap()];
    stream.read_exact(&mut reply).unwrap();
    (head.kind, reply)
}

/// The shim as a child of this process, and the pid of its own first child.
fn spawn(
    shim: &str,
    script: &str,
    args: &ShimArgs,
    run_dir: &Path,
    logs: &Path,
    cgroup: Option<&Path>,
) -> (Child, u32) {
    let shim_path = shim;
    let listener = UnixListener::bind(run_dir.join("s")).unwrap();
    let (out_read, out_write) = std::io::pipe().unwrap();
    let (err_read, err_write) = std::io::pipe().unwrap();
    let (mut pid_read, pid_write) = std::io::pipe().unwrap();
    let run_fd = std::fs::File::open(run_dir).unwrap();
    let log_fd = std::fs::File::open(logs).unwrap();
    let cgroup = cgroup.map(|path| std::fs::File::open(path).unwrap());

    // Everything is made here: between fork and exec nothing may allocate. Addresses are kept as numbers, so that the
    // closure may be sent; what they point to moves with it and keeps its place.
    let strings = [c("/bin/sh"), c("-c"), c(script), c(shim), c("PATH=/usr/bin:/bin")];
    let at = |i: usize| strings[i].as_ptr() as usize;
    let (shell, shell_env, shim) = ([at(0), at(1), at(2), 0], [at(4), 0], at(3));
    let mut argv: Vec<Vec<u8>> =
        args.to_argv().into_iter().map(|a| [OsStringExt::into_vec(a), vec![0]].concat()).collect();
    let pid_at = argv.iter().position(|a| a.starts_with(b"init-pid=")).unwrap();
    argv[pid_at] = b"init-pid=0000000000\0".to_vec();
    let argv_at: Vec<usize> = argv.iter().map(|a| a.as_ptr() as usize).chain([0]).collect();
    let fds = [
        run_fd.as_raw_fd(),
        log_fd.as_raw_fd(),
        listener.as_raw_fd(),
        -1,
        out_read.as_raw_fd(),
        err_read.as_raw_fd(),
        cgroup.as_ref().map_or(-1, AsRawFd::as_raw_fd),
    ];
    let (out_fd, err_fd, pid_fd) = (out_write.as_raw_fd(), err_write.as_raw_fd(), pid_write.as_raw_fd());

    let closure = move || {
        let _keep = &strings;
        // SAFETY: only system calls, as the process is a fork of one with threads; the strings live.
        unsafe {
            let mut chld: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut chld);
            libc::sigaddset(&raw mut chld, libc::SIGCHLD);
            libc::sigprocmask(libc::SIG_BLOCK, &raw const chld, std::ptr::null_mut());
            libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
            let init = libc::fork();
            if init == 0 {
                libc::sigprocmask(libc::SIG_UNBLOCK, &raw const chld, std::ptr::null_mut());
                libc::dup2(out_fd, 1);
                libc::dup2(err_fd, 2);
                libc::execve(shell[0] as *const _, shell.as_ptr().cast(), shell_env.as_ptr().cast());
                libc::_exit(127);
            }
            libc::write(pid_fd, (&raw const init).cast(), 4);
            let mut n = init;
            for digit in argv[pid_at][9..19].iter_mut().rev() {
                *digit = b'0' + u8::try_from(n % 10).unwrap_or(0);
                n /= 10;
            }
            // Away from the fixed numbers first.
            let mut high = [-1; 7];
            for (to, from) in high.iter_mut().zip(fds) {
                *to = libc::fcntl(from, libc::F_DUPFD, 200);
            }
            let pidfd = i32::try_from(libc::syscall(libc::SYS_pidfd_open, init, 0)).unwrap_or(-1);
            high[3] = libc::fcntl(pidfd, libc::F_DUPFD, 200);
            for (to, from) in (3..).zip(high) {
                if from >= 0 {
                    libc::dup2(from, to);
                }
            }
            libc::syscall(libc::SYS_close_range, 10, u32::MAX, 0);
            libc::execve(shim as *const _, argv_at.as_ptr().cast(), [std::ptr::null()].as_ptr());
        }
        Err(std::io::Error::last_os_error())
    };
    let mut command = Command::new(shim_path);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: the closure keeps to system calls.
    unsafe { command.pre_exec(closure) };
    let child = command.spawn().unwrap();
    drop((out_write, err_write, pid_write));
    let mut pid = [0; 4];
    pid_read.read_exact(&mut pid).unwrap();
    (child, u32::from_ne_bytes(pid))
}
