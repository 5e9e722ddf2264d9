//! What is said of a status, and what of one that is there: values in, values out.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};
use stower_controllers::Mark;
use stower_crds::{FINALIZER, ObjectKey, Uid};

/// How many fields may be unknown to a server.
const MAX_UNDECLARED: usize = 64;

/// The path of an object.
pub(super) fn path(key: &ObjectKey) -> String {
    // Names of this kind need no encoding.
    format!(
        "/apis/{}/namespaces/{}/{}/{}",
        stower_crds::API_VERSION,
        key.namespace,
        key.kind.plural(),
        key.name
    )
}

fn object(key: &ObjectKey, uid: &Uid) -> Value {
    json!({
        "apiVersion": stower_crds::API_VERSION,
        "kind": key.kind.as_str(),
        // Another object of this name has another UID, and the apply is refused.
        "metadata": {"name": key.name.as_str(), "namespace": key.namespace.as_str(), "uid": uid.as_str()},
    })
}

/// The apply of a status.
pub(super) fn of_status(key: &ObjectKey, uid: &Uid, status: &Value) -> Value {
    let mut object = object(key, uid);
    object["status"] = status.clone();
    object
}

/// The apply of the agent's finalizer, which leaves those of others as they are.
pub(super) fn of_finalizer(key: &ObjectKey, uid: &Uid) -> Value {
    let mut object = object(key, uid);
    object["metadata"]["finalizers"] = json!([FINALIZER]);
    object
}

/// The change that takes the agent's finalizer off an object as it was read, and off no other; `None` when it has none.
pub(super) fn without_finalizer(object: &Value) -> Option<Value> {
    let metadata = &object["metadata"];
    let all = metadata["finalizers"].as_array()?;
    let others: Vec<_> = all.iter().filter(|finalizer| *finalizer != FINALIZER).collect();
    (others.len() < all.len()).then(|| {
        json!({"metadata": {
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
            "finalizers": others,
        }})
    })
}

/// Tells a status from another one.
pub(super) fn mark(status: &Value) -> Mark {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    // Keys are in order.
    status.to_string().hash(&mut hasher);
    Mark(hasher.finish())
}

/// A status without what says nothing: a server does not keep it.
pub(super) fn plain(mut status: Value) -> Value {
    fn clear(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.retain(|_, value| !value.is_null());
                fields.values_mut().for_each(clear);
            }
            Value::Array(items) => items.iter_mut().for_each(clear),
            _ => {}
        }
    }
    clear(&mut status);
    status
}

/// Gives conditions that say of no time since when they are so the time at which their object was seen first.
pub(super) fn date(status: &mut Value, since: Timestamp) {
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        if condition["lastTransitionTime"].is_null() {
            condition["lastTransitionTime"] = since.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
        }
    }
}

/// Times of conditions that an earlier agent knew better.
///
/// A new agent sees for the first time what has been so for long. Where the server has the same condition with the same status, it
/// has been so since the time there, as long as this agent does not see it change.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Carried(Vec<(String, Value, Value)>);

impl Carried {
    /// Compares what this agent says first with what is there.
    pub(super) fn new(said: &Value, there: &Value) -> Self {
        let mut carried = Vec::new();
        for condition in conditions(said) {
            let same = conditions(there)
                .find(|old| old["type"] == condition["type"] && old["status"] == condition["status"]);
            let Some(since) = same.map(|old| &old["lastTransitionTime"]).filter(|since| since.is_string())
            else {
                continue;
            };
            let type_ = condition["type"].as_str().unwrap_or_default().to_owned();
            carried.push((type_, condition["lastTransitionTime"].clone(), since.clone()));
        }
        Self(carried)
    }

    /// Puts the older times into a status.
    pub(super) fn apply(&self, status: &mut Value) {
        let conditions = status["conditions"].as_array_mut().into_iter().flatten();
        for condition in conditions {
            let known = self.0.iter().find(|(type_, said, _)| {
                condition["type"] == type_.as_str() && condition["lastTransitionTime"] == *said
            });
            if let Some((_, _, since)) = known {
                condition["lastTransitionTime"] = since.clone();
            }
        }
    }
}

fn conditions(status: &Value) -> impl Iterator<Item = &Value> {
    status["conditions"].as_array().into_iter().flatten()
}

/// Fields that the server's definitions do not have, since they are of another release. An apply with one of them is refused as a
/// whole, so they are left out.
#[derive(Debug, Default)]
pub(super) struct Undeclared(BTreeSet<Vec<String>>);

impl Undeclared {
    /// Learns from a refusal; false when it is about something else, or known already.
    pub(super) fn learn(&mut self, refusal: &str) -> bool {
        const SAID: &str = ": field not declared in schema";
        let (mut news, mut from) = (false, 0);
        for (end, _) in refusal.match_indices(SAID) {
            let before = &refusal[from..end];
            from = end + SAID.len();
            let begins = |at: &usize| *at == 0 || before[..*at].ends_with([' ', '\n', '\t', '(']);
            let Some(start) = before.match_indices(".status").map(|(at, _)| at).filter(begins).last() else {
                continue;
            };
            // Without the keys of lists: `.status.volumes[name="v.1"].users`.
            let mut depth = 0_usize;
            let bare: String = before[start..]
                .chars()
                .filter(|letter| {
                    match letter {
                        '[' => depth += 1,
                        ']' => depth = depth.saturating_sub(1),
                        _ => return depth == 0,
                    }
                    false
                })
                .collect();
            let path: Vec<String> = bare.split('.').skip(1).map(str::to_owned).collect();
            if path.first().is_some_and(|first| first == "status")
                && path.len() > 1
                && self.0.len() < MAX_UNDECLARED
            {
                news |= self.0.insert(path);
            }
        }
        news
    }

    /// Leaves them out of what is applied.
    pub(super) fn apply(&self, object: &mut Value) {
        for path in &self.0 {
            remove(object, path);
        }
    }
}

fn remove(value: &mut Value, path: &[String]) {
    match (value, path) {
        (Value::Array(items), path) => items.iter_mut().for_each(|item| remove(item, path)),
        (Value::Object(fields), [last]) => drop(fields.remove(last)),
        (Value::Object(fields), [first, rest @ ..]) => {
            if let Some(below) = fields.get_mut(first) {
                remove(below, rest);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
