//! A real Kubernetes on loopback: etcd and an API server, with a controller manager and a scheduler where a test asks.
//!
//! ```text
//!  e2e/cluster/go.mod ──► programs (built once, in the cache) ──► etcd ◄── API server ◄── kubectl, tests, agents
//!   KUBEBUILDER_ASSETS ──┘                                                    │
//!                                            requests by user agent ◄── audit log
//! ```
//!
//! [`Cluster::start`] gives one to a test alone, which may stop and break it; [`Cluster::shared`] one for all tests that
//! keep to a namespace of their own. Everything ends with the value, and with the process of the tests.

mod access;
mod audit;
mod component;
pub mod helm;
pub mod node;
pub mod programs;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

pub use self::access::AGENT_NAMESPACE;
pub use self::audit::{Mark, Request, counted};
use self::component::Component;
pub use self::programs::Programs;
use crate::registry::free_port;
use crate::{cache, http, process, teardown};

/// Who may do everything.
const ADMIN: &str = "admin";

/// What a cluster is to have beside etcd and the API server.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClusterBuilder {
    controllers: bool,
    scheduler: bool,
}

impl ClusterBuilder {
    /// The controller manager: garbage collection, DaemonSets, service accounts, namespaces that go.
    pub fn controllers(mut self) -> Self {
        self.controllers = true;
        self
    }

    /// The scheduler.
    pub fn scheduler(mut self) -> Self {
        self.scheduler = true;
        self
    }

    /// Starts all of it and waits until the API server is ready.
    pub fn start(self) -> Result<Cluster> {
        let programs = Programs::get()?;
        let folder = tempfile::Builder::new()
            .prefix(&teardown::prefix(std::process::id()))
            .tempdir_in(teardown::PLACE)?;
        let ports = Ports { etcd: free_port()?, peer: free_port()?, api: free_port()? };
        let admin_token = token()?;
        let cluster = Cluster {
            etcd: etcd(&programs, folder.path(), &ports),
            api: api(&programs, folder.path(), &ports, &admin_token)?,
            others: Mutex::default(),
            kubeconfig: folder.path().join("admin.kubeconfig"),
            kubectl: programs.kubectl.clone(),
            address: format!("127.0.0.1:{}", ports.api),
            etcd_address: format!("127.0.0.1:{}", ports.etcd),
            admin_token,
            folder,
        };
        cluster.start_etcd()?;
        cluster.start_api()?;
        let user = json!({"token": cluster.admin_token});
        cluster.write_kubeconfig(&cluster.kubeconfig, &user)?;
        cluster.start_others(self)?;
        Ok(cluster)
    }
}

struct Ports {
    etcd: u16,
    peer: u16,
    api: u16,
}

/// A control plane of one's own.
#[derive(Debug)]
pub struct Cluster {
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// `127.0.0.1:PORT` of the API server.
    pub address: String,
    admin_token: String,
    etcd_address: String,
    kubectl: PathBuf,
    // In the order in which they are to end.
    others: Mutex<Vec<Component>>,
    api: Component,
    etcd: Component,
    folder: TempDir,
}

impl Cluster {
    /// etcd and an API server, with nothing in it.
    pub fn start() -> Result<Self> {
        ClusterBuilder::default().start()
    }

