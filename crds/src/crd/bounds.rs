//! How long each list and string may be. An API server computes the cost of CEL rules from these, so nothing is
//! without one; here they also keep a hostile document small.

use serde_json::{Map, Value, json};

use crate::Kind;

/// Most items of a list that has no line of its own.
const ITEMS: u64 = 64;
/// Most characters of a string that has no line of its own.
const LENGTH: u64 = 1024;

/// An absolute path.
pub(crate) const ABSOLUTE: &str = "^/";
/// An absolute path other than `/`, without the `:` that mount options use.
pub(crate) const MOUNT_PATH: &str = "^/[^:]*[^:/][^:]*$";
/// An RFC 1123 label.
pub(crate) const LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// An RFC 1123 subdomain.
pub(crate) const SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// A variable's name, as Kubernetes relaxed it: printable ASCII without `=`.
pub(crate) const ENV_NAME: &str = "^[ -<>-~]+$";
/// A capability.
pub(crate) const CAPABILITY: &str = "^[A-Z][A-Z_]*$";
/// Some of `r`, `w`, `m`, each at most once.
pub(crate) const PERMISSIONS: &str = "^(r?w?m?|r?mw?|w?r?m?|w?mr?|m?r?w?|m?w?r?)$";

/// The name of a header, as the API server has it.
pub(crate) const HEADER_NAME: &str = "^[-A-Za-z0-9]+$";
/// The value of a header: no control characters but the tab.
pub(crate) const HEADER_VALUE: &str = "^[^\\x00-\\x08\\x0a-\\x1f\\x7f]*$";
/// The path of a request and its query.
pub(crate) const URL_PATH: &str = "^[!-~]+$";
/// A name or an address.
pub(crate) const HOST: &str = "^[-.:A-Za-z0-9]+$";

/// What is added to the schema at a path.
pub(crate) fn explicit(kind: Kind, path: &str) -> Option<Map<String, Value>> {
    let length = |min: u64, max: u64| json!({ "minLength": min, "maxLength": max });
    let text = |pattern: &str, max: u64| json!({ "pattern": pattern, "minLength": 1, "maxLength": max });
    let range = |min: i64, max: i64| json!({ "minimum": min, "maximum": max });
    let items = |max: u64| json!({ "maxItems": max });
    let map = |max: u64, keys: &[&str]| {
        json!({
            "maxItems": max, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys,
        })
    };
    let seconds = || range(0, 86_400);
    let storage = kind != Kind::Container;
    let added = match path {
        "spec.mode" | "spec.volumes[].mode" if storage => range(0, 0o7777),
        "spec.owner.uid" | "spec.owner.gid" | "spec.volumes[].owner.uid" | "spec.volumes[].owner.gid"
            if storage =>
        {
            range(0, 2_147_483_647)
        }
        "spec.volumes" if storage => json!({
            "minItems": 1, "maxItems": 64, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["mountPath"],
        }),
        "spec.volumes[].mountPath" if storage => text(MOUNT_PATH, 1024),
        "spec.volumes[].volume" if storage => text(SUBDOMAIN, 253),
        "spec.hostPath.path" if storage => text(ABSOLUTE, 1024),
        "status.volumes" if storage => map(64, &["mountPath"]),
        "status.users" if storage => items(1024),
        "spec.image" => length(1, 1024),
        "spec.imagePullSecrets" => map(16, &["name"]),
        "spec.command" | "spec.args" => items(1024),
        "spec.command[]" | "spec.args[]" => length(0, 131_071),
        "spec.workingDir" | "spec.terminationMessagePath" => text(ABSOLUTE, 4095),
        "spec.env" => map(512, &["name"]),
        "spec.env[].name" => text(ENV_NAME, 253),
        "spec.env[].value" => length(0, 131_071),
        "spec.env[].valueFrom.fieldRef.fieldPath" => length(1, 512),
        "spec.ports" => map(128, &["containerPort", "protocol"]),
        "spec.ports[].containerPort" | "spec.ports[].hostPort" => range(1, 65_535),
        "spec.ports[].name" => text(LABEL, 15),
        "spec.ports[].hostIP" => length(1, 45),
        "spec.rlimits" => map(16, &["name"]),
        // No maximum: that of the format is none that a server can read, since bounds are floats there.
        "spec.rlimits[].soft" | "spec.rlimits[].hard" => json!({ "minimum": -1 }),
        "spec.devices[].hostPath" => text(ABSOLUTE, 1024),
        "spec.devices[].containerPath" => text(MOUNT_PATH, 1024),
        "spec.devices[].permissions" => text(PERMISSIONS, 3),
        "spec.volumes" => map(64, &["name"]),
        "spec.volumes[].name" | "spec.volumeMounts[].name" => text(LABEL, 63),
        "spec.volumes[].hostPath.path" => text(ABSOLUTE, 1024),
        "spec.volumes[].configMap.defaultMode"
        | "spec.volumes[].secret.defaultMode"
        | "spec.volumes[].configMap.items[].mode"
        | "spec.volumes[].secret.items[].mode" => range(0, 0o777),
        "spec.volumeMounts" => map(64, &["mountPath"]),
        "spec.volumeMounts[].mountPath" => text(MOUNT_PATH, 1024),
        "spec.volumesFrom" => map(16, &["kind", "name"]),
        "spec.restart.maxRetries" => range(0, 1_000_000),
        "spec.restart.rules" => items(20),
        "spec.restart.rules[].exitCodes.values" => json!({ "minItems": 1, "maxItems": 255 }),
        "spec.restart.backoff.factor" => range(1, 100),
        "spec.restart.backoff.jitter" => range(0, 100),
        "spec.terminationGracePeriodSeconds" => seconds(),
        "spec.hostname" => text(LABEL, 63),
        "spec.runtime" => text(LABEL, 63),
        "spec.nodeName" => text(SUBDOMAIN, 253),
        "spec.securityContext.runAsUser"
        | "spec.securityContext.runAsGroup"
        | "spec.securityContext.supplementalGroups[]" => range(0, 2_147_483_647),
        "spec.securityContext.capabilities.add[]" | "spec.securityContext.capabilities.drop[]" => {
            text(CAPABILITY, 63)
        }
        "status.probes" => map(3, &["type"]),
        "status.probes[].failures" => range(0, 1_000_000),
        "status.mounts" => map(256, &["mountPath"]),
        _ if path.ends_with(".message") => length(0, 32_768),
        "spec.startupProbe.terminationGracePeriodSeconds"
        | "spec.livenessProbe.terminationGracePeriodSeconds"
        | "spec.readinessProbe.terminationGracePeriodSeconds" => range(1, 86_400),
        _ if path.starts_with("spec.") && path.ends_with("httpGet.httpHeaders[].value") => {
            json!({ "pattern": HEADER_VALUE, "maxLength": 4096 })
        }
        _ if path.starts_with("spec.") && path.ends_with("httpGet.httpHeaders[].name") => {
            text(HEADER_NAME, 256)
        }
        _ if path.starts_with("spec.") && path.ends_with("httpGet.path") => text(URL_PATH, 2048),
        _ if path.starts_with("spec.")
            && (path.ends_with("httpGet.host") || path.ends_with("tcpSocket.host")) =>
        {
            text(HOST, 253)
        }
        _ if path.starts_with("spec.") && path.ends_with(".exec.command") => {
            json!({ "minItems": 1, "maxItems": 1024 })
        }
        _ if path.starts_with("spec.")
            && (path.ends_with(".successThreshold") || path.ends_with(".failureThreshold")) =>
        {
            range(0, 1_000_000)
        }
        _ if path.starts_with("spec.")
            && [".initialDelaySeconds", ".periodSeconds", ".timeoutSeconds", ".seconds"]
                .iter()
                .any(|name| path.ends_with(name)) =>
        {
            seconds()
        }
        _ if path.starts_with("spec.") && path.ends_with(".grpc.port") => range(1, 65_535),
        // References to other objects.
        _ if path.starts_with("spec.") && (path.ends_with("ef.name") || path.ends_with("ecretName")) => {
            text(SUBDOMAIN, 253)
        }
        "spec.imagePullSecrets[].name"
        | "spec.volumesFrom[].name"
        | "spec.volumes[].volume.name"
        | "spec.volumes[].configMap.name" => text(SUBDOMAIN, 253),
        _ => return None,
    };
    match added {
        Value::Object(map) => Some(map),
        _ => None,
    }
}

