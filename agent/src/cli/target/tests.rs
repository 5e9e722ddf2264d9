use serde_json::json;

use super::*;

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn names(line: &str) -> Vec<String> {
    match wanted(&words(line)).unwrap() {
        Wanted::Names(names) => {
            names.into_iter().map(|(kind, name)| format!("{}/{name}", kind.plural)).collect()
        }
        Wanted::Kinds(kinds) => kinds.iter().map(|kind| kind.plural.to_owned()).collect(),
    }
}

#[test]
fn arguments_are_read_as_kubectl_does() {
    for (line, want) in [
        ("", "containers"),
        ("containers", "containers"),
        ("ctr", "containers"),
        ("Container.stower.dev", "containers"),
        ("web", "containers/web"),
        ("web db", "containers/web containers/db"),
        ("containers web db", "containers/web containers/db"),
        ("container/web ctr/db", "containers/web containers/db"),
        ("volumes", "volumes"),
        ("svol data", "volumes/data"),
        ("sdc", "datacontainers"),
        ("cm", "configmaps"),
        ("secret key", "secrets/key"),
        ("containers,volumes", "containers volumes"),
        ("vol,volume", "volumes"),
        ("vol,cm a", "volumes/a configmaps/a"),
        ("all", "containers datacontainers volumes"),
        ("volume/a secret/b c", "volumes/a secrets/b containers/c"),
        ("secrets.stower.dev", "containers/secrets.stower.dev"),
    ] {
        assert_eq!(names(line), words(want), "{line}");
    }
}

#[test]
fn what_is_no_object_is_refused_by_name() {
    for (line, want) in [
        (
            "pods/web",
            "the agent doesn't have a resource type \"pods\": there are containers, datacontainers, volumes, configmaps, secrets",
        ),
        (
            "volumes,pods",
            "the agent doesn't have a resource type \"pods\": there are containers, datacontainers, volumes, configmaps, secrets",
        ),
        ("volume/", "\"volume/\" is no object: write NAME or volume/NAME"),
        ("container/", "\"container/\" is no object: write NAME or container/NAME"),
        ("container/a/b", "\"container/a/b\" is no object: write NAME or container/NAME"),
    ] {
        assert_eq!(wanted(&words(line)).unwrap_err().to_string(), want);
    }
}

#[test]
fn documents_name_their_target() {
    let object =
        json!({"apiVersion": "stower.dev/v1alpha1", "kind": "Container", "metadata": {"name": "web"}});
    let target = Target::of(&object, "here").unwrap();
    assert_eq!(
        (target.namespace.as_str(), target.to_string().as_str()),
        ("here", "container.stower.dev/web")
    );
    assert_eq!(target.sub(&["log"]).as_str(), "/apis/stower.dev/v1alpha1/namespaces/here/containers/web/log");
    let error = Target::of(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}), "here")
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "no matches for kind \"Pod\" in version \"v1\": this version runs Container, DataContainer, Volume of \
         stower.dev/v1alpha1, and ConfigMap, Secret of v1"
    );
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key"}});
    let target = Target::of(&secret, "here").unwrap();
    assert_eq!(
        (target.to_string().as_str(), target.url().as_str()),
        ("secret/key", "/api/v1/namespaces/here/secrets/key")
    );
    assert_eq!(target.resource.list(None).as_str(), "/api/v1/secrets");
}

#[test]
fn items_of_a_list_know_their_kind() {
    let mut list = json!({"apiVersion": "stower.dev/v1alpha1", "kind": "ContainerList", "items": [{"metadata": {"name": "a"}}]});
    let items = items(&mut list);
    assert_eq!(
        (&items[0]["kind"], &items[0]["apiVersion"]),
        (&json!("Container"), &json!("stower.dev/v1alpha1"))
    );
}
