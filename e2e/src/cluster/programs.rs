//! The programs of a cluster, built once from their Go modules: `e2e/cluster/` pins them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{cache, cargo, process, requires};

/// All that is in the one program, by the names that it is called as.
const NAMES: [&str; 6] =
    ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl"];
/// Where they live: what is built here is what these files pin.
const KUBERNETES: Module = Module {
    folder: "e2e/cluster",
    pins: [
        include_str!("../../cluster/go.mod"),
        include_str!("../../cluster/go.sum"),
        include_str!("../../cluster/main.go"),
    ],
};
const HELM: Module = Module {
    folder: "e2e/cluster/helm",
    pins: [include_str!("../../cluster/helm/go.mod"), include_str!("../../cluster/helm/go.sum"), ""],
};
/// A folder with `etcd`, `kube-apiserver` and `kubectl`, as the tests of other controllers know it (envtest).
const ASSETS: &str = "KUBEBUILDER_ASSETS";

struct Module {
    folder: &'static str,
    pins: [&'static str; 3],
}

impl Module {
    fn key(&self, more: &[&str]) -> Result<String> {
        let go = process::run("go", ["env", "GOVERSION", "GOARCH"])?;
        Ok(cache::sha256([self.pins.concat(), more.concat(), go].concat().as_bytes())[..16].to_owned())
    }

    /// The folder of what was built of the module, made at its first use. One build at a time, which holds up nothing else that
    /// is made in the cache, nor those who find it done.
    fn once(&self, kind: &str, key: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let done = cache::root()?.join(kind).join(key);
        if done.exists() {
            return Ok(done);
        }
        let _lock = cache::lock_of(&format!("{kind}.build.lock"))?;
        cache::once(kind, key, make)
    }

    /// Builds a package of the module as the file `to`, behind everything else that the machine does.
    fn build(&self, package: &str, flags: &str, to: &Path) -> Result<()> {
        let mut command = Command::new("nice");
        command.args(["-n", "19", "go", "build", "-mod=readonly", "-trimpath", "-buildvcs=false"]);
        command.arg(format!("-ldflags=-s -w {flags}")).arg("-o").arg(to).arg(package);
        command.current_dir(cargo::checkout().join(self.folder)).env("CGO_ENABLED", "0");
        process::run_command(&mut command).map(drop).with_context(|| {
            format!("build {package} of {} (its modules come from {})", self.folder, proxy())
        })
    }
}

fn proxy() -> String {
    process::run("go", ["env", "GOPROXY"]).unwrap_or_default().trim().to_owned()
}

/// The programs of a control plane.
#[derive(Clone, Debug)]
pub struct Programs {
    /// etcd.
    pub etcd: PathBuf,
    /// The API server.
    pub apiserver: PathBuf,
    /// kubectl: that of [`ASSETS`] or of the machine, else the built one.
    pub kubectl: PathBuf,
}

impl Programs {
    /// Those of `$KUBEBUILDER_ASSETS`, or those that [`kubernetes`] builds.
    pub fn get() -> Result<Self> {
        if let Some(folder) = std::env::var_os(ASSETS) {
            return Self::of_assets(Path::new(&folder));
        }
        let built = kubernetes()?;
        let kubectl = process::run("sh", ["-c", "command -v kubectl"])
            .map_or_else(|_| built.join("kubectl"), |path| PathBuf::from(path.trim()));
        Ok(Self { etcd: built.join("etcd"), apiserver: built.join("kube-apiserver"), kubectl })
    }

    fn of_assets(folder: &Path) -> Result<Self> {
        let find = |name: &str| {
            let path = folder.join(name);
            ensure!(path.is_file(), "{ASSETS}={} has no {name}", folder.display());
            Ok(path)
        };
        Ok(Self { etcd: find("etcd")?, apiserver: find("kube-apiserver")?, kubectl: find("kubectl")? })
    }
}

/// The folder with all of [`NAMES`], built at its first use: seven minutes on two cores, and four gigabytes of Go's own
/// caches.
pub fn kubernetes() -> Result<PathBuf> {
    requires::program("go", "golang-go, or from go.dev, 1.26 or later")?;
    let versions = KUBERNETES.versions()?;
    let key = KUBERNETES.key(&[&versions])?;
    KUBERNETES.once("cluster", &key, |staging| {
        KUBERNETES.build(".", &versions, &staging.join("kubernetes"))?;
        for name in NAMES {
            symlink("kubernetes", staging.join(name))?;
        }
        Ok(())
    })
}

impl Module {
    /// The linker's flags by which Kubernetes knows its version; Helm talks to no server without one.
    fn versions(&self) -> Result<String> {
        let version = self.pins[0]
            .lines()
            .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "))
            .with_context(|| format!("{}/go.mod names no version of k8s.io/kubernetes", self.folder))?;
        let mut parts = version.trim_start_matches('v').split('.');
        let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let mut flags = String::new();
        for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
            for (name, value) in [("gitVersion", version), ("gitMajor", major), ("gitMinor", minor)] {
                flags.push_str(&format!(" -X {package}.{name}={value}"));
            }
        }
        Ok(flags)
    }
}

/// Helm, built at its first use: three minutes on two cores.
pub fn helm() -> Result<PathBuf> {
    requires::program("go", "golang-go, or from go.dev, 1.26 or later")?;
    let key = HELM.key(&[])?;
    let folder =
        HELM.once("helm", &key, |staging| HELM.build("helm.sh/helm/v4/cmd/helm", "", &staging.join("helm")))?;
    Ok(folder.join("helm"))
}

/// Builds all that the tests of a cluster need.
pub fn prepare() -> Result<()> {
    let folder = kubernetes()?;
    let helm = helm()?;
    for program in NAMES.map(|name| folder.join(name)).iter().chain([&helm]) {
        let broken =
            || format!("{} is not there; remove its folder, and it is built anew", program.display());
        fs::metadata(program).with_context(broken)?;
    }
    Ok(())
}
