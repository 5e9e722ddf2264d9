//! From a privileged pod to its host.
//!
//! ```text
//! pod's container ── host-run (stays, so that kubectl exec finds the pod's files) ── fork ─► enter() ─► the command, on the host
//!                       signals, end ───────────────────────────────────────────────────►
//! ```
//!
//! Who enters sees the host's mounts, network, names and cgroups as if started there: data, sockets and programs of containers are on the
//! host, and nothing that is started holds a mount of the pod. What the command must read of the pod, its configuration and its token, is
//! *carried*: the directory is opened before, and named by its descriptor afterwards, so that what kubelet renews in it is seen.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{
            ffi::{OsStrExt, OsStringExt},
            fs::MetadataExt,
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{MemfdFlags, Mode, OFlags},
    thread::LinkNameSpaceType,
};
use serde_json::json;

#[cfg(test)]
mod tests;

/// In this order: once the mounts are the host's, nothing of the pod is found by its path.
const NAMESPACES: [(&str, LinkNameSpaceType); 5] = [
    ("cgroup", LinkNameSpaceType::ControlGroup),
    ("ipc", LinkNameSpaceType::InterProcessCommunication),
    ("uts", LinkNameSpaceType::HostNameAndNISDomainName),
    ("net", LinkNameSpaceType::Network),
    ("mnt", LinkNameSpaceType::Mount),
];

/// Why the host cannot be entered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostError {
    /// The process that is to be the host's first is not.
    #[error(
        "process 1 has the mounts of this one, so there is no host to enter: give the pod hostPID: true, and on the host itself run the command without host-run"
    )]
    NoHost,
    /// One of the namespaces.
    #[error(
        "cannot enter the host's {namespace} namespace; give the pod hostPID: true and the container securityContext.privileged: true"
    )]
    Enter {
        /// Which, as in `/proc/1/ns`.
        namespace: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A directory that is to be carried.
    #[error("cannot open {}, which is to be carried to the host; mount it into the container", path.display())]
    Carry {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file that says where the API server is.
    #[error("cannot write down where the API server is")]
    Kubeconfig(#[source] io::Error),
    /// The variables that kubelet gives to each container.
    #[error("{0} is not set; kubelet sets it in every container of a pod")]
    NoServer(&'static str),
}

/// Directories of the pod that stay open on the host, for the life of the process.
#[derive(Debug, Default)]
pub(crate) struct Carried(Vec<(PathBuf, OwnedFd)>);

impl Carried {
    /// Opens a directory.
    pub(crate) fn add(&mut self, path: &Path) -> Result<(), HostError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| HostError::Carry { path: path.to_owned(), source: errno.into() })?;
        self.0.push((path.to_owned(), fd));
        Ok(())
    }

    /// An argument as it is written on the host: a path in or to a carried directory, alone or after `=`, leads there by descriptor.
    pub(crate) fn translate(&self, argument: &OsStr) -> OsString {
        let bytes = argument.as_bytes();
        let start = if bytes.first() == Some(&b'/') {
            0
        } else {
            match bytes.iter().position(|byte| *byte == b'=') {
                Some(at) => at + 1,
                None => return argument.to_owned(),
            }
        };
        let (before, path) = bytes.split_at(start);
        let path = Path::new(OsStr::from_bytes(path));
        for (directory, fd) in &self.0 {
            let Ok(below) = path.strip_prefix(directory) else { continue };
            let mut there = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
            if below != Path::new("") {
                there.push(below);
            }
            let mut translated = before.to_vec();
            translated.extend_from_slice(there.as_os_str().as_bytes());
            return OsString::from_vec(translated);
        }
        argument.to_owned()
    }

    /// A path in a carried directory, as it is written on the host.
    fn path(&self, path: &Path) -> String {
        self.translate(path.as_os_str()).to_string_lossy().into_owned()
    }

    /// A kubeconfig in memory, for who has the token in a carried directory, and its path.
    pub(crate) fn kubeconfig(&mut self, service_account: &Path) -> Result<PathBuf, HostError> {
        let variable = |name: &'static str| {
            std::env::var(name).ok().filter(|value| !value.is_empty()).ok_or(HostError::NoServer(name))
        };
        let (host, port) = (variable("KUBERNETES_SERVICE_HOST")?, variable("KUBERNETES_SERVICE_PORT")?);
        let text = kubeconfig(
            &host,
            &port,
            &self.path(&service_account.join("ca.crt")),
            &self.path(&service_account.join("token")),
        );
        let failed = |error: io::Error| HostError::Kubeconfig(error);
        let fd = rustix::fs::memfd_create("kubeconfig", MemfdFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        let mut file = File::from(fd);
        file.write_all(text.as_bytes()).map_err(failed)?;
        let fd = OwnedFd::from(file);
        let path = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        self.0.push((path.clone(), fd));
        Ok(path)
    }
}

/// Where the API server is and who asks. Token and CA are files, which kubelet renews.
fn kubeconfig(host: &str, port: &str, ca: &str, token: &str) -> String {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "pod",
        "clusters": [{"name": "pod", "cluster": {"server": format!("https://{host}:{port}"), "certificate-authority": ca}}],
        "users": [{"name": "pod", "user": {"tokenFile": token}}],
        "contexts": [{"name": "pod", "context": {"cluster": "pod", "user": "pod"}}],
    })
    .to_string()
}

/// Makes this process, which has one thread, one of the host's: its namespaces are those of process 1, its directory is the root.
pub(crate) fn enter() -> Result<(), HostError> {
    let mut opened = Vec::new();
    for (namespace, kind) in NAMESPACES {
        let failed = |source| HostError::Enter { namespace, source };
        let file = File::open(format!("/proc/1/ns/{namespace}")).map_err(failed)?;
        let (there, here) = (
            file.metadata().map_err(failed)?,
            fs::metadata(format!("/proc/self/ns/{namespace}")).map_err(failed)?,
        );
        if (there.dev(), there.ino()) != (here.dev(), here.ino()) {
            opened.push((namespace, kind, file));
        } else if kind == LinkNameSpaceType::Mount {
            return Err(HostError::NoHost);
        }
    }
    for (namespace, kind, file) in opened {
        rustix::thread::move_into_link_name_space(file.as_fd(), Some(kind))
            .map_err(|errno| HostError::Enter { namespace, source: errno.into() })?;
    }
    Ok(())
}
