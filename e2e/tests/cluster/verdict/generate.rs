//! Documents from the schemas: one fault at each place, objects by chance, and changes of an object.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::{Map, Value, json};
use stower_crds::Kind;

/// Texts that some field takes and another one refuses.
const TEXTS: [&str; 64] = [
    "",
    "a",
    "web",
    "a-b",
    "-a",
    "a-",
    "A",
    "a.b",
    "a..b",
    "a_b",
    "a b",
    "ä",
    "a/b",
    "a:b",
    "a=b",
    "0",
    "1",
    "-1",
    "007",
    "1.5",
    ".5",
    "1.",
    "1e3",
    "1e99",
    "1Gi",
    "64Mi",
    "100m",
    "1k",
    "1n",
    "9223372036854775807",
    "9223372036854775808",
    "5s",
    "1h30m",
    "1.5h",
    "999999h",
    "1d",
    "100us",
    "1µs",
    "s",
    "TERM",
    "SIGTERM",
    "SIGRTMIN+3",
    "RTMAX-14",
    "64",
    "65",
    "r",
    "rwm",
    "wrr",
    "/",
    "/a",
    "/a/b",
    "/a/../b",
    "/a//b",
    "/a/",
    "/a:b",
    "../a",
    "ALL",
    "NET_ADMIN",
    "net_admin",
    "metadata.name",
    "metadata.labels['a']",
    "x\ny",
    "\u{7f}",
    "127.0.0.1",
];

/// Numbers in an order that a seed makes.
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5DEE_CE66_D1CE_4E5B)
    }

    /// The next number below `limit` (xorshift64*).
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(number).unwrap_or(0) % limit.max(1)
    }

    fn one_in(&mut self, count: usize) -> bool {
        count > 0 && self.below(count) == 0
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

fn schema(kind: Kind) -> Value {
    let mut crd = stower_crds::crd(kind);
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].take()
}

fn wrap(kind: Kind, spec: Value) -> Value {
    json!({ "apiVersion": kind.api_version(), "kind": kind.as_str(), "metadata": { "name": "a" }, "spec": spec })
}

/// An object with fields by chance. One value in `faults` is wrong on purpose; with 0 none is, but rules may still refuse it.
pub(super) fn object(kind: Kind, chance: &mut Chance, faults: usize) -> Value {
    let rate = if faults == 0 { 0 } else { faults * 8 };
    wrap(kind, any(&schema(kind), chance, rate, 0))
}

fn any(schema: &Value, chance: &mut Chance, rate: usize, depth: usize) -> Value {
    if chance.one_in(rate) {
        let all = wrong(schema, true);
        return chance.of(&all).clone();
    }
    match schema["type"].as_str() {
        Some("object") => {
            let required: Vec<&str> =
                schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let mut map = Map::new();
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                // The deeper, the fewer: what stands at the top is what rules are about.
                if required.contains(&name.as_str()) || chance.one_in(3 + depth) {
                    map.insert(name.clone(), any(property, chance, rate, depth + 1));
                }
            }
            if chance.one_in(rate * 4) {
                map.insert("unknownField".to_owned(), json!(1));
            }
            Value::Object(map)
        }
        Some("array") => {
            let least = schema["minItems"].as_u64().and_then(|it| usize::try_from(it).ok()).unwrap_or(0);
            let count = least + chance.below(3);
            Value::Array((0..count).map(|_| any(&schema["items"], chance, rate, depth + 1)).collect())
        }
        _ => {
            let all = right(schema);
            if all.is_empty() { Value::Null } else { chance.of(&all).clone() }
        }
    }
}

