//! A small image made of one static program, and a container of it.

#![allow(dead_code, reason = "each test file uses its part")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Mount, Spec};
use stower_runtime::cgroup::{Cgroups, Limits};
use stower_runtime::error::StartError;
use stower_runtime::job::{LogLimits, Programs, RootFs, StartRequest};
use stower_runtime::start::{Runtime, Started};
use stower_runtime::{ExecError, ExecExit, ExecRequest, ExitRecord, SHIM, ShimHandle, defaults};

/// Fails the test when it does not run as root.
pub(crate) fn require_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test needs root: run it as root, or leave out `root_` tests"
    );
}

/// The probe program, compiled once for all tests.
pub(crate) fn probe() -> &'static Path {
    static PROBE: OnceLock<PathBuf> = OnceLock::new();
    PROBE.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let path = dir.join("probe");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/probe/probe.rs");
        let newer = |a: &Path, b: &Path| {
            let time = |p: &Path| fs::metadata(p).and_then(|m| m.modified()).ok();
            matches!((time(a), time(b)), (Some(a), Some(b)) if a > b)
        };
        if !newer(&path, &source) {
            let new = dir.join(format!("probe.{}", std::process::id()));
            let status = Command::new(std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned()))
                .args([
                    "--edition",
                    "2024",
                    "-C",
                    "opt-level=1",
                    "-C",
                    "panic=abort",
                    "-C",
                    "target-feature=+crt-static",
                ])
                .args(["-C", "relocation-model=static", "-C", "strip=symbols", "-o"])
                .arg(&new)
                .arg(&source)
                .status()
                .expect("the compiler runs");
            assert!(status.success(), "the probe does not compile");
            fs::rename(&new, &path).unwrap();
        }
        path
    })
}

/// The programs of this build, written where they can be executed.
fn programs() -> Programs {
    static SHIM_PATH: OnceLock<PathBuf> = OnceLock::new();
    let shim = SHIM_PATH.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let path = dir.join(format!("shim.{}", std::process::id()));
        fs::write(&path, SHIM).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    });
    Programs {
        starter: env!("CARGO_BIN_EXE_stower-starter").into(),
        shim: shim.clone(),
        shim_digest: "sha256:test".to_owned(),
    }
}

/// One container of one test, with its own directories and groups; everything goes with it.
pub(crate) struct Case {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) cgroups: Cgroups,
    pub(crate) uid: String,
    pub(crate) request: StartRequest,
    pub(crate) started: Option<Started>,
}

impl Case {
    /// A container of an image that holds `/bin/probe` and nothing else, asking `questions`.
    pub(crate) fn new(questions: &[&str]) -> Self {
        require_root();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::Builder::new().prefix("runtime-case").tempdir_in("/var/tmp").unwrap();
        let uid = format!("case{number}");
        let cgroups = Cgroups::detect(&format!("test{}x{number}", std::process::id()), None).unwrap();
        for sub in ["run", "log", "lower", "upper", "work", "lower/bin", "lower/etc", "lower/tmp"] {
            fs::create_dir(dir.path().join(sub)).unwrap();
        }
        if fs::hard_link(probe(), dir.path().join("lower/bin/probe")).is_err() {
            fs::copy(probe(), dir.path().join("lower/bin/probe")).unwrap();
        }
        fs::set_permissions(dir.path().join("run"), fs::Permissions::from_mode(0o700)).unwrap();
        let mut spec = defaults::spec();
        let mut args = vec!["/bin/probe".to_owned()];
        args.extend(questions.iter().map(|q| (*q).to_owned()));
        spec.process_mut().as_mut().unwrap().set_args(Some(args));
        let path = |sub: &str| dir.path().join(sub);
        let request = StartRequest {
            uid: uid.clone(),
            name: "default/case".to_owned(),
            run: 1,
            run_dir: path("run"),
            log_dir: path("log"),
            spec,
            root: RootFs::Overlay {
                lower: vec![path("lower")],
                upper: Some(path("upper")),
                work: Some(path("work")),
                options: Vec::new(),
            },
            volumes: Vec::new(),
            user: None,
            cgroup: Default::default(),
            seccomp: None,
            default_rlimits: Vec::new(),
            default_oom_score_adj: None,
            programs: programs(),
            logs: LogLimits::default(),
            deadline: Duration::from_secs(30),
            stdin: false,
            legacy_overlay: false,
            outside: None,
        };
        Self { dir, cgroups, uid, request, started: None }
    }

