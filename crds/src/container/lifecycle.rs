//! Probes and lifecycle hooks.

use kube::{KubeSchema, core::Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Signal;

/// Asks the program for its state again and again: exactly one of `exec`, `httpGet`, `tcpSocket` and `grpc`. As in a Pod,
/// a period, timeout or threshold of 0 is its default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("[has(self.exec), has(self.httpGet), has(self.tcpSocket), has(self.grpc)].filter(set, set).size() == 1", "exactly one of exec, httpGet, tcpSocket and grpc must be set"))]
pub struct Probe {
    /// Runs a program in the container; exit code 0 is success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecAction>,
    /// Asks by HTTP; codes 200 to 399 are success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_get: Option<HttpGetAction>,
    /// Opens a TCP connection; an open one is success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_socket: Option<TcpSocketAction>,
    /// Asks the standard gRPC health service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcAction>,
    /// Seconds from the start to the first probe.
    #[serde(default)]
    pub initial_delay_seconds: u32,
    /// Seconds between probes.
    #[serde(default = "ten")]
    pub period_seconds: u32,
    /// Seconds after which a probe has failed.
    #[serde(default = "one")]
    pub timeout_seconds: u32,
    /// Successes in a row after which it counts as such; 1 for startup and liveness.
    #[serde(default = "one")]
    pub success_threshold: u32,
    /// Failures in a row after which it counts as such.
    #[serde(default = "three")]
    pub failure_threshold: u32,
    /// Grace period after a failure, instead of the container's; for startup and liveness.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub termination_grace_period_seconds: Option<u32>,
}

impl Probe {
    /// Seconds between probes.
    pub fn period(&self) -> u32 {
        or(self.period_seconds, ten())
    }

    /// Seconds after which a probe has failed.
    pub fn timeout(&self) -> u32 {
        or(self.timeout_seconds, one())
    }

    /// Successes in a row that it takes.
    pub fn successes(&self) -> u32 {
        or(self.success_threshold, one())
    }

    /// Failures in a row that it takes.
    pub fn failures(&self) -> u32 {
        or(self.failure_threshold, three())
    }
}

/// As the API server fills in a number that was left at 0.
fn or(number: u32, default: u32) -> u32 {
    if number == 0 { default } else { number }
}

/// Runs a program in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExecAction {
    /// Program and arguments, without a shell.
    pub command: Vec<String>,
}

/// Asks by HTTP, from inside the container's network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = port_is_one())]
#[x_kube(validation = ("!has(self.protocol) || self.protocol != 'HTTP2' || (self.scheme == 'HTTP' && !has(self.host))", "protocol HTTP2 needs scheme HTTP, and no host"))]
pub struct HttpGetAction {
    /// Number or name of the port.
    pub port: IntOrString,
    /// Path of the request, with a query if there is one.
    #[serde(default = "slash")]
    pub path: String,
    /// Host to connect to. By default the container's own loopback. For another name in the request, set a header `Host`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// `HTTP` or `HTTPS`; certificates are not checked.
    #[serde(default)]
    pub scheme: UriScheme,
    /// Headers of the request; repeated ones are allowed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub http_headers: Vec<HttpHeader>,
    /// `HTTP1`, or `HTTP2` without TLS and without asking first (h2c). By default `HTTP1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<HttpProtocol>,
}

/// What a probe speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum HttpProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 with prior knowledge, without TLS.
    Http2,
}

/// How a probe speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum UriScheme {
    /// Plain.
    #[default]
    Http,
    /// Over TLS.
    Https,
}

/// A header of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpHeader {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Opens a TCP connection, from inside the container's network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = port_is_one())]
pub struct TcpSocketAction {
    /// Number or name of the port.
    pub port: IntOrString,
    /// Host to connect to. By default the container's own loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// Asks the standard gRPC health service on the container's own loopback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrpcAction {
    /// Number of the port.
    pub port: u16,
    /// Name of the service in the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// `Plaintext`, or `TLS` without a check of certificates. By default `Plaintext`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<GrpcMode>,
}

/// How a gRPC probe connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
pub enum GrpcMode {
    /// Plain.
    #[default]
    Plaintext,
    /// Over TLS.
    #[serde(rename = "TLS")]
    Tls,
}

/// Waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SleepAction {
    /// For how many seconds.
    pub seconds: u32,
}

/// What is done after the start and before the stop.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lifecycle {
    /// Right after the start; a failure restarts the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub post_start: Option<LifecycleHandler>,
    /// Before the stop signal; its time is part of the grace period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre_stop: Option<LifecycleHandler>,
    /// As `spec.stopSignal`, where a Pod's container has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<Signal>,
}

/// A hook: exactly one of these.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("[has(self.exec), has(self.httpGet), has(self.sleep)].filter(set, set).size() == 1", "exactly one of exec, httpGet and sleep must be set"))]
pub struct LifecycleHandler {
    /// Runs a program in the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecAction>,
    /// Asks by HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_get: Option<HttpGetAction>,
    /// Waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sleep: Option<SleepAction>,
}

/// A number or a name, as Kubernetes writes ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum IntOrString {
    /// A number.
    Int(i32),
    /// A name.
    String(String),
}

impl JsonSchema for IntOrString {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "IntOrString".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "x-kubernetes-int-or-string": true, "maxLength": 15 })
    }
}

/// Whether a port is written as a number, in quotes or not.
const IS_NUMBER: &str = "matches('^[0-9]+$')";

/// As the API server checks ports of handlers: `IANA_SVC_NAME` or a number.
fn port_is_one() -> Rule {
    let port = "string(self.port)";
    let number = format!("{port}.size() < 6 && int({port}) > 0 && int({port}) < 65536");
    let name = format!(
        "{port}.size() < 16 && {port}.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && {port}.matches('[a-z]') && !{port}.contains('--')"
    );
    Rule::new(format!("{port}.{IS_NUMBER} ? ({number}) : ({name})"))
        .message("port must be a number from 1 to 65535, or the name of a port: up to 15 lower case letters, digits and single '-', at least one of them a letter")
}

/// That a name of a port in one of the handlers of `path` is one of the container's.
pub(super) fn port_is_named(path: &str, handlers: &[&str]) -> Rule {
    let has = path.split('.').scan(String::from("self"), |at, name| {
        at.push('.');
        at.push_str(name);
        Some(format!("!has({at}) || "))
    });
    let has: String = has.collect();
    let named = handlers.iter().map(|handler| {
        let action = format!("self.{path}.{handler}");
        let port = format!("string({action}.port)");
        format!(
            "(!has({action}) || {port}.{IS_NUMBER} || (has(self.ports) && self.ports.exists(port, has(port.name) && port.name == {port})))"
        )
    });
    let named: Vec<String> = named.collect();
    Rule::new(format!("{has}({})", named.join(" && ")))
        .message(format!("the port that {path} names must be one of ports").as_str())
}

fn one() -> u32 {
    1
}

fn three() -> u32 {
    3
}

fn ten() -> u32 {
    10
}

fn slash() -> String {
    "/".to_owned()
}
