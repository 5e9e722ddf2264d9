//! Kinds beside Container: where they are served, and who sees what of a Secret.

use axum::body::Body;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;

use super::*;
use crate::api::{objects::shown, place::Peer};

const CORE: &str = "/api/v1/namespaces/default";
const CUSTOM: &str = "/apis/stower.dev/v1alpha1/namespaces/default";

fn object(kind: Kind, name: &str, version: u64, fields: &Value) -> ObjectView {
    let mut object = json!({
        "apiVersion": kind.api_version(), "kind": kind.as_str(),
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "generation": 1},
    });
    object.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let key = ObjectKey { kind, ..key(name) };
    ObjectView { key, source: SourceRef::Local, object, resource_version: version }
}

fn secret(version: u64) -> ObjectView {
    let mut secret = object(
        Kind::Secret,
        "key",
        version,
        &json!({"type": "Opaque", "data": {"password": "aHVudGVyMg=="}}),
    );
    secret.object["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": "{\"data\":{\"password\":\"aHVudGVyMg==\"}}"});
    secret
}

fn with_all() -> Served {
    let served = served(&["web"]);
    served.memory.set(object(Kind::Volume, "data", 2, &json!({"spec": {"driver": "local"}})));
    served.memory.set(object(Kind::DataContainer, "set", 3, &json!({"spec": {"volumes": []}})));
    served.memory.set(object(Kind::ConfigMap, "settings", 4, &json!({"data": {"a": "b"}})));
    served.memory.set(secret(5));
    served
}

#[tokio::test]
async fn every_kind_is_served_in_its_group() {
    let served = with_all();
    for (path, list, version, name) in [
        (format!("{CUSTOM}/volumes"), "VolumeList", "stower.dev/v1alpha1", "data"),
        (format!("{CUSTOM}/datacontainers"), "DataContainerList", "stower.dev/v1alpha1", "set"),
        (format!("{CORE}/configmaps"), "ConfigMapList", "v1", "settings"),
        (format!("{CORE}/secrets"), "SecretList", "v1", "key"),
        ("/api/v1/secrets".to_owned(), "SecretList", "v1", "key"),
        ("/apis/stower.dev/v1alpha1/volumes".to_owned(), "VolumeList", "stower.dev/v1alpha1", "data"),
    ] {
        let got = served.client.get(&path).await.unwrap();
        assert_eq!((&got["kind"], &got["apiVersion"]), (&json!(list), &json!(version)), "{path}");
        let items = got["items"].as_array().unwrap();
        assert_eq!((items.len(), &items[0]["metadata"]["name"]), (1, &json!(name)), "{path}");
        if path.contains("namespaces") {
            assert_eq!(served.client.get(&format!("{path}/{name}")).await.unwrap(), items[0]);
        }
    }
}