    pub(crate) fn path(&self, sub: &str) -> PathBuf {
        self.dir.path().join(sub)
    }

    pub(crate) fn spec(&mut self) -> &mut Spec {
        &mut self.request.spec
    }

    pub(crate) fn process(&mut self) -> &mut oci_spec::runtime::Process {
        self.request.spec.process_mut().as_mut().unwrap()
    }

    pub(crate) fn linux(&mut self) -> &mut oci_spec::runtime::Linux {
        self.request.spec.linux_mut().as_mut().unwrap()
    }

    pub(crate) fn add_mount(&mut self, destination: &str, typ: &str, source: &Path, options: &[&str]) {
        let mut mount = Mount::default();
        mount
            .set_destination(destination.into())
            .set_typ(Some(typ.to_owned()))
            .set_source(Some(source.to_owned()))
            .set_options(Some(options.iter().map(|o| (*o).to_owned()).collect()));
        let mut mounts = self.spec().mounts().clone().unwrap_or_default();
        mounts.push(mount);
        self.spec().set_mounts(Some(mounts));
    }

    pub(crate) fn drop_namespace(&mut self, kind: LinuxNamespaceType) {
        let list: Vec<LinuxNamespace> =
            self.linux().namespaces().iter().flatten().filter(|n| n.typ() != kind).cloned().collect();
        self.linux().set_namespaces(Some(list));
    }

    /// Starts it, with groups of these limits.
    pub(crate) fn try_start_limited(&mut self, limits: &Limits) -> Result<(), StartError> {
        self.request.cgroup = self.cgroups.create(&self.uid, limits).unwrap();
        let started = Runtime::new().unwrap().start(&self.request)?;
        self.started = Some(started);
        Ok(())
    }

    pub(crate) fn try_start(&mut self) -> Result<(), StartError> {
        self.try_start_limited(&Limits::default())
    }

    pub(crate) fn start(&mut self) {
        if let Err(e) = self.try_start() {
            panic!("not started: {}", chain(&e));
        }
    }

    pub(crate) fn started(&self) -> &Started {
        self.started.as_ref().unwrap()
    }

    pub(crate) fn init_pid(&self) -> u32 {
        self.started().record.init_pid
    }

    /// The running container, as an agent holds it.
    pub(crate) fn handle(&self) -> ShimHandle {
        let dir = fs::File::open(self.path("run")).unwrap();
        ShimHandle::open(dir.into(), self.started().record.clone()).unwrap().expect("it runs")
    }

    /// A request for one more process, which is asked these questions.
    pub(crate) fn ask(&self, questions: &[&str]) -> ExecRequest {
        let args = std::iter::once("/bin/probe").chain(questions.iter().copied()).map(str::to_owned);
        ExecRequest {
            args: args.collect(),
            starter: self.request.programs.starter.clone(),
            deadline: Some(Duration::from_secs(30)),
            ..ExecRequest::default()
        }
    }

    /// Runs one more process to its end; how it ended and what it said.
    pub(crate) fn exec(&self, request: ExecRequest) -> (ExecExit, Answers) {
        let runtime = Runtime::new().unwrap();
        match runtime.exec_captured(&self.handle(), request, 1 << 20) {
            Ok(captured) => {
                (captured.exit, Answers { text: String::from_utf8_lossy(&captured.output).into_owned() })
            }
            Err(e) => panic!("not started: {}", chain(&e)),
        }
    }

    /// Why one more process is not started.
    pub(crate) fn no_exec(&self, request: ExecRequest) -> ExecError {
        let runtime = Runtime::new().unwrap();
        runtime.exec(&self.handle(), request).expect_err("it starts")
    }

