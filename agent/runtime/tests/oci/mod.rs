//! A bundle with the probe program in it, and the command line on it.

#![allow(dead_code, reason = "each test file uses its part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::common::{probe, require_root};

/// One bundle of one test with its own root directory and groups.
pub(crate) struct Bundle {
    dir: tempfile::TempDir,
    config: Value,
    id: String,
}

/// What the probe has answered.
pub(crate) struct Answers(String);

impl Answers {
    pub(crate) fn all(&self, question: &str) -> &str {
        let head = format!("== {question}\n");
        let start = self.0.find(&head).unwrap_or_else(|| panic!("no answer to {question} in {}", self.0))
            + head.len();
        let rest = &self.0[start..];
        &rest[..rest.find("\n== ").unwrap_or(rest.len())]
    }

    pub(crate) fn one(&self, question: &str) -> &str {
        self.all(question).trim()
    }
}

/// A hook that runs a script and adds what it prints to a file.
pub(crate) fn hook(script: &str, log: &str) -> Value {
    json!({ "path": "/bin/sh", "args": ["sh", "-c", format!("{{ {script}; }} >> {log}")] })
}

impl Bundle {
    pub(crate) fn new(questions: &[&str]) -> Self {
        require_root();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("oci-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::Builder::new().prefix("runtime-oci").tempdir_in("/var/tmp").unwrap();
        // Users of a namespace reach the root through it.
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        for sub in ["bundle", "bundle/rootfs", "bundle/rootfs/bin", "bundle/rootfs/etc", "bundle/rootfs/tmp"]
        {
            fs::create_dir(dir.path().join(sub)).unwrap();
        }
        let to = dir.path().join("bundle/rootfs/bin/probe");
        if fs::hard_link(probe(), &to).is_err() {
            fs::copy(probe(), &to).unwrap();
        }
        let mut bundle = Self { dir, config: Value::Null, id };
        bundle.ok(&["spec", "--bundle", bundle.path()]);
        bundle.config = serde_json::from_str(&fs::read_to_string(bundle.config_file()).unwrap()).unwrap();
        let mut args = vec!["/bin/probe"];
        args.extend(questions);
        bundle.set("/process/args", json!(args));
        bundle.set("/process/terminal", json!(false));
        bundle.set("/root/readonly", json!(false));
        bundle.set("/linux/cgroupsPath", json!(format!("/{}", bundle.id)));
        bundle
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn path(&self) -> &str {
        // A leak of a few bytes a test keeps the calls readable.
        Box::leak(self.dir.path().join("bundle").display().to_string().into_boxed_str())
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.dir.path().join("bundle/rootfs")
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// A path beside the bundle.
    pub(crate) fn file(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn config_file(&self) -> PathBuf {
        self.dir.path().join("bundle/config.json")
    }

    /// Sets a field of the configuration by its JSON pointer; what is missing on the way is made.
    pub(crate) fn set(&mut self, pointer: &str, value: Value) {
        let mut at = &mut self.config;
        for key in pointer.split('/').skip(1) {
            at = at.as_object_mut().unwrap().entry(key).or_insert_with(|| json!({}));
        }
        *at = value;
        fs::write(self.config_file(), self.config.to_string()).unwrap();
    }

    pub(crate) fn get(&self, pointer: &str) -> Value {
        self.config.pointer(pointer).cloned().unwrap_or(Value::Null)
    }

    /// Adds to a list of the configuration.
    pub(crate) fn push(&mut self, pointer: &str, value: Value) {
        let mut list = self.get(pointer);
        if list.is_null() {
            list = json!([]);
        }
        list.as_array_mut().unwrap().push(value);
        self.set(pointer, list);
    }

    pub(crate) fn with_user_namespace(&mut self, first: u32) {
        self.push("/linux/namespaces", json!({ "type": "user" }));
        let map = json!([{ "containerID": 0, "hostID": first, "size": 65536 }]);
        self.set("/linux/uidMappings", map.clone());
        self.set("/linux/gidMappings", map);
    }

    /// Runs the command line; its output goes to files, because a container holds what it inherits. That of `create`, and so of
    /// its container, is in `out.create`.
    pub(crate) fn command(&self, args: &[&str]) -> Output {
        let file = |name: &str| fs::File::create(self.dir.path().join(name)).unwrap();
        let created = args.first() == Some(&"create");
        let stdout = if created { "out.create" } else { "stdout" };
        let status = Command::new(env!("CARGO_BIN_EXE_stower-runtime"))
            .arg("--root")
            .arg(self.root())
            .args(args)
            .stdin(Stdio::null())
            .stdout(file(stdout))
            .stderr(file("stderr"))
            .status()
            .unwrap();
        let read = |name: &str| fs::read(self.dir.path().join(name)).unwrap();
        Output { status, stdout: read(stdout), stderr: read("stderr") }
    }

    /// `start` beside other commands; whether it succeeds, nobody asks.
    pub(crate) fn start_elsewhere(&self) {
        let _ = Command::new(env!("CARGO_BIN_EXE_stower-runtime"))
            .arg("--root")
            .arg(self.root())
            .args(["start", &self.id])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
    }

    /// Runs what has to succeed; gives standard output.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.command(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs what has to fail; gives what it says.
    pub(crate) fn err(&self, args: &[&str]) -> String {
        let output = self.command(args);
        assert!(!output.status.success(), "{args:?} did not fail");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Runs the container to its end; gives what the probe says.
    pub(crate) fn run(&self) -> Answers {
        let output = self.command(&["run", "--bundle", self.path(), &self.id]);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && out.ends_with("== end\n"), "{:?} {out} {err}", output.status);
        Answers(out.into_owned())
    }

    pub(crate) fn exec(&self, options: &[&str], questions: &[&str]) -> Answers {
        let args = [&["exec"], options, &[&self.id, "/bin/probe"], questions].concat();
        Answers(self.ok(&args))
    }

    pub(crate) fn state(&self) -> Value {
        serde_json::from_str(&self.ok(&["state", &self.id])).unwrap()
    }

    /// Waits for the first process to end.
    pub(crate) fn until_stopped(&self) {
        let until = Instant::now() + Duration::from_secs(60);
        while self.state()["status"] != "stopped" {
            assert!(Instant::now() < until, "it does not stop");
            std::thread::yield_now();
        }
    }

    /// No state, no group, no mount.
    pub(crate) fn assert_nothing_left(&self) {
        if let Ok(left) = fs::read_dir(self.root()) {
            assert_eq!(left.count(), 0, "state is left");
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&*self.rootfs().to_string_lossy()), "a mount is left");
        for top in
            ["/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/pids"]
        {
            assert!(!Path::new(top).join(&self.id).exists(), "a group is left in {top}");
        }
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = self.command(&["delete", "--force", &self.id]);
    }
}
