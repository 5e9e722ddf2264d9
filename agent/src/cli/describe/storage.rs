//! Volumes and data containers: what they are made of, where their data is, and who uses it.

use serde_json::Value;

use super::{rest, row, str_of, tree::Tree};

pub(super) fn volume(tree: &mut Tree, object: &Value) {
    let (spec, status) = (&object["spec"], &object["status"]);
    tree.field("Status", row::word(object));
    tree.field("Driver", str_of(&spec["driver"]));
    tree.maybe("Host Path", spec["hostPath"]["path"].as_str());
    tree.maybe("Host Path Type", spec["hostPath"]["type"].as_str());
    tree.field("Capacity", capacity(&spec["capacity"], status));
    owner(tree, spec);
    tree.field("Reclaim Policy", str_of(&spec["reclaimPolicy"]));
    tree.maybe("Path", status["path"].as_str());
    users(tree, status);
    rest(tree, spec, &["driver", "hostPath", "capacity", "owner", "mode", "reclaimPolicy", "nodeName"]);
}

pub(super) fn data_container(tree: &mut Tree, object: &Value) {
    let (spec, status) = (&object["spec"], &object["status"]);
    tree.field("Status", row::word(object));
    tree.maybe("Image", spec["image"].as_str());
    tree.maybe("Image ID", status["image"].as_str());
    tree.maybe("Image Pull Policy", spec["imagePullPolicy"].as_str());
    tree.field("Reclaim Policy", str_of(&spec["reclaimPolicy"]));
    users(tree, status);
    let mut all = Tree::default();
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        let path = volume["mountPath"].as_str().unwrap_or_default();
        let seen = status["volumes"].as_array().into_iter().flatten();
        let seen = seen.into_iter().find(|seen| seen["mountPath"] == path);
        let mut inner = Tree::default();
        match volume["volume"].as_str() {
            Some(name) => inner.field("From", format!("Volume {name}")),
            None => {
                inner.field("From", "its own data");
                inner.field("Capacity", row::amount(&volume["capacity"]));
            }
        }
        owner(&mut inner, volume);
        if volume["readOnly"] == true {
            inner.field("Read Only", "true");
        }
        if let Some(seen) = seen {
            inner.maybe("Filled From", seen["filledFrom"].as_str());
            inner.maybe("Path", seen["path"].as_str());
        }
        all.group(path, inner);
    }
    tree.group("Volumes", all);
    rest(tree, spec, &["volumes", "image", "imagePullPolicy", "reclaimPolicy", "nodeName"]);
}

/// What is declared, and whether anything keeps to it.
fn capacity(declared: &Value, status: &Value) -> String {
    let shown = if declared.is_null() { &status["capacity"] } else { declared };
    match (shown.is_null(), status["capacityEnforced"] == true) {
        (true, _) => "<none> (no limit is enforced)".to_owned(),
        (false, true) => format!("{} (enforced)", row::amount(shown)),
        (false, false) => format!("{} (not enforced)", row::amount(shown)),
    }
}

fn owner(tree: &mut Tree, spec: &Value) {
    let number = |value: &Value| value.as_u64().map_or("-".to_owned(), |number| number.to_string());
    if spec["owner"].is_object() {
        tree.field("Owner", format!("{}:{}", number(&spec["owner"]["uid"]), number(&spec["owner"]["gid"])));
    }
    if let Some(mode) = spec["mode"].as_u64() {
        tree.field("Mode", format!("{mode:04o}"));
    }
}

fn users(tree: &mut Tree, status: &Value) {
    let users = status["users"].as_array().into_iter().flatten();
    tree.lines("Used By", users.filter_map(|user| user.as_str().map(str::to_owned)).collect());
}