/// Values of a scalar that the schema takes.
fn right(schema: &Value) -> Vec<Value> {
    if let Some(values) = schema["enum"].as_array() {
        return values.clone();
    }
    let number = |name: &str| schema[name].as_f64();
    let fits = |value: &i64| {
        #[expect(clippy::cast_precision_loss, reason = "bounds are floats in the schema too")]
        let value = *value as f64;
        number("minimum").is_none_or(|least| value >= least)
            && number("maximum").is_none_or(|most| value <= most)
    };
    let integers = [0, 1, 2, 3, 7, 64, 80, 443, 1000, 65_535].into_iter().filter(fits).map(Value::from);
    let texts = || {
        let pattern = schema["pattern"].as_str().and_then(|pattern| Regex::new(pattern).ok());
        let least = usize::from(schema["minLength"].as_u64().is_some_and(|it| it > 0));
        TEXTS
            .into_iter()
            .filter(move |text| text.len() >= least && pattern.as_ref().is_none_or(|it| it.is_match(text)))
            .map(Value::from)
    };
    match schema["type"].as_str() {
        Some("string") => texts().collect(),
        Some("integer") => integers.collect(),
        Some("boolean") => vec![json!(true), json!(false)],
        _ => integers.chain(texts()).collect(),
    }
}

/// Values for a place that are wrong there, or at the edge of what is right; of the texts all, or some.
fn wrong(schema: &Value, all_texts: bool) -> Vec<Value> {
    let mut all = vec![Value::Null, json!("text"), json!(5), json!(1.5), json!(true), json!([]), json!({})];
    match schema["type"].as_str() {
        Some("array") => all.extend([json!([null]), json!(["text"]), json!([[]])]),
        Some("object") => all.push(json!({ "unknownField": 1 })),
        _ => {}
    }
    let number = |name: &str| {
        #[expect(clippy::cast_possible_truncation, reason = "bounds are whole")]
        let whole = |value: f64| value as i64;
        schema[name].as_i64().or_else(|| schema[name].as_f64().map(whole))
    };
    let is_number = schema["type"] == "integer" || schema["x-kubernetes-int-or-string"] == true;
    if is_number {
        all.extend(
            [0, -1, 2_147_483_647, 2_147_483_648, -2_147_483_649, i64::MAX, i64::MIN].map(Value::from),
        );
        all.extend([json!(1e3), json!(1e18), json!(1e19), json!(u64::MAX)]);
        if let Some(least) = number("minimum") {
            all.extend([json!(least), json!(least.saturating_sub(1))]);
        }
        if let Some(most) = number("maximum") {
            all.extend([json!(most), json!(most.saturating_add(1))]);
        }
    }
    let is_text = schema["type"] == "string" || schema["x-kubernetes-int-or-string"] == true;
    if is_text && (schema["pattern"].is_string() || schema["enum"].is_array()) {
        all.extend(TEXTS.into_iter().step_by(if all_texts { 1 } else { 9 }).map(Value::from));
    }
    if is_text {
        all.extend([json!(""), json!("a\0b"), json!("ä")]);
        let size = |name: &str| schema[name].as_u64().and_then(|it| usize::try_from(it).ok());
        if let Some(most) = size("maxLength").filter(|it| *it <= 131_071) {
            // Two bytes a character: it is characters that are counted.
            all.extend([json!("a".repeat(most)), json!("a".repeat(most + 1)), json!("ä".repeat(most))]);
            all.push(json!(format!("/{}", "a".repeat(most - 1))));
        }
    }
    if schema["type"] == "array" {
        let item = least(&schema["items"]);
        let most = schema["maxItems"].as_u64().and_then(|it| usize::try_from(it).ok()).unwrap_or(0);
        for count in [1, 2, 3, most, most + 1] {
            all.push(Value::Array(vec![item.clone(); count]));
        }
        all.push(json!([item, null, 5]));
    }
    all
}

/// The smallest value that the schema takes.
fn least(schema: &Value) -> Value {
    match schema["type"].as_str() {
        Some("object") => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            Value::Object(
                required.map(|name| (name.to_owned(), least(&schema["properties"][name]))).collect(),
            )
        }
        Some("array") => {
            let count = schema["minItems"].as_u64().and_then(|it| usize::try_from(it).ok()).unwrap_or(0);
            Value::Array(vec![least(&schema["items"]); count])
        }
        _ => right(schema).into_iter().find(|it| *it != "").unwrap_or(Value::Null),
    }
}

