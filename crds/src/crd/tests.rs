//! The definitions: current on disk, bounded everywhere, described everywhere.

use std::{env, fs, path::Path};

use super::*;

fn walk(node: &Value, path: &str, visit: &mut impl FnMut(&Value, &str)) {
    visit(node, path);
    for (name, child) in node["properties"].as_object().into_iter().flatten() {
        walk(child, &format!("{path}.{name}"), visit);
    }
    if node["items"].is_object() {
        walk(&node["items"], &format!("{path}[]"), visit);
    }
    assert!(!node["additionalProperties"].is_object(), "{path} is an open map");
}

fn walk_all(visit: &mut impl FnMut(&Value, &str)) {
    for kind in Kind::CUSTOM {
        walk(schema(*kind), kind.as_str(), visit);
    }
}

/// `UPDATE=1 cargo test -p stower-crds` writes the files anew.
#[test]
fn the_committed_definitions_are_current() {
    for kind in Kind::CUSTOM {
        let file = format!("../manifests/crds/{}.stower.dev.yaml", kind.plural());
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let text = crate::to_yaml(&crd(*kind));
        if env::var_os("UPDATE").is_some() {
            fs::write(&path, &text).expect("writable");
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == text,
            "{} is not current: run UPDATE=1 cargo test -p stower-crds",
            path.display()
        );
        let read = crate::read_documents(text.as_bytes(), &crate::Limits::default()).unwrap();
        assert_eq!(read[0].value, crd(*kind));
    }
    assert_eq!(crd_yaml().matches("kind: CustomResourceDefinition").count(), Kind::CUSTOM.len());
}

/// The chart's are the same, and Helm leaves them alone.
#[test]
fn the_charts_definitions_are_current() {
    for kind in Kind::CUSTOM {
        let file = format!("../charts/stower-crds/templates/{}.stower.dev.yaml", kind.plural());
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let mut kept = crd(*kind);
        kept["metadata"]["annotations"] = json!({"helm.sh/resource-policy": "keep"});
        let text = crate::to_yaml(&kept);
        assert!(!text.contains("{{"), "{} would be taken for a template", path.display());
        if env::var_os("UPDATE").is_some() {
            fs::write(&path, &text).expect("writable");
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == text,
            "{} is not current: run UPDATE=1 cargo test -p stower-crds",
            path.display()
        );
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/stower-crds/templates");
    let files = fs::read_dir(folder).unwrap().flatten();
    let definitions = files.filter(|file| file.path().extension().is_some_and(|end| end == "yaml")).count();
    assert_eq!(definitions, Kind::CUSTOM.len(), "a definition of the chart is of no kind");
}

#[test]
fn names_are_as_documented() {
    let crd = crd(Kind::Container);
    assert_eq!(crd["metadata"]["name"], "containers.stower.dev");
    assert_eq!(crd["spec"]["names"]["shortNames"], json!(["sctr"]));
    assert_eq!(crd["spec"]["names"]["categories"], json!(["stower"]));
    assert_eq!(crd["spec"]["scope"], "Namespaced");
    let version = &crd["spec"]["versions"][0];
    assert_eq!(version["name"], "v1alpha1");
    assert_eq!(version["selectableFields"], json!([{ "jsonPath": ".spec.nodeName" }]));
    assert_eq!(version["subresources"]["status"], json!({}));
}

#[test]
fn every_value_is_bounded_and_described() {
    walk_all(&mut |node, path| {
        let bounded = match node["type"].as_str() {
            Some("string") => node["maxLength"].is_u64() || node["enum"].is_array(),
            Some("array") => node["maxItems"].is_u64() && node["x-kubernetes-list-type"].is_string(),
            Some("integer") => matches!(node["format"].as_str(), Some("int32" | "int64")),
            Some("object" | "boolean") => true,
            _ => node["x-kubernetes-int-or-string"] == true && node["maxLength"].is_u64(),
        };
        assert!(bounded, "{path} has no bound: {node}");
        assert!(node["description"].is_string() || path.ends_with("[]"), "{path} has no description");
        assert!(node.get("nullable").is_none() && node.get("anyOf").is_none(), "{path}: {node}");
    });
}

/// Server-side apply merges a list by its keys only when each is required or has a default.
#[test]
fn keys_of_lists_are_required_or_defaulted() {
    walk_all(&mut |node, path| {
        for key in node["x-kubernetes-list-map-keys"].as_array().into_iter().flatten() {
            let required = node["items"]["required"].as_array().is_some_and(|names| names.contains(key));
            let name = key.as_str().expect("a name");
            let defaulted = node["items"]["properties"][name].get("default").is_some();
            assert!(required || defaulted, "{path}: {key}");
        }
    });
}

/// A person is told what is meant, not the pattern.
#[test]
fn patterns_have_an_explanation() {
    walk_all(&mut |node, path| {
        if let Some(pattern) = node["pattern"].as_str() {
            assert!(explain(pattern).is_some(), "{path}: {pattern}");
        }
    });
}