    /// A cluster with more in it.
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder::default()
    }

    /// The one that all tests share: with the kinds of stower, and without controllers. Who uses it keeps to a namespace
    /// of his own and neither stops nor changes it.
    pub fn shared() -> Result<&'static Self> {
        static SHARED: OnceLock<Result<Cluster, String>> = OnceLock::new();
        let make = || {
            let cluster = Self::start()?;
            cluster.apply_kinds()?;
            Ok(cluster)
        };
        let made = SHARED.get_or_init(|| make().map_err(|error: anyhow::Error| format!("{error:#}")));
        made.as_ref().map_err(|why| anyhow!("the shared cluster: {why}"))
    }

    /// Its folder, also a place for a test's own files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The certificates that the API server is known by. The file changes with [`Cluster::renew_certificates`].
    pub fn authority(&self) -> PathBuf {
        self.folder().join("certificates/apiserver.crt")
    }

    /// The API server's process id.
    pub fn api_pid(&self) -> Result<u32> {
        self.api.pid()
    }

    /// Starts the API server again, on the same port and with the same data, and waits until it is ready.
    pub fn start_api(&self) -> Result<()> {
        // It accepts connections before roles are there that it makes itself; ready is when they are.
        self.api.start(|| Ok(self.request("GET", "/readyz", &[], &[])?.status == 200))
    }

    /// Ends the API server as a rolling update does: it answers what it has begun, and ends watches.
    pub fn stop_api(&self) -> Result<()> {
        self.api.stop()
    }

    /// Ends the API server in the middle of what it does.
    pub fn kill_api(&self) {
        self.api.kill();
    }

    /// The API server accepts connections and answers nothing, until [`Cluster::resume_api`].
    pub fn pause_api(&self) -> Result<()> {
        process::signal(self.api.pid()?, rustix::process::Signal::STOP)
    }

    /// Ends [`Cluster::pause_api`].
    pub fn resume_api(&self) -> Result<()> {
        process::signal(self.api.pid()?, rustix::process::Signal::CONT)
    }

    /// Starts the API server again with another certificate of another authority; who knew the old one trusts it no
    /// more.
    pub fn renew_certificates(&self) -> Result<()> {
        self.stop_api()?;
        let folder = self.folder().join("certificates");
        fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
        self.start_api()
    }

    /// Makes etcd forget every version but the last one of each object, and gives the revision up to which it did. The API
    /// server keeps some of its own until it is started again.
    pub fn compact(&self) -> Result<i64> {
        let ask = |path: &str, body: Value| -> Result<Value> {
            let headers = [("Content-Type", "application/json")];
            let answer = http::tcp(&self.etcd_address, "POST", path, &headers, body.to_string().as_bytes())?;
            ensure!(answer.status == 200, "etcd refused {path}: {}", answer.text());
            Ok(serde_json::from_slice(&answer.body)?)
        };
        // Any key will do: each answer tells the revision of all.
        let seen = ask("/v3/kv/range", json!({"key": "Lw=="}))?;
        let revision = seen["header"]["revision"].as_str().context("etcd told no revision")?;
        ask("/v3/kv/compaction", json!({"revision": revision, "physical": true}))?;
        Ok(revision.parse()?)
    }

    /// What the programs wrote last, for a failure's message.
    pub fn log_tail(&self) -> String {
        format!("--- the API server\n{}---", self.api.log_tail())
    }

    fn start_etcd(&self) -> Result<()> {
        let healthy = || Ok(http::tcp(&self.etcd_address, "GET", "/health", &[], &[])?.status == 200);
        self.etcd.start(healthy)
    }

    fn start_others(&self, wanted: ClusterBuilder) -> Result<()> {
        if !(wanted.controllers || wanted.scheduler) {
            return Ok(());
        }
        let built = programs::kubernetes()?;
        let folder = self.folder();
        let kubeconfig = format!("--kubeconfig={}", self.kubeconfig.display());
        let mut others = Vec::new();
        let mut start = |name: &'static str, more: &[String]| -> Result<()> {
            let port = free_port()?;
            let mut args = vec![
                kubeconfig.clone(),
                "--leader-elect=false".to_owned(),
                "--bind-address=127.0.0.1".to_owned(),
                format!("--secure-port={port}"),
                format!("--cert-dir={}", folder.join(name).display()),
            ];
            args.extend_from_slice(more);
            let component = Component::new(name, &built.join(name), args, folder);
            let (address, authority) =
                (format!("127.0.0.1:{port}"), folder.join(name).join(format!("{name}.crt")));
            component
                .start(|| Ok(http::tls(&address, &authority, "GET", "/healthz", &[], &[])?.status == 200))?;
            others.push(component);
            Ok(())
        };
        if wanted.controllers {
            let more = [
                "--use-service-account-credentials".to_owned(),
                format!("--service-account-private-key-file={}", key(folder).display()),
                format!("--root-ca-file={}", self.authority().display()),
                // Quotas are counted anew so often, also those of kinds that came after them.
                "--resource-quota-sync-period=5s".to_owned(),
            ];
            start("kube-controller-manager", &more)?;
        }
        if wanted.scheduler {
            start("kube-scheduler", &[])?;
        }
        *self.others.lock().unwrap_or_else(PoisonError::into_inner) = others;
        Ok(())
    }
}

/// Where the key is that tokens of service accounts are signed with.
fn key(folder: &Path) -> PathBuf {
    folder.join("service-accounts.key")
}

/// Something that nobody guesses.
fn token() -> Result<String> {
    let mut bytes = [0; 16];
    std::io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(cache::hex(&bytes))
}

/// Writes a file that only its owner reads.
fn write_secret(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}

fn etcd(programs: &Programs, folder: &Path, ports: &Ports) -> Component {
    let (client, peer) =
        (format!("http://127.0.0.1:{}", ports.etcd), format!("http://127.0.0.1:{}", ports.peer));
    let args = vec![
        format!("--data-dir={}", folder.join("etcd").display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        "--log-level=warn".to_owned(),
        // Its data is to outlive the API server and no power cut.
        "--unsafe-no-fsync".to_owned(),
    ];
    Component::new("etcd", &programs.etcd, args, folder)
}

fn api(programs: &Programs, folder: &Path, ports: &Ports, admin_token: &str) -> Result<Component> {
    let (key, tokens, policy) = (key(folder), folder.join("tokens.csv"), folder.join("audit.yaml"));
    // In the older form: it is the one that the server reads keys of this kind in.
    let words = ["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out"].map(AsRef::as_ref);
    process::run("openssl", words.into_iter().chain([key.as_os_str()]))
        .context("make the key of service accounts (apt-get install openssl)")?;
    write_secret(&tokens, &format!("{admin_token},{ADMIN},{ADMIN},system:masters\n"))?;
    fs::write(&policy, audit::POLICY)?;
    let key = key.display();
    let args = vec![
        format!("--etcd-servers=http://127.0.0.1:{}", ports.etcd),
        "--bind-address=127.0.0.1".to_owned(),
        "--advertise-address=127.0.0.1".to_owned(),
        // No Endpoints for a service of the API server: loopback cannot be one.
        "--endpoint-reconciler-type=none".to_owned(),
        format!("--secure-port={}", ports.api),
        format!("--cert-dir={}", folder.join("certificates").display()),
        format!("--service-account-key-file={key}"),
        format!("--service-account-signing-key-file={key}"),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
        format!("--token-auth-file={}", tokens.display()),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--allow-privileged=true".to_owned(),
        format!("--audit-policy-file={}", policy.display()),
        format!("--audit-log-path={}", audit::log(folder).display()),
        "--audit-log-mode=blocking".to_owned(),
        "--profiling=false".to_owned(),
        // So long it waits for open connections when it is asked to end.
        "--request-timeout=10s".to_owned(),
    ];
    Ok(Component::new("kube-apiserver", &programs.apiserver, args, folder))
}
