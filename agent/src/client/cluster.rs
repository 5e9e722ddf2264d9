//! The API server of a cluster, as a kubeconfig names it.

use std::path::{Path, PathBuf};

use http_body_util::BodyExt;
use hyper::{Method, Request, Response, header};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};

use super::{Body, ClientError, Content, chain};

/// How long a connection may take to be made.
const CONNECT_DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);
/// Where a pod learns of its cluster.
const IN_CLUSTER: &str = "KUBERNETES_SERVICE_HOST";

/// Why a cluster cannot be talked to.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// There is no usable kubeconfig.
    #[error("cannot use {}: name another one with --kubeconfig or KUBECONFIG", file(path.as_deref()))]
    Kubeconfig {
        /// The file that was named.
        path: Option<PathBuf>,
        /// What is wrong.
        source: Box<KubeconfigError>,
    },
    /// The kubeconfig has no such context.
    #[error("{} has no context {context:?}: there are {}", file(path.as_deref()), known.join(", "))]
    NoContext {
        /// The file that was named.
        path: Option<PathBuf>,
        /// The context asked for.
        context: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// This is said to be a pod, and lacks what a pod has.
    #[error("cannot use this pod's service account: name a kubeconfig with --kubeconfig or KUBECONFIG")]
    InCluster(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Its certificates or credentials do not work.
    #[error("cannot use the certificates and credentials for {server}")]
    Credentials {
        /// The API server's address.
        server: String,
        /// What is wrong.
        source: Box<kube::Error>,
    },
}

fn file(path: Option<&Path>) -> String {
    path.map_or_else(|| "the kubeconfig".to_owned(), |path| format!("the kubeconfig {}", path.display()))
}

/// One API server, with the credentials for it.
#[derive(Clone)]
pub struct Cluster {
    client: kube::Client,
    server: String,
    namespace: String,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("server", &self.server).field("namespace", &self.namespace).finish()
    }
}

impl Cluster {
    /// The cluster that a kubeconfig names; without one, that of `KUBECONFIG` or `~/.kube/config`, or the pod's own. Nothing is
    /// asked of it yet.
    ///
    /// # Errors
    /// When there is no such file or context, or its credentials cannot be used.
    pub async fn open(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<Self, ClusterError> {
        let mut config = configured(kubeconfig, context).await?;
        config.connect_timeout = Some(CONNECT_DEADLINE);
        // What an answer is worth is decided here.
        config.default_retry = false;
        let server = config.cluster_url.to_string();
        let server = server.trim_end_matches('/').to_owned();
        let namespace = config.default_namespace.clone();
        let client = kube::Client::try_from(config).map_err(|source| ClusterError::Credentials {
            server: server.clone(),
            source: Box::new(source),
        })?;
        Ok(Self { client, server, namespace })
    }

    pub(super) fn kube(&self) -> &kube::Client {
        &self.client
    }

    /// The API server's address.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The namespace of the context.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        content: Option<Content>,
    ) -> Result<Response<Body>, ClientError> {
        let no_server = |what: String| ClientError::NoServer { server: self.server.clone(), what };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::ACCEPT, "application/json, text/plain, */*")
            .header(header::USER_AGENT, concat!("stower/", env!("CARGO_PKG_VERSION")));
        let body = match content {
            Some(content) => {
                request = request.header(header::CONTENT_TYPE, content.media_type);
                content.bytes
            }
            None => Vec::new(),
        };
        let request = request.body(body.into()).map_err(|error| no_server(error.to_string()))?;
        let response = self.client.send(request).await.map_err(|error| no_server(words(&error)))?;
        Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()))
    }
}

/// What is wrong, without the client's own names for the layers that it went through.
fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Service(inner) => chain(&**inner),
        kube::Error::HyperError(inner) => chain(inner),
        other => chain(other),
    }
}

async fn configured(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<kube::Config, ClusterError> {
    let failed = |source| {
        let path = kubeconfig.map(Path::to_owned);
        ClusterError::Kubeconfig { path, source: Box::new(source) }
    };
    let read = match kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    let read = match read {
        Ok(read) => read,
        // As in kubectl: who names nothing, in a pod, means the pod's own cluster.
        Err(_)
            if kubeconfig.is_none()
                && context.is_none()
                && std::env::var_os("KUBECONFIG").is_none()
                && std::env::var_os(IN_CLUSTER).is_some() =>
        {
            return kube::Config::incluster_env().map_err(|error| ClusterError::InCluster(error.into()));
        }
        Err(error) => return Err(failed(error)),
    };
    if let Some(context) = context.filter(|context| !read.contexts.iter().any(|it| it.name == *context)) {
        return Err(ClusterError::NoContext {
            path: kubeconfig.map(Path::to_owned),
            context: context.to_owned(),
            known: read.contexts.into_iter().map(|it| it.name).collect(),
        });
    }
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    kube::Config::from_custom_kubeconfig(read, &options).await.map_err(failed)
}