/// A bound where there is none yet.
pub(crate) fn fallback(node: &mut Map<String, Value>) {
    match node.get("type").and_then(Value::as_str) {
        Some("string") if !node.contains_key("enum") => {
            node.entry("maxLength").or_insert(json!(LENGTH));
        }
        Some("array") => {
            node.entry("maxItems").or_insert(json!(ITEMS));
            node.entry("x-kubernetes-list-type").or_insert(json!("atomic"));
        }
        _ => {}
    }
}

/// What a person is told when a text does not match a pattern.
pub(crate) fn explain(pattern: &str) -> Option<String> {
    let text = match pattern {
        ABSOLUTE => "must be an absolute path",
        MOUNT_PATH => "must be an absolute path other than '/', without ':'",
        LABEL => {
            "must be a lowercase RFC 1123 label: lower case letters, digits and '-', starting and ending with a letter or digit"
        }
        SUBDOMAIN => {
            "must be a lowercase RFC 1123 subdomain: lower case letters, digits, '-' and '.', starting and ending with a letter or digit"
        }
        ENV_NAME => "must be a variable name: printable ASCII characters without '='",
        CAPABILITY => "must be a capability such as \"NET_ADMIN\", or \"ALL\"",
        HEADER_NAME => "a valid HTTP header must consist of alphanumeric characters or '-'",
        HEADER_VALUE => "must not contain line ends or other control characters",
        URL_PATH => "must be a path of printable ASCII characters without spaces; others are written as %XX",
        HOST => "must be a host name or an IP address",
        PERMISSIONS => "must be some of 'r', 'w' and 'm'",
        crate::Quantity::PATTERN => return Some(crate::ParseQuantityError::Syntax.to_string()),
        crate::Duration::PATTERN => return Some(crate::ParseDurationError::Syntax.to_string()),
        crate::Signal::PATTERN => return Some(crate::ParseSignalError.to_string()),
        _ => return None,
    };
    Some(text.to_owned())
}
