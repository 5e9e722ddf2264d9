//! Admission: each rule with the message it gives, the corpus of invalid manifests, and arbitrary input.

use std::{fs, path::Path};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{Limits, read_documents};

/// What admission says about a Container whose spec has these fields beside an image.
fn verdict(fields: Value) -> Vec<String> {
    match admit(container(fields), &AdmitContext::default()) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

fn container(fields: Value) -> Value {
    let mut spec = json!({ "image": "docker.io/library/busybox:1.36" });
    for (name, value) in fields.as_object().expect("a map").clone() {
        spec[name] = value;
    }
    json!({ "apiVersion": API_VERSION, "kind": "Container", "metadata": { "name": "web" }, "spec": spec })
}

fn accept(fields: Value) -> Object {
    admit(container(fields), &AdmitContext::default()).expect("accepted")
}

#[test]
fn show_all() {
    for fields in [
        json!({"imagee": "x"}),
        json!({"hostNetwork": 5}),
        json!({"args": null}),
        json!({"ports": [{"containerPort": 0}]}),
        json!({"restart": {"maxRetries": 3}}),
        json!({"volumeMounts": [{"name": "a", "mountPath": "/a"}]}),
        json!({"resources": {"limits": {"memory": "1Gi"}, "requests": {"memory": "2Gi"}}}),
        json!({"resources": {"limits": {"cpu": 1}, "requests": {"cpu": "1500m"}}}),
        json!({"resources": {"limits": {"cpu": 0.5}}}),
        json!({"restart": {"backoff": {"initial": "2m"}}}),
        json!({"volumes": [{"name": "a"}]}),
        json!({"volumes": [{"name": "a", "hostPath": {"path": "/a/../b"}}, {"name": "a", "emptyDir": {"medium": "Memory"}}]}),
        json!({"volumes": [{"name": "a", "emptyDir": {"medium": "Memory"}}]}),
        json!({"livenessProbe": {"exec": {"command": ["a"]}}}),
        json!({"rlimits": [{"name": "nofile", "soft": 5, "hard": 3}]}),
        json!({"restartPolicy": "Foo"}),
        json!({"stopSignal": "SIGFOO"}),
        json!({"env": [{"name": "A", "value": "x"}, {"name": "A", "value": "y"}]}),
        json!({"env": [{"name": "A", "value": 5}]}),
    ] {
        println!("{:#?}", verdict(fields));
    }
    println!("{:?}", super::rules::broken(Kind::Container));
    println!(
        "{}",
        crate::to_yaml(
            &accept(
                json!({"command": ["sh", "-c", "echo hi\nexit 1\n"], "env": [{"name":"A", "value":"yes"}]})
            )
            .to_value()
        )
    );
    for text in [
        "a: [",
        "a: 1\na: 2\n",
        "- 1\n--- \n\n---\nb: *x",
        "a: !foo b",
        "x: .nan",
        "a: 'b",
        "a:\n\t- b",
        "\u{feff}a: 1",
        "a: 0644\nb: yes\n1: x\nc: 99999999999999999999\n<<: {d: 1}\ne: ~",
        "",
        "# only\n",
        "{\"a\":\t[1,\n2]}\n",
    ] {
        println!(
            "{text:?} {:?}",
            read_documents(text.as_bytes(), &Limits::default())
                .map(|d| d.iter().map(|d| d.value.to_string()).collect::<Vec<_>>())
                .map_err(|e| e.to_string())
        );
    }
    let deep = "[".repeat(10_000);
    let t = std::time::Instant::now();
    println!(
        "{:?} {:?}",
        read_documents(deep.as_bytes(), &Limits::default()).map_err(|e| e.to_string()).is_err(),
        t.elapsed()
    );
    let _ = (fs::read_dir("."), Path::new("."));
}
