//! ConfigMaps and Secrets, by a server that answers as it is told to.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::{Value, json};
use stower_crds::{Kind, Name, Namespace, ObjectKey};

use super::{
    super::{Update, ValueState},
    DEADLINE, event, follow, list, open,
    server::{Reply, Server},
};

/// What is told of one ConfigMap first, by a server that answers this for it.
async fn values(
    count: usize,
    watch: impl Fn() -> Reply + Send + Sync + 'static,
    get: impl Fn() -> Reply + Send + Sync + 'static,
) -> Vec<ValueState> {
    let server = Server::start(move |asked| match asked.path.split('?').next().unwrap_or_default() {
        "/api/v1/namespaces/default/configmaps" => {
            assert!(asked.path.contains("watch=1") && asked.path.contains("fieldSelector=metadata.name%3Dm"));
            watch()
        }
        "/api/v1/namespaces/default/configmaps/m" => get(),
        path if path.starts_with("/apis/") && asked.path.contains("watch=1") => open(&[]),
        _ => list(1, &[]),
    })
    .await;
    let (cluster, mut heard) = follow(&server);
    let (namespace, name) = (Namespace::default(), Name::new("m").expect("it is a name"));
    cluster.want([ObjectKey::new(Kind::ConfigMap, namespace, name)].into());
    let wait = async {
        let mut states = Vec::new();
        while states.len() < count {
            if let Some(Update::Value { state, .. }) = heard.recv().await {
                states.push(state);
            }
        }
        states
    };
    tokio::time::timeout(DEADLINE, wait).await.expect("something is told of it")
}

async fn value(
    watch: impl Fn() -> Reply + Send + Sync + 'static,
    get: impl Fn() -> Reply + Send + Sync + 'static,
) -> ValueState {
    values(1, watch, get).await.remove(0)
}

fn config_map() -> Value {
    // As a list or a watch has it, without a kind of its own.
    json!({"metadata": {"name": "m", "namespace": "default", "uid": "u"}, "data": {"a": "b"}})
}

#[tokio::test]
async fn a_value_is_there_or_proven_absent_or_not_known() {
    let there = value(|| open(&[]), || Reply::ok(config_map())).await;
    assert!(matches!(there, ValueState::Present(_)), "{there:?}");
    let read_only = value(|| Reply::status(403, "Forbidden"), || Reply::ok(config_map())).await;
    assert!(matches!(read_only, ValueState::Present(_)), "{read_only:?}");
    let absent = value(|| open(&[]), || Reply::not_found("m")).await;
    assert!(matches!(absent, ValueState::Absent), "{absent:?}");
    // It names no object: whoever answered does not know what was asked for.
    let lost = value(|| open(&[]), || Reply::status(404, "NotFound")).await;
    assert!(matches!(lost, ValueState::Unavailable { .. }), "{lost:?}");
    let forbidden = value(|| open(&[]), || Reply::status(403, "Forbidden")).await;
    assert!(matches!(forbidden, ValueState::Unavailable { .. }), "{forbidden:?}");
    let broken = value(|| open(&[]), || Reply::Close).await;
    assert!(matches!(broken, ValueState::Unavailable { .. }), "{broken:?}");
}

#[tokio::test]
async fn a_value_that_is_deleted_is_absent_from_then_on() {
    let deleted = event("DELETED", config_map());
    let states = values(2, move || open(std::slice::from_ref(&deleted)), || Reply::ok(config_map())).await;
    assert!(matches!(states[..], [ValueState::Present(_), ValueState::Absent]), "{states:?}");
}

#[tokio::test]
async fn one_that_may_not_be_watched_and_is_missing_is_read_again_soon() {
    let (watches, reads) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
    let watched = Arc::clone(&watches);
    let watch = move || {
        watched.fetch_add(1, Ordering::SeqCst);
        Reply::status(403, "Forbidden")
    };
    let get = move || match reads.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::not_found("m"),
        _ => Reply::ok(config_map()),
    };
    let states = values(2, watch, get).await;
    assert!(matches!(states[..], [ValueState::Absent, ValueState::Present(_)]), "{states:?}");
    assert_eq!(watches.load(Ordering::SeqCst), 1, "a watch is not tried at each read");
}
