//! A node of a cluster: a real kubelet with Debian's containerd, runc and CNI plugins, in namespaces of its own.
//!
//! ```text
//!  network, mount, pid, uts and ipc namespaces of the node
//!  ┌──────────────────────────────────────────────────────────────────┐
//!  │ process 1 ── containerd ── pods      10.0.0.1:443 ◄── pods,      │
//!  │           └─ kubelet ───────────────────┐  │           kubelet   │      the machine
//!  └─────────────────────────────────────────┼──┼─────────────────────┘
//!                                            └──┴── forwarded by a thread ──► API server, registry
//! ```
//!
//! To a pod with `hostPID` its process 1 is the host's. All processes end with it; mounts, network and the rest with them. What is
//! left then are cgroups, and those are removed.

use std::fs::{self, File};
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use rustix::thread::LinkNameSpaceType;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Cluster, programs};
use crate::image::{Compression, ImageBuilder};
use crate::{catalog, http, process, requires, teardown, wait_for, wait_long_for};

/// The first address of the cluster's services, which is the API server's.
const API: &str = "10.0.0.1";
/// The node's own.
const ADDRESS: &str = "10.9.0.1";
/// Where kubelet tells of its pods, to who is in the node's network.
const READ_ONLY_PORT: u16 = 10255;
/// How long a node may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);
/// What a sandbox is made of.
const PAUSE: &str = "stower.test/pause:1";
/// Where Debian puts the CNI plugins.
const CNI: &str = "/usr/lib/cni";
/// What kubelet sets aside for others than pods, as the README has it for containers.
pub const RESERVED: Reserved = Reserved { milli_cpu: 200, memory: 256 << 20, pids: 512 };
/// The programs, with their packages.
pub const PROGRAMS: [(&str, &str); 6] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
];

/// Room on a node.
#[derive(Clone, Copy, Debug)]
pub struct Reserved {
    /// Thousandths of a processor.
    pub milli_cpu: u64,
    /// Bytes.
    pub memory: u64,
    /// Processes.
    pub pids: u64,
}

impl Reserved {
    /// As `systemReserved` of kubelet and `containers.limits` of the agent are written.
    pub fn quantities(&self) -> Value {
        json!({"cpu": format!("{}m", self.milli_cpu), "memory": self.memory.to_string(), "pid": self.pids.to_string()})
    }
}

/// A node. Everything that it runs ends with this value.
#[derive(Debug)]
pub struct KubeNode {
    /// Its name.
    pub name: String,
    first: u32,
    holder: Mutex<Option<Child>>,
    containerd: Mutex<Option<Child>>,
    kubelet: Mutex<Option<Child>>,
    kubelet_program: PathBuf,
    folder: TempDir,
}

impl KubeNode {
    /// Makes a node of the cluster and waits until it is ready.
    pub fn start(cluster: &Cluster, name: &str) -> Result<Self> {
        requires::root()?;
        for (program, package) in PROGRAMS {
            requires::program(program, package)?;
        }
        let folder = tempfile::Builder::new()
            .prefix(&teardown::prefix(std::process::id()))
            .tempdir_in(teardown::PLACE)?;
        let (holder, first) = namespaces(folder.path(), name)?;
        let node = Self {
            name: name.to_owned(),
            first,
            holder: Mutex::new(Some(holder)),
            containerd: Mutex::default(),
            kubelet: Mutex::default(),
            kubelet_program: programs::kubernetes()?.join("kubelet"),
            folder,
        };
        node.forward(&format!("{API}:443"), &cluster.address)?;
        node.start_containerd()?;
        node.import(&node.pause()?)?;
        node.configure_kubelet(cluster)?;
        node.start_kubelet()?;
        wait_long_for(format!("the node {name} to be ready"), PATIENCE, || {
            let object = cluster.object("node", "default", name)?;
            let conditions =
                object.as_ref().and_then(|object| object["status"]["conditions"].as_array().cloned());
            let ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
            Ok(conditions.is_some_and(|all| all.iter().any(ready)).then_some(()))
        })
        .with_context(|| node.log_tail())?;
        Ok(node)
    }