/// For each place in the spec each wrong value, alone in a document that is else as small as can be.
pub(super) fn faults(kind: Kind) -> Vec<(String, Value)> {
    let top = schema(kind);
    let mut found = Vec::new();
    // One pattern takes one way through both verdicts, wherever it stands.
    let mut patterns = BTreeSet::new();
    for path in places(&top, &[]) {
        let mut node = &top;
        for step in &path {
            node = if step == "[]" { &node["items"] } else { &node["properties"][step.as_str()] };
        }
        let pattern = node["pattern"].as_str().unwrap_or_default();
        for value in wrong(node, patterns.insert(pattern.to_owned())) {
            let mut spec = least(&top);
            put(&mut spec, &top, &path, &value);
            let shown: String = value.to_string().chars().take(40).collect();
            found.push((format!("{kind:?} with spec.{} {shown}", path.join(".")), wrap(kind, spec)));
        }
    }
    found
}

/// The paths of all nodes, items of lists as `[]`.
fn places(schema: &Value, here: &[String]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut step = |name: &str, child: &Value| {
        let path: Vec<String> = here.iter().cloned().chain([name.to_owned()]).collect();
        let below = places(child, &path);
        found.push(path);
        found.extend(below);
    };
    for (name, child) in schema["properties"].as_object().into_iter().flatten() {
        step(name, child);
    }
    if schema["items"].is_object() {
        step("[]", &schema["items"]);
    }
    found
}

/// Puts a value at a path, and the smallest of everything on the way there.
fn put(into: &mut Value, schema: &Value, path: &[String], value: &Value) {
    let Some((step, rest)) = path.split_first() else {
        *into = value.clone();
        return;
    };
    let (slot, child) = if step == "[]" {
        if into.as_array().is_none_or(Vec::is_empty) {
            *into = json!([least(&schema["items"])]);
        }
        (&mut into[0], &schema["items"])
    } else {
        let child = &schema["properties"][step.as_str()];
        if into[step.as_str()].is_null() {
            into[step.as_str()] = least(child);
        }
        (&mut into[step.as_str()], child)
    };
    put(slot, child, rest, value);
}

/// Changes of an object: each of its fields gone or another by chance, and whole other objects.
pub(super) fn changes(kind: Kind, old: &Value, seed: u64) -> Vec<(String, Value)> {
    let top = schema(kind);
    let mut chance = Chance::new(20_000 + seed);
    let mut found = vec![("unchanged".to_owned(), old.clone())];
    let mut change = |name: String, edit: &mut dyn FnMut(&mut Value)| {
        let mut new = old.clone();
        edit(&mut new["spec"]);
        found.push((name, new));
    };
    let is_required = |name: &str| top["required"].as_array().is_some_and(|all| all.contains(&json!(name)));
    let names: Vec<String> =
        top["properties"].as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default();
    // What rules compare, always; of the rest some.
    let compared = ["nodeName", "driver", "capacity", "volumes", "hostPath"];
    for name in &names {
        let some = chance.one_in(4);
        if !some && !compared.contains(&name.as_str()) {
            continue;
        }
        if !is_required(name) {
            change(format!("without {name}"), &mut |spec| {
                spec.as_object_mut().map(|map| map.remove(name));
            });
        }
        for _ in 0..3 {
            let value = any(&top["properties"][name.as_str()], &mut chance, 0, 1);
            change(format!("with {name} {value}"), &mut |spec| spec[name.as_str()] = value.clone());
        }
    }
    if let Some(volumes) = old["spec"]["volumes"].as_array().filter(|_| kind == Kind::DataContainer) {
        for (at, volume) in volumes.iter().enumerate() {
            for capacity in [json!("1Ki"), json!("1Gi"), json!("2Gi"), json!(4096), Value::Null] {
                change(format!("with capacity {capacity} of {}", volume["mountPath"]), &mut |spec| {
                    spec["volumes"][at]["capacity"] = capacity.clone();
                });
            }
        }
    }
    for _ in 0..2 {
        let other = any(&top, &mut chance, 0, 0);
        change("all another".to_owned(), &mut |spec| *spec = other.clone());
    }
    found
}
