use serde_json::json;

use super::*;

fn matches(selector: &str) -> bool {
    let object = json!({"metadata": {"name": "web", "labels": {"app": "web", "tier": "front", "a.b/c": ""}}});
    LabelSelector::parse(selector).unwrap().matches(&object)
}

#[test]
fn labels_are_selected_as_in_kubernetes() {
    for selector in [
        "",
        "app=web",
        "app==web",
        " app = web , tier!=back",
        "app in (web,db)",
        "app in (db, web),tier",
        "nope!=x",
        "app notin (db)",
        "!nope",
        "nope notin (a)",
        "a.b/c=",
        "a.b/c",
    ] {
        assert!(matches(selector), "{selector}");
    }
    for selector in
        ["app=db", "app!=web", "app in (db)", "app notin (web,db)", "!app", "nope", "nope=", "app=web,tier=x"]
    {
        assert!(!matches(selector), "{selector}");
    }
}

#[test]
fn what_is_no_selector_is_refused() {
    for selector in ["=x", "a in b", "a in (b", "a within (b)", "a=b=c", "a b", ",", "a,,b", "!", "a=ü"] {
        assert!(LabelSelector::parse(selector).is_err(), "{selector}");
    }
}

#[test]
fn fields_are_selected_by_what_there_is() {
    let object = json!({"metadata": {"name": "web"}, "spec": {}});
    let fields = ["metadata.name", "spec.nodeName"];
    for (selector, want) in [
        ("metadata.name=web", true),
        ("metadata.name==web,spec.nodeName=", true),
        ("metadata.name!=web", false),
        ("spec.nodeName!=a", true),
        ("", true),
    ] {
        assert_eq!(FieldSelector::parse(selector, &fields).unwrap().matches(&object), want, "{selector}");
    }
    assert_eq!(
        FieldSelector::parse("status.phase=x", &fields),
        Err("field label not supported: status.phase; there are metadata.name, spec.nodeName".to_owned())
    );
    assert!(FieldSelector::parse("metadata.name", &fields).is_err());
}
