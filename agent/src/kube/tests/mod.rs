//! The source against a scripted server on a real socket.

mod server;
mod values;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use stower_controllers::{LEVEL_ANNOTATION, PodSecurityLevel, accepted_at};
use stower_crds::{Kind, Name, Namespace, ObjectKey};
use tokio::sync::mpsc;

use self::server::{Asked, Reply, Server, replace};
use super::{Accepted, Before, Cluster, Said, Update, Word};
use crate::{
    config::{KubeConfig, SecretCache},
    metrics::Metrics,
};

/// A test that waits so long has failed.
const DEADLINE: Duration = Duration::from_secs(60);
const NODE: &str = "node-1";

fn cluster(server: &Server) -> Arc<Cluster> {
    let config = KubeConfig {
        enabled: true,
        kubeconfig: Some(server.kubeconfig()),
        context: None,
        secret_cache: SecretCache::Memory,
        lease_namespace: "stower-system".to_owned(),
        lease_owner: None,
    };
    Arc::new(Cluster::new(config, NODE, Metrics::new().kube))
}

/// A Container that every namespace allows.
fn container(name: &str, version: u32) -> Value {
    json!({
        "apiVersion": "stower.dev/v1alpha1", "kind": "Container",
        "metadata": {
            "name": name, "namespace": "default", "uid": format!("uid-{name}"), "generation": 1,
            "resourceVersion": version.to_string(), "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "image": "a", "nodeName": NODE,
            "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        },
    })
}

fn list(version: u32, items: &[Value]) -> Reply {
    Reply::ok(json!({"metadata": {"resourceVersion": version.to_string()}, "items": items}))
}

#[expect(clippy::needless_pass_by_value, reason = "each object is made for its event")]
fn event(type_: &str, object: Value) -> Value {
    json!({"type": type_, "object": object})
}

fn gone() -> Value {
    event("ERROR", json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}))
}

/// What is asked of containers: a list, or a watch from a version. All else is answered here.
enum Ask {
    List,
    Watch(String),
}

/// A server that has no object but containers, and lets `script` answer for those.
async fn containers(script: impl Fn(Ask, &Asked) -> Reply + Send + Sync + 'static) -> Server {
    Server::start(move |asked| {
        let path = asked.path.as_str();
        let query = path.split_once('?').map_or("", |(_, query)| query);
        let param = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
        };
        if path == "/api/v1/namespaces/kube-system" {
            return Reply::ok(json!({"kind": "Namespace", "metadata": {"uid": "the-cluster"}}));
        }
        let watch = param("watch").is_some();
        if path.starts_with("/apis/stower.dev/v1alpha1/containers?") {
            assert_eq!(param("fieldSelector").as_deref(), Some("spec.nodeName%3Dnode-1"));
            let ask =
                if watch { Ask::Watch(param("resourceVersion").unwrap_or_default()) } else { Ask::List };
            return script(ask, asked);
        }
        if watch {
            let (reply, open) = Reply::watch(&[]);
            tokio::spawn(async move { open.closed().await });
            return reply;
        }
        list(1, &[])
    })
    .await
}

/// A watch that stays open as long as whoever asked for it is there.
fn open(events: &[Value]) -> Reply {
    let (reply, open) = Reply::watch(events);
    tokio::spawn(async move { open.closed().await });
    reply
}

