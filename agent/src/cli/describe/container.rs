//! A container, in the shape that kubectl gives a pod.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    list, rest, row, str_of,
    tree::{Tree, generic, title},
};
use crate::cli::age;

/// The fields of a spec that have their own place below.
const PLACED: &[&str] = &[
    "image",
    "command",
    "args",
    "env",
    "envFrom",
    "resources",
    "volumeMounts",
    "volumes",
    "volumesFrom",
    "nodeName",
    "restartPolicy",
    "restart",
    "ports",
    "startupProbe",
    "livenessProbe",
    "readinessProbe",
];

/// All but the head.
pub(super) fn body(tree: &mut Tree, object: &Value, now: Timestamp) {
    let (spec, status) = (&object["spec"], &object["status"]);
    let word = row::word(object);
    let phase = status["phase"].as_str().filter(|phase| *phase != word);
    tree.field("Status", word);
    tree.maybe("Phase", phase);
    tree.field("Image", str_of(&spec["image"]));
    tree.maybe("Image ID", status["image"].as_str());
    tree.maybe("Command", command(&spec["command"]).as_deref());
    tree.maybe("Args", command(&spec["args"]).as_deref());
    state(tree, "State", &status["state"], now);
    if status["lastState"].as_object().is_some_and(|state| !state.is_empty()) {
        state(tree, "Last State", &status["lastState"], now);
    }
    let ready = row::condition(object, "Ready").and_then(|ready| ready["status"].as_str());
    tree.field("Ready", ready.unwrap_or("False"));
    tree.field("Restart Count", status["restartCount"].as_u64().unwrap_or(0).to_string());
    if status["nextRestartTime"].is_string() {
        tree.field("Next Restart", age::full(&status["nextRestartTime"], now));
    }
    tree.maybe("Restart Policy", spec["restartPolicy"].as_str());
    group(tree, "Restart", &spec["restart"]);
    group(tree, "Limits", &spec["resources"]["limits"]);
    group(tree, "Requests", &spec["resources"]["requests"]);
    list(tree, "Ports", &spec["ports"], port);
    for (type_, field) in
        [("Liveness", "livenessProbe"), ("Readiness", "readinessProbe"), ("Startup", "startupProbe")]
    {
        probe(tree, type_, &spec[field], &status["probes"]);
    }
    environment_from(tree, &spec["envFrom"]);
    environment(tree, object);
    mounts(tree, object);
    list(tree, "Volumes From", &spec["volumesFrom"], source);
    volumes(tree, &spec["volumes"]);
    rest(tree, spec, PLACED);
}

