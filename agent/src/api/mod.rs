//! The local API: Kubernetes-style REST on the agent's unix socket.
//!
//! ```text
//! unix socket ─► server (bounds, who asks) ─► routes ─► objects | exec | volumes | events | logs | images | node ─► Backend
//!                                                └─ watch ◄── hub ◄── the node's changes
//! ```
//!
//! Readers take the node's immutable view and never wait for the reconcile loop; writers send it a message and wait
//! for the answer within a deadline. Nothing here decides anything about containers.

mod backend;
mod body;
mod discovery;
mod events;
mod exec;
mod hub;
mod images;
mod listen;
mod logs;
mod node;
mod objects;
mod place;
mod query;
mod rootfs;
mod scrape;
mod selector;
mod server;
mod stall;
mod status;
mod volumes;
mod watch;

use std::{path::PathBuf, sync::Arc};

use axum::{
    Router, middleware,
    routing::{delete, get, post},
};
use serde_json::{Value, json};

pub use self::{backend::Backend, listen::BindError, scrape::serve_metrics};
use self::{hub::Hub, listen::Listener, server::Limits};

/// The group of all kinds.
pub const GROUP: &str = "stower.dev";
/// The version of all kinds.
pub const VERSION: &str = "v1alpha1";
/// The annotation, added to what is shown and taken off what is applied, that says who declared an object. The
/// kubelet says so of static pods in `kubernetes.io/config.source`.
pub const SOURCE_ANNOTATION: &str = "stower.dev/source";
/// The annotation of a Secret whose values were left out, because somebody else than root reads it.
pub const REDACTED_ANNOTATION: &str = "stower.dev/redacted";
/// The header of an answer to apply: `created`, `configured` or `unchanged`.
pub const OUTCOME_HEADER: &str = "stower-outcome";

/// What a handler has at hand.
#[derive(Clone)]
struct Api {
    backend: Arc<dyn Backend>,
    hub: Arc<Hub>,
    /// Held while a precondition is checked and the change is made, so that no other request comes between.
    writes: Arc<tokio::sync::Mutex<()>>,
}

/// Listens on a socket and serves for ever. Dropping the future ends every connection and removes the socket.
///
/// # Errors
/// When another agent answers there, or the kernel refuses.
pub async fn serve<B: Backend>(backend: Arc<B>, socket: PathBuf) -> Result<(), BindError> {
    let listener = Listener::bind(&socket)?;
    serve_with(backend, listener, Limits::default()).await;
    Ok(())
}

async fn serve_with(backend: Arc<dyn Backend>, listener: Listener, limits: Limits) {
    let (hub, changes) = Hub::new(&*backend);
    let router = router(Api { backend: Arc::clone(&backend), hub: Arc::clone(&hub), writes: Arc::default() });
    tokio::join!(hub.feed(changes, &*backend), server::run(listener, router, limits));
}

fn router(api: Api) -> Router {
    let one = format!("/apis/{GROUP}/{VERSION}/namespaces/{{namespace}}/{{plural}}/{{name}}");
    Router::new()
        .route("/api", get(discovery::core_versions))
        .route("/api/v1", get(discovery::core_resources))
        .route("/apis", get(discovery::groups))
        .route(&format!("/apis/{GROUP}"), get(discovery::group))
        .route(&format!("/apis/{GROUP}/{VERSION}"), get(discovery::resources))
        .route("/version", get(node::version))
        .merge(objects(&format!("/apis/{GROUP}/{VERSION}")))
        .merge(objects("/api/v1"))
        .route(&format!("{one}/status"), get(objects::get))
        .route(&format!("{one}/hold"), post(objects::hold))
        .route(&format!("{one}/log"), get(logs::read))
        .route(&format!("{one}/exec"), post(exec::exec))
        .route(&format!("{one}/attach"), post(exec::attach))
        .route(&format!("{one}/copyfrom"), post(exec::copy_from))
        .route(&format!("{one}/copyto"), post(exec::copy_to))
        .route(&format!("{one}/processes"), get(exec::processes))
        .route(&format!("{one}/stats"), get(exec::stats))
        .route(&format!("{one}/usage"), get(volumes::usage))
        .route(&format!("/apis/{GROUP}/{VERSION}/volumedata"), get(volumes::list))
        .route(
            &format!("/apis/{GROUP}/{VERSION}/namespaces/{{namespace}}/volumedata/{{name}}"),
            delete(volumes::remove),
        )
        .route(&format!("{one}/commit"), post(rootfs::commit))
        .route(&format!("{one}/diff"), get(rootfs::diff))
        .route(&format!("{one}/export"), get(rootfs::export))
        .route("/api/v1/events", get(events::list_all))
        .route("/api/v1/namespaces/{namespace}/events", get(events::list))
        .route("/v1/plan", get(node::plan))
        .route("/v1/dump", get(node::dump))
        .route("/v1/issues", get(node::issues))
        .route("/v1/storage", get(node::storage))
        .route("/v1/node", get(node::node))
        .route("/v1/config", get(node::config))
        .route("/v1/config/check", post(node::config_check))
        .route("/v1/config/reload", post(node::config_reload))
        .route("/v1/system/df", get(node::usage))
        .route("/v1/system/prune", post(node::prune))
        .route("/v1/version", get(node::version))
        .route("/v1/images", get(images::list).delete(images::remove))
        .route("/v1/images/pull", post(images::pull))
        .route("/v1/images/import", post(images::import))
        .route("/v1/images/save", post(rootfs::save))
        .route("/ping", get(node::ping))
        .route("/healthz", get(node::ping))
        .route("/livez", get(node::ping))
        .route("/readyz", get(node::ready))
        .route("/metrics", get(node::metrics))
        .layer(middleware::map_response(status::as_status))
        .with_state(api)
}

/// The objects of one group and version, all by the same handlers.
fn objects(base: &str) -> Router<Api> {
    let list = format!("{base}/namespaces/{{namespace}}/{{plural}}");
    Router::new()
        .route(&format!("{base}/{{plural}}"), get(objects::list))
        .route(&list, get(objects::list).post(objects::create))
        .route(
            &format!("{list}/{{name}}"),
            get(objects::get).put(objects::replace).patch(objects::patch).delete(objects::delete),
        )
}

/// What this program is, in the shape of Kubernetes' `/version`.
#[must_use]
pub fn version() -> Value {
    json!({
        "major": env!("CARGO_PKG_VERSION_MAJOR"),
        "minor": env!("CARGO_PKG_VERSION_MINOR"),
        "gitVersion": concat!("v", env!("CARGO_PKG_VERSION")),
        "platform": format!("linux/{}", architecture()),
    })
}

/// This machine's architecture as Go and OCI name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests;