/// The next word on containers.
async fn next(heard: &mut mpsc::Receiver<Update>) -> (bool, Vec<Said>) {
    let wait = async {
        loop {
            if let Some(Update::Objects { kind: Kind::Container, whole, said, .. }) = heard.recv().await {
                return (whole, said);
            }
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.expect("the source tells something")
}

/// What was said, as `name: word`.
fn words(said: &[Said]) -> Vec<String> {
    let word = |said: &Said| {
        let word = match &said.word {
            Word::Same => "same".to_owned(),
            Word::Accepted(_) => "accepted".to_owned(),
            Word::Refused(refused) => format!("refused {} {}", refused.status, refused.reason),
            Word::Terminating => "terminating".to_owned(),
            Word::Gone => "gone".to_owned(),
        };
        format!("{}: {word}", said.remote.key.name)
    };
    said.iter().map(word).collect()
}

fn follow(server: &Server) -> (Arc<Cluster>, mpsc::Receiver<Update>) {
    let (out, heard) = mpsc::channel(64);
    let cluster = cluster(server);
    cluster.follow(&Accepted::new(), &out);
    (cluster, heard)
}

#[tokio::test]
async fn what_is_there_and_what_happens_to_it_is_told() {
    let server = containers(|ask, _| match ask {
        Ask::List => list(10, &[container("a", 5)]),
        Ask::Watch(from) => {
            assert_eq!(from, "10");
            let mut other = container("c", 13);
            other["spec"]["nodeName"] = json!("node-2");
            let mut deleting = container("d", 14);
            deleting["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            let mut newer = container("e", 15);
            newer["spec"]["hologram"] = json!(true);
            let mut status = container("a", 16);
            status["status"] = json!({"phase": "Running"});
            open(&[
                event("ADDED", container("b", 11)),
                event("DELETED", container("b", 12)),
                event("ADDED", other),
                event("MODIFIED", deleting),
                event("ADDED", newer),
                event("MODIFIED", status),
            ])
        }
    })
    .await;
    let (_cluster, mut heard) = follow(&server);
    let (whole, said) = next(&mut heard).await;
    assert!(whole);
    assert_eq!(words(&said), ["a: accepted"]);
    for want in
        ["b: accepted", "b: gone", "c: gone", "d: terminating", "e: refused False NotSupported", "a: same"]
    {
        let (whole, said) = next(&mut heard).await;
        assert!(!whole);
        assert_eq!(words(&said), [want]);
    }
}

#[tokio::test]
async fn a_server_that_fails_in_every_way_says_nothing_until_it_answers() {
    let times = AtomicUsize::new(0);
    let server = containers(move |ask, _| match ask {
        Ask::List => match times.fetch_add(1, Ordering::SeqCst) {
            0 => Reply::status(500, "InternalError"),
            1 => Reply::Json(429, "retry-after: 1\r\n", json!({"reason": "TooManyRequests"})),
            2 => Reply::Close,
            _ => list(10, &[container("a", 5)]),
        },
        Ask::Watch(_) => open(&[]),
    })
    .await;
    let (cluster, mut heard) = follow(&server);
    let (whole, said) = next(&mut heard).await;
    assert!(whole);
    assert_eq!(words(&said), ["a: accepted"]);
    let count = |code: &str| cluster.metrics.requests.with_label_values(&["list", code]).get();
    assert_eq!((count("500"), count("429")), (1, 1));
    assert!(count("<error>") >= 1);
    assert_eq!(cluster.contact().trouble, None);
}

#[tokio::test(start_paused = true)]
async fn two_hours_without_a_server_say_nothing_and_ask_little() {
    let server = containers(|_, _| Reply::Close).await;
    server.stop().await;
    let (cluster, mut heard) = follow(&server);
    tokio::time::sleep(Duration::from_secs(2 * 3600)).await;
    assert!(heard.try_recv().is_err(), "nobody said anything");
    let (since, why) = cluster.contact().trouble.expect("nobody is there");
    assert!(why.starts_with("cannot reach the API server"), "{why} since {since}");
    let asked: f64 = ["get", "list", "watch"]
        .map(|verb| cluster.metrics.requests.with_label_values(&[verb, "<error>"]).get())
        .iter()
        .map(|asked| *asked as f64)
        .sum();
    // Three kinds, each 30 to 60 s after its last try, but for the first few.
    assert!((3.0 * 120.0..=3.0 * 250.0).contains(&asked), "asked {asked} times");
}

#[tokio::test]
async fn what_is_no_list_is_no_empty_list() {
    let times = AtomicUsize::new(0);
    let server = containers(move |ask, _| match ask {
        Ask::List => match times.fetch_add(1, Ordering::SeqCst) {
            // A proxy's page, and what would be an empty list if it had a version.
            0 => Reply::ok(json!("hello")),
            1 => Reply::ok(json!({"items": []})),
            _ => list(10, &[container("a", 5)]),
        },
        Ask::Watch(_) => open(&[]),
    })
    .await;
    let (_cluster, mut heard) = follow(&server);
    let (whole, said) = next(&mut heard).await;
    assert!(whole);
    assert_eq!(words(&said), ["a: accepted"]);
}

#[tokio::test]
async fn what_the_server_has_forgotten_is_listed_again_and_what_the_list_lacks_is_gone() {
    let lists = AtomicUsize::new(0);
    let server = containers(move |ask, _| match ask {
        Ask::List => match lists.fetch_add(1, Ordering::SeqCst) {
            0 => list(10, &[container("a", 5), container("b", 6)]),
            _ => list(90, &[container("b", 6)]),
        },
        Ask::Watch(from) if from == "10" => open(&[gone()]),
        Ask::Watch(_) => open(&[]),
    })
    .await;
    let (_cluster, mut heard) = follow(&server);
    assert_eq!(words(&next(&mut heard).await.1), ["a: accepted", "b: accepted"]);
    let (whole, said) = next(&mut heard).await;
    assert!(whole);
    assert_eq!(words(&said), ["b: same"]);
}

#[tokio::test]
async fn a_watch_that_breaks_off_goes_on_from_where_it_was() {
    let watches = AtomicUsize::new(0);
    let server = containers(move |ask, _| match ask {
        Ask::List => list(10, &[]),
        Ask::Watch(from) => match watches.fetch_add(1, Ordering::SeqCst) {
            0 => {
                assert_eq!(from, "10");
                // Both are told, and then the connection ends.
                let bookmark = event("BOOKMARK", json!({"metadata": {"resourceVersion": "20"}}));
                Reply::watch(&[event("ADDED", container("a", 11)), bookmark]).0
            }
            1 => Reply::status(503, "ServiceUnavailable"),
            _ => {
                assert_eq!(from, "20");
                open(&[event("MODIFIED", container("a", 21)), event("ADDED", container("b", 22))])
            }
        },
    })
    .await;
    let (_cluster, mut heard) = follow(&server);
    assert!(next(&mut heard).await.0);
    for want in ["a: accepted", "a: same", "b: accepted"] {
        let (whole, said) = next(&mut heard).await;
        assert!(!whole);
        assert_eq!(words(&said), [want]);
    }
}

#[tokio::test]
async fn a_list_is_read_in_pages_and_anew_when_its_rest_is_forgotten() {
    let pages = AtomicUsize::new(0);
    let server = containers(move |ask, asked| match ask {
        Ask::List => {
            let page = |items: &[Value]| {
                Reply::ok(
                    json!({"metadata": {"resourceVersion": "10", "continue": "more=1"}, "items": items}),
                )
            };
            let rest = asked.path.contains("continue=more%3D1");
            match pages.fetch_add(1, Ordering::SeqCst) {
                0 | 2 => {
                    assert!(!rest);
                    page(&[container("a", 5)])
                }
                1 => {
                    assert!(rest);
                    Reply::status(410, "Expired")
                }
                _ => {
                    assert!(rest);
                    list(10, &[container("b", 6)])
                }
            }
        }
        Ask::Watch(_) => open(&[]),
    })
    .await;
    let (_cluster, mut heard) = follow(&server);
    let (whole, said) = next(&mut heard).await;
    assert!(whole);
    assert_eq!(words(&said), ["a: accepted", "b: accepted"]);
}

#[tokio::test]
async fn another_cluster_is_not_believed() {
    let server = containers(|ask, _| match ask {
        Ask::List => list(10, &[]),
        Ask::Watch(_) => open(&[]),
    })
    .await;
    let (out, mut heard) = mpsc::channel(64);
    let other = cluster(&server);
    other.belongs_to("the-cluster-before");
    other.follow(&Accepted::new(), &out);
    // All three kinds ask, and each is refused.
    let wait = async {
        while other.contact().trouble.is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.expect("it is noticed");
    let (_, why) = other.contact().trouble.expect("there is trouble");
    assert!(why.contains("another cluster (the-cluster)"), "{why}");
    assert!(heard.try_recv().is_err());
    assert!(server.paths().iter().all(|path| path == "/api/v1/namespaces/kube-system"));
}

#[tokio::test]
async fn a_new_token_is_used_at_once() {
    let server = containers(|ask, _| match ask {
        Ask::List => list(10, &[]),
        Ask::Watch(_) => open(&[]),
    })
    .await;
    let cluster = cluster(&server);
    cluster.identity().await.expect("the server answers");
    replace(&server.token(), "second");
    cluster.identity().await.expect("the server answers");
    let asked = server.asked.lock().expect("nobody panics with it");
    let tokens: Vec<&str> = asked.iter().map(|asked| asked.token.as_str()).collect();
    assert_eq!(tokens, ["first", "second"]);
}

#[tokio::test]
async fn an_object_waits_for_what_its_namespace_allows() {
    let server = Server::start(|asked| {
        let namespace = |level: &str| {
            let labels = json!({"pod-security.kubernetes.io/enforce": level});
            Reply::ok(json!({"kind": "Namespace", "metadata": {"labels": labels}}))
        };
        match asked.path.split('?').next().unwrap_or_default() {
            "/api/v1/namespaces/kube-system" => Reply::status(403, "Forbidden"),
            "/api/v1/namespaces/open" => namespace("privileged"),
            "/api/v1/namespaces/closed" => namespace("baseline"),
            "/api/v1/namespaces/hidden" => Reply::status(403, "Forbidden"),
            "/apis/stower.dev/v1alpha1/containers" if !asked.path.contains("watch=1") => {
                let objects = ["open", "closed", "hidden"].map(|namespace| {
                    let mut object = container(namespace, 5);
                    object["metadata"]["namespace"] = json!(namespace);
                    object["spec"]["hostPID"] = json!(true);
                    object
                });
                list(10, &objects)
            }
            _ if asked.path.contains("watch=1") => open(&[]),
            _ => list(10, &[]),
        }
    })
    .await;
    let (_cluster, mut heard) = follow(&server);
    let (whole, said) = next(&mut heard).await;
    assert!(whole);
    assert_eq!(words(&said), ["open: same", "closed: same", "hidden: same"]);
    let mut told = Vec::new();
    while told.len() < 3 {
        told.extend(words(&next(&mut heard).await.1));
    }
    told.sort();
    assert_eq!(
        told,
        [
            "closed: refused False PodSecurity",
            "hidden: refused Unknown NamespaceUnavailable",
            "open: accepted"
        ]
    );
}

#[tokio::test]
async fn what_was_accepted_is_not_asked_for_again_where_its_namespace_allows_less_by_now() {
    let server = containers(|ask, _| match ask {
        Ask::List => {
            let mut object = container("bold", 5);
            object["spec"]["hostPID"] = json!(true);
            let mut changed = object.clone();
            changed["metadata"]["name"] = json!("changed");
            list(10, &[object, changed])
        }
        Ask::Watch(_) => open(&[]),
    })
    .await;
    let key = |name: &str| {
        ObjectKey::new(Kind::Container, Namespace::default(), Name::new(name).expect("it is a name"))
    };
    let uid = || stower_crds::Uid::new("uid-bold").expect("it is a UID");
    let (out, mut heard) = mpsc::channel(64);
    let before = |generation| Before { uid: uid(), generation, level: None };
    let accepted = [(key("bold"), before(1)), (key("changed"), before(0))].into();
    let cluster = cluster(&server);
    cluster.follow(&accepted, &out);
    assert_eq!(words(&next(&mut heard).await.1), ["bold: accepted", "changed: same"]);
}

/// A server whose namespaces have a level, and that has one container which takes from others.
async fn taking(level: &'static str) -> Server {
    Server::start(move |asked| match asked.path.split('?').next().unwrap_or_default() {
        "/api/v1/namespaces/kube-system" => Reply::status(403, "Forbidden"),
        "/api/v1/namespaces/default" => {
            let labels = json!({"pod-security.kubernetes.io/enforce": level});
            Reply::ok(json!({"kind": "Namespace", "metadata": {"labels": labels}}))
        }
        "/apis/stower.dev/v1alpha1/containers" if !asked.path.contains("watch=1") => {
            let mut object = container("a", 5);
            object["spec"]["volumesFrom"] = json!([{"name": "data"}]);
            object["metadata"]["annotations"] = json!({LEVEL_ANNOTATION: "privileged"});
            list(10, &[object])
        }
        _ if asked.path.contains("watch=1") => open(&[]),
        _ => list(10, &[]),
    })
    .await
}

/// The level that the next container is accepted at.
async fn level(heard: &mut mpsc::Receiver<Update>) -> Option<PodSecurityLevel> {
    loop {
        for said in next(heard).await.1 {
            match said.word {
                Word::Accepted(object) => return accepted_at(&object),
                word => assert!(matches!(word, Word::Same), "{word:?}"),
            }
        }
    }
}

#[tokio::test]
async fn what_takes_from_others_is_accepted_at_the_level_of_its_namespace() {
    for (label, expected) in [
        ("privileged", PodSecurityLevel::Privileged),
        ("baseline", PodSecurityLevel::Baseline),
        ("generous", PodSecurityLevel::Restricted),
    ] {
        let server = taking(label).await;
        let (_cluster, mut heard) = follow(&server);
        // Whatever the object itself says.
        assert_eq!(level(&mut heard).await, Some(expected));
    }
}

#[tokio::test]
async fn what_takes_more_than_its_level_allows_is_asked_for_again_and_keeps_what_it_had() {
    let key = ObjectKey::container("default", "a").expect("it is a name");
    for (label, was, expected) in [
        ("privileged", PodSecurityLevel::Restricted, PodSecurityLevel::Privileged),
        ("restricted", PodSecurityLevel::Baseline, PodSecurityLevel::Baseline),
    ] {
        let server = taking(label).await;
        let uid = stower_crds::Uid::new("uid-a").expect("it is a UID");
        let accepted = [(key.clone(), Before { uid, generation: 1, level: Some(was) })].into();
        let (out, mut heard) = mpsc::channel(64);
        let cluster = cluster(&server);
        cluster.follow(&accepted, &out);
        assert_eq!(level(&mut heard).await, Some(was));
        assert!(
            !server.paths().contains(&"/api/v1/namespaces/default".to_owned()),
            "nobody has a reason to ask"
        );
        cluster.limit(&key, true);
        assert_eq!(level(&mut heard).await, Some(expected));
    }
}