/// A command as a shell would take it.
fn command(words: &Value) -> Option<String> {
    let words = words.as_array().filter(|words| !words.is_empty())?;
    Some(words.iter().map(|word| quote(word.as_str().unwrap_or_default())).collect::<Vec<_>>().join(" "))
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// `State` and `Last State`, with their fields below as kubectl has them.
fn state(tree: &mut Tree, name: &str, state: &Value, now: Timestamp) {
    let empty = serde_json::Map::new();
    let (word, fields) = ["waiting", "running", "terminated"]
        .iter()
        .find_map(|word| state[*word].as_object().map(|fields| (*word, fields)))
        .unwrap_or(("waiting", &empty));
    let mut inner = Tree::default();
    // Kubernetes' order of the fields, then whatever a newer agent adds.
    let known = ["reason", "message", "pid", "exitCode", "signal", "startedAt", "finishedAt"];
    let rest = fields.keys().map(String::as_str).filter(|key| !known.contains(key));
    for key in known.into_iter().chain(rest) {
        let Some(value) = fields.get(key).filter(|value| !value.is_null()) else { continue };
        match key {
            "startedAt" => inner.field("Started", age::full(value, now)),
            "finishedAt" => inner.field("Finished", age::full(value, now)),
            "pid" => inner.field("PID", value.to_string()),
            "signal" if value == 0 => {}
            _ => generic(&mut inner, &title(key), value),
        }
    }
    tree.headed(name, title(word), inner);
}

fn group(tree: &mut Tree, name: &str, value: &Value) {
    if value.as_object().is_some_and(|map| !map.is_empty()) {
        generic(tree, name, value);
    }
}

fn port(port: &Value) -> String {
    let protocol = port["protocol"].as_str().unwrap_or("TCP");
    let name = port["name"].as_str().map_or(String::new(), |name| format!(" ({name})"));
    format!("{}/{protocol}{name}", port["containerPort"])
}

/// A probe as kubectl words it, and below it what it said last.
fn probe(tree: &mut Tree, type_: &str, probe: &Value, said: &Value) {
    if !probe.is_object() {
        return;
    }
    let number = |name: &str| probe[name].as_u64().unwrap_or(0);
    let mut line = format!(
        "{} delay={}s timeout={}s period={}s #success={} #failure={}",
        handler(probe),
        number("initialDelaySeconds"),
        number("timeoutSeconds"),
        number("periodSeconds"),
        number("successThreshold"),
        number("failureThreshold")
    );
    if let Some(grace) = probe["terminationGracePeriodSeconds"].as_u64() {
        line = format!("{line} grace={grace}s");
    }
    tree.field(type_, line);
    let last = said.as_array().and_then(|all| all.iter().find(|said| said["type"] == type_));
    let result = last.and_then(|last| last["result"].as_str()).unwrap_or("not asked yet");
    let failures = last.and_then(|last| last["failures"].as_u64()).filter(|failures| *failures > 0);
    let failures = failures.map_or(String::new(), |failures| format!(" ({failures} in a row)"));
    let message = last.and_then(|last| last["message"].as_str());
    let message = message.map_or(String::new(), |message| format!(": {message}"));
    tree.field(&format!("Last {type_}"), format!("{result}{failures}{message}"));
}

/// How a probe asks.
fn handler(probe: &Value) -> String {
    let amount = |value: &Value| row::amount(value);
    let host = |action: &Value| action["host"].as_str().unwrap_or_default().to_owned();
    if let Some(words) = probe["exec"]["command"].as_array() {
        let words: Vec<_> = words.iter().filter_map(Value::as_str).collect();
        return format!("exec [{}]", words.join(" "));
    }
    let http = &probe["httpGet"];
    if http.is_object() {
        let scheme = http["scheme"].as_str().unwrap_or("HTTP").to_lowercase();
        let path = http["path"].as_str().unwrap_or_default();
        let slash = if path.starts_with('/') { "" } else { "/" };
        let protocol = http["protocol"].as_str().filter(|protocol| *protocol != "HTTP1");
        let protocol = protocol.map_or(String::new(), |protocol| format!(" protocol={protocol}"));
        return format!(
            "http-get {scheme}://{}:{}{slash}{path}{protocol}",
            host(http),
            amount(&http["port"])
        );
    }
    let tcp = &probe["tcpSocket"];
    if tcp.is_object() {
        return format!("tcp-socket {}:{}", host(tcp), amount(&tcp["port"]));
    }
    let grpc = &probe["grpc"];
    format!("grpc :{} {}", amount(&grpc["port"]), grpc["service"].as_str().unwrap_or_default())
        .trim_end()
        .to_owned()
}

/// What is mounted, with where it comes from, as the status says; before it does, what is declared.
fn mounts(tree: &mut Tree, object: &Value) {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let (declared, seen) = (list(&object["spec"]["volumeMounts"]), list(&object["status"]["mounts"]));
    let declared_at = |path: &Value| declared.iter().find(|mount| mount["mountPath"] == *path);
    let mut lines: Vec<String> =
        seen.iter().map(|seen| mount(object, seen, declared_at(&seen["mountPath"]))).collect();
    let waiting =
        declared.iter().filter(|mount| seen.iter().all(|seen| seen["mountPath"] != mount["mountPath"]));
    lines.extend(waiting.map(|declared| mount(object, declared, Some(declared))));
    if !lines.is_empty() {
        tree.block("Mounts", lines);
    }
}

/// `/data from pg of Volume default/pg (rw)`.
fn mount(object: &Value, mount: &Value, declared: Option<&Value>) -> String {
    let mode = if mount["readOnly"] == true { "ro" } else { "rw" };
    let path = declared.and_then(|mount| mount["subPath"].as_str());
    let path = path.map_or(String::new(), |path| format!(",path={path:?}"));
    let name = mount["name"].as_str();
    let origin = mount["from"].as_str().map(str::to_owned).or_else(|| inline(object, name?));
    let from = match (name, origin) {
        (Some(name), Some(origin)) => format!("{name} of {origin}"),
        (Some(name), None) => name.to_owned(),
        (None, Some(origin)) => origin,
        (None, None) => "the container's own".to_owned(),
    };
    format!("{} from {from} ({mode}{path})", str_of(&mount["mountPath"]))
}

/// What one of the container's `volumes` stands for, where that is something outside of it.
fn inline(object: &Value, name: &str) -> Option<String> {
    let volume = object["spec"]["volumes"].as_array()?.iter().find(|volume| volume["name"] == name)?;
    if let Some(path) = volume["hostPath"]["path"].as_str() {
        return Some(format!("host path {path}"));
    }
    let named = [
        ("Volume", &volume["volume"]["name"]),
        ("ConfigMap", &volume["configMap"]["name"]),
        ("Secret", &volume["secret"]["secretName"]),
    ];
    let (kind, name) = named.into_iter().find_map(|(kind, name)| Some((kind, name.as_str()?)))?;
    Some(format!("{kind} {}/{name}", str_of(&object["metadata"]["namespace"])))
}

fn source(from: &Value) -> String {
    let mode = if from["readOnly"] == true { " (ro)" } else { "" };
    format!("{} {}{mode}", from["kind"].as_str().unwrap_or("DataContainer"), str_of(&from["name"]))
}

/// As kubectl words it.
fn environment_from(tree: &mut Tree, sources: &Value) {
    list(tree, "Environment Variables from", sources, |source| {
        let (kind, object) = if source["configMapRef"].is_object() {
            ("ConfigMap", &source["configMapRef"])
        } else {
            ("Secret", &source["secretRef"])
        };
        let prefix = source["prefix"].as_str().filter(|prefix| !prefix.is_empty());
        let prefix = prefix.map_or(String::new(), |prefix| format!(" with prefix '{prefix}'"));
        let optional = object["optional"] == true;
        format!("{}  {kind}{prefix}  Optional: {optional}", str_of(&object["name"]))
    });
}

/// As kubectl words it.
fn environment(tree: &mut Tree, object: &Value) {
    let Some(env) = object["spec"]["env"].as_array().filter(|env| !env.is_empty()) else { return };
    let mut inner = Tree::default();
    for variable in env {
        let name = variable["name"].as_str().unwrap_or_default();
        let from = &variable["valueFrom"];
        let key = |source: &Value, words: &str| {
            let (key, object) = (str_of(&source["key"]), str_of(&source["name"]));
            format!("<set to the key '{key}' {words} '{object}'>  Optional: {}", source["optional"] == true)
        };
        let value = match variable["value"].as_str() {
            Some(value) => value.to_owned(),
            None if from["secretKeyRef"].is_object() => key(&from["secretKeyRef"], "in secret"),
            None if from["configMapKeyRef"].is_object() => key(&from["configMapKeyRef"], "of config map"),
            None => match from["fieldRef"]["fieldPath"].as_str() {
                Some(path) => format!("{} (v1:{path})", field(object, path)),
                None if from.is_object() => format!("<from {from}>"),
                None => String::new(),
            },
        };
        inner.field(name, value);
    }
    tree.group("Environment", inner);
}

/// The value of a field of the object, by the path of a `fieldRef`.
fn field(object: &Value, path: &str) -> String {
    let (path, key) = match path.split_once("['") {
        Some((path, key)) => (path, key.strip_suffix("']")),
        None => (path, None),
    };
    let mut value = path.split('.').fold(object, |value, name| &value[name]);
    if let Some(key) = key {
        value = &value[key];
    }
    value.as_str().unwrap_or_default().to_owned()
}

fn volumes(tree: &mut Tree, volumes: &Value) {
    let Some(volumes) = volumes.as_array().filter(|volumes| !volumes.is_empty()) else { return };
    let mut all = Tree::default();
    for volume in volumes {
        let mut inner = Tree::default();
        for (key, value) in volume.as_object().into_iter().flatten().filter(|(key, _)| *key != "name") {
            inner.field("Type", title(key).replace(' ', ""));
            for (key, value) in value.as_object().into_iter().flatten() {
                generic(&mut inner, &title(key), value);
            }
        }
        all.group(volume["name"].as_str().unwrap_or_default(), inner);
    }
    tree.group("Volumes", all);
}
