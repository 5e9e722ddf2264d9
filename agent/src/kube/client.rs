//! The connection to the API server. It is made of files that others renew: certificates, tokens, the kubeconfig itself.
//! So each call looks whether one of them is another one by now, which is a `stat` each, and connects anew if so.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use hyper::http::Uri;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::config::KubeConfig;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// How long it may take to find out who asks, which a program may have to tell.
const MADE: Duration = Duration::from_secs(30);
/// Where a pod finds who it is.
const IN_POD: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The file cannot be read or says nothing that can be used.
    #[error("cannot use the kubeconfig {path}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        #[source]
        /// What is wrong.
        source: Box<kube::config::KubeconfigError>,
    },
    /// The process is in no pod.
    #[error(
        "cannot find the API server of the pod that this is; name one by kube.kubeconfig (--kubeconfig) otherwise"
    )]
    InPod(#[source] Box<kube::config::InClusterError>),
    /// Credentials or certificates cannot be used.
    #[error("cannot make a client for the API server {server}")]
    Client {
        /// The server.
        server: Uri,
        #[source]
        /// What is wrong.
        source: Box<kube::Error>,
    },
}

/// A client, and what it was made of.
#[derive(Clone)]
pub(super) struct Built {
    pub(super) client: Client,
    pub(super) server: Uri,
    files: Vec<(PathBuf, Option<Stamp>)>,
}

/// What tells that a file is another one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    dev: u64,
    ino: u64,
    size: u64,
    changed: (i64, i64),
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = std::fs::metadata(path).ok()?;
    let changed = (meta.ctime(), meta.ctime_nsec());
    Some(Stamp { dev: meta.dev(), ino: meta.ino(), size: meta.size(), changed })
}

impl Built {
    /// Whether its files are those that it was made of.
    pub(super) fn is_current(&self) -> bool {
        self.files.iter().all(|(path, was)| stamp(path) == *was)
    }

    /// Reads the files and makes a client. Asks nobody yet.
    pub(super) async fn new(from: &KubeConfig) -> Result<Self, ConnectError> {
        // Taken first: a file that changes meanwhile is seen as changed.
        let (mut config, files) = match &from.kubeconfig {
            Some(path) => Self::from_file(path, from.context.clone()).await?,
            None => {
                let files = ["token", "ca.crt"].map(|name| Path::new(IN_POD).join(name));
                let files = files.into_iter().map(stamped).collect();
                (Config::incluster().map_err(|error| ConnectError::InPod(Box::new(error)))?, files)
            }
        };
        config.connect_timeout = Some(CONNECT);
        // Whoever calls knows how long to wait, and what a server that is busy asked for.
        config.default_retry = false;
        let server = config.cluster_url.clone();
        let failed = |source| ConnectError::Client { server: server.clone(), source: Box::new(source) };
        // A credential plugin may run a program, which blocks.
        let runtime = tokio::runtime::Handle::current();
        let made = tokio::task::spawn_blocking(move || {
            let _inside = runtime.enter();
            Client::try_from(config)
        });
        let client = match tokio::time::timeout(MADE, made).await {
            Ok(Ok(made)) => made.map_err(failed)?,
            Ok(Err(error)) => return Err(failed(kube::Error::Service(Box::new(error)))),
            Err(error) => return Err(failed(kube::Error::Service(Box::new(error)))),
        };
        Ok(Self { client, server, files })
    }

    async fn from_file(
        path: &Path,
        context: Option<String>,
    ) -> Result<(Config, Vec<(PathBuf, Option<Stamp>)>), ConnectError> {
        let failed = |source| ConnectError::Kubeconfig { path: path.to_owned(), source: Box::new(source) };
        let mut files = vec![stamped(path.to_owned())];
        let kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
        let clusters = kubeconfig.clusters.iter().filter_map(|named| named.cluster.as_ref());
        let users = kubeconfig.auth_infos.iter().filter_map(|named| named.auth_info.as_ref());
        let named = clusters
            .map(|cluster| cluster.certificate_authority.clone())
            .chain(users.flat_map(|user| {
                [user.client_certificate.clone(), user.client_key.clone(), user.token_file.clone()]
            }))
            .flatten();
        files.extend(named.map(|file| stamped(file.into())));
        let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(failed)?;
        Ok((config, files))
    }
}

fn stamped(path: PathBuf) -> (PathBuf, Option<Stamp>) {
    let stamp = stamp(&path);
    (path, stamp)
}
