//! Discovery: which groups, versions and kinds there are, in Kubernetes' words.

use axum::response::Response;
use serde_json::{Value, json};
use stower_crds::Kind;

use super::{GROUP, VERSION, status::ok};

fn this_group() -> Value {
    let version = json!({"groupVersion": format!("{GROUP}/{VERSION}"), "version": VERSION});
    json!({"name": GROUP, "versions": [version], "preferredVersion": version})
}

pub(super) async fn groups() -> Response {
    ok(&json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [this_group()]}))
}

pub(super) async fn group() -> Response {
    let mut group = this_group();
    group["kind"] = "APIGroup".into();
    group["apiVersion"] = "v1".into();
    ok(&group)
}

/// A kind with all that can be done with it.
fn whole(kind: Kind) -> Value {
    let mut whole = json!({
        "name": kind.plural(), "singularName": kind.singular(), "namespaced": true, "kind": kind.as_str(),
        "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"],
    });
    if !kind.short_names().is_empty() {
        whole["shortNames"] = json!(kind.short_names());
    }
    if !kind.is_core() {
        whole["categories"] = json!(["stower"]);
    }
    whole
}

pub(super) async fn resources() -> Response {
    let mut resources = Vec::new();
    for kind in Kind::CUSTOM {
        let entry = |name: String, verbs: &[&str]| json!({"name": name, "singularName": kind.singular(), "namespaced": true, "kind": kind.as_str(), "verbs": verbs});
        resources.push(whole(*kind));
        resources.push(entry(format!("{}/status", kind.plural()), &["get"]));
        if *kind == Kind::Container {
            resources.push(entry(format!("{}/log", kind.plural()), &["get"]));
            resources.push(entry(format!("{}/processes", kind.plural()), &["get"]));
            resources.push(entry(format!("{}/stats", kind.plural()), &["get"]));
            resources.push(entry(format!("{}/copyfrom", kind.plural()), &["create"]));
            resources.push(entry(format!("{}/copyto", kind.plural()), &["create"]));
            resources.push(entry(format!("{}/attach", kind.plural()), &["create"]));
            resources.push(entry(format!("{}/exec", kind.plural()), &["create"]));
            resources.push(entry(format!("{}/hold", kind.plural()), &["create"]));
            resources.push(entry(format!("{}/commit", kind.plural()), &["create"]));
            resources.push(entry(format!("{}/diff", kind.plural()), &["get"]));
            resources.push(entry(format!("{}/export", kind.plural()), &["get"]));
        } else {
            resources.push(entry(format!("{}/usage", kind.plural()), &["get"]));
        }
    }
    ok(&json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": format!("{GROUP}/{VERSION}"),
        "resources": resources,
    }))
}

pub(super) async fn core_versions() -> Response {
    ok(&json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}))
}

pub(super) async fn core_resources() -> Response {
    let events = json!({
        "name": "events", "singularName": "event", "namespaced": true, "kind": "Event",
        "verbs": ["list", "watch"], "shortNames": ["ev"],
    });
    let core = Kind::ALL.iter().filter(|kind| kind.is_core()).map(|kind| whole(*kind));
    let resources: Vec<Value> = core.chain([events]).collect();
    ok(&json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "v1", "resources": resources}))
}