#[tokio::test]
async fn refusals_name_the_kind_as_kubectl_does() {
    let served = with_all();
    let said = async |path: &str| {
        let (code, _, message) = refused(&served.client, Method::GET, path, None).await;
        (code, message)
    };
    for (path, code, message) in [
        (format!("{CUSTOM}/volumes/x"), 404, "volumes.stower.dev \"x\" not found"),
        (format!("{CUSTOM}/datacontainers/x"), 404, "datacontainers.stower.dev \"x\" not found"),
        (format!("{CORE}/secrets/x"), 404, "secrets \"x\" not found"),
        (format!("{CORE}/configmaps/x"), 404, "configmaps \"x\" not found"),
        (
            format!("{CUSTOM}/secrets"),
            404,
            "the server doesn't have a resource type \"secrets\" in stower.dev/v1alpha1: there are containers, datacontainers, volumes",
        ),
        (
            format!("{CORE}/volumes"),
            404,
            "the server doesn't have a resource type \"volumes\" in v1: there are configmaps, secrets, events",
        ),
        (
            format!("{CUSTOM}/volumes/data/log"),
            404,
            "volumes.stower.dev \"data\" has no log: only containers have",
        ),
        (
            format!("{CUSTOM}/containers/web/usage"),
            404,
            "containers.stower.dev \"web\" has no usage: only volumes and datacontainers have",
        ),
        (format!("{CORE}/secrets/key/status"), 404, "the server could not find the requested resource"),
        (format!("{CORE}/secrets/key/log"), 404, "the server could not find the requested resource"),
    ] {
        assert_eq!(said(&path).await, (code, message.to_owned()), "{path}");
    }
    let hold = Content::json(&json!({"action": "stop"}));
    let refused =
        refused(&served.client, Method::POST, &format!("{CUSTOM}/volumes/data/hold"), Some(hold)).await;
    assert_eq!(
        (refused.0, refused.2.as_str()),
        (404, "volumes.stower.dev \"data\" has no hold: only containers have")
    );
    let invalid = said(&format!("{CORE}/secrets/Not%20A%20Name")).await;
    assert!(invalid.0 == 422 && invalid.1.starts_with("secrets \"Not A Name\" is invalid"), "{invalid:?}");
}

#[tokio::test]
async fn discovery_has_every_kind_and_its_short_names() {
    let served = served(&[]);
    let core = served.client.get("/api/v1").await.unwrap();
    let names = |list: &Value| -> Vec<(String, Value)> {
        let all = list["resources"].as_array().unwrap().iter();
        all.map(|it| (it["name"].as_str().unwrap().to_owned(), it["shortNames"].clone())).collect()
    };
    let of = |names: &[(&str, Value)]| -> Vec<(String, Value)> {
        names.iter().map(|(name, short)| ((*name).to_owned(), short.clone())).collect()
    };
    assert_eq!(
        names(&core),
        of(&[("configmaps", json!(["cm"])), ("secrets", Value::Null), ("events", json!(["ev"]))])
    );
    let custom = served.client.get("/apis/stower.dev/v1alpha1").await.unwrap();
    assert_eq!(
        names(&custom),
        of(&[
            ("containers", json!(["sctr"])),
            ("containers/status", Value::Null),
            ("containers/log", Value::Null),
            ("containers/processes", Value::Null),
            ("containers/stats", Value::Null),
            ("containers/copyfrom", Value::Null),
            ("containers/copyto", Value::Null),
            ("containers/attach", Value::Null),
            ("containers/exec", Value::Null),
            ("containers/hold", Value::Null),
            ("containers/commit", Value::Null),
            ("containers/diff", Value::Null),
            ("containers/export", Value::Null),
            ("datacontainers", json!(["sdc"])),
            ("datacontainers/status", Value::Null),
            ("datacontainers/usage", Value::Null),
            ("volumes", json!(["svol"])),
            ("volumes/status", Value::Null),
            ("volumes/usage", Value::Null),
        ])
    );
}

#[tokio::test]
async fn core_kinds_are_applied_with_their_version() {
    let served = served(&[]);
    let path = format!("{CORE}/configmaps/settings");
    served.client.apply(&path, &json!({"metadata": {"name": "settings"}, "data": {"a": "b"}})).await.unwrap();
    let asked = served.memory.asked().pop().unwrap();
    assert!(asked.contains("\"apiVersion\":\"v1\"") && asked.contains("\"kind\":\"ConfigMap\""), "{asked}");
    let other = json!({"apiVersion": "stower.dev/v1alpha1", "metadata": {"name": "settings"}});
    let error = refusal(served.client.apply(&path, &other).await.unwrap_err());
    assert!(error.message.starts_with("the apiVersion of the provided object"), "{error:?}");
}