    /// Waits until the container has this many processes, and no group below its own.
    pub(crate) fn wait_for_processes(&self, count: usize) {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let now = self.cgroups.processes(&self.uid).unwrap();
            let v2 = self.cgroups.existing(&self.uid).v2.unwrap();
            let below: Vec<_> =
                fs::read_dir(v2).unwrap().flatten().filter(|e| e.path().is_dir()).map(|e| e.path()).collect();
            if now.len() == count && below.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "processes {now:?}, groups {below:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for the end of the shim; the exit code and all of the log's text.
    pub(crate) fn finish(&mut self) -> (i32, String) {
        let started = self.started.as_ref().unwrap();
        let ended = stower_runtime::proc::wait(&started.shim_pidfd, Some(Duration::from_secs(30))).unwrap();
        assert!(ended, "the shim did not end; log: {}", self.log());
        let run_dir = fs::File::open(self.path("run")).unwrap();
        let exit = ExitRecord::read(&run_dir).unwrap().expect("an exit record");
        (exit.exit_code, self.log())
    }

    /// Runs to the end, and the answers.
    pub(crate) fn run(&mut self) -> Answers {
        self.start();
        let (code, text) = self.finish();
        assert_eq!(code, 0, "{text}");
        Answers { text }
    }

    /// Looks at the log until `text` is in it.
    pub(crate) fn wait_for(&self, text: &str) {
        let end = Instant::now() + Duration::from_secs(30);
        while !self.log().contains(text) {
            assert!(Instant::now() < end, "no {text:?} in {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The log's text without times and stream names.
    pub(crate) fn log(&self) -> String {
        let mut files: Vec<_> = fs::read_dir(self.path("log")).unwrap().flatten().map(|e| e.path()).collect();
        files.sort();
        let mut text = String::new();
        for file in files {
            for line in fs::read_to_string(file).unwrap().lines() {
                text.push_str(line.splitn(4, ' ').nth(3).unwrap_or(""));
                text.push('\n');
            }
        }
        text
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        if let Some(started) = &self.started {
            let _ = rustix::process::pidfd_send_signal(&started.init_pidfd, rustix::process::Signal::KILL);
            let _ = stower_runtime::proc::wait(&started.shim_pidfd, Some(Duration::from_secs(10)));
            Started::reap_shim(&started.shim_pidfd);
        }
        let _ = self.cgroups.kill(&self.uid);
        let _ = self.cgroups.remove(&self.uid);
        let _ = self.cgroups.remove_root();
    }
}

/// What a probe said.
pub(crate) struct Answers {
    text: String,
}

impl Answers {
    /// All lines of one answer.
    pub(crate) fn lines(&self, question: &str) -> Vec<&str> {
        let mut lines = self.text.lines().skip_while(|l| *l != format!("== {question}"));
        assert!(lines.next().is_some(), "no answer to {question} in {}", self.text);
        lines.take_while(|l| !l.starts_with("== ")).collect()
    }

    /// The one line of an answer.
    pub(crate) fn one(&self, question: &str) -> &str {
        let lines = self.lines(question);
        assert_eq!(lines.len(), 1, "{question}: {lines:?}");
        lines[0]
    }

    /// A field of `/proc/self/status`.
    pub(crate) fn status(&self, field: &str) -> String {
        let lines = self.lines("cat:/proc/self/status");
        let line = lines.iter().find_map(|l| l.strip_prefix(&format!("{field}:")));
        line.unwrap_or_else(|| panic!("no field {field}")).trim().to_owned()
    }

    /// `(options, filesystem type)` of the last mount at a place.
    pub(crate) fn mount(&self, place: &str) -> Option<(String, String)> {
        let lines = self.lines("cat:/proc/self/mountinfo");
        lines.iter().rev().find_map(|l| {
            let f: Vec<&str> = l.split(' ').collect();
            let dash = f.iter().position(|x| *x == "-")?;
            (f[4] == place).then(|| (f[5].to_owned(), f[dash + 1].to_owned()))
        })
    }
}

/// An error with all its causes.
pub(crate) fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut next = e.source();
    while let Some(e) = next {
        text.push_str(": ");
        text.push_str(&e.to_string());
        next = e.source();
    }
    text
}
