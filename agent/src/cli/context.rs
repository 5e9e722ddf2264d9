//! What every client verb has at hand: the agent or the API server, the namespace asked for, and standard output.

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
};

use jiff::Timestamp;
use serde_json::Value;

use super::error::CliError;
use crate::{
    args::{DEFAULT_SOCKET, DataOutput, GlobalArgs},
    client::{Client, Cluster},
};

/// The namespace of whoever names none.
const DEFAULT_NAMESPACE: &str = "default";

/// What every client verb has at hand.
#[derive(Debug)]
pub(super) struct Context {
    /// The agent, or the API server.
    pub(super) client: Client,
    /// What `-n` said.
    pub(super) namespace: Option<String>,
    /// The namespace of whoever names none.
    default_namespace: String,
    /// Whether `-A` was given.
    pub(super) all_namespaces: bool,
}

impl Context {
    /// Finds whom the command talks to: an agent, unless a cluster is named or meant.
    pub(super) async fn new(global: &GlobalArgs, meant: Meant) -> Result<Self, CliError> {
        let (client, default_namespace) = if meant.is_cluster(global)? {
            let cluster = Cluster::open(global.kubeconfig.as_deref(), global.context.as_deref()).await?;
            let namespace = cluster.namespace().to_owned();
            (Client::of_cluster(cluster), namespace)
        } else {
            (Client::new(socket(global)), DEFAULT_NAMESPACE.to_owned())
        };
        Ok(Self {
            client,
            namespace: global.namespace.clone(),
            default_namespace,
            all_namespaces: global.all_namespaces,
        })
    }

    /// The namespace that a name is looked up in.
    pub(super) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or(&self.default_namespace)
    }

    /// The namespace to list, `None` for all.
    pub(super) fn scope(&self) -> Option<&str> {
        (!self.all_namespaces).then(|| self.namespace())
    }
}

/// Whom a command line means, where it names nobody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Meant {
    /// The program was called as a plugin of kubectl, or the verb is about a cluster.
    pub(super) cluster: bool,
    /// The socket was named by the flag, not by the environment.
    pub(super) socket: bool,
}

impl Meant {
    fn is_cluster(self, global: &GlobalArgs) -> Result<bool, CliError> {
        let named = global.kubeconfig.is_some() || global.context.is_some();
        if named && self.socket {
            return Err(CliError::Message(
                "--socket names the agent of a node, --context and --kubeconfig a cluster: give one of them"
                    .to_owned(),
            ));
        }
        Ok(named || (self.cluster && !self.socket))
    }
}

/// The agent's socket, for whoever talks to one.
pub(super) fn socket(global: &GlobalArgs) -> PathBuf {
    let named = global.socket.clone().filter(|path| !path.as_os_str().is_empty());
    named.unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET))
}

/// The time for ages.
pub(super) fn now() -> Timestamp {
    Timestamp::now()
}

/// Whether a person looks at standard output.
pub(super) fn on_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Writes to standard output, at once.
pub(super) fn print(text: impl AsRef<[u8]>) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_ref()).and_then(|()| out.flush()).map_err(|error| {
        if error.kind() == io::ErrorKind::BrokenPipe { CliError::Pipe } else { CliError::Output(error) }
    })
}

/// Writes a line to standard output, at once.
pub(super) fn println(text: impl AsRef<str>) -> Result<(), CliError> {
    print(format!("{}\n", text.as_ref()))
}

/// Says something to the person that is not part of the output.
pub(super) fn note(text: impl AsRef<str>) {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(io::stderr(), "{}", text.as_ref());
}

/// A value as indented JSON with a line end, four spaces a level as kubectl does.
pub(super) fn to_json(value: &Value) -> Result<String, CliError> {
    use serde::Serialize;
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    value
        .serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter))
        .map_err(|error| CliError::Message(format!("cannot print as JSON: {error}")))?;
    out.push(b'\n');
    String::from_utf8(out).map_err(|error| CliError::Message(format!("cannot print as JSON: {error}")))
}

/// A value as YAML with a line end.
pub(super) fn to_yaml(value: &Value) -> Result<String, CliError> {
    let mut text = serde_yaml::to_string(value)
        .map_err(|error| CliError::Message(format!("cannot print as YAML: {error}")))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// A value in the format asked for.
pub(super) fn to_data(value: &Value, output: DataOutput) -> Result<String, CliError> {
    match output {
        DataOutput::Json => to_json(value),
        DataOutput::Yaml => to_yaml(value),
    }
}

/// Objects as one `List`, as kubectl prints several.
pub(super) fn list_of(items: Vec<Value>) -> Value {
    let mut list =
        serde_json::json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}});
    list["items"] = Value::Array(items);
    list
}