/// What somebody gets whose connection is not known to be root's.
async fn as_nobody(served: &Served, method: Method, path: &str, body: &str) -> (u16, String) {
    let (hub, _) = Hub::new(&*served.memory);
    let backend: Arc<dyn Backend> = Arc::<Memory>::clone(&served.memory);
    let router = router(Api { backend, hub, writes: Arc::default() });
    let request = hyper::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", body::APPLY)
        .body(Body::from(body.to_owned()))
        .unwrap();
    let response = TowerToHyperService::new(router).call(request).await.unwrap();
    let code = response.status().as_u16();
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (code, String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test]
async fn a_secret_is_for_root() {
    let served = with_all();
    let path = format!("{CORE}/secrets/key");
    let whole = served.client.get(&path).await.unwrap();
    assert_eq!(whole["data"]["password"], "aHVudGVyMg==", "root sees it");
    assert!(whole["metadata"]["annotations"][REDACTED_ANNOTATION].is_null());
    for path in [
        path.clone(),
        format!("{CORE}/secrets"),
        "/api/v1/secrets".to_owned(),
        "/api/v1/secrets?watch=true&timeoutSeconds=0".to_owned(),
    ] {
        let (code, text) = as_nobody(&served, Method::GET, &path, "").await;
        assert!(code == 200 && text.contains("\"password\":\"\""), "{path}: {text}");
        assert!(!text.contains("aHVudGVyMg"), "{path}: {text}");
        assert!(text.contains("\"stower.dev/redacted\":\"true\""), "{path}: {text}");
    }
    // A ConfigMap is not secret.
    let (_, text) = as_nobody(&served, Method::GET, &format!("{CORE}/configmaps/settings"), "").await;
    assert!(text.contains("\"a\":\"b\"") && !text.contains("redacted"), "{text}");
    let (_, text) = as_nobody(&served, Method::DELETE, &format!("{path}?dryRun=All"), "").await;
    assert!(!text.contains("aHVudGVyMg") && text.contains("redacted"), "{text}");
    let shown = shown(&secret(1), Peer { root: true });
    assert_eq!(shown["data"]["password"], "aHVudGVyMg==");
}

/// Or what somebody printed, edited and applied would wipe out every value.
#[tokio::test]
async fn a_redacted_secret_is_not_applied() {
    let served = with_all();
    let path = format!("{CORE}/secrets/key");
    let (_, printed) = as_nobody(&served, Method::GET, &path, "").await;
    let mut object: Value = serde_json::from_str(&printed).unwrap();
    let (code, text) = as_nobody(&served, Method::PATCH, &path, &printed).await;
    assert!(code == 422 && text.contains("stower.dev/redacted says that the values were left out"), "{text}");
    let error = refusal(served.client.apply(&path, &object).await.unwrap_err());
    assert_eq!(error.code, 422, "nor by root");
    assert_eq!(served.memory.asked(), Vec::<String>::new());
    object["metadata"]["annotations"] = json!({});
    served.client.apply(&path, &object).await.unwrap();
}

#[tokio::test]
async fn data_of_volumes_has_routes_of_its_own() {
    let served = with_all();
    let list = served.client.get("/apis/stower.dev/v1alpha1/volumedata").await.unwrap();
    assert_eq!((&list["kind"], &list["items"]), (&json!("VolumeDataList"), &json!([])));
    let delete = async |query: &str| {
        let path = format!("{CUSTOM}/volumedata/left{query}");
        served.client.json(Method::DELETE, &path, None).await.unwrap();
        served.memory.asked().pop().unwrap()
    };
    assert_eq!(delete("").await, "remove the data of Volume default/left");
    assert_eq!(delete("?kind=DataContainer").await, "remove the data of DataContainer default/left");
    let kind = format!("{CUSTOM}/volumedata/left?kind=pod");
    assert_eq!(refused(&served.client, Method::DELETE, &kind, None).await.0, 400);
    let usage = refused(&served.client, Method::GET, &format!("{CUSTOM}/volumes/none/usage"), None).await;
    assert_eq!((usage.0, usage.2.as_str()), (404, "volumes.stower.dev \"none\" not found"));
}