    /// A command in the node's namespaces.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.first.to_string());
        command.args(["--mount", "--pid", "--net", "--uts", "--ipc", "--wdns=/", "--", program]);
        process::without_settings(&mut command);
        command
    }

    /// Runs a command in the node's namespaces; it must succeed.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        process::run_command(self.command(program).args(args))
    }

    /// A file of the node, as it sees it.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.first))
    }

    /// The node's process table, by command line.
    pub fn processes(&self) -> Result<Vec<(u32, String)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.path("/proc"))?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
            found.push((pid, String::from_utf8_lossy(&line).replace('\0', " ").trim().to_owned()));
        }
        Ok(found)
    }

    /// Takes an OCI archive into containerd.
    pub fn import(&self, archive: &Path) -> Result<()> {
        let archive = archive.to_str().context("the archive's path is no text")?;
        self.run("ctr", &["--namespace", "k8s.io", "images", "import", "--all-platforms", archive]).map(drop)
    }

    /// A folder that the node and the machine see at the same path.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Does something in the node's network. A socket stays in the network that its thread was in.
    pub fn in_network<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = File::open(format!("/proc/{}/ns/net", self.first))?;
        thread::scope(|scope| {
            let there = scope.spawn(|| {
                rustix::thread::move_into_link_name_space(
                    namespace.as_fd(),
                    Some(LinkNameSpaceType::Network),
                )?;
                act()
            });
            there.join().unwrap_or_else(|_| bail!("the thread in the node's network panicked"))
        })
    }

    /// Lets what connects to `listen` in the node reach `target` on the machine, as long as this process lives.
    pub fn forward(&self, listen: &str, target: &str) -> Result<()> {
        let bind = || TcpListener::bind(listen).with_context(|| format!("listen on {listen} in the node"));
        let (listener, target) = (self.in_network(bind)?, target.to_owned());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let target = target.clone();
                thread::spawn(move || {
                    if let Ok(server) = TcpStream::connect(&target) {
                        relay(&client, &server);
                    }
                });
            }
        });
        Ok(())
    }

    /// Starts kubelet.
    pub fn start_kubelet(&self) -> Result<()> {
        let folder = self.folder().display();
        let program = self.kubelet_program.to_str().context("kubelet's path is no text")?;
        let mut command = self.command(program);
        command.args([
            format!("--config={folder}/kubelet.yaml"),
            format!("--kubeconfig={folder}/kubelet.kubeconfig"),
            format!("--hostname-override={}", self.name),
            format!("--node-ip={ADDRESS}"),
            "--root-dir=/var/lib/kubelet".to_owned(),
            "--cert-dir=/var/lib/kubelet/pki".to_owned(),
        ]);
        let child = self.spawn(&command, "kubelet")?;
        *self.kubelet.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        Ok(())
    }

    /// Ends kubelet and starts it again; pods go on.
    pub fn restart_kubelet(&self) -> Result<()> {
        let child = self.kubelet.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut child) = child {
            // The child is nsenter; kubelet is the process below it.
            for pid in process::all() {
                if process::parent(pid).is_ok_and(|parent| parent == child.id()) {
                    process::signal(pid, Signal::TERM)?;
                }
            }
            wait_for("kubelet to end", || Ok(child.try_wait()?))?;
        }
        self.start_kubelet()
    }

    /// The pods that kubelet looks after, by its own word.
    pub fn kubelet_pods(&self) -> Result<Value> {
        let answer =
            self.in_network(|| http::tcp(&format!("{ADDRESS}:{READ_ONLY_PORT}"), "GET", "/pods", &[], &[]))?;
        ensure!(answer.status == 200, "kubelet answered {}: {}", answer.status, answer.text());
        Ok(serde_json::from_slice(&answer.body)?)
    }

    /// What containerd and kubelet wrote last.
    pub fn log_tail(&self) -> String {
        ["containerd", "kubelet"]
            .map(|name| {
                let text = fs::read_to_string(self.folder().join(format!("{name}.log"))).unwrap_or_default();
                format!("--- {name}\n{}", process::tail(&text, 30))
            })
            .concat()
    }

    /// What the containers of a pod wrote, by kubelet's files.
    pub fn pod_logs(&self, part_of_name: &str) -> String {
        let mut text = String::new();
        let mut folders = vec![self.path("/var/log/pods")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.to_string_lossy().contains(part_of_name) {
                    text += &format!("--- {}\n", path.display());
                    text += &process::tail(&fs::read_to_string(&path).unwrap_or_default(), 40);
                }
            }
        }
        text
    }

    fn spawn(&self, command: &Command, name: &str) -> Result<Child> {
        let log =
            File::options().create(true).append(true).open(self.folder().join(format!("{name}.log")))?;
        let mut command = process::dies_with_us(command);
        process::without_settings(&mut command);
        command.env("GOMEMLIMIT", "300MiB").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        process::spawn_from_lasting_thread(command)
    }

    fn start_containerd(&self) -> Result<()> {
        let folder = self.folder();
        fs::create_dir_all(folder.join("cni"))?;
        let network = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [
            {"type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "ipam": {
                "type": "host-local", "dataDir": "/run/cni", "ranges": [[{"subnet": "10.88.0.0/24"}]],
            }},
        ]});
        fs::write(folder.join("cni/pods.conflist"), network.to_string())?;
        let config = format!(
            r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # A process without CAP_SYS_RESOURCE cannot lower it.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI}"
    conf_dir = "{}"
"#,
            folder.join("cni").display()
        );
        let path = folder.join("containerd.toml");
        fs::write(&path, config)?;
        let mut command = self.command("containerd");
        command.arg("--config").arg(&path);
        let child = self.spawn(&command, "containerd")?;
        *self.containerd.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        wait_for("containerd to answer", || Ok(self.run("ctr", &["version"]).ok()))
            .map(drop)
            .with_context(|| self.log_tail())
    }

    /// The sandbox's image: the tests' own program, which stays.
    fn pause(&self) -> Result<PathBuf> {
        let layer = self.folder().join("pause");
        fs::create_dir(&layer)?;
        fs::copy(catalog::own_program("payload")?, layer.join("payload"))?;
        let layout = self.folder().join("pause-image");
        let builder = ImageBuilder::new("pause").layer(&layer, Compression::Gzip).reference(PAUSE);
        builder.config(json!({"Entrypoint": ["/payload", "stay"]})).write(&layout)?;
        let archive = self.folder().join("pause.tar");
        crate::Image::open("pause", &layout)?.write_oci_archive(&archive)?;
        Ok(archive)
    }

    fn configure_kubelet(&self, cluster: &Cluster) -> Result<()> {
        let group = self.group();
        for hierarchy in teardown::hierarchies() {
            // Of version 2: what kubelet asks for is to be had in the group, as far as it is there.
            for controller in ["+cpu", "+cpuset", "+memory", "+pids"] {
                let _ = fs::write(hierarchy.join("cgroup.subtree_control"), controller);
            }
            // Some of those that are mounted take no groups.
            let _ = fs::create_dir(hierarchy.join(&group));
        }
        let config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs", "cgroupRoot": format!("/{group}"), "failCgroupV1": false, "failSwapOn": false,
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "enforceNodeAllocatable": [], "evictionHard": {}, "localStorageCapacityIsolation": false,
            "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
            "readOnlyPort": READ_ONLY_PORT, "resolvConf": "", "systemReserved": RESERVED.quantities(), "nodeStatusUpdateFrequency": "10s",
        });
        fs::write(self.folder().join("kubelet.yaml"), config.to_string())?;
        // By the same address as pods, with the rights of an administrator.
        let text = fs::read_to_string(&cluster.kubeconfig)?;
        let text = text.replace(&format!("https://{}", cluster.address), &format!("https://{API}:443"));
        ensure!(text.contains(API), "the kubeconfig names no server {}", cluster.address);
        fs::write(self.folder().join("kubelet.kubeconfig"), text)?;
        Ok(())
    }

    /// The cgroup below which kubelet makes those of pods.
    fn group(&self) -> String {
        self.folder().file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

impl Drop for KubeNode {
    fn drop(&mut self) {
        // With the first process of a pid namespace all of it ends.
        let _ = process::kill9(self.first);
        for child in [&self.kubelet, &self.containerd, &self.holder] {
            if let Some(mut child) = child.lock().unwrap_or_else(PoisonError::into_inner).take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        if let Err(error) = teardown::end_kubelet_node(self.folder()) {
            eprintln!("the node {} left something: {error:#}", self.name);
        }
    }
}

/// Makes the namespaces; gives the process that holds them and the first process in them.
fn namespaces(folder: &Path, name: &str) -> Result<(Child, u32)> {
    let script = format!(
        r#"set -e
mount --make-rshared /
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/log
mkdir {folder}/lib
mount --bind {folder}/lib /var/lib
mount --make-rshared /
hostname {name}
ip link set lo up
ip address add {API}/32 dev lo
ip link add node0 type bridge
ip address add {ADDRESS}/24 dev node0
ip link set node0 up
ip route add default dev node0
echo 1 > /proc/sys/net/ipv4/ip_forward
touch {folder}/up
trap '' CHLD
exec sleep infinity
"#,
        folder = folder.display()
    );
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "--pid",
        "--net",
        "--uts",
        "--ipc",
        "--fork",
        "--kill-child=KILL",
        "--mount-proc",
    ]);
    command.args(["sh", "-c", &script]);
    let mut command = process::dies_with_us(&command);
    let log = File::create(folder.join("namespaces.log"))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut holder = process::spawn_from_lasting_thread(command)?;
    let up = folder.join("up");
    let made = wait_for("the node's namespaces", || {
        let ended = holder.try_wait()?;
        Ok(if up.exists() { Some(true) } else { ended.map(|_| false) })
    });
    let said = || fs::read_to_string(folder.join("namespaces.log")).unwrap_or_default();
    ensure!(made?, "the node's namespaces cannot be made: {}", said());
    let first = process::all()
        .into_iter()
        .find(|pid| process::parent(*pid).is_ok_and(|parent| parent == holder.id()))
        .context("the node has no first process")?;
    Ok((holder, first))
}

/// Copies both ways until both have ended.
fn relay(client: &TcpStream, server: &TcpStream) {
    let copy = |mut from: &TcpStream, mut to: &TcpStream| {
        // Either side may end at any time.
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    };
    thread::scope(|scope| {
        scope.spawn(|| copy(client, server));
        copy(server, client);
    });
}
